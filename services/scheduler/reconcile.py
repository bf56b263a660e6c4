"""From what is observed to what is desired, in two pure steps.

`decide` refines what is desired by what only can be decided when something was observed: which incarnation of
a runner a machine shall run, where the parts of a program go, and that a removed program is gone. `reconcile`
then compares and says what has to be done *now*. It keeps no memory of what was done before: as long as the
reports do not show it done, the same actions come out again, with the same incarnations, and repeating one
does no harm (a receiver that runs this incarnation or a later one ignores it). How often an action is really
repeated is for `Repeats` to say.

Both look at every machine and part once. They are meant to be called when something changed, and in bundles,
not for each report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from dist_zero_common.broker.topology import runner_inbox, sequencer_clients_inbox, sequencer_nodes_inbox
from dist_zero_common.protocol.messages import (
    DropProgram,
    HostNode,
    HostSequencer,
    Message,
    Placement,
    ProgramState,
    RunnerStatus,
    StartRunner,
)
from services.scheduler.placement import Candidate, feasible, has_more_room, less_own, moving, place
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Assignment,
    Desired,
    Observed,
    Part,
    Removal,
    RunnerSeen,
    WantedProgram,
    WantedRunner,
    gone_since,
    has_died,
    inbox_of,
    is_silent,
    lost_parts,
    progress_of,
    runner_name,
    why_halted,
)
from services.scheduler.stuck import stuck_parts

HUNG_SECONDS = 120.0
"""A runner that has reported nothing for so long, while its agent says that it lives, is ended and started anew: longer
than anything that a runner does in one go, and than slow reports are waited for."""
RESTART_SECONDS = 10.0
"""A runner that ends at once after each start is started again no more often than this."""
STUCK_SECONDS = 5.0
"""After so long without a finished epoch, while there are some to finish, a program's placement is told
again."""
FORGET_SECONDS = 600.0
"""A machine without parts that is silent for so long is no machine any more."""
REPEAT_SECONDS_MIN, REPEAT_SECONDS_MAX = 1.0, 10.0

ActionKey = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a command. `key` is the same for the same command, as long as it is outstanding."""

    key: ActionKey
    inbox: str
    message: Message


@dataclass(frozen=True, slots=True)
class SpawnMachine:
    """Obtain this machine."""

    machine: str


@dataclass(frozen=True, slots=True)
class ReturnMachine:
    """Give this machine back; nothing runs on it."""

    machine: str


