"""A process's post: messages in and out over a connection to the broker, the same for services and clients.

Out: `send` never waits. What is sent to one inbox while the broker is busy with messages before goes out as one
envelope, so batches grow with the load by themselves and a lone message leaves at once. What a process sends to an
inbox that it listens to itself does not touch the broker. Where all mailboxes are in one process, a broker may hand
envelopes on as they are: they are immutable. Then nothing is encoded, and what is sent is in its queue at once.

In: `listen` hands decoded messages to a handler, in the loop, one after the other. Every message comes with a *token*;
the handler (or whoever it gives the token to) calls `settle(token)` when the message may be forgotten, and a delivery
is acked when all its messages are settled. An undecodable delivery is counted, given to `set_aside` with the reason,
and acked: it is never requeued. So is a single message that its handler refuses with `MalformedMessage`.

**Connections.** A connection to a broker never comes back; the mailbox makes another one, again and again, and tells
`on_state` how that goes. What a loss means, and why nothing is lost by it here:

- An envelope stays with the mailbox until the broker has confirmed it. One that was on its way when the connection
  ended may be there or not, so it is published again: receivers may see it twice. What the broker has confirmed and
  then forgets, as when it is restarted, nobody here can know of: whoever waits for it asks again.
- Every queue is declared and consumed again. What was delivered and not acked comes again, with new tokens; settling
  an old token is allowed and does nothing at the broker. Handlers are idempotent.
- A queue that lives with its connection (`REPLIES`) is given to `listen` as a function of the connection's number, so
  that each has a name of its own. What was in the old one is gone: whoever asked asks again.

**Windows.** To one inbox an envelope leaves at once when none is on its way there. While some are, another one leaves
only when `WINDOW_BYTES_WAITING` wait, and at most `WINDOW_ENVELOPES` and about `WINDOW_BYTES` are on their way.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from dist_zero_common.broker.base import (
    Broker,
    Connect,
    ConnectionState,
    Consumer,
    Delivery,
    HandsOn,
    Queue,
    QueueDepth,
)
from dist_zero_common.errors import BrokerError, ConnectionLost, InternalError, MalformedMessage, Unroutable
from dist_zero_common.log import Logger
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.envelope import ENVELOPE_BYTES_MAX, Envelope, Message
from dist_zero_common.protocol.messages.epochs import HandOut, StageRows
from dist_zero_common.protocol.messages.pieces import BatchBlob, WritesBlob
from dist_zero_common.protocol.messages.reading import Changes, SnapshotAnswer
from dist_zero_common.protocol.messages.writing import Transaction

Token = int
NO_TOKEN: Token = 0
Handler = Callable[[Message, Token], None]
SetAside = Callable[[str, bytes, str], None]
"""Called with the queue's name, the bytes and the reason."""
OnState = Callable[[ConnectionState, str], None]
"""Called with what the connection is now, and why: the words are empty when all is well."""
NameQueue = Callable[[int], Queue]
"""Makes the queue to listen to on the connection of this number, 1 for the first."""

ENVELOPE_BYTES_TARGET = 2**20
"""An envelope is closed when it holds about this much; a larger message travels alone."""
WINDOW_BYTES_WAITING = 64 * 2**10
WINDOW_ENVELOPES = 8
WINDOW_BYTES = 4 * 2**20

CONNECT_SECONDS_MAX = 10.0
"""A connection that is not made within this time has failed."""
SET_UP_SECONDS_MAX = 30.0
"""So has one on which the queues are not declared and consumed within this time."""
AGAIN_SECONDS_MIN, AGAIN_SECONDS_MAX = 0.1, 5.0
"""Pauses before a connection is tried again, and before a refused envelope is."""
FIRST_SECONDS_MAX, FIRST_TRIES = 0.3, 100
"""So many times the pauses before the first connection are this short: at a start, the broker is there soon."""
CLOSE_SECONDS_MAX = 2.0


@dataclass(slots=True)
class _Receipt:
    """One delivery, and how many of its messages are not settled yet."""

    consumer: Consumer | None
    tag: int
    open: int


@dataclass(slots=True, eq=False)
class _Listener:
    """Who wants the messages of a queue. `queue` is its name on the newest connection."""

    name_queue: NameQueue
    handler: Handler
    prefetch: int
    queue: str = ""
    taken: _Taken | None = None
    consumed: asyncio.Future[None] | None = None
    """Done when it is consumed for the first time, which is what `listen` waits for."""


