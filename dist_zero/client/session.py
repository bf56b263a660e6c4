"""A client's session as a pure object: numbers, what is unanswered, and when it is sent again.

Theory (docs/protocol.md, "Writing"). A transaction is kept, under its number, until the sequencer says
`Committed`; the same number is sent again until then. Nothing here knows sockets or clocks: methods take the
time and return what is to be sent. The rules:

- While the sequencer asks for patience (`Wait`), nothing is sent; then everything unanswered is, in order.
- After a silence the *oldest* unanswered transaction alone is sent again, with growing patience: it is the
  one that all others wait for, and `ResendFrom` names the rest if they are missing too.
- A refused number must not stay a gap, since later ones wait for it: an empty transaction takes its place.
- A session that the sequencer does not know stays unknown. What is in flight then may or may not be
  committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dist_zero_common.errors import InternalError
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.pieces import Payload
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

WINDOW_BYTES = 32 * 2**20
"""Payloads that may be unanswered at a time; one larger transaction may be alone."""
WINDOW_TRANSACTIONS = 1024
RESEND_AFTER_SECONDS = 2.0
RESEND_AFTER_SECONDS_MAX = 30.0
_RESEND_AGAIN_SECONDS = 0.2
"""A second request for the same numbers within this time is the echo of the first."""


@dataclass(slots=True)
class _Unanswered:
    payload: bytes
    sent_at: float
    patience: float
    void: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a number: `epoch` if committed, else `refused` or `lost` (the session is gone) with the
    reason."""

    number: int
    epoch: int = 0
    refused: str = ""
    lost: str = ""


class Session:
    """One client's numbered stream of transactions."""

    def __init__(self, client: str, reply_to: str) -> None:
        self.client = client
        self.id = 0
        self.resumed_after = 0
        """The last number that earlier sessions of this client have committed."""
        self.opened_epoch = 0
        self.last_committed = 0
        self.lost = ""
        self.reply_to = reply_to
        """Where answers are to come to; a later connection has another queue for them."""
        self._next_number = 1
        self._unanswered: dict[int, _Unanswered] = {}
        self._bytes = 0
        self._paused_until = 0.0
        self._pause_ends_with_all = False
        self._resent: tuple[int, float] = (0, float("-inf"))

    # -- opening ---------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the sequencer has given the session its id."""
        return self.id != 0

    def open(self, request: int) -> OpenSession:
        """The message that opens it; sent with the same request number until answered."""
        return OpenSession(request, self.client, self.reply_to)

    def on_opened(self, message: SessionOpened) -> None:
        """The session exists; a second answer changes nothing."""
        if not self.is_open:
            self.id, self.opened_epoch = message.session, message.epoch
            self.resumed_after = self.last_committed = message.committed
            self._next_number = message.committed + 1

    # -- writing ---------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether another payload of this size may be sent before something is answered."""
        if not self._unanswered:
            return True
        return self._bytes + size <= WINDOW_BYTES and len(self._unanswered) < WINDOW_TRANSACTIONS

    @property
    def unanswered(self) -> int:
        """How many transactions wait for an answer."""
        return len(self._unanswered)

    def submit(self, payload: bytes, now: float) -> tuple[int, list[Transaction]]:
        """Number a transaction. Returns the number and what to send."""
        if not self.is_open or self.lost:
            raise InternalError("a transaction was submitted to a session that is not open")
        number, self._next_number = self._next_number, self._next_number + 1
        self._unanswered[number] = _Unanswered(payload, now, RESEND_AFTER_SECONDS)
        self._bytes += len(payload)
        return number, [] if self._pause_ends_with_all else [self._message(number)]

    # -- answers ---------------------------------------------------------------------------------------------

    def on_committed(self, message: Committed) -> list[Outcome]:
        """A number is in the log."""
        if message.session != self.id:
            return []
        unanswered = self._forget(message.number)
        self.last_committed = max(self.last_committed, message.number)
        if unanswered is None or unanswered.void:
            return []
        return [Outcome(message.number, epoch=message.epoch)]

    def on_refused(self, message: TransactionRefused, now: float) -> tuple[list[Outcome], list[Transaction]]:
        """A number is refused for good: an empty transaction takes its place, so that later ones can go
        on."""
        unanswered = self._unanswered.get(message.number)
        if message.session != self.id or unanswered is None or unanswered.void:
            return [], []
        self._bytes -= len(unanswered.payload)
        empty = encode(Payload(()))
        self._unanswered[message.number] = _Unanswered(empty, now, RESEND_AFTER_SECONDS, void=True)
        self._bytes += len(empty)
        return [Outcome(message.number, refused=message.reason)], [self._message(message.number)]

    def on_unknown(self, message: SessionUnknown) -> list[Outcome]:
        """The sequencer has forgotten the session: all that is unanswered is lost to us."""
        if message.session != self.id or self.lost:
            return []
        self.lost = message.reason
        lost = [Outcome(n, lost=message.reason) for n, each in self._unanswered.items() if not each.void]
        self._unanswered.clear()
        self._bytes = 0
        return lost

    def on_resend_from(self, message: ResendFrom, now: float) -> list[Transaction]:
        """The sequencer lacks this number and perhaps what follows."""
        number, at = self._resent
        if message.session != self.id or self._pause_ends_with_all:
            return []
        if message.number == number and now - at < _RESEND_AGAIN_SECONDS:
            return []
        self._resent = (message.number, now)
        return list(self._resend(message.number, now))

    def on_wait(self, message: Wait, now: float) -> None:
        """The system is behind and has not kept this number."""
        if message.session == self.id and message.number in self._unanswered:
            self._paused_until = max(self._paused_until, now + message.retry_after_ms / 1000)
            self._pause_ends_with_all = True

    def on_connected(self, reply_to: str, now: float) -> list[Transaction]:
        """There is a new connection: whatever was sent over the one before, and whatever was answered, may be
        lost. All that is unanswered is sent again, in order, unless the sequencer asked for patience."""
        self.reply_to = reply_to
        if not self._unanswered or self._pause_ends_with_all:
            return []
        return list(self._resend(next(iter(self._unanswered)), now))

    # -- time ------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `on_time` wants to be called; None: when something changes."""
        if not self._unanswered:
            return None
        if self._pause_ends_with_all:
            return self._paused_until
        oldest = next(iter(self._unanswered.values()))
        return oldest.sent_at + oldest.patience

    def on_time(self, now: float) -> list[Transaction]:
        """What is to be sent again now."""
        due = self.next_due()
        if due is None or now < due:
            return []
        oldest = next(iter(self._unanswered))
        if self._pause_ends_with_all:
            self._pause_ends_with_all = False
            return list(self._resend(oldest, now))
        waiting = self._unanswered[oldest]
        waiting.sent_at, waiting.patience = now, min(waiting.patience * 2, RESEND_AFTER_SECONDS_MAX)
        return [self._message(oldest)]

    # -- inside ----------------------------------------------------------------------------------------------

    def _resend(self, first: int, now: float) -> Iterator[Transaction]:
        for number, unanswered in self._unanswered.items():
            if number >= first:
                unanswered.sent_at = now
                yield self._message(number)

    def _message(self, number: int) -> Transaction:
        return Transaction(self.id, number, self._unanswered[number].payload, self.reply_to)

    def _forget(self, number: int) -> _Unanswered | None:
        unanswered = self._unanswered.pop(number, None)
        if unanswered is not None:
            self._bytes -= len(unanswered.payload)
        return unanswered
