"""Clients and the scheduler: what people and programs ask of the system, and what it answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from dist_zero_common.protocol.messages.control import Placement
from dist_zero_common.protocol.messages.pieces import TransactionPlace


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
    while no runner was started. `cpu_us` and `memory_used_bytes`: what its runner's process has taken. `reported_ms`:
    when the runner said so, and all that is said of its nodes, by a clock of this scheduler's."""

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
    cpu_us: int = 0
    memory_used_bytes: int = 0
    reported_ms: int = 0


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where a shard of a program runs, and the newest epoch that it has finished. For the numbers see `NodeStatus`."""

    shard: int
    node: str
    machine: str
    incarnation: int
    finished_epoch: int
    note: str
    rows: int = 0
    busy_us: int = 0
    state_bytes: int = 0
    unsaved_ms: int = 0


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """A program as the scheduler knows it. `epoch` is the newest of its log, `finished_epoch` the newest that all
    nodes have finished; `sequencer_machine` and the inboxes are empty while it is starting. `rows` and `unsaved_ms` are
    the sequencer's. How often since this scheduler leads: parts were placed again because they were lost
    (`recoveries`), or moved (`moves`), nodes were divided (`splits`) or joined (`merges`), and the program went back to
    a base (`rewinds`)."""

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
    base: int = 0
    rows: int = 0
    unsaved_ms: int = 0
    recoveries: int = 0
    moves: int = 0
    splits: int = 0
    merges: int = 0
    rewinds: int = 0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service whose number of hosts the scheduler sees to: how many there shall be, how many of those are ready, and
    how many more there are, which are to be given back."""

    service: str
    wanted: int
    ready: int
    leaving: int


@dataclass(frozen=True, slots=True)
class HostNote:
    """What is to be said of a host that is not simply there; `wrong`: somebody has to look after it. `host` is empty
    where it is about all of them."""

    host: str
    text: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """The answer to `AskStatus`: machines and programs by name. `scheduler` is the number of the one that leads,
    `standbys` the names of those that would take over. `growth`, here as in `ProgramStatus`: within which limits it is
    automatic, what was decided last and why; empty where it is not automatic. `services`: the hosts that there shall
    be; `hosts`: what is to be said of single ones. `store`: where the scheduler finds it, or empty."""

    request: int
    scheduler: int
    machines: tuple[MachineStatus, ...]
    programs: tuple[ProgramStatus, ...]
    standbys: tuple[str, ...] = ()
    growth: str = ""
    services: tuple[ServiceStatus, ...] = ()
    hosts: tuple[HostNote, ...] = ()
    store: str = ""


@dataclass(frozen=True, slots=True)
class ServiceCount:
    """So many hosts with this service."""

    service: str
    count: int


@dataclass(frozen=True, slots=True)
class ScaleServices:
    """Let there be so many hosts with these services from now on, in place of any limits within which their number was
    automatic. Answered by `SystemStatus`. For `again` see `ScaleProgram`."""

    request: int
    services: tuple[ServiceCount, ...]
    reply_to: str
    again: bool = False
