"""Several schedulers: whichever of them is killed or hangs, whenever, another one leads soon; programs stay where they
are and go on, every request is answered, and what a deposed scheduler still says does no harm."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.expr.graph import encode_graph
from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.messages.control import DropProgram, HostNode, HostSequencer, StopRunner
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.requests import (
    Locate,
    Located,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    SubmitProgram,
)
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import number_of, scheduler_log_prefix
from dist_zero_common.store.memory import MemoryStore
from services.scheduler.log import LogState
from services.scheduler.state import SchedulerOptions
from test.simulated.asking import Asker, asker
from test.simulated.schedulers import Schedulers

TAKEOVER_SECONDS = 15.0
"""A lease of 10 s, a little more by name, and a look."""


BRISK = Weather(
    "brisk",
    transit=Delay(mean=0.01, tail=0.02, tail_factor=20.0),
    overtakes=0.3,
    duplicate=0.05,
    late_confirm=0.2,
    returns_shuffled=True,
    store=StoreFaults(
        latency=Delay(mean=0.02, tail=0.02, tail_factor=10.0), fails_stored=0.01, fails_absent=0.01
    ),
)
"""In which nothing is ever so late that somebody seems lost."""


class Point(dz.Row):
    player: str
    points: int


def a_program(name: str) -> dz.Program:
    """Of points that are only ever added, so that one that is lost or counted twice shows."""
    app = dz.Program(name)
    points = app.dataset("points", Point)
    app.view("totals", points.group_by("player").agg(points=dz.sum("points"), rows=dz.count()))
    return app


async def keep_writing(client: Client, written: Counter[str], pauses: random.Random) -> None:
    """Write until cancelled; what was acknowledged is in `written`."""
    while True:
        player = f"p{pauses.randrange(5)}"
        await client.append("points", {"player": player, "points": 1})
        written[player] += 1
        await asyncio.sleep(pauses.random())


async def check_totals(client: Client, written: Counter[str]) -> None:
    """All that was acknowledged is there once."""
    totals = {row.player: (row.points, row.rows) for row in await client.rows("totals")}
    assert totals == {player: (count, count) for player, count in written.items()}


@asynccontextmanager
async def writing(client: Client, seed: int) -> AsyncIterator[Counter[str]]:
    """Meanwhile somebody writes; afterwards all of it must be there."""
    written: Counter[str] = Counter()
    task = asyncio.create_task(keep_writing(client, written, random.Random(seed)))
    try:
        yield written
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        await task
    rows = {row.player: row.rows for row in await client.rows("totals")}
    ahead = Counter(rows)
    ahead.subtract(written)
    # the last one may be in the log without our having heard of it
    assert all(count >= 0 for count in ahead.values()) and sum(ahead.values()) <= 1, (rows, written)


def simulate(
    seed: int, scenario: object, weather: str | Weather = BRISK, **options: object
) -> tuple[Schedulers, list[dict[str, object]]]:
    """Run `scenario(system)`; returns the system and the events that were logged."""
    world = SimWorld(seed, weather)
    systems: list[Schedulers] = []

    async def live() -> None:
        async with Schedulers(world, **options) as system:  # type: ignore[arg-type]
            systems.append(system)
            await scenario(system)  # type: ignore[operator]

    with captured_events() as events:
        run_simulation(live(), until_seconds=3_000)
    (system,) = systems
    assert not system.witness.wrong, system.witness.wrong[:3]
    return system, list(events)


def of_kind(events: Sequence[dict[str, object]], *kinds: str) -> list[dict[str, object]]:
    """The events with these names."""
    return [event for event in events if event["event"] in kinds]


async def start_second(system: Schedulers) -> None:
    """Another scheduler, which stands by, for the first one leads by then."""
    gate = system.gates["scheduler"]
    while not system.witness.claims and gate.steps != gate.dies_at:
        await asyncio.sleep(0.01)
    system.start_scheduler("second")


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hangs"])
def test_another_scheduler_leads_within_the_bound(hangs: bool) -> None:
    """Nothing moves, writes go on all the time, and who asks then is answered. A program that was removed stays so."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        system.start_scheduler("third")
        async with system.connect(a_program("kept"), nodes=3) as client, asker(system, "asker") as asking:
            await asking.submit(encode_graph(a_program("removed").graph()), 1)
            assert isinstance(await asking.remove("removed"), ProgramRemoved)
            assert len((await asking.status()).standbys) == 2
            generation = client.placement.generation
            async with writing(client, 1) as written:
                await asyncio.sleep(5)
                if hangs:
                    system.gates["scheduler"].shut()
                else:
                    await system.kill_scheduler("scheduler")
                at, before = system.clock.monotonic(), sum(written.values())
                while len(system.witness.claims) == 1:
                    await asyncio.sleep(0.1)
                assert system.clock.monotonic() - at <= (TAKEOVER_SECONDS if hangs else 6.0)
                assert sum(written.values()) > before
                async with system.connect("kept") as other:
                    assert other.placement.generation == generation
                status = await asking.status()
                assert status.scheduler == system.witness.claims[-1][0]
                assert [program.program for program in status.programs] == ["kept"]
                await asyncio.sleep(20)
                assert (await asking.status()).programs[0].generation == generation

    _, events = simulate(3, scenario)
    assert len(of_kind(events, "program_placed")) == 2  # each of the two programs once


