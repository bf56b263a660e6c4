"""The tables of the state that are kept in C, as who saves and loads them sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dist_zero.batch import Batch
from dist_zero.kept import Pair
from dist_zero.native.library import Given, Node
from dist_zero.state import StateTable, TableChange
from dist_zero.types import Row


class TableInC:
    """Table number `number` of the state."""

    def __init__(self, node: Node, number: int, table: StateTable) -> None:
        self.table = table
        self._node, self._number, self._library = node, number, node.library
        self._types, self._key_types = table.row_type.types, table.key_type.types

    def get(self, key: Row) -> Pair | None:
        """The entry of a key with its weight, if there is one."""
        given = Given()
        given.batch(Batch.from_rows(self._key_types, [key]))
        said = self._node.ask(self._library.get, self._number, *given.arguments())
        return next(iter(said.batch(self._types).items()), None)

    def take(self, entries: Batch) -> None:
        """Add entries to what is there; those of negative weight are taken back."""
        given = Given()
        given.batch(entries)
        self._node.call(self._library.take, self._number, *given.arguments())

    def frozen(self, tracked: bool) -> Iterator[TableChange | None]:
        """What changed, or all of it if nothing is `tracked`: as of now, to be gone through later."""
        number = self._node.call(self._library.freeze, self._number, tracked)
        return self._given_out(_Frozen(self._node, number))

    def _given_out(self, frozen: _Frozen) -> Iterator[TableChange | None]:
        while said := self._node.ask(self._library.next, frozen.number):
            if said.word() < 0:
                yield None
            else:
                yield TableChange(self._number, said.batch(self._types), said.batch(self._key_types))
        self._node.call(self._library.thaw, frozen.number)  # much, perhaps: not only when the next call comes


class _Frozen:
    """What is frozen in C. Nobody has to go through it, or even begin to; when it is dropped, it is forgotten there."""

    __slots__ = ("_node", "number")

    def __init__(self, node: Node, number: int) -> None:
        self._node, self.number = node, number

    def __del__(self) -> None:
        self._node.drop(self.number)


class KeptInC:
    """The same as a `Kept`, with rows: for the code that loads row by row."""

    def __init__(self, table: TableInC) -> None:
        self._in_c = table

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        for change in self._in_c.frozen(tracked=False):
            if change is not None:
                yield from change.puts.items()

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        return list(self.entries())

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        return self._in_c.get(key)

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        raise NotImplementedError("what was touched is frozen in C")

    def track(self) -> None:
        """All tables in C are tracked by one call."""

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        pairs = list(entries)
        types = self._in_c.table.row_type.types
        self._in_c.take(Batch.from_rows(types, [row for row, _ in pairs], [weight for _, weight in pairs]))
