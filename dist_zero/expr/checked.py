"""The only ways to make relational operations: each checks its parts and works out row type and key.

The builder (`tables.py`) and the decoder of programs (`graph.py`) both come through here, so what arrives over the
wire obeys the same rules as what was written. All raise `Refused`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dist_zero.expr import keys as key_rules
from dist_zero.expr import ops
from dist_zero.expr.functions import aggregate_type
from dist_zero.expr.location import Refused, did_you_mean
from dist_zero.expr.nodes import common_type
from dist_zero.expr.ops import Aggregation, Call, ColumnRef, Relation, Scalar, SortKey
from dist_zero.expr.text import scalar_text
from dist_zero.row import checked_row_type
from dist_zero.types import DATETIME, INT, DataType, Kind, RowType

JOIN_KINDS = ("inner", "left", "right", "outer", "semi", "anti")
WINDOWS_PER_ROW_MAX = 10_000
DURATION_US_MAX = 10_000 * 366 * 86_400 * 1_000_000
_COLLECTION_NAME = re.compile(r"[a-z_][a-z0-9_]{0,99}\Z")
TOP_MAX = 2**31 - 1
ALTERNATIVES_MAX = 1_000


def check_collection_name(what: str, name: str) -> None:
    """Names of datasets and views: lower-case letters, digits and underscores."""
    if _COLLECTION_NAME.match(name) is None:
        raise Refused(
            f"{name!r:.120} cannot be the name of a {what}: use up to 100 lower-case letters, digits and"
            " underscores, not a digit first"
        )


def dataset(
    name: str, row_type: RowType, key: tuple[str, ...] | None, broadcast: bool, location: str
) -> ops.Dataset:
    """A dataset; every column of its key exists, once, and is never null."""
    row_type = checked_row_type(row_type.names, row_type.types)
    for column in key or ():
        if column not in row_type.names:
            raise Refused(unknown_column(column, row_type, f"dataset {name!r}, for its key"))
        dtype = row_type.types[row_type.index(column)]
        if dtype.nullable:
            raise Refused(
                f"column {column!r} ({dtype}) cannot be in the key of dataset {name!r}: a key is never null;"
                f" declare it as {dtype.required()}, or choose another key"
            )
    if key is not None and (not key or len(set(key)) != len(key)):
        raise Refused(f"the key of dataset {name!r} needs one or more different columns, got {key}")
    return ops.Dataset(row_type, key, name, broadcast, location=location)


def filter_(source: Relation, predicate: Scalar, location: str) -> ops.Filter:
    """The rows for which `predicate` is true."""
    _check_bool("where", predicate, source.row_type)
    return ops.Filter(source.row_type, source.key, source, predicate, location=location)


def project(source: Relation, names: Sequence[str], scalars: Sequence[Scalar], location: str) -> ops.Project:
    """One column per scalar."""
    _check_scalars(scalars, source.row_type)
    row_type = checked_row_type(tuple(names), tuple(s.dtype for s in scalars))
    key = key_rules.project_key(source, names, scalars)
    return ops.Project(row_type, key, source, tuple(scalars), location=location)


def flat_map(
    source: Relation, names: Sequence[str], alternatives: Sequence[tuple[Scalar, ...]], location: str
) -> ops.FlatMap:
    """The input's columns followed by those of each alternative, which agree in their types."""
    if not alternatives or len(alternatives) > ALTERNATIVES_MAX:
        raise Refused(f"flat_map takes 1 to {ALTERNATIVES_MAX} alternatives, got {len(alternatives)}")
    types = [s.dtype for s in alternatives[0]]
    for alternative in alternatives:
        _check_scalars(alternative, source.row_type)
        if len(alternative) != len(types):
            raise Refused("the alternatives of flat_map need the same columns")
        types = [
            _agreed("flat_map", n, t, s.dtype) for n, t, s in zip(names, types, alternative, strict=True)
        ]
    row_type = checked_row_type((*source.row_type.names, *names), (*source.row_type.types, *types))
    return ops.FlatMap(row_type, None, source, tuple(alternatives), location=location)


