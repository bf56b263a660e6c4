"""The machine agent: its rules, and its shell over launchers that fail, hang and obey late."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import agent_inbox, queue_of, scheduler_inbox
from dist_zero_common.errors import OperatorError, SettingsError, SimulationError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.control import MachineReport, RunnerStatus, StartRunner, StopRunner
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.machine_agent.launchers.base import Launcher
from services.machine_agent.launchers.in_process import InProcessLauncher
from services.machine_agent.service import AgentService
from services.machine_agent.state import (
    AgentState,
    is_for_successor,
    on_command,
    on_ended,
    on_started,
    statuses,
)

SYSTEM, AGENT = "test", 7
Command = StartRunner | StopRunner


def commands(scheduler: int = 1) -> st.SearchStrategy[Command]:
    incarnations = st.integers(1, 5)
    return st.one_of(
        st.builds(StartRunner, st.just(scheduler), st.just("r"), incarnations, st.just(AGENT)),
        st.builds(StopRunner, st.just(scheduler), st.just("r"), incarnations),
    )


# ---- rules -------------------------------------------------------------------------------------------------


@given(st.lists(commands(), min_size=1), st.randoms(use_true_random=False))
def test_commands_come_to_the_same_in_any_order(given_: list[Command], rng: random.Random) -> None:
    """Commands are about incarnations, not about when they come: doubled and shuffled they end the same. The newest
    incarnation counts, and of a start and a stop of the same one the stop."""
    ends = []
    for order in (given_, rng.sample(given_ * 2, len(given_) * 2)):
        state: AgentState | None = AgentState(AGENT)
        for command in order:
            assert state is not None
            state = on_command(state, command)
        assert state is not None
        ends.append(state.runners["r"])
    newest = max(command.incarnation for command in given_)
    stopped = StopRunner(1, "r", newest) in given_
    assert ends[0] == ends[1]
    assert (ends[0].incarnation, ends[0].wanted) == (newest, not stopped)


@given(st.lists(st.one_of(commands(), st.just("done"), st.just("died")), max_size=30))
def test_no_incarnation_runs_twice_and_no_report_goes_back(events: list[Command | str]) -> None:
    """Whatever commands come while runners are started late or die, each incarnation is started once at most, later
    ones after earlier ones, and reports only ever go forward."""
    state = AgentState(AGENT)
    started: list[int] = []
    reported = (0, False)
    for event in events:
        if isinstance(event, StartRunner | StopRunner):
            state = on_command(state, event) or state
        elif event == "done" and "r" in state.runners:
            runner = state.runners["r"]
            if runner.wanted and not runner.is_settled():
                started.append(runner.incarnation)
                state = on_started(state, "r", runner.incarnation)
            elif not runner.is_settled():
                state = on_ended(state, "r", runner.incarnation)
            assert state.runners["r"].is_settled()
        for status in statuses(state):
            if event == "died" and status.alive:
                state = on_ended(state, "r", status.incarnation)
        for status in statuses(state):
            assert (status.incarnation, not status.alive) >= reported
            reported = status.incarnation, not status.alive
    assert started == sorted(set(started))


def test_commands_for_others_are_refused() -> None:
    """A deposed scheduler is refused, and so is a start that was meant for an earlier agent of this machine: that one
    may have obeyed it."""
    state = on_command(AgentState(AGENT), StartRunner(2, "r", 5, AGENT))
    assert state is not None
    assert on_command(state, StartRunner(1, "r", 6, AGENT)) is None
    assert on_command(state, StopRunner(1, "r", 6)) is None
    assert on_command(state, StartRunner(2, "r", 6, AGENT - 1)) is None
    assert on_command(state, StartRunner(3, "r", 6, AGENT)) is not None


def test_what_is_for_a_later_agent_says_that_there_is_one() -> None:
    """Not what a deposed scheduler says, nor what was for an earlier agent, nor what is obeyed."""
    state = on_command(AgentState(AGENT), StartRunner(2, "r", 5, AGENT))
    assert state is not None
    assert is_for_successor(state, StartRunner(2, "r", 6, AGENT + 1))
    for command in (
        StartRunner(1, "r", 6, AGENT + 1),
        StartRunner(2, "r", 6, AGENT),
        StartRunner(2, "r", 6, AGENT - 1),
        StopRunner(2, "r", 6),
    ):
        assert not is_for_successor(state, command)


def test_stop_that_comes_while_a_runner_starts_is_obeyed() -> None:
    """A runner that is up when it is no longer wanted is not settled, so it will be stopped."""
    state = on_command(AgentState(AGENT), StartRunner(1, "r", 1, AGENT))
    assert state is not None
    state = on_command(state, StopRunner(1, "r", 1))
    assert state is not None
    state = on_started(state, "r", 1)
    assert statuses(state) == () and not state.runners["r"].is_settled()
    state = on_ended(state, "r", 1)
    assert statuses(state) == (RunnerStatus("r", 1, alive=False),) and state.runners["r"].is_settled()


# ---- shell -------------------------------------------------------------------------------------------------


class Bench:
    """An agent, and this test in the scheduler's place."""

    def __init__(self, world: SimWorld) -> None:
        self.world, self.broker = world, MemoryBroker(world)
        self.reports: list[MachineReport] = []
        self.agents: list[AgentService] = []
        self.post = Mailbox(
            self.broker.connector("bench"), system=SYSTEM, sender="bench", set_aside=lambda *_: None
        )

    def _on_message(self, message: Message, token: Token) -> None:
        assert isinstance(message, MachineReport)
        self.reports.append(message)
        self.post.settle(token)

    def command(self, command: Command) -> None:
        self.post.send(agent_inbox(SYSTEM, "m1"), command)

    def start(self, incarnation: int) -> None:
        self.command(StartRunner(1, "r", incarnation, self.reports[-1].incarnation))

    def agent(self, launcher: Launcher) -> AgentService:
        agent = AgentService(
            system=SYSTEM,
            machine="m1",
            connect=self.broker.connector("agent"),
            clock=self.world.clock,
            launcher=launcher,
            cores=3,
            memory_bytes=2**31,
            labels=("zone=a",),
            log=get_logger("machine-agent", self.world.clock),
        )
        self.agents.append(agent)
        return agent

    async def wait_status(self, incarnation: int, alive: bool) -> None:
        """Until the agent reports this of the runner; the simulation's bound ends a wait in vain."""
        while self.reports[-1].runners != (RunnerStatus("r", incarnation, alive),):
            await asyncio.sleep(0.1)


