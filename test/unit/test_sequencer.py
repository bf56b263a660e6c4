"""The rules of the sequencer, one by one: a driver plays the store and the nodes, and keeps every effect."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.expr.ops import Dataset, Graph, View
from dist_zero.shards import even_map
from dist_zero.types import INT, RowType
from dist_zero.writes import encode_payload
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import RequestRefused, WriteKind
from dist_zero_common.protocol.messages.reading import (
    AwaitEpoch,
    EpochFinished,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
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
    Base,
    BaseId,
    LogRecord,
)
from services.node_runner.pace import LINGER_SECONDS
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import (
    DAY_US,
    Answer,
    Append,
    BaseThere,
    Deposed,
    FromClient,
    HandOutEpoch,
    Now,
    RecordThere,
    SequencerEffect,
    SequencerEvent,
    SequencerOptions,
    SettleMessages,
    ShardFinished,
    Tick,
    WakeAfter,
    WriteBase,
)

ROW_TYPE = RowType(("k", "v"), (INT, INT))
COUNTS = Dataset(ROW_TYPE, ("k",), "counts")
GENERATION, ORIGIN = 3, BaseId(0, 0)
PLAN = compile(Graph("app", (COUNTS,), (View("all", COUNTS),)))


def payload(*rows: tuple[int, int]) -> bytes:
    """A transaction that puts these rows."""
    return encode_payload(
        [Writes(0, WriteKind.PUT, (0, 1), Batch.from_rows(ROW_TYPE.types, list(rows)), (), ())]
    )


def there(record: LogRecord, newest_base: BaseId | None = None) -> RecordThere:
    """The record is in the log, and no base of this generation."""
    return RecordThere(record, (ORIGIN, *([newest_base] if newest_base is not None else [])))


@dataclass
class Driver:
    """A sequencer with a log that does as it should, unless a test takes the records away before they are written."""

    nodes: int = 1
    records: list[LogRecord] = field(default_factory=list)
    options: SequencerOptions = field(default_factory=SequencerOptions)
    incarnation: int = 7
    us: int = 1_000_000
    seconds: float = 100.0
    effects: list[SequencerEffect] = field(default_factory=list)
    tokens: int = 0
    opened: bool = False
    based: bool = False
    bases: list[Base] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequencer = Sequencer(
            plan=PLAN,
            incarnation=self.incarnation,
            base=self.base,
            origin=ORIGIN,
            opened=self.opened,
            based=self.based,
            records=list(self.records),
            options=self.options,
        )
        self.effects += self.sequencer.start(self.now())

    @property
    def base(self) -> Base:
        nodes = tuple(f"n{i}" for i in range(1, self.nodes + 1))
        return Base(0, GENERATION, 0, even_map(1, nodes), b"graph")

    def now(self) -> Now:
        return Now(self.us, self.seconds)

    def event(self, event: SequencerEvent) -> list[SequencerEffect]:
        effects = self.sequencer.handle(event, self.now())
        self.effects += effects
        for effect in list(effects):
            if isinstance(effect, WriteBase):
                self.bases.append(effect.base)
                effects += self.event(BaseThere(effect.base.epoch))
        return effects

    def client(self, message: Message) -> list[SequencerEffect]:
        self.tokens += 1
        return self.event(FromClient(message, self.tokens))

    def proposed(self) -> LogRecord | None:
        """The record that is being created."""
        appends = [e.record for e in self.effects if isinstance(e, Append)]
        return appends[-1] if appends and appends[-1].epoch > self.sequencer.epoch else None

    def write(self) -> LogRecord:
        """Let the store create what was proposed."""
        record = self.proposed()
        assert record is not None, "nothing is being created"
        self.records.append(record)
        self.event(there(record))
        return record

    def finish(self) -> None:
        for shard in range(self.nodes):
            self.event(ShardFinished(shard, self.sequencer.epoch))

    def open(self, client: str = "loader", request: int = 1) -> SessionOpened:
        self.client(OpenSession(request, client, "me"))
        while (record := self.proposed()) is not None:
            self.write()
            if record.opens:
                break
        return next(a for a in reversed(self.answers()) if isinstance(a, SessionOpened))

    def answers(self, kind: type[Message] | None = None) -> list[Message]:
        found = [e.message for e in self.effects if isinstance(e, Answer)]
        return [m for m in found if kind is None or isinstance(m, kind)]

    def settled(self) -> list[int]:
        return [t for e in self.effects if isinstance(e, SettleMessages) for t in e.tokens]

    def handed_out(self) -> list[HandOutEpoch]:
        return [e for e in self.effects if isinstance(e, HandOutEpoch)]


def ready(**options: object) -> Driver:
    """A driver whose fence is written."""
    driver = Driver(**options)  # type: ignore[arg-type]
    driver.write()
    return driver


def test_nothing_happens_before_the_fence_is_there() -> None:
    """The first effect is an empty record; until it is read back there is no answer, ack or hand-out."""
    driver = Driver()
    assert driver.effects == [Append(driver.effects[0].record)]  # type: ignore[union-attr]
    assert not driver.effects[0].record.transactions  # type: ignore[union-attr]
    driver.client(OpenSession(1, "loader", "me"))
    assert len(driver.effects) == 1
    driver.write()
    assert [h.record.epoch for h in driver.handed_out()] == [1]
    assert driver.proposed() is not None and driver.proposed().opens  # type: ignore[union-attr]


def test_reply_and_ack_wait_for_the_record() -> None:
    """A transaction is answered, settled and handed out when its record is there, not when it is proposed."""
    driver = ready()
    session = driver.open().session
    driver.effects.clear()
    driver.client(Transaction(session, 1, payload((1, 10)), "me"))
    assert [type(e) for e in driver.effects] == [Append]
    driver.write()
    assert driver.answers() == [Committed(session, 1, 3)]
    assert driver.tokens in driver.settled()
    assert [w.batch.rows() for w in driver.handed_out()[-1].writes[0]] == [[(1, 10)]]


def test_one_record_at_a_time_and_the_next_takes_all_that_waits() -> None:
    """While a record is being created others wait, and go into one epoch together, in the order of their numbers."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    for number in (3, 2, 4):
        driver.client(Transaction(session, number, payload((number, number)), "me"))
    assert [t.number for t in driver.write().transactions] == [1]
    assert [t.number for t in driver.write().transactions] == [2, 3, 4]