def window(source: Relation, at: Scalar, size_us: int, every_us: int, location: str) -> ops.Window:
    """The input's columns, then window_start and window_end."""
    _check_scalars((at,), source.row_type)
    if at.dtype.kind is not Kind.DATETIME:
        shown = scalar_text(at, source.row_type.names)
        raise Refused(f"window needs a datetime column, {shown} is {at.dtype}")
    if not (0 < size_us <= DURATION_US_MAX and 0 < every_us <= DURATION_US_MAX):
        raise Refused(
            "the size of a window and its every have to be longer than nothing, and below 10,000 years"
        )
    windows = -(-size_us // every_us)
    if windows > WINDOWS_PER_ROW_MAX:
        raise Refused(
            f"each row would be in {windows:,} windows, at most {WINDOWS_PER_ROW_MAX:,} are allowed; make every larger"
        )
    names = (*source.row_type.names, "window_start", "window_end")
    row_type = checked_row_type(names, (*source.row_type.types, DATETIME, DATETIME))
    return ops.Window(row_type, None, source, at, size_us, every_us, location=location)


def join(
    left: Relation,
    right: Relation,
    on: Sequence[tuple[Scalar, Scalar]],
    condition: Scalar | None,
    how: str,
    right_names: Sequence[str],
    location: str,
) -> ops.Join:
    """The left's columns, then (but for semi and anti) the right's under `right_names`."""
    check_join_kind(how)
    if not on:
        raise Refused("join needs at least one equality between a column of the left and one of the right")
    for a, b in on:
        _check_scalars((a,), left.row_type)
        _check_scalars((b,), right.row_type)
        if a.dtype.required() != b.dtype.required():
            raise Refused(
                f"join of {a.dtype.required()} with {b.dtype.required()}: the types have to be equal"
            )
    if condition is not None:
        both = RowType(left.row_type.names + right.row_type.names, left.row_type.types + right.row_type.types)
        _check_bool("the condition of join", condition, both)
    row_type = _join_row_type(left.row_type, right.row_type, how, tuple(right_names))
    key = key_rules.join_key(left, right, tuple(on), how, row_type.names)
    return ops.Join(row_type, key, left, right, tuple(on), condition, how, location=location)


def check_join_kind(how: str) -> None:
    """`how` is one that there is."""
    if how not in JOIN_KINDS:
        raise Refused(
            f"join has no how={how!r}.{did_you_mean(how, JOIN_KINDS)} There are {', '.join(JOIN_KINDS)}"
        )


def aggregate(
    source: Relation,
    names: Sequence[str],
    keys: Sequence[Scalar],
    aggregations: Sequence[Aggregation],
    location: str,
) -> ops.Aggregate:
    """The keys, then the aggregations, under `names`. Without keys the key of the result is the empty tuple."""
    _check_scalars(keys, source.row_type)
    if not aggregations:
        raise Refused(
            "agg needs at least one aggregate, as n=dz.count(); for the keys alone use select and distinct"
        )
    for aggregation in aggregations:
        if aggregation.argument is not None:
            _check_scalars((aggregation.argument,), source.row_type)
        if aggregation.where is not None:
            _check_bool("where of an aggregate", aggregation.where, source.row_type)
        dtype = aggregate_type(
            aggregation.function, aggregation.argument, aggregation.where is not None, bool(keys)
        )
        if dtype != aggregation.dtype:
            raise Refused(f"{aggregation.function} is {dtype}, not {aggregation.dtype}")
    types = (*(k.dtype for k in keys), *(a.dtype for a in aggregations))
    row_type = checked_row_type(tuple(names), types)
    key = tuple(names[: len(keys)])
    return ops.Aggregate(row_type, key, source, tuple(keys), tuple(aggregations), location=location)


def top(
    source: Relation,
    count: int,
    order: Sequence[SortKey],
    per: Sequence[Scalar],
    rank: str | None,
    location: str,
) -> ops.Top:
    """The first `count` rows per group; `rank` names the column of places, if there is one."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= TOP_MAX:
        raise Refused(f"top takes how many rows to keep, at least 1, got {count!r:.80}")
    if not order:
        raise Refused('top needs an order: by=dz.desc("score")')
    _check_scalars([*(o.value for o in order), *per], source.row_type)
    row_type = source.row_type
    if rank is not None:
        row_type = checked_row_type((*row_type.names, rank), (*row_type.types, INT))
    return ops.Top(
        row_type, source.key, source, count, tuple(order), tuple(per), rank is not None, location=location
    )


def distinct(source: Relation, location: str) -> ops.Distinct:
    """Every row once."""
    return ops.Distinct(source.row_type, None, source, location=location)


def union(inputs: Sequence[Relation], location: str) -> ops.Union:
    """The rows of all inputs, which agree in names and types; nullable where any is."""
    if not inputs:
        raise Refused("union needs tables")
    row_type = inputs[0].row_type
    for other in inputs[1:]:
        row_type = _agreed_row_type("union", row_type, other.row_type)
    return ops.Union(row_type, None, tuple(inputs), location=location)


def difference(left: Relation, right: Relation, location: str) -> ops.Difference:
    """The left's rows, once each, that the right does not have."""
    _agreed_row_type("difference", left.row_type, right.row_type)
    return ops.Difference(left.row_type, None, left, right, location=location)


def alias(source: Relation, name: str, location: str) -> ops.Alias:
    """The same rows as another collection."""
    checked_row_type((name,), (INT,))
    return ops.Alias(source.row_type, source.key, source, name, location=location)


# ---- parts -------------------------------------------------------------------------------------------------


def unknown_column(name: object, row_type: RowType, what: str) -> str:
    """The message for a column that is not there."""
    return f"there is no column {name!r} in {what}.{did_you_mean(name, row_type.names)} It has {row_type}"


def _check_scalars(scalars: Sequence[Scalar], row_type: RowType) -> None:
    """Every column that is referred to exists and has the type that is claimed."""
    seen: set[int] = set()
    waiting = list(scalars)
    while waiting:
        scalar = waiting.pop()
        if id(scalar) in seen:
            continue
        seen.add(id(scalar))
        if isinstance(scalar, Call):
            waiting.extend(scalar.args)
        elif isinstance(scalar, ColumnRef) and (
            not 0 <= scalar.index < len(row_type) or row_type.types[scalar.index] != scalar.dtype
        ):
            raise Refused(f"column {scalar.index} ({scalar.dtype}) does not exist in {row_type}")


def _check_bool(what: str, scalar: Scalar, row_type: RowType) -> None:
    _check_scalars((scalar,), row_type)
    if scalar.dtype.kind is not Kind.BOOL:
        shown = scalar_text(scalar, row_type.names)
        raise Refused(f"{what} needs a condition (bool), {shown} is {scalar.dtype}")


def _join_row_type(left: RowType, right: RowType, how: str, right_names: tuple[str, ...]) -> RowType:
    if how in ("semi", "anti"):
        return left
    if len(right_names) != len(right):
        raise Refused(f"join has {len(right_names)} names for the {len(right)} columns of its right side")
    left_types, right_types = left.types, right.types
    if how in ("right", "outer"):
        left_types = tuple(t.optional() for t in left_types)
    if how in ("left", "outer"):
        right_types = tuple(t.optional() for t in right_types)
    return checked_row_type(left.names + right_names, left_types + right_types)


def _agreed(verb: str, name: str, left: DataType, right: DataType) -> DataType:
    if left.required() != right.required():
        raise Refused(f"{verb}: column {name!r} is {left} on one side and {right} on the other")
    return common_type(left, right) or left


def _agreed_row_type(verb: str, left: RowType, right: RowType) -> RowType:
    if left.names != right.names:
        raise Refused(f"{verb} needs the same columns, got {left} and {right}")
    types = (_agreed(verb, n, a, b) for n, a, b in zip(left.names, left.types, right.types, strict=True))
    return RowType(left.names, tuple(types))
