"""A small system that uses all that a simulation has, and its digest; run as a program it prints both.

python -m test.simulated.busy_world SEED PROFILE
"""

from __future__ import annotations

import asyncio
import sys

from dist_zero_common.broker.base import Delivery, Queue
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.errors import StoreError
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

_PEERS = ("ann", "bob", "cy", "dee")
_MESSAGES = 15


async def _peer(name: str, world: SimWorld, broker: MemoryBroker, objects: MemoryObjects) -> None:
    """Send numbered messages to everybody, hear everybody's, and keep each in the store before acking it."""
    connection, store, rng = broker.connect(name), MemoryStore(objects, world), world.rng(f"peer/{name}")
    inbox: asyncio.Queue[Delivery] = asyncio.Queue()
    await connection.declare(Queue(name))
    consumer = await connection.consume(name, inbox.put_nowait, 10)
    awaited = {f"{peer}-{number}" for peer in _PEERS for number in range(_MESSAGES)}

    async def send() -> None:
        await asyncio.sleep(200)
        for number in range(_MESSAGES):
            for peer in _PEERS:
                await connection.publish(peer, f"{name}-{number}".encode())
            await asyncio.sleep(rng.random())

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        while awaited:
            delivery = await inbox.get()
            try:
                await store.create(f"{name}/{delivery.body.decode()}", delivery.body)
            except StoreError:
                continue
            consumer.ack([delivery.tag])
            awaited.discard(delivery.body.decode())


async def _main(world: SimWorld) -> None:
    broker, objects = MemoryBroker(world), MemoryObjects(remembers=True)
    async with asyncio.TaskGroup() as group:
        for name in _PEERS:
            group.create_task(_peer(name, world, broker, objects))


def busy_world(seed: int, profile: str) -> SimWorld:
    """The world after the system has run in it."""
    world = SimWorld(seed, profile)
    run_simulation(_main(world), until_seconds=100_000)
    return world


if __name__ == "__main__":
    print(busy_world(int(sys.argv[1]), sys.argv[2]).history.digest())
