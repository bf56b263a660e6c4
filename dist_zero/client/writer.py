"""The writing half of a client: performs what its `Session` decides, and hands out tickets.

A ticket is a future of the epoch in which a transaction is committed. It fails when the transaction is
refused, when the session ends before it is answered, and when the client fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from dist_zero.client.session import Outcome, Session
from dist_zero_common.clock import Clock
from dist_zero_common.errors import DataError, OperatorError, SessionExpired
from dist_zero_common.protocol.messages.writing import (
    Committed,
    OpenSession,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    Transaction,
    TransactionRefused,
    Wait,
)

PATIENCE_SECONDS = 300.0
"""How long anybody waits for transactions to be answered."""

SessionMessage = Committed | TransactionRefused | SessionUnknown | ResendFrom | Wait
"""What the sequencer says of a session's transactions."""


class Writer:
    """One session, opened with the first transaction. `run` must be running for lost ones to be sent
    again."""

    def __init__(
        self,
        session: Session,
        clock: Clock,
        *,
        ask_open: Callable[[Callable[[int], OpenSession]], Awaitable[SessionOpened]],
        send: Callable[[Transaction], None],
        on_epoch: Callable[[int], object],
        may_send: Callable[[], bool] = lambda: True,
        waiting_for: Callable[[], str] = str,
    ) -> None:
        """`ask_open` asks a question until it is answered; `on_epoch` hears of epochs that were committed. While
        `may_send` says no, nothing is sent: `send_all_again` is called when it says yes again. `waiting_for` says, for
        errors, what is known to keep things waiting."""
        self.session = session
        self.newest_epoch = 0
        """The newest epoch that holds one of our transactions."""
        self._clock, self._ask_open, self._send, self._on_epoch = clock, ask_open, send, on_epoch
        self._may_send, self._waiting_for = may_send, waiting_for
        self._opening = asyncio.Lock()
        self._tickets: dict[int, asyncio.Future[int]] = {}
        self._room = asyncio.Event()
        self._due_changed = asyncio.Event()
        self._asleep_until: float | None = None
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Open the session unless it is open. Raises `SessionExpired` when it has ended."""
        self._check()
        async with self._opening:
            if not self.session.is_open:
                opened = await self._ask_open(self.session.open)
                self.session.on_opened(opened)
                self._on_epoch(opened.epoch)

    async def submit(self, payload: bytes) -> asyncio.Future[int]:
        """Send a transaction once there is room; returns its ticket."""
        await self.open()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self.session.has_room(len(payload)):
                    self._room.clear()
                    await self._room.wait()
                    self._check()
        except TimeoutError:
            raise self._too_slow() from None
        self._check()
        number, messages = self.session.submit(payload, self._clock.monotonic())
        ticket = self._tickets[number] = asyncio.get_running_loop().create_future()
        self._send_all(messages)
        self._look_at_due()
        return ticket

    async def wait(self, ticket: asyncio.Future[int]) -> int:
        """The epoch of a transaction. Raises `OperatorError` when there is no answer for long."""
        done, _ = await asyncio.wait([ticket], timeout=PATIENCE_SECONDS)
        if not done:
            raise self._too_slow()
        return ticket.result()

    def send_all_again(self, reply_to: str) -> None:
        """There is a new connection, or the sequencer is elsewhere: send all that is unanswered, in order."""
        self._send_all(self.session.on_connected(reply_to, self._clock.monotonic()))
        self._look_at_due()

    async def wait_all_answered(self) -> None:
        """Wait until nothing is unanswered; whoever has the tickets hears how it went."""
        if self._tickets:
            _, open_still = await asyncio.wait(list(self._tickets.values()), timeout=PATIENCE_SECONDS)
            if open_still:
                raise self._too_slow()

    async def run(self) -> None:
        """Send what is unanswered again when it is time, until cancelled."""
        while True:
            due = self._asleep_until = self.session.next_due() if self._may_send() else None
            self._due_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._due_changed.wait()
            if self._may_send():
                self._send_all(self.session.on_time(self._clock.monotonic()))

    def handle(self, message: SessionMessage) -> None:
        """What the sequencer says."""
        now = self._clock.monotonic()
        match message:
            case Committed():
                self._settle(self.session.on_committed(message))
            case TransactionRefused():
                outcomes, messages = self.session.on_refused(message, now)
                self._settle(outcomes)
                self._send_all(messages)
                self._look_at_due()
            case SessionUnknown():
                self._settle(self.session.on_unknown(message))
            case ResendFrom():
                self._send_all(self.session.on_resend_from(message, now))
            case Wait():
                self.session.on_wait(message, now)
                self._look_at_due()

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more: all tickets, and every later call, raise `error`."""
        self._failure = error
        for ticket in self._tickets.values():
            _fail(ticket, error)
        self._room.set()

    def _look_at_due(self) -> None:
        """Wake `run` if something is due before it would wake by itself."""
        due = self.session.next_due()
        if due is not None and (self._asleep_until is None or due < self._asleep_until):
            self._due_changed.set()

    def _send_all(self, messages: Iterable[Transaction]) -> None:
        if self._may_send():
            for message in messages:
                self._send(message)

    def _settle(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            ticket = self._tickets.pop(outcome.number)
            if outcome.epoch:
                self.newest_epoch = max(self.newest_epoch, outcome.epoch)
                self._on_epoch(outcome.epoch)
                if not ticket.done():
                    ticket.set_result(outcome.epoch)
            elif outcome.refused:
                _fail(ticket, DataError(f"transaction {outcome.number} was refused: {outcome.refused}"))
            else:
                _fail(ticket, self._lost(outcome))
        self._room.set()
        self._look_at_due()

    def _too_slow(self) -> OperatorError:
        reason = self._waiting_for() or "the sequencer, the store or a node is down or far behind"
        return OperatorError(
            f"{self.session.unanswered:,} transactions wait to be committed for more than {PATIENCE_SECONDS:g} s:"
            f" {reason}"
        )

    def _lost(self, outcome: Outcome) -> SessionExpired:
        return SessionExpired(
            f"the session of client {self.session.client!r} ended ({outcome.lost}) before transaction"
            f" {outcome.number} was answered: it may or may not be committed; those up to number"
            f" {self.session.last_committed} are"
        )

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.session.lost:
            raise SessionExpired(
                f"the session of client {self.session.client!r} has ended ({self.session.lost}). Its transactions"
                f" up to number {self.session.last_committed} are committed; connect again to go on"
            )


def _fail(ticket: asyncio.Future[int], error: BaseException) -> None:
    if not ticket.done():
        ticket.set_exception(error)
        ticket.exception()  # a ticket that nobody awaits is no reason to warn
