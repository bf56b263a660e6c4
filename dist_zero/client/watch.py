"""Watching a view: a pure object that turns what nodes send into one change per epoch, in order.

A subscription begins with a snapshot as of the epoch of its record (or behind the epoch `after` that the
caller has seen); from then on every node sends its changes of every epoch, also empty ones, and an epoch
counts when all nodes' have come. What is missing is asked for again; when a node has forgotten it, there is a
new snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dist_zero.client.snapshot import PartsByEpoch, ViewReader, check_part
from dist_zero.row import ViewRow
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages import EPOCHS_AHEAD_MAX, Changes, SnapshotAnswer

Rows = list[tuple[StoredRow, int]]
"""Rows and by how much each of them changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one epoch changed in a view. With `snapshot`, `inserted` is the whole view, and whatever was known
    before is to be forgotten. `epoch` is the token to go on from: `watch(..., after=change.epoch)`."""

    epoch: int
    inserted: list[ViewRow]
    deleted: list[ViewRow]
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class StoredChange:
    """As `Change`, in stored values, by view number: every epoch, also one that changed nothing."""

    epoch: int
    rows: dict[int, Rows]
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """One of a node's `parts` messages on an epoch, read."""

    parts: int
    rows: dict[int, Rows]


class Subscription:
    """One subscription's progress. `epoch` is the last one that is complete, -1 before the snapshot."""

    def __init__(
        self, request: int, views: tuple[int, ...], after: int, readers: dict[int, ViewReader]
    ) -> None:
        self.request, self.views, self.after = request, views, after
        self.id = 0
        self.strays: list[int] = []
        """Other subscriptions that came of the same request sent twice: to be ended."""
        self.map_version = 0
        self.shards = 0
        self.epoch = after if after else -1
        self.newest = self.epoch
        """The newest epoch that any node has sent something of."""
        self._readers = readers
        self._snapshot = PartsByEpoch()
        self._changes: dict[int, dict[tuple[int, int], _Part]] = {}

    def on_snapshot(self, answer: SnapshotAnswer) -> list[StoredChange]:
        """A part of the snapshot; returns what is complete by it."""
        if not self._accept(answer.subscription) or self.epoch >= 0:
            return []
        self.map_version, self.shards = answer.map_version, answer.shards
        complete = self._snapshot.add(answer)
        if complete is None:
            return []
        self.epoch = answer.epoch
        self.newest = max(self.newest, self.epoch)
        rows = self._rows(complete)
        return [StoredChange(self.epoch, rows, snapshot=True), *self._advance()]

    def on_changes(self, changes: Changes) -> list[StoredChange]:
        """A part of an epoch's changes; returns the epochs that are complete by it."""
        check_part(changes)
        if not self._accept(changes.subscription) or changes.epoch <= self.epoch:
            return []
        far = 0 <= self.epoch < changes.epoch - EPOCHS_AHEAD_MAX
        if far or changes.shards != (self.shards or changes.shards):
            raise MalformedMessage(
                f"changes of epoch {changes.epoch} by one of {changes.shards} shards, where {self.epoch} is the"
                f" newest complete one and {self.shards} shards send them"
            )
        part = _Part(changes.parts, self._rows([changes]))  # read now: a part that cannot be read is none
        self.map_version, self.shards = changes.map_version, changes.shards
        self.newest = max(self.newest, changes.epoch)
        self._changes.setdefault(changes.epoch, {}).setdefault((changes.shard, changes.part), part)
        return self._advance()

    def missing(self) -> list[int]:
        """The shards whose changes of the epoch behind `epoch` have not come; all of them when nothing is
        known."""
        there = self._changes.get(self.epoch + 1, {})
        return [shard for shard in range(self.shards) if not self._has_all(there, shard)]

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
            there = self._changes.get(self.epoch + 1, {})
            if not there or not all(self._has_all(there, shard) for shard in range(self.shards)):
                break
            del self._changes[self.epoch + 1]
            self.epoch += 1
            complete.append(StoredChange(self.epoch, self._joined([there[place] for place in sorted(there)])))
        for epoch in [epoch for epoch in self._changes if 0 <= epoch <= self.epoch]:
            del self._changes[epoch]
        return complete

    def _joined(self, parts: list[_Part]) -> dict[int, Rows]:
        return {view: [item for part in parts for item in part.rows[view]] for view in self.views}

    def _has_all(self, there: dict[tuple[int, int], _Part], shard: int) -> bool:
        parts = [part.parts for (of, _), part in there.items() if of == shard]
        return bool(parts) and len(parts) == parts[0]

    def _rows(self, messages: Iterable[SnapshotAnswer | Changes]) -> dict[int, Rows]:
        rows: dict[int, Rows] = {view: [] for view in self.views}
        for message in messages:
            for part in message.views:
                if part.view in rows:
                    rows[part.view].extend(self._readers[part.view].batch(part).items())
        return rows


def change_for_people(reader: ViewReader, view: int, change: StoredChange) -> Change:
    """The change of one view, its rows in the view's order, each as often as its weight says."""
    inserted = [row for row, weight in change.rows[view] for _ in range(weight)]
    deleted = [row for row, weight in change.rows[view] for _ in range(-weight)]
    return Change(
        change.epoch,
        reader.user_rows(reader.sorted(inserted)),
        reader.user_rows(reader.sorted(deleted)),
        change.snapshot,
    )
