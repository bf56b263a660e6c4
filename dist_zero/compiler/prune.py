"""Leaving out columns that nobody uses.

f(r) = f(select(c, r)) if f looks only at the columns c. Two walks: from the views down, which columns of each
relation are *used*; from the datasets up, the relations again over what is left, of each which old columns it
*kept*.

A `select` is put where rows are sent, kept or multiplied: in front of joins, groups, tops, windows and flat
maps. In front of the rest (a global aggregate too, which starts where the rows are) it would cost more than
it saves. `distinct`, `difference` and the ties of a bag look at whole rows and so use every column; a
computed column that may fail is computed even if nobody uses it, because it leaves rows out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dist_zero.compiler.walk import (
    aggregation_scalars,
    map_aggregation,
    map_scalars,
    relations,
    scalars,
    with_inputs,
    with_views,
)
from dist_zero.expr import ops
from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import ColumnRef, Graph, Key, Relation, Scalar
from dist_zero.expr.scalars import columns_of, renumber
from dist_zero.expr.walk import inputs_of
from dist_zero.types import Kind, RowType

Columns = set[int]


def prune_columns(graph: Graph) -> Graph:
    """The program in which joins, groups and tops see only columns that are used."""
    used = _used(graph)
    pruning = _Pruning(used)
    for relation in relations(graph):
        pruning.visit(relation)
    return with_views(graph, lambda relation: pruning.whole(relation))


# ---- down: what is used ------------------------------------------------------------------------------------


def _used(graph: Graph) -> dict[int, Columns]:
    """By `id(relation)`, the columns of it that some view or relation looks at."""
    order = relations(graph)
    used: dict[int, Columns] = {id(relation): set() for relation in order}
    for view in graph.views:
        used[id(view.relation)].update(range(len(view.relation.row_type)))
    for relation in reversed(order):
        for source, columns in zip(inputs_of(relation), _uses(relation, used[id(relation)]), strict=True):
            used[id(source)].update(columns)
    return used


def _uses(relation: Relation, wanted: Columns) -> tuple[Iterable[int], ...]:
    """Which columns of each of its inputs a relation looks at if only `wanted` ones of its own are."""
    if isinstance(relation, ops.Dataset):
        return ()
    if isinstance(relation, ops.Join):
        return _join_uses(relation, wanted)
    if isinstance(relation, ops.Distinct | ops.Difference):
        return tuple(range(len(i.row_type)) for i in inputs_of(relation))
    if isinstance(relation, ops.Union):
        return (wanted or {0},) * len(relation.inputs)
    if isinstance(relation, ops.Project):
        return (columns_of(relation.columns[i] for i in _kept_computed(relation.columns, wanted)),)
    if isinstance(relation, ops.Aggregate):
        kept = _kept_aggregations(relation, wanted)
        return (
            columns_of(
                (*relation.keys, *(s for a in kept for s in aggregation_scalars(relation.aggregations[a])))
            ),
        )
    source = inputs_of(relation)[0]
    looked_at = scalars(relation)
    if isinstance(relation, ops.FlatMap):
        kept_made = _kept_made(relation, wanted)
        looked_at = tuple(alternative[i] for alternative in relation.alternatives for i in kept_made)
    passed = {i for i in wanted if i < len(source.row_type)} | columns_of(looked_at)
    if isinstance(relation, ops.Top):
        names = source.row_type.names if source.key is None else source.key
        passed |= {source.row_type.index(name) for name in names}
    return (passed,)


def _join_uses(join: ops.Join, wanted: Columns) -> tuple[Columns, Columns]:
    width = len(join.left.row_type)
    both = wanted | (columns_of((join.condition,)) if join.condition is not None else set())
    left = {i for i in both if i < width} | columns_of(pair[0] for pair in join.on)
    right = {i - width for i in both if i >= width} | columns_of(pair[1] for pair in join.on)
    return left, right


def _kept_computed(columns: tuple[Scalar, ...], wanted: Columns) -> list[int]:
    """The columns that are wanted or may fail; at least one, since a row needs a column."""
    return [i for i, scalar in enumerate(columns) if i in wanted or may_fail(scalar)] or [0]


def _kept_made(flat_map: ops.FlatMap, wanted: Columns) -> list[int]:
    """The places in its alternatives of the columns that are wanted or may fail."""
    width, count = len(flat_map.input.row_type), len(flat_map.alternatives[0])
    return [
        i for i in range(count) if width + i in wanted or any(may_fail(a[i]) for a in flat_map.alternatives)
    ]


def _kept_aggregations(aggregate: ops.Aggregate, wanted: Columns) -> list[int]:
    """The aggregations that are wanted or may fail; without keys at least one."""
    first = len(aggregate.keys)
    kept = [i for i, a in enumerate(aggregate.aggregations) if first + i in wanted or aggregation_may_fail(a)]
    return kept or ([] if aggregate.keys else [0])


def aggregation_may_fail(aggregation: ops.Aggregation) -> bool:
    """Whether its expressions may fail on a row, or its result may not fit: a sum of integers or decimals."""
    overflows = aggregation.function == "sum" and aggregation.dtype.kind is not Kind.FLOAT
    return overflows or any(map(may_fail, aggregation_scalars(aggregation)))


# ---- up: what is left --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pruned:
    """A relation rebuilt; `kept`: which columns of the old one it has, ascending."""

    relation: Relation
    kept: tuple[int, ...]

    def place(self) -> dict[int, int]:
        """Where an old column stands now."""
        return {old: new for new, old in enumerate(self.kept)}

    def renumber(self, scalar: Scalar) -> Scalar:
        """A scalar over the old row, over the new one."""
        return renumber(scalar, self.place())


class _Pruning:
    """The rebuilt relations, by `id` of the old ones, and the selects that were put in, each once."""

    def __init__(self, used: dict[int, Columns]) -> None:
        self.used = used
        self.pruned: dict[int, _Pruned] = {}
        self.narrowed: dict[tuple[int, tuple[int, ...]], _Pruned] = {}

    def whole(self, relation: Relation) -> Relation:
        """The relation of a view, of which all columns are used."""
        pruned = self.pruned[id(relation)]
        assert len(pruned.kept) == len(relation.row_type)
        return pruned.relation

    def visit(self, relation: Relation) -> None:
        """Rebuild one relation whose inputs have been."""
        wanted = self.used[id(relation)]
        sources = tuple(self.pruned[id(i)] for i in inputs_of(relation))
        rebuild = _REBUILD.get(type(relation))
        if rebuild is None:
            self.pruned[id(relation)] = _Pruned(relation, tuple(range(len(relation.row_type))))
        else:
            columns = tuple(sorted(c) for c in map(set, _uses(relation, wanted)))
            self.pruned[id(relation)] = rebuild(self, relation, sources, columns, wanted)

    def narrow(self, source: _Pruned, columns: Iterable[int]) -> _Pruned:
        """`source` with these old columns only; with its first one if there are none, since a row needs a
        column."""
        kept = tuple(sorted(columns)) or source.kept[:1]
        if kept == source.kept:
            return source
        memo = (id(source.relation), kept)
        if memo not in self.narrowed:
            self.narrowed[memo] = _Pruned(_select(source, kept), kept)
        return self.narrowed[memo]


def _select(source: _Pruned, kept: tuple[int, ...]) -> Relation:
    relation, place = source.relation, source.place()
    places = tuple(place[old] for old in kept)
    row_type = relation.row_type.select(places)
    columns = tuple(ColumnRef(i, relation.row_type.types[i]) for i in places)
    return ops.Project(row_type, _key(relation.key, row_type), relation, columns, location=relation.location)


def _key(key: Key, row_type: RowType) -> Key:
    """The key, if all its columns are still there."""
    return key if key is not None and all(name in row_type.names for name in key) else None


def _with_type(relation: Relation, old: RowType, kept: tuple[int, ...]) -> Relation:
    if len(kept) == len(old):
        return relation
    row_type = old.select(kept)
    return replace(relation, row_type=row_type, key=_key(relation.key, row_type))


Sources = tuple[_Pruned, ...]


def _filter(_p: _Pruning, r: ops.Filter, sources: Sources, _columns: object, _wanted: Columns) -> _Pruned:
    (source,) = sources
    rebuilt = with_inputs(map_scalars(r, source.renumber), (source.relation,))
    return _Pruned(_with_type(rebuilt, r.row_type, source.kept), source.kept)


def _project(_p: _Pruning, r: ops.Project, sources: Sources, _columns: object, wanted: Columns) -> _Pruned:
    (source,) = sources
    kept = tuple(_kept_computed(r.columns, wanted))
    columns = tuple(source.renumber(r.columns[i]) for i in kept)
    if columns == r.columns and source.relation is r.input:
        return _Pruned(r, kept)
    return _Pruned(_with_type(replace(r, input=source.relation, columns=columns), r.row_type, kept), kept)


def _widening(
    p: _Pruning, r: Any, sources: Sources, columns: tuple[list[int], ...], _wanted: Columns
) -> _Pruned:
    """Window and Top: the input's columns, then their own."""
    source = p.narrow(sources[0], columns[0])
    kept = (*source.kept, *range(len(r.input.row_type), len(r.row_type)))
    rebuilt = with_inputs(map_scalars(r, source.renumber), (source.relation,))
    return _Pruned(_with_type(rebuilt, r.row_type, kept), kept)


