"""Running a plan on several nodes and comparing it, at every epoch, with the oracle.

`run` plays the part of the protocol: it routes writes, carries parcels, and lets each node take its next step
when the contract of `dist_zero/executor.py` allows it, in an order drawn from a seed. What a node receives is
shuffled, split, and sometimes encoded on the way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.compiler.sharding import Facts, Shard, facts, listed
from dist_zero.executor import ErrorCount
from dist_zero.hashing import hasher
from dist_zero.kept import Kept
from dist_zero.reference.evaluate import Evaluated, LeftOut, Oracle
from dist_zero.reference.history import Datasets
from dist_zero.reference.interpreter import Interpreter
from dist_zero.reference.operators import Context, Delta, OperatorState, Settling
from dist_zero.reference.scalar import compile_tuple
from dist_zero.shards import even_map, owner
from dist_zero.types import DataType, RowType, check_stored
from dist_zero.writes import route
from dist_zero.zset import ZSet, add_into
from dist_zero_common.protocol.messages.pieces import ShardMap
from test.oracle.nodes import summed
from test.oracle.random_programs import Case, Epoch

NODE_COUNTS = (1, 2, 3, 8)


@dataclass(frozen=True)
class Seen:
    """A view at an epoch: its rows on all nodes, what is left out, and the rows as a watcher knows them."""

    rows: ZSet
    errors: tuple[LeftOut, ...]
    watched: ZSet


@dataclass
class Outcome:
    """What a run showed: by epoch (from 0) and view; and the updates and deletes that missed, by dataset."""

    views: list[list[Seen]] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)


def check(
    case: Case, seed: int, node_counts: Sequence[int] = NODE_COUNTS, plan: Plan | None = None
) -> list[list[Evaluated]]:
    """Any number of nodes shows what the oracle says, at every epoch; returns that, by epoch and view."""
    plan = compile(case.graph) if plan is None else plan
    expected, missed = expectation(case)
    for count in node_counts:
        outcome = run(plan, case.epochs, count, seed)
        assert outcome.missed == missed, f"missed writes on {count} nodes"
        for epoch, (seen, wanted) in enumerate(zip(outcome.views, expected, strict=True), 1):
            for view, (got, want) in enumerate(zip(seen, wanted, strict=True)):
                where = f"view {plan.views[view].name} at epoch {epoch} on {count} nodes"
                assert exact(got.rows) == exact(want.rows), f"rows of {where}"
                assert got.errors == want.errors, f"errors of {where}"
                assert exact(got.watched) == exact(want.rows), f"what a watcher sees of {where}"
    return expected


def expectation(case: Case) -> tuple[list[list[Evaluated]], list[int]]:
    """The oracle's views after every epoch, checked to be what their types and keys say; and missed
    writes."""
    datasets, views = Datasets(case.graph), []
    for epoch in case.epochs:
        for transaction in epoch:
            datasets.apply(transaction)
        oracle = Oracle(case.graph, datasets.contents())
        views.append([oracle.view(view.name) for view in case.graph.views])
        for view, evaluated in zip(case.graph.views, views[-1], strict=True):
            check_rows(view.relation.row_type, view.relation.key, evaluated.rows)
    return views, [datasets.missed[dataset.name] for dataset in case.graph.datasets]


def check_rows(row_type: RowType, key: tuple[str, ...] | None, rows: ZSet) -> None:
    """A collection has positive weights and values of its types; one with a key, one row for each."""
    for row, weight in rows.items():
        assert weight > 0
        for name, dtype, value in zip(row_type.names, row_type.types, row, strict=True):
            assert check_stored(dtype, value) is None and fits(dtype, value), (name, str(dtype), value)
    if key is not None:
        places = [row_type.index(name) for name in key]
        keys = [tuple(row[i] for i in places) for row in rows]
        assert len(set(keys)) == len(keys) and set(rows.values()) <= {1}, f"key {key} is none"


def fits(dtype: DataType, value: object) -> bool:
    """Whether a stored value is of the Python type that its column type is stored in."""
    return value is None or type(value).__name__ == _STORED_AS.get(dtype.kind.value, "int")


_STORED_AS = {"bool": "bool", "float": "float", "str": "str", "bytes": "bytes"}


def exact(rows: ZSet) -> dict[str, int]:
    """The rows in a form in which only equal bits are equal: 0.0 is not -0.0, nor 1 or True."""
    return dict(sorted((repr(row), weight) for row, weight in rows.items()))


# ---- running -----------------------------------------------------------------------------------------------


def run(plan: Plan, epochs: Sequence[Epoch], node_count: int, seed: int) -> Outcome:
    """Run the epochs on `node_count` nodes, in an order drawn from `seed`."""
    running = Running(plan, epochs, even_map(1, [f"n{i}" for i in range(node_count)]), random.Random(seed))
    while running.advance():
        pass
    running.check_places()
    return running.outcome()


class Running:
    """Nodes, what is under way between them, and what they have shown. `next[n]`: node n's (epoch, stage)."""

    def __init__(self, plan: Plan, epochs: Sequence[Epoch], shards: ShardMap, chance: random.Random) -> None:
        self.plan, self.epochs, self.shards, self.chance = plan, epochs, shards, chance
        self.nodes = [Watched(plan, shards, place) for place in range(len(shards.nodes))]
        self.done = {(n, 0, s) for n in range(len(self.nodes)) for s in range(1, plan.stages + 1)}
        self.arrived: dict[tuple[int, int, int], list[tuple[int, Batch]]] = {}
        self.writes = [self._routed(number, epoch) for number, epoch in enumerate(epochs, 1)]
        self.shown: dict[int, list[tuple[list[ZSet], list[list[ErrorCount]], dict[int, Batch]]]] = {}

    def _routed(self, number: int, epoch: Epoch) -> list[list[Writes]]:
        """The epoch's writes by node."""
        by_node: list[list[Writes]] = [[] for _ in self.nodes]
        for transaction, writes in enumerate(epoch):
            for node, part in route(writes, self.plan, self.shards, number, transaction).items():
                by_node[node].extend(part)
        return by_node

    def advance(self) -> bool:
        """One step of one node that may take one; False when all is done."""
        possible = [
            (node, epoch, stage)
            for node in range(len(self.nodes))
            for epoch in range(1, len(self.epochs) + 1)
            for stage in range(1, self.plan.stages + 1)
            if (node, epoch, stage) not in self.done and self._may(node, epoch, stage)
        ]
        if possible:
            self._step(*self.chance.choice(possible))
        return bool(possible)

    def _may(self, node: int, epoch: int, stage: int) -> bool:
        if (node, epoch - 1, stage) not in self.done:
            return False
        return stage == 1 or all((n, epoch, stage - 1) in self.done for n in range(len(self.nodes)))

    def _step(self, node: int, epoch: int, stage: int) -> None:
        writes = list(self.writes[epoch - 1][node]) if stage == 1 else []
        self.chance.shuffle(writes)
        arrived = self._disturbed(self.arrived.pop((node, epoch, stage), []))
        executor = self.nodes[node]
        parcels = executor.step(epoch, stage, writes, arrived, self.shards, node)
        places = [(parcel.shard, parcel.exchange) for parcel in parcels]
        assert places == sorted(set(places)) and all(len(parcel.batch) for parcel in parcels)
        for parcel in parcels:
            self.arrived.setdefault((parcel.shard, epoch, stage + 1), []).append(
                (parcel.exchange, parcel.batch)
            )
        self.done.add((node, epoch, stage))
        if stage == self.plan.stages:
            changes = executor.finish(epoch)
            rows = [executor.rows(view).to_zset() for view in range(len(self.plan.views))]
            errors = [executor.errors(view) for view in range(len(self.plan.views))]
            self.shown.setdefault(epoch, []).append((rows, errors, changes))

    def _disturbed(self, arrived: list[tuple[int, Batch]]) -> list[tuple[int, Batch]]:
        """The same rows, in other batches and another order."""
        pieces: list[tuple[int, Batch]] = []
        for exchange, batch in arrived:
            if self.chance.random() < 0.3:
                batch = Batch.from_blob(batch.types, batch.to_blob())
            cut = self.chance.randint(0, len(batch))
            parts = (batch.take(range(cut)), batch.take(range(cut, len(batch))))
            pieces += [(exchange, part) for part in parts if len(part)]
        self.chance.shuffle(pieces)
        return pieces

    def check_places(self) -> None:
        """Every row is on the node that owns the hash of the view's sharding, and is found there by its
        key."""
        for number, view in enumerate(self.plan.views):
            sink = self.plan.operators[view.sink]
            assert isinstance(sink, Sink) and isinstance(sink.sharding, tuple)
            hash_of = hasher([scalar.dtype for scalar in sink.sharding])
            values_of = compile_tuple(sink.sharding)
            for place, node in enumerate(self.nodes):
                for row in node.rows(number).to_zset():
                    assert owner(self.shards, hash_of(values_of(row))) == place, "a row is on another node"
                    if sink.key is not None:
                        assert node.get(number, tuple(row[i] for i in sink.key)) == row

    def outcome(self) -> Outcome:
        """What all nodes showed together."""
        views = range(len(self.plan.views))
        watched: list[ZSet] = [{} for _ in views]
        outcome = Outcome(
            missed=[sum(n.missed(d) for n in self.nodes) for d in range(len(self.plan.datasets))]
        )
        for epoch in range(1, len(self.epochs) + 1):
            seen = []
            for view in views:
                rows: ZSet = {}
                for node_rows, _, changes in self.shown[epoch]:
                    assert not set(rows) & set(node_rows[view]), "a row is on two nodes"
                    add_into(rows, node_rows[view])
                    if view in changes:
                        add_into(watched[view], changes[view].to_zset())
                errors = summed(
                    [error for _, node_errors, _ in self.shown[epoch] for error in node_errors[view]]
                )
                seen.append(Seen(rows, errors, dict(watched[view])))
            outcome.views.append(seen)
        return outcome


