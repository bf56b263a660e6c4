"""A program's log and bases in the store: loading, and the append that decides what an epoch is."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from dist_zero_common.errors import MalformedMessage, StoreError
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages import Base, LogRecord
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import base_name, bases_prefix, number_of, record_name

_RETRY_SECONDS_FIRST, _RETRY_SECONDS_MAX = 0.1, 5.0

T = TypeVar("T")


class EpochLog:
    """The log of one program. Reading trusts nothing: damaged or missing records are a `StoreError` that names them."""

    def __init__(self, store: Store, program: str) -> None:
        self._store, self._program = store, program

    async def newest_base(self) -> int:
        """The epoch of the newest base."""
        names = await self._store.list(bases_prefix(self._program))
        if not names:
            raise StoreError(
                f"the store has no base of the program {self._program!r}: it was never created there"
            )
        return number_of(names[-1])

    async def load(self) -> tuple[Base, list[LogRecord]]:
        """The newest base and the records behind it, in order."""
        epoch = await self.newest_base()
        base = await self._read(Base, base_name(self._program, epoch))
        if base is None:
            raise StoreError(f"base {epoch} of the program {self._program!r} was listed but is not there")
        records: list[LogRecord] = []
        while (record := await self.read(epoch + 1)) is not None:
            records.append(record)
            epoch += 1
        return base, records

    async def read(self, epoch: int) -> LogRecord | None:
        """The record of `epoch`, or None when there is none."""
        record = await self._read(LogRecord, record_name(self._program, epoch))
        if record is not None and record.epoch != epoch:
            raise StoreError(
                f"the record of epoch {epoch} of {self._program!r} says that it is of epoch {record.epoch}"
            )
        return record

    async def append(self, record: LogRecord) -> tuple[LogRecord, int]:
        """Create `record`; returns the record that is there afterwards, and the newest base.

        What the store answers to the write is not believed: the record is read back, for as long as it takes the
        store to say what is there.
        """
        name, data = record_name(self._program, record.epoch), encode(record)
        delay = _RETRY_SECONDS_FIRST
        while True:
            try:
                await self._store.create(name, data)
                there = await self.read(record.epoch)
                if there is not None:
                    return there, await self.newest_base()
            except StoreError:
                pass  # the outcome is unknown; the next round looks again
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _read(self, kind: type[T], name: str) -> T | None:
        data = await self._store.read(name)
        if data is None:
            return None
        try:
            return decode(kind, data)
        except MalformedMessage as damaged:
            raise StoreError(f"the object {name} in the store is damaged: {damaged}") from damaged
