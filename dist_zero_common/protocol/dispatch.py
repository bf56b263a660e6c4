"""Which role receives which message, in one table, and the one way to hand a message to its handler.

A role is an inbox and who reads it. What is for nodes arrives in their runner's inbox, and the runner passes
it on; what is for a sequencer arrives in one of its two inboxes, of which that of the nodes is always
drained. A message in the wrong inbox is refused, so that a client cannot pose as a scheduler by knowing a
queue's name."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol import messages as m


class Role(enum.Enum):
    """Who receives messages."""

    SCHEDULER = "scheduler"
    STANDBY = "scheduler that stands by"
    AGENT = "machine agent"
    RUNNER = "node runner"
    SEQUENCER_CLIENTS = "sequencer (clients' inbox)"
    SEQUENCER_NODES = "sequencer (nodes' inbox)"
    NODE = "node"
    CLIENT = "client"


ROUTES: dict[type[m.Message], tuple[Role, ...]] = {
    m.OpenSession: (Role.SEQUENCER_CLIENTS,),
    m.Transaction: (Role.SEQUENCER_CLIENTS,),
    m.SnapshotRequest: (Role.SEQUENCER_CLIENTS,),
    m.Subscribe: (Role.SEQUENCER_CLIENTS,),
    m.Unsubscribe: (Role.SEQUENCER_CLIENTS,),
    m.AwaitEpoch: (Role.SEQUENCER_CLIENTS,),
    m.Done: (Role.SEQUENCER_NODES,),
    m.Saved: (Role.SEQUENCER_NODES,),
    m.Begun: (Role.SEQUENCER_NODES, Role.NODE),
    m.ReaderLost: (Role.SEQUENCER_NODES,),
    m.RowsGone: (Role.NODE,),
    m.AskRows: (Role.SEQUENCER_NODES, Role.NODE),
    m.AskDone: (Role.NODE,),
    m.Get: (Role.NODE,),
    m.AskChanges: (Role.NODE,),
    m.HandOut: (Role.NODE,),
    m.StageRows: (Role.NODE,),
    m.EmptyRows: (Role.NODE,),
    m.HostNode: (Role.RUNNER,),
    m.HostSequencer: (Role.RUNNER,),
    m.DropProgram: (Role.RUNNER,),
    m.PrepareNodes: (Role.RUNNER,),
    m.EndGeneration: (Role.RUNNER,),
    m.Placement: (Role.RUNNER,),
    m.MachineReport: (Role.SCHEDULER,),
    m.RunnerReport: (Role.SCHEDULER,),
    m.SubmitProgram: (Role.SCHEDULER,),
    m.Locate: (Role.SCHEDULER,),
    m.ScaleProgram: (Role.SCHEDULER,),
    m.AutoscaleProgram: (Role.SCHEDULER,),
    m.DrainMachine: (Role.SCHEDULER,),
    m.RemoveProgram: (Role.SCHEDULER,),
    m.AskStatus: (Role.SCHEDULER,),
    m.StandsBy: (Role.SCHEDULER,),
    m.Leads: (Role.STANDBY,),
    m.VoidTransaction: (Role.SCHEDULER,),
    m.StartRunner: (Role.AGENT,),
    m.StopRunner: (Role.AGENT,),
    m.Located: (Role.CLIENT,),
    m.ProgramRemoved: (Role.CLIENT,),
    m.TransactionVoided: (Role.CLIENT,),
    m.SystemStatus: (Role.CLIENT,),
    m.RequestRefused: (Role.CLIENT,),
    m.SessionOpened: (Role.CLIENT,),
    m.Committed: (Role.CLIENT,),
    m.ResendFrom: (Role.CLIENT,),
    m.SessionUnknown: (Role.CLIENT,),
    m.TransactionRefused: (Role.CLIENT,),
    m.Wait: (Role.CLIENT,),
    m.EpochFinished: (Role.CLIENT,),
    m.Got: (Role.CLIENT,),
    m.SnapshotAnswer: (Role.CLIENT,),
    m.Changes: (Role.CLIENT,),
    m.ChangesGone: (Role.CLIENT,),
}
"""Every message and the roles that have a handler for it; a test holds it against the union."""

_R = TypeVar("_R")
Handlers = Mapping[type, Callable[..., _R]]
"""By class of message, what is done with it (and with whatever else `dispatch` is given)."""


def received_by(roles: Iterable[Role]) -> set[type[m.Message]]:
    """The messages that an inbox with these roles has to handle."""
    wanted = set(roles)
    return {cls for cls, receivers in ROUTES.items() if not wanted.isdisjoint(receivers)}


def check_handlers(roles: tuple[Role, ...], handlers: Handlers[_R]) -> None:
    """Raise `InternalError` unless there is a handler for each message of these roles and no other: for the
    constructors of services, so that a forgotten one is noticed at the start."""
    expected = received_by(roles)
    wrong = expected.symmetric_difference(handlers)
    if wrong:
        names = ", ".join(sorted(cls.__name__ for cls in wrong))
        raise InternalError(f"{_named(roles)}: handlers missing or superfluous: {names}")


def dispatch(roles: tuple[Role, ...], handlers: Handlers[_R], message: m.Message, *context: object) -> _R:
    """Hand a message, and `context` behind it, to its handler. Raises `MalformedMessage` if it is for somebody
    else."""
    handler = handlers.get(type(message))
    if handler is None:
        raise MalformedMessage(f"{type(message).__name__} is not for a {_named(roles)}")
    return handler(message, *context)


def _named(roles: tuple[Role, ...]) -> str:
    return " and ".join(role.value for role in roles)
