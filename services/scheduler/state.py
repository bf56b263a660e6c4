"""What the scheduler wants, and what it has heard: plain data, and the functions that take in reports.

*Desired* is frozen and replaced as a whole. It holds what was asked for (machines, programs) and what was
decided for it (which incarnation of a runner, which part of a program on which runner), so that comparing it
with *observed* is all that `reconcile` has to do. *Observed* holds the newest report of every machine and
runner; it is changed in place, one entry per report, because copying it for each of a thousand heartbeats a
second would cost more than all the rest.

Reports may come twice, late and in another order. Within one incarnation of an agent a runner only goes from
absent to alive to dead and from there to its next incarnation, so a report that would lead backwards is old,
whatever the order it came in, and is refused like one of an earlier incarnation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dist_zero_common.broker.topology import runner_inbox
from dist_zero_common.protocol.messages.control import (
    MachineReport,
    NodeStatus,
    Placement,
    RunnerReport,
    RunnerStatus,
    SequencerStatus,
)
from dist_zero_common.protocol.messages.pieces import ShardMap, TransactionPlace
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits, ProgramState
from dist_zero_common.protocol.stored import (
    RecordedSplit,
)
from services.scheduler.growth import GrowthOptions
from services.scheduler.hosts import HostOptions
from services.scheduler.spawners.base import Role

INCARNATIONS_PER_SCHEDULER = 1 << 20
"""A scheduler with number n gives out incarnations from n × this + 1 on, so they grow over its restarts."""


SILENCE_SECONDS_MAX = 120.0
"""However slow somebody is: after so long it is silent."""
GAP_KEPT = 0.99
"""How much of the longest gap between two reports is remembered with each further report."""


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """`machines`: how many the spawner shall keep. Seconds: a machine or runner not heard of for
    `silence_seconds` is silent, and nothing is placed there; a new program waits for all machines, but no longer
    than `patience_seconds`; one that lost a runner waits for `regain_seconds` at most, in which that may be back; and
    one that has more room elsewhere moves there when that has been so for `settle_seconds`, because whoever brings one
    machine may be bringing more. Nodes that are to come have `prepare_seconds` to load their state beforehand, and a
    generation `end_seconds` to come to its end; then it goes on without. `growth`: how nodes and machines follow the
    load. `keeps_programs`: whether the next scheduler on the same store runs the programs that this one was told to
    run, without being told again.

    `schedulers`: how many hosts that run a scheduler the spawner shall keep; None: they are nobody's business here.
    `host`: the host on which this scheduler itself runs, which it never gives back; empty: none of the spawner's.
    `hosts`: what is done about hosts that do not come, or fall silent. `unobtainable`: of what its spawner cannot
    obtain or replace, what a person does who wants another number of that. `store`: where the store is, for people and
    for machines that join."""

    machines: int = 1
    schedulers: int | None = None
    host: str = ""
    hosts: HostOptions = field(default_factory=HostOptions)
    unobtainable: Mapping[Role, str] = field(default_factory=dict)
    store: str = ""
    silence_seconds: float = 10.0
    patience_seconds: float = 30.0
    regain_seconds: float = 3.0
    settle_seconds: float = 5.0
    prepare_seconds: float = 600.0
    end_seconds: float = 60.0
    growth: GrowthOptions = field(default_factory=GrowthOptions)
    keeps_programs: bool = False


# ---- desired -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantedRunner:
    """The incarnation of a runner that shall run, since when, and the incarnation of the agent it was decided
    for."""

    machine: str
    incarnation: int
    agent: int
    since: float


@dataclass(frozen=True, slots=True)
class Part:
    """Where a node or sequencer is to run, and its own incarnation there."""

    machine: str
    runner: str
    runner_incarnation: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where all parts of a program run. `nodes[i]` is shard i. `graph`: the program that this generation runs."""

    nodes: tuple[Part, ...]
    sequencer: Part
    placement: Placement
    graph: bytes = b""

    def runners(self) -> list[Part]:
        """One part for each runner that has any, in the order of the shards."""
        return list({part.runner: part for part in (*self.nodes, self.sequencer)}.values())


@dataclass(frozen=True, slots=True)
class Preparation:
    """Where a program is to be placed when those of its nodes have loaded their state that come to another runner, or
    are new. `planned`: with incarnations that were never given out; `before`: the version of the placement that it was
    planned behind. `version`: its own, an incarnation. `ends_since`: since when the present generation shall come to
    its end."""

    planned: Assignment
    before: int
    version: int
    since: float
    ends_since: float | None = None


