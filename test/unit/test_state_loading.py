"""The state with which a node begins: read as a whole, followed from base to base, or left by who ran before; and never
that of another plan, interval or epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import dist_zero as dz
from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map, rescaled
from dist_zero.state import state_tables
from dist_zero_common.protocol.messages.pieces import ShardMap, WriteKind
from dist_zero_common.protocol.stored import (
    Base,
    CheckpointId,
    TableBlob,
)
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.checkpoints import Checkpoint, write_checkpoint
from services.node_runner.loading import LoadedState, Loader, NodeKeeper
from test.unit.saved_states import LOG

T = TypeVar("T")


class Sale(dz.Row):
    id: int
    shop: int


def plan_of(column: str) -> Plan:
    app = dz.Program("shop")
    sales = app.dataset("sales", Sale, key="id")
    app.view("v", sales.group_by(column).agg(n=dz.count()))
    return compile(app.graph())


PLAN, OTHER_PLAN = plan_of("shop"), plan_of("id")
ONE = even_map(1, ["n1"])
TWO = rescaled(ONE, 2)


class Node:
    """The one node of a program, which saves each of its epochs, and a store with that."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.executor = store, Interpreter(PLAN)
        self.epoch, self.previous, self.links = 0, CheckpointId("n1", 0, 0), 0

    async def write(self, *rows: tuple[int, int], everything: bool = False) -> None:
        self.epoch += 1
        batch = Batch.from_rows(PLAN.datasets[0].row_type.types, list(rows))
        writes = [Writes(0, WriteKind.PUT, (0, 1), batch, [0] * len(rows), range(len(rows)))]
        arrived: list[tuple[int, Batch]] = []
        for stage in range(1, PLAN.stages + 1):
            parcels = self.executor.step(self.epoch, stage, writes, arrived, ONE, 0)
            arrived, writes = [(parcel.exchange, parcel.batch) for parcel in parcels], []
        self.executor.finish(self.epoch)
        everything = everything or self.links == 0
        self.links = 1 if everything else self.links + 1
        which = CheckpointId("n1", self.epoch, 0)
        tables = tuple(
            TableBlob(state_tables(PLAN)[change.table].name, change.puts.to_blob(), change.deletes.to_blob())
            for change in self.executor.save(everything)
        )
        previous = None if everything else self.previous
        await write_checkpoint(
            self.store, Checkpoint("shop", which, PLAN.fingerprint, previous, self.links, tables), LOG
        )
        self.previous = which

    def base(self, shard_map: ShardMap = ONE) -> Base:
        saved = None if shard_map == ONE else ONE
        which = CheckpointId("n1", self.epoch, 0)
        return Base(self.epoch, 0, 0, shard_map, b"", checkpoints=(which,), saved_map=saved)


def live(story: Callable[[Node, Callable[..., Loader]], Coroutine[Any, Any, T]]) -> T:
    world = SimWorld(1, "calm")

    async def main() -> T:
        store = MemoryStore(MemoryObjects(), world)
        keeper = NodeKeeper(store, Interpreter, world.clock, asyncio.Lock())

        def loader(plan: Plan = PLAN, shard_map: ShardMap = ONE, shard: int = 0) -> Loader:
            return Loader(keeper, plan, shard_map, shard, LOG)

        return await story(Node(store), loader)

    return run_simulation(main(), until_seconds=1_000)


def rows(state: LoadedState) -> list[tuple[Any, ...]]:
    return sorted(state.executor.rows(0).rows())


def test_who_follows_reads_what_changed_and_has_what_is_there() -> None:
    """Of a split both halves; a base that is the same costs nothing, and where everything was saved, it is compared."""

    async def story(node: Node, loader: Callable[..., Loader]) -> None:
        await node.write(*((n, n % 7) for n in range(100)))
        halves = [loader(shard_map=TWO, shard=shard) for shard in range(2)]
        states = [await half.load(node.base()) for half in halves]
        for everything in (False, True, False):
            await node.write((1, 3), (1_000 + node.epoch, 5), everything=everything)
            before = states[0].entries
            states = [await half.follow(s, node.base(TWO)) for half, s in zip(halves, states, strict=True)]
            assert (states[0].entries - before > 50) == everything
            again = [await half.follow(s, node.base(TWO)) for half, s in zip(halves, states, strict=True)]
            assert again == states
            direct = [await half.load(node.base()) for half in halves]
            assert list(map(rows, states)) == list(map(rows, direct))

    live(story)


def test_only_the_very_state_is_kept() -> None:
    """Whose executor goes on is the node of this name and interval, as of this epoch, by this plan."""

    async def story(node: Node, loader: Callable[..., Loader]) -> None:
        await node.write((1, 1))
        left = LoadedState(node.executor, 1, (CheckpointId("n1", 1, 0),), links=1, runs=True)
        assert loader().is_exactly(left, node.base())
        assert not loader(plan=OTHER_PLAN).is_exactly(left, node.base())
        assert not loader(shard_map=TWO).is_exactly(left, node.base(TWO))
        assert not loader(shard_map=even_map(2, ["n2"])).is_exactly(left, node.base())
        await node.write((2, 2))
        assert not loader().is_exactly(left, node.base())

    live(story)


def test_what_runs_or_is_of_another_plan_is_not_followed() -> None:
    """It is loaded anew, into an executor of its own."""

    async def story(node: Node, loader: Callable[..., Loader]) -> None:
        await node.write((1, 1))
        runs = LoadedState(node.executor, 1, (CheckpointId("n1", 1, 0),), links=1, runs=True)
        await node.write((2, 2))
        state = await loader().follow(runs, node.base())
        assert state.executor is not node.executor and rows(state) == [(1, 1), (2, 1)] and state.links == 2
        other = LoadedState(Interpreter(OTHER_PLAN), 2, (CheckpointId("n1", 2, 0),), links=1)
        assert (await loader().follow(other, node.base())).executor.plan is PLAN

    live(story)
