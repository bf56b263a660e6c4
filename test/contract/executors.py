"""The executors that the contract suite runs over, and what it runs: nodes that are saved, loaded, divided and joined.

An executor of another kind joins with one more line at the end. `Run` plays the part of the protocol an epoch at a
time; in `test/oracle/harness.py` many epochs are under way at once, but state is saved when none is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.executor import ErrorCount, Executor
from dist_zero.hashing import hasher
from dist_zero.native.build import STRICT, available
from dist_zero.native.executor import NativeExecutor
from dist_zero.reference.interpreter import Interpreter
from dist_zero.reference.scalar import compile_tuple
from dist_zero.shards import HASH_MAX, Interval, interval, owner
from dist_zero.state import Division, StateTable, TableChange, state_tables
from dist_zero.types import Row, picker
from dist_zero.writes import route
from dist_zero.zset import ZSet, add_pairs
from dist_zero_common.protocol.messages.pieces import BatchBlob, ShardMap
from test.oracle.nodes import summed
from test.oracle.random_programs import Epoch

Arrived = list[tuple[int, Batch]]
Save = list[TableChange]
Said = list[tuple[object, ...]]
"""What a node said and showed in an epoch, in bytes."""


@dataclass(frozen=True)
class ExecutorHarness:
    """Makes the executor of a plan. `rarely`: one in so many random programs is enough, because each has to be
    compiled, and `test_differential_native.py` tries others."""

    name: str
    make: Callable[[Plan], Executor]
    rarely: int = 1


@dataclass
class Run:
    """Nodes that go over epochs together. What they receive is shuffled and cut, by `chance`."""

    plan: Plan
    make: Callable[[Plan], Executor]
    shards: ShardMap
    chance: random.Random
    nodes: list[Executor] = field(default_factory=list)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.nodes = [self.make(self.plan) for _ in self.shards.nodes]

    def run(self, epoch: Epoch) -> list[Said]:
        """One epoch; what each node said and showed."""
        self.epoch += 1
        writes: list[list[Writes]] = [[] for _ in self.nodes]
        for number, transaction in enumerate(epoch):
            for node, routed in route(transaction, self.plan, self.shards, self.epoch, number).items():
                writes[node] += routed
        arrived: list[Arrived] = [[] for _ in self.nodes]
        said: list[Said] = [[] for _ in self.nodes]
        for stage in range(1, self.plan.stages + 1):
            arrived = self._stage(stage, writes if stage == 1 else [[] for _ in self.nodes], arrived, said)
        for node, executor in enumerate(self.nodes):
            changes = executor.finish(self.epoch)
            said[node] += [("change", view, batch.to_blob()) for view, batch in changes.items()]
            said[node] += shown(executor)
        return said

    def _stage(
        self, stage: int, writes: list[list[Writes]], arrived: list[Arrived], said: list[Said]
    ) -> list[Arrived]:
        delivered: list[Arrived] = [[] for _ in self.nodes]
        for node, executor in enumerate(self.nodes):
            own = list(writes[node])
            self.chance.shuffle(own)
            parcels = executor.step(self.epoch, stage, own, self._disturbed(arrived[node]), self.shards, node)
            for parcel in parcels:
                said[node].append(("parcel", stage, parcel.shard, parcel.exchange, parcel.batch.to_blob()))
                delivered[parcel.shard].append((parcel.exchange, parcel.batch))
        return delivered

    def _disturbed(self, arrived: Arrived) -> Arrived:
        """The same rows, in other batches and another order."""
        pieces: Arrived = []
        for exchange, batch in arrived:
            places = list(range(len(batch)))
            self.chance.shuffle(places)
            cut = self.chance.randint(0, len(batch))
            pieces += [(exchange, batch.take(part)) for part in (places[:cut], places[cut:]) if part]
        self.chance.shuffle(pieces)
        return pieces

    def rows(self, view: int) -> ZSet:
        """The whole view."""
        total: ZSet = {}
        for node in self.nodes:
            add_pairs(total, node.rows(view).items())
        return total

    def errors(self, view: int) -> list[ErrorCount]:
        """What all nodes leave out of a view."""
        return [error for node in self.nodes for error in node.errors(view)]

    def missed(self, dataset: int) -> int:
        """Updates and deletes that missed, on all nodes."""
        return sum(node.missed(dataset) for node in self.nodes)


def shown(executor: Executor) -> Said:
    """All that can be read of a node."""
    said: Said = []
    for view, sink in ((i, executor.plan.operators[v.sink]) for i, v in enumerate(executor.plan.views)):
        rows = executor.rows(view).to_zset()
        said.append(("rows", view, sorted((repr(row), weight) for row, weight in rows.items())))
        said.append(("errors", view, executor.errors(view)))
        key = getattr(sink, "key", None)
        if key is not None:
            assert all(executor.get(view, picker(key)(row)) == row for row in rows)
    said += [("missed", number, executor.missed(number)) for number in range(len(executor.plan.datasets))]
    return said


# ---- saves -------------------------------------------------------------------------------------------------


def in_bytes(save: Save) -> list[tuple[int, BatchBlob, BatchBlob]]:
    """A save as it is stored."""
    return [(change.table, change.puts.to_blob(), change.deletes.to_blob()) for change in save]


def stored(plan: Plan, save: Save) -> Save:
    """A save that went through the store: made of bytes, and checked."""
    tables = state_tables(plan)
    return [
        TableChange(
            number,
            Batch.from_blob(tables[number].row_type.types, puts, tables[number].row_type.names),
            Batch.from_blob(tables[number].key_type.types, deletes),
        )
        for number, puts, deletes in in_bytes(save)
    ]


def entries(plan: Plan, saves: Sequence[Save]) -> dict[tuple[str, Row], tuple[str, int]]:
    """What a chain of saves comes to: by table and key, the entry in exact writing and its weight."""
    tables = state_tables(plan)
    state: dict[tuple[str, Row], tuple[str, int]] = {}
    for save in saves:
        for change in save:
            table = tables[change.table]
            key_of = picker(table.key if table.key is not None else range(len(table.row_type)))
            for key in change.deletes.rows():
                state.pop((table.name, key), None)
            for row, weight in change.puts.items():
                state[table.name, key_of(row)] = repr(row), weight
    return state


def hash_of(table: StateTable) -> Callable[[Row], int]:
    """The hash that owns an entry of a table."""
    values_of, of_values = compile_tuple(table.shard), hasher([scalar.dtype for scalar in table.shard])
    return lambda row: of_values(values_of(row))


def check_places(run: Run, saves: Sequence[Save]) -> None:
    """Of full saves of all nodes: each keyed entry is where its hash is owned; what is broadcast is alike."""
    tables = state_tables(run.plan)
    copies: dict[int, list[object]] = {}
    for node, save in enumerate(saves):
        for change in save:
            table = tables[change.table]
            if table.division is Division.KEYED:
                owners = {owner(run.shards, hash_of(table)(row)) for row in change.puts.rows()}
                assert owners <= {node}, f"an entry of {table.name} is on another node than its hash"
            elif table.division is Division.BROADCAST:
                copies.setdefault(change.table, []).append(change.puts.to_blob())
    for same in copies.values():
        assert len(same) == len(saves) and all(copy == same[0] for copy in same)


def random_map(chance: random.Random, version: int, count: int) -> ShardMap:
    """A map of intervals of any sizes."""
    lasts = sorted({chance.randrange(HASH_MAX) for _ in range(count - 1)} - {HASH_MAX})
    return ShardMap(version, (*lasts, HASH_MAX), tuple(f"n{version}-{i}" for i in range(len(lasts) + 1)))


def reshard(run: Run, chains: Sequence[Sequence[Save]], shards: ShardMap) -> None:
    """Replace all nodes by those of another map. What belongs to no hash goes to some successor of its node."""
    successors = [run.make(run.plan) for _ in shards.nodes]
    heirs = {}
    for old in range(len(run.nodes)):
        first, last = interval(run.shards, old)
        heirs[old] = run.chance.randint(owner(shards, first), owner(shards, last))
    for new, executor in enumerate(successors):
        low, high = interval(shards, new)
        keeps = (
            Interval(low, high),
            partial(_is_within, low, high),
        )  # of which an executor may know the first
        olds = range(owner(run.shards, low), owner(run.shards, high) + 1)
        for old in run.chance.sample(list(olds), len(olds)):
            saves = [stored(run.plan, save) for save in chains[old]]
            executor.load(run.epoch, saves, run.chance.choice(keeps), heirs[old] == new)
    run.nodes, run.shards = successors, shards


def _is_within(low: int, high: int, key_hash: int) -> bool:
    return low <= key_hash <= high


def totals(errors: Sequence[ErrorCount]) -> list[tuple[str, str, int]]:
    """How many rows are left out, by label and reason; without those that add up to nothing."""
    return [(e.label, e.reason, e.count) for e in summed(errors) if e.count]


def native(plan: Plan) -> Executor:
    """A native executor that is quickly there: without optimisation, compiling takes a third of the time."""
    return NativeExecutor(plan, ("-O0", *STRICT))


EXECUTORS = [ExecutorHarness("reference", Interpreter)]
if available() is None:
    EXECUTORS.append(ExecutorHarness("native", native, rarely=24))
