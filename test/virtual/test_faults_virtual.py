"""A system of operating system processes over a real RabbitMQ loses what it stands on, under load: the broker, gently
or not; a runner, an agent, a machine, the scheduler, each with SIGKILL; every connection, at moments drawn from a seed;
all descriptors, all disk, all memory.

At the end the views are those that the oracle makes of the log, bit for bit; each transaction that was sent is in the
log once; and a watcher was told every epoch once, in order, but for a gap that a snapshot closes and is marked as such.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.client.snapshot import Snapshot
from dist_zero.client.watch import StoredChange
from dist_zero.testing import log_of, recomputed_differences
from dist_zero_common.store.directory import DirectoryStore
from test.virtual.processes import Service, Services, services
from test.virtual.proxy import Proxy
from test.virtual.rabbitmq_server import RabbitServer, have_base_images, rabbit_cluster

SYSTEM = "till"
NODES = 4
STEP = 25
"""So many transactions of each writer are committed between two faults, and behind the last."""
SHORT_SECONDS = 4.0
"""For so long a process goes without descriptors, disk or memory."""
STALL_SECONDS_MAX = 200.0
"""Nothing may stand still for so long, not even while a broker starts on a machine full of other work."""

app = dz.Program("till")


class Sale(dz.Row):
    id: int
    shop: str
    amount: int
    weight: float


sales = app.dataset("sales", Sale, key="id")
lines = app.dataset("lines", Sale)
shops = app.view(
    "shops", sales.group_by("shop").agg(n=dz.count(), total=dz.sum("amount"), mean=dz.mean("weight"))
)
app.view("best", shops.top(3, by=dz.desc("total")))
app.view("numbers", lines.select("id", "shop"))


def sale(number: int, writer: int) -> dict[str, object]:
    """A row of a writer's; a writer's numbers are its own."""
    identity = 2 * number + writer
    return {"id": identity, "shop": f"shop {identity % 7}", "amount": identity, "weight": 1 / (1 + identity)}


@dataclass
class Site:
    """Processes under load. `committed`: by writer, how many of its transactions are."""

    server: RabbitServer
    proxy: Proxy
    started: Services
    client: Client
    scheduler: Service
    agent: Service
    machine: Service
    committed: list[int]
    changes: list[StoredChange] = field(default_factory=list)
    starts: int = 0

    # -- faults --------------------------------------------------------------------------------------------------

    async def restart_broker(self) -> None:
        """RabbitMQ ends as it would for an upgrade, and comes back; what was in its queues is gone."""
        await asyncio.to_thread(self.server.restart_container)

    async def kill_broker(self) -> None:
        """So it does after a power cut."""
        await asyncio.to_thread(self.server.kill_container)

    async def kill_runner(self) -> None:
        """The agent's newest runner, as the kernel would for want of memory."""
        deadline = time.monotonic() + STALL_SECONDS_MAX
        while True:
            runners = self.agent.found("process_started", service="node-runner")
            if runners and await _kill(runners[-1]["pid"]):
                return
            assert time.monotonic() < deadline, "the agent has no runner"
            await asyncio.sleep(0.1)

    async def kill_agent(self) -> None:
        """With its runner, which dies with it; as a container's restart policy would, it is started again."""
        await self.agent.ended(signal.SIGKILL)
        self.agent = await self._start("machine_agent", DIST_ZERO_MACHINE="m-agent")

    async def kill_machine(self) -> None:
        """A runner that is a machine of its own."""
        await self.machine.ended(signal.SIGKILL)
        self.machine = await self._start("node_runner", DIST_ZERO_MACHINE="m-alone")

    async def kill_scheduler(self) -> None:
        """Data keep flowing without one; the next one finds everything as it is."""
        await self.scheduler.ended(signal.SIGKILL)
        self.scheduler = await self._start("scheduler", DIST_ZERO_MACHINES="2")

    async def no_descriptors(self) -> None:
        """Nobody may open a file or a connection; then all connections are lost, too, and cannot be made again."""
        await self._short_of(resource.RLIMIT_NOFILE, lambda _pid: 0)

    async def no_room(self) -> None:
        """Nothing can be written to any file, as on a disk that is full: neither to the store nor to the logs."""
        await self._short_of(resource.RLIMIT_FSIZE, lambda _pid: 0)

    async def no_memory(self) -> None:
        """The agent's runner has what it has, and is given no more. It dies of it, or hangs, which its agent sees, or
        lives on."""
        await self._short_of(resource.RLIMIT_AS, _address_space, only_runner=True)

    async def _short_of(self, what: int, limit: Callable[[int], int], *, only_runner: bool = False) -> None:
        runners = self.agent.found("process_started", service="node-runner")
        pids = [_number(runners[-1]["pid"])]
        if not only_runner:
            pids += [service.process.pid for service in (self.machine, self.scheduler, self.agent)]
        before = {pid: _limited(pid, what, limit(pid)) for pid in pids}
        if what == resource.RLIMIT_NOFILE:
            self.proxy.cut()
        await asyncio.sleep(SHORT_SECONDS)
        for pid, was in before.items():
            with suppress(ProcessLookupError):  # it has died of it
                resource.prlimit(pid, what, was)

    async def cut_connections(self) -> None:
        """All of them, clients' too, are reset."""
        self.proxy.cut()

    async def kill_all(self) -> None:
        """A power cut, for everything but the store."""
        for service in (self.scheduler, self.agent, self.machine):
            service.process.kill()
        await self.kill_broker()
        await self.kill_scheduler()
        await self.kill_agent()
        await self.kill_machine()

    async def _start(self, module: str, **settings: str) -> Service:
        self.starts += 1
        service = self.started.start(module, f"{module}-{self.starts}", **settings)
        await service.wait_event("process_started")
        return service

    # -- progress ------------------------------------------------------------------------------------------------

    async def go_on(self) -> None:
        """Return when each writer has committed some more, and the watcher was told of it."""
        wanted = [count + STEP for count in self.committed]
        epoch = self.changes[-1].epoch if self.changes else 0
        await self._until(
            lambda: (
                all(now >= then for now, then in zip(self.committed, wanted, strict=True))
                and bool(self.changes)
                and self.changes[-1].epoch > epoch
            )
        )

    async def watched(self, epoch: int) -> None:
        """Return when the watcher was told of this epoch."""
        await self._until(lambda: bool(self.changes) and self.changes[-1].epoch >= epoch)

    async def _until(self, holds: Callable[[], bool]) -> None:
        at, since = self._progress(), time.monotonic()
        while not holds():
            await asyncio.sleep(0.05)
            if (now := self._progress()) != at:
                at, since = now, time.monotonic()
            assert time.monotonic() < since + STALL_SECONDS_MAX, (
                f"stands still at {at}: {self._what_is_wrong()}"
            )

    def _progress(self) -> tuple[int, ...]:
        return *self.committed, len(self.changes)

    def _what_is_wrong(self) -> str:
        warnings = [
            entry
            for service in self.started.running
            for entry in service.events()
            if entry.get("level") != "info"
        ]
        return f"waits for {self.client.waiting_for!r}; last warnings {warnings[-10:]}"


