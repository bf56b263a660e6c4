"""The brokers that the contract suite runs over. RabbitMQ joins with one more harness here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from dist_zero_common.broker.base import Broker
from dist_zero_common.broker.memory import MemoryBroker, MemoryConnection
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld


class Server(Protocol):
    """A broker as a test sees it: fresh, with no queues."""

    async def connect(self) -> Broker:
        """A new connection."""
        ...

    async def cut(self, connection: Broker) -> None:
        """Lose the connection without a word, as when the cable is cut."""
        ...

    async def quiet(self) -> None:
        """Return when all that is under way to or from the broker has arrived."""
        ...


#: Longer than any delay that any weather draws.
_LONGEST_DELAY_SECONDS = 100

Scenario = Callable[[Server], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class BrokerHarness:
    """Runs a scenario, once or under several seeds, and says which promises beyond the contract hold."""

    name: str
    run: Callable[[Scenario], None]
    #: The same message may be delivered again although it was acked.
    delivers_twice: bool = False
    #: One sender's messages come in the order in which they were confirmed, returned ones included.
    keeps_order: bool = True


class _MemoryServer:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def connect(self) -> Broker:
        return self._broker.connect()

    async def cut(self, connection: Broker) -> None:
        assert isinstance(connection, MemoryConnection)
        connection.drop_connection()

    async def quiet(self) -> None:
        if self._broker.world is not None:
            await asyncio.sleep(_LONGEST_DELAY_SECONDS)
        for _ in range(10):
            await asyncio.sleep(0)


def _immediate(scenario: Scenario) -> None:
    asyncio.run(scenario(_MemoryServer(MemoryBroker())))


def _simulated(profile: str) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        for seed in range(4):
            broker = MemoryBroker(SimWorld(seed, profile))
            run_simulation(scenario(_MemoryServer(broker)), until_seconds=36_000)

    return run


BROKERS = [
    BrokerHarness("memory", _immediate),
    BrokerHarness("memory-simulated-calm", _simulated("calm")),
    BrokerHarness("memory-simulated-faithful", _simulated("faithful")),
    BrokerHarness("memory-simulated-hostile", _simulated("hostile"), delivers_twice=True, keeps_order=False),
]
