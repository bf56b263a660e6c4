"""What the parts of one program on a runner have done, counted where it is done: per epoch, per save, never per row.

The counts outlive nodes and sequencers that come and go, so they only ever grow while the process lives.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dist_zero_common.metrics import Durations


@dataclass(slots=True)
class Counts:
    """Of one program. `begun`: nodes that have begun, by how; `changed`: rows that views gained or lost;
    `rows` and `rows_replayed`: rows that were handed out, by dataset."""

    begun: Counter[str] = field(default_factory=Counter)
    begun_again: int = 0
    asked_again: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    checkpoint_bytes: int = 0
    checkpoint_seconds: Durations = field(default_factory=Durations)
    epochs: int = 0
    transactions: int = 0
    transaction_bytes: int = 0
    generations: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    rows_replayed: Counter[str] = field(default_factory=Counter)
    epoch_seconds: Durations = field(default_factory=Durations)
    commit_seconds: Durations = field(default_factory=Durations)


@dataclass(frozen=True, slots=True)
class Use:
    """What a process takes of its machine: the processor time that it has had, and the memory that it has now."""

    cpu_us: int = 0
    memory_bytes: int = 0


@dataclass(slots=True)
class Unsaved:
    """Since when there is something that no save covers: epochs that a node has finished and not saved, or that a log
    has and no base. Times are of one monotonic clock, in seconds."""

    since: float | None = None
    _begun: dict[int, float] = field(default_factory=dict)
    """By epoch: when the saves began that are not there yet."""

    def moved(self, now: float) -> None:
        """There is a further epoch."""
        if self.since is None:
            self.since = now

    def begin(self, epoch: int, now: float) -> None:
        """What is behind this epoch will not be covered by the save that begins now."""
        self._begun[epoch] = now

    def saved(self, epoch: int, newest: int, now: float) -> None:
        """A save of this epoch is there, and the newest epoch is `newest`."""
        began = self._begun.get(epoch, now)
        self._begun = {each: at for each, at in self._begun.items() if each > epoch}
        self.since = began if newest > epoch else None

    def seconds(self, now: float) -> float:
        """For how long, 0 for not at all."""
        return max(0.0, now - self.since) if self.since is not None else 0.0
