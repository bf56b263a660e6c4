"""A store is copied, and another system goes on from the copy; again and again, each time from the copy of the copy."""

from __future__ import annotations

import asyncio

import pytest

from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import OperatorError
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.copying import Copied, copy_store
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS

OPTIONS = SequencerOptions(save_interval_seconds=0.5)


async def counts(client: Client) -> dict[str | None, int]:
    return {row.shop: row.n for row in await client.rows("per_shop")}


def of_first(count: int) -> dict[str, int]:
    """The view when so many rows were written."""
    shops = {f"s{shop}": len(range(shop, count, 3)) for shop in range(3)}
    return {shop: n for shop, n in shops.items() if n}


@pytest.mark.parametrize("seed", range(3))
def test_oracle_a_system_goes_on_from_a_copy(seed: int) -> None:
    """Each life is another system on another broker, ended in the middle of what it is about."""

    async def live(world: SimWorld, objects: MemoryObjects) -> None:
        store = MemoryStore(objects, world)
        system = SimulatedSystem(world, machines=2, store=store, sequencer=OPTIONS)
        async with system, system.connect(PROGRAMS[2], nodes=3, client_id="loader") as client:
            count = sum((await counts(client)).values())
            assert count == await client.committed_before()
            assert await counts(client) == of_first(count)
            for number in range(count, count + world.rng("how many").randrange(5, 100)):
                await client.put("sales", {"id": number, "shop": f"s{number % 3}", "amount": 1.0})
                await asyncio.sleep(0.02)
            last = client.new_transaction()
            last.put("sales", {"id": number + 1, "shop": f"s{(number + 1) % 3}", "amount": 1.0})
            await client.write_soon(last)
            await client.close()  # nobody hears whether that one is committed

    objects = MemoryObjects()
    for number in range(4):
        run_simulation(live(SimWorld(10 * seed + number, "calm"), objects), until_seconds=2_000)
        there, objects = objects, MemoryObjects()
        copied = run_simulation(copy_store(MemoryStore(there), MemoryStore(objects)))
        assert objects.data == there.data and copied.objects == copied.new_objects == len(there.data)


def store_of(*names: str, data: bytes = b"same") -> MemoryStore:
    objects = MemoryObjects()
    for name in names:
        objects.create(name, data)
    return MemoryStore(objects)


def test_a_copy_is_the_same_and_is_made_once() -> None:
    """What was deleted goes, probes are left out, and a second copy writes nothing."""
    source, target = store_of("a/1", "a/2", "probe/x/1"), store_of("a/0", "a/1")
    told: list[tuple[int, int]] = []

    async def main() -> list[Copied]:
        first = await copy_store(source, target, lambda done, of: told.append((done, of)))
        return [first, await copy_store(source, target)]

    assert run_simulation(main()) == [Copied(2, 1, 4), Copied(2, 0, 0)]
    assert target.objects.data == {"a/1": b"same", "a/2": b"same"}
    assert told == [(2, 2)]


@pytest.mark.parametrize("there", ["log/2", "log/3"])
def test_another_history_is_not_mixed_with_this_one(there: str) -> None:
    """A store that went on by itself is no copy any more, and another system's never was; both stay as they are."""
    source, target = store_of("log/1", "log/2"), store_of(there, data=b"other")
    with pytest.raises(OperatorError, match=f"the target holds {there}, which.*copy to an empty place"):
        run_simulation(copy_store(source, target))
    assert target.objects.data[there] == b"other"


class Used(MemoryStore):
    """A store that somebody writes to whenever it is read."""

    async def read(self, name: str) -> bytes | None:
        await self.create(f"{name}1", b"")
        return await super().read(name)


def test_a_store_that_is_in_use_is_said() -> None:
    """What was copied is no backup."""
    with pytest.raises(OperatorError, match="changes while it is copied: end the system"):
        run_simulation(copy_store(Used(store_of("a").objects), store_of()))