@dataclass(frozen=True, slots=True)
class VoidWanted:
    """A transaction to be voided by any generation later than `after`, the one that there was."""

    place: TransactionPlace
    after: int


@dataclass(frozen=True, slots=True)
class WantedProgram:
    """A program that shall run, by the shard map that is wanted now: as its base in the store has it, or as the next
    generation is to run it (`changing.py`); `fingerprint` is that of the program behind its change. `since` is when
    it was submitted. `lost_since` is since when it lacks a runner that has a part of it, `room_since` when it was found
    that it would be better placed elsewhere, `halted_since` when it was found halted so that a new generation helps;
    each is None when that is not so. `voids`: what people have asked to take out of it. `limits`, `tried` and `asleep`:
    see `RecordedProgram`. `preparation`: what has still to be loaded before it is placed anew."""

    program: str
    graph: bytes
    fingerprint: str
    shard_map: ShardMap
    since: float
    assignment: Assignment | None = None
    lost_since: float | None = None
    room_since: float | None = None
    halted_since: float | None = None
    voids: tuple[VoidWanted, ...] = ()
    limits: NodeLimits | None = None
    tried: tuple[RecordedSplit, ...] = ()
    asleep: bool = False
    preparation: Preparation | None = None

    def voids_of(self, generation: int) -> tuple[TransactionPlace, ...]:
        """What this generation has to void."""
        return tuple(each.place for each in self.voids if each.after < generation)


@dataclass(frozen=True, slots=True)
class Removal:
    """A program that shall be gone: of its parts, those up to `incarnation`. `parts` is where they were
    placed."""

    program: str
    incarnation: int
    since: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Desired:
    """What shall be. `scheduler` is the number under which this scheduler commands, `incarnation` the newest
    one it has given out."""

    system: str
    scheduler: int
    incarnation: int
    options: SchedulerOptions
    runners: Mapping[str, WantedRunner] = field(default_factory=dict)
    programs: Mapping[str, WantedProgram] = field(default_factory=dict)
    removals: Mapping[str, Removal] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    """Machines that shall run nothing any more, because somebody said so."""
    leaving: frozenset[str] = frozenset()
    """Machines that shall run nothing any more, because they are to be given back."""
    machines: int = 0
    """How many machines the spawner shall keep."""
    machine_limits: MachineLimits | None = None
    """Within which limits that number is automatic; None: it stays what it is."""
    machines_asked: bool = False
    """Whether somebody has asked for that number while this system was up, so that it outlives the scheduler."""
    schedulers: int | None = None
    """How many hosts with a scheduler the spawner shall keep; None: that is nobody's business here."""
    schedulers_asked: bool = False
    """As `machines_asked`."""

    def is_retired(self, machine: str) -> bool:
        """Whether a machine shall run nothing any more."""
        return machine in self.drained or machine in self.leaving


def nothing_desired(system: str, scheduler: int, options: SchedulerOptions) -> Desired:
    """What a scheduler wants when it starts: machines, and no program before somebody submits it."""
    incarnation = scheduler * INCARNATIONS_PER_SCHEDULER
    return Desired(
        system, scheduler, incarnation, options, machines=options.machines, schedulers=options.schedulers
    )


def runner_name(machine: str) -> str:
    """The runner of a machine; there is one per machine."""
    return f"{machine}-r1"


def inbox_of(system: str, part: Part) -> str:
    """Where the runner of a part listens."""
    return runner_inbox(system, part.runner, part.runner_incarnation)


# ---- observed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """The newest report of a machine's agent, and when it came. For `gap` see `_gap`."""

    report: MachineReport
    runners: Mapping[str, RunnerStatus]
    at: float
    gap: float


@dataclass(frozen=True, slots=True)
class SequencerSeen:
    """A sequencer's status; `moved_at` is when it last finished an epoch or had none to finish, `gap` the longest time
    that it took lately to finish one."""

    status: SequencerStatus
    moved_at: float
    gap: float = 0.0


SEQUENCER = -1
"""In place of a shard."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a part was at, and since when."""

    mark: tuple[int, ...]
    at: float


