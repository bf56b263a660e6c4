"""What a node has in the store: the state with which it begins, and what it saves while it goes on.

A node begins at the newest base of its generation, and waits until there is one. While it computes, its saves are
written behind it, one after the other, because each says what changed since the one before; they are told to the
sequencer when they are there.

What cannot be read is looked at once more, since a base may have been collected while it was being read: then there is
a newer one. If there is none, the base is marked, so that nobody begins there any more, and the node stands still
until a new generation begins at another one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dist_zero.batch import Batch
from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.shards import interval
from dist_zero.state import TableChange, state_tables
from dist_zero.types import RowType
from dist_zero_common.clock import wait_changed
from dist_zero_common.errors import BaseDamaged, LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages import (
    BatchBlob,
    ShardMap,
    SubscriptionWanted,
)
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    CheckpointId,
    TableBlob,
)
from dist_zero_common.store.base import Store
from services.node_runner.attempts import NO_TRIAL, Attempts, Trial
from services.node_runner.checkpoints import Checkpoint, read_checkpoint, table_entries, write_checkpoint
from services.node_runner.epoch_log import EpochLog
from services.node_runner.kernel_events import SaveState

MakeExecutor = Callable[[Plan], Executor]
"""Makes the executor of a node."""

LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.02, 1.0
"""Pauses between two looks for a base."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a node begins with: its executor as of `epoch`, and the subscriptions that there were."""

    executor: Executor
    epoch: int
    subscriptions: tuple[SubscriptionWanted, ...]
    entries: int
    goes_on: bool
    """Whether the node goes on with its own saves; else its first one has to hold everything."""
    trial: Trial = NO_TRIAL


@dataclass(frozen=True, slots=True)
class SavedState:
    """The node's state as of this epoch is in the store. For the bytes see `Saved`."""

    epoch: int
    changed_bytes: int
    state_bytes: int


OnBegun = Callable[[Beginning], None]
OnSaved = Callable[[SavedState], None]
OnFailed = Callable[[str, bool], None]
"""Called with the reason, and whether a new generation would help."""


