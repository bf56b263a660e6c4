"""Nodes that are to come: loaded beforehand, while others still do their work, and kept close to the newest base.

A node that is prepared takes part in nothing. It loads the newest base of the generation that runs, its part of what
its predecessors have saved, and then what each further base has changed. When it is to run, whoever begins in its name
goes on with that: what it has still to read is what changed since the last base or two. If it is never to run, or
anything goes wrong, nothing is lost but the work.

It may be a node of another program than the one that runs: then it takes of each base what is kept, as a generation
that begins there would (`changing.py`), and waits while none could.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dist_zero.compiler.plan import Plan
from dist_zero_common.allocation import look_again
from dist_zero_common.clock import Clock
from dist_zero_common.errors import LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.control import PreparedStatus, PrepareNodes
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.stored import (
    Base,
)
from services.node_runner import changing
from services.node_runner.epoch_log import EpochLog
from services.node_runner.keeping import Inherit
from services.node_runner.loading import LoadedState, Loader, NodeKeeper

FOLLOW_SECONDS = 0.25
"""Between two looks for a newer base."""
CLOSE_SECONDS = 2.0
"""Who takes no longer than this for what changed has caught up."""


class PreparedNode:
    """One node; `run` does the work until it is cancelled, or the state is taken."""

    def __init__(
        self, loader: Loader, bases: EpochLog, generation: int, graph: bytes, clock: Clock, log: Logger
    ) -> None:
        """`generation`: whose bases it follows; `graph`: the program that it is to run."""
        self._loader, self._bases, self._generation, self._graph = loader, bases, generation, graph
        self._clock, self._log = clock, log
        self._state: LoadedState | None = None
        self._wanted = asyncio.Event()
        self.on_ready: Callable[[], None] = lambda: None
        self.ready = False
        """Whether it has once caught up with the newest base."""
        self.task: asyncio.Task[None]

    @property
    def epoch(self) -> int:
        """The base that it is at, 0 before the first."""
        return self._state.epoch if self._state is not None else 0

    async def run(self) -> None:
        """Follow the bases."""
        while not self._wanted.is_set():
            began = self._clock.monotonic()
            try:
                base = await self._bases.newest_base_of(self._generation)
                if base is not None:
                    await self._bring_to(base, began)
            except (LogDamaged, MalformedMessage) as gone:  # most likely collected while it was being read
                self._state = None
                self._log.info("preparing_again", reason=str(gone))
            except StoreError as failed:
                self._log.warning("store_failed", reason=str(failed), retry_seconds=FOLLOW_SECONDS)
            if not self._wanted.is_set():
                await _pause(self._wanted, FOLLOW_SECONDS)

    async def _bring_to(self, base: Base, began: float) -> None:
        before = self._state
        if before is not None and base.epoch <= before.epoch:
            self._is_close(began)
            return
        begun = changing.begun(base, self._graph)
        if begun is None:
            return  # as soon as there is a base with all that it needs
        if before is None:
            self._state = await self._loader.load(begun)
            self._log.info("node_prepared", epoch=base.epoch, entries=self._state.entries)
        else:
            self._state = None  # spoiled, should anything be wrong
            self._state = await self._loader.follow(before, begun)
            self._log.debug("node_followed", epoch=base.epoch, entries=self._state.entries - before.entries)
        self._is_close(began)

    def _is_close(self, began: float) -> None:
        if not self.ready and self._clock.monotonic() - began <= CLOSE_SECONDS:
            self.ready = True
            self.on_ready()

    async def take(self) -> LoadedState | None:
        """The state, for whoever comes in this name; it follows no further."""
        self._wanted.set()
        await asyncio.wait([self.task])
        state, self._state = self._state, None
        return state


async def _pause(wanted: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wanted.wait()
    except TimeoutError:
        pass


class Preparing:
    """The nodes of one program that are prepared on a runner, as one `PrepareNodes` wants them."""

    def __init__(
        self,
        wanted: PrepareNodes,
        plan: Plan,
        *,
        keeper: NodeKeeper,
        tasks: asyncio.TaskGroup,
        log: Logger,
        on_ready: Callable[[], None],
        before: Preparing | None = None,
    ) -> None:
        """`before`: what was wanted before this; what is wanted still goes on."""
        self.version, self._program, self._map = wanted.version, wanted.program, wanted.shard_map
        self._generation, self._graph = wanted.generation, wanted.graph
        self._nodes: dict[int, PreparedNode] = {}
        for shard in wanted.shards:
            known = before.keep(wanted, shard) if before is not None else None
            if known is not None:
                self._nodes[shard] = known
                continue
            name = wanted.shard_map.nodes[shard]
            node_log = log.bind(program=wanted.program, node=name, generation=wanted.generation)
            node = PreparedNode(
                Loader(keeper, plan, wanted.shard_map, shard, node_log),
                EpochLog(keeper.store, wanted.program, node_log),
                wanted.generation,
                wanted.graph,
                keeper.clock,
                node_log,
            )
            node.on_ready = on_ready
            node.task = tasks.create_task(node.run(), name=f"preparing {wanted.program} {name}")
            self._nodes[shard] = node

    def keep(self, wanted: PrepareNodes, shard: int) -> PreparedNode | None:
        """Let go of a node that is wanted still."""
        wants = wanted.shard_map, wanted.generation, wanted.graph
        same = wants == (self._map, self._generation, self._graph)
        return self._nodes.pop(shard, None) if same else None

    def take(self, shard_map: ShardMap, shard: int) -> Inherit | None:
        """What was prepared of this node, if anything was."""
        node = self._nodes.pop(shard, None) if shard_map == self._map else None
        return node.take if node is not None else None

    def statuses(self) -> list[PreparedStatus]:
        """What the runner reports."""
        return [
            PreparedStatus(self._program, self.version, shard, node.epoch, node.ready)
            for shard, node in sorted(self._nodes.items())
        ]

    def end(self) -> None:
        """Forget it all."""
        for node in self._nodes.values():
            node.task.cancel()
        self._nodes.clear()
        look_again()
