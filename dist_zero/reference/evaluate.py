"""The oracle: a view from whole datasets, by the words of the definition, with no deltas and no state.

Every relation is evaluated once to a Z-set, by the shortest way that is obviously right: a join looks at
every pair of equal keys, a group is the list of its rows, sums are fractions, orders are stable sorts. With
the interpreter it shares `scalar.py` (what an expression is) and nothing else; of the compiler it takes the
words that name an operator in errors. It works on relations as the user wrote them, so that it can tell when
the compiler changed their meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dist_zero.compiler.lower import label
from dist_zero.expr import ops
from dist_zero.expr.ops import Aggregation, Graph, Relation
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import Scalars, aggregation_input, example_text, referenced_columns
from dist_zero.types import (
    DATETIME_MAX_US,
    DATETIME_MIN_US,
    INT_MAX,
    INT_MIN,
    NAN,
    DataType,
    Kind,
    Row,
    RowType,
    Stored,
    canonical_float,
)
from dist_zero.zset import ZSet

_Failed = tuple[str, str, str, int]
"""Label, reason, example, weight of a row that was left out."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that an operation of the view leaves out for one reason: how many, and the smallest example."""

    label: str
    reason: str
    example: str
    count: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a view holds, and what it leaves out, sorted."""

    rows: ZSet
    errors: tuple[LeftOut, ...]


def evaluate(graph: Graph, view: str, datasets: Mapping[str, ZSet]) -> Evaluated:
    """The view called `view` over these datasets, given by name; raises KeyError if there is none."""
    return Oracle(graph, datasets).view(view)


class Oracle:
    """The views of a program over fixed datasets; what several of them use is evaluated once."""

    def __init__(self, graph: Graph, datasets: Mapping[str, ZSet]) -> None:
        self._views = {view.name: view.relation for view in graph.views}
        self._datasets = datasets
        self._rows: dict[int, ZSet] = {}
        self._failed: dict[int, list[_Failed]] = {}

    def view(self, name: str) -> Evaluated:
        """The view called `name`; raises KeyError if there is none."""
        relation = self._views[name]
        rows = self.rows(relation)
        failed = [each for ancestor in _ancestors(relation) for each in self._failed[id(ancestor)]]
        groups: dict[tuple[str, str], list[_Failed]] = {}
        for each in failed:
            groups.setdefault(each[:2], []).append(each)
        errors = [
            LeftOut(name, reason, min(example for *_, example, _ in group), sum(each[-1] for each in group))
            for (name, reason), group in sorted(groups.items())
        ]
        return Evaluated(dict(rows), tuple(errors))

    def rows(self, relation: Relation) -> ZSet:
        """The rows of a relation."""
        if id(relation) not in self._rows:
            failed: list[_Failed] = []
            pairs = _EVALUATE[type(relation)](self, relation, _Failures(label(relation), failed))
            self._rows[id(relation)] = _total(pairs)
            self._failed[id(relation)] = failed
        return self._rows[id(relation)]

    def dataset(self, relation: ops.Dataset) -> ZSet:
        """The rows of a dataset."""
        return self._datasets[relation.name]


class _Failures:
    """Where an operation puts the rows it leaves out."""

    def __init__(self, name: str, failed: list[_Failed]) -> None:
        self._name = name
        self._failed = failed

    def add(self, reason: str, example: str, weight: int) -> None:
        self._failed.append((self._name, reason, example, weight))

    def values(self, scalars: Scalars, row: Row, weight: int) -> Row | None:
        """The scalars of a row, or None, counted, if one fails."""
        try:
            return scalars.evaluate(row)
        except ScalarFailure:
            self.add(*scalars.failure(row), weight)
            return None


_Pairs = Iterable[tuple[Row, int]]


def _total(pairs: _Pairs) -> ZSet:
    weights: ZSet = {}
    for row, weight in pairs:
        weights[row] = weights.get(row, 0) + weight
    return {row: weight for row, weight in weights.items() if weight}


def _inputs(relation: Relation) -> tuple[Relation, ...]:
    if isinstance(relation, ops.Join | ops.Difference):
        return relation.left, relation.right
    if isinstance(relation, ops.Union):
        return relation.inputs
    return () if isinstance(relation, ops.Dataset) else (relation.input,)  # type: ignore[attr-defined]


def _ancestors(relation: Relation) -> list[Relation]:
    found: dict[int, Relation] = {}
    stack = [relation]
    while stack:
        each = stack.pop()
        if id(each) not in found:
            found[id(each)] = each
            stack.extend(_inputs(each))
    return list(found.values())


# ---- row by row --------------------------------------------------------------------------------------------


def _dataset(oracle: Oracle, relation: ops.Dataset, _failures: _Failures) -> _Pairs:
    return oracle.dataset(relation).items()


def _alias(oracle: Oracle, relation: ops.Alias, _failures: _Failures) -> _Pairs:
    return oracle.rows(relation.input).items()


def _filter(oracle: Oracle, relation: ops.Filter, failures: _Failures) -> _Pairs:
    predicate = Scalars((relation.predicate,), relation.input.row_type)
    for row, weight in oracle.rows(relation.input).items():
        if failures.values(predicate, row, weight) == (True,):
            yield row, weight


def _project(oracle: Oracle, relation: ops.Project, failures: _Failures) -> _Pairs:
    columns = Scalars(relation.columns, relation.input.row_type)
    for row, weight in oracle.rows(relation.input).items():
        values = failures.values(columns, row, weight)
        if values is not None:
            yield values, weight


def _flat_map(oracle: Oracle, relation: ops.FlatMap, failures: _Failures) -> _Pairs:
    width = len(relation.row_type) - len(relation.input.row_type)
    scalars = [scalar for alternative in relation.alternatives for scalar in alternative]
    computed = Scalars(scalars, relation.input.row_type)
    for row, weight in oracle.rows(relation.input).items():
        values = failures.values(computed, row, weight)
        if values is not None:
            for number in range(len(relation.alternatives)):
                yield row + values[number * width : (number + 1) * width], weight


def _window(oracle: Oracle, relation: ops.Window, failures: _Failures) -> _Pairs:
    computed = Scalars((relation.at,), relation.input.row_type)
    for row, weight in oracle.rows(relation.input).items():
        values = failures.values(computed, row, weight)
        if values is None or values[0] is None:
            continue
        starts = _window_starts(values[0], relation.size_us, relation.every_us)
        if any(s < DATETIME_MIN_US or s + relation.size_us > DATETIME_MAX_US for s in starts):
            columns = referenced_columns(relation.at)
            failures.add("out of range", example_text(relation.input.row_type, columns, row), weight)
            continue
        for start in starts:
            yield (*row, start, start + relation.size_us), weight


def _window_starts(at: int, size: int, every: int) -> list[int]:
    starts = []
    start = at - at % every
    while start > at - size:
        starts.append(start)
        start -= every
    return starts


# ---- joins -------------------------------------------------------------------------------------------------


def _join(oracle: Oracle, relation: ops.Join, failures: _Failures) -> _Pairs:
    left_type, right_type = relation.left.row_type, relation.right.row_type
    lefts = _keyed(oracle.rows(relation.left), [on[0] for on in relation.on], left_type, failures)
    rights = _keyed(oracle.rows(relation.right), [on[1] for on in relation.on], right_type, failures)
    by_key: dict[Row, list[int]] = {}
    for place, (key, _, _) in enumerate(rights):
        by_key.setdefault(key, []).append(place)
    condition = _condition(relation)
    matched_rights: set[int] = set()
    for key, row, weight in lefts:
        partners = []
        for place in by_key.get(key, []) if None not in key else []:
            _, other, times = rights[place]
            if condition is None or failures.values(condition, row + other, weight * times) == (True,):
                partners.append((other, times))
                matched_rights.add(place)
        yield from _joined(relation.how, row, weight, partners, len(right_type))
    if relation.how in ("right", "outer"):
        for place, (_, other, times) in enumerate(rights):
            if place not in matched_rights:
                yield (None,) * len(left_type) + other, times


def _keyed(
    rows: ZSet, scalars: list[ops.Scalar], row_type: RowType, failures: _Failures
) -> list[tuple[Row, Row, int]]:
    computed = Scalars(scalars, row_type)
    keyed = []
    for row, weight in rows.items():
        key = failures.values(computed, row, weight)
        if key is not None:
            keyed.append((key, row, weight))
    return keyed


def _condition(relation: ops.Join) -> Scalars | None:
    if relation.condition is None:
        return None
    left, right = relation.left.row_type, relation.right.row_type
    return Scalars((relation.condition,), RowType(left.names + right.names, left.types + right.types))


def _joined(
    how: str, row: Row, weight: int, partners: list[tuple[Row, int]], right_width: int
) -> Iterator[tuple[Row, int]]:
    """What one left row with these partners contributes."""
    if how in ("semi", "anti"):
        if bool(partners) == (how == "semi"):
            yield row, weight
        return
    for other, times in partners:
        yield row + other, weight * times
    if not partners and how in ("left", "outer"):
        yield row + (None,) * right_width, weight


# ---- groups ------------------------------------------------------------------------------------------------


def _aggregate(oracle: Oracle, relation: ops.Aggregate, failures: _Failures) -> _Pairs:
    inputs = [aggregation_input(aggregation) for aggregation in relation.aggregations]
    computed = Scalars([*relation.keys, *inputs], relation.input.row_type)
    size = len(relation.keys)
    groups: dict[Row, list[tuple[Row, int]]] = {} if size else {(): []}
    for row, weight in oracle.rows(relation.input).items():
        values = failures.values(computed, row, weight)
        if values is not None:
            groups.setdefault(values[:size], []).append((values[size:], weight))
    for key, rows in groups.items():
        try:
            results = [
                _aggregation(aggregation, [(values[i], w) for values, w in rows if values[i] is not None])
                for i, aggregation in enumerate(relation.aggregations)
            ]
        except ScalarFailure as failure:
            failures.add(failure.reason, example_text(relation.row_type, range(size), key), 1)
        else:
            yield (*key, *results), 1


def _aggregation(aggregation: Aggregation, values: list[tuple[Any, int]]) -> Stored:
    """The aggregation of (value, weight) pairs without nulls."""
    count = sum(weight for _, weight in values)
    if aggregation.function == "count":
        return count
    if not values:
        return None
    assert aggregation.argument is not None
    dtype = aggregation.argument.dtype
    if aggregation.function in ("min", "max"):
        ordered = sorted((value for value, _ in values), key=_value_key(dtype))
        return ordered[0 if aggregation.function == "min" else -1]  # type: ignore[no-any-return]
    if aggregation.function == "sum":
        return _float_sum(values) if dtype.kind is Kind.FLOAT else _integer_sum(dtype, values)
    if dtype.kind is Kind.FLOAT:
        return canonical_float(_float_sum(values) / count)
    total = float(sum(value * weight for value, weight in values))
    return canonical_float(total / float(10**dtype.scale) / count)


def _integer_sum(dtype: DataType, values: list[tuple[int, int]]) -> int:
    total = sum(value * weight for value, weight in values)
    if not INT_MIN <= total <= INT_MAX:
        raise ScalarFailure("decimal overflow" if dtype.kind is Kind.DECIMAL else "integer overflow")
    return total


def _float_sum(values: list[tuple[float, int]]) -> float:
    special = {value for value, _ in values if not math.isfinite(value)}
    if special:
        return min(special) if len(special) == 1 else NAN
    try:  # correctly rounded, as `math.fsum` promises, unless it meets a number beyond the largest on its way
        return canonical_float(math.fsum(value for value, weight in values for _ in range(weight)))
    except OverflowError:
        return _float_of(sum(Fraction(value) * weight for value, weight in values))


def _float_of(exact: Fraction | int) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _value_key(dtype: DataType) -> Callable[[Any], Any]:
    """Ascending order of values that are not null: NaN behind the numbers."""
    return (lambda v: (v != v, 0.0 if v != v else v)) if dtype.kind is Kind.FLOAT else lambda v: v


# ---- top ---------------------------------------------------------------------------------------------------


_Entry = tuple[Row, Row, int]
"""The values that a row is ordered by, the row, its weight."""


def _top(oracle: Oracle, relation: ops.Top, failures: _Failures) -> _Pairs:
    row_type, size = relation.input.row_type, len(relation.per)
    computed = Scalars([*relation.per, *(key.value for key in relation.order)], row_type)
    groups: dict[Row, list[_Entry]] = {}
    for row, weight in oracle.rows(relation.input).items():
        values = failures.values(computed, row, weight)
        if values is not None:
            groups.setdefault(values[:size], []).append((values[size:], row, weight))
    for rows in groups.values():
        ranked = [
            row for _, row, weight in _in_order(relation, rows) for _ in range(min(weight, relation.count))
        ]
        for rank, row in enumerate(ranked[: relation.count], 1):
            yield (*row, rank) if relation.rank else row, 1


def _in_order(relation: ops.Top, rows: list[_Entry]) -> list[_Entry]:
    """The rows in the order of the top: stable sorts, from the least important key on."""
    row_type = relation.input.row_type
    for name in reversed(relation.input.key or row_type.names):
        place = row_type.index(name)
        rows = _sorted(rows, [entry[1][place] for entry in rows], row_type.types[place], False)
    for number, key in reversed(list(enumerate(relation.order))):
        rows = _sorted(rows, [entry[0][number] for entry in rows], key.value.dtype, key.descending)
    return rows


def _sorted(rows: list[_Entry], values: list[Any], dtype: DataType, descending: bool) -> list[_Entry]:
    """`rows` by these values of theirs, nulls last."""
    key = _value_key(dtype)
    places = [place for place, value in enumerate(values) if value is not None]
    places.sort(key=lambda place: key(values[place]), reverse=descending)
    return [rows[place] for place in places] + [row for row, v in zip(rows, values, strict=True) if v is None]


# ---- sets --------------------------------------------------------------------------------------------------


def _distinct(oracle: Oracle, relation: ops.Distinct, _failures: _Failures) -> _Pairs:
    return [(row, 1) for row in oracle.rows(relation.input)]


def _union(oracle: Oracle, relation: ops.Union, _failures: _Failures) -> _Pairs:
    return [pair for each in relation.inputs for pair in oracle.rows(each).items()]


def _difference(oracle: Oracle, relation: ops.Difference, _failures: _Failures) -> _Pairs:
    right = oracle.rows(relation.right)
    return [(row, 1) for row in oracle.rows(relation.left) if row not in right]


_EVALUATE: dict[type[Relation], Callable[[Oracle, Any, _Failures], _Pairs]] = {
    ops.Dataset: _dataset,
    ops.Alias: _alias,
    ops.Filter: _filter,
    ops.Project: _project,
    ops.FlatMap: _flat_map,
    ops.Window: _window,
    ops.Join: _join,
    ops.Aggregate: _aggregate,
    ops.Top: _top,
    ops.Distinct: _distinct,
    ops.Union: _union,
    ops.Difference: _difference,
}