def test_a_single_scheduler_that_is_started_again_leads_soon() -> None:
    """Nobody waits for the lease of one that has ended: nobody reads its inbox."""

    async def scenario(system: Schedulers) -> None:
        async with system.connect(a_program("kept"), nodes=2):
            await system.kill_scheduler("scheduler")
            at = system.clock.monotonic()
            system.start_scheduler("again")
            while len(system.witness.claims) == 1:
                await asyncio.sleep(0.1)
            assert system.clock.monotonic() - at <= 4.0

    simulate(4, scenario)


async def submit_and_remove(system: Schedulers, asking: Asker) -> None:
    """Two programs come to run, and one is removed again, however many schedulers that takes."""
    for name in ("a", "b"):
        answer = await asking.submit(encode_graph(a_program(name).graph()), 2)
        assert isinstance(answer, Located) and answer.state is ProgramState.RUNNING, answer
    assert isinstance(await asking.remove("a"), ProgramRemoved)
    async with system.connect("b") as client:
        await client.append("points", {"player": "ann", "points": 1})
        await check_totals(client, Counter(ann=1))
    status = await asking.status()
    assert [program.program for program in status.programs] == ["b"]
    assert all(program == "b" for program, _ in hosted(system))


def hosted(system: Schedulers) -> list[tuple[str, int]]:
    """What the log says is to run: programs, and their generations."""
    return [
        (name, program.placement.generation)
        for name, program in system.witness.state.programs.items()
        if program.placement is not None
    ]


def versions(system: Schedulers) -> list[int]:
    """The versions of the placements that the log says are to be."""
    programs = system.witness.state.programs.values()
    return [program.placement.version for program in programs if program.placement is not None]