def test_gap_is_asked_for_once() -> None:
    """A number that does not follow waits, and the missing one is asked for, once."""
    driver = ready()
    session = driver.open().session
    for number in (2, 3):
        driver.client(Transaction(session, number, payload((number, 0)), "me"))
    assert driver.answers(ResendFrom) == [ResendFrom(session, 1)]
    assert driver.proposed() is None
    driver.client(Transaction(session, 1, payload((1, 0)), "me"))
    driver.write()
    assert driver.answers(Committed) == [Committed(session, n, 3) for n in (1, 2, 3)]


def test_second_gap_behind_a_first_one_is_asked_for() -> None:
    """What closes one gap may stand before another one, which is asked for when the next number shows it."""
    driver = ready()
    session = driver.open().session
    for number in (2, 4, 1, 5):
        driver.client(Transaction(session, number, payload((number, 0)), "me"))
    assert driver.answers(ResendFrom) == [ResendFrom(session, 1), ResendFrom(session, 3)]
    driver.write()
    for number in (7, 3):
        driver.client(Transaction(session, number, payload((number, 0)), "me"))
    assert driver.answers(ResendFrom)[2:] == []
    driver.client(Transaction(session, 8, payload((8, 0)), "me"))
    assert driver.answers(ResendFrom)[2:] == [ResendFrom(session, 6)]


def test_same_number_again_is_the_same_commit() -> None:
    """A repeated transaction is answered with the epoch it has; with other writes it is refused; nothing is doubled."""
    driver = ready()
    session = driver.open().session
    once, other = payload((1, 1)), payload((1, 2))
    driver.client(Transaction(session, 1, once, "me"))
    driver.client(Transaction(session, 1, once, "me"))
    driver.client(Transaction(session, 1, other, "me"))
    assert len(driver.answers(TransactionRefused)) == 1
    driver.write()
    driver.client(Transaction(session, 1, once, "me"))
    driver.client(Transaction(session, 1, other, "me"))
    assert set(map(repr, driver.answers(Committed))) == {repr(Committed(session, 1, 3))}
    assert len(driver.answers(TransactionRefused)) == 2
    assert driver.proposed() is None
    assert sorted(driver.settled()) == list(range(1, driver.tokens + 1))


