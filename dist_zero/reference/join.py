"""Joins: both sides' rows are kept by key, and a change meets only the rows that share its key.

For the pairs, (L + ΔL)(R + ΔR) − LR = ΔL·R + (L + ΔL)·ΔR, and so they are computed: the left's changes
against the right's old rows, then the right's changes against the left's new rows.

The other part of an outer join, and all of a semi or anti join, are rows of *one* side that are shown or not
according to whether they have partners. Without a condition all rows of a key have the same partners, and one
look at the other side's group before and after tells. With a condition every row counts its partners (the sum
of their weights). A row whose key has a null in it has no partner, so nothing of it is kept.

Saved are the rows of both sides. Where rows count their partners, loading counts them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dist_zero.compiler import plan
from dist_zero.kept import Kept
from dist_zero.left_out import Failures
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.kept import KeptGroups
from dist_zero.reference.operators import SLICE, Context, Delta, Pair, Settling, by_key, report
from dist_zero.reference.scalar import Scalars
from dist_zero.types import Row, RowType
from dist_zero.zset import ZSet, add_into, add_pairs
from dist_zero_common.errors import MalformedMessage

_NOTHING: Mapping[Row, int] = {}
_Change = Mapping[Row, int]
_Touched = dict[Row, tuple[int, bool]]
"""Row → its weight, and whether it had partners, before the step."""


class Join:
    """See `ops.Join`."""

    def __init__(self, operator: plan.Join, input_types: Sequence[RowType]) -> None:
        left_type, right_type = input_types
        how, condition = operator.how, operator.condition
        no_left, no_right = (None,) * len(left_type), (None,) * len(right_type)
        self._show_pairs = how not in ("semi", "anti")
        self._left = _Side(
            key=Scalars(operator.left_key, left_type),
            shown_if_matched={"left": False, "outer": False, "anti": False, "semi": True}.get(how),
            render=(lambda row: row + no_right) if self._show_pairs else (lambda row: row),
            place=0,
        )
        self._right = _Side(
            key=Scalars(operator.right_key, right_type),
            shown_if_matched={"right": False, "outer": False}.get(how),
            render=lambda row: no_left + row,
            place=1,
        )
        both = RowType(left_type.names + right_type.names, left_type.types + right_type.types)
        self._condition = Scalars((condition,), both) if condition is not None else None

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The change of the joined rows; a pair on which the condition fails is counted, and no match."""
        out: Delta = []
        left = self._left.changes(inputs[0], context.failures, out)
        right = self._right.changes(inputs[1], context.failures, out)
        for key in left | right if right else left:
            left_change, right_change = left.get(key, _NOTHING), right.get(key, _NOTHING)
            if self._condition is None:
                self._apply_plain(key, left_change, right_change, out)
            else:
                self._apply_conditioned(
                    self._condition, key, left_change, right_change, out, context.failures
                )
        return out

    def kept(self) -> dict[str, Kept]:
        """Both sides' rows."""
        return {"left": self._left.rows, "right": self._right.rows}

    def settle(self) -> Settling:
        """Count the partners of the rows of the keys that were loaded."""
        loaded = {**self._left.loaded, **self._right.loaded}
        self._left.loaded, self._right.loaded = {}, {}
        if self._condition is not None and (self._left.counts or self._right.counts):
            for number, key in enumerate(loaded):
                self._count_partners(self._condition, key)
                if number % SLICE == 0:
                    yield
        return False

    def _count_partners(self, condition: Scalars, key: Row) -> None:
        """Count the partners of all rows of a key anew. What fails is no match, and was reported in its time."""
        left: dict[Row, int] = {}
        right: dict[Row, int] = {}
        rights = self._right.groups.get(key, _NOTHING).items()
        for row, weight in self._left.groups.get(key, _NOTHING).items():
            for other, times in rights:
                try:
                    matches = condition.evaluate(row + other)[0]
                except ScalarFailure:
                    continue
                if matches:
                    left[row] = left.get(row, 0) + times
                    right[other] = right.get(other, 0) + weight
        self._left.set_partners(key, left)
        self._right.set_partners(key, right)

    def _apply_plain(self, key: Row, left: _Change, right: _Change, out: Delta) -> None:
        left_matched = key in self._right.groups
        right_matched = key in self._left.groups
        if left and self._show_pairs:
            rights = self._right.groups.get(key, _NOTHING).items()
            out += [(row + other, w * times) for row, w in left.items() for other, times in rights]
        if left:
            self._left.add(key, left)
        if right and self._show_pairs:
            lefts = self._left.groups.get(key, _NOTHING).items()
            out += [(row + other, w * times) for other, times in right.items() for row, w in lefts]
        if right:
            self._right.add(key, right)
        self._left.show(key, left, left_matched, key in self._right.groups, out)
        self._right.show(key, right, right_matched, key in self._left.groups, out)

    def _apply_conditioned(
        self, condition: Scalars, key: Row, left: _Change, right: _Change, out: Delta, failures: Failures
    ) -> None:
        touched_left, touched_right = self._left.touch(key, left), self._right.touch(key, right)

        def meet(row: Row, weight: int, other: Row, times: int) -> bool:
            try:
                matches = condition.evaluate(row + other)[0]
            except ScalarFailure:
                report(failures, condition, (row + other, weight * times))
                return False
            if matches and self._show_pairs:
                out.append((row + other, weight * times))
            return bool(matches)

        lefts, rights = self._left.groups.get(key, _NOTHING), self._right.groups.get(key, _NOTHING)
        for row, weight in left.items():
            for other, times in rights.items():
                if meet(row, weight, other, times):
                    self._right.count(key, other, weight, touched_right)
                    if row not in lefts:
                        self._left.count(key, row, times, touched_left)
        self._left.add(key, left)
        lefts = self._left.groups.get(key, _NOTHING)
        for other, times in right.items():
            for row, weight in lefts.items():
                if meet(row, weight, other, times):
                    self._left.count(key, row, times, touched_left)
                    if other not in rights:
                        self._right.count(key, other, weight, touched_right)
        self._right.add(key, right)
        self._left.show_touched(key, touched_left, out)
        self._right.show_touched(key, touched_right, out)


