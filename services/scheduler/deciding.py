"""What is desired, refined by what only can be decided when something was observed. Pure.

Which incarnation of a runner a machine shall run, where the parts of a program go, and that a removed program is gone.
What then has to be done, `reconcile.py` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from dist_zero_common.broker.topology import runner_inbox, sequencer_clients_inbox, sequencer_nodes_inbox
from dist_zero_common.protocol.messages.control import Placement, RunnerStatus
from services.scheduler.changing import went_on
from services.scheduler.placement import Candidate, Room, feasible, has_more_room, moving, parts_of
from services.scheduler.preparing import advanced, still_fits
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Assignment,
    Desired,
    Observed,
    Part,
    Preparation,
    Removal,
    RunnerSeen,
    WantedProgram,
    WantedRunner,
    gone_since,
    has_died,
    inbox_of,
    is_silent,
    lost_parts,
    runner_name,
    why_halted,
)
from services.scheduler.stuck import stuck_parts

HUNG_SECONDS = 120.0
"""A runner that has reported nothing for so long, while its agent says that it lives, is ended and started anew: longer
than anything that a runner does in one go, and than slow reports are waited for."""
RESTART_SECONDS = 10.0
"""A runner that ends at once after each start is started again no more often than this."""
FORGET_SECONDS = 600.0
"""A machine without parts that is silent for so long is no machine any more."""


def decide(desired: Desired, observed: Observed, now: float) -> Desired:
    """What is desired after looking at what is observed; the same object when nothing new was decided."""
    desired = _decide_runners(desired, observed, now)
    desired = _decide_placements(desired, observed, now)
    gone = [name for name, removal in desired.removals.items() if is_gone(removal, desired, observed, now)]
    if not gone:
        return desired
    return replace(desired, removals={n: r for n, r in desired.removals.items() if n not in gone})


def forget_silent(desired: Desired, observed: Observed, now: float) -> Desired:
    """Without the machines that nobody has heard of for long and on which no program has a part; one that comes back is
    a new machine. Of one that has said goodbye, or was to be given back by an earlier scheduler, nothing more is
    expected."""
    used = {
        part.machine
        for program in desired.programs.values()
        if program.assignment is not None
        for part in program.assignment.runners()
    }
    gone = [
        name
        for name, seen in observed.machines.items()
        if name not in used
        and (
            observed.silence(seen, now) >= FORGET_SECONDS
            or ((name in desired.leaving or seen.report.leaves) and is_silent(seen, desired, observed, now))
        )
    ]
    if not gone:
        return desired
    for name in gone:
        observed.machines.pop(name)
        observed.runners.pop(runner_name(name), None)
    runners = {name: wanted for name, wanted in desired.runners.items() if wanted.machine not in gone}
    return replace(desired, runners=runners)


def unread_queues(before: Desired, after: Desired) -> list[str]:
    """The inboxes that were wanted and are not any more: those of runners and of sequencers belong to one
    incarnation."""
    if after is before:
        return []
    return sorted(_inboxes(before).difference(_inboxes(after)))


def _inboxes(desired: Desired) -> frozenset[str]:
    runners = [runner_inbox(desired.system, name, r.incarnation) for name, r in desired.runners.items()]
    placements = [p.assignment.placement for p in desired.programs.values() if p.assignment is not None]
    return frozenset([*runners, *(placement.nodes_inbox for placement in placements)])


def _decide_runners(desired: Desired, observed: Observed, now: float) -> Desired:
    incarnation = desired.incarnation
    decided: dict[str, WantedRunner] = {}
    for name, machine in observed.machines.items():
        if is_silent(machine, desired, observed, now):
            continue
        runner = runner_name(name)
        wanted, status = desired.runners.get(runner), machine.runners.get(runner)
        agent = machine.report.incarnation
        if (
            status is not None
            and status.alive
            and (wanted is None or status.incarnation > wanted.incarnation)
        ):
            decided[runner] = WantedRunner(name, status.incarnation, agent, now)
        elif _needs_start(wanted, status, agent, now) or _hangs(runner, wanted, status, observed, now):
            incarnation += 1
            decided[runner] = WantedRunner(name, incarnation, agent, now)
    if not decided:
        return desired
    return replace(desired, incarnation=incarnation, runners={**desired.runners, **decided})


def _needs_start(wanted: WantedRunner | None, status: RunnerStatus | None, agent: int, now: float) -> bool:
    """Whether a runner of a new incarnation shall start. Not where one lives, or the agent has yet to obey; but an
    agent that was started since will never obey, because it may be that the one before it did."""
    if wanted is None:
        return True
    if status is None or status.incarnation < wanted.incarnation:
        return wanted.agent < agent
    return not status.alive and now - wanted.since >= RESTART_SECONDS


def _hangs(
    runner: str, wanted: WantedRunner | None, status: RunnerStatus | None, observed: Observed, now: float
) -> bool:
    """Whether a runner lives, as its agent says, and has said nothing itself for so long that it never will. Its parts
    are elsewhere by then; its agent ends it when it is told of another incarnation, and the machine is of use again."""
    if wanted is None or status is None or not status.alive or status.incarnation != wanted.incarnation:
        return False
    seen = observed.runners.get(runner)
    reported = seen is not None and seen.report.incarnation == wanted.incarnation
    heard = seen.at if seen is not None and reported else wanted.since
    return now - max(heard, observed.listening_since) >= HUNG_SECONDS


def _decide_placements(desired: Desired, observed: Observed, now: float) -> Desired:
    candidates = feasible(desired, observed, now)
    hosts = _hosting(observed) if any(p.assignment is None for p in desired.programs.values()) else {}
    placed = False
    for known in list(desired.programs.values()):
        if known.asleep or known.program in desired.removals:
            continue
        program = _with_times(went_on(known, observed), candidates, desired, observed, now)
        if program.assignment is None:
            program = _adopted(program, candidates, hosts.get(known.program, []), desired, observed, now)
        if program is not known and program.assignment is not known.assignment:
            assert program.assignment is not None
            desired = _with_assignment(program, program.assignment, desired)
            candidates.move(known.assignment, program.assignment)
        elif program is not known:
            desired = with_program(desired, program)
        hosted_already = known.program in hosts
        if candidates and _shall_be_placed(program, candidates, hosted_already, desired, observed, now):
            desired = _placed_anew(program, candidates, desired, observed, now)
            after = desired.programs[known.program].assignment
            placed = placed or after is not program.assignment
            candidates.move(program.assignment, after)
        elif program.preparation is not None:
            desired = with_program(desired, replace(program, preparation=None))
    for known in list(desired.programs.values()) if placed else ():  # who has room is another matter by now
        program = _with_times(known, candidates, desired, observed, now)
        desired = desired if program is known else with_program(desired, program)
    return desired


def _placed_anew(
    program: WantedProgram, candidates: Room, desired: Desired, observed: Observed, now: float
) -> Desired:
    """With the program placed anew; or, as long as it is well where it is, with one step further on the way there."""
    if not _is_well(program, observed):
        return _with_assignment(program, _assigned(program, candidates, desired, observed, now), desired)
    assert program.assignment is not None
    preparation = program.preparation
    if preparation is None or not still_fits(preparation, program, candidates):
        planned = _assigned(program, candidates, desired, observed, now)
        version = desired.incarnation + 1
        preparation = Preparation(planned, program.assignment.placement.version, version, now)
        desired = replace(desired, incarnation=version)
    further = advanced(preparation, program, desired, observed, now)
    while further is not None and further is not preparation:
        preparation, further = further, advanced(further, program, desired, observed, now)
    if preparation is program.preparation and further is not None:
        return desired
    if further is not None:
        return with_program(desired, replace(program, preparation=further))
    return _with_assignment(program, _as_planned(program, preparation, candidates, desired), desired)


def _is_well(program: WantedProgram, observed: Observed) -> bool:
    """Whether a program runs, so that nothing has to be done at once."""
    assignment = program.assignment
    return (
        assignment is not None
        and program.lost_since is None
        and program.halted_since is None
        and not stuck_parts(program.program, assignment, observed)
    )


def _as_planned(
    program: WantedProgram, preparation: Preparation, candidates: Room, desired: Desired
) -> Assignment:
    """The assignment that was planned, with incarnations as of now."""
    before, planned = program.assignment, preparation.planned
    assert before is not None
    if planned.placement.shard_map != before.placement.shard_map:
        parts: list[Part | None] = [*planned.nodes, planned.sequencer]
        generation = desired.incarnation + 1
        return _assignment(program, parts, generation, candidates, desired, new_incarnations=True)
    pairs = zip((*planned.nodes, planned.sequencer), (*before.nodes, before.sequencer), strict=True)
    stay = [part if part == was else replace(part, incarnation=0) for part, was in pairs]
    return _assignment(program, [*stay], before.placement.generation, candidates, desired)


def _with_times(
    program: WantedProgram, candidates: Room, desired: Desired, observed: Observed, now: float
) -> WantedProgram:
    """The same program, with since when it has lost runners, or would be better placed elsewhere."""
    if program.assignment is None:
        return program
    lost = lost_parts(program.assignment, desired, observed, now)
    _, halted = why_halted(program.program, program.assignment, observed)
    generation = program.assignment.placement.generation
    halted = halted or len(program.voids_of(generation)) < len(program.voids)
    room = not lost and not halted and has_more_room(program.assignment, candidates)
    times = (
        _since(program.lost_since, bool(lost), gone_since(lost, observed, now)),
        _since(program.room_since, room, now),
        _since(program.halted_since, halted, now),
    )
    if times == (program.lost_since, program.room_since, program.halted_since):
        return program
    return replace(program, lost_since=times[0], room_since=times[1], halted_since=times[2])


def _since(before: float | None, is_so: bool, now: float) -> float | None:
    if not is_so:
        return None
    return now if before is None else before


def _adopted(
    program: WantedProgram,
    candidates: Room,
    hosts: list[str],
    desired: Desired,
    observed: Observed,
    now: float,
) -> WantedProgram:
    """The program where it runs already: an earlier scheduler has placed it, and data went on flowing without one. If
    not all of it is heard of in time, the rest is placed anew. `hosts`: the runners that report any of it."""
    nodes, sequencers = _heard_of(program.program, hosts, desired, observed, now)
    own = desired.scheduler * INCARNATIONS_PER_SCHEDULER
    generation = max((each for each in [*nodes, *sequencers] if each <= own), default=-1)
    if generation < 0:
        return program
    shards = len(program.shard_map.nodes)
    its_nodes, its_sequencer = nodes.get(generation, {}), sequencers.get(generation)
    parts = [its_nodes.get(shard) for shard in range(shards)]
    parts.append(its_sequencer[0] if its_sequencer is not None else None)
    waited = now - program.since >= desired.options.regain_seconds
    if None in parts and not (waited and candidates):
        return program
    assignment = _assignment(program, parts, generation, candidates, desired)
    return replace(program, assignment=assignment)


def _hosting(observed: Observed) -> dict[str, list[str]]:
    """The runners that report a part of a program, by program."""
    hosts: dict[str, list[str]] = {}
    for name, seen in observed.runners.items():
        for program in seen.programs():
            hosts.setdefault(program, []).append(name)
    return hosts


def _heard_of(
    program: str, hosts: list[str], desired: Desired, observed: Observed, now: float
) -> tuple[dict[int, dict[int, Part]], dict[int, tuple[Part, str]]]:
    """The parts of a program that runners report, by generation: nodes by shard, and the sequencer with its inbox. Of
    several incarnations, the newest."""
    nodes: dict[int, dict[int, Part]] = {}
    sequencers: dict[int, tuple[Part, str]] = {}
    for name in sorted(hosts):
        seen = observed.runners[name]
        wanted, report = desired.runners.get(name), seen.report
        if (
            wanted is None
            or wanted.incarnation != report.incarnation
            or is_silent(seen, desired, observed, now)
        ):
            continue
        for node in report.nodes:
            its = nodes.setdefault(node.generation, {})
            if node.program == program and _is_newer(node.incarnation, its.get(node.shard)):
                its[node.shard] = Part(report.machine, name, report.incarnation, node.incarnation)
        for status in report.sequencers:
            known = sequencers.get(status.generation)
            if status.program == program and _is_newer(status.incarnation, known[0] if known else None):
                part = Part(report.machine, name, report.incarnation, status.incarnation)
                sequencers[status.generation] = (part, status.nodes_inbox)
    return {generation: its for generation, its in nodes.items() if its}, sequencers


def _is_newer(incarnation: int, known: Part | None) -> bool:
    return known is None or incarnation > known.incarnation


def _shall_be_placed(
    program: WantedProgram,
    candidates: Room,
    hosted: bool,
    desired: Desired,
    observed: Observed,
    now: float,
) -> bool:
    """Whether the time has come to place a program, or to place parts of it anew."""
    options = desired.options
    if program.assignment is None:
        if hosted and now - program.since < options.regain_seconds:
            return False  # an earlier scheduler has placed it: more of it may be heard of
        return len(candidates) >= desired.machines or now - program.since >= options.patience_seconds
    if program.assignment.placement.shard_map != program.shard_map or _drained_runners(program, desired):
        return bool(candidates)
    if stuck_parts(program.program, program.assignment, observed) and program.halted_since is None:
        return True
    if program.lost_since is not None:
        had = len(program.assignment.runners())
        return len(candidates) >= had or now - program.lost_since >= options.regain_seconds
    if program.halted_since is not None:
        return now - program.halted_since >= options.regain_seconds
    return program.room_since is not None and now - program.room_since >= options.settle_seconds


def _assigned(
    program: WantedProgram, candidates: Room, desired: Desired, observed: Observed, now: float
) -> Assignment:
    """Where the parts of a program shall be now. Who runs well stays: a lost part is placed on the runner that ranks
    first, and where there is more room, only what has too little moves. The generation stays, too, unless the program
    begins for the first time or by another shard map, or has halted so that only a new one helps."""
    before = program.assignment
    shards = len(program.shard_map.nodes)
    if before is None:
        return _assignment(program, [None] * (shards + 1), desired.incarnation + 1, candidates, desired)
    parts: list[Part | None] = [*before.nodes, before.sequencer]
    lost = [*lost_parts(before, desired, observed, now), *_drained_runners(program, desired)]
    if program.halted_since is not None or before.placement.shard_map != program.shard_map:
        by_name = dict(zip(before.placement.shard_map.nodes, before.nodes, strict=True))
        known = [*(by_name.get(name) for name in program.shard_map.nodes), before.sequencer]
        here = [candidates.of(part.runner) if part is not None else None for part in known]
        kept = [_part_on(each, 0) if each is not None else None for each in here]
        return _assignment(program, kept, desired.incarnation + 1, candidates, desired, new_incarnations=True)
    stuck = [parts[shard] for shard in stuck_parts(program.program, before, observed)]
    if stuck and not lost:
        stay = [None if part in stuck else part for part in parts]
        held_up = frozenset(part.runner for part in stuck if part is not None)
        candidates = candidates.without(held_up) or candidates
    elif lost:
        stay = [part if part is not None and part.runner not in lost else None for part in parts]
    else:
        stay = [
            None if moves else part for part, moves in zip(parts, moving(before, candidates), strict=True)
        ]
    return _assignment(program, stay, before.placement.generation, candidates, desired)


def _assignment(
    program: WantedProgram,
    parts: list[Part | None],
    generation: int,
    candidates: Room,
    desired: Desired,
    *,
    new_incarnations: bool = False,
) -> Assignment:
    """The assignment with these parts, the sequencer last; those that are None go to the runners that rank first, in
    new incarnations, and those of incarnation 0 get one, too. Its placement has the newest incarnation of all, see
    `_with_assignment`."""
    change = Counter(part.runner for part in parts if part is not None)
    change.subtract(parts_of(program.assignment))
    missing = sum(part is None for part in parts)
    placed = iter(candidates.place(missing, change) if missing else [])
    incarnation = max(desired.incarnation, generation)
    decided: list[Part] = []
    for part in parts:
        if part is None or new_incarnations or not part.incarnation:
            incarnation += 1
            part = replace(part or _part_on(next(placed), 0), incarnation=incarnation)
        decided.append(part)
    nodes, sequencer = tuple(decided[:-1]), decided[-1]
    placement = Placement(
        scheduler=desired.scheduler,
        program=program.program,
        version=incarnation + 1,
        generation=generation,
        shard_map=program.shard_map,
        inboxes=tuple(inbox_of(desired.system, part) for part in nodes),
        clients_inbox=sequencer_clients_inbox(desired.system, program.program),
        nodes_inbox=sequencer_nodes_inbox(desired.system, program.program, sequencer.incarnation),
    )
    return Assignment(nodes, sequencer, placement, program.graph)


def _drained_runners(program: WantedProgram, desired: Desired) -> list[str]:
    """The runners with parts of a program whose machines shall run nothing any more."""
    if program.assignment is None:
        return []
    return [part.runner for part in program.assignment.runners() if desired.is_retired(part.machine)]


def _part_on(candidate: Candidate, incarnation: int) -> Part:
    return Part(candidate.machine, candidate.runner, candidate.incarnation, incarnation)


def _with_assignment(program: WantedProgram, assignment: Assignment, desired: Desired) -> Desired:
    """With the program there; the incarnations that the assignment took are given out."""
    program = replace(
        program, assignment=assignment, lost_since=None, room_since=None, halted_since=None, preparation=None
    )
    incarnation = max(desired.incarnation, assignment.placement.version)
    return replace(with_program(desired, program), incarnation=incarnation)


def with_program(desired: Desired, program: WantedProgram) -> Desired:
    """With one more program."""
    return replace(desired, programs={**desired.programs, program.program: program})


def without_program(desired: Desired, program: str, now: float) -> Desired:
    """With a removal in place of the program. The removal is for all incarnations given out so far, so that a
    command that comes late can neither bring back what is removed nor remove what is started later."""
    wanted, before = desired.programs.get(program), desired.removals.get(program)
    assignment = wanted.assignment if wanted is not None else None
    parts = tuple(assignment.runners()) if assignment is not None else before.parts if before else ()
    removal = Removal(program, desired.incarnation, now, parts)
    programs = {name: other for name, other in desired.programs.items() if name != program}
    return replace(desired, programs=programs, removals={**desired.removals, program: removal})


def is_gone(removal: Removal, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether every runner that had a part, or reports one, has either ended, or fallen silent, or reported
    since without it."""
    return not holders(removal, desired, observed, now)