def run_bench(launcher: Launcher, scenario: Callable[[Bench], Awaitable[None]]) -> list[dict[str, object]]:
    """Run a scenario against an agent with this launcher; returns what was logged."""
    bench = Bench(SimWorld(1))

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(bench.post.run())]
            await bench.post.listen(queue_of(scheduler_inbox(SYSTEM)), bench._on_message)
            running.append(tasks.create_task(bench.agent(launcher).run()))
            while not bench.reports:
                await asyncio.sleep(0.1)
            await scenario(bench)
            for task in running:
                task.cancel()

    with captured_events() as events:
        run_simulation(main(), until_seconds=1_000)
    return events


class SlowLauncher:
    """Starts and stops take seconds; some starts fail."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.running: dict[str, int] = {}
        self.starts: Counter[int] = Counter()
        self._failing = failing

    async def start(self, runner: str, incarnation: int) -> None:
        assert runner not in self.running
        self.starts[incarnation] += 1
        await asyncio.sleep(5)
        if incarnation in self._failing:
            raise OperatorError("no memory left for a runner")
        self.running[runner] = incarnation

    async def stop(self, runner: str) -> None:
        if runner in self.running:
            await asyncio.sleep(3)
            del self.running[runner]

    def alive(self, runner: str, incarnation: int) -> bool:
        return self.running.get(runner) == incarnation


def test_agent_announces_its_machine() -> None:
    """A report says what the machine has, and comes every second."""

    async def scenario(bench: Bench) -> None:
        await asyncio.sleep(10)
        assert 10 <= len(bench.reports) <= 12
        assert bench.reports[-1] == MachineReport(
            "m1",
            bench.reports[-1].incarnation,
            agent_inbox(SYSTEM, "m1"),
            3,
            2**31,
            ("zone=a",),
            (),
        )

    run_bench(SlowLauncher(), scenario)


def test_heartbeats_go_on_while_a_runner_starts() -> None:
    """A launcher that takes its time does not silence the agent, and commands that come meanwhile are obeyed after."""
    launcher = SlowLauncher()

    async def scenario(bench: Bench) -> None:
        bench.start(1)
        await asyncio.sleep(4)
        assert len(bench.reports) >= 4 and bench.reports[-1].runners == ()
        bench.start(2)
        bench.start(1)
        await bench.wait_status(2, alive=True)
        bench.command(StopRunner(1, "r", 2))
        await bench.wait_status(2, alive=False)
        bench.start(2)
        await asyncio.sleep(20)
        assert launcher.running == {}

    run_bench(launcher, scenario)
    assert launcher.starts == {1: 1, 2: 1}


def test_start_that_fails_is_reported_and_the_next_may_work() -> None:
    """What could not be started is reported as ended, and why is logged."""
    launcher = SlowLauncher(failing=(1,))

    async def scenario(bench: Bench) -> None:
        bench.start(1)
        await bench.wait_status(1, alive=False)
        bench.start(2)
        await bench.wait_status(2, alive=True)

    events = run_bench(launcher, scenario)
    assert [event["reason"] for event in events if event["event"] == "launcher_failed"] == [
        "no memory left for a runner"
    ]


def test_death_of_a_runner_is_noticed() -> None:
    """A runner that ends by itself is reported as ended at the next heartbeat."""
    launcher = SlowLauncher()

    async def scenario(bench: Bench) -> None:
        bench.start(1)
        await bench.wait_status(1, alive=True)
        launcher.running.clear()
        await asyncio.sleep(1.5)
        assert bench.reports[-1].runners == (RunnerStatus("r", 1, alive=False),)

    run_bench(launcher, scenario)


def test_goodbye_ends_runners_and_says_so() -> None:
    """An agent that leaves has ended its runners when it reports so, once, and starts nothing any more, whatever it
    is told meanwhile; it does not take them for dead."""
    launcher = SlowLauncher()

    async def scenario(bench: Bench) -> None:
        bench.start(1)
        await bench.wait_status(1, alive=True)
        leaving = asyncio.create_task(bench.agents[0].say_goodbye())
        await asyncio.sleep(1)
        assert launcher.running and not leaving.done()
        bench.start(2)
        await leaving
        assert launcher.running == {}
        await bench.wait_status(1, alive=False)
        await asyncio.sleep(20)
        assert launcher.running == {} and launcher.starts == {1: 1}
        assert bench.reports[-1].leaves
        alive = [report for report in bench.reports if any(each.alive for each in report.runners)]
        assert not [report for report in alive if report.leaves], "while a runner lives, the machine is there"

    events = run_bench(launcher, scenario)
    assert "agent_leaves" in [event["event"] for event in events]
    assert "runner_died" not in [event["event"] for event in events]


def test_in_process_launcher_keeps_failures_apart_and_ends_what_it_started() -> None:
    """A runner that raises is logged and no longer alive, its neighbour goes on; one that is stopped has ended when
    `stop` returns; the end of the launcher is the end of all."""
    log: list[str] = []

    async def run_runner(runner: str, incarnation: int) -> None:
        log.append(f"{runner} {incarnation} started")
        try:
            await asyncio.sleep(5 if runner == "bad" else 1_000)
            raise RuntimeError("bad luck")
        finally:
            log.append(f"{runner} {incarnation} ended")

    async def main() -> None:
        async with InProcessLauncher(run_runner, get_logger("test", SimWorld(0).clock)) as launcher:
            for runner, incarnation in (("bad", 1), ("good", 1), ("good", 1), ("kept", 1)):
                await launcher.start(runner, incarnation)
            await asyncio.sleep(10)
            assert [launcher.alive(name, 1) for name in ("bad", "good", "kept", "none")] == [
                False,
                True,
                True,
                False,
            ]
            await launcher.stop("good")
            await launcher.stop("none")
            assert log[-1] == "good 1 ended"
            await launcher.start("stillborn", 1)
            await launcher.stop("stillborn")
            assert not launcher.alive("stillborn", 1)

    with captured_events() as events:
        run_simulation(main(), until_seconds=100)
    assert log == [
        "bad 1 started",
        "good 1 started",
        "kept 1 started",
        "bad 1 ended",
        "good 1 ended",
        "kept 1 ended",
    ]
    assert [event["event"] for event in events] == ["runner_failed"]


def test_errors_of_the_simulation_are_not_taken_for_deaths() -> None:
    """A runner that reaches for the real world ends the run, not just itself."""

    async def run_runner(_runner: str, _incarnation: int) -> None:
        raise SimulationError("time.time() was called")

    async def main() -> None:
        async with InProcessLauncher(run_runner, get_logger("test", SimWorld(0).clock)) as launcher:
            await launcher.start("r", 1)
            await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        run_simulation(main())
    assert caught.group_contains(SimulationError, match="time.time")


def test_machine_with_a_bad_name_is_refused() -> None:
    """A name that cannot be part of a queue's name is refused when the agent is made."""
    with pytest.raises(SettingsError, match="name of a machine"):
        AgentService(
            system=SYSTEM,
            machine="My Machine",
            connect=MemoryBroker().connector("agent"),
            clock=SimWorld(0).clock,
            launcher=SlowLauncher(),
            cores=1,
            memory_bytes=1,
            labels=(),
            log=get_logger("machine-agent", SimWorld(0).clock),
        )
