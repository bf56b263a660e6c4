"""A store that is an object, and as slow and unreliable as a simulated world wants it to be."""

from __future__ import annotations

import asyncio
import bisect
import random

from dist_zero_common.errors import StoreError
from dist_zero_common.sim.faults import StoreFaults
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created
from dist_zero_common.store.names import checked_object_name


class MemoryObjects:
    """What several `MemoryStore`s share, as several clients of one real store would.

    With `remembers`, what is deleted is in `gone`, for those who look from outside and want to know all that was."""

    def __init__(self, *, remembers: bool = False) -> None:
        self.data: dict[str, bytes] = {}
        self.names: list[str] = []  # sorted
        self.gone: dict[str, bytes] = {}
        self._remembers = remembers

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
        data = self.data.pop(name, None)
        if data is not None:
            if self._remembers:
                self.gone.setdefault(name, data)
            del self.names[bisect.bisect_left(self.names, name)]


class MemoryStore:
    """See `store.base.Store`. `objects` is what it gives access to.

    Without a world an operation lets others run once, before it takes effect, as any other store does; a listing, which
    changes nothing and is short, does not. With a world, operations take the time that the weather says, take effect
    somewhere within it, fail as the weather's store faults say, and are recorded in the history. Outages are of the
    whole store: all that have the same world have them together. Faults draw from a stream of their own, so that
    switching one on leaves the delays and the other parts' chance as they were.
    """

    def __init__(self, objects: MemoryObjects | None = None, world: SimWorld | None = None) -> None:
        self.objects = MemoryObjects() if objects is None else objects
        self._world = world
        self._outage_of: tuple[StoreFaults, int] | None = None
        self._outage = (0.0, 0.0)
        self._closed = False

    @property
    def _faults(self) -> StoreFaults:
        """As the weather has them now."""
        return StoreFaults() if self._world is None else self._world.weather.store

    async def create(self, name: str, data: bytes) -> Created:
        checked_object_name(name)
        await self._others_run()
        await self._half()
        if self._chance(self._faults.fails_absent):
            self._record("create-failed", name)
            await self._half()
            raise _unknown(name, "created")
        may_tear = not self._faults.torn_of or any(part in name for part in self._faults.torn_of)
        if may_tear and self._strikes(self._faults.torn):
            data = data[: int(len(data) * self._fault_rng().random())]
            self._record(f"create-torn-{self.objects.create(name, bytes(data)).value}", name, data)
            await self._half()
            raise _unknown(name, "created")
        created = self.objects.create(name, bytes(data))
        self._record(f"create-{created.value}", name, data)
        failed = self._chance(self._faults.fails_stored)
        await self._half()
        if failed:
            raise _unknown(name, "created")
        return created

    async def read(self, name: str) -> bytes | None:
        checked_object_name(name)
        await self._others_run()
        await self._half()
        await self._fail_perhaps("read", name, self._faults.fails_read)
        data = self.objects.data.get(name)
        self._record("read", name, data or b"")
        await self._half()
        return data

    async def list(self, prefix: str) -> list[str]:
        await self._half()
        await self._fail_perhaps("list", prefix, self._faults.fails_list)
        names = self.objects.list(prefix)
        self._record("list", prefix)
        await self._half()
        return names

    async def delete(self, name: str) -> None:
        checked_object_name(name)
        await self._others_run()
        await self._half()
        failed = self._strikes(self._faults.fails_delete)
        if failed and self._strikes(0.5):
            self._record("delete-failed", name)
        else:
            self.objects.delete(name)
            self._record("delete", name)
        await self._half()
        if failed:
            raise _unknown(name, "deleted")

    async def close(self) -> None:
        self._closed = True

    async def _others_run(self) -> None:
        if self._world is None:
            await asyncio.sleep(0)

    async def _half(self) -> None:
        """Half of an operation's time."""
        if self._closed:
            raise StoreError("the memory store is closed")
        if self._world is None:
            return
        await asyncio.sleep(self._faults.latency.draw(self._world.rng("store")) / 2)
        if self._is_out():
            self._record("outage", "")
            raise StoreError("the store cannot be reached")

    async def _fail_perhaps(self, kind: str, name: str, chance: float) -> None:
        if self._strikes(chance):
            self._record(f"{kind}-failed", name)
            await self._half()
            raise StoreError(f"the store did not answer in time to a {kind} of {name}")

    def _is_out(self) -> bool:
        """Whether nothing works now. An operation that has taken effect before may be told so, too."""
        faults = self._faults
        if self._world is None or faults.outage_every == 0.0:
            return False
        now = asyncio.get_running_loop().time()
        window = int(now / faults.outage_every)
        if self._outage_of != (faults, window):
            rng = self._world.fresh_rng(f"store outage {window}")
            self._outage_of, self._outage = (faults, window), faults.outage_in(window, rng)
        return self._outage[0] <= now < self._outage[1]

    def _chance(self, chance: float) -> bool:
        return chance > 0.0 and self._world is not None and self._world.rng("store").random() < chance

    def _strikes(self, chance: float) -> bool:
        return chance > 0.0 and self._world is not None and self._fault_rng().random() < chance

    def _fault_rng(self) -> random.Random:
        assert self._world is not None
        return self._world.rng("store faults")

    def _record(self, kind: str, name: str, data: bytes = b"") -> None:
        if self._world is not None:
            self._world.record(f"store-{kind}", name, body=data)


def _unknown(name: str, what: str) -> StoreError:
    return StoreError(f"the store did not answer in time: whether {name} was {what} is unknown")
