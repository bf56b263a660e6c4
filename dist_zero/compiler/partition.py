"""Cutting a plan into stages: exchanges where an operator needs rows together that are not.

`sharding.need` says what an operator misses; this file chooses the exchange that gives it, wants few of them,
and follows four rules:

- What is there is used: a side of a join that is already sharded by part of the join key stays, and the other
  side is sent to it. The empty sharding (one node) is never spread to the other side, which may be large.
- An exchange whose key cannot fail is shared by all who want it. One whose key can fail belongs to one
  operator and has its label: it leaves out, and counts, exactly the rows that the operator would have, since
  it computes the same scalars in the same order. Any other key of such an operator would find other failures
  first.
- A global aggregate or top runs on every node on what is there, then on one node on what came out. If it is a top, a
  minimum or a maximum, and rows may be taken back, they have to be somewhere that a row itself tells, since nodes may
  be divided meanwhile (`dist_zero/state.py`): else they are sent by the whole row before.
- A group is sharded by its whole key, also where a `top` per part of that key follows: sharding it by the part
  would save a stage, and send all rows of one `per` to one node instead of their few groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dist_zero.compiler import plan
from dist_zero.compiler.plan import Exchange, Operator, Phase, Plan, StateKind
from dist_zero.compiler.sharding import (
    BROADCAST_JOINS,
    Facts,
    Shard,
    apply,
    bare,
    common_fact,
    common_key,
    expressible,
    facts,
    holds,
    listed,
    need,
    only_grows,
    same,
    sharding_of,
    sink_key,
    sink_sharding,
    top_is_whole,
    whole,
)
from dist_zero.compiler.walk import all_columns
from dist_zero.expr.functions import may_fail
from dist_zero.types import BYTES, RowType


def partition(lowered: Plan) -> Plan:
    """The plan with exchanges, stages and shardings."""
    return _Partition(lowered).run()


class _Partition:
    """The new plan as it grows: operators, what is known of each, and where the old ones went."""

    def __init__(self, lowered: Plan) -> None:
        self.lowered = lowered
        self.operators: list[Operator] = []
        self.known: list[Facts] = []
        self.grows: list[bool] = []
        self.place: list[int] = []
        self.exchanges: dict[object, int] = {}

    def run(self) -> Plan:
        for operator in self.lowered.operators:
            inputs = [self.place[i] for i in operator.inputs]
            choose = _CHOICES.get(type(operator))
            self.place.append(
                self.add(operator, inputs) if choose is None else choose(self, operator, inputs)
            )
        operators = tuple(self.operators)
        return replace(
            self.lowered,
            operators=operators,
            views=tuple(replace(view, sink=self.place[view.sink]) for view in self.lowered.views),
            stages=max((operator.stage for operator in operators), default=1),
        )

    def add(self, operator: Operator, inputs: Sequence[int], **changes: Any) -> int:
        """Put an operator behind these inputs, and return its place."""
        sources = [self.operators[i] for i in inputs]
        stage = max((source.stage for source in sources), default=1) + isinstance(operator, Exchange)
        placed = replace(operator, id=len(self.operators), inputs=tuple(inputs), stage=stage, **changes)
        known = facts(placed, sources, [self.known[i] for i in inputs])
        self.operators.append(replace(placed, sharding=sharding_of(known)))
        self.known.append(known)
        self.grows.append(only_grows(placed, [self.grows[i] for i in inputs]))
        return placed.id

    def facts_of(self, inputs: Sequence[int]) -> list[Facts]:
        """What is known of these operators' outputs."""
        return [self.known[i] for i in inputs]

    def exchange(self, source: int, key: Shard, label: str) -> int:
        """The place where the rows of `source` are sharded by `key`; `source` itself if they are."""
        if holds(self.known[source], key):
            return source
        shared = not any(map(may_fail, key))
        memo = (source, tuple(map(bare, key)))
        if shared and memo in self.exchanges:
            return self.exchanges[memo]
        place = self.add(self._exchange(source, key, label), [source])
        if shared:
            self.exchanges[memo] = place
        return place

    def broadcast(self, source: int, label: str) -> int:
        """The place where the rows of `source` are on every node."""
        if source not in self.exchanges:
            self.exchanges[source] = self.add(
                replace(self._exchange(source, (), label), broadcast=True), [source]
            )
        return self.exchanges[source]

    def _exchange(self, source: int, key: Shard, label: str) -> Exchange:
        row_type = self.operators[source].row_type
        return Exchange(
            id=0, inputs=(), row_type=row_type, stage=0, sharding=key, label=label, key=key, broadcast=False
        )

    # ---- choices, by kind of operator ----------------------------------------------------------------------

    def join(self, join: plan.Join, inputs: Sequence[int]) -> int:
        left, right = inputs
        if join.how in BROADCAST_JOINS and self._is_small(right) and not any(map(may_fail, join.right_key)):
            return self.add(join, [left, self.broadcast(right, join.label)], state=StateKind.BROADCAST)
        if need(join, self.facts_of(inputs)) is not None:
            by = self._join_sharding(join, left, right)
            left = self.exchange(left, apply(by, join.left_key), join.label)
            right = self.exchange(right, apply(by, join.right_key), join.label)
            assert common_key(join, self.facts_of([left, right])) is not None
        return self.add(join, [left, right])

    def _join_sharding(self, join: plan.Join, left: int, right: int) -> Shard:
        """By which function of the join key both sides shall be sharded: one that a side has, or the whole
        key."""
        for side, other_key in ((left, join.right_key), (right, join.left_key)):
            for by in expressible(self.known[side], join.left_key if side == left else join.right_key):
                if by and _may_exchange(by, other_key):
                    return by
        return whole(join.left_key)

    def _is_small(self, place: int) -> bool:
        """Whether this is a dataset declared `broadcast`, perhaps filtered and projected."""
        operator = self.operators[place]
        while isinstance(operator, plan.Filter | plan.Project):
            operator = self.operators[operator.inputs[0]]
        return isinstance(operator, plan.Source) and self.lowered.datasets[operator.dataset].broadcast

    def reduce(self, reduce: plan.Reduce, inputs: Sequence[int]) -> int:
        if need(reduce, self.facts_of(inputs)) is None:
            return self.add(reduce, inputs)
        if not reduce.keys:
            return self._global_reduce(reduce, inputs)
        return self.add(reduce, [self.exchange(inputs[0], reduce.keys, reduce.label)])

    def _global_reduce(self, reduce: plan.Reduce, inputs: Sequence[int]) -> int:
        accumulators = RowType(reduce.row_type.names, (BYTES,) * len(reduce.row_type))
        if any(aggregation.function in ("min", "max") for aggregation in reduce.aggregations):
            inputs = [self.located(inputs[0], reduce.label)]
        partial = self.add(reduce, inputs, phase=Phase.PARTIAL, row_type=accumulators)
        return self.add(reduce, [self.exchange(partial, (), reduce.label)], phase=Phase.FINAL)

    def top(self, top: plan.Top, inputs: Sequence[int]) -> int:
        if top_is_whole(top, self.known[inputs[0]]):
            return self.add(top, inputs)
        source = inputs[0]
        if not top.per:
            source = self.located(source, top.label)
            source = self.add(top, [source], rank=False, row_type=self.operators[source].row_type)
        return self.add(top, [self.exchange(source, top.per, top.label)])

    def located(self, source: int, label: str) -> int:
        """The place where the rows of `source` are such that each that is taken back is found again."""
        if self.known[source] or self.grows[source]:
            return source
        return self.exchange(source, all_columns(self.operators[source].row_type), label)

    def distinct(self, distinct: plan.Distinct, inputs: Sequence[int]) -> int:
        if need(distinct, self.facts_of(inputs)) is None:
            return self.add(distinct, inputs)
        return self.add(distinct, [self.exchange(inputs[0], all_columns(distinct.row_type), distinct.label)])

    def difference(self, difference: plan.Difference, inputs: Sequence[int]) -> int:
        if need(difference, self.facts_of(inputs)) is not None:
            usable = (
                fact
                for i in inputs
                for fact in listed(self.known[i])
                if fact and not any(map(may_fail, fact))
            )
            by = next(usable, all_columns(difference.row_type))
            inputs = [
                self.exchange(i, apply(by, all_columns(self.operators[i].row_type)), difference.label)
                for i in inputs
            ]
            assert common_fact(self.facts_of(inputs)) is not None
        return self.add(difference, inputs)

    def sink(self, sink: plan.Sink, inputs: Sequence[int]) -> int:
        source = inputs[0]
        if need(sink, self.facts_of(inputs)) is not None:
            source = self.exchange(source, sink_key(sink), sink.label)
        place = self.add(sink, [source], errors_of=self._ancestors(source))
        shard = sink_sharding(sink, self.known[place])
        assert shard is not None
        self.operators[place] = replace(self.operators[place], sharding=shard)
        return place

    def _ancestors(self, place: int) -> tuple[int, ...]:
        found: set[int] = set()
        stack = [place]
        while stack:
            operator = stack.pop()
            if operator not in found:
                found.add(operator)
                stack.extend(self.operators[operator].inputs)
        return tuple(sorted(found))


_CHOICES: dict[type[Operator], Callable[[_Partition, Any, list[int]], int]] = {
    plan.Join: _Partition.join,
    plan.Reduce: _Partition.reduce,
    plan.Top: _Partition.top,
    plan.Distinct: _Partition.distinct,
    plan.Difference: _Partition.difference,
    plan.Sink: _Partition.sink,
}


def _may_exchange(by: Shard, keys: Shard) -> bool:
    """Whether rows may be exchanged by this function of an operator's keys without moving an error: it cannot
    fail, or it begins as the operator does."""
    return not any(map(may_fail, apply(by, keys))) or same(by, whole(keys)[: len(by)])
