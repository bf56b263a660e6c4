"""Aggregates: a group's accumulators take in what changed, and its output row is replaced if it became
another.

In phase PARTIAL every node shows its accumulators, encoded, as one row as long as it has rows; in phase FINAL
the one node that owns the hash of the empty key adds those rows up. An aggregate without keys shows a row
even of no input, from its first step on.

Saved are the groups with their accumulators, but of minimum and maximum the values one by one, so that a save follows
what changed. A partial one keeps its values by the place of their rows, and saves what it has shown: why is said in
`dist_zero/state.py`. There it may also have taken back more rows than it was given, and shows its accumulators as long
as one of them is not that of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dist_zero.compiler import plan
from dist_zero.compiler.plan import Phase
from dist_zero.expr.ops import Scalar
from dist_zero.kept import Kept, KeptZSet
from dist_zero.left_out import Failures
from dist_zero.reference.accumulators import Accumulator, Count, Extreme, accumulator_factory
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.operators import SLICE, Context, Delta, Pair, Settling, consolidated, report
from dist_zero.reference.scalar import Scalars, aggregation_input, compile_tuple, example_text
from dist_zero.state import is_extreme, is_plain_count
from dist_zero.types import Row, RowType
from dist_zero.zset import ZSet, add_pairs
from dist_zero_common.errors import MalformedMessage


class _Group:
    """One group: how many rows, their accumulators, and what is shown of it just now.

    Plain counts are the number of rows, and get it when they are looked at; `fed` are the accumulators that rows are
    fed to, all others; `sums` those of them that are saved with the group, and `extremes` the rest.
    """

    __slots__ = ("accumulators", "extremes", "failure", "fed", "plain_counts", "row_count", "shown", "sums")

    def __init__(self, accumulators: list[Accumulator], plain: Sequence[bool]) -> None:
        self.row_count = 0
        self.accumulators = accumulators
        self.fed = [a for a, is_plain in zip(accumulators, plain, strict=True) if not is_plain]
        self.plain_counts = [a for a in accumulators if isinstance(a, Count) and a not in self.fed]
        self.sums = [a for a in self.fed if not isinstance(a, Extreme)]
        self.extremes = [a for a in self.fed if isinstance(a, Extreme)]
        self.shown: Row | None = None
        self.failure: tuple[str, str] | None = None

    def show_row_count(self) -> None:
        """Let the plain counts have it."""
        for plain_count in self.plain_counts:
            plain_count.count = self.row_count


class KeptGroups:
    """The groups of an aggregate as entries: key, number of rows, accumulators except minima and maxima.

    `keys` has the groups that were touched, also those that are gone: one that begins again goes on with its object,
    which knows the values that were touched in it. `loaded`: those that were loaded; `taken_back`: those of them whose
    entries were taken back, so that they may be gone.
    """

    def __init__(self, groups: dict[Row, _Group], make: Callable[[Row], _Group], key_count: int) -> None:
        self.groups, self._make, self._key_count = groups, make, key_count
        self.keys: dict[Row, _Group] | None = None
        self.loaded: dict[Row, _Group] = {}
        self.taken_back: dict[Row, None] = {}

    def note(self, groups: dict[Row, _Group]) -> None:
        """These were touched."""
        if self.keys is not None:
            self.keys.update(groups)

    def gone(self, key: Row) -> _Group | None:
        """The object of a group that was touched and is gone: empty, but for what was touched in it."""
        return self.keys.get(key) if self.keys is not None else None

    def begin(self, group: _Group) -> None:
        """A group begins to be there."""
        if self.keys is not None:
            for extreme in group.extremes:
                extreme.touched = extreme.touched or {}

    def load(self, key: Row) -> _Group:
        """The group that a loaded entry is of."""
        group = self.loaded[key] = self.groups.get(key) or self._make(key)
        return group

    def settled(self) -> dict[Row, _Group]:
        """The groups that were loaded since the last time; to load a value is not to touch it."""
        loaded, self.loaded = self.loaded, {}
        for group in loaded.values():
            for extreme in group.extremes:
                extreme.touched = None if self.keys is None else {}
        return loaded

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        return ((self._entry(key, group), 1) for key, group in self.groups.items())

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        frozen = [
            (key, group.row_count, [(each.encoded, each.frozen()) for each in group.sums])
            for key, group in self.groups.items()
        ]
        return (((*key, rows, *[encoded(state) for encoded, state in sums]), 1) for key, rows, sums in frozen)

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        group = self.groups.get(key)
        return None if group is None else (self._entry(key, group), 1)

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        for key in self.keys or ():
            group = self.groups.get(key)
            yield key, None if group is None else (self._entry(key, group), 1)

    def track(self) -> None:
        """See `Kept`. Sees to the values, too."""
        groups = self.groups if self.keys is None else self.keys
        for group in groups.values():
            for extreme in group.extremes:
                extreme.touched = {}
        self.keys = {}

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        count = self._key_count
        for entry, weight in entries:
            group = self.load(entry[:count])
            group.row_count += weight * entry[count]
            for accumulator, data in zip(group.sums, entry[count + 1 :], strict=True):
                accumulator.merge(data, weight)
            if weight < 0:
                self.taken_back[entry[:count]] = None

    def _entry(self, key: Row, group: _Group) -> Row:
        return (*key, group.row_count, *[accumulator.encode() for accumulator in group.sums])


class KeptValues:
    """The values of one minimum or maximum in all groups: (key, value), how often."""

    def __init__(self, groups: KeptGroups, number: int) -> None:
        self._groups, self._number = groups, number

    def entries(self) -> Iterable[Pair]:
        """See `Kept`."""
        for key, group in self._groups.groups.items():
            for value, count in group.extremes[self._number].counts.items():
                yield (*key, value), count

    def frozen(self) -> Iterable[Pair]:
        """See `Kept`."""
        number = self._number
        frozen = [
            (key, list(group.extremes[number].counts.items())) for key, group in self._groups.groups.items()
        ]
        return (((*key, value), count) for key, counts in frozen for value, count in counts)

    def get(self, key: Row, /) -> Pair | None:
        """See `Kept`."""
        group = self._groups.groups.get(key[:-1])
        count = group.extremes[self._number].counts.get(key[-1]) if group is not None else None
        return None if count is None else (key, count)

    def touched(self) -> Iterable[tuple[Row, Pair | None]]:
        """See `Kept`."""
        for key, group in (self._groups.keys or {}).items():
            extreme = group.extremes[self._number]
            for value in extreme.touched or ():
                entry, count = (*key, value), extreme.counts.get(value)
                yield entry, None if count is None else (entry, count)

    def track(self) -> None:
        """The groups see to it."""

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        for entry, weight in entries:
            self._groups.load(entry[:-1]).extremes[self._number].add(entry[-1], weight)


class KeptPlacedValues(KeptZSet):
    """The values of one minimum or maximum of a part: (place of the row, value), how often."""

    def __init__(self, groups: KeptGroups, number: int) -> None:
        super().__init__()
        self._groups, self._number = groups, number

    def change(self, entry: Row, weight: int) -> None:
        """Add to an entry's weight."""
        add_pairs(self.weights, ((entry, weight),))
        if self.keys is not None:
            self.keys[entry] = ()

    def take(self, entries: Iterable[Pair]) -> None:
        """See `Kept`."""
        for entry, weight in entries:
            add_pairs(self.weights, ((entry, weight),))
            self._groups.load(()).extremes[self._number].add(entry[-1], weight)


