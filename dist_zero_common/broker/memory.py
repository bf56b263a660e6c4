"""A broker that is an object: for simulated systems, and for whole systems inside one process.

Without a world a message is in its queue, and confirmed, before `publish` returns. The embedded form goes without bytes
where it can: what is handed on (`HandsOn`) reaches its reader as the object that it is. With a world the network lies
between: transit takes time, messages of different senders pass each other, and the weather may double, delay or lose
them. Everything that crosses is recorded in the world's history.

What it copies from RabbitMQ: a queue keeps its messages in order and hands each to one consumer; unacked
ones go back to their old places, marked redelivered; a connection that ends takes its consumers and its
`REPLIES` queues with it; a queue at its limit refuses; an alarm blocks whoever publishes. What it leaves out: a
delivery limit and disk; acks arrive at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from dataclasses import dataclass

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
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable
from dist_zero_common.sim.world import SimWorld

#: RabbitMQ 4 takes no larger message.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
#: Deliveries per turn of the loop without a world. With one it is one, so that other tasks run in between.
_DELIVERIES_PER_TURN = 64
#: A publisher without a world lets others run when this many messages wait where it published.
_WAITING_UNTIL_YIELD = 64


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds now, and the most it ever held. `published` counts all that ever reached it."""

    waiting: int
    unacked: int
    bytes: int
    bytes_peak: int
    published: int


class _Message:
    """A message in a queue, as bytes or as it is; `position` is its place among all that ever reached the queue."""

    __slots__ = ("body", "handed", "position", "redelivered", "size")

    def __init__(self, body: bytes, handed: object, size: int, position: int) -> None:
        self.body = body
        self.handed = handed
        self.size = size
        self.position = position
        self.redelivered = False


class _Queue:
    """One queue. `bytes_waiting` are those that no consumer has; `bytes_held` are all that were not acked."""

    def __init__(self, queue: Queue, owner: MemoryConnection, deliveries_per_turn: int) -> None:
        self.queue = queue
        self._context = owner.server.context
        self.owner = owner
        self.consumers: list[MemoryConsumer] = []
        self.bytes_waiting = 0
        self.bytes_held = 0
        self._waiting: deque[_Message] = deque()
        self._bytes_peak = 0
        self._published = 0
        self._deliveries_per_turn = deliveries_per_turn
        self._turn_set = False

    def accept(self, body: bytes, handed: object, size: int) -> int:
        """Take a new message; returns how many wait."""
        self._published += 1
        self._waiting.append(_Message(body, handed, size, self._published))
        self.bytes_waiting += size
        self.bytes_held += size
        self._bytes_peak = max(self._bytes_peak, self.bytes_held)
        self.wake()
        return len(self._waiting)

    def take_back(self, messages: list[_Message], shuffle_with: random.Random | None) -> None:
        """Messages that were delivered and not acked wait again."""
        for message in messages:
            message.redelivered = True
            self.bytes_waiting += message.size
        if shuffle_with is None:
            self._waiting = deque(sorted((*messages, *self._waiting), key=lambda message: message.position))
        else:
            shuffle_with.shuffle(messages)
            self._waiting.extend(messages)
        self.wake()

    def forget_all(self) -> None:
        """What waits, and what consumers have and did not ack, is gone."""
        self._waiting.clear()
        for consumer in self.consumers:
            consumer.unacked.clear()
        self.bytes_waiting = self.bytes_held = 0

    def wake(self) -> None:
        """Deliver soon, if there is something to deliver and somebody to take it."""
        if self._turn_set or not self._waiting:
            return
        for consumer in self.consumers:
            if consumer.has_credit():
                self._turn_set = True
                asyncio.get_running_loop().call_soon(self._turn, context=self._context)
                return

    def _turn(self) -> None:
        try:
            for _ in range(min(self._deliveries_per_turn, len(self._waiting))):
                consumer = self._free_consumer()
                if consumer is None:
                    return
                message = self._waiting.popleft()
                self.bytes_waiting -= message.size
                consumer.deliver(message)
        finally:
            self._turn_set = False
            self.wake()

    def _free_consumer(self) -> MemoryConsumer | None:
        """The consumer whose turn it is among those that have credit; it goes to the end of the line."""
        for index, consumer in enumerate(self.consumers):
            if consumer.has_credit():
                if len(self.consumers) > 1:
                    self.consumers.append(self.consumers.pop(index))
                return consumer
        return None

    def depth(self) -> Depth:
        unacked = sum(len(consumer.unacked) for consumer in self.consumers)
        return Depth(len(self._waiting), unacked, self.bytes_held, self._bytes_peak, self._published)


