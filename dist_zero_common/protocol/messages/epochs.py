"""The sequencer and nodes, and nodes among themselves: what an epoch is made of, and how far everybody is.

Every kind of rows may be lost, and is asked for again by whoever lacks it."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.protocol.messages.pieces import BatchBlob, WritesBlob

EPOCHS_AHEAD_MAX = 100_000
"""What speaks of an epoch this far beyond the newest one known is none of ours: it would be kept for ever."""


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """A snapshot request as it stands in a record; views by number."""

    request: int
    views: tuple[int, ...]
    reply_to: str


@dataclass(frozen=True, slots=True)
class SubscriptionWanted:
    """A subscription as it stands in a record; its id is its place in the log."""

    subscription: int
    request: int
    views: tuple[int, ...]
    after: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class NodeWrites:
    """The writes of an epoch whose keys shard `target` owns."""

    target: int
    writes: tuple[WritesBlob, ...]


@dataclass(frozen=True, slots=True)
class HandOut:
    """`Rows` of stage 1 of an epoch for all `targets` of one runner; targets that are not in `writes` get none.

    An epoch that is `again` handed out was in the log when the sequencer started: readers may have had it before, and
    hear of it only if they ask. `base`: the newest one; nobody will ask for rows of epochs up to there again.
    `everything`: what is saved at this epoch is all of the state, not just what changed. `forgets`: transactions are
    void from here on, or there are other views, so what readers were told of epochs before is not so any more, and they
    begin again. `filled`: of a program that takes the place of another, so many slices are filled from here on, and
    `filled_before` before."""

    program: str
    generation: int
    epoch: int
    map_version: int
    save: bool
    time_us: int
    targets: tuple[int, ...]
    writes: tuple[NodeWrites, ...]
    snapshots: tuple[SnapshotWanted, ...]
    subscriptions: tuple[SubscriptionWanted, ...]
    unsubscriptions: tuple[int, ...]
    again: bool
    base: int
    everything: bool
    forgets: bool = False
    filled_before: int = 0
    filled: int = 0


@dataclass(frozen=True, slots=True)
class ExchangeBatch:
    """Rows that operator number `exchange` sends."""

    exchange: int
    batch: BatchBlob


@dataclass(frozen=True, slots=True)
class StageRows:
    """`Rows` of a stage above 1, from one node to another, in `parts` messages numbered from 0."""

    program: str
    generation: int
    epoch: int
    stage: int
    map_version: int
    sender: int
    target: int
    part: int
    parts: int
    batches: tuple[ExchangeBatch, ...]


@dataclass(frozen=True, slots=True)
class EmptyRows:
    """Empty `Rows` of one epoch and stage: bit (sender × n + target) of `bits` (least significant first), where n is
    the number of shards of the map."""

    program: str
    generation: int
    epoch: int
    stage: int
    map_version: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class AskRows:
    """Shard `asker` has not got the `Rows` of this stage and epoch, or not all of their parts: send them again. Stage 1
    is asked of the sequencer, a later one of shard `sender`."""

    program: str
    generation: int
    map_version: int
    epoch: int
    stage: int
    sender: int
    asker: int


@dataclass(frozen=True, slots=True)
class AskDone:
    """How far are the nodes of this program that you host? Epochs up to `handed_out` have been handed out."""

    program: str
    generation: int
    map_version: int
    handed_out: int


@dataclass(frozen=True, slots=True)
class Done:
    """The node has finished every epoch up to this one."""

    program: str
    generation: int
    map_version: int
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The node's state as of this epoch is in the store. `changed_bytes`: what was written for it; `state_bytes`: what
    its state took when it was last written as a whole, 0 if it never was here."""

    program: str
    generation: int
    map_version: int
    shard: int
    epoch: int
    changed_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The node has begun, at this epoch, which is a base: whoever has rows for it of later ones sends them (again)."""

    program: str
    generation: int
    map_version: int
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RowsGone:
    """What shard `asker` asked for is of an epoch that the base has passed, so nobody keeps it: begin again at the
    newest base."""

    program: str
    generation: int
    map_version: int
    epoch: int
    asker: int


@dataclass(frozen=True, slots=True)
class ReaderLost:
    """Nobody reads this inbox of a client's any more: its subscriptions end."""

    program: str
    generation: int
    inbox: str
