"""A store that is an object, and as slow and unreliable as a simulated world wants it to be."""

from __future__ import annotations

import asyncio
import bisect

from dist_zero_common.errors import StoreError
from dist_zero_common.sim.faults import StoreFaults
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created
from dist_zero_common.store.names import checked_object_name


class MemoryObjects:
    """What several `MemoryStore`s share, as several clients of one real store would."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.names: list[str] = []  # sorted

    def create(self, name: str, data: bytes) -> Created:
        if name in self.data:
            return Created.EXISTS
        self.data[name] = data
        bisect.insort(self.names, name)
        return Created.NEW

    def list(self, prefix: str) -> list[str]:
        first = bisect.bisect_left(self.names, prefix)
        last = first
        while last < len(self.names) and self.names[last].startswith(prefix):
            last += 1
        return self.names[first:last]

    def delete(self, name: str) -> None:
        if self.data.pop(name, None) is not None:
            del self.names[bisect.bisect_left(self.names, name)]


class MemoryStore:
    """See `store.base.Store`. `objects` is what it gives access to.

    With a world, operations take the time that the weather says, take effect somewhere within it, and are
    recorded in the history; `create` fails as the weather's store faults say.
    """

    def __init__(self, objects: MemoryObjects | None = None, world: SimWorld | None = None) -> None:
        self.objects = MemoryObjects() if objects is None else objects
        self._world = world
        self._closed = False

    @property
    def _faults(self) -> StoreFaults:
        """As the weather has them now."""
        return StoreFaults() if self._world is None else self._world.weather.store

    async def create(self, name: str, data: bytes) -> Created:
        checked_object_name(name)
        await self._wait()
        if self._chance(self._faults.fails_absent):
            self._record("create-failed", name)
            await self._wait()
            raise StoreError(f"the store did not answer in time: whether {name} was created is unknown")
        created = self.objects.create(name, bytes(data))
        self._record(f"create-{created.value}", name, data)
        failed = self._chance(self._faults.fails_stored)
        await self._wait()
        if failed:
            raise StoreError(f"the store did not answer in time: whether {name} was created is unknown")
        return created

    async def read(self, name: str) -> bytes | None:
        checked_object_name(name)
        await self._wait()
        data = self.objects.data.get(name)
        self._record("read", name, data or b"")
        await self._wait()
        return data

    async def list(self, prefix: str) -> list[str]:
        await self._wait()
        names = self.objects.list(prefix)
        self._record("list", prefix)
        await self._wait()
        return names

    async def delete(self, name: str) -> None:
        checked_object_name(name)
        await self._wait()
        self.objects.delete(name)
        self._record("delete", name)
        await self._wait()

    async def close(self) -> None:
        self._closed = True

    async def _wait(self) -> None:
        """Half of an operation's time. Even without a world others run meanwhile, as with any other store."""
        if self._closed:
            raise StoreError("the memory store is closed")
        rng = None if self._world is None else self._world.rng("store")
        await asyncio.sleep(0.0 if rng is None else self._faults.latency.draw(rng) / 2)

    def _chance(self, chance: float) -> bool:
        return chance > 0.0 and self._world is not None and self._world.rng("store").random() < chance

    def _record(self, kind: str, name: str, data: bytes = b"") -> None:
        if self._world is not None:
            self._world.record(f"store-{kind}", name, body=data)