def run_with_death(dies_at: int, seed: int = 5) -> Schedulers:
    """One scheduler stands by; the first is killed at this step."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        async with asker(system, "asker") as asking:
            await submit_and_remove(system, asking)
            await asyncio.sleep(15)  # whatever is on its way comes, and nothing changes by it
            await asking.submit(encode_graph(a_program("b").graph()), 2)
            status = await asking.status()
            assert [program.state for program in status.programs] == [ProgramState.RUNNING]
            assert [name for name, _ in hosted(system)] == ["b"]

    system, _ = simulate(seed, scenario, dies_at=dies_at)
    return system


def test_how_many_steps_there_are() -> None:
    """The deaths below are at each step of a life in which all is done."""
    assert STEPS <= run_with_death(-1).gates["scheduler"].steps <= 2 * STEPS


STEPS = 66


@pytest.mark.parametrize("dies_at", range(1, STEPS, 5))
def test_the_leading_scheduler_may_die_at_any_step(dies_at: int) -> None:
    """Every request is answered all the same, and only what was removed is gone."""
    run_with_death(dies_at, seed=dies_at)


@pytest.mark.long
@pytest.mark.parametrize("dies_at", range(1, STEPS))
def test_the_leading_scheduler_may_die_at_each_step(dies_at: int) -> None:
    """The same, at all of them."""
    run_with_death(dies_at)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 60))]
)
def test_a_scheduler_that_wakes_up_does_no_harm(seed: int) -> None:
    """It was stopped in the middle of things, another one leads and has decided otherwise since; then it goes on where
    it was, sure for a while that it leads. Nothing of what it says has any effect: no program moves, none that was
    removed runs, none that was submitted is refused or ends."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        rng = system.world.rng("zombie")
        async with (
            system.connect(a_program("kept"), nodes=3) as client,
            asker(system, "asker") as asking,
            asker(system, "other") as other,
        ):
            graph = {name: encode_graph(a_program(name).graph()) for name in "abcd"}
            await asking.submit(graph["a"], 2)
            await asking.submit(graph["b"], 2)
            starting = asyncio.create_task(other.submit(graph["c"], 2))
            removing = asyncio.create_task(asking.remove("a"))
            await asyncio.sleep(0.5 * rng.random())
            system.gates["scheduler"].shut()
            async with writing(client, seed):
                await asyncio.gather(starting, removing)
                while len(system.witness.claims) == 1:
                    await asyncio.sleep(1)
                assert isinstance(await asking.remove("b"), ProgramRemoved)
                await asking.submit(graph["a"], 2)
                await asking.submit(graph["d"], 2)
                before = sorted(hosted(system))
                assert [name for name, _ in before] == ["a", "c", "d", "kept"]
                system.gates["scheduler"].reopen()
                await asyncio.sleep(60)
                assert sorted(hosted(system)) == before
                status = await asking.status()
                assert {program.program: program.state for program in status.programs} == dict.fromkeys(
                    ("a", "c", "d", "kept"), ProgramState.RUNNING
                )
                assert len(system.witness.claims) == 2
            for name in "acd":
                async with system.connect(name) as reader:
                    await reader.append("points", {"player": "ann", "points": 1})
                    await check_totals(reader, Counter(ann=1))

    _, events = simulate(seed, scenario, lease_seconds=60.0)
    (deposed,) = of_kind(events, "scheduler_deposed")
    assert "for 60 s" not in str(deposed["reason"])


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.long)])
def test_schedulers_come_and_go_in_bad_weather(first: int) -> None:
    """Machines seem lost at times, messages are late, doubled and lost, the store fails: programs may move, and still
    all that is acknowledged is there once, every request is answered, and nothing is commanded that is not in the
    log."""
    met: Counter[str] = Counter()

    async def scenario(system: Schedulers) -> None:
        rng = system.world.rng("trouble")
        async with system.connect(a_program("kept"), nodes=3) as client, asker(system, "asker") as asking:
            async with writing(client, system.world.seed):
                run = dict.fromkeys(("x", "y", "z"), False)
                asks = asyncio.create_task(submissions(asking, rng, run, met))
                await trouble(system, rng, 60.0, met)
                asks.cancel()
                await asyncio.wait([asks])
                if not asks.cancelled():
                    await asks
            met["claims"] += len(system.witness.claims)
        met.update(system.witness.counters)

    for seed in range(first, first + (3 if first == 0 else 60)):
        simulate(seed, scenario, "hostile", machines=2)
    for what in ("killed", "stopped", "answered", "claims", "hosted", "dropped"):
        assert met[what] > 2, f"{what}: {met}"


async def trouble(system: Schedulers, rng: random.Random, seconds: float, met: Counter[str]) -> None:
    """Schedulers are killed, stopped, woken and started as chance has it."""
    started = 1
    until = system.clock.monotonic() + seconds
    while system.clock.monotonic() < until:
        await asyncio.sleep(12 * rng.random())
        names = sorted(system._schedulers)
        what = rng.random()
        if len(names) < 2 or (what < 0.3 and len(names) < 4):
            started += 1
            system.start_scheduler(f"s{started}")
        elif what < 0.6:
            await system.kill_scheduler(rng.choice(names))
            met["killed"] += 1
        else:
            gate = system.gates[rng.choice(names)]
            gate.shut()
            await asyncio.sleep(25 * rng.random())
            gate.reopen()
            met["stopped"] += 1
    if not system._schedulers:
        system.start_scheduler("last")


