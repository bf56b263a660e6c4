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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from dist_zero.batch import Batch
from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.state import state_tables
from dist_zero_common.clock import wait_changed
from dist_zero_common.errors import BaseDamaged, LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.epochs import SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import BatchBlob, ShardMap
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    CheckpointId,
    TableBlob,
)
from services.node_runner.attempts import NO_TRIAL, Attempts, Trial
from services.node_runner.checkpoints import Checkpoint, write_checkpoint
from services.node_runner.epoch_log import EpochLog
from services.node_runner.kernel_events import SaveState
from services.node_runner.loading import LoadedState, Loader, NodeKeeper, Turns

LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 0.02, 1.0
"""Pauses between two looks for a base."""
LOOK_SECONDS_SOON = 0.2
"""The longest one for who has his state already and waits for nothing else."""

Inherit = Callable[[], Awaitable[LoadedState | None]]
"""Brings what was prepared, or left by who ran before, as soon as that can be had."""


def inheriting(state: LoadedState | None) -> Inherit | None:
    """What was left is there at once."""
    if state is None:
        return None

    async def inherit() -> LoadedState:
        return state

    return inherit


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a node begins with: its executor as of `epoch`, and the subscriptions that there were. `entries`: how many
    were read for it in all, and `read` since it was to begin."""

    executor: Executor
    epoch: int
    subscriptions: tuple[SubscriptionWanted, ...]
    entries: int
    goes_on: bool
    """Whether the node goes on with its own saves; else its first one has to hold everything."""
    trial: Trial = NO_TRIAL
    how: str = "loaded"
    """`kept`: with the executor that ran before; `prepared`: loaded beforehand, and then what had changed."""
    read: int = 0


@dataclass(frozen=True, slots=True)
class SavedState:
    """The node's state as of this epoch is in the store. For the bytes see `Saved`. `seconds`: what that took."""

    epoch: int
    changed_bytes: int
    state_bytes: int
    seconds: float = 0.0


OnBegun = Callable[[Beginning], None]
OnSaved = Callable[[SavedState], None]
OnFailed = Callable[[str, bool], None]
"""Called with the reason, and whether a new generation would help."""


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
        inherit: Inherit | None = None,
    ) -> None:
        """`behind`: the base that did not do, because rows behind it are not kept any more. `inherit`: see there."""
        self._behind = behind
        self._store, self._plan, self._generation = keeper.store, plan, generation
        self._node = shard_map.nodes[shard]
        self._tables = state_tables(plan)
        self._loader = Loader(keeper, plan, shard_map, shard, log)
        self._turns, self._clock = Turns(keeper.clock), keeper.clock
        self._inherit = inherit
        self._inherited: LoadedState | None = None
        self._epoch_log = EpochLog(keeper.store, plan.name, log)
        self.attempts = Attempts(keeper.store, plan.name, self._node, incarnation, log)
        self._log = log
        self._on_begun, self._on_saved, self._on_failed = on_begun, on_saved, on_failed
        self._saves: deque[SaveState] = deque()
        self._changed = asyncio.Event()
        self._previous: CheckpointId | None = None
        self._links = 0
        self._saving = 0
        self.state_bytes = 0
        """How much the newest save that holds everything has, with those behind it; 0 before there is one."""

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
                    began = self._clock.monotonic()
                    saved = await self._save(effect)
                    self._saving = 0
                    self._on_saved(replace(saved, seconds=self._clock.monotonic() - began))
        except _Unusable as unusable:
            self._on_failed(str(unusable), True)
        except LogDamaged as damaged:
            self._on_failed(str(damaged), isinstance(damaged, BaseDamaged))

    # -- begin -------------------------------------------------------------------------------------------------

    async def _begin(self) -> Beginning:
        pause, failed_at = LOOK_SECONDS_MIN, None
        if self._inherit is not None:
            self._inherited = await self._inherit()
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
            except BaseDamaged as damaged:  # and marked: there is none before it in this generation
                raise _Unusable(str(damaged)) from damaged
            except LogDamaged:
                raise
            except StoreError as failed:
                self._log.warning("store_failed", reason=str(failed), retry_seconds=pause)
            await wait_changed(self._changed, pause)
            pause = min(2 * pause, LOOK_SECONDS_MAX if self._inherited is None else LOOK_SECONDS_SOON)

    async def _loaded(self, base: Base) -> Beginning:
        """The state as of a base. What was inherited is used up, whatever becomes of it."""
        state, self._inherited = self._inherited, None
        how = "loaded"
        if state is None:
            state = await self._loader.load(base)
        elif state.runs and self._loader.is_exactly(state, base):
            how = "kept"
        else:
            how = "loaded" if state.runs else "prepared"
            state = await self._loader.follow(state, base)
        if state.links:
            self._previous, self._links = state.checkpoints[0], state.links
            self.state_bytes = state.size_bytes
        goes_on = self._previous is not None
        return Beginning(
            state.executor,
            base.epoch,
            base.subscriptions,
            state.entries,
            goes_on,
            how=how,
            read=self._loader.read,
        )

    def left(self, executor: Executor, epoch: int) -> LoadedState | None:
        """What whoever comes in this node's place can go on with, if that is the state that was saved last."""
        if self._previous is None or self._previous.epoch != epoch or self._saves or self._saving:
            return None
        return LoadedState(
            executor, epoch, (self._previous,), size_bytes=self.state_bytes, links=self._links, runs=True
        )

    # -- save --------------------------------------------------------------------------------------------------

    async def _save(self, effect: SaveState) -> SavedState:
        which = CheckpointId(self._node, effect.epoch, self._generation)
        self._links = 1 if effect.everything else self._links + 1
        tables: list[TableBlob] = []
        async for change in self._turns.through(effect.changes):
            if change is not None:
                name = self._tables[change.table].name
                tables.append(TableBlob(name, _blob(change.puts), _blob(change.deletes)))
        checkpoint = Checkpoint(
            self._plan.name,
            which,
            self._plan.fingerprint,
            None if effect.everything else self._previous,
            self._links,
            tuple(tables),
        )
        written = await write_checkpoint(self._store, checkpoint, self._log)
        self._previous = which
        size = written.size_bytes
        whole = effect.everything
        self.state_bytes = size if whole else self.state_bytes + size
        self._log.debug("saved", epoch=effect.epoch, bytes=size, entries=written.entries, everything=whole)
        return SavedState(effect.epoch, 0 if whole else size, size if whole else 0)


def _blob(batch: Batch) -> BatchBlob | None:
    blob = batch.to_blob()
    return blob if blob.row_count else None


class _Unusable(Exception):
    """The state to begin with cannot be read, and is marked."""
