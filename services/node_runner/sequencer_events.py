"""What a sequencer hears, what follows from it, and its bounds; `sequencer.py` says what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero.batch import Writes
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages import LogRecord, Message

DAY_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class SequencerOptions:
    """Bounds and rhythm. Bytes are of transaction payloads (of a record: as they are handed out), times in seconds
    unless the name says otherwise."""

    record_bytes: int = 4 * 2**20
    """A record takes what waits up to about this much; one transaction larger than that goes alone."""
    window_epochs: int = 8
    """No hand-out while this many handed-out epochs are unfinished."""
    ahead_bytes: int = 64 * 2**20
    """No new record while those not handed out yet hold more than this."""
    pending_bytes: int = 128 * 2**20
    """Beyond this, clients are told to wait and nothing is kept of what they send."""
    save_interval_seconds: float = 1.0
    """An epoch is flagged `save` when this much time has passed since the last one that was."""
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
    """The record that is in the log at this epoch, as read back, and the newest base in the store."""

    record: LogRecord
    newest_base: int


@dataclass(frozen=True, slots=True)
class RowsMissing:
    """A node has not got what was handed out to it of an epoch."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Look:
    """Is anything overdue? Comes every second or so."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed that `WakeAfter` asked for."""


SequencerEvent = FromClient | ShardFinished | RecordThere | RowsMissing | Look | Tick

# ---- effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """Create this record, then say `RecordThere` with the one that is there."""

    record: LogRecord


@dataclass(frozen=True, slots=True)
class HandOutEpoch:
    """`Rows` of stage 1 for `targets`, shards of this generation; `writes[i]` are shard i's. See `HandOut` for `again`
    and `finished`."""

    record: LogRecord
    writes: tuple[tuple[Writes, ...], ...]
    generation: int
    again: bool
    finished: int
    targets: tuple[int, ...]


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


SequencerEffect = Append | HandOutEpoch | AskNodes | Answer | SettleMessages | WakeAfter | Deposed