async def submissions(asking: Asker, rng: random.Random, run: dict[str, bool], met: Counter[str]) -> None:
    """Programs are submitted and removed until cancelled, and each time that is answered. `run`: whether a program
    shall, for those of which nothing is on its way."""
    graphs = {name: encode_graph(a_program(name).graph()) for name in ("x", "y", "z")}
    while True:
        name = rng.choice(("x", "y", "z"))
        del run[name]
        if rng.random() < 0.6:
            answer = await asking.submit(graphs[name], 1 + rng.randrange(2))
            assert isinstance(answer, Located) and answer.state is ProgramState.RUNNING, answer
            run[name] = True
        else:
            assert isinstance(await asking.remove(name), ProgramRemoved)
            run[name] = False
        met["answered"] += 1
        await asyncio.sleep(5 * rng.random())


def run_in_trouble(seed: int) -> Counter[str]:
    """A minute and a half of trouble, and what was met."""
    met: Counter[str] = Counter()

    async def scenario(system: Schedulers) -> None:
        rng = system.world.rng("trouble")
        run = dict.fromkeys(("x", "y", "z"), False)
        async with system.connect(a_program("kept"), nodes=3) as client, asker(system, "asker") as asking:
            generation = client.placement.generation
            async with writing(client, seed):
                asks = asyncio.create_task(submissions(asking, rng, run, met))
                await trouble(system, rng, 90.0, met)
                asks.cancel()
                await asyncio.wait([asks])
                if not asks.cancelled():
                    await asks
                await asyncio.sleep(40)
            async with asker(system, "last-asker") as last:
                status = await last.status()
            there = {program.program: program for program in status.programs}
            for name, runs in run.items():
                assert (name in there) == runs, (name, run, sorted(there))
            assert all(program.state is ProgramState.RUNNING for program in there.values())
            assert there["kept"].generation == generation
            assert status.scheduler == system.witness.state.leader
            assert isinstance(system.store, MemoryStore)
            kept = system.store.objects.list(scheduler_log_prefix())
            assert number_of(kept[0]) == system.witness.state.complete  # I6
            met["claims"] += len(system.witness.claims)
        met.update(system.witness.counters)

    simulate(seed, scenario, machines=2 + seed % 2)
    return met


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.long)])
def test_schedulers_come_and_go(first: int) -> None:
    """Killed, stopped and woken at random, while clients write, and programs are submitted and removed: all that is
    acknowledged is there once, every request is answered and holds, a program of which no machine was lost never moves,
    nothing is commanded that is not in the log, and the log stays short."""
    met: Counter[str] = Counter()
    for seed in range(first, first + (4 if first == 0 else 60)):
        met += run_in_trouble(seed)
    for what in ("killed", "stopped", "answered", "claims", "hosted", "dropped"):
        assert met[what] > 4, f"{what}: {met}"


# ---- what a deposed scheduler knows no better ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_deposed_scheduler_takes_nothing_away_from_who_asks(seed: int) -> None:
    """Questions came to it before it was stopped; woken, it answers them from what it remembers: that there is no such
    program, that there is another of that name, that it is removed. None of that is true any more, and none is said."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        other = a_program("p")
        other.view("more", other.dataset("others", Point))
        async with asker(system, "asker") as asking, asker(system, "late") as late:
            await asking.submit(encode_graph(a_program("p").graph()), 1)
            system.gates["scheduler"].shut()
            inbox = scheduler_inbox(system.name)
            late.post.send(inbox, Locate(101, "new", late.replies))
            late.post.send(inbox, SubmitProgram(102, encode_graph(other.graph()), 1, late.replies))
            late.post.send(inbox, RemoveProgram(103, "new", late.replies))
            while len(system.witness.claims) == 1:
                await asyncio.sleep(0.5)
            await asking.submit(encode_graph(a_program("new").graph()), 1)
            assert isinstance(await asking.remove("p"), ProgramRemoved)
            system.gates["scheduler"].reopen()
            await asyncio.sleep(30)
            assert [answer for answer in late.answers.values() if not isinstance(answer, Located)] == []

    _, events = simulate(seed, scenario, lease_seconds=60.0)
    assert len(of_kind(events, "scheduler_deposed")) == 1


def test_a_scheduler_that_was_told_so_ends_when_it_is_deposed() -> None:
    """It does not stand by."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        system.stand_by = False
        system.start_scheduler("once")
        await system.kill_scheduler("scheduler")
        await system.kill_scheduler("second")
        while len(system.witness.claims) == 1:
            await asyncio.sleep(0.1)
        system.start_scheduler("third")
        system.gates["once"].store_open.clear()
        async with asyncio.timeout(60):
            await asyncio.wait([system._schedulers["once"]])
        while len(system.witness.claims) == 2:
            await asyncio.sleep(0.1)

    simulate(3, scenario)


