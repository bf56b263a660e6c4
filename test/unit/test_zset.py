"""Z-sets: the laws of an Abelian group, and of consolidation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dist_zero import zset
from dist_zero.types import NAN
from dist_zero.zset import ZSet

_rows = st.tuples(st.sampled_from((0, 1, NAN, None, "a")))
_pairs = st.lists(st.tuples(_rows, st.integers(-2, 2)), max_size=12)
_zsets = _pairs.map(zset.consolidate)


@given(_zsets, _zsets, _zsets)
def test_addition_is_an_abelian_group(a: ZSet, b: ZSet, c: ZSet) -> None:
    """Proves associativity, commutativity, the zero and inverses."""
    assert zset.add(zset.add(a, b), c) == zset.add(a, zset.add(b, c))
    assert zset.add(a, b) == zset.add(b, a)
    assert zset.add(a, {}) == a
    assert zset.add(a, zset.negate(a)) == {}


@given(_zsets, _zsets)
def test_no_weight_is_ever_zero(a: ZSet, b: ZSet) -> None:
    """Proves that sums and differences hold no rows of weight zero, and that `add` leaves its arguments alone."""
    before = dict(a), dict(b)
    assert all(zset.add(a, b).values())
    assert (a, b) == before


@given(_pairs, st.randoms(use_true_random=False))
def test_consolidation_forgets_order_and_division(
    pairs: list[tuple[tuple[object], int]], chance: object
) -> None:
    """Proves that a Z-set depends on the pairs as a set of changes alone, and that consolidation repeats itself."""
    shuffled = list(pairs)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = zset.consolidate(pairs)
    assert zset.consolidate(shuffled) == whole
    assert zset.add(zset.consolidate(pairs[:5]), zset.consolidate(pairs[5:])) == whole
    assert zset.consolidate(whole.items()) == whole


@given(_zsets, _zsets)
def test_adding_in_place_is_adding(a: ZSet, b: ZSet) -> None:
    """Proves that `add_into` is `add`, in place."""
    expected = zset.add(a, b)
    zset.add_into(a, b)
    assert a == expected


def test_nan_equals_itself_as_a_row() -> None:
    """Proves that a NaN can be taken back."""
    assert zset.add({(NAN, 1): 1}, {(NAN, 1): -1}) == {}


@given(_zsets)
def test_sets_are_told_from_changes(a: ZSet) -> None:
    """Proves what `is_set` says, by its definition."""
    assert zset.is_set(a) == (set(a.values()) <= {1})
