"""Scalar expressions: each operation's value, nulls, failures, order of evaluation, and what failures tell."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import struct
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dist_zero.expr.functions import FUNCTIONS
from dist_zero.expr.ops import Aggregation, Call, ColumnRef, Literal, Scalar
from dist_zero.reference.functions import ScalarFailure, function_of
from dist_zero.reference.scalar import Scalars, aggregation_input, compile_scalar, referenced_columns
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    FLOAT,
    INT,
    INT_MAX,
    INT_MIN,
    NAN,
    STR,
    DataType,
    RowType,
    decimal_type,
    enum_type,
    us_from_datetime,
)
from dist_zero_common.errors import InternalError

_MONEY = decimal_type(2)
_INF = math.inf


def lit(value: Any, dtype: DataType) -> Literal:
    """A constant."""
    return Literal(value, dtype.optional() if value is None else dtype)


def value_of(name: str, arguments: list[Scalar], dtype: DataType) -> Any:
    """The value of an operation on constants."""
    return compile_scalar(Call(name, tuple(arguments), dtype))(())


def same(a: Any, b: Any) -> bool:
    """Whether two stored values have the same type and bits."""
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    return type(a) is type(b) and bool(a == b)


def us(text: str) -> int:
    """A stored datetime."""
    return us_from_datetime(dt.datetime.fromisoformat(text))


_VALUES: list[tuple[str, list[Any], DataType, DataType, Any]] = [
    ("add", [INT_MAX, -1], INT, INT, INT_MAX - 1),
    ("add", [1e308, 1e308], FLOAT, FLOAT, _INF),
    ("add", [_INF, -_INF], FLOAT, FLOAT, NAN),
    ("add", [150, 275], _MONEY, _MONEY, 425),
    ("sub", [INT_MIN, -1], INT, INT, INT_MIN + 1),
    ("mul", [0.0, -1.0], FLOAT, FLOAT, 0.0),
    ("mul", [150, 200], _MONEY, decimal_type(4), 30000),
    ("div", [1.0, 3.0], FLOAT, FLOAT, 1 / 3),
    ("div", [0.0, -3.0], FLOAT, FLOAT, 0.0),
    ("floordiv", [-7, 2], INT, INT, -4),
    ("floordiv", [-7.0, 2.0], FLOAT, FLOAT, -4.0),
    ("mod", [-7, 2], INT, INT, 1),
    ("mod", [7, -2], INT, INT, -1),
    ("mod", [-6.0, 2.0], FLOAT, FLOAT, 0.0),
    ("neg", [0.0], FLOAT, FLOAT, 0.0),
    ("neg", [INT_MAX], INT, INT, -INT_MAX),
    ("abs", [-_INF], FLOAT, FLOAT, _INF),
    ("eq", [NAN, NAN], FLOAT, BOOL, True),
    ("ne", [NAN, NAN], FLOAT, BOOL, False),
    ("lt", [_INF, NAN], FLOAT, BOOL, True),
    ("lt", [NAN, NAN], FLOAT, BOOL, False),
    ("le", [NAN, NAN], FLOAT, BOOL, True),
    ("gt", [NAN, _INF], FLOAT, BOOL, True),
    ("ge", [NAN, 1.0], FLOAT, BOOL, True),
    ("ge", [1.0, NAN], FLOAT, BOOL, False),
    ("lt", ["\uffff", "\U0001f600"], STR, BOOL, True),
    ("lt", [b"a", b"a\0"], BYTES, BOOL, True),
    ("lt", [False, True], BOOL, BOOL, True),
    ("not", [True], BOOL, BOOL, False),
    ("is_null", [None], INT, BOOL, True),
    ("is_null", [0], INT, BOOL, False),
    ("coalesce", [None, 3, 4], INT, INT, 3),
    ("coalesce", [None, None], INT, INT, None),
    ("is_in", [2, 1, 2], INT, BOOL, True),
    ("is_in", [3, 1, 2], INT, BOOL, False),
    ("is_in", [3, 1, None], INT, BOOL, None),
    ("is_in", [1, 1, None], INT, BOOL, True),
    ("is_in", [None, 1], INT, BOOL, None),
    ("is_in", [NAN, 1.0, NAN], FLOAT, BOOL, True),
    ("lower", ["ÄBC xYZ"], STR, STR, "Äbc xyz"),
    ("upper", ["äbc ßz"], STR, STR, "äBC ßZ"),
    ("length", ["zü\U0001f600"], STR, INT, 3),
    ("length", [b"\xc3\xbc"], BYTES, INT, 2),
    ("contains", ["hello", "ell"], STR, BOOL, True),
    ("starts_with", ["hello", "ell"], STR, BOOL, False),
    ("ends_with", ["hello", ""], STR, BOOL, True),
    ("concat", ["a", "", "b"], STR, STR, "ab"),
    ("year", [us("2013-12-31T23:59:59")], DATETIME, INT, 2013),
    ("month", [us("2013-12-31T23:59:59")], DATETIME, INT, 12),
    ("day", [us("2013-12-31T23:59:59")], DATETIME, INT, 31),
    ("hour", [us("1969-12-31T23:59:58")], DATETIME, INT, 23),
    ("minute", [us("1969-12-31T23:59:58")], DATETIME, INT, 59),
    ("second", [us("1969-12-31T23:59:58.5")], DATETIME, INT, 58),
    ("weekday", [us("2024-02-29")], DATETIME, INT, 4),
    ("weekday", [us("0001-01-01")], DATETIME, INT, 1),
    ("day_of_year", [us("2024-12-31")], DATETIME, INT, 366),
]


@pytest.mark.parametrize(("name", "arguments", "dtype", "result", "expected"), _VALUES)
def test_values(name: str, arguments: list[Any], dtype: DataType, result: DataType, expected: Any) -> None:
    """The table of values, limits and special cases; columns give what constants give."""
    found = value_of(name, [lit(value, dtype) for value in arguments], result)
    assert same(found, expected)
    columns = [ColumnRef(i, dtype.optional()) for i in range(len(arguments))]
    if name != "is_in":
        assert same(compile_scalar(Call(name, tuple(columns), result))(tuple(arguments)), expected)
    first_column: list[Scalar] = [columns[0], *(lit(value, dtype) for value in arguments[1:])]
    assert same(compile_scalar(Call(name, tuple(first_column), result))(tuple(arguments)), expected)


_FAILURES: list[tuple[str, list[Any], DataType, DataType, str]] = [
    ("add", [INT_MAX, 1], INT, INT, "integer overflow"),
    ("sub", [INT_MIN, 1], INT, INT, "integer overflow"),
    ("mul", [1 << 62, 2], INT, INT, "integer overflow"),
    ("neg", [INT_MIN], INT, INT, "integer overflow"),
    ("abs", [INT_MIN], _MONEY, _MONEY, "decimal overflow"),
    ("mul", [1 << 62, 2], _MONEY, decimal_type(4), "decimal overflow"),
    ("floordiv", [INT_MIN, -1], INT, INT, "integer overflow"),
    ("div", [1.0, 0.0], FLOAT, FLOAT, "division by zero"),
    ("div", [NAN, 0.0], FLOAT, FLOAT, "division by zero"),
    ("floordiv", [1, 0], INT, INT, "division by zero"),
    ("mod", [1.0, 0.0], FLOAT, FLOAT, "division by zero"),
]


@pytest.mark.parametrize(("name", "arguments", "dtype", "result", "reason"), _FAILURES)
def test_failures(name: str, arguments: list[Any], dtype: DataType, result: DataType, reason: str) -> None:
    """Nothing wraps and nothing crashes: what has no value fails with its reason."""
    with pytest.raises(ScalarFailure) as caught:
        value_of(name, [lit(value, dtype) for value in arguments], result)
    assert caught.value.reason == reason


_CASTS: list[tuple[Any, DataType, DataType, Any]] = [
    (INT_MAX, INT, FLOAT, 2.0**63),
    (-2.9, FLOAT, INT, -2),
    (2.0**63, FLOAT, INT, ScalarFailure),
    (-(2.0**63), FLOAT, INT, INT_MIN),
    (NAN, FLOAT, INT, ScalarFailure),
    (_INF, FLOAT, INT, ScalarFailure),
    (True, BOOL, INT, 1),
    (12, INT, _MONEY, 1200),
    (INT_MAX, INT, _MONEY, ScalarFailure),
    (-250, _MONEY, INT, -2),
    (150, _MONEY, decimal_type(3), 1500),
    (INT_MAX, _MONEY, decimal_type(3), ScalarFailure),
    (125, _MONEY, decimal_type(1), 12),
    (135, _MONEY, decimal_type(1), 14),
    (-125, _MONEY, decimal_type(1), -12),
    (150, _MONEY, FLOAT, 1.5),
    (1.005, FLOAT, _MONEY, 100),
    (0.125, FLOAT, _MONEY, 12),
    (1e17, FLOAT, _MONEY, ScalarFailure),
    (NAN, FLOAT, _MONEY, ScalarFailure),
    (1.0, FLOAT, STR, "1.0"),
    (NAN, FLOAT, STR, "nan"),
    (-_INF, FLOAT, STR, "-inf"),
    (INT_MIN, INT, STR, "-9223372036854775808"),
    (False, BOOL, STR, "false"),
    (-50, _MONEY, STR, "-0.50"),
    (7, decimal_type(0), STR, "7"),
    (1, enum_type(("RED", "BLUE")), STR, "BLUE"),
    (us("2013-01-01T05:00:00"), DATETIME, STR, "2013-01-01T05:00:00Z"),
    (us("0013-01-01T05:00:00.000250"), DATETIME, STR, "0013-01-01T05:00:00.000250Z"),
    ("-0012", STR, INT, -12),
    ("+9223372036854775807", STR, INT, INT_MAX),
    ("9223372036854775808", STR, INT, ScalarFailure),
    ("0" * 5000 + "7", STR, INT, 7),
    ("9" * 5000, STR, INT, ScalarFailure),
    ("", STR, INT, ScalarFailure),
    (" 1", STR, INT, ScalarFailure),
    ("1_000", STR, INT, ScalarFailure),
    ("٣", STR, INT, ScalarFailure),
    ("1\n", STR, INT, ScalarFailure),
    ("-1.5e3", STR, FLOAT, -1500.0),
    ("-0", STR, FLOAT, 0.0),
    ("1e999", STR, FLOAT, _INF),
    ("nan", STR, FLOAT, ScalarFailure),
    (".5", STR, FLOAT, ScalarFailure),
    ("1.005", STR, _MONEY, 100),
    ("1.0050000000000000000000000000000000000000000000000001", STR, _MONEY, 101),
    ("-2.5", STR, _MONEY, -250),
    ("1e3", STR, _MONEY, ScalarFailure),
]


@pytest.mark.parametrize(("value", "source", "target", "expected"), _CASTS)
def test_casts(value: Any, source: DataType, target: DataType, expected: Any) -> None:
    """Casts are exact or say that they are not."""
    if expected is ScalarFailure:
        with pytest.raises(ScalarFailure):
            value_of("cast", [lit(value, source)], target)
    else:
        assert same(value_of("cast", [lit(value, source)], target), expected)


@pytest.mark.parametrize(
    ("value", "dtype", "digits", "expected"),
    [
        (2.675, FLOAT, 2, 2.67),
        (0.5, FLOAT, 0, 0.0),
        (-0.4, FLOAT, 0, 0.0),
        (NAN, FLOAT, 1, NAN),
        (1.7e308, FLOAT, -308, _INF),
        (125, _MONEY, 1, 12),
        (-135, _MONEY, 1, -14),
        (50, _MONEY, 0, 0),
        (7, INT, 0, 7),
    ],
)
def test_round(value: Any, dtype: DataType, digits: int, expected: Any) -> None:
    """Floats round as Python does, decimals half to even."""
    assert same(value_of("round", [lit(value, dtype), lit(digits, INT)], dtype), expected)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(1, 3, "ell"), (-3, 2, "ll"), (-3, 3, "llo"), (-9, 2, "he"), (9, 2, ""), (0, 0, ""), (3, 99, "lo")],
)
def test_slice(start: int, length: int, expected: str) -> None:
    """`length` characters from `start`, which counts from the end if negative."""
    assert value_of("slice", [lit("hello", STR), lit(start, INT), lit(length, INT)], STR) == expected


def test_slice_of_negative_length_fails() -> None:
    """There is no text of negative length."""
    with pytest.raises(ScalarFailure, match="out of range"):
        value_of("slice", [lit("a", STR), lit(0, INT), lit(-1, INT)], STR)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("second", "2024-02-29T23:59:58"),
        ("minute", "2024-02-29T23:59:00"),
        ("hour", "2024-02-29T23:00:00"),
        ("day", "2024-02-29"),
        ("week", "2024-02-26"),
        ("month", "2024-02-01"),
        ("year", "2024-01-01"),
    ],
)
def test_truncate(unit: str, expected: str) -> None:
    """Down to the beginning of the unit; weeks begin on Monday."""
    at = lit(us("2024-02-29T23:59:58.123456"), DATETIME)
    assert value_of("truncate", [at, lit(unit, STR)], DATETIME) == us(expected)
    first = lit(us("0001-01-01"), DATETIME)
    assert value_of("truncate", [first, lit(unit, STR)], DATETIME) == us("0001-01-01")


def test_difference_rounds_down() -> None:
    """Whole units, rounded towards minus infinity."""
    a, b = lit(us("2024-01-01"), DATETIME), lit(us("2024-01-02T00:00:00.000001"), DATETIME)
    assert value_of("difference", [a, b, lit("day", STR)], INT) == -2
    assert value_of("difference", [b, a, lit("day", STR)], INT) == 1
    assert value_of("difference", [b, a, lit("microsecond", STR)], INT) == 86_400_000_001


_THREE: list[bool | None] = [False, None, True]


@pytest.mark.parametrize("a", _THREE)
@pytest.mark.parametrize("b", _THREE)
def test_three_valued_logic(a: bool | None, b: bool | None) -> None:
    """`and` is the minimum and `or` the maximum of false < null < true."""
    arguments: list[Scalar] = [lit(a, BOOL), lit(b, BOOL)]
    assert value_of("and", arguments, BOOL) is min(a, b, key=_THREE.index)
    assert value_of("or", arguments, BOOL) is max(a, b, key=_THREE.index)


_BROKEN = Call("floordiv", (Literal(1, INT), Literal(0, INT)), INT)
_BROKEN_BOOL = Call("eq", (_BROKEN, Literal(1, INT)), BOOL)


def test_lazy_operations_evaluate_what_they_need() -> None:
    """A failing argument that does not decide is never evaluated; one that does, is."""
    false, true = lit(False, BOOL), lit(True, BOOL)
    assert value_of("and", [false, _BROKEN_BOOL], BOOL) is False
    assert value_of("or", [true, _BROKEN_BOOL], BOOL) is True
    assert value_of("coalesce", [lit(1, INT), _BROKEN], INT) == 1
    assert value_of("case", [true, lit(1, INT), _BROKEN_BOOL, _BROKEN, _BROKEN], INT) == 1
    assert value_of("case", [lit(None, BOOL), _BROKEN, false, _BROKEN, lit(2, INT)], INT) == 2
    for name, first in (("and", true), ("or", false), ("and", lit(None, BOOL))):
        with pytest.raises(ScalarFailure):
            value_of(name, [first, _BROKEN_BOOL], BOOL)


def test_strict_operations_evaluate_all_arguments_before_they_look_for_null() -> None:
    """null + 1 // 0 fails, in either order of the arguments."""
    null = lit(None, INT)
    with pytest.raises(ScalarFailure):
        value_of("add", [null, _BROKEN], INT)
    with pytest.raises(ScalarFailure):
        value_of("add", [_BROKEN, null], INT)


