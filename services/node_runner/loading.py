"""The state with which a node begins, out of the store: all of it, or what has changed since it was loaded before.

A node begins with what it saved itself, or with its part of what those have saved in whose place it comes. Who was
loaded beforehand, as of an earlier base, reads the checkpoints behind that alone. Where a node has saved everything
anew since, that is read and compared; where there is another doubt, all is loaded again.

Reading and decoding takes turns with whatever else the process does: after some milliseconds the others come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dist_zero.batch import Batch
from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.shards import Interval, interval
from dist_zero.state import TableChange, state_tables
from dist_zero.types import RowType
from dist_zero_common.allocation import overlook_what_stays
from dist_zero_common.clock import Clock
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.pieces import BatchBlob, ShardMap
from dist_zero_common.protocol.stored import (
    Base,
    CheckpointId,
    TableBlob,
)
from dist_zero_common.store.base import Store
from services.node_runner.checkpoints import Checkpoint, read_checkpoint, table_bytes, table_entries

MakeExecutor = Callable[[Plan], Executor]
Prepare = Callable[[Plan], Awaitable[None]]
"""Does what takes long of the making of an executor, beside the event loop."""
"""Makes the executor of a node."""

_Slice = TypeVar("_Slice")

SLICES_PER_LOOK = 50
"""After so many slices, what they have made is taken for what stays."""
TURN_SECONDS = 0.01
"""After so long a time the rest of the process has its turn."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Long work takes turns with the rest of the process."""

    clock: Clock

    async def through(self, slices: Iterator[_Slice]) -> AsyncIterator[_Slice]:
        """What comes of each slice of the work."""
        began = self.clock.monotonic()
        for each in slices:
            yield each
            if self.clock.monotonic() - began >= TURN_SECONDS:
                await asyncio.sleep(0)
                began = self.clock.monotonic()
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class NodeKeeper:
    """What all nodes of a runner share: where their state is, what runs them, what time it is. `turn`: of the nodes
    that take careful steps, one at a time does."""

    store: Store
    make_executor: MakeExecutor
    clock: Clock
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    prepare: Prepare | None = None

    async def executor(self, plan: Plan) -> Executor:
        """An executor of this plan."""
        if self.prepare is not None:
            await self.prepare(plan)
        return self.make_executor(plan)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A checkpoint of which a node takes a part: the entries whose hashes `keep` says yes to (None: all of them), and
    with `loose` what belongs to no hash. `owns`: the hashes of that checkpoint's node. `is_same`: it is the node's
    own."""

    checkpoint: CheckpointId
    keep: Callable[[int], bool] | None
    owns: Callable[[int], bool]
    loose: bool
    is_same: bool


def predecessors(base: Base, shard_map: ShardMap, shard: int) -> list[Predecessor]:
    """Those whose state a node begins with: every one whose interval meets its own, by the map they saved by. What
    belongs to no hash goes to whoever has the first hash of the interval that it was saved with."""
    saved = base.saved_map or base.shard_map
    first, last = interval(shard_map, shard)
    found = []
    for place, checkpoint in enumerate(base.checkpoints):
        its_first, its_last = interval(saved, place)
        if its_last < first or last < its_first:
            continue
        whole = first <= its_first and its_last <= last
        found.append(
            Predecessor(
                checkpoint,
                None if whole else Interval(first, last),
                Interval(its_first, its_last),
                loose=first <= its_first <= last,
                is_same=(its_first, its_last) == (first, last)
                and checkpoint.node == shard_map.nodes[shard]
                and not base.saved_fingerprint,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class LoadedState:
    """An executor with the state as of `epoch`, out of these checkpoints. `entries`, `size_bytes`: how many were read
    for it, in all, and the size of those that the node's own chain has; `links`: of how many checkpoints that
    consists, 0 if there is none. `runs`: it has taken steps since, and can take in nothing any more."""

    executor: Executor
    epoch: int
    checkpoints: tuple[CheckpointId, ...] = ()
    entries: int = 0
    size_bytes: int = 0
    links: int = 0
    runs: bool = False


class Loader:
    """For one node."""

    def __init__(self, keeper: NodeKeeper, plan: Plan, shard_map: ShardMap, shard: int, log: Logger) -> None:
        self._keeper, self._plan, self._log = keeper, plan, log
        self._map, self._shard = shard_map, shard
        self.read = 0
        """How many entries it has read."""
        self._tables = state_tables(plan)
        self._numbers = {table.name: number for number, table in enumerate(self._tables)}

    async def load(self, base: Base) -> LoadedState:
        """The state as of a base. Raises `LogDamaged`, or `MalformedMessage`."""
        executor = await self._keeper.executor(self._plan)
        entries = size = links = 0
        found = self._predecessors(base)
        for source in found:
            read = await self._read(base, source.checkpoint)
            slices = executor.loading(base.epoch, self._saves(base, read), source.keep, source.loose)
            await self._go_through(slices)
            entries += _entries(read)
            if source.is_same:
                size, links = size + _bytes(read), read[-1].links
        return LoadedState(executor, base.epoch, _checkpoints(found), entries, size, links)

    async def follow(self, state: LoadedState, base: Base) -> LoadedState:
        """The state as of this base, from what it was as of another one; whatever raises spoils that. Raises
        `LogDamaged`, or `MalformedMessage`."""
        found = self._predecessors(base)
        if not self._is_of_this_plan(state):
            return await self.load(base)
        if _checkpoints(found) == state.checkpoints and not state.runs:
            return replace(state, epoch=base.epoch)
        if state.runs or [each.node for each in _checkpoints(found)] != [
            each.node for each in state.checkpoints
        ]:
            return await self.load(base)
        entries, size, links = state.entries, state.size_bytes, 0
        for number, (source, before) in enumerate(zip(found, state.checkpoints, strict=True)):
            read = await self._read(base, source.checkpoint, before)
            whole = read[0].previous is None
            owns = source.owns if len(found) > 1 else None
            slices = state.executor.catching_up(base.epoch, number, self._saves(base, read), whole, owns)
            await self._go_through(slices)
            entries += _entries(read)
            if source.is_same:
                size, links = size + _bytes(read), read[-1].links
        return LoadedState(state.executor, base.epoch, _checkpoints(found), entries, size, links)

    def is_exactly(self, state: LoadedState, base: Base) -> bool:
        """Whether this is the state as of the base, of the node itself."""
        found = self._predecessors(base)
        same = all(source.is_same for source in found) and self._is_of_this_plan(state)
        return bool(found) and same and _checkpoints(found) == state.checkpoints

    def _is_of_this_plan(self, state: LoadedState) -> bool:
        return state.executor.plan.fingerprint == self._plan.fingerprint

    def _predecessors(self, base: Base) -> list[Predecessor]:
        return predecessors(base, self._map, self._shard) if base.checkpoints else []

    async def _read(
        self, base: Base, which: CheckpointId, behind: CheckpointId | None = None
    ) -> list[Checkpoint]:
        store, plan = self._keeper.store, self._plan
        fingerprint = base.saved_fingerprint or plan.fingerprint
        read = await read_checkpoint(store, plan.name, which, fingerprint, self._log, behind)
        self.read += _entries(read)
        return read

    async def _go_through(self, slices: Iterator[None]) -> None:
        number = 0
        async for _ in Turns(self._keeper.clock).through(slices):
            number += 1
            if number % SLICES_PER_LOOK == 0:
                overlook_what_stays()
        if number > SLICES_PER_LOOK:
            overlook_what_stays()

    def _saves(self, base: Base, read: list[Checkpoint]) -> Iterator[Iterator[TableChange]]:
        return (self._changes(each, drops=bool(base.saved_fingerprint)) for each in read)

    def _changes(self, checkpoint: Checkpoint, drops: bool) -> Iterator[TableChange]:
        """What a checkpoint says, as the executor takes it. `drops`: it is of another plan, and tables that this one
        does not have are left out. Raises `MalformedMessage`."""
        blobs: Sequence[TableBlob] = checkpoint.tables
        if drops:
            known = [blob for blob in blobs if blob.name in self._numbers]
            blobs = sorted(known, key=lambda blob: self._numbers[blob.name])
        for blob in blobs:
            number = self._numbers.get(blob.name)
            if number is None:
                raise MalformedMessage(f"the checkpoint of {checkpoint.which} has a table {blob.name!r}")
            table = self._tables[number]
            yield TableChange(number, _batch(table.row_type, blob.puts), _batch(table.key_type, blob.deletes))


def _checkpoints(found: list[Predecessor]) -> tuple[CheckpointId, ...]:
    return tuple(source.checkpoint for source in found)


def _entries(read: list[Checkpoint]) -> int:
    return sum(table_entries(table) for each in read for table in each.tables)


def _bytes(read: list[Checkpoint]) -> int:
    return sum(table_bytes(table) for each in read for table in each.tables)


def _batch(row_type: RowType, blob: BatchBlob | None) -> Batch:
    if blob is None:
        return Batch.from_rows(row_type.types, [])
    return Batch.from_blob(row_type.types, blob, row_type.names)
