"""The gates of a plan that is changing: what new operators see of a dataset whose rows are there already.

Rows lie in slices, by the hash of their key, and slices are filled one behind the other, each in one epoch. What is
behind a gate has seen exactly the rows of the slices that are filled: of those every change passes, of the others none,
and in the epoch in which a slice is filled, the rows that it has at the end of that epoch. So a new view is at every
epoch what its expression makes of some part of the dataset, and in the end of all of it; whatever is written meanwhile.

The rows of a dataset without a key are kept by nobody. Of these, what is appended passes from the epoch on that fills
the first slice.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.compiler import plan
from dist_zero.compiler.change import SLICES
from dist_zero.hashing import hasher
from dist_zero.reference.operators import Delta
from dist_zero.reference.source import Source
from dist_zero.types import Row, picker
from dist_zero.zset import ZSet, add_pairs


class Gate:
    """The gate behind one source. Nothing of it is saved: what waits in front of it follows from the source's rows."""

    def __init__(self, operator: plan.Gate, source: Source) -> None:
        self._source = source
        self._key = operator.key
        self._waiting: list[ZSet] | None = None
        """By slice, the rows that have not passed; None as long as nobody has looked."""
        if operator.key is not None:
            self._key_of = picker(operator.key)
            self._hash_of = hasher(tuple(operator.row_type.types[place] for place in operator.key))

    def apply(self, delta: Delta, fill: range) -> Delta:
        """What passes in an epoch that fills these slices, of what the source has changed in it."""
        if self._key is None:
            return delta if fill.stop else []
        if fill.start >= SLICES:
            return delta
        passing: Delta = []
        if self._waiting is None:
            self._waiting = [{} for _ in range(SLICES)]
            passing += [pair for pair in delta if self._slice(pair[0]) < fill.start]
            self._sort([(row, 1) for row in self._source.kept.rows.values()], fill.start, [])
        else:
            self._sort(delta, fill.start, passing)
        for number in fill:
            passing += self._waiting[number].items()
            self._waiting[number] = {}
        return passing

    def _sort(self, pairs: Sequence[tuple[Row, int]], filled: int, passing: Delta) -> None:
        """Put what is of slices that are filled into `passing`, the rest where it waits."""
        assert self._waiting is not None
        for row, weight in pairs:
            number = self._slice(row)
            if number < filled:
                passing.append((row, weight))
            else:
                add_pairs(self._waiting[number], [(row, weight)])

    def _slice(self, row: Row) -> int:
        return self._hash_of(self._key_of(row)) % SLICES
