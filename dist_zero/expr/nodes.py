"""Scalar expressions while they are being written: their columns still name the table they come from.

A node is a `Field` (a column of some table), a constant, or an operation on nodes. It has its type from the start, so
a mistake is refused on the line that makes it. When a verb of a table takes the expression, `resolve` turns it into
an `ops.Scalar` over that table's columns: a field is looked up by its *origin*, a mark that later columns descend from
as long as every verb passed the value on unchanged. Types are derived again on the way, because an outer join may
since have made a column nullable.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dist_zero.expr import functions
from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Call, ColumnRef, Literal, Relation, Scalar
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    DECIMAL_SCALE_MAX,
    FLOAT,
    INT,
    STR,
    DataType,
    Kind,
    RowType,
    canonical_float,
    decimal_type,
    enum_type,
    to_stored,
)
from dist_zero_common.errors import DataError

DEPTH_MAX = 200
"""Operations inside one another in one expression; whoever walks expressions may recurse."""
SIZE_MAX = 10_000
"""Operations in one expression, counted as often as they are written out."""


class Origin:
    """The identity of a table's column; `parents` are the columns of its inputs whose value it holds unchanged."""

    __slots__ = ("parents",)

    def __init__(self, *parents: Origin) -> None:
        self.parents = parents

    def descends_from(self, ancestor: Origin) -> bool:
        """Whether the value is that of `ancestor`, through however many verbs."""
        seen: set[int] = set()
        waiting = [self]
        while waiting:
            origin = waiting.pop()
            if origin is ancestor:
                return True
            if id(origin) not in seen:
                seen.add(id(origin))
                waiting.extend(origin.parents)
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The column `index` of `relation`."""

    relation: Relation
    index: int
    name: str
    origin: Origin
    dtype: DataType


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """The operation `name` on `args`; `depth` and `size` count operations."""

    name: str
    args: tuple[Node, ...]
    dtype: DataType
    depth: int
    size: int


Node = Field | Literal | Apply


def apply(name: str, *args: Node, target: DataType | None = None) -> Node:
    """The operation on arguments of exactly the types it is for; raises `Refused`."""
    dtype = functions.result_type(name, args, target)
    depth = 1 + max((a.depth for a in args if isinstance(a, Apply)), default=0)
    size = 1 + sum(a.size for a in args if isinstance(a, Apply))
    check_bounds(depth, size)
    return Apply(name, args, dtype, depth, size)


def check_bounds(depth: int, size: int) -> None:
    """Refuse expressions that are too deep or too large."""
    if depth > DEPTH_MAX:
        raise Refused(
            f"the expression is more than {DEPTH_MAX} operations deep; compute parts of it with with_columns first"
        )
    if size > SIZE_MAX:
        raise Refused(
            f"the expression has more than {SIZE_MAX:,} operations; compute parts of it with with_columns first"
        )


# ---- constants ---------------------------------------------------------------------------------------------


def constant(value: object, beside: DataType | None = None) -> Literal:
    """A Python value as a constant, in the type of what it stands beside if it has a place there."""
    if value is None:
        if beside is None:
            raise Refused("None alone has no type; it can stand beside a column, as in coalesce or when")
        return Literal(None, beside.optional())
    try:
        return _beside(value, beside.required()) if beside is not None else _natural(value)
    except DataError as error:
        raise Refused(str(error)) from None


def _beside(value: object, dtype: DataType) -> Literal:
    if dtype.kind is Kind.ENUM and isinstance(value, str | enum.Enum):
        return Literal(to_stored(dtype, value), dtype)
    if dtype.kind is Kind.DATETIME and isinstance(value, str | dt.date):
        return Literal(to_stored(DATETIME, _datetime(value)), DATETIME)
    if dtype.kind is Kind.FLOAT and isinstance(value, int | decimal.Decimal) and not isinstance(value, bool):
        return Literal(to_stored(FLOAT, float(value)), FLOAT)
    literal = _natural(value)
    return _folded(literal, dtype) or literal


def _natural(value: object) -> Literal:
    dtype = _natural_type(value)
    return Literal(to_stored(dtype, value), dtype)


def _natural_type(value: object) -> DataType:
    if isinstance(value, enum.Enum):
        return enum_type(tuple(member.name for member in type(value)))
    if isinstance(value, decimal.Decimal):
        exponent = value.as_tuple().exponent
        if not isinstance(exponent, int) or -exponent > DECIMAL_SCALE_MAX:
            raise Refused(f"{value} is no decimal with at most {DECIMAL_SCALE_MAX} digits behind the point")
        return decimal_type(max(0, -exponent))
    for python_type, dtype in _PYTHON_TYPES:
        if isinstance(value, python_type):
            return dtype
    raise Refused(
        f"{value!r:.80} of type {type(value).__name__} is no value of a column; those are bool, int, float, str,"
        " bytes, datetime, Decimal and enum"
    )


_PYTHON_TYPES: tuple[tuple[type, DataType], ...] = (
    (bool, BOOL),
    (int, INT),
    (float, FLOAT),
    (str, STR),
    (bytes, BYTES),
    (dt.datetime, DATETIME),
)


def _datetime(value: str | dt.date) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    try:
        return dt.datetime.fromisoformat(value)
    except ValueError:
        raise Refused(f"{value!r} is no datetime; write it as '2013-01-31T05:00:00'") from None


def _folded(literal: Literal, dtype: DataType) -> Literal | None:
    """The constant in another type of number, if nothing is lost."""
    value, source = literal.value, literal.dtype
    if value is None:
        return Literal(None, dtype.optional())
    if dtype.kind is Kind.FLOAT and source.kind is Kind.INT and isinstance(value, int):
        return Literal(canonical_float(float(value)), FLOAT)
    if dtype.kind is Kind.DECIMAL and source.kind in (Kind.INT, Kind.DECIMAL) and isinstance(value, int):
        if dtype.scale < source.scale:
            return None
        exact = decimal.Decimal(value).scaleb(-source.scale, decimal.Context(prec=60))
        return Literal(to_stored(dtype, exact), dtype.required())
    return None


# ---- one type for several ----------------------------------------------------------------------------------


def common_type(left: DataType, right: DataType) -> DataType | None:
    """The type that values of both have a place in, nullable if either is; None if there is none.

    int beside float or decimal gives that; decimal beside float gives float; two decimals give the finer scale.
    """
    nullable = left.nullable or right.nullable
    merged = _common(left.required(), right.required())
    return merged.optional() if merged is not None and nullable else merged


def _common(left: DataType, right: DataType) -> DataType | None:
    if left == right:
        return left
    kinds = {left.kind, right.kind}
    if not kinds <= set(functions.NUMBERS):
        return None
    if Kind.FLOAT in kinds:
        return FLOAT
    return decimal_type(max(left.scale, right.scale))


def converted(node: Node, dtype: DataType) -> Node:
    """`node` as a value of `dtype` (nullability aside): itself, another constant, or a cast."""
    if node.dtype.required() == dtype.required():
        return node
    folded = None
    if isinstance(node, Literal):
        try:
            folded = _folded(node, dtype.required())
        except DataError as error:
            raise Refused(str(error)) from None
    return folded or apply("cast", node, target=dtype.required())


def unified(what: str, nodes: Sequence[Node]) -> list[Node]:
    """All of `nodes` in one type; raises `Refused` with the two types that do not go together."""
    merged = nodes[0].dtype
    for node in nodes[1:]:
        wider = common_type(merged, node.dtype)
        if wider is None:
            raise Refused(f"{what} between {merged.required()} and {node.dtype.required()}")
        merged = wider
    return [converted(node, merged) for node in nodes]


# ---- resolving ---------------------------------------------------------------------------------------------


def resolve(node: Node, place: Callable[[Field], int], row_type: RowType) -> Scalar:
    """`node` over the columns of `row_type`; `place` finds a field there or raises `Refused`."""
    known: dict[int, Scalar] = {}

    def walk(part: Node) -> Scalar:
        if id(part) not in known:
            known[id(part)] = leave(part)
        return known[id(part)]

    def leave(part: Node) -> Scalar:
        if isinstance(part, Literal):
            return part
        if isinstance(part, Field):
            index = place(part)
            return ColumnRef(index, row_type.types[index])
        args = tuple(walk(a) for a in part.args)
        return Call(part.name, args, functions.result_type(part.name, args, part.dtype))

    return walk(node)


def conjuncts(node: Node) -> list[Node]:
    """The parts that `&` joins."""
    if isinstance(node, Apply) and node.name == "and":
        return [part for arg in node.args for part in conjuncts(arg)]
    return [node]
