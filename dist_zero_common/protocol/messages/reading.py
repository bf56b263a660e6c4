"""Clients, the sequencer and nodes, of reading: rows, snapshots, and every change of a view from some epoch on.

A snapshot and a subscription are asked of the sequencer, which gives them an epoch, and answered by each node. One
row is asked of the node that owns its key."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.protocol.messages.pieces import BatchBlob


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Rows of these views at one epoch that includes every write committed before."""

    request: int
    views: tuple[str, ...]
    reply_to: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Every change of these views from some epoch on. `after` 0: beginning with a snapshot; else the last epoch that
    the asker has seen, and nodes that have forgotten what came behind it answer `ChangesGone`."""

    request: int
    views: tuple[str, ...]
    after: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop sending the changes of this subscription."""

    subscription: int


@dataclass(frozen=True, slots=True)
class AwaitEpoch:
    """Tell me when every node has finished this epoch."""

    request: int
    epoch: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class EpochFinished:
    """Every node has finished `epoch`, which is at least the one asked for."""

    request: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Get:
    """One row of a keyed view, from the node that owns the key, once it has finished `at_least`. `key`: one row."""

    request: int
    program: str
    map_version: int
    shard: int
    view: int
    key: BatchBlob
    at_least: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class Got:
    """The row (one or none) as of `epoch`."""

    request: int
    epoch: int
    row: BatchBlob


@dataclass(frozen=True, slots=True)
class ViewRows:
    """Rows or changes of view number `view`."""

    view: int
    batch: BatchBlob


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """Rows that one operator leaves out of view number `view`; see `dist_zero.executor.ErrorCount`."""

    view: int
    operator: int
    label: str
    reason: str
    example: str
    count: int


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """One node's part of a snapshot as of `epoch`, in `parts` messages numbered from 0. `shards` nodes answer.

    `subscription` is 0 for a snapshot request. `errors` and `missed` (by dataset number) come with part 0. `shown` says
    by which views the numbers of views are, see `compiler/fingerprint.py`.
    """

    request: int
    subscription: int
    epoch: int
    map_version: int
    shard: int
    shards: int
    part: int
    parts: int
    views: tuple[ViewRows, ...]
    errors: tuple[ErrorEntry, ...]
    missed: tuple[int, ...]
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What one node's part of the subscribed views changed by in `epoch`; sent for every epoch, also when empty. For
    `shown` see `SnapshotAnswer`."""

    request: int
    subscription: int
    epoch: int
    map_version: int
    shard: int
    shards: int
    part: int
    parts: int
    views: tuple[ViewRows, ...]
    shown: int = 0


@dataclass(frozen=True, slots=True)
class AskChanges:
    """The changes of `epoch` have not come: send them again."""

    program: str
    map_version: int
    shard: int
    subscription: int
    epoch: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class ChangesGone:
    """The node no longer has the changes behind `epoch` (or does not know the subscription): take a new snapshot."""

    request: int
    subscription: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """To a reader: the nodes of this program are being placed anew, or are elsewhere by now. Ask the scheduler."""

    program: str