def test_record_by_another_incarnation_deposes() -> None:
    """If the slot holds somebody else's record, this sequencer answers nobody and does nothing any more."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    mine = driver.proposed()
    assert mine is not None
    driver.effects.clear()
    driver.event(there(replace(mine, incarnation=8)))
    assert [type(e) for e in driver.effects] == [Deposed]
    assert driver.client(Transaction(session, 2, payload((1, 1)), "me")) == []


def test_fence_comes_behind_what_an_older_one_has_written() -> None:
    """A record that an older incarnation created while the log was being read is part of the log; a newer one's ends
    this sequencer."""
    driver = Driver()
    fence = driver.proposed()
    assert fence is not None
    driver.event(there(replace(fence, incarnation=driver.incarnation - 1)))
    assert driver.proposed() == replace(fence, epoch=2)
    assert not driver.handed_out()
    driver.write()
    assert [each.record.epoch for each in driver.handed_out()] == [1, 2]
    late = Driver()
    late.event(there(replace(fence, incarnation=late.incarnation + 1)))
    assert isinstance(late.effects[-1], Deposed)


def test_session_of_a_later_record_is_not_called_unknown() -> None:
    """A session that was opened in a record that this sequencer has not seen is known to a later sequencer: its writer
    is told to try again, not that it was forgotten."""
    driver = ready()
    driver.client(Transaction(9 << 20, 1, payload((1, 1)), "me"))
    driver.client(Transaction(driver.sequencer.epoch << 20, 1, payload((1, 1)), "me"))
    assert [type(answer) for answer in driver.answers()] == [Wait, SessionUnknown]
    assert driver.settled() == [1, 2]


def test_newer_base_deposes() -> None:
    """If a base is at or beyond the epoch just created, its slot had been collected: no effect may follow."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    mine = driver.proposed()
    assert mine is not None
    driver.effects.clear()
    driver.event(there(mine, BaseId(GENERATION, mine.epoch)))
    assert [type(e) for e in driver.effects] == [Deposed]


def test_older_record_of_its_own_is_the_epoch() -> None:
    """What is there counts, not what was meant: what the record does not say stays pending and goes into the next."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    mine = driver.proposed()
    assert mine is not None
    driver.event(there(replace(mine, transactions=())))
    assert driver.answers(Committed) == []
    assert [t.number for t in driver.write().transactions] == [1]
    assert driver.answers(Committed) == [Committed(session, 1, 4)]


def test_next_incarnation_knows_what_is_committed() -> None:
    """Sessions and numbers are rebuilt from the log; what was committed is answered, not recorded again."""
    driver = ready()
    session = driver.open().session
    once = payload((1, 1))
    driver.client(Transaction(session, 1, once, "me"))
    driver.write()
    after = Driver(records=driver.records, incarnation=8)
    after.write()
    assert [h.record.epoch for h in after.handed_out()] == [1, 2, 3, 4]
    after.client(Transaction(session, 1, once, "me"))
    assert after.answers(Committed) == [Committed(session, 1, 3)]
    assert after.open(request=2).committed == 1


def test_new_session_deposes_the_older_of_the_same_client() -> None:
    """The older session is unknown afterwards, and the numbers go on counting."""
    driver = ready()
    first = driver.open().session
    driver.client(Transaction(first, 1, payload((1, 1)), "me"))
    driver.write()
    second = driver.open(request=2)
    assert second.committed == 1
    driver.client(Transaction(first, 2, payload((1, 2)), "me"))
    assert isinstance(driver.answers()[-1], SessionUnknown)


def test_repeated_open_is_the_same_session() -> None:
    """An `open` that comes twice, before or after the record, makes one session."""
    driver = ready()
    opened = driver.open()
    driver.client(OpenSession(1, "loader", "me"))
    assert driver.answers(SessionOpened)[-1] == opened
    assert driver.proposed() is None


def test_idle_session_expires_in_a_record() -> None:
    """After a day without writes the next record forgets the session; its writer is told, and starts from 1."""
    driver = ready()
    session = driver.open().session
    driver.us += DAY_US + 1
    other = driver.open("other").session
    assert [r.expired for r in driver.records if r.expired] == [(session,)]
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    assert isinstance(driver.answers()[-1], SessionUnknown)
    driver.client(Transaction(other, 1, payload((1, 1)), "me"))
    assert driver.proposed() is not None
    driver.write()
    assert driver.open(request=2).committed == 0


def test_record_time_never_goes_back() -> None:
    """When the clock jumps back, record time stands still."""
    driver = ready()
    driver.us = 5_000_000
    driver.open()
    driver.us = 10
    driver.open("other")
    times = [record.time_us for record in driver.records]
    assert times == sorted(times) and times[-1] == 5_000_000


def test_malformed_transaction_is_refused_whole() -> None:
    """A payload that breaks the row types is refused with a reason before anything is recorded."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 1, payload((1, 1))[:-8], "me"))
    driver.client(Transaction(session, 1, b"", "me"))
    assert len(driver.answers(TransactionRefused)) == 2
    assert driver.proposed() is None
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    assert driver.proposed() is not None


