"""Everything that services, nodes and clients say to each other, as frozen dataclasses.

`schemas/messages.capnp` holds the same structs field by field (snake_case here, camelCase there), and `codec.py` maps
one to the other. What is sent is an `Envelope`: all that is ready for one inbox, of whatever kind. Column data are
opaque here (`BatchBlob`); `dist_zero/batch.py` knows what they mean and checks them.

Nodes are named by their place in a shard map (`shard`, with `map_version`); a map never changes, so the pair names
one node for ever. Requests carry a number chosen by the asker, which comes back in the answer; the asker may ask
again with the same number. Bytes fields called `graph` and `payload` are messages of their own (`GraphBlob`,
`Payload`), kept encoded so that they are stored and hashed as they came.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

TRANSACTION_BYTES_MAX = 15 * 2**20
"""Largest transaction, as it is handed out: its payload and 16 bytes per row. The broker's 16 MiB less room for the
envelope and for the blocks into which the writes are divided."""

ENVELOPE_BYTES_MAX = 16 * 2**20
"""Largest message that any service accepts."""

EPOCHS_AHEAD_MAX = 100_000
"""What speaks of an epoch this far beyond the newest one known is none of ours: it would be kept for ever."""

# ---- shared pieces -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which node owns which hashes. `lasts[i]` is the last hash (inclusive, 64 bits) of shard i, ascending; the last
    one is 2⁶⁴ − 1. `nodes[i]` is the name of the node that owns shard i. Versions count from 1."""

    version: int
    lasts: tuple[int, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnBlob:
    """One column. `validity`: a byte per row, 1 where there is a value, empty if all have one. `values`: bool a byte
    per row; int, datetime, decimal, enum 8 bytes; float 8 bytes; str and bytes: the bytes, with `offsets` of
    row_count + 1 unsigned 8-byte positions. Little-endian."""

    validity: bytes
    offsets: bytes
    values: bytes


@dataclass(frozen=True, slots=True)
class BatchBlob:
    """Rows in columns. `weights`: 8 bytes per row, empty if all are +1."""

    row_count: int
    weights: bytes
    columns: tuple[ColumnBlob, ...]


class WriteKind(enum.Enum):
    """What a write does: insert or replace; change some columns of; remove; add to a dataset without key."""

    PUT = "put"
    UPDATE = "update"
    DELETE = "delete"
    APPEND = "append"


@dataclass(frozen=True, slots=True)
class WritesBlob:
    """Writes of one kind to one dataset. `columns`: which columns of the dataset the batch holds, in its order.

    Inside a client's payload `transactions` and `rows` are empty: rows count through the payload in order. In a
    hand-out they are 8 bytes per row: the transaction's place in the epoch, the row's place in the transaction.
    """

    dataset: int
    kind: WriteKind
    columns: tuple[int, ...]
    batch: BatchBlob
    transactions: bytes
    rows: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """The writes of one transaction, in order."""

    writes: tuple[WritesBlob, ...]


# ---- clients and the sequencer -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Start a session under a client name; deposes the older session of that name."""

    request: int
    client: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """`committed`: the last number that sessions of this client name have committed, 0 for none."""

    request: int
    session: int
    committed: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """Transaction `number` (1, 2, 3 …) of a session; `payload` is an encoded `Payload`."""

    session: int
    number: int
    payload: bytes
    reply_to: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The log has this transaction, in this epoch."""

    session: int
    number: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ResendFrom:
    """The sequencer lacks this number of the session; please send it and what follows again."""

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class SessionUnknown:
    """No such session: expired, deposed, or never opened."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class TransactionRefused:
    """The transaction breaks the row types or a limit; nothing of it was recorded."""

    session: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The system is behind; the transaction was not kept. Send it again after this time."""

    session: int
    number: int
    retry_after_ms: int


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
class RequestRefused:
    """The question cannot be answered, and asking again will not help."""

    request: int
    reason: str


# ---- clients and nodes -------------------------------------------------------------------------------------


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


# ---- the sequencer and nodes -------------------------------------------------------------------------------


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


# ---- the control plane -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """A runner as its machine's agent sees it."""

    runner: str
    incarnation: int
    alive: bool


@dataclass(frozen=True, slots=True)
class MachineReport:
    """An agent's heartbeat. `inbox` is where it listens; `labels` are `name=value`."""

    machine: str
    incarnation: int
    inbox: str
    cores: int
    memory_bytes: int
    labels: tuple[str, ...]
    runners: tuple[RunnerStatus, ...]


@dataclass(frozen=True, slots=True)
class StartRunner:
    """Start this incarnation of a runner unless it, or a later one, runs. Meant for this incarnation of the `agent`
    alone: one that was started since knows nothing of what ran here before, and refuses it."""

    scheduler: int
    runner: str
    incarnation: int
    agent: int


@dataclass(frozen=True, slots=True)
class StopRunner:
    """Stop this incarnation of a runner, or an earlier one."""

    scheduler: int
    runner: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as its runner sees it; `halted`: empty, or why it stands still. `rewind`: it would go on in a new
    generation. `stage`: the first one that the epoch behind `finished_epoch` has still to run, 0 while the node has not
    begun; `waits_for`: whose rows it lacks for that, a shard + 1, or 0 for the sequencer. `saving`: the oldest epoch
    whose state is not in the store yet, 0 for none. `rows`: how many its steps have taken in since it is here,
    `busy_us`: for how long they were at it, `reads`: how often it was asked for rows or changes. `state_bytes`: how
    much its newest saves hold."""

    program: str
    generation: int
    map_version: int
    shard: int
    incarnation: int
    finished_epoch: int
    halted: str
    rewind: bool = False
    stage: int = 0
    waits_for: tuple[int, ...] = ()
    saving: int = 0
    rows: int = 0
    busy_us: int = 0
    reads: int = 0
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SequencerStatus:
    """A sequencer as its runner sees it: the newest epoch in the log, the newest that every node has finished, and the
    newest base. `rewind`: it would go on in a new generation. `proposing`: the epoch whose record is being created, 0
    for none. `ends`: the epoch behind which it hands out nothing, 0 for none. `slices`: of a program that takes the
    place of another, so many are to be filled, and `filled` are; that all are is said when a base has them. `needs`:
    the program that could begin at the base that there is, where the one that was to cannot."""

    program: str
    incarnation: int
    generation: int
    nodes_inbox: str
    epoch: int
    finished_epoch: int
    halted: str
    rewind: bool = False
    base: int = 0
    proposing: int = 0
    ends: int = 0
    slices: int = 0
    filled: int = 0
    needs: bytes = b""


@dataclass(frozen=True, slots=True)
class PreparedStatus:
    """A node that is prepared: for the `PrepareNodes` of this version, as of the base of this epoch, 0 before there is
    anything. `ready`: it has caught up with the newest base."""

    program: str
    version: int
    shard: int
    epoch: int
    ready: bool


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """A runner's heartbeat."""

    runner: str
    incarnation: int
    machine: str
    inbox: str
    nodes: tuple[NodeStatus, ...]
    sequencers: tuple[SequencerStatus, ...]
    prepared: tuple[PreparedStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of a program listen. `inboxes[i]` belongs to shard i of the map. Higher versions replace; a
    version is an incarnation, newer than those of the parts."""

    scheduler: int
    program: str
    version: int
    generation: int
    shard_map: ShardMap
    inboxes: tuple[str, ...]
    clients_inbox: str
    nodes_inbox: str


@dataclass(frozen=True, slots=True)
class HostNode:
    """Run this node, unless this incarnation of it, or a later one, runs. `graph` is an encoded `GraphBlob`."""

    scheduler: int
    program: str
    generation: int
    shard_map: ShardMap
    shard: int
    incarnation: int
    graph: bytes


@dataclass(frozen=True, slots=True)
class HostSequencer:
    """Run the program's sequencer, unless this incarnation of it, or a later one, runs. Its first record opens
    `generation`, unless the log is there already, and says that these transactions are void."""

    scheduler: int
    program: str
    incarnation: int
    shard_map: ShardMap
    inboxes: tuple[str, ...]
    graph: bytes
    generation: int
    voids: tuple[TransactionPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class PrepareNodes:
    """Load beforehand what these shards of this map will begin with, from the bases of `generation`, which runs now,
    and follow them; and prepare no other nodes of the program. A higher version replaces; it is an incarnation. No
    shards: forget what was prepared up to this version."""

    scheduler: int
    program: str
    version: int
    generation: int
    shard_map: ShardMap
    shards: tuple[int, ...]
    graph: bytes


@dataclass(frozen=True, slots=True)
class EndGeneration:
    """Another generation is about to begin: let this incarnation of the program's sequencer save once more and hand out
    nothing behind that. If none begins, it goes on after a while."""

    scheduler: int
    program: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class DropProgram:
    """Stop all parts of a program up to this incarnation; what is in the store stays. Later ones were started since,
    and a `HostNode` or `HostSequencer` up to it that comes late is refused."""

    scheduler: int
    program: str
    incarnation: int


# ---- clients and the scheduler -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChangeWanted:
    """That a program of another name or content may be changed. `only_tells`: what it would keep, fill and drop, and
    nothing is done. `drops`: datasets that are left out are dropped, with their rows. `begins_empty`: names of views
    that cannot be filled, and shall begin empty."""

    only_tells: bool
    drops: bool
    begins_empty: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubmitProgram:
    """Run this program on `nodes` nodes. Submitting what already runs changes nothing; another one of its name is
    refused, unless `change` is there."""

    request: int
    graph: bytes
    nodes: int
    reply_to: str
    change: ChangeWanted | None = None


class ProgramState(enum.Enum):
    """How far a program is."""

    STARTING = "starting"
    RUNNING = "running"
    HALTED = "halted"
    ASLEEP = "asleep"


@dataclass(frozen=True, slots=True)
class Locate:
    """Where is this program?"""

    request: int
    program: str
    reply_to: str


class Fate(enum.Enum):
    """What becomes of a dataset or view when its program is changed."""

    KEPT = "kept"
    FILLED = "filled"
    EMPTY = "empty"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """What becomes of one dataset or view (`what` says which), and why."""

    what: str
    name: str
    fate: Fate
    reason: str


@dataclass(frozen=True, slots=True)
class ProgramChange:
    """A change of a program: what it does, and how far it is. `slices`: so many are to be filled, and `filled` are."""

    lines: tuple[ChangeLine, ...]
    slices: int
    filled: int


@dataclass(frozen=True, slots=True)
class Located:
    """The answer to `SubmitProgram` and `Locate`. `placement` is None while the program is starting; `note` tells a
    person what differs from what was asked for, or why the program stands still. `change`: what was asked for is a
    change, which is not through."""

    request: int
    program: str
    state: ProgramState
    graph: bytes
    placement: Placement | None
    note: str
    change: ProgramChange | None = None


@dataclass(frozen=True, slots=True)
class ScaleProgram:
    """Run this program on so many nodes from now on; asking for what is so already changes nothing. `again`: the sender
    waits for what it has asked for, which is no new wish if somebody has had another one since."""

    request: int
    program: str
    nodes: int
    reply_to: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Between how many nodes a program grows and shrinks by itself; after `idle_seconds` without input it is put to
    sleep, 0: never."""

    nodes_min: int
    nodes_max: int
    idle_seconds: int


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """How many machines there are at least and at most."""

    machines_min: int
    machines_max: int


@dataclass(frozen=True, slots=True)
class AutoscaleProgram:
    """Let this program grow and shrink by itself, and if `machines` are given, let the number of machines follow the
    load within these limits from now on. `ScaleProgram` ends the one, and leaves the other."""

    request: int
    program: str
    nodes: NodeLimits | None
    machines: MachineLimits | None
    reply_to: str


@dataclass(frozen=True, slots=True)
class DrainMachine:
    """Let this machine run nothing any more, or let it run things again. Answered by `SystemStatus`. For `again` see
    `ScaleProgram`."""

    request: int
    machine: str
    drained: bool
    reply_to: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class RemoveProgram:
    """Stop the program; what is in the store stays."""

    request: int
    program: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class ProgramRemoved:
    """The program no longer runs."""

    request: int
    program: str


@dataclass(frozen=True, slots=True)
class TransactionPlace:
    """Which transaction of a log: its record, and its place there."""

    epoch: int
    index: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.index}"


@dataclass(frozen=True, slots=True)
class VoidTransaction:
    """Take this transaction out: the program's state shall be as if it had said nothing."""

    request: int
    program: str
    place: TransactionPlace
    reply_to: str


@dataclass(frozen=True, slots=True)
class TransactionVoided:
    """The log says that the transaction is void."""

    request: int
    program: str
    place: TransactionPlace


@dataclass(frozen=True, slots=True)
class AskStatus:
    """What is there, and how far is it?"""

    request: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """A machine as the scheduler knows it. `silent_ms`: how long ago its agent was last heard of; `ready`: whether
    nodes may be placed there now. `inbox` and `runner_inbox` are where agent and runner listen; the latter is empty
    while no runner was started."""

    machine: str
    cores: int
    memory_bytes: int
    labels: tuple[str, ...]
    silent_ms: int
    ready: bool
    inbox: str
    runner: str
    runner_incarnation: int
    runner_inbox: str
    note: str


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where a shard of a program runs, and the newest epoch that it has finished."""

    shard: int
    node: str
    machine: str
    incarnation: int
    finished_epoch: int
    note: str


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """A program as the scheduler knows it. `epoch` is the newest of its log, `finished_epoch` the newest that all
    nodes have finished; `sequencer_machine` and the inboxes are empty while it is starting."""

    program: str
    state: ProgramState
    note: str
    generation: int
    nodes: tuple[NodePlace, ...]
    sequencer_machine: str
    sequencer_incarnation: int
    epoch: int
    finished_epoch: int
    clients_inbox: str
    nodes_inbox: str
    growth: str = ""


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """The answer to `AskStatus`: machines and programs by name. `scheduler` is the number of the one that leads,
    `standbys` the names of those that would take over. `growth`, here as in `ProgramStatus`: within which limits it is
    automatic, what was decided last and why; empty where it is not automatic."""

    request: int
    scheduler: int
    machines: tuple[MachineStatus, ...]
    programs: tuple[ProgramStatus, ...]
    standbys: tuple[str, ...] = ()
    growth: str = ""


# ---- among schedulers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StandsBy:
    """A scheduler that does not lead, to the one that does: it listens at `reply_to`, and wants to hear that it is
    led. `name` is unique to its process."""

    name: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class Leads:
    """The answer to `StandsBy`: `scheduler` is the number of the one that leads."""

    scheduler: int


Message = (
    OpenSession
    | SessionOpened
    | Transaction
    | Committed
    | ResendFrom
    | SessionUnknown
    | TransactionRefused
    | Wait
    | SnapshotRequest
    | Subscribe
    | Unsubscribe
    | AwaitEpoch
    | EpochFinished
    | RequestRefused
    | Get
    | Got
    | SnapshotAnswer
    | Changes
    | AskChanges
    | ChangesGone
    | HandOut
    | StageRows
    | EmptyRows
    | Done
    | MachineReport
    | StartRunner
    | StopRunner
    | RunnerReport
    | Placement
    | HostNode
    | HostSequencer
    | DropProgram
    | SubmitProgram
    | Locate
    | Located
    | RemoveProgram
    | ProgramRemoved
    | AskStatus
    | SystemStatus
    | AskRows
    | AskDone
    | Saved
    | Begun
    | RowsGone
    | ReaderLost
    | ScaleProgram
    | DrainMachine
    | StandsBy
    | Leads
    | VoidTransaction
    | TransactionVoided
    | AutoscaleProgram
    | PrepareNodes
    | EndGeneration
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """All that is ready for one inbox. `sender` names the process, for logs and for what is set aside."""

    system: str
    sender: str
    messages: tuple[Message, ...]
