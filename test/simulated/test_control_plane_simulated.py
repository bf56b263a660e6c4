"""The control plane in simulated mode: real scheduler, agents, spawner and launcher, with runners that only pretend.

The pretended runner obeys and reports as the real one does and holds no data, so what is tested here is who starts
what, where and how often, under many weathers. Requests are sent by a client of one page.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest

import dist_zero as dz
from dist_zero.expr.graph import encode_graph
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import (
    agent_inbox,
    client_replies,
    queue_of,
    runner_inbox,
    scheduler_inbox,
)
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    MachineReport,
    NodeStatus,
    Placement,
    PreparedStatus,
    PrepareNodes,
    RunnerReport,
    SequencerStatus,
    StartRunner,
)
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import Done
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.requests import (
    Locate,
    Located,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    SubmitProgram,
)
from dist_zero_common.protocol.stored import (
    Base,
)
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import base_name
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.machine_agent.launchers.in_process import InProcessLauncher
from services.machine_agent.service import AgentService
from services.scheduler.lead import LeadOptions
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.in_process import InProcessSpawner
from services.scheduler.state import SchedulerOptions
from test.simulated.seeds import seeds

SYSTEM = "test"
LOSSY = Weather(
    "lossy",
    transit=Delay(mean=0.005, tail=0.1, tail_factor=10.0),
    overtakes=0.5,
    duplicate=0.2,
    loss=0.1,
    late_confirm=0.2,
)


class Score(dz.Row):
    game: str
    player: str
    points: int


def graph_of(name: str, least: int = 0) -> bytes:
    """A small program; another `least` makes another program of it."""
    app = dz.Program(name)
    scores = app.dataset("scores", Score, key=("game", "player"))
    app.view("totals", scores.where(scores["points"] > least).group_by("game").agg(total=dz.sum("points")))
    return encode_graph(app.graph())


class PretendedRunner:
    """One incarnation of a runner: takes every command once and says so."""

    def __init__(self, control: ControlPlane, machine: str, runner: str, incarnation: int) -> None:
        self.hosted: Counter[tuple[str, int, int]] = Counter()
        self.nodes: dict[tuple[str, int], NodeStatus] = {}
        self.sequencers: dict[str, SequencerStatus] = {}
        self.placements: dict[str, Placement] = {}
        self.prepared: dict[tuple[str, int], PreparedStatus] = {}
        self.fails = asyncio.Event()
        self._dropped: dict[str, int] = {}
        self._machine, self._runner, self._incarnation = machine, runner, incarnation
        self._inbox = runner_inbox(SYSTEM, runner, incarnation)
        self._changed = asyncio.Event()
        self._post = control.mailbox(f"{runner}-{incarnation}")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._post.run())
            await self._post.listen(queue_of(self._inbox), self._on_message)
            tasks.create_task(self._fail())
            while True:
                self._changed.clear()
                report = RunnerReport(
                    self._runner,
                    self._incarnation,
                    self._machine,
                    self._inbox,
                    tuple(self.nodes.values()),
                    tuple(self.sequencers.values()),
                    tuple(self.prepared.values()),
                )
                self._post.send(scheduler_inbox(SYSTEM), report)
                try:
                    async with asyncio.timeout(1.0):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def _fail(self) -> None:
        await self.fails.wait()
        raise RuntimeError("told to fail")

    def _on_message(self, message: Message, token: Token) -> None:
        match message:
            case HostNode(incarnation=incarnation) if incarnation > self._dropped.get(message.program, 0):
                known = self.nodes.get((message.program, message.shard))
                if known is None or known.incarnation < incarnation:
                    self.hosted[message.program, message.shard, incarnation] += 1
                    self.nodes[message.program, message.shard] = NodeStatus(
                        message.program, message.generation, 1, message.shard, incarnation, 0, ""
                    )
            case HostSequencer(incarnation=incarnation) if incarnation > self._dropped.get(
                message.program, 0
            ):
                running = self.sequencers.get(message.program)
                if running is None or running.incarnation < incarnation:
                    self.hosted[message.program, -1, incarnation] += 1
                    self.sequencers[message.program] = SequencerStatus(
                        message.program, incarnation, 0, "inbox", 1, 1, ""
                    )
            case Placement():
                self.placements[message.program] = message
            case EndGeneration() if message.program in self.sequencers:
                ended = replace(self.sequencers[message.program], base=1, ends=1)
                self.sequencers[message.program] = ended
            case PrepareNodes():
                self.prepared = {
                    (message.program, shard): PreparedStatus(
                        message.program, message.version, shard, 1, ready=True
                    )
                    for shard in message.shards
                }
            case DropProgram(program=program, incarnation=incarnation):
                self._dropped[program] = max(incarnation, self._dropped.get(program, 0))
                for place, node in list(self.nodes.items()):
                    if place[0] == program and node.incarnation <= incarnation:
                        del self.nodes[place]
                sequencer = self.sequencers.get(program)
                if sequencer is not None and sequencer.incarnation <= incarnation:
                    del self.sequencers[program]
        self._changed.set()
        self._post.settle(token)


class Client:
    """Asks the scheduler, and asks again until it is answered."""

    def __init__(self, control: ControlPlane, name: str) -> None:
        self.replies = client_replies(SYSTEM, name)
        self.post = control.mailbox(name)
        self.answers: dict[int, list[Message]] = {}
        self._requests = 0

    def _on_message(self, message: Message, token: Token) -> None:
        assert isinstance(message, Located | RequestRefused | ProgramRemoved)
        self.answers.setdefault(message.request, []).append(message)
        self.post.settle(token)

    async def listen(self) -> None:
        await self.post.listen(queue_of(self.replies), self._on_message)

    def send(self, message: Message) -> None:
        self.post.send(scheduler_inbox(SYSTEM), message)

    async def ask(self, question: Callable[[int, str], Message]) -> Message:
        self._requests += 1
        request = self._requests
        while request not in self.answers:
            self.send(question(request, self.replies))
            await asyncio.sleep(0.5)
        return self.answers[request][0]

    async def submit(self, graph: bytes, nodes: int) -> Message:
        """The answer to a submission once the program no longer starts."""
        while True:
            answer = await self.ask(lambda request, inbox: SubmitProgram(request, graph, nodes, inbox))
            if not (isinstance(answer, Located) and answer.state is ProgramState.STARTING):
                return answer
            await asyncio.sleep(0.2)

    async def running(self, graph: bytes, nodes: int) -> Located:
        answer = await self.submit(graph, nodes)
        assert isinstance(answer, Located) and answer.state is ProgramState.RUNNING, answer
        return answer

    async def locate(self, program: str) -> Message:
        return await self.ask(lambda request, inbox: Locate(request, program, inbox))

    async def remove(self, program: str) -> Message:
        return await self.ask(lambda request, inbox: RemoveProgram(request, program, inbox))

    async def refusal(self, question: Callable[[int, str], Message]) -> str:
        answer = await self.ask(question)
        assert isinstance(answer, RequestRefused), answer
        return answer.reason


class ControlPlane:
    """A simulated system without data."""

    def __init__(self, world: SimWorld, machines: int, objects: MemoryObjects) -> None:
        self.world, self.machines = world, machines
        self.store = MemoryStore(objects, world)
        self.broker = MemoryBroker(world)
        self.runners: dict[tuple[str, int], PretendedRunner] = {}
        self.starts: Counter[tuple[str, int]] = Counter()
        self.scheduler: SchedulerService
        self.spawner: InProcessSpawner

    def mailbox(self, name: str) -> Mailbox:
        return Mailbox(self.broker.connector(name), system=SYSTEM, sender=name, set_aside=lambda *_: None)

    async def _run_runner(self, machine: str, runner: str, incarnation: int) -> None:
        self.starts[runner, incarnation] += 1
        pretended = self.runners[runner, incarnation] = PretendedRunner(self, machine, runner, incarnation)
        await pretended.run()

    async def _run_machine(self, machine: str) -> None:
        log = get_logger("machine-agent", self.world.clock)
        run_runner = lambda runner, incarnation: self._run_runner(machine, runner, incarnation)  # noqa: E731
        async with InProcessLauncher(run_runner, log) as launcher:
            agent = AgentService(
                system=SYSTEM,
                machine=machine,
                connect=self.broker.connector(f"agent-{machine}"),
                clock=self.world.clock,
                launcher=launcher,
                cores=2,
                memory_bytes=2**30,
                labels=(),
                log=log,
            )
            await agent.run()

    def make_scheduler(self, name: str) -> SchedulerService:
        return SchedulerService(
            system=SYSTEM,
            connect=self.broker.connector(name),
            store=self.store,
            clock=self.world.clock,
            spawner=self.spawner,
            log=get_logger("scheduler", self.world.clock),
            options=SchedulerOptions(machines=self.machines),
            lead=LeadOptions(name=f"{name}-{len(self.store.objects.names)}"),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        async with asyncio.TaskGroup() as tasks:
            log = get_logger("simulated-spawner", self.world.clock)
            self.spawner = InProcessSpawner(tasks, self._run_machine, log)
            self.scheduler = self.make_scheduler("scheduler")
            running = [tasks.create_task(self.scheduler.run())]
            client = Client(self, "client")
            running.append(tasks.create_task(client.post.run()))
            await client.listen()
            yield client
            for task in running:
                task.cancel()
            for machine in await self.spawner.list():
                await self.spawner.stop(machine)

    def nodes_of(self, program: str) -> dict[int, str]:
        """Which runner says that it hosts which shard."""
        return {
            shard: runner
            for (runner, _), pretended in self.runners.items()
            for (name, shard), _ in pretended.nodes.items()
            if name == program
        }


Scenario = Callable[[ControlPlane, Client], Awaitable[None]]


def simulate(
    scenario: Scenario,
    seed: int = 0,
    weather: str | Weather = "calm",
    machines: int = 2,
    objects: MemoryObjects | None = None,
) -> tuple[ControlPlane, list[dict[str, object]]]:
    """Run a scenario against a fresh control plane; returns that and the events it logged."""
    world = SimWorld(seed, weather)
    control = ControlPlane(world, machines, MemoryObjects(remembers=True) if objects is None else objects)

    async def main() -> None:
        async with control.running() as client:
            await scenario(control, client)

    with captured_events() as events:
        run_simulation(main(), until_seconds=10_000)
    return control, events


async def run_games(_control: ControlPlane, client: Client) -> None:
    await client.running(graph_of("games"), 5)


@pytest.mark.parametrize("seed", seeds(12, 24))
def test_program_runs_on_every_machine_in_any_weather(seed: int) -> None:
    """Under delays, reordering, doubled and lost messages a program comes to run, each of its parts started once on
    the incarnation it was meant for, and all runners know where all parts are."""
    weather = ("faithful", "hostile", LOSSY)[seed % 3]
    machines, nodes = 1 + seed % 4, 1 + seed % 7

    async def scenario(control: ControlPlane, client: Client) -> None:
        located = await client.running(graph_of("games"), nodes)
        placement = located.placement
        assert placement is not None and len(placement.inboxes) == nodes == len(placement.shard_map.nodes)
        hosts = control.nodes_of("games")
        assert sorted(hosts) == list(range(nodes))
        runners = [f"m{number}-r1" for number in range(1, machines + 1)]
        parts = Counter(hosts.values())
        (sequencer,) = (name for (name, _), runner in control.runners.items() if runner.sequencers)
        parts[sequencer] += 1
        assert max(parts[name] for name in runners) - min(parts[name] for name in runners) <= 1
        for shard, inbox in enumerate(placement.inboxes):
            incarnation = max(inc for name, inc in control.runners if name == hosts[shard])
            assert inbox == runner_inbox(SYSTEM, hosts[shard], incarnation)

    control, _ = simulate(scenario, seed, weather, machines)
    assert set(control.starts.values()) == {1}
    for runner in control.runners.values():
        assert all(times == 1 for times in runner.hosted.values())


def test_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    """All that the control plane does is a function of the seed."""
    digests = [simulate(run_games, seed, "hostile")[0].world.history.digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_submitting_twice_is_submitting_once() -> None:
    """The same program from two clients at once, and again later from elsewhere in a file and with another number of
    nodes, is one program; what differs is said."""

    async def scenario(control: ControlPlane, client: Client) -> None:
        other = Client(control, "other")
        async with asyncio.TaskGroup() as tasks:
            post = tasks.create_task(other.post.run())
            await other.listen()
            one = tasks.create_task(client.running(graph_of("games"), 3))
            two = tasks.create_task(other.running(graph_of("games"), 4))
            await asyncio.wait([one, two])
            post.cancel()
        again = await client.running(graph_of("games"), 5)
        assert one.result().placement == two.result().placement == again.placement
        assert again.placement is not None
        nodes = len(again.placement.shard_map.nodes)
        assert (
            nodes in (3, 4) and f"it has {nodes} nodes since it began, and not the 5 asked for" in again.note
        )
        assert sorted(control.nodes_of("games")) == list(range(nodes))

    control, _ = simulate(scenario, 3, "faithful")
    assert all(times == 1 for runner in control.runners.values() for times in runner.hosted.values())


def test_another_program_of_the_same_name_is_refused() -> None:
    """A name that has a log keeps its program, while it runs and after it was removed."""

    async def scenario(_control: ControlPlane, client: Client) -> None:
        await client.running(graph_of("games"), 2)
        refused = await client.submit(graph_of("games", least=1), 2)
        assert isinstance(refused, RequestRefused) and "another program 'games'" in refused.reason
        assert await client.remove("games") == ProgramRemoved(client._requests, "games")
        assert await client.submit(graph_of("games", least=1), 2) == replace(
            refused, request=client._requests
        )
        located = await client.locate("games")
        assert isinstance(located, RequestRefused) and "no program 'games' runs" in located.reason
        assert (await client.running(graph_of("games"), 9)).note.startswith("it has 2 nodes")

    simulate(scenario, 1, "faithful")


def test_a_second_start_on_the_same_store_goes_on_with_what_is_there() -> None:
    """Another scheduler on the same store takes a higher number, runs nothing by itself, and finds base 0."""
    objects = MemoryObjects(remembers=True)

    async def second(_control: ControlPlane, client: Client) -> None:
        answer = await client.locate("games")
        assert isinstance(answer, RequestRefused) and "no program 'games' runs" in answer.reason
        located = await client.running(graph_of("games"), 7)
        assert located.placement is not None and len(located.placement.shard_map.nodes) == 5

    first_run, _ = simulate(run_games, objects=objects)
    stored = decode(Base, objects.data[base_name("games", 0)])
    second_run, _ = simulate(second, objects=objects)
    assert decode(Base, objects.data[base_name("games", 0)]) == stored
    assert 1 == first_run.scheduler.desired.scheduler < second_run.scheduler.desired.scheduler
    assert min(incarnation for _, incarnation in second_run.starts) > max(
        incarnation for _, incarnation in first_run.starts
    )


@pytest.mark.parametrize("seed", range(12))
def test_removed_program_is_gone_and_may_come_again(seed: int) -> None:
    """After `ProgramRemoved` and a while no runner hosts any of it, in any weather; submitted anew it runs again, with
    later incarnations, and copies of old requests that come late undo neither."""
    weather = ("faithful", "hostile", LOSSY)[seed % 3]

    async def scenario(control: ControlPlane, client: Client) -> None:
        graph = graph_of("games")
        first = await client.running(graph, 4)
        old_submission = SubmitProgram(client._requests, graph, 4, client.replies)
        assert isinstance(await client.remove("games"), ProgramRemoved)
        old_removal = RemoveProgram(client._requests, "games", client.replies)
        for _ in range(10):  # one may be lost, and so may its answer
            client.send(old_submission)
            await asyncio.sleep(3)
        assert control.nodes_of("games") == {}
        assert all(not runner.sequencers for runner in control.runners.values())
        assert isinstance(client.answers[old_submission.request][-1], RequestRefused)
        second = await client.running(graph, 4)
        assert first.placement is not None and second.placement is not None
        assert second.placement.version > first.placement.version
        assert second.placement.nodes_inbox != first.placement.nodes_inbox
        client.send(old_removal)
        client.send(old_submission)
        await asyncio.sleep(30)
        still = await client.locate("games")
        assert isinstance(still, Located) and still.placement == second.placement

    control, _ = simulate(scenario, seed, weather, machines=3)
    assert set(control.starts.values()) == {1}


def test_of_schedulers_that_start_together_one_leads() -> None:
    """Of four that start at the same moment one leads, and the others stand by, for as long as it does."""

    async def scenario(control: ControlPlane, _client: Client) -> None:
        async with asyncio.TaskGroup() as tasks:
            others = [control.make_scheduler(f"other-{number}") for number in range(3)]
            running = [tasks.create_task(other.run()) for other in others]
            await asyncio.sleep(60)
            leaders = [each.leader for each in (control.scheduler, *others) if each.leader is not None]
            assert [leader.desired.scheduler for leader in leaders] == [1]
            for task in running:
                task.cancel()

    _, events = simulate(scenario)
    assert len([event for event in events if event["event"] == "scheduler_stands_by"]) == 3


def test_removing_what_does_not_run_is_done_at_once() -> None:
    """Removing is idempotent: a program that nobody runs is removed."""

    async def scenario(_control: ControlPlane, client: Client) -> None:
        assert isinstance(await client.remove("nobody"), ProgramRemoved)
        assert "cannot be the name of a program" in await client.refusal(
            lambda request, inbox: RemoveProgram(request, "../log", inbox)
        )

    simulate(scenario)


@pytest.mark.parametrize(
    ("graph", "nodes", "reason"),
    [
        (b"", 1, "0 bytes are too few"),
        (b"no graph at all, this", 1, "not a message of DistZero"),
        (graph_of("games")[:-8], 1, "cut short"),
        (graph_of("games"), 0, "1 to 4096 nodes, not on 0"),
        (graph_of("games"), 4097, "1 to 4096 nodes, not on 4097"),
    ],
)
def test_bad_submission_is_refused_with_the_reason(graph: bytes, nodes: int, reason: str) -> None:
    """Whoever submits what cannot run is told why, and the scheduler goes on."""

    async def scenario(_control: ControlPlane, client: Client) -> None:
        refusal = await client.refusal(lambda request, inbox: SubmitProgram(request, graph, nodes, inbox))
        assert reason in refusal
        await client.running(graph_of("others"), 2)

    simulate(scenario)


def test_hostile_messages_are_set_aside_and_services_go_on() -> None:
    """What is not for a scheduler or agent, or lies about where it comes from, is counted, kept and changes nothing."""
    inbox = client_replies(SYSTEM, "client")
    to_scheduler: list[Message] = [
        Done("games", 0, 1, 0, 3),
        Locate(1, "games", runner_inbox(SYSTEM, "m1-r1", 1)),
        Locate(1, "games", client_replies("other", "client")),
        Locate(1, "games", "not.a.queue"),
        MachineReport("m9", 1, inbox, 2, 1, (), ()),
        MachineReport("m9", 1, agent_inbox(SYSTEM, "m9"), 0, 1, (), ()),
        MachineReport("no name", 1, "", 1, 1, (), ()),
        RunnerReport("m1-r1", 1 << 40, "m1", inbox, (), ()),
        RunnerReport("m1-r1", 1 << 40, "m2", runner_inbox(SYSTEM, "m1-r1", 1 << 40), (), ()),
    ]
    to_agent: list[Message] = [Done("games", 0, 1, 0, 3), StartRunner(1, "no name", 1, 1)]

    async def scenario(control: ControlPlane, client: Client) -> None:
        await asyncio.sleep(5)
        for message in to_scheduler:
            client.send(message)
        for message in to_agent:
            client.post.send(agent_inbox(SYSTEM, "m1"), message)
        await client.running(graph_of("games"), 3)
        assert control.scheduler.post.counters["malformed"] == len(to_scheduler)
        assert sorted(control.scheduler.observed.machines) == ["m1", "m2"]

    control, events = simulate(scenario)
    aside = [event for event in events if event["event"] == "message_set_aside"]
    assert len(aside) == len(to_scheduler) + len(to_agent)
    assert sum(name.startswith("aside/") for name in control.store.objects.names) > 0


def test_stale_reports_are_refused() -> None:
    """A report of an earlier incarnation, or one that takes back a later one, counts for nothing."""

    async def scenario(control: ControlPlane, client: Client) -> None:
        await client.running(graph_of("games"), 2)
        seen = control.scheduler.observed.machines["m1"].report
        client.send(replace(seen, runners=()))
        client.send(replace(seen, incarnation=seen.incarnation - 1))
        runner = control.scheduler.observed.runners["m1-r1"].report
        older = runner.incarnation - 1
        client.send(replace(runner, incarnation=older, inbox=runner_inbox(SYSTEM, "m1-r1", older), nodes=()))
        before = control.scheduler.counters["reports_stale"]
        await asyncio.sleep(0.1)
        assert control.scheduler.counters["reports_stale"] == before + 3
        await asyncio.sleep(20)

    control, _ = simulate(scenario)
    assert set(control.starts.values()) == {1}


def test_runner_that_fails_is_started_again_and_its_programs_are_placed_anew() -> None:
    """The death of a runner is noticed and said; the next incarnation starts, and the program goes on
    with the same shard map, its lost parts in new incarnations."""

    async def scenario(control: ControlPlane, client: Client) -> None:
        located = await client.running(graph_of("games"), 4)
        (incarnation,) = (incarnation for name, incarnation in control.runners if name == "m2-r1")
        control.runners["m2-r1", incarnation].fails.set()
        await asyncio.sleep(2)
        lost = await client.locate("games")
        assert isinstance(lost, Located) and lost.state is ProgramState.STARTING
        assert "m2-r1" in lost.note
        del control.runners["m2-r1", incarnation]
        await asyncio.sleep(30)
        again = await client.locate("games")
        assert isinstance(again, Located) and again.state is ProgramState.RUNNING
        assert located.placement is not None and again.placement is not None
        assert again.placement.version > located.placement.version
        assert again.placement.shard_map == located.placement.shard_map
        assert sorted(name for name, _ in control.starts) == ["m1-r1", "m2-r1", "m2-r1"]
        assert sorted(control.nodes_of("games")) == [0, 1, 2, 3]

    control, events = simulate(scenario)
    assert set(control.starts.values()) == {1}
    assert [event["runner"] for event in events if event["event"] == "runner_died"] == ["m2-r1"]
    assert any(event["event"] == "runner_failed" for event in events)


def test_machine_that_ends_is_spawned_again_and_silence_is_noticed() -> None:
    """A machine that goes away is replaced by one of the same name, whose runner has a later incarnation."""

    async def scenario(control: ControlPlane, client: Client) -> None:
        await asyncio.sleep(5)
        await control.spawner.stop("m1")
        await asyncio.sleep(30)
        assert await control.spawner.list() == ["m1", "m2"]
        await client.running(graph_of("games"), 4)

    control, _ = simulate(scenario)
    assert sorted(name for name, _ in control.starts) == ["m1-r1", "m1-r1", "m2-r1"]
    assert set(control.starts.values()) == {1}


def test_silence_is_noticed_and_said() -> None:
    """A machine whose post does not come through is silent, and its program runs elsewhere meanwhile; when it does
    again, the program is there, too."""

    async def scenario(control: ControlPlane, client: Client) -> None:
        await client.running(graph_of("games"), 4)
        observed = control.scheduler.observed
        broker, queue = control.broker, scheduler_inbox(SYSTEM)
        accept = broker.accept

        def cut(name: str, body: bytes) -> int:
            return 0 if name == queue and b"m2-r1" in body else accept(name, body)

        with patch.object(broker, "accept", cut):
            await asyncio.sleep(15)
            assert observed.runners["m2-r1"].at < control.world.clock.monotonic() - 10
            located = await client.locate("games")
        assert isinstance(located, Located) and located.state is ProgramState.RUNNING
        assert located.placement is not None and len(dict.fromkeys(located.placement.inboxes)) == 1
        await asyncio.sleep(15)
        located = await client.locate("games")
        assert isinstance(located, Located) and located.state is ProgramState.RUNNING
        assert located.placement is not None and len(dict.fromkeys(located.placement.inboxes)) == 2

    _, events = simulate(scenario)
    said = [
        (event["event"], event["name"]) for event in events if event["event"] in ("silent", "heard_again")
    ]
    assert said == [("silent", "m2"), ("silent", "m2-r1"), ("heard_again", "m2"), ("heard_again", "m2-r1")]


@pytest.mark.parametrize("seed", range(6))
def test_a_store_that_fails_now_and_then_only_delays(seed: int) -> None:
    """Whatever the store answers to the claim of a number or the creation of a base, the program comes to run, with
    the base that is in the store."""
    faults = StoreFaults(latency=Delay(mean=0.05), fails_stored=0.3, fails_absent=0.3)

    async def scenario(control: ControlPlane, client: Client) -> None:
        located = await client.running(graph_of("games"), 3)
        base = decode(Base, control.store.objects.data[base_name("games", 0)])
        assert located.placement is not None and located.placement.shard_map == base.shard_map
        assert located.graph == base.graph

    simulate(scenario, seed, Weather("bad store", store=faults))


def test_a_damaged_base_is_named_and_nothing_is_started() -> None:
    """A program whose base cannot be read is refused with the object's name; others run."""
    objects = MemoryObjects(remembers=True)
    objects.create(base_name("games", 0), b"rust")

    async def scenario(control: ControlPlane, client: Client) -> None:
        refused = await client.submit(graph_of("games"), 2)
        assert isinstance(refused, RequestRefused) and base_name("games", 0) in refused.reason
        await client.running(graph_of("others"), 2)
        assert control.nodes_of("games") == {}

    simulate(scenario, objects=objects)
