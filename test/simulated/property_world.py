"""What the property tests of whole systems share: programs of one to three stages, a world that remembers, a busy run.

`BusyRun` lets several clients write at once, in sessions that are taken over half-way, while a watcher sees every
epoch of every view. `WitnessWorld` keeps every event of the simulation, so that a test can ask in which order things
happened.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.watch import StoredChange
from dist_zero.client.writes import Transaction
from dist_zero.compiler import compile
from dist_zero.generated import Generator
from dist_zero.reference.evaluate import Oracle
from dist_zero.reference.history import Datasets
from dist_zero.system import SimulatedSystem, System
from dist_zero.testing import log_of, writes_of
from dist_zero.zset import ZSet, consolidate
from dist_zero_common.broker.base import Broker, Connect, ConnectionState
from dist_zero_common.broker.memory import MemoryConnection
from dist_zero_common.protocol.stored import (
    LogRecord,
)
from dist_zero_common.sim.faults import Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from services.scheduler.growth import GrowthOptions


class Sale(dz.Row):
    id: int
    shop: str | None
    amount: float | None


class Shop(dz.Row):
    shop: str
    town: str


class Visit(dz.Row):
    shop: str
    visitors: int


def program(stages: int) -> dz.Program:
    """A program of this many stages."""
    app = dz.Program(f"stages-{stages}")
    sales = app.dataset("sales", Sale, key="id")
    if stages == 1:
        app.view("large", sales.where(sales["amount"] > 0.5).select("id", twice=sales["amount"] * 2))
        return app
    per_shop = sales.group_by("shop").agg(total=dz.sum("amount"), n=dz.count(), best=dz.max("amount"))
    app.view("per_shop", per_shop)
    if stages == 2:
        return app
    shops = app.dataset("shops", Shop, key="shop")
    visits = app.dataset("visits", Visit)
    town = sales.join(shops, on="shop", how="left").group_by("town").agg(n=dz.count(), mean=dz.mean("amount"))
    app.view("per_town", town)
    app.view("best", town.top(2, by=dz.desc("n"), rank="place"))
    app.view("visited", visits.join(shops, on="shop", how="outer"))
    return app


PROGRAMS = {stages: program(stages) for stages in (1, 2, 3)}


class Event(NamedTuple):
    """One event of a simulation: `detail` holds who and which delivery tags."""

    seconds: float
    kind: str
    place: str
    detail: str
    body: bytes


class WitnessWorld(SimWorld):
    """A world that keeps every event, in order."""

    def __init__(self, seed: int, weather: str | Weather = "faithful") -> None:
        super().__init__(seed, weather)
        self.events: list[Event] = []

    def record(self, kind: str, place: str, detail: str = "", body: bytes = b"") -> None:
        super().record(kind, place, detail, body)
        self.events.append(Event(asyncio.get_running_loop().time(), kind, place, detail, body))


class Cutter:
    """Loses the connections of a system's parts at random moments: one, or all at once as when the broker restarts."""

    def __init__(self, world: SimWorld, seconds: float, only: str = "") -> None:
        """`seconds`: how long it waits between two cuts, on average. `only`: the beginning of the names it cuts."""
        self.cuts: Counter[str] = Counter()
        """How many connections were lost, by the first word of their names."""
        self._rng, self._seconds, self._only = world.rng("cutter"), seconds, only
        self._live: dict[str, MemoryConnection] = {}

    def watch_over(self, system: SimulatedSystem) -> None:
        """Get hold of all the connections that this system will make; before it is entered."""
        connector = system.broker.connector

        def watched(name: str) -> Connect:
            connect = connector(name)

            async def connect_and_remember() -> Broker:
                connection = await connect()
                assert isinstance(connection, MemoryConnection)
                self._live[name] = connection
                return connection

            return connect_and_remember

        system.connector = watched

    async def run(self) -> None:
        """Cut until cancelled."""
        while True:
            await asyncio.sleep(2 * self._seconds * self._rng.random())
            names = [
                name
                for name, connection in self._live.items()
                if connection.state is ConnectionState.CONNECTED and name.startswith(self._only)
            ]
            if not names:
                continue
            for name in names if self._rng.random() < 0.1 else [self._rng.choice(names)]:
                self.cuts[name.partition("-")[0]] += 1
                self._live[name].drop_connection()


