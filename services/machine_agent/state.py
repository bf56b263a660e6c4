"""What a machine agent was told, and what became of it: pure, and only ever going forward.

For each runner the agent knows the newest incarnation that it has heard of. That one is to run, was stopped, or has
died, and never runs again after either: another incarnation is for the scheduler to give out. So a command that comes
twice, late, or behind a newer one changes nothing, and a report never takes back what an earlier one said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dist_zero_common.protocol.messages.control import RunnerStatus, StartRunner, StopRunner


@dataclass(frozen=True, slots=True)
class RunnerState:
    """A runner. `incarnation` is the newest one heard of, and whether it is (still) `wanted`. `status` is what is
    reported: the newest one that was started or has ended, and None before there is any."""

    incarnation: int
    wanted: bool
    status: RunnerStatus | None

    def is_settled(self) -> bool:
        """Whether nothing is left to do: the newest incarnation runs if it is wanted, and has ended if it is not."""
        status = self.status
        return status is not None and status.incarnation == self.incarnation and status.alive == self.wanted


@dataclass(frozen=True, slots=True)
class AgentState:
    """`incarnation` is the agent's own, `scheduler` the largest number of a scheduler that has commanded here."""

    incarnation: int
    scheduler: int = 0
    runners: Mapping[str, RunnerState] = field(default_factory=dict)


def on_command(state: AgentState, command: StartRunner | StopRunner) -> AgentState | None:
    """The state after a command, or None when it is refused: it is one of a deposed scheduler, or to start what an
    earlier agent of this machine may have started already."""
    if command.scheduler < state.scheduler:
        return None
    if isinstance(command, StartRunner) and command.agent != state.incarnation:
        return None
    state = replace(state, scheduler=command.scheduler)
    starts = isinstance(command, StartRunner)
    known = state.runners.get(command.runner)
    if known is None:
        return _with(state, command.runner, RunnerState(command.incarnation, starts, None))
    if known.incarnation > command.incarnation or (starts and known.incarnation == command.incarnation):
        return state
    return _with(state, command.runner, RunnerState(command.incarnation, starts, known.status))


def is_for_successor(state: AgentState, command: StartRunner | StopRunner) -> bool:
    """Whether a command that was refused is for an agent that was started later on a machine of this name."""
    return (
        isinstance(command, StartRunner)
        and command.scheduler >= state.scheduler
        and command.agent > state.incarnation
    )


def on_started(state: AgentState, runner: str, incarnation: int) -> AgentState:
    """An incarnation runs now. If another one has come to be wanted meanwhile, or none, that is not yet settled."""
    known = state.runners[runner]
    if known.incarnation != incarnation or not known.wanted:
        return state
    return _with(state, runner, replace(known, status=RunnerStatus(runner, incarnation, alive=True)))


def on_ended(state: AgentState, runner: str, incarnation: int) -> AgentState:
    """An incarnation has ended, told to or not, or could not be started; it will not run again."""
    known = state.runners[runner]
    wanted = known.wanted and known.incarnation != incarnation
    ended = RunnerStatus(runner, incarnation, alive=False)
    return _with(state, runner, RunnerState(known.incarnation, wanted, ended))


def statuses(state: AgentState) -> tuple[RunnerStatus, ...]:
    """What the agent reports."""
    return tuple(runner.status for runner in state.runners.values() if runner.status is not None)


def _with(state: AgentState, name: str, runner: RunnerState) -> AgentState:
    return replace(state, runners={**state.runners, name: runner})
