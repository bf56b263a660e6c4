"""What the kernels of a program's nodes want done: rows to other nodes, answers to readers, saves, careful steps.

What leaves the runner is collected until all that had come in is handled: empty `Rows` become bits, and of several
`Done` the last one says it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dist_zero_common.mailbox import NO_TOKEN, Mailbox
from dist_zero_common.protocol.messages.epochs import AskRows
from dist_zero_common.protocol.messages.pieces import ShardMap
from services.node_runner.counts import Counts
from services.node_runner.evidence import Standing, keep_evidence
from services.node_runner.hosted import HostedNode
from services.node_runner.kernel_events import (
    AskForRows,
    AskRowsEvent,
    BeginAgain,
    Finished,
    GoneEvent,
    Halted,
    MayStep,
    NodeEffect,
    Reply,
    RowsEvent,
    SaveState,
    SendRows,
    Settle,
    TellGone,
    TryStep,
)
from services.node_runner.loading import NodeKeeper
from services.node_runner.nodes_here import NodesHere
from services.node_runner.peers import Peers
from services.node_runner.telling import Telling


class Performing:
    """For the nodes of one program by one shard map. `begin_again`: lets a node begin anew: (shard, node, reason)."""

    def __init__(
        self,
        program: str,
        shard_map: ShardMap,
        here: NodesHere,
        peers: Peers,
        telling: Telling,
        *,
        post: Mailbox,
        keeper: NodeKeeper,
        tasks: asyncio.TaskGroup,
        begin_again: Callable[[int, HostedNode, str], None],
        counts: Counts,
    ) -> None:
        self._program, self._map, self._here = program, shard_map, here
        self._peers, self._telling = peers, telling
        self._post, self._keeper, self._tasks = post, keeper, tasks
        self._begin_again, self._counts = begin_again, counts

    def perform(self, shard: int, node: HostedNode, effect: NodeEffect) -> None:
        """Do what the kernel of a node wants done."""
        match effect:
            case SendRows():
                self.deliver_rows(shard, node.generation, effect)
            case AskForRows():
                self._ask_for_rows(shard, node.generation, effect)
            case TellGone():
                self.tell_gone(effect.asker, node.generation, effect.epoch)
            case Finished():
                node.unsaved.moved(self._here.clock.monotonic())
                self._telling.finished(shard, node, effect.epoch)
                if node.through_at and effect.epoch >= node.through_at:
                    node.through_at = 0
                    self._tasks.create_task(node.keeping.attempts.clear())
            case TryStep():
                self._tasks.create_task(self._try_step(shard, node, effect))
            case SaveState():
                node.unsaved.begin(effect.epoch, self._here.clock.monotonic())
                node.keeping.save(effect)
            case BeginAgain():
                self._begin_again(shard, node, effect.reason)
            case Reply():
                self._post.send(effect.inbox, effect.message)
            case Settle():
                for token in effect.tokens:
                    self._post.settle(token)
            case Halted():
                self._here.counters["halted"] += 1
                self._here.log_of(shard).error(
                    "node_halted", epoch=node.finished, reason=effect.logged or effect.reason
                )
                if effect.epoch:
                    self._tasks.create_task(self._keep_evidence(shard, node, effect))

    async def _try_step(self, shard: int, node: HostedNode, step: TryStep) -> None:
        """Let a node take a careful step; if that ends our process, its mark stays."""
        async with self._keeper.turn:
            await node.keeping.attempts.mark(step.epoch)
            if self._here.is_still(shard, node):
                self._here.add(shard, MayStep(step.epoch, step.stage))
                self._here.work(self.perform)
            await node.keeping.attempts.unmark(step.epoch)
        self.flush()

    async def _keep_evidence(self, shard: int, node: HostedNode, halted: Halted) -> None:
        """Find out, for people, what the node stands still on."""
        name = self._map.nodes[shard]
        standing = Standing(self._program, name, node.generation, node.incarnation)
        log = self._here.log_of(shard)
        told = await keep_evidence(self._keeper.store, standing, halted, log)
        if node.kernel is not None:
            node.kernel.halted = told

    def tell_gone(self, shard: int, generation: int, epoch: int) -> None:
        """Tell a node that nobody keeps rows of this epoch for it any more."""
        if self._here.has(shard, generation):
            self._here.add(shard, GoneEvent(epoch))
        else:
            self._peers.tell_gone(shard, generation, epoch)

    def deliver_rows(self, shard: int, generation: int, effect: SendRows) -> None:
        """Give the rows of a node here to who is to have them."""
        if self._here.has(effect.target, generation):
            event = RowsEvent(effect.epoch, effect.stage, shard, 0, 1, effect.batches, NO_TOKEN)
            self._here.add(effect.target, event)
        else:
            self._peers.send_rows(shard, generation, effect)

    def _ask_for_rows(self, shard: int, generation: int, effect: AskForRows) -> None:
        ask = AskRows(
            self._program, generation, self._map.version, effect.epoch, effect.stage, effect.sender, shard
        )
        self._here.counters["asked_again"] += 1
        self._counts.asked_again += 1
        self._here.log_of(shard).debug("rows_asked_again", epoch=effect.epoch, stage=effect.stage)
        if generation != self._peers.generation:
            return
        if effect.stage == 1:
            if self._telling.nodes_inbox:
                self._post.send(self._telling.nodes_inbox, ask)
        elif self._here.has(effect.sender, generation):
            self._here.add(effect.sender, AskRowsEvent(effect.epoch, effect.stage, shard))
        else:
            self._peers.ask_rows(ask)

    def flush(self) -> None:
        """Send what was collected while messages were handled."""
        self._peers.flush()
        self._telling.flush()
