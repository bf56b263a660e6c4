"""Clients over a real RabbitMQ, with the services of the system in this process: written, read, watched; killed, cut
off, kept waiting, and the broker started anew under them. Nothing is lost, nothing is doubled.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.client.watch import StoredChange
from dist_zero.system import System
from dist_zero_common.broker.base import (
    Broker,
    Connect,
    Consumer,
    OnConnection,
    OnDelivery,
    Queue,
    QueueDepth,
)
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import BrokerError, ConnectionLost
from dist_zero_common.store.memory import MemoryStore
from test.virtual.proxy import Proxy
from test.virtual.rabbitmq_server import RabbitServer, free_port

SYSTEM = "shop"


class Sale(dz.Row):
    id: int
    shop: str
    amount: int


app = dz.Program("sales")
sales = app.dataset("sales", Sale, key="id")
lines = app.dataset("lines", Sale)
app.view("shops", sales.group_by("shop").agg(n=dz.count(), total=dz.sum("amount")))
app.view("all_lines", lines.select("id", "shop"))


def sale(number: int) -> dict[str, object]:
    """The row of this number."""
    return {"id": number, "shop": f"shop {number % 7}", "amount": number}


def expected_shops(count: int) -> dict[str, tuple[int, int]]:
    """What the view `shops` holds when the sales 0 to `count` - 1 are there."""
    shops: dict[str, tuple[int, int]] = {}
    for number in range(count):
        n, total = shops.get(f"shop {number % 7}", (0, 0))
        shops[f"shop {number % 7}"] = n + 1, total + number
    return shops


async def shown_shops(client: Client) -> dict[str, tuple[int, int]]:
    """What the view `shops` holds."""
    return {row.shop: (row.n, row.total) for row in map(_Any, await client.rows("shops"))}


class _Any:
    """A row's columns as attributes that mypy does not look for."""

    shop: str
    n: int
    total: int
    id: int

    def __init__(self, row: object) -> None:
        self.__dict__.update(vars(row))


@asynccontextmanager
async def running(connect: Callable[[str], Connect], machines: int = 2) -> AsyncIterator[System]:
    """A system over these connections."""
    system = System(SYSTEM, connector=connect, store=MemoryStore(), clock=RealClock(), machines=machines)
    async with system:
        yield system


def over(url: str) -> Callable[[str], Connect]:
    """Connections to the broker at this URL."""
    return lambda name: connector(url, name)


async def collect(client: Client, changes: list[StoredChange]) -> None:
    """Watch all views."""
    with client.watch_stored(range(len(client.plan.views))) as watch:
        async for change in watch:
            changes.append(change)


async def check_watched(client: Client, changes: list[StoredChange]) -> None:
    """Every epoch was told once, and what was told adds up to what is there."""
    newest = await client.put("sales", sale(0))
    async with asyncio.timeout(60):
        while not changes or changes[-1].epoch < newest:
            await asyncio.sleep(0.05)
    epochs = [change.epoch for change in changes]
    assert epochs == list(range(epochs[0], epochs[-1] + 1))
    snapshot = await client.snapshot()
    for number, view in enumerate(client.plan.views):
        held: Counter[tuple[object, ...]] = Counter()
        for change in changes:
            if change.snapshot:
                held.clear()
            for row, weight in change.rows[number]:
                held[row] += weight
        assert +held == Counter(snapshot.stored[view.name]), view.name
        assert all(weight >= 0 for weight in held.values())


# ---- plain use -----------------------------------------------------------------------------------------------


