"""The table of scalar operations and aggregations: names, rules of types, which can fail, how they are written.

The rules are strict: arguments have the types stated, to the letter. Promotions (int beside float) are casts, which
the builder puts in (`nodes.py`), so that whoever evaluates sees arguments of one type. The builder and the decoder of
programs both come through `result_type`, so a `Call` that exists obeys these rules.

A `strict` operation gives null when any argument is null. *Fallible* operations can fail on values that their types
allow (overflow, division by zero, a text that is no number); the row is then left out of the view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Call, Literal, Scalar
from dist_zero.types import BOOL, DATETIME, DECIMAL_SCALE_MAX, FLOAT, INT, STR, DataType, Kind, decimal_type

ROUND_DIGITS_MAX = 18
NUMBERS = (Kind.INT, Kind.FLOAT, Kind.DECIMAL)
TRUNCATE_UNITS = ("second", "minute", "hour", "day", "week", "month", "year")
DIFFERENCE_UNITS = ("microsecond", "millisecond", "second", "minute", "hour", "day", "week")
DATETIME_PARTS = ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year")


class Typed(Protocol):
    """An argument, of which rules look at the type and, where a constant is asked for, at whether it is one."""

    @property
    def dtype(self) -> DataType:
        """The argument's type."""
        ...


Args = Sequence[Typed]


@dataclass(frozen=True, slots=True)
class Function:
    """One scalar operation. `symbol` is set for those written as operators, which bind by `precedence`."""

    name: str
    rule: Callable[[Args], DataType]
    fallible: Callable[[Args], bool]
    symbol: str = ""
    precedence: int = 0


def result_type(name: str, args: Args, target: DataType | None = None) -> DataType:
    """The type of operation `name` on `args`; raises `Refused`. `target` is what `cast` casts to."""
    if name == "cast":
        return _cast(args, target)
    function = FUNCTIONS.get(name)
    if function is None:
        raise Refused(f"there is no operation {name!r}")
    return function.rule(args)


def may_fail(scalar: Scalar) -> bool:
    """Whether evaluating `scalar` can fail on values that its columns' types allow."""
    if not isinstance(scalar, Call):
        return False
    own = (
        cast_may_fail(scalar.args[0].dtype, scalar.dtype)
        if scalar.name == "cast"
        else (FUNCTIONS[scalar.name].fallible(scalar.args))
    )
    return own or any(may_fail(a) for a in scalar.args)


def aggregate_type(function: str, argument: Typed | None, has_where: bool, has_keys: bool) -> DataType:
    """The type of an aggregation; raises `Refused`. Of no values all but count are null, hence mostly nullable."""
    if function == "count":
        return INT
    if function not in AGGREGATES:
        raise Refused(f"there is no aggregate {function!r}; there are {', '.join(AGGREGATES)}")
    if argument is None:
        raise Refused(f"{function} needs a column")
    dtype = argument.dtype
    if function in ("sum", "mean") and dtype.kind not in NUMBERS:
        hint = "; count rows with dz.count(where=...)" if dtype.kind is Kind.BOOL else ""
        raise Refused(f"{function} of {dtype}: only numbers have a {function}{hint}")
    result = FLOAT if function == "mean" else dtype.required()
    return result if has_keys and not has_where and not dtype.nullable else result.optional()


# ---- rules of types ----------------------------------------------------------------------------------------


def _strict(result: DataType, args: Args) -> DataType:
    return result.optional() if any(a.dtype.nullable for a in args) else result


def _count(name: str, args: Args, count: int) -> None:
    if len(args) != count:
        raise Refused(f"{name} takes {count} arguments, got {len(args)}")


def _shown(args: Args) -> str:
    return " and ".join(str(a.dtype.required()) for a in args)


def _one_type(args: Args) -> bool:
    return len({a.dtype.required() for a in args}) == 1


def _arithmetic(symbol: str, kinds: tuple[Kind, ...]) -> Callable[[Args], DataType]:
    """Two numbers of one type, which is also the result's."""

    def rule(args: Args) -> DataType:
        _count(symbol, args, 2)
        if not _one_type(args) or args[0].dtype.kind not in kinds:
            raise Refused(f"{symbol!r} between {_shown(args)}")
        return _strict(args[0].dtype.required(), args)

    return rule


def _multiply(args: Args) -> DataType:
    _count("*", args, 2)
    left, right = args[0].dtype, args[1].dtype
    if left.kind is not right.kind or left.kind not in NUMBERS:
        raise Refused(f"'*' between {_shown(args)}")
    if left.kind is not Kind.DECIMAL:
        return _strict(left.required(), args)
    scale = left.scale + right.scale
    if scale > DECIMAL_SCALE_MAX:
        raise Refused(
            f"'*' between {_shown(args)}: the product has {scale} digits behind the point, at most"
            f" {DECIMAL_SCALE_MAX} fit; round one side first"
        )
    return _strict(decimal_type(scale), args)