def test_null_in_gives_null_out_in_every_strict_operation() -> None:
    """Every operation of the table that is strict, at any place of the null, over columns."""
    shapes: dict[str, tuple[list[tuple[Any, DataType]], DataType]] = {
        **dict.fromkeys(("add", "sub", "mul", "floordiv", "mod"), ([(7, INT), (2, INT)], INT)),
        "div": ([(7.0, FLOAT), (2.0, FLOAT)], FLOAT),
        **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), ([(7, INT), (2, INT)], BOOL)),
        **dict.fromkeys(("neg", "abs"), ([(7, INT)], INT)),
        "not": ([(True, BOOL)], BOOL),
        "cast": ([(7, INT)], FLOAT),
        **dict.fromkeys(("lower", "upper"), ([("a", STR)], STR)),
        "length": ([("a", STR)], INT),
        **dict.fromkeys(("contains", "starts_with", "ends_with"), ([("a", STR), ("a", STR)], BOOL)),
        "concat": ([("a", STR), ("b", STR), ("c", STR)], STR),
        "slice": ([("a", STR), (0, INT), (1, INT)], STR),
        **dict.fromkeys(
            ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"),
            ([(0, DATETIME)], INT),
        ),
    }
    others = {"and", "or", "is_null", "coalesce", "is_in", "case", "round", "truncate", "difference"}
    assert {*shapes, *others} == {*FUNCTIONS, "cast"}, "an operation without a test"
    for name, (arguments, result) in shapes.items():
        columns = tuple(ColumnRef(i, dtype.optional()) for i, (_, dtype) in enumerate(arguments))
        evaluate = compile_scalar(Call(name, columns, result.optional()))
        row = tuple(value for value, _ in arguments)
        assert evaluate(row) is not None, name
        for place in range(len(row)):
            assert evaluate((*row[:place], None, *row[place + 1 :])) is None, name


