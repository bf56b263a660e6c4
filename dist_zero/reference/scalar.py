"""Scalar expressions as Python closures: row in, stored value out.

A closure per operation, made once; its arguments are closures too. Arguments are evaluated from left to
right, all of them, and only then does a null among them make the result null; the operations in `_LAZY`
evaluate what they need. An expression without a value raises `ScalarFailure`; the operator around it leaves
the row out and counts it under the failure's reason with an example, which `Scalars.failure` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import Aggregation, Call, ColumnRef, Literal, Scalar
from dist_zero.expr.scalars import columns_of
from dist_zero.reference.functions import Function, ScalarFailure, function_of, text_of, value_arguments
from dist_zero.types import BOOL, DataType, Row, RowType, Stored, picker
from dist_zero_common.errors import InternalError

Evaluate = Callable[[Row], Any]
"""From a stored row to a stored value; raises `ScalarFailure`."""

EXAMPLE_LENGTH_MAX = 200


def compile_scalar(scalar: Scalar) -> Evaluate:
    """The closure that computes `scalar`."""
    if isinstance(scalar, ColumnRef):
        return itemgetter(scalar.index)
    if isinstance(scalar, Literal):
        value = scalar.value
        return lambda _: value
    lazy = _LAZY.get(scalar.name)
    if lazy is not None:
        return lazy(scalar.args)
    return _strict(function_of(scalar), value_arguments(scalar))


def compile_tuple(scalars: Sequence[Scalar]) -> Callable[[Row], Row]:
    """The closure that computes all `scalars`, in order, as one tuple."""
    places = [scalar.index for scalar in scalars if isinstance(scalar, ColumnRef)]
    if len(places) == len(scalars):
        return picker(places)
    evaluators = [compile_scalar(scalar) for scalar in scalars]
    if len(evaluators) == 1:
        (only,) = evaluators
        return lambda row: (only(row),)
    return lambda row: tuple([evaluate(row) for evaluate in evaluators])


def referenced_columns(scalar: Scalar) -> tuple[int, ...]:
    """The places of the columns that `scalar` refers to, ascending."""
    return tuple(sorted(columns_of((scalar,))))


# ---- strict operations -------------------------------------------------------------------------------------


def _strict(function: Function, args: Sequence[Scalar]) -> Evaluate:
    """Null if an argument is null, else `function` of the arguments. The usual shapes save a call or two per
    row.
    """
    if len(args) == 1:
        return _strict_unary(function, args[0])
    if len(args) == 2:
        return _strict_binary(function, args[0], args[1])
    evaluators = [compile_scalar(argument) for argument in args]

    def evaluate(row: Row) -> Any:
        values = [argument(row) for argument in evaluators]
        return None if any(value is None for value in values) else function(*values)

    return evaluate


def _strict_unary(function: Function, argument: Scalar) -> Evaluate:
    if isinstance(argument, ColumnRef):
        place = argument.index
        return lambda row: None if (a := row[place]) is None else function(a)
    inner = compile_scalar(argument)
    return lambda row: None if (a := inner(row)) is None else function(a)


def _strict_binary(function: Function, left: Scalar, right: Scalar) -> Evaluate:
    if isinstance(left, ColumnRef) and isinstance(right, Literal) and right.value is not None:
        place, constant = left.index, right.value
        return lambda row: None if (a := row[place]) is None else function(a, constant)
    if isinstance(left, ColumnRef) and isinstance(right, ColumnRef):
        first, second = left.index, right.index
        return lambda row: None if (a := row[first]) is None or (b := row[second]) is None else function(a, b)
    evaluate_left, evaluate_right = compile_scalar(left), compile_scalar(right)

    def evaluate(row: Row) -> Any:
        a, b = evaluate_left(row), evaluate_right(row)
        return None if a is None or b is None else function(a, b)

    return evaluate


# ---- operations that see nulls or evaluate only what they need ---------------------------------------------


def _is_null(args: Sequence[Scalar]) -> Evaluate:
    inner = compile_scalar(args[0])
    return lambda row: inner(row) is None


def _and(args: Sequence[Scalar]) -> Evaluate:
    left, right = map(compile_scalar, args)

    def evaluate(row: Row) -> bool | None:
        a = left(row)
        if a is False:
            return False
        b = right(row)
        return b if a or b is False else None

    return evaluate


def _or(args: Sequence[Scalar]) -> Evaluate:
    left, right = map(compile_scalar, args)

    def evaluate(row: Row) -> bool | None:
        a = left(row)
        if a is True:
            return True
        b = right(row)
        return b if a is False or b is True else None

    return evaluate


def _coalesce(args: Sequence[Scalar]) -> Evaluate:
    evaluators = [compile_scalar(argument) for argument in args]

    def evaluate(row: Row) -> Any:
        for argument in evaluators:
            value = argument(row)
            if value is not None:
                return value
        return None

    return evaluate


def _is_in(args: Sequence[Scalar]) -> Evaluate:
    """SQL's rule: no match is null rather than false if there is a null among the literals."""
    inner = compile_scalar(args[0])
    values = frozenset(_constant(argument) for argument in args[1:])
    absent = None if None in values else False

    def evaluate(row: Row) -> bool | None:
        value = inner(row)
        return None if value is None else value in values or absent

    return evaluate