# ---- decide ------------------------------------------------------------------------------------------------


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
    a new machine."""
    used = {
        part.machine
        for program in desired.programs.values()
        if program.assignment is not None
        for part in program.assignment.runners()
    }
    gone = [
        name
        for name, seen in observed.machines.items()
        if observed.silence(seen, now) >= FORGET_SECONDS and name not in used
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
    for known in list(desired.programs.values()):
        program = _with_times(known, candidates, desired, observed, now)
        if program.assignment is None and program.program not in desired.removals:
            program = _adopted(program, candidates, desired, observed, now)
        if program is not known and program.assignment is not known.assignment:
            assert program.assignment is not None
            desired = _with_assignment(program, program.assignment, desired)
        elif program is not known:
            desired = with_program(desired, program)
        if candidates and _shall_be_placed(program, candidates, desired, observed, now):
            desired = _with_assignment(
                program, _assigned(program, candidates, desired, observed, now), desired
            )
            candidates = feasible(desired, observed, now)
    candidates = feasible(desired, observed, now)
    for known in list(desired.programs.values()):  # of those that were placed just now, too
        program = _with_times(known, candidates, desired, observed, now)
        desired = desired if program is known else with_program(desired, program)
    return desired


def _with_times(
    program: WantedProgram, candidates: list[Candidate], desired: Desired, observed: Observed, now: float
) -> WantedProgram:
    """The same program, with since when it has lost runners, or would be better placed elsewhere."""
    if program.assignment is None:
        return program
    lost = lost_parts(program.assignment, desired, observed, now)
    _, halted = why_halted(program.program, program.assignment, observed)
    generation = program.assignment.placement.generation
    halted = halted or len(program.voids_of(generation)) < len(program.voids)
    room = not lost and not halted and has_more_room(program, program.assignment, candidates)
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
    program: WantedProgram, candidates: list[Candidate], desired: Desired, observed: Observed, now: float
) -> WantedProgram:
    """The program where it runs already: an earlier scheduler has placed it, and data went on flowing without one. If
    not all of it is heard of in time, the rest is placed anew."""
    nodes, sequencers = _heard_of(program.program, desired, observed, now)
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


def _heard_of(
    program: str, desired: Desired, observed: Observed, now: float
) -> tuple[dict[int, dict[int, Part]], dict[int, tuple[Part, str]]]:
    """The parts of a program that runners report, by generation: nodes by shard, and the sequencer with its inbox. Of
    several incarnations, the newest."""
    nodes: dict[int, dict[int, Part]] = {}
    sequencers: dict[int, tuple[Part, str]] = {}
    for name, seen in sorted(observed.runners.items()):
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
    program: WantedProgram, candidates: list[Candidate], desired: Desired, observed: Observed, now: float
) -> bool:
    """Whether the time has come to place a program, or to place parts of it anew."""
    options = desired.options
    if program.assignment is None:
        if now - program.since < options.regain_seconds and any(
            program.program in seen.programs() for seen in observed.runners.values()
        ):
            return False  # an earlier scheduler has placed it: more of it may be heard of
        return len(candidates) >= options.machines or now - program.since >= options.patience_seconds
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
    program: WantedProgram, candidates: list[Candidate], desired: Desired, observed: Observed, now: float
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
        here = {each.runner: _part_on(each, 0) for each in candidates}
        by_name = dict(zip(before.placement.shard_map.nodes, before.nodes, strict=True))
        known = [*(by_name.get(name) for name in program.shard_map.nodes), before.sequencer]
        kept = [here.get(part.runner) if part is not None else None for part in known]
        return _assignment(program, kept, desired.incarnation + 1, candidates, desired, new_incarnations=True)
    stuck = [parts[shard] for shard in stuck_parts(program.program, before, observed)]
    if stuck and not lost:
        stay = [None if part in stuck else part for part in parts]
        held_up = frozenset(part.runner for part in stuck if part is not None)
        candidates = [each for each in candidates if each.runner not in held_up] or candidates
    elif lost:
        stay = [part if part is not None and part.runner not in lost else None for part in parts]
    else:
        stay = [
            None if moves else part
            for part, moves in zip(parts, moving(before, program, candidates), strict=True)
        ]
    return _assignment(program, stay, before.placement.generation, candidates, desired)


def _assignment(
    program: WantedProgram,
    parts: list[Part | None],
    generation: int,
    candidates: list[Candidate],
    desired: Desired,
    *,
    new_incarnations: bool = False,
) -> Assignment:
    """The assignment with these parts, the sequencer last; those that are None go to the runners that rank first, in
    new incarnations. Its placement has the newest incarnation of all, see `_with_assignment`."""
    own = Counter(part.runner for part in parts if part is not None)
    room = [replace(each, parts=each.parts + own[each.runner]) for each in less_own(candidates, program)]
    missing = sum(part is None for part in parts)
    placed = iter(place(room, missing) if missing else [])
    incarnation = max(desired.incarnation, generation)
    decided: list[Part] = []
    for part in parts:
        if part is None or new_incarnations:
            incarnation += 1
        if part is None:
            part = _part_on(next(placed), incarnation)
        elif new_incarnations:
            part = replace(part, incarnation=incarnation)
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
    return Assignment(nodes, sequencer, placement)


def _drained_runners(program: WantedProgram, desired: Desired) -> list[str]:
    """The runners with parts of a program whose machines shall run nothing any more."""
    if program.assignment is None:
        return []
    return [part.runner for part in program.assignment.runners() if part.machine in desired.drained]


def _part_on(candidate: Candidate, incarnation: int) -> Part:
    return Part(candidate.machine, candidate.runner, candidate.incarnation, incarnation)


def _with_assignment(program: WantedProgram, assignment: Assignment, desired: Desired) -> Desired:
    """With the program there; the incarnations that the assignment took are given out."""
    program = replace(program, assignment=assignment, lost_since=None, room_since=None, halted_since=None)
    incarnation = max(desired.incarnation, assignment.placement.version)
    return replace(with_program(desired, program), incarnation=incarnation)


def with_program(desired: Desired, program: WantedProgram) -> Desired:
    """With one more program."""
    return replace(desired, programs={**desired.programs, program.program: program})


def without_program(desired: Desired, program: str, now: float) -> Desired:
    """With a removal in place of the program. The removal is for all incarnations given out so far, so that a
    command that comes late can neither bring back what is removed nor remove what is started later."""
    wanted = desired.programs.get(program)
    assignment = wanted.assignment if wanted is not None else None
    parts = tuple(assignment.runners()) if assignment is not None else ()
    removal = Removal(program, desired.incarnation, now, parts)
    programs = {name: other for name, other in desired.programs.items() if name != program}
    return replace(desired, programs=programs, removals={**desired.removals, program: removal})


def is_gone(removal: Removal, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether every runner that had a part, or reports one, has either ended, or fallen silent, or reported
    since without it."""
    return not _holders(removal, desired, observed, now)


