"""Several executors of one plan in one process, an epoch at a time: for tests that write their input by hand.

`Nodes` does for an epoch what the runtime does: routes the writes to their owners, runs stage after stage, hands
parcels over (in an order of the caller's choice), and finishes. `harness.py` is for drawn programs: there many epochs
are under way at once, and nodes take their steps in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, ErrorCount, Executor
from dist_zero.reference.evaluate import LeftOut
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map
from dist_zero.types import Row
from dist_zero.writes import route
from dist_zero.zset import ZSet, add_pairs
from dist_zero_common.protocol.messages.pieces import ShardMap, WriteKind

Arrived = list[tuple[int, Batch]]
Reorder = Callable[[Arrived], Arrived]


class Nodes:
    """`count` nodes that run `plan`; `reorder` may permute and split what arrives at a stage."""

    def __init__(
        self,
        plan: Plan,
        count: int,
        make: Callable[[Plan], Executor] = Interpreter,
        reorder: Reorder = lambda arrived: arrived,
    ) -> None:
        self.plan = plan
        self.shards: ShardMap = even_map(1, [f"node-{i}" for i in range(count)])
        self.executors = [make(plan) for _ in range(count)]
        self.epoch = 0
        self._reorder = reorder

    def run(self, *transactions: Sequence[Writes], fill: range = NOTHING_FILLED) -> list[dict[int, Batch]]:
        """One epoch of these transactions, which fills these slices; by node, what each view's part of it changed."""
        self.epoch += 1
        writes: list[list[Writes]] = [[] for _ in self.executors]
        for number, transaction in enumerate(transactions):
            for shard, routed in route(transaction, self.plan, self.shards, self.epoch, number).items():
                writes[shard] += routed
        arrived: list[Arrived] = [[] for _ in self.executors]
        for stage in range(1, self.plan.stages + 1):
            arrived = self._step(stage, writes if stage == 1 else [[] for _ in self.executors], arrived, fill)
        assert not any(arrived), "the last stage sent something"
        return [executor.finish(self.epoch) for executor in self.executors]

    def _step(
        self, stage: int, writes: list[list[Writes]], arrived: list[Arrived], fill: range
    ) -> list[Arrived]:
        delivered: list[Arrived] = [[] for _ in self.executors]
        for shard, executor in enumerate(self.executors):
            parcels = executor.step(
                self.epoch, stage, writes[shard], self._reorder(arrived[shard]), self.shards, shard, fill
            )
            places = [(parcel.shard, parcel.exchange) for parcel in parcels]
            assert places == sorted(set(places)), "parcels are not in ascending order, each once"
            assert all(len(parcel.batch) for parcel in parcels), "an empty parcel"
            for parcel in parcels:
                delivered[parcel.shard].append((parcel.exchange, parcel.batch))
        return delivered

    def rows(self, view: str) -> ZSet:
        """The whole view."""
        total: ZSet = {}
        for executor in self.executors:
            add_pairs(total, executor.rows(self._number(view)).items())
        return total

    def errors(self, view: str) -> tuple[LeftOut, ...]:
        """What all nodes together leave out, by label and reason."""
        number = self._number(view)
        return summed([error for executor in self.executors for error in executor.errors(number)])

    def get(self, view: str, key: Row) -> list[Row]:
        """The rows that nodes have for a key: one or none, if all is well."""
        found = [executor.get(self._number(view), key) for executor in self.executors]
        return [row for row in found if row is not None]

    def missed(self, dataset: int) -> int:
        """Updates and deletes that found no row, on all nodes."""
        return sum(executor.missed(dataset) for executor in self.executors)

    def _number(self, view: str) -> int:
        return [each.name for each in self.plan.views].index(view)


def summed(errors: Sequence[ErrorCount]) -> tuple[LeftOut, ...]:
    """The errors of all nodes and operators, as one view shows them."""
    groups: dict[tuple[str, str], list[ErrorCount]] = {}
    for error in errors:
        groups.setdefault((error.label, error.reason), []).append(error)
    return tuple(
        LeftOut(label, reason, min(e.example for e in group), sum(e.count for e in group))
        for (label, reason), group in sorted(groups.items())
    )


def put(plan: Plan, dataset: str, *rows: Row) -> Writes:
    """Puts (appends, to a dataset without a key) of stored rows."""
    number = [each.name for each in plan.datasets].index(dataset)
    kind = WriteKind.APPEND if plan.datasets[number].key is None else WriteKind.PUT
    columns = tuple(range(len(plan.datasets[number].row_type)))
    return _writes(plan, number, kind, columns, rows)


def delete(plan: Plan, dataset: str, *keys: Row) -> Writes:
    """Deletes of keys."""
    number = [each.name for each in plan.datasets].index(dataset)
    return _writes(plan, number, WriteKind.DELETE, plan.datasets[number].key or (), keys)


def update(plan: Plan, dataset: str, columns: Sequence[str], *rows: Row) -> Writes:
    """Updates: the key's values, then those of `columns`."""
    number = [each.name for each in plan.datasets].index(dataset)
    places = [plan.datasets[number].row_type.index(name) for name in columns]
    return _writes(plan, number, WriteKind.UPDATE, (*(plan.datasets[number].key or ()), *places), rows)


def _writes(
    plan: Plan, number: int, kind: WriteKind, columns: tuple[int, ...], rows: Sequence[Row]
) -> Writes:
    types = plan.datasets[number].row_type.select(columns).types
    return Writes(number, kind, columns, Batch.from_rows(types, list(rows)), (), ())