def _constant(scalar: Scalar) -> Stored:
    if isinstance(scalar, Literal):
        return scalar.value
    raise InternalError("is_in takes literals; the compiler let something else through")


def _case(args: Sequence[Scalar]) -> Evaluate:
    evaluators = [compile_scalar(argument) for argument in args]
    branches, otherwise = list(zip(evaluators[:-1:2], evaluators[1::2], strict=True)), evaluators[-1]

    def evaluate(row: Row) -> Any:
        for condition, value in branches:
            if condition(row):
                return value(row)
        return otherwise(row)

    return evaluate


_LAZY: dict[str, Callable[[Sequence[Scalar]], Evaluate]] = {
    "is_null": _is_null,
    "and": _and,
    "or": _or,
    "coalesce": _coalesce,
    "is_in": _is_in,
    "case": _case,
}


# ---- failures ----------------------------------------------------------------------------------------------


class Scalars:
    """A tuple of scalars over rows of one type: how to compute them, and what to report where that fails."""

    def __init__(self, scalars: Sequence[Scalar], row_type: RowType) -> None:
        self.evaluate = compile_tuple(scalars)
        self.fallible = any(map(may_fail, scalars))
        """Whether there are rows on which one of them fails."""
        self._each = [(compile_scalar(scalar), referenced_columns(scalar)) for scalar in scalars]
        self._row_type = row_type

    def failure(self, row: Row) -> tuple[str, str]:
        """(reason, example) of the first scalar that fails on `row`; call it only where `evaluate` has
        failed.
        """
        for evaluate, columns in self._each:
            try:
                evaluate(row)
            except ScalarFailure as failure:
                return failure.reason, example_text(self._row_type, columns, row)
        raise InternalError("an expression failed on a row and did not when it was tried again")


def example_text(row_type: RowType, columns: Sequence[int], row: Row) -> str:
    """ "name=value, name=value" of these columns of `row`, as a person writes them, cut at 200 characters."""
    text = ", ".join(f"{row_type.names[i]}={_shown(row_type.types[i], row[i])}" for i in columns)
    return text if len(text) <= EXAMPLE_LENGTH_MAX else text[: EXAMPLE_LENGTH_MAX - 1] + "…"


def _shown(dtype: DataType, value: Stored) -> str:
    return "null" if value is None else text_of(dtype)(value)


def aggregation_input(aggregation: Aggregation) -> Scalar:
    """What an aggregation takes from each row as one scalar: null where the row does not count for it."""
    argument = aggregation.argument if aggregation.argument is not None else Literal(True, BOOL)
    if aggregation.where is None:
        return argument
    optional = argument.dtype.optional()
    return Call("case", (aggregation.where, argument, Literal(None, optional)), optional)