@settings(max_examples=200)
@given(st.integers(INT_MIN, INT_MAX), st.integers(-(10**9), 10**9).filter(bool))
def test_integer_division_law(a: int, b: int) -> None:
    """(a // b) · b + a % b = a wherever the quotient fits."""
    if (a, b) != (INT_MIN, -1):
        quotient = value_of("floordiv", [lit(a, INT), lit(b, INT)], INT)
        remainder = value_of("mod", [lit(a, INT), lit(b, INT)], INT)
        assert quotient * b + remainder == a
        assert 0 <= remainder < b if b > 0 else b < remainder <= 0


@settings(max_examples=200)
@given(st.floats(-1e15, 1e15), st.integers(0, 4))
def test_float_to_decimal_is_the_nearest(value: float, scale: int) -> None:
    """The decimal nearest to the exact binary value, the even one of two."""
    assume(abs(Fraction(value)) * 10**scale < INT_MAX)
    found = value_of("cast", [lit(value + 0.0, FLOAT)], decimal_type(scale))
    exact = Fraction(value) * 10**scale
    context = decimal.Context(prec=2000, rounding=decimal.ROUND_HALF_EVEN)
    nearest = decimal.Decimal(value).quantize(decimal.Decimal(1).scaleb(-scale), context=context)
    assert abs(found - exact) <= Fraction(1, 2)
    assert found == int(nearest.scaleb(scale, context))


