"""Filling the views of a program that takes the place of another: the sequencer's part of it. Pure.

Records say how many slices are filled from their epochs on. One *step* at a time is under way: the next one waits
until all nodes have finished the epoch of the one before, so a step is all that filling adds to what nodes have to
keep. It is as many slices as are about as large as a record may be, as far as the size of the state is known, and at
least one. A record of another change, of a generation before this one began, says nothing here.
"""

from __future__ import annotations

from dist_zero_common.protocol.stored import Base, LogRecord


def slices_at_once(slices: int, state_bytes: int, fill_bytes: int) -> int:
    """How many slices of a state of this size are a step of about `fill_bytes`."""
    return max(1, min(slices, slices * fill_bytes // max(1, state_bytes)))


class Filling:
    """How far it is."""

    def __init__(self, base: Base, slices: int, step: int = 1) -> None:
        """`slices`: how many there are, none if the program takes nobody's place; so many are filled in a `step`."""
        self.slices, self._step = slices, step
        self.filled = min(base.filled, slices)
        self._since = base.filled_since
        self._epoch = base.epoch
        """In which the newest slice was filled."""
        self._is_based = self.filled >= slices

    def take(self, record: LogRecord) -> range:
        """The slices that a record of the log fills."""
        before = self.filled
        if record.generation >= self._since:
            self.filled = max(before, min(record.filled, self.slices))
        if self.filled > before:
            self._epoch = record.epoch
        return range(before, self.filled)

    def next(self, finished: int) -> int:
        """How many are filled from the next record on, when all nodes have finished this epoch."""
        return min(self.slices, self.filled + self._step) if finished >= self._epoch else self.filled

    def on_base(self, epoch: int) -> None:
        """There is a base of this epoch."""
        self._is_based = self._is_based or (self.filled >= self.slices and epoch >= self._epoch)

    @property
    def told(self) -> int:
        """How many are filled, of which the last one counts when a base has it."""
        return self.filled if self._is_based else min(self.filled, self.slices - 1)
