"""RabbitMQ, as `broker/base.py` promises it; how it really behaves, and why it is used like this: docs/broker.md.

One `Broker` is two connections to RabbitMQ. A memory or disk alarm makes the broker stop reading from whoever
publishes, and with the publishes it would hold up acks, declarations and cancels: so publishes have a connection of
their own, and everything else goes on. When either is lost both are ended, and the state is `LOST`, once.

Publishing: mandatory, in confirm mode, one channel for each exchange, so that what the broker refuses on one (by
closing the channel) does not touch the others. Any number may be in flight. When a publish or a command has been
without an answer for `publish_seconds`, the connection is suspect, and lost; while the broker has blocked it no time
passes for publishes, the state says `BLOCKED`, and they go on afterwards.

Consuming: one channel for each consumer, prefetch set on it, acks by hand and collected over a turn of the loop: a run
of tags from the oldest on goes as one ack. A watchdog asks about queues that bring nothing: if messages wait there
although the consumer has room, and none comes for `stuck_seconds`, the connection is lost, with that reason.

Queues are durable classic ones, bound to the exchange of their role under their own name. An inbox refuses messages
beyond the bytes of its role and, if it belongs to an incarnation, goes an hour after its last reader. Messages are
not persistent: a classic queue's confirm does not mean "on disk" either way, the log is the truth, and persistent
ones cost up to five times as much (figures in docs/broker.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aio_pika
import pamqp.commands as amqp
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPChannelError, AMQPError
from pamqp.exceptions import PAMQPException
from yarl import URL

from dist_zero_common.broker.amqp import TICK_SECONDS, Channel, OnMessage, Patience, Refused, Wire, properties
from dist_zero_common.broker.base import (
    Connect,
    ConnectionState,
    Delivery,
    OnConnection,
    OnDelivery,
    Queue,
    QueueDepth,
    QueueKind,
)
from dist_zero_common.broker.memory import MESSAGE_BYTES_MAX
from dist_zero_common.broker.rabbitmq_consumer import RabbitConsumer
from dist_zero_common.broker.topology import parsed
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable

#: An inbox that an incarnation has left behind goes after this long without a reader.
ABANDONED_SECONDS = 3600
#: How many ticks at most pass between two looks at the queues.
_LOOK_TICKS_MAX = 20
_ROUTES_MAX = 4096
_CLOSE_SECONDS = 5.0
_REASON_LENGTH_MAX = 1_000
#: Turns of the loop that aio-pika's tasks need to end after their connection, or they complain when the loop ends.
_LAST_TURNS = 20

# What goes wrong with a connection is raised, and told to callbacks; aio-pika's tracebacks beside that help nobody.
logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)


def connector(
    url: str,
    name: str,
    *,
    heartbeat_seconds: int = 10,
    connect_seconds: float = 10.0,
    publish_seconds: float = 10.0,
    stuck_seconds: float = 30.0,
) -> Connect:
    """What makes connections to the RabbitMQ at `url` (`amqp://user:password@host:port/vhost`, or `amqps`).

    `name` is shown by RabbitMQ's own tools. Errors name the address without the password.
    """

    async def connect() -> RabbitBroker:
        publishing, consuming = await _both(
            _Link.open(url, f"{name} (publishes)", heartbeat_seconds, connect_seconds),
            _Link.open(url, name, heartbeat_seconds, connect_seconds),
        )
        return RabbitBroker(publishing, consuming, publish_seconds, stuck_seconds)

    return connect


class RabbitBroker:
    """See `broker.base.Broker`. Made by `connector`."""

    def __init__(
        self, publishing: _Link, consuming: _Link, publish_seconds: float, stuck_seconds: float
    ) -> None:
        self.state = ConnectionState.CONNECTED
        self.reason = ""
        self.consuming = consuming
        self._publishing = publishing
        self._callbacks: list[OnConnection] = []
        self._consumers: list[RabbitConsumer] = []
        self._publishers: dict[str, asyncio.Task[Channel]] = {}
        self._routes: dict[str, _Route] = {}
        self._exchanges: set[str] = set()
        self._deleted: set[str] = set()
        self._commands = asyncio.Lock()
        self._command_channel: Channel | None = None
        self._stuck_ticks_max = max(1, round(stuck_seconds / TICK_SECONDS))
        self._look_ticks = min(_LOOK_TICKS_MAX, max(1, self._stuck_ticks_max // 2))
        self._links = (publishing,) if publishing is consuming else (publishing, consuming)
        ticks_max = max(1, round(publish_seconds / TICK_SECONDS))
        self._patience = [(link, Patience(link.wire, ticks_max)) for link in self._links]
        publishing.wire.on_blocked = self._on_blocked
        for link in self._links:
            link.wire.on_lost = self._lose
        self._look: asyncio.Task[None] | None = None
        self._watch = asyncio.create_task(self._keep_watch())
        for link in self._links:
            if link.wire.closed():
                self._lose("the connection broke at once")

    # -- state ---------------------------------------------------------------------------------------------------

    def on_connection(self, callback: OnConnection) -> None:
        self._callbacks.append(callback)

    async def close(self) -> None:
        if self.state in (ConnectionState.LOST, ConnectionState.CLOSED):
            return
        for consumer in self._consumers:
            consumer.flush()
        self._end(ConnectionState.CLOSED, "the connection was closed")
        await asyncio.gather(*(link.close() for link in self._links))

    def _lose(self, reason: str) -> None:
        if self.state in (ConnectionState.LOST, ConnectionState.CLOSED):
            return
        self._end(ConnectionState.LOST, reason)
        for link in self._links:
            link.abort()

    def _end(self, state: ConnectionState, reason: str) -> None:
        self.state, self.reason = state, reason
        for task in (self._watch, self._look):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        for link in self._links:
            link.wire.fail(ConnectionLost(f"connection to {link.address} {state.value}: {reason}"))
        for consumer in self._consumers:
            consumer.end()
        self._consumers.clear()
        self._set_state(state, reason)

    def _set_state(self, state: ConnectionState, reason: str) -> None:
        self.state, self.reason = state, reason
        for callback in list(self._callbacks):
            callback(state)

    def _on_blocked(self) -> None:
        if self.state in (ConnectionState.CONNECTED, ConnectionState.BLOCKED):
            why = self._publishing.wire.blocked
            self._set_state(ConnectionState.BLOCKED if why else ConnectionState.CONNECTED, why)

    def _check(self) -> None:
        if self.state in (ConnectionState.LOST, ConnectionState.CLOSED):
            raise ConnectionLost(f"connection to {self.consuming.address} {self.state.value}: {self.reason}")

    # -- watching ------------------------------------------------------------------------------------------------

    async def _keep_watch(self) -> None:
        try:
            await self._watch_ticks()
        except asyncio.CancelledError:
            await self.close()  # if nobody has: the loop is about to end
            raise

    async def _watch_ticks(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks += 1
            for link, patience in self._patience:
                if silence := patience.tick():
                    self._lose(f"{link.address} {silence}")
                    return
            if ticks % self._look_ticks == 0 and (self._look is None or self._look.done()):
                self._look = asyncio.create_task(self._look_at_queues())

    async def _look_at_queues(self) -> None:
        """Find queues that hold messages for us and do not bring them."""
        try:
            for consumer in list(self._consumers):
                if consumer.idle():
                    self._judge(consumer, await self.depth(consumer.queue))
        except BrokerError as error:
            self._lose(f"the queues cannot be looked at: {error}")

    def _judge(self, consumer: RabbitConsumer, depth: QueueDepth | None) -> None:
        if depth is None and consumer.alive:
            self._lose(f"queue {consumer.queue}, which is consumed, is gone")
        elif depth is not None and consumer.stuck(depth.waiting, self._look_ticks) >= self._stuck_ticks_max:
            seconds = self._stuck_ticks_max * TICK_SECONDS
            self._lose(
                f"queue {consumer.queue} delivers nothing for {seconds:g} s although {depth.waiting:,} messages"
                " wait there and its consumer has room"
            )

    # -- queues --------------------------------------------------------------------------------------------------

    async def declare(self, queue: Queue) -> None:
        role = parsed(queue.name).role
        arguments: dict[str, Any] = {"x-queue-type": "classic", "x-max-length-bytes": role.bytes_max}
        replies = queue.kind is QueueKind.REPLIES
        arguments["x-overflow"] = "drop-head" if replies else "reject-publish"
        if role.by_incarnation:
            arguments["x-expires"] = ABANDONED_SECONDS * 1000
        declare = amqp.Queue.Declare(
            queue=queue.name, durable=not replies, exclusive=replies, arguments=arguments
        )
        bind = amqp.Queue.Bind(queue=queue.name, exchange=role.exchange, routing_key=queue.name)
        self._check()
        async with self._commands:
            await self._have_exchange(role.exchange)
            for command in (declare, bind):
                try:
                    await self._command(command)
                except Refused as refused:
                    raise BrokerError(f"queue {queue.name} cannot be declared: {refused}") from refused
            self._deleted.discard(queue.name)

    async def depth(self, queue: str) -> QueueDepth | None:
        self._check()
        async with self._commands:
            try:
                answer = await self._command(amqp.Queue.Declare(queue=queue, passive=True))
            except Refused as refused:
                if refused.code == 404:
                    return None
                if refused.code == 405:
                    raise BrokerError(f"queue {queue} belongs to another connection") from refused
                raise BrokerError(f"queue {queue} cannot be looked at: {refused}") from refused
        return QueueDepth(answer.message_count, answer.consumer_count)

    async def delete(self, queue: str) -> None:
        self._check()
        async with self._commands:
            self._deleted.add(queue)
            try:
                await self._command(amqp.Queue.Delete(queue=queue))
            except Refused as refused:
                self._deleted.discard(queue)
                raise BrokerError(f"queue {queue} cannot be deleted: {refused}") from refused

    async def has_exchange(self, exchange: str) -> bool:
        """Whether there is an exchange of this name; for whoever looks for what is wrong."""
        self._check()
        async with self._commands:
            try:
                await self._command(amqp.Exchange.Declare(exchange=exchange, passive=True))
            except Refused as refused:
                if refused.code == 404:
                    return False
                raise BrokerError(f"exchange {exchange} cannot be looked at: {refused}") from refused
        return True

    async def _command(self, command: Any) -> Any:
        """Ask on the channel for commands; what is refused costs the channel, and the next one gets another."""
        self._check()
        if self._command_channel is None or self._command_channel.ended is not None:
            self._command_channel = await self.consuming.wire.open_channel()
        return await self._command_channel.call(command)

    async def _have_exchange(self, exchange: str) -> None:
        """Make sure of the exchange: users with few rights may not declare one, only see that it is there."""
        if exchange in self._exchanges:
            return
        try:
            await self._command(amqp.Exchange.Declare(exchange=exchange, passive=True))
        except Refused as missing:
            if missing.code != 404:
                raise BrokerError(f"exchange {exchange} cannot be used: {missing}") from missing
            try:
                await self._command(
                    amqp.Exchange.Declare(exchange=exchange, exchange_type="direct", durable=True)
                )
            except Refused as refused:
                text = f"there is no exchange {exchange}, and it cannot be declared: {refused}"
                raise BrokerError(text) from refused
        self._exchanges.add(exchange)

    # -- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, queue: str, body: bytes) -> None:
        self._check()
        if len(body) > MESSAGE_BYTES_MAX:
            raise BrokerError(f"a message of {len(body):,} bytes is larger than {MESSAGE_BYTES_MAX:,}")
        route = self._routes.get(queue)
        if route is None or route.channel.ended is not None:
            route = await self._route(queue)
        try:
            await route.channel.publish(queue, route.beginning, body)
        except Refused as refused:
            if refused.code == 404:
                self._exchanges.discard(parsed(queue).role.exchange)
                raise Unroutable(f"there is no queue {queue}: {refused}") from refused
            raise BrokerError(f"publishing to {queue} was refused: {refused}") from refused

    async def _route(self, queue: str) -> _Route:
        role = parsed(queue).role
        opening = self._publishers.get(role.exchange)
        if opening is None or _failed(opening):
            opening = self._publishers[role.exchange] = asyncio.create_task(self._publisher(role.exchange))
            opening.add_done_callback(_failed)
        channel = await asyncio.shield(opening)
        if len(self._routes) >= _ROUTES_MAX:
            self._routes.clear()
        route = self._routes[queue] = _Route(channel, channel.route_to(role.exchange, queue))
        return route

    async def _publisher(self, exchange: str) -> Channel:
        async with self._commands:
            await self._have_exchange(exchange)
        channel = await self._publishing.wire.open_channel()
        await channel.call(amqp.Confirm.Select())
        return channel

    # -- consuming -----------------------------------------------------------------------------------------------

    async def consume(self, queue: str, on_delivery: OnDelivery, prefetch: int) -> RabbitConsumer:
        def on_message(tag: int, redelivered: bool, header: bytes, body: bytes) -> None:  # noqa: ARG001
            on_delivery(Delivery(queue, tag, body, redelivered))

        return await self.subscribe(queue, on_message, prefetch)

    async def subscribe(self, queue: str, on_message: OnMessage, prefetch: int) -> RabbitConsumer:
        """`consume`, with all that a message carries."""
        self._check()
        channel = await self.consuming.wire.open_channel()
        consumer = RabbitConsumer(self, channel, queue, on_message, prefetch)
        self._consumers.append(consumer)
        try:
            await consumer.start()
        except BaseException:
            self.forget(consumer)
            raise
        return consumer

    def forget(self, consumer: RabbitConsumer) -> None:
        """The consumer has ended."""
        consumer.end()
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def lost_channel(self, consumer: RabbitConsumer, reason: str) -> None:
        """The broker ended this consumer, as when an ack stays out for half an hour: it would be deaf for ever."""
        self._lose(f"the broker ended the consumer of queue {consumer.queue}: {reason}")

    def lost_queue(self, consumer: RabbitConsumer) -> None:
        """The queue under this consumer was deleted: quietly if by ourselves, else somebody must hear of it."""
        self.forget(consumer)
        if consumer.queue not in self._deleted:
            self._lose(f"queue {consumer.queue}, which is consumed, was deleted")


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
    link = await _Link.open(url, name, heartbeat_seconds, connect_seconds)
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


@dataclass(frozen=True, slots=True)
class _Route:
    """How messages get to one queue: the channel of its exchange, and what each of them begins with."""

    channel: Channel
    beginning: bytes


class _Link:
    """One connection: aio-pika's, and our wire under it."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, wire: Wire, address: str) -> None:
        self.wire = wire
        self.address = address
        self._connection = connection
        self._transport = connection.transport
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, name: str, heartbeat_seconds: int, connect_seconds: float) -> _Link:
        """Connect. Raises `ConnectionLost` or `BrokerError`, as `Connect` does."""
        address = address_of(url)
        transport = _Transport()
        wired = URL(url).update_query(heartbeat=str(heartbeat_seconds), name=name)
        connection = _Connection(wired, transport)
        try:
            await connection.connect(timeout=connect_seconds)
        except TimeoutError:
            transport.abort()
            text = f"{address} does not answer: nothing came within {connect_seconds:g} s"
            raise ConnectionLost(text) from None
        except (AMQPError, OSError, StopAsyncIteration) as error:  # the last: it ended
            transport.abort()
            raise _refusal(address, transport.wire, error) from error
        except BaseException:
            transport.abort()
            raise
        wire = transport.wire
        assert wire is not None and connection.transport is not None
        tune: Any = connection.transport.connection.connection_tune
        wire.frame_bytes_max = tune.frame_max or 131072
        return cls(connection, wire, address)

    async def close(self) -> None:
        """End the connection, after what was sent; while the broker does not read, at once."""
        if self.wire.blocked:
            self.abort()
            return
        self.wire.flush(whatever_waits=True)
        await self._close_connection()
        self.wire.abort()
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)

    def abort(self) -> None:
        """End the connection without a word; aio-pika's tasks find it closed."""
        self.wire.abort()
        self._closing = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        try:
            await self._close_connection()
        finally:
            for _ in range(_LAST_TURNS):
                await asyncio.sleep(0)

    async def _close_connection(self) -> None:
        """Let aio-pika end its part, for so long and no longer. A close of its that is cancelled, as by the end of the
        loop, waits for a callback, which may have been cancelled before it began: then nobody would ever end."""
        closing = asyncio.ensure_future(self._connection.close())
        try:
            await asyncio.wait((closing,), timeout=_CLOSE_SECONDS)
        finally:
            if not closing.done():
                closing.cancel()
                if self._transport is not None:
                    self._transport.close_callback.finished.set()
            elif not closing.cancelled():
                closing.exception()  # it is closed all the same


