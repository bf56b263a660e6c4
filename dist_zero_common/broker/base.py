"""What every broker promises, which is little.

A published message may come twice, late and in another order, and one that was not acked comes again. Delivery
tags belong to the consumer that got them and die with it. Losing the connection is an event that the caller hears
about (`on_connection`), never something hidden: afterwards nothing is known about what was in flight, consumers
are gone, and it is the caller who declares and consumes again. The epoch protocol (docs/protocol.md) builds
exactly-once on top of these promises and no others; `test/contract` holds every implementation to them.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class QueueKind(enum.Enum):
    """How a queue lives: `INBOX` stays until it is deleted; `REPLIES` goes with the connection that declared it."""

    INBOX = "inbox"
    REPLIES = "replies"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue's name (from `topology.py`) and kind."""

    name: str
    kind: QueueKind = QueueKind.INBOX


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message handed to a consumer; `tag` is what to ack, on the same consumer only."""

    queue: str
    tag: int
    body: bytes
    redelivered: bool
    handed: object = None
    """A message that was handed on as it is (`HandsOn`): then there are no bytes."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How a queue is doing: messages that no consumer has yet, and how many consumers there are."""

    waiting: int
    consumers: int


class ConnectionState(enum.Enum):
    """`BLOCKED`: connected, but the broker takes no publishes just now (an alarm)."""

    CONNECTED = "connected"
    BLOCKED = "blocked"
    LOST = "lost"
    CLOSED = "closed"


OnDelivery = Callable[[Delivery], None]
OnConnection = Callable[[ConnectionState], None]


class Consumer(Protocol):
    """One subscription to one queue. Its callback is called in the loop, one delivery at a time, and must not block."""

    def ack(self, tags: list[int]) -> None:
        """Forget these deliveries. Does not wait; after the connection is lost it does nothing."""
        ...

    async def cancel(self) -> None:
        """Stop; what was not acked goes back to the queue."""
        ...


class Broker(Protocol):
    """One connection to a broker."""

    state: ConnectionState
    reason: str
    """Why the state is what it is, for people; empty while connected."""

    def on_connection(self, callback: OnConnection) -> None:
        """Call `callback` at each change of `state`."""
        ...

    async def declare(self, queue: Queue) -> None:
        """Make sure that the queue exists; declaring it twice is declaring it once."""
        ...

    async def publish(self, queue: str, body: bytes) -> None:
        """Return when the broker has confirmed the message.

        Raises `Unroutable` when there is no such queue, `ConnectionLost` when it is unknown whether the message
        arrived, `BrokerError` when it was refused.
        """
        ...

    async def consume(self, queue: str, on_delivery: OnDelivery, prefetch: int) -> Consumer:
        """Deliver the queue's messages to `on_delivery`, at most `prefetch` unacked ones at a time (0: no limit)."""
        ...

    async def depth(self, queue: str) -> QueueDepth | None:
        """How the queue is doing, or None when there is none of this name."""
        ...

    async def delete(self, queue: str) -> None:
        """Remove the queue with all it holds; a missing one is no error."""
        ...

    async def close(self) -> None:
        """End the connection: unacked deliveries return to their queues."""
        ...


@runtime_checkable
class HandsOn(Protocol):
    """What a connection can do besides, if whoever reads is in the same process."""

    def hand_on(self, queue: str, message: object, size_bytes: int) -> bool:
        """Put an immutable object into the queue, as it is; it counts for this many bytes. False if it has to be
        published, as when the broker hands on nothing, or not now, or there is no such queue."""
        ...


Connect = Callable[[], Awaitable[Broker]]
"""Makes a new connection each time it is called.

Raises `ConnectionLost` when the broker cannot be reached now, so that trying again may help, and `BrokerError` when it
refuses (name, password, virtual host), so that it will not.
"""
