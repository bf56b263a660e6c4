"""Every queue's name, in one table.

A queue is called `dz.<system>.<role>.<id>`; the parts of an id are joined by dots, and no part contains one
(`ids.checked_name`). The role decides how the queue lives and through which exchange messages reach it: one
direct exchange per role, never the default one, because broker permissions are per exchange. An inbox that
a message names, to be answered at or for others to write to, is checked by its reader (`check_inbox`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from dist_zero_common.broker.base import Queue, QueueKind
from dist_zero_common.errors import BrokerError, MalformedMessage
from dist_zero_common.ids import checked_name


class UserClass(enum.Enum):
    """Who is at the broker. Each class may have a user of its own there, with the rights of what it does
    (`administration.py`)."""

    SCHEDULER = "scheduler"
    AGENT = "agent"
    RUNNER = "runner"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Role:
    """What the queues of one role have in common; `id_parts` names the parts of the id, in order. `reader` declares
    and reads them, `writers` publish to them.

    At `bytes_max` waiting bytes an inbox refuses further messages and a queue of replies drops the oldest one.
    """

    name: str
    exchange: str
    kind: QueueKind
    id_parts: tuple[str, ...]
    meaning: str
    reader: UserClass
    writers: tuple[UserClass, ...]
    bytes_max: int = 256 * 2**20

    @property
    def by_incarnation(self) -> bool:
        """Whether the next incarnation of the reader reads another queue, so that this one must go by itself."""
        return "incarnation" in self.id_parts


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """A queue's name taken apart. `id` has one string per part of the role's id."""

    system: str
    role: Role
    id: tuple[str, ...]


SCHEDULER = Role(
    "scheduler",
    "dz.scheduler",
    QueueKind.INBOX,
    (),
    "to the leading scheduler",
    reader=UserClass.SCHEDULER,
    writers=(UserClass.SCHEDULER, UserClass.AGENT, UserClass.RUNNER, UserClass.CLIENT),
)
STANDBY = Role(
    "standby",
    "dz.standby",
    QueueKind.REPLIES,
    ("name",),
    "to a scheduler that stands by",
    reader=UserClass.SCHEDULER,
    writers=(UserClass.SCHEDULER,),
)
AGENT = Role(
    "agent",
    "dz.agent",
    QueueKind.INBOX,
    ("machine",),
    "to the agent of a machine",
    reader=UserClass.AGENT,
    writers=(UserClass.SCHEDULER,),
)
RUNNER = Role(
    "runner",
    "dz.runner",
    QueueKind.INBOX,
    ("runner", "incarnation"),
    "to a runner's incarnation",
    reader=UserClass.RUNNER,
    writers=(UserClass.SCHEDULER, UserClass.RUNNER, UserClass.CLIENT),
)
SEQUENCER_CLIENTS = Role(
    "sequencer-clients",
    "dz.sequencer-clients",
    QueueKind.INBOX,
    ("program",),
    "clients to a sequencer",
    reader=UserClass.RUNNER,
    writers=(UserClass.CLIENT,),
    bytes_max=2**30,
)
SEQUENCER_NODES = Role(
    "sequencer-nodes",
    "dz.sequencer-nodes",
    QueueKind.INBOX,
    ("program", "incarnation"),
    "nodes to a sequencer's incarnation",
    reader=UserClass.RUNNER,
    writers=(UserClass.RUNNER,),
)
CLIENT_REPLIES = Role(
    "replies",
    "dz.replies",
    QueueKind.REPLIES,
    ("client",),
    "everybody to a client",
    reader=UserClass.CLIENT,
    writers=(UserClass.SCHEDULER, UserClass.RUNNER),
)

ROLES = {
    role.name: role
    for role in (SCHEDULER, STANDBY, AGENT, RUNNER, SEQUENCER_CLIENTS, SEQUENCER_NODES, CLIENT_REPLIES)
}


def scheduler_inbox(system: str) -> str:
    """Where everybody reaches the scheduler that leads; stable over its incarnations."""
    return _name(system, SCHEDULER)


def standby_inbox(system: str, name: str) -> str:
    """Where a scheduler that stands by hears from the leading one; gone with its connection, to which `name` is
    unique."""
    return _name(system, STANDBY, name)


def agent_inbox(system: str, machine: str) -> str:
    """Where the scheduler reaches the agent of `machine`; stable over the agent's incarnations."""
    return _name(system, AGENT, machine)


def runner_inbox(system: str, runner: str, incarnation: int) -> str:
    """Where everybody reaches one incarnation of a runner; the next incarnation reads another queue."""
    return _name(system, RUNNER, runner, str(incarnation))


def sequencer_clients_inbox(system: str, program: str) -> str:
    """Where clients reach the sequencer of `program`, whichever its incarnation."""
    return _name(system, SEQUENCER_CLIENTS, program)


def sequencer_nodes_inbox(system: str, program: str, incarnation: int) -> str:
    """Where nodes reach one incarnation of the sequencer of `program`: drained whatever clients do."""
    return _name(system, SEQUENCER_NODES, program, str(incarnation))


def client_replies(system: str, client: str) -> str:
    """Where a client hears answers; gone with its connection. `client` is unique to the connection."""
    return _name(system, CLIENT_REPLIES, client)


def queue_of(name: str) -> Queue:
    """The queue of this name as it is to be declared. Raises `BrokerError` when the name is none of ours."""
    return Queue(name, parsed(name).role.kind)


def exchange_of(name: str) -> str:
    """The exchange through which messages reach this queue. Raises `BrokerError` when it is none of ours."""
    return parsed(name).role.exchange


def parsed(name: str) -> QueueAddress:
    """A queue's name taken apart. Raises `BrokerError` when it is none that the functions above make."""
    prefix, *parts = name.split(".")
    if prefix == "dz" and len(parts) >= 2 and parts[1] in ROLES:
        system, role, names = parts[0], ROLES[parts[1]], tuple(parts[2:])
        if len(names) == len(role.id_parts) and all(parts):
            return QueueAddress(system, role, names)
    raise BrokerError(f"{name!r} is not the name of a queue of DistZero: those are dz.<system>.<role>.<id>")


def check_inbox(system: str, role: Role, inbox: str) -> None:
    """Raise `MalformedMessage` unless this is an inbox of that role in this system: whoever names an inbox to a
    service must not make it write to anybody else."""
    try:
        address = parsed(inbox)
    except BrokerError as wrong:
        raise MalformedMessage(str(wrong)) from wrong
    if address.role is not role or address.system != system:
        raise MalformedMessage(f"{inbox!r} is no queue {role.meaning} of the system {system!r}")


def _name(system: str, role: Role, *names: str) -> str:
    checked_name("system", system)
    for part, name in zip(role.id_parts, names, strict=True):
        checked_name(part, name)
    return ".".join(("dz", system, role.name, *names))
