"""What became of a program's placement, in numbers: parts that were lost and placed again, or moved, nodes that were
divided or joined, ways back to a base. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dist_zero_common.protocol.messages.pieces import ShardMap
from services.scheduler.state import WantedProgram


@dataclass(frozen=True, slots=True)
class Changes:
    """How often; see `ProgramStatus`."""

    recoveries: int = 0
    moves: int = 0
    splits: int = 0
    merges: int = 0
    rewinds: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.recoveries + other.recoveries,
            self.moves + other.moves,
            self.splits + other.splits,
            self.merges + other.merges,
            self.rewinds + other.rewinds,
        )


NO_CHANGES = Changes()


def changes_between(before: WantedProgram, after: WantedProgram) -> Changes:
    """What has changed with the newest placement; nothing with the first one."""
    was, now = before.assignment, after.assignment
    if was is None or now is None or was == now:
        return NO_CHANGES
    old, new = was.placement, now.placement
    if old.shard_map.lasts != new.shard_map.lasts:
        splits, merges = divided_and_joined(old.shard_map, new.shard_map)
        return Changes(splits=splits, merges=merges)
    parts = zip((*was.nodes, was.sequencer), (*now.nodes, now.sequencer), strict=True)
    elsewhere = sum(
        (part.runner, part.runner_incarnation) != (other.runner, other.runner_incarnation)
        for part, other in parts
    )
    if before.halted_since is not None and old.generation != new.generation:
        return Changes(rewinds=1)
    if before.lost_since is not None:
        return Changes(recoveries=elsewhere)
    return Changes(moves=elsewhere)


def divided_and_joined(before: ShardMap, after: ShardMap) -> tuple[int, int]:
    """How many bounds between neighbours there are that were not there, and how many there were that are not."""
    old, new = Counter(before.lasts), Counter(after.lasts)
    return (new - old).total(), (old - new).total()
