"""Fault plans, processes, the injector: drawn from the seed alone, applied between any two steps, and counted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from dist_zero.testing import SeedOptions, run_seed
from dist_zero_common.broker.base import Delivery, Queue
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.errors import ConnectionLost, SettingsError, StoreError
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.plan import KINDS, checked_kinds, drawn_faults
from dist_zero_common.sim.processes import CURRENT, GuardedStore, Process, SkewedClock, guarded_connector
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from test.simulated.property_world import PROGRAMS


def process(name: str = "r1", machine: str = "m1", seed: int = 0) -> Process:
    return Process("runner", name, machine, random.Random(seed))


# ---- plans -------------------------------------------------------------------------------------------------


def test_a_plan_follows_from_its_seed() -> None:
    """The same seed draws the same plan, in order of time and within the horizon; others draw others."""
    plans = [drawn_faults(seed, KINDS, 3) for seed in range(50)]
    assert plans == [drawn_faults(seed, KINDS, 3) for seed in range(50)]
    assert len({plan.faults for plan in plans}) > 45
    for plan in plans:
        times = [fault.at_seconds for fault in plan.faults]
        assert times == sorted(times)
        for fault in plan.faults:
            assert 0 <= fault.at_seconds <= plan.horizon_seconds
            if fault.kind not in ("crash", "restart"):
                assert fault.at_seconds + fault.duration_seconds <= plan.horizon_seconds + 0.001


def test_seeds_differ_in_what_goes_wrong_at_all() -> None:
    """Swarm: some seeds have few kinds, some have all, and every kind comes in many seeds."""
    kinds = [{fault.kind for fault in drawn_faults(seed, KINDS, 2).faults} for seed in range(200)]
    assert min(map(len, kinds)) <= 1 and max(map(len, kinds)) == len(KINDS)
    counts = Counter(kind for each in kinds for kind in each)
    assert min(counts[kind] for kind in KINDS) > 50


def test_kinds_left_out_leave_the_others_drawn() -> None:
    """A kind that is not wanted takes nothing from the chance of others: the seed has the same kinds without it."""
    for seed in range(30):
        every = {fault.kind for fault in drawn_faults(seed, KINDS, 2).faults}
        some = {fault.kind for fault in drawn_faults(seed, ("crash", "store"), 2).faults}
        assert some == every & {"crash", "store"}
    assert drawn_faults(1, (), 2).faults == ()


def test_kinds_are_checked() -> None:
    """A list of kinds comes in their order; what is none is refused with those that there are."""
    assert checked_kinds("store, crash") == ("crash", "store")
    assert checked_kinds("all") == tuple(KINDS)
    assert checked_kinds("none") == ()
    with pytest.raises(SettingsError, match="'crush' is no kind of fault; there are crash, restart"):
        checked_kinds("crash,crush")


# ---- processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(12))
def test_a_crash_falls_between_any_two_steps(steps: int) -> None:
    """A process that is killed after n steps has done what n steps do, and does no more; who started it hears."""

    async def scenario() -> list[int]:
        done: list[int] = []

        async def main() -> None:
            for number in range(1_000):
                done.append(number)
                await asyncio.sleep(0)

        victim = process()
        victim.crash_after(steps)
        await victim.live(main())
        assert victim.killed and victim.ended
        await asyncio.sleep(10)
        return done

    assert run_simulation(scenario()) == list(range(steps))


def test_what_a_dead_process_still_does_reaches_nobody() -> None:
    """A process that will not hear of being cancelled can send nothing, store nothing and connect no more."""

    async def scenario() -> None:
        broker, objects = MemoryBroker(SimWorld(1)), MemoryObjects()
        connector, store = guarded_connector(broker.connector), GuardedStore(MemoryStore(objects))
        await broker.connect("owner").declare(Queue("q"))
        refused: list[str] = []

        async def tried(what: Callable[[], Awaitable[object]]) -> None:
            try:
                await what()
            except (ConnectionLost, StoreError) as error:
                refused.append(type(error).__name__)

        async def main() -> None:
            connection = await connector("victim")()
            await connection.publish("q", b"alive")
            try:
                await asyncio.sleep(1_000)
            finally:
                await tried(lambda: connection.publish("q", b"dead"))
                await tried(lambda: store.create("a/b", b"dead"))
                await tried(connector("victim"))

        victim = process()
        running = asyncio.create_task(victim.live(main()))
        await asyncio.sleep(5)
        victim.kill()
        await running
        assert refused == ["ConnectionLost", "StoreError", "ConnectionLost"]
        assert broker.depths()["q"].published == 1 and not objects.data

    run_simulation(scenario())


def test_writes_that_are_on_their_way_at_a_death_may_arrive_or_not() -> None:
    """Over many deaths in the middle of a write, both come to pass."""
    slow = Weather("slow", store=StoreFaults(Delay(1.0)))

    async def scenario(seed: int) -> bool:
        objects = MemoryObjects()
        store = GuardedStore(MemoryStore(objects, SimWorld(seed, slow)))
        victim = process(seed=seed)

        async def main() -> None:
            await store.create("a/b", b"x")

        running = asyncio.create_task(victim.live(main()))
        await asyncio.sleep(0.01)
        victim.kill()
        await running
        await asyncio.sleep(100)
        return bool(objects.data)

    assert {run_simulation(scenario(seed)) for seed in range(20)} == {False, True}


def test_a_stopped_process_does_nothing_and_goes_on_where_it_was() -> None:
    """Others go on meanwhile, also the broker in what it delivers; then the process does all that had come, in
    order, and its timers that are over."""

    async def scenario() -> None:
        world = SimWorld(2, "calm")
        broker = MemoryBroker(world)
        connector = guarded_connector(broker.connector)
        await broker.connect("owner").declare(Queue("q"))
        heard: list[tuple[float, bytes]] = []
        ticks: list[float] = []
        loop = asyncio.get_running_loop()

        async def main() -> None:
            inbox: asyncio.Queue[Delivery] = asyncio.Queue()
            connection = await connector("zombie")()
            await connection.consume("q", inbox.put_nowait, 0)

            async def tick() -> None:
                while True:
                    await asyncio.sleep(1)
                    ticks.append(loop.time())

            ticking = asyncio.create_task(tick())
            while len(heard) < 6:
                heard.append((loop.time(), (await inbox.get()).body))
                heard[-1] = (loop.time(), heard[-1][1])
            ticking.cancel()

        zombie = process()
        running = asyncio.create_task(zombie.live(main()))
        other = broker.connect("other")
        for number in range(6):
            await asyncio.sleep(1.5)
            if number == 2:
                zombie.pause()
            await other.publish("q", b"%d" % number)
        assert [body for _, body in heard] == [b"0", b"1"]
        zombie.go_on()
        await running
        assert [body for _, body in heard] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert all(at == 9.0 for at, _ in heard[2:])
        assert not [at for at in ticks if 4.5 < at < 9.0]

    run_simulation(scenario())


def test_one_way_partitions_hold_messages_up() -> None:
    """With `sends` what a process publishes comes when it is over; with `receives` what it is sent does."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(2, "calm"))
        loop = asyncio.get_running_loop()
        mine, other = broker.connect("mine"), broker.connect("other")
        victim = process()
        victim.connected_by(mine)
        arrived: dict[str, float] = {}

        def note(delivery: Delivery) -> None:
            arrived[delivery.body.decode()] = loop.time()

        for connection, queue in ((mine, "mine"), (other, "other")):
            await connection.declare(Queue(queue))
            await connection.consume(queue, note, 0)
        victim.cut_off(until=5.0, sends=True, receives=False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mine.publish("other", b"late"))
            tasks.create_task(other.publish("mine", b"at once"))
        victim.cut_off(until=9.0, sends=False, receives=True)
        await other.publish("mine", b"held")
        await mine.publish("other", b"goes")
        await asyncio.sleep(20)
        assert arrived == {"late": 5.0, "at once": 0.0, "held": 9.0, "goes": 5.0}

    run_simulation(scenario())


