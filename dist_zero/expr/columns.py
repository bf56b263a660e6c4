"""What a user holds of a column: `Column`, and the functions that make one.

Operands that are no columns are constants, text too: `t.origin == "JFK"`. Text names a column where a verb of a
table or an aggregate asks for one, `group_by("origin")`, `dz.mean("dep_delay")`, and is looked up by the verb.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from dist_zero.expr import nodes
from dist_zero.expr.aggregates import Aggregate
from dist_zero.expr.elsewhere import unknown_method
from dist_zero.expr.location import NoAttribute, Refused, located, program_error, user_location
from dist_zero.expr.nodes import Node, apply, converted, unified
from dist_zero.expr.text import scalar_text
from dist_zero.row import annotation_type
from dist_zero.types import BOOL, FLOAT, INT, STR, DataType, Kind, decimal_type

UNFINISHED = "this dz.when(...) is not finished: end it with .then(...).otherwise(...)"
_BRACKETS = "put each side in parentheses: (a > 1) & (b < 2)"


class Column:
    """One value per row: a column of a table, a constant, or what is computed from them.

    Arithmetic, comparisons and `& | ~` make columns; so do the methods. Anything else beside a column is a constant.
    """

    __slots__ = ("_node",)
    __hash__ = None  # type: ignore[assignment]  # == makes a column, so a Column is no dictionary key

    def __init__(self, node: Node) -> None:
        self._node = node

    # ---- arithmetic ----

    @located
    def __add__(self, other: Any) -> Column:
        return _arithmetic("add", "+", self, other)

    @located
    def __radd__(self, other: Any) -> Column:
        return _arithmetic("add", "+", other, self)

    @located
    def __sub__(self, other: Any) -> Column:
        return _arithmetic("sub", "-", self, other)

    @located
    def __rsub__(self, other: Any) -> Column:
        return _arithmetic("sub", "-", other, self)

    @located
    def __mul__(self, other: Any) -> Column:
        return _arithmetic("mul", "*", self, other)

    @located
    def __rmul__(self, other: Any) -> Column:
        return _arithmetic("mul", "*", other, self)

    @located
    def __truediv__(self, other: Any) -> Column:
        return _arithmetic("div", "/", self, other)

    @located
    def __rtruediv__(self, other: Any) -> Column:
        return _arithmetic("div", "/", other, self)

    @located
    def __floordiv__(self, other: Any) -> Column:
        return _arithmetic("floordiv", "//", self, other)

    @located
    def __rfloordiv__(self, other: Any) -> Column:
        return _arithmetic("floordiv", "//", other, self)

    @located
    def __mod__(self, other: Any) -> Column:
        return _arithmetic("mod", "%", self, other)

    @located
    def __rmod__(self, other: Any) -> Column:
        return _arithmetic("mod", "%", other, self)

    @located
    def __neg__(self) -> Column:
        return _call("neg", self._node)

    def __abs__(self) -> Column:
        return self.abs()

    @located
    def abs(self) -> Column:
        """The number without its sign."""
        return _call("abs", self._node)

    @located
    def round(self, digits: int = 0) -> Column:
        """Rounded half to even, to `digits` behind the point; a float stays float, a decimal gets that scale."""
        return _call("round", self._node, _integer("round", digits))

    # ---- comparison and logic ----

    @located
    def __eq__(self, other: Any) -> Column:  # type: ignore[override]
        return _comparison("eq", "==", self, other)

    @located
    def __ne__(self, other: Any) -> Column:  # type: ignore[override]
        return _comparison("ne", "!=", self, other)

    @located
    def __lt__(self, other: Any) -> Column:
        return _comparison("lt", "<", self, other)

    @located
    def __le__(self, other: Any) -> Column:
        return _comparison("le", "<=", self, other)

    @located
    def __gt__(self, other: Any) -> Column:
        return _comparison("gt", ">", self, other)

    @located
    def __ge__(self, other: Any) -> Column:
        return _comparison("ge", ">=", self, other)

    @located
    def __and__(self, other: Any) -> Column:
        return _logic("and", "&", self, other)

    @located
    def __rand__(self, other: Any) -> Column:
        return _logic("and", "&", other, self)

    @located
    def __or__(self, other: Any) -> Column:
        return _logic("or", "|", self, other)

    @located
    def __ror__(self, other: Any) -> Column:
        return _logic("or", "|", other, self)

    @located
    def __invert__(self) -> Column:
        return _call("not", self._node)

    def __bool__(self) -> NoReturn:
        raise program_error(
            f"a column has no truth of its own, it has one per row: {_shown(self)}. Instead of and, or, not use & | ~,"
            f" and {_BRACKETS}; instead of if use dz.when; instead of a < b < c use between"
        )

    def __contains__(self, item: object) -> NoReturn:
        raise program_error("`in` does not work on a column: use contains for text, is_in for several values")

    def __iter__(self) -> NoReturn:
        raise program_error(
            f"a column has no rows to loop over while the program is being written: {_shown(self)}"
        )

    @located
    def is_null(self) -> Column:
        """True where there is no value; never null itself."""
        return _call("is_null", self._node)

    @located
    def coalesce(self, *others: Any) -> Column:
        """The first of these that is not null."""
        return _coalesce((self, *others))

    @located
    def is_in(self, *values: Any) -> Column:
        """Whether the value is one of these constants, given one by one or as one list."""
        listed = list(values[0]) if len(values) == 1 and _is_listed(values[0]) else list(values)
        if not listed:
            raise Refused("is_in needs at least one value")
        if any(isinstance(v, Column) for v in listed):
            raise Refused("is_in takes constants; compare with columns by == and |")
        given = [nodes.constant(v, self._node.dtype) for v in listed]
        column, *literals = unified("is_in", [self._node, *given])
        return _call("is_in", column, *literals)

    @located
    def between(self, low: Any, high: Any) -> Column:
        """Whether `low <= value <= high`."""
        return _logic("and", "&", _comparison("ge", ">=", self, low), _comparison("le", "<=", self, high))

    @located
    def cast(self, to: Any) -> Column:
        """The value as another type: int, float, str, or dz.scale(n) for a decimal. Rows it fails on are left out."""
        target = annotation_type(to).required()
        return Column(converted(self._node, target))

    # ---- text ----

    @located
    def lower(self) -> Column:
        """With ASCII letters in lower case; other letters stay."""
        return _call("lower", self._node)

    @located
    def upper(self) -> Column:
        """With ASCII letters in upper case; other letters stay."""
        return _call("upper", self._node)

    @located
    def length(self) -> Column:
        """Code points of a str, bytes of bytes."""
        return _call("length", self._node)

    @located
    def contains(self, text: Any) -> Column:
        """Whether `text` stands anywhere in the value."""
        return _text_test("contains", self, text)

    @located
    def starts_with(self, text: Any) -> Column:
        """Whether the value begins with `text`."""
        return _text_test("starts_with", self, text)

    @located
    def ends_with(self, text: Any) -> Column:
        """Whether the value ends with `text`."""
        return _text_test("ends_with", self, text)

    @located
    def slice(self, start: Any, length: Any) -> Column:
        """`length` code points from `start`, counted from 0; a negative start counts from the end."""
        return _call("slice", self._node, _operand(start, INT), _operand(length, INT))

    @located
    def concat(self, *others: Any) -> Column:
        """This text followed by the others."""
        return _concat((self, *others))

    # ---- datetime ----

    @located
    def year(self) -> Column:
        """The year, in UTC."""
        return _call("year", self._node)

    @located
    def month(self) -> Column:
        """The month, 1 to 12."""
        return _call("month", self._node)

    @located
    def day(self) -> Column:
        """The day of the month, 1 to 31."""
        return _call("day", self._node)

    @located
    def hour(self) -> Column:
        """The hour, 0 to 23, in UTC."""
        return _call("hour", self._node)

    @located
    def minute(self) -> Column:
        """The minute, 0 to 59."""
        return _call("minute", self._node)

    @located
    def second(self) -> Column:
        """The second, 0 to 59."""
        return _call("second", self._node)

    @located
    def weekday(self) -> Column:
        """1 for Monday to 7 for Sunday."""
        return _call("weekday", self._node)

    @located
    def day_of_year(self) -> Column:
        """1 to 366."""
        return _call("day_of_year", self._node)

    @located
    def truncate(self, unit: str) -> Column:
        """The beginning of the second, minute, hour, day, week (Monday), month or year."""
        return _call("truncate", self._node, _unit("truncate", unit))

    @located
    def difference(self, other: Any, unit: str) -> Column:
        """This datetime minus `other` in whole units (microsecond … week), rounded down."""
        first, second = self._node, _operand(other, self._node.dtype)
        return _call("difference", first, second, _unit("difference", unit))

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise NoAttribute(f"{user_location()}: {unknown_method(name, dir(type(self)))}")

    def __str__(self) -> str:
        return f"{_shown(self)}: {self._node.dtype}"

    def __repr__(self) -> str:
        return f"<column {self}>"


# ---- functions that make columns ---------------------------------------------------------------------------


@located
def lit(value: Any) -> Column:
    """A constant as a column, in its own type."""
    return Column(nodes.constant(value))


@located
def coalesce(*values: Any) -> Column:
    """The first value that is not null; at least one has to be a column."""
    return _coalesce(values)


@located
def concat(*values: Any) -> Column:
    """The texts one after the other."""
    return _concat(values)


@dataclass(frozen=True, slots=True, eq=False)
class When:
    """Conditions with their values so far; `otherwise` ends it."""

    cases: tuple[tuple[Node, Any], ...]

    @located
    def when(self, condition: Column) -> Then:
        """A further condition, tried where those before are not true."""
        return Then(self.cases, _condition(condition))

    @located
    def otherwise(self, value: Any) -> Column:
        """The value where no condition is true."""
        values = _typed("when", [v for _, v in self.cases] + [value])
        pairs = [part for (c, _), v in zip(self.cases, values[:-1], strict=True) for part in (c, v)]
        return _call("case", *pairs, values[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Then:
    """A condition that still needs its value."""

    cases: tuple[tuple[Node, Any], ...]
    condition: Node

    @located
    def then(self, value: Any) -> When:
        """The value where the condition is true."""
        return When((*self.cases, (self.condition, value)))


@located
def when(condition: Column) -> Then:
    """`dz.when(c).then(v).when(c2).then(v2).otherwise(v3)`: the value of the first condition that is true."""
    return Then((), _condition(condition))


# ---- operands ----------------------------------------------------------------------------------------------


def _operand(value: Any, beside: DataType | None = None) -> Node:
    if isinstance(value, Column):
        return value._node
    if isinstance(value, When | Then):
        raise Refused(UNFINISHED)
    if isinstance(value, Aggregate):
        value.no_operand()
    if callable(value) and not isinstance(value, type):
        raise Refused(
            "a lambda stands for a column only as an argument of a verb, as in where(lambda t: t.x > 1)"
        )
    return nodes.constant(value, beside)


def _call(name: str, *args: Node) -> Column:
    try:
        return Column(apply(name, *args))
    except Refused as refused:
        shown = ", ".join(scalar_text(a) for a in args)
        raise Refused(f"{refused}; this is {name}({shown})") from None


def _pair(left: Any, right: Any) -> tuple[Node, Node]:
    """Two operands, of which at least one is a column; a constant takes the other's type if it can."""
    if isinstance(left, Column):
        return left._node, _beside(left, right)
    second = _operand(right)
    return _beside(right, left), second


