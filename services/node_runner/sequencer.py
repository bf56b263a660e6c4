"""The sequencer of a program: transactions in, numbered epochs out. The pure part.

The log of epochs in the store is the truth. The sequencer proposes the next record, the store's create-only write
decides, and **the record that is there afterwards is the epoch**, whoever wrote it and whatever was meant. From that
follow the rules of this file:

- No reply, ack or hand-out before `RecordThere` has told what the record says. It carries what was read back, and the
  newest base; if that is at or beyond the record's epoch, the slot had been collected and this sequencer is deposed.
- A record by another incarnation deposes this one. A record of its own may be an older attempt that says less than
  was meant now: what it says is taken, what it does not say stays pending.
- The first thing that a new sequencer writes is an empty record: the fence. Until it is there, nothing happens.
- At most one record is being created at any time; what comes in meanwhile waits, so epochs grow with the load and with
  the latency of the store by themselves.

A client's transactions are numbered 1, 2, 3 … under its client name, and go on counting in its next session. Every
transaction is checked against the row types when it arrives, before anything is recorded of it. Hand-out is separate
from recording: records may run ahead of it by some bytes, and it stays within a window of unfinished epochs.

Before it goes idle, a sequencer writes one empty epoch flagged `save`; then nothing moves until somebody writes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dist_zero.batch import Writes
from dist_zero.compiler.plan import Plan
from dist_zero.writes import decode_payload, hand_out_size, merge_writes, route
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages import (
    AwaitEpoch,
    Committed,
    EpochFinished,
    LogRecord,
    Message,
    OpenSession,
    RecordedOpen,
    RecordedTransaction,
    RequestRefused,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    ShardMap,
    SnapshotRequest,
    SnapshotWanted,
    Subscribe,
    SubscriptionWanted,
    Transaction,
    TransactionRefused,
    Unsubscribe,
    Wait,
    place_in_log,
)

DAY_US = 24 * 3600 * 1_000_000
_REMEMBERED_NUMBERS = 256
_REMEMBERED_REQUESTS = 1_024
_REPLACED = "a newer session of the same client took its place"
_EXPIRED = "it was idle for too long and has been forgotten"
_UNKNOWN = f"the sequencer does not know it: perhaps {_REPLACED}, or {_EXPIRED}"


@dataclass(frozen=True, slots=True)
class SequencerOptions:
    """Bounds and rhythm. Bytes are of transaction payloads (of a record: as they are handed out), times in seconds
    unless the name says otherwise."""

    record_bytes: int = 4 * 2**20
    """A record takes what waits up to about this much; one transaction larger than that goes alone."""
    window_epochs: int = 8
    """No hand-out while this many handed-out epochs are unfinished."""
    ahead_bytes: int = 64 * 2**20
    """No new record while those not handed out yet hold more than this."""
    pending_bytes: int = 128 * 2**20
    """Beyond this, clients are told to wait and nothing is kept of what they send."""
    save_interval_seconds: float = 1.0
    """An epoch is flagged `save` when this much time has passed since the last one that was."""
    session_idle_us: int = DAY_US
    """A session that wrote nothing for this long, by record time, is forgotten."""


# ---- events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Now:
    """The time at which an event is handled."""

    us: int
    monotonic: float


@dataclass(frozen=True, slots=True)
class FromClient:
    """A message from the clients' inbox."""

    message: Message
    token: Token


