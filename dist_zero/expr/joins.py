"""Joins: which conditions are equalities between the sides, what the columns are called, which are there once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dist_zero.expr import checked, nodes
from dist_zero.expr.columns import Column
from dist_zero.expr.functions import result_type
from dist_zero.expr.location import Refused
from dist_zero.expr.nodes import Field, Node, Origin
from dist_zero.expr.ops import Call, ColumnRef, Scalar
from dist_zero.expr.scalars import columns_of, shift
from dist_zero.expr.tables import Origins, Table, column_node, describe, passed_on, place_of
from dist_zero.expr.text import scalar_text
from dist_zero.types import DataType, Kind, RowType

Pair = tuple[Scalar, Scalar]


@dataclass(frozen=True, slots=True)
class _Sides:
    """The columns that a condition sees: the left's, then the right's."""

    left: Table
    right: Table
    row_type: RowType
    origins: Origins

    def place(self, field: Field) -> int:
        """Where `field` is among the columns of both sides."""
        if field.relation is self.left._relation is self.right._relation:
            raise Refused(
                f"column {field.name!r} is ambiguous: {describe(field.relation)} is joined with itself; name one side,"
                " as other = t.alias('other'), and join with that"
            )
        return place_of(field, self.origins, self.row_type, "either side of this join")


@dataclass(frozen=True, slots=True)
class How:
    """What a join is to do besides matching, and where the user wrote it."""

    kind: str
    suffix: str
    location: str


def join_tables(left: Table, right: Table, on: Any, how: How) -> Table:
    """The join of two tables; see `Table.join`."""
    if not isinstance(right, Table):
        raise Refused(f"join takes a table, got {type(right).__name__} {right!r:.80}")
    checked.check_join_kind(how.kind)
    names, conditions = _parts(left, right, on)
    pairs = [_key_pair(left, right, name) for name in names]
    both = RowType(left.row_type.names + right.row_type.names, left.row_type.types + right.row_type.types)
    sides = _Sides(left, right, both, left._origins + right._origins)
    rest: list[Scalar] = []
    for condition in conditions:
        scalar = nodes.resolve(condition, sides.place, both)
        pair = _equality(scalar, len(left.row_type))
        if pair is None:
            rest.append(scalar)
        else:
            pairs.append(pair)
    if not pairs:
        raise Refused(_no_equality(conditions))
    return _built(sides, pairs, names, rest, how)


def _parts(left: Table, right: Table, on: Any) -> tuple[list[str], list[Node]]:
    """What `on` says: columns by name, and the conjuncts of its conditions."""
    names: list[str] = []
    conditions: list[Node] = []
    if callable(on) and not isinstance(on, Column | type):
        on = on(left, right)
    for part in on if isinstance(on, list | tuple) else [on]:
        if isinstance(part, str) and part not in names:
            names.append(part)
        elif isinstance(part, Column):
            conditions.extend(nodes.conjuncts(part._node))
        else:
            raise Refused(f"join takes on=, names of columns or conditions, each once; got {part!r:.80}")
    for condition in conditions:
        if condition.dtype.kind is not Kind.BOOL:
            raise Refused(f"on= needs conditions or names; {scalar_text(condition)} is {condition.dtype}")
    return names, conditions


def _key_pair(left: Table, right: Table, name: str) -> Pair:
    a, b = column_node(left, name), column_node(right, name)
    if nodes.common_type(a.dtype, b.dtype) is None:
        raise Refused(f"join on {name!r}: it is {a.dtype} on the left and {b.dtype} on the right")
    first, second = nodes.unified(f"join on {name!r}", [a, b])
    return (
        nodes.resolve(first, lambda f: f.index, left.row_type),
        nodes.resolve(second, lambda f: f.index, right.row_type),
    )


def _equality(scalar: Scalar, size: int) -> Pair | None:
    """The two sides of an equality between an expression of the left (`size` columns) and one of the right."""
    if not isinstance(scalar, Call) or scalar.name != "eq":
        return None
    first, second = scalar.args
    for a, b in ((first, second), (second, first)):
        of_left, of_right = columns_of((a,)), columns_of((b,))
        if of_left and of_right and max(of_left) < size <= min(of_right):
            return a, shift(b, -size)
    return None


def _call(name: str, *args: Scalar) -> Call:
    return Call(name, args, result_type(name, args))


def _no_equality(conditions: Sequence[Node]) -> str:
    shown = f"; {' & '.join(scalar_text(c) for c in conditions)} has none" if conditions else ""
    return (
        "join needs at least one equality between a column of the left and one of the right, as on='key' or"
        f" on=(a.x == b.y){shown}. Joining everything with everything is not supported"
    )


# ---- the columns of the result -----------------------------------------------------------------------------


def _built(sides: _Sides, pairs: list[Pair], merged: list[str], rest: list[Scalar], how: How) -> Table:
    """The join, and behind it the projection that leaves the `merged` names there once."""
    left, right = sides.left._relation, sides.right._relation
    condition = functools.reduce(lambda a, b: _call("and", a, b), rest) if rest else None
    if how.kind in ("semi", "anti"):
        relation = checked.join(left, right, pairs, condition, how.kind, (), how.location)
        return Table(relation, passed_on(sides.left._origins))
    right_names = _right_names(left.row_type.names, right.row_type, merged, how.suffix)
    relation = checked.join(left, right, pairs, condition, how.kind, right_names, how.location)
    table = Table(relation, passed_on(sides.origins))
    return _merged(table, sides, merged, how) if merged else table


def _right_names(left: Sequence[str], right: RowType, merged: Sequence[str], suffix: str) -> tuple[str, ...]:
    """What the right's columns are called: their own names, or with the suffix where the left has the name."""
    named = {n: n + suffix if n in left else n for n in right.names if n not in merged}
    taken = {*left, *merged}
    for name, new in named.items():
        if new in taken:
            raise Refused(
                f"join: both sides have a column {name!r}, and {new!r} is taken as well; give another suffix=, or"
                " select and rename one of them before"
            )
        taken.add(new)
    return tuple(named[n] if n in named else _free(f"{n}_right", taken) for n in right.names)