def test_written_read_and_watched(rabbitmq_url: str) -> None:
    """A client of its own connection writes, gets, takes snapshots and watches; the scheduler says what runs."""

    async def main() -> None:
        remote = RemoteSystem(rabbitmq_url, SYSTEM)
        async with running(over(rabbitmq_url)), remote.connect(app, nodes=3) as client:
            changes: list[StoredChange] = []
            watching = asyncio.create_task(collect(client, changes))
            await client.put("sales", [sale(number) for number in range(100)])
            await client.append("lines", [sale(number) for number in range(10)])
            await client.delete("sales", 99)
            assert await shown_shops(client) == expected_shops(99)
            assert vars(await client.get("shops", "shop 3"))["n"] == expected_shops(99)["shop 3"][0]
            assert await client.get("shops", "none") is None
            assert len(await client.rows("all_lines")) == 10
            async with remote.connect("sales") as other:
                assert await shown_shops(other) == expected_shops(99)
            status = await remote.status()
            assert [program.program for program in status.programs] == ["sales"]
            assert all(machine.ready for machine in status.machines)
            await check_watched(client, changes)
            watching.cancel()
            depths = await remote.depth(["dz.shop.scheduler", "dz.shop.agent.none"])
            assert depths["dz.shop.agent.none"] is None
            assert depths["dz.shop.scheduler"] is not None
            await remote.remove("sales")
            assert not (await remote.status()).programs

    asyncio.run(main())


def test_blocking_client(rabbitmq_url: str) -> None:
    """`with dz.connect(...)` works from a thread without a loop of its own."""

    def use() -> list[int]:
        with dz.connect(app, to=rabbitmq_url, system=SYSTEM) as db:
            db.put("sales", [sale(number) for number in range(20)])
            changes = db.watch("shops")
            assert len(next(changes).inserted) == 7
            assert db.waiting_for == ""
            return [vars(row)["n"] for row in db["shops"]]

    async def main() -> None:
        async with running(over(rabbitmq_url), machines=1):
            assert await asyncio.to_thread(use) == [n for n, _ in expected_shops(20).values()]

    asyncio.run(main())


def test_a_broker_that_is_away_or_refuses(rabbitmq_url: str) -> None:
    """Both are told within seconds, with the address and without the password."""
    url = rabbitmq_url.replace("tester:tester", "tester:wrong-secret")
    with pytest.raises(BrokerError, match="refuses") as refused:
        dz.connect(app, to=url).open()
    assert "wrong-secret" not in str(refused.value)
    assert not isinstance(refused.value, ConnectionLost)
    port = free_port()
    with pytest.raises(ConnectionLost, match=f"127.0.0.1:{port}") as away:
        dz.connect(app, to=f"amqp://tester:some-secret@127.0.0.1:{port}/dz").open()
    assert "some-secret" not in str(away.value)


# ---- killed --------------------------------------------------------------------------------------------------

_LOADER = """
import asyncio, sys
import dist_zero as dz
from dist_zero.client.remote import RemoteSystem
from test.virtual.test_client_virtual import app, sale

async def main():
    async with RemoteSystem(sys.argv[1], sys.argv[2]).connect("sales", client_id="loader") as client:
        def transactions():
            for number in range(int(sys.argv[3])):
                transaction = client.new_transaction()
                transaction.append("lines", sale(number))
                yield transaction
        loaded = await client.load(transactions())
        print(loaded.rows, loaded.rows_passed_over, flush=True)

asyncio.run(main())
"""


def test_a_client_killed_in_the_middle_of_a_load(rabbitmq_url: str) -> None:
    """A loader that is killed with SIGKILL, three times, and started again writes every row once."""
    count = 12_000

    async def load() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _LOADER,
            rabbitmq_url,
            SYSTEM,
            str(count),
            stdout=asyncio.subprocess.PIPE,
        )

    async def main() -> None:
        async with running(over(rabbitmq_url)) as system, system.connect(app, nodes=2) as client:
            seen = 0
            for _ in range(3):
                loader = await load()
                before = seen
                while seen < before + 50 and loader.returncode is None:
                    seen = len(await client.rows("all_lines"))
                loader.send_signal(signal.SIGKILL)
                await loader.wait()
            assert seen < count, "the load was over before it was killed"
            loader = await load()
            said, _ = await loader.communicate()
            rows, passed_over = map(int, said.split())
            assert rows + passed_over == count
            assert passed_over >= seen
            written = [vars(row)["id"] for row in await client.rows("all_lines")]
            assert sorted(written) == list(range(count))

    asyncio.run(main())


