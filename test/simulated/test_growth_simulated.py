"""Programs that grow and shrink by themselves, and machines with them: under load and without any, in bad weather, and
whichever scheduler leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import RequestError
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.messages.reading import AwaitEpoch
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits, ProgramState, SystemStatus
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from services.scheduler.growth import GrowthOptions
from test.simulated.property_world import PROGRAMS, BusyRun, Cutter, Sale
from test.simulated.schedulers import Schedulers
from test.simulated.test_moves_simulated import Mover
from test.simulated.test_recovery_simulated import unreliable
from test.simulated.test_scaling_simulated import remote

GROWTH = GrowthOptions(
    rows_per_second=10.0, smooth_seconds=3.0, up_seconds=5.0, down_seconds=30.0, cooldown_seconds=10.0
)
HASTY = GrowthOptions(
    rows_per_second=2.0, smooth_seconds=1.0, up_seconds=1.0, down_seconds=6.0, cooldown_seconds=2.0
)
"""As restless as can be."""


@dataclass
class Loader:
    """Writes rows at a given rate, and knows how many there have to be."""

    client: Client
    rows: int = 0

    async def load(self, rate: int, seconds: float) -> None:
        """So many rows a second for so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            numbers = range(self.rows, self.rows + rate)
            await self.client.put(
                "sales", [{"id": number, "shop": f"s{number % 50}", "amount": 1.0} for number in numbers]
            )
            self.rows += rate
            await asyncio.sleep(1.0)

    async def check(self) -> None:
        """Each row is counted once."""
        counted = sum(row.n for row in await self.client.rows("per_shop"))
        assert counted == self.rows