@dataclass(frozen=True, slots=True)
class NodeKeeper:
    """Makes the keepings of a runner's nodes."""

    store: Store
    make_executor: MakeExecutor
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of the nodes of this runner that take careful steps, one at a time does."""


class NodeKeeping:
    """Of one incarnation of a node. `run` does the work, until it is cancelled."""

    def __init__(
        self,
        keeper: NodeKeeper,
        plan: Plan,
        shard_map: ShardMap,
        shard: int,
        generation: int,
        *,
        log: Logger,
        on_begun: OnBegun,
        on_saved: OnSaved,
        on_failed: OnFailed,
        behind: int = -1,
        incarnation: int = 0,
    ) -> None:
        """`behind`: the base that did not do, because rows behind it are not kept any more."""
        self._behind = behind
        self._store, self._make_executor = keeper.store, keeper.make_executor
        self._plan, self._shard, self._generation = plan, shard, generation
        self._map, self._node = shard_map, shard_map.nodes[shard]
        self._tables = state_tables(plan)
        self._numbers = {table.name: number for number, table in enumerate(self._tables)}
        self._epoch_log = EpochLog(keeper.store, plan.name, log)
        self.attempts = Attempts(keeper.store, plan.name, self._node, incarnation, log)
        self._log = log
        self._on_begun, self._on_saved, self._on_failed = on_begun, on_saved, on_failed
        self._saves: deque[SaveState] = deque()
        self._changed = asyncio.Event()
        self._previous: CheckpointId | None = None
        self._links = 0
        self._saving = 0

    def save(self, effect: SaveState) -> None:
        """Put this into the store, behind what was to be put there before."""
        self._saves.append(effect)
        self._changed.set()

    @property
    def saving(self) -> int:
        """The oldest epoch whose state is not in the store yet, 0 for none."""
        return self._saving or (self._saves[0].epoch if self._saves else 0)

    def look(self) -> None:
        """There may be a base now."""
        self._changed.set()

    async def run(self) -> None:
        """Find the state to begin with, then save what comes."""
        try:
            self._on_begun(await self._begin())
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._saves:
                    effect = self._saves.popleft()
                    self._saving = effect.epoch
                    saved = await self._save(effect)
                    self._saving = 0
                    self._on_saved(saved)
        except _Unusable as unusable:
            self._on_failed(str(unusable), True)
        except LogDamaged as damaged:
            self._on_failed(str(damaged), isinstance(damaged, BaseDamaged))

    # -- begin -------------------------------------------------------------------------------------------------

    async def _begin(self) -> Beginning:
        pause, failed_at = LOOK_SECONDS_MIN, None
        while True:
            try:
                base = await self._epoch_log.newest_base_of(self._generation)
                if base is not None and base.epoch <= self._behind:
                    raise _Unusable(
                        f"rows behind epoch {self._behind} are not kept any more, and there is no newer base"
                    )
                if base is not None:
                    where = BaseId(base.generation, base.epoch)
                    try:
                        loaded = await self._loaded(base)
                        return replace(loaded, trial=await self.attempts.begin(base.epoch))
                    except (LogDamaged, MalformedMessage) as damaged:
                        if where == failed_at:
                            await self._epoch_log.mark_damaged(where, str(damaged))
                            raise _Unusable(
                                f"the base of epoch {base.epoch} cannot be used: {damaged}"
                            ) from damaged
                        failed_at = where  # unless it was collected meanwhile
            except LogDamaged:
                raise
            except StoreError as failed:
                self._log.warning("store_failed", reason=str(failed), retry_seconds=pause)
            await wait_changed(self._changed, pause)
            pause = min(2 * pause, LOOK_SECONDS_MAX)

    async def _loaded(self, base: Base) -> Beginning:
        """The state as of a base: what this node has saved, or its part of what those have that it takes the place
        of."""
        executor = self._make_executor(self._plan)
        entries = 0
        for source in predecessors(base, self._map, self._shard) if base.checkpoints else ():
            fingerprint = base.saved_fingerprint or self._plan.fingerprint
            read = await read_checkpoint(
                self._store, self._plan.name, source.checkpoint, fingerprint, self._log
            )
            saves = [list(self._changes(each, drops=bool(base.saved_fingerprint))) for each in read]
            executor.load(base.epoch, saves, source.keep, source.loose)
            entries += sum(table_entries(table) for each in read for table in each.tables)
            if source.is_same and not base.saved_fingerprint:
                self._previous, self._links = source.checkpoint, read[-1].links
        return Beginning(
            executor, base.epoch, base.subscriptions, entries, goes_on=self._previous is not None
        )

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

    # -- save --------------------------------------------------------------------------------------------------

    async def _save(self, effect: SaveState) -> SavedState:
        which = CheckpointId(self._node, effect.epoch, self._generation)
        self._links = 1 if effect.everything else self._links + 1
        tables = tuple(
            TableBlob(self._tables[change.table].name, _blob(change.puts), _blob(change.deletes))
            for change in effect.changes
        )
        checkpoint = Checkpoint(
            self._plan.name,
            which,
            self._plan.fingerprint,
            None if effect.everything else self._previous,
            self._links,
            tables,
        )
        written = await write_checkpoint(self._store, checkpoint, self._log)
        self._previous = which
        size = written.size_bytes
        whole = effect.everything
        self._log.debug("saved", epoch=effect.epoch, bytes=size, entries=written.entries, everything=whole)
        return SavedState(effect.epoch, 0 if whole else size, size if whole else 0)


def _batch(row_type: RowType, blob: BatchBlob | None) -> Batch:
    if blob is None:
        return Batch.from_rows(row_type.types, [])
    return Batch.from_blob(row_type.types, blob, row_type.names)


def _blob(batch: Batch) -> BatchBlob | None:
    blob = batch.to_blob()
    return blob if blob.row_count else None


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A checkpoint of which a node takes a part: the entries whose hashes `keep` says yes to (None: all of them), and
    with `loose` what belongs to no hash. `is_same`: it is the node's own."""

    checkpoint: CheckpointId
    keep: Callable[[int], bool] | None
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
                None if whole else lambda key_hash: first <= key_hash <= last,
                loose=first <= its_first <= last,
                is_same=(its_first, its_last) == (first, last) and checkpoint.node == shard_map.nodes[shard],
            )
        )
    return found


class _Unusable(Exception):
    """The state to begin with cannot be read, and is marked."""
