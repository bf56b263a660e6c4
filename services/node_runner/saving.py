"""When a program's state is saved, and when that makes a base: the sequencer's part of it. Pure.

A base of epoch e needs the state of every node as of e, and what a sequencer has to know of the log up to e. The
latter is frozen when the record of e is taken, because by the time that all nodes have saved the log has gone on.

**How much a save writes.** Usually what changed since the one before, so that its cost follows the changes. Reading a
state means to read all saves back to one that holds everything, so everything is saved again when the changes since
then hold twice as much as the state itself, or when there are too many saves: the first bounds what a start has to
read to three times the state, and costs half as much again as the changes; the second bounds the number of objects.
The record of the epoch says which it is, so that every incarnation of a node writes the same.
"""

from __future__ import annotations

from dataclasses import replace

from dist_zero_common.protocol.messages.epochs import SubscriptionWanted
from dist_zero_common.protocol.stored import (
    Base,
    BaseSession,
    CheckpointId,
    LogRecord,
)
from services.node_runner.checkpoints import LINKS_MAX
from services.node_runner.sequencer_events import SequencerOptions, ShardSaved

EVERYTHING_FACTOR = 2
EVERYTHING_BYTES_MIN = 2**20
"""However small a state is, its changes may hold this much before it is saved as a whole."""
CHAIN_MAX = LINKS_MAX - 3
"""So many saves in a row hold changes only; for a sequencer that begins anew does not know of the last one or two, and
the end of a generation is one more."""


class Saving:
    """What was saved by whom since the newest base."""

    def __init__(self, base: Base, options: SequencerOptions) -> None:
        self.base_epoch = base.epoch
        self._base, self._options = base, options
        self._saved = [base.epoch] * len(base.shard_map.nodes)
        self._frozen: dict[int, Base] = {}
        self._writing = False
        self._bytes_since_save = 0
        self._saves = base.saves
        self._changed_bytes = list(base.changed_bytes) or [0] * len(base.shard_map.nodes)
        self._state_bytes = list(base.state_bytes) or [0] * len(base.shard_map.nodes)

    # -- records -----------------------------------------------------------------------------------------------

    @property
    def has_enough(self) -> bool:
        """Whether so much was recorded since the last save that the next epoch has to be one: what is handed out
        behind the base is bounded, so there has to be a save within the bound."""
        return self._bytes_since_save > self._options.behind_bytes // 4

    def wants_everything(self, is_end: bool) -> bool:
        """Whether the next save shall hold everything. That is put off at the end of a generation, because all wait
        until whoever was prepared has read that save; once, if there are too many."""
        if self._saves >= CHAIN_MAX:
            return not is_end or self._saves > CHAIN_MAX
        return not is_end and any(
            changed > max(EVERYTHING_FACTOR * state, EVERYTHING_BYTES_MIN)
            for changed, state in zip(self._changed_bytes, self._state_bytes, strict=True)
        )

    def on_record(self, record: LogRecord, size_bytes: int) -> None:
        """A record is there, with so many bytes of transactions."""
        self._bytes_since_save = 0 if record.save else self._bytes_since_save + size_bytes
        if record.save:
            self._saves = 0 if record.everything else self._saves + 1
        if record.everything:
            self._changed_bytes = [0] * len(self._changed_bytes)

    def freeze(
        self,
        record: LogRecord,
        sessions: tuple[BaseSession, ...],
        subscriptions: tuple[SubscriptionWanted, ...],
        filled: int = 0,
    ) -> None:
        """Keep what the base of this epoch would have to say."""
        generation = self._base.generation
        self._frozen[record.epoch] = replace(
            self._base,
            epoch=record.epoch,
            time_us=record.time_us,
            checkpoints=tuple(
                CheckpointId(node, record.epoch, generation) for node in self._base.shard_map.nodes
            ),
            sessions=sessions,
            subscriptions=subscriptions,
            saves=self._saves,
            saved_map=None,
            saved_fingerprint="",
            filled=filled,
        )

    # -- saves -------------------------------------------------------------------------------------------------

    def on_saved(self, event: ShardSaved) -> None:
        """A node's state is in the store; what is there stays there, whatever becomes of the node."""
        if event.epoch > self._saved[event.shard]:
            self._saved[event.shard] = event.epoch
            self._changed_bytes[event.shard] += event.changed_bytes
            self._state_bytes[event.shard] = event.state_bytes or self._state_bytes[event.shard]

    def first_base(self) -> Base | None:
        """The base of a generation that has none yet, once."""
        if self._writing:
            return None
        self._writing = True
        return self._base

    def next_base(self) -> Base | None:
        """The newest base that can be written, if it is newer than the last one and none is being written."""
        saved = min(self._saved)
        ready = [epoch for epoch in self._frozen if self.base_epoch < epoch <= saved]
        if self._writing or not ready:
            return None
        self._writing = True
        changed, state = tuple(self._changed_bytes), tuple(self._state_bytes)
        return replace(self._frozen[max(ready)], changed_bytes=changed, state_bytes=state)

    def on_base(self, epoch: int) -> None:
        """A base is there."""
        self._writing = False
        self.base_epoch = max(self.base_epoch, epoch)
        self._frozen = {e: base for e, base in self._frozen.items() if e > self.base_epoch}
