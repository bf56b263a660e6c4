"""The control plane: what agents and runners report to the scheduler, what it has them run, and who leads."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.protocol.messages.pieces import ShardMap, TransactionPlace


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """A runner as its machine's agent sees it."""

    runner: str
    incarnation: int
    alive: bool


@dataclass(frozen=True, slots=True)
class MachineReport:
    """An agent's heartbeat. `inbox` is where it listens; `labels` are `name=value`. `leaves`: it is the last one."""

    machine: str
    incarnation: int
    inbox: str
    cores: int
    memory_bytes: int
    labels: tuple[str, ...]
    runners: tuple[RunnerStatus, ...]
    leaves: bool = False


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
    much its newest saves hold. `unsaved_ms`: since when it has finished something that no save covers, 0 for
    nothing."""

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
    unsaved_ms: int = 0


HEAT_MAX = 256
"""Of so many keys a sequencer says that they were written lately."""


@dataclass(frozen=True, slots=True)
class SequencerStatus:
    """A sequencer as its runner sees it: the newest epoch in the log, the newest that every node has finished, and the
    newest base. `rewind`: it would go on in a new generation. `proposing`: the epoch whose record is being created, 0
    for none. `ends`: the epoch behind which it hands out nothing, 0 for none. `slices`: of a program that takes the
    place of another, so many are to be filled, and `filled` are; that all are is said when a base has them. `needs`:
    the program that could begin at the base that there is, where the one that was to cannot. `busy_us`: for how long it
    was at work, without what it made the nodes of its runner do. `heat`: the hashes of some keys that were written
    lately, ascending: where they lie close, the load is. `rows`: how many of its own epochs it has handed out;
    `unsaved_ms`: since when there are epochs that no base covers, 0 for none."""

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
    busy_us: int = 0
    heat: tuple[int, ...] = ()
    rows: int = 0
    unsaved_ms: int = 0


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
    """A runner's heartbeat. `cpu_us`: how much processor time its process has had, `memory_used_bytes`: how much memory
    that has now; 0 where nobody measures it."""

    runner: str
    incarnation: int
    machine: str
    inbox: str
    nodes: tuple[NodeStatus, ...]
    sequencers: tuple[SequencerStatus, ...]
    prepared: tuple[PreparedStatus, ...] = ()
    cpu_us: int = 0
    memory_used_bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class StandsBy:
    """A scheduler that does not lead, to the one that does: it listens at `reply_to`, and wants to hear that it is
    led. `name` is unique to its process. `host`: the spawner's host on which it runs, or empty."""

    name: str
    reply_to: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Leads:
    """The answer to `StandsBy`: `scheduler` is the number of the one that leads."""

    scheduler: int
