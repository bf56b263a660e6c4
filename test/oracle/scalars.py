"""Random values and typed expressions, for the random programs of `programs.py`.

Values come from small pools, so that keys meet and groups have several rows; the pools hold the values that
break things: ends of ranges, NaN, infinities, denormals, empty and non-BMP text. Whatever is first in a list
is what Hypothesis shrinks to, so lists begin with the plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

from dist_zero.expr.functions import result_type
from dist_zero.expr.ops import Call, ColumnRef, Literal, Scalar
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    DATETIME_MAX_US,
    DATETIME_MIN_US,
    FLOAT,
    INT,
    INT_MAX,
    INT_MIN,
    NAN,
    STR,
    DataType,
    Kind,
    RowType,
    Stored,
    decimal_type,
    enum_type,
)

T = TypeVar("T")

MONEY = decimal_type(2)
COLOUR = enum_type(("red", "green", "blue"))
TYPES = (INT, STR, FLOAT, DATETIME, MONEY, BOOL, COLOUR, BYTES)
HOUR_US = 3_600_000_000

POOLS: dict[Kind, tuple[Stored, ...]] = {
    Kind.BOOL: (True, False),
    Kind.INT: (0, 1, 2, 3, -1, 10, INT_MAX, INT_MIN, 2**53 + 1),
    Kind.FLOAT: (0.0, 1.0, 1.5, -2.0, 0.1, 1e308, 5e-324, -1e308, NAN, float("inf"), float("-inf")),
    Kind.STR: ("", "a", "b", "A", "ab", "7", "1.5", "é", "\U0001f600", "\uffff", "-9223372036854775809"),
    Kind.BYTES: (b"", b"a", b"\x00", b"\xff\x00"),
    Kind.DATETIME: (0, 1, HOUR_US, 25 * HOUR_US, -1, 10**15, DATETIME_MAX_US, DATETIME_MIN_US),
    Kind.DECIMAL: (0, 100, 150, 1, -5, INT_MAX, INT_MIN),
    Kind.ENUM: (0, 1, 2),
}
KEY_POOL_SIZE = 3


class Chance:
    """Hypothesis's `draw`, with the few questions that generators ask."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def number(self, least: int, most: int) -> int:
        """A number in these bounds; shrinks to the least."""
        return self.draw(st.integers(least, most)) if most > least else least

    def pick(self, choices: Sequence[T]) -> T:
        """One of these; shrinks to the first."""
        return choices[self.number(0, len(choices) - 1)]

    def maybe(self, percent: int) -> bool:
        """True about this often; shrinks to false."""
        return self.number(0, 99) >= 100 - percent

    def some(self, choices: Sequence[T], least: int, most: int) -> list[T]:
        """Distinct ones of these, in a random order."""
        left = list(choices)
        return [
            left.pop(self.number(0, len(left) - 1)) for _ in range(min(len(left), self.number(least, most)))
        ]

    def value(self, dtype: DataType, pool_size: int = 100) -> Stored:
        """A stored value of this type."""
        if dtype.nullable and self.maybe(20):
            return None
        return self.pick(POOLS[dtype.kind][:pool_size])


def call(name: str, *args: Scalar, target: DataType | None = None) -> Call:
    """The operation on these arguments, with its type."""
    return Call(name, args, result_type(name, args, target))


def literal(chance: Chance, dtype: DataType) -> Literal:
    """A constant, now and then null."""
    dtype = dtype.optional() if chance.maybe(8) else dtype.required()
    return Literal(chance.value(dtype), dtype)


def column(row_type: RowType, index: int) -> ColumnRef:
    """A reference to one column."""
    return ColumnRef(index, row_type.types[index])


def columns_like(row_type: RowType, dtype: DataType) -> list[ColumnRef]:
    """The columns of this type, null or not."""
    return [column(row_type, i) for i, t in enumerate(row_type.types) if t.required() == dtype.required()]


def scalar(chance: Chance, row_type: RowType, dtype: DataType, depth: int = 2) -> Scalar:
    """An expression of this type (nullable or not, as it comes) over a row."""
    columns = columns_like(row_type, dtype)
    if depth <= 0 or not chance.maybe(55):
        return chance.pick(columns) if columns and not chance.maybe(10) else literal(chance, dtype)
    makers = (*_MAKERS.get(dtype.kind, ()), _coalesce, _case)
    return chance.pick(makers)(Maker(chance, row_type, depth - 1), dtype.required())


def condition(chance: Chance, row_type: RowType) -> Scalar:
    """A condition that looks at the row."""
    return chance.pick(_MAKERS[Kind.BOOL])(Maker(chance, row_type, 1), BOOL)


def mostly_true(chance: Chance, row_type: RowType) -> Scalar:
    """A condition that many rows meet, so that what it lets through can change later."""
    return _is_there(Maker(chance, row_type, 0), BOOL) if chance.maybe(50) else condition(chance, row_type)


def risky(chance: Chance, row_type: RowType) -> Scalar:
    """An expression that fails on some values of a column, if the column's type has such."""
    column_ = column(row_type, chance.number(0, len(row_type) - 1))
    kind = column_.dtype.kind
    if kind is Kind.INT:
        return call("floordiv", Literal(10, INT), column_)
    if kind in (Kind.STR, Kind.FLOAT):
        return call("cast", column_, target=INT)
    return call("add", column_, column_) if kind is Kind.DECIMAL else column_


