"""Before a program that is well is placed anew, nodes that come to another runner, or are new, load their state; where
another program is to run, all of them do. Pure.

What is planned stays planned while the wish is the same and every runner of the plan is there; else it is planned
anew, and nodes that load the same on the same runner go on. When all have caught up with the newest base, the sequencer
brings the generation to its end, and when there is a base of that, the program is placed. Then whoever comes begins
exactly where all the others are. By another shard map that is a new generation, and those who stay keep what they have;
by the same one they have not even to begin again, and the generation goes on when the first who came has begun.

All of this is a favour to whoever waits, and nothing depends on it: nodes that find nothing prepared, or another base
than was meant, load what they need. So what is wished for is in the schedulers' log, and what is planned for it is not:
a scheduler that comes to lead plans anew, and what runners prepare already goes on where it is still to come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from services.scheduler.placement import Candidate
from services.scheduler.state import (
    Desired,
    Observed,
    Part,
    Preparation,
    WantedProgram,
    sequencer_of,
)


def still_fits(preparation: Preparation, program: WantedProgram, candidates: Collection[Candidate]) -> bool:
    """Whether what was planned is still what is wished for, and can be had."""
    assignment = program.assignment
    feasible = {(each.runner, each.incarnation) for each in candidates}
    return (
        assignment is not None
        and preparation.before == assignment.placement.version
        and preparation.planned.placement.shard_map == program.shard_map
        and preparation.planned.graph == program.graph
        and all((part.runner, part.runner_incarnation) in feasible for part in preparation.planned.runners())
    )


def prepared_parts(preparation: Preparation, program: WantedProgram) -> Iterator[tuple[int, Part]]:
    """By shard of the map to come, the nodes that are prepared, and where: all but those that are there already, with
    the program that is to run."""
    assignment = program.assignment
    assert assignment is not None
    stay = assignment.graph == preparation.planned.graph
    here = dict(zip(assignment.placement.shard_map.nodes, assignment.nodes if stay else (), strict=stay))
    names = preparation.planned.placement.shard_map.nodes
    for shard, (name, part) in enumerate(zip(names, preparation.planned.nodes, strict=True)):
        before = here.get(name)
        if before is None or before.runner != part.runner:
            yield shard, part


def is_ready(preparation: Preparation, program: WantedProgram, observed: Observed) -> bool:
    """Whether every node that is prepared has caught up."""
    return all(
        is_prepared(preparation, program.program, shard, part, observed, ready=True)
        for shard, part in prepared_parts(preparation, program)
    )


def is_prepared(
    preparation: Preparation, program: str, shard: int, part: Part, observed: Observed, *, ready: bool = False
) -> bool:
    """Whether a runner prepares this node; with `ready`, whether that has caught up."""
    seen = observed.runners.get(part.runner)
    if seen is None or seen.report.incarnation != part.runner_incarnation:
        return False
    wanted = program, preparation.version, shard
    return any(
        (each.program, each.version, each.shard) == wanted and (each.ready or not ready)
        for each in seen.report.prepared
    )


def advanced(
    preparation: Preparation, program: WantedProgram, desired: Desired, observed: Observed, now: float
) -> Preparation | None:
    """The preparation one step further; None when the program is to be placed as planned."""
    assignment, options = program.assignment, desired.options
    assert assignment is not None
    late = now - preparation.since >= options.prepare_seconds
    if preparation.ends_since is None:
        if not late and not is_ready(preparation, program, observed):
            return preparation
        return replace(preparation, ends_since=now)
    sequencer = sequencer_of(program.program, assignment.sequencer, observed)
    ended = sequencer is not None and 0 < sequencer.status.ends <= sequencer.status.base
    return None if ended or now - preparation.ends_since >= options.end_seconds else preparation
