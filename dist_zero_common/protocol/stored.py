"""What is in the store: records of logs, bases, checkpoints, the log of the schedulers; and what places in a log say.

The same structs as in `schemas/messages.capnp`, field by field, as `messages` has those that travel.
"""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.protocol.messages.control import Placement
from dist_zero_common.protocol.messages.epochs import SnapshotWanted, SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import BatchBlob, ShardMap, TransactionPlace
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits


@dataclass(frozen=True, slots=True)
class RecordedOpen:
    """A session's beginning; its id is its place in the log (`session_id`)."""

    client: str
    request: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class RecordedTransaction:
    """A committed transaction."""

    session: int
    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One epoch. `incarnation` is the sequencer's that wrote it; `time_us` is UTC and never goes back. `expired` are
    the sessions that end here because they were idle for too long, measured between record times. `save`: every node
    saves its state as of this epoch, with `everything` all of it, else what changed since the last time. `begins`: this
    record opens its generation, at that base, and by `shard_map`, which all epochs behind the base go by. `voids`:
    these transactions say nothing from now on; they are behind that base. `ends`: when this was written, nothing behind
    that epoch was handed out in its generation, 0 where nothing is said about that. `graph`: the program that the
    generation runs; `forgets`: it shows other views than the one before, and readers begin again. `filled`: of a
    program that takes the place of another, so many slices are filled from here on."""

    epoch: int
    time_us: int
    generation: int
    incarnation: int
    map_version: int
    save: bool
    expired: tuple[int, ...]
    opens: tuple[RecordedOpen, ...]
    transactions: tuple[RecordedTransaction, ...]
    snapshots: tuple[SnapshotWanted, ...]
    subscriptions: tuple[SubscriptionWanted, ...]
    unsubscriptions: tuple[int, ...]
    everything: bool = False
    begins: BaseId | None = None
    shard_map: ShardMap | None = None
    voids: tuple[TransactionPlace, ...] = ()
    ends: int = 0
    graph: bytes = b""
    forgets: bool = False
    filled: int = 0


@dataclass(frozen=True, slots=True)
class BaseId:
    """Which base: of its generation, at its epoch."""

    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class BaseSession:
    """A session as of a base. `request`, `reply_to` and `opened_at`: who asked for it, and the number that was
    committed then. `numbers`, `epochs` and `hashes` (16 bytes each): of its newest transactions."""

    session: int
    client: str
    committed: int
    used_us: int
    request: int
    reply_to: str
    opened_at: int
    numbers: tuple[int, ...]
    epochs: tuple[int, ...]
    hashes: bytes


@dataclass(frozen=True, slots=True, order=True)
class CheckpointId:
    """The saved state of a node: of which node, as of which epoch, and in which generation it was written."""

    node: str
    epoch: int
    generation: int

    def __str__(self) -> str:
        return f"{self.node} at epoch {self.epoch} in generation {self.generation}"


@dataclass(frozen=True, slots=True)
class Base:
    """A state to begin at, and what a sequencer has to know of the log up to there: base 0 holds the program and its
    first shard map, and no state. A base belongs to a generation; the first one of a generation is a copy of the one
    that its opening record names. `checkpoints`: by shard, none at epoch 0. `saves`: how many of them in a row, this
    one included, hold only what changed; by shard, how much those hold, and how much the one before them, which holds
    everything. `saved_map`: by which map the checkpoints were saved, where that is another one than `shard_map`;
    `saved_fingerprint`: by which plan, where that is not the program's own. `filled`: of a program that takes the place
    of another, so many slices are filled; what records of generations before `filled_since` say of that is of other
    changes."""

    epoch: int
    generation: int
    time_us: int
    shard_map: ShardMap
    graph: bytes
    checkpoints: tuple[CheckpointId, ...] = ()
    sessions: tuple[BaseSession, ...] = ()
    subscriptions: tuple[SubscriptionWanted, ...] = ()
    saves: int = 0
    changed_bytes: tuple[int, ...] = ()
    state_bytes: tuple[int, ...] = ()
    saved_map: ShardMap | None = None
    saved_fingerprint: str = ""
    filled: int = 0
    filled_since: int = 0


@dataclass(frozen=True, slots=True)
class TableBlob:
    """Rows of one table of a node's state, or what changed in it: rows that are there now, rows that are there no
    more. A table may come in several of these, one behind the other."""

    name: str
    puts: BatchBlob | None
    deletes: BatchBlob | None


@dataclass(frozen=True, slots=True)
class CheckpointPart:
    """A piece of a checkpoint that is too large for one object; `index` counts from 0."""

    program: str
    node: str
    generation: int
    epoch: int
    index: int
    tables: tuple[TableBlob, ...]


@dataclass(frozen=True, slots=True)
class CheckpointPiece:
    """The object that holds part number i: its length and the XXH64 of its bytes."""

    size_bytes: int
    checksum: int


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """The state of a node at an epoch; the checkpoint is there when this object is. `whole`: all of it; otherwise what
    changed since the node's checkpoint at `previous`, which may be of an earlier generation. `links`: how many
    checkpoints are read to make the state, this one included. The content is in `tables`, or in the parts that
    `pieces` names. `size_bytes` and `entries` are of the content."""

    program: str
    node: str
    generation: int
    epoch: int
    fingerprint: str
    whole: bool
    previous_generation: int
    previous_epoch: int
    links: int
    size_bytes: int
    entries: int
    tables: tuple[TableBlob, ...]
    pieces: tuple[CheckpointPiece, ...]


@dataclass(frozen=True, slots=True)
class RecordedPart:
    """Where a node or sequencer of a program is to run, and its own incarnation there."""

    machine: str
    runner: str
    runner_incarnation: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class RecordedProgram:
    """What schedulers have decided on a program. `wanted`: it shall run, where `nodes` (by shard), `sequencer` and
    `placement` say, which are empty and None before it was placed. Else it is being removed, and `nodes` are the parts
    that may still run. In the placement, `scheduler` is zero. `limits`: it grows and shrinks by itself. `asleep`:
    nothing of it shall run until somebody wants something of it, and `nodes` are the parts that may still run. `tried`:
    splits that are still to show that they help, or have not helped. `graph`: the program that the placement's
    generation runs; nothing: as the base has it. `wished_map`, `wished_graph`: as the next generation is to run it;
    None and nothing: as the placement has it, or without one the base."""

    program: str
    wanted: bool
    nodes: tuple[RecordedPart, ...]
    sequencer: RecordedPart | None
    placement: Placement | None
    limits: NodeLimits | None = None
    asleep: bool = False
    tried: tuple[RecordedSplit, ...] = ()
    graph: bytes = b""
    wished_map: ShardMap | None = None
    wished_graph: bytes = b""


@dataclass(frozen=True, slots=True)
class RecordedSplit:
    """The interval of a node that was divided, and how loaded it was then, in thousandths of what a node may be."""

    first: int
    last: int
    load_milli: int


@dataclass(frozen=True, slots=True)
class RecordedMachines:
    """What schedulers have decided on machines. `drained`: they shall run nothing any more, because somebody said so;
    `leaving`: because they are to be given back. `limits`: their number is automatic. `wanted`: what it is by now, or
    what somebody has asked for; 0 where neither is so. `schedulers`: how many hosts with a scheduler somebody has asked
    for, or 0."""

    drained: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    limits: MachineLimits | None = None
    wanted: int = 0
    schedulers: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerRecord:
    """One record of the schedulers' log. `scheduler` is the number of the one that wrote it: that of the record with
    which it began to lead. `complete`: `programs` are all that there are; else those that have changed, and `removed`
    the names of those that are gone. `machines` is None where nothing of that has changed."""

    number: int
    scheduler: int
    name: str
    complete: bool
    programs: tuple[RecordedProgram, ...]
    removed: tuple[str, ...]
    machines: RecordedMachines | None = None


def place_in_log(epoch: int, index: int) -> int:
    """The id of a session or subscription: the epoch of its record and its place in it."""
    return (epoch << 20) | index


def epoch_of_place(place: int) -> int:
    """The epoch in whose record a session or subscription began."""
    return place >> 20


def index_of_place(place: int) -> int:
    """Its place in that record."""
    return place & ((1 << 20) - 1)
