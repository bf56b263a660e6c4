"""Another number of nodes, and machines that are drained, while clients write, read and watch: nobody notices more than
a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem, parts_on
from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.messages.requests import ScaleProgram
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS, BusyRun, Cutter
from test.simulated.seeds import seeds
from test.simulated.test_recovery_simulated import unreliable


def remote(system: SimulatedSystem, name: str) -> RemoteSystem:
    """The system as the command line reaches it."""
    connect = system.broker.connector(f"client-{name}")
    return RemoteSystem("", system.name, system.clock, connect=connect, process=name)


@dataclass
class Scaler(Cutter):
    """Asks for other numbers of nodes now and then."""

    world: SimWorld
    program: str
    counts: list[int] = field(default_factory=list)

    def watch_over(self, system: SimulatedSystem) -> None:
        self.system = system

    async def run(self) -> None:
        rng = self.world.rng("scaler")
        while True:
            await asyncio.sleep(rng.choice((0.7, 3.0, 11.0)))
            count = rng.randrange(1, 7)
            await remote(self.system, f"scaler{len(self.counts)}").scale(self.program, count)
            self.counts.append(count)


def scaled_run(world: SimWorld, stages: int, nodes: int, transactions: int) -> tuple[BusyRun, Scaler]:
    options = SequencerOptions(save_interval_seconds=0.5)
    run = BusyRun(stages=stages, nodes=nodes, machines=3, transactions=transactions, options=options)
    run.pauses = (0.0, 0.5, 5.0)
    run.cutter = scaler = Scaler(world, PROGRAMS[stages].name)
    return run, scaler


@pytest.mark.parametrize("seed", seeds(4, 8))
def test_oracle_views_are_right_while_the_number_of_nodes_changes(seed: int) -> None:
    """I1 and I2 at every epoch, and the watcher sees every epoch."""
    world = SimWorld(30_000 + seed, ("calm", "faithful", "hostile")[seed % 3])
    run, scaler = scaled_run(world, 1 + seed % 3, 1 + seed % 4, 60)
    with captured_events() as events:
        run.run(world).check()
    assert len(scaler.counts) > 1
    begun = [int(str(event["entries"])) for event in events if event["event"] == "node_begun"]
    assert max(begun) > 0, "nobody took over any state"


def test_oracle_bases_that_come_quickly_are_collected_one_after_the_other() -> None:
    """Two collections at once, by one sequencer, took each other's knowledge of what follows what."""
    run, _ = scaled_run(SimWorld(31_001, "hostile"), stages=2, nodes=2, transactions=120)
    run.run(SimWorld(31_001, "hostile")).check()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_views_are_right_while_the_number_of_nodes_changes(seed: int) -> None:
    """The same over many seeds, and over a store that fails."""
    world = unreliable(31_000 + seed) if seed % 3 == 0 else SimWorld(31_000 + seed, "hostile")
    run, _ = scaled_run(world, 1 + seed % 3, 1 + seed % 4, 120)
    run.run(world).check()


def test_scaling_is_asked_for_and_refused() -> None:
    """The client of a program finds its new nodes; asking for what is so changes nothing; what cannot be is refused,
    with the reason."""
    world = SimWorld(1, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=2) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            there = remote(simulated, "remote")
            await there.scale("stages-3", 5)
            assert len(await client.rows("per_shop")) == 5
            for number in range(5):
                got = await client.get("per_shop", f"s{number}")
                assert got is not None and vars(got)["n"] == 4
            assert len(client.placement.shard_map.nodes) == 5
            before = client.placement
            await there.scale("stages-3", 5)
            assert client.placement == before
            await there.scale("stages-3", 1)
            await client.put("sales", {"id": 100, "shop": "s1", "amount": 1.0})
            got = await client.get("per_shop", "s1")
            assert got is not None and vars(got)["n"] == 5
            with pytest.raises(RequestError, match="1 to 4096 nodes, not on 0"):
                await there.scale("stages-3", 0)
            with pytest.raises(RequestError, match="no program 'other' runs"):
                await there.scale("other", 2)

    run_simulation(live(), until_seconds=2_000)


