"""Queues of somebody else's in RabbitMQ: consumed as they are, and one beside each for what could not be used."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aio_pika
from aiormq.exceptions import AMQPChannelError, AMQPError
from pamqp.exceptions import PAMQPException

from dist_zero_common.broker.amqp import properties
from dist_zero_common.broker.base import ConnectionState
from dist_zero_common.broker.rabbitmq import RabbitBroker
from dist_zero_common.broker.rabbitmq_consumer import RabbitConsumer
from dist_zero_common.broker.rabbitmq_link import Link
from dist_zero_common.errors import BrokerError, ConnectionLost

_REASON_LENGTH_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ForeignMessage:
    """A message of somebody else's, as it came; `tag` is what to ack or set aside."""

    body: bytes
    message_id: str | None
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    redelivered: bool
    tag: int


class ForeignConsumer:
    """One subscription to a queue that is not ours, over a connection of its own. Made by `consume_foreign`."""

    def __init__(self, broker: RabbitBroker, consumer: RabbitConsumer) -> None:
        self._broker = broker
        self._consumer = consumer
        self._ended = asyncio.Event()
        broker.on_connection(self._on_connection)
        self._on_connection(broker.state)

    def ack(self, tag: int) -> None:
        """Forget this message. Does not wait; after the connection is lost it does nothing."""
        self._consumer.ack([tag])

    def set_aside(self, tag: int) -> None:
        """Reject this message, not to come again: it goes to the queue's dead-letter exchange, if it has one."""
        self._consumer.set_aside(tag)

    async def close(self) -> None:
        """End it: what was not acked goes back to the queue."""
        await self._broker.close()

    async def wait_closed(self) -> None:
        """Return when `close` was called; raise `ConnectionLost` when the connection or the queue is gone."""
        await self._ended.wait()
        if self._broker.state is ConnectionState.LOST:
            raise ConnectionLost(self._broker.reason)

    def _on_connection(self, state: ConnectionState) -> None:
        if state in (ConnectionState.LOST, ConnectionState.CLOSED):
            self._ended.set()


async def consume_foreign(
    url: str,
    queue: str,
    on_message: Callable[[ForeignMessage], None],
    prefetch: int,
    name: str,
    *,
    heartbeat_seconds: int = 10,
    connect_seconds: float = 10.0,
) -> ForeignConsumer:
    """Consume a queue that exists already. `on_message` is called in the loop, one message at a time.

    Raises `ConnectionLost` when the broker cannot be reached now, `BrokerError` when it refuses or there is no such
    queue: it is never declared here, because only its owner knows how.
    """
    link = await Link.open(url, name, heartbeat_seconds, connect_seconds)
    broker = RabbitBroker(link, link, publish_seconds=10.0, stuck_seconds=30.0)
    try:
        if await broker.depth(queue) is None:
            raise BrokerError(
                f"{link.address} has no queue {queue!r}: it must be there before it can be a source"
            )
        consumer = await broker.subscribe(queue, lambda *message: on_message(_foreign(*message)), prefetch)
    except BaseException:
        await broker.close()
        raise
    return ForeignConsumer(broker, consumer)


def _foreign(tag: int, redelivered: bool, header: bytes, body: bytes) -> ForeignMessage:
    try:
        its = properties(header)
    except (PAMQPException, ValueError, LookupError, struct.error):
        return ForeignMessage(body, None, None, None, {}, redelivered, tag)  # properties that are none
    headers = dict(its.headers or {})
    return ForeignMessage(
        body, its.message_id, its.content_type, its.content_encoding, headers, redelivered, tag
    )


class QueueBeside:
    """A durable queue beside somebody else's, for messages that could not be used: with the reason, until a person
    looks. `open` it, `close` it.

    There are few of them, so aio-pika's own connection and channel do: each message is published through the default
    exchange (it is no queue of ours, and has no role), and confirmed.
    """

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
        why: dict[str, Any] = {"x-set-aside-queue": queue, "x-set-aside-reason": reason[:_REASON_LENGTH_MAX]}
        try:
            try:
                await self._publish(message, message.headers | why)
            except (TypeError, ValueError):  # a header of the user's that only its own client can write
                await self._publish(message, why)
        except AMQPChannelError as refused:
            raise BrokerError(f"queue {self.name!r} takes no message: {refused}") from refused
        except (AMQPError, OSError, TimeoutError, RuntimeError) as error:  # the last: the channel is closed
            raise ConnectionLost(f"a message could not be put into {self.name!r}: {error}") from error

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            with contextlib.suppress(AMQPError, OSError, TimeoutError, RuntimeError):
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
