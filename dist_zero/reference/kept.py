"""The forms in which operators of the interpreter keep the tables of their state, beside `KeptZSet`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat

from dist_zero.kept import Pair, Touched
from dist_zero.types import Row, picker


class KeptGroups(Touched):
    """A Z-set of rows that lie in groups: `group` finds the weights of one, `every` all of them; `group_of` says in
    which one a row lies."""

    __slots__ = ("_every", "_group", "_group_of", "_take")

    def __init__(
        self,
        group: Callable[[Row], Mapping[Row, int] | None],
        every: Callable[[], Iterable[Mapping[Row, int]]],
        take: Callable[[Iterable[Pair]], None],
        group_of: Callable[[Row], Row],
    ) -> None:
        super().__init__()
        self._group, self._every, self._take, self._group_of = group, every, take, group_of

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        return (pair for weights in self._every() for pair in weights.items())

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        return [pair for weights in self._every() for pair in weights.items()]

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        weight = (self._group(self._group_of(key)) or {}).get(key)
        return None if weight is None else (key, weight)

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

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        return zip(list(self.rows.values()), repeat(1), strict=False)

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        row = self.rows.get(key)
        return None if row is None else (row, 1)

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        rows = self.rows
        return ((key, (rows[key], 1) if key in rows else None) for key in self.keys or ())

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        rows, key_of = self.rows, self._key_of
        for row, weight in entries:
            if weight > 0:
                rows[key_of(row)] = row
            else:
                del rows[key_of(row)]
