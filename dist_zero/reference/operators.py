"""Operators over deltas: the contract of all, and those that are short.

A delta is a list of (row, weight) pairs in which rows may repeat; its meaning is the Z-set of its sum.
*Linear* operators (filter, project, flat map, window, union) treat pairs one by one and need no state. The
others keep the rows they have seen in the form they need them in, and turn the difference between their
output before and after into a delta; the larger ones have files of their own (`join.py`, `aggregate.py`,
`top.py`).

No operator depends on the order of the pairs, nor on whether they were consolidated.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dist_zero.compiler import plan
from dist_zero.kept import Kept, KeptZSet
from dist_zero.left_out import Failures
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import Scalars, compile_scalar, example_text, referenced_columns
from dist_zero.types import DATETIME_MAX_US, DATETIME_MIN_US, Row, RowType
from dist_zero.zset import ZSet

Pair = tuple[Row, int]
Delta = list[Pair]
Settling = Generator[None, None, bool]
"""Work in slices, and what follows from it."""
SLICE = 2_000
"""So many entries are worked on at a time, where others may want to go on in between: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an operator is told at each step."""

    failures: Failures
    """Where to report the rows it leaves out."""
    owns_empty_key: bool
    """Whether this node owns the hash of the empty key: global aggregates are there."""


class OperatorState(Protocol):
    """One operator of the plan with what it remembers."""

    def apply(self, inputs: Sequence[Delta], context: Context, /) -> Delta:
        """The change of the output that these changes of the inputs make."""
        ...

    def kept(self) -> dict[str, Kept]:
        """The tables of its state by the last part of their names."""
        ...

    def settle(self) -> Settling:
        """Compute the rest of the state from what its tables have taken in. Whether the next `apply` will have
        something to say, even of no input. Raises `MalformedMessage`."""
        ...


class Stateless:
    """An operator that keeps nothing."""

    def kept(self) -> dict[str, Kept]:
        """No tables."""
        return {}

    def settle(self) -> Settling:
        """Nothing to do."""
        yield from ()
        return False


def consolidated(delta: Delta) -> ZSet:
    """The Z-set that a delta means. This is `zset.consolidate`, quicker where few rows cancel."""
    total = dict(delta)
    if len(total) == len(delta):
        return total
    total.clear()
    get = total.get
    for row, weight in delta:
        total[row] = get(row, 0) + weight
    return {row: weight for row, weight in total.items() if weight} if 0 in total.values() else total


def report(failures: Failures, scalars: Scalars, pair: Pair, kind: int = 0) -> None:
    """Count a row on which one of `scalars` fails."""
    failures.add(scalars.failure(pair[0]), *pair, kind)


class Filter(Stateless):
    """Rows for which the predicate is true."""

    def __init__(self, operator: plan.Filter, input_types: Sequence[RowType]) -> None:
        self._scalars = Scalars((operator.predicate,), input_types[0])
        self._predicate = compile_scalar(operator.predicate)

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The pairs whose row passes."""
        predicate = self._predicate
        if not self._scalars.fallible:
            return [pair for pair in inputs[0] if predicate(pair[0])]
        passed: Delta = []
        for pair in inputs[0]:
            try:
                if predicate(pair[0]):
                    passed.append(pair)
            except ScalarFailure:
                report(context.failures, self._scalars, pair)
        return passed