@dataclass(frozen=True, slots=True)
class RunnerSeen:
    """The newest report of a runner, by what it hosts, and when it came. For `gap` see `_gap`, for `moves`
    `stuck.py`."""

    report: RunnerReport
    nodes: Mapping[tuple[str, int], NodeStatus]
    sequencers: Mapping[str, SequencerSeen]
    at: float
    gap: float
    moves: Mapping[tuple[str, int, str], Moved] = field(default_factory=dict)

    def programs(self) -> list[str]:
        """The programs of which it hosts a part, each once."""
        return list(dict.fromkeys([*(program for program, _ in self.nodes), *self.sequencers]))


@dataclass(slots=True)
class Observed:
    """What was reported, by the names of machines and runners. `listening_since`: before that, whoever was silent may
    have spoken to deaf ears, because the scheduler slept or had no connection. `unread`: incarnations of runners that
    have died, by what the broker says (`unread.py`), and have not reported since."""

    machines: dict[str, MachineSeen] = field(default_factory=dict)
    runners: dict[str, RunnerSeen] = field(default_factory=dict)
    listening_since: float = 0.0
    unread: dict[str, int] = field(default_factory=dict)

    def silence(self, seen: MachineSeen | RunnerSeen, now: float) -> float:
        """For how many seconds nothing was heard that should have been."""
        return now - max(seen.at, self.listening_since)

    def is_silent(self, seen: MachineSeen | RunnerSeen, silence_seconds: float, now: float) -> bool:
        """Whether it was not heard of for so long that nothing is expected of it any more: for `silence_seconds`, or
        where reports have taken longer before, for twice as long as they took. Slow is not lost."""
        patience = max(silence_seconds, min(2.0 * seen.gap, SILENCE_SECONDS_MAX))
        return self.silence(seen, now) >= patience


class Heard(enum.Enum):
    """What a report was: `CHANGED` says something that matters to what runs where, `SAME` only that all goes
    on, `STALE` is older than what is known and was refused."""

    CHANGED = "changed"
    SAME = "same"
    STALE = "stale"


def hear_machine(observed: Observed, report: MachineReport, now: float) -> Heard:
    """Take in the report of a machine's agent."""
    runners = {status.runner: status for status in report.runners}
    known = observed.machines.get(report.machine)
    if known is not None and _leads_back(known, report.incarnation, runners):
        return Heard.STALE
    again = known if known is not None and known.report.incarnation == report.incarnation else None
    observed.machines[report.machine] = MachineSeen(report, runners, now, _gap(observed, again, now))
    return Heard.SAME if known is not None and known.report == report else Heard.CHANGED


def _leads_back(known: MachineSeen, incarnation: int, runners: Mapping[str, RunnerStatus]) -> bool:
    if incarnation != known.report.incarnation:
        return incarnation < known.report.incarnation
    for name, before in known.runners.items():
        after = runners.get(name)
        if after is None or (after.incarnation, not after.alive) < (before.incarnation, not before.alive):
            return True
    return False


def hear_runner(observed: Observed, report: RunnerReport, now: float) -> Heard:
    """Take in the report of a runner. One of a machine that was never heard of is refused as stale: the
    machine's own report comes with its next heartbeat, and the runner's with the one after."""
    known = observed.runners.get(report.runner)
    if report.machine not in observed.machines:
        return Heard.STALE
    if known is not None and report.incarnation < known.report.incarnation:
        return Heard.STALE
    again = known if known is not None and known.report.incarnation == report.incarnation else None
    seen = RunnerSeen(
        report,
        {(node.program, node.shard): node for node in report.nodes},
        {status.program: _sequencer_seen(status, known, now) for status in report.sequencers},
        now,
        _gap(observed, again, now),
        _moves_of(report, again.moves if again is not None else {}, now),
    )
    observed.runners[report.runner] = seen
    was_unread = observed.unread.pop(report.runner, None) is not None
    same = known is not None and _hosts_same(known, seen) and not was_unread
    return Heard.SAME if same else Heard.CHANGED


def _gap(observed: Observed, before: MachineSeen | RunnerSeen | None, now: float) -> float:
    """The longest time between two reports, in seconds, forgotten little by little: after some minutes of a report each
    second hardly anything is left of it."""
    return max(observed.silence(before, now), GAP_KEPT * before.gap) if before is not None else 0.0


def _moves_of(
    report: RunnerReport, before: Mapping[tuple[str, int, str], Moved], now: float
) -> dict[tuple[str, int, str], Moved]:
    """What each part of a runner is at, and since when."""
    moves = {}
    for key, mark in _marks(report):
        known = before.get(key)
        moves[key] = known if known is not None and known.mark == mark else Moved(mark, now)
    return moves


