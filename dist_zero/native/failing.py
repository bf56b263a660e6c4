"""Rows that are left out: C says which, and the interpreter's code says why, in its own words. They are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dist_zero.compiler import plan as plans
from dist_zero.compiler.plan import Plan
from dist_zero.expr.ops import Scalar
from dist_zero.left_out import RowsLeftOut
from dist_zero.native.library import Said
from dist_zero.native.text import LeftOut
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import (
    Scalars,
    aggregation_input,
    compile_scalar,
    example_text,
    referenced_columns,
)
from dist_zero.state import is_plain_count
from dist_zero.types import Row, RowType

Explain = Callable[[Row], tuple[str, str]]
"""From a row to the reason for which it is left out, and the example."""

_KINDS = {"right": 1, "group": 1}
"""Which place in `error_places` says where a row is; of the others the first."""


class Failing:
    """Tells `left_out` what a node leaves out."""

    def __init__(self, plan: Plan, places: Sequence[LeftOut], left_out: RowsLeftOut) -> None:
        self._plan, self._places, self._left_out = plan, places, left_out
        self._explain: dict[int, tuple[RowType, Explain]] = {}

    def take(self, epoch: int, said: Said) -> None:
        """Let what a step of this epoch has left out wait for its end."""
        while said:
            number = said.word()
            place = self._places[number]
            if number not in self._explain:
                self._explain[number] = _explained(self._plan, place)
            row_type, explain = self._explain[number]
            failures, kind = self._left_out.failures(epoch, place.operator), _KINDS.get(place.what, 0)
            for row, weight in said.batch(row_type.types).items():
                failures.add(explain(row), row, weight, kind)


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
