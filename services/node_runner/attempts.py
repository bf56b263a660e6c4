"""An epoch on which the whole process of a runner dies, again and again: counted in the store, and refused in the end.

What an executor raises is caught, and its node stands still. What kills the process (a crash of the interpreter, no
memory left) or makes it hang nobody catches, and the node begins again elsewhere, at its base, and comes to the same
epoch. It would take down one runner after the other, with everybody else's nodes on them.

So whoever begins again counts, and nobody else writes anything:

- A node that begins where the log has transactions behind the base may be going over them for the first time or not. It
  leaves one mark, under the base's epoch, and takes it away when it is through with what was there when it began.
- A node that finds a mark of an earlier incarnation knows that one was not through. It goes over the same epochs
  *carefully*: it leaves a mark of the step before each step of an epoch, and takes it away behind it. On one runner one
  node at a time takes careful steps, so of the marks that a dead process leaves one is of the step that it died in.
- An epoch with two marks of steps was tried three times, the first one included. There the node stands still.

A process that dies of something else in the midst of a careful step leaves a mark, too; it would have to do so twice at
the same epoch to be taken for this. Marks from before a transaction was voided are of a computation that there will not
be again, and do not count. What does not count any more, the next sequencer that starts takes away.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dist_zero_common.errors import LogDamaged, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.stored import (
    LogRecord,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    attempt_name,
    attempts_prefix,
    generation_and_epoch_of,
    is_attempt_at_step,
)
from services.node_runner.epoch_log import EpochLog

TRIES_MAX = 3
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """How a node goes over what is behind its base. `until`: the newest epoch that may have been tried before, 0 for
    none; `careful`: whether each step is marked; `refused`: the epoch to stand still on, 0 for none."""

    until: int = 0
    careful: bool = False
    refused: int = 0


NO_TRIAL = Trial()


@dataclass(frozen=True, slots=True)
class Mark:
    """An incarnation of the node was going over something behind the base of this epoch, or with `step` was in a step
    of the epoch itself: not the same to whoever begins at an older base, because this one is damaged."""

    epoch: int
    incarnation: int
    step: bool = False


def judged(marks: list[Mark], base: int, newest: int) -> Trial:
    """What follows from marks of other incarnations, with this base, where `newest` is the end of the log. Pure."""
    tried: dict[int, int] = {}
    for mark in marks:
        if mark.step and mark.epoch > base:
            tried[mark.epoch] = tried.get(mark.epoch, 0) + 1
    refused = [epoch for epoch, count in tried.items() if count >= TRIES_MAX - 1]
    return Trial(newest, careful=any(mark.epoch >= base for mark in marks), refused=min(refused, default=0))


class Attempts:
    """Those of one incarnation of a node."""

    def __init__(self, store: Store, program: str, node: str, incarnation: int, log: Logger) -> None:
        self._store, self._program, self._node, self._log = store, program, node, log
        self._incarnation = incarnation
        self._marks: list[Mark] = []
        """What is to be taken away when the node is through."""

    async def begin(self, base: int) -> Trial:
        """Look for marks, and leave one if need be. Raises `StoreError`. Of a log that cannot be read the sequencer has
        more to say than a node."""
        try:
            return await self._begin(base)
        except LogDamaged:
            return NO_TRIAL

    async def _begin(self, base: int) -> Trial:
        log = EpochLog(self._store, self._program, self._log)
        names = await self._store.list(attempts_prefix(self._program, self._node))
        marks = [self._mark_of(name) for name in names]
        others = [mark for mark in marks if mark.incarnation != self._incarnation and mark.epoch >= base]
        records = await self._behind(log, base, everything=bool(others))
        voided = max((record.generation for record in records if record.voids), default=-1)
        counted = [mark for mark in others if mark.incarnation > voided]
        self._marks = marks
        if counted:
            trial = judged(counted, base, records[-1].epoch if records else base)
            self._log.warning("goes_carefully", base=base, until=trial.until, refused=trial.refused)
            return trial
        if not any(record.transactions for record in records):
            await self.clear()
            return NO_TRIAL
        await self._create(Mark(base, self._incarnation))
        return Trial(records[-1].epoch)

    def _mark_of(self, name: str) -> Mark:
        step = is_attempt_at_step(name, self._program, self._node)
        return Mark(*generation_and_epoch_of(name), step)

    def _name_of(self, mark: Mark) -> str:
        return attempt_name(self._program, self._node, mark.epoch, mark.incarnation, mark.step)

    async def _behind(self, log: EpochLog, base: int, everything: bool) -> list[LogRecord]:
        """The records behind the base; unless everything is asked for, those up to the first one that has transactions,
        and the last one."""
        records: list[LogRecord] = []
        epoch = base + 1
        while (record := await log.read(epoch)) is not None:
            records.append(record)
            epoch += 1
            if record.transactions and not everything:
                newest = await log.newest_epoch()
                last = await log.read(newest) if newest >= epoch else None
                return [*records, last] if last is not None else records
        return records

    async def mark(self, epoch: int) -> None:
        """Say that the node begins a careful step of this epoch, for as long as it takes."""
        while True:
            try:
                await self._create(Mark(epoch, self._incarnation, step=True))
                return
            except StoreError as failed:
                self._log.warning("store_failed", epoch=epoch, reason=str(failed))
                await asyncio.sleep(_RETRY_SECONDS)

    async def unmark(self, epoch: int) -> None:
        """Say that the step is done."""
        await self._delete(Mark(epoch, self._incarnation, step=True))

    async def clear(self) -> None:
        """The node is through: nothing that was tried before is on its way any more."""
        marks, self._marks = self._marks, []
        for mark in marks:
            await self._delete(mark)

    async def _create(self, mark: Mark) -> None:
        await self._store.create(self._name_of(mark), b"begun")
        if mark not in self._marks:
            self._marks.append(mark)

    async def _delete(self, mark: Mark) -> None:
        try:
            await self._store.delete(self._name_of(mark))
        except StoreError as failed:  # it counts too much then, once
            self._log.warning("store_failed", epoch=mark.epoch, reason=str(failed))