@dataclass(slots=True, eq=False)
class _Taken:
    """A listener's consumer on one connection. Deliveries may come before `consume` has returned it: they wait."""

    listener: _Listener
    consumer: Consumer | None = None
    early: list[Delivery] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Outbox:
    """What is to go to one inbox, what is on its way there, and in how many publishes at a time."""

    pending: deque[tuple[Message, int]] = field(default_factory=deque)
    bytes_waiting: int = 0
    in_flight: int = 0
    bytes_in_flight: int = 0
    starting: bool = False

    def may_leave(self) -> bool:
        """Whether one more envelope may leave now."""
        if not self.in_flight or not self.pending:
            return bool(self.pending)
        return (
            self.bytes_waiting >= WINDOW_BYTES_WAITING
            and self.in_flight < WINDOW_ENVELOPES
            and self.bytes_in_flight < WINDOW_BYTES
        )


class Mailbox:
    """The post of one process. `run` must be running for anything to move."""

    def __init__(
        self,
        connect: Connect,
        *,
        system: str,
        sender: str,
        set_aside: SetAside,
        on_unroutable: Callable[[str], None] | None = None,
        after_batch: Callable[[], None] | None = None,
        on_state: OnState | None = None,
    ) -> None:
        """`on_unroutable` hears of inboxes that do not exist; `after_batch` is called whenever all that had come in
        has been handled, which is the moment to send what was collected; `on_state` hears of the connection."""
        self.counters: Counter[str] = Counter()
        self.last_progress = float("-inf")
        """When something moved last, in the loop's seconds: a publish was confirmed or a delivery handled."""
        self.state = ConnectionState.LOST
        self._connect = connect
        self._system, self._sender = system, sender
        self._set_aside = set_aside
        self._on_unroutable, self._after_batch, self._on_state = on_unroutable, after_batch, on_state
        self._listeners: list[_Listener] = []
        self._own: dict[str, _Listener] = {}
        self._incoming: deque[tuple[_Listener, Consumer | None, Delivery | Message]] = deque()
        self._arrived = asyncio.Event()
        self._outboxes: dict[str, _Outbox] = {}
        self._receipts: dict[Token, _Receipt] = {}
        self._next_token = 1
        self._tasks: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._broker: Broker | None = None
        self._hands_on: HandsOn | None = None
        """The broker, if it can hand on envelopes and nothing keeps us from sending."""
        self._lost = asyncio.Event()
        self._may_publish = asyncio.Event()
        self._connections = 0

    async def run(self) -> None:
        """Move messages until cancelled. A failing handler ends it with that error, and so does a broker that refuses
        (`BrokerError`); a connection that is lost, or cannot be made, is made again."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for inbox, outbox in self._outboxes.items():
                    self._start_publishing(inbox, outbox)
                tasks.create_task(self._stay_connected())
                while True:
                    await self._arrived.wait()
                    self._arrived.clear()
                    self._handle_all()
                    await asyncio.sleep(0)
        finally:
            self._tasks = None

    async def listen(self, queue: Queue | NameQueue, handler: Handler, prefetch: int = 0) -> None:
        """Give the messages of `queue` to `handler`, on this connection and all later ones; returns when it is consumed
        for the first time. A queue that lives with its connection is given as a function of the connection's number.
        """
        name_queue = queue if callable(queue) else _always(queue)
        listener = _Listener(name_queue, handler, prefetch)
        listener.consumed = asyncio.get_running_loop().create_future()
        self._listeners.append(listener)
        broker = self._broker
        if broker is not None:
            try:
                await self._consume(broker, listener)
            except ConnectionLost:
                self._give_up(broker)
            except BaseException:
                self._forget(listener)
                raise
        await listener.consumed

    async def stop_listening(self, queue: str, handler: Handler) -> None:
        """Give no more messages of the queue to this handler: somebody else may listen to it by now, and goes on. What
        was not settled returns to the queue, and its tokens mean nothing any more."""
        number = self._connections
        its = [each for each in self._listeners if queue in (each.queue, each.name_queue(number).name)]
        for listener in [each for each in its if each.handler == handler]:
            taken = listener.taken
            self._forget(listener)
            if taken is not None and taken.consumer is not None:
                with suppress(ConnectionLost):
                    await taken.consumer.cancel()

    async def delete(self, queue: str) -> None:
        """Remove a queue that nobody reads any more, with what is in it; without a connection it stays."""
        broker = self._broker
        if broker is not None:
            with suppress(BrokerError):
                await broker.delete(queue)

    def send(self, inbox: str, message: Message) -> None:
        """Send in the background; to an inbox of this mailbox, without the broker."""
        listener = self._own.get(inbox)
        if listener is not None:
            self._incoming.append((listener, None, message))
            self._arrived.set()
            return
        outbox = self._outboxes.get(inbox)
        size = approximate_bytes(message)
        if outbox is None:
            if self._hands_on is not None and self._hand_on(self._hands_on, inbox, message, size):
                return
            outbox = self._outboxes[inbox] = _Outbox()
            self._idle.clear()
        outbox.pending.append((message, size))
        outbox.bytes_waiting += size
        self._start_publishing(inbox, outbox)

    def settle(self, token: Token) -> None:
        """The message of this token may be forgotten; settling twice is a bug of the caller's."""
        if token == NO_TOKEN:
            return
        receipt = self._receipts.pop(token)
        receipt.open -= 1
        if receipt.open == 0 and receipt.consumer is not None:
            receipt.consumer.ack([receipt.tag])

    def share(self, token: Token, count: int) -> list[Token]:
        """`count` tokens in place of one: the message may be forgotten when all of them are settled."""
        if token == NO_TOKEN or count == 0:
            self.settle(token)
            return [NO_TOKEN] * count
        receipt = self._receipts[token]
        receipt.open += count - 1
        return [token, *(self._token(receipt) for _ in range(count - 1))]

    async def wait_sent(self) -> None:
        """Wait until the broker has confirmed all that was sent, over as many connections as that takes."""
        await self._idle.wait()

    @property
    def unsent(self) -> int:
        """How many messages wait to be given to the broker."""
        return sum(len(outbox.pending) for outbox in self._outboxes.values())

    @property
    def unsettled(self) -> int:
        """How many messages have come in and are not settled."""
        return len(self._receipts)

    @property
    def connections(self) -> int:
        """How many connections there were, with the present one."""
        return self._connections

    async def ask_broker(self, queue: str) -> QueueDepth | None:
        """How a queue is doing, None if there is none; an answer is progress, too, of a post that has nothing to send.
        Raises `BrokerError`."""
        broker = self._broker
        if broker is None or self.state is not ConnectionState.CONNECTED:
            raise ConnectionLost("there is no connection to the broker just now")
        depth = await broker.depth(queue)
        self.last_progress = asyncio.get_running_loop().time()
        return depth

    # -- connections ---------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Make a connection, and another one whenever it is lost."""
        failures = 0
        try:
            while True:
                try:
                    failures, reason = 0, await self._live_through_one()
                except (ConnectionLost, TimeoutError) as lost:
                    failures, reason = failures + 1, str(lost) or "the broker does not answer"
                self._tell(ConnectionState.LOST, reason)
                pause = pause_seconds(self._sender, failures)
                if not self._connections and failures <= FIRST_TRIES:
                    pause = min(pause, FIRST_SECONDS_MAX)
                await asyncio.sleep(pause)
        except BrokerError as refused:
            for listener in self._listeners:
                if listener.consumed is not None and not listener.consumed.done():
                    listener.consumed.set_exception(refused)
                    listener.consumed.exception()  # whoever waits may be cancelled with us
            raise

    async def _live_through_one(self) -> str:
        """Make a connection and return when it is lost, with the reason. Raises `ConnectionLost` or `TimeoutError`
        when it never came to be of use, and `BrokerError` when the broker refuses."""
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            broker = await self._connect()
        self._connections += 1
        self._lost.clear()
        self._broker = broker
        broker.on_connection(lambda state: self._on_connection(broker, state))
        try:
            async with asyncio.timeout(SET_UP_SECONDS_MAX):
                for listener in list(self._listeners):
                    if listener in self._listeners:  # and has not stopped while the others were set up
                        await self._consume(broker, listener)
            self._on_connection(broker, broker.state)
            await self._lost.wait()
            return broker.reason or "a publish was not answered"
        finally:
            self._broker = None
            self._stop_publishing()
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await broker.close()

    async def _consume(self, broker: Broker, listener: _Listener) -> None:
        """Declare and consume a listener's queue on this connection."""
        queue = listener.name_queue(self._connections)
        taken = listener.taken = _Taken(listener)
        self._own.pop(listener.queue, None)
        listener.queue = queue.name
        self._own[queue.name] = listener
        await broker.declare(queue)
        consumer = await broker.consume(
            queue.name, lambda delivery: self._arrive(taken, delivery), listener.prefetch
        )
        if listener.taken is not taken:  # nobody listens any more
            await consumer.cancel()
            return
        taken.consumer = consumer
        for delivery in taken.early:
            self._arrive(taken, delivery)
        taken.early.clear()
        if listener.consumed is not None and not listener.consumed.done():
            listener.consumed.set_result(None)

    def _forget(self, listener: _Listener) -> None:
        listener.taken = None
        self._listeners.remove(listener)
        if self._own.get(listener.queue) is listener:
            del self._own[listener.queue]

    def _on_connection(self, broker: Broker, state: ConnectionState) -> None:
        if broker is not self._broker:
            return
        if state in (ConnectionState.LOST, ConnectionState.CLOSED):
            self._give_up(broker)
        elif state is ConnectionState.BLOCKED:
            self._stop_publishing()
            self._tell(state, broker.reason)
        else:
            self._may_publish.set()
            self._hands_on = broker if isinstance(broker, HandsOn) else None
            self._tell(state, "")

    def _give_up(self, broker: Broker) -> None:
        """This connection is of no use any more."""
        if broker is self._broker:
            self._stop_publishing()
            self._lost.set()

    def _stop_publishing(self) -> None:
        self._may_publish.clear()
        self._hands_on = None

    def _tell(self, state: ConnectionState, reason: str) -> None:
        self.state = state
        self.counters[state.value] += 1
        if self._on_state is not None:
            self._on_state(state, reason)

    # -- in ------------------------------------------------------------------------------------------------

    def _arrive(self, taken: _Taken, delivery: Delivery) -> None:
        if taken.consumer is None:
            taken.early.append(delivery)
            return
        self._incoming.append((taken.listener, taken.consumer, delivery))
        self._arrived.set()

    def _handle_all(self) -> None:
        while self._incoming:
            listener, consumer, item = self._incoming.popleft()
            if isinstance(item, Delivery):
                self._open(listener, consumer, item)
            else:
                self._handle(listener, item, NO_TOKEN, b"")
            if not self._incoming and self._after_batch is not None:
                self._after_batch()
        self.last_progress = asyncio.get_running_loop().time()

    def _open(self, listener: _Listener, consumer: Consumer | None, delivery: Delivery) -> None:
        self.counters["deliveries"] += 1
        receipt = _Receipt(consumer, delivery.tag, 1)
        try:
            envelope = envelope_of(delivery)
            if envelope.system != self._system:
                raise MalformedMessage(
                    f"it belongs to the system {envelope.system!r}, not to {self._system!r}"
                )
        except MalformedMessage as refused:
            self._refuse(delivery.queue, delivery.body, str(refused))
        else:
            for message in envelope.messages:
                receipt.open += 1
                self._handle(listener, message, self._token(receipt), delivery.body)
        self.settle(self._token(receipt))

    def _token(self, receipt: _Receipt) -> Token:
        token, self._next_token = self._next_token, self._next_token + 1
        self._receipts[token] = receipt
        return token

    def _handle(self, listener: _Listener, message: Message, token: Token, body: bytes) -> None:
        self.counters["messages"] += 1
        try:
            listener.handler(message, token)
        except MalformedMessage as refused:
            self._refuse(listener.queue, body or encode(self._envelope((message,))), str(refused))
            if token in self._receipts:
                self.settle(token)

    def _refuse(self, queue: str, body: bytes, reason: str) -> None:
        self.counters["malformed"] += 1
        self._set_aside(queue, body, reason)

    # -- out -----------------------------------------------------------------------------------------------

    def _envelope(self, messages: tuple[Message, ...]) -> Envelope:
        return Envelope(self._system, self._sender, messages)

    def _hand_on(self, broker: HandsOn, inbox: str, message: Message, size: int) -> bool:
        """Send a message as it is, if it is not too large, and the broker takes it."""
        if size > ENVELOPE_BYTES_MAX or not broker.hand_on(inbox, self._envelope((message,)), size):
            return False
        self.counters["envelopes"] += 1
        self.counters["envelope_bytes"] += size
        self.last_progress = asyncio.get_running_loop().time()
        return True

    def _start_publishing(self, inbox: str, outbox: _Outbox) -> None:
        if self._tasks is not None and not outbox.starting and outbox.may_leave():
            outbox.starting = True
            self._tasks.create_task(self._publish(inbox, outbox))

    async def _publish(self, inbox: str, outbox: _Outbox) -> None:
        """Publish envelopes, one after the other, while the window has room for them."""
        outbox.starting = False
        while outbox.may_leave():
            messages, size = _take(outbox)
            outbox.in_flight += 1
            outbox.bytes_in_flight += size
            try:
                await self._publish_one(inbox, messages)
            except Unroutable:
                self.counters["unroutable"] += 1
                outbox.pending.clear()
                outbox.bytes_waiting = 0
                if self._on_unroutable is not None:
                    self._on_unroutable(inbox)
            finally:
                outbox.in_flight -= 1
                outbox.bytes_in_flight -= size
        if not outbox.in_flight and not outbox.pending and self._outboxes.get(inbox) is outbox:
            del self._outboxes[inbox]
            if not self._outboxes:
                self._idle.set()

    async def _publish_one(self, inbox: str, messages: tuple[Message, ...]) -> None:
        """Publish an envelope until the broker has confirmed it. Raises `Unroutable`."""
        body = encode(self._envelope(messages))
        if len(body) > ENVELOPE_BYTES_MAX:
            raise InternalError(
                f"an envelope of {len(body):,} bytes to {inbox}; at most {ENVELOPE_BYTES_MAX:,} go"
            )
        self.counters["envelopes"] += 1
        self.counters["envelope_bytes"] += len(body)
        refusals = 0
        while True:
            if not self._may_publish.is_set():
                await self._may_publish.wait()
            broker = self._broker
            assert broker is not None
            try:
                await broker.publish(inbox, body)
            except ConnectionLost:
                self.counters["published_again"] += 1
                self._give_up(broker)
            except Unroutable:
                raise
            except BrokerError:  # a queue at its limit, perhaps: there may be room later
                self.counters["refused"] += 1
                refusals += 1
                await asyncio.sleep(pause_seconds(inbox, refusals))
            else:
                self.last_progress = asyncio.get_running_loop().time()
                return


