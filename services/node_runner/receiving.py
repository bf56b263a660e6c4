"""From messages for the nodes of one program to events for the kernels of those that are here.

Everything is checked before anything waits. What is for nodes that are not here is dropped, and whoever sent it sends
it again to where they are.
"""

from __future__ import annotations

from dist_zero.compiler.plan import Plan
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import AskRows, EmptyRows, HandOut, RowsGone, StageRows
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.reading import AskChanges, Elsewhere, Get
from services.node_runner import wire
from services.node_runner.kernel_events import AskChangesEvent, AskRowsEvent, GetEvent, GoneEvent
from services.node_runner.nodes_here import NodesHere


class Receiving:
    """Of one program by one shard map."""

    def __init__(self, plan: Plan, shard_map: ShardMap, here: NodesHere, post: Mailbox) -> None:
        self._plan, self._map, self._here, self._post = plan, shard_map, here, post

    def is_of_another_map(self, message: Message, generation: int) -> bool:
        """Whether a message goes by another map than this generation, the newest here."""
        if isinstance(
            message, Get | AskChanges
        ):  # a reader who has not heard yet that the map is another one
            return message.map_version != self._map.version
        its = getattr(message, "generation", generation)
        return bool(its != generation and getattr(message, "map_version", 0) != self._map.version)

    def drop_of_another_map(self, message: Message, token: Token) -> None:
        """A message is for nobody here; a reader who goes by an older map hears of it."""
        if isinstance(message, Get | AskChanges) and message.map_version < self._map.version:
            self._post.send(message.reply_to, Elsewhere(message.program))
        self._drop(token)

    def _drop(self, token: Token) -> None:
        self._here.counters["not_here"] += 1
        self._post.settle(token)

    def take(self, message: Message, token: Token) -> None:
        """Rows for nodes here, what others ask of them, and what they asked for in vain. Raises `MalformedMessage`."""
        match message:
            case HandOut():
                events = wire.hand_out_events(self._plan, self._map, message)
                self._take_rows(events, message, token)
            case StageRows():
                event = wire.rows_event(self._plan, self._map, message)
                self._take_rows([(message.target, event)], message, token)
            case EmptyRows():
                events = wire.empty_events(self._plan, self._map, message)
                self._take_rows(events, message, token)
            case Get():
                wire.check_map(self._map, message.map_version)
                self._ask(message.shard, wire.get_event(self._plan, message, token), token)
            case AskRows():
                wire.check_map(self._map, message.map_version)
                wire.check_shard(self._map, message.asker)
                wire.check_shard(self._map, message.sender)
                if self._here.has(message.sender, message.generation):
                    self._here.add(message.sender, AskRowsEvent(message.epoch, message.stage, message.asker))
                self._post.settle(token)
            case RowsGone():
                wire.check_map(self._map, message.map_version)
                wire.check_shard(self._map, message.asker)
                if self._here.has(message.asker, message.generation):
                    self._here.add(message.asker, GoneEvent(message.epoch))
                self._post.settle(token)
            case AskChanges():
                wire.check_map(self._map, message.map_version)
                self._ask(message.shard, wire.ask_changes_event(message, token), token)
            case _:
                raise MalformedMessage(f"{type(message).__name__} is not for a node")

    def _take_rows(
        self,
        events: list[tuple[int, wire.Untokened]],
        message: HandOut | StageRows | EmptyRows,
        token: Token,
    ) -> None:
        """Rows for nodes: of those that are here, each gets its share of the token; the others drop theirs."""
        here = [(shard, event) for shard, event in events if self._here.has(shard, message.generation)]
        self._here.counters["not_here"] += len(events) - len(here)
        for shard, _ in here:
            if self._here.by_shard[shard].kernel is not None:
                wire.check_epoch(self._here.by_shard[shard].finished, message.epoch)
        for (shard, event), its in zip(here, self._post.share(token, len(here)), strict=True):
            self._here.add(shard, event(its))

    def _ask(self, shard: int, event: GetEvent | AskChangesEvent, token: Token) -> None:
        """A reader's question to one node."""
        wire.check_shard(self._map, shard)
        node = self._here.by_shard.get(shard)
        if node is None:
            self._post.send(event.reply_to, Elsewhere(self._plan.name))
            self._drop(token)
            return
        if isinstance(event, GetEvent) and node.kernel is not None:
            wire.check_at_least(node.finished, event.at_least)
        self._here.add(shard, event)
