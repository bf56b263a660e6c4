"""Who dies is missed at once; who is slow, or loses his connection, is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.log import captured_events
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.scheduler.state import SchedulerOptions
from services.scheduler.unread import MISSED_SECONDS
from test.simulated.test_recovery_simulated import APP, check_views, end_machine, put_sales

REGAIN_SECONDS = SchedulerOptions().regain_seconds

Scenario = Callable[[SimulatedSystem, Client, str], Awaitable[None]]


def with_victim(seed: int, scenario: Scenario) -> list[dict[str, object]]:
    """Three machines, no one of which is replaced when it ends; one that does not have the sequencer is the victim."""

    async def live() -> None:
        world = SimWorld(seed, Weather("fair", transit=Delay(0.002, 0.02, 5.0)))
        store = MemoryStore(MemoryObjects(remembers=True), world)
        simulated = SimulatedSystem(world, machines=3, store=store)
        async with simulated as system, system.connect(APP, nodes=3) as client:
            await put_sales(client, 0, 30)
            await client.flush()
            await asyncio.sleep(10)
            placement = client.placement
            owner = system.broker.queues[placement.clients_inbox].consumers[0].connection.name
            runners = [inbox.split(".")[3] for inbox in placement.inboxes]
            victim = next(runner for runner in runners if runner not in owner)
            await scenario(simulated, client, victim)

    with captured_events() as events:
        run_simulation(live(), until_seconds=20_000)
    return list(events)


@contextmanager
def reports_cut(system: SimulatedSystem, runner: str) -> Iterator[None]:
    """What this runner says to the scheduler does not arrive."""
    accept, queue = system.broker.accept, scheduler_inbox(system.name)

    def cut(name: str, body: bytes) -> int:
        return 0 if name == queue and runner.encode() in body else accept(name, body)

    system.broker.accept = cut  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        system.broker.accept = accept  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_that_dies_for_good_is_missed_at_once(seed: int) -> None:
    """No machine takes its place: a write made right behind its death is finished as soon as that was seen, and the
    time in which it might have come back is over; silence alone would have taken ten seconds."""

    async def scenario(system: SimulatedSystem, client: Client, victim: str) -> None:
        async def nothing(host: str) -> None:
            """No machine takes its place."""

        system._spawner.spawn = nothing  # type: ignore[method-assign]
        start = asyncio.get_running_loop().time()
        await end_machine(system, victim.removesuffix("-r1"))
        await put_sales(client, 30, 1)
        await client.flush()
        seconds = asyncio.get_running_loop().time() - start
        assert seconds < MISSED_SECONDS + REGAIN_SECONDS + 2.5
        await check_views(system, client)

    events = with_victim(seed, scenario)
    assert [event["event"] for event in events].count("inbox_unread") == 1


def test_a_machine_that_is_slow_is_given_its_time() -> None:
    """Nothing is heard of it for six seconds, but it keeps its connection: nothing is placed anew."""

    async def scenario(system: SimulatedSystem, client: Client, victim: str) -> None:
        with reports_cut(system, victim):
            await asyncio.sleep(6)
        await asyncio.sleep(5)
        await client.flush()

    events = with_victim(1, scenario)
    assert [event["event"] for event in events].count("program_placed") == 1


def test_a_connection_that_is_lost_is_made_again_before_anybody_is_missed() -> None:
    """Also when reports had been missed just before, and are missed after."""

    async def scenario(system: SimulatedSystem, client: Client, victim: str) -> None:
        with reports_cut(system, victim):
            await asyncio.sleep(1.2)
            inbox = next(inbox for inbox in client.placement.inboxes if victim in inbox)
            system.broker.queues[inbox].consumers[0].connection.drop_connection()
            await asyncio.sleep(4)
        await asyncio.sleep(5)
        await client.flush()

    events = with_victim(2, scenario)
    assert [event["event"] for event in events].count("program_placed") == 1
