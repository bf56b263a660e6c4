"""A process's post: messages in and out over one broker connection, the same for services and clients.

Out: `send` never waits. What is sent to one inbox while the broker is busy with the message before goes out as one
envelope, so batches grow with the load by themselves and a lone message leaves at once. What a process sends to an
inbox that it listens to itself does not touch the broker.

In: `listen` hands decoded messages to a handler, in the loop, one after the other. Every message comes with a *token*;
the handler (or whoever it gives the token to) calls `settle(token)` when the message may be forgotten, and a delivery
is acked when all its messages are settled. An undecodable delivery is counted, given to `set_aside` with the reason,
and acked: it is never requeued. So is a single message that its handler refuses with `MalformedMessage`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dist_zero_common.broker.base import Broker, Consumer, Delivery, Queue
from dist_zero_common.errors import MalformedMessage, Unroutable
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages import (
    BatchBlob,
    Changes,
    Envelope,
    HandOut,
    Message,
    SnapshotAnswer,
    StageRows,
    Transaction,
    WritesBlob,
)

Token = int
NO_TOKEN: Token = 0
Handler = Callable[[Message, Token], None]
SetAside = Callable[[str, bytes, str], None]
"""Called with the queue's name, the bytes and the reason."""

ENVELOPE_BYTES_TARGET = 2**20
"""An envelope is closed when it holds about this much; a larger message travels alone."""


@dataclass(slots=True)
class _Receipt:
    """One delivery, and how many of its messages are not settled yet."""

    consumer: Consumer | None
    tag: int
    open: int


@dataclass(slots=True)
class _Listener:
    queue: str
    handler: Handler
    consumer: Consumer | None = None
    early: list[Delivery] = field(default_factory=list)


class Mailbox:
    """The post of one process. `run` must be running for anything to move."""

    def __init__(
        self,
        broker: Broker,
        *,
        system: str,
        sender: str,
        set_aside: SetAside,
        on_unroutable: Callable[[str], None] | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> None:
        """`on_unroutable` hears of inboxes that do not exist; `after_batch` is called whenever all that had come in
        has been handled, which is the moment to send what was collected."""
        self.counters: Counter[str] = Counter()
        self._broker = broker
        self._system, self._sender = system, sender
        self._set_aside = set_aside
        self._on_unroutable = on_unroutable
        self._after_batch = after_batch
        self._listeners: dict[str, _Listener] = {}
        self._incoming: deque[tuple[_Listener, Delivery | Message]] = deque()
        self._arrived = asyncio.Event()
        self._outgoing: dict[str, deque[Message]] = {}
        self._publishing: set[str] = set()
        self._receipts: dict[Token, _Receipt] = {}
        self._next_token = 1
        self._tasks: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Move messages until cancelled. A lost connection or a failing handler ends it with that error."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for inbox in self._outgoing:
                self._start_publishing(inbox)
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                self._handle_all()
                await asyncio.sleep(0)

    async def listen(self, queue: Queue, handler: Handler, prefetch: int = 0) -> None:
        """Declare `queue` and give its messages to `handler`."""
        await self._broker.declare(queue)
        listener = _Listener(queue.name, handler)
        self._listeners[queue.name] = listener
        listener.consumer = await self._broker.consume(
            queue.name, lambda delivery: self._arrive(listener, delivery), prefetch
        )
        for delivery in listener.early:
            self._arrive(listener, delivery)
        listener.early.clear()

    async def stop_listening(self, queue: str) -> None:
        """Cancel the consumer; what was not settled returns to the queue, and its tokens mean nothing any more."""
        listener = self._listeners.pop(queue, None)
        if listener is not None and listener.consumer is not None:
            await listener.consumer.cancel()

    def send(self, inbox: str, message: Message) -> None:
        """Send in the background; to an inbox of this mailbox, without the broker."""
        listener = self._listeners.get(inbox)
        if listener is not None:
            self._arrive(listener, message)
            return
        self._outgoing.setdefault(inbox, deque()).append(message)
        self._start_publishing(inbox)

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
        """Wait until the broker has confirmed all that was sent."""
        await self._idle.wait()

    # -- in ------------------------------------------------------------------------------------------------

    def _arrive(self, listener: _Listener, item: Delivery | Message) -> None:
        if isinstance(item, Delivery) and listener.consumer is None:
            listener.early.append(item)
            return
        self._incoming.append((listener, item))
        self._arrived.set()

    def _handle_all(self) -> None:
        while self._incoming:
            listener, item = self._incoming.popleft()
            if isinstance(item, Delivery):
                self._open(listener, item)
            else:
                self._handle(listener, item, NO_TOKEN, b"")
            if not self._incoming and self._after_batch is not None:
                self._after_batch()

    def _open(self, listener: _Listener, delivery: Delivery) -> None:
        self.counters["deliveries"] += 1
        receipt = _Receipt(listener.consumer, delivery.tag, 1)
        try:
            envelope = decode(Envelope, delivery.body)
            if envelope.system != self._system:
                raise MalformedMessage(
                    f"it belongs to the system {envelope.system!r}, not to {self._system!r}"
                )
        except MalformedMessage as refused:
            self._refuse(listener, delivery.body, str(refused))
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
            self._refuse(listener, body or encode(self._envelope((message,))), str(refused))
            if token in self._receipts:
                self.settle(token)

    def _refuse(self, listener: _Listener, body: bytes, reason: str) -> None:
        self.counters["malformed"] += 1
        self._set_aside(listener.queue, body, reason)

    # -- out -----------------------------------------------------------------------------------------------

    def _envelope(self, messages: tuple[Message, ...]) -> Envelope:
        return Envelope(self._system, self._sender, messages)

    def _start_publishing(self, inbox: str) -> None:
        if inbox not in self._publishing and self._tasks is not None:
            self._publishing.add(inbox)
            self._idle.clear()
            self._tasks.create_task(self._publish(inbox))

    async def _publish(self, inbox: str) -> None:
        pending = self._outgoing[inbox]
        try:
            while pending:
                body = encode(self._envelope(_take(pending)))
                self.counters["envelopes"] += 1
                self.counters["envelope_bytes"] += len(body)
                await self._broker.publish(inbox, body)
        except Unroutable:
            self.counters["unroutable"] += 1
            pending.clear()
            if self._on_unroutable is not None:
                self._on_unroutable(inbox)
        finally:
            self._publishing.discard(inbox)
            self._outgoing.pop(inbox, None)
            if not self._publishing:
                self._idle.set()


def _take(pending: deque[Message]) -> tuple[Message, ...]:
    """The messages of the next envelope: at least one, then up to the size aimed at."""
    taken = [pending.popleft()]
    size = approximate_bytes(taken[0])
    while pending and size < ENVELOPE_BYTES_TARGET:
        size += approximate_bytes(pending[0])
        if size > ENVELOPE_BYTES_TARGET:
            break
        taken.append(pending.popleft())
    return tuple(taken)


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
