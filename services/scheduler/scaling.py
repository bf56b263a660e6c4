"""What people and policies may change while programs run: how many nodes a program has, and which machines run
nothing any more. Pure."""

from __future__ import annotations

from dataclasses import replace

from dist_zero.shards import SHARDS_MAX, rescaled
from dist_zero_common.errors import RequestError
from services.scheduler.state import Desired, WantedProgram


def rescaled_program(program: WantedProgram, nodes: int) -> WantedProgram:
    """The program as it is to be on so many nodes; the same object if it is already. Raises `RequestError` if no
    program can have so many."""
    if not 1 <= nodes <= SHARDS_MAX:
        raise RequestError(f"a program runs on 1 to {SHARDS_MAX} nodes, not on {nodes}")
    if nodes == len(program.shard_map.nodes):
        return program
    return replace(program, shard_map=rescaled(program.shard_map, nodes))


def with_drained(desired: Desired, machine: str, drained: bool) -> Desired:
    """With a machine that runs nothing any more, or that runs things again; the same object if that is so already."""
    machines = desired.drained | {machine} if drained else desired.drained - {machine}
    return desired if machines == desired.drained else replace(desired, drained=machines)
