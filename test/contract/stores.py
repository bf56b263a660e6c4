"""The stores that the contract suite runs over. A store of another kind joins with one more function here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

#: Opens the store anew, as a process that starts again does; what was created before is still there.
OpenStore = Callable[[], AbstractAsyncContextManager[Store]]
Scenario = Callable[[OpenStore], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class StoreHarness:
    """Runs a scenario against fresh storage in a directory that is the test's own."""

    name: str
    run: Callable[[Path, Scenario], None]


def _memory(path: Path, scenario: Scenario) -> None:  # noqa: ARG001
    objects = MemoryObjects()
    asyncio.run(scenario(_opener(partial(MemoryStore, objects))))


def _memory_simulated(profile: str) -> Callable[[Path, Scenario], None]:
    def run(path: Path, scenario: Scenario) -> None:  # noqa: ARG001
        for seed in range(3):
            objects, world = MemoryObjects(), SimWorld(seed, profile)
            run_simulation(scenario(_opener(partial(MemoryStore, objects, world))), until_seconds=3600)

    return run


def _directory_threads(path: Path, scenario: Scenario) -> None:
    asyncio.run(scenario(_opener(partial(DirectoryStore, path / "store"))))


def _directory_shared(path: Path, scenario: Scenario) -> None:
    """Another one is open all the while, as another service's is."""

    async def main() -> None:
        other = DirectoryStore(path / "store", shared=True)
        try:
            await scenario(_opener(partial(DirectoryStore, path / "store", shared=True)))
        finally:
            await other.close()

    asyncio.run(main())


def _directory_inline(path: Path, scenario: Scenario) -> None:
    run_simulation(scenario(_opener(partial(DirectoryStore, path / "store", threads=False))))


def _s3(path: Path, scenario: Scenario) -> None:  # noqa: ARG001
    """A bucket of moto's, which is imported when it is needed: that takes a second."""
    from dist_zero_common.store.obstore import ObjectStore
    from test.cloud.s3_server import access, s3_server

    server = s3_server()
    url = f"s3://{server.bucket()}/of/a/test"
    asyncio.run(scenario(_opener(partial(ObjectStore, url, access(server)))))


def _opener(make: Callable[[], Store]) -> OpenStore:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        store = make()
        try:
            yield store
        finally:
            await store.close()

    return opened


STORES = [
    StoreHarness("memory", _memory),
    StoreHarness("memory-simulated-faithful", _memory_simulated("faithful")),
    StoreHarness("memory-simulated-hostile", _memory_simulated("hostile")),
    StoreHarness("directory-threads", _directory_threads),
    StoreHarness("directory-shared", _directory_shared),
    StoreHarness("directory-simulated", _directory_inline),
    StoreHarness("s3-cloud", _s3),
]
