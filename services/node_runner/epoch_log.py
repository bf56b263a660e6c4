"""A program's log and bases in the store: loading, and the append that decides what an epoch is."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from dist_zero_common.errors import LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages import Base, LogRecord
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    base_name,
    bases_prefix,
    number_of,
    record_name,
    records_prefix,
)

_RETRY_SECONDS_FIRST, _RETRY_SECONDS_MAX = 0.1, 5.0

T = TypeVar("T")


class EpochLog:
    """The log of one program. Reading trusts nothing: a damaged or missing record is `LogDamaged`, which names it."""

    def __init__(self, store: Store, program: str, log: Logger) -> None:
        self._store, self._program, self._log = store, program, log

    async def newest_base(self) -> int:
        """The epoch of the newest base."""
        names = await self._store.list(bases_prefix(self._program))
        if not names:
            raise StoreError(
                f"the store has no base of the program {self._program!r}: it was never created there"
            )
        return number_of(names[-1])

    async def load(self) -> tuple[Base, list[LogRecord]]:
        """The newest base and the records behind it, in order. The newest one is the end of the log: a record that is
        missing before it is lost, and must not be taken for the end."""
        epoch = await self.newest_base()
        base = await self._read(Base, base_name(self._program, epoch))
        if base is None:
            raise LogDamaged(
                f"the object {base_name(self._program, epoch)} was listed and is not there: the store loses what it has"
            )
        listed = await self._store.list(records_prefix(self._program))
        newest = number_of(listed[-1]) if listed else epoch
        records: list[LogRecord] = []
        while (record := await self.read(epoch + 1)) is not None:
            records.append(record)
            epoch += 1
        if epoch < newest:
            raise LogDamaged(
                f"the object {record_name(self._program, epoch + 1)} is missing from the store, which has later ones"
                f" up to epoch {newest}: the log of {self._program!r} cannot be read beyond epoch {epoch}. Bring the"
                " object back from a copy of the store"
            )
        return base, records

    async def read(self, epoch: int) -> LogRecord | None:
        """The record of `epoch`, or None when there is none."""
        record = await self._read(LogRecord, record_name(self._program, epoch))
        if record is not None:
            self._check_epoch(record, epoch)
        return record

    async def append(self, record: LogRecord) -> tuple[LogRecord, int]:
        """Create `record`; returns the record that is there afterwards, and the newest base.

        What the store answers to the write is not believed: the record is read back, for as long as it takes the
        store to say what is there; each failure is logged with its reason. What has all bytes of `record` is
        `record`, and need not be decoded. Raises `LogDamaged` if what is there is no record.
        """
        name, data = record_name(self._program, record.epoch), encode(record)
        delay = _RETRY_SECONDS_FIRST
        while True:
            try:
                await self._store.create(name, data)
                found = await self._store.read(name)
                if found is not None:
                    there = record if found == data else self._decoded(LogRecord, name, found)
                    self._check_epoch(there, record.epoch)
                    return there, await self.newest_base()
            except LogDamaged:
                raise
            except StoreError as failed:  # the outcome is unknown; the next round looks again
                self._log.warning("store_failed", epoch=record.epoch, reason=str(failed), retry_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _read(self, kind: type[T], name: str) -> T | None:
        data = await self._store.read(name)
        return None if data is None else self._decoded(kind, name, data)

    def _check_epoch(self, record: LogRecord, epoch: int) -> None:
        if record.epoch != epoch:
            raise LogDamaged(
                f"the object {record_name(self._program, epoch)} says that it is of epoch {record.epoch}"
            )

    def _decoded(self, kind: type[T], name: str, data: bytes) -> T:
        try:
            return decode(kind, data)
        except MalformedMessage as damaged:
            raise LogDamaged(f"the object {name} in the store is damaged: {damaged}") from damaged
