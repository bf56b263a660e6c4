"""From what is desired and observed to what has to be done now. Pure.

`decide` (`deciding.py`) refines what is desired; `reconcile` compares. It keeps no memory of what was done before: as
long as the reports do not show it done, the same actions come out again, with the same incarnations, and repeating one
does no harm (a receiver that runs this incarnation or a later one ignores it). How often an action is really
repeated is for `Repeats` to say.

Both look at every machine and part once. They are meant to be called when something changed, and in bundles,
not for each report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count, islice

from dist_zero.shards import even_map
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    PrepareNodes,
    StartRunner,
)
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.requests import ProgramState
from services.scheduler.deciding import holders, hosted
from services.scheduler.hosts import ReturnHost, SpawnHost
from services.scheduler.preparing import is_prepared, prepared_parts
from services.scheduler.spawners.base import Role, host_name, number_of, role_of
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Assignment,
    Desired,
    Observed,
    Part,
    RunnerSeen,
    WantedProgram,
    inbox_of,
    is_silent,
    progress_of,
    sequencer_of,
)

STUCK_SECONDS = 5.0
"""After so long without a finished epoch, while there are some to finish, a program's placement is told
again."""
REPEAT_SECONDS_MIN, REPEAT_SECONDS_MAX = 1.0, 10.0

ActionKey = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a command. `key` is the same for the same command, as long as it is outstanding."""

    key: ActionKey
    inbox: str
    message: Message


def reconcile(desired: Desired, observed: Observed, now: float) -> list[Send]:
    """The commands that are outstanding."""
    commands = list(_start_runners(desired, observed, now))
    for program in desired.programs.values():
        commands += _host_program(program, desired, observed, now)
    for removal in desired.removals.values():
        for part in holders(removal, desired, observed, now):
            commands.append(_drop(desired, part, removal.program, removal.incarnation))
    commands += _drop_strays(desired, observed, now)
    return list({command.key: command for command in commands}.values())


def wanted_hosts(desired: Desired, spawned: Collection[str]) -> list[str]:
    """The spawner's hosts that there shall be: machines m1 to m<count>, and where schedulers are somebody's business as
    many hosts of theirs. Of those it does not matter which: the one on which this scheduler runs stays for as long as
    it leads, then those that are there, and what is missing has the lowest numbers that are free."""
    machines = [host_name(Role.MACHINE, number) for number in range(1, desired.machines + 1)]
    if desired.schedulers is None:
        return machines
    own = desired.options.host
    there = {host for host in (*spawned, own) if role_of(host) is Role.SCHEDULER}
    schedulers = sorted(there, key=lambda host: (host != own, number_of(host)))[: desired.schedulers]
    free = (name for name in (host_name(Role.SCHEDULER, number) for number in count(1)) if name not in there)
    return [*machines, *schedulers, *islice(free, desired.schedulers - len(schedulers))]


def reconcile_machines(desired: Desired, spawned: Collection[str]) -> list[SpawnHost | ReturnHost]:
    """The hosts to obtain, and the ones to give back: what the spawner has beyond those that are wanted and no program
    uses. Never the host on which this scheduler itself runs; and what is none of its business stays."""
    wanted, own = wanted_hosts(desired, spawned), desired.options.host
    used = {
        part.machine
        for program in desired.programs.values()
        if program.assignment is not None
        for part in program.assignment.runners()
    }
    there, kept = frozenset(spawned), used.union(wanted, [own])
    managed = {Role.MACHINE} if desired.schedulers is None else {Role.MACHINE, Role.SCHEDULER}
    return [
        *(SpawnHost(host) for host in wanted if host not in there and host != own),
        *(ReturnHost(host) for host in sorted(there) if host not in kept and role_of(host) in managed),
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
    yield from _prepare(program, assignment, desired, observed)
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
        assignment.graph,
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
        assignment.graph,
        assignment.placement.generation,
        program.voids_of(assignment.placement.generation),
    )
    return Send(("sequencer", program.program, part.incarnation), inbox_of(desired.system, part), command)


