"""Watching a view: a pure object that turns what nodes send into one change per epoch, in order.

A subscription begins with a snapshot as of the epoch of its record (or behind the epoch `after` that the
caller has seen); from then on every node sends its changes of every epoch, also empty ones, and an epoch
counts when all nodes' have come. What is missing is asked for again; when a node has forgotten it, there is a
new snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dist_zero.batch import Batch
from dist_zero.client.changed import Change, ChangedRows
from dist_zero.client.snapshot import PartsByEpoch, ViewReader, check_part
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.epochs import EPOCHS_AHEAD_MAX
from dist_zero_common.protocol.messages.reading import Changes, SnapshotAnswer

_Place = tuple[int, int, int]
"""The version of the map, the shard, and the number of a part."""

_Batches = list[tuple[int, Batch]]
"""Rows with their views' numbers."""


@dataclass(frozen=True, slots=True)
class StoredChange:
    """As `Change`, in stored values, by view number: every epoch, also one that changed nothing."""

    epoch: int
    rows: Mapping[int, Sequence[tuple[StoredRow, int]]]
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """One of a node's `parts` messages on an epoch, read. `shards`: of how many nodes."""

    shards: int
    parts: int
    rows: _Batches


class Subscription:
    """One subscription's progress. `epoch` is the last one that is complete, -1 before the snapshot."""

    def __init__(
        self, request: int, views: tuple[int, ...], after: int, readers: dict[int, ViewReader]
    ) -> None:
        self.request, self.views, self.after = request, views, after
        self.id = 0
        self.strays: list[int] = []
        """Other subscriptions that came of the same request sent twice: to be ended."""
        self.epoch = after if after else -1
        self.newest = self.epoch
        """The newest epoch that any node has sent something of."""
        self._readers = readers
        self._snapshot = PartsByEpoch()
        self._changes: dict[int, dict[_Place, _Part]] = {}

    def on_snapshot(self, answer: SnapshotAnswer) -> list[StoredChange]:
        """A part of the snapshot; returns what is complete by it."""
        if not self._accept(answer.subscription) or self.epoch >= 0:
            return []
        complete = self._snapshot.add(answer)
        if complete is None:
            return []
        self.epoch = answer.epoch
        self.newest = max(self.newest, self.epoch)
        rows = self._rows(map(self._batches, complete))
        return [StoredChange(self.epoch, rows, snapshot=True), *self._advance()]

    def on_changes(self, changes: Changes) -> list[StoredChange]:
        """A part of an epoch's changes; returns the epochs that are complete by it."""
        check_part(changes)
        if not self._accept(changes.subscription) or changes.epoch <= self.epoch:
            return []
        if 0 <= self.epoch < changes.epoch - EPOCHS_AHEAD_MAX:
            raise MalformedMessage(
                f"changes of epoch {changes.epoch}, where {self.epoch} is the newest complete one"
            )
        there = self._changes.setdefault(changes.epoch, {})
        version = changes.map_version
        known = next((part.shards for place, part in there.items() if place[0] == version), changes.shards)
        if changes.shards != known:
            raise MalformedMessage(
                f"changes of epoch {changes.epoch} by one of {changes.shards} shards, where shard map {version} has"
                f" {known}"
            )
        # read now: a part that cannot be read is none
        part = _Part(changes.shards, changes.parts, self._batches(changes))
        self.newest = max(self.newest, changes.epoch)
        there.setdefault((version, changes.shard, changes.part), part)
        return self._advance()

    def missing(self, map_version: int, shards: int) -> list[int]:
        """The shards of this map whose changes of the epoch behind `epoch` have not come."""
        there = self._changes.get(self.epoch + 1, {})
        return [shard for shard in range(shards) if not _has_all(there, map_version, shard)]

    def _accept(self, subscription: int) -> bool:
        """Whether a message belongs to this one. Before the snapshot is complete the newest subscription counts: it was
        asked for because the snapshot of the one before did not come."""
        if self.epoch < 0 and subscription > self.id:
            if self.id:
                self.strays.append(self.id)
                self._snapshot, self._changes = PartsByEpoch(), {}
            self.id = subscription
        elif self.id == 0:
            self.id = subscription
        elif subscription != self.id and subscription not in self.strays:
            self.strays.append(subscription)
        return subscription == self.id

    def _advance(self) -> list[StoredChange]:
        complete: list[StoredChange] = []
        while self.epoch >= 0:
            parts = _whole(self._changes.get(self.epoch + 1, {}))
            if parts is None:
                break
            del self._changes[self.epoch + 1]
            self.epoch += 1
            complete.append(StoredChange(self.epoch, self._rows(part.rows for part in parts)))
        for epoch in [epoch for epoch in self._changes if 0 <= epoch <= self.epoch]:
            del self._changes[epoch]
        return complete

    def _batches(self, message: SnapshotAnswer | Changes) -> _Batches:
        return [
            (part.view, self._readers[part.view].batch(part))
            for part in message.views
            if part.view in self.views
        ]

    def _rows(self, parts: Iterable[_Batches]) -> dict[int, ChangedRows]:
        batches: dict[int, list[Batch]] = {view: [] for view in self.views}
        for part in parts:
            for view, batch in part:
                batches[view].append(batch)
        return {view: ChangedRows(its) for view, its in batches.items()}


def change_for_people(reader: ViewReader, view: int, change: StoredChange) -> Change:
    """The change of one view."""
    return Change(reader, change.epoch, change.rows[view], change.snapshot)


def _has_all(there: dict[_Place, _Part], map_version: int, shard: int) -> bool:
    parts = [part.parts for place, part in there.items() if place[:2] == (map_version, shard)]
    return bool(parts) and len(parts) == parts[0]


def _whole(there: dict[_Place, _Part]) -> list[_Part] | None:
    """The parts of an epoch, in the order of their places, if those of all nodes of one map have come."""
    for version in dict.fromkeys(place[0] for place in there):
        parts = {place: part for place, part in there.items() if place[0] == version}
        shards = next(iter(parts.values())).shards
        if all(_has_all(parts, version, shard) for shard in range(shards)):
            return [parts[place] for place in sorted(parts)]
    return None
