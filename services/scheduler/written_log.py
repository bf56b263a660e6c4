"""The schedulers' log in the store: reading it, claiming the lead, writing down what was decided.

Whatever the store answers to a write, the record that is there counts: it is read back, for as long as it takes. It may
be another scheduler's: then this one does not lead, or not any more (`Deposed`). It may be an older one of its own that
says something else than was meant now: then that was decided, and what is meant is written behind it.

Old records are collected, so a place that somebody has taken may look free to a scheduler that slept. Therefore each
write is followed by a look at the newest record there is: if that is a later one, this scheduler is deposed, too, and
what it wrote stands where nobody reads and the next collection finds it. Such a look is also what `check` costs.
"""

from __future__ import annotations

import asyncio

from dist_zero_common.errors import DistZeroError, LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import pause_seconds
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.stored import (
    RecordedMachines,
    SchedulerRecord,
)
from dist_zero_common.store.base import Created, Store
from dist_zero_common.store.layout import number_of, scheduler_log_prefix, scheduler_record_name
from services.scheduler.log import LogState, Programs, claim_after, folded, record_after, with_record
from services.scheduler.programs import known_before_the_log

READS_MAX = 20
"""So often records are gone that were just listed before the store is said to lose them."""


class Deposed(DistZeroError):
    """Another scheduler leads, or may; its message says why."""


class WrittenLog:
    """The log as one scheduler sees it. `name` is unique to its process."""

    def __init__(self, store: Store, name: str, log: Logger) -> None:
        self.name = name
        self.state = LogState()
        """What the log said when it was last read, or written to."""
        self._store, self._log = store, log
        self._one_at_a_time = asyncio.Lock()
        self._collected = 0

    async def load(self) -> LogState:
        """Read the log. Raises `StoreError`, of which `LogDamaged` means that it is no use to try again."""
        for _ in range(READS_MAX):
            names = await self._store.list(scheduler_log_prefix())
            if not names:
                self.state = await known_before_the_log(self._store)
                return self.state
            records = await self._read_back_to_complete(names)
            if records is not None:
                self.state = folded(reversed(records))
                return self.state
        raise LogDamaged(f"the store lists {names[-1]}, and records before it are gone while they are read")

    async def _read_back_to_complete(self, names: list[str]) -> list[SchedulerRecord] | None:
        """The newest complete record and what is behind it, the newest first, or None when they were collected
        meanwhile."""
        records = []
        for name in reversed(names):
            record = await self._read(number_of(name))
            if record is None:
                return None
            records.append(record)
            if record.complete:
                break
        return records

    async def claim(self, *, afresh: bool) -> bool:
        """Claim the lead behind what was loaded last; whether it was given. `afresh`: nothing is to run that was
        decided to run before. Raises `StoreError` when what is there cannot be read."""
        record = claim_after(self.state, self.name, afresh=afresh)
        async with self._one_at_a_time:
            try:
                there = await self._put(record)
            except Deposed:
                return False
        if there != record:
            return False
        self.state = folded([record])
        return True

    async def write(self, programs: Programs, machines: RecordedMachines) -> None:
        """See to it that the log says that this is decided. Raises `Deposed`, and `LogDamaged`."""
        async with self._one_at_a_time:
            while (record := record_after(self.state, programs, machines)) is not None:
                there = await self._put(record)
                if there.scheduler != self.state.leader:
                    raise Deposed(f"scheduler {there.scheduler} leads: it has written record {there.number}")
                self.state = with_record(self.state, there)

    async def check(self) -> None:
        """Make sure that nobody else had claimed the lead when this was called. Raises `Deposed`, and `StoreError` when
        the store does not say."""
        async with self._one_at_a_time:
            await self._look_behind(self.state.number)

    async def collect(self) -> None:
        """Remove the records before the newest complete one. Raises `StoreError`; what is left goes the next time."""
        complete = self.state.complete
        if self._collected >= complete:
            return
        for name in await self._store.list(scheduler_log_prefix()):
            if number_of(name) < complete:
                await self._store.delete(name)
        self._collected = complete

    async def _put(self, record: SchedulerRecord) -> SchedulerRecord:
        """Create this record; returns the one that is there afterwards. Raises `Deposed` when the log has gone on
        behind that."""
        name, data = scheduler_record_name(record.number), encode(record)
        failures = 0
        while True:
            try:
                created = await self._store.create(name, data)
                there = record if created is Created.NEW else await self._read(record.number)
                await self._look_behind(record.number)
                if there is not None:
                    return there
            except LogDamaged:
                raise
            except StoreError as failed:
                failures += 1
                self._log.warning("scheduler_record_unsure", record=record.number, reason=str(failed))
                await asyncio.sleep(pause_seconds(self.name, failures))

    async def _look_behind(self, number: int) -> None:
        """Raises `Deposed` unless this record is the newest."""
        names = await self._store.list(scheduler_log_prefix())
        if not names or number_of(names[-1]) != number:
            raise Deposed(f"another scheduler has written behind record {number} of the log")

    async def _read(self, number: int) -> SchedulerRecord | None:
        name = scheduler_record_name(number)
        data = await self._store.read(name)
        if data is None:
            return None
        try:
            record = decode(SchedulerRecord, data)
        except MalformedMessage as damaged:
            raise LogDamaged(
                f"the object {name} in the store is damaged: {damaged}. No scheduler can lead before it is brought back"
                " from a copy of the store"
            ) from damaged
        if record.number != number:
            raise LogDamaged(f"the object {name} says that it is record {record.number}")
        return record
