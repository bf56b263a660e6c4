"""Nodes that are to come load their state beforehand, and those that stay keep their executors: nobody waits for more
than messages and a store's answers; and whatever goes wrong on the way, what comes of it is right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.system import SimulatedSystem
from dist_zero.testing import SeedOptions, run_seed
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.control import EndGeneration
from dist_zero_common.protocol.messages.envelope import Envelope
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS, Sale
from test.simulated.test_scaling_simulated import remote

Event = dict[str, object]
STEP_SECONDS = 0.05
ROWS = 4_000


@dataclass
class Noted:
    """What a writer and a watcher noted, in virtual seconds; and what services logged."""

    commits: list[float] = field(default_factory=list)
    epochs: list[tuple[int, float, bool]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def longest_commit(self) -> float:
        return max(b - a for a, b in pairwise(self.commits))

    @property
    def longest_epoch(self) -> float:
        return max(b - a for (_, a, _), (_, b, _) in pairwise(self.epochs))

    def begun(self) -> Counter[str]:
        """How nodes have begun, the first ones apart."""
        return Counter(str(e["how"]) for e in self.events if e["event"] == "node_begun" and e["epoch"])

    def count(self, event: str) -> int:
        return sum(each["event"] == event for each in self.events)


Deeds = Callable[[RemoteSystem, SimulatedSystem], Awaitable[None]]


FAIR = Weather("fair", transit=Delay(mean=0.003), store=StoreFaults(latency=Delay(mean=0.01)))
"""Messages and the store take their time, and no more."""


def lived(seed: int, deeds: Deeds, *, nodes: int = 2, stages: int = 3, machines: int = 3) -> Noted:
    """A writer writes all the time and a watcher watches, while this is done."""
    world, noted, done = SimWorld(seed, FAIR), Noted(), asyncio.Event()
    options = SequencerOptions(save_interval_seconds=0.5)

    async def live() -> None:
        simulated = SimulatedSystem(world, machines=machines, sequencer=options)
        async with simulated as system, system.connect(PROGRAMS[stages], nodes=nodes) as client:
            watching = asyncio.create_task(watch(client))
            writing = asyncio.create_task(write(client))
            await asyncio.sleep(5)
            await deeds(remote(simulated, "remote"), simulated)
            await asyncio.sleep(5)
            done.set()
            await writing
            newest = await client.flush()
            while noted.epochs[-1][0] < newest:
                await asyncio.sleep(1)
            watching.cancel()
            rows = await client.rows("large" if stages == 1 else "per_shop")
            if stages > 1:
                assert sum(vars(row)["n"] for row in rows) == len(noted.commits)

    async def write(client: Client) -> None:
        loop, number = asyncio.get_running_loop(), 0
        while not done.is_set():
            await client.put("sales", {"id": number, "shop": f"s{number % 7}", "amount": 1.0})
            number += 1
            noted.commits.append(loop.time())
            await asyncio.sleep(STEP_SECONDS)

    async def watch(client: Client) -> None:
        with client.watch_stored(range(len(client.plan.views))) as watched:
            async for change in watched:
                noted.epochs.append((change.epoch, asyncio.get_running_loop().time(), change.snapshot))

    with captured_events() as events:
        run_simulation(live(), until_seconds=3_000)
    noted.events = list(events)
    return noted


@pytest.mark.parametrize("seed", range(2))
def test_nobody_waits_for_a_split_or_a_merge(seed: int) -> None:
    """The watcher sees every epoch once and never begins anew; nobody waits for a second, where a state would be loaded
    by nobody but those who are to come; and those who stay keep what they have."""

    async def split_and_merge(there: RemoteSystem, _: SimulatedSystem) -> None:
        for count in (3, 5, 4, 1, 2):
            await there.scale(PROGRAMS[3].name, count)
            await asyncio.sleep(3)

    noted = lived(seed, split_and_merge)
    assert all(b[0] == a[0] + 1 for a, b in pairwise(noted.epochs)), "an epoch was not told, or twice"
    assert [snapshot for _, _, snapshot in noted.epochs].count(True) == 1
    assert noted.longest_commit < 1 and noted.longest_epoch < 1
    begun = noted.begun()
    # From 2 to 3: 1 stays and 2 come; to 5: 1 and 4; to 4: 3 and 1; to 1: 0 and 1; to 2: 0 and 2.
    assert begun == {"kept": 5, "prepared": 10}


@pytest.mark.parametrize("seed", range(2))
def test_nobody_waits_for_a_move(seed: int) -> None:
    """A machine that is drained gives its nodes away when others have loaded their state; the generation stays."""

    async def drain(there: RemoteSystem, _: SimulatedSystem) -> None:
        for machine in ("m1", "m2"):
            await there.drain(machine)
            await asyncio.sleep(6)
            await there.drain(machine, drained=False)

    noted = lived(seed, drain, nodes=4)
    begun = noted.begun()
    assert begun["prepared"] and not begun["loaded"], begun
    assert len({e["generation"] for e in noted.events if e["event"] == "program_placed"}) == 1
    assert noted.longest_commit < 1 and noted.longest_epoch < 1
    assert [snapshot for _, _, snapshot in noted.epochs].count(True) == 1


def with_shops() -> dz.Program:
    """The program of one stage, with one more view."""
    app = dz.Program(PROGRAMS[1].name)
    sales = app.dataset("sales", Sale, key="id")
    app.view("large", sales.where(sales["amount"] > 0.5).select("id", twice=sales["amount"] * 2))
    app.view("shops", sales.group_by("shop").agg(n=dz.count()))
    return app


@pytest.mark.parametrize("seed", range(2))
def test_nobody_waits_for_a_change_of_the_program(seed: int) -> None:
    """Both generations of a change begin with what was loaded beforehand, and read no more at the switch than what was
    written since, however large the state is. A writer and a reader wait for no more than that. A watcher of a view
    that is kept has each epoch, and one snapshot more, when it is told of the new program."""
    reads: list[float] = []

    async def read(client: Client) -> None:
        while True:
            assert await client.get("large", -1)
            reads.append(asyncio.get_running_loop().time())
            await asyncio.sleep(STEP_SECONDS)

    async def change(there: RemoteSystem, system: SimulatedSystem) -> None:
        async with system.connect(PROGRAMS[1].name) as client:
            for first in range(1, ROWS, 500):
                rows = [{"id": -n, "shop": f"s{n % 7}", "amount": 2.0} for n in range(first, first + 500)]
                await client.put("sales", rows)
            await asyncio.sleep(3)
            reading = asyncio.create_task(read(client))
            await there.change(with_shops())
            await asyncio.sleep(3)
            reading.cancel()
            assert sum(row.n for row in await client.rows("shops")) > ROWS

    noted = lived(seed, change, stages=1)
    begun = [e for e in noted.events if e["event"] == "node_begun" and e["epoch"]]
    assert [e["how"] for e in begun] == ["prepared"] * 4
    for event in begun:
        assert int(str(event["read"])) < ROWS / 20 and int(str(event["entries"])) > ROWS / 3, event
    assert noted.longest_commit < 1 and noted.longest_epoch < 1
    assert max(b - a for a, b in pairwise(reads)) < 1
    assert [snapshot for _, _, snapshot in noted.epochs].count(True) == 2


def test_the_last_wish_wins() -> None:
    """Another number of nodes that is wished for while nodes are being prepared; and one that is taken back."""

    async def change_mind(there: RemoteSystem, system: SimulatedSystem) -> None:
        for number, seconds in enumerate((0.05, 0.1, 0.15, 0.2, 0.25)):
            other = remote(system, f"other{number}")
            wish = asyncio.create_task(other.scale(PROGRAMS[3].name, 3 + number % 3))
            await asyncio.sleep(seconds)
            wish.cancel()
            await there.scale(PROGRAMS[3].name, 2)
            await asyncio.sleep(1)

    noted = lived(11, change_mind)
    assert noted.longest_epoch < 1
    prepared = [e for e in noted.events if e["event"] == "node_prepared"]
    assert len(prepared) > noted.begun()["prepared"], "nothing was prepared in vain"


def test_a_generation_that_came_to_its_end_for_nothing_goes_on() -> None:
    """The scheduler that asked for it is gone, and who wished for it, too: after a while epochs are handed out."""

    async def end(there: RemoteSystem, system: SimulatedSystem) -> None:
        status = await there.status()
        program = status.programs[0]
        (runner,) = (m.runner_inbox for m in status.machines if m.machine == program.sequencer_machine)
        message = EndGeneration(status.scheduler, program.program, program.sequencer_incarnation)
        broker = await system.broker.connector("late")()
        await broker.publish(runner, encode(Envelope(system.name, "late", (message,))))
        await asyncio.sleep(20)

    noted = lived(12, end)
    assert 10 <= noted.longest_epoch < 13
    assert all(b[0] == a[0] + 1 for a, b in pairwise(noted.epochs))
    assert noted.longest_commit < 1


@pytest.mark.parametrize(
    "kinds", ["crash,restart,reshard", "partition,pause,reshard", "store,broker,reshard,loss"]
)
def test_oracle_resharding_among_faults(kinds: str) -> None:
    """I1 to I3 and I5 while parts of the system die, freeze and lose their store at any step of the way. I7: state was
    kept, was loaded beforehand, and had to be loaded after all."""
    events: Counter[str] = Counter()
    for seed in range(5):
        options = SeedOptions(faults=tuple(kinds.split(",")), machines=3, transactions=30)
        result = run_seed(PROGRAMS[3], 50_000 + seed, options)
        assert result.failures == ()
        events.update(result.events)
    assert min(events["node_prepared_before"], events["node_loaded"]) > 0, events


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_resharding_among_faults(seed: int) -> None:
    """The same over many seeds, with all faults."""
    result = run_seed(PROGRAMS[1 + seed % 3], 51_000 + seed, SeedOptions(machines=3, nodes=1 + seed % 5))
    assert result.failures == ()