class MemoryConsumer:
    """See `broker.base.Consumer`."""

    def __init__(
        self, connection: MemoryConnection, queue: _Queue, on_delivery: OnDelivery, prefetch: int
    ) -> None:
        self.unacked: dict[int, _Message] = {}
        self.connection = connection
        self._queue = queue
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._tags = 0
        self._alive = True

    def has_credit(self) -> bool:
        """Whether one more delivery is within the prefetch, and nothing holds deliveries up."""
        return not self.connection.is_held and (not self._prefetch or len(self.unacked) < self._prefetch)

    def deliver(self, message: _Message) -> None:
        """Hand the message to the consumer's callback, unacked from now on."""
        self._tags = tag = self._tags + 1
        self.unacked[tag] = message
        name = self._queue.queue.name
        self.connection.record("deliver", name, [tag], message.body)
        self._on_delivery(Delivery(name, tag, message.body, message.redelivered, message.handed))

    def ack(self, tags: list[int]) -> None:
        if not self._alive:
            return
        for tag in tags:
            message = self.unacked.pop(tag, None)
            if message is None:
                raise BrokerError(
                    f"delivery {tag} of {self._queue.queue.name} is acked already or was never delivered"
                )
            self._queue.bytes_held -= message.size
        self.connection.record("ack", self._queue.queue.name, tags)
        self._queue.wake()

    async def cancel(self) -> None:
        await self.connection.round_trip()
        self.end()

    def wake(self) -> None:
        """Deliveries were held up and are not any more."""
        self._queue.wake()

    def end(self) -> None:
        """No more deliveries; what was not acked goes back to the queue."""
        if not self._alive:
            return
        self._alive = False
        self._queue.consumers.remove(self)
        self.connection.consumers.remove(self)
        if self.unacked:
            self._queue.take_back(list(self.unacked.values()), self.connection.server.shuffles_returns())

    def forget(self) -> None:
        """The queue was deleted: no more deliveries, and nothing to give back."""
        self._alive = False
        self.connection.consumers.remove(self)


class _Link:
    """The way from one connection to one queue in a simulated network."""

    def __init__(self, slow_factor: float) -> None:
        self.slow_factor = slow_factor
        self.newest_arrival = 0.0


