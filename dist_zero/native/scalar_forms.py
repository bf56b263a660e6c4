"""The table of strict scalar operations in C: for each, what computes it from values that are not null.

`reference/functions.py` defines them; `runtime/scalars.h` has the functions that are called here. `scalars.py` puts
around them what is the same for all: where values come from, nulls, failures.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dist_zero.expr.ops import Call, Literal
from dist_zero.types import INT_MIN, DataType, Kind, Stored
from dist_zero_common.errors import InternalError


class Way(enum.Enum):
    """What the C of an operation is."""

    PLAIN = "an expression that is also good for the words of nulls; what it gives for them is not looked at"
    GUARDED = "an expression that is evaluated only if no argument is null"
    FAILS = "an expression that is 0, or why there is no value; the value goes to {out}"
    OVERFLOWS = "an expression that is true if the value does not fit; the value goes to {out}"


@dataclass(frozen=True, slots=True)
class Form:
    """An operation in C, with {0}, {1}, … for the arguments. `reason`: of what overflows. `heavy`: not to be done
    where it is not needed."""

    text: str
    way: Way = Way.PLAIN
    reason: str = ""
    heavy: bool = False


class Texts(Protocol):
    """The texts that stand in a program; a node makes each of them once. See `scalars.Constants`."""

    def text(self, value: str | bytes) -> str:
        """An expression for one of them."""

    def run(self, values: Sequence[str | bytes]) -> str:
        """An expression for a pointer to the first of several, which stand one behind the other."""


def form_of(call: Call, texts: Texts) -> Form:
    """The C of a strict operation; raises `InternalError` for a name or type that has none."""
    if call.name == "cast":
        return _cast(call, texts)
    form = FORMS.get(call.name)
    if form is None or not call.args:
        raise InternalError(f"no scalar operation {call.name!r} in C; the compiler let it through")
    return form(call)


def constant(value: Stored, dtype: DataType) -> str:
    """A constant that is neither null nor text, as C."""
    if dtype.kind is Kind.BOOL:
        return "1" if value else "0"
    if dtype.kind is Kind.FLOAT:
        return _float_constant(value)
    return _int(_whole(value))


def word_constant(value: Stored, dtype: DataType) -> str:
    """The same as a word."""
    if dtype.kind is Kind.FLOAT:
        return f"dz_word_of_float({_float_constant(value)})"
    return str(int(_whole(value)) & (2**64 - 1)) + "u"


def nothing(dtype: DataType) -> str:
    """What stands for a null, as C."""
    return {Kind.FLOAT: "0.0", Kind.STR: "NULL", Kind.BYTES: "NULL"}.get(dtype.kind, "0")


def comment(value: str | bytes) -> str:
    """A text as a short comment behind what stands for it."""
    shown = re.sub(r"[^ -~]|[\\/*(){}]", "?", value if isinstance(value, str) else value.hex())
    return f"/* {shown if len(shown) <= 30 else shown[:29] + '...'} */"


def string(data: bytes) -> str:
    """Bytes as a C string."""
    return (
        '"' + "".join(chr(c) if 32 <= c < 127 and chr(c) not in '"\\?' else f"\\{c:03o}" for c in data) + '"'
    )


def _whole(value: Stored) -> int:
    assert isinstance(value, int)
    return value


def _float_constant(value: Stored) -> str:
    assert isinstance(value, float)
    if value != value:
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return repr(value) if value >= 0 else f"({value!r})"


def _int(value: int) -> str:
    if value == INT_MIN:
        return "INT64_MIN"
    return f"INT64_C({value})" if value >= 0 else f"(-INT64_C({-value}))"


# ---- arithmetic --------------------------------------------------------------------------------------------


def _overflow(dtype: DataType) -> str:
    return "DZ_DECIMAL_OVERFLOW" if dtype.kind is Kind.DECIMAL else "DZ_INTEGER_OVERFLOW"


def _arithmetic(name: str, floats: str) -> Callable[[Call], Form]:
    """`floats` makes no -0.0 of values that are none."""

    def form(call: Call) -> Form:
        dtype = call.args[0].dtype
        if dtype.kind is Kind.FLOAT:
            return Form(floats)
        return Form(f"__builtin_{name}_overflow({{0}}, {{1}}, {{out}})", Way.OVERFLOWS, _overflow(dtype))

    return form


def _neg(call: Call) -> Form:
    dtype = call.args[0].dtype
    if dtype.kind is Kind.FLOAT:
        return Form("0.0 - {0}")
    return Form("__builtin_sub_overflow(INT64_C(0), {0}, {out})", Way.OVERFLOWS, _overflow(dtype))


def _abs(call: Call) -> Form:
    dtype = call.args[0].dtype
    if dtype.kind is Kind.FLOAT:
        return Form("fabs({0})")
    return Form(
        "__builtin_sub_overflow({0} < 0 ? INT64_C(0) : {0}, {0} < 0 ? {0} : INT64_C(0), {out})",
        Way.OVERFLOWS,
        _overflow(dtype),
    )


def _dividing(name: str) -> Callable[[Call], Form]:
    def form(call: Call) -> Form:
        kind = "float" if call.args[0].dtype.kind is Kind.FLOAT else "int"
        return Form(f"dz_{name}_{kind}({{0}}, {{1}}, {{out}})", Way.FAILS)

    return form


def _round(call: Call) -> Form:
    source, digits = call.args[0].dtype, _whole(_literal(call, 1))
    if source.kind is Kind.FLOAT:
        if not 0 <= digits <= 18:
            raise InternalError(f"round to {digits} digits; the compiler let it through")
        return Form(f"dz_round_float({{0}}, {digits})", heavy=True)
    if source.kind is Kind.DECIMAL and digits < source.scale:
        return Form(f"dz_half_even({{0}}, {_int(10 ** (source.scale - digits))})")
    return Form("{0}")


# ---- comparison --------------------------------------------------------------------------------------------

_BOOL_COMPARISONS = {
    "eq": "!({0} ^ {1})",
    "ne": "{0} ^ {1}",
    "lt": "(!{0}) & {1}",
    "le": "(!{0}) | {1}",
    "gt": "{0} & (!{1})",
    "ge": "{0} | (!{1})",
}
_FLOAT_COMPARISONS = {
    "eq": "dz_float_eq({0}, {1})",
    "ne": "!dz_float_eq({0}, {1})",
    "lt": "dz_float_lt({0}, {1})",
    "le": "dz_float_le({0}, {1})",
    "gt": "dz_float_lt({1}, {0})",
    "ge": "dz_float_le({1}, {0})",
}
_SYMBOLS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _comparison(name: str) -> Callable[[Call], Form]:
    def form(call: Call) -> Form:
        kind = call.args[0].dtype.kind
        if kind is Kind.BOOL:
            return Form(_BOOL_COMPARISONS[name])
        if kind is Kind.FLOAT:
            return Form(_FLOAT_COMPARISONS[name])
        if kind in (Kind.STR, Kind.BYTES) and name not in ("eq", "ne"):
            return Form(f"dz_text_compare({{0}}, {{1}}) {_SYMBOLS[name]} 0", Way.GUARDED, heavy=True)
        return Form(f"{{0}} {_SYMBOLS[name]} {{1}}")

    return form


# ---- casts -------------------------------------------------------------------------------------------------


def _cast(call: Call, texts: Texts) -> Form:
    source, target = call.args[0].dtype, call.dtype
    if source.required() == target.required():
        return Form("{0}")
    if target.kind is Kind.STR and source.kind is not Kind.BYTES:
        return _to_text(source, texts)
    cast = _CASTS.get((source.kind, target.kind))
    if cast is None:
        raise InternalError(f"no cast from {source} to {target} in C; the compiler let it through")
    return cast(source, target)


def _to_text(source: DataType, texts: Texts) -> Form:
    if source.kind is Kind.BOOL:
        return Form(f"{{0}} ? {texts.text('true')} : {texts.text('false')}")
    if source.kind is Kind.ENUM:
        return Form(f"({texts.run(source.members)})[{{0}}]")
    scale = f", {source.scale}" if source.kind is Kind.DECIMAL else ""
    return Form(f"dz_{source.kind.value}_to_text(b, {{0}}{scale})", Way.GUARDED, heavy=True)


def _times(unit: int) -> Form:
    return Form(f"__builtin_mul_overflow({{0}}, {_int(unit)}, {{out}})", Way.OVERFLOWS, "DZ_DECIMAL_OVERFLOW")


def _decimal_to_decimal(source: DataType, target: DataType) -> Form:
    if target.scale >= source.scale:
        return _times(10 ** (target.scale - source.scale))
    return Form(f"dz_half_even({{0}}, {_int(10 ** (source.scale - target.scale))})")


_CASTS: dict[tuple[Kind, Kind], Callable[[DataType, DataType], Form]] = {
    (Kind.INT, Kind.FLOAT): lambda _s, _t: Form("(double){0}"),
    (Kind.FLOAT, Kind.INT): lambda _s, _t: Form("dz_float_to_int({0}, {out})", Way.FAILS),
    (Kind.BOOL, Kind.INT): lambda _s, _t: Form("(int64_t){0}"),
    (Kind.INT, Kind.DECIMAL): lambda _s, t: _times(10**t.scale),
    (Kind.DECIMAL, Kind.INT): lambda s, _t: Form(f"{{0}} / {_int(10**s.scale)}"),
    (Kind.DECIMAL, Kind.DECIMAL): _decimal_to_decimal,
    (Kind.DECIMAL, Kind.FLOAT): lambda s, _t: Form(f"(double){{0}} / 1e{s.scale}"),
    (Kind.FLOAT, Kind.DECIMAL): lambda _s, t: Form(
        f"dz_float_to_decimal({{0}}, {t.scale}, {{out}})", Way.FAILS
    ),
    (Kind.STR, Kind.INT): lambda _s, _t: Form("dz_text_to_int({0}, {out})", Way.FAILS),
    (Kind.STR, Kind.FLOAT): lambda _s, _t: Form("dz_text_to_float(b, {0}, {out})", Way.FAILS),
    (Kind.STR, Kind.DECIMAL): lambda _s, t: Form(f"dz_text_to_decimal({{0}}, {t.scale}, {{out}})", Way.FAILS),
}


# ---- text and datetimes ------------------------------------------------------------------------------------


def _length(call: Call) -> Form:
    if call.args[0].dtype.kind is Kind.BYTES:
        return Form("(int64_t){0}->length", Way.GUARDED)
    return Form("dz_code_points({0}->bytes, {0}->length)", Way.GUARDED, heavy=True)


def _concat(call: Call) -> Form:
    places = ", ".join(f"{{{i}}}" for i in range(len(call.args)))
    return Form(
        f"dz_concat(b, (dz_text *const[]){{{{{places}}}}}, {len(call.args)})", Way.GUARDED, heavy=True
    )


def _literal(call: Call, place: int) -> Stored:
    argument = call.args[place]
    if not isinstance(argument, Literal):
        raise InternalError(f"argument {place} of {call.name} must be a literal; the compiler let it through")
    return argument.value


def _unit(call: Call, place: int) -> str:
    unit = _literal(call, place)
    assert isinstance(unit, str)
    return unit


_UNITS_US = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 7 * 86_400_000_000,
}


def _truncate(call: Call) -> Form:
    unit = _unit(call, 1)
    if unit in ("month", "year"):
        return Form(f"dz_truncate_{unit}({{0}})", heavy=True)
    origin = "-3 * DZ_DAY_US" if unit == "week" else "0"  # 1970-01-01 was a Thursday
    return Form(f"dz_truncate({{0}}, {_int(_UNITS_US[unit])}, {origin})")


def _difference(call: Call) -> Form:
    return Form(f"dz_floor_div({{0}} - {{1}}, {_int(_UNITS_US[_unit(call, 2)])})")


def _always(text: str, way: Way = Way.PLAIN, *, heavy: bool = False) -> Callable[[Call], Form]:
    return lambda _: Form(text, way, heavy=heavy)


def _clock(unit: str, count: int) -> Callable[[Call], Form]:
    return _always(f"dz_clock({{0}}, {_int(_UNITS_US[unit])}, {count})")


# ---- the table ---------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[Call], Form]] = {
    "not": _always("!{0}"),
    **{name: _comparison(name) for name in _SYMBOLS},
    "add": _arithmetic("add", "{0} + {1}"),
    "sub": _arithmetic("sub", "{0} - {1}"),
    "mul": _arithmetic("mul", "{0} * {1} + 0.0"),
    "div": _dividing("div"),
    "floordiv": _dividing("floordiv"),
    "mod": _dividing("mod"),
    "neg": _neg,
    "abs": _abs,
    "round": _round,
    "lower": _always("dz_lower(b, {0})", Way.GUARDED, heavy=True),
    "upper": _always("dz_upper(b, {0})", Way.GUARDED, heavy=True),
    "length": _length,
    "contains": _always("dz_contains({0}, {1})", Way.GUARDED, heavy=True),
    "starts_with": _always("dz_starts_with({0}, {1})", Way.GUARDED, heavy=True),
    "ends_with": _always("dz_ends_with({0}, {1})", Way.GUARDED, heavy=True),
    "slice": _always("dz_slice(b, {0}, {1}, {2}, {out})", Way.FAILS, heavy=True),
    "concat": _concat,
    **{
        part: _always(f"dz_date_of({{0}}).{part}", heavy=True)
        for part in ("year", "month", "day", "day_of_year")
    },
    "hour": _clock("hour", 24),
    "minute": _clock("minute", 60),
    "second": _clock("second", 60),
    "weekday": _always("dz_weekday({0})"),
    "truncate": _truncate,
    "difference": _difference,
}
"""By the operation's name; all of `expr/functions.py` but `cast` and those that look at nulls."""