def _sign(name: str) -> Callable[[Args], DataType]:
    def rule(args: Args) -> DataType:
        _count(name, args, 1)
        if args[0].dtype.kind not in NUMBERS:
            raise Refused(f"{name} of {args[0].dtype}: only numbers have one")
        return args[0].dtype

    return rule


def _round(args: Args) -> DataType:
    _count("round", args, 2)
    dtype, digits = args[0].dtype, args[1]
    if dtype.kind not in NUMBERS:
        raise Refused(f"round of {dtype}: only numbers can be rounded")
    most = {Kind.INT: 0, Kind.FLOAT: ROUND_DIGITS_MAX, Kind.DECIMAL: dtype.scale}[dtype.kind]
    value = _constant("digits of round", digits, INT)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise Refused(f"round of {dtype} to {value} digits: it can be 0 to {most}")
    return _strict(decimal_type(value), args[:1]) if dtype.kind is Kind.DECIMAL else dtype


def _comparison(symbol: str) -> Callable[[Args], DataType]:
    def rule(args: Args) -> DataType:
        _count(symbol, args, 2)
        if not _one_type(args):
            raise Refused(f"{symbol!r} between {_shown(args)}")
        return _strict(BOOL, args)

    return rule


def _logic(symbol: str, count: int) -> Callable[[Args], DataType]:
    def rule(args: Args) -> DataType:
        _count(symbol, args, count)
        if any(a.dtype.kind is not Kind.BOOL for a in args):
            raise Refused(f"{symbol!r} {'between' if count == 2 else 'of'} {_shown(args)}: it is for bool")
        return _strict(BOOL, args)

    return rule


def _is_null(args: Args) -> DataType:
    _count("is_null", args, 1)
    return BOOL


def _coalesce(args: Args) -> DataType:
    if not args or not _one_type(args):
        raise Refused(f"coalesce of {_shown(args) or 'nothing'}: all have to be of one type")
    return args[0].dtype.optional() if all(a.dtype.nullable for a in args) else args[0].dtype.required()


def _is_in(args: Args) -> DataType:
    if len(args) < 2 or not _one_type(args):
        raise Refused(f"is_in of {_shown(args)}: give at least one value of the column's type")
    for value in args[1:]:
        _constant("value of is_in", value, args[0].dtype)
    return _strict(BOOL, args)


def _case(args: Args) -> DataType:
    if len(args) < 3 or len(args) % 2 == 0:
        raise Refused("when needs conditions, each with a value, and an otherwise")
    conditions, values = args[:-1:2], [*args[1:-1:2], args[-1]]
    for condition in conditions:
        if condition.dtype.kind is not Kind.BOOL:
            raise Refused(f"the condition of when has to be bool, this one is {condition.dtype}")
    if not _one_type(values):
        raise Refused(f"when gives {_shown(values)}: all values have to be of one type")
    return _strict(values[0].dtype.required(), values)


def _signature(name: str, parameters: tuple[DataType, ...], result: DataType) -> Callable[[Args], DataType]:
    """Strict, with exactly these types of arguments."""

    def rule(args: Args) -> DataType:
        _count(name, args, len(parameters))
        if any(a.dtype.required() != p for a, p in zip(args, parameters, strict=True)):
            wanted = " and ".join(str(p) for p in parameters)
            raise Refused(f"{name} of {_shown(args)}: it is for {wanted}")
        return _strict(result, args)

    return rule


def _length(args: Args) -> DataType:
    _count("length", args, 1)
    if args[0].dtype.kind not in (Kind.STR, Kind.BYTES):
        raise Refused(f"length of {args[0].dtype}: it is for str and bytes")
    return _strict(INT, args)


def _concat(args: Args) -> DataType:
    if not args or any(a.dtype.kind is not Kind.STR for a in args):
        raise Refused(
            f"concat of {_shown(args) or 'nothing'}: it is for str; cast the others with .cast(str)"
        )
    return _strict(STR, args)


def _truncate(args: Args) -> DataType:
    _count("truncate", args, 2)
    _unit("truncate", args[1], TRUNCATE_UNITS)
    if args[0].dtype.kind is not Kind.DATETIME:
        raise Refused(f"truncate of {args[0].dtype}: it is for datetime")
    return args[0].dtype


def _difference(args: Args) -> DataType:
    _count("difference", args, 3)
    _unit("difference", args[2], DIFFERENCE_UNITS)
    if any(a.dtype.kind is not Kind.DATETIME for a in args[:2]):
        raise Refused(f"difference of {_shown(args[:2])}: it is for two datetimes")
    return _strict(INT, args[:2])


