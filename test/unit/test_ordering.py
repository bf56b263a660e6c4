"""Sorted collections and orders."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dist_zero.ordering import SortedItems, canonical_order, sort_key
from dist_zero.types import BOOL, BYTES, FLOAT, INT, NAN, STR, DataType


@pytest.mark.parametrize("size", [3, 40, 3000])
def test_sorted_items_stay_sorted(size: int) -> None:
    """Adding absent and removing present items leaves the sorted list of what is there, over many chunks."""
    rng = random.Random(size)
    items: SortedItems[int] = SortedItems()
    left: dict[int, None] = {}
    for step in range(3 * size):
        item = rng.randrange(size)
        if item in left:
            del left[item]
            items.remove(item)
        else:
            left[item] = None
            items.add(item)
        assert bool(items) == bool(left)
        if left and step % 50 == 0:
            assert (items.first(), items.last()) == (min(left), max(left))
            assert list(items) == sorted(left)
    for item in list(left):
        items.remove(item)
    assert not items and list(items) == []


def test_removing_what_is_not_there_is_an_error() -> None:
    """The collection does not hide that its owner lost count."""
    items: SortedItems[int] = SortedItems()
    with pytest.raises(ValueError, match="not in the collection"):
        items.remove(1)
    items.add(1)
    for absent in (0, 2):
        with pytest.raises(ValueError, match="not in the collection"):
            items.remove(absent)


@pytest.mark.parametrize(
    ("dtype", "ascending"),
    [
        (INT.optional(), [-5, 0, 7]),
        (FLOAT.optional(), [float("-inf"), -1.0, 0.0, 2.5, float("inf"), NAN]),
        (STR.optional(), ["", "a", "ab", "b", "\uffff", "\U0001f600"]),
        (BYTES.optional(), [b"", b"\0", b"a", b"a\0", b"\xff"]),
        (BOOL.optional(), [False, True]),
    ],
)
def test_nulls_sort_last_in_both_directions(dtype: DataType, ascending: list[Any]) -> None:
    """Text by code point, NaN above all numbers, null behind everything either way."""
    mixed = [None, *ascending[::2], *ascending[1::2]]
    assert sorted(mixed, key=sort_key(dtype, False)) == [*ascending, None]
    assert sorted(mixed, key=sort_key(dtype, True)) == [*ascending[::-1], None]
    required = [value for value in mixed if value is not None]
    assert sorted(required, key=sort_key(dtype.required(), True)) == ascending[::-1]


def test_canonical_order_is_total_over_nulls_and_nan() -> None:
    """Any permutation of rows comes out in one order, with and without nulls and NaN."""
    rows = [(a, b) for a in (None, 0.5, NAN) for b in (None, "x", "y")]
    expected = [(a, b) for a in (0.5, NAN, None) for b in ("x", "y", None)]
    for seed in range(10):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert canonical_order((FLOAT.optional(), STR.optional()), shuffled) == expected
        plain = [row for row in shuffled if None not in row and NAN not in row]
        assert canonical_order((FLOAT.optional(), STR.optional()), plain) == [(0.5, "x"), (0.5, "y")]
