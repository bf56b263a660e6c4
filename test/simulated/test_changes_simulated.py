"""Changes of programs while data go on, under faults: views that are kept miss nothing, others are filled, and what is
shown at any time is one program's or the other's.

A seed draws two programs over the same datasets, what goes wrong and when, and how much is filled at once. Writers
write, watchers watch each view of the first program, and the change is asked for, again and again if need be. At every
epoch that a watcher was told, a view is that of the first program or of the second one, never less, and once it is the
second one's it stays so; a view that is kept is right at every epoch anyway.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import dist_zero as dz
from dist_zero.changes import view_fates
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.client.watch import StoredChange
from dist_zero.compiler import compile
from dist_zero.expr.changes import in_place_of
from dist_zero.expr.graph import decode_graph
from dist_zero.expr.ops import Graph
from dist_zero.generated import Generator
from dist_zero.reference.evaluate import Oracle
from dist_zero.reference.gate import Gate
from dist_zero.reference.history import Datasets
from dist_zero.reference.operators import Delta
from dist_zero.testing import log_of, writes_of
from dist_zero.testing.faulty import FaultySystem
from dist_zero.zset import ZSet, consolidate
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.protocol.messages.requests import ProgramState
from dist_zero_common.protocol.stored import LogRecord
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.plan import KINDS, drawn_faults
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import Sale, Shop, Visit
from test.simulated.seeds import seeds

Tables = dict[str, dz.Table]
Make = Callable[[Tables], dz.Table]

MENU: dict[str, list[Make]] = {
    "large": [
        lambda t: t["sales"].where(t["sales"]["amount"] > 0.5).select("id", twice=t["sales"]["amount"] * 2),
        lambda t: t["sales"].where(t["sales"]["amount"] > 0.2).select("id", twice=t["sales"]["amount"] * 2),
        lambda t: t["sales"].select("id", "shop"),
    ],
    "per_shop": [
        lambda t: (
            t["sales"].group_by("shop").agg(total=dz.sum("amount"), n=dz.count(), best=dz.max("amount"))
        ),
        lambda t: t["sales"].group_by("shop").agg(total=dz.sum("amount"), n=dz.count()),
    ],
    "all": [
        lambda t: t["sales"].group_by().agg(total=dz.sum("amount"), n=dz.count(), most=dz.max("amount")),
        lambda t: t["sales"].group_by().agg(mean=dz.mean("amount")),
    ],
    "first": [
        lambda t: t["sales"].top(3, by=dz.desc("amount")),
        lambda t: t["sales"].top(2, by=dz.desc("amount"), per="shop", rank="place"),
    ],
    "per_town": [
        lambda t: t["sales"].join(t["shops"], on="shop").group_by("town").agg(n=dz.count()),
        lambda t: t["sales"].join(t["shops"], on="shop", how="left").group_by("town").agg(n=dz.count()),
    ],
    "best_towns": [
        lambda t: (
            t["sales"]
            .join(t["shops"], on="shop")
            .group_by("town")
            .agg(n=dz.count())
            .top(2, by=dz.desc("n"), rank="place")
        ),
        lambda t: t["sales"].group_by("shop").agg(n=dz.count()).top(2, by=dz.desc("n")),
    ],
    "without": [
        lambda t: t["shops"].join(t["sales"], on="shop", how="anti"),
        lambda t: (
            t["shops"]
            .select("shop")
            .difference(
                t["sales"].where(t["sales"]["shop"] != "").select(shop=dz.coalesce(t["sales"]["shop"], ""))
            )
        ),
    ],
}
"""Views by name, each with some definitions."""


def drawn_program(rng: random.Random, *, always: str = "") -> dz.Program:
    """A program with some of the views, in some order."""
    app = dz.Program("changing")
    tables = {
        "sales": app.dataset("sales", Sale, key="id"),
        "shops": app.dataset("shops", Shop, key="shop"),
        "visits": app.dataset("visits", Visit),
    }
    names = rng.sample(sorted(MENU), rng.randrange(2, 6))
    for name in dict.fromkeys([*names, *([always] if always else [])]):
        app.view(name, rng.choice(MENU[name][:1] if name == always else MENU[name])(tables))
    app.view("visited", tables["visits"].group_by("shop").agg(n=dz.sum("visitors")))  # which is always kept
    return app


@dataclass
class Run:
    """One seed: what was drawn, and what was seen."""

    seed: int
    faults: tuple[str, ...] = ()
    profile: str = "faithful"
    step_bytes: int | None = None
    """How much is filled at once; None: it is drawn."""
    watched: dict[str, list[StoredChange]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    log: list[LogRecord] = field(default_factory=list)
    last: dict[str, ZSet] = field(default_factory=dict)
    last_epoch: int = 0
    committed: list[tuple[bytes, int]] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    changed_epoch: int = 0
    applied: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        always = rng.choice(sorted(MENU))
        self.before, self.after = drawn_program(rng, always=always), drawn_program(rng, always=always)
        self.nodes, self.machines = rng.choice((1, 2, 3, 4)), rng.choice((2, 3))
        step = self.step_bytes or rng.choice((100, 500, 4_000, 10**6))
        self.options = SequencerOptions(save_interval_seconds=rng.choice((0.2, 0.5, 2.0)), fill_bytes=step)
        self.objects = MemoryObjects(remembers=True)

    def run(self) -> Run:
        """Live through it, and check what was seen."""
        run_simulation(self._live(SimWorld(self.seed, self.profile)), until_seconds=20_000)
        self.check()
        return self

    async def _live(self, world: SimWorld) -> None:
        store = MemoryStore(self.objects, world)
        system = FaultySystem(world, machines=self.machines, store=store, sequencer=self.options)
        remote = RemoteSystem("", system.name, world.clock, connect=system.connector("asks"), process="asks")
        async with system, system.connect(self.before, nodes=self.nodes) as client:
            system.may_reshard(self.before.name)
            generator = Generator(client.plan, random.Random(self.seed))
            await self._write(client, generator, 25)
            async with asyncio.TaskGroup() as tasks:
                going = [tasks.create_task(self._watch(system, view.name)) for view in client.plan.views]
                going.append(tasks.create_task(self._write(client, generator, 10_000, 0.4)))
                plan = drawn_faults(self.seed, self.faults, self.machines)
                harm = tasks.create_task(system.injector.run(plan))
                await asyncio.sleep(random.Random(self.seed).choice((0.0, 1.0, 6.0)))
                await self._change(remote)
                await harm
                await asyncio.sleep(20)  # and what was told to whom is known to all
                for task in going:
                    task.cancel()
            async with system.connect(self.after) as fresh:
                await client.flush()
                shot = await fresh.snapshot()
                self.last = {
                    name: consolidate((row, 1) for row in rows) for name, rows in shot.stored.items()
                }
                self.last_epoch = shot.epoch
            for program in (await remote.status()).programs:
                assert program.state is ProgramState.RUNNING and not program.note
            self.log = await log_of(MemoryStore(self.objects), self.before.name)
            self.applied = system.injector.applied

    async def _change(self, remote: RemoteSystem) -> None:
        """Ask for the change until it is done, whatever happens to the scheduler."""
        for _ in range(20):
            try:
                await remote.change(self.after)
                return
            except OperatorError:
                self.reached["asked again"] += 1
        raise AssertionError("it is never done")

    async def _write(self, client: Client, generator: Generator, count: int, pause: float = 0.0) -> None:
        rng = random.Random(self.seed)
        for number in range(count):
            drawn = generator.transactions(1) if number < 10 or rng.random() < 0.6 else generator.changes(1)
            for transaction in drawn:
                payload = transaction.payload()
                self.committed.append((payload, await client.write(transaction)))
            await asyncio.sleep(pause * rng.random())

    async def _watch(self, system: FaultySystem, name: str) -> None:
        async with system.connect(self.before.name) as client:
            number = next((n for n, reader in client.readers.items() if reader.name == name), None)
            if number is None:
                return
            seen = self.watched[name] = []
            try:
                with client.watch_stored((number,)) as watch:
                    async for change in watch:
                        seen.append(StoredChange(change.epoch, {0: change.rows[number]}, change.snapshot))
            except RequestError as gone:
                self.refused[name] = str(gone)

    # -- what must hold ------------------------------------------------------------------------------------

    def check(self) -> None:
        """All of it."""
        before = self.before.graph()
        after = in_place_of(self.after.graph(), before)
        fates = {fate.name: fate.kept for fate in view_fates(compile(before), compile(after))}
        for name in (view.name for view in before.views):
            if name not in fates and name in self.watched:
                assert "has dropped view" in self.refused[name] or "no view" in self.refused[name]
                self.reached["dropped"] += 1
        self.check_views(before, after, fates)
        there = [(t.payload, record.epoch) for record in self.log for t in record.transactions]
        assert all(each in there for each in self.committed) and len(there) <= len(self.committed) + 1
        taking = [record for record in self.log if record.graph and decode_graph(record.graph).before]
        assert bool(taking) == (not all(fates.values()))
        self.reached["filled"] += bool(taking)
        self.reached["steps"] += len({record.filled for record in self.log}) > 3
        self.reached["generations"] += sum(record.begins is not None for record in self.log)

    def check_views(self, before: Graph, after: Graph, fates: dict[str, bool]) -> None:
        """Each watched view is what the oracle says, epoch by epoch."""
        plan, datasets = compile(after), Datasets(after)
        shown: dict[str, ZSet] = {name: {} for name in self.watched}
        seen = {name: {each.epoch: each for each in changes} for name, changes in self.watched.items()}
        may_be = dict.fromkeys(self.watched, (True, False))
        for record in self.log:
            for writes in writes_of(plan, record):
                datasets.apply(writes)
            if record.epoch != self.last_epoch and not any(record.epoch in each for each in seen.values()):
                continue
            contents = datasets.contents()
            first, second = Oracle(before, contents), Oracle(after, contents)
            if record.epoch == self.last_epoch:
                for view in after.views:
                    assert self.last[view.name] == second.view(view.name).rows, f"{view.name} in the end"
            for name in self.watched:
                change = seen[name].get(record.epoch)
                if change is None:
                    continue
                known = () if change.snapshot else shown[name].items()
                shown[name] = consolidate([*known, *change.rows[0]])
                was_first, was_second = may_be[name]
                may_be[name] = (
                    was_first and shown[name] == first.view(name).rows,
                    (was_second or change.snapshot or fates.get(name, False))
                    and name in fates
                    and shown[name] == second.view(name).rows,
                )
                assert any(may_be[name]), f"{name} at epoch {record.epoch} where it may have been {was_first}"
        for name, kept in fates.items():
            if name in self.watched and not kept:
                self.reached["seen to change"] += may_be[name] == (False, True)


@pytest.mark.parametrize("seed", range(4))
def test_oracle_programs_change_while_data_go_on_simulated(seed: int) -> None:
    """Without faults, in faithful and hostile weather."""
    Run(seed, profile=("faithful", "hostile")[seed % 2]).run()


@pytest.mark.parametrize("seed", seeds(3, 6, first=100))
def test_oracle_programs_change_under_faults_simulated(seed: int) -> None:
    """With faults of all kinds, the scheduler and the runners among those who die."""
    Run(seed, faults=tuple(KINDS)).run()


@pytest.mark.long
@pytest.mark.parametrize("first", range(1_000, 1_300, 25))
def test_oracle_long_programs_change_under_faults_simulated(first: int) -> None:
    """The same over many seeds, in which everything was reached."""
    reached: Counter[str] = Counter()
    for seed in range(first, first + 25):
        reached.update(
            Run(seed, faults=tuple(KINDS), profile=("faithful", "hostile")[seed % 2]).run().reached
        )
    assert all(reached[each] for each in ("dropped", "filled", "steps", "seen to change"))


class NeverGate(Gate):
    """Planted: a gate that lets everything pass, and fills on top of it."""

    def apply(self, delta: Delta, fill: range) -> Delta:
        """What passes, and what should wait."""
        passing = super().apply(delta, fill)
        return passing + [
            pair for pair in delta if self._key is not None and self._slice(pair[0]) >= fill.stop
        ]


def test_a_gate_that_is_open_is_found_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bugs of the gate are found in whole systems, too."""
    monkeypatch.setattr("dist_zero.reference.interpreter.Gate", NeverGate)
    with pytest.raises((AssertionError, ExceptionGroup, OperatorError)):
        for seed in range(200, 206):
            Run(seed, step_bytes=100).run()
