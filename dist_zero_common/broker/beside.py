"""A durable queue beside somebody else's, for messages that could not be used: with the reason, until a person looks.

There are few of them, so aio-pika's own channel does: the queue is declared, each message published to it through the
default exchange (it is no queue of ours, and has no role), and confirmed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aio_pika
from aiormq.exceptions import AMQPChannelError, AMQPError

from dist_zero_common.broker.rabbitmq import ForeignMessage
from dist_zero_common.errors import BrokerError, ConnectionLost

REASON_LENGTH_MAX = 1_000


class QueueBeside:
    """The queue `name` at the broker with this URL, over a connection of its own. `open` it, `close` it."""

    def __init__(self, url: str, name: str, connection: str, *, seconds: float = 10.0) -> None:
        """`connection`: as RabbitMQ's own tools show it."""
        self.name = name
        self._url, self._connection_name, self._seconds = url, connection, seconds
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._channel: aio_pika.abc.AbstractChannel

    async def open(self) -> None:
        """Connect, and make sure that the queue is there. Raises `ConnectionLost`, or `BrokerError` if this user may
        not declare it."""
        try:
            self._connection = await aio_pika.connect(
                self._url, timeout=self._seconds, client_properties={"connection_name": self._connection_name}
            )
            channel = await self._connection.channel(on_return_raises=True)
            try:
                await channel.declare_queue(self.name, passive=True, timeout=self._seconds)
            except AMQPChannelError:  # missing: its owner may have made it in another way than we would
                channel = await self._connection.channel(on_return_raises=True)
                await channel.declare_queue(self.name, durable=True, timeout=self._seconds)
            self._channel = channel
        except AMQPChannelError as refused:
            await self.close()
            raise BrokerError(
                f"queue {self.name!r}, for messages that cannot be applied, cannot be declared: {refused}"
            ) from refused
        except (AMQPError, OSError, TimeoutError, StopAsyncIteration) as error:
            await self.close()
            raise ConnectionLost(f"no connection for queue {self.name!r}: {type(error).__name__}") from error

    async def keep(self, message: ForeignMessage, queue: str, reason: str) -> None:
        """Publish a message of `queue` as it came, with `x-set-aside-queue` and `x-set-aside-reason` in its headers,
        and return when the broker has confirmed it."""
        why: dict[str, Any] = {"x-set-aside-queue": queue, "x-set-aside-reason": reason[:REASON_LENGTH_MAX]}
        try:
            try:
                await self._publish(message, message.headers | why)
            except (TypeError, ValueError):  # a header of the user's that only its own client can write
                await self._publish(message, why)
        except AMQPChannelError as refused:
            raise BrokerError(f"queue {self.name!r} takes no message: {refused}") from refused
        except (
            AMQPError,
            OSError,
            TimeoutError,
            RuntimeError,
        ) as error:  # RuntimeError: the channel is closed
            raise ConnectionLost(f"a message could not be put into {self.name!r}: {error}") from error

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            with suppress(AMQPError, OSError, TimeoutError, RuntimeError):
                await self._connection.close()

    async def _publish(self, message: ForeignMessage, headers: dict[str, Any]) -> None:
        kept = aio_pika.Message(
            message.body,
            headers=headers,
            message_id=message.message_id,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(kept, routing_key=self.name, timeout=self._seconds)
