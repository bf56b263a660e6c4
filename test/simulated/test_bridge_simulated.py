"""The bridge, killed wherever it can be: each message of the foreign queue is applied exactly once.

The oracle counts: whatever was killed, lost, doubled or shuffled, in the end the queue is empty, every good message's
rows are in the dataset once, and every bad message is in the queue beside it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.bridge import bridge as bridging
from dist_zero.bridge import ledger
from dist_zero.bridge.bridge import Bridge
from dist_zero.bridge.foreign import OnMessage
from dist_zero.bridge.ledger import Counts
from dist_zero.client.client import Client
from dist_zero.client.opening import new_client
from dist_zero.program import Program
from dist_zero.row import row_type_of
from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.memory import MemoryConnection
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import get_logger
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.foreign_queue import ForeignQueue, Fuse, Sent, Subscription

PREFETCH = 7


class Part(dz.Row):
    number: int
    part: int


def program(**source: Any) -> Program:
    app = dz.Program("shop")
    parts = app.dataset("parts", Part)
    app.source(parts, queue="parts", **source)
    app.view("applied", parts.group_by("number", "part").agg(times=dz.count()))
    return app


APP = program()


def message(number: int, rows: int = 2) -> Sent:
    """A good message; it stands for so many rows."""
    body = [{"number": number, "part": part, "more": None} for part in range(rows)]
    return Sent(json.dumps(body).encode(), f"m-{number}")


def bad(number: int) -> Sent:
    """One of several kinds of message that nobody can apply."""
    body = [b"{", b'{"number": 1}', b'[{"number": "x", "part": 1}]', b"7"][number % 4]
    return Sent(body, f"bad-{number}") if number % 5 else Sent(message(number).body, None)


@dataclass
class World:
    """A system, a foreign queue, and bridges between them."""

    sim: SimWorld
    queue: ForeignQueue
    app: Program
    objects: MemoryObjects = field(default_factory=MemoryObjects)
    counts: list[Counts] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    kills: int = 0
    system: SimulatedSystem = field(init=False)

    processes: int = 0
    sequencer: SequencerOptions | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        """The system, from the log that it left when it last ran. It ends as if its machine were switched off."""
        store = MemoryStore(self.objects, self.sim)
        self.system = SimulatedSystem(self.sim, machines=2, store=store, sequencer=self.sequencer)
        async with (
            self.system,
            self.system.connect(self.app, nodes=2) as client,
        ):
            yield client
        for connection in list(self.system.broker.connections):
            connection.drop_connection()

    def start(self, steps: int | None = None) -> Process:
        """Start a bridge, which is killed in front of this step of its, if it comes so far."""
        self.processes += 1
        return Process(self, steps)

    def total(self, count: str) -> int:
        """One of the counts, of all bridges together."""
        return sum(getattr(counts, count) for counts in self.counts)


class Process:
    """A bridge as a process of its own, which can be killed."""

    def __init__(self, world: World, steps: int | None) -> None:
        self._world, self._number = world, world.processes
        self._connections: list[MemoryConnection] = []
        self._subscriptions: list[Subscription] = []
        self.fuse = Fuse(steps, self._kill)
        self._bridge = Bridge(
            world.app.sources[0],
            row_type_of(Part),
            connect=self._client,
            open_queue=self._open,
            clock=world.sim.clock,
            log=get_logger("bridge", world.sim.clock),
            tell=world.said.append,
        )
        world.counts.append(self._bridge.counts)
        self.task = asyncio.create_task(self._bridge.run())

    def _client(self, client_id: str) -> Client:
        name = f"bridge-{self._number}-{len(self._connections)}"
        return new_client(
            self._world.app.name,
            system="local",
            connection=name,
            connect=self._connect,
            clock=self._world.sim.clock,
            nodes=1,
            client_id=client_id,
        )

    async def _connect(self) -> MemoryConnection:
        if not self.fuse.step():
            await asyncio.Event().wait()
        connection = self._world.system.broker.connect(f"bridge-{self._number}")
        self._connections.append(connection)
        return connection

    async def _open(self, on_message: OnMessage) -> Subscription:
        subscription = await self._world.queue.open(on_message, PREFETCH, self.fuse)
        self._subscriptions.append(subscription)
        return subscription

    def drop_connections(self) -> None:
        """Cut what it has to the system, which it makes again."""
        for connection in self._connections:
            connection.drop_connection()

    def _kill(self) -> None:
        """As `kill -9`: its connections end, and nothing is tidied up."""
        self._world.kills += 1
        self.drop_connections()
        for subscription in [each for each in self._world.queue.subscriptions if each.fuse is self.fuse]:
            subscription.end()
        self.task.cancel()

    async def dead(self) -> None:
        """Kill it, unless it is."""
        self.fuse.blow()
        with suppress(asyncio.CancelledError):
            await self.task


def simulated(
    main: Callable[[World], Awaitable[None]], *, seed: int = 1, weather: str = "hostile", app: Program = APP
) -> World:
    """Run `main` in a world of its own."""
    sim = SimWorld(seed, weather)
    world = World(sim, ForeignQueue(sim.rng("foreign queue")), app)

    async def live() -> None:
        await main(world)

    run_simulation(live(), until_seconds=100 * 86_400.0)
    return world


async def until(condition: Callable[[], bool], seconds: float = 20_000.0) -> None:
    """Wait until it holds; the loop's time is free."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def applied(client: Client) -> dict[tuple[int, int], int]:
    """How often the dataset has the row of each number and part."""
    rows = (await client.snapshot("applied")).stored["applied"]
    return {(number, part): times for number, part, times in rows}