class Project(Stateless):
    """Each row's scalars."""

    def __init__(self, operator: plan.Project, input_types: Sequence[RowType]) -> None:
        self._scalars = Scalars(operator.columns, input_types[0])

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The pairs with the computed rows."""
        evaluate = self._scalars.evaluate
        if not self._scalars.fallible:
            return [(evaluate(row), weight) for row, weight in inputs[0]]
        projected: Delta = []
        for pair in inputs[0]:
            try:
                projected.append((evaluate(pair[0]), pair[1]))
            except ScalarFailure:
                report(context.failures, self._scalars, pair)
        return projected


class FlatMap(Stateless):
    """Each row with each alternative behind it; a row on which any of them fails is left out altogether."""

    def __init__(self, operator: plan.FlatMap, input_types: Sequence[RowType]) -> None:
        self._alternatives = [Scalars(scalars, input_types[0]) for scalars in operator.alternatives]
        self._all = Scalars(
            [scalar for scalars in operator.alternatives for scalar in scalars], input_types[0]
        )

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """One pair per row and alternative."""
        evaluators = [scalars.evaluate for scalars in self._alternatives]
        mapped: Delta = []
        for pair in inputs[0]:
            row, weight = pair
            try:
                mapped += [(row + evaluate(row), weight) for evaluate in evaluators]
            except ScalarFailure:
                report(context.failures, self._all, pair)
        return mapped


class Window(Stateless):
    """Each row once per window that contains its time."""

    def __init__(self, operator: plan.Window, input_types: Sequence[RowType]) -> None:
        self._at = compile_scalar(operator.at)
        self._scalars = Scalars((operator.at,), input_types[0])
        self._columns = referenced_columns(operator.at)
        self._input_type = input_types[0]
        self._size_us, self._every_us = operator.size_us, operator.every_us

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """One pair per row and window."""
        at_of = self._at
        windowed: Delta = []
        for pair in inputs[0]:
            row, weight = pair
            try:
                at = at_of(row)
            except ScalarFailure:
                report(context.failures, self._scalars, pair)
                continue
            if at is None:
                continue
            bounds = self._windows(at)
            if bounds and (bounds[0][0] < DATETIME_MIN_US or bounds[-1][1] > DATETIME_MAX_US):
                example = example_text(self._input_type, self._columns, row)
                context.failures.add(("out of range", example), row, weight)
                continue
            windowed += [(row + bound, weight) for bound in bounds]
        return windowed

    def _windows(self, at: int) -> list[tuple[int, int]]:
        """(start, end) of the windows that contain `at`, ascending: every start in (at − size, at]."""
        size, every = self._size_us, self._every_us
        first, last = (at - size) // every + 1, at // every
        return [(n * every, n * every + size) for n in range(first, last + 1)]


class Union(Stateless):
    """The sum of the inputs."""

    def apply(self, inputs: Sequence[Delta], _context: Context) -> Delta:
        """All pairs."""
        return [pair for delta in inputs for pair in delta]


class Distinct:
    """Every row that is there, once."""

    def __init__(self) -> None:
        self._rows = KeptZSet()

    def apply(self, inputs: Sequence[Delta], _context: Context) -> Delta:
        """Rows that came and rows that went."""
        changes: Delta = []
        delta = consolidated(inputs[0])
        self._rows.note(delta)
        for row, weight in delta.items():
            before, after = _change(self._rows.weights, row, weight)
            if before != after:
                changes.append((row, after - before))
        return changes

    def kept(self) -> dict[str, Kept]:
        """The rows."""
        return {"rows": self._rows}

    def settle(self) -> Settling:
        """Nothing to do."""
        yield from ()
        return False


class Difference:
    """Every row that the left input has and the right one has not, once."""

    def __init__(self) -> None:
        self._left, self._right = KeptZSet(), KeptZSet()

    def apply(self, inputs: Sequence[Delta], _context: Context) -> Delta:
        """Rows that came and rows that went."""
        left, right = consolidated(inputs[0]), consolidated(inputs[1])
        self._left.note(left)
        self._right.note(right)
        changes: Delta = []
        for row in left | right:
            left_before, left_after = _change(self._left.weights, row, left.get(row, 0))
            right_before, right_after = _change(self._right.weights, row, right.get(row, 0))
            before, after = left_before and not right_before, left_after and not right_after
            if before != after:
                changes.append((row, after - before))
        return changes

    def kept(self) -> dict[str, Kept]:
        """Both sides' rows."""
        return {"left": self._left, "right": self._right}

    def settle(self) -> Settling:
        """Nothing to do."""
        yield from ()
        return False


def _change(weights: ZSet, row: Row, weight: int) -> tuple[bool, bool]:
    """Add to the weight of `row`; whether it was there before and is there now."""
    before = weights.get(row, 0)
    after = before + weight
    if after:
        weights[row] = after
    else:
        weights.pop(row, None)
    return before > 0, after > 0


def by_key(delta: Delta, key: Scalars, failures: Failures, kind: int = 0) -> list[tuple[Row, Pair]]:
    """The pairs with their keys, without those whose key fails, which are reported as of this kind."""
    evaluate = key.evaluate
    if not key.fallible:
        return [(evaluate(pair[0]), pair) for pair in delta]
    keyed: list[tuple[Row, Pair]] = []
    for pair in delta:
        try:
            keyed.append((evaluate(pair[0]), pair))
        except ScalarFailure:
            report(failures, key, pair, kind)
    return keyed