def _free(name: str, taken: set[str]) -> str:
    """A name for a column that is dropped again behind the join."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _merged(table: Table, sides: _Sides, merged: list[str], how: How) -> Table:
    row_type, size = table.row_type, len(sides.left.row_type)
    refs = [ColumnRef(i, t) for i, t in enumerate(row_type.types)]
    columns: dict[str, tuple[Scalar, Origin]] = {}
    for i, name in enumerate(row_type.names[:size]):
        columns[name] = (refs[i], table._origins[i])
    for name in merged:
        a, b = sides.left.row_type.index(name), size + sides.right.row_type.index(name)
        columns[name] = _merged_column(refs[a], refs[b], table._origins[a], table._origins[b], how.kind)
    dropped = {size + sides.right.row_type.index(n) for n in merged}
    for i in range(size, len(row_type)):
        if i not in dropped:
            columns[row_type.names[i]] = (refs[i], table._origins[i])
    scalars = [scalar for scalar, _ in columns.values()]
    relation = checked.project(table._relation, tuple(columns), scalars, how.location)
    return Table(relation, tuple(origin for _, origin in columns.values()))


def _merged_column(
    left: ColumnRef, right: ColumnRef, of_left: Origin, of_right: Origin, kind: str
) -> tuple[Scalar, Origin]:
    """A column that both sides have, once: the values of the side that is never missing, and whose they are."""
    same_type = left.dtype.required() == right.dtype.required()
    if kind == "inner":
        return left, Origin(of_left, of_right) if same_type else of_left
    if kind == "left":
        return left, of_left
    if kind == "right":
        return right, of_right
    wider = nodes.common_type(left.dtype, right.dtype)
    assert wider is not None
    return _call("coalesce", _cast(left, wider), _cast(right, wider)), Origin()


def _cast(ref: ColumnRef, dtype: DataType) -> Scalar:
    if ref.dtype.required() == dtype.required():
        return ref
    return Call("cast", (ref,), result_type("cast", (ref,), dtype))
