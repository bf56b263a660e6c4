"""Top: every group is kept in order, and after a change its first places are compared with those shown
before.

A change costs the logarithm of the group's size, and if it is among the first places, their number; however large the
group is.

Saved are the rows, and of a top that sees a part of its group also those that it has shown: they are what the top
behind it holds of this node, and after shards were divided or joined they need not be the first any more. The first
step after that says the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dist_zero.compiler import plan
from dist_zero.kept import Kept
from dist_zero.left_out import Failures
from dist_zero.ordering import SortedItems, sort_key
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.kept import KeptGroups
from dist_zero.reference.operators import SLICE, Context, Delta, Pair, Settling, consolidated, report
from dist_zero.reference.scalar import Scalars
from dist_zero.types import Row, RowType
from dist_zero.zset import ZSet, add_pairs

_Entry = tuple[Row, Row]
"""(what it sorts by, the row); what it sorts by ends with the tie-breaking columns and so differs for every
row.
"""


class _Group:
    """One group: its rows' weights, the rows in order, and the output rows shown just now.

    `last`: what the last shown row sorts by, if all places are taken; nothing behind it changes what is shown.
    `loaded`: entries that have still to be put in order.
    """

    __slots__ = ("entries", "last", "loaded", "shown", "weights")

    def __init__(self) -> None:
        self.weights: ZSet = {}
        self.entries: SortedItems[_Entry] = SortedItems()
        self.loaded: list[_Entry] = []
        self.shown: ZSet = {}
        self.last: Row | None = None

    def order(self) -> Iterator[None]:
        """Put what was loaded in order."""
        loaded, self.loaded = self.loaded, []
        yield from self.entries.adding(loaded)


class Top:
    """See `ops.Top`."""

    def __init__(self, operator: plan.Top, input_types: Sequence[RowType], shows_a_part: bool) -> None:
        types = input_types[0].types
        self._count, self._rank = operator.count, operator.rank
        self._group_size = len(operator.per)
        self._scalars = Scalars([*operator.per, *(k.value for k in operator.order)], input_types[0])
        self._order = [sort_key(k.value.dtype, k.descending) for k in operator.order]
        self._tie: list[tuple[int, Callable[[Any], Any]]] = [
            (place, sort_key(types[place], False)) for place in operator.tie
        ]
        self._groups: dict[Row, _Group] = {}
        self._rows = KeptGroups(
            self._weights_of,
            lambda: (g.weights for g in self._groups.values()),
            self._take,
            lambda row: self._placed(row)[0],
        )
        self._shown = KeptGroups(
            self._shown_of, lambda: (g.shown for g in self._groups.values()), self._take_shown, lambda _: ()
        )
        self._shows_a_part = shows_a_part
        self._loaded: dict[Row, None] = {}
        self._unsettled: dict[Row, _Group] = {}

    def apply(self, inputs: Sequence[Delta], context: Context) -> Delta:
        """The change of the groups' first rows."""
        touched, self._unsettled = self._unsettled, {}
        # What goes, goes first: the new version of a row may sort where the old one still is.
        changed = sorted(consolidated(inputs[0]).items(), key=lambda pair: pair[1] > 0)
        noted = self._rows.keys
        for pair in changed:
            located = self._locate(pair[0], pair[1], context.failures)
            if located is not None:
                per, entry = located
                group = self._group(per)
                if group.last is None or not group.last < entry[0]:
                    touched[per] = group
                if noted is not None:
                    noted[pair[0]] = per
                _change(group, entry, pair[1])
        changes: Delta = []
        for per, group in touched.items():
            shown, group.last = self._first(group)
            changes += [(row, -weight) for row, weight in group.shown.items() if row not in shown]
            changes += [
                (row, w - group.shown.get(row, 0)) for row, w in shown.items() if w != group.shown.get(row)
            ]
            group.shown = shown
            if not group.weights:
                del self._groups[per]
        if self._shows_a_part:
            self._shown.note([row for row, _ in changes])
        return changes

    def kept(self) -> dict[str, Kept]:
        """The rows, and what is shown of a part."""
        return {"rows": self._rows, "shown": self._shown} if self._shows_a_part else {"rows": self._rows}

    def settle(self) -> Settling:
        """Show the first rows of the groups that were loaded; a part shows what it has shown, until the next step."""
        loaded, self._loaded = self._loaded, {}
        for number, per in enumerate(loaded):
            group = self._groups[per]
            yield from group.order()
            first, group.last = self._first(group)
            if not self._shows_a_part:
                group.shown = first
            elif group.shown != first:
                self._unsettled[per] = group
            else:
                self._unsettled.pop(per, None)
            if not group.weights and not group.shown:
                del self._groups[per]
            if number % SLICE == 0:
                yield
        return bool(self._unsettled)

    def _weights_of(self, per: Row) -> ZSet | None:
        group = self._groups.get(per)
        return None if group is None else group.weights

    def _shown_of(self, per: Row) -> ZSet | None:
        group = self._groups.get(per)
        return None if group is None else group.shown

    def _take(self, entries: Iterable[Pair]) -> None:
        """Take in saved rows; they are put in order later, all together."""
        for row, weight in entries:
            per, entry = self._placed(row)
            group = self._group(per)
            if row in group.weights:
                for _ in group.order():
                    pass
                _change(group, entry, weight)
            else:
                group.weights[row] = weight
                group.loaded.append(entry)
            self._loaded[per] = None

    def _take_shown(self, entries: Iterable[Pair]) -> None:
        """Take in rows that were shown; a top that sees a part has one group."""
        for pair in entries:
            add_pairs(self._group(()).shown, (pair,))
            self._loaded[()] = None

    def _group(self, per: Row) -> _Group:
        group = self._groups.get(per)
        if group is None:
            group = self._groups[per] = _Group()
        return group

    def _locate(self, row: Row, weight: int, failures: Failures) -> tuple[Row, _Entry] | None:
        """The group of a row and its entry there, or None if an expression fails on it."""
        try:
            return self._placed(row)
        except ScalarFailure:
            report(failures, self._scalars, (row, weight))
            return None

    def _placed(self, row: Row) -> tuple[Row, _Entry]:
        """The group of a row and its entry there; raises `ScalarFailure`."""
        values = self._scalars.evaluate(row)
        size = self._group_size
        order = [key(value) for key, value in zip(self._order, values[size:], strict=True)]
        order += [key(row[place]) for place, key in self._tie]
        return values[:size], (tuple(order), row)

    def _first(self, group: _Group) -> tuple[ZSet, Row | None]:
        """The output rows of a group, of which one of weight w takes w places, and the group's `last`."""
        first: ZSet = {}
        taken = 0
        for order, row in group.entries:
            weight = min(group.weights[row], self._count - taken)
            if self._rank:
                for rank in range(taken + 1, taken + weight + 1):
                    first[(*row, rank)] = 1
            else:
                first[row] = weight
            taken += weight
            if taken == self._count:
                return first, order
        return first, None


def _change(group: _Group, entry: _Entry, weight: int) -> None:
    row = entry[1]
    was_there = row in group.weights
    add_pairs(group.weights, ((row, weight),))
    is_there = row in group.weights
    if is_there and not was_there:
        group.entries.add(entry)
    elif was_there and not is_there:
        group.entries.remove(entry)