@dataclass
class BusyRun:
    """Parameters of a run, and what was seen in it."""

    stages: int = 3
    nodes: int = 3
    machines: int = 2
    transactions: int = 36
    writers: int = 3
    options: SequencerOptions | None = None
    growth: GrowthOptions | None = None
    cutter: Cutter | None = None
    """What troubles it while it is busy."""
    pauses: tuple[float, ...] = (0.0, 0.0, 0.05, 0.5)
    """What writers wait between two transactions, in seconds, by chance."""
    nobody_reads: Callable[[str], bool] = lambda queue: False
    """Which queues may hold what nobody will take, because their reader died."""
    names: str = "writer"
    """What the names of the writers begin with."""
    objects: MemoryObjects = field(default_factory=lambda: MemoryObjects(remembers=True))
    committed: list[tuple[str, bytes, int]] = field(default_factory=list)
    """Of every transaction that was acknowledged: writer, payload, epoch; in the order of each writer's sending."""
    changes: list[StoredChange] = field(default_factory=list)
    log: list[LogRecord] = field(default_factory=list)

    def run(self, world: SimWorld) -> BusyRun:
        """Live through it in this world."""
        run_simulation(self._live(world), until_seconds=20_000)
        return self

    async def _live(self, world: SimWorld) -> None:
        app = PROGRAMS[self.stages]
        store = MemoryStore(self.objects, world)
        simulated = SimulatedSystem(
            world, machines=self.machines, store=store, sequencer=self.options, growth=self.growth
        )
        if self.cutter is not None:
            self.cutter.watch_over(simulated)
        async with simulated as system, system.connect(app, nodes=self.nodes) as client:
            cutting = asyncio.create_task(self.cutter.run()) if self.cutter is not None else None
            watching = asyncio.create_task(self._watch(client))
            generator = Generator(client.plan, random.Random(world.seed))
            wanted = [*generator.transactions(self.transactions * 2 // 3)]
            wanted += generator.changes(self.transactions - len(wanted))
            async with asyncio.TaskGroup() as tasks:
                for number in range(self.writers):
                    mine = wanted[number :: self.writers]
                    tasks.create_task(self._write(system, f"{self.names}-{number}", mine, world))
            if cutting is not None:
                cutting.cancel()
            newest = await client.put("sales", {"id": 1, "shop": "end", "amount": 1.0})
            await client.flush()
            while not self.changes or self.changes[-1].epoch < newest:
                await asyncio.sleep(1)
            watching.cancel()
            await _until_settled(simulated, self.nobody_reads)
            self.log = await log_of(MemoryStore(self.objects), app.name)  # an onlooker's, without weather

    async def _watch(self, client: Client) -> None:
        with client.watch_stored(range(len(client.plan.views))) as watch:
            async for change in watch:
                self.changes.append(change)

    async def _write(self, system: System, name: str, wanted: list[Transaction], world: SimWorld) -> None:
        """In three sessions of one name; each has to know where the one before stopped."""
        rng = world.rng(name)
        sent = 0
        for share in _thirds(wanted):
            async with system.connect(f"stages-{self.stages}", client_id=name) as client:
                assert client.committed == sent
                tickets = []
                for transaction in share:
                    tickets.append((transaction.payload(), await client.write_soon(transaction)))
                    await asyncio.sleep(rng.choice(self.pauses))
                self.committed += [(name, payload, await ticket) for payload, ticket in tickets]
                sent += len(share)

    # -- what must hold --------------------------------------------------------------------------------------

    def check(self) -> None:
        """I1 and I2."""
        self.check_commits()
        self.check_views()

    def check_views(self) -> None:
        """I1: at every epoch that was seen, every view equals the oracle on the log up to there."""
        app = PROGRAMS[self.stages]
        graph, plan = app.graph(), compile(app.graph())
        shown: dict[str, ZSet] = {view.name: {} for view in plan.views}
        seen = {change.epoch: change for change in self.changes}
        for earlier, later in pairwise(self.changes):
            # A node that begins again at a base does not know any more what changed before that: a new snapshot it is.
            assert later.epoch == earlier.epoch + 1 or (later.snapshot and later.epoch > earlier.epoch), (
                "an epoch was not told, or told out of order"
            )
        datasets = Datasets(graph)
        for record in self.log:
            for writes in writes_of(plan, record):
                datasets.apply(writes)
            change = seen.get(record.epoch)
            if change is None:
                continue
            oracle = Oracle(graph, datasets.contents())
            for number, view in enumerate(plan.views):
                before = () if change.snapshot else shown[view.name].items()
                shown[view.name] = consolidate([*before, *change.rows[number]])
                assert shown[view.name] == oracle.view(view.name).rows, (record.epoch, view.name)

    def check_commits(self) -> None:
        """I2: what was acknowledged is in the log once, in the epoch that was told, in each writer's order; and the
        log holds nothing that nobody sent."""
        there = [(t.payload, record.epoch) for record in self.log for t in record.transactions]
        told = [(payload, epoch) for _, payload, epoch in self.committed]
        assert sorted(there[:-1]) == sorted(told)
        for writer in dict.fromkeys(name for name, _, _ in self.committed):
            mine = [(payload, epoch) for name, payload, epoch in self.committed if name == writer]
            remaining = iter(there)
            assert all(each in remaining for each in mine), (
                f"the log has the writes of {writer} in another order"
            )
        numbers: dict[int, int] = {}
        for record in self.log:
            for transaction in record.transactions:
                known = numbers.get(transaction.session)
                assert known is None or transaction.number == known + 1
                numbers[transaction.session] = transaction.number

    def changes_by_epoch(self) -> dict[int, list[ZSet]]:
        """What every view changed by in every epoch that was seen without being a snapshot."""
        return {
            change.epoch: [consolidate(change.rows[number]) for number in sorted(change.rows)]
            for change in self.changes
            if not change.snapshot
        }


async def _until_settled(system: SimulatedSystem, nobody_reads: Callable[[str], bool]) -> None:
    """Wait until no queue holds anything; in slow weather the last messages take their time."""
    for _ in range(600):
        await asyncio.sleep(1)
        left = {
            name: depth
            for name, depth in system.broker.depths().items()
            if (depth.unacked or depth.waiting) and not nobody_reads(name)
        }
        if not left:
            return
    raise AssertionError(f"messages that nobody settles: {left}")


def _thirds(wanted: list[Transaction]) -> Iterator[list[Transaction]]:
    size = (len(wanted) + 2) // 3
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
