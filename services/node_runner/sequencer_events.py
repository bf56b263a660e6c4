"""What a sequencer hears, what follows from it, and its bounds; `sequencer.py` says what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero.batch import Writes
from dist_zero.executor import NOTHING_FILLED
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    LogRecord,
)

DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class SequencerOptions:
    """Bounds and rhythm. Bytes are of transaction payloads (of a record: as they are handed out), times in seconds
    unless the name says otherwise."""

    record_bytes: int = 4 * 2**20
    """A record takes what waits up to about this much at first; one transaction larger than that goes alone."""
    record_bytes_max: int = 32 * 2**20
    """As much where the nodes are fast (`pace.py`)."""
    window_epochs: int = 8
    """No hand-out while this many handed-out epochs are unfinished."""
    ahead_bytes: int = 64 * 2**20
    """No new record while those not handed out yet hold more than this."""
    pending_bytes: int = 128 * 2**20
    """Beyond this, clients are told to wait and nothing is kept of what they send."""
    save_interval_seconds: float = 1.0
    """An epoch is flagged `save` when this much time has passed since the last one that was."""
    behind_bytes: int = 128 * 2**20
    """No hand-out while what was handed out behind the base holds more than this; an epoch is flagged `save` whenever a
    quarter of it has come."""
    ended_seconds: float = 10.0
    """For so long a generation that has come to its end waits for the next one; then it goes on."""
    fill_bytes: int = 4 * 2**20
    """So much of the state, about, is filled into new views in one epoch."""
    collects: bool = True
    """Whether what no base reaches any more is deleted; else the log is kept whole."""
    session_idle_us: int = DAY_US
    """A session that wrote nothing for this long, by record time, is forgotten."""


# ---- events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Now:
    """The time at which an event is handled."""

    us: int
    monotonic: float


@dataclass(frozen=True, slots=True)
class FromClient:
    """A message from the clients' inbox."""

    message: Message
    token: Token


@dataclass(frozen=True, slots=True)
class ShardFinished:
    """A node has finished every epoch up to this one."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RecordThere:
    """The record that is in the log at this epoch, as read back, and the bases that are in the store, in the order of
    `EpochLog.bases`."""

    record: LogRecord
    bases: tuple[BaseId, ...]


@dataclass(frozen=True, slots=True)
class ShardSaved:
    """A node's state as of this epoch is in the store. For the bytes see `Saved`."""

    shard: int
    epoch: int
    changed_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class ShardBegun:
    """A node has begun, perhaps again, at this epoch."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class BaseThere:
    """A base that was to be written is in the store."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ReaderGone:
    """Nobody reads this inbox of a client's any more."""

    inbox: str


@dataclass(frozen=True, slots=True)
class RowsMissing:
    """A node has not got what was handed out to it of an epoch."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EndWanted:
    """Another generation is about to begin: save once more, and hand out nothing behind that."""


@dataclass(frozen=True, slots=True)
class Look:
    """Is anything overdue? Comes every second or so."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed that `WakeAfter` asked for."""


SequencerEvent = (
    FromClient
    | ShardFinished
    | ShardSaved
    | ShardBegun
    | RecordThere
    | BaseThere
    | RowsMissing
    | ReaderGone
    | EndWanted
    | Look
    | Tick
)

# ---- effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """Create this record, then say `RecordThere` with the one that is there."""

    record: LogRecord


@dataclass(frozen=True, slots=True)
class HandOutEpoch:
    """`Rows` of stage 1 for `targets`, shards of this generation; `writes[i]` are shard i's. See `HandOut` for `again`,
    `base` and `forgets`. `fill`: the slices that this epoch fills."""

    record: LogRecord
    writes: tuple[tuple[Writes, ...], ...]
    generation: int
    again: bool
    base: int
    targets: tuple[int, ...]
    forgets: bool = False
    fill: range = NOTHING_FILLED


@dataclass(frozen=True, slots=True)
class WriteBase:
    """Create this base, then say `BaseThere`."""

    base: Base


@dataclass(frozen=True, slots=True)
class TellGone:
    """Tell a shard that nobody has rows of this epoch for it any more."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class LoadAgain:
    """What this sequencer was loaded from is not the right base any more: load it again."""

    reason: str


@dataclass(frozen=True, slots=True)
class AskNodes:
    """Ask these shards how far they are."""

    shards: tuple[int, ...]
    handed_out: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a message to a client's inbox."""

    inbox: str
    message: Message


@dataclass(frozen=True, slots=True)
class SettleMessages:
    """These messages may be forgotten."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Send a `Tick` after this time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another sequencer is ahead: this one does nothing any more."""

    reason: str


SequencerEffect = (
    Append
    | WriteBase
    | HandOutEpoch
    | AskNodes
    | TellGone
    | Answer
    | SettleMessages
    | WakeAfter
    | LoadAgain
    | Deposed
)