async def publish_all(world: World, rng: random.Random, good: int, bads: int) -> dict[tuple[int, int], int]:
    """Messages, some of them twice, over some seconds. Returns what is to be there once all are applied."""
    sent = [message(number, rows=number % 3) for number in range(good)]
    everything = sent + rng.sample(sent, good // 4) + [bad(number) for number in range(bads)]
    rng.shuffle(everything)
    for each in everything:
        world.queue.publish(each)
        await asyncio.sleep(rng.random() * 0.05)
    return {(number, part): 1 for number in range(good) for part in range(number % 3)}


def check_aside(world: World, bads: int) -> None:
    """All bad messages are beside the queue, and no good one."""
    kept = {sent.body for sent, _ in world.queue.aside}
    assert kept == {bad(number).body for number in range(bads)}
    assert all(reason for _, reason in world.queue.aside)


BADS = 6


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.long) for n in range(4, 100))]
)
def test_each_message_is_applied_once_whatever_is_killed(seed: int) -> None:
    """Bridges killed in front of random steps, two of them at once, connections and whole systems cut off."""

    async def main(world: World) -> None:
        rng = world.sim.rng("chaos")
        publishing: asyncio.Task[dict[tuple[int, int], int]] | None = None
        bridges: list[Process] = []
        for _ in range(3):
            async with world.running():
                publishing = publishing or asyncio.create_task(publish_all(world, rng, 80, BADS))
                for _ in range(6):
                    bridges.append(world.start(rng.choice((3, 10, 30, 100, None))))
                    await asyncio.sleep(rng.random() * 2)
                    match rng.randrange(5):
                        case 0:
                            bridges[-1].drop_connections()
                        case 1:
                            world.queue.drop()
                        case 2 | 3:
                            bridges[rng.randrange(len(bridges))].fuse.blow()
                    await asyncio.sleep(rng.random() * 2)
        assert publishing is not None
        wanted = await publishing
        for bridge in bridges:
            await bridge.dead()
        async with world.running() as client:
            last = world.start()
            await until(lambda: world.queue.is_empty)
            assert await applied(client) == wanted
            await last.dead()
        check_aside(world, BADS)

    world = simulated(main, seed=seed, weather="hostile" if seed % 2 else "faithful")
    assert world.kills > 5
    assert world.total("repeated") > 0


def test_killed_in_front_of_every_step() -> None:
    """A bridge that dies after 0, 1, 2, ... steps, and one that comes after it: all is there once."""
    repeated = 0
    for steps in range(0, 48, 2):

        async def main(world: World, steps: int = steps) -> None:
            async with world.running() as client:
                for number in range(10):
                    world.queue.publish(message(number, rows=1))
                for number in range(2):
                    world.queue.publish(bad(number))
                first = world.start(steps)
                await until(lambda: world.queue.is_empty or first.fuse.burnt)
                await first.dead()
                second = world.start()
                await until(lambda: world.queue.is_empty)
                assert await applied(client) == {(number, 0): 1 for number in range(10)}
                await second.dead()
            check_aside(world, 2)

        repeated += simulated(main, seed=steps, weather="faithful").total("repeated")
    assert repeated > 0, "no bridge was killed between commit and ack"


def test_two_bridges_at_once_are_right_and_say_so() -> None:
    """Each ends the other's session; all is applied once, by both of them."""

    async def main(world: World) -> None:
        async with world.running() as client:
            both = [world.start(), world.start()]
            for number in range(300):
                world.queue.publish(message(number, rows=1))
                await asyncio.sleep(0.2)
            await until(lambda: world.queue.is_empty)
            assert await applied(client) == {(number, 0): 1 for number in range(300)}
            for each in both:
                await each.dead()

    world = simulated(main)
    assert any("another bridge" in each for each in world.said)
    assert all(counts.applied for counts in world.counts)