class Reduce:
    """See `ops.Aggregate`. `place` (phase PARTIAL): scalars whose values say where a row of the input is."""

    def __init__(
        self, operator: plan.Reduce, input_types: Sequence[RowType], place: Sequence[Scalar] = ()
    ) -> None:
        aggregations, self._phase = operator.aggregations, operator.phase
        self._key_count = len(operator.keys)
        self._row_type = operator.row_type
        self._factories = [accumulator_factory(aggregation) for aggregation in aggregations]
        self._plain = [self._phase is not Phase.FINAL and is_plain_count(a) for a in aggregations]
        fed = [a for a in aggregations if not is_plain_count(a)] if self._phase is not Phase.FINAL else []
        inputs = [aggregation_input(aggregation) for aggregation in fed]
        self._key_of, self._inputs_of = compile_tuple(operator.keys), compile_tuple(inputs)
        self._scalars = Scalars([*operator.keys, *inputs], input_types[0])
        self._nothing = tuple([make().encode() for make in self._factories])
        self._keep(operator, [i for i, a in enumerate(fed) if is_extreme(a)], compile_tuple(place))

    def _keep(self, operator: plan.Reduce, extremes: Sequence[int], place_of: Callable[[Row], Row]) -> None:
        """Begin with nothing. `extremes`: places among what rows are fed to."""
        self._groups: dict[Row, _Group] = {}
        self._kept_groups = KeptGroups(self._groups, self._group, self._key_count)
        self._shown = KeptZSet()
        partial = operator.phase is Phase.PARTIAL
        self._place_of = place_of
        self._placed = (
            [(i, KeptPlacedValues(self._kept_groups, n)) for n, i in enumerate(extremes)] if partial else []
        )
        numbers = [n for n, aggregation in enumerate(operator.aggregations) if is_extreme(aggregation)]
        self._values: dict[str, Kept] = {
            f"values/{number}": self._placed[n][1] if partial else KeptValues(self._kept_groups, n)
            for n, number in enumerate(numbers)
        }

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The change of the groups' rows."""
        delta = list(consolidated(inputs[0]).items())
        final = self._phase is Phase.FINAL
        touched = self._merge(delta) if final else self._accumulate(delta, context.failures)
        is_global = not self._key_count and self._phase is not Phase.PARTIAL
        if is_global and context.owns_empty_key and () not in self._groups:
            touched[()] = self._group(())
        self._kept_groups.note(touched)
        changes: Delta = []
        if self._phase is Phase.PARTIAL:
            self._show_part(changes)
            return changes
        for key, group in touched.items():
            self._show(key, group, changes, context.failures)
        return changes

    def kept(self) -> dict[str, Kept]:
        """The groups; values of minima and maxima; what a part has shown."""
        kept: dict[str, Kept] = {"groups": self._kept_groups, **self._values}
        return {**kept, "shown": self._shown} if self._phase is Phase.PARTIAL else kept

    def settle(self) -> Settling:
        """Show the groups that were loaded; a part shows what it has shown, until the next step."""
        loaded = self._kept_groups.settled()
        taken_back, self._kept_groups.taken_back = self._kept_groups.taken_back, {}
        if self._phase is Phase.PARTIAL:
            part = self._part()
            if not part and taken_back:
                self._groups.pop((), None)
            return part != self._shown.weights
        for number, (key, group) in enumerate(loaded.items()):
            group.show_row_count()
            group.shown, group.failure = self._outcome(key, group)
            if group.shown is None and group.failure is None:
                if key not in taken_back:
                    raise MalformedMessage("the saved state of an aggregate has a group without rows")
                del self._groups[key]
            if number % SLICE == 0:
                yield
        return False

    def _accumulate(self, delta: Delta, failures: Failures) -> dict[Row, _Group]:
        """Take in rows; the groups that they belong to."""
        key_of, inputs_of, groups, placed = self._key_of, self._inputs_of, self._groups, self._placed
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
            if placed:
                self._place(row, values, weight)
        return touched

    def _place(self, row: Row, values: Row, weight: int) -> None:
        """Keep the values of a part's extremes by the place of their row."""
        place = self._place_of(row)
        for i, kept in self._placed:
            if values[i] is not None:
                kept.change((*place, values[i]), weight)

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
        group = self._kept_groups.gone(key) or _Group([make() for make in self._factories], self._plain)
        self._groups[key] = group
        self._kept_groups.begin(group)
        return group

    def _show(self, key: Row, group: _Group, changes: Delta, failures: Failures) -> None:
        """Replace what is shown of a group by what is right now."""
        group.show_row_count()
        shown, failure = self._outcome(key, group)
        if shown != group.shown:
            if group.shown is not None:
                changes.append((group.shown, -1))
            if shown is not None:
                changes.append((shown, 1))
            group.shown = shown
        if failure != group.failure:
            if group.failure is not None:
                failures.add(group.failure, key, -1, kind=1)
            if failure is not None:
                failures.add(failure, key, 1, kind=1)
            group.failure = failure
        if not group.row_count and shown is None and failure is None:
            del self._groups[key]

    def _show_part(self, changes: Delta) -> None:
        """Replace what is shown of this node's part of the one group."""
        part = self._part()
        if part != self._shown.weights:
            taken_back = [(row, -weight) for row, weight in self._shown.weights.items() if row not in part]
            changes += taken_back
            changes += [
                (row, weight - self._shown.weights.get(row, 0))
                for row, weight in part.items()
                if self._shown.weights.get(row) != weight
            ]
            self._shown.add(changes)
        if not part:
            self._groups.pop((), None)

    def _part(self) -> ZSet:
        """The row of encoded accumulators, as long as there is something in one of them."""
        group = self._groups.get(())
        if group is None:
            return {}
        group.show_row_count()
        row = tuple([accumulator.encode() for accumulator in group.accumulators])
        return {row: 1} if group.row_count or row != self._nothing else {}

    def _outcome(self, key: Row, group: _Group) -> tuple[Row | None, tuple[str, str] | None]:
        """The group's row, or why it has none: a failure, or (None, None) if there is no group."""
        if not group.row_count and self._key_count:
            return None, None
        try:
            return key + tuple([accumulator.result() for accumulator in group.accumulators]), None
        except ScalarFailure as failure:
            return None, (failure.reason, example_text(self._row_type, range(self._key_count), key))