def test_clocks_are_wrong_by_machine() -> None:
    """A jump is seen by the processes of that machine, in `now_us` alone."""

    async def scenario() -> None:
        world = SimWorld(1)
        clock = SkewedClock(world.clock)
        clock.jump("m1", 5_000_000)
        seen: dict[str, tuple[int, float]] = {}

        async def look(machine: str) -> None:
            seen[machine] = clock.now_us(), clock.monotonic()

        for machine in ("m1", "m2"):
            await process(machine=machine).live(look(machine))
        assert seen["m1"][0] - seen["m2"][0] == 5_000_000 and seen["m1"][1] == seen["m2"][1]
        assert clock.now_us() == world.clock.now_us() and CURRENT.get() is None

    run_simulation(scenario())


# ---- in whole runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_is_really_applied(kind: str) -> None:
    """Alone, over some seeds: it is counted, changes the history, and breaks nothing."""
    options = SeedOptions(transactions=18, faults=(kind,))
    seeds = [seed for seed in range(60) if options.plan(seed).faults][:3]
    results = [run_seed(PROGRAMS[2], seed, options) for seed in seeds]
    assert [failure.text for result in results for failure in result.failures] == []
    assert {name.partition(" ")[0] for result in results for name in result.faults} == {kind}
    hit = next(result for result in results if result.faults)
    calm = run_seed(PROGRAMS[2], hit.seed, SeedOptions(transactions=18, faults=()))
    assert calm.failures == () and calm.faults == {} and calm.history != hit.history
    told = {"loss": "lose", "duplicate": "duplicate", "store": "store_failed", "broker": "broker_lost"}
    assert kind not in told or sum(result.events.get(told[kind], 0) for result in results) > 0


