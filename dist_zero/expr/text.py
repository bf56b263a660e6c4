"""Expressions as text: how messages, `print` and `explain` write them, close to how the user did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dist_zero.expr.functions import FUNCTIONS
from dist_zero.expr.nodes import Apply, Field, Node
from dist_zero.expr.ops import Aggregation, Call, ColumnRef, Literal, Scalar, SortKey
from dist_zero.types import Kind, from_stored

_TIGHTEST = 9
_LENGTH_MAX = 2_000


def scalar_text(scalar: Scalar | Node, names: Sequence[str] = ()) -> str:
    """`scalar` as text; `names` are those of the columns it refers to by place."""

    def name_of(leaf: ColumnRef | Field) -> str:
        if isinstance(leaf, Field):
            return leaf.name
        return names[leaf.index] if leaf.index < len(names) else f"#{leaf.index}"

    text = _text(scalar, name_of)[0]
    return text if len(text) <= _LENGTH_MAX else text[:_LENGTH_MAX] + "…"


def aggregation_text(aggregation: Aggregation, names: Sequence[str]) -> str:
    """`mean(dep_delay, where=dep_delay > 0.0)`."""
    parts = [scalar_text(aggregation.argument, names)] if aggregation.argument is not None else []
    if aggregation.where is not None:
        parts.append(f"where={scalar_text(aggregation.where, names)}")
    return f"{aggregation.function}({', '.join(parts)})"


def sort_text(sort: SortKey, names: Sequence[str]) -> str:
    """`desc(mean)`, or just `mean`."""
    text = scalar_text(sort.value, names)
    return f"desc({text})" if sort.descending else text


def literal_text(literal: Literal) -> str:
    """The constant as a person writes it."""
    if literal.value is None:
        return "None"
    value: Any = from_stored(literal.dtype, literal.value)
    if literal.dtype.kind is Kind.DATETIME:
        return repr(value.replace(tzinfo=None).isoformat())
    return f"{value:f}" if literal.dtype.kind is Kind.DECIMAL else repr(value)


def _text(scalar: Scalar | Node, name_of: Callable[[ColumnRef | Field], str]) -> tuple[str, int]:
    """The text, and how tightly its outermost operator binds."""
    if isinstance(scalar, ColumnRef | Field):
        return name_of(scalar), _TIGHTEST
    if isinstance(scalar, Literal):
        return literal_text(scalar), _TIGHTEST
    args = [_text(a, name_of) for a in scalar.args]
    plain = [text for text, _ in args]
    if scalar.name == "cast":
        return f"cast({plain[0]}, {scalar.dtype.required()})", _TIGHTEST
    if scalar.name == "case":
        return _case_text(plain), _TIGHTEST
    return _operation_text(scalar, args, plain)


def _operation_text(scalar: Call | Apply, args: list[tuple[str, int]], plain: list[str]) -> tuple[str, int]:
    function = FUNCTIONS[scalar.name]
    if not function.symbol:
        return f"{scalar.name}({', '.join(plain)})", _TIGHTEST
    # comparisons do not chain and the others lean left, so an equal on the right needs brackets
    left, right = function.precedence + (function.precedence == 3), function.precedence + 1
    if len(args) == 1:
        return function.symbol + _bracketed(args[0], function.precedence), function.precedence
    text = f"{_bracketed(args[0], left)} {function.symbol} {_bracketed(args[1], right)}"
    return text, function.precedence


def _bracketed(part: tuple[str, int], tightness: int) -> str:
    return part[0] if part[1] >= tightness else f"({part[0]})"


def _case_text(plain: list[str]) -> str:
    cases = "".join(f".when({c}).then({v})" for c, v in zip(plain[:-1:2], plain[1::2], strict=True))
    return f"{cases[1:]}.otherwise({plain[-1]})"
