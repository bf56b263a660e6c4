"""The shell of a sequencer: its two inboxes, the store, the timers. It decides nothing.

Nodes answer to an inbox of their own, which is always drained: if their answers stood behind clients' transactions that
wait for room, no room would ever come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dist_zero_common.broker.base import Queue
from dist_zero_common.broker.topology import (
    CLIENT_REPLIES,
    check_inbox,
    sequencer_clients_inbox,
    sequencer_nodes_inbox,
)
from dist_zero_common.clock import Clock
from dist_zero_common.errors import BaseDamaged, LogDamaged, MalformedMessage, StoreError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.control import SequencerStatus
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import AskRows, Begun, Done, ReaderLost, Saved
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.reading import AwaitEpoch, SnapshotRequest, Subscribe
from dist_zero_common.protocol.messages.writing import OpenSession, Transaction
from dist_zero_common.protocol.stored import (
    Base,
    LogRecord,
)
from services.node_runner import wire
from services.node_runner.counts import Counts, Unsaved
from services.node_runner.epoch_log import EpochLog
from services.node_runner.handing_out import payload_bytes
from services.node_runner.hosting import ProgramHost
from services.node_runner.keeping import SavedState
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import (
    Answer,
    Append,
    AskNodes,
    BaseThere,
    Deposed,
    EndWanted,
    FromClient,
    HandOutEpoch,
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


class HostedSequencer:
    """One incarnation of a program's sequencer on this runner."""

    def __init__(
        self,
        host: ProgramHost,
        incarnation: int,
        generation: int,
        *,
        system: str,
        log_of_epochs: EpochLog,
        post: Mailbox,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        options: SequencerOptions,
        log: Logger,
        on_end: Callable[[], None] = lambda: None,
        on_failed: Callable[[], None] = lambda: None,
        voids: tuple[TransactionPlace, ...] = (),
    ) -> None:
        """`on_end`: called when the generation has come to the end that was asked for. `on_failed`: called when the
        store does not let it begin; then it does not listen, and another one has to."""
        self._on_end, self._on_failed = on_end, on_failed
        self.incarnation = incarnation
        self._voids = voids
        self._system = system
        self.nodes_inbox = sequencer_nodes_inbox(system, host.program, incarnation)
        self.clients_inbox = sequencer_clients_inbox(system, host.program)
        self._host, self._log_of_epochs, self._post = host, log_of_epochs, post
        self._clock, self._tasks, self._options, self._log = clock, tasks, options, log
        self._sequencer: Sequencer | None = None
        self._generation = generation
        self._damaged = ""
        self._rewind = False
        self._needs = b""
        self._busy_seconds = 0.0
        self._counts = host.counts
        self._unsaved = Unsaved()
        self._began: dict[int, float] = {}
        """By epoch that is not finished: when its record was about to be created."""
        self._newest_base: Base | None = None
        self.stopped = False
        self._collecting = asyncio.Lock()
        self._said = _totals(self._counts)
        """What the log was told of records with the newest base."""
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Load the log, write the fence, then listen; a damaged log halts the program."""
        async with self._starting:
            if not self.stopped:
                await self._start_or_fail()

    async def _start_or_fail(self) -> None:
        try:
            await self._start()
        except StoreError as error:
            self.stopped = True
            self._log.error("sequencer_failed", reason=str(error))
            await self._leave()
            self._on_failed()

    async def _start(self) -> None:
        try:
            loaded = await self._log_of_epochs.load(
                self._generation, self._host.shard_map, self._voids, self._host.graph
            )
            if loaded.refused:
                self._log.error("not_voided", reason=loaded.refused)
            await self._log_of_epochs.note_voids(loaded.records)
            await self._log_of_epochs.clear_attempts(loaded)
            if loaded.later:
                raise BaseDamaged(f"generation {loaded.later} has begun, and this is {self._generation}")
            if loaded.base.shard_map != self._host.shard_map:
                raise BaseDamaged(
                    f"generation {self._generation} was opened with shard map {loaded.base.shard_map.version}, and"
                    f" {self._host.shard_map.version} was to run in it"
                )
            self._needs = loaded.needs
            if loaded.needs:
                raise BaseDamaged(
                    f"the base of epoch {loaded.base.epoch} is none at which the program of generation"
                    f" {self._generation} can begin; another step of its change comes first"
                )
            self._sequencer = Sequencer(
                plan=self._host.plan,
                incarnation=self.incarnation,
                base=loaded.base,
                origin=loaded.origin,
                opened=loaded.opened,
                based=loaded.based,
                records=loaded.records,
                options=self._options,
                voids=loaded.voids,
                forgets=loaded.forgets,
                state_bytes=loaded.state_bytes,
            )
            self._sequencer.count_rows(self._counts.rows, self._counts.rows_replayed)
        except (LogDamaged, MalformedMessage) as damaged:
            self._halt(str(damaged), rewind=isinstance(damaged, BaseDamaged))
            return
        await self._post.listen(
            Queue(self.nodes_inbox), self._on_node_message
        )  # before anything can be finished
        self._newest_base = loaded.base if loaded.based else None
        self._host.telling.sequencer = self
        self._log.info(
            "sequencer_started",
            epoch=self._sequencer.epoch,
            records=len(loaded.records),
            base=loaded.base.epoch,
        )
        self._perform(self._sequencer.start(self._now()))
        self._host.tell_progress()
        await self._post.listen(Queue(self.clients_inbox), self._on_client_message)

    async def _load_again(self) -> None:
        """Begin anew with what is in the store now; what clients have sent meanwhile comes again."""
        async with self._starting:
            if not self.stopped:
                await self._stop_listening()
                await self._start_or_fail()

    async def stop(self) -> None:
        """Stop listening; what is not recorded stays in the clients' inbox for whoever comes next."""
        self.stopped = True
        async with self._starting:
            await self._leave()

    async def _leave(self) -> None:
        if self._host.telling.sequencer is self:
            self._host.telling.sequencer = None
            self._host.tell_progress()
        await self._stop_listening()

    async def _stop_listening(self) -> None:
        await self._post.stop_listening(self.clients_inbox, self._on_client_message)
        await self._post.stop_listening(self.nodes_inbox, self._on_node_message)

    def status(self) -> SequencerStatus | None:
        """What the runner reports; None while the log is being loaded."""
        if self._sequencer is None and not self._damaged:
            return None
        return SequencerStatus(
            program=self._host.program,
            incarnation=self.incarnation,
            generation=self._generation,
            nodes_inbox=self.nodes_inbox,
            epoch=self._sequencer.epoch if self._sequencer is not None else 0,
            finished_epoch=self._sequencer.finished if self._sequencer is not None else 0,
            halted=self._why_halted(),
            rewind=self._rewind or self._is_deposed(),
            base=self._sequencer.base if self._sequencer is not None else 0,
            proposing=self._sequencer.proposing if self._sequencer is not None else 0,
            ends=self._sequencer.ends if self._sequencer is not None else 0,
            slices=self._sequencer.filled[1] if self._sequencer is not None else 0,
            filled=self._sequencer.filled[0] if self._sequencer is not None else 0,
            needs=self._needs,
            busy_us=int(1_000_000 * self._busy_seconds),
            heat=self._sequencer.heat if self._sequencer is not None else (),
            rows=self._counts.rows.total(),
            unsaved_ms=int(1000 * self._unsaved.seconds(self._clock.monotonic())),
        )

    @property
    def waiting_bytes(self) -> int:
        """How much clients have sent that is in no epoch yet."""
        return self._sequencer.waiting_bytes if self._sequencer is not None else 0

    def _why_halted(self) -> str:
        if self._damaged:
            return self._damaged
        if self._sequencer is not None and self._sequencer.deposed:
            return self._sequencer.deposed
        return "a later one took its place" if self.stopped else ""

    def _is_deposed(self) -> bool:
        return self._sequencer is not None and self._sequencer.deposed != ""

    def _handle(self, event: SequencerEvent) -> None:
        if self.stopped:
            return
        assert self._sequencer is not None
        now = self._now()
        effects = self._sequencer.handle(event, now)
        self._busy_seconds += self._clock.monotonic() - now.monotonic
        self._count_finished(self._sequencer.finished, now.monotonic)
        self._perform(effects)

    def _count_finished(self, finished: int, now: float) -> None:
        while self._began and (epoch := next(iter(self._began))) <= finished:
            self._counts.epoch_seconds.observe(now - self._began.pop(epoch))

    def _count_record(self, record: LogRecord, began: float) -> None:
        """A record is there, which was about to be created at `began`."""
        now, counts = self._clock.monotonic(), self._counts
        counts.commit_seconds.observe(now - began)
        self._unsaved.moved(now)
        if record.save:
            self._unsaved.begin(record.epoch, now)
        if record.incarnation != self.incarnation:
            return
        self._began[record.epoch] = began
        counts.epochs += 1
        counts.transactions += len(record.transactions)
        counts.transaction_bytes += payload_bytes(record)
        counts.generations += record.begins is not None

    def _now(self) -> Now:
        return Now(self._clock.now_us(), self._clock.monotonic())

    def _on_client_message(self, message: Message, token: Token) -> None:
        _check_client(self._system, message)
        self._handle(FromClient(message, token))

    def _on_node_message(self, message: Message, token: Token) -> None:
        if not isinstance(message, AskRows | Done | Saved | Begun | ReaderLost):
            raise MalformedMessage(f"{type(message).__name__} is not for the nodes' inbox of a sequencer")
        if message.program != self._host.program:
            raise MalformedMessage(f"epochs of {message.program!r} are not told to {self._host.program!r}")
        if not isinstance(message, ReaderLost):
            wire.check_map(self._host.shard_map, message.map_version)
        match message:
            case AskRows():
                self._check_asked(message)
            case Done() | Saved() | Begun():
                self._check_told(message)
            case ReaderLost():
                check_inbox(self._system, CLIENT_REPLIES, message.inbox)
        if message.generation == self._generation:
            if isinstance(message, Begun):
                self._host.has_begun(message)
            self._handle(_node_event(message))
            self._host.flush()
        self._post.settle(token)

    def _check_told(self, message: Done | Saved | Begun) -> None:
        wire.check_shard(self._host.shard_map, message.shard)
        assert self._sequencer is not None
        if self._sequencer.fenced and message.epoch > self._sequencer.epoch:
            raise MalformedMessage(
                f"shard {message.shard} is at epoch {message.epoch}, which does not exist yet"
            )

    def _check_asked(self, message: AskRows) -> None:
        wire.check_shard(self._host.shard_map, message.asker)
        if message.stage != 1:
            raise MalformedMessage(f"stage {message.stage} is not asked of a sequencer")

    def end_generation(self) -> None:
        """Save once more, and hand out nothing behind that, for another generation is about to begin."""
        if self._sequencer is not None and self._sequencer.fenced and not self.stopped:
            self._handle(EndWanted())

    def look(self) -> None:
        """Ask for what is overdue."""
        if self._sequencer is not None and not self.stopped:
            self._handle(Look())

    # -- from nodes on this runner ---------------------------------------------------------------------------

    def on_finished(self, shard: int, generation: int, epoch: int) -> None:
        """A node here has finished an epoch."""
        if generation == self._generation:
            self._handle(ShardFinished(shard, epoch))

    def on_saved(self, shard: int, generation: int, saved: SavedState) -> None:
        """A node here has saved its state."""
        if generation == self._generation:
            self._handle(ShardSaved(shard, saved.epoch, saved.changed_bytes, saved.state_bytes))

    def on_begun(self, shard: int, generation: int, epoch: int) -> None:
        """A node here has begun at a base."""
        if generation == self._generation:
            self._handle(ShardBegun(shard, epoch))

    def on_reader_gone(self, generation: int, inbox: str) -> None:
        """Nobody reads this inbox of a client's any more."""
        if generation == self._generation:
            self._handle(ReaderGone(inbox))

    def _perform(self, effects: list[SequencerEffect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._tasks.create_task(self._append(effect))
                case WriteBase():
                    self._tasks.create_task(self._write_base(effect))
                case TellGone():
                    self._host.tell_gone(effect.shard, self._generation, effect.epoch)
                case HandOutEpoch():
                    self._host.hand_out(effect)
                case AskNodes():
                    self._host.ask_done(effect.shards, self._generation, effect.handed_out)
                case Answer():
                    self._post.send(effect.inbox, effect.message)
                case SettleMessages():
                    for token in effect.tokens:
                        self._post.settle(token)
                case WakeAfter():
                    self._tasks.create_task(self._wake(effect.seconds))
                case LoadAgain():
                    self._log.info("sequencer_loads_again", reason=effect.reason)
                    self._tasks.create_task(self._load_again())
                case Deposed():
                    self._log.warning("sequencer_deposed", reason=effect.reason)
                    self._tasks.create_task(self.stop())

    def _halt(self, reason: str, *, rewind: bool = False) -> None:
        """The log cannot be gone on with: the runner's reports say why, and a person has to act, unless a new
        generation helps."""
        self._log.error("log_damaged", reason=reason)
        self._damaged, self._rewind = reason, rewind

    async def _append(self, effect: Append) -> None:
        appending, began = self._sequencer, self._clock.monotonic()
        try:
            there, bases = await self._log_of_epochs.append(effect.record)
            await self._log_of_epochs.note_voids((there,))  # before there is a base of that generation
        except LogDamaged as damaged:
            self._halt(str(damaged))
            return
        if self._sequencer is not appending:
            return  # it was loaded again
        self._count_record(there, began)
        self._log.debug(
            "epoch_recorded", epoch=there.epoch, transactions=len(there.transactions), save=there.save
        )
        if there.begins is not None and there.incarnation == self.incarnation:
            self._log.info(
                "generation_opened",
                epoch=there.epoch,
                opened=there.generation,
                base=there.begins.epoch,
                map_version=there.map_version,
                nodes=len(self._host.shard_map.nodes),
            )
        self._handle(RecordThere(there, tuple(bases)))
        self._host.flush()

    async def _write_base(self, effect: WriteBase) -> None:
        writing = self._sequencer
        try:
            await self._log_of_epochs.write_base(effect.base)
        except LogDamaged as damaged:
            self._halt(str(damaged), rewind=True)
            return
        before, self._said = self._said, _totals(self._counts)
        epochs, transactions, size = (now - was for now, was in zip(self._said, before, strict=True))
        self._log.info(
            "base_written", epoch=effect.base.epoch, epochs=epochs, transactions=transactions, bytes=size
        )
        if self._sequencer is writing:
            newest = self._sequencer.epoch if self._sequencer is not None else 0
            self._unsaved.saved(effect.base.epoch, newest, self._clock.monotonic())
            self._handle(BaseThere(effect.base.epoch))
            self._host.flush()
            if writing is not None and writing.ends and writing.ends == effect.base.epoch:
                self._on_end()
            older, self._newest_base = self._newest_base, effect.base
            if self._options.collects and older is not None and older.epoch < effect.base.epoch:
                await self._collect(effect.base, older)

    async def _collect(self, newest: Base, older: Base) -> None:
        """Delete what these two do not reach. Only if nobody has written a record behind ours since they are there:
        who opens a generation after that begins at one of them, or at a later one. One at a time: the next base
        makes up for what is left out."""
        assert self._sequencer is not None
        if self._collecting.locked():
            return
        async with self._collecting:
            await self._collect_alone(newest, older)

    async def _collect_alone(self, newest: Base, older: Base) -> None:
        assert self._sequencer is not None
        try:
            behind = await self._log_of_epochs.read(self._sequencer.epoch + 1)
            if behind is not None and behind.incarnation != self.incarnation:
                return
            await self._log_of_epochs.collect(newest, older)
        except StoreError as failed:
            self._log.warning("not_collected", reason=str(failed))

    async def _wake(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._handle(Tick())
        self._host.flush()


def _check_client(system: str, message: Message) -> None:
    """Raises `MalformedMessage` if a client has a name that none can have, or wants answers sent to anybody else."""
    if isinstance(message, OpenSession | Transaction | SnapshotRequest | Subscribe | AwaitEpoch):
        check_inbox(system, CLIENT_REPLIES, message.reply_to)
    if isinstance(message, OpenSession):
        checked_name("client", message.client, MalformedMessage)


def _node_event(message: AskRows | Done | Saved | Begun | ReaderLost) -> SequencerEvent:
    match message:
        case AskRows():
            return RowsMissing(message.asker, message.epoch)
        case Done():
            return ShardFinished(message.shard, message.epoch)
        case Saved():
            return ShardSaved(message.shard, message.epoch, message.changed_bytes, message.state_bytes)
        case Begun():
            return ShardBegun(message.shard, message.epoch)
        case ReaderLost():
            return ReaderGone(message.inbox)


def _totals(counts: Counts) -> tuple[int, int, int]:
    """Epochs, transactions and bytes that were recorded here."""
    return counts.epochs, counts.transactions, counts.transaction_bytes