def _marks(report: RunnerReport) -> Iterator[tuple[tuple[str, int, str], tuple[int, ...]]]:
    for node in report.nodes:
        where = node.program, node.shard
        yield (*where, "steps"), (node.incarnation, node.finished_epoch, node.stage)
        yield (*where, "store"), (node.incarnation, node.saving)
    for sequencer in report.sequencers:
        yield (sequencer.program, SEQUENCER, "store"), (sequencer.incarnation, sequencer.proposing)


def _sequencer_seen(status: SequencerStatus, known: RunnerSeen | None, now: float) -> SequencerSeen:
    before = known.sequencers.get(status.program) if known is not None else None
    if before is None or before.status.incarnation != status.incarnation:
        return SequencerSeen(status, now)
    moved = status.finished_epoch != before.status.finished_epoch
    if not moved and status.finished_epoch < status.epoch:
        return SequencerSeen(status, before.moved_at, before.gap)
    gap = GAP_KEPT * before.gap
    if moved and before.status.finished_epoch < before.status.epoch:
        gap = max(now - before.moved_at, gap)
    return SequencerSeen(status, now, gap)


def _hosts_same(known: RunnerSeen, seen: RunnerSeen) -> bool:
    """Whether two reports differ in progress at most."""
    if known.report.incarnation != seen.report.incarnation or known.nodes.keys() != seen.nodes.keys():
        return False
    if known.sequencers.keys() != seen.sequencers.keys():
        return False
    if _readiness(known.report) != _readiness(seen.report):
        return False
    return all(
        (node.incarnation, node.generation, node.halted)
        == (known.nodes[place].incarnation, known.nodes[place].generation, known.nodes[place].halted)
        for place, node in seen.nodes.items()
    ) and all(
        (now.status.incarnation, now.status.halted) == (before.status.incarnation, before.status.halted)
        for program, now in seen.sequencers.items()
        for before in (known.sequencers[program],)
    )


def _readiness(report: RunnerReport) -> list[tuple[str, int, int, bool]]:
    """Of what is on its way to another placement, how far it is."""
    prepared = [(each.program, each.version, each.shard, each.ready) for each in report.prepared]
    ends = [(each.program, each.incarnation, each.ends, each.base >= each.ends) for each in report.sequencers]
    return prepared + ends