class _Connection(aio_pika.Connection):
    """aio-pika's connection over a transport of ours."""

    def __init__(self, url: URL, transport: _Transport) -> None:
        super().__init__(url)
        self.kwargs["transport_factory"] = transport

    def __del__(self) -> None:
        """Nothing: aio-pika would close it in a task, of whatever loop runs when it is collected, or of none."""


class _Transport(TransportFactory):
    """Opens the socket for aio-pika, with a `Wire` on it."""

    def __init__(self) -> None:
        self.wire: Wire | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See aiormq."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        wire = self.wire = Wire(reader, loop)
        context = await kwargs["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        transport, _ = await loop.create_connection(lambda: wire, url.host or "", url.port or 0, ssl=context)
        return reader, asyncio.StreamWriter(transport, wire, reader, loop)

    def abort(self) -> None:
        """Close the socket, if there is one."""
        if self.wire is not None:
            self.wire.abort()


def address_of(url: str) -> str:
    """Where a URL leads, for people: without the password. Raises `BrokerError` when it is no URL of a broker."""
    try:
        parts = URL(url)
        if parts.scheme not in ("amqp", "amqps") or not parts.host:
            raise ValueError
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    except ValueError:
        raise BrokerError(
            "a broker's URL reads amqp://user:password@host:port/vhost; this one does not"
        ) from None
    return f"RabbitMQ at {parts.host}:{port}{parts.path if parts.path != '/' else ''}"


def _refusal(address: str, wire: Wire | None, error: Exception) -> BrokerError:
    """What a failed attempt to connect means: refused for good, or to be tried again."""
    closed = wire.closed_by_broker if wire is not None else None
    if closed is None:
        return ConnectionLost(f"{address} cannot be reached: {str(error) or type(error).__name__}")
    code, text = closed
    if code in (403, 530) and "limit" not in text:
        return BrokerError(f"{address} refuses: {text}")
    return ConnectionLost(f"{address} is not ready: {text}")


def _failed(opening: asyncio.Task[Channel]) -> bool:
    """Whether this channel cannot be used (any more). Its error is for those who wait for it."""
    if not opening.done():
        return False
    return opening.cancelled() or opening.exception() is not None or opening.result().ended is not None


async def _both(first: Awaitable[_Link], second: Awaitable[_Link]) -> tuple[_Link, _Link]:
    """Both links, or none of them and the first error."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    links = [result for result in results if isinstance(result, _Link)]
    if errors:
        for link in links:
            link.abort()
        raise next((error for error in errors if not isinstance(error, ConnectionLost)), errors[0])
    return links[0], links[1]
