"""Shard maps: every hash has one owner, and a map that says otherwise is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero import shards
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.pieces import ShardMap

_LAST = 2**64 - 1


def _map(*lasts: int) -> ShardMap:
    return ShardMap(1, lasts, tuple(f"node-{i}" for i in range(len(lasts))))


_maps = st.lists(st.integers(0, _LAST - 1), max_size=6, unique=True).map(
    lambda lasts: _map(*sorted(lasts), _LAST)
)


@given(_maps, st.integers(0, _LAST))
def test_owner_is_the_shard_whose_interval_holds_the_hash(shard_map: ShardMap, key_hash: int) -> None:
    """Proves that owner and interval agree, for any map."""
    shards.validate(shard_map)
    first, last = shards.interval(shard_map, shards.owner(shard_map, key_hash))
    assert first <= key_hash <= last


@given(_maps)
def test_intervals_cover_the_space_once(shard_map: ShardMap) -> None:
    """Proves that intervals follow each other from 0 to 2⁶⁴ − 1, and that their ends have the right owners."""
    expected = 0
    for shard in range(len(shard_map.lasts)):
        first, last = shards.interval(shard_map, shard)
        assert first == expected
        assert shards.owner(shard_map, first) == shards.owner(shard_map, last) == shard
        expected = last + 1
    assert expected == 2**64


@given(st.integers(1, 50))
def test_even_map_is_even(count: int) -> None:
    """Proves that an even map is valid and that its intervals differ by one hash at most."""
    shard_map = shards.even_map(3, [f"n{i}" for i in range(count)])
    shards.validate(shard_map)
    sizes = [last - first for first, last in (shards.interval(shard_map, i) for i in range(count))]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (ShardMap(0, (_LAST,), ("a",)), "version"),
        (ShardMap(1, (), ()), "intervals"),
        (ShardMap(1, (5, _LAST), ("a",)), "intervals"),
        (ShardMap(1, tuple(range(5000)), tuple(map(str, range(5000)))), "intervals"),
        (ShardMap(1, (5,), ("a",)), "ascend"),
        (ShardMap(1, (5, 5, _LAST), ("a", "b", "c")), "ascend"),
        (ShardMap(1, (6, 5, _LAST), ("a", "b", "c")), "ascend"),
        (ShardMap(1, (5, _LAST), ("a", "a")), "distinct"),
        (ShardMap(1, (5, _LAST), ("a", "")), "distinct"),
    ],
)
def test_map_that_is_none_is_refused(bad: ShardMap, why: str) -> None:
    """Proves that gaps, overlaps, doubles and sizes out of bounds are malformed, saying which."""
    with pytest.raises(MalformedMessage, match=why):
        shards.validate(bad)


def test_a_map_needs_a_node() -> None:
    """Proves that an even map of nobody is refused."""
    with pytest.raises(ValueError, match="at least one"):
        shards.even_map(1, [])


@given(_maps, st.integers(1, 12))
def test_rescaled_map_keeps_whom_it_can(shard_map: ShardMap, count: int) -> None:
    """Proves that a rescaled map is valid, of the next version and as many nodes; that whoever has the interval of
    before has its name, and nobody else has a name of before; and that only as many intervals are cut or joined as
    have to be."""
    renamed = ShardMap(4, shard_map.lasts, tuple(f"n{2 * i + 1}" for i in range(len(shard_map.nodes))))
    scaled = shards.rescaled(renamed, count)
    shards.validate(scaled)
    assert (scaled.version, len(scaled.nodes)) == (5, count)
    before = {shards.interval(renamed, i): name for i, name in enumerate(renamed.nodes)}
    after = {shards.interval(scaled, i): name for i, name in enumerate(scaled.nodes)}
    for interval, name in after.items():
        assert (before.get(interval) == name) == (interval in before) == (name in renamed.nodes)
    assert len(after.keys() & before.keys()) >= len(before) - 2 * abs(count - len(before))


def test_rescaled_even_maps_stay_even() -> None:
    """Proves that doubling halves every interval, and that halving gives them back."""
    four = shards.rescaled(shards.even_map(1, ["n1", "n2"]), 4)
    assert four.lasts == shards.even_map(1, ["a", "b", "c", "d"]).lasts
    assert four.nodes == ("n3", "n4", "n5", "n6")
    assert shards.rescaled(four, 2).lasts == shards.even_map(1, ["a", "b"]).lasts