@dataclass
class Watched:
    """Asks for the status each second. `most`: the most nodes and machines that there were."""

    there: RemoteSystem
    newest: SystemStatus | None = None
    nodes: list[int] = field(default_factory=list)
    machines: list[int] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.newest = await self.there.status()
            self.nodes.append(len(self.newest.programs[0].nodes))
            self.machines.append(sum(machine.ready for machine in self.newest.machines))
            await asyncio.sleep(1.0)

    async def until(self, what: Callable[[SystemStatus], bool], seconds: float = 300.0) -> SystemStatus:
        """Until the status is like that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            if self.newest is not None and what(self.newest):
                return self.newest
            await asyncio.sleep(0.5)
        raise AssertionError(self.newest)


def is_asleep(status: SystemStatus) -> bool:
    """Whether the one program sleeps, and no machine is left."""
    return status.programs[0].state is ProgramState.ASLEEP and not status.machines


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(s, marks=pytest.mark.long) for s in range(2, 20))]
)
def test_nodes_and_machines_follow_the_load(seed: int) -> None:
    """More load makes more of both, up to the limits and never beyond; less load makes less, down to nothing; a write
    wakes all, and each row is there once. The status says what was done and why."""
    world = SimWorld(seed, ("calm", "faithful", "hostile")[seed % 3])

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system, system.connect(PROGRAMS[2], nodes=1) as client:
            loader, watched = Loader(client), Watched(remote(simulated, "watched"))
            watching = asyncio.create_task(watched.run())
            there = remote(simulated, "remote")
            await there.autoscale("stages-2", NodeLimits(1, 6, 90), MachineLimits(0, 4))
            await loader.load(5, 60)
            assert (max(watched.nodes), max(watched.machines)) == (1, 1)
            await loader.load(50, 120)
            status = await watched.until(lambda status: len(status.programs[0].nodes) == 6)
            assert sum(machine.ready for machine in status.machines) == 4
            assert "times what a node may" in status.programs[0].growth
            assert "4 wanted, of 0 to 4" in status.growth
            await loader.check()
            await loader.load(2, 180)
            status = await watched.until(lambda status: len(status.programs[0].nodes) == 1)
            await loader.load(2, 20)
            assert [machine.machine for machine in status.machines if not machine.note] == ["m1"]
            assert (max(watched.nodes), max(watched.machines)) == (6, 4)
            await watched.until(is_asleep)
            await asyncio.sleep(100)
            await loader.load(3, 10)
            await loader.check()
            assert len((await there.status()).machines) == 1
            watching.cancel()

    run_simulation(live(), until_seconds=5_000)


@dataclass
class Grower(Cutter):
    """Lets a program grow by itself, and troubles it with whatever else there is."""

    world: SimWorld
    program: str
    limits: NodeLimits
    other: Cutter | None = None

    def watch_over(self, system: SimulatedSystem) -> None:
        self.system = system
        if self.other is not None:
            self.other.watch_over(system)

    async def run(self) -> None:
        await remote(self.system, "grower").autoscale(self.program, self.limits, MachineLimits(0, 3))
        if self.other is not None:
            await self.other.run()


def grown_run(world: SimWorld, seed: int, transactions: int) -> tuple[BusyRun, Sequence[str]]:
    """A busy run that grows; returns it with why it grew and shrank."""
    stages = 1 + seed % 3
    options = SequencerOptions(save_interval_seconds=0.5)
    run = BusyRun(stages, 1 + seed % 4, 2, transactions, options=options, growth=HASTY)
    run.pauses = (0.0, 0.5, 5.0) if seed % 2 else (0.0, 0.0, 20.0)
    limits = NodeLimits(1, 5, (0, 4)[seed // 2 % 2])
    other = None
    if seed % 5 == 4:
        other = Mover(world, moves=4)
        run.nobody_reads = other.was_of_the_dead
    run.cutter = Grower(world, PROGRAMS[stages].name, limits, other)
    with captured_events() as events:
        run.run(world).check()
    return run, [str(event["reason"]) for event in events if event["event"] == "growth_decided"]


@pytest.mark.parametrize("first", [0, pytest.param(5, marks=pytest.mark.long)])
def test_oracle_views_are_right_while_programs_grow_and_shrink(first: int) -> None:
    """I1 and I2 at every epoch, by a policy without any patience, with sleeps of seconds, and machines that die; and
    all of it has happened."""
    reasons: list[str] = []
    for seed in range(first, first + 5):
        world = unreliable(61_000 + seed) if seed % 3 == 0 else SimWorld(61_000 + seed, "hostile")
        reasons += grown_run(world, seed, 60)[1]
    for part in ("times what a node may", "all together bore", "asleep", "there is work", "there was work"):
        assert any(part in reason for reason in reasons), (part, reasons)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_views_are_right_while_programs_grow_and_shrink(seed: int) -> None:
    """The same over many seeds."""
    world = unreliable(62_000 + seed) if seed % 3 == 0 else SimWorld(62_000 + seed, "hostile")
    grown_run(world, seed, 120)


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(s, marks=pytest.mark.long) for s in range(6, 60))]
)
def test_nothing_is_lost_around_the_moment_of_falling_asleep(seed: int) -> None:
    """Writers that come just before, while and just after a program is put to sleep, or much later, are served, each
    row once; and readers and those who submit it again find it."""
    world = SimWorld(63_000 + seed, ("calm", "faithful", "hostile")[seed % 3])
    rng = world.rng("sleepers")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system, system.connect(PROGRAMS[2], nodes=2) as client:
            loader, watched = Loader(client), Watched(remote(simulated, "watched"))
            watching = asyncio.create_task(watched.run())
            await remote(simulated, "remote").autoscale("stages-2", NodeLimits(1, 6, 20), MachineLimits(0, 4))
            await loader.load(3, 5)
            for _ in range(4):
                await watched.until(lambda status: status.programs[0].state is ProgramState.RUNNING)
                await watched.until(lambda status: status.programs[0].state is ProgramState.ASLEEP)
                await asyncio.sleep(rng.choice((0.0, 0.05, 0.3, 1.0, 5.0, 500.0)))
                match rng.randrange(3):
                    case 0:
                        await loader.load(3, 2)
                    case 1:
                        got = await client.get("per_shop", "s1")
                        assert got is not None and vars(got)["n"] >= 1
                    case 2:
                        async with system.connect(PROGRAMS[2], nodes=1) as other:
                            await Loader(other, loader.rows).check()
            await loader.load(3, 2)
            await loader.check()
            watching.cancel()

    run_simulation(live(), until_seconds=20_000)


def test_a_message_in_its_inbox_wakes_a_program() -> None:
    """Also if whoever sent it is gone, and asks for nothing any more."""
    world = SimWorld(6, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system, system.connect(PROGRAMS[2], nodes=1) as client:
            await client.put("sales", {"id": 1, "shop": "s", "amount": 1.0})
            there = remote(simulated, "remote")
            await there.autoscale("stages-2", NodeLimits(1, 6, 30), MachineLimits(0, 4))
            watched = Watched(there)
            watching = asyncio.create_task(watched.run())
            await watched.until(is_asleep)
            await asyncio.sleep(60)
            client.send(client.placement.clients_inbox, AwaitEpoch(1, 1, client.replies))
            await watched.until(lambda status: status.programs[0].state is ProgramState.RUNNING)
            watching.cancel()

    run_simulation(live(), until_seconds=2_000)


def test_a_program_that_sleeps_can_be_removed() -> None:
    """Then nothing wakes it any more; who submits it again goes on from its log, and it does not grow by itself."""
    world = SimWorld(7, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system:
            there = remote(simulated, "remote")
            async with system.connect(PROGRAMS[2], nodes=1) as client:
                loader = Loader(client)
                await loader.load(3, 5)
                await there.autoscale("stages-2", NodeLimits(1, 6, 30), MachineLimits(0, 4))
                watched = Watched(there)
                watching = asyncio.create_task(watched.run())
                await watched.until(is_asleep)
                watching.cancel()
            await there.remove("stages-2")
            assert not (await there.status()).programs
            with pytest.raises(RequestError, match="no program 'stages-2' runs"):
                await there.scale("stages-2", 2)
            async with system.connect(PROGRAMS[2], nodes=1) as client:
                await Loader(client, loader.rows).check()
            assert (await there.status()).programs[0].growth == ""

    run_simulation(live(), until_seconds=2_000)


def test_whoever_watches_keeps_a_program_awake() -> None:
    """Somebody who waits for changes wants something of it."""
    world = SimWorld(4, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system, system.connect(PROGRAMS[2], nodes=1) as client:
            await client.put("sales", {"id": 1, "shop": "s", "amount": 1.0})
            there = remote(simulated, "remote")

            async def watch() -> None:
                async for _ in client.watch("per_shop"):
                    pass

            watching = asyncio.create_task(watch())
            await there.autoscale("stages-2", NodeLimits(1, 6, 60), MachineLimits(0, 4))
            with captured_events() as events:
                await asyncio.sleep(600)
            assert (await there.status()).programs[0].state is ProgramState.RUNNING
            assert not [event for event in events if event["event"] in ("program_woken", "growth_decided")]
            watching.cancel()
            await asyncio.sleep(120)
            assert (await there.status()).programs[0].state is ProgramState.ASLEEP

    run_simulation(live(), until_seconds=5_000)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in range(1, 40))])
def test_growth_goes_on_whichever_scheduler_leads(seed: int) -> None:
    """The one that leads dies each time that something was decided, or soon after. Limits, what sleeps, how many
    machines there shall be and what is given back are remembered; nothing is commanded that the log does not say."""
    world = SimWorld(64_000 + seed, "faithful")
    rng = world.rng("deaths")

    async def live() -> None:
        schedulers = Schedulers(world, machines=1, growth=GROWTH)
        async with schedulers as system, system.connect(PROGRAMS[2], nodes=1) as client:
            system.start_scheduler("next0")
            loader = Loader(client)
            there = remote(system, "remote")
            await there.autoscale("stages-2", NodeLimits(1, 6, 60), MachineLimits(0, 4))

            async def kill() -> None:
                decided = 0
                while True:
                    await asyncio.sleep(rng.choice((0.01, 0.3)))
                    now = [event for event in events if event["event"] == "growth_decided"]
                    if len(now) > decided:
                        decided = len(now)
                        await asyncio.sleep(rng.choice((0.0, 0.02, 0.5, 3.0)))
                        leading = system.witness.state.name.rpartition("-")[0]
                        await system.kill_scheduler(leading)
                        system.start_scheduler(f"next{decided}")

            with captured_events() as events:
                killing = asyncio.create_task(kill())
                await loader.load(50, 150)
                status = await there.status()
                assert len(status.programs[0].nodes) == 6
                assert sum(machine.ready for machine in status.machines) == 4
                await loader.load(2, 240)
                status = await there.status()
                assert len(status.programs[0].nodes) == 1
                assert [machine.machine for machine in status.machines if not machine.note] == ["m1"]
                watched = Watched(there)
                watching = asyncio.create_task(watched.run())
                await watched.until(is_asleep)
                await asyncio.sleep(60)
                await watched.until(is_asleep)
                await loader.load(3, 10)
                await loader.check()
                killing.cancel()
                watching.cancel()
        assert not system.witness.wrong, system.witness.wrong[:3]
        assert len(system.witness.claims) >= 4

    run_simulation(live(), until_seconds=5_000)


def test_a_number_of_nodes_ends_growth_and_limits_are_checked() -> None:
    """Who asks for a number has it from then on, whatever the load; limits that make no sense are refused with what is
    wrong, and change nothing."""
    world = SimWorld(5, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2, growth=GROWTH)
        async with simulated as system, system.connect(PROGRAMS[2], nodes=1) as client:
            loader, there = Loader(client), remote(simulated, "remote")
            await there.autoscale("stages-2", NodeLimits(1, 6, 0))
            await loader.load(50, 60)
            status = await there.status()
            assert len(status.programs[0].nodes) == 6 and "automatic" in status.programs[0].growth
            assert len(status.machines) == 2 and status.growth == ""
            await there.scale("stages-2", 2)
            await loader.load(50, 60)
            status = await there.status()
            assert len(status.programs[0].nodes) == 2 and status.programs[0].growth == ""
            for nodes, machines, why in (
                (NodeLimits(0, 1, 0), None, "between 1 and 4096 nodes"),
                (NodeLimits(3, 2, 0), None, "not between 3 to 2"),
                (NodeLimits(1, 5000, 0), None, "4096"),
                (NodeLimits(1, 2, 0), MachineLimits(0, 0), "0 to 10000 machines"),
                (NodeLimits(1, 2, 0), MachineLimits(3, 2), "not 3 to 2"),
                (NodeLimits(1, 2, 0), MachineLimits(1, 10_001), "10000"),
            ):
                with pytest.raises(RequestError, match=why):
                    await there.autoscale("stages-2", nodes, machines)
            with pytest.raises(RequestError, match="no program 'other' runs"):
                await there.autoscale("other", NodeLimits(1, 2, 0))
            assert (await there.status()).programs[0].growth == ""
            await loader.check()

    run_simulation(live(), until_seconds=2_000)


def test_a_program_that_sleeps_is_changed() -> None:
    """The wish wakes it; it is filled, and may sleep again."""
    world = SimWorld(9, "faithful")
    changed = dz.Program("stages-2")
    sales = changed.dataset("sales", Sale, key="id")
    changed.view("per_shop", sales.group_by("shop").agg(n=dz.count()))

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=1, growth=GROWTH)
        async with simulated as system:
            there = remote(simulated, "remote")
            async with system.connect(PROGRAMS[2], nodes=1) as client:
                for number in range(20):
                    await client.put("sales", {"id": number, "shop": "s", "amount": 1.0})
                await there.autoscale("stages-2", NodeLimits(1, 6, 30), MachineLimits(0, 4))
            watched = Watched(there)
            watching = asyncio.create_task(watched.run())
            await watched.until(is_asleep)
            await there.change(changed)
            async with system.connect("stages-2") as client:
                assert [(row.shop, row.n) for row in await client.rows("per_shop")] == [("s", 20)]
            await watched.until(is_asleep)
            watching.cancel()
            async with system.connect("stages-2") as client:
                assert [(row.shop, row.n) for row in await client.rows("per_shop")] == [("s", 20)]

    run_simulation(live(), until_seconds=5_000)
