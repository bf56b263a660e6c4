"""What people and policies may change while programs run: how many nodes a program has, and which machines run
nothing any more. Pure."""

from __future__ import annotations

from dataclasses import replace

from dist_zero.compiler import compile
from dist_zero.expr.changes import behind
from dist_zero.expr.graph import decode_graph
from dist_zero.shards import SHARDS_MAX, rescaled
from dist_zero.state import indivisible
from dist_zero_common.errors import RequestError
from services.scheduler.state import Desired, WantedProgram


def rescaled_program(program: WantedProgram, nodes: int) -> WantedProgram:
    """The program as it is to be on so many nodes; the same object if it is already. Raises `RequestError` if it
    cannot be divided among them."""
    if not 1 <= nodes <= SHARDS_MAX:
        raise RequestError(f"a program runs on 1 to {SHARDS_MAX} nodes, not on {nodes}")
    there = len(program.shard_map.nodes)
    if nodes == there:
        return program
    if nodes > there:
        graph = decode_graph(program.graph)
        plans = [compile(each) for each in (graph, behind(graph))]
        labels = [plan.operators[operator].label for plan in plans for operator in indivisible(plan)]
        if labels:
            raise RequestError(
                f"{program.program!r} cannot be divided among more than its {there} nodes: {'; '.join(labels)} looks at"
                " rows of which nothing tells where they are. Keep the key of the dataset in the rows up to there"
            )
    return replace(program, shard_map=rescaled(program.shard_map, nodes))


def with_drained(desired: Desired, machine: str, drained: bool) -> Desired:
    """With a machine that runs nothing any more, or that runs things again; the same object if that is so already."""
    machines = desired.drained | {machine} if drained else desired.drained - {machine}
    return desired if machines == desired.drained else replace(desired, drained=machines)