def _beside(column: Column, value: Any) -> Node:
    try:
        return _operand(value, column._node.dtype)
    except Refused as refused:
        raise Refused(f"{refused}; it stands beside {column}") from None


def _typed(what: str, values: Iterable[Any]) -> list[Node]:
    """Values as nodes of one type: constants take the type that the columns among them have in common."""
    given = list(values)
    beside: DataType | None = None
    for value in given:
        if isinstance(value, Column):
            own = value._node.dtype
            beside = own if beside is None else nodes.common_type(beside, own) or beside
    for value in given:
        if beside is None and value is not None:
            beside = _operand(value).dtype
    return unified(what, [_operand(v, beside) for v in given])


def _arithmetic(name: str, symbol: str, left: Any, right: Any) -> Column:
    # scales of factors add up, so a constant factor has no more digits than it is written with
    first, second = (_operand(left), _operand(right)) if name == "mul" else _pair(left, right)
    kinds = {first.dtype.kind, second.dtype.kind}
    if not kinds <= {Kind.INT, Kind.FLOAT, Kind.DECIMAL}:
        raise Refused(_between(symbol, first, second) + _arithmetic_hint(symbol, kinds))
    if name in ("floordiv", "mod") and Kind.DECIMAL in kinds:
        raise Refused(_between(symbol, first, second) + "; cast decimals to int or float first")
    if name == "div":
        return _call(name, converted(first, FLOAT), converted(second, FLOAT))
    if name == "mul" and kinds == {Kind.INT, Kind.DECIMAL}:
        return _call(name, *(n if n.dtype.kind is Kind.DECIMAL else _whole(n) for n in (first, second)))
    if name == "mul" and kinds == {Kind.DECIMAL}:
        return _call(name, first, second)
    return _call(name, *unified(repr(symbol), [first, second]))