# ---- cut off -------------------------------------------------------------------------------------------------


class Tap:
    """Hears of everything that goes between a system and its broker: each publish that begins or is confirmed, each
    delivery and each ack is one step. `at_step` is called when that many have been taken."""

    def __init__(self, url: str) -> None:
        self.steps = 0
        self.at_step: dict[int, Callable[[], None]] = {}
        self._url = url

    def step(self) -> None:
        """Something crosses."""
        self.steps += 1
        act = self.at_step.pop(self.steps, None)
        if act is not None:
            act()

    def connect(self, name: str) -> Connect:
        """What makes connections that are heard."""
        connect = connector(self._url, name)

        async def tapped() -> Broker:
            return _Tapped(await connect(), self)

        return tapped


class _Tapped:
    """A broker whose steps are counted."""

    def __init__(self, broker: Broker, tap: Tap) -> None:
        self._broker, self._tap = broker, tap
        self.state, self.reason = broker.state, broker.reason

        def follow(_: object) -> None:
            self.state, self.reason = broker.state, broker.reason

        broker.on_connection(follow)

    def on_connection(self, callback: OnConnection) -> None:
        self._broker.on_connection(callback)

    async def declare(self, queue: Queue) -> None:
        await self._broker.declare(queue)

    async def publish(self, queue: str, body: bytes) -> None:
        self._tap.step()
        await self._broker.publish(queue, body)
        self._tap.step()

    async def consume(self, queue: str, on_delivery: OnDelivery, prefetch: int) -> Consumer:
        def delivered(delivery: object) -> None:
            self._tap.step()
            on_delivery(delivery)  # type: ignore[arg-type]

        return _TappedConsumer(await self._broker.consume(queue, delivered, prefetch), self._tap)

    async def depth(self, queue: str) -> QueueDepth | None:
        return await self._broker.depth(queue)

    async def delete(self, queue: str) -> None:
        await self._broker.delete(queue)

    async def close(self) -> None:
        await self._broker.close()


class _TappedConsumer:
    def __init__(self, consumer: Consumer, tap: Tap) -> None:
        self._consumer, self._tap = consumer, tap

    def ack(self, tags: list[int]) -> None:
        self._tap.step()
        self._consumer.ack(tags)

    async def cancel(self) -> None:
        await self._consumer.cancel()


@pytest.mark.parametrize("first", range(4))
def test_cut_and_healed_at_every_stage_of_an_epoch(
    rabbitmq: RabbitServer, rabbitmq_url: str, first: int
) -> None:
    """Connections of all parts are reset at the n-th thing that crosses after a write begins, for each n: between
    publish and confirm, delivery and ack, of client, sequencer and nodes. Every write is committed once, every epoch is
    watched once."""
    virtual_host = rabbitmq_url.rpartition("/")[2]

    async def main() -> None:
        async with Proxy(rabbitmq.host, rabbitmq.port) as proxy:
            url = rabbitmq.url(virtual_host, port=proxy.port)
            tap = Tap(url)
            async with running(tap.connect) as system, system.connect(app, nodes=3) as client:
                changes: list[StoredChange] = []
                watching = asyncio.create_task(collect(client, changes))
                cuts = 0
                for number, at in enumerate(range(1 + first, 41, 4)):
                    made = proxy.connections_made
                    tap.at_step = {tap.steps + at: proxy.cut}
                    transaction = client.new_transaction()
                    transaction.put("sales", sale(number))
                    transaction.append("lines", sale(number))
                    await client.write(transaction)
                    assert await shown_shops(client) == expected_shops(number + 1)
                    tap.at_step = {}
                    cuts += proxy.connections_made > made
                assert cuts > 5
                await check_watched(client, changes)
                assert len(await client.rows("all_lines")) == number + 1
                watching.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["stall", "refuse"])
