"""Order: of values, of rows, and a collection that stays sorted.

`sort_key` gives the order of `top`: nulls last in both directions, NaN greater than every number.
`canonical_order` is the order in which rows leave a node, so that equal content is equal bytes whoever
computed it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from dist_zero.types import NAN, DataType, Kind, Row, order_key

Item = TypeVar("Item")

_FEW = 8
"""Items that are fewer than this part of what is there are put in one by one."""
_SLICE = 2_000


class Reversed:
    """A value that sorts the other way round; for text and bytes, which cannot be negated."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and bool(self.value == other.value)

    def __hash__(self) -> int:
        raise TypeError("sort keys are compared, never looked up")


def sort_key(dtype: DataType, descending: bool) -> Callable[[Any], Any]:
    """A function from a stored value to what Python sorts by, in either direction, null last in both."""
    if not descending:
        return order_key(dtype)
    if dtype.kind is Kind.FLOAT:
        return lambda v: (2, 0.0) if v is None else (1, -v) if v == v else (0, 0.0)
    reverse = Reversed if dtype.kind in (Kind.STR, Kind.BYTES) else _negated
    if dtype.nullable:
        return lambda v: (1, 0) if v is None else (0, reverse(v))
    return reverse


def _negated(value: int) -> int:
    return -value


def canonical_order(types: Sequence[DataType], rows: Iterable[Row]) -> list[Row]:
    """`rows` of these types in canonical order: ascending, column by column; behind them those with a null or NaN.

    Python compares plain rows by itself; only the others need sort keys, and there are few of them.
    """
    if not any(dtype.nullable or dtype.kind is Kind.FLOAT for dtype in types):
        return sorted(rows)
    plain: list[Row] = []
    others: list[Row] = []
    for row in rows:
        (others if None in row or NAN in row else plain).append(row)
    plain.sort()
    keys = [order_key(dtype) for dtype in types]
    others.sort(key=lambda row: tuple([key(value) for key, value in zip(keys, row, strict=True)]))
    return plain + others


def ordering(
    types: Sequence[DataType], pairs: Iterable[tuple[Row, int]]
) -> Generator[None, None, list[tuple[Row, int]]]:
    """Pairs of distinct rows and whatever belongs to them, in canonical order of the rows; in slices, for there may be
    many."""
    plain: list[tuple[Row, int]] = []
    others: list[tuple[Row, int]] = []
    iterator = iter(pairs)
    while some := list(islice(iterator, _SLICE)):
        for pair in some:
            (others if None in pair[0] or NAN in pair[0] else plain).append(pair)
        if len(some) == _SLICE:
            yield
    keys = [order_key(dtype) for dtype in types]
    ordered: list[tuple[Row, int]] = yield from _sorted(plain, None)
    ordered += yield from _sorted(
        others, lambda pair: tuple([key(value) for key, value in zip(keys, pair[0], strict=True)])
    )
    return ordered


def _sorted(items: list[Any], key: Callable[[Any], Any] | None) -> Generator[None, None, list[Any]]:
    """`sorted` in slices."""
    if len(items) <= _SLICE:
        return sorted(items, key=key)
    runs = []
    for start in range(0, len(items), _SLICE):
        runs.append(sorted(items[start : start + _SLICE], key=key))
        yield
    merged, done = heapq.merge(*runs, key=key), []
    while some := list(islice(merged, _SLICE)):
        done += some
        yield
    return done


class SortedItems(Generic[Item]):
    """Distinct items in ascending order: a list of sorted chunks.

    A chunk is split when it grows beyond `_CHUNK_LENGTH_MAX` and goes when it is empty, so that adding or
    removing an item moves at most a chunk, and one entry per chunk of the two short lists beside it. The
    first items of a million cost what those of a hundred do.
    """

    __slots__ = ("_chunks", "_lasts")

    _CHUNK_LENGTH_MAX = 512

    def __init__(self) -> None:
        self._chunks: list[list[Any]] = []
        self._lasts: list[Any] = []

    def add(self, item: Item) -> None:
        """Put `item`, which must not be there yet, in its place."""
        if not self._chunks:
            self._chunks.append([item])
            self._lasts.append(item)
            return
        at = bisect_left(self._lasts, item)
        if at == len(self._lasts):
            at -= 1
            self._chunks[at].append(item)
            self._lasts[at] = item
        else:
            insort(self._chunks[at], item)
        if len(self._chunks[at]) > self._CHUNK_LENGTH_MAX:
            self._split(at)

    def adding(self, items: list[Item]) -> Iterator[None]:
        """Put `items`, none of which may be there yet, in their places; in slices, for there may be many."""
        if len(items) * _FEW < sum(map(len, self._chunks)):
            for number, item in enumerate(items):
                self.add(item)
                if number % _SLICE == _SLICE - 1:
                    yield
            return
        sorted_items = yield from _sorted(items, None)
        merged, half = heapq.merge(self, sorted_items), self._CHUNK_LENGTH_MAX // 2
        chunks: list[list[Any]] = []
        while chunk := list(islice(merged, half)):
            chunks.append(chunk)
            if len(chunks) % max(1, _SLICE // half) == 0:
                yield
        self._chunks = chunks
        self._lasts = [chunk[-1] for chunk in self._chunks]

    def remove(self, item: Item) -> None:
        """Take out `item`; raises `ValueError` if it is not there."""
        at = bisect_left(self._lasts, item)
        chunk = self._chunks[at] if at < len(self._chunks) else []
        place = bisect_left(chunk, item)
        if place == len(chunk) or chunk[place] != item:
            raise ValueError("the item to remove is not in the collection")
        del chunk[place]
        if not chunk:
            del self._chunks[at], self._lasts[at]
        elif place == len(chunk):
            self._lasts[at] = chunk[-1]

    def first(self) -> Item:
        """The smallest item; raises `IndexError` if there is none."""
        smallest: Item = self._chunks[0][0]
        return smallest

    def last(self) -> Item:
        """The largest item; raises `IndexError` if there is none."""
        largest: Item = self._lasts[-1]
        return largest

    def __iter__(self) -> Iterator[Item]:
        for chunk in self._chunks:
            yield from chunk

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def _split(self, at: int) -> None:
        chunk = self._chunks[at]
        half = len(chunk) // 2
        self._chunks[at : at + 1] = [chunk[:half], chunk[half:]]
        self._lasts[at : at + 1] = [chunk[half - 1], chunk[-1]]