def test_transactions_are_numbered_from_one() -> None:
    """Number 0 is refused, before anything was committed and after."""
    driver = ready()
    session = driver.open().session
    driver.client(Transaction(session, 0, payload((1, 1)), "me"))
    driver.client(Transaction(session, 1, payload((1, 1)), "me"))
    driver.write()
    driver.client(Transaction(session, 0, payload((1, 1)), "me"))
    assert len(driver.answers(TransactionRefused)) == 2
    assert driver.answers(Committed) == [Committed(session, 1, 3)]


def test_hand_out_stays_within_the_window() -> None:
    """Commits go on while nodes stand still; hand-out stops at the window and goes on when epochs finish."""
    driver = ready(options=SequencerOptions(window_epochs=3))
    session = driver.open().session
    for number in range(1, 8):
        driver.client(Transaction(session, number, payload((1, number)), "me"))
        driver.seconds += LINGER_SECONDS
        driver.event(Tick())
        driver.write()
    assert len(driver.answers(Committed)) == 7
    assert [h.record.epoch for h in driver.handed_out()] == [1, 2, 3]
    driver.event(ShardFinished(0, 2))
    assert [h.record.epoch for h in driver.handed_out()] == [1, 2, 3, 4, 5]


def test_behind_busy_nodes_what_waits_becomes_one_record() -> None:
    """With two epochs of writes unfinished, transactions wait together: for one of the two, for a tick that was asked
    for, or until they fill a record; a lone one waits for nothing."""
    driver = ready(options=SequencerOptions(record_bytes=1_000))
    session = driver.open().session
    numbers = iter(range(1, 1_000))

    def send(count: int) -> None:
        for _, number in zip(range(count), numbers, strict=False):
            driver.client(Transaction(session, number, payload((1, number)), "me"))

    for _ in range(2):
        send(1)
        assert len(driver.write().transactions) == 1
    driver.effects.clear()
    send(2)
    assert driver.proposed() is None
    assert [round(e.seconds, 6) for e in driver.effects if isinstance(e, WakeAfter)] == [LINGER_SECONDS]
    driver.event(ShardFinished(0, driver.sequencer.epoch - 1))
    assert len(driver.write().transactions) == 2, "one of the two was finished"
    send(2)
    assert driver.proposed() is None
    driver.seconds += LINGER_SECONDS
    driver.event(Tick())
    assert len(driver.write().transactions) == 2, "they have waited long enough"
    send(20)
    assert len(driver.write().transactions) > 2, "a record is full"


def test_clients_are_told_to_wait_when_too_much_is_pending() -> None:
    """Records run ahead of hand-out by a bounded number of bytes; beyond, transactions are sent back, not kept."""
    row = payload((1, 1))
    driver = ready(
        options=SequencerOptions(window_epochs=1, ahead_bytes=len(row), pending_bytes=2 * len(row))
    )
    session = driver.open().session
    for number in range(1, 8):
        driver.client(Transaction(session, number, row, "me"))
        if driver.proposed() is not None:
            driver.write()
    assert driver.answers(Wait)
    waiting = driver.answers(Wait)[0]
    assert isinstance(waiting, Wait)
    committed = {m.number for m in driver.answers(Committed)}  # type: ignore[union-attr]
    driver.finish()
    while driver.proposed() is not None:
        driver.write()
        driver.finish()
    driver.client(Transaction(session, waiting.number, row, "me"))
    driver.write()
    assert waiting.number not in committed
    assert waiting.number in {m.number for m in driver.answers(Committed)}  # type: ignore[union-attr]


