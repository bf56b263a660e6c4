"""All that one runner does for one program: its nodes, perhaps its sequencer, and the ways between them.

Events for kernels are worked off in order of arrival from one queue, so that what a kernel sends to another one on the
same runner is handed over as objects, neither encoded nor recursive. What leaves the runner is collected until all that
had come in is handled: empty `Rows` become bits, and of several `Done` the last one says it all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.expr.graph import decode_graph
from dist_zero_common.errors import MalformedMessage, UserError
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import NO_TOKEN, Mailbox, Token
from dist_zero_common.protocol.messages import (
    AskChanges,
    AskDone,
    AskRows,
    Done,
    EmptyRows,
    Get,
    HandOut,
    Message,
    NodeStatus,
    ShardMap,
    StageRows,
)
from services.node_runner import wire
from services.node_runner.kernel import NodeKernel
from services.node_runner.kernel_events import (
    AskChangesEvent,
    AskForRows,
    AskRowsEvent,
    Finished,
    GetEvent,
    Halted,
    HandOutEvent,
    Look,
    NodeEffect,
    NodeEvent,
    ReaderGone,
    Reply,
    RowsEvent,
    SendRows,
    Settle,
)
from services.node_runner.sequencer_events import HandOutEpoch

MakeExecutor = Callable[[Plan], Executor]
"""Makes the executor of a node."""


@dataclass(slots=True)
class HostedNode:
    """A node on this runner."""

    kernel: NodeKernel
    generation: int
    incarnation: int


class ProgramHost:
    """One program's part of a runner."""

    def __init__(
        self,
        program: str,
        graph: bytes,
        shard_map: ShardMap,
        *,
        post: Mailbox,
        make_executor: MakeExecutor,
        log: Logger,
    ) -> None:
        """Compiles the program. Raises `MalformedMessage` if the graph is no program."""
        self.program, self.plan, self.shard_map = program, _compiled(program, graph), shard_map
        self.nodes: dict[int, HostedNode] = {}
        self.inboxes: tuple[str, ...] = ()
        self.located_generation = -1
        """The generation of which `inboxes` are: nodes of a later one wait with what they send, and nobody waits for
        what nodes of an earlier one send."""
        self.nodes_inbox = ""
        self.counters: Counter[str] = Counter()
        self.on_finished: Callable[[int, int, int], None] | None = None
        """What the sequencer on this runner, if there is one, wants to be called with: shard, generation, epoch."""
        self.own_nodes_inbox = ""
        """Where it listens to nodes elsewhere."""
        self._post, self._make_executor, self._log = post, make_executor, log
        self._work: deque[tuple[int, NodeEvent]] = deque()
        self._working = False
        self._empties: dict[tuple[str, int, int, int], list[tuple[int, int]]] = {}
        self._done: dict[int, int] = {}
        self._untold = False
        self._handed_out = (0, 0)
        """A generation, and what the sequencer says that it has handed out of it."""
        self._held: list[tuple[int, int, NodeEffect]] = []

    # -- hosting -----------------------------------------------------------------------------------------------

    def host(self, shard: int, generation: int, incarnation: int) -> bool:
        """Start a node unless this incarnation of it, or a later one, is here; returns whether one was started."""
        wire.check_shard(self.shard_map, shard)
        here = self.nodes.get(shard)
        if here is not None and here.incarnation >= incarnation:
            return False
        if here is not None:
            self._abandon(here)
        kernel = NodeKernel(self.plan, self._make_executor(self.plan), self.shard_map, shard)
        self.nodes[shard] = HostedNode(kernel, generation, incarnation)
        self._done.pop(shard, None)  # what the one before it has finished, this one has not
        self._log_of(shard).info("node_started")
        return True

    def _log_of(self, shard: int) -> Logger:
        node = self.nodes[shard]
        return self._log.bind(
            node=self.shard_map.nodes[shard], incarnation=node.incarnation, generation=node.generation
        )

    def drop(self, incarnation: int) -> None:
        """Stop the nodes up to this incarnation."""
        for node in self.nodes.values():
            if node.incarnation <= incarnation:
                self._abandon(node)
        self.nodes = {shard: node for shard, node in self.nodes.items() if node.incarnation > incarnation}
        self._work = deque((shard, event) for shard, event in self._work if shard in self.nodes)

    def _abandon(self, node: HostedNode) -> None:
        for token in node.kernel.abandon():
            self._post.settle(token)

    def locate(self, generation: int, inboxes: tuple[str, ...], nodes_inbox: str) -> None:
        """Learn where the parts of a generation listen, one inbox per shard, and send what waited for that. No
        `nodes_inbox`: the sequencer is to be told where it was."""
        if generation < self.located_generation:
            return
        self.located_generation, self.inboxes = generation, inboxes
        if nodes_inbox and nodes_inbox != self.nodes_inbox:
            self.nodes_inbox = nodes_inbox
            self.tell_finished()
        held, self._held = self._held, []
        for shard, generation, effect in held:
            self._perform(shard, generation, effect)

    def check_same_map(self, shard_map: ShardMap) -> None:
        """Raises `MalformedMessage` unless this is the map by which the program runs here."""
        if shard_map != self.shard_map:
            raise MalformedMessage(
                f"shard map {shard_map.version} of {self.program!r} is not the one that runs here"
            )

    def statuses(self) -> list[NodeStatus]:
        """What the runner reports of this program's nodes."""
        return [
            NodeStatus(
                program=self.program,
                generation=node.generation,
                map_version=self.shard_map.version,
                shard=shard,
                incarnation=node.incarnation,
                finished_epoch=node.kernel.finished,
                halted=node.kernel.halted,
            )
            for shard, node in sorted(self.nodes.items())
        ]

    # -- in ----------------------------------------------------------------------------------------------------

    def on_message(self, message: Message, token: Token) -> None:
        """A message for nodes of this program. Those for nodes that are not here are dropped."""
        match message:
            case HandOut():
                events = wire.hand_out_events(self.plan, self.shard_map, message)
                self._enqueue_rows(events, message, token)
            case StageRows():
                event = wire.rows_event(self.plan, self.shard_map, message)
                self._enqueue_rows([(message.target, event)], message, token)
            case EmptyRows():
                events = wire.empty_events(self.plan, self.shard_map, message)
                self._enqueue_rows(events, message, token)
            case Get():
                wire.check_map(self.shard_map, message.map_version)
                self._ask(message.shard, wire.get_event(self.plan, message, token), token)
            case AskRows():
                wire.check_map(self.shard_map, message.map_version)
                wire.check_shard(self.shard_map, message.asker)
                wire.check_shard(self.shard_map, message.sender)
                if self._is_here(message.sender, message.generation):
                    event_of = AskRowsEvent(message.epoch, message.stage, message.asker)
                    self._work.append((message.sender, event_of))
                self._post.settle(token)
            case AskDone():
                wire.check_map(self.shard_map, message.map_version)
                self._on_ask_done(message)
                self._post.settle(token)
            case AskChanges():
                wire.check_map(self.shard_map, message.map_version)
                self._ask(message.shard, wire.ask_changes_event(message, token), token)
            case _:
                raise MalformedMessage(f"{type(message).__name__} is not for a node")
        self.work()

    def hand_out(self, effect: HandOutEpoch) -> None:
        """An epoch from the sequencer on this runner: nodes here get objects, the others a message per runner."""
        record = effect.record
        elsewhere: dict[str, list[int]] = {}
        for target in effect.targets:
            if not self._is_here(target, effect.generation):
                elsewhere.setdefault(self.inboxes[target], []).append(target)
                continue
            event = HandOutEvent(
                epoch=record.epoch,
                save=record.save,
                writes=effect.writes[target],
                snapshots=record.snapshots,
                subscriptions=record.subscriptions,
                unsubscriptions=record.unsubscriptions,
                again=effect.again,
                finished=effect.finished,
                token=NO_TOKEN,
            )
            self._work.append((target, event))
        for inbox, targets in elsewhere.items():
            self._post.send(inbox, wire.hand_out_message(self.program, effect, tuple(targets)))
        self.work()

    def ask_done(self, shards: tuple[int, ...], generation: int, handed_out: int) -> None:
        """Ask nodes elsewhere how far they are, and see whether those here wait for anything."""
        inboxes = dict.fromkeys(
            self.inboxes[shard] for shard in shards if not self._is_here(shard, generation)
        )
        ask = AskDone(self.program, generation, self.shard_map.version, handed_out)
        for inbox in inboxes:
            self._post.send(inbox, ask)
        self._on_ask_done(ask)
        self.work()

    def _on_ask_done(self, ask: AskDone) -> None:
        self._handed_out = ask.generation, ask.handed_out
        for shard, node in self.nodes.items():
            if node.generation == ask.generation and node.kernel.finished:
                self._tell_finished(shard, node.kernel.finished)

    def look(self, now: float) -> None:
        """Let the nodes here ask for what is overdue. `now` is in seconds."""
        for shard, node in self.nodes.items():
            generation, handed_out = self._handed_out
            self._work.append((shard, Look(now, handed_out if generation == node.generation else 0)))
        self.work()

    def tell_finished(self) -> None:
        """Tell whichever sequencer there is now how far the nodes are: it may have come later than they."""
        for shard, node in self.nodes.items():
            if node.kernel.finished:
                self._tell_finished(shard, node.kernel.finished)

    def tell_again(self) -> None:
        """Try again to tell a sequencer that did not listen when it was told last."""
        if self._untold:
            self._untold = False
            self.tell_finished()
            self.flush()

    def _tell_finished(self, shard: int, epoch: int) -> None:
        if self.on_finished is not None:
            self.on_finished(shard, self.nodes[shard].generation, epoch)
        if self.on_finished is None or self.nodes_inbox not in ("", self.own_nodes_inbox):
            self._done[shard] = epoch  # the sequencer here may be deposed and not know it yet

    def reader_gone(self, inbox: str) -> None:
        """An inbox does not exist: of a client that is gone, or of a sequencer that is not there yet."""
        if inbox == self.nodes_inbox:
            self._untold = True
            return
        for shard in self.nodes:
            self._work.append((shard, ReaderGone(inbox)))
        self.work()

    def work(self) -> None:
        """Let the kernels handle all that waits for them."""
        if self._working:
            return
        self._working = True
        try:
            while self._work:
                shard, event = self._work.popleft()
                node = self.nodes[shard]
                for effect in node.kernel.handle(event):
                    self._perform(shard, node.generation, effect)
        finally:
            self._working = False

    def _is_here(self, shard: int, generation: int) -> bool:
        node = self.nodes.get(shard)
        return node is not None and node.generation == generation

    def _enqueue_rows(
        self,
        events: list[tuple[int, wire.Untokened]],
        message: HandOut | StageRows | EmptyRows,
        token: Token,
    ) -> None:
        """Rows for nodes: of those that are here, each gets its share of the token; the others drop theirs."""
        here = [(shard, event) for shard, event in events if self._is_here(shard, message.generation)]
        self.counters["not_here"] += len(events) - len(here)
        for shard, _ in here:
            wire.check_epoch(self.nodes[shard].kernel.finished, message.epoch)
        for (shard, event), its in zip(here, self._post.share(token, len(here)), strict=True):
            self._work.append((shard, event(its)))

    def _ask(self, shard: int, event: GetEvent | AskChangesEvent, token: Token) -> None:
        """A reader's question to one node."""
        wire.check_shard(self.shard_map, shard)
        node = self.nodes.get(shard)
        if node is not None:
            if isinstance(event, GetEvent):
                wire.check_at_least(node.kernel.finished, event.at_least)
            self._work.append((shard, event))
        else:
            self.counters["not_here"] += 1
            self._post.settle(token)

    # -- out ---------------------------------------------------------------------------------------------------

    def _perform(self, shard: int, generation: int, effect: NodeEffect) -> None:
        match effect:
            case SendRows() if self._is_here(effect.target, generation):
                event = RowsEvent(effect.epoch, effect.stage, shard, 0, 1, effect.batches, NO_TOKEN)
                self._work.append((effect.target, event))
            case SendRows() if generation < self.located_generation:
                self.counters["too_late"] += 1
            case SendRows() if generation > self.located_generation:
                self._held.append((shard, generation, effect))
            case SendRows():
                self._send_rows(shard, generation, effect)
            case AskForRows():
                self._ask_for_rows(shard, generation, effect)
            case Finished():
                self._tell_finished(shard, effect.epoch)
            case Reply():
                self._post.send(effect.inbox, effect.message)
            case Settle():
                for token in effect.tokens:
                    self._post.settle(token)
            case Halted():
                self.counters["halted"] += 1
                epoch = self.nodes[shard].kernel.finished
                self._log_of(shard).error("node_halted", epoch=epoch, reason=effect.reason)

    def _ask_for_rows(self, shard: int, generation: int, effect: AskForRows) -> None:
        ask = AskRows(
            self.program,
            generation,
            self.shard_map.version,
            effect.epoch,
            effect.stage,
            effect.sender,
            shard,
        )
        self.counters["asked_again"] += 1
        if generation != self.located_generation:
            return
        if effect.stage == 1:
            if self.nodes_inbox:
                self._post.send(self.nodes_inbox, ask)
        elif self._is_here(effect.sender, generation):
            self._work.append((effect.sender, AskRowsEvent(effect.epoch, effect.stage, shard)))
        else:
            self._post.send(self.inboxes[effect.sender], ask)

    def _send_rows(self, shard: int, generation: int, effect: SendRows) -> None:
        inbox = self.inboxes[effect.target]
        if effect.batches:
            for message in wire.stage_rows(self.program, generation, self.shard_map, shard, effect):
                self._post.send(inbox, message)
        else:
            key = (inbox, generation, effect.epoch, effect.stage)
            self._empties.setdefault(key, []).append((shard, effect.target))

    def flush(self) -> None:
        """Send what was collected while messages were handled."""
        for (inbox, generation, epoch, stage), pairs in self._empties.items():
            message = wire.empty_rows(self.program, generation, self.shard_map, epoch, stage, pairs)
            self._post.send(inbox, message)
        self._empties.clear()
        if self.nodes_inbox:
            for shard, epoch in self._done.items():
                if shard not in self.nodes:
                    continue
                generation = self.nodes[shard].generation
                done = Done(self.program, generation, self.shard_map.version, shard, epoch)
                self._post.send(self.nodes_inbox, done)
            self._done.clear()


def _compiled(program: str, graph: bytes) -> Plan:
    """The plan of a graph that somebody sent. Raises `MalformedMessage` if it is no program, or not this one."""
    try:
        plan = compile(decode_graph(graph))
    except (UserError, RecursionError) as wrong:
        raise MalformedMessage(f"the graph of {program!r} is no program that can run: {wrong}") from wrong
    if plan.name != program:
        raise MalformedMessage(f"the graph of the program {plan.name!r} came as that of {program!r}")
    return plan
