"""All that one runner does for one program: its nodes as they come and go, and the ways between them and the rest.

`nodes_here.py` has the nodes that are here and the events that wait for them; `receiving.py` makes events of messages,
`performing.py` does what follows from them. Here is the life of a node: it begins, perhaps with what one before it
left, tells everybody, saves, begins again where it has fallen behind, and ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.expr.graph import decode_graph
from dist_zero_common.broker.topology import CLIENT_REPLIES, parsed
from dist_zero_common.clock import Clock
from dist_zero_common.errors import MalformedMessage, UserError
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import NO_TOKEN, Mailbox, Token
from dist_zero_common.protocol.messages.control import NodeStatus, Placement
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import (
    AskDone,
    Begun,
)
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.reading import Elsewhere
from services.node_runner import wire
from services.node_runner.counts import Counts
from services.node_runner.hosted import HostedNode, is_far_ahead, token_of
from services.node_runner.keeping import Beginning, Inherit, NodeKeeping, SavedState, inheriting
from services.node_runner.kernel import NodeKernel
from services.node_runner.kernel_events import (
    HandOutEvent,
    Look,
    PeerBegun,
    ReaderGone,
)
from services.node_runner.loading import LoadedState, NodeKeeper
from services.node_runner.nodes_here import NodesHere
from services.node_runner.peers import Peers
from services.node_runner.performing import Performing
from services.node_runner.receiving import Receiving
from services.node_runner.sequencer_events import HandOutEpoch
from services.node_runner.telling import Telling

BEGUN_SECONDS = 3.0
"""After so long, who has begun has asked for what he did not get."""


class ProgramHost:
    """One program's part of a runner."""

    def __init__(
        self,
        program: str,
        graph: bytes,
        shard_map: ShardMap,
        generation: int,
        *,
        post: Mailbox,
        keeper: NodeKeeper,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        log: Logger,
        counts: Counts | None = None,
    ) -> None:
        """Compiles the program. `counts`: where it is counted what is done here. Raises `MalformedMessage` if the graph
        is no program."""
        self.program, self.plan, self.shard_map = program, compiled(program, graph), shard_map
        self.graph = graph
        self.generation = generation
        """The newest generation that was to run here; a later one by another map has a host of its own."""
        self.counts = counts or Counts()
        self.telling = Telling(program, shard_map.version, post)
        self._here = NodesHere(shard_map, post, clock, log)
        self._peers = Peers(program, shard_map, post, self._here.counters, self._here.has)
        self._receiving = Receiving(self.plan, shard_map, self._here, post)
        self._performing = Performing(
            program,
            shard_map,
            self._here,
            self._peers,
            self.telling,
            post=post,
            keeper=keeper,
            tasks=tasks,
            begin_again=self._begin_again,
            counts=self.counts,
        )
        self._post, self._keeper, self._tasks, self._log = post, keeper, tasks, log
        self._handed_out = (0, 0)
        """A generation, and what the sequencer says that it has handed out of it."""
        self._begun_lately: dict[int, tuple[float, Begun]] = {}
        """By shard, who said that he has begun, and when."""
        self._looked_at = 0.0

    @property
    def nodes(self) -> Mapping[int, HostedNode]:
        """The nodes that are here, by shard."""
        return self._here.by_shard

    # -- hosting -----------------------------------------------------------------------------------------------

    def has(self, shard: int, incarnation: int) -> bool:
        """Whether this incarnation of a node, or a later one, is here."""
        here = self._here.by_shard.get(shard)
        return here is not None and here.incarnation >= incarnation

    def host(self, shard: int, generation: int, incarnation: int, inherit: Inherit | None = None) -> bool:
        """Start a node unless this incarnation of it, or a later one, is here; returns whether one was started.
        `inherit`: what was prepared for it; else it goes on with what the one before it leaves here, if that can be."""
        wire.check_shard(self.shard_map, shard)
        if self.has(shard, incarnation):
            return False
        here = self._here.by_shard.get(shard)
        if here is not None:
            inherit = inherit or (inheriting(here.left()) if here.generation < generation else None)
            self._here.abandon(here)
        self._begin(shard, generation, incarnation, inherit=inherit)
        self._here.log_of(shard).info("node_started")
        return True

    def _begin(
        self,
        shard: int,
        generation: int,
        incarnation: int,
        behind: int = -1,
        inherit: Inherit | None = None,
    ) -> None:
        """Let a node load what it begins with, and save what it becomes."""
        self.telling.forget(shard)
        log = self._log.bind(node=self.shard_map.nodes[shard], incarnation=incarnation, generation=generation)
        keeping = NodeKeeping(
            self._keeper,
            self.plan,
            self.shard_map,
            shard,
            generation,
            log=log,
            on_begun=lambda beginning: self._on_begun(shard, node, beginning),
            on_saved=lambda saved: self._on_saved(shard, node, saved),
            on_failed=lambda reason, rewind: self._on_failed(shard, node, reason, rewind),
            behind=behind,
            incarnation=incarnation,
            inherit=inherit,
        )
        task = self._tasks.create_task(keeping.run(), name=f"keeping {self.program} {shard} {incarnation}")
        node = self._here.by_shard[shard] = HostedNode(generation, incarnation, keeping, task)

    def _on_begun(self, shard: int, node: HostedNode, beginning: Beginning) -> None:
        """A node has its state: it takes what came meanwhile, and asks everybody for what is behind it."""
        if not self._here.is_still(shard, node):
            return
        node.kernel = NodeKernel(
            self.plan,
            beginning.executor,
            self.shard_map,
            shard,
            beginning.epoch,
            beginning.subscriptions,
            beginning.goes_on,
            beginning.trial,
        )
        node.kernel.changed = self.counts.changed
        node.through_at = beginning.trial.until
        node.begun_at = beginning.epoch
        self.counts.begun[beginning.how] += 1
        self._here.log_of(shard).info(
            "node_begun",
            epoch=beginning.epoch,
            entries=beginning.entries,
            read=beginning.read,
            how=beginning.how,
        )
        for event in node.take_early():
            if is_far_ahead(event, node.begun_at):
                self._post.settle(token_of(event))
            else:
                self._here.add(shard, event)
        self._tell_begun(shard, node)
        self.work()
        self.flush()

    def _tell_begun(self, shard: int, node: HostedNode) -> None:
        if node.generation != self._peers.generation:
            return  # told when it is known where the others are
        begun = Begun(self.program, node.generation, self.shard_map.version, shard, node.begun_at)
        self._peers.tell_begun(begun)
        self._on_peer_begun(begun)
        self.telling.begun(begun)

    def _on_peer_begun(self, begun: Begun) -> None:
        for shard in self._here.by_shard:
            if shard != begun.shard and self._here.has(shard, begun.generation):
                self._here.add(shard, PeerBegun(begun.shard, begun.epoch))

    def _on_saved(self, shard: int, node: HostedNode, saved: SavedState) -> None:
        if self._here.is_still(shard, node):
            node.saved = saved
            node.unsaved.saved(saved.epoch, node.finished, self._here.clock.monotonic())
            self.counts.checkpoint_bytes += saved.changed_bytes + saved.state_bytes
            self.counts.checkpoint_seconds.observe(saved.seconds)
            if node.generation == self._peers.generation:  # else told when it is known where the sequencer is
                self.telling.saved(shard, node)

    def _on_failed(self, shard: int, node: HostedNode, reason: str, rewind: bool) -> None:
        """A node's state cannot be read or written: it stands still."""
        if self._here.is_still(shard, node):
            self._here.counters["halted"] += 1
            node.failed, node.rewind = reason, rewind
            if node.kernel is not None:
                node.kernel.halted = reason
            self._here.log_of(shard).error("node_halted", epoch=node.finished, reason=reason)

    def _begin_again(self, shard: int, node: HostedNode, reason: str) -> None:
        self._here.counters["begun_again"] += 1
        self.counts.begun_again += 1
        self._here.log_of(shard).warning("node_begins_again", epoch=node.finished, reason=reason)
        self._here.abandon(node)
        self._begin(shard, node.generation, node.incarnation, behind=node.begun_at)

    def drop(self, incarnation: int) -> None:
        """Stop the nodes up to this incarnation."""
        for node in self._here.by_shard.values():
            if node.incarnation <= incarnation:
                self._here.abandon(node)
        self._here.by_shard = {
            shard: node for shard, node in self._here.by_shard.items() if node.incarnation > incarnation
        }

    def locate(self, generation: int, inboxes: tuple[str, ...], nodes_inbox: str) -> None:
        """Learn where the parts of a generation listen, one inbox per shard, and send what waited for that. No
        `nodes_inbox`: the sequencer is to be told where it was."""
        before, known = self._peers.generation, self._peers.inboxes
        if generation < before:
            return
        self._peers.locate(generation, inboxes)
        if nodes_inbox and nodes_inbox != self.telling.nodes_inbox:
            self.telling.nodes_inbox = nodes_inbox
            self.tell_progress()
        for shard, node in self._here.by_shard.items():
            if node.generation == generation and node.kernel is not None and generation != before:
                self._tell_begun(shard, node)
        for shard, of_generation, effect in self._peers.take_held():
            self._performing.deliver_rows(shard, of_generation, effect)
        if generation == before:
            self._send_again_to(shard for shard, inbox in enumerate(inboxes) if inbox != known[shard])

    def has_begun(self, begun: Begun) -> None:
        """A node elsewhere says that it has begun, to nodes here or to the sequencer here."""
        self._begun_lately[begun.shard] = self._looked_at, begun

    def _send_again_to(self, moved: Iterable[int]) -> None:
        """Whoever said that he has begun before we knew where was sent what he needs to where his predecessor was."""
        for shard in moved:
            at, begun = self._begun_lately.pop(shard, (0.0, None))
            if (
                begun is None
                or self._looked_at - at > BEGUN_SECONDS
                or begun.generation != self._peers.generation
            ):
                continue
            self._on_peer_begun(begun)
            if self.telling.sequencer is not None:
                self.telling.sequencer.on_begun(begun.shard, begun.generation, begun.epoch)
        self.work()

    def drop_elsewhere(self, placement: Placement, own_inbox: str) -> None:
        """Stop the nodes here that by this placement are elsewhere."""
        for shard, node in list(self._here.by_shard.items()):
            if node.incarnation < placement.version and placement.inboxes[shard] != own_inbox:
                self._here.abandon(node)
                del self._here.by_shard[shard]
                self._log.info("node_moved", node=self.shard_map.nodes[shard], inbox=placement.inboxes[shard])

    def close(self, graph: bytes | None = None) -> dict[str, LoadedState]:
        """Stop all nodes: the program runs here by another map from now on, and if it is another one, this is its
        `graph`. Returns what they leave, by name. Readers who would wait in vain hear of it."""
        ends = graph is not None and graph != self.graph  # else subscriptions go on
        readers = [inbox for node in self._here.by_shard.values() for inbox in node.readers(watching=ends)]
        for inbox in dict.fromkeys(readers):
            self._post.send(inbox, Elsewhere(self.program))
        left = {self.shard_map.nodes[shard]: node.left() for shard, node in self._here.by_shard.items()}
        for node in self._here.by_shard.values():
            self._here.abandon(node)
        self._here.by_shard.clear()
        return {name: state for name, state in left.items() if state is not None}

    def statuses(self) -> list[NodeStatus]:
        """What the runner reports of this program's nodes."""
        now = self._here.clock.monotonic()
        return [
            NodeStatus(
                program=self.program,
                generation=node.generation,
                map_version=self.shard_map.version,
                shard=shard,
                incarnation=node.incarnation,
                finished_epoch=node.finished,
                halted=node.halted,
                rewind=node.rewind,
                stage=node.kernel.position()[0] if node.kernel is not None else 0,
                waits_for=node.kernel.position()[1] if node.kernel is not None else (),
                saving=node.keeping.saving,
                rows=node.kernel.rows if node.kernel is not None else 0,
                busy_us=int(1_000_000 * node.busy_seconds),
                reads=node.kernel.reads if node.kernel is not None else 0,
                state_bytes=node.keeping.state_bytes,
                unsaved_ms=int(1000 * node.unsaved.seconds(now)),
            )
            for shard, node in sorted(self._here.by_shard.items())
        ]

    # -- in ----------------------------------------------------------------------------------------------------

    def on_message(self, message: Message, token: Token) -> None:
        """A message for nodes of this program. Those for nodes that are not here are dropped, as are those of another
        generation, which may go by another map."""
        if self._receiving.is_of_another_map(message, self.generation):
            self._receiving.drop_of_another_map(message, token)
            return
        match message:
            case Begun():
                wire.check_map(self.shard_map, message.map_version)
                wire.check_shard(self.shard_map, message.shard)
                self.has_begun(message)
                self._on_peer_begun(message)
                self._post.settle(token)
            case AskDone():
                wire.check_map(self.shard_map, message.map_version)
                self._on_ask_done(message)
                self._post.settle(token)
            case _:
                self._receiving.take(message, token)
        self.work()

    def hand_out(self, effect: HandOutEpoch) -> None:
        """An epoch from the sequencer on this runner: nodes here get objects, the others a message per runner."""
        record = effect.record
        here = [target for target in effect.targets if self._here.has(target, effect.generation)]
        for target in here:
            event = HandOutEvent(
                epoch=record.epoch,
                save=record.save,
                everything=record.everything,
                writes=effect.writes[target],
                snapshots=record.snapshots,
                subscriptions=record.subscriptions,
                unsubscriptions=record.unsubscriptions,
                again=effect.again,
                base=effect.base,
                token=NO_TOKEN,
                forgets=effect.forgets,
                fill=effect.fill,
            )
            self._here.add(target, event)
        self._peers.hand_out(effect, [target for target in effect.targets if target not in here])
        self.work()

    def ask_done(self, shards: tuple[int, ...], generation: int, handed_out: int) -> None:
        """Ask nodes elsewhere how far they are, and see whether those here wait for anything."""
        ask = AskDone(self.program, generation, self.shard_map.version, handed_out)
        self._peers.ask_done(ask, shards)
        self._on_ask_done(ask)
        self.work()

    def _on_ask_done(self, ask: AskDone) -> None:
        self._handed_out = ask.generation, ask.handed_out
        for shard, node in self._here.by_shard.items():
            if node.generation == ask.generation and node.kernel is not None:
                self.telling.finished(shard, node, node.finished)
                self.telling.saved(shard, node)

    def look(self, now: float) -> None:
        """Let the nodes here ask for what is overdue. `now` is in seconds."""
        self._looked_at = now
        for shard, node in self._here.by_shard.items():
            generation, handed_out = self._handed_out
            self._here.add(shard, Look(now, handed_out if generation == node.generation else 0))
        self.work()

    def tell_progress(self) -> None:
        """Tell whichever sequencer there is now how far the nodes are: it may have come later than they."""
        for shard, node in self._here.by_shard.items():
            if node.finished:
                self.telling.finished(shard, node, node.finished)
                self.telling.saved(shard, node)

    def tell_again(self) -> None:
        """Try again to tell a sequencer that did not listen when it was told last."""
        if self.telling.is_to_be_told_again():
            self.tell_progress()
            self.flush()

    def reader_gone(self, inbox: str) -> None:
        """An inbox does not exist: of a client that is gone, or of a sequencer that is not there yet, or not any
        more."""
        if self.telling.was_deaf(inbox) or parsed(inbox).role is not CLIENT_REPLIES:
            return
        for shard in self._here.by_shard:
            self._here.add(shard, ReaderGone(inbox))
        self.telling.reader_gone(self._peers.generation, inbox)
        self.work()

    def work(self) -> None:
        """Let the kernels handle all that waits for them."""
        self._here.work(self._performing.perform)

    def tell_gone(self, shard: int, generation: int, epoch: int) -> None:
        """Tell a node that nobody keeps rows of this epoch for it any more."""
        self._performing.tell_gone(shard, generation, epoch)

    def flush(self) -> None:
        """Send what was collected while messages were handled."""
        self._performing.flush()


def compiled(program: str, graph: bytes) -> Plan:
    """The plan of a graph that somebody sent. Raises `MalformedMessage` if it is no program, or not this one."""
    try:
        plan = compile(decode_graph(graph))
    except (UserError, RecursionError) as wrong:
        raise MalformedMessage(f"the graph of {program!r} is no program that can run: {wrong}") from wrong
    if plan.name != program:
        raise MalformedMessage(f"the graph of the program {plan.name!r} came as that of {program!r}")
    return plan
