"""From saves back to what an executor keeps: all of a state, and later what has changed in it since.

An executor takes the place of one or of several predecessors, and takes of each what belongs to it. While a
predecessor goes on, what it saves can be taken in behind: of each entry that it says, the one that is here is taken
back and the new one put in. If it has saved everything anew meanwhile, that is compared entry by entry.

All of it is done in slices: a state of a million rows takes many seconds, and the process that loads it has others to
look after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from dist_zero.executor_state import Keep
from dist_zero.hashing import hasher
from dist_zero.kept import Kept, Pair
from dist_zero.reference.operators import SLICE
from dist_zero.reference.scalar import compile_tuple
from dist_zero.state import Division, StateTable, TableChange
from dist_zero.types import Row, picker
from dist_zero_common.errors import MalformedMessage

_Item = TypeVar("_Item")
Entries = dict[Row, Pair | None]
"""By key: the entry and its weight, which in a keyed table is 1; None for one that is gone."""


@dataclass(slots=True)
class _Predecessor:
    """Whose entries are taken: `keep`, `loose` and `first` as in `_Chosen`. `parts`: what it had that belongs to no
    hash, by table: of several predecessors these are added up, and cannot be told apart any more."""

    keep: Keep | None
    loose: bool
    first: bool
    parts: dict[int, Entries] = field(default_factory=dict)


class Loading:
    """The `Loader` of tables that are kept in Python."""

    def __init__(self, tables: Sequence[StateTable], kept: Sequence[Kept]) -> None:
        self._tables, self._kept = tables, kept
        self._predecessors: list[_Predecessor] = []

    def take(self, saves: Iterable[Iterable[TableChange]], keep: Keep | None, loose: bool) -> Iterator[None]:
        """See `Loader`."""
        predecessor = _Predecessor(keep, loose, first=not self._predecessors)
        self._predecessors.append(predecessor)
        state: list[Entries] = [{} for _ in self._tables]
        yield from folding(self._tables, saves, state)
        for number, table in enumerate(self._tables):
            entries, state[number] = state[number], {}
            if table.division is Division.LOOSE:
                predecessor.parts[number] = entries if loose else {}
            pairs = (pair for pair in entries.values() if pair is not None)
            yield from _taken(self._kept[number], _chosen(table, pairs, predecessor))

    def follow(
        self, number: int, saves: Iterable[Iterable[TableChange]], whole: bool, owns: Keep | None
    ) -> Iterator[None]:
        """See `Loader`."""
        predecessor = self._predecessors[number]
        state: list[Entries] = [{} for _ in self._tables]
        yield from folding(self._tables, saves, state)
        for place, (table, kept) in enumerate(zip(self._tables, self._kept, strict=True)):
            entries, state[place] = state[place], {}
            before: Callable[[Row], Pair | None] = kept.get
            if table.division is Division.LOOSE:
                if not predecessor.loose:
                    continue
                part = predecessor.parts[place]
                before = part.get
                if whole:
                    entries.update((key, None) for key in part if key not in entries)
            elif table.division is Division.BROADCAST and not predecessor.first:
                continue
            elif whole:
                yield from _missing(table, kept, owns, entries)
            yield from _replaced(table, kept, entries, before, predecessor)
            if table.division is Division.LOOSE:
                part.update(entries)
                for key in [key for key, pair in entries.items() if pair is None]:
                    del part[key]


def folding(
    tables: Sequence[StateTable], saves: Iterable[Iterable[TableChange]], state: list[Entries]
) -> Iterator[None]:
    """Bring into `state`, by table, what these saves say, one behind the other. Raises `MalformedMessage`."""
    for save in saves:
        last = 0
        for change in save:
            if not last <= change.table < len(tables):
                raise MalformedMessage(
                    f"saved state of table {change.table} behind table {last}, of {len(tables)} tables in all"
                )
            last = change.table
            yield from _fold(tables[last], change, state[last])


def _fold(table: StateTable, change: TableChange, entries: Entries) -> Iterator[None]:
    """Apply one change to a table."""
    key_type = table.key_type
    key_of = picker(table.key) if table.key is not None else None
    if change.puts.types != table.row_type.types or change.deletes.types != key_type.types:
        raise MalformedMessage(f"saved state of {table.name!r} whose columns are not {table.row_type}")
    if set(change.deletes.weights()) - {1}:
        raise MalformedMessage(f"saved state of {table.name!r} with a weight among what is deleted")
    weights = change.puts.weights()
    if (table.key is not None and set(weights) - {1}) or 0 in weights:
        raise MalformedMessage(f"saved state of {table.name!r} with a weight that it cannot have")
    seen: dict[Row, None] = dict.fromkeys(change.deletes.rows())
    entries.update(dict.fromkeys(seen))
    yield
    for pairs in _slices(change.puts.items()):
        keyed = {(pair[0] if key_of is None else key_of(pair[0])): pair for pair in pairs}
        seen.update(dict.fromkeys(keyed))
        entries.update(keyed)
        yield
    if len(seen) != len(change.puts) + len(change.deletes):
        raise MalformedMessage(f"saved state of {table.name!r} with one key twice")


def _chosen(table: StateTable, pairs: Iterable[Pair], predecessor: _Predecessor) -> Iterable[Pair]:
    """Those entries of a predecessor that a node takes. `loose`: whether it takes what belongs to no hash; `first`:
    whether this is its first predecessor, for what is the same on all."""
    if table.division is Division.KEYED:
        return pairs if predecessor.keep is None else filter(_is_kept(table, predecessor.keep), pairs)
    wanted = predecessor.loose if table.division is Division.LOOSE else predecessor.first
    return pairs if wanted else ()


def _is_kept(table: StateTable, keep: Keep) -> Callable[[Pair], bool]:
    values_of, hash_of = compile_tuple(table.shard), hasher([scalar.dtype for scalar in table.shard])
    return lambda pair: keep(hash_of(values_of(pair[0])))


def _taken(kept: Kept, pairs: Iterable[Pair]) -> Iterator[None]:
    for some in _slices(pairs):
        kept.take(some)
        yield


def _missing(table: StateTable, kept: Kept, owns: Keep | None, entries: Entries) -> Iterator[None]:
    """Add to `entries`, which are all that the predecessor has, those that are here and are gone there."""
    here: Iterable[Pair] = kept.entries()
    if owns is not None and table.division is Division.KEYED:
        here = filter(_is_kept(table, owns), here)
    key_of = picker(table.key) if table.key is not None else None
    for pairs in _slices(here):
        keys = [pair[0] if key_of is None else key_of(pair[0]) for pair in pairs]
        entries.update((key, None) for key in keys if key not in entries)
        yield


def _replaced(
    table: StateTable,
    kept: Kept,
    entries: Entries,
    before: Callable[[Row], Pair | None],
    predecessor: _Predecessor,
) -> Iterator[None]:
    """Put these entries in the place of those that were there `before`."""
    keep = predecessor.keep if table.division is Division.KEYED else None
    is_kept = _is_kept(table, keep) if keep is not None else None
    gone: list[Pair] = []
    come: list[Pair] = []
    for some in _slices(entries.items()):
        for key, new in some:
            old = before(key)
            if new is not None and is_kept is not None and not is_kept(new):
                new = None
            if old == new:
                continue
            if table.key is None:
                weight = (new[1] if new is not None else 0) - (old[1] if old is not None else 0)
                (gone if weight < 0 else come).append((key, weight))
                continue
            if old is not None:
                gone.append((old[0], -old[1]))
            if new is not None:
                come.append(new)
        yield
    # What goes, goes first: the new version of a row may sort where the old one still is.
    yield from _taken(kept, gone)
    yield from _taken(kept, come)


def _slices(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while some := list(islice(iterator, SLICE)):
        yield some
