"""The brokers that the contract suite runs over: the shim in its kinds of weather, and RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dist_zero_common.broker.base import Broker, Connect, ConnectionState, Queue, QueueKind
from dist_zero_common.broker.memory import MemoryBroker, MemoryConnection
from dist_zero_common.errors import BrokerError
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld

if TYPE_CHECKING:
    from test.virtual.rabbitmq_server import RabbitServer

#: The name of RabbitMQ's harness, by which `pytest -k virtual` finds it.
RABBITMQ = "rabbitmq-virtual"


class Server(Protocol):
    """A broker as a test sees it: fresh, with no queues."""

    async def connect(self) -> Broker:
        """A new connection."""
        ...

    async def cut(self, connection: Broker) -> None:
        """Lose the connection without a word, as when the cable is cut."""
        ...

    def refused(self) -> Connect:
        """What tries to connect as somebody whom the broker does not know."""
        ...

    def unreachable(self) -> AbstractAsyncContextManager[Connect]:
        """What connects, while the broker cannot be reached; afterwards it can."""
        ...

    def alarm(self) -> AbstractAsyncContextManager[None]:
        """While it lasts, the broker takes nothing from those who publish."""
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

    def refused(self) -> Connect:
        return self._broker.connector("test", refusal="nobody knows you")

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[Connect]:
        self._broker.unreachable = True
        yield self._broker.connector("test")
        self._broker.unreachable = False

    @asynccontextmanager
    async def alarm(self) -> AsyncIterator[None]:
        self._broker.raise_alarm("no memory left")
        yield
        self._broker.clear_alarm()

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


#: Longer than RabbitMQ takes to do what it was told, on a busy machine.
_SETTLE_SECONDS = 0.15


class _RabbitServer:
    """A virtual host of RabbitMQ's. Each connection goes through a proxy of its own, which can cut it."""

    def __init__(self, server: RabbitServer, virtual_host: str) -> None:
        self._server = server
        self._virtual_host = virtual_host
        self._stack = AsyncExitStack()
        self._proxies: dict[int, Any] = {}
        self._connections: list[Broker] = []
        self._onlooker: Broker | None = None

    async def connect(self) -> Broker:
        from dist_zero_common.broker.rabbitmq import connector
        from test.virtual.proxy import Proxy

        proxy = await self._stack.enter_async_context(Proxy(self._server.host, self._server.port))
        url = self._server.url(self._virtual_host, proxy.port)
        broker = await connector(url, f"test {len(self._connections)}")()
        self._proxies[id(broker)] = proxy
        self._connections.append(broker)
        return broker

    async def cut(self, connection: Broker) -> None:
        canary = Queue(f"dz.canary.replies.{id(connection)}", QueueKind.REPLIES)
        await connection.declare(canary)
        self._proxies[id(connection)].cut()
        while connection.state is not ConnectionState.LOST:
            await asyncio.sleep(0.01)
        while await self._is_there(canary.name):
            await asyncio.sleep(0.01)
        await asyncio.sleep(_SETTLE_SECONDS)  # until its queues have what it held

    def refused(self) -> Connect:
        from dist_zero_common.broker.rabbitmq import connector

        return connector(self._server.url(self._virtual_host, user="nobody"), "test")

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[Connect]:
        from dist_zero_common.broker.rabbitmq import connector
        from test.virtual.proxy import Proxy

        async with Proxy(self._server.host, self._server.port) as proxy:
            proxy.refuse()
            yield connector(self._server.url(self._virtual_host, proxy.port), "test")
            proxy.heal()

    @asynccontextmanager
    async def alarm(self) -> AsyncIterator[None]:
        context = self._server.memory_alarm()
        await asyncio.to_thread(context.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def quiet(self) -> None:
        await asyncio.sleep(_SETTLE_SECONDS)

    async def close(self) -> None:
        """Close all that is open."""
        for broker in self._connections:
            await broker.close()
        await self._stack.aclose()

    async def _is_there(self, queue: str) -> bool:
        """Whether somebody else's queue is there."""
        from dist_zero_common.broker.rabbitmq import connector

        if self._onlooker is None:
            self._onlooker = await connector(self._server.url(self._virtual_host), "onlooker")()
            self._connections.append(self._onlooker)
        try:
            return await self._onlooker.depth(queue) is not None
        except BrokerError:
            return True  # its connection still has it


def rabbitmq_harness(server: RabbitServer) -> BrokerHarness:
    """The contract over real RabbitMQ, each scenario in a virtual host of its own."""

    async def in_host(scenario: Scenario, virtual_host: str) -> None:
        host = _RabbitServer(server, virtual_host)
        try:
            await scenario(host)
        finally:
            await host.close()

    def run(scenario: Scenario) -> None:
        with server.virtual_host() as virtual_host:
            asyncio.run(in_host(scenario, virtual_host))

    return BrokerHarness(RABBITMQ, run)
