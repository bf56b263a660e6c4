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
from dist_zero_common.protocol.messages import control, epochs, pieces, reading, requests, writing
from dist_zero_common.protocol.messages.envelope import Message


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


ROUTES: dict[type[Message], tuple[Role, ...]] = {
    writing.OpenSession: (Role.SEQUENCER_CLIENTS,),
    writing.Transaction: (Role.SEQUENCER_CLIENTS,),
    reading.SnapshotRequest: (Role.SEQUENCER_CLIENTS,),
    reading.Subscribe: (Role.SEQUENCER_CLIENTS,),
    reading.Unsubscribe: (Role.SEQUENCER_CLIENTS,),
    reading.AwaitEpoch: (Role.SEQUENCER_CLIENTS,),
    epochs.Done: (Role.SEQUENCER_NODES,),
    epochs.Saved: (Role.SEQUENCER_NODES,),
    epochs.Begun: (Role.SEQUENCER_NODES, Role.NODE),
    epochs.ReaderLost: (Role.SEQUENCER_NODES,),
    epochs.RowsGone: (Role.NODE,),
    epochs.AskRows: (Role.SEQUENCER_NODES, Role.NODE),
    epochs.AskDone: (Role.NODE,),
    reading.Get: (Role.NODE,),
    reading.AskChanges: (Role.NODE,),
    epochs.HandOut: (Role.NODE,),
    epochs.StageRows: (Role.NODE,),
    epochs.EmptyRows: (Role.NODE,),
    control.HostNode: (Role.RUNNER,),
    control.HostSequencer: (Role.RUNNER,),
    control.DropProgram: (Role.RUNNER,),
    control.PrepareNodes: (Role.RUNNER,),
    control.EndGeneration: (Role.RUNNER,),
    control.Placement: (Role.RUNNER,),
    control.MachineReport: (Role.SCHEDULER,),
    control.RunnerReport: (Role.SCHEDULER,),
    requests.SubmitProgram: (Role.SCHEDULER,),
    requests.Locate: (Role.SCHEDULER,),
    requests.ScaleProgram: (Role.SCHEDULER,),
    requests.AutoscaleProgram: (Role.SCHEDULER,),
    requests.DrainMachine: (Role.SCHEDULER,),
    requests.ScaleServices: (Role.SCHEDULER,),
    requests.RemoveProgram: (Role.SCHEDULER,),
    requests.AskStatus: (Role.SCHEDULER,),
    control.StandsBy: (Role.SCHEDULER,),
    control.Leads: (Role.STANDBY,),
    requests.VoidTransaction: (Role.SCHEDULER,),
    control.StartRunner: (Role.AGENT,),
    control.StopRunner: (Role.AGENT,),
    requests.Located: (Role.CLIENT,),
    requests.ProgramRemoved: (Role.CLIENT,),
    requests.TransactionVoided: (Role.CLIENT,),
    requests.SystemStatus: (Role.CLIENT,),
    pieces.RequestRefused: (Role.CLIENT,),
    writing.SessionOpened: (Role.CLIENT,),
    writing.Committed: (Role.CLIENT,),
    writing.ResendFrom: (Role.CLIENT,),
    writing.SessionUnknown: (Role.CLIENT,),
    writing.TransactionRefused: (Role.CLIENT,),
    writing.Wait: (Role.CLIENT,),
    reading.EpochFinished: (Role.CLIENT,),
    reading.Got: (Role.CLIENT,),
    reading.SnapshotAnswer: (Role.CLIENT,),
    reading.Changes: (Role.CLIENT,),
    reading.ChangesGone: (Role.CLIENT,),
    reading.Elsewhere: (Role.CLIENT,),
}
"""Every message and the roles that have a handler for it; a test holds it against the union."""

_R = TypeVar("_R")
Handlers = Mapping[type, Callable[..., _R]]
"""By class of message, what is done with it (and with whatever else `dispatch` is given)."""


def received_by(roles: Iterable[Role]) -> set[type[Message]]:
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


def dispatch(roles: tuple[Role, ...], handlers: Handlers[_R], message: Message, *context: object) -> _R:
    """Hand a message, and `context` behind it, to its handler. Raises `MalformedMessage` if it is for somebody
    else."""
    handler = handlers.get(type(message))
    if handler is None:
        raise MalformedMessage(f"{type(message).__name__} is not for a {_named(roles)}")
    return handler(message, *context)


def _named(roles: tuple[Role, ...]) -> str:
    return " and ".join(role.value for role in roles)
