"""A program's log and bases in the store: loading, and the appends that decide what an epoch is.

**Bases and generations.** A base belongs to a generation, and the nodes of a generation begin at its newest base. A
generation is opened by a record of the log that names the base of an earlier one; after that record a copy of that base
is written under the new generation, which is what nodes wait for. So whoever opens a generation, and may be told late
that he is deposed, cannot make anybody begin at his base unless the log has his record.

An older sequencer that does not know of the opening yet may still write a base of its own generation, and may have
collected what the base before it reached. So the opening counts only if the base that it names is still the newest of
all earlier generations when the record is there; else it is opened again, at the newer one. From then on nothing is
collected that this base reaches: a sequencer collects only what its two newest bases do not reach, and only after it
has seen that there is no record behind its own newest one (`sequencing.py`).

**Damage.** A base that cannot be read, or refers to what cannot be read, gets a mark in the store, with the reason.
Nobody begins at a marked base, nor, if it refers to what cannot be read, at one of the same epoch in an earlier
generation, of which it may be a copy; a new generation begins at the newest of the others, and when it comes to that
epoch, it saves it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dist_zero.voids import void_transactions
from dist_zero_common.errors import BaseDamaged, LogDamaged, MalformedMessage, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.pieces import ShardMap, TransactionPlace
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    CheckpointId,
    LogRecord,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    all_attempts_prefix,
    base_name,
    bases_prefix,
    damaged_name,
    damaged_prefix,
    generation_and_epoch_of,
    number_of,
    record_name,
    records_prefix,
    unusable,
    voided_name,
)
from services.node_runner import changing
from services.node_runner.collection import BaseReach, collect
from services.node_runner.voiding import beginning, beginning_before, why_not_void

_RETRY_SECONDS_FIRST, _RETRY_SECONDS_MAX = 0.1, 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a sequencer begins with. `base` is under its own generation. `opened`: the log has the record that opens the
    generation; `based`: the store has its base. `later`: the newest generation there is, if that is a later one.
    `voids`: of the transactions that were to be void, those that the record that opens the generation has to name;
    `refused`: why others cannot be. `forgets`: that record says that readers begin again. `needs`: the program that was
    to run cannot begin at the base, and this one can. `state_bytes`: how large the state is, about."""

    base: Base
    origin: BaseId
    records: list[LogRecord]
    opened: bool
    based: bool
    later: int = 0
    voids: tuple[TransactionPlace, ...] = ()
    refused: str = ""
    forgets: bool = False
    needs: bytes = b""
    state_bytes: int = 0


