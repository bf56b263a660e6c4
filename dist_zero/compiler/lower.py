"""From relations to operators: one for each, in an order in which they can run. Nothing is placed yet.

What stands here as `UNKNOWN` and stage 1 is filled in by `partition`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dist_zero.compiler import plan
from dist_zero.compiler.plan import UNKNOWN, DatasetPlan, Operator, Plan, StateKind, ViewPlan
from dist_zero.compiler.walk import key_places, relations
from dist_zero.expr import ops
from dist_zero.expr.ops import ColumnRef, Graph, Relation
from dist_zero.expr.walk import inputs_of

VERBS: dict[type[Relation], str] = {
    ops.Dataset: "dataset",
    ops.Filter: "where",
    ops.Project: "select",
    ops.FlatMap: "flat_map",
    ops.Window: "window",
    ops.Join: "join",
    ops.Aggregate: "agg",
    ops.Top: "top",
    ops.Distinct: "distinct",
    ops.Union: "union",
    ops.Difference: "difference",
    ops.Alias: "alias",
}
"""The word the user wrote for each relation; with the line it names an operator in errors."""


def lower(graph: Graph) -> Plan:
    """The plan of a program without aliases, as if there were one node."""
    operators: list[Operator] = []
    place: dict[int, int] = {}
    for relation in relations(graph):
        place[id(relation)] = len(operators)
        operators.append(_operator(graph, relation, len(operators), place))
    views = []
    for number, view in enumerate(graph.views):
        views.append(ViewPlan(view.name, view.relation.row_type, len(operators)))
        operators.append(_sink(view, number, len(operators), place[id(view.relation)]))
    datasets = tuple(
        DatasetPlan(d.name, d.row_type, key_places(d), d.broadcast, d.dropped) for d in graph.datasets
    )
    return Plan(graph.name, datasets, tuple(views), tuple(operators), 1, "")


def label(relation: Relation) -> str:
    """How errors name the operators of this relation."""
    return f"{relation.location} {VERBS[type(relation)]}"


def _operator(graph: Graph, relation: Relation, number: int, place: dict[int, int]) -> Operator:
    common: dict[str, Any] = {
        "id": number,
        "inputs": tuple(place[id(i)] for i in inputs_of(relation)),
        "row_type": relation.row_type,
        "stage": 1,
        "sharding": UNKNOWN,
        "label": label(relation),
    }
    if isinstance(relation, ops.Dataset):
        key = key_places(relation)
        state = StateKind.NONE if key is None else StateKind.KEYED
        dataset = next(i for i, d in enumerate(graph.datasets) if d is relation)
        return plan.Source(dataset=dataset, key=key, state=state, **common)
    return _LOWER[type(relation)](relation, common)


def _join(r: Any, common: dict[str, Any]) -> Operator:
    left_key, right_key = tuple(left for left, _ in r.on), tuple(right for _, right in r.on)
    return plan.Join(
        left_key=left_key,
        right_key=right_key,
        condition=r.condition,
        how=r.how,
        state=StateKind.KEYED,
        **common,
    )


def _top(r: Any, common: dict[str, Any]) -> Operator:
    return plan.Top(
        count=r.count, order=r.order, per=r.per, tie=tie(r), rank=r.rank, state=StateKind.KEYED, **common
    )


def tie(top: ops.Top) -> tuple[int, ...]:
    """The places of the input's columns that decide between rows of equal order: its key, of a bag all."""
    key = key_places(top.input)
    return tuple(range(len(top.input.row_type))) if key is None else key


_LOWER: dict[type[Relation], Callable[[Any, dict[str, Any]], Operator]] = {
    ops.Filter: lambda r, common: plan.Filter(predicate=r.predicate, **common),
    ops.Project: lambda r, common: plan.Project(columns=r.columns, **common),
    ops.FlatMap: lambda r, common: plan.FlatMap(alternatives=r.alternatives, **common),
    ops.Window: lambda r, common: plan.Window(at=r.at, size_us=r.size_us, every_us=r.every_us, **common),
    ops.Join: _join,
    ops.Aggregate: lambda r, common: plan.Reduce(
        keys=r.keys, aggregations=r.aggregations, state=StateKind.KEYED, **common
    ),
    ops.Top: _top,
    ops.Distinct: lambda _, common: plan.Distinct(state=StateKind.KEYED, **common),
    ops.Union: lambda _, common: plan.Union(**common),
    ops.Difference: lambda _, common: plan.Difference(state=StateKind.KEYED, **common),
}


def _sink(view: ops.View, number: int, place: int, source: int) -> Operator:
    return plan.Sink(
        view=number,
        key=key_places(view.relation),
        order=display_order(view.relation),
        errors_of=(),
        id=place,
        inputs=(source,),
        row_type=view.relation.row_type,
        stage=1,
        sharding=UNKNOWN,
        state=StateKind.KEYED,
        label=f"view {view.name}",
    )


def display_order(relation: Relation) -> tuple[tuple[int, bool], ...]:
    """How people see the relation sorted, as (column, descending) pairs: a `top` in its own order, else by
    key, a bag by the whole row."""
    top = _top_order(relation)
    if top is not None:
        return top
    key = key_places(relation)
    places = range(len(relation.row_type)) if key is None else key
    return tuple((place, False) for place in places)


def _top_order(relation: Relation) -> tuple[tuple[int, bool], ...] | None:
    """The order of the `top` that `relation` shows, through operations that keep its rows; None if there is none."""
    projects: list[ops.Project] = []
    while isinstance(relation, ops.Filter | ops.Alias | ops.Project):
        if isinstance(relation, ops.Project):
            projects.append(relation)
        relation = relation.input
    if not isinstance(relation, ops.Top):
        return None
    order = _own_order(relation)
    for project in reversed(projects):
        columns = reversed(list(enumerate(project.columns)))
        shown = {column.index: i for i, column in columns if isinstance(column, ColumnRef)}
        if any(place not in shown for place, _ in order):
            return None
        order = tuple((shown[place], descending) for place, descending in order)
    return order


def _own_order(top: ops.Top) -> tuple[tuple[int, bool], ...]:
    """Only plain columns can be sorted by: what comes behind the first computed one is left to rank or ties."""
    per = [(s.index, False) for s in top.per if isinstance(s, ColumnRef)]
    if top.rank:
        return (*per, (len(top.row_type) - 1, False))
    order: list[tuple[int, bool]] = []
    for sort_key in top.order:
        if not isinstance(sort_key.value, ColumnRef):
            break
        order.append((sort_key.value.index, sort_key.descending))
    return _without_repeats([*per, *order, *((place, False) for place in tie(top))])


def _without_repeats(order: list[tuple[int, bool]]) -> tuple[tuple[int, bool], ...]:
    """Each column where it stands first; what follows on it can decide nothing."""
    first: dict[int, bool] = {}
    for place, descending in order:
        first.setdefault(place, descending)
    return tuple(first.items())
