"""Taking in saves, with their columns as they are: what `reference/loading.py` does row by row.

The tables that are kept in C take in folds (`runtime/loading.h`), a slice at a time; the few that are kept in Python go
through the interpreter's own code.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dist_zero.executor_state import Keep
from dist_zero.kept import Kept
from dist_zero.native.kept import TableInC
from dist_zero.native.library import Given, Node
from dist_zero.reference.loading import Loading
from dist_zero.shards import Interval
from dist_zero.state import Division, StateTable, TableChange
from dist_zero_common.errors import MalformedMessage

SLICE = 20_000
"""So many entries are worked on at a time: some milliseconds."""

_WRONG = ("", "a weight among what is deleted", "a weight that it cannot have", "one key twice")
"""What may be wrong with a change, by the numbers that C says."""


@dataclass(slots=True)
class _Predecessor:
    """Whose entries are taken, as in `reference/loading.py`. `parts`: folds of what belongs to no hash, by table."""

    keep: Keep | None
    loose: bool
    first: bool
    parts: dict[int, int] = field(default_factory=dict)


class NativeLoading:
    """The `Loader` of tables that are kept in C, but for a few."""

    def __init__(
        self, node: Node, tables: Sequence[StateTable], in_c: Sequence[TableInC | None], kept: Sequence[Kept]
    ) -> None:
        self._node, self._library, self._tables, self._in_c = node, node.library, tables, in_c
        here = [number for number, each in enumerate(in_c) if each is None]
        self._numbers = {number: place for place, number in enumerate(here)}
        self._here = Loading([tables[number] for number in here], [kept[number] for number in here])
        self._predecessors: list[_Predecessor] = []

    def take(self, saves: Iterable[Iterable[TableChange]], keep: Keep | None, loose: bool) -> Iterator[None]:
        """See `Loader`."""
        predecessor = _Predecessor(keep, loose, first=not self._predecessors)
        self._predecessors.append(predecessor)
        folds: dict[int, int] = {}
        others: list[list[TableChange]] = []
        yield from self._fold(saves, folds, others)
        yield from self._here.take(others, keep, loose)
        for number, fold in folds.items():
            division = self._tables[number].division
            if division is Division.LOOSE:
                predecessor.parts[number] = fold if loose else self._begin(number)
            if division is Division.KEYED:
                self._keep(fold, keep, missing=False)
            elif not (loose if division is Division.LOOSE else predecessor.first):
                self._end(fold)
                continue
            while self._node.call(self._library.load_take, fold, SLICE):
                yield
            if division is not Division.LOOSE:
                self._end(fold)
            yield

    def follow(
        self, number: int, saves: Iterable[Iterable[TableChange]], whole: bool, owns: Keep | None
    ) -> Iterator[None]:
        """See `Loader`."""
        predecessor = self._predecessors[number]
        folds: dict[int, int] = {}
        others: list[list[TableChange]] = []
        yield from self._fold(saves, folds, others)
        yield from self._here.follow(number, others, whole, owns)
        for table, fold in folds.items():
            division, part = self._tables[table].division, 0
            wanted = predecessor.loose if division is Division.LOOSE else True
            if division is Division.BROADCAST:
                wanted = predecessor.first
            if wanted:
                if division is Division.LOOSE:
                    part = predecessor.parts[table]
                elif division is Division.KEYED:
                    self._keep(fold, predecessor.keep, missing=False)
                if whole:
                    self._node.call(self._library.load_missing, fold, part)
                    if division is Division.KEYED:
                        self._keep(fold, owns, missing=True)
                    yield
                while self._node.call(self._library.load_replace, fold, part, SLICE):
                    yield
            self._end(fold)
            yield

    def _fold(
        self,
        saves: Iterable[Iterable[TableChange]],
        folds: dict[int, int],
        others: list[list[TableChange]],
    ) -> Iterator[None]:
        """Fold what these saves say, one behind the other: into `folds`, by table, and of tables that are not in C into
        `others`, by save. Raises `MalformedMessage`."""
        folds.update(
            {number: self._begin(number) for number, each in enumerate(self._in_c) if each is not None}
        )
        for save in saves:
            last = 0
            others.append([])
            for change in save:
                if not last <= change.table < len(self._tables):
                    raise MalformedMessage(
                        f"saved state of table {change.table} behind table {last}, of {len(self._tables)} tables in all"
                    )
                last = change.table
                if last in folds:
                    self._fold_change(folds[last], change)
                else:
                    others[-1].append(replace(change, table=self._numbers[last]))
                yield

    def _fold_change(self, fold: int, change: TableChange) -> None:
        table = self._tables[change.table]
        if change.puts.types != table.row_type.types or change.deletes.types != table.key_type.types:
            raise MalformedMessage(f"saved state of {table.name!r} whose columns are not {table.row_type}")
        given = Given()
        given.batch(change.puts)
        given.batch(change.deletes)
        wrong = self._node.call(self._library.load_change, fold, *given.arguments())
        if wrong:
            raise MalformedMessage(f"saved state of {table.name!r} with {_WRONG[wrong]}")

    def _keep(self, fold: int, keep: Keep | None, missing: bool) -> None:
        """Leave of the entries of a fold, or of what is `missing` in it, those whose hashes are wanted."""
        if keep is None:
            return
        if isinstance(keep, Interval):
            first, last = map(_signed, (keep.first, keep.last))
            self._node.call(self._library.load_interval, fold, first, last, missing)
            return
        hashes = array("Q", self._node.ask(self._library.load_hashes, fold).rest())
        self._node.call(self._library.load_keep, fold, bytes(map(keep, hashes)), missing)

    def _begin(self, number: int) -> int:
        return self._node.call(self._library.load_begin, number)

    def _end(self, fold: int) -> None:
        self._node.call(self._library.load_end, fold)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