def _constant(what: str, arg: Typed, dtype: DataType) -> object:
    if not isinstance(arg, Literal) or arg.dtype.required() != dtype.required():
        raise Refused(f"the {what} has to be a constant {dtype.required()}")
    return arg.value


def _unit(name: str, arg: Typed, units: tuple[str, ...]) -> None:
    value = _constant(f"unit of {name}", arg, STR)
    if value not in units:
        raise Refused(f"{name} has no unit {value!r}; there are {', '.join(units)}")


_CASTS: dict[Kind, tuple[Kind, ...]] = {
    Kind.BOOL: (Kind.INT, Kind.STR),
    Kind.INT: (Kind.FLOAT, Kind.DECIMAL, Kind.STR),
    Kind.FLOAT: (Kind.INT, Kind.DECIMAL, Kind.STR),
    Kind.DECIMAL: (Kind.INT, Kind.FLOAT, Kind.DECIMAL, Kind.STR),
    Kind.STR: (Kind.INT, Kind.FLOAT, Kind.DECIMAL),
    Kind.DATETIME: (Kind.STR,),
    Kind.ENUM: (Kind.STR,),
    Kind.BYTES: (),
}


def _cast(args: Args, target: DataType | None) -> DataType:
    _count("cast", args, 1)
    source = args[0].dtype
    if target is None or source.required() == target.required() or target.kind not in _CASTS[source.kind]:
        possible = ", ".join(k.value for k in _CASTS[source.kind]) or "nothing"
        raise Refused(
            f"cast from {source} to {target and target.required()}: {source.kind.value} can become {possible}"
        )
    return _strict(target.required(), args)


def cast_may_fail(source: DataType, target: DataType) -> bool:
    """Whether a cast can fail: out of range, or a text that is no number."""
    if source.kind is Kind.DECIMAL and target.kind is Kind.DECIMAL:
        return target.scale > source.scale
    return (
        source.kind is Kind.STR
        or target.kind is Kind.DECIMAL
        or (source.kind is Kind.FLOAT and target.kind is Kind.INT)
    )


# ---- which can fail ----------------------------------------------------------------------------------------


def _never(_: Args) -> bool:
    return False


def _overflows(args: Args) -> bool:
    return args[0].dtype.kind is not Kind.FLOAT


def _divides(args: Args) -> bool:
    """Division fails by zero, and INT_MIN // -1 overflows; a constant other than these two cannot."""
    divisor = args[1]
    return not (isinstance(divisor, Literal) and divisor.value not in (None, 0, -1))


def _slices(args: Args) -> bool:
    length = args[2]
    return not (isinstance(length, Literal) and isinstance(length.value, int) and length.value >= 0)


_TABLE = (
    Function("or", _logic("|", 2), _never, "|", 1),
    Function("and", _logic("&", 2), _never, "&", 2),
    Function("not", _logic("~", 1), _never, "~", 7),
    *(
        Function(name, _comparison(symbol), _never, symbol, 3)
        for name, symbol in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
    ),
    Function("add", _arithmetic("+", NUMBERS), _overflows, "+", 4),
    Function("sub", _arithmetic("-", NUMBERS), _overflows, "-", 4),
    Function("mul", _multiply, _overflows, "*", 5),
    Function("div", _arithmetic("/", (Kind.FLOAT,)), _divides, "/", 5),
    Function("floordiv", _arithmetic("//", (Kind.INT, Kind.FLOAT)), _divides, "//", 5),
    Function("mod", _arithmetic("%", (Kind.INT, Kind.FLOAT)), _divides, "%", 5),
    Function("neg", _sign("negative"), _overflows, "-", 6),
    Function("abs", _sign("abs"), _overflows),
    Function("round", _round, _never),
    Function("is_null", _is_null, _never),
    Function("coalesce", _coalesce, _never),
    Function("is_in", _is_in, _never),
    Function("case", _case, _never),
    Function("lower", _signature("lower", (STR,), STR), _never),
    Function("upper", _signature("upper", (STR,), STR), _never),
    Function("length", _length, _never),
    *(
        Function(name, _signature(name, (STR, STR), BOOL), _never)
        for name in ("contains", "starts_with", "ends_with")
    ),
    Function("slice", _signature("slice", (STR, INT, INT), STR), _slices),
    Function("concat", _concat, _never),
    *(Function(name, _signature(name, (DATETIME,), INT), _never) for name in DATETIME_PARTS),
    Function("truncate", _truncate, _never),
    Function("difference", _difference, _never),
)

FUNCTIONS: dict[str, Function] = {function.name: function for function in _TABLE}
"""Every scalar operation by name, but for `cast`, whose type is not a function of its arguments'."""

AGGREGATES = ("count", "sum", "mean", "min", "max")
