"""The sessions of a program's clients: who may write, which numbers are committed, and what waits for a record.

A client's transactions are numbered 1, 2, 3 … under its client name. A session is where the name is in use; a new one
under the same name takes over the count and ends the older one. The log decides: `take_open`, `take_transaction` and
`expire` say what a record did, and only they change what is committed. What clients send before that is *pending*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dist_zero.batch import Writes
from dist_zero.compiler.plan import Plan
from dist_zero.writes import decode_payload, hand_out_size
from dist_zero_common.checksum import xxh3_128
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
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
from dist_zero_common.protocol.stored import (
    BaseSession,
    LogRecord,
    RecordedOpen,
    RecordedTransaction,
    epoch_of_place,
    place_in_log,
)
from services.node_runner.sequencer_events import Answer, SequencerEffect, SequencerOptions, SettleMessages

RETRY_AFTER_MS = 200
_REMEMBERED_NUMBERS = 256
_NUMBERS_AHEAD_MAX = 65_536
"""More than any client has unanswered; what a stranger makes up beyond it would wait for ever."""
_REMEMBERED_OPENS = 1_024
_HASH_SIZE = 16
_REPLACED = "a newer session of the same client took its place"
_EXPIRED = "it was idle for too long and has been forgotten"
_UNKNOWN = f"the sequencer does not know it: perhaps {_REPLACED}, or {_EXPIRED}"
_USED = "its number has been used for other writes"


_Asker = tuple[str, int, str]


@dataclass(slots=True)
class _Pending:
    """A transaction that is checked and waits for a record."""

    payload: bytes
    writes: tuple[Writes, ...]
    reply_to: str
    tokens: list[Token]
    size: int
    """Its bytes when it is handed out."""


@dataclass(slots=True)
class _Session:
    """One client name's current session, as `asker` asked for it and was answered. `recent` maps committed numbers to
    (epoch, hash of the payload); up to `followed` no pending number is missing."""

    id: int
    client: str
    committed: int
    used_us: int
    request: int
    reply_to: str
    opened_at: int
    pending: dict[int, _Pending] = field(default_factory=dict)
    recent: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    asked_from: int = 0
    followed: int = 0


class Sessions:
    """All sessions that are known as of the newest record, and what their clients have sent since."""

    def __init__(self, plan: Plan, options: SequencerOptions, known: Iterable[BaseSession] = ()) -> None:
        """`known`: as of the base behind which the log begins."""
        self._plan, self._options = plan, options
        self._sessions: dict[int, _Session] = {}  # the one used longest ago first
        self._writing: dict[int, _Session] = {}  # those with pending transactions
        self._by_client: dict[str, _Session] = {}
        self._opens: dict[_Asker, tuple[OpenSession, list[Token]]] = {}
        self._opened: dict[_Asker, SessionOpened] = {}
        self._pending_bytes = self._waiting_bytes = 0
        for each in known:
            self._restore(each)

    # -- bases -------------------------------------------------------------------------------------------------

    def as_of_now(self) -> tuple[BaseSession, ...]:
        """What a base has to know of the sessions, the one used longest ago first."""
        return tuple(
            BaseSession(
                session=session.id,
                client=session.client,
                committed=session.committed,
                used_us=session.used_us,
                request=session.request,
                reply_to=session.reply_to,
                opened_at=session.opened_at,
                numbers=tuple(session.recent),
                epochs=tuple(epoch for epoch, _ in session.recent.values()),
                hashes=b"".join(payload_hash for _, payload_hash in session.recent.values()),
            )
            for session in self._sessions.values()
        )

    def _restore(self, known: BaseSession) -> None:
        hashes = [known.hashes[i : i + _HASH_SIZE] for i in range(0, len(known.hashes), _HASH_SIZE)]
        if not len(known.numbers) == len(known.epochs) == len(hashes):
            raise MalformedMessage(
                f"the base remembers session {known.session} of {known.client!r} only in part"
            )
        session = _Session(
            known.session,
            known.client,
            known.committed,
            known.used_us,
            known.request,
            known.reply_to,
            known.opened_at,
        )
        session.recent = dict(zip(known.numbers, zip(known.epochs, hashes, strict=True), strict=True))
        self._sessions[session.id] = self._by_client[session.client] = session
        self._remember_open(session)

    def _remember_open(self, session: _Session) -> tuple[_Asker, SessionOpened]:
        """So that whoever asks again for this session gets the same answer."""
        asker = _asker(OpenSession(session.request, session.client, session.reply_to))
        epoch = epoch_of_place(session.id)
        answer = self._opened[asker] = SessionOpened(session.request, session.id, session.opened_at, epoch)
        if len(self._opened) > _REMEMBERED_OPENS:
            del self._opened[next(iter(self._opened))]
        return asker, answer

    # -- from clients ------------------------------------------------------------------------------------------

    def on_open(self, message: OpenSession, token: Token, effects: list[SequencerEffect]) -> None:
        """A client wants a session; asked twice, also over another connection, it gets the same one."""
        known = self._opened.get(_asker(message))
        if known is None:
            _, tokens = self._opens.get(_asker(message), (message, []))
            self._opens[_asker(message)] = message, [*tokens, token]
        else:
            effects += (Answer(message.reply_to, known), SettleMessages((token,)))

    def on_transaction(self, message: Transaction, token: Token, effects: list[SequencerEffect]) -> None:
        """Keep a transaction until a record has it, or answer why not."""
        answer = self._judge(message, token)
        if answer is not None:
            effects.append(Answer(message.reply_to, answer))
            if not isinstance(answer, ResendFrom):
                effects.append(SettleMessages((token,)))

    def _judge(self, message: Transaction, token: Token) -> Message | None:
        """The answer to a transaction that comes in; None and `ResendFrom` mean that it is pending now."""
        session, number = self._sessions.get(message.session), message.number
        if session is None:
            return SessionUnknown(message.session, _UNKNOWN)
        if number < 1:
            return _refused(message, "transactions are numbered from 1")
        if number <= session.committed:
            return _repeated(session, message)
        waiting = session.pending.get(number)
        if waiting is not None:
            if waiting.payload != message.payload:
                return _refused(message, _USED)
            waiting.tokens.append(token)
            waiting.reply_to = message.reply_to  # of a later connection, perhaps
            return None
        if number > session.committed + _NUMBERS_AHEAD_MAX:
            return _refused(
                message, f"it is too far ahead of number {session.committed}, the last committed one"
            )
        if self._pending_bytes + len(message.payload) > self._options.pending_bytes:
            return Wait(message.session, number, RETRY_AFTER_MS)
        try:
            writes = tuple(decode_payload(self._plan.datasets, message.payload))
        except MalformedMessage as wrong:
            return _refused(message, str(wrong))
        for each in writes:
            if self._plan.datasets[each.dataset].dropped:
                name = self._plan.datasets[each.dataset].name
                return _refused(message, f"a change of the program has dropped dataset {name!r}")
        size = hand_out_size(len(message.payload), sum(len(each.batch) for each in writes))
        session.pending[number] = _Pending(message.payload, writes, message.reply_to, [token], size)
        self._writing[session.id] = session
        self._pending_bytes += len(message.payload)
        self._waiting_bytes += size
        return _gap(session, number)

    # -- for the next record -----------------------------------------------------------------------------------

    def wanted_opens(self) -> tuple[RecordedOpen, ...]:
        """Sessions that are asked for."""
        return tuple(RecordedOpen(m.client, m.request, m.reply_to) for m, _ in self._opens.values())

    def expired(self, time_us: int) -> Iterator[int]:
        """Sessions that have written nothing for too long at `time_us`, and have nothing that could be recorded."""
        for session in self._sessions.values():
            if time_us - session.used_us <= self._options.session_idle_us:
                return
            if (
                session.committed + 1 not in session.pending
            ):  # what waits for a number that never came goes, too
                yield session.id

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the transactions that wait, as they are handed out."""
        return self._waiting_bytes

    def next_transactions(self, record_bytes: int) -> Iterator[RecordedTransaction]:
        """What waits and follows without a gap, up to the size of a record."""
        size = 0
        for session in self._writing.values():
            number = session.committed + 1
            while (pending := session.pending.get(number)) is not None:
                own = pending.size
                size += own
                if size > record_bytes and size > own:
                    return
                yield RecordedTransaction(session.id, number, pending.payload)
                number += 1

    # -- from the log ------------------------------------------------------------------------------------------

    def expire(self, session: int, effects: list[SequencerEffect]) -> None:
        """A record says that this session ends, and its client name's count with it."""
        self._dismiss(self._sessions[session], _EXPIRED, effects)

    def take_transaction(
        self, record: LogRecord, transaction: RecordedTransaction, effects: list[SequencerEffect]
    ) -> tuple[Writes, ...] | None:
        """A record has this transaction: it is committed. Returns its writes if they were decoded already."""
        session = self._sessions[transaction.session] = self._sessions.pop(transaction.session)
        session.committed, session.used_us = transaction.number, record.time_us
        session.recent[transaction.number] = (record.epoch, xxh3_128(transaction.payload))
        if len(session.recent) > _REMEMBERED_NUMBERS:
            del session.recent[next(iter(session.recent))]
        pending = session.pending.pop(transaction.number, None)
        if pending is None:
            return None
        if not session.pending:
            del self._writing[session.id]
        self._pending_bytes -= len(pending.payload)
        self._waiting_bytes -= pending.size
        same = pending.payload == transaction.payload
        answer = (
            Committed(session.id, transaction.number, record.epoch)
            if same
            else TransactionRefused(session.id, transaction.number, _USED)
        )
        effects += (Answer(pending.reply_to, answer), SettleMessages(tuple(pending.tokens)))
        return pending.writes if same else None

    def take_open(
        self, record: LogRecord, index: int, opened: RecordedOpen, effects: list[SequencerEffect]
    ) -> None:
        """A record opens a session at place `index`; the older one of the same client ends."""
        older = self._by_client.get(opened.client)
        committed = older.committed if older is not None else 0
        session = _Session(
            place_in_log(record.epoch, index),
            opened.client,
            committed,
            record.time_us,
            opened.request,
            opened.reply_to,
            committed,
        )
        if older is not None:
            session.recent = older.recent
            self._dismiss(older, _REPLACED, effects)
        self._sessions[session.id] = self._by_client[opened.client] = session
        asker, answer = self._remember_open(session)
        waiting = self._opens.pop(asker, None)
        if waiting is not None:
            newest, tokens = waiting
            effects += (Answer(newest.reply_to, answer), SettleMessages(tuple(tokens)))

    def _dismiss(self, session: _Session, reason: str, effects: list[SequencerEffect]) -> None:
        """The session ends, and what it has pending will not be recorded."""
        del self._sessions[session.id], self._by_client[session.client]
        self._writing.pop(session.id, None)
        for pending in session.pending.values():
            self._pending_bytes -= len(pending.payload)
            self._waiting_bytes -= pending.size
            answer = Answer(pending.reply_to, SessionUnknown(session.id, reason))
            effects += (answer, SettleMessages(tuple(pending.tokens)))


def _asker(message: OpenSession) -> _Asker:
    """Who asks for a session, over whichever connection: queues of replies end with the connection's number."""
    return message.client, message.request, message.reply_to.rpartition("-")[0] or message.reply_to


def _gap(session: _Session, number: int) -> ResendFrom | None:
    """A number came that does not follow: the missing one is asked for, once."""
    expected = max(session.committed, session.followed) + 1
    while expected in session.pending:
        expected += 1
    session.followed = expected - 1
    if expected > number or session.asked_from >= expected:
        return None
    session.asked_from = expected
    return ResendFrom(session.id, expected)


def _repeated(session: _Session, message: Transaction) -> Message:
    """The answer to a number that is committed: that it is, unless it now says something else.

    Of numbers that are no longer remembered, the oldest epoch that is remembered is told: it is not before theirs.
    """
    known = session.recent.get(message.number)
    if known is None:
        epoch, _ = next(iter(session.recent.values()))
    elif known[1] != xxh3_128(message.payload):
        return _refused(message, _USED)
    else:
        epoch = known[0]
    return Committed(message.session, message.number, epoch)


def _refused(message: Transaction, reason: str) -> TransactionRefused:
    return TransactionRefused(message.session, message.number, reason)