@pytest.mark.parametrize("seed", range(4))
def test_commands_of_a_deposed_scheduler_change_nothing(seed: int) -> None:
    """Whoever has its name, its number and the broker's password may send all that it ever could: agents and runners
    keep to what a later scheduler has decided."""

    async def scenario(system: Schedulers) -> None:
        async with asker(system, "asker") as asking:
            await asking.submit(encode_graph(a_program("p").graph()), 2)
            old = system.witness.state
            await asking.remove("p")
            await system.kill_scheduler("scheduler")
            system.start_scheduler("second")
            await asking.submit(encode_graph(a_program("p").graph()), 2)
            async with system.connect("p") as client:
                await client.append("points", {"player": "ann", "points": 1})
                before = await asking.status()
                assert before.scheduler > old.leader
                for message in said_before(old, encode_graph(a_program("p").graph())):
                    for machine in before.machines:
                        inbox = machine.inbox if isinstance(message, StopRunner) else machine.runner_inbox
                        asking.post.send(inbox, message)
                await asyncio.sleep(20)
                await client.append("points", {"player": "ann", "points": 1})
                assert {row.player: row.rows for row in await client.rows("totals")} == {"ann": 2}
            after = await asking.status()
            assert after.programs[0].generation == before.programs[0].generation
            assert [node.incarnation for node in after.programs[0].nodes] == [
                node.incarnation for node in before.programs[0].nodes
            ]
            assert [machine.runner_incarnation for machine in after.machines] == [
                machine.runner_incarnation for machine in before.machines
            ]

    simulate(seed, scenario)


