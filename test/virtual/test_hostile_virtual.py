"""A stranger with a connection to a real RabbitMQ writes to every inbox of a running system: what is not understood is
set aside with the reason or dropped, nothing goes round for ever, and the views are right at the end.

The lies are those of `test_hostile_simulated.py`. What only a real broker has is added: messages as large as it takes,
properties and headers of other people's clients, inboxes that were full of rubbish before their reader came.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from dist_zero.cli.app import OK
from dist_zero.client.client import Client
from dist_zero.system import System
from dist_zero.testing import log_of, recomputed_differences
from dist_zero_common.broker.base import Broker, Delivery
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.topology import (
    agent_inbox,
    exchange_of,
    queue_of,
)
from dist_zero_common.clock import RealClock
from dist_zero_common.protocol.codec import SEAL_SIZE, decode, encode, seal
from dist_zero_common.protocol.messages.control import DropProgram, StopRunner
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.epochs import Done, EmptyRows, HandOut, StageRows
from dist_zero_common.protocol.messages.reading import AwaitEpoch, Get, SnapshotRequest
from dist_zero_common.protocol.messages.requests import Locate
from dist_zero_common.protocol.messages.writing import Committed, OpenSession
from dist_zero_common.store.directory import DirectoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.test_hostile_simulated import (
    CLIENTS,
    EMPTY,
    HUGE,
    LIES_OF_NODES,
    NODES,
    SCHEDULER,
    STRANGER,
    SYSTEM,
    app,
    key,
    lies_to_agent,
    lies_to_client,
    lies_to_runner,
    lies_to_scheduler,
    lies_to_sequencer,
    rubbish,
)
from test.virtual.rabbitmq_server import RabbitServer

LARGEST_BYTES = 16 * 2**20  # what RabbitMQ takes
SECONDS_MAX = 120.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Battle:
    """A running system, its own client, and the stranger."""

    server: RabbitServer
    url: str
    system: System
    client: Client
    stranger: Broker
    answers: list[Message] = field(default_factory=list)
    """What services have told the stranger."""

    @property
    def nodes_inbox(self) -> str:
        return self.client.placement.nodes_inbox

    @property
    def runner(self) -> str:
        """The inbox of the runner that has shards 0 and 2."""
        return self.client.placement.inboxes[0]

    @property
    def virtual_host(self) -> str:
        return self.url.rpartition("/")[2]

    async def queues(self) -> list[dict[str, Any]]:
        """Every queue as RabbitMQ itself sees it, some seconds ago."""
        found: list[dict[str, Any]] = await asyncio.to_thread(
            self.server.manage, "GET", f"queues/{self.virtual_host}"
        )
        return found

    async def inboxes(self) -> list[str]:
        """Every inbox of every service and client."""
        return sorted(queue["name"] for queue in await self.queues() if queue["name"] != STRANGER)

    async def send(self, inbox: str, *messages: Message) -> None:
        await self.stranger.publish(inbox, encode(Envelope(SYSTEM, f"stranger of {inbox}", messages)))

    async def send_lie(self, inbox: str, lie: Message) -> None:
        """Send what has to be set aside, and wait until it is."""
        before = len(self.refused())
        await self.send(inbox, lie)
        await until(lambda: len(self.refused()) > before, lambda: f"taken for good: {str(lie)[:500]}")

    def refused(self) -> list[bytes]:
        """What services have set aside."""
        assert isinstance(self.system.store, DirectoryStore)
        return refused(self.system.store)

    async def settled(self) -> None:
        """Return when nothing waits in any queue and nothing is unacked, with every queue read. RabbitMQ's own figures
        are some seconds old: they have to be right twice."""
        right_before = False
        unsettled: list[tuple[str, int]] = []
        async with asyncio.timeout(SECONDS_MAX) as limit:
            while True:
                queues = await self.queues()
                unsettled = [(q["name"], q.get("messages", 1)) for q in queues if q.get("messages", 1)]
                if right_before and not unsettled:
                    assert not limit.expired()
                    break
                right_before = not unsettled
                await asyncio.sleep(5.5)
        unread = [q["name"] for q in queues if not q["consumers"]]
        assert not unread, f"queues that nobody reads: {unread}"

    async def check_all_is_well(self) -> None:
        """The system answers, rightly, and no message is stuck."""
        client = self.client
        number = 1000 + len(await log_of(self.system.store, "ledger"))
        await client.put("accounts", {"name": f"late-{number}", "town": 9, "money": number})
        snapshot = await client.snapshot()
        log = await log_of(self.system.store, "ledger")
        assert not recomputed_differences(
            app.graph(), client.plan, log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
        )
        got = await client.get("rich", f"late-{number}")
        assert got is not None and vars(got)["money"] == number
        await client.flush()
        await self.settled()


def refused(store: DirectoryStore) -> list[bytes]:
    """What is set aside in a store."""
    return [path.read_bytes() for path in sorted(store.path.glob("aside/*/*")) if path.is_file()]


async def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """Return as soon as it holds."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what()) from None


