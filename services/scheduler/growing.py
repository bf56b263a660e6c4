"""Growth as the leading scheduler carries it out: it looks, has `growth.py` decide, and changes what is desired.

A wish for other nodes becomes another shard map of a program, as `dist-zero scale` makes one; one for machines another
number that the spawner shall keep; so placing, moving and returning are nobody's business here. What was decided is in
the schedulers' log with all that is desired. When it was decided is not: the next scheduler rests first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dist_zero.shards import redrawn
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.control import MachineReport, RunnerReport
from dist_zero_common.protocol.messages.requests import NodeLimits, ProgramState
from services.scheduler.growth import (
    GrowthMemory,
    GrowthOptions,
    MachinesView,
    ProgramView,
    ProgramWish,
    decide_growth,
)
from services.scheduler.load import Loads
from services.scheduler.scaling import with_machines
from services.scheduler.sleeping import is_saved, put_to_sleep
from services.scheduler.state import Desired, Observed, WantedProgram, progress_of

LOOK_SECONDS = 1.0
"""How often growth is decided on."""
MACHINES = ""
"""In place of a program's name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided last on a program, or on machines, and when."""

    reason: str
    at: float


@dataclass(slots=True)
class Growing:
    """Growth of one system, while one scheduler leads."""

    options: GrowthOptions
    log: Logger
    loads: Loads = field(init=False)
    decisions: dict[str, Decision] = field(default_factory=dict)
    """By program; `MACHINES`: of their number."""
    _memory: GrowthMemory = field(default_factory=GrowthMemory)
    _looked_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.loads = Loads(self.options)

    def hear(self, report: RunnerReport, now: float) -> None:
        """Take in a runner's report."""
        self.loads.hear(report, now)

    def decide(self, desired: Desired, observed: Observed, now: float) -> Desired:
        """What is desired when all has grown and shrunk that shall; the same object when nothing has."""
        automatic = desired.machine_limits is not None or any(
            program.limits is not None for program in desired.programs.values()
        )
        if not automatic or now - self._looked_at < LOOK_SECONDS:
            return desired
        self._looked_at = now
        self.loads.forget(desired.programs)
        views = [
            view_of(program, desired, observed, self.loads, now) for program in desired.programs.values()
        ]
        wishes, self._memory = decide_growth(
            views, machines_of(desired, observed), self.options, self._memory, now
        )
        for wish in wishes.programs:
            desired = self._carried_out(desired, wish, now)
        if wishes.machines_reason:
            self._decided(MACHINES, wishes.machines_reason, now)
            desired = with_machines(desired, wishes.machines)
        self.decisions = {
            name: decision
            for name, decision in self.decisions.items()
            if name in desired.programs or name == MACHINES
        }
        return desired

    def _carried_out(self, desired: Desired, wish: ProgramWish, now: float) -> Desired:
        if wish.reason:
            self._decided(wish.program, wish.reason, now)
        if wish.sleeps:
            return put_to_sleep(desired, wish.program, now)
        program = replace(desired.programs[wish.program], tried=wish.tried)
        if wish.lasts is not None:
            program = replace(program, shard_map=redrawn(program.shard_map, wish.lasts))
        return replace(desired, programs={**desired.programs, wish.program: program})

    def _decided(self, what: str, reason: str, now: float) -> None:
        self.decisions[what] = Decision(reason, now)
        self.log.info("growth_decided", what=what or "machines", reason=reason)

    def told(self, desired: Desired, now: float) -> dict[str, str]:
        """What people are told of growth, by program; `MACHINES`: of their number."""
        told = {
            name: self._told(name, _limits(program.limits), now)
            for name, program in desired.programs.items()
            if program.limits is not None
        }
        if desired.machine_limits is not None:
            limits = desired.machine_limits
            between = f"{desired.machines} wanted, of {limits.machines_min} to {limits.machines_max}"
            told[MACHINES] = self._told(MACHINES, between, now)
        return told

    def _told(self, what: str, limits: str, now: float) -> str:
        decision = self.decisions.get(what)
        if decision is None:
            return f"automatic: {limits}"
        past = now - decision.at
        rests = self.options.cooldown_seconds - past
        rest = f"; rests for {rests:.0f} s more" if rests >= 0.5 else ""
        return f"automatic: {limits}; {past:.0f} s ago {decision.reason}{rest}"


def _limits(limits: NodeLimits) -> str:
    sleeps = f", asleep after {limits.idle_seconds} s without input" if limits.idle_seconds else ""
    return f"{limits.nodes_min} to {limits.nodes_max} nodes{sleeps}"


def view_of(
    program: WantedProgram, desired: Desired, observed: Observed, loads: Loads, now: float
) -> ProgramView:
    """A program as growth sees it."""
    limits, assignment = program.limits, program.assignment
    steady = (
        assignment is not None
        and assignment.placement.shard_map == program.shard_map
        and program.lost_since is None
        and (limits is None or progress_of(program, desired, observed, now).state is ProgramState.RUNNING)
    )
    idle = (
        steady
        and limits is not None
        and limits.idle_seconds > 0
        and loads.idle_seconds(program.program, now) >= limits.idle_seconds
        and is_saved(program, observed)
    )
    return ProgramView(
        program=program.program,
        shard_map=program.shard_map,
        nodes=tuple(loads.of(program)) if assignment is not None else (None,) * len(program.shard_map.nodes),
        limits=limits,
        steady=steady,
        idle=idle,
        asleep=program.asleep,
        tried=program.tried,
        sequencer=loads.of_sequencer(program),
        heat=loads.heat(program.program),
    )


def machines_of(desired: Desired, observed: Observed) -> MachinesView:
    """Machines as growth sees them."""
    reports: Mapping[str, MachineReport] = {name: seen.report for name, seen in observed.machines.items()}
    memory = min((report.memory_bytes for report in reports.values()), default=0)
    return MachinesView(desired.machines, desired.machine_limits, memory)