# ---- one compared with the other ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a program is: which shards are not reported, whether its sequencer is, and since when that has
    had epochs to finish and finished none."""

    state: ProgramState
    note: str
    missing: tuple[int, ...] = ()
    sequencer_missing: bool = False
    moved_at: float | None = None


def progress_of(program: WantedProgram, desired: Desired, observed: Observed, now: float) -> Progress:
    """How far a program is, for a person and for `reconcile`."""
    assignment = program.assignment
    if program.asleep:
        return Progress(ProgramState.ASLEEP, "had no input for long; whatever is sent to it wakes it")
    if assignment is None:
        ready = len(ready_machines(desired, observed, now))
        note = f"waits for machines: {ready} of {desired.machines} are ready"
        return Progress(ProgramState.STARTING, note)
    lost = lost_parts(assignment, desired, observed, now)
    if lost:
        return Progress(ProgramState.STARTING, f"is being mended, for it lost {', '.join(lost)}")
    halted, rewind = why_halted(program.program, assignment, observed)
    if rewind:
        return Progress(ProgramState.STARTING, f"begins again from a base, for {halted}")
    if halted:
        return Progress(ProgramState.HALTED, halted)
    missing = tuple(
        shard
        for shard, part in enumerate(assignment.nodes)
        if not _node_runs(program.program, shard, part, observed)
    )
    sequencer = sequencer_of(program.program, assignment.sequencer, observed)
    if missing or sequencer is None:
        reported = len(assignment.nodes) - len(missing)
        note = f"{reported} of {len(assignment.nodes)} nodes have started"
        return Progress(ProgramState.STARTING, note, missing, sequencer_missing=sequencer is None)
    slices, filled = sequencer.status.slices, sequencer.status.filled
    note = f"its new views are being filled: {filled} of {slices} slices are" if slices else ""
    if program.preparation is not None:
        note = "other nodes load their state, to take over"
    return Progress(ProgramState.RUNNING, note, moved_at=sequencer.moved_at)


def ready_machines(desired: Desired, observed: Observed, now: float) -> list[str]:
    """Machines, sorted, whose runner runs in the wanted incarnation and was heard of lately, as was the
    agent."""
    silence = desired.options.silence_seconds
    ready = []
    for name in sorted(observed.machines):
        runner = runner_name(name)
        wanted, seen = desired.runners.get(runner), observed.runners.get(runner)
        if wanted is None or seen is None or seen.report.incarnation != wanted.incarnation:
            continue
        if has_died(observed, name, runner, wanted.incarnation) or runner in observed.unread:
            continue
        machine = observed.machines[name]
        if not (observed.is_silent(machine, silence, now) or observed.is_silent(seen, silence, now)):
            ready.append(name)
    return ready


def has_died(observed: Observed, machine: str, runner: str, incarnation: int) -> bool:
    """Whether this incarnation of a runner is known to have ended."""
    seen = observed.machines.get(machine)
    status = seen.runners.get(runner) if seen is not None else None
    if status is not None and (status.incarnation, not status.alive) >= (incarnation, True):
        return True
    reported = observed.runners.get(runner)
    return reported is not None and reported.report.incarnation > incarnation


def lost_parts(assignment: Assignment, desired: Desired, observed: Observed, now: float) -> list[str]:
    """The runners with parts of the program that have ended, or whose inbox nobody reads, or of which, or of whose
    machines, nothing is heard."""
    lost = []
    for part in assignment.runners():
        wanted, machine = desired.runners.get(part.runner), observed.machines.get(part.machine)
        seen = observed.runners.get(part.runner)
        if (
            wanted is None
            or machine is None
            or seen is None
            or wanted.incarnation != part.runner_incarnation
            or has_died(observed, part.machine, part.runner, part.runner_incarnation)
            or observed.unread.get(part.runner) == part.runner_incarnation
            or is_silent(machine, desired, observed, now)
            or is_silent(seen, desired, observed, now)
        ):
            lost.append(part.runner)
    return lost


def gone_since(lost: list[str], observed: Observed, now: float) -> float:
    """Since when the last one of these lost runners is missing: one that is unread was gone when it was last heard of.
    Of all others nothing is known but that they are missing now: who is silent may just be slow."""
    return max(
        (observed.runners[runner].at if runner in observed.unread else now for runner in lost), default=now
    )


def is_silent(seen: MachineSeen | RunnerSeen, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether it was not heard of for so long that nothing is expected of it any more, or has said goodbye."""
    leaves = isinstance(seen, MachineSeen) and seen.report.leaves
    return leaves or observed.is_silent(seen, desired.options.silence_seconds, now)


def _node_runs(program: str, shard: int, part: Part, observed: Observed) -> bool:
    seen = observed.runners.get(part.runner)
    status = seen.nodes.get((program, shard)) if seen is not None else None
    return status is not None and status.incarnation >= part.incarnation


def sequencer_of(program: str, part: Part, observed: Observed) -> SequencerSeen | None:
    """A program's sequencer, if its runner reports it in this incarnation or a later one."""
    seen = observed.runners.get(part.runner)
    sequencer = seen.sequencers.get(program) if seen is not None else None
    return sequencer if sequencer is not None and sequencer.status.incarnation >= part.incarnation else None


def why_halted(program: str, assignment: Assignment, observed: Observed) -> tuple[str, bool]:
    """The first reason why a placed program stands still, or the empty text; and whether a new generation helps."""
    for shard, part in enumerate(assignment.nodes):
        seen = observed.runners.get(part.runner)
        status = seen.nodes.get((program, shard)) if seen is not None else None
        if status is not None and status.incarnation == part.incarnation and status.halted:
            return f"shard {shard} on machine {part.machine} has halted: {status.halted}", status.rewind
    sequencer = sequencer_of(program, assignment.sequencer, observed)
    if sequencer is not None and sequencer.status.halted:
        machine = assignment.sequencer.machine
        reason = f"the sequencer on machine {machine} has halted: {sequencer.status.halted}"
        return reason, sequencer.status.rewind
    return "", False


def silent(observed: Observed, now: float, seconds: float) -> list[str]:
    """The machines and runners, by name, that are silent, see `Observed.is_silent`; a runner that has died is not."""
    machines = [name for name, seen in observed.machines.items() if observed.is_silent(seen, seconds, now)]
    runners = [
        name
        for name, seen in observed.runners.items()
        if observed.is_silent(seen, seconds, now)
        and not has_died(observed, seen.report.machine, name, seen.report.incarnation)
    ]
    return sorted(machines) + sorted(runners)
