"""Going through programs: the few helpers with which every pass reads and rebuilds relations (scalars:
`expr/scalars.py`).

Relations are a graph without cycles in which a collection used twice is one object. Rebuilding keeps that:
each relation is visited once, after its inputs, and one that need not change stays the same object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

from dist_zero.expr import ops
from dist_zero.expr.ops import ColumnRef, Relation, Scalar
from dist_zero.expr.walk import in_order, inputs_of
from dist_zero.types import RowType

R = TypeVar("R", bound=Relation)


def with_inputs(relation: R, new: tuple[Relation, ...]) -> R:
    """`relation` over other inputs; itself when they are the ones it has."""
    if all(a is b for a, b in zip(inputs_of(relation), new, strict=True)):
        return relation
    if isinstance(relation, ops.Join | ops.Difference):
        return replace(relation, left=new[0], right=new[1])
    if isinstance(relation, ops.Union):
        return replace(relation, inputs=new)
    return cast(R, replace(cast(ops.Filter, relation), input=new[0]))


def relations(graph: ops.Graph) -> list[Relation]:
    """Every relation of the program once, inputs first: all datasets that there still are, then what the views need."""
    datasets = [dataset for dataset in graph.datasets if not dataset.dropped]
    return in_order([*datasets, *(view.relation for view in graph.views)])


def rewrite(graph: ops.Graph, rule: Callable[[Relation], Relation]) -> ops.Graph:
    """The program with `rule` applied to every relation after its inputs."""
    new: dict[int, Relation] = {}
    for relation in relations(graph):
        new[id(relation)] = rule(with_inputs(relation, tuple(new[id(i)] for i in inputs_of(relation))))
    return with_views(graph, lambda relation: new[id(relation)])


def with_views(graph: ops.Graph, new: Callable[[Relation], Relation]) -> ops.Graph:
    """The program whose views are `new` of what they were; the same object when nothing changed."""
    views = tuple(ops.View(v.name, new(v.relation)) for v in graph.views)
    if all(a.relation is b.relation for a, b in zip(views, graph.views, strict=True)):
        return graph
    return replace(graph, views=views)


def use_counts(graph: ops.Graph) -> dict[int, int]:
    """By `id(relation)`: how many relations and views use it (one that uses it twice counts twice)."""
    counts = {id(relation): 0 for relation in relations(graph)}
    for relation in relations(graph):
        for used in inputs_of(relation):
            counts[id(used)] += 1
    for view in graph.views:
        counts[id(view.relation)] += 1
    return counts


def map_scalars(relation: R, change: Callable[[Scalar], Scalar]) -> R:
    """`relation` with each of its scalars changed; itself when nothing changed."""
    changed = cast(R, _with_scalars(relation, change))
    return changed if scalars(changed) != scalars(relation) else relation


def _with_scalars(relation: Relation, change: Callable[[Scalar], Scalar]) -> Relation:
    if isinstance(relation, ops.Filter):
        return replace(relation, predicate=change(relation.predicate))
    if isinstance(relation, ops.Project):
        return replace(relation, columns=tuple(map(change, relation.columns)))
    if isinstance(relation, ops.FlatMap):
        return replace(relation, alternatives=tuple(tuple(map(change, a)) for a in relation.alternatives))
    if isinstance(relation, ops.Window):
        return replace(relation, at=change(relation.at))
    if isinstance(relation, ops.Join):
        on = tuple((change(left), change(right)) for left, right in relation.on)
        return replace(relation, on=on, condition=_change(relation.condition, change))
    if isinstance(relation, ops.Aggregate):
        aggregations = tuple(map_aggregation(a, change) for a in relation.aggregations)
        return replace(relation, keys=tuple(map(change, relation.keys)), aggregations=aggregations)
    if isinstance(relation, ops.Top):
        order = tuple(replace(k, value=change(k.value)) for k in relation.order)
        return replace(relation, order=order, per=tuple(map(change, relation.per)))
    return relation


def map_aggregation(aggregation: ops.Aggregation, change: Callable[[Scalar], Scalar]) -> ops.Aggregation:
    """The aggregation with its argument and condition changed."""
    argument, where = _change(aggregation.argument, change), _change(aggregation.where, change)
    return replace(aggregation, argument=argument, where=where)


def _change(scalar: Scalar | None, change: Callable[[Scalar], Scalar]) -> Scalar | None:
    return None if scalar is None else change(scalar)


def scalars(relation: Relation) -> tuple[Scalar, ...]:
    """All scalars of a relation. Those of a join refer to different rows: see `ops.Join`."""
    if isinstance(relation, ops.Filter):
        return (relation.predicate,)
    if isinstance(relation, ops.Project):
        return relation.columns
    if isinstance(relation, ops.FlatMap):
        return tuple(scalar for alternative in relation.alternatives for scalar in alternative)
    if isinstance(relation, ops.Window):
        return (relation.at,)
    if isinstance(relation, ops.Join):
        return (*(s for pair in relation.on for s in pair), *_present(relation.condition))
    if isinstance(relation, ops.Aggregate):
        return (*relation.keys, *(s for a in relation.aggregations for s in aggregation_scalars(a)))
    if isinstance(relation, ops.Top):
        return (*relation.per, *(k.value for k in relation.order))
    return ()


def aggregation_scalars(aggregation: ops.Aggregation) -> tuple[Scalar, ...]:
    """The argument and the condition of an aggregation, as far as it has them."""
    return (*_present(aggregation.argument), *_present(aggregation.where))


def _present(scalar: Scalar | None) -> tuple[Scalar, ...]:
    return () if scalar is None else (scalar,)


def all_columns(row_type: RowType) -> tuple[ColumnRef, ...]:
    """A reference to each column of a row."""
    return tuple(ColumnRef(i, dtype) for i, dtype in enumerate(row_type.types))


def key_places(relation: Relation) -> tuple[int, ...] | None:
    """The places of the key's columns, in the key's order; None for a bag."""
    return None if relation.key is None else tuple(relation.row_type.index(name) for name in relation.key)
