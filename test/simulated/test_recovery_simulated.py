"""Bases: who loses its machine begins there, and nobody else; what no base reaches goes; a damaged one is not used."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero.testing import log_of, recomputed_differences
from dist_zero_common.log import captured_events
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather, drawn_weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import (
    bases_prefix,
    checkpoints_prefix,
    damaged_prefix,
    generation_and_epoch_of,
    records_prefix,
)
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.checkpoints import LINKS_MAX
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS, BusyRun
from test.simulated.seeds import seeds
from test.simulated.test_moves_simulated import Mover

APP = PROGRAMS[3]


def unreliable(seed: int, profile: str = "hostile") -> SimWorld:
    """Weather of this profile over a store that is slow and fails, whether it stored or not."""
    world = SimWorld(seed, profile)
    weather = drawn_weather(profile, world.rng("weather"))
    faults = StoreFaults(latency=Delay(0.01, 0.05, 20.0), fails_stored=0.1, fails_absent=0.1)
    return SimWorld(seed, replace(weather, store=faults))


def moving_run(world: SimWorld, stages: int, transactions: int, moves: int) -> BusyRun:
    """A busy run in which machines come and go, and saves are frequent."""
    options = SequencerOptions(save_interval_seconds=0.3)
    run = BusyRun(stages=stages, nodes=4, machines=2, transactions=transactions, options=options)
    run.pauses = (0.0, 0.5, 10.0)
    run.cutter = mover = Mover(world, moves=moves)
    run.nobody_reads = mover.was_of_the_dead
    return run


@pytest.mark.parametrize("seed", seeds(3, 6))
def test_oracle_machines_come_and_go_over_a_store_that_fails(seed: int) -> None:
    """I1 and I2, where every store operation may fail, before or after it took effect."""
    world = unreliable(20_000 + seed)
    moving_run(world, stages=1 + seed % 3, transactions=40, moves=5).run(world).check()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_machines_come_and_go_over_a_store_that_fails(seed: int) -> None:
    """The same over many seeds."""
    world = unreliable(21_000 + seed, ("faithful", "hostile")[seed % 2])
    moving_run(world, stages=1 + seed % 3, transactions=90, moves=9).run(world).check()


async def put_sales(client: Client, first: int, count: int) -> None:
    """So many rows, each in a transaction of its own, some at a time."""
    tickets = []
    for number in range(first, first + count):
        transaction = client.new_transaction()
        row = {"id": number, "shop": f"s{number % 3}", "amount": float(number)}
        transaction.put("sales", row)
        tickets.append(await client.write_soon(transaction))
    for ticket in tickets:
        await ticket


async def check_views(system: SimulatedSystem, client: Client) -> None:
    """All views equal the oracle on the log."""
    snapshot = await client.snapshot()
    log = await log_of(system.store, APP.name)
    assert not recomputed_differences(
        APP.graph(), client.plan, log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
    )


def with_system(
    main: Callable[[SimulatedSystem, Client], object],
    objects: MemoryObjects,
    world: SimWorld,
    machines: int = 3,
    nodes: int = 3,
) -> None:
    """Run `main` in a system over these objects."""

    async def live() -> None:
        store = MemoryStore(objects, world)
        simulated = SimulatedSystem(world, machines=machines, store=store)
        async with simulated as system, system.connect(APP, nodes=nodes) as client:
            await main(simulated, client)  # type: ignore[misc]

    run_simulation(live(), until_seconds=20_000)


def test_only_what_was_lost_begins_again() -> None:
    """A machine dies: its node begins at a base that holds its state, in the same generation; no other node begins,
    and the sequencer, where it lives on, stays."""
    world, objects = SimWorld(1, "faithful"), MemoryObjects(remembers=True)

    async def main(system: SimulatedSystem, client: Client) -> None:
        await put_sales(client, 0, 30)
        await client.flush()
        await asyncio.sleep(5)  # everything is saved
        await put_sales(client, 30, 10)
        placement = client.placement
        sequencer = placement.nodes_inbox
        runners = [inbox.split(".")[3] for inbox in placement.inboxes]
        owner = system.broker.queues[placement.clients_inbox].consumers[0].connection.name
        victim = next(shard for shard, runner in enumerate(runners) if runner not in owner)
        with captured_events() as events:
            system.broker.queues[placement.inboxes[victim]].consumers[0].connection.drop_connection()
            await end_machine(system, runners[victim].removesuffix("-r1"))
            await put_sales(client, 40, 10)
            await client.flush()
            await check_views(system, client)
        begun = [event for event in events if event["event"] == "node_begun"]
        lost = [shard for shard, runner in enumerate(runners) if runner == runners[victim]]
        assert sorted(str(event["node"]) for event in begun) == [f"n{shard + 1}" for shard in lost]
        assert all(int(str(event["epoch"])) > 0 and int(str(event["entries"])) > 0 for event in begun)
        assert client.placement.generation == placement.generation
        assert client.placement.nodes_inbox == sequencer

    with_system(main, objects, world)


async def end_machine(system: SimulatedSystem, machine: str) -> None:
    """Kill a machine with all that runs on it, without a word."""
    task = next(task for task in asyncio.all_tasks() if task.get_name() == f"machine {machine}")
    task.cancel()
    await asyncio.sleep(0)
    assert system.name


@pytest.mark.parametrize("collects", [True, False])
def test_what_no_base_reaches_goes(collects: bool) -> None:
    """I6: while rows are changed again and again, the store holds what two bases reach and what is behind them, and
    no more than that; unless it was told to keep the log."""
    world, objects = SimWorld(3, "faithful"), MemoryObjects()
    sizes = []

    async def live() -> None:
        options = SequencerOptions(collects=collects)
        system = SimulatedSystem(world, machines=2, store=MemoryStore(objects, world), sequencer=options)
        async with system, system.connect(APP, nodes=3) as client:
            for _ in range(30):
                await put_sales(client, 0, 12)
                await client.flush()
                await asyncio.sleep(3)
                sizes.append(len(objects.names))

    run_simulation(live(), until_seconds=20_000)
    chains = 3 * LINKS_MAX  # of three nodes: so many saves are read to make a state
    assert (max(sizes) <= chains + 60) == collects
    if collects:
        assert len(objects.list(bases_prefix(APP.name))) <= 3
        assert len(objects.list(records_prefix(APP.name))) < 30


def damage_manifest(objects: MemoryObjects) -> None:
    """One bit of a checkpoint that the newest base names."""
    name = objects.list(checkpoints_prefix(APP.name) + "n2/")[-1]
    data = objects.data[name]
    objects.data[name] = data[:40] + bytes([data[40] ^ 4]) + data[41:]


def remove_manifest(objects: MemoryObjects) -> None:
    """A checkpoint that the newest base names."""
    objects.delete(objects.list(checkpoints_prefix(APP.name) + "n1/")[-1])


def cut_base(objects: MemoryObjects) -> None:
    """The end of the newest base."""
    name = objects.list(bases_prefix(APP.name))[-1]
    objects.data[name] = objects.data[name][:-8]


@pytest.mark.parametrize("damage", [damage_manifest, remove_manifest, cut_base])
def test_a_damaged_base_is_said_and_the_one_before_it_used(damage: Callable[[MemoryObjects], None]) -> None:
    """The system finds out by itself, when it is started again: nothing is lost, views are right, the mark names what
    is damaged, and the next bases are as good as ever."""
    world, objects = SimWorld(5, "faithful"), MemoryObjects(remembers=True)

    async def before(_system: SimulatedSystem, client: Client) -> None:
        for number in range(3):
            await put_sales(client, 10 * number, 10)
            await client.flush()
            await asyncio.sleep(5)

    with_system(before, objects, world)
    newest = objects.list(bases_prefix(APP.name))[-1]
    damage(objects)

    async def after(system: SimulatedSystem, client: Client) -> None:
        await put_sales(client, 30, 5)
        await client.flush()
        await check_views(system, client)
        assert len(await client.rows("per_shop")) == 3
        await asyncio.sleep(5)

    with captured_events() as events:
        with_system(after, objects, SimWorld(6, "faithful"))
    (mark, *_) = objects.list(damaged_prefix(APP.name))
    assert b"object programs/" in objects.data[mark]
    assert any(event["event"] == "base_damaged" for event in events)
    base = objects.list(bases_prefix(APP.name))[-1]
    assert generation_and_epoch_of(base) > generation_and_epoch_of(newest)
    with_system(after, objects, SimWorld(7, "faithful"))


def test_a_client_is_known_after_its_writes_were_collected() -> None:
    """The count of a client's transactions is in the base: a loader that comes back after the log that had them is
    gone goes on where it stopped, and a number that comes again with other writes is refused."""
    world, objects = SimWorld(8, "faithful"), MemoryObjects()

    async def first(system: SimulatedSystem, _client: Client) -> None:
        async with system.connect(APP.name, client_id="loader") as loader:
            await put_sales(loader, 0, 7)
            await loader.flush()
            for _ in range(4):
                await asyncio.sleep(3)
                await _client.put("shops", {"shop": "s1", "town": "here"})

    with_system(first, objects, world)
    assert min(int(name[-20:]) for name in objects.list(records_prefix(APP.name))) > 8

    async def second(system: SimulatedSystem, _client: Client) -> None:
        async with system.connect(APP.name, client_id="loader") as loader:
            assert loader.committed == 7
            await put_sales(loader, 7, 1)
            assert loader.committed == 8

    with_system(second, objects, SimWorld(9, "faithful"))


def test_a_watcher_goes_on_over_bases_and_a_new_sequencer() -> None:
    """A subscription is in the bases: a watcher hears of every epoch, once, though the record of its subscription was
    collected, and its nodes and sequencer began again elsewhere since."""
    world, objects = SimWorld(11, "faithful"), MemoryObjects()

    async def main(system: SimulatedSystem, client: Client) -> None:
        epochs: list[int] = []

        async def watch() -> None:
            with client.watch_stored((0,)) as changes:
                async for change in changes:
                    epochs.append(change.epoch)

        watching = asyncio.create_task(watch())
        for number in range(4):
            await put_sales(client, 10 * number, 10)
            await client.flush()
            await asyncio.sleep(4)
        owner = system.broker.queues[client.placement.clients_inbox].consumers[0].connection.name
        await end_machine(system, next(m for m in ("m1", "m2", "m3") if f"-{m}-" in owner))
        await put_sales(client, 40, 10)
        newest = await client.flush()
        while not epochs or epochs[-1] < newest:
            await asyncio.sleep(1)
        assert epochs == [*range(epochs[0], epochs[-1] + 1)]
        watching.cancel()

    with_system(main, objects, world)


SLOWER = 25.0


@pytest.mark.parametrize(
    "usual", [Delay(0.0002), Delay(0.005, 0.1, 10.0), Delay(0.02), Delay(0.005, 0.01, 25.0)]
)
def test_calm_weather_and_a_broker_twenty_five_times_slower_lose_nobody(usual: Delay) -> None:
    """Slow is not lost: where every message takes 25 times as long as it usually does, up to half a second on average
    and more for some, no node begins twice, no sequencer is started again, and there is one generation."""
    world = SimWorld(12, Weather("slow", transit=replace(usual, mean=SLOWER * usual.mean), late_confirm=0.2))
    run = BusyRun(stages=3, nodes=4, machines=2, transactions=24)
    with captured_events() as events:
        run.run(world).check()
    begun = [str(event["node"]) for event in events if event["event"] == "node_begun"]
    assert sorted(begun) == ["n1", "n2", "n3", "n4"]
    counts = Counter(str(event["event"]) for event in events)
    assert (counts["sequencer_started"], counts["generation_opened"]) == (1, 1)