class Maker:
    """What makes arguments: expressions over one row, to a depth."""

    def __init__(self, chance: Chance, row_type: RowType, depth: int) -> None:
        self.chance, self.row_type, self.depth = chance, row_type, depth

    def of(self, dtype: DataType) -> Scalar:
        """An argument of this type."""
        return scalar(self.chance, self.row_type, dtype, self.depth)

    def constant(self, dtype: DataType, *values: Stored) -> Literal:
        """One of these constants."""
        return Literal(self.chance.pick(values), dtype)

    def column_here(self) -> ColumnRef:
        """Some column of the row."""
        return column(self.row_type, self.chance.number(0, len(self.row_type) - 1))


MakeScalar = Callable[[Maker, DataType], Scalar]


def _coalesce(make: Maker, dtype: DataType) -> Scalar:
    return call("coalesce", make.of(dtype), make.of(dtype))


def _case(make: Maker, dtype: DataType) -> Scalar:
    return call("case", make.of(BOOL), make.of(dtype), make.of(dtype))


def _binary(*names: str) -> MakeScalar:
    return lambda make, dtype: call(make.chance.pick(names), make.of(dtype), make.of(dtype))


def _unary(*names: str) -> MakeScalar:
    return lambda make, dtype: call(make.chance.pick(names), make.of(dtype))


def _of(argument: DataType, *names: str) -> MakeScalar:
    return lambda make, _: call(make.chance.pick(names), make.of(argument))


def _cast_from(*sources: DataType) -> MakeScalar:
    def cast(make: Maker, dtype: DataType) -> Scalar:
        argument = make.of(make.chance.pick(sources))
        same = argument.dtype.required() == dtype.required()
        return argument if same else call("cast", argument, target=dtype)

    return cast


def _compare(make: Maker, _: DataType) -> Scalar:
    column = make.column_here()
    other = make.of(column.dtype)
    return call(make.chance.pick(("ge", "le", "ne", "eq", "lt", "gt")), column, other)


def _compare_computed(make: Maker, _: DataType) -> Scalar:
    dtype = make.column_here().dtype
    return call(make.chance.pick(("le", "ne", "eq", "gt")), make.of(dtype), make.of(dtype))


def _compare_risky(make: Maker, _: DataType) -> Scalar:
    fails = risky(make.chance, make.row_type)
    return call("ge", fails, make.of(fails.dtype))


def _is_there(make: Maker, _: DataType) -> Scalar:
    return call("not", call("is_null", make.column_here()))


def _is_in(make: Maker, _: DataType) -> Scalar:
    column = make.column_here()
    return call("is_in", column, *(literal(make.chance, column.dtype) for _ in range(3)))


def _text_test(make: Maker, _: DataType) -> Scalar:
    return call(make.chance.pick(("contains", "starts_with", "ends_with")), make.of(STR), make.of(STR))


def _difference(make: Maker, _: DataType) -> Scalar:
    unit = make.constant(STR, "hour", "microsecond", "day", "week")
    return call("difference", make.of(DATETIME), make.of(DATETIME), unit)


def _round(make: Maker, dtype: DataType) -> Scalar:
    digits = make.constant(INT, 0, 1, 2) if dtype.kind is Kind.FLOAT else Literal(dtype.scale, INT)
    return call("round", make.of(dtype), digits)


def _slice(make: Maker, _: DataType) -> Scalar:
    return call("slice", make.of(STR), make.constant(INT, 0, 1, -1), make.of(INT))


def _concat(make: Maker, _: DataType) -> Scalar:
    return call("concat", make.of(STR), make.of(STR))


def _truncate(make: Maker, _: DataType) -> Scalar:
    return call("truncate", make.of(DATETIME), make.constant(STR, "hour", "day", "week", "month", "year"))


_PARTS = ("hour", "day", "year", "weekday", "day_of_year")

_MAKERS: dict[Kind, tuple[MakeScalar, ...]] = {
    Kind.BOOL: (
        _compare,
        _compare,
        _compare_computed,
        _compare_risky,
        _is_there,
        _is_in,
        _text_test,
        _binary("and", "or"),
        _unary("not"),
    ),
    Kind.INT: (
        _binary("add", "sub", "mul"),
        _binary("floordiv", "mod"),
        _unary("neg", "abs"),
        _of(STR, "length"),
        _of(BYTES, "length"),
        _of(DATETIME, *_PARTS),
        _cast_from(FLOAT, STR, MONEY, BOOL),
        _difference,
    ),
    Kind.FLOAT: (
        _binary("add", "sub", "mul"),
        _binary("div", "floordiv", "mod"),
        _unary("neg", "abs"),
        _cast_from(INT, STR, MONEY),
        _round,
    ),
    Kind.STR: (
        _unary("lower", "upper"),
        _concat,
        _slice,
        _cast_from(INT, FLOAT, MONEY, BOOL, DATETIME, COLOUR),
    ),
    Kind.DATETIME: (_truncate,),
    Kind.DECIMAL: (
        _binary("add", "sub"),
        _unary("neg", "abs"),
        _cast_from(INT, FLOAT, STR, decimal_type(4), decimal_type(0)),
        _round,
    ),
}
