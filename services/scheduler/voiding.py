"""Taking a transaction out of a program: what a person asks for when the program stands still on it.

The log decides. A transaction is void when a record of the log says so, and that is written by the sequencer of a new
generation, which this scheduler therefore starts for it. The person's question comes again until it is answered, so
a scheduler that is started again in between needs to remember nothing: it looks into the log, and sees what was done.

The sequencer also notes beside the log what it has voided, since the record that says so is deleted when bases have
passed it. The note is there before the generation has a base; so where there is a base and no note, it was too late.
"""

from __future__ import annotations

from dataclasses import replace

from dist_zero.voids import void_transactions
from dist_zero_common.errors import RequestError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.requests import VoidTransaction
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import voided_name
from services.node_runner.epoch_log import EpochLog
from services.scheduler.state import Desired, VoidWanted


class Voider:
    """Looks into logs for what is asked to be void."""

    def __init__(self, store: Store, log: Logger) -> None:
        self._store, self._log = store, log
        self._looking: dict[tuple[str, TransactionPlace], None] = {}

    def is_looking(self, message: VoidTransaction) -> bool:
        """Whether the same is being looked for just now; if not, it is from now on."""
        key = message.program, message.place
        known = key in self._looking
        self._looking[key] = None
        return known

    async def is_void(self, message: VoidTransaction, desired: Desired) -> bool:
        """Whether the transaction is void already; if not, it can be. Raises `RequestError` if it cannot, and
        `StoreError`."""
        try:
            return await self._is_void(message, desired)
        finally:
            self._looking.pop((message.program, message.place), None)

    async def _is_void(self, message: VoidTransaction, desired: Desired) -> bool:
        program, place = checked_name("program", message.program, RequestError), message.place
        if program not in desired.programs:
            there = ", ".join(sorted(desired.programs)) or "none"
            raise RequestError(f"no program {program!r} runs here; running: {there}")
        log = EpochLog(self._store, program, self._log)
        wanted = next((each for each in desired.programs[program].voids if each.place == place), None)
        newest = (await log.bases())[-1].generation
        if await self._is_noted(program, place):
            return True
        if wanted is not None and newest <= wanted.after:
            return False  # what can be done is being done
        shard_map = desired.programs[program].shard_map
        loaded = await log.load(desired.incarnation + 1, shard_map, (place,))
        if (place.epoch, place.index) in void_transactions(loaded.records):
            return True
        if loaded.refused:
            if await self._is_noted(program, place):
                return True  # it was voided, and bases have passed that, while we looked
            raise RequestError(f"transaction {loaded.refused}")
        record = next((each for each in loaded.records if each.epoch == place.epoch), None)
        if record is None:
            raise RequestError(f"the log of {program!r} has no epoch {place.epoch} yet")
        if place.index >= len(record.transactions):
            count = len(record.transactions)
            raise RequestError(
                f"epoch {place.epoch} of {program!r} has {count} transaction{'' if count == 1 else 's'},"
                f" which count from 0: there is no {place}"
            )
        return False

    async def _is_noted(self, program: str, place: TransactionPlace) -> bool:
        return await self._store.read(voided_name(program, place)) is not None


def without_void(desired: Desired, program: str, place: TransactionPlace) -> Desired:
    """Without the wish to void this transaction, if there is one: it was refused."""
    wanted = desired.programs.get(program)
    if wanted is None or all(each.place != place for each in wanted.voids):
        return desired
    voids = tuple(each for each in wanted.voids if each.place != place)
    return replace(desired, programs={**desired.programs, program: replace(wanted, voids=voids)})


def want_void(desired: Desired, program: str, place: TransactionPlace) -> Desired:
    """With this transaction to be voided by the next generation of the program, unless one was told to already. Before
    it is known in which generation the program runs, there is no next one: whoever asks will ask again."""
    wanted = desired.programs.get(program)
    if wanted is None or wanted.assignment is None or any(each.place == place for each in wanted.voids):
        return desired
    voids = (*wanted.voids, VoidWanted(place, wanted.assignment.placement.generation))
    return replace(desired, programs={**desired.programs, program: replace(wanted, voids=voids)})