class EpochLog:
    """The log of one program. Reading trusts nothing: a damaged or missing object is `LogDamaged`, which names it."""

    def __init__(self, store: Store, program: str, log: Logger) -> None:
        self._store, self._program, self._log = store, program, log
        self._links: dict[CheckpointId, CheckpointId | None] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    async def bases(self) -> list[BaseId]:
        """All bases, those of later generations behind those of earlier ones."""
        names = await self._store.list(bases_prefix(self._program))
        if not names:
            raise StoreError(
                f"the store has no base of the program {self._program!r}: it was never created there"
            )
        return [BaseId(*generation_and_epoch_of(name)) for name in names]

    async def usable_bases(self) -> list[BaseId]:
        """`bases` without those that are marked as damaged, and those of which they may be copies."""
        marks = await self._store.list(damaged_prefix(self._program))
        bases = await self.bases()
        return [each for each in bases if not unusable(self._program, marks, each.generation, each.epoch)]

    async def newest_base_of(self, generation: int) -> Base | None:
        """The base at which a node of this generation begins; None as long as there is none. Raises `BaseDamaged` when
        there was one, and it has a mark: who put that there may be gone, and nobody else knows yet."""
        marks = await self._store.list(damaged_prefix(self._program))
        own = [each for each in await self.bases() if each.generation == generation]
        usable = [each for each in own if not unusable(self._program, marks, each.generation, each.epoch)]
        if own and not usable:
            raise BaseDamaged(
                f"the bases of generation {generation} are marked as damaged, the last at {own[-1].epoch}"
            )
        return await self.read_base(usable[-1]) if usable else None

    async def load(
        self, generation: int, shard_map: ShardMap, voids: Sequence[TransactionPlace] = (), graph: bytes = b""
    ) -> Loaded:
        """What the sequencer of a generation begins with, if these transactions shall be void; one that was not opened
        yet is to have this shard map and to run this program, if not the one that there was. Of the records, the newest
        one is the end of the log: one that is missing before it is lost, and must not be taken for the end."""
        usable = await self.usable_bases()
        own = [each for each in usable if each.generation == generation]
        if own:
            base = await self.read_base(own[-1])
            records = await self._records_behind(base.epoch)
            return Loaded(
                base,
                own[-1],
                records,
                opened=True,
                based=True,
                later=_later(records, usable, generation),
                state_bytes=_state_bytes(base),
            )
        earlier = [each for each in usable if each.generation < generation]
        if not earlier:
            raise LogDamaged(
                f"every base of {self._program!r} is damaged; the marks under {damaged_prefix(self._program)} say why."
                " Bring the objects that they name back from a copy of the store, and remove the marks"
            )
        base = await self.read_base(earlier[-1])
        records = await self._records_behind(base.epoch)
        newest = records[-1].epoch if records else base.epoch
        there = [place for place in voids if place.epoch <= newest]  # not what is still to come
        begins, wanted, refused = _beginning(self._program, earlier, generation, records, there)
        if begins != earlier[-1]:
            base = await self.read_base(begins)
            records = await self._records_behind(base.epoch)
        openings = [each for each in records if each.generation == generation and each.begins == begins]
        opened = bool(openings)
        if openings and openings[-1].shard_map is not None:
            shard_map = openings[-1].shard_map
        before = remapped(replace(base, generation=generation), shard_map)
        begun = changing.begun(before, graph or base.graph)
        return Loaded(
            begun or before,
            begins,
            records,
            opened=opened,
            based=False,
            later=_later(records, usable, generation),
            voids=() if opened else wanted,
            refused=refused,
            forgets=not opened and changing.ends_reading(base.graph, graph or base.graph),
            state_bytes=_state_bytes(base),
            needs=b"" if begun is not None else changing.needed(base, graph),
        )

    async def read_base(self, wanted: BaseId) -> Base:
        """A base that was listed. Raises `BaseDamaged`, after marking it; or `LogDamaged`, if it is not there any
        more."""
        name = base_name(self._program, wanted.epoch, wanted.generation)
        try:
            base = await self._read(Base, name)
            if base is None:
                raise LogDamaged(f"the object {name} was listed and is not there")
            if (base.generation, base.epoch) != (wanted.generation, wanted.epoch):
                raise LogDamaged(
                    f"the object {name} says that it is epoch {base.epoch} of generation {base.generation}"
                )
        except LogDamaged as damaged:
            if wanted not in await self.bases():  # it was collected meanwhile
                raise
            await self.mark_damaged(wanted, str(damaged), alone=True)
            raise BaseDamaged(str(damaged)) from damaged
        return base

    async def mark_damaged(self, base: BaseId, reason: str, *, alone: bool = False) -> None:
        """Let nobody begin at this base any more: nor at one of which it may be a copy, unless the object `alone` is
        damaged, and not what it refers to."""
        self._log.error("base_damaged", epoch=base.epoch, base_generation=base.generation, reason=reason)
        name = damaged_name(self._program, base.epoch, base.generation, alone=alone)
        await self._store.create(name, reason.encode())

    async def read(self, epoch: int) -> LogRecord | None:
        """The record of `epoch`, or None when there is none."""
        record = await self._read(LogRecord, record_name(self._program, epoch))
        if record is not None:
            self._check_epoch(record, epoch)
        return record

    async def newest_epoch(self) -> int:
        """The newest epoch that has a record in the store, 0 if none has."""
        listed = await self._store.list(records_prefix(self._program))
        return number_of(listed[-1]) if listed else 0

    async def _records_behind(self, epoch: int) -> list[LogRecord]:
        newest = max(epoch, await self.newest_epoch())
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
        return records

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

    # -- writing -----------------------------------------------------------------------------------------------

    async def append(self, record: LogRecord) -> tuple[LogRecord, list[BaseId]]:
        """Create `record`; returns the record that is there afterwards, and the bases; of them the usable ones alone,
        if the record opens a generation.

        What the store answers to the write is not believed: the record is read back, for as long as it takes the
        store to say what is there; each failure is logged with its reason. What has all bytes of `record` is
        `record`, and need not be decoded. Raises `LogDamaged` if what is there is no record.
        """
        name, data = record_name(self._program, record.epoch), encode(record)

        async def attempt() -> tuple[LogRecord, list[BaseId]] | None:
            await self._store.create(name, data)
            found = await self._store.read(name)
            if found is None:
                return None
            there = record if found == data else self._decoded(LogRecord, name, found)
            self._check_epoch(there, record.epoch)
            return there, await (self.bases() if record.begins is None else self.usable_bases())

        return await self._insist(attempt, record.epoch)

    async def write_base(self, base: Base) -> None:
        """Create a base, for as long as it takes; one that is there already is as good."""
        name, data = base_name(self._program, base.epoch, base.generation), encode(base)

        async def attempt() -> bool | None:
            await self._store.create(name, data)
            return await self._read(Base, name) is not None or None

        try:
            await self._insist(attempt, base.epoch)
        except LogDamaged as damaged:  # it is nobody's, and what it is a copy of may be whole
            await self._mark_at_last(BaseId(base.generation, base.epoch), str(damaged))
            raise

    async def _mark_at_last(self, base: BaseId, reason: str) -> None:
        async def attempt() -> bool:
            await self.mark_damaged(base, reason, alone=True)
            return True

        await self._insist(attempt, base.epoch)

    async def note_voids(self, records: Sequence[LogRecord]) -> None:
        """Note beside the log which transactions these records void, for as long as it takes."""
        for record in records:
            for place in record.voids:
                name = voided_name(self._program, place)

                async def attempt(name: str = name, epoch: int = record.epoch) -> bool | None:
                    await self._store.create(name, b"by the record of epoch %d" % epoch)
                    return await self._store.read(name) is not None or None

                await self._insist(attempt, record.epoch)

    async def clear_attempts(self, loaded: Loaded) -> None:
        """Take away the marks of attempts (`attempts.py`) that say nothing any more, whosever they are: at epochs that
        a base has passed, and from before a transaction was voided. Nodes that there are no more have left some."""
        voided = max((record.generation for record in loaded.records if record.voids), default=-1)
        try:
            for name in await self._store.list(all_attempts_prefix(self._program)):
                epoch, incarnation = generation_and_epoch_of(name)
                if epoch < loaded.base.epoch or incarnation <= voided:
                    await self._store.delete(name)
        except StoreError as failed:  # they do no harm, and whoever starts next takes them away
            self._log.warning("store_failed", reason=str(failed))

    async def collect(self, newest: Base, older: Base) -> int:
        """Delete what neither of these bases reaches; returns how many objects that were. Raises `StoreError`."""
        return await collect(
            self._store, self._program, _reach(newest), _reach(older), self._links, self._log
        )

    async def _insist(self, attempt: Callable[[], Awaitable[T | None]], epoch: int) -> T:
        """Try until the store has said what is there."""
        delay = _RETRY_SECONDS_FIRST
        while True:
            try:
                outcome = await attempt()
                if outcome is not None:
                    return outcome
            except LogDamaged:
                raise
            except StoreError as failed:  # the outcome is unknown; the next round looks again
                self._log.warning("store_failed", epoch=epoch, reason=str(failed), retry_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_SECONDS_MAX)