def _holders(removal: Removal, desired: Desired, observed: Observed, now: float) -> list[Part]:
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
        for program, incarnation in _hosted(runner)
    )


def _hosted(runner: RunnerSeen) -> Iterator[tuple[str, int]]:
    """Every part that a runner reports: its program and its incarnation."""
    for (program, _), node in runner.nodes.items():
        yield program, node.incarnation
    for program, sequencer in runner.sequencers.items():
        yield program, sequencer.status.incarnation


# ---- reconcile ---------------------------------------------------------------------------------------------


def reconcile(desired: Desired, observed: Observed, now: float) -> list[Send]:
    """The commands that are outstanding."""
    commands = list(_start_runners(desired, observed, now))
    for program in desired.programs.values():
        commands += _host_program(program, desired, observed, now)
    for removal in desired.removals.values():
        for part in _holders(removal, desired, observed, now):
            commands.append(_drop(desired, part, removal.program, removal.incarnation))
    commands += _drop_strays(desired, observed, now)
    return list({command.key: command for command in commands}.values())


def reconcile_machines(desired: Desired, spawned: Collection[str]) -> list[SpawnMachine | ReturnMachine]:
    """The machines to obtain, of those called m1 to m<count>, and the ones to give back: what the spawner has
    beyond them and no program uses."""
    wanted = [f"m{number}" for number in range(1, desired.options.machines + 1)]
    used = {
        part.machine
        for program in desired.programs.values()
        if program.assignment is not None
        for part in program.assignment.runners()
    }
    there, kept = frozenset(spawned), used.union(wanted)
    return [
        *(SpawnMachine(machine) for machine in wanted if machine not in there),
        *(ReturnMachine(machine) for machine in sorted(there) if machine not in kept),
    ]


def _start_runners(desired: Desired, observed: Observed, now: float) -> Iterator[Send]:
    for runner, wanted in desired.runners.items():
        machine = observed.machines[wanted.machine]
        status = machine.runners.get(runner)
        if is_silent(machine, desired, observed, now):
            continue
        if status is None or status.incarnation < wanted.incarnation:
            yield Send(
                ("start", runner, wanted.incarnation),
                machine.report.inbox,
                StartRunner(desired.scheduler, runner, wanted.incarnation, wanted.agent),
            )


def _host_program(program: WantedProgram, desired: Desired, observed: Observed, now: float) -> Iterator[Send]:
    """First all nodes, then the sequencer. Where everything is goes with either, and again while nothing
    moves."""
    assignment = program.assignment
    if assignment is None:
        return
    progress = progress_of(program, desired, observed, now)
    if progress.state is ProgramState.HALTED or program.lost_since is not None:
        return
    for shard in progress.missing:
        yield _host_node(program, assignment, shard, desired)
    if not progress.missing and progress.sequencer_missing:
        yield _host_sequencer(program, assignment, desired)
    stuck = progress.moved_at is not None and now - progress.moved_at >= STUCK_SECONDS
    if progress.state is ProgramState.STARTING or stuck:
        for part in assignment.runners():
            yield _tell_placement(desired, assignment, part)


