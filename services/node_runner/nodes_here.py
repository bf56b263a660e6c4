"""The nodes of one program that are on this runner, and the events that wait for their kernels.

Events are worked off in order of arrival from one queue, so that what a kernel sends to another one on the same runner
is handed over as objects, neither encoded nor recursive.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from dist_zero_common.clock import Clock
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox
from dist_zero_common.protocol.messages.pieces import ShardMap
from services.node_runner.hosted import HostedNode, token_of
from services.node_runner.kernel_events import Look, NodeEffect, NodeEvent

Perform = Callable[[int, HostedNode, NodeEffect], None]
"""Does what a kernel wants done: (shard, node, effect)."""


class NodesHere:
    """Those of one program by one shard map."""

    def __init__(self, shard_map: ShardMap, post: Mailbox, clock: Clock, log: Logger) -> None:
        self.by_shard: dict[int, HostedNode] = {}
        self.counters: Counter[str] = Counter()
        self.clock = clock
        self._map, self._post, self._log = shard_map, post, log
        self._events: deque[tuple[int, NodeEvent]] = deque()
        self._working = False

    def has(self, shard: int, generation: int) -> bool:
        """Whether this node of this generation is here."""
        node = self.by_shard.get(shard)
        return node is not None and node.generation == generation

    def is_still(self, shard: int, node: HostedNode) -> bool:
        """Whether this node was not replaced or stopped meanwhile."""
        return self.by_shard.get(shard) is node

    def add(self, shard: int, event: NodeEvent) -> None:
        """Let an event wait for a node; `work` comes to it."""
        self._events.append((shard, event))

    def abandon(self, node: HostedNode) -> None:
        """Stop a node, which whoever calls this takes out of `by_shard`, or puts another one in its place."""
        for token in node.end():
            self._post.settle(token)

    def log_of(self, shard: int) -> Logger:
        """The log, with what it says of every line about this node."""
        node = self.by_shard[shard]
        return self._log.bind(
            node=self._map.nodes[shard], incarnation=node.incarnation, generation=node.generation
        )

    def work(self, perform: Perform) -> None:
        """Let the kernels handle all that waits for them."""
        if self._working:
            return
        self._working = True
        try:
            while self._events:
                shard, event = self._events.popleft()
                node = self.by_shard.get(shard)
                if node is None:
                    self._post.settle(token_of(event))
                    continue
                if node.kernel is None:
                    if not isinstance(event, Look):
                        node.early.append(event)
                    continue
                began = self.clock.monotonic()
                effects = node.kernel.handle(event)
                node.busy_seconds += self.clock.monotonic() - began
                for effect in effects:
                    perform(shard, node, effect)
        finally:
            self._working = False
