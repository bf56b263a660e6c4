"""At which base a generation begins, when transactions of the log are void. Pure.

A base of a generation that began before a transaction was voided, and at or beyond its epoch, *holds* it: nobody
begins there any more. Such a base is always before the record that voids, since the sequencer that wrote it was deposed
by that record. So the records behind the newest base say all that there is to know of it.

**What can be voided** is what no base holds at which anybody would have to begin: there has to be a base before it. Two
are kept, and the older one of them only until there is a newer one, so it is chosen after the sequencer has written a
record of its own, its fence. Whoever collects looks for a record behind his own first; so if he did before the fence
was there, his newest base is among those that are listed after it, and he keeps the two newest of these.

While a program stands still on an epoch, there is always such a base: a base of epoch e needs the saves of all nodes
as of e, and the node that cannot finish its epoch saves nothing from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.stored import (
    BaseId,
    LogRecord,
)

BASES_KEPT = 2


def holds_void(base: BaseId, records: Iterable[LogRecord]) -> bool:
    """Whether a base holds a transaction that one of these records, all that are behind it, voids."""
    return any(
        base.generation < record.generation and base.epoch >= place.epoch
        for record in records
        for place in record.voids
    )


def beginning(bases: Sequence[BaseId], generation: int, records: Sequence[LogRecord]) -> BaseId | None:
    """The base of an earlier generation at which this one begins; None if there is none. `bases`: the usable ones, in
    their order. `records`: those that are behind the newest of them, at least."""
    fit = [each for each in bases if each.generation < generation and not holds_void(each, records)]
    return fit[-1] if fit else None


def beginning_before(
    bases: Sequence[BaseId], generation: int, records: Sequence[LogRecord], places: Sequence[TransactionPlace]
) -> BaseId | None:
    """The base at which this generation can begin so that these transactions are void; None if none is kept that is
    before them."""
    kept = [each for each in bases if each.generation < generation][-BASES_KEPT:]
    fit = [
        each
        for each in kept
        if all(each.epoch < place.epoch for place in places) and not holds_void(each, records)
    ]
    return fit[-1] if fit else None


def why_not_void(
    place: TransactionPlace, bases: Sequence[BaseId], generation: int, records: Sequence[LogRecord]
) -> str:
    """Why a transaction cannot be voided by this generation, or the empty text."""
    if beginning_before(bases, generation, records, (place,)) is None:
        newest = bases[-1].epoch if bases else 0
        return (
            f"the state before epoch {place.epoch} is not kept any more: the bases are at epoch {newest} by now, and"
            " the transaction is part of them. Write what undoes it instead"
        )
    return ""