def _prepare(
    program: WantedProgram, assignment: Assignment, desired: Desired, observed: Observed
) -> Iterator[Send]:
    """What leads to the placement that is planned."""
    preparation = program.preparation
    if preparation is None:
        return
    parts: dict[str, list[tuple[int, Part]]] = {}
    for shard, part in prepared_parts(preparation, program):
        parts.setdefault(part.runner, []).append((shard, part))
    for runner, its in parts.items():
        if not all(is_prepared(preparation, program.program, *each, observed) for each in its):
            prepare = PrepareNodes(
                desired.scheduler,
                program.program,
                preparation.version,
                assignment.placement.generation,
                preparation.planned.placement.shard_map,
                tuple(shard for shard, _ in its),
                program.graph,
            )
            key = ("prepare", program.program, preparation.version, runner)
            yield Send(key, inbox_of(desired.system, its[0][1]), prepare)
    sequencer = sequencer_of(program.program, assignment.sequencer, observed)
    if preparation.ends_since is not None and (sequencer is None or not sequencer.status.ends):
        part = assignment.sequencer
        end = EndGeneration(desired.scheduler, program.program, part.incarnation)
        yield Send(("end", program.program, part.incarnation), inbox_of(desired.system, part), end)


def _drop(desired: Desired, part: Part, program: str, incarnation: int) -> Send:
    return Send(
        ("drop", program, part.runner, part.runner_incarnation, incarnation),
        inbox_of(desired.system, part),
        DropProgram(desired.scheduler, program, incarnation),
    )


def _drop_strays(desired: Desired, observed: Observed, now: float) -> Iterator[Send]:
    """For parts that nobody wants any more, or not there. Of programs that are not wanted, only what this scheduler has
    given out: of those of an earlier one it knows too little to stop them. Nothing that sleeps is to run, whoever has
    started it."""
    own = desired.scheduler * INCARNATIONS_PER_SCHEDULER
    for runner, seen in observed.runners.items():
        if is_silent(seen, desired, observed, now):
            continue
        part = Part(seen.report.machine, runner, seen.report.incarnation, 0)
        strays: dict[str, int] = {}
        for program, incarnation in hosted(seen):
            wanted = desired.programs.get(program)
            unwanted = wanted.asleep if wanted is not None else incarnation > own
            if unwanted and program not in desired.removals:
                strays[program] = max(incarnation, strays.get(program, 0))
        for program, incarnation in strays.items():
            yield _drop(desired, part, program, incarnation)
        yield from _drop_prepared(seen, part, desired)
        for program in seen.programs():
            wanted = desired.programs.get(program)
            if wanted is None or wanted.assignment is None:
                continue
            if _has_strays(seen, program, wanted.assignment):
                yield _tell_placement(desired, wanted.assignment, part)


def _drop_prepared(seen: RunnerSeen, part: Part, desired: Desired) -> Iterator[Send]:
    """For nodes that are prepared, or were by an earlier scheduler, and are not to come any more."""
    versions: dict[str, int] = {}
    for prepared in seen.report.prepared:
        versions[prepared.program] = max(prepared.version, versions.get(prepared.program, 0))
    for program, version in versions.items():
        wanted = desired.programs.get(program)
        if wanted is None or (wanted.preparation is None and _is_to_be_placed(wanted)):
            continue  # nothing is decided on it yet, or it is being removed with all it has
        if wanted.preparation is not None:
            parts = prepared_parts(wanted.preparation, wanted)
            if part.runner in [to.runner for _, to in parts]:
                continue  # told what is to be prepared instead
        forget = PrepareNodes(desired.scheduler, program, version, 0, even_map(1, ("n1",)), (), b"")
        yield Send(("forget", program, version, part.runner), inbox_of(desired.system, part), forget)


def _is_to_be_placed(program: WantedProgram) -> bool:
    """Whether another generation is wished for."""
    return program.assignment is None or program.assignment.placement.shard_map != program.shard_map


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
