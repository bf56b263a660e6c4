"""What every strict scalar operation computes from arguments that are not null.

`function_of(call)` is the implementation for the types of a call: a function of its argument values. The
tables at the end name all of them. Rules that hold throughout: 64-bit results that do not fit raise, floats
leave through `canonical_float`, text is handled by code point and its case by ASCII letters alone, datetimes
are microseconds UTC.

Casts from text and float that do not fit fail with "cast"; those between integers and decimals with "decimal
overflow". Text to float takes digits, fraction and exponent, rounds as IEEE says, and knows no "nan" or
"inf".
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

from dist_zero.expr.ops import Call, Literal, Scalar
from dist_zero.types import (
    INT_MAX,
    INT_MIN,
    NAN,
    DataType,
    Kind,
    canonical_float,
    datetime_from_us,
    datetime_text,
    decimal_text,
    us_from_datetime,
)
from dist_zero_common.errors import InternalError

Function = Callable[..., Any]

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
_UNITS_US = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": MINUTE_US,
    "hour": HOUR_US,
    "day": DAY_US,
    "week": WEEK_US,
}
_MONDAY_US = -3 * DAY_US  # 1970-01-01 was a Thursday


class ScalarFailure(Exception):
    """An expression has no value for a row; the row is left out and counted under `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def function_of(call: Call) -> Function:
    """The implementation of a strict operation; raises `InternalError` for a name or type that has none."""
    built = _BUILT.get(call.name)
    if built is not None:
        return built(call)
    plain = _PLAIN.get(call.name)
    if plain is not None:
        return plain
    kind = call.args[0].dtype.kind if call.args else None
    try:
        return _BY_KIND[call.name][kind if kind in _BY_KIND[call.name] else None]
    except KeyError:
        raise InternalError(
            f"no scalar operation {call.name!r} of {kind}; the compiler let it through"
        ) from None


# ---- arithmetic --------------------------------------------------------------------------------------------


def fit_decimal(value: int) -> int:
    """`value`, the stored form of a decimal, if it fits 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise ScalarFailure("decimal overflow")


def _bounded(function: Function, reason: str) -> tuple[Function, Function]:
    """`function` of one and of two integers, failing with `reason` where the result does not fit 64 bits."""

    def unary(a: int) -> int:
        value: int = function(a)
        if INT_MIN <= value <= INT_MAX:
            return value
        raise ScalarFailure(reason)

    def binary(a: int, b: int) -> int:
        value: int = function(a, b)
        if INT_MIN <= value <= INT_MAX:
            return value
        raise ScalarFailure(reason)

    return unary, binary


def _unary(function: Function) -> dict[Kind | None, Function]:
    return {
        Kind.INT: _bounded(function, "integer overflow")[0],
        Kind.DECIMAL: _bounded(function, "decimal overflow")[0],
        Kind.FLOAT: lambda a: canonical_float(function(a)),
    }


def _binary(function: Function) -> dict[Kind | None, Function]:
    def by_float(a: float, b: float) -> float:
        value: float = function(a, b)
        return value + 0.0 if value == value else NAN

    return {
        Kind.INT: _bounded(function, "integer overflow")[1],
        Kind.DECIMAL: _bounded(function, "decimal overflow")[1],
        Kind.FLOAT: by_float,
    }


def _dividing(function: Function) -> dict[Kind | None, Function]:
    """Division by zero fails; integer quotients are as in Python (rounded down, remainder with the divisor's
    sign).
    """

    def by_int(a: int, b: int) -> int:
        if b == 0:
            raise ScalarFailure("division by zero")
        value: int = function(a, b)
        if value > INT_MAX:  # INT_MIN // -1
            raise ScalarFailure("integer overflow")
        return value

    def by_float(a: float, b: float) -> float:
        if b == 0.0:
            raise ScalarFailure("division by zero")
        return canonical_float(function(a, b))

    return {Kind.INT: by_int, Kind.FLOAT: by_float}


def half_even(numerator: int, denominator: int) -> int:
    """The integer nearest to numerator / denominator (> 0), the even one of two equally near."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    return quotient + (twice > denominator or (twice == denominator and quotient & 1))


def _round(call: Call) -> Function:
    source, digits = call.args[0].dtype, _literal(call, 1)
    if source.kind is Kind.FLOAT:
        return lambda x: _round_float(x, digits)
    if source.kind is Kind.DECIMAL:
        unit = 10 ** (source.scale - digits)
        return lambda x: half_even(x, unit)
    return lambda x: x


def _round_float(value: float, digits: int) -> float:
    try:
        return canonical_float(round(value, digits))
    except OverflowError:  # the nearest multiple of a large power of ten is beyond the largest float
        return math.copysign(math.inf, value)


# ---- comparison: NaN equals itself and is greater than every number ----------------------------------------

_FLOAT_COMPARISONS: dict[str, Function] = {
    "eq": lambda a, b: a == b or (a != a and b != b),
    "ne": lambda a, b: not (a == b or (a != a and b != b)),
    "lt": lambda a, b: a < b or (b != b and a == a),
    "le": lambda a, b: a <= b or b != b,
    "gt": lambda a, b: a > b or (a != a and b == b),
    "ge": lambda a, b: a >= b or a != a,
}


def _comparison(name: str) -> dict[Kind | None, Function]:
    return {Kind.FLOAT: _FLOAT_COMPARISONS[name], None: getattr(operator, name)}


# ---- casts -------------------------------------------------------------------------------------------------

_INT_TEXT = re.compile(r"[+-]?[0-9]+")
_DECIMAL_TEXT = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")
_FLOAT_TEXT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS_MAX = 40  # more than any 64-bit value with any scale has; keeps int() from refusing very long text


def _float_to_int(value: float) -> int:
    if math.isfinite(value) and INT_MIN <= (whole := int(value)) <= INT_MAX:
        return whole
    raise ScalarFailure("cast")


def _truncated(value: int, unit: int) -> int:
    return value // unit if value >= 0 else -(-value // unit)


def _float_to_decimal(value: float, unit: int) -> int:
    if math.isfinite(value):
        numerator, denominator = value.as_integer_ratio()
        scaled = half_even(numerator * unit, denominator)
        if INT_MIN <= scaled <= INT_MAX:
            return scaled
    raise ScalarFailure("cast")


def _text_to_int(text: str) -> int:
    if _INT_TEXT.fullmatch(text) and len(digits := text.lstrip("+-").lstrip("0")) <= _DIGITS_MAX:
        value = int(digits or "0")
        value = -value if text[0] == "-" else value
        if INT_MIN <= value <= INT_MAX:
            return value
    raise ScalarFailure("cast")


def _text_to_float(text: str) -> float:
    if _FLOAT_TEXT.fullmatch(text):
        return canonical_float(float(text))
    raise ScalarFailure("cast")


def _text_to_decimal(text: str, scale: int) -> int:
    match = _DECIMAL_TEXT.fullmatch(text)
    if match and len(whole := match[2].lstrip("0")) <= _DIGITS_MAX:
        part = match[3] or ""
        # Digits past the 40th only decide whether what they follow is a tie.
        part = part[:_DIGITS_MAX] + ("1" if part[_DIGITS_MAX:].strip("0") else "")
        scaled = half_even(int((whole + part) or "0") * 10**scale, 10 ** len(part))
        scaled = -scaled if match[1] == "-" else scaled
        if INT_MIN <= scaled <= INT_MAX:
            return scaled
    raise ScalarFailure("cast")


def _decimal_to_decimal(source: DataType, target: DataType) -> Function:
    if target.scale >= source.scale:
        factor = 10 ** (target.scale - source.scale)
        return lambda v: fit_decimal(v * factor)
    unit = 10 ** (source.scale - target.scale)
    return lambda v: half_even(v, unit)


def _int_to_decimal(_source: DataType, target: DataType) -> Function:
    unit = 10**target.scale
    return lambda v: fit_decimal(v * unit)


def _decimal_to_float(source: DataType, _target: DataType) -> Function:
    unit = float(10**source.scale)
    return lambda v: float(v) / unit


_CASTS: dict[tuple[Kind, Kind], Callable[[DataType, DataType], Function]] = {
    (Kind.INT, Kind.FLOAT): lambda _s, _t: float,
    (Kind.FLOAT, Kind.INT): lambda _s, _t: _float_to_int,
    (Kind.BOOL, Kind.INT): lambda _s, _t: int,
    (Kind.INT, Kind.DECIMAL): _int_to_decimal,
    (Kind.DECIMAL, Kind.INT): lambda s, _t: lambda v: _truncated(v, 10**s.scale),
    (Kind.DECIMAL, Kind.DECIMAL): _decimal_to_decimal,
    (Kind.DECIMAL, Kind.FLOAT): _decimal_to_float,
    (Kind.FLOAT, Kind.DECIMAL): lambda _s, t: lambda v: _float_to_decimal(v, 10**t.scale),
    (Kind.STR, Kind.INT): lambda _s, _t: _text_to_int,
    (Kind.STR, Kind.FLOAT): lambda _s, _t: _text_to_float,
    (Kind.STR, Kind.DECIMAL): lambda _s, t: lambda v: _text_to_decimal(v, t.scale),
}


def text_of(dtype: DataType) -> Callable[[Any], str]:
    """A function from a stored value that is not null to the text a person reads; casts to text are made of
    it.
    """
    kind = dtype.kind
    if kind is Kind.BOOL:
        return lambda v: "true" if v else "false"
    if kind is Kind.FLOAT:
        return repr
    if kind is Kind.DATETIME:
        return datetime_text
    if kind is Kind.DECIMAL:
        return lambda v: decimal_text(v, dtype.scale)
    if kind is Kind.ENUM:
        return lambda v: dtype.members[v]
    if kind is Kind.BYTES:
        return bytes.hex
    return str


def _cast(call: Call) -> Function:
    source, target = call.args[0].dtype, call.dtype
    if target.kind is Kind.STR and source.kind is not Kind.BYTES:
        return text_of(source)
    cast = _CASTS.get((source.kind, target.kind))
    if cast is not None:
        return cast(source, target)
    if source.required() == target.required():
        return lambda v: v
    raise InternalError(f"no cast from {source} to {target}; the compiler let it through")


# ---- text --------------------------------------------------------------------------------------------------

_UPPER_TO_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_LOWER_TO_UPPER = {code + 32: code for code in range(ord("A"), ord("Z") + 1)}


def _slice(text: str, start: int, length: int) -> str:
    if length < 0:
        raise ScalarFailure("out of range")
    return text[start:][:length]


# ---- datetimes ---------------------------------------------------------------------------------------------


def _literal(call: Call, place: int) -> Any:
    argument = call.args[place]
    if not isinstance(argument, Literal):
        raise InternalError(f"argument {place} of {call.name} must be a literal; the compiler let it through")
    return argument.value


def _truncate(call: Call) -> Function:
    unit = _literal(call, 1)
    if unit == "month":
        return lambda v: _calendar_start(v, month=None)
    if unit == "year":
        return lambda v: _calendar_start(v, month=1)
    size, origin = _UNITS_US[unit], _MONDAY_US if unit == "week" else 0
    return lambda v: v - (v - origin) % size


def _calendar_start(value: int, month: int | None) -> int:
    at = datetime_from_us(value)
    start = at.replace(month=month or at.month, day=1, hour=0, minute=0, second=0, microsecond=0)
    return us_from_datetime(start)


def _difference(call: Call) -> Function:
    unit = _UNITS_US[_literal(call, 2)]
    return lambda a, b: (a - b) // unit


# ---- the tables --------------------------------------------------------------------------------------------


_BY_KIND: dict[str, dict[Kind | None, Function]] = {
    "add": _binary(operator.add),
    "sub": _binary(operator.sub),
    "mul": _binary(operator.mul),
    "neg": _unary(operator.neg),
    "abs": _unary(operator.abs),
    "div": _dividing(operator.truediv),
    "floordiv": _dividing(operator.floordiv),
    "mod": _dividing(operator.mod),
    **{name: _comparison(name) for name in _FLOAT_COMPARISONS},
}
"""By the kind of the first argument; `None` stands for all other kinds."""

_PLAIN: dict[str, Function] = {
    "not": operator.not_,
    "lower": lambda text: text.translate(_UPPER_TO_LOWER),
    "upper": lambda text: text.translate(_LOWER_TO_UPPER),
    "length": len,
    "contains": operator.contains,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "slice": _slice,
    "concat": lambda *texts: "".join(texts),
    "year": lambda v: datetime_from_us(v).year,
    "month": lambda v: datetime_from_us(v).month,
    "day": lambda v: datetime_from_us(v).day,
    "hour": lambda v: v // HOUR_US % 24,
    "minute": lambda v: v // MINUTE_US % 60,
    "second": lambda v: v // 1_000_000 % 60,
    "weekday": lambda v: datetime_from_us(v).isoweekday(),
    "day_of_year": lambda v: datetime_from_us(v).timetuple().tm_yday,
}

_BUILT: dict[str, Callable[[Call], Function]] = {
    "cast": _cast,
    "round": _round,
    "truncate": _truncate,
    "difference": _difference,
}

_VALUE_COUNT = {"round": 1, "truncate": 1, "difference": 2}


def value_arguments(call: Call) -> tuple[Scalar, ...]:
    """The arguments that the function takes as values, without the literals that it was built around."""
    return call.args[: _VALUE_COUNT.get(call.name, len(call.args))]
