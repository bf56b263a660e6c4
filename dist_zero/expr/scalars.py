"""Going through scalar operations: which columns they use, and the same operations over another row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from dist_zero.expr.ops import Call, ColumnRef, Scalar


def columns_of(scalars: Iterable[Scalar]) -> set[int]:
    """The places of the input columns that `scalars` refer to."""
    found: set[int] = set()
    stack = list(scalars)
    while stack:
        scalar = stack.pop()
        if isinstance(scalar, ColumnRef):
            found.add(scalar.index)
        elif isinstance(scalar, Call):
            stack.extend(scalar.args)
    return found


def substitute(scalar: Scalar, columns: Callable[[ColumnRef], Scalar]) -> Scalar:
    """`scalar` with every column reference replaced by what `columns` says."""
    if isinstance(scalar, ColumnRef):
        return columns(scalar)
    if isinstance(scalar, Call):
        return replace(scalar, args=tuple(substitute(a, columns) for a in scalar.args))
    return scalar


def renumber(scalar: Scalar, place: dict[int, int]) -> Scalar:
    """`scalar` over a row in which old column i stands at `place[i]`."""
    return substitute(scalar, lambda ref: ColumnRef(place[ref.index], ref.dtype))


def shift(scalar: Scalar, by: int) -> Scalar:
    """`scalar` over a row in which every column stands `by` places further on."""
    return substitute(scalar, lambda ref: ColumnRef(ref.index + by, ref.dtype))


def conjuncts(scalar: Scalar) -> list[Scalar]:
    """The parts of a conjunction, from left to right."""
    if isinstance(scalar, Call) and scalar.name == "and":
        return [part for arg in scalar.args for part in conjuncts(arg)]
    return [scalar]
