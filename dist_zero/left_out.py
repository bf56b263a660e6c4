"""Rows that operators leave out because an expression fails on them: counted until they are retracted.

What is kept of one is where it is (the values of its sharding), the reason and an example; so it is found again when it
is taken back, and goes where the row goes when state is divided. Both executors count them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dist_zero.compiler.plan import Plan
from dist_zero.executor import ErrorCount
from dist_zero.kept import KeptZSet, Pair
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import compile_tuple
from dist_zero.state import error_places
from dist_zero.types import Row
from dist_zero.zset import consolidate
from dist_zero_common.errors import MalformedMessage


class Failures:
    """The rows that one operator leaves out in one epoch: `found` has what is kept of each, with its weight.

    That is the values of where the row is, the reason and an example. `places` compute the first of a row, of each
    kind that the operator may leave out: `dist_zero/state.py`, `error_places`.
    """

    __slots__ = ("_places", "found")

    def __init__(self, places: Sequence[Callable[[Row], Row]]) -> None:
        self._places = places
        self.found: list[Pair] = []

    def add(self, failure: tuple[str, str], row: Row, weight: int, kind: int = 0) -> None:
        """Count a row that is left out for this (reason, example). Raises `MalformedMessage` for one that belongs
        nowhere, so that nobody can have sent it."""
        try:
            place = self._places[kind](row)
        except ScalarFailure as problem:
            raise MalformedMessage(f"a row that belongs nowhere: {problem}") from None
        self.found.append((place + failure, weight))


class RowsLeftOut:
    """All that a node leaves out. `kept`: by operator, as of the newest finished epoch."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places = {n: [compile_tuple(place) for place in p] for n, p in error_places(plan).items()}
        self.kept = {number: KeptZSet() for number in self._places}
        self._waiting: dict[int, dict[int, Failures]] = {}

    @property
    def waits(self) -> bool:
        """Whether there is an epoch that is not finished."""
        return bool(self._waiting)

    def failures(self, epoch: int, operator: int) -> Failures:
        """Where an operator reports the rows of an epoch that it leaves out."""
        waiting = self._waiting.setdefault(epoch, {})
        if operator not in waiting:
            waiting[operator] = Failures(self._places.get(operator, ()))
        return waiting[operator]

    def finish(self, epoch: int) -> None:
        """Make what an epoch has left out visible."""
        for number, failures in self._waiting.pop(epoch, {}).items():
            if failures.found:
                self.kept[number].add(consolidate(failures.found).items())

    def errors(self, operators: Iterable[int]) -> list[ErrorCount]:
        """What these operators leave out, by operator and reason."""
        found = []
        for number in sorted(operators):
            label = self._plan.operators[number].label
            reasons: dict[str, list[tuple[str, int]]] = {}
            if number in self.kept:
                for (*_, reason, example), count in self.kept[number].weights.items():
                    reasons.setdefault(reason, []).append((example, count))
            for reason in sorted(reasons):
                smallest = min(example for example, _ in reasons[reason])
                total = sum(count for _, count in reasons[reason])
                found.append(ErrorCount(number, label, reason, smallest, total))
        return found