def test_ids_are_forgotten_in_time_and_not_in_the_time_of_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `remember`, an id is gone from the dataset; an earlier bridge's is known for some time at least."""
    monkeypatch.setattr(ledger, "GRACE_US", 200_000_000)
    monkeypatch.setattr(bridging, "HOUSEKEEPING_SECONDS", 50.0)
    app = program(remember="100s")

    async def known(client: Client) -> int:
        source = app.sources[0]
        return len((await client.snapshot(source.applied_view)).stored[source.applied_view])

    async def main(world: World) -> None:
        async with world.running() as client:
            for number in range(5):
                world.queue.publish(message(number, rows=1))
            first = world.start()
            await until(lambda: world.queue.is_empty)
            await first.dead()
            assert await known(client) == 5
            await asyncio.sleep(150)
            second = world.start()
            await asyncio.sleep(150)
            for number in range(6):  # five of them come again
                world.queue.publish(message(number, rows=1))
            await until(lambda: world.queue.is_empty)
            assert await applied(client) == {(number, 0): 1 for number in range(6)}
            await asyncio.sleep(200)
            assert await known(client) == 0
            await second.dead()

    simulated(main, app=app, weather="calm")


def test_a_quiet_bridge_keeps_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions end after a day without a write; a bridge of a queue in which nothing comes for days goes on. Here a
    day has a hundred seconds."""
    monkeypatch.setattr(bridging, "HOUSEKEEPING_SECONDS", 30.0)
    day = 100.0

    async def main(world: World) -> None:
        world.sequencer = SequencerOptions(session_idle_us=round(day * 1_000_000))
        async with world.running() as client:
            bridge = world.start()
            for number in range(3):
                await asyncio.sleep(2.5 * day)
                world.queue.publish(message(number, rows=1))
            await until(lambda: world.queue.is_empty)
            assert await applied(client) == {(number, 0): 1 for number in range(3)}
            await bridge.dead()

    assert simulated(main, weather="calm").total("sessions") == 1


def test_many_messages_go_in_few_transactions() -> None:
    """While transactions are on their way, the next ones fill; a message alone goes at once."""

    async def main(world: World) -> None:
        async with world.running() as client:
            bridge = world.start()
            world.queue.publish(message(0, rows=1))
            await until(lambda: world.queue.is_empty)
            for number in range(1, 400):
                world.queue.publish(message(number, rows=1))
            await until(lambda: world.queue.is_empty)
            assert len(await applied(client)) == 400
            await bridge.dead()

    simulated(main)


def test_too_large_together_is_cut_and_too_large_alone_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function may make much of little: what fits no transaction does not stop the rest."""
    monkeypatch.setattr("dist_zero.writes.TRANSACTION_BYTES_MAX", 4_000)

    def decode(sent: Any) -> list[dict[str, int]]:
        number = json.loads(sent.body)
        return [{"number": number, "part": part} for part in range(1_000 if number == 3 else 20)]

    async def main(world: World) -> None:
        for number in range(12):
            world.queue.publish(Sent(str(number).encode(), f"m-{number}"))
        async with world.running() as client:
            bridge = world.start()
            await until(lambda: world.queue.is_empty)
            assert await applied(client) == {(n, part): 1 for n in range(12) if n != 3 for part in range(20)}
            await bridge.dead()
        ((sent, reason),) = world.queue.aside
        assert sent.body == b"3"
        assert "a transaction of" in reason

    simulated(main, app=program(decode=decode))


def test_a_missing_queue_ends_the_bridge_with_its_name() -> None:
    """At the start that is a misspelt name; later it is waited for."""

    async def main(world: World) -> None:
        async with world.running():
            world.queue.exists = False
            with pytest.raises(OperatorError, match="no such queue"):
                await world.start().task
            world.queue.exists = True
            bridge = world.start()
            world.queue.publish(message(1))
            await until(lambda: bool(world.queue.acked))
            world.queue.exists = False
            world.queue.drop()
            await asyncio.sleep(30)
            world.queue.exists = True
            world.queue.publish(message(2))
            await until(lambda: len(world.queue.acked) == 2)
            await bridge.dead()

    simulated(main)


def test_the_program_may_start_later_and_must_have_the_source() -> None:
    """A bridge waits for its program; a program without its datasets is an error that says where the source is."""

    async def main(world: World) -> None:
        world.system = SimulatedSystem(world.sim)
        async with world.system:
            bridge = world.start()
            await asyncio.sleep(20)
            assert not bridge.task.done()
            async with world.system.connect(world.app) as client:
                world.queue.publish(message(1))
                await until(lambda: world.queue.is_empty)
                assert await applied(client) == {(1, 0): 1, (1, 1): 1}
                await bridge.dead()

        world.system = SimulatedSystem(world.sim)
        async with world.system:
            other = dz.Program("shop")
            other.view("all", other.dataset("parts", Part))
            async with world.system.connect(other):
                with pytest.raises(
                    OperatorError, match=r"test_bridge_simulated.py:\d+: .*has no such dataset"
                ):
                    await world.start().task

    simulated(main)