def test_a_watch_follows_while_somebody_writes_all_the_time() -> None:
    """What it lacks is asked for although later epochs are told all the time; it waited for silence once."""
    world = SimWorld(0, "faithful")

    async def write(client: Client, written: list[int]) -> None:
        while True:
            row = {"id": len(written), "shop": "s", "amount": 1.0}
            written.append(await client.put("sales", row))
            await client.flush()  # nodes keep up
            await asyncio.sleep(0.02)

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=4) as client:
            written: list[int] = []
            writing = asyncio.create_task(write(client, written))
            with client.watch_stored((0,)) as watch:
                assert (await anext(watch)).snapshot
                for nodes in (2, 5, 1):
                    await remote(simulated, f"scaler{nodes}").scale("stages-3", nodes)
                    epoch, count = written[-1], len(written)
                    while (await anext(watch)).epoch <= epoch:
                        assert len(written) < count + 60, "it does not follow"
            writing.cancel()

    run_simulation(live(), until_seconds=2_000)


def test_a_drained_machine_runs_nothing_any_more() -> None:
    """What it has moves to the others, and nothing comes back until it is let; a machine that nobody knows is named."""
    world = SimWorld(2, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=3)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=6) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            there = remote(simulated, "remote")
            await there.drain("m2")
            await asyncio.sleep(20)
            status = await there.status()
            assert {place.machine for place in status.programs[0].nodes} == {"m1", "m3"}
            assert next(machine.note for machine in status.machines if machine.machine == "m2") == "drained"
            assert len(await client.rows("per_shop")) == 5
            await there.drain("m2", drained=False)
            await asyncio.sleep(30)
            status = await there.status()
            assert {place.machine for place in status.programs[0].nodes} == {"m1", "m2", "m3"}
            with pytest.raises(RequestError, match=r"no machine 'm9'.*m1, m2, m3"):
                await there.drain("m9")

    run_simulation(live(), until_seconds=2_000)


async def outcome(asking: Coroutine[Any, Any, object]) -> str:
    """What comes of a wish: nothing to say, or why it is refused."""
    try:
        await asking
    except RequestError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("seed", range(6))
def test_of_two_numbers_of_nodes_the_last_one_counts(seed: int) -> None:
    """Whoever asked before is told so, and the other's is there; nobody waits for ever, whenever the second one asks.
    The number changes twice at most: they do not fight."""
    world = SimWorld(200 + seed, ("faithful", "hostile")[seed % 2])

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=2) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            first = asyncio.create_task(outcome(remote(simulated, "first").scale("stages-3", 5)))
            await asyncio.sleep((0.05, 0.3, 0.6)[seed % 3])
            last = await outcome(remote(simulated, "last").scale("stages-3", 3))
            assert last == ""
            assert await first in (
                "",
                "'stages-3' is to run on 3 nodes by now, and not on 5: somebody has asked for that since",
            )
            status = await remote(simulated, "status").status()
            assert len(status.programs[0].nodes) == 3
            assert len(await client.rows("per_shop")) == 5

    with captured_events() as events:
        run_simulation(live(), until_seconds=300)
    assert [event["nodes"] for event in events if event["event"] == "program_scaled"] == [5, 3]


def test_a_wish_outlives_the_scheduler_that_heard_it() -> None:
    """What the log does not have yet, whoever waits for it says again. Of two who wait, one gets what he wants, and the
    other hears that he does not."""
    world = SimWorld(300, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=2) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            await client.flush()
            system.start_scheduler("other")
            await asyncio.sleep(5)
            asked = [
                asyncio.create_task(outcome(remote(simulated, f"who-{n}").scale("stages-3", n)))
                for n in (4, 5)
            ]
            await asyncio.sleep(0.02)
            await system.kill_scheduler("scheduler")
            said = [await each for each in asked]
            assert sum(each == "" for each in said) >= 1
            status = await remote(simulated, "status").status()
            there = len(status.programs[0].nodes)
            assert said[there - 4] == ""
            assert all(each == "" or f"to run on {there} nodes by now" in each for each in said)

    run_simulation(live(), until_seconds=600)