class Watched(Interpreter):
    """An interpreter that asserts, of every row of every operator, that it is where the compiler believes."""

    def __init__(self, plan: Plan, shards: ShardMap, place: int) -> None:
        super().__init__(plan)
        known: list[Facts] = []
        for operator in plan.operators:
            inputs = operator.inputs
            known.append(facts(operator, [plan.operators[i] for i in inputs], [known[i] for i in inputs]))
            if operator.id in self._states:
                state = self._states[operator.id]
                self._states[operator.id] = WatchedState(state, listed(known[-1]), shards, place)


class WatchedState:
    """An operator whose output rows have to be on this node by each of `known`."""

    def __init__(self, state: OperatorState, known: tuple[Shard, ...], shards: ShardMap, place: int) -> None:
        self._state, self._shards, self._place = state, shards, place
        self._known = [(compile_tuple(shard), hasher([s.dtype for s in shard])) for shard in known]

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """What the operator does."""
        changes = self._state.apply(inputs, context)
        for row, _ in changes:
            for values_of, hash_of in self._known:
                assert owner(self._shards, hash_of(values_of(row))) == self._place, (
                    "a row is where it is not believed"
                )
        return changes

    def kept(self) -> dict[str, Kept]:
        """What the operator keeps."""
        return self._state.kept()

    def settle(self) -> Settling:
        """What the operator does."""
        return self._state.settle()