def _flat_map(
    p: _Pruning, r: ops.FlatMap, sources: Sources, columns: tuple[list[int], ...], wanted: Columns
) -> _Pruned:
    source, kept_made = p.narrow(sources[0], columns[0]), _kept_made(r, wanted)
    alternatives = tuple(tuple(source.renumber(a[i]) for i in kept_made) for a in r.alternatives)
    rebuilt = with_inputs(r, (source.relation,))
    if alternatives != r.alternatives:
        rebuilt = replace(rebuilt, alternatives=alternatives)
    kept = (*source.kept, *(len(r.input.row_type) + i for i in kept_made))
    return _Pruned(_with_type(rebuilt, r.row_type, kept), kept)


def _join(
    p: _Pruning, r: ops.Join, sources: Sources, columns: tuple[list[int], ...], _wanted: Columns
) -> _Pruned:
    left, right = (p.narrow(source, c) for source, c in zip(sources, columns, strict=True))
    width = len(r.left.row_type)
    both = _Pruned(left.relation, (*left.kept, *(width + i for i in right.kept)))
    on = tuple((left.renumber(a), right.renumber(b)) for a, b in r.on)
    condition = None if r.condition is None else both.renumber(r.condition)
    rebuilt = with_inputs(r, (left.relation, right.relation))
    if (on, condition) != (r.on, r.condition):
        rebuilt = replace(rebuilt, on=on, condition=condition)
    kept = left.kept if r.how in ("semi", "anti") else both.kept
    return _Pruned(_with_type(rebuilt, r.row_type, kept), kept)