def envelope_of(delivery: Delivery) -> Envelope:
    """What was delivered, whether as bytes or as it is. Raises `MalformedMessage`."""
    handed = delivery.handed
    return handed if isinstance(handed, Envelope) else decode(Envelope, delivery.body)


def log_state(log: Logger) -> OnState:
    """An `on_state` that writes to the log what became of the connection. Of attempts that fail one after the other the
    1st, 2nd, 4th, 8th … are warnings: people know by then."""
    attempts = 0

    def on_state(state: ConnectionState, reason: str) -> None:
        nonlocal attempts
        if state is ConnectionState.CONNECTED:
            attempts = 0
            log.info("broker_connected")
        elif state is ConnectionState.BLOCKED:
            log.warning("broker_blocked", reason=reason)
        else:
            attempts += 1
            say = log.warning if attempts & (attempts - 1) == 0 else log.info
            say("broker_lost", reason=reason, attempts=attempts)

    return on_state


def pause_seconds(who: str, failures: int) -> float:
    """How long to wait after so many failures: longer each time, and not the same for everybody, so that not all come
    back at once; but the same in each run of a simulation."""
    longest = min(AGAIN_SECONDS_MAX, AGAIN_SECONDS_MIN * float(1 << min(failures, 10)))
    return longest * (0.5 + zlib.crc32(f"{who}/{failures}".encode()) / 2**33)


