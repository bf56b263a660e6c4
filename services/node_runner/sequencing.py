"""The shell of a sequencer: its two inboxes, the store, the timers. It decides nothing.

Nodes answer to an inbox of their own, which is always drained: if their answers stood behind clients' transactions that
wait for room, no room would ever come.
"""

from __future__ import annotations

import asyncio

from dist_zero_common.broker.base import Queue
from dist_zero_common.broker.topology import (
    CLIENT_REPLIES,
    check_inbox,
    sequencer_clients_inbox,
    sequencer_nodes_inbox,
)
from dist_zero_common.clock import Clock
from dist_zero_common.errors import LogDamaged, MalformedMessage
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages import (
    AskRows,
    AwaitEpoch,
    Done,
    Message,
    OpenSession,
    SequencerStatus,
    SnapshotRequest,
    Subscribe,
    Transaction,
)
from services.node_runner import wire
from services.node_runner.epoch_log import EpochLog
from services.node_runner.hosting import ProgramHost
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import (
    Answer,
    Append,
    AskNodes,
    Deposed,
    FromClient,
    HandOutEpoch,
    Look,
    Now,
    RecordThere,
    RowsMissing,
    SequencerEffect,
    SequencerEvent,
    SequencerOptions,
    SettleMessages,
    ShardFinished,
    Tick,
    WakeAfter,
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
    ) -> None:
        self.incarnation = incarnation
        self._system = system
        self.nodes_inbox = sequencer_nodes_inbox(system, host.program, incarnation)
        self.clients_inbox = sequencer_clients_inbox(system, host.program)
        self._host, self._log_of_epochs, self._post = host, log_of_epochs, post
        self._clock, self._tasks, self._options, self._log = clock, tasks, options, log
        self._sequencer: Sequencer | None = None
        self._generation = generation
        self._damaged = ""
        self.stopped = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Load the log, write the fence, then listen; a damaged log halts the program. Raises `StoreError` if the
        store does not answer."""
        async with self._starting:
            if not self.stopped:
                await self._start()

    async def _start(self) -> None:
        try:
            base, records = await self._log_of_epochs.load()
        except LogDamaged as damaged:
            self._halt(damaged)
            return
        self._sequencer = Sequencer(
            plan=self._host.plan,
            shard_map=base.shard_map,
            incarnation=self.incarnation,
            generation=self._generation,
            base_epoch=base.epoch,
            records=records,
            options=self._options,
        )
        await self._post.listen(
            Queue(self.nodes_inbox), self._on_node_message
        )  # before anything can be finished
        self._host.on_finished, self._host.own_nodes_inbox = self._on_local_finished, self.nodes_inbox
        self._log.info("sequencer_started", epoch=self._sequencer.epoch, records=len(records))
        self._perform(self._sequencer.start(self._now()))
        self._host.tell_finished()
        await self._post.listen(Queue(self.clients_inbox), self._on_client_message)

    async def stop(self) -> None:
        """Stop listening; what is not recorded stays in the clients' inbox for whoever comes next."""
        self.stopped = True
        async with self._starting:
            if self._host.on_finished == self._on_local_finished:
                self._host.on_finished = None
                self._host.tell_finished()
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
            halted=self._damaged or (self._sequencer.deposed if self._sequencer is not None else ""),
        )

    def _handle(self, event: SequencerEvent) -> None:
        if self.stopped:
            return
        assert self._sequencer is not None
        self._perform(self._sequencer.handle(event, self._now()))

    def _now(self) -> Now:
        return Now(self._clock.now_us(), self._clock.monotonic())

    def _on_client_message(self, message: Message, token: Token) -> None:
        _check_client(self._system, message)
        self._handle(FromClient(message, token))

    def _on_node_message(self, message: Message, token: Token) -> None:
        if isinstance(message, AskRows):
            self._on_ask_rows(message, token)
            return
        if not isinstance(message, Done):
            raise MalformedMessage(f"{type(message).__name__} is not for the nodes' inbox of a sequencer")
        if message.program != self._host.program:
            raise MalformedMessage(f"epochs of {message.program!r} are not told to {self._host.program!r}")
        wire.check_map(self._host.shard_map, message.map_version)
        wire.check_shard(self._host.shard_map, message.shard)
        assert self._sequencer is not None
        if self._sequencer.fenced and message.epoch > self._sequencer.epoch:
            raise MalformedMessage(
                f"shard {message.shard} finished epoch {message.epoch}, which does not exist yet"
            )
        if message.generation == self._generation:
            self._handle(ShardFinished(message.shard, message.epoch))
        self._post.settle(token)

    def _on_ask_rows(self, message: AskRows, token: Token) -> None:
        wire.check_map(self._host.shard_map, message.map_version)
        wire.check_shard(self._host.shard_map, message.asker)
        if message.program != self._host.program or message.stage != 1:
            raise MalformedMessage(
                f"stage {message.stage} of {message.program!r} is not asked of a sequencer here"
            )
        if message.generation == self._generation:
            self._handle(RowsMissing(message.asker, message.epoch))
            self._host.flush()
        self._post.settle(token)

    def look(self) -> None:
        """Ask for what is overdue."""
        if self._sequencer is not None and not self.stopped:
            self._handle(Look())

    def _on_local_finished(self, shard: int, generation: int, epoch: int) -> None:
        if generation == self._generation:
            self._handle(ShardFinished(shard, epoch))

    def _perform(self, effects: list[SequencerEffect]) -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._tasks.create_task(self._append(effect))
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
                case Deposed():
                    self._log.warning("sequencer_deposed", reason=effect.reason)
                    self._tasks.create_task(self.stop())

    def _halt(self, damaged: LogDamaged) -> None:
        """The log cannot be gone on with: the runner's reports say why, and a person has to act."""
        self._log.error("log_damaged", reason=str(damaged))
        self._damaged = str(damaged)

    async def _append(self, effect: Append) -> None:
        try:
            there, newest_base = await self._log_of_epochs.append(effect.record)
        except LogDamaged as damaged:
            self._halt(damaged)
            return
        self._log.debug(
            "epoch_recorded", epoch=there.epoch, transactions=len(there.transactions), save=there.save
        )
        self._handle(RecordThere(there, newest_base))
        self._host.flush()

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
