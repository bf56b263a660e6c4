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
from dataclasses import dataclass
from typing import Any

import pamqp.commands as amqp

from dist_zero_common.broker.amqp import TICK_SECONDS, Channel, OnMessage, Patience, Refused
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
from dist_zero_common.broker.rabbitmq_link import Link, open_both
from dist_zero_common.broker.topology import parsed
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable

#: An inbox that an incarnation has left behind goes after this long without a reader.
ABANDONED_SECONDS = 3600
#: How many ticks at most pass between two looks at the queues.
_LOOK_TICKS_MAX = 20
_ROUTES_MAX = 4096


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
        publishing, consuming = await open_both(
            Link.open(url, f"{name} (publishes)", heartbeat_seconds, connect_seconds),
            Link.open(url, name, heartbeat_seconds, connect_seconds),
        )
        return RabbitBroker(publishing, consuming, publish_seconds, stuck_seconds)

    return connect


class RabbitBroker:
    """See `broker.base.Broker`. Made by `connector`."""

    def __init__(
        self, publishing: Link, consuming: Link, publish_seconds: float, stuck_seconds: float
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
class _Route:
    """How messages get to one queue: the channel of its exchange, and what each of them begins with."""

    channel: Channel
    beginning: bytes


def _failed(opening: asyncio.Task[Channel]) -> bool:
    """Whether this channel cannot be used (any more). Its error is for those who wait for it."""
    if not opening.done():
        return False
    return opening.cancelled() or opening.exception() is not None or opening.result().ended is not None
