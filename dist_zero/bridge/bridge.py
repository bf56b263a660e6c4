"""The bridge: reads one queue that belongs to the user, and applies each of its messages exactly once.

Theory. The broker delivers a message at least once, and acks are lost with connections. So what has been applied has to
be written down together with what was applied: a transaction of the bridge holds the rows of many messages *and* their
ids, which go to a dataset of the program itself (`_payments_applied`). Both are in the log or neither is. A message is
acked when its transaction is committed, never before; so every message is in the queue, or its id in the log, or both.
What is in both is a copy, to be acked and nothing else. A bridge must therefore know every id that is in the log:

1. It opens its session. All bridges of a queue have one client name, so this ends the session of any earlier one: what
   that one has sent and the log has not, never comes into it any more.
2. Then it takes a snapshot of the ids, which includes every write committed before it was asked for, hence all that
   earlier bridges have written or will ever have written; and nobody else writes.
3. From then on it knows what it writes itself. Copies of what waits or is on its way are acked with it.

Whenever it does not know what became of a transaction (its session has ended, because another bridge took its place or
it was away for a day; the system did not answer for minutes) it begins again with 1. A bridge whose place was taken
waits before it takes it back, longer each time: two bridges of one queue are right and slow, and say so.

Losing the connection to the queue is less: what it had delivered comes again, and is known.

Ids are forgotten a day after they were applied (`remember=`), in the bridge's transactions. What comes again later than
that is applied again; see `ledger.py` for the one case in which a day is not enough.

A message that cannot be decoded, or has no id, is published to the durable queue `<queue>.set-aside` with the reason in
a header, and acked when that is confirmed. Killed in between, the bridge does it again: that queue may hold a copy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass

from dist_zero.bridge.decoding import Decoder, Undecodable, decoder, id_before_decoding, id_in_column
from dist_zero.bridge.foreign import Consumer, Message, OpenQueue
from dist_zero.bridge.ledger import Counts, Entry, Ledger, Part
from dist_zero.bridge.source import AppliedMessage, Source
from dist_zero.client.client import Client
from dist_zero.row import row_type_of
from dist_zero.types import Row as StoredRow
from dist_zero.types import RowType
from dist_zero_common.clock import Clock, wait_changed
from dist_zero_common.errors import (
    BrokerError,
    ConnectionLost,
    DataError,
    OperatorError,
    RequestError,
    SessionExpired,
    SettingsError,
    first_error,
)
from dist_zero_common.log import Logger

PREFETCH = 2_000
PARTS_MAX = 4
"""Transactions that may be on their way at a time."""
HOUSEKEEPING_SECONDS = 3_600.0
"""Something is written at least so often, so that the session of a quiet queue does not end for idleness."""
PATIENCE_SECONDS, PATIENCE_SECONDS_MAX = 0.5, 10.0
DEPOSED_SECONDS, DEPOSED_SECONDS_MAX = 10.0, 600.0
SETTLED_SECONDS = 1_200.0
"""A session that lasts so long has no rival: the next loss is a first one."""

Connect = Callable[[str], AbstractAsyncContextManager[Client]]
"""A client of the running program, under this client name."""
Tell = Callable[[str], None]
"""Hears, in words, what somebody who looks on wants to know."""


@dataclass(slots=True)
class _Subscription:
    """One subscription to the queue. What is delivered before `consumer` is known waits here."""

    consumer: Consumer | None = None


@dataclass(frozen=True, slots=True)
class _Receipt:
    """One copy of a message, and whom to ack it at."""

    subscription: _Subscription
    message: Message

    def ack(self) -> None:
        assert self.subscription.consumer is not None
        self.subscription.consumer.ack([self.message.tag])


class Bridge:
    """From one queue into one dataset, until cancelled."""

    def __init__(
        self,
        source: Source,
        row_type: RowType,
        *,
        connect: Connect,
        open_queue: OpenQueue,
        clock: Clock,
        log: Logger,
        tell: Tell = lambda _: None,
    ) -> None:
        """`row_type`: of the dataset, as the user's file declares it."""
        self.counts, self.queue = Counts(), source.queue
        self._source, self._row_type = source, row_type
        self._connect, self._open_queue = connect, open_queue
        self._clock, self._log, self._tell = clock, log, tell
        self._decode: Decoder = decoder(source.decode, row_type)
        self._found_queue = False

    async def run(self) -> None:
        """Bridge for ever. Raises what only a person can put right: no such queue, a program without this source."""
        patience, deposed = PATIENCE_SECONDS, DEPOSED_SECONDS
        while True:
            began = self._clock.monotonic()
            try:
                await self._session()
            except Exception as group:
                error = first_error(group)
                lasted = self._clock.monotonic() - began > SETTLED_SECONDS
                if isinstance(error, SessionExpired):
                    wait, deposed = (
                        deposed,
                        DEPOSED_SECONDS if lasted else min(2 * deposed, DEPOSED_SECONDS_MAX),
                    )
                    self._say(
                        f"{error}; is there another bridge of this queue? This one goes on in {wait:g} s"
                    )
                elif _may_pass(error):
                    wait, patience = (
                        patience,
                        PATIENCE_SECONDS if lasted else min(2 * patience, PATIENCE_SECONDS_MAX),
                    )
                    self._say(f"{error}; trying again")
                else:
                    raise error from None
                self._log.warning(
                    "bridge_starts_over", queue=self._source.queue, reason=str(error), seconds=wait
                )
                await asyncio.sleep(wait)

    def _say(self, what: str) -> None:
        self._tell(f"{self._source.queue}: {what}")

    async def _session(self) -> None:
        """One session, to its end, which is always an error."""
        source = self._source
        entered = self._connect(source.client_id)
        client = await entered.__aenter__()
        try:
            self._check_program(client)
            opened_us = self._clock.now_us()
            snapshot = await client.snapshot(source.applied_view)
            ledger: Ledger[_Receipt] = Ledger.of(
                ((row[0], row[1]) for row in snapshot.stored[source.applied_view]),
                remember_us=source.remember_us,
                opened_us=opened_us,
                counts=self.counts,
            )
            self._log.info(
                "bridge_session", queue=source.queue, applied=len(ledger.applied), epoch=snapshot.epoch
            )
            await _Session(self, client, ledger).run()
        except BaseException as error:
            await entered.__aexit__(type(error), error, error.__traceback__)
            raise

    def _check_program(self, client: Client) -> None:
        """The program that runs is the one that the source was declared in."""
        source = self._source
        there = {dataset.name: dataset.row_type for dataset in client.plan.datasets}
        wanted = {source.dataset: self._row_type, source.applied: row_type_of(AppliedMessage)}
        for name, row_type in wanted.items():
            if there.get(name) != row_type:
                found = f"has it with {there[name]}" if name in there else "has no such dataset"
                raise _Refused(
                    f"{source.location}: the source of queue {source.queue!r} writes dataset {name!r} {row_type}, and"
                    f" the program {client.plan.name!r} that runs {found}: it was started from another version of the"
                    " file; start the two from the same one"
                )
        if all(view.name != source.applied_view for view in client.plan.views):
            raise _Refused(f"{source.location}: the program that runs has no view {source.applied_view!r}")


