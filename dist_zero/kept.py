"""What an executor keeps in Python, table by table: noting which entries were touched, and going from there to a
`TableChange`; `reference/loading.py` goes back. `dist_zero/state.py` says which tables there are.

Nothing is noted before the first save or load: until then everything is what changed, and an executor that nobody
saves remembers no keys of rows that are gone. An entry is touched when the change of an epoch, consolidated, is not
nothing; so which entries are is a function of the rows that came, not of how they were cut or ordered. One that was
touched is saved even if it is again what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from dist_zero.batch import Batch
from dist_zero.ordering import canonical_order, ordering
from dist_zero.state import StateTable, TableChange
from dist_zero.types import Row
from dist_zero.zset import ZSet, add_pairs

Pair = tuple[Row, int]


class Kept(Protocol):
    """One table of an executor's state."""

    def entries(self) -> Iterable[Pair]:
        """Every entry with its weight."""
        ...

    def frozen(self) -> Iterable[Pair]:
        """The same as of now, to be gone through later: quickly done, and whatever changes meanwhile does not count."""
        ...

    def get(self, key: Row, /) -> Pair | None:
        """The entry of this key (of a Z-set: this row) with its weight, if there is one."""
        ...

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """The keys touched since `track`, each with its entry, if there still is one; None before the first `track`."""
        ...

    def track(self) -> None:
        """Forget what was touched; from now on, note it."""
        ...

    def take(self, entries: Iterable[Pair]) -> None:
        """Add these entries to what is there; those of negative weight are taken back."""
        ...


class Touched:
    """Keys that were touched, if anybody wants to know, each with what helps to find its entry."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: dict[Row, Row] | None = None

    def note(self, keys: Iterable[Row], at: Row = ()) -> None:
        """These were touched."""
        if self.keys is not None:
            self.keys.update(dict.fromkeys(keys, at))

    def track(self) -> None:
        """See `Kept`."""
        self.keys = {}


class KeptZSet(Touched):
    """A Z-set of rows."""

    __slots__ = ("weights",)

    def __init__(self) -> None:
        super().__init__()
        self.weights: ZSet = {}

    def add(self, pairs: Iterable[Pair]) -> None:
        """Change the weights of distinct rows, none by 0."""
        changes = list(pairs)
        add_pairs(self.weights, changes)
        self.note([row for row, _ in changes])

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        return self.weights.items()

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        return list(self.weights.items())

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        weight = self.weights.get(key)
        return None if weight is None else (key, weight)

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        weights = self.weights
        return ((row, (row, weights[row]) if row in weights else None) for row in self.keys or ())

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        add_pairs(self.weights, entries)


# ---- saving ------------------------------------------------------------------------------------------------

PIECE_ROWS = 20_000
"""A change with more rows comes in pieces."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is to be said of table number `number`: entries that are there, and keys of those that are gone."""

    number: int
    table: StateTable
    puts: Iterable[Pair]
    deletes: list[Row]

    def changes(self) -> Iterator[TableChange | None]:
        """The same in canonical order and in pieces, none if it is nothing. It takes turns with others: None is a
        place where they may go on."""
        types, key_types = self.table.row_type.types, self.table.key_type.types
        keyed = self.table.key is not None
        if isinstance(self.puts, list) and len(self.puts) + len(self.deletes) <= PIECE_ROWS:
            if self.puts or self.deletes:
                yield self._change(dict(self.puts))
            return
        puts = yield from ordering(types, self.puts)
        gone = yield from ordering(key_types, ((key, 1) for key in self.deletes))
        nothing: list[Pair] = []
        for some, others in zip_longest(_pieces(puts), _pieces(gone), fillvalue=nothing):
            rows, weights = [row for row, _ in some], None if keyed else [weight for _, weight in some]
            deletes = Batch.from_rows(key_types, [row for row, _ in others])
            yield TableChange(self.number, Batch.from_rows(types, rows, weights), deletes)

    def _change(self, puts: ZSet) -> TableChange:
        """All of it, which is little."""
        types, key_types = self.table.row_type.types, self.table.key_type.types
        rows, gone = canonical_order(types, puts), canonical_order(key_types, self.deletes)
        weights = None if self.table.key is not None else [puts[row] for row in rows]
        return TableChange(
            self.number, Batch.from_rows(types, rows, weights), Batch.from_rows(key_types, gone)
        )


def freeze(number: int, table: StateTable, kept: Kept, tracked: bool) -> Frozen:
    """What changed in a table, or all of it if nothing is `tracked`."""
    if not tracked:
        return Frozen(number, table, kept.frozen(), [])
    puts: list[Pair] = []
    deletes: list[Row] = []
    for key, found in kept.touched():
        if found is None:
            deletes.append(key)
        else:
            puts.append(found)
    return Frozen(number, table, puts, deletes)


def _pieces(pairs: list[Pair]) -> Iterator[list[Pair]]:
    return (pairs[start : start + PIECE_ROWS] for start in range(0, len(pairs), PIECE_ROWS))