@given(st.integers(INT_MIN, INT_MAX), st.integers(0, 18))
def test_decimals_survive_text(value: int, scale: int) -> None:
    """Casting to text and back changes nothing."""
    dtype = decimal_type(scale)
    text = value_of("cast", [lit(value, dtype)], STR)
    assert value_of("cast", [lit(text, STR)], dtype) == value


def test_a_failure_names_the_columns_of_the_scalar_that_failed() -> None:
    """Columns in order of their place, values as people write them, at most 200 characters, and only of the culprit."""
    row_type = RowType(("a", "b", "note", "at"), (INT, INT, STR.optional(), DATETIME))
    good = ColumnRef(0, INT)
    failing = Call("floordiv", (ColumnRef(1, INT), Call("sub", (good, good), INT)), INT)
    told = Call("case", (Call("is_null", (ColumnRef(2, STR.optional()),), BOOL), failing, failing), INT)
    scalars = Scalars((good, failing), row_type)
    assert scalars.failure((3, 4, None, 0)) == ("division by zero", "a=3, b=4")
    assert Scalars((told,), row_type).failure((3, 4, None, 0))[1] == "a=3, b=4, note=null"
    long = Scalars((told,), row_type).failure((3, 4, "x" * 300, 0))[1]
    assert len(long) == 200 and long.startswith("a=3, b=4, note=xxx") and long.endswith("…")
    assert referenced_columns(told) == (0, 1, 2)


def test_the_input_of_an_aggregation_is_null_where_the_row_does_not_count() -> None:
    """`where` decides first; without an argument every row counts."""
    where = Call("gt", (ColumnRef(0, INT), Literal(0, INT)), BOOL)
    counted = compile_scalar(aggregation_input(Aggregation("count", None, where, INT)))
    assert (counted((1,)), counted((0,))) == (True, None)
    summed = compile_scalar(aggregation_input(Aggregation("sum", _BROKEN, where, INT)))
    assert summed((0,)) is None
    assert compile_scalar(aggregation_input(Aggregation("count", None, None, INT)))((0,)) is True


def test_an_unknown_operation_is_our_bug() -> None:
    """What the compiler should have refused is an internal error that names it."""
    with pytest.raises(InternalError, match="shout"):
        function_of(Call("shout", (Literal("a", STR),), STR))
    with pytest.raises(InternalError, match="add"):
        function_of(Call("add", (Literal("a", STR), Literal("b", STR)), STR))