class _Refused(OperatorError):
    """Something will not come right by itself."""


def _may_pass(error: BaseException) -> bool:
    """Whether it may come right by itself: the broker or the system comes back, the program is started."""
    if isinstance(error, ConnectionLost | RequestError):
        return True
    return isinstance(error, OperatorError) and not isinstance(error, _Refused | BrokerError | SettingsError)


class _Session:
    """What a bridge does between opening a session and losing it."""

    def __init__(self, bridge: Bridge, client: Client, ledger: Ledger[_Receipt]) -> None:
        self._bridge, self._source = bridge, bridge._source
        self._client, self._ledger, self._clock = client, ledger, bridge._clock
        self._arrived: deque[_Receipt] = deque()
        self._changed = asyncio.Event()
        self._asides: asyncio.Queue[tuple[_Receipt, str]] = asyncio.Queue()
        self._in_flight = 0
        self._tickets: asyncio.Queue[tuple[Part[_Receipt], asyncio.Future[int]]] = asyncio.Queue()
        self._written_at = self._clock.monotonic()

    async def run(self) -> None:
        """Read, write, ack and set aside, until one of them fails."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle(), name="bridge settle")
            tasks.create_task(self._set_aside(), name="bridge set aside")
            tasks.create_task(self._write(), name="bridge write")
            tasks.create_task(self._read(), name="bridge read")

    # -- reading ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Subscribe to the queue, again whenever the subscription ends."""
        patience = PATIENCE_SECONDS
        while True:
            subscription = _Subscription()
            try:
                subscription.consumer = consumer = await self._bridge._open_queue(
                    lambda message, of=subscription: self._on_message(of, message)  # type: ignore[misc]
                )
            except ConnectionLost as lost:
                self._bridge._say(f"{lost}; trying again")
            except BrokerError as refused:
                if not self._bridge._found_queue:
                    raise _Refused(str(refused)) from None
                self._bridge._say(f"{refused}; trying again")  # it was there before
            else:
                self._bridge._found_queue = True
                patience = PATIENCE_SECONDS
                self._changed.set()
                try:
                    await consumer.wait_closed()
                finally:
                    await consumer.close()
                self._bridge._log.warning("bridge_lost_queue", queue=self._source.queue)
            # what it delivered comes again, and what nobody has looked at yet need not be looked at twice
            self._arrived = deque(each for each in self._arrived if each.subscription is not subscription)
            await asyncio.sleep(patience)
            patience = min(2 * patience, PATIENCE_SECONDS_MAX)

    def _on_message(self, subscription: _Subscription, message: Message) -> None:
        self._arrived.append(_Receipt(subscription, message))
        if subscription.consumer is not None:
            self._changed.set()

    # -- writing ---------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Turn what has arrived into transactions: at once when none is on its way, else when there is enough."""
        while True:
            while self._arrived and self._arrived[0].subscription.consumer is not None:
                self._judge(self._arrived.popleft())
            idle_for = self._clock.monotonic() - self._written_at
            if self._in_flight < PARTS_MAX and (
                self._ledger.has_whole_part()
                or (self._in_flight == 0 and (self._ledger.waiting or idle_for >= HOUSEKEEPING_SECONDS))
            ):
                await self._send(self._ledger.next_part(self._clock.now_us()))
            else:
                await wait_changed(self._changed, max(1.0, HOUSEKEEPING_SECONDS - idle_for))

    def _judge(self, receipt: _Receipt) -> None:
        """Find out what is to become of a message."""
        ledger, source, message = self._ledger, self._source, receipt.message
        try:
            message_id = id_before_decoding(source, message)
            if message_id is None:
                rows = self._bridge._decode(message)
                if rows:
                    assert isinstance(source.key, str)
                    message_id = id_in_column(source.key, self._bridge._row_type, rows)
            else:
                if self._is_copy(message_id, receipt):
                    return
                rows = self._bridge._decode(message)
        except Undecodable as undecodable:
            self._asides.put_nowait((receipt, str(undecodable)))
            return
        if not rows or message_id is None:
            ledger.counts.empty += 1
            receipt.ack()
        elif not self._is_copy(message_id, receipt):
            ledger.take(message_id, rows, len(message.body), receipt)

    def _is_copy(self, message_id: str, receipt: _Receipt) -> bool:
        if self._ledger.is_applied(message_id):
            receipt.ack()
            return True
        return self._ledger.joins_pending(message_id, receipt)

    async def _send(self, part: Part[_Receipt]) -> None:
        """Write a transaction; one that turns out too large is cut in two, and a single message set aside."""
        transaction = self._client.new_transaction()
        rows: list[StoredRow] = [row for entry in part.entries for row in entry.rows]
        transaction.write_stored(self._source.dataset, rows)
        transaction.write_stored(self._source.applied, [(entry.id, part.at_us) for entry in part.entries])
        transaction.delete(self._source.applied, *part.forget)
        try:
            ticket = await self._client.write_soon(transaction)
        except DataError as too_large:
            if len(part.entries) > 1:
                for half in part.halves():
                    await self._send(half)
                return
            self._withdraw(part.entries[0], str(too_large))
            return
        self._in_flight += 1
        self._written_at = self._clock.monotonic()
        self._tickets.put_nowait((part, asyncio.ensure_future(ticket)))

    def _withdraw(self, entry: Entry[_Receipt], reason: str) -> None:
        for receipt in self._ledger.withdraw(entry):
            self._asides.put_nowait((receipt, reason))

    async def _settle(self) -> None:
        """Ack what is committed. Tickets are done in the order of the transactions."""
        while True:
            part, ticket = await self._tickets.get()
            try:
                await ticket
            except DataError as refused:  # all has been checked: the program is another one
                raise _Refused(f"the program refuses what its own plan allows: {refused}") from None
            for receipt in self._ledger.committed(part):
                receipt.ack()
            self._in_flight -= 1
            self._changed.set()

    # -- setting aside ---------------------------------------------------------------------------------------

    async def _set_aside(self) -> None:
        """Bring away what cannot be applied. What cannot be brought away comes again, and will be tried again."""
        while True:
            receipt, reason = await self._asides.get()
            source, consumer = self._source, receipt.subscription.consumer
            assert consumer is not None
            with suppress(ConnectionLost):
                await consumer.set_aside(receipt.message, source.set_aside, reason)
                self._ledger.counts.set_aside += 1
                self._bridge._log.warning(
                    "bridge_set_aside",
                    queue=source.queue,
                    kept_in=source.set_aside,
                    bytes=len(receipt.message.body),
                )  # the reason is with the message: it may say what is in it
                self._bridge._say(f"a message is set aside in {source.set_aside}: {reason}")
