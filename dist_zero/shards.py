"""Shard maps: which node owns which interval of the hash space 0 … 2⁶⁴ − 1. Over `pieces.ShardMap`.

The intervals of a map are disjoint and cover the whole space, so every hash has one owner; `validate` holds
that for maps that come from elsewhere. The empty key belongs to the owner of its hash like any other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.pieces import ShardMap

HASH_MAX = 2**64 - 1
SHARDS_MAX = 4096
"""More shards than any program may have; bounds what a peer can make us allocate."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The hashes from the first to the last one (inclusive); says of a hash whether it is one of them."""

    first: int
    last: int

    def __call__(self, key_hash: int) -> bool:
        return self.first <= key_hash <= self.last


def even_map(version: int, nodes: Sequence[str]) -> ShardMap:
    """The map in which these nodes own intervals of equal size, in order."""
    if not nodes:
        raise ValueError("a shard map needs at least one node")
    lasts = tuple(((i + 1) << 64) // len(nodes) - 1 for i in range(len(nodes)))
    return ShardMap(version, lasts, tuple(nodes))


def rescaled(shard_map: ShardMap, count: int) -> ShardMap:
    """The next version of a map, with `count` nodes: as long as there are too few, the largest interval is halved, and
    while there are too many, the two neighbours that are smallest together become one; of equals the first. Who keeps
    its interval keeps its name, and no name comes again."""
    if not 1 <= count <= SHARDS_MAX:
        raise ValueError(f"a shard map of {count} nodes")
    parts = [(last, name) for last, name in zip(shard_map.lasts, shard_map.nodes, strict=True)]
    number = max([int(name[1:]) for name in shard_map.nodes if name[1:].isdecimal()], default=0)
    while len(parts) < count:
        firsts = [0, *(last + 1 for last, _ in parts)]
        at = max(range(len(parts)), key=lambda i: (parts[i][0] - firsts[i], -i))
        half = (firsts[at] + parts[at][0]) // 2
        parts[at : at + 1] = [(half, f"n{number + 1}"), (parts[at][0], f"n{number + 2}")]
        number += 2
    while len(parts) > count:
        firsts = [0, *(last + 1 for last, _ in parts)]
        at = min(range(len(parts) - 1), key=lambda i: (parts[i + 1][0] - firsts[i], i))
        number += 1
        parts[at : at + 2] = [(parts[at + 1][0], f"n{number}")]
    return ShardMap(shard_map.version + 1, tuple(last for last, _ in parts), tuple(name for _, name in parts))


def redrawn(shard_map: ShardMap, lasts: Sequence[int]) -> ShardMap:
    """The next version of a map, with intervals that end at these hashes. Who keeps its interval keeps its name, and no
    name comes again."""
    known = {interval(shard_map, shard): name for shard, name in enumerate(shard_map.nodes)}
    number = max([int(name[1:]) for name in shard_map.nodes if name[1:].isdecimal()], default=0)
    first, names = 0, []
    for last in lasts:
        name = known.get((first, last))
        if name is None:
            number += 1
            name = f"n{number}"
        names.append(name)
        first = last + 1
    return ShardMap(shard_map.version + 1, tuple(lasts), tuple(names))


def owner(shard_map: ShardMap, key_hash: int) -> int:
    """The shard that owns a hash."""
    return bisect_left(shard_map.lasts, key_hash)


def interval(shard_map: ShardMap, shard: int) -> tuple[int, int]:
    """The first and the last hash (inclusive) that `shard` owns."""
    first = shard_map.lasts[shard - 1] + 1 if shard else 0
    return first, shard_map.lasts[shard]


def validate(shard_map: ShardMap) -> None:
    """Raise `MalformedMessage` unless the map covers the hash space once and its nodes are distinct."""
    lasts, nodes = shard_map.lasts, shard_map.nodes
    if shard_map.version < 1:
        raise MalformedMessage(f"shard map version {shard_map.version}: versions count from 1")
    if not 1 <= len(lasts) <= SHARDS_MAX or len(lasts) != len(nodes):
        raise MalformedMessage(
            f"shard map with {len(lasts)} intervals and {len(nodes)} nodes:"
            f" both must be one number from 1 to {SHARDS_MAX}"
        )
    if lasts[0] < 0 or lasts[-1] != HASH_MAX or any(a >= b for a, b in pairwise(lasts)):
        raise MalformedMessage("shard map intervals do not ascend from 0 to 2^64 - 1")
    if "" in nodes or len(set(nodes)) != len(nodes):
        raise MalformedMessage("shard map nodes must have distinct names")