def remapped(base: Base, shard_map: ShardMap) -> Base:
    """A base at which nodes of another shard map begin, with what nodes of the one before it have saved."""
    if shard_map == base.shard_map:
        return base
    saved = base.saved_map or base.shard_map
    # Whoever replaces somebody saves everything at first; as for the others, they will not have saved less.
    return replace(
        base,
        shard_map=shard_map,
        saved_map=saved if saved != shard_map else None,
        changed_bytes=(),
        state_bytes=(),
    )


def _beginning(
    program: str,
    bases: Sequence[BaseId],
    generation: int,
    records: Sequence[LogRecord],
    voids: Sequence[TransactionPlace],
) -> tuple[BaseId, tuple[TransactionPlace, ...], str]:
    """Where a generation begins, which transactions it is to void, and why others cannot be. `records`: those behind
    the newest base."""
    known = void_transactions(records)
    wanted, reasons = [], []
    for place in voids:
        reason = why_not_void(place, bases, generation, records)
        if (place.epoch, place.index) in known:
            continue
        if reason:
            reasons.append(f"{place}: {reason}")
        else:
            wanted.append(place)
    before = beginning_before(bases, generation, records, wanted)
    begins = before if wanted else beginning(bases, generation, records)
    if begins is None:
        raise LogDamaged(
            f"every base of {program!r} from before the transactions that are void is damaged or gone; the marks under"
            f" {damaged_prefix(program)} say why. Bring the objects that they name back from a copy of the store"
        )
    return begins, tuple(wanted), "; ".join(reasons)


def _later(records: list[LogRecord], bases: list[BaseId], generation: int) -> int:
    """The newest generation that was opened, if it is later than this one, else 0."""
    newest = max([each.generation for each in records] + [each.generation for each in bases])
    return newest if newest > generation else 0


def _state_bytes(base: Base) -> int:
    return sum(base.state_bytes) + sum(base.changed_bytes)


def _reach(base: Base) -> BaseReach:
    return BaseReach(base.epoch, base.generation, base.checkpoints)
