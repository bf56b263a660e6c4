"""What the bridge asks of a queue that belongs to somebody else.

It may deliver a message twice, late and in another order; one that was not acked comes again; acks are not confirmed,
and die with the connection. The bridge's exactly-once is built on top of these promises and no others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol


class Message(Protocol):
    """A message of the user's queue, as functions for `decode` and `key` get it."""

    @property
    def body(self) -> bytes:
        """What the publisher sent."""
        ...

    @property
    def message_id(self) -> str | None:
        """The property `message-id`, if the publisher set it."""
        ...

    @property
    def content_type(self) -> str | None:
        """The property `content-type`."""
        ...

    @property
    def content_encoding(self) -> str | None:
        """The property `content-encoding`."""
        ...

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers; Celery has the task's name and id there."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have seen it before."""
        ...

    @property
    def tag(self) -> int:
        """What to ack, at the consumer that delivered it."""
        ...


class Consumer(Protocol):
    """One subscription to the queue, over a connection of its own."""

    def ack(self, tags: list[int]) -> None:
        """Forget these messages. Does not wait; does nothing once the connection is lost."""
        ...

    async def set_aside(self, message: Message, queue: str, reason: str) -> None:
        """Keep the message, with the reason among its headers, in the durable queue of this name, which is declared if
        it is missing; then forget it here. Raises `ConnectionLost`, after which the message comes again."""
        ...

    async def wait_closed(self) -> None:
        """Return when there will be no more deliveries: the connection is lost, or the queue deleted."""
        ...

    async def close(self) -> None:
        """End the subscription; what was not acked goes back to the queue."""
        ...


OnMessage = Callable[[Message], None]
OpenQueue = Callable[[OnMessage], Awaitable[Consumer]]
"""Subscribes to the queue. The callback is called in the loop, one message at a time, perhaps before this returns.

Raises `ConnectionLost` when trying again may help, and `BrokerError` when it will not (no such queue, refused).
"""