@pytest.mark.parametrize("seed", range(6))
def test_a_wish_is_not_lost_with_its_scheduler_and_its_asker(seed: int) -> None:
    """The scheduler that leads dies while nodes are being prepared, again and again, and who asked is gone, too: the
    program comes to run on as many nodes as were wished for. What was loaded already goes on."""
    world = SimWorld(310 + seed, "faithful")
    rng = world.rng("deaths")

    async def live() -> None:
        options = SequencerOptions(save_interval_seconds=0.5)
        simulated = SimulatedSystem(world, machines=3, sequencer=options)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=2) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(50)])
            await client.flush()
            system.start_scheduler("next0")
            await asyncio.sleep(5)
            there = remote(simulated, "asks")
            asked = asyncio.create_task(there.scale("stages-3", 5))
            while not any(event["event"] == "program_scaled" for event in events):
                await asyncio.sleep(0.01)
            for number in range(1, 3):
                await asyncio.sleep(rng.choice((0.1, 0.3, 0.6)))
                asked.cancel()
                await system.kill_scheduler(leading(events))
                system.start_scheduler(f"next{number}")
                while sum(event["event"] == "scheduler_started" for event in events) <= number:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(3 * (number == 1))  # in which it only listens
            await asyncio.sleep(30)
            status = await there.status()
            assert len(status.programs[0].nodes) == 5
            assert len(await client.rows("per_shop")) == 5

    with captured_events() as events:
        run_simulation(live(), until_seconds=600)
    recalled = [event["nodes"] for event in events if event["event"] == "program_recalled"]
    assert recalled == [5, 5]
    prepared = [event["node"] for event in events if event["event"] == "node_prepared"]
    assert len(prepared) == len(set(prepared)), "what was loaded was loaded again"


def leading(events: Sequence[Mapping[str, object]]) -> str:
    """The name under which the scheduler was started that leads."""
    started = [event for event in events if event["event"] == "scheduler_started"]
    return str(started[-1]["scheduler_name"]).split("-")[0]


def test_a_wish_that_came_true_is_not_undone_by_who_asked_before() -> None:
    """Of two wishes the last one is there; the scheduler dies; whoever waits for the first one is told, and not given
    what he asked for."""
    world = SimWorld(320, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=2)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=2) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            await client.flush()
            system.start_scheduler("other")
            await asyncio.sleep(5)
            late = remote(simulated, "late")
            async with late._line() as line:
                await line.questions.ask(
                    lambda request: (
                        scheduler_inbox("local"),
                        ScaleProgram(request, "stages-3", 5, line.replies),
                    ),
                    "a wish",
                )
                await remote(simulated, "last").scale("stages-3", 3)
                await system.kill_scheduler("scheduler")
                await asyncio.sleep(20)
                with pytest.raises(RequestError, match="to run on 3 nodes by now"):
                    await line.questions.ask(
                        lambda request: (
                            scheduler_inbox("local"),
                            ScaleProgram(request, "stages-3", 5, line.replies, again=True),
                        ),
                        "the same wish",
                    )
            assert len((await late.status()).programs[0].nodes) == 3

    run_simulation(live(), until_seconds=600)


def test_who_waits_for_a_drained_machine_hears_that_it_is_used_again() -> None:
    """The last wish counts; he would wait for ever. The same command twice is one wish, and both come to an end."""
    world = SimWorld(301, "faithful")

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=3)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=6) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n % 5}", "amount": 1.0} for n in range(20)])
            both = [remote(simulated, f"drains-{n}").drain("m2", wait=True) for n in range(2)]
            assert [parts_on(status, "m2") for status in await asyncio.gather(*both)] == [0, 0]
            await remote(simulated, "undo").drain("m2", drained=False)
            await asyncio.sleep(30)
            waiting = asyncio.create_task(outcome(remote(simulated, "waits").drain("m2", wait=True)))
            await asyncio.sleep(0.3)
            await remote(simulated, "undo-2").drain("m2", drained=False)
            assert await waiting == "machine 'm2' was let run things again since: somebody has asked for that"
            await asyncio.gather(*(remote(simulated, f"all-{n}").drain(n) for n in ("m1", "m3")))
            with pytest.raises(
                OperatorError, match="parts of programs run on m2, and there is no other machine"
            ):
                await remote(simulated, "last").drain("m2", wait=True)

    run_simulation(live(), until_seconds=600)


def test_a_reader_follows_nodes_that_have_moved_soon() -> None:
    """A row whose node has gone elsewhere is asked for once in vain, and then where it is."""
    world = SimWorld(4, "faithful")

    async def live() -> float:
        simulated = SimulatedSystem(world, machines=3)
        async with simulated as system, system.connect(PROGRAMS[3], nodes=6) as client:
            await client.put("sales", [{"id": n, "shop": f"s{n}", "amount": 1.0} for n in range(40)])
            moving = asyncio.create_task(remote(simulated, "remote").drain("m2"))
            longest, number, until = 0.0, 0, system.clock.monotonic() + 30
            while system.clock.monotonic() < until:
                began = system.clock.monotonic()
                assert await client.get("per_shop", f"s{number % 40}") is not None
                longest = max(longest, system.clock.monotonic() - began)
                number += 1
                await asyncio.sleep(0.02)
            await moving
            assert client.placement.version > 0
            return longest

    assert run_simulation(live(), until_seconds=2_000) < 3.0