def test_cut_off_for_a_while(rabbitmq: RabbitServer, rabbitmq_url: str, fault: str) -> None:
    """A client that cannot reach the broker for a while says so, and goes on afterwards with all it was given to
    write."""
    virtual_host = rabbitmq_url.rpartition("/")[2]

    async def main() -> None:
        async with running(over(rabbitmq_url)) as system, Proxy(rabbitmq.host, rabbitmq.port) as proxy:
            url = rabbitmq.url(virtual_host, port=proxy.port)
            remote = RemoteSystem(
                url, SYSTEM, connect=connector(url, "cut-off", heartbeat_seconds=2, publish_seconds=3)
            )
            async with system.connect(app, nodes=2), remote.connect(app) as client:
                said: list[str] = []
                client.on_waiting(said.append)
                await client.put("sales", sale(0))
                getattr(proxy, fault)()
                tickets = []
                for number in range(1, 50):
                    transaction = client.new_transaction()
                    transaction.put("sales", sale(number))
                    tickets.append(await client.write_soon(transaction))
                async with asyncio.timeout(60):
                    while not client.waiting_for:
                        await asyncio.sleep(0.05)
                assert "no connection" in said[0]
                assert not any(ticket.done() for ticket in map(asyncio.ensure_future, tickets))
                proxy.heal()
                for ticket in tickets:
                    await ticket
                assert await shown_shops(client) == expected_shops(50)
                assert said[-1] == "" == client.waiting_for

    asyncio.run(main())


# ---- the broker ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def loading(client: Client) -> AsyncIterator[list[int]]:
    """Writes sale after sale while the block runs; the list has the epochs of those that were committed."""
    epochs: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            transaction = client.new_transaction()
            transaction.put("sales", sale(len(epochs)))
            transaction.append("lines", sale(len(epochs)))
            epochs.append(await client.write(transaction))

    task = asyncio.create_task(load())
    try:
        async with asyncio.timeout(60):
            while len(epochs) < 20:
                await asyncio.sleep(0.01)
        yield epochs
    finally:
        stop.set()
        await task


async def check_loaded(client: Client, epochs: list[int]) -> None:
    """All that was committed is there, once."""
    assert await shown_shops(client) == expected_shops(len(epochs))
    assert len(await client.rows("all_lines")) == len(epochs)


@pytest.mark.parametrize("how", ["restart_container", "kill_container"])
def test_broker_restarted_under_load(rabbitmq: RabbitServer, rabbitmq_url: str, how: str) -> None:
    """A broker that goes and comes back, gently or not: the writer waits and goes on, the watcher misses nothing."""

    async def main() -> None:
        async with running(over(rabbitmq_url)) as system, system.connect(app, nodes=3) as client:
            changes: list[StoredChange] = []
            watching = asyncio.create_task(collect(client, changes))
            async with loading(client) as epochs:
                await asyncio.to_thread(getattr(rabbitmq, how))
                there = len(epochs)
                async with asyncio.timeout(200):
                    while len(epochs) < there + 20:
                        await asyncio.sleep(0.05)
            await check_loaded(client, epochs)
            await check_watched(client, changes)
            watching.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("alarm", ["memory_alarm", "disk_alarm"])
def test_alarm_at_the_broker(rabbitmq: RabbitServer, rabbitmq_url: str, alarm: str) -> None:
    """While the broker takes nothing a writer waits, says why, and goes on when it is over."""

    async def main() -> None:
        async with running(over(rabbitmq_url)) as system, system.connect(app, nodes=2) as client:
            async with loading(client) as epochs:
                with_alarm = getattr(rabbitmq, alarm)()
                await asyncio.to_thread(with_alarm.__enter__)
                try:
                    async with asyncio.timeout(60):
                        while not client.waiting_for:
                            await asyncio.sleep(0.05)
                    assert "takes no messages" in client.waiting_for
                    assert alarm.partition("_")[0] in client.waiting_for
                    there = len(epochs)
                finally:
                    await asyncio.to_thread(with_alarm.__exit__, None, None, None)
                async with asyncio.timeout(200):
                    while len(epochs) < there + 20:
                        await asyncio.sleep(0.05)
                assert client.waiting_for == ""
            await check_loaded(client, epochs)

    asyncio.run(main())
