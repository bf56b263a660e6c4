"""Rows that are left out: C says which, and the interpreter's code says why, in its own words. They are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dist_zero.compiler import plan as plans
from dist_zero.compiler.plan import Plan
from dist_zero.executor import ErrorCount
from dist_zero.expr.ops import Scalar
from dist_zero.native.library import Said
from dist_zero.native.text import LeftOut
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.kept import KeptZSet
from dist_zero.reference.operators import Failures, consolidated
from dist_zero.reference.scalar import (
    Scalars,
    aggregation_input,
    compile_scalar,
    compile_tuple,
    example_text,
    referenced_columns,
)
from dist_zero.state import error_places, is_plain_count
from dist_zero.types import Row, RowType

Explain = Callable[[Row], tuple[str, str]]
"""From a row to the reason for which it is left out, and the example."""

_KINDS = {"right": 1, "group": 1}
"""Which place in `error_places` says where a row is; of the others the first."""


class Failing:
    """All that a node leaves out. `kept`: by operator, as of the newest finished epoch."""

    def __init__(self, plan: Plan, left_out: Sequence[LeftOut]) -> None:
        self._plan, self._left_out = plan, left_out
        self._places = {n: [compile_tuple(place) for place in p] for n, p in error_places(plan).items()}
        self.kept = {number: KeptZSet() for number in self._places}
        self._explain: dict[int, tuple[RowType, Explain]] = {}
        self._waiting: dict[int, dict[int, Failures]] = {}

    def take(self, epoch: int, said: Said) -> None:
        """Let what a step of this epoch has left out wait for its end."""
        while said:
            number = said.word()
            place = self._left_out[number]
            if number not in self._explain:
                self._explain[number] = _explained(self._plan, place)
            row_type, explain = self._explain[number]
            waiting = self._waiting.setdefault(epoch, {})
            if place.operator not in waiting:
                waiting[place.operator] = Failures(self._places.get(place.operator, ()))
            failures, kind = waiting[place.operator], _KINDS.get(place.what, 0)
            for row, weight in said.batch(row_type.types).items():
                failures.add(explain(row), row, weight, kind)

    def finish(self, epoch: int) -> None:
        """Make what an epoch has left out visible."""
        for number, failures in self._waiting.pop(epoch, {}).items():
            if failures.found:
                self.kept[number].add(consolidated(failures.found).items())

    def errors(self, operators: Sequence[int]) -> list[ErrorCount]:
        """What these operators leave out, by operator and reason."""
        found = []
        for number in sorted(operators):
            label = self._plan.operators[number].label
            reasons: dict[str, list[tuple[str, int]]] = {}
            if number in self.kept:
                for (*_, reason, example), count in self.kept[number].weights.items():
                    reasons.setdefault(reason, []).append((example, count))
            for reason in sorted(reasons):
                smallest = min(example for example, _ in reasons[reason])
                total = sum(count for _, count in reasons[reason])
                found.append(ErrorCount(number, label, reason, smallest, total))
        return found


def _explained(plan: Plan, place: LeftOut) -> tuple[RowType, Explain]:
    """The type of the rows that are left out at a place, and what explains them."""
    operator = plan.operators[place.operator]
    inputs = [plan.operators[number].row_type for number in operator.inputs]
    if place.what == "group":
        assert isinstance(operator, plans.Reduce)
        count, row_type, reason = len(operator.keys), operator.row_type, place.reason
        columns = range(count)
        return row_type.select(tuple(columns)), lambda key: (reason, example_text(row_type, columns, key))
    if isinstance(operator, plans.Window):
        return inputs[0], _window(operator, inputs[0])
    source = inputs[1] if place.what == "right" else inputs[0]
    if place.what == "pair":
        source = RowType(inputs[0].names + inputs[1].names, inputs[0].types + inputs[1].types)
    return source, Scalars(_scalars(operator, place.what), source).failure


def _window(operator: plans.Window, source: RowType) -> Explain:
    at, columns = compile_scalar(operator.at), referenced_columns(operator.at)
    scalars = Scalars((operator.at,), source)

    def explain(row: Row) -> tuple[str, str]:
        try:
            at(row)
        except ScalarFailure:
            return scalars.failure(row)
        return "out of range", example_text(source, columns, row)

    return explain


def _scalars(operator: plans.Operator, what: str) -> Sequence[Scalar]:
    """The scalars of an operator in the order in which the interpreter tries them."""
    if isinstance(operator, plans.Filter):
        return (operator.predicate,)
    if isinstance(operator, plans.Project):
        return operator.columns
    if isinstance(operator, plans.FlatMap):
        return [scalar for scalars in operator.alternatives for scalar in scalars]
    if isinstance(operator, plans.Exchange):
        return operator.key
    if isinstance(operator, plans.Top):
        return [*operator.per, *(key.value for key in operator.order)]
    if isinstance(operator, plans.Reduce):
        fed = [each for each in operator.aggregations if not is_plain_count(each)]
        return [*operator.keys, *map(aggregation_input, fed)]
    assert isinstance(operator, plans.Join)
    if what == "pair":
        assert operator.condition is not None
        return (operator.condition,)
    return operator.left_key if what == "left" else operator.right_key