class _Side:
    """One side's rows by key, and those of them that are shown by themselves.

    `shown_if_matched`: whether rows are shown alone when they have partners (True: semi), when they have none
    (False: outer, anti), or never (None). `render` makes the output row of such a row. `groups` never holds
    an empty group. `loaded`: keys of which rows were loaded. `place`: which input this is.
    """

    def __init__(
        self, key: Scalars, shown_if_matched: bool | None, render: Callable[[Row], Row], place: int
    ) -> None:
        self.groups: dict[Row, ZSet] = {}
        self.rows = KeptGroups(self.groups.get, self.groups.values, self._take, key.evaluate)
        self.loaded: dict[Row, None] = {}
        self.counts = shown_if_matched is not None
        self._partners: dict[Row, ZSet] = {}
        self._key = key
        self._place = place
        self._shown_if_matched = shown_if_matched
        self._render = render

    def changes(self, delta: Delta, failures: Failures, out: Delta) -> dict[Row, ZSet]:
        """The delta by key. Rows with a null in their key go to `out` at once, if such rows are shown."""
        changes: dict[Row, ZSet] = {}
        for key, pair in by_key(delta, self._key, failures, self._place):
            if None in key:
                if self._shown_if_matched is False:
                    out.append((self._render(pair[0]), pair[1]))
            elif (change := changes.get(key)) is None:
                changes[key] = {pair[0]: pair[1]}
            elif pair[0] in change:
                add_pairs(change, (pair,))
            else:
                change[pair[0]] = pair[1]
        if self.rows.keys is not None:
            for key, change in changes.items():
                self.rows.note(change, key)
        return changes

    def _take(self, entries: Iterable[Pair]) -> None:
        """Take in saved rows."""
        for row, weight in entries:
            key = self._key.evaluate(row)
            if None in key:
                raise MalformedMessage("the saved state of a join has a row without a key")
            self.add(key, {row: weight})
            self.loaded[key] = None

    def set_partners(self, key: Row, partners: ZSet) -> None:
        """Say how many partners each row of a key has."""
        if self.counts:
            self._partners[key] = {row: count for row, count in partners.items() if count}
            if not self._partners[key]:
                del self._partners[key]

    def add(self, key: Row, change: _Change) -> None:
        """Take the change of one key into the state."""
        group = self.groups.get(key)
        if group is None:
            if change:
                self.groups[key] = dict(change)
        else:
            add_into(group, change)
            if not group:
                del self.groups[key]

    def show(self, key: Row, change: _Change, matched: bool, matches: bool, out: Delta) -> None:
        """Put the change of the rows shown alone into `out`, the state being the new one.

        All rows of the key had partners or not (`matched`), and have now or not (`matches`).
        """
        if self._shown_if_matched is None:
            return
        before, after = matched is self._shown_if_matched, matches is self._shown_if_matched
        render = self._render
        if (
            before
        ):  # with the next, what stays: the change; what goes: the old rows, which are new less change
            out += [(render(row), weight) for row, weight in change.items()]
        if before is not after:
            sign = 1 if after else -1
            out += [(render(row), sign * w) for row, w in self.groups.get(key, _NOTHING).items()]

    def touch(self, key: Row, rows: _Change) -> _Touched:
        """How these rows of the key stand before the step."""
        group, partners = self.groups.get(key, _NOTHING), self._partners.get(key, _NOTHING)
        return {row: (group.get(row, 0), partners.get(row, 0) > 0) for row in rows}

    def count(self, key: Row, row: Row, weight: int, touched: _Touched) -> None:
        """Add to the partners of a row, noting in `touched` how it stood before."""
        if self._shown_if_matched is None:
            return
        partners = self._partners.setdefault(key, {})
        if row not in touched:
            touched[row] = (self.groups[key][row], partners.get(row, 0) > 0)
        add_pairs(partners, ((row, weight),))

    def show_touched(self, key: Row, touched: _Touched, out: Delta) -> None:
        """Put the change of the rows shown alone into `out`; forget the partners of rows that are gone."""
        if self._shown_if_matched is None:
            return
        group, partners = self.groups.get(key, _NOTHING), self._partners.get(key, {})
        for row, (weight_before, matched_before) in touched.items():
            weight = group.get(row, 0)
            before = weight_before if matched_before is self._shown_if_matched else 0
            after = weight if (partners.get(row, 0) > 0) is self._shown_if_matched else 0
            if after != before:
                out.append((self._render(row), after - before))
            if not weight:
                partners.pop(row, None)
        if not partners:
            self._partners.pop(key, None)