def _number(pid: object) -> int:
    assert isinstance(pid, int)
    return pid


def _limited(pid: int, what: int, soft: int) -> tuple[int, int]:
    """Give a process this limit; returns what it had."""
    was = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, was[1]))
    return was


def _address_space(pid: int) -> int:
    """How many bytes a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


async def _kill(pid: object) -> bool:
    try:
        os.kill(_number(pid), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def under_load(
    server: RabbitServer, virtual_host: str, directory: Path, others: Sequence[RabbitServer] = ()
) -> AsyncIterator[Site]:
    """A scheduler, an agent with its runner, and a runner that is a machine, all through one proxy, as are two writers
    and a watcher; everything is checked at the end. `others` are of one cluster with the server."""
    async with Proxy(server.host, server.port, others=[(each.host, each.port) for each in others]) as proxy:
        url = server.url(virtual_host, port=proxy.port)
        with services(directory, url, SYSTEM) as started:
            scheduler, agent = started.scheduler(machines=2), started.agent("m-agent")
            machine = started.runner("m-alone")
            remote = RemoteSystem(url, SYSTEM)
            async with (
                remote.connect(app, nodes=NODES) as client,
                remote.connect(app, nodes=NODES, client_id="second-writer") as second,
            ):
                site = Site(server, proxy, started, client, scheduler, agent, machine, [0, 0])
                stop = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(_watch(site))
                    for number, writer in enumerate((client, second)):
                        tasks.create_task(_write(site, writer, number, stop))
                    await site.go_on()
                    yield site
                    await site.go_on()
                    stop.set()
                    await site.watched(await client.flush())
                    snapshot = await second.snapshot()
                    await site.watched(snapshot.epoch)
                    watching.cancel()
                plan = client.plan
            for service in started.running:
                if service.process.poll() is None:
                    code, said = await service.ended(signal.SIGTERM)
                    assert code == 0, (service.logs.name, said[-3000:])
    store = DirectoryStore(directory / "store")
    log = await log_of(store, "till")
    await store.close()
    differences = recomputed_differences(
        app.graph(), plan, log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
    )
    assert not differences, differences
    _check_written(site, snapshot)
    logged = Counter((sent.session, sent.number) for record in log for sent in record.transactions)
    assert logged.total() == len(logged) == sum(site.committed)
    assert [record.epoch for record in log] == list(range(log[0].epoch, log[-1].epoch + 1))
    _check_watched(site, snapshot)


async def _write(site: Site, client: Client, writer: int, stop: asyncio.Event) -> None:
    """Some transactions are on their way at any time; each puts a row, and appends it."""
    under_way: list[Awaitable[int]] = []
    number = 0
    while not stop.is_set() or under_way:
        while not stop.is_set() and len(under_way) < 8:
            transaction = client.new_transaction()
            transaction.put("sales", sale(number, writer))
            transaction.append("lines", sale(number, writer))
            under_way.append(await client.write_soon(transaction))
            number += 1
        await under_way.pop(0)
        site.committed[writer] += 1


async def _watch(site: Site) -> None:
    with site.client.watch_stored(range(len(site.client.plan.views))) as watch:
        async for change in watch:
            site.changes.append(change)


def _check_written(site: Site, snapshot: Snapshot) -> None:
    """Nothing is lost, nothing is doubled."""
    wanted = sorted(2 * number + writer for writer in (0, 1) for number in range(site.committed[writer]))
    assert sorted(row[0] for row in snapshot.stored["numbers"]) == wanted
    shown = {row[0]: (row[1], row[2]) for row in snapshot.stored["shops"]}
    assert shown == {
        f"shop {shop}": (
            sum(1 for identity in wanted if identity % 7 == shop),
            sum(identity for identity in wanted if identity % 7 == shop),
        )
        for shop in range(7)
    }


def _check_watched(site: Site, snapshot: Snapshot) -> None:
    """Every epoch was told once, or stands before a snapshot; and what was told adds up to what is there."""
    held: dict[int, Counter[tuple[object, ...]]] = {number: Counter() for number in range(3)}
    before = site.changes[0].epoch - 1
    for change in site.changes:
        if change.epoch > snapshot.epoch:
            break
        assert change.epoch > before, "an epoch was told twice"
        assert change.snapshot or change.epoch == before + 1, f"epochs between {before} and {change.epoch}"
        before = change.epoch
        for number, rows in change.rows.items():
            if change.snapshot:
                held[number].clear()
            for row, weight in rows:
                held[number][row] += weight
    assert before == snapshot.epoch
    for number, name in enumerate(view.name for view in site.client.plan.views):
        assert {row: weight for row, weight in held[number].items() if weight} == Counter(
            snapshot.stored[name]
        ), name


Fault = Callable[[Site], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "cut": Site.cut_connections,
    "restart broker": Site.restart_broker,
    "kill broker": Site.kill_broker,
    "kill runner": Site.kill_runner,
    "kill agent": Site.kill_agent,
    "kill machine": Site.kill_machine,
    "kill scheduler": Site.kill_scheduler,
    "kill all": Site.kill_all,
    "no descriptors": Site.no_descriptors,
    "no room": Site.no_room,
    "no memory": Site.no_memory,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        "kill broker",
        "kill agent",
        "kill scheduler",
        "kill all",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                *("cut", "restart broker", "kill runner", "kill machine"),
                *("no descriptors", "no room", "no memory"),
            )
        ),
    ],
)
def test_a_fault_under_load_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path, name: str
) -> None:
    """One fault; then it goes on, and everything is right."""

    async def main() -> None:
        async with under_load(rabbitmq, rabbitmq_url.rpartition("/")[2], tmp_path) as site:
            await FAULTS[name](site)

    asyncio.run(main())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_connections_cut_at_random_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path, seed: int
) -> None:
    """All connections are reset again and again, at random moments, also while they are being made again."""
    rng = random.Random(seed)

    async def main() -> None:
        async with under_load(rabbitmq, rabbitmq_url.rpartition("/")[2], tmp_path) as site:
            for _ in range(4 if seed == 1 else 15):
                for _ in range(rng.randint(1, 4)):
                    await asyncio.sleep(rng.random())
                    site.proxy.cut()
                await site.go_on()

    asyncio.run(main())


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.usefixtures("docker_or_skip")
def test_each_broker_of_a_cluster_is_killed_in_turn_virtual(tmp_path: Path) -> None:
    """Connections go to the first of three brokers that answers. Queues live where they were declared, so those of a
    broker that is away are missed until it is back."""
    have_base_images()

    async def main(servers: list[RabbitServer], virtual_host: str) -> None:
        async with under_load(servers[0], virtual_host, tmp_path, servers[1:]) as site:
            for server in servers:
                await asyncio.to_thread(server.kill_container)
                await site.go_on()
            nodes = servers[0].manage("GET", "nodes")
            assert [node["running"] for node in nodes] == [True] * len(servers)

    with rabbit_cluster() as servers, servers[0].virtual_host() as virtual_host:
        asyncio.run(main(servers, virtual_host))


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(3))
def test_faults_at_random_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path, seed: int
) -> None:
    """Twenty faults of all kinds, each as soon as the system goes on, and some before."""
    rng = random.Random(seed)

    async def main() -> None:
        async with under_load(rabbitmq, rabbitmq_url.rpartition("/")[2], tmp_path) as site:
            for _ in range(20):
                await FAULTS[rng.choice(list(FAULTS))](site)
                if rng.random() < 0.6:
                    await site.go_on()
                else:
                    await asyncio.sleep(3 * rng.random())

    asyncio.run(main())