def said_before(old: LogState, graph: bytes) -> list[Message]:
    """What a scheduler has said, or could have, that led when the log said this."""
    program = old.programs["p"]
    assert program.placement is not None and program.sequencer is not None
    placement = replace(program.placement, scheduler=old.leader)
    shards = placement.shard_map
    newest = placement.version
    hosts = [
        HostNode(old.leader, "p", placement.generation, shards, shard, part.incarnation, graph)
        for shard, part in enumerate(program.nodes)
    ]
    return [
        *hosts,
        HostSequencer(
            old.leader,
            "p",
            program.sequencer.incarnation,
            shards,
            placement.inboxes,
            graph,
            placement.generation,
        ),
        placement,
        DropProgram(old.leader, "p", newest),
        StopRunner(old.leader, "m1-r1", newest),
        StopRunner(old.leader, "m2-r1", newest),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_of_many_machines_those_that_have_no_part_are_no_reason_to_move(seed: int) -> None:
    """A new scheduler hears first of machines that have no part of a program; it waits for those that have."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        async with system.connect(a_program("kept"), nodes=1) as client, asker(system, "asker") as asking:
            for number in range(3):
                name = ("scheduler", "second")[number % 2]
                await system.kill_scheduler(name)
                while len(system.witness.claims) == number + 1:
                    await asyncio.sleep(0.1)
                system.start_scheduler(name)
                await asyncio.sleep(10)
                status = await asking.status()
                assert status.programs[0].generation == client.placement.generation

    simulate(seed, scenario, machines=6)


def test_a_move_that_was_decided_is_made_by_the_next_scheduler() -> None:
    """The leading one is stopped between deciding where a program goes, which is in the log, and saying so. The next
    one goes on with just that, so both say the same."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        async with system.connect(a_program("kept"), nodes=3) as client, asker(system, "asker") as asking:
            first = client.placement.version
            records = len(system.witness.decided)
            await system._spawner.stop("m2")
            while len(system.witness.decided) == records:
                await asyncio.sleep(0.001)
            system.gates["scheduler"].shut()
            decided = versions(system)
            assert decided[0] > first
            while len(system.witness.claims) == 1:
                await asyncio.sleep(0.5)
            await asyncio.sleep(4)
            assert versions(system) == decided
            system.gates["scheduler"].reopen()
            await client.append("points", {"player": "ann", "points": 1})
            await asyncio.sleep(3)
            assert (await asking.status()).programs[0].state is ProgramState.RUNNING

    simulate(2, scenario, lease_seconds=60.0)


def test_a_scheduler_that_does_not_reach_the_store_lets_another_one_lead() -> None:
    """It goes on hearing, and being asked, over the broker, and gives up all the same. Before that it refuses nobody,
    and after two thirds of the lease it does nothing any more."""

    async def scenario(system: Schedulers) -> None:
        await start_second(system)
        async with system.connect(a_program("kept"), nodes=2) as client, asker(system, "asker") as asking:
            gate = system.gates["scheduler"]
            gate.store_open.clear()
            at = system.clock.monotonic()
            asking.post.send(scheduler_inbox(system.name), Locate(101, "nobody", asking.replies))
            await asyncio.sleep(7)
            await system._spawner.stop("m2")
            while len(system.witness.claims) == 1:
                assert await system._spawner.list() == ["m1"] and not asking.answers
                await asyncio.sleep(0.1)
            assert system.clock.monotonic() - at <= 10.0 + TAKEOVER_SECONDS
            await asyncio.sleep(5)
            status = await asking.status()
            assert status.scheduler == system.witness.state.leader
            assert await system._spawner.list() == ["m1", "m2"]
            await client.append("points", {"player": "ann", "points": 1})
            gate.store_open.set()
            await asyncio.sleep(20)
            assert len(system.witness.claims) == 2
            assert (await asking.status()).standbys == ("scheduler-1",)

    _, events = simulate(2, scenario)
    (deposed,) = of_kind(events, "scheduler_deposed")
    assert "for 10 s the store has not said" in str(deposed["reason"])


def test_a_drained_machine_stays_drained_whoever_leads() -> None:
    """The next scheduler places nothing there, and may be told that it may."""
    world = SimWorld(1, "faithful")

    async def live() -> None:
        async with (
            Schedulers(world, machines=3) as system,
            system.connect(a_program("points"), nodes=5) as client,
        ):
            there = RemoteSystem(
                "", system.name, system.clock, connect=system.broker.connector("client-x"), process="x"
            )
            await client.append("points", {"player": "ann", "points": 1})
            await there.drain("m2")
            for number in range(2):
                system.start_scheduler(f"next{number}")
                await system.kill_scheduler("scheduler" if number == 0 else "next0")
                await asyncio.sleep(60)
                status = await there.status()
                assert "m2" not in {place.machine for place in status.programs[0].nodes}
                assert [each.note for each in status.machines if each.machine == "m2"] == ["drained"]
            await there.drain("m2", drained=False)
            system.start_scheduler("last")
            await system.kill_scheduler("next1")
            await asyncio.sleep(60)
            status = await there.status()
            assert "m2" in {place.machine for place in status.programs[0].nodes}
            assert len(await client.rows("totals")) == 1

    run_simulation(live(), until_seconds=2_000)


def test_what_is_submitted_to_a_new_system_waits_for_nobody() -> None:
    """A scheduler that has recalled nothing need not listen for who runs what: a submission that comes before its first
    round, as where the store is fast, is placed as soon as there is a runner."""

    async def seconds_to_start(seed: int) -> float:
        world = SimWorld(
            seed, replace(BRISK, store=StoreFaults(latency=Delay(mean=0.001, tail=0.0, tail_factor=1.0)))
        )
        async with SimulatedSystem(world) as system:
            began = world.clock.monotonic()
            async with system.connect(a_program("points")):
                return world.clock.monotonic() - began

    def run(seed: int) -> float:
        return run_simulation(seconds_to_start(seed), until_seconds=100)

    assert max(map(run, range(12))) < SchedulerOptions().regain_seconds
