"""Which transactions of a log are void: a person has taken them out, and they say nothing. Pure.

A record that opens a generation may name transactions behind the base at which the generation begins. From there on the
program's state is that of the log without them. Their numbers stay committed: a client was told so, and it stays true
that the log has them, exactly once.

Since the record that voids a transaction is behind it, and a base is behind neither or before both, whoever begins at a
base finds in the log behind it all that he has to know of void ones: bases need not remember them.
"""

from __future__ import annotations

from collections.abc import Iterable

from dist_zero_common.protocol.stored import (
    LogRecord,
)


def void_transactions(log: Iterable[LogRecord]) -> frozenset[tuple[int, int]]:
    """The epochs and places there of all transactions that these records void."""
    return frozenset((place.epoch, place.index) for record in log for place in record.voids)