def _host_node(program: WantedProgram, assignment: Assignment, shard: int, desired: Desired) -> Send:
    """By the map of the assignment: another one that is wanted by now is for the next generation."""
    part = assignment.nodes[shard]
    command = HostNode(
        desired.scheduler,
        program.program,
        assignment.placement.generation,
        assignment.placement.shard_map,
        shard,
        part.incarnation,
        program.graph,
    )
    return Send(("node", program.program, shard, part.incarnation), inbox_of(desired.system, part), command)


def _host_sequencer(program: WantedProgram, assignment: Assignment, desired: Desired) -> Send:
    part = assignment.sequencer
    command = HostSequencer(
        desired.scheduler,
        program.program,
        part.incarnation,
        assignment.placement.shard_map,
        assignment.placement.inboxes,
        program.graph,
        assignment.placement.generation,
        program.voids_of(assignment.placement.generation),
    )
    return Send(("sequencer", program.program, part.incarnation), inbox_of(desired.system, part), command)


def _drop(desired: Desired, part: Part, program: str, incarnation: int) -> Send:
    return Send(
        ("drop", program, part.runner, part.runner_incarnation, incarnation),
        inbox_of(desired.system, part),
        DropProgram(desired.scheduler, program, incarnation),
    )


def _drop_strays(desired: Desired, observed: Observed, now: float) -> Iterator[Send]:
    """For parts that nobody wants any more, or not there. Of programs that are not wanted, only what this scheduler has
    given out: of those of an earlier one it knows too little to stop them."""
    own = desired.scheduler * INCARNATIONS_PER_SCHEDULER
    for runner, seen in observed.runners.items():
        if is_silent(seen, desired, observed, now):
            continue
        part = Part(seen.report.machine, runner, seen.report.incarnation, 0)
        strays: dict[str, int] = {}
        for program, incarnation in _hosted(seen):
            if program not in desired.programs and program not in desired.removals and incarnation > own:
                strays[program] = max(incarnation, strays.get(program, 0))
        for program, incarnation in strays.items():
            yield _drop(desired, part, program, incarnation)
        for wanted in desired.programs.values():
            if wanted.assignment is not None and _has_strays(seen, wanted.program, wanted.assignment):
                yield _tell_placement(desired, wanted.assignment, part)


def _has_strays(seen: RunnerSeen, program: str, assignment: Assignment) -> bool:
    """Whether a runner has parts of a program that by now are elsewhere; a placement tells it so."""
    for (of, shard), node in seen.nodes.items():
        if of == program and (
            node.generation < assignment.placement.generation
            or (shard < len(assignment.nodes) and node.incarnation < assignment.nodes[shard].incarnation)
        ):
            return True
    sequencer = seen.sequencers.get(program)
    return (
        sequencer is not None
        and not sequencer.status.halted
        and sequencer.status.incarnation < assignment.sequencer.incarnation
    )


def _tell_placement(desired: Desired, assignment: Assignment, part: Part) -> Send:
    placement = assignment.placement
    key = ("placement", placement.program, placement.version, part.runner)
    return Send(key, inbox_of(desired.system, part), placement)


class Repeats:
    """Which of the outstanding commands to send now: a new one at once, an old one after 1, 2, 4 … seconds
    again, at most 10. Slow is not lost: the more often a command was repeated, the longer its effect is given
    to show."""

    def __init__(self) -> None:
        self._due: dict[ActionKey, tuple[float, float]] = {}

    def due(self, commands: list[Send], now: float) -> list[Send]:
        """Those to send now. Commands that are no longer outstanding are forgotten."""
        before, self._due = self._due, {}
        sent = []
        for command in commands:
            at, pause = before.get(command.key, (now, REPEAT_SECONDS_MIN))
            if now >= at:
                sent.append(command)
                at, pause = now + pause, min(2 * pause, REPEAT_SECONDS_MAX)
            self._due[command.key] = (at, pause)
        return sent
