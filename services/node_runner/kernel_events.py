"""What a node's kernel hears, and what follows from it; `kernel.py` says what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dist_zero.batch import Batch, Writes
from dist_zero.executor import NOTHING_FILLED
from dist_zero.state import TableChange
from dist_zero.types import Row
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import SnapshotWanted, SubscriptionWanted

Batches = tuple[tuple[int, Batch], ...]
"""Pairs (exchange, rows)."""

# ---- events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOutEvent:
    """The sequencer's `Rows` of stage 1 for this node."""

    epoch: int
    save: bool
    everything: bool
    writes: tuple[Writes, ...]
    snapshots: tuple[SnapshotWanted, ...]
    subscriptions: tuple[SubscriptionWanted, ...]
    unsubscriptions: tuple[int, ...]
    again: bool
    base: int
    token: Token
    forgets: bool = False
    fill: range = NOTHING_FILLED


@dataclass(frozen=True, slots=True)
class RowsEvent:
    """One part of a peer's `Rows` of a stage above 1."""

    epoch: int
    stage: int
    sender: int
    part: int
    parts: int
    batches: Batches
    token: Token


@dataclass(frozen=True, slots=True)
class GetEvent:
    """A reader asks for one row, as of an epoch that is at least `at_least`."""

    request: int
    view: int
    key: Row
    at_least: int
    reply_to: str
    token: Token


@dataclass(frozen=True, slots=True)
class AskChangesEvent:
    """A watcher has not got the changes of one epoch."""

    subscription: int
    epoch: int
    reply_to: str
    token: Token


@dataclass(frozen=True, slots=True)
class AskRowsEvent:
    """A peer has not got our `Rows` of one stage and epoch."""

    epoch: int
    stage: int
    asker: int


@dataclass(frozen=True, slots=True)
class PeerBegun:
    """A peer has begun, perhaps again, at this epoch: it needs our `Rows` of all later ones."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class GoneEvent:
    """Nobody keeps rows of this epoch any more, which this node has asked for."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Look:
    """Time has passed (`now` is in seconds): is anything overdue? The sequencer has handed out up to `handed_out`, as
    far as is known here."""

    now: float
    handed_out: int


@dataclass(frozen=True, slots=True)
class ReaderGone:
    """An inbox that this node wrote to does not exist any more."""

    inbox: str


@dataclass(frozen=True, slots=True)
class MayStep:
    """The careful step that was asked for is marked."""

    epoch: int
    stage: int


NodeEvent = (
    HandOutEvent
    | RowsEvent
    | GetEvent
    | AskChangesEvent
    | AskRowsEvent
    | PeerBegun
    | GoneEvent
    | Look
    | ReaderGone
    | MayStep
)

# ---- effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendRows:
    """`Rows(stage, epoch)` for another shard; `batches` may be empty."""

    target: int
    epoch: int
    stage: int
    batches: Batches


@dataclass(frozen=True, slots=True)
class AskForRows:
    """Ask shard `sender` for its `Rows` of this stage and epoch; for stage 1, the sequencer."""

    stage: int
    epoch: int
    sender: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Tell the sequencer that every epoch up to this one is finished here."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Put this into the store: the state as of this epoch, all of it, or what changed since the last one. `changes` are
    as `Executor.freeze` gives them out."""

    epoch: int
    everything: bool
    changes: Iterator[TableChange | None]


@dataclass(frozen=True, slots=True)
class TellGone:
    """Tell a peer that its rows of this epoch are not kept any more."""

    asker: int
    epoch: int


@dataclass(frozen=True, slots=True)
class BeginAgain:
    """This node cannot go on from where it is: it has to begin again, at the newest base."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a message to a client's inbox."""

    inbox: str
    message: Message


@dataclass(frozen=True, slots=True)
class Settle:
    """These messages may be forgotten."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Halted:
    """The node stands still from now on; `reason` is the evidence, and `logged` the same without what an error of
    the executor said, which may hold values of rows (empty: there is no difference). Where an epoch cannot be computed:
    `epoch` and `stage`, and in stage 1 the `places` of the transactions in the record with writes for this node."""

    reason: str
    epoch: int = 0
    stage: int = 0
    places: tuple[int, ...] = ()
    logged: str = ""


@dataclass(frozen=True, slots=True)
class TryStep:
    """A step is to be taken carefully: say `MayStep` when it is marked, and take the mark away when that is handled."""

    epoch: int
    stage: int


NodeEffect = (
    SendRows | AskForRows | Finished | SaveState | TellGone | BeginAgain | Reply | Settle | Halted | TryStep
)