def test_idle_program_writes_one_save_epoch_and_then_nothing() -> None:
    """When all is finished and nobody writes, one empty `save` epoch follows after a while, and no other."""
    driver = ready()
    driver.open()
    driver.finish()
    wake = [e for e in driver.effects if isinstance(e, WakeAfter)]
    assert len(wake) == 1
    driver.seconds += wake[0].seconds
    driver.event(Tick())
    saved = driver.write()
    assert saved.save and not saved.opens
    driver.effects.clear()
    driver.finish()
    driver.event(Tick())
    assert driver.effects == []


def test_save_is_flagged_now_and_then_under_load() -> None:
    """Under load, an epoch is flagged `save` when the interval has passed, and not before."""
    driver = ready()
    session = driver.open().session
    flags = []
    for number in range(1, 21):
        driver.seconds += 0.25
        driver.client(Transaction(session, number, payload((1, number)), "me"))
        flags.append(driver.write().save)
        driver.finish()
    assert flags.count(True) == 5


def test_requests_are_recorded_and_unknown_views_are_refused() -> None:
    """Snapshots and subscriptions stand in a record and are handed out with it; a repeated one stands there once."""
    driver = ready()
    driver.client(SnapshotRequest(5, ("nope",), "me"))
    refused = driver.answers(RequestRefused)
    assert len(refused) == 1 and "'nope'" in refused[0].reason and "all" in refused[0].reason  # type: ignore[union-attr]
    for _ in range(2):
        driver.client(SnapshotRequest(6, ("all",), "me"))
        driver.client(Subscribe(7, ("all",), 0, "me"))
    while driver.proposed() is not None:
        driver.write()
    assert [s.request for r in driver.records for s in r.snapshots] == [6]
    assert [s.request for r in driver.records for s in r.subscriptions] == [7]
    assert sorted(driver.settled()) == list(range(1, driver.tokens + 1))


def test_requests_are_acked_with_their_own_record() -> None:
    """Under questions without a pause, when one is always pending, each is acked as soon as its record is there; an
    end of a subscription that comes twice stands in one record."""
    driver = ready()
    driver.client(SnapshotRequest(1, ("all",), "me"))
    for request in range(2, 8):
        driver.client(SnapshotRequest(request, ("all",), "me"))
        driver.client(Subscribe(100 + request, ("all",), 0, "me"))
        driver.write()
        assert driver.settled() == list(range(1, driver.tokens - 1))
    driver.write()
    assert driver.settled() == list(range(1, driver.tokens + 1))
    driver.client(SnapshotRequest(8, ("all",), "me"))
    driver.client(Unsubscribe(5))
    driver.client(Unsubscribe(5))
    assert [driver.write().unsubscriptions, driver.write().unsubscriptions] == [(), (5,)]
    assert sorted(driver.settled()) == list(range(1, driver.tokens + 1))


def test_snapshot_is_taken_again_when_its_answer_got_lost() -> None:
    """Asked again after its record, a snapshot goes into another record; a subscription, which lasts, does not."""
    driver = ready()
    for _ in range(2):
        driver.client(SnapshotRequest(6, ("all",), "me"))
        driver.client(Subscribe(7, ("all",), 0, "me"))
        while driver.proposed() is not None:
            driver.write()
    assert [s.request for r in driver.records for s in r.snapshots] == [6, 6]
    assert [s.request for r in driver.records for s in r.subscriptions] == [7]
    assert sorted(driver.settled()) == list(range(1, driver.tokens + 1))


def test_awaiting_an_epoch() -> None:
    """`AwaitEpoch` is answered when every node has finished it."""
    driver = ready(nodes=2)
    driver.client(AwaitEpoch(9, 1, "me"))
    driver.event(ShardFinished(0, 1))
    assert driver.answers(EpochFinished) == []
    driver.event(ShardFinished(1, 1))
    assert driver.answers(EpochFinished) == [EpochFinished(9, 1)]


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_row_goes_to_one_node(nodes: int) -> None:
    """The hand-out of an epoch holds every row of its transactions exactly once, over all shards."""
    driver = ready(nodes=nodes)
    session = driver.open().session
    rows = [(i, i * i) for i in range(200)]
    driver.client(Transaction(session, 1, payload(*rows[:100]), "me"))
    driver.client(Transaction(session, 2, payload(*rows[100:]), "me"))
    driver.write()
    driver.write()
    got = [row for h in driver.handed_out() for writes in h.writes for w in writes for row in w.batch.rows()]
    assert sorted(got) == rows
    busy = {i for h in driver.handed_out() for i, writes in enumerate(h.writes) if writes}
    assert busy == set(range(nodes))
