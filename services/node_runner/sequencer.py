"""The sequencer of a program: transactions in, numbered epochs out. The pure part.

The log of epochs in the store is the truth. The sequencer proposes the next record, the store's create-only write
decides, and **the record that is there afterwards is the epoch**, whoever wrote it and whatever was meant. From that
follow the rules of this file:

- No reply, ack or hand-out before `RecordThere` has told what the record says. It carries what was read back, and the
  newest base; if that is at or beyond the record's epoch, the slot had been collected and this sequencer is deposed.
- A record by another incarnation deposes this one. A record of its own may be an older attempt that says less than
  was meant now: what it says is taken, what it does not say stays pending.
- The first thing that a new sequencer writes is an empty record: the fence. Until it is there, nothing happens. Where
  nobody has done so yet, it also opens the generation that the sequencer was started for, naming the base at which the
  nodes of that generation begin; a copy of the base under the new generation is written next (`epoch_log.py` says why).
  The log behind the base is handed out to whoever begins there.
- At most one record is being created at any time; what comes in meanwhile waits, so epochs grow with the load and with
  the latency of the store by themselves. They also grow where the nodes are behind (`pace.py`).

Every transaction is checked against the row types when it arrives (`sessions.py`), before anything is recorded of it;
`readers.py` has what others ask. What is recorded is handed out to the nodes (`handing_out.py`).

**Bases.** Every node saves its state as of an epoch flagged `save`. When all have, the base of that epoch is written,
with what has to be known of the log up to there (`saving.py`). Before it goes idle, a sequencer writes one empty epoch
flagged `save`; then nothing moves until somebody writes.

**The end of a generation.** Before nodes come in the place of others, the sequencer is asked to end. Its next record is
flagged `save`, and nothing behind that is handed out, though it goes on recording; so when the base of that epoch is
there, all nodes are exactly at it, and those that stay can go on with what they have. Its records say so (`ends`),
which tells the next sequencer that what is behind was handed out to nobody. If the nodes that come are of the same
generation, or if none come in time, it goes on, behind a record that says so.

**Void transactions** (`voiding.py`) are recorded by whoever opens a generation, behind a fence of its own: which bases
are kept is certain only then. Readers may have heard otherwise, so subscriptions end there, and watchers begin again
with a snapshot. The same where a generation shows other views.

**Filling.** While a program takes the place of another, records fill its new views, slice by slice (`filling.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from dist_zero.compiler.change import slices_of
from dist_zero.compiler.plan import Plan
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.reading import (
    AwaitEpoch,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
from dist_zero_common.protocol.messages.writing import OpenSession, Transaction, Wait
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    LogRecord,
    epoch_of_place,
)
from services.node_runner.filling import Filling, slices_at_once
from services.node_runner.handing_out import HandingOut, payload_bytes
from services.node_runner.pace import Pace
from services.node_runner.patience import Patience
from services.node_runner.readers import Readers
from services.node_runner.saving import Saving
from services.node_runner.sequencer_events import (
    Answer,
    Append,
    AskNodes,
    BaseThere,
    Deposed,
    EndWanted,
    FromClient,
    LoadAgain,
    Look,
    Now,
    ReaderGone,
    RecordThere,
    RowsMissing,
    SequencerEffect,
    SequencerEvent,
    SequencerOptions,
    SettleMessages,
    ShardBegun,
    ShardFinished,
    ShardSaved,
    TellGone,
    Tick,
    WakeAfter,
    WriteBase,
)
from services.node_runner.sessions import RETRY_AFTER_MS, Sessions
from services.node_runner.voiding import beginning


class Sequencer:
    """One incarnation of a program's sequencer, from the log as it was when it started."""

    def __init__(
        self,
        *,
        plan: Plan,
        incarnation: int,
        base: Base,
        origin: BaseId,
        opened: bool,
        based: bool,
        records: list[LogRecord],
        options: SequencerOptions,
        voids: tuple[TransactionPlace, ...] = (),
        forgets: bool = False,
        state_bytes: int = 0,
    ) -> None:
        """`records` are those behind the base, in order, without a gap. All of them are handed out to the nodes of the
        base's generation, whoever had them before. `origin`: of which base this one is a copy; for it, `opened` and
        `based` see `epoch_log.Loaded`. `voids`: what the record that opens the generation has to void. `forgets`:
        whether its program shows other views than the one before, so that readers have to begin again.
        `state_bytes`: how large the state is, about."""
        self.epoch = base.epoch
        self.finished = base.epoch
        self.deposed = ""
        self.fenced = False
        """Whether a record of its own is there, from which on nobody else's may be."""
        self._plan, self._map, self._incarnation = plan, base.shard_map, incarnation
        self._generation, self._options = base.generation, options
        forgotten = max((each.epoch for each in records if each.voids or each.forgets), default=0)
        if voids or forgets:
            forgotten = base.epoch + len(records) + 1
        if forgotten:  # what readers were told is not so any more: they begin again
            base = replace(base, subscriptions=())
        self._base, self._origin, self._opened, self._based = base, origin, opened, based
        self._saving = Saving(base, options)
        self._shard_finished = [base.epoch] * len(base.shard_map.nodes)
        self._time_us = base.time_us
        self._sessions = Sessions(plan, options, base.sessions)
        self._readers = Readers(plan, base.subscriptions, forgotten)
        self._creating = False
        self._patience = Patience()
        self._pace = Pace(options.record_bytes, options.record_bytes_max)
        self._last_saved_at = 0.0
        self._last_active_at = 0.0
        self._last_was_save = False
        self._wakes_at: float | None = None
        self._ending = False
        self._ends = 0
        self._ended_at: float | None = None
        self._unheard_behind = 0
        """Of the records that were there before the fence, those behind this epoch were handed out to nobody; 0: any
        may have been."""
        self._older_than = max((record.incarnation for record in records), default=0)
        self._wants_void, self._forgets = voids, forgets
        slices = slices_of(plan)
        self._filling = Filling(base, slices, slices_at_once(slices, state_bytes, options.fill_bytes))
        has_fence = bool(records) and records[-1].incarnation == incarnation
        self._fences_first = bool(voids) and not has_fence
        self._voiding = [record for record in records if record.voids]
        self._handing_out = HandingOut(plan, base, options, self._voiding, forgotten)
        for record in records:
            self._take(record, [])

    @property
    def base(self) -> int:
        """The epoch of the newest base."""
        return self._saving.base_epoch

    @property
    def filled(self) -> tuple[int, int]:
        """How many slices are filled, and how many there are; the last one is when a base has it."""
        return self._filling.told, self._filling.slices

    @property
    def proposing(self) -> int:
        """The epoch whose record is being created, 0 for none."""
        return self.epoch + 1 if self._creating else 0

    @property
    def heat(self) -> tuple[int, ...]:
        """The hashes of some keys that were written lately, ascending."""
        return self._handing_out.heat

    @property
    def waiting_bytes(self) -> int:
        """How much clients have sent that is in no epoch yet."""
        return self._sessions.waiting_bytes

    def count_rows(self, own: Counter[str], replayed: Counter[str]) -> None:
        """Count the rows that are handed out here, by dataset: those of its own records, and those of records that were
        there before."""
        self._handing_out.rows, self._handing_out.rows_replayed = own, replayed

    @property
    def ends(self) -> int:
        """The epoch behind which nothing is handed out, 0 for none."""
        return self._ends

    def start(self, now: Now) -> list[SequencerEffect]:
        """The first thing to do: write the fence. Not where a later sequencer has been already: this one was told late
        to start, and would depose it."""
        if self._creating or self.fenced:
            return []  # somebody was heard before, which did it
        if self._older_than > self._incarnation:
            effects: list[SequencerEffect] = []
            self._depose(f"the log has records of incarnation {self._older_than} already", effects)
            return effects
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
                self._on_client(event.message, event.token, now, effects)
            case ShardFinished():
                self._on_finished(event, now, effects)
            case ShardSaved():
                self._saving.on_saved(event)
            case ShardBegun():
                self._on_begun(event, effects)
            case BaseThere():
                self._on_base(event)
            case ReaderGone():
                self._readers.on_gone(event.inbox)
            case RecordThere():
                self._on_record(event, effects)
            case RowsMissing():
                self._hand_out_again(event, effects)
            case EndWanted():
                self._ending = True
            case Look():
                self._look(now, effects)
            case Tick():
                self._wakes_at = None
        if not self.deposed:
            self._hand_out(now, effects)
            self._propose(now, effects)
            self._write_base(effects)
        return effects

    # -- from clients ------------------------------------------------------------------------------------------

    def _on_client(self, message: Message, token: Token, now: Now, effects: list[SequencerEffect]) -> None:
        match message:
            case Transaction() if epoch_of_place(message.session) > self.epoch:
                # Opened by a later sequencer, which may take this when it comes again: not ours to call it unknown.
                wait = Wait(message.session, message.number, RETRY_AFTER_MS)
                effects += (Answer(message.reply_to, wait), SettleMessages((token,)))
            case Transaction():
                self._sessions.on_transaction(message, token, effects)
            case OpenSession():
                self._sessions.on_open(message, token, effects)
            case SnapshotRequest() | Subscribe():
                self._readers.on_question(message, token, now, effects)
            case Unsubscribe():
                self._readers.on_unsubscribe(message, token, effects)
            case AwaitEpoch():
                self._readers.on_await(message, token, self.epoch, self.finished, effects)
            case _:
                raise MalformedMessage(f"{type(message).__name__} is not for a sequencer")

    # -- the log -----------------------------------------------------------------------------------------------

    def _propose(self, now: Now, effects: list[SequencerEffect]) -> None:
        """Create the next record if something waits and the bounds allow it; else think of when to look again."""
        if self._creating:
            return
        if not self.fenced:
            effects += self.start(now)
            return
        if self._handing_out.ahead_bytes > self._options.ahead_bytes:
            return
        due = now.monotonic - self._last_saved_at >= self._options.save_interval_seconds
        turns = self._ending is not bool(self._ends)  # to its end, or away from it
        rest = self._pace.rest(self._sessions.waiting_bytes, now.monotonic)
        if rest > 0 and not turns:
            self._wake_after(rest, now, effects)
            return
        record = self._record(now, save=due or self._saving.has_enough or (turns and self._ending))
        idle = not _says_something(record) and not turns and record.filled == self._filling.filled
        if not idle:
            self._last_active_at = now.monotonic
        elif self._last_was_save or self.finished < self.epoch:
            return
        else:
            rest = self._last_active_at + self._options.save_interval_seconds - now.monotonic
            if rest > 0:
                self._wake_after(rest, now, effects)
                return
            record = self._record(now, save=True)
        if record.save:
            self._last_saved_at = now.monotonic
        self._creating = True
        self._pace.on_proposed()
        effects.append(Append(record))

    def _wake_after(self, seconds: float, now: Now, effects: list[SequencerEffect]) -> None:
        """See that a `Tick` comes by then."""
        at = now.monotonic + seconds
        if self._wakes_at is None or at < self._wakes_at:
            self._wakes_at = at
            effects.append(WakeAfter(seconds))

    def _record(self, now: Now, save: bool) -> LogRecord:
        epoch = self.epoch + 1
        is_end = self._ending and self.fenced and not self._ends
        time_us = max(now.us, self._time_us)
        return LogRecord(
            epoch=epoch,
            time_us=time_us,
            generation=self._generation,
            incarnation=self._incarnation,
            map_version=self._map.version,
            save=save,
            everything=save and self._saving.wants_everything(is_end),
            begins=None if self._opened or self._fences_first else self._origin,
            shard_map=None if self._opened or self._fences_first else self._map,
            voids=() if self._opened or self._fences_first else self._wants_void,
            graph=b"" if self._opened or self._fences_first else self._base.graph,
            forgets=self._forgets and not self._opened and not self._fences_first,
            filled=self._filling.next(self.finished) if self._based else self._filling.filled,
            expired=tuple(self._sessions.expired(time_us)),
            opens=self._sessions.wanted_opens(),
            transactions=tuple(self._sessions.next_transactions(self._pace.record_bytes)),
            snapshots=self._readers.wanted_snapshots(),
            subscriptions=self._readers.wanted_subscriptions(epoch),
            unsubscriptions=self._readers.wanted_unsubscriptions(),
            ends=(self._ends or epoch) if self._ending and self.fenced else 0,
        )

    def _on_record(self, event: RecordThere, effects: list[SequencerEffect]) -> None:
        record = event.record
        if record.epoch != self.epoch + 1:
            raise InternalError(f"record {record.epoch} came where {self.epoch + 1} was created")
        newest_base = max(base.epoch for base in event.bases)
        if newest_base >= record.epoch:
            self._depose(f"base {newest_base} is beyond epoch {record.epoch}", effects)
        elif record.incarnation < self._incarnation and not self.fenced:
            # An older one has gone on since the log was read: the fence comes behind it.
            self._creating = False
            if record.voids or record.forgets or self._wants_void or self._forgets:
                self._load_again("the log went on meanwhile", effects)
            else:
                self._take(record, effects)
        elif record.incarnation != self._incarnation:
            self._depose(f"incarnation {record.incarnation} wrote epoch {record.epoch}", effects)
        else:
            self._creating, self.fenced = False, True
            self._take(record, effects)
            self._readers.answer_awaiting(self.finished, effects)
            if self._fences_first:
                self._load_again("its fence is there, so it can choose the base", effects)
            else:
                self._check_opening(record, event.bases, effects)

    def _check_opening(
        self, record: LogRecord, bases: tuple[BaseId, ...], effects: list[SequencerEffect]
    ) -> None:
        """Our generation is open now, at the base that the record names, unless there is a newer one by now."""
        if record.begins is None:
            return
        self._opened = True
        if beginning(bases, self._generation, self._voiding) != self._origin:
            self._load_again(f"there is a newer base than epoch {self._origin.epoch}", effects)

    def _load_again(self, reason: str, effects: list[SequencerEffect]) -> None:
        self.deposed = reason
        effects.append(LoadAgain(reason))

    def _take(self, record: LogRecord, effects: list[SequencerEffect]) -> None:
        """Make a record of the log part of the state, in the order that defines it: expiries, transactions, opens."""
        self.epoch, self._time_us, self._last_was_save = record.epoch, record.time_us, record.save
        self._count_finished()
        if self.fenced:
            self._ends = record.ends
        else:
            self._unheard_behind = record.ends
        if record.voids and record not in self._voiding:
            self._voiding.append(record)
        for expired in record.expired:
            self._sessions.expire(expired, effects)
        writes = [self._sessions.take_transaction(record, each, effects) for each in record.transactions]
        for index, opened in enumerate(record.opens):
            self._sessions.take_open(record, index, opened, effects)
        self._readers.take(record, effects)
        fill = self._filling.take(record)
        size = payload_bytes(record)
        self._saving.on_record(record, size)
        self._pace.on_record(record.epoch, size)
        if record.save:
            sessions, subscriptions = self._sessions.as_of_now(), self._readers.as_of_now()
            self._saving.freeze(record, sessions, subscriptions, self._filling.filled)
        self._handing_out.add(record, writes, again=not self.fenced, fill=fill)

    def _depose(self, reason: str, effects: list[SequencerEffect]) -> None:
        self.deposed = reason
        effects.append(Deposed(reason))

    # -- hand-out ----------------------------------------------------------------------------------------------

    def _hand_out(self, now: Now, effects: list[SequencerEffect]) -> None:
        """Give the next epochs to the nodes, as far as the window goes; never before fence and base are there."""
        if not self.fenced or not self._based:
            return
        for out in self._handing_out.next(self.finished, self.base, self._ends, self._unheard_behind):
            self._pace.on_handed_out(out.record.epoch, payload_bytes(out.record), now.monotonic)
            effects.append(out)

    def _hand_out_again(self, missing: RowsMissing, effects: list[SequencerEffect]) -> None:
        again = self._handing_out.again(missing.epoch, missing.shard, self.finished, self.base)
        if again is not None:
            effects.append(again)
        elif missing.epoch <= self.base:
            effects.append(TellGone(missing.shard, missing.epoch))

    def _on_begun(self, event: ShardBegun, effects: list[SequencerEffect]) -> None:
        """A node has begun at a base, perhaps again: it needs all that was handed out behind that."""
        if event.epoch < self.base:
            effects.append(TellGone(event.shard, self.base))
            return
        if event.epoch == self._ends:
            self._ending = False  # whoever was waited for is here
        self._shard_finished[event.shard] = event.epoch
        effects += self._handing_out.behind(event.epoch, event.shard, self.finished, self.base)

    def _look(self, now: Now, effects: list[SequencerEffect]) -> None:
        """Ask nodes where they are that have not moved for a while: what they said may be lost, or what was said to
        them."""
        self._look_at_end(now)
        newest = self._handing_out.newest
        behind = tuple(shard for shard, epoch in enumerate(self._shard_finished) if epoch < newest)
        if self._patience.is_over((self.finished, newest) if behind else None, now.monotonic):
            effects.append(AskNodes(behind, newest))

    def _look_at_end(self, now: Now) -> None:
        """Go on if this generation has come to its end, and no other one begins."""
        if not self._ending or not self._ends or self.base < self._ends:
            self._ended_at = None
        elif self._ended_at is None:
            self._ended_at = now.monotonic
        elif now.monotonic - self._ended_at >= self._options.ended_seconds:
            self._ending, self._ended_at = False, None

    def _on_finished(self, event: ShardFinished, now: Now, effects: list[SequencerEffect]) -> None:
        self._shard_finished[event.shard] = max(self._shard_finished[event.shard], event.epoch)
        self._count_finished()
        self._pace.on_finished(self.finished, now.monotonic)
        self._readers.answer_awaiting(self.finished, effects)

    def _count_finished(self) -> None:
        """The newest epoch that all have finished, or had, before one of them began again. Nodes may know later ones by
        another sequencer, which deposes us."""
        self.finished = max(self.finished, min(self.epoch, *self._shard_finished))

    # -- bases -------------------------------------------------------------------------------------------------

    def _write_base(self, effects: list[SequencerEffect]) -> None:
        """Write the first base of the generation, or the next one, if it can be told by now."""
        if not self.fenced:
            return
        base = self._saving.next_base() if self._based else self._saving.first_base()
        if base is not None:
            effects.append(WriteBase(base))

    def _on_base(self, event: BaseThere) -> None:
        self._based = True
        self._saving.on_base(event.epoch)
        self._filling.on_base(event.epoch)
        self._handing_out.forget(self.base)


def _says_something(record: LogRecord) -> bool:
    return bool(
        record.opens
        or record.transactions
        or record.snapshots
        or record.subscriptions
        or record.unsubscriptions
    )