@asynccontextmanager
async def fighting(server: RabbitServer, url: str, directory: Path) -> AsyncIterator[Battle]:
    """A system with data in it, and a stranger who hears what services answer."""
    store = DirectoryStore(directory / "store")
    system = System(
        SYSTEM,
        connector=lambda name: connector(url, name),
        store=store,
        clock=RealClock(),
        machines=2,
        sequencer=SequencerOptions(collects=False),  # views are recomputed from the log at the end
    )
    async with system, system.connect(app, nodes=NODES) as client:
        stranger = await connector(url, "stranger")()
        scene = Battle(server, url, system, client, stranger)

        def hear(delivery: Delivery) -> None:
            scene.answers.extend(decode(Envelope, delivery.body).messages)
            consumer.ack([delivery.tag])

        await stranger.declare(queue_of(STRANGER))
        consumer = await stranger.consume(STRANGER, hear, 0)
        rows = [{"name": f"a{i}", "town": i % 3, "money": i} for i in range(20)]
        await client.put("accounts", rows)
        await client.append("notes", rows)
        await client.flush()
        try:
            yield scene
            await scene.check_all_is_well()
        finally:
            await stranger.close()


@pytest.fixture
def battle(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> Callable[[Callable[[Battle], Awaitable[None]]], None]:
    """Runs a fight in a system with data in it, then looks whether all is well."""

    def fight_it(fight: Callable[[Battle], Awaitable[None]]) -> None:
        async def main() -> None:
            async with fighting(rabbitmq, rabbitmq_url, tmp_path) as scene:
                await fight(scene)

        asyncio.run(main())

    return fight_it


Fought = Callable[[Callable[[Battle], Awaitable[None]]], None]


# ---- bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_bytes_that_are_no_message_virtual(battle: Fought, seed: int) -> None:
    """Random bytes, truncated and bit-flipped envelopes to every inbox, clients' included, kill nobody, and stay in no
    queue. What a flip left legal may be taken as it stands, so the good ones are harmless questions."""
    good = [
        encode(Envelope(SYSTEM, "x", messages))
        for messages in (
            (Locate(1, "ledger", STRANGER),),
            (Get(1, "ledger", 1, 0, 1, EMPTY, 0, STRANGER), AwaitEpoch(1, 2, STRANGER)),
            (SnapshotRequest(1, ("rich",), STRANGER),),
            (EmptyRows("ledger", 0, 1, 2, 1, b"\1\2"), Done("ledger", 0, 1, 2, 1)),
        )
    ]

    async def fight(scene: Battle) -> None:
        rng = random.Random(seed)
        inboxes = await scene.inboxes()
        assert len(inboxes) >= 8, inboxes  # scheduler, 2 agents, 2 runners, sequencer twice, client
        for _ in range(8 if seed == 1 else 200):
            for inbox in inboxes:
                for body in rubbish(rng, good):
                    await scene.stranger.publish(inbox, body)
        await until(lambda: len(scene.refused()) > 100, lambda: f"{len(scene.refused())} set aside")
        assert all(b"\nreason: " in kept for kept in scene.refused())

    battle(fight)


def test_messages_as_large_as_the_broker_takes_virtual(battle: Fought) -> None:
    """16 MiB of rubbish in each inbox, once as they are and once under a good checksum: of each the beginning is kept
    with its length, and everybody goes on."""
    body = bytearray(random.Random(3).randbytes(LARGEST_BYTES))
    agent = agent_inbox(SYSTEM, "m1")

    async def fight(scene: Battle) -> None:
        for number, inbox in enumerate((agent, SCHEDULER, CLIENTS, scene.runner, scene.nodes_inbox)):
            body[-1] = number  # a process keeps the same message once
            await scene.stranger.publish(inbox, bytes(body))
            await scene.stranger.publish(inbox, seal(bytes(body[SEAL_SIZE:])))
            # The agent has no store: what it refuses is in its log.
            await until(lambda wanted=2 * number: len(scene.refused()) >= wanted, lambda inbox=inbox: inbox)  # type: ignore[misc]
        for inbox in await scene.inboxes():
            if ".replies." in inbox:
                await scene.stranger.publish(inbox, bytes(body))
        kept = [kept for kept in scene.refused() if f"bytes: {LARGEST_BYTES}\n".encode() in kept]
        assert len(kept) == 8 and max(map(len, kept)) < 2**17

    battle(fight)


# ---- legal messages -----------------------------------------------------------------------------------------


def test_envelopes_of_another_system_and_for_other_roles_virtual(battle: Fought) -> None:
    """They are refused with a reason that says so, by every service."""
    messages: list[Message] = [
        Committed(1, 1, 1),
        Done("ledger", 0, 1, 0, 1),
        Locate(1, "ledger", STRANGER),
        OpenSession(1, "x", STRANGER),
        StopRunner(HUGE, "m1-r1", 9),
        DropProgram(0, "nobodys", 1),
    ]

    async def fight(scene: Battle) -> None:
        agent = agent_inbox(SYSTEM, "m1")
        takers = {SCHEDULER: 2, CLIENTS: 3, agent: 4, scene.runner: 5, scene.nodes_inbox: 1}
        for inbox, taken in takers.items():
            foreign = Envelope("other", f"stranger of {inbox}", (Committed(1, 1, 1),))
            await scene.stranger.publish(inbox, encode(foreign))
            for place, message in enumerate(messages):
                if place != taken:
                    await scene.send(inbox, message)
        # The agent has no store: what it refuses is in its log. All of the other four's are kept.
        wanted = 4 * len(messages)
        await until(lambda: len(scene.refused()) >= wanted, lambda: f"{len(scene.refused())} of {wanted}")
        foreign_ones = [kept for kept in scene.refused() if b"belongs to the system 'other'" in kept]
        assert len(foreign_ones) == 4
        not_theirs = [kept for kept in scene.refused() if b" is not for " in kept]
        assert len(not_theirs) == wanted - 4

    battle(fight)


def test_other_generations_and_nobodys_programs_virtual(battle: Fought) -> None:
    """What is for a generation, a program or a node that is not here is dropped, and none of it is set aside; each is
    sent 50 times."""

    async def fight(scene: Battle) -> None:
        generation = scene.client.placement.generation
        for away in range(1, 51):
            other = generation + away
            await scene.send(
                scene.runner,
                StageRows("nobodys", generation, 5, 2, 1, 1, 0, 0, 1, ()),
                Get(1, "nobodys", 1, 0, 1, key("a1"), 0, STRANGER),
                StageRows("ledger", other, 5, 2, 1, 1, 0, 0, 1, ()),
                EmptyRows("ledger", other, 50, 2, 1, b"\1"),
                EmptyRows("ledger", generation, 50, 2, 1, b""),
                HandOut("ledger", other, 50, 1, False, 0, (0, 1, 2, 3), (), (), (), (), False, 0, False),
                DropProgram(0, "ledger", generation),
                DropProgram(HUGE, "nobodys", HUGE),
            )
            await scene.send(scene.nodes_inbox, Done("ledger", other, 1, 0, 1))
        await scene.check_all_is_well()
        assert not scene.refused()

    battle(fight)


def test_lies_to_runners_virtual(battle: Fought) -> None:
    """Shards, stages, views, epochs, counts, graphs, inboxes that cannot be: each is refused and kept with its reason,
    and the nodes go on."""

    async def fight(scene: Battle) -> None:
        for lie in lies_to_runner(scene.runner, scene.client.placement.generation):
            await scene.send_lie(scene.runner, lie)

    battle(fight)


def test_lies_to_sequencer_scheduler_and_agent_virtual(battle: Fought) -> None:
    """Writers, readers, nodes and machines that lie get a refusal or nothing, leave no trace in the log, and hold up
    nobody."""

    async def fight(scene: Battle) -> None:
        log = await log_of(scene.system.store, "ledger")
        session = next(record.epoch << 20 for record in log if record.opens)
        for lie in lies_to_sequencer(session, scene.runner, scene.nodes_inbox):
            await scene.send(CLIENTS, lie)
        for done in LIES_OF_NODES:
            await scene.send_lie(scene.nodes_inbox, done)
        for lie in lies_to_scheduler(scene.runner):
            await scene.send(SCHEDULER, lie)
        for lie in lies_to_agent():
            await scene.send(agent_inbox(SYSTEM, "m1"), lie)
        await scene.settled()
        after = await log_of(scene.system.store, "ledger")
        assert not any(r.transactions or r.opens or r.snapshots or r.subscriptions for r in after[len(log) :])
        assert scene.answers, "nobody told the stranger that it is refused"

    battle(fight)


def test_lies_to_a_client_virtual(battle: Fought) -> None:
    """What claims to be an answer and was not asked for, or cannot be, changes nothing that the client shows."""

    async def fight(scene: Battle) -> None:
        seen: list[int] = []

        async def watch() -> None:
            with scene.client.watch_stored((0, 1, 2)) as changes:
                async for change in changes:
                    seen.append(change.epoch)

        watching = asyncio.create_task(watch())
        await until(lambda: bool(seen), lambda: "nothing is watched")
        request = next(iter(scene.client.watches))
        subscription = scene.client.watches[request].subscription
        for lie in lies_to_client(request, subscription, seen[-1]):
            await scene.send(scene.client.replies, lie)
        epoch = await scene.client.put("accounts", {"name": "after", "town": 1, "money": 7})
        await until(lambda: seen[-1] >= epoch, lambda: f"watched up to {seen[-1]}, not {epoch}")
        assert seen == list(range(seen[0], seen[-1] + 1))
        watching.cancel()

    battle(fight)


# ---- other people's clients ------------------------------------------------------------------------------------

WEIRD_HEADERS: list[dict[str, Any]] = [
    {"x-death": [{"queue": "q", "reason": "rejected", "count": 2**40}]},
    {"x-delivery-count": 2**60, "x-acquired-count": -1},
    {"a" * 120: "b" * 100_000},
    {
        "nested": {
            "in": {
                "in": {"in": [1, 2.5, None, True, bytearray(b"\xff\x00"), datetime(2026, 1, 1, tzinfo=UTC)]}
            }
        }
    },
    {"CC": ["dz.local.scheduler"], "BCC": ["dz.local.scheduler"]},
    {"money": Decimal("1.25"), "none": None, "": ""},
    {f"h{number}": number for number in range(1_000)},
]


def weird_properties(number: int) -> dict[str, Any]:
    """Properties that a message of ours never has."""
    return {
        "headers": WEIRD_HEADERS[number % len(WEIRD_HEADERS)],
        "content_type": ("application/json", "x" * 255, "\u2603", "")[number % 4],
        "content_encoding": ("gzip", "utf-8", None)[number % 3],
        "priority": number % 256,
        "correlation_id": "c" * (number % 200),
        "reply_to": ("somebody", "dz.local.scheduler", "")[number % 3],
        "message_id": "m" * (number % 256),
        "timestamp": datetime(2100, 1, 1, tzinfo=UTC),
        "type": "celery.task",
        "app_id": "somebody",
        "delivery_mode": aio_pika.DeliveryMode.PERSISTENT if number % 2 else None,
    }


def test_properties_of_other_peoples_clients_virtual(battle: Fought) -> None:
    """Messages as Celery or a shovel would send them: what our envelope is in is taken, whatever stands around it, and
    the rest is set aside."""

    async def fight(scene: Battle) -> None:
        question = encode(Envelope(SYSTEM, "stranger", (Locate(77, "ledger", STRANGER),)))
        inboxes = await scene.inboxes()
        async with await aio_pika.connect(scene.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            for number in range(3 * len(WEIRD_HEADERS)):
                task = b'[[1, 2], {}, {"callbacks": null, "number": %d}]' % number
                for inbox in inboxes:
                    exchange = await channel.get_exchange(exchange_of(inbox))
                    await exchange.publish(aio_pika.Message(task, **weird_properties(number)), inbox)
                exchange = await channel.get_exchange(exchange_of(SCHEDULER))
                await exchange.publish(aio_pika.Message(question, **weird_properties(number)), SCHEDULER)
            await until(
                lambda: len(scene.answers) >= 3 * len(WEIRD_HEADERS), lambda: f"{len(scene.answers)} answers"
            )
        assert {type(answer).__name__ for answer in scene.answers} == {"Located"}

    battle(fight)


# ---- before anybody is there -------------------------------------------------------------------------------------


def test_inboxes_full_of_rubbish_at_the_start_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """Somebody has made the queues of a system that does not run yet, and filled them: it starts all the same, and
    takes what is good of it."""
    first_ones = [SCHEDULER, CLIENTS, *(agent_inbox(SYSTEM, f"m{n}") for n in (1, 2))]

    async def main() -> None:
        early = await connector(rabbitmq_url, "early")()
        rng = random.Random(4)
        for inbox in first_ones:
            await early.declare(queue_of(inbox))
            bodies = [rng.randbytes(rng.choice((0, 10, 1_000))) for _ in range(1_500)]
            bodies += [rng.randbytes(2**20) for _ in range(20)]
            await asyncio.gather(*(early.publish(inbox, body) for body in bodies))
        await early.close()
        async with fighting(rabbitmq, rabbitmq_url, tmp_path) as scene:
            assert {queue["name"] for queue in await scene.queues()} >= set(first_ones)
            assert len(scene.refused()) > 1_000

    asyncio.run(main())


def test_the_doctor_tells_of_hostile_messages_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """Messages that were set aside are a remark of the doctor's, in a system that is otherwise well; while a stranger
    answers it with rubbish it is not misled."""

    async def doctor() -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dist_zero.cli", "doctor", "--seconds", "1"),
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "500",
                "AMQP_URL": rabbitmq_url,
                "DIST_ZERO_SYSTEM": SYSTEM,
                "DIST_ZERO_STORE": str(tmp_path / "store"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def main() -> None:
        async with fighting(rabbitmq, rabbitmq_url, tmp_path) as scene:
            code, before = await doctor()
            assert code == OK, before
            assert "nobody could understand" not in before
            rng = random.Random(5)
            for inbox in await scene.inboxes():
                await scene.stranger.publish(inbox, rng.randbytes(100))
            await until(lambda: len(scene.refused()) >= 5, lambda: f"{len(scene.refused())} set aside")
            examined = asyncio.create_task(doctor())
            while not examined.done():
                for inbox in await scene.inboxes():
                    if ".replies.doctor" in inbox:
                        await scene.stranger.publish(inbox, rng.randbytes(100))
                await asyncio.sleep(0.1)
            code, after = await examined
            assert code == OK, after
            assert f"{len(scene.refused())} messages that nobody could understand" in after

    asyncio.run(main())