def _always(queue: Queue) -> NameQueue:
    return lambda _: queue


def _take(outbox: _Outbox) -> tuple[tuple[Message, ...], int]:
    """The messages of the next envelope and their size: at least one, then up to the size aimed at."""
    pending = outbox.pending
    message, size = pending.popleft()
    taken = [message]
    while pending and size + pending[0][1] <= ENVELOPE_BYTES_TARGET:
        message, its_size = pending.popleft()
        size += its_size
        taken.append(message)
    outbox.bytes_waiting -= size
    return tuple(taken), size


def approximate_bytes(message: Message) -> int:
    """About how much a message takes when encoded, within a few hundred bytes."""
    match message:
        case Transaction():
            return 100 + len(message.payload)
        case HandOut():
            return 200 + sum(_writes_bytes(w) for target in message.writes for w in target.writes)
        case StageRows():
            return 100 + sum(batch_bytes(b.batch) for b in message.batches)
        case SnapshotAnswer() | Changes():
            return 200 + sum(batch_bytes(v.batch) for v in message.views)
        case _:
            return 200


def batch_bytes(batch: BatchBlob) -> int:
    """The size of a batch's column data and weights."""
    return (
        64
        + len(batch.weights)
        + sum(48 + len(c.validity) + len(c.offsets) + len(c.values) for c in batch.columns)
    )


def _writes_bytes(writes: WritesBlob) -> int:
    return 100 + len(writes.transactions) + len(writes.rows) + batch_bytes(writes.batch)