def _aggregate(
    p: _Pruning, r: ops.Aggregate, sources: Sources, columns: tuple[list[int], ...], wanted: Columns
) -> _Pruned:
    source = p.narrow(sources[0], columns[0]) if r.keys else sources[0]
    kept = _kept_aggregations(r, wanted)
    keys = tuple(map(source.renumber, r.keys))
    aggregations = tuple(map_aggregation(r.aggregations[i], source.renumber) for i in kept)
    rebuilt = with_inputs(r, (source.relation,))
    if (keys, aggregations) != (r.keys, r.aggregations):
        rebuilt = replace(rebuilt, keys=keys, aggregations=aggregations)
    places = (*range(len(keys)), *(len(keys) + i for i in kept))
    return _Pruned(_with_type(rebuilt, r.row_type, places), places)


def _union(
    p: _Pruning, r: ops.Union, sources: Sources, columns: tuple[list[int], ...], _wanted: Columns
) -> _Pruned:
    kept = tuple(columns[0])
    aligned = tuple(p.narrow(source, kept).relation for source in sources)
    return _Pruned(_with_type(with_inputs(r, aligned), r.row_type, kept), kept)


def _same(_p: _Pruning, r: Relation, sources: Sources, _columns: object, _wanted: Columns) -> _Pruned:
    """Distinct and Difference: they use every column, so their inputs have kept all."""
    rebuilt = with_inputs(r, tuple(source.relation for source in sources))
    return _Pruned(rebuilt, tuple(range(len(r.row_type))))


_REBUILD: dict[
    type[Relation], Callable[[_Pruning, Any, Sources, tuple[list[int], ...], Columns], _Pruned]
] = {
    ops.Filter: _filter,
    ops.Project: _project,
    ops.FlatMap: _flat_map,
    ops.Window: _widening,
    ops.Top: _widening,
    ops.Join: _join,
    ops.Aggregate: _aggregate,
    ops.Union: _union,
    ops.Distinct: _same,
    ops.Difference: _same,
}
