"""Aggregates: a group's accumulators take in what changed, and its output row is replaced if it became
another.

In phase PARTIAL every node shows its accumulators, encoded, as one row as long as it has rows; in phase FINAL
the one node that owns the hash of the empty key adds those rows up. An aggregate without keys shows a row
even of no input, from its first step on.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.compiler import plan
from dist_zero.compiler.plan import Phase
from dist_zero.expr.ops import Aggregation
from dist_zero.reference.accumulators import Accumulator, Count, accumulator_factory
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.operators import Context, Delta, Failures, report
from dist_zero.reference.scalar import Scalars, aggregation_input, compile_tuple, example_text
from dist_zero.types import Row, RowType


class _Group:
    """One group: how many rows, their accumulators, and what is shown of it just now.

    Plain counts are the number of rows, and get it when they are looked at; `fed` are the accumulators that rows are
    fed to, all others.
    """

    __slots__ = ("accumulators", "failure", "fed", "plain_counts", "row_count", "shown")

    def __init__(self, accumulators: list[Accumulator], plain: Sequence[bool]) -> None:
        self.row_count = 0
        self.accumulators = accumulators
        self.fed = [a for a, is_plain in zip(accumulators, plain, strict=True) if not is_plain]
        self.plain_counts = [a for a in accumulators if isinstance(a, Count) and a not in self.fed]
        self.shown: Row | None = None
        self.failure: tuple[str, str] | None = None


class Reduce:
    """See `ops.Aggregate`."""

    def __init__(self, operator: plan.Reduce, input_types: Sequence[RowType]) -> None:
        self._phase = operator.phase
        self._key_count = len(operator.keys)
        self._row_type = operator.row_type
        self._factories = [accumulator_factory(aggregation) for aggregation in operator.aggregations]
        fed = [] if self._phase is Phase.FINAL else [a for a in operator.aggregations if not _is_plain(a)]
        self._plain = [self._phase is not Phase.FINAL and _is_plain(a) for a in operator.aggregations]
        inputs = [aggregation_input(aggregation) for aggregation in fed]
        self._key_of, self._inputs_of = compile_tuple(operator.keys), compile_tuple(inputs)
        self._scalars = Scalars([*operator.keys, *inputs], input_types[0])
        self._groups: dict[Row, _Group] = {}

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The change of the groups' rows."""
        if self._phase is Phase.FINAL:
            touched = self._merge(inputs[0])
        else:
            touched = self._accumulate(inputs[0], context.failures)
        is_global = not self._key_count and self._phase is not Phase.PARTIAL
        if is_global and context.owns_empty_key and () not in self._groups:
            touched[()] = self._group(())
        changes: Delta = []
        for key, group in touched.items():
            self._show(key, group, changes, context.failures)
        return changes

    def _accumulate(self, delta: Delta, failures: Failures) -> dict[Row, _Group]:
        """Take in rows; the groups that they belong to."""
        key_of, inputs_of, groups = self._key_of, self._inputs_of, self._groups
        touched: dict[Row, _Group] = {}
        for pair in delta:
            row, weight = pair
            try:
                key, values = key_of(row), inputs_of(row)
            except ScalarFailure:
                report(failures, self._scalars, pair)
                continue
            group = groups.get(key)
            if group is None:
                group = self._group(key)
            touched[key] = group
            group.row_count += weight
            for accumulator, value in zip(group.fed, values, strict=True):
                if value is not None:
                    accumulator.add(value, weight)
        return touched

    def _merge(self, delta: Delta) -> dict[Row, _Group]:
        """Take in rows of encoded accumulators."""
        if not delta:
            return {}
        group = self._groups.get(()) or self._group(())
        for row, weight in delta:
            for accumulator, data in zip(group.accumulators, row, strict=True):
                accumulator.merge(data, weight)
        return {(): group}

    def _group(self, key: Row) -> _Group:
        group = self._groups[key] = _Group([make() for make in self._factories], self._plain)
        return group

    def _show(self, key: Row, group: _Group, changes: Delta, failures: Failures) -> None:
        """Replace what is shown of a group by what is right now."""
        for plain_count in group.plain_counts:
            plain_count.count = group.row_count
        shown, failure = self._outcome(key, group)
        if shown != group.shown:
            if group.shown is not None:
                changes.append((group.shown, -1))
            if shown is not None:
                changes.append((shown, 1))
            group.shown = shown
        if failure != group.failure:
            if group.failure is not None:
                failures.append((*group.failure, -1))
            if failure is not None:
                failures.append((*failure, 1))
            group.failure = failure
        if not group.row_count and shown is None and failure is None:
            del self._groups[key]

    def _outcome(self, key: Row, group: _Group) -> tuple[Row | None, tuple[str, str] | None]:
        """The group's row, or why it has none: a failure, or (None, None) if there is no group."""
        if not group.row_count and (self._key_count or self._phase is Phase.PARTIAL):
            return None, None
        if self._phase is Phase.PARTIAL:
            return tuple([accumulator.encode() for accumulator in group.accumulators]), None
        try:
            return key + tuple([accumulator.result() for accumulator in group.accumulators]), None
        except ScalarFailure as failure:
            return None, (failure.reason, example_text(self._row_type, range(self._key_count), key))


def _is_plain(aggregation: Aggregation) -> bool:
    return aggregation.function == "count" and aggregation.argument is None and aggregation.where is None
