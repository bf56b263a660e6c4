"""Z-sets: maps from rows to non-zero weights, which are both collections and changes to collections.

With pointwise addition they are an Abelian group whose zero is the empty dict; `add`, `negate` and
`consolidate` keep its laws (the tests state them). Rows are looked up as dict keys, which works for NaN
because there is one NaN object (see `dist_zero/types.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dist_zero.types import Row

ZSet = dict[Row, int]
"""Row → weight, a weight never zero."""


def add_into(target: ZSet, delta: Mapping[Row, int]) -> None:
    """Add `delta` to `target` in place; rows whose weights cancel are gone. `delta` must not be `target`."""
    add_pairs(target, delta.items())


def add_pairs(target: ZSet, pairs: Iterable[tuple[Row, int]]) -> None:
    """Add (row, weight) pairs to `target` in place; rows may repeat and weights may be zero."""
    get = target.get
    for row, weight in pairs:
        total = get(row, 0) + weight
        if total:
            target[row] = total
        else:
            target.pop(row, None)


def add(left: Mapping[Row, int], right: Mapping[Row, int]) -> ZSet:
    """The sum, as a new Z-set."""
    total = dict(left)
    add_pairs(total, right.items())
    return total


def negate(zset: Mapping[Row, int]) -> ZSet:
    """What takes `zset` back."""
    return {row: -weight for row, weight in zset.items()}


def consolidate(pairs: Iterable[tuple[Row, int]]) -> ZSet:
    """The Z-set of (row, weight) pairs in which rows may repeat."""
    total: ZSet = {}
    add_pairs(total, pairs)
    return total


def is_set(zset: Mapping[Row, int]) -> bool:
    """Whether every row is there exactly once: what views with a key and `distinct` promise."""
    return all(weight == 1 for weight in zset.values())