def _whole(node: Node) -> Node:
    return converted(node, decimal_type(0))


def _arithmetic_hint(symbol: str, kinds: set[Kind]) -> str:
    if kinds == {Kind.STR} and symbol == "+":
        return "; join texts with concat"
    if kinds == {Kind.DATETIME} and symbol == "-":
        return "; use a.difference(b, unit)"
    if Kind.STR in kinds:
        return "; cast text to a number with .cast(int) or .cast(float), or a number to text with .cast(str)"
    return "; cast a bool with .cast(int)" if Kind.BOOL in kinds else ""


def _comparison(name: str, symbol: str, left: Any, right: Any) -> Column:
    if left is None or right is None:
        raise Refused(f"{symbol!r} with None is null for every row; use is_null()")
    first, second = _pair(left, right)
    if nodes.common_type(first.dtype, second.dtype) is None:
        raise Refused(_between(symbol, first, second))
    return _call(name, *unified(repr(symbol), [first, second]))


def _logic(name: str, symbol: str, left: Any, right: Any) -> Column:
    first, second = _pair(left, right)
    if {first.dtype.kind, second.dtype.kind} != {Kind.BOOL}:
        raise Refused(
            f"{_between(symbol, first, second)}; it is for bool, and binds before comparisons: {_BRACKETS}"
        )
    return _call(name, first, second)


