"""The node runner: the process that hosts nodes and sequencers. A shell; what it hosts decides.

Commands come from the scheduler and are idempotent: `HostNode`, `HostSequencer`, `Placement`, `DropProgram`. What the
runner hosts it reports every second, and at once when it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from dist_zero.native import choice
from dist_zero_common.aside import Aside
from dist_zero_common.broker.base import Connect, ConnectionState, Queue
from dist_zero_common.broker.topology import runner_inbox, scheduler_inbox
from dist_zero_common.clock import Clock, wait_changed
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token, log_state
from dist_zero_common.protocol.dispatch import Handlers, Role, check_handlers, dispatch
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    Placement,
    PrepareNodes,
    RunnerReport,
)
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import (
    AskDone,
    AskRows,
    Begun,
    EmptyRows,
    HandOut,
    RowsGone,
    StageRows,
)
from dist_zero_common.protocol.messages.reading import AskChanges, Elsewhere, Get
from dist_zero_common.store.base import Store
from services.node_runner import wire
from services.node_runner.counts import Counts, Use
from services.node_runner.epoch_log import EpochLog
from services.node_runner.hosting import ProgramHost, compiled
from services.node_runner.keeping import Inherit, inheriting
from services.node_runner.loading import LoadedState, MakeExecutor, NodeKeeper, Prepare
from services.node_runner.preparing import Preparing
from services.node_runner.sequencer_events import SequencerOptions
from services.node_runner.sequencing import HostedSequencer

HEARTBEAT_SECONDS = 1.0
ROLES = (Role.RUNNER, Role.NODE)

NodeMessage = HandOut | StageRows | EmptyRows | Get | AskChanges | AskRows | AskDone | Begun | RowsGone


class RunnerService:
    """One incarnation of a runner. `prepare`: is waited for before an executor of a plan is made. `use`: what its
    process takes of the machine, where somebody measures that."""

    def __init__(
        self,
        *,
        system: str,
        runner: str,
        incarnation: int,
        machine: str,
        connect: Connect,
        store: Store,
        clock: Clock,
        log: Logger,
        make_executor: MakeExecutor = choice.make_executor,
        prepare: Prepare | None = None,
        options: SequencerOptions | None = None,
        use: Callable[[], Use] = Use,
    ) -> None:
        self._use = use
        self._counts: dict[str, Counts] = {}
        self._system, self._runner, self._incarnation, self._machine = system, runner, incarnation, machine
        self._store, self.clock = store, clock
        self._log = log.bind(system=system, machine=machine, runner=runner, runner_incarnation=incarnation)
        self._keeper = NodeKeeper(store, make_executor, clock, prepare=prepare)
        self._options = options or SequencerOptions()
        self.inbox = runner_inbox(system, runner, incarnation)
        self._programs: dict[str, ProgramHost] = {}
        self._sequencers: dict[str, HostedSequencer] = {}
        self._placements: dict[str, Placement] = {}
        self._preparing: dict[str, Preparing] = {}
        self._left: dict[str, dict[str, LoadedState]] = {}
        """By program and node: what nodes of the map before have left for those of the same names."""
        self._dropped: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        process = f"{runner}-{incarnation}"
        self.post = Mailbox(
            connect,
            system=system,
            sender=process,
            set_aside=Aside(store, process, self._log),
            on_unroutable=self._on_unroutable,
            after_batch=self._flush,
            on_state=log_state(self._log),
        )
        self._handlers: Handlers[None] = {
            HostNode: self._on_host_node,
            HostSequencer: self._on_host_sequencer,
            Placement: self._on_placement,
            DropProgram: self._on_drop_program,
            PrepareNodes: self._on_prepare_nodes,
            EndGeneration: self._on_end_generation,
            HandOut: self._on_node_message,
            StageRows: self._on_node_message,
            EmptyRows: self._on_node_message,
            Get: self._on_node_message,
            AskChanges: self._on_node_message,
            AskRows: self._on_node_message,
            AskDone: self._on_node_message,
            Begun: self._on_node_message,
            RowsGone: self._on_node_message,
        }
        check_handlers(ROLES, self._handlers)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self.post.run())
            await self.post.listen(Queue(self.inbox), self._on_message)
            self._log.info("runner_started", inbox=self.inbox)
            while True:
                self._report()
                for sequencer in list(self._sequencers.values()):
                    sequencer.look()
                for host in self._programs.values():
                    host.tell_again()
                    host.look(self.clock.monotonic())
                    host.flush()
                await wait_changed(self._changed, HEARTBEAT_SECONDS)

    @property
    def hosts(self) -> Mapping[str, ProgramHost]:
        """What is here of each program's nodes."""
        return self._programs

    @property
    def sequencers(self) -> Mapping[str, HostedSequencer]:
        """The sequencers that are here, by program; one that was stopped, too."""
        return self._sequencers

    @property
    def counts(self) -> Mapping[str, Counts]:
        """What has been done here for each program, also for those that are not here any more."""
        return self._counts

    def _report(self) -> None:
        if self.post.state is not ConnectionState.CONNECTED:
            return  # old news are of no use to anybody
        statuses = [sequencer.status() for sequencer in self._sequencers.values()]
        use = self._use()
        report = RunnerReport(
            runner=self._runner,
            incarnation=self._incarnation,
            machine=self._machine,
            inbox=self.inbox,
            nodes=tuple(status for host in self._programs.values() for status in host.statuses()),
            sequencers=tuple(status for status in statuses if status is not None),
            prepared=tuple(status for each in self._preparing.values() for status in each.statuses()),
            cpu_us=use.cpu_us,
            memory_used_bytes=use.memory_bytes,
        )
        self.post.send(scheduler_inbox(self._system), report)

    def _flush(self) -> None:
        for host in self._programs.values():
            host.flush()

    def _on_unroutable(self, inbox: str) -> None:
        self._log.info("inbox_gone", inbox=inbox)
        for host in self._programs.values():
            host.reader_gone(inbox)

    # -- messages ------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, token: Token) -> None:
        dispatch(ROLES, self._handlers, message, token)

    def _on_node_message(self, message: NodeMessage, token: Token) -> None:
        wire.check_readers(self._system, message)
        host = self._programs.get(message.program)
        if host is None:
            if isinstance(message, Get | AskChanges):
                self.post.send(message.reply_to, Elsewhere(message.program))
            self.post.counters["not_here"] += 1
            self.post.settle(token)
            return
        host.on_message(message, token)

    def _on_host_node(self, message: HostNode, token: Token) -> None:
        if self._was_dropped(message.program, message.incarnation):
            self.post.settle(token)
            return
        wire.check_hosting(self._system, message.program, message.shard_map, None)
        wire.check_shard(message.shard_map, message.shard)
        host = self._host_of(message)
        if host is not None and not host.has(message.shard, message.incarnation):
            inherit = self._inheritance(message)
            host.host(message.shard, message.generation, message.incarnation, inherit)
            self._locate(message.program)
            self._changed.set()
        self.post.settle(token)

    def _inheritance(self, message: HostNode) -> Inherit | None:
        """What is here for a node that is to begin: what was prepared, or left by one of its name."""
        preparing = self._preparing.get(message.program)
        prepared = preparing.take(message.shard_map, message.shard) if preparing is not None else None
        left = self._left.get(message.program, {}).pop(message.shard_map.nodes[message.shard], None)
        return prepared or inheriting(left)

    def _on_host_sequencer(self, message: HostSequencer, token: Token) -> None:
        if self._was_dropped(message.program, message.incarnation):
            self.post.settle(token)
            return
        wire.check_hosting(self._system, message.program, message.shard_map, message.inboxes)
        host = self._host_of(message)
        here = self._sequencers.get(message.program)
        if host is not None and (here is None or here.incarnation < message.incarnation):
            log = self._log.bind(
                program=message.program, incarnation=message.incarnation, generation=message.generation
            )
            sequencer = HostedSequencer(
                host,
                message.incarnation,
                message.generation,
                system=self._system,
                log_of_epochs=EpochLog(self._store, message.program, log),
                post=self.post,
                clock=self.clock,
                tasks=self._tasks,
                options=self._options,
                log=log,
                on_end=self._changed.set,
                on_failed=partial(self._on_sequencer_failed, message.program, message.incarnation),
                voids=message.voids,
            )
            self._sequencers[message.program] = sequencer
            host.locate(message.generation, message.inboxes, "")
            self._tasks.create_task(self._start_sequencer(here, sequencer))
        self.post.settle(token)

    async def _start_sequencer(self, older: HostedSequencer | None, sequencer: HostedSequencer) -> None:
        if older is not None:
            await older.stop()
        await sequencer.start()
        self._changed.set()

    def _on_sequencer_failed(self, program: str, incarnation: int) -> None:
        """Report none, so that the scheduler has one started again."""
        here = self._sequencers.get(program)
        if here is not None and here.incarnation == incarnation:
            del self._sequencers[program]
        self._changed.set()

    def _on_prepare_nodes(self, message: PrepareNodes, token: Token) -> None:
        if self._was_dropped(message.program, message.version):
            self.post.settle(token)
            return
        wire.check_hosting(self._system, message.program, message.shard_map, None)
        for shard in message.shards:
            wire.check_shard(message.shard_map, shard)
        if len(dict.fromkeys(message.shards)) != len(message.shards):
            raise MalformedMessage("a node that is to be prepared twice")
        here = self._preparing.get(message.program)
        if here is None or here.version < message.version + (not message.shards):
            plan = compiled(message.program, message.graph) if message.shards else None
            self._preparing.pop(message.program, None)
            if plan is not None:
                self._preparing[message.program] = Preparing(
                    message,
                    plan,
                    keeper=self._keeper,
                    tasks=self._tasks,
                    log=self._log,
                    on_ready=self._changed.set,
                    before=here,
                )
            if here is not None:
                here.end()
            self._changed.set()
        self.post.settle(token)

    def _on_end_generation(self, message: EndGeneration, token: Token) -> None:
        sequencer = self._sequencers.get(message.program)
        if sequencer is not None and sequencer.incarnation == message.incarnation:
            sequencer.end_generation()
        self.post.settle(token)

    def _on_placement(self, message: Placement, token: Token) -> None:
        if self._was_dropped(message.program, message.version):
            self.post.settle(token)
            return
        wire.check_hosting(self._system, message.program, message.shard_map, message.inboxes)
        incarnation = wire.sequencer_incarnation(self._system, message.program, message.nodes_inbox)
        host = self._programs.get(message.program)
        if host is not None and host.shard_map != message.shard_map:
            if host.generation == message.generation:
                raise MalformedMessage(
                    f"shard map {message.shard_map.version} of {message.program!r} is not that of its generation"
                )
            if host.generation < message.generation:  # nothing of that is here, else there were a host for it
                host.close()
                self._left.pop(message.program, None)
                del self._programs[message.program]
            host = None
        known = self._placements.get(message.program)
        if known is None or known.version < message.version:
            self._placements[message.program] = message
            self._locate(message.program)
        if known is None or known.version <= message.version:  # what started late hears it again
            if host is not None:
                host.drop_elsewhere(message, self.inbox)
                left = self._left.get(message.program, {})
                for name, inbox in zip(message.shard_map.nodes, message.inboxes, strict=True):
                    if inbox != self.inbox:
                        left.pop(name, None)
            self._stop_sequencer_before(message.program, incarnation)
        self.post.settle(token)

    def _stop_sequencer_before(self, program: str, incarnation: int) -> None:
        """There is a later sequencer elsewhere: ours, were it idle, would never find out, and go on answering. It is
        stopped, not forgotten, because no incarnation may live twice."""
        sequencer = self._sequencers.get(program)
        if sequencer is not None and sequencer.incarnation < incarnation and not sequencer.stopped:
            self._tasks.create_task(sequencer.stop())
            self._log.info("sequencer_replaced", program=program, incarnation=incarnation)

    def _on_drop_program(self, message: DropProgram, token: Token) -> None:
        self.post.settle(token)
        if message.incarnation <= self._dropped.get(message.program, 0):
            return
        self._dropped[message.program] = message.incarnation
        host, sequencer = self._programs.get(message.program), self._sequencers.get(message.program)
        if host is not None:
            host.drop(message.incarnation)
            if not host.nodes:
                del self._programs[message.program]
        if sequencer is not None and sequencer.incarnation <= message.incarnation:
            del self._sequencers[message.program]
            self._tasks.create_task(sequencer.stop())
        placement = self._placements.get(message.program)
        if placement is not None and placement.version <= message.incarnation:
            del self._placements[message.program]
        self._left.pop(message.program, None)
        preparing = self._preparing.get(message.program)
        if preparing is not None and preparing.version <= message.incarnation:
            preparing.end()
            del self._preparing[message.program]
        self._log.info("program_dropped", program=message.program, incarnation=message.incarnation)
        self._changed.set()

    def _was_dropped(self, program: str, incarnation: int) -> bool:
        return incarnation <= self._dropped.get(program, 0)

    def _host_of(self, message: HostNode | HostSequencer) -> ProgramHost | None:
        """The program's host that goes by the map of this message; a new one, if a later generation goes by another map
        than the one before. None for what is of an earlier one."""
        program, host = message.program, self._programs.get(message.program)
        if host is not None and host.shard_map != message.shard_map:
            if message.generation < host.generation:
                return None
            if message.generation == host.generation:
                raise MalformedMessage(
                    f"shard map {message.shard_map.version} of {program!r} is not that of its generation"
                )
            left = host.close(message.graph)
            if host.graph != message.graph:  # what another program has computed is of no use
                left = {}
            self._left[program] = {name: left[name] for name in message.shard_map.nodes if name in left}
            host = None
        if host is None:
            host = self._programs[program] = ProgramHost(
                program,
                message.graph,
                message.shard_map,
                message.generation,
                post=self.post,
                keeper=self._keeper,
                clock=self.clock,
                tasks=self._tasks,
                log=self._log.bind(program=program),
                counts=self._counts.setdefault(program, Counts()),
            )
        host.generation = max(host.generation, message.generation)
        return host

    def _locate(self, program: str) -> None:
        host, placement = self._programs.get(program), self._placements.get(program)
        if host is not None and placement is not None and placement.shard_map == host.shard_map:
            host.locate(placement.generation, placement.inboxes, placement.nodes_inbox)