def holders(removal: Removal, desired: Desired, observed: Observed, now: float) -> list[Part]:
    """Runners that may still host a part of a removed program."""
    holders = []
    for part in removal.parts:
        if has_died(observed, part.machine, part.runner, part.runner_incarnation):
            continue
        seen = observed.runners.get(part.runner)
        heard = removal.since if seen is None else max(seen.at, removal.since)
        heard = max(heard, observed.listening_since)
        if now - heard < desired.options.silence_seconds and (seen is None or seen.at <= removal.since):
            holders.append(part)
    for runner, seen in observed.runners.items():
        if is_silent(seen, desired, observed, now) or not _hosts(seen, removal):
            continue
        incarnation = seen.report.incarnation
        if not has_died(observed, seen.report.machine, runner, incarnation):
            holders.append(Part(seen.report.machine, runner, incarnation, 0))
    return list({part.runner: part for part in holders}.values())


def _hosts(runner: RunnerSeen, removal: Removal) -> bool:
    return any(
        program == removal.program and incarnation <= removal.incarnation
        for program, incarnation in hosted(runner)
    )


def hosted(runner: RunnerSeen) -> Iterator[tuple[str, int]]:
    """Every part that a runner reports: its program and its incarnation."""
    for (program, _), node in runner.nodes.items():
        yield program, node.incarnation
    for program, sequencer in runner.sequencers.items():
        yield program, sequencer.status.incarnation