class MemoryConnection:
    """See `broker.base.Broker`. Made by `MemoryBroker.connect`."""

    def __init__(self, server: MemoryBroker, name: str) -> None:
        self.state = ConnectionState.CONNECTED
        self.reason = ""
        self.name = name
        self.server = server
        self.consumers: list[MemoryConsumer] = []
        self._callbacks: list[OnConnection] = []
        self._links: dict[str, _Link] = {}
        self._unconfirmed: dict[asyncio.Future[None], None] = {}
        self._held: dict[asyncio.Future[None], None] = {}
        """Publishes that wait for the end of an alarm."""
        self.is_held = False
        """Whether nothing is delivered just now."""
        self._sent_not_before = 0.0
        self._received_not_before = 0.0

    def on_connection(self, callback: OnConnection) -> None:
        self._callbacks.append(callback)

    async def declare(self, queue: Queue) -> None:
        await self.round_trip()
        there = self.server.queues.get(queue.name)
        if there is None:
            self.server.queues[queue.name] = self.server.new_queue(queue, self)
        elif there.queue != queue:
            raise BrokerError(f"queue {queue.name} is there already, of kind {there.queue.kind.value}")
        else:
            self._check_may_use(there)

    async def publish(self, queue: str, body: bytes) -> None:
        self._check_connected()
        if len(body) > MESSAGE_BYTES_MAX:
            raise BrokerError(f"a message of {len(body):,} bytes is larger than {MESSAGE_BYTES_MAX:,}")
        while self.server.alarm:
            await self._wait_for_the_alarm()
        world = self.server.world
        if world is None:
            if self.server.accept(queue, body) > _WAITING_UNTIL_YIELD:
                await asyncio.sleep(0)
        else:
            await self._publish_across(world, queue, body)

    def hand_on(self, queue: str, message: object, size_bytes: int) -> bool:
        """See `broker.base.HandsOn`."""
        return self.state is ConnectionState.CONNECTED and self.server.take(queue, message, size_bytes)

    async def consume(self, queue: str, on_delivery: OnDelivery, prefetch: int) -> MemoryConsumer:
        await self.round_trip()
        there = self.server.queues.get(queue)
        if there is None:
            raise BrokerError(f"there is no queue {queue} to consume from")
        self._check_may_use(there)
        consumer = MemoryConsumer(self, there, on_delivery, prefetch)
        there.consumers.append(consumer)
        self.consumers.append(consumer)
        there.wake()
        return consumer

    async def depth(self, queue: str) -> QueueDepth | None:
        await self.round_trip()
        there = self.server.queues.get(queue)
        if there is None:
            return None
        self._check_may_use(there)
        return QueueDepth(there.depth().waiting, len(there.consumers))

    async def delete(self, queue: str) -> None:
        await self.round_trip()
        there = self.server.queues.get(queue)
        if there is not None:
            self._check_may_use(there)
            self.server.remove(there, by=self)

    async def close(self) -> None:
        self._end(ConnectionState.CLOSED, "the connection was closed")

    def drop_connection(self, reason: str = "the connection was dropped") -> None:
        """Lose the connection, as when the cable is cut: for tests and fault plans."""
        self._end(ConnectionState.LOST, reason)

    def hold(self, *, sent: float, received: float) -> None:
        """A link that is down, which nobody has noticed yet: what is sent from now on arrives no sooner than `sent`,
        and nothing is delivered before `received`, both in the loop's seconds."""
        self._sent_not_before = max(self._sent_not_before, sent)
        if received > self._received_not_before:
            self._received_not_before, self.is_held = received, True
            loop = asyncio.get_running_loop()
            loop.call_at(received, self._release, received, context=self.server.context)

    def _release(self, received: float) -> None:
        if received == self._received_not_before:
            self.is_held = False
            for consumer in self.consumers:
                consumer.wake()

    def unblock(self) -> None:
        """The alarm is over: what waited to be published goes on."""
        if self.state is ConnectionState.BLOCKED:
            self._set_state(ConnectionState.CONNECTED, "")
            for held in list(self._held):
                _settle(held, None)

    async def round_trip(self) -> None:
        """Reach the broker with a command. Raises `ConnectionLost` when the connection ends on the way."""
        self._check_connected()
        world = self.server.world
        if world is not None:
            wait = max(self._sent_not_before, self._received_not_before) - asyncio.get_running_loop().time()
            await asyncio.sleep(max(wait, world.weather.transit.draw(world.rng("broker"))))
            self._check_connected()

    def record(self, kind: str, queue: str, tags: list[int], body: bytes = b"") -> None:
        """Note in the history of the simulation, if this is one."""
        if self.server.world is not None:
            self.server.world.record(kind, queue, f"{self.name} {tags}", body)

    def _check_connected(self) -> None:
        if self.state in (ConnectionState.LOST, ConnectionState.CLOSED):
            raise ConnectionLost(self._ended())

    def _ended(self) -> str:
        return f"connection {self.name} to the broker is {self.state.value}: {self.reason}"

    async def _wait_for_the_alarm(self) -> None:
        if self.state is ConnectionState.CONNECTED:
            self._set_state(ConnectionState.BLOCKED, self.server.alarm)
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held[held] = None
        try:
            await held
        finally:
            del self._held[held]

    def _check_may_use(self, queue: _Queue) -> None:
        if queue.queue.kind is QueueKind.REPLIES and queue.owner is not self:
            raise BrokerError(f"queue {queue.queue.name} belongs to another connection")

    async def _publish_across(self, world: SimWorld, queue: str, body: bytes) -> None:
        world.record("publish", queue, self.name, body)
        loop = asyncio.get_running_loop()
        confirm: asyncio.Future[None] = loop.create_future()
        self._unconfirmed[confirm] = None
        when, context = self._arrival(world, queue), self.server.context
        loop.call_at(when, self._arrive, world, queue, body, confirm, context=context)
        try:
            await confirm
        finally:
            self._unconfirmed.pop(confirm, None)
            if confirm.done() and not confirm.cancelled():
                confirm.exception()  # a publisher that was cancelled meanwhile does not ask any more

    def _arrival(self, world: SimWorld, queue: str) -> float:
        """When a message sent now arrives: behind its sender's earlier ones, unless it overtakes them."""
        weather, rng = world.weather, world.rng("broker")
        link = self._links.get(queue)
        if link is None:
            slow = weather.slow_pair > 0.0 and rng.random() < weather.slow_pair
            link = self._links[queue] = _Link(weather.slow_factor if slow else 1.0)
        arrival = asyncio.get_running_loop().time() + weather.transit.draw(rng) * min(
            link.slow_factor, weather.slow_factor
        )
        if weather.overtakes == 0.0 or rng.random() >= weather.overtakes:
            arrival = max(arrival, link.newest_arrival)
        arrival = max(arrival, self._sent_not_before)
        link.newest_arrival = max(arrival, link.newest_arrival)
        return arrival

    def _arrive(self, world: SimWorld, queue: str, body: bytes, confirm: asyncio.Future[None]) -> None:
        """The message is at the broker, unless the connection was lost while it was under way."""
        weather, rng = world.weather, world.rng("broker")
        if self.state is ConnectionState.LOST and rng.random() < 0.5:
            return
        error = None
        if weather.loss > 0.0 and rng.random() < weather.loss:
            world.record("lose", queue, self.name, body)
        else:
            error = self.server.accepted(queue, body)
        loop = asyncio.get_running_loop()
        if weather.duplicate > 0.0 and rng.random() < weather.duplicate:
            world.record("duplicate", queue, self.name)
            when = self._arrival(world, queue)
            loop.call_at(when, self.server.accepted, queue, body, context=self.server.context)
        if weather.late_confirm > 0.0 and rng.random() < weather.late_confirm:
            when = loop.time() + weather.transit.draw(rng)
            loop.call_at(when, _settle, confirm, error, context=self.server.context)
        else:
            _settle(confirm, error)

    def _end(self, state: ConnectionState, reason: str) -> None:
        if self.state in (ConnectionState.LOST, ConnectionState.CLOSED):
            return
        self.state, self.reason = state, reason
        self.server.connections.remove(self)
        if self.server.world is not None:
            self.server.world.record("connection", self.name, state.value)
        for consumer in list(self.consumers):
            consumer.end()
        for queue in [queue for queue in self.server.queues.values() if queue.owner is self]:
            if queue.queue.kind is QueueKind.REPLIES:
                self.server.remove(queue, by=self)
        for waiting in (*self._unconfirmed, *self._held):
            _settle(waiting, ConnectionLost(self._ended()))
        self._set_state(state, reason)

    def _set_state(self, state: ConnectionState, reason: str) -> None:
        self.state, self.reason = state, reason
        for callback in list(self._callbacks):
            callback(state)