def _between(symbol: str, first: Node, second: Node) -> str:
    shown = f"{scalar_text(first)} {symbol} {scalar_text(second)}"
    return f"{symbol!r} between {first.dtype.required()} and {second.dtype.required()}: {shown}"


def _coalesce(values: tuple[Any, ...]) -> Column:
    if not values:
        raise Refused("coalesce needs values")
    return _call("coalesce", *_typed("coalesce", values))


def _concat(values: tuple[Any, ...]) -> Column:
    return _call("concat", *(_operand(v, STR) for v in values))


def _text_test(name: str, column: Column, text: Any) -> Column:
    return _call(name, column._node, _operand(text, STR))


def _condition(condition: Any) -> Node:
    node = _operand(condition)
    if node.dtype.required() != BOOL:
        raise Refused(f"the condition of when has to be bool, {scalar_text(node)} is {node.dtype}")
    return node


def _integer(name: str, value: Any) -> Node:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(f"the digits of {name} have to be a constant int, got {value!r:.80}")
    return nodes.constant(value)


def _unit(name: str, unit: Any) -> Node:
    if not isinstance(unit, str):
        raise Refused(f"the unit of {name} has to be a constant str, got {unit!r:.80}")
    return nodes.constant(unit)


def _is_listed(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Column)


def _shown(column: Column) -> str:
    return scalar_text(column._node)
