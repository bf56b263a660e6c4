"""A scheduler that is started again: programs go on, and those that shall run do."""

from __future__ import annotations

import asyncio

import pytest

import dist_zero as dz
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import RequestError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import bases_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.scheduler.lead import LeadOptions
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.none import NoSpawner
from services.scheduler.state import SchedulerOptions
from test.simulated.asking import asker

app = dz.Program("scores")


class Score(dz.Row):
    player: str
    points: int


scores = app.dataset("scores", Score, key="player")
app.view("total", scores.group_by().agg(points=dz.sum("points")))


class Recalled(SimulatedSystem):
    """A system of which the scheduler can be ended and started, and keeps its programs; the machines stay."""

    def scheduler(self) -> asyncio.Task[None]:
        service = SchedulerService(
            system=self.name,
            connect=self.connector("scheduler"),
            store=self.store,
            clock=self.clock,
            spawner=NoSpawner(2),
            log=get_logger("scheduler", self.clock),
            options=SchedulerOptions(machines=2, keeps_programs=True),
            lead=LeadOptions(name=f"scheduler-{self.clock.now_us()}"),
        )
        return asyncio.create_task(service.run(), name="scheduler")

    async def __aenter__(self) -> Recalled:
        await super().__aenter__()
        return self

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for machine in ("m1", "m2"):
                tasks.create_task(self._run_machine(machine))


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def test_a_scheduler_started_again_goes_on_with_what_runs() -> None:
    """While there is none, writes and reads go on; the next one finds the program where it is and moves nothing."""
    world = SimWorld(3, "faithful")

    async def live() -> None:
        async with Recalled(world, machines=2) as system:
            first = system.scheduler()
            async with system.connect(app, nodes=3) as client:
                await client.put("scores", {"player": "ann", "points": 7})
                generation = client.placement.generation
                await end(first)
                await client.put("scores", {"player": "bob", "points": 5})
                assert [row.points for row in await client.rows("total")] == [12]
                second = system.scheduler()
                await asyncio.sleep(20)
                async with system.connect("scores") as other:
                    assert other.placement.generation == generation
                    assert [row.points for row in await other.rows("total")] == [12]
            await end(second)

    with captured_events() as events:
        run_simulation(live(), until_seconds=1_000)
    assert [event["generation"] for event in events if event["event"] == "program_adopted"]
    assert len([event for event in events if event["event"] == "program_placed"]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_told_that_a_program_does_not_run_before_it_was_recalled(seed: int) -> None:
    """Who asks a scheduler that is just starting waits until it knows what shall run."""
    world = SimWorld(seed, "faithful")

    async def live() -> None:
        async with Recalled(world, machines=2) as system:
            first = system.scheduler()
            async with system.connect(app, nodes=2) as client:
                await client.put("scores", {"player": "ann", "points": 7})
            await end(first)
            second = system.scheduler()
            async with system.connect("scores") as other:
                assert [row.points for row in await other.rows("total")] == [7]
            await end(second)

    run_simulation(live(), until_seconds=1_000)


def test_programs_run_again_after_all_was_switched_off_unless_they_were_removed() -> None:
    """The store alone says which."""
    world = SimWorld(4, "faithful")
    objects = MemoryObjects(remembers=True)

    async def live() -> None:
        async with Recalled(world, machines=2, store=MemoryStore(objects, world)) as system:
            first = system.scheduler()
            async with system.connect(app, nodes=2) as client:
                await client.put("scores", {"player": "ann", "points": 7})
            await end(first)
        async with Recalled(world, machines=2, store=MemoryStore(objects, world)) as system:
            second = system.scheduler()
            await asyncio.sleep(10)
            async with system.connect("scores") as client:
                assert [row.points for row in await client.rows("total")] == [7]
            async with asker(system, "remover") as asking:
                await asking.remove("scores")
            await end(second)
        async with Recalled(world, machines=2, store=MemoryStore(objects, world)) as system:
            third = system.scheduler()
            await asyncio.sleep(10)
            try:
                async with system.connect("scores"):
                    raise AssertionError("it was removed, and runs")
            except RequestError as refused:
                assert "no program 'scores' runs" in str(refused)
            await end(third)

    run_simulation(live(), until_seconds=1_000)


def test_a_program_that_cannot_be_recalled_is_not_forgotten() -> None:
    """Its bases are damaged, so it does not run, and that is said; when they are back, the next scheduler runs it. It
    can be removed all the same."""
    world = SimWorld(4, "faithful")
    objects = MemoryObjects()
    good: dict[str, bytes] = {}

    def damage() -> None:
        good.update((name, objects.data[name]) for name in objects.list(bases_prefix("scores")))
        objects.data.update((name, data[:-1]) for name, data in good.items())

    async def live() -> None:
        async with Recalled(world, machines=2, store=MemoryStore(objects, world)) as system:
            first = system.scheduler()
            async with system.connect(app, nodes=2) as client:
                await client.put("scores", {"player": "ann", "points": 7})
            await end(first)
            await asyncio.sleep(5)  # nothing is written any more
            damage()
            second = system.scheduler()
            await asyncio.sleep(10)
            async with asker(system, "asker") as asking:
                assert (await asking.status()).programs == ()
                await end(second)
                objects.data.update(good)
                third = system.scheduler()
                async with system.connect("scores") as client:
                    assert [row.points for row in await client.rows("total")] == [7]
                await asyncio.sleep(5)
                await end(third)
                damage()
                fourth = system.scheduler()
                await asking.remove("scores")
                await asyncio.sleep(5)
                await end(fourth)
            objects.data.update(good)
            fifth = system.scheduler()
            async with asker(system, "last") as asking:
                assert (await asking.status()).programs == ()
            await end(fifth)

    with captured_events() as events:
        run_simulation(live(), until_seconds=1_000)
    assert len([event for event in events if event["event"] == "program_lost"]) == 2
