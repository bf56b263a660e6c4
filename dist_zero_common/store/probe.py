"""Find out, at start, whether a store keeps the promises on which everything rests.

Some object stores, network file systems and gateways accept "create only" and overwrite all the same, or
show a new object late. With those, two sequencers could both believe that they wrote an epoch: so they are
refused.
"""

from __future__ import annotations

import asyncio

from dist_zero_common.errors import StoreError
from dist_zero_common.store.base import Created, Store

_WRITERS = 8


async def probe_store(store: Store, prober: str, *, writers: int = _WRITERS) -> None:
    """Race `writers` for one object, and look for what was written at once. `prober` is unique to the
    caller.

    Raises `StoreError` when there is not exactly one winner, when what is read is not what the winner
    wrote, when a new object is not listed or not readable, or a deleted one still is; and when the store
    fails.
    """
    prefix = f"probe/{prober}/"
    for leftover in await store.list(prefix):
        await store.delete(leftover)
    name = f"{prefix}race"
    await _race(store, name, writers)
    if name not in await store.list(prefix):
        raise _refusal("an object is not listed right after it was created")
    await store.delete(name)
    if await store.read(name) is not None or await store.list(prefix):
        raise _refusal("an object is still there right after it was deleted")


async def _race(store: Store, name: str, writers: int) -> None:
    if await store.read(name) is not None:
        raise _refusal("an object is still there right after it was deleted")
    bodies = [f"writer {number}".encode() for number in range(writers)]
    outcomes = await asyncio.gather(*(store.create(name, body) for body in bodies))
    winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome is Created.NEW]
    if len(winners) != 1:
        raise _refusal(f"{len(winners)} of {writers} writers were told that they created the same object")
    if await store.read(name) != winners[0]:
        raise _refusal("an object does not read as its creator wrote it")
    if await store.create(name, b"late") is not Created.EXISTS or await store.read(name) != winners[0]:
        raise _refusal("an object that exists can be written again")


def _refusal(what: str) -> StoreError:
    return StoreError(f"this store cannot be used, it does not keep its promises: {what}")
