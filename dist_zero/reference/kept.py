"""What an executor keeps, table by table: noting which entries were touched, and going from there to a `TableChange`
and back. `dist_zero/state.py` says which tables there are.

Nothing is noted before the first save or load: until then everything is what changed, and an executor that nobody
saves remembers no keys of rows that are gone. An entry is touched when the change of an epoch, consolidated, is not
nothing; so which entries are is a function of the rows that came, not of how they were cut or ordered. One that was
touched is saved even if it is again what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from dist_zero.batch import Batch
from dist_zero.hashing import hasher
from dist_zero.reference.ordering import canonical_order
from dist_zero.reference.scalar import compile_tuple
from dist_zero.state import Division, StateTable, TableChange
from dist_zero.types import Row, picker
from dist_zero.zset import ZSet, add_pairs
from dist_zero_common.errors import MalformedMessage

Pair = tuple[Row, int]
Entries = dict[Row, Pair]
"""By key: the entry and its weight, which in a keyed table is 1."""


class Kept(Protocol):
    """One table of an executor's state."""

    def entries(self) -> Iterable[Pair]:
        """Every entry with its weight."""
        ...

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """The keys touched since `track`, each with its entry, if there still is one; None before the first `track`."""
        ...

    def track(self) -> None:
        """Forget what was touched; from now on, note it."""
        ...

    def take(self, entries: Iterable[Pair]) -> None:
        """Add these entries to what is there."""
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

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        weights = self.weights
        return ((row, (row, weights[row]) if row in weights else None) for row in self.keys or ())

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        add_pairs(self.weights, entries)


class KeptGroups(Touched):
    """A Z-set of rows that lie in groups: `groups` finds the weights of one, `every` all of them."""

    __slots__ = ("_every", "_group", "_take")

    def __init__(
        self,
        group: Callable[[Row], Mapping[Row, int] | None],
        every: Callable[[], Iterable[Mapping[Row, int]]],
        take: Callable[[Iterable[Pair]], None],
    ) -> None:
        super().__init__()
        self._group, self._every, self._take = group, every, take

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        return (pair for weights in self._every() for pair in weights.items())

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        for row, at in (self.keys or {}).items():
            weight = (self._group(at) or {}).get(row)
            yield row, None if weight is None else (row, weight)

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        self._take(entries)


class KeptByKey(Touched):
    """Rows by their key."""

    __slots__ = ("_key_of", "rows")

    def __init__(self, key: Sequence[int]) -> None:
        super().__init__()
        self.rows: dict[Row, Row] = {}
        self._key_of = picker(key)

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        return ((row, 1) for row in self.rows.values())

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        rows = self.rows
        return ((key, (rows[key], 1) if key in rows else None) for key in self.keys or ())

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        self.rows.update((self._key_of(row), row) for row, _ in entries)


# ---- saving ------------------------------------------------------------------------------------------------


def change_of(number: int, table: StateTable, kept: Kept, tracked: bool) -> TableChange | None:
    """What changed in a table, or all of it if nothing is `tracked`; None if that is nothing."""
    puts: ZSet = {}
    deletes: list[Row] = []
    if tracked:
        for key, found in kept.touched():
            if found is None:
                deletes.append(key)
            else:
                puts[found[0]] = found[1]
    else:
        puts.update(kept.entries())
    if not puts and not deletes:
        return None
    types, key_types = table.row_type.types, table.key_type.types
    rows = canonical_order(types, puts)
    weights = None if table.key is not None else [puts[row] for row in rows]
    gone = canonical_order(key_types, deletes)
    return TableChange(number, Batch.from_rows(types, rows, weights), Batch.from_rows(key_types, gone))


# ---- loading -----------------------------------------------------------------------------------------------


def folded(tables: Sequence[StateTable], saves: Iterable[Sequence[TableChange]]) -> list[Entries]:
    """By table, what is there behind a full save and the changes that follow it. Raises `MalformedMessage`."""
    state: list[Entries] = [{} for _ in tables]
    for save in saves:
        last = 0
        for change in save:
            if not last <= change.table < len(tables):
                raise MalformedMessage(
                    f"saved state of table {change.table} behind table {last}, of {len(tables)} tables in all"
                )
            last = change.table
            _fold(tables[last], change, state[last])
    return state


def _fold(table: StateTable, change: TableChange, entries: Entries) -> None:
    """Apply one change to a table."""
    key_type, key_of = (
        table.key_type,
        picker(table.key if table.key is not None else range(len(table.row_type))),
    )
    if change.puts.types != table.row_type.types or change.deletes.types != key_type.types:
        raise MalformedMessage(f"saved state of {table.name!r} whose columns are not {table.row_type}")
    if set(change.deletes.weights()) - {1}:
        raise MalformedMessage(f"saved state of {table.name!r} with a weight among what is deleted")
    weights = change.puts.weights()
    if (table.key is not None and set(weights) - {1}) or 0 in weights:
        raise MalformedMessage(f"saved state of {table.name!r} with a weight that it cannot have")
    seen: dict[Row, None] = dict.fromkeys(change.deletes.rows())
    for key in seen:
        entries.pop(key, None)
    for row, weight in change.puts.items():
        key = key_of(row)
        seen[key] = None
        entries[key] = row, weight
    if len(seen) != len(change.puts) + len(change.deletes):
        raise MalformedMessage(f"saved state of {table.name!r} with one key twice")


def chosen(
    table: StateTable, entries: Entries, keep: Callable[[int], bool] | None, loose: bool, first: bool
) -> Iterable[Pair]:
    """Those entries of a predecessor that a node takes. `loose`: whether it takes what belongs to no hash; `first`:
    whether this is its first predecessor, for what is the same on all."""
    if table.division is Division.KEYED:
        if keep is None:
            return entries.values()
        values_of, hash_of = compile_tuple(table.shard), hasher([scalar.dtype for scalar in table.shard])
        return [pair for pair in entries.values() if keep(hash_of(values_of(pair[0])))]
    return entries.values() if (loose if table.division is Division.LOOSE else first) else ()
