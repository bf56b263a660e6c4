"""Aggregates and orders as users write them. Their columns are looked up by the verb that takes them: `agg`, `top`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from dist_zero.expr.location import program_error

if TYPE_CHECKING:
    from dist_zero.expr.columns import Column
    from dist_zero.expr.tables import Table

ColumnLike: TypeAlias = "Column | str | Callable[[Table], Column]"
"""What a verb takes for a column: itself, its name, or a function of the table."""


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """`function` over the rows of a group, for `group_by(...).agg(name=...)`; the columns are looked up there."""

    function: str
    argument: ColumnLike | None
    where: ColumnLike | None

    def no_operand(self, *_: object) -> NoReturn:
        """Refuse computing with an aggregate, as Python's operators would."""
        raise program_error(
            f"dz.{self.function}(...) is no column yet: give it a name in agg(...), then compute with with_columns"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = no_operand
    __floordiv__ = __mod__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = no_operand


def count(column: ColumnLike | None = None, *, where: ColumnLike | None = None) -> Aggregate:
    """How many rows, or with a column how many values that are not null."""
    return Aggregate("count", column, where)


def sum(column: ColumnLike, *, where: ColumnLike | None = None) -> Aggregate:
    """The exact sum of the values, rounded once if they are floats; null of no values."""
    return Aggregate("sum", column, where)


def mean(column: ColumnLike, *, where: ColumnLike | None = None) -> Aggregate:
    """The sum divided by the count, a float; null of no values."""
    return Aggregate("mean", column, where)


def min(column: ColumnLike, *, where: ColumnLike | None = None) -> Aggregate:
    """The smallest value; null of no values."""
    return Aggregate("min", column, where)


def max(column: ColumnLike, *, where: ColumnLike | None = None) -> Aggregate:
    """The largest value; NaN counts as larger than every number; null of no values."""
    return Aggregate("max", column, where)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A column to sort by, and the direction."""

    column: ColumnLike
    descending: bool


def desc(column: ColumnLike) -> Order:
    """Largest first, nulls last."""
    return Order(column, True)


def asc(column: ColumnLike) -> Order:
    """Smallest first, nulls last; what a plain column means as well."""
    return Order(column, False)