def test_ways_of_recovering_are_gone() -> None:
    """I7: over some seeds, runners are found dead, schedulers start again, programs are placed anew, stores fail."""
    events: Counter[str] = Counter()
    for seed in range(12):
        result = run_seed(PROGRAMS[2], seed, SeedOptions(transactions=18))
        assert result.failures == ()
        events.update(result.events)
    assert events["runner_died"] > 0
    assert events["machine_ended"] > 0
    assert events["scheduler_started"] > 12
    assert events["program_placed"] > 12
    assert events["program_recalled"] > 0
    assert events["store_failed"] > 0
    assert events["broker_lost"] > 12


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 400, 20))
def test_oracle_long_programs_hold_under_all_faults(first: int) -> None:
    """What `dist-zero test` asks, of programs of one to three stages."""
    for seed in range(first, first + 20):
        options = SeedOptions(nodes=1 + seed % 5, machines=1 + seed % 4)
        assert run_seed(PROGRAMS[1 + seed % 3], seed, options).failures == ()


# ---- the number of nodes -----------------------------------------------------------------------------------


def test_programs_hold_while_their_number_of_nodes_is_changed() -> None:
    """Wishes alone, several at once: the program runs by other maps, nodes begin with others' state, and nothing is
    wrong."""
    counts: Counter[str] = Counter()
    for seed in range(8):
        result = run_seed(PROGRAMS[3], seed, SeedOptions(faults=("reshard",)))
        assert result.failures == ()
        counts.update(result.faults)
        counts.update(result.events)
    assert counts["reshard"] > 5
    assert counts["map_changed"] > 3
    assert counts["node_begun_with_state"] > 5
    assert counts["object_collected"] > 100


@pytest.mark.parametrize("seed", [309, 334, 337])
def test_a_map_that_is_wanted_is_no_part_of_the_generation_before_it(seed: int) -> None:
    """Regression: between a wish and its generation, nodes were told to run by the new map in the old one."""
    result = run_seed(PROGRAMS[3], seed, SeedOptions(faults=("reshard",)))
    assert result.failures == ()
    assert "message_set_aside" not in result.events