def _settle(confirm: asyncio.Future[None], error: BrokerError | None) -> None:
    if confirm.done():
        return
    if error is None:
        confirm.set_result(None)
    else:
        confirm.set_exception(error)


class MemoryBroker:
    """The server. All its connections must be used in one event loop."""

    def __init__(
        self, world: SimWorld | None = None, queue_bytes_max: int | None = None, *, hands_on: bool = False
    ) -> None:
        """`queue_bytes_max`: a queue in which more wait refuses further messages with `BrokerError`. `hands_on`:
        whether messages need not become bytes; never in a world, where the codec works, and bytes are the history."""
        self.world = world
        self._hands_on = hands_on and world is None
        self.context = contextvars.Context()
        """What the server does is nobody's doing: it goes on when whoever caused it is stopped."""
        self.queues: dict[str, _Queue] = {}
        self.connections: list[MemoryConnection] = []
        self.alarm = ""
        """Why nothing can be published just now, if so."""
        self.unreachable = False
        """Whether a `connector` finds nobody, as when the broker is down."""
        self._queue_bytes_max = queue_bytes_max
        self._connections = 0

    def connect(self, name: str | None = None) -> MemoryConnection:
        """A new connection; `name` appears in errors and in the history."""
        self._connections += 1
        connection = MemoryConnection(self, name or f"connection-{self._connections}")
        self.connections.append(connection)
        return connection

    def connector(self, name: str, refusal: str = "") -> Connect:
        """What makes connections of this name, each time it is called, as `Mailbox` wants it; or is refused, as with
        a wrong password."""

        async def connect() -> MemoryConnection:
            if self.unreachable:
                raise ConnectionLost("the broker cannot be reached")
            if refusal:
                raise BrokerError(f"the broker refuses: {refusal}")
            return self.connect(name)

        return connect

    def raise_alarm(self, reason: str) -> None:
        """Memory or disk run out: whoever publishes from now on is blocked, and waits."""
        self.alarm = reason

    def clear_alarm(self) -> None:
        """There is room again."""
        self.alarm = ""
        for connection in list(self.connections):
            connection.unblock()

    def restart(self) -> None:
        """What a restart of RabbitMQ does to messages that are not persistent: queues stay, what they held is gone, and
        so are all connections."""
        for queue in self.queues.values():
            queue.forget_all()
        self.lose_connections("the broker was restarted")

    def lose_connections(self, reason: str) -> None:
        """All connections end, and with them all delivery tags; what was not acked returns to its queues."""
        for connection in list(self.connections):
            connection.drop_connection(reason)

    def wipe(self) -> None:
        """A broker that comes back with an empty disk: no connections, no queues."""
        self.lose_connections("the broker was replaced")
        self.queues.clear()

    def readers_of(self, name: str) -> list[MemoryConnection]:
        """The connections that consume a queue in whose name this text is."""
        queues = [queue for each, queue in self.queues.items() if name in each]
        return [consumer.connection for queue in queues for consumer in queue.consumers]

    def depths(self) -> dict[str, Depth]:
        """The queues that are there, by name."""
        return {name: queue.depth() for name, queue in self.queues.items()}

    def new_queue(self, queue: Queue, owner: MemoryConnection) -> _Queue:
        """An empty queue; in a simulation it hands out one delivery per turn of the loop."""
        return _Queue(queue, owner, _DELIVERIES_PER_TURN if self.world is None else 1)

    def remove(self, queue: _Queue, by: MemoryConnection) -> None:
        """The queue is gone, with all it held. Whoever else consumed it hears of it by losing the connection."""
        name = queue.queue.name
        del self.queues[name]
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            consumer.forget()
        for connection in {id(consumer.connection): consumer.connection for consumer in consumers}.values():
            if connection is not by:
                connection.drop_connection(f"queue {name}, which is consumed, was deleted")

    def shuffles_returns(self) -> random.Random | None:
        """What to shuffle returned messages with, if the weather shuffles them."""
        world = self.world
        return world.rng("broker") if world is not None and world.weather.returns_shuffled else None

    def accept(self, queue: str, body: bytes) -> int:
        """Put a message into its queue; returns how many wait there. Raises `Unroutable` or `BrokerError`."""
        there = self.queues.get(queue)
        if there is None:
            raise Unroutable(f"there is no queue {queue}")
        if self._queue_bytes_max is not None and there.bytes_waiting + len(body) > self._queue_bytes_max:
            raise BrokerError(
                f"queue {queue} is full: {there.bytes_waiting:,} bytes wait there,"
                f" and {len(body):,} more would pass its limit of {self._queue_bytes_max:,}"
            )
        return there.accept(body, None, len(body))

    def take(self, queue: str, message: object, size_bytes: int) -> bool:
        """Put a message into its queue as it is; False if that cannot be now."""
        there = self.queues.get(queue)
        if not self._hands_on or self.alarm or there is None or self._queue_bytes_max is not None:
            return False
        there.accept(b"", message, size_bytes)
        return True

    def accepted(self, queue: str, body: bytes) -> BrokerError | None:
        """`accept`, with the error returned."""
        try:
            self.accept(queue, body)
        except BrokerError as error:
            return error
        return None
