"""Bugs in what a program saves, keeps for others, collects and divides: see `planted.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.kept import Touched
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import interval
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import Saved
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.stored import Base, BaseId, CheckpointId
from dist_zero_common.store.layout import checkpoint_of_name, checkpoints_prefix, number_of, records_prefix
from services.node_runner import collection, loading
from services.node_runner.collection import BaseReach, Links
from services.node_runner.keeping import Beginning, NodeKeeping, SavedState
from services.node_runner.kernel import NodeKernel
from services.node_runner.loading import Predecessor
from services.node_runner.saving import Saving
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import RecordThere, ShardSaved
from services.node_runner.sequencing import HostedSequencer
from services.node_runner.sessions import Sessions

Patch = pytest.MonkeyPatch


class Payment(dz.Row):
    id: int
    amount: int


def _with_loose_state() -> dz.Program:
    app = dz.Program("loose")
    payments = app.dataset("payments", Payment, key="id")
    app.view("total", payments.group_by().agg(n=dz.count(), total=dz.sum("amount"), most=dz.max("amount")))
    return app


LOOSE = _with_loose_state()
"""A program whose nodes keep counts and sums that belong to no hash."""


# ---- what is kept for others -------------------------------------------------------------------------------


def own_rows_are_forgotten_when_finished(patch: Patch) -> None:
    """A node drops what it sent for an epoch when it has finished that itself."""
    original = NodeKernel._finish

    def finish(self: NodeKernel, e: int, *arguments: Any) -> None:
        original(self, e, *arguments)
        for key in [key for key in self._sent if key[0] <= e]:
            del self._sent[key]

    patch.setattr(NodeKernel, "_finish", finish)


def hand_outs_are_forgotten_when_finished(patch: Patch) -> None:
    """A sequencer drops a hand-out when all have finished it, whether that is saved or not."""
    original = Sequencer._count_finished

    def count_finished(self: Sequencer) -> None:
        original(self)
        self._handing_out.forget(self.finished)

    patch.setattr(Sequencer, "_count_finished", count_finished)


# ---- bases -------------------------------------------------------------------------------------------------


def a_base_when_the_first_has_saved(patch: Patch) -> None:
    """A base is written when one node has saved its state, not when all have."""
    original = Saving.next_base

    def next_base(self: Saving) -> Base | None:
        saved, self._saved = self._saved, [max(self._saved)] * len(self._saved)
        try:
            return original(self)
        finally:
            self._saved = saved

    patch.setattr(Saving, "next_base", next_base)


def saved_counts_across_generations(patch: Patch) -> None:
    """A sequencer takes what nodes of older generations have saved for saved."""

    def on_saved(self: HostedSequencer, shard: int, _generation: int, saved: SavedState) -> None:
        if shard < len(self._host.shard_map.nodes):
            self._handle(ShardSaved(shard, saved.epoch, saved.changed_bytes, saved.state_bytes))

    original = HostedSequencer._on_node_message

    def on_message(self: HostedSequencer, message: Message, token: Token) -> None:
        if isinstance(message, Saved):
            message = replace(message, generation=self._generation)
        original(self, message, token)

    patch.setattr(HostedSequencer, "on_saved", on_saved)
    patch.setattr(HostedSequencer, "_on_node_message", on_message)


def a_base_without_sessions(patch: Patch) -> None:
    """The table of clients is not put into the base."""
    patch.setattr(Sessions, "as_of_now", lambda _self: ())


def a_base_without_subscriptions(patch: Patch) -> None:
    """Who watches is not put into the base."""
    original = Saving.freeze

    def freeze(self: Saving, record: Any, sessions: Any, _subscriptions: Any) -> None:
        original(self, record, sessions, ())

    patch.setattr(Saving, "freeze", freeze)


def a_node_begins_at_its_own_newest_save(patch: Patch) -> None:
    """A node goes on from what it saved last, where no base is yet: it cannot send what its peers begin behind."""
    original = NodeKeeping._loaded

    async def loaded(self: NodeKeeping, base: Base) -> Beginning:
        names = await self._store.list(checkpoints_prefix(self._plan.name))
        found = [which for name in names if (which := own_save(self, name)) and which.epoch > base.epoch]
        if found and base.saved_map is None:
            newest = max(found, key=lambda which: which.epoch)
            saves = tuple(newest if each.node == newest.node else each for each in base.checkpoints)
            base = replace(base, epoch=newest.epoch, checkpoints=saves)
        return await original(self, base)

    def own_save(self: NodeKeeping, name: str) -> CheckpointId | None:
        which, is_manifest = checkpoint_of_name(self._plan.name, name) or (None, False)
        own = which is not None and (which.node, which.generation) == (self._node, self._generation)
        return which if own and is_manifest else None

    patch.setattr(NodeKeeping, "_loaded", loaded)


def a_save_loses_the_last_epoch(patch: Patch) -> None:
    """A save of changes leaves out what only the epoch at which it was taken has touched."""
    finish, save = Interpreter.finish, Interpreter.freeze
    behind: dict[Interpreter, list[list[dict[Any, Any] | None]]] = {}

    def noted_by(kept: Any) -> dict[Any, Any] | None:
        return dict(kept.keys) if isinstance(kept, Touched) and kept.keys is not None else None

    def finished(self: Interpreter, epoch: int) -> Any:
        changes = finish(self, epoch)
        behind[self] = [*behind.get(self, [])[-1:], [noted_by(kept) for kept in self._kept]]
        return changes

    def saved(self: Interpreter, everything: bool) -> Any:
        if not everything and len(behind.get(self, [])) == 2:
            for kept, keys in zip(self._kept, behind[self][0], strict=True):
                if keys is not None and isinstance(kept, Touched):
                    kept.keys = keys
        behind.pop(self, None)
        return save(self, everything)

    patch.setattr(Interpreter, "finish", finished)
    patch.setattr(Interpreter, "freeze", saved)


# ---- generations and collection ----------------------------------------------------------------------------


def a_generation_without_a_record(patch: Patch) -> None:
    """A sequencer writes the base of a generation that no record of the log has opened."""
    original = Sequencer.__init__

    def init(self: Sequencer, **arguments: Any) -> None:
        original(self, **{**arguments, "opened": True})

    patch.setattr(Sequencer, "__init__", init)


def a_collected_slot_is_believed(patch: Patch) -> None:
    """A sequencer does not look for a newer base when its record is there."""
    original = Sequencer._on_record

    def on_record(self: Sequencer, event: RecordThere, effects: Any) -> None:
        older = tuple(base for base in event.bases if base.epoch < event.record.epoch)
        original(self, replace(event, bases=older or (BaseId(0, 0),)), effects)

    patch.setattr(Sequencer, "_on_record", on_record)


def chains_are_collected(patch: Patch) -> None:
    """Of the checkpoints, only those that the bases name are kept, and not those that these go on from."""

    def reached(bases: Iterable[BaseReach], _links: Links) -> dict[CheckpointId, None]:
        return dict.fromkeys(which for base in bases for which in base.checkpoints)

    patch.setattr(collection, "reached", reached)


def records_behind_the_older_base_are_collected(patch: Patch) -> None:
    """The log goes up to the newest base, so that the older one has none behind it."""
    original = collection.unreached

    def unreached(
        program: str, names: Iterable[str], newest: BaseReach, older: BaseReach, links: Links
    ) -> list[list[str]]:
        names = list(names)
        bases, records, manifests, parts = original(program, names, newest, older, links)
        prefix = records_prefix(program)
        records = [n for n in names if n.startswith(prefix) and number_of(n) <= newest.epoch]
        return [bases, records, manifests, parts]

    patch.setattr(collection, "unreached", unreached)


# ---- other shard maps --------------------------------------------------------------------------------------


def _predecessors(change: Callable[[Predecessor, ShardMap, int], Predecessor]) -> Callable[[Patch], None]:
    original = loading.predecessors

    def plant(patch: Patch) -> None:
        def predecessors(base: Base, shard_map: ShardMap, shard: int) -> list[Predecessor]:
            return [change(each, shard_map, shard) for each in original(base, shard_map, shard)]

        patch.setattr(loading, "predecessors", predecessors)

    return plant


def _of_the_next(found: Predecessor, shard_map: ShardMap, shard: int) -> Predecessor:
    first, last = interval(shard_map, (shard + 1) % len(shard_map.nodes))
    return found if found.keep is None else replace(found, keep=lambda key_hash: first <= key_hash <= last)


loose_state_for_every_successor = _predecessors(lambda found, _map, _shard: replace(found, loose=True))
loose_state_for_none = _predecessors(
    lambda found, _map, _shard: found if found.is_same else replace(found, loose=False)
)
successors_keep_everything = _predecessors(lambda found, _map, _shard: replace(found, keep=None))
successors_keep_what_is_the_next_ones = _predecessors(_of_the_next)
