"""States of nodes to be saved, for tests of checkpoints: small ones whose content follows from node and epoch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pytest

from dist_zero import types as t
from dist_zero.batch import Batch
from dist_zero_common.log import Logger, get_logger
from dist_zero_common.protocol.stored import (
    CheckpointId,
    TableBlob,
)
from dist_zero_common.sim.faults import StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created, Store
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner import checkpoints
from services.node_runner.checkpoints import Checkpoint

Result = TypeVar("Result")
State = dict[int, str]
TYPES = (t.INT, t.STR)
KEYS = 12
LOG = get_logger("test", SimWorld(0).clock)


class Crash(Exception):
    """The process that called the store is gone."""


class MortalStore:
    """A store whose user dies at its operation number `dies_at`, before or after it has happened."""

    def __init__(self, store: Store, dies_at: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, dies_at, after
        self.dead = False

    async def create(self, name: str, data: bytes) -> Created:
        return await self._mortal(lambda: self._store.create(name, data))

    async def read(self, name: str) -> bytes | None:
        return await self._mortal(lambda: self._store.read(name))

    async def list(self, prefix: str) -> list[str]:
        return await self._mortal(lambda: self._store.list(prefix))

    async def delete(self, name: str) -> None:
        await self._mortal(lambda: self._store.delete(name))

    async def close(self) -> None:
        await self._store.close()

    async def _mortal(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            self.dead = True
            raise Crash
        result = await operation()
        if self._left == 0:
            self.dead = True
            raise Crash
        return result


def simulated(
    main: Callable[[Store], Awaitable[Result]], objects: MemoryObjects, faults: StoreFaults | None = None
) -> Result:
    """Run `main` on a store with these objects, in simulated time."""
    world = SimWorld(7, Weather("test", store=faults or StoreFaults()))

    async def live() -> Result:
        return await main(MemoryStore(objects, world))

    return run_simulation(live(), until_seconds=100_000)


@contextmanager
def small_parts() -> Iterator[None]:
    """Within it a part holds some rows, and what is more than that is cut up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SMALL_BYTES", 120)
        patch.setattr(checkpoints, "PART_BYTES", 90)
        yield


def changes_of(node: str, epoch: int) -> dict[int, str | None]:
    """What an epoch does to a node's state: new values, None for keys that go."""
    rng = random.Random(f"{node}/{epoch}")
    return {
        rng.randrange(KEYS): rng.choice((None, "", "a", "b" * rng.randrange(60)))
        for _ in range(rng.randrange(6))
    }


def state_at(node: str, epoch: int) -> State:
    """The state after these many epochs, the first of which is number 1."""
    return applied({}, *(changes_of(node, e) for e in range(1, epoch + 1)))


def applied(state: State, *changes: dict[int, str | None]) -> State:
    """The state behind these changes."""
    new: dict[int, str | None] = dict(state)
    for change in changes:
        new |= change
    return {key: value for key, value in new.items() if value is not None}


def table(name: str, puts: State, deletes: Sequence[int]) -> TableBlob:
    """Rows of a table, in the order of their keys."""
    return TableBlob(
        name,
        Batch.from_rows(TYPES, sorted(puts.items())).to_blob() if puts else None,
        Batch.from_rows((t.INT,), [(key,) for key in sorted(deletes)]).to_blob() if deletes else None,
    )


def saved(which: CheckpointId, previous: CheckpointId | None, links: int) -> Checkpoint:
    """What this node saves at this epoch: everything, or what changed since `previous`. Its keys are in two tables."""
    if previous is None:
        puts, deletes = state_at(which.node, which.epoch), list[int]()
    else:
        before, puts = state_at(which.node, previous.epoch), state_at(which.node, which.epoch)
        deletes = [key for key in before if key not in puts]
        puts = {key: value for key, value in puts.items() if before.get(key) != value}
    tables = tuple(
        table(
            name,
            {key: value for key, value in puts.items() if key % 2 == odd},
            [k for k in deletes if k % 2 == odd],
        )
        for name, odd in (("even", 0), ("odd", 1))
    )
    return Checkpoint("p", which, "plan", previous, links, tables)


def restored(chain: list[Checkpoint]) -> State:
    """The state that these checkpoints hold, the first of which has everything."""
    state: State = {}
    for checkpoint in chain:
        for part in checkpoint.tables:
            for (key,) in [] if part.deletes is None else Batch.from_blob((t.INT,), part.deletes).rows():
                del state[key]
            for key, value in [] if part.puts is None else Batch.from_blob(TYPES, part.puts).rows():
                assert part.name == ("odd" if key % 2 else "even")
                state[key] = value
    return state


async def write(store: Store, *to_write: Checkpoint, log: Logger = LOG) -> None:
    """Write some checkpoints, one after the other."""
    for checkpoint in to_write:
        await checkpoints.write_checkpoint(store, checkpoint, log)
        await asyncio.sleep(0)
