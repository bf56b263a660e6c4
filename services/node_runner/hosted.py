"""A node as its runner has it, from the moment that it is to run here."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from dist_zero_common.allocation import look_again
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.epochs import EPOCHS_AHEAD_MAX
from services.node_runner.counts import Unsaved
from services.node_runner.keeping import NodeKeeping, SavedState
from services.node_runner.kernel import NodeKernel
from services.node_runner.kernel_events import AskChangesEvent, GetEvent, HandOutEvent, NodeEvent, RowsEvent
from services.node_runner.loading import LoadedState

_TOKENED = (HandOutEvent, RowsEvent, GetEvent, AskChangesEvent)


@dataclass(slots=True, eq=False)
class HostedNode:
    """A node on this runner. While it is beginning it has no kernel yet, and what comes for it is `early`. `begun_at`:
    the base where it began, -1 before that. `failed`: why its state cannot be read or written; `rewind`: whether it
    would go on in a new generation."""

    generation: int
    incarnation: int
    keeping: NodeKeeping
    task: asyncio.Task[None]
    kernel: NodeKernel | None = None
    begun_at: int = -1
    saved: SavedState | None = None
    failed: str = ""
    rewind: bool = False
    through_at: int = 0
    """The epoch from which on nothing was tried before; 0 when that is so."""
    busy_seconds: float = 0.0
    """For how long its kernel was at work."""
    unsaved: Unsaved = field(default_factory=Unsaved)
    early: deque[NodeEvent] = field(default_factory=deque)

    @property
    def finished(self) -> int:
        """The newest epoch that it has finished; 0 while it is beginning."""
        return self.kernel.finished if self.kernel is not None else 0

    @property
    def halted(self) -> str:
        """Why it stands still, or the empty text."""
        return self.failed or (self.kernel.halted if self.kernel is not None else "")

    def left(self) -> LoadedState | None:
        """Its state, for whoever comes in its place, if nothing is under way; then it can do nothing any more."""
        executor = self.kernel.released() if self.kernel is not None and not self.failed else None
        return self.keeping.left(executor, self.finished) if executor is not None else None

    def readers(self, *, watching: bool) -> list[str]:
        """The inboxes of those who wait for a row, and with `watching` of those who have a subscription."""
        early = [event.reply_to for event in self.early if isinstance(event, GetEvent)]
        return early + (self.kernel.readers(watching=watching) if self.kernel is not None else [])

    def take_early(self) -> list[NodeEvent]:
        """What came while it was beginning."""
        early = list(self.early)
        self.early.clear()
        return early

    def end(self) -> list[Token]:
        """Let go of everything; returns the tokens of all that has come for it and is not settled."""
        self.task.cancel()
        look_again()
        tokens = [token_of(event) for event in self.take_early()]
        return tokens + (self.kernel.abandon() if self.kernel is not None else [])


def token_of(event: NodeEvent) -> Token:
    """The token of the message that an event came in, if it is that event's to settle."""
    return event.token if isinstance(event, _TOKENED) else 0


def is_far_ahead(event: NodeEvent, epoch: int) -> bool:
    """Whether an event is of an epoch that nobody can have come to who is about at this one."""
    match event:
        case GetEvent():
            return event.at_least > epoch + EPOCHS_AHEAD_MAX
        case HandOutEvent() | RowsEvent():
            return event.epoch > epoch + EPOCHS_AHEAD_MAX
        case _:
            return False
