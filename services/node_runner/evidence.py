"""Why a node stands still on an epoch, for a person who has to choose which transaction to take out.

The node knows the epoch and the stage, and for stage 1 which transactions have writes for it; who wrote them, the log
says. All of it goes into the store, a sentence of it into the reports.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from dist_zero_common.errors import StoreError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.stored import (
    LogRecord,
    epoch_of_place,
    index_of_place,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import halted_name
from services.node_runner.epoch_log import EpochLog
from services.node_runner.kernel_events import Halted

SUSPECTS_TOLD = 6
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A transaction of the epoch. `client` is empty where it is not known any more."""

    place: str
    client: str
    session: int
    number: int
    bytes: int

    def __str__(self) -> str:
        whose = f"client {self.client!r}" if self.client else f"session {self.session}"
        return f"{self.place} of {whose} number {self.number}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Which node of which program stands still."""

    program: str
    node: str
    generation: int
    incarnation: int


async def keep_evidence(store: Store, standing: Standing, halted: Halted, log: Logger) -> str:
    """Look for who wrote what the node stands still on, and put it into the store and, without any values of rows, into
    the log. Returns what to tell people."""
    while True:
        try:
            suspects = await _suspects(EpochLog(store, standing.program, log), standing.generation, halted)
            name = halted_name(standing.program, halted.epoch, standing.node, standing.incarnation)
            kept = {
                **asdict(standing),
                "epoch": halted.epoch,
                "stage": halted.stage,
                "reason": halted.reason,
                "transactions": [asdict(suspect) for suspect in suspects],
            }
            await store.create(name, json.dumps(kept, ensure_ascii=False, indent=1).encode())
            for_log = replace(halted, reason=halted.logged or halted.reason)
            log.error(
                "node_stands_still",
                epoch=halted.epoch,
                reason=told(standing.program, for_log, suspects, name),
            )
            return told(standing.program, halted, suspects, name)
        except StoreError as failed:
            log.warning("store_failed", reason=str(failed), retry_seconds=_RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)


def told(program: str, halted: Halted, suspects: Sequence[Suspect], name: str) -> str:
    """The sentence for people. Pure."""
    if not suspects:
        return halted.reason
    some = ", ".join(str(suspect) for suspect in suspects[:SUSPECTS_TOLD])
    more = f" and {len(suspects) - SUSPECTS_TOLD:,} more" if len(suspects) > SUSPECTS_TOLD else ""
    one = suspects[0].place if len(suspects) == 1 else "EPOCH/TRANSACTION"
    what = "transaction" if len(suspects) == 1 else "transactions"
    return (
        f"{halted.reason}. It was computing {what} {some}{more} (all of it is in {name}); `dist-zero void {program}"
        f" {one}` takes one out"
    )


async def _suspects(log: EpochLog, generation: int, halted: Halted) -> list[Suspect]:
    record = await log.read(halted.epoch)
    if record is None:
        return []
    places = halted.places or range(len(record.transactions))
    clients = await _clients(
        log, generation, record, [record.transactions[place].session for place in places]
    )
    found = []
    for place in places:
        each = record.transactions[place]
        where = str(TransactionPlace(record.epoch, place))
        client = clients.get(each.session, "")
        found.append(Suspect(where, client, each.session, each.number, len(each.payload)))
    return found


async def _clients(
    log: EpochLog, generation: int, record: LogRecord, sessions: Sequence[int]
) -> dict[int, str]:
    """The clients' names by session: from the newest base, and from records behind it."""
    base = await log.newest_base_of(generation)
    names = {each.session: each.client for each in base.sessions} if base is not None else {}
    for session in dict.fromkeys(sessions):
        if session not in names:
            epoch, index = epoch_of_place(session), index_of_place(session)
            opened = record if epoch == record.epoch else await log.read(epoch)
            if opened is not None and index < len(opened.opens):
                names[session] = opened.opens[index].client
    return names
