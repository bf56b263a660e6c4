"""Machines that stop for a while and go on, and machines that are cut from the broker or from the store.

Whatever a machine's processes do runs in contexts that descend from its first task. A callback of a machine that stands
still is put aside when its turn comes, and comes when the machine goes on: so what was on its way to the store arrives
then, and what it believed it believes still. The broker's own callbacks run all the time, and hand over what they
deliver in the context of whoever consumes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

from dist_zero.system import SimulatedSystem
from dist_zero_common.broker import memory
from dist_zero_common.broker.base import Broker, Connect, Delivery
from dist_zero_common.broker.memory import MemoryConnection
from dist_zero_common.errors import ConnectionLost, StoreError
from dist_zero_common.sim.loop import SimulatedLoop
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created, Store
from test.simulated.property_world import Cutter

HEARTBEATS_SECONDS = 15.0
"""A broker that heard nothing for so long takes a connection for lost."""
CUT_SECONDS = 1.0
"""How long it takes to find out that the store cannot be reached."""


@dataclass(eq=False)
class Machine:
    """What becomes of a machine."""

    name: str
    frozen: bool = False
    from_broker: bool = False
    from_store: bool = False
    aside: list[tuple[Callable[..., object], tuple[Any, ...], Context]] = field(default_factory=list)
    links: list[MemoryConnection] = field(default_factory=list)

    def go_on(self) -> None:
        """Nothing keeps it any more."""
        self.frozen = self.from_broker = self.from_store = False
        aside, self.aside = self.aside, []
        for callback, args, context in aside:
            asyncio.get_running_loop().call_soon(callback, *args, context=context)

    def lose_connections(self) -> None:
        """To the broker."""
        for link in self.links:
            link.drop_connection("no route to host")


CURRENT: ContextVar[Machine | None] = ContextVar("machine", default=None)


def _is_brokers(callback: Callable[..., object]) -> bool:
    owner = getattr(callback, "__self__", None)
    return memory.__name__ in (type(owner).__module__, getattr(callback, "__module__", ""))


def _gate(callback: Callable[..., object], *args: Any) -> None:
    machine = CURRENT.get()
    if machine is not None and machine.frozen and not _is_brokers(callback):
        machine.aside.append((callback, args, contextvars.copy_context()))
    else:
        callback(*args)


@contextmanager
def machines_that_freeze() -> Iterator[None]:
    """Within, the loops of simulations know of machines."""
    soon, at = SimulatedLoop.call_soon, SimulatedLoop.call_at

    def call_soon(loop: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        return soon(loop, _gate, callback, *args, context=context)

    def call_at(loop: Any, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return at(loop, when, _gate, callback, *args, context=context)

    SimulatedLoop.call_soon, SimulatedLoop.call_at = call_soon, call_at  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        SimulatedLoop.call_soon, SimulatedLoop.call_at = soon, at  # type: ignore[method-assign]


class CutStore:
    """A store that machines can be cut from."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    async def create(self, name: str, data: bytes) -> Created:
        await self._check()
        return await self._inner.create(name, data)

    async def read(self, name: str) -> bytes | None:
        await self._check()
        return await self._inner.read(name)

    async def list(self, prefix: str) -> list[str]:
        await self._check()
        return await self._inner.list(prefix)

    async def delete(self, name: str) -> None:
        await self._check()
        await self._inner.delete(name)

    async def close(self) -> None:
        await self._inner.close()

    async def _check(self) -> None:
        machine = CURRENT.get()
        if machine is not None and machine.from_store:
            await asyncio.sleep(CUT_SECONDS)
            raise StoreError("no route to the store")


class Freezer(Cutter):
    """Now and then stops a machine, or cuts it off, for a while: the one with the sequencer, or any."""

    def __init__(
        self,
        world: SimWorld,
        troubles: tuple[str, ...],
        seconds: float = 60.0,
        rounds: int = 3,
        only_sequencers: bool = False,
    ) -> None:
        """`troubles`: of `frozen`, `from_broker`, `from_store`."""
        self.machines: dict[str, Machine] = {}
        self.troubled: list[tuple[str, str]] = []
        self._world, self._troubles, self._lasts, self._rounds = world, troubles, seconds, rounds
        self._only_sequencers = only_sequencers

    def watch_over(self, system: SimulatedSystem) -> None:
        """Get hold of the machines that this system will have; before it is entered."""
        self._system = system
        system.store = CutStore(system.store)
        connector, run_machine = system.connector, system._run_machine

        async def run(name: str) -> None:
            CURRENT.set(self.machines.setdefault(name, Machine(name)))
            await run_machine(name)

        def of(name: str) -> Connect:
            inner = connector(name)

            async def connect() -> Broker:
                machine = CURRENT.get()
                if machine is None:
                    return await inner()
                if machine.from_broker:
                    raise ConnectionLost("no route to host")
                connection = await inner()
                assert isinstance(connection, MemoryConnection)
                machine.links.append(connection)
                consume, context = connection.consume, contextvars.copy_context()

                async def consume_here(queue: str, on_delivery: Any, prefetch: int) -> Any:
                    def deliver(delivery: Delivery) -> None:
                        loop = asyncio.get_running_loop()
                        loop.call_soon(on_delivery, delivery, context=context.copy())

                    return await consume(queue, deliver, prefetch)

                connection.consume = consume_here  # type: ignore[method-assign]
                return connection

            return connect

        system._run_machine, system.connector = run, of  # type: ignore[method-assign,assignment]

    def was_of_the_replaced(self, queue: str) -> bool:
        """Whether it is a queue of one incarnation that nobody reads any more."""
        return ".sequencer-clients." not in queue and not self._system.broker.queues[queue].consumers

    async def run(self) -> None:
        """Trouble machines until cancelled, or that was often enough."""
        rng = self._world.rng("freezer")
        try:
            for _ in range(self._rounds):
                await asyncio.sleep(rng.choice((4.0, 15.0)))
                there = sorted(self.machines)
                name = self._of_sequencer()
                if name is None or not (self._only_sequencers or rng.random() < 0.5):
                    name = rng.choice(there)
                machine, trouble = self.machines[name], rng.choice(self._troubles)
                self.troubled.append((name, trouble))
                setattr(machine, trouble, True)
                if trouble == "frozen":
                    await asyncio.sleep(HEARTBEATS_SECONDS)
                    if rng.random() < 0.5:
                        machine.lose_connections()
                    await asyncio.sleep(self._lasts - HEARTBEATS_SECONDS)
                else:
                    if trouble == "from_broker":
                        machine.lose_connections()
                    await asyncio.sleep(self._lasts)
                machine.go_on()
            await asyncio.sleep(3600)
        finally:
            for machine in self.machines.values():
                machine.go_on()

    def _of_sequencer(self) -> str | None:
        """The machine that has a program's sequencer."""
        for name, queue in self._system.broker.queues.items():
            if ".sequencer-clients." in name and queue.consumers:
                return queue.consumers[0].connection.name.split("-")[1]
        return None