@dataclass(frozen=True, slots=True)
class ShardFinished:
    """A node has finished every epoch up to this one."""

    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RecordThere:
    """The record that is in the log at this epoch, as read back, and the newest base in the store."""

    record: LogRecord
    newest_base: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed that `WakeAfter` asked for."""


SequencerEvent = FromClient | ShardFinished | RecordThere | Tick

# ---- effects -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """Create this record, then say `RecordThere` with the one that is there."""

    record: LogRecord


@dataclass(frozen=True, slots=True)
class HandOutEpoch:
    """`Rows` of stage 1 for every shard; `writes[i]` are shard i's."""

    record: LogRecord
    writes: tuple[tuple[Writes, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a message to a client's inbox."""

    inbox: str
    message: Message


@dataclass(frozen=True, slots=True)
class SettleMessages:
    """These messages may be forgotten."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Send a `Tick` after this time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another sequencer is ahead: this one does nothing any more."""

    reason: str


SequencerEffect = Append | HandOutEpoch | Answer | SettleMessages | WakeAfter | Deposed

# ---- state ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    """A transaction that is checked and waits for a record."""

    payload: bytes
    writes: tuple[Writes, ...]
    reply_to: str
    tokens: list[Token]


@dataclass(slots=True)
class _Session:
    """One client name's current session. `recent` maps committed numbers to (epoch, hash of the payload)."""

    id: int
    client: str
    committed: int
    used_us: int
    pending: dict[int, _Pending] = field(default_factory=dict)
    recent: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    asked_from: int = 0


@dataclass(slots=True)
class _OpenWanted:
    message: OpenSession
    tokens: list[Token]


class Sequencer:
    """One incarnation of a program's sequencer, from the log as it was when it started."""

    def __init__(
        self,
        *,
        plan: Plan,
        shard_map: ShardMap,
        incarnation: int,
        generation: int,
        base_epoch: int,
        records: list[LogRecord],
        options: SequencerOptions,
    ) -> None:
        """`records` are those behind the base, in order, without a gap."""
        self.epoch = base_epoch
        self.finished = base_epoch
        self.deposed = ""
        self._plan, self._map, self._incarnation = plan, shard_map, incarnation
        self._generation, self._options = generation, options
        self._handed_out = base_epoch
        self._shard_finished = [base_epoch] * len(shard_map.nodes)
        self._time_us = 0
        self._sessions: dict[int, _Session] = {}  # the one used longest ago first
        self._writing: dict[int, _Session] = {}  # those with pending transactions
        self._by_client: dict[str, _Session] = {}
        self._opens: deque[_OpenWanted] = deque()
        self._opened: dict[tuple[str, str, int], SessionOpened] = {}
        self._snapshots: list[SnapshotWanted] = []
        self._subscribes: list[tuple[int, tuple[int, ...], int, str]] = []
        self._unsubscribes: list[int] = []
        self._asked: dict[tuple[str, int], None] = {}
        self._awaiting: list[AwaitEpoch] = []
        self._request_tokens: list[Token] = []
        self._pending_bytes = 0
        self._creating = False
        self._fenced = False
        self._to_hand_out: deque[LogRecord] = deque()
        self._ahead_bytes = 0
        self._last_saved_at = 0.0
        self._last_active_at = 0.0
        self._last_was_save = False
        self._waking = False
        self._writes: dict[tuple[int, int], tuple[Writes, ...]] = {}
        for record in records:
            self._take(record, [])

    def start(self, now: Now) -> list[SequencerEffect]:
        """The first thing to do: write the fence."""
        self._last_saved_at = self._last_active_at = now.monotonic
        self._creating = True
        return [Append(self._record(now, save=False))]

    def handle(self, event: SequencerEvent, now: Now) -> list[SequencerEffect]:
        """What follows from one event."""
        effects: list[SequencerEffect] = []
        if self.deposed:
            return effects
        match event:
            case FromClient():
                self._on_client(event.message, event.token, effects)
            case ShardFinished():
                self._on_finished(event, effects)
            case RecordThere():
                self._on_record(event, effects)
            case Tick():
                self._waking = False
        if not self.deposed:
            self._hand_out(effects)
            self._propose(now, effects)
        return effects

    # -- from clients ------------------------------------------------------------------------------------------

    def _on_client(self, message: Message, token: Token, effects: list[SequencerEffect]) -> None:
        match message:
            case Transaction():
                self._on_transaction(message, token, effects)
            case OpenSession():
                self._on_open(message, token, effects)
            case SnapshotRequest():
                views = self._views(message.views, message.request, message.reply_to, effects)
                if views is not None and self._is_new(message.reply_to, message.request):
                    self._snapshots.append(SnapshotWanted(message.request, views, message.reply_to))
                self._request_tokens.append(token)
            case Subscribe():
                views = self._views(message.views, message.request, message.reply_to, effects)
                if views is not None and self._is_new(message.reply_to, message.request):
                    self._subscribes.append((message.request, views, message.after, message.reply_to))
                self._request_tokens.append(token)
            case Unsubscribe():
                self._unsubscribes.append(message.subscription)
                self._request_tokens.append(token)
            case AwaitEpoch():
                if message not in self._awaiting:
                    self._awaiting.append(message)
                self._answer_awaiting(effects)
                effects.append(SettleMessages((token,)))
            case _:
                raise MalformedMessage(f"{type(message).__name__} is not for a sequencer")

    def _on_open(self, message: OpenSession, token: Token, effects: list[SequencerEffect]) -> None:
        known = self._opened.get((message.client, message.reply_to, message.request))
        if known is not None:
            effects.append(Answer(message.reply_to, known))
            effects.append(SettleMessages((token,)))
            return
        for wanted in self._opens:
            if wanted.message == message:
                wanted.tokens.append(token)
                return
        self._opens.append(_OpenWanted(message, [token]))

    def _on_transaction(self, message: Transaction, token: Token, effects: list[SequencerEffect]) -> None:
        session, number = self._sessions.get(message.session), message.number
        if session is None:
            effects.append(Answer(message.reply_to, SessionUnknown(message.session, _UNKNOWN)))
        elif number <= session.committed:
            effects.append(Answer(message.reply_to, _repeated(session, message)))
        elif (waiting := session.pending.get(number)) is not None:
            if waiting.payload == message.payload:
                waiting.tokens.append(token)
                return
            effects.append(
                Answer(message.reply_to, _refused(message, "its number has been used for other writes"))
            )
        elif self._pending_bytes + len(message.payload) > self._options.pending_bytes:
            effects.append(Answer(message.reply_to, Wait(message.session, number, retry_after_ms=200)))
        else:
            try:
                writes = tuple(decode_payload(self._plan.datasets, message.payload))
            except MalformedMessage as wrong:
                effects.append(Answer(message.reply_to, _refused(message, str(wrong))))
            else:
                session.pending[number] = _Pending(message.payload, writes, message.reply_to, [token])
                self._writing[session.id] = session
                self._pending_bytes += len(message.payload)
                self._ask_for_gap(session, message, effects)
                return
        effects.append(SettleMessages((token,)))

    def _ask_for_gap(self, session: _Session, message: Transaction, effects: list[SequencerEffect]) -> None:
        """A number came that does not follow: ask for the missing one, once."""
        expected = session.committed + 1
        while expected in session.pending:
            expected += 1
        if expected < message.number and session.asked_from < expected:
            session.asked_from = expected
            effects.append(Answer(message.reply_to, ResendFrom(session.id, expected)))

    def _views(
        self, names: tuple[str, ...], request: int, reply_to: str, effects: list[SequencerEffect]
    ) -> tuple[int, ...] | None:
        numbers = {view.name: i for i, view in enumerate(self._plan.views)}
        unknown = [name for name in names if name not in numbers]
        if unknown or not names:
            reason = f"no view {', '.join(map(repr, unknown)) or 'named'}; there are {', '.join(numbers)}"
            effects.append(Answer(reply_to, RequestRefused(request, reason)))
            return None
        return tuple(numbers[name] for name in names)

    def _is_new(self, reply_to: str, request: int) -> bool:
        """Whether a snapshot or subscription is asked for the first time."""
        if (reply_to, request) in self._asked:
            return False
        self._asked[reply_to, request] = None
        if len(self._asked) > _REMEMBERED_REQUESTS:
            del self._asked[next(iter(self._asked))]
        return True

    # -- the log -----------------------------------------------------------------------------------------------

    def _propose(self, now: Now, effects: list[SequencerEffect]) -> None:
        """Create the next record if something waits and the bounds allow it; else think of when to look again."""
        if self._creating or not self._fenced or self._ahead_bytes > self._options.ahead_bytes:
            return
        record = self._record(
            now, save=now.monotonic - self._last_saved_at >= self._options.save_interval_seconds
        )
        idle = not _says_something(record)
        if not idle:
            self._last_active_at = now.monotonic
        elif self._last_was_save or self.finished < self.epoch:
            return
        else:
            rest = self._last_active_at + self._options.save_interval_seconds - now.monotonic
            if rest > 0:
                if not self._waking:
                    self._waking = True
                    effects.append(WakeAfter(rest))
                return
            record = replace(record, save=True)
        if record.save:
            self._last_saved_at = now.monotonic
        self._creating = True
        effects.append(Append(record))

    def _record(self, now: Now, save: bool) -> LogRecord:
        epoch = self.epoch + 1
        time_us = max(now.us, self._time_us)
        subscriptions = tuple(
            SubscriptionWanted(place_in_log(epoch, i), request, views, after, reply_to)
            for i, (request, views, after, reply_to) in enumerate(self._subscribes)
        )
        return LogRecord(
            epoch=epoch,
            time_us=time_us,
            generation=self._generation,
            incarnation=self._incarnation,
            map_version=self._map.version,
            save=save,
            expired=tuple(self._expired(time_us)),
            opens=tuple(
                RecordedOpen(w.message.client, w.message.request, w.message.reply_to) for w in self._opens
            ),
            transactions=tuple(self._next_transactions()),
            snapshots=tuple(self._snapshots),
            subscriptions=subscriptions,
            unsubscriptions=tuple(self._unsubscribes),
        )

    def _expired(self, time_us: int) -> Iterator[int]:
        for session in self._sessions.values():
            if time_us - session.used_us <= self._options.session_idle_us:
                return
            if not session.pending:
                yield session.id

    def _next_transactions(self) -> Iterator[RecordedTransaction]:
        """What waits and follows without a gap, up to the size of a record."""
        size = 0
        for session in self._writing.values():
            number = session.committed + 1
            while (pending := session.pending.get(number)) is not None:
                own = hand_out_size(len(pending.payload), sum(len(each.batch) for each in pending.writes))
                size += own
                if size > self._options.record_bytes and size > own:
                    return
                yield RecordedTransaction(session.id, number, pending.payload)
                number += 1

    def _on_record(self, event: RecordThere, effects: list[SequencerEffect]) -> None:
        record = event.record
        if record.epoch != self.epoch + 1:
            raise InternalError(f"record {record.epoch} came where {self.epoch + 1} was created")
        if event.newest_base >= record.epoch:
            self._depose(f"base {event.newest_base} is beyond epoch {record.epoch}", effects)
        elif record.incarnation != self._incarnation:
            self._depose(f"incarnation {record.incarnation} wrote epoch {record.epoch}", effects)
        else:
            self._creating, self._fenced = False, True
            self._take(record, effects)
            self._answer_awaiting(effects)

    def _take(self, record: LogRecord, effects: list[SequencerEffect]) -> None:
        """Make a record of the log part of the state, in the order that defines it: expiries, transactions, opens."""
        self.epoch, self._time_us, self._last_was_save = record.epoch, record.time_us, record.save
        self._generation = record.generation
        for expired in record.expired:
            self._dismiss(self._sessions[expired], _EXPIRED, effects)
        for transaction in record.transactions:
            self._take_transaction(record, transaction, effects)
        for index, opened in enumerate(record.opens):
            self._take_open(record, index, opened, effects)
        self._take_requests(record, effects)
        self._to_hand_out.append(record)
        self._ahead_bytes += sum(len(t.payload) for t in record.transactions)

    def _take_transaction(
        self, record: LogRecord, transaction: RecordedTransaction, effects: list[SequencerEffect]
    ) -> None:
        session = self._sessions[transaction.session] = self._sessions.pop(transaction.session)
        session.committed, session.used_us = transaction.number, record.time_us
        session.recent[transaction.number] = (record.epoch, _hash(transaction.payload))
        if len(session.recent) > _REMEMBERED_NUMBERS:
            del session.recent[next(iter(session.recent))]
        pending = session.pending.pop(transaction.number, None)
        if pending is None:
            return
        if not session.pending:
            del self._writing[session.id]
        self._pending_bytes -= len(pending.payload)
        effects.append(SettleMessages(tuple(pending.tokens)))
        if pending.payload == transaction.payload:
            self._writes[transaction.session, transaction.number] = pending.writes
            committed = Committed(transaction.session, transaction.number, record.epoch)
            effects.append(Answer(pending.reply_to, committed))
        else:
            message = Transaction(transaction.session, transaction.number, pending.payload, pending.reply_to)
            effects.append(
                Answer(pending.reply_to, _refused(message, "its number has been used for other writes"))
            )

    def _take_open(
        self, record: LogRecord, index: int, opened: RecordedOpen, effects: list[SequencerEffect]
    ) -> None:
        older = self._by_client.get(opened.client)
        session = _Session(
            id=place_in_log(record.epoch, index),
            client=opened.client,
            committed=older.committed if older is not None else 0,
            used_us=record.time_us,
        )
        if older is not None:
            self._dismiss(older, _REPLACED, effects)
            session.recent = older.recent
        self._sessions[session.id] = self._by_client[opened.client] = session
        answer = SessionOpened(opened.request, session.id, session.committed, record.epoch)
        self._opened[opened.client, opened.reply_to, opened.request] = answer
        if len(self._opened) > _REMEMBERED_REQUESTS:
            del self._opened[next(iter(self._opened))]
        wanted = OpenSession(opened.request, opened.client, opened.reply_to)
        for waiting in [w for w in self._opens if w.message == wanted]:
            self._opens.remove(waiting)
            effects.append(Answer(opened.reply_to, answer))
            effects.append(SettleMessages(tuple(waiting.tokens)))

    def _dismiss(self, session: _Session, reason: str, effects: list[SequencerEffect]) -> None:
        """The session ends, and what it has pending will not be recorded."""
        del self._sessions[session.id], self._by_client[session.client]
        self._writing.pop(session.id, None)
        for pending in session.pending.values():
            self._pending_bytes -= len(pending.payload)
            effects.append(Answer(pending.reply_to, SessionUnknown(session.id, reason)))
            effects.append(SettleMessages(tuple(pending.tokens)))

    def _take_requests(self, record: LogRecord, effects: list[SequencerEffect]) -> None:
        taken = set(record.snapshots)
        self._snapshots = [s for s in self._snapshots if s not in taken]
        subscribed = {(s.reply_to, s.request) for s in record.subscriptions}
        self._subscribes = [s for s in self._subscribes if (s[3], s[0]) not in subscribed]
        self._unsubscribes = [u for u in self._unsubscribes if u not in record.unsubscriptions]
        if self._request_tokens and not (self._snapshots or self._subscribes or self._unsubscribes):
            effects.append(SettleMessages(tuple(self._request_tokens)))
            self._request_tokens = []

    def _depose(self, reason: str, effects: list[SequencerEffect]) -> None:
        self.deposed = reason
        effects.append(Deposed(reason))

    # -- hand-out ----------------------------------------------------------------------------------------------

    def _hand_out(self, effects: list[SequencerEffect]) -> None:
        """Give the next epochs to the nodes, as far as the window goes; never before the fence is there."""
        if not self._fenced:
            return
        while self._to_hand_out and self._handed_out - self.finished < self._options.window_epochs:
            record = self._to_hand_out.popleft()
            self._handed_out = record.epoch
            self._ahead_bytes -= sum(len(t.payload) for t in record.transactions)
            effects.append(HandOutEpoch(record, self._route(record)))

    def _route(self, record: LogRecord) -> tuple[tuple[Writes, ...], ...]:
        by_shard: list[list[Writes]] = [[] for _ in self._map.nodes]
        for place, transaction in enumerate(record.transactions):
            writes = self._writes.pop((transaction.session, transaction.number), None)
            if writes is None:
                writes = tuple(decode_payload(self._plan.datasets, transaction.payload))
            for shard, its in route(writes, self._plan, self._map, record.epoch, place).items():
                by_shard[shard].extend(its)
        return tuple(tuple(merge_writes(writes)) for writes in by_shard)

    def _on_finished(self, event: ShardFinished, effects: list[SequencerEffect]) -> None:
        if event.epoch > self.epoch:
            raise MalformedMessage(
                f"shard {event.shard} finished epoch {event.epoch}, which does not exist yet"
            )
        self._shard_finished[event.shard] = max(self._shard_finished[event.shard], event.epoch)
        self.finished = min(self._shard_finished)
        self._answer_awaiting(effects)

    def _answer_awaiting(self, effects: list[SequencerEffect]) -> None:
        ready = [a for a in self._awaiting if a.epoch <= self.finished]
        if ready:
            self._awaiting = [a for a in self._awaiting if a.epoch > self.finished]
            effects.extend(Answer(a.reply_to, EpochFinished(a.request, self.finished)) for a in ready)


def _says_something(record: LogRecord) -> bool:
    return bool(
        record.opens
        or record.transactions
        or record.snapshots
        or record.subscriptions
        or record.unsubscriptions
    )


def _repeated(session: _Session, message: Transaction) -> Message:
    """The answer to a number that is committed: the same again, unless it now says something else.

    Of numbers that are no longer remembered, the oldest epoch that is remembered is told: it is not before theirs.
    """
    known = session.recent.get(message.number)
    if known is None:
        epoch, _ = next(iter(session.recent.values()))
    elif known[1] != _hash(message.payload):
        return _refused(message, "its number has been committed with other writes")
    else:
        epoch = known[0]
    return Committed(message.session, message.number, epoch)


def _refused(message: Transaction, reason: str) -> TransactionRefused:
    return TransactionRefused(message.session, message.number, reason)


def _hash(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
