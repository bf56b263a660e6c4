"""The bridge as a process over a real RabbitMQ: killed, its broker restarted, its queue filled by somebody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import aio_pika
import pytest

from dist_zero.client.remote import RemoteSystem
from dist_zero_common.errors import OperatorError
from test.virtual.processes import Services, services
from test.virtual.rabbitmq_server import RabbitServer

SECONDS_MAX = 180.0
ROOT = Path(__file__).parents[2]
APP = """
import dist_zero as dz

app = dz.Program("till")


class Payment(dz.Row):
    number: int
    shop: str


payments = app.dataset("payments", Payment)
app.source(payments, queue="payments")
app.view("numbers", payments.group_by("number").agg(times=dz.count()))
"""


class Till:
    """The user's side: an application's queue, and the file of a program."""

    def __init__(self, directory: Path, url: str, started: Services) -> None:
        self.url, self.directory = url, directory
        self.system = RemoteSystem(url, started.system)
        self._started = started
        self.file = directory / "till.py"
        self.file.write_text(APP)
        self.bridges: list[subprocess.Popen[bytes]] = []

    def bridge(self) -> subprocess.Popen[bytes]:
        """Start `dist-zero bridge`."""
        words = ["-m", "dist_zero.cli", "bridge", str(self.file), "--system", self._started.system]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AMQP_URL": self.url,
            "DIST_ZERO_LOG_DIR": str(self.directory / "bridge-log"),
        }
        with (self.directory / "bridge.txt").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=self.directory, env=environment, stdout=said, stderr=said
            )
        self.bridges.append(process)
        return process

    def said(self) -> str:
        """What bridges have printed."""
        return (self.directory / "bridge.txt").read_text()

    def start_program(self) -> None:
        """Submit the program, as `dist-zero up` does."""

        async def submit() -> None:
            namespace: dict[str, object] = {}
            exec(compile(APP, str(self.file), "exec"), namespace)
            async with self.system.connect(namespace["app"]):  # type: ignore[arg-type]
                pass

        asyncio.run(submit())

    def counted(self) -> dict[int, int]:
        """How often each payment was applied."""

        async def ask() -> dict[int, int]:
            async with self.system.connect("till") as client:
                return dict((await client.snapshot("numbers")).stored["numbers"])

        return asyncio.run(ask())

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """As an application does that knows nothing of us: pairs of message-id and body, confirmed."""

        async def send() -> None:
            async with await aio_pika.connect(self.url) as connection:
                channel = await connection.channel()
                await channel.declare_queue("payments", durable=True)
                for name, body in messages:
                    message = aio_pika.Message(body, message_id=name, delivery_mode=2)
                    await channel.default_exchange.publish(message, "payments")

        asyncio.run(send())

    def publish_without_id(self, server: RabbitServer, body: bytes) -> None:
        """As a library that sets no message-id, which aio-pika always does."""
        message = {
            "properties": {"delivery_mode": 2},
            "routing_key": "payments",
            "payload": body.decode(),
            "payload_encoding": "string",
        }
        virtual_host = self.url.rpartition("/")[2]
        assert server.manage("POST", f"exchanges/{virtual_host}/amq.default/publish", message)["routed"]

    def depth(self, queue: str) -> int:
        """How many messages there are, with those that the bridge has: it is looked at when none runs."""

        async def look() -> int:
            async with await aio_pika.connect(self.url) as connection:
                channel = await connection.channel()
                declared = await channel.declare_queue(queue, passive=True)
                return declared.declaration_result.message_count or 0

        return asyncio.run(look())

    def set_aside(self) -> list[tuple[bytes, str]]:
        """The bodies of messages that were set aside, with the reasons; they are gone then."""

        async def take() -> list[tuple[bytes, str]]:
            found = []
            async with await aio_pika.connect(self.url) as connection:
                channel = await connection.channel()
                queue = await channel.declare_queue("payments.set-aside", passive=True)
                while (message := await queue.get(no_ack=True, fail=False)) is not None:
                    assert message.headers["x-set-aside-queue"] == "payments"
                    found.append((message.body, str(message.headers["x-set-aside-reason"])))
            return found

        return asyncio.run(take())

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for it."""
        deadline = time.monotonic() + SECONDS_MAX
        while not holds():
            assert time.monotonic() < deadline, f"{what}\n{self.said()}"
            time.sleep(0.2)


@contextmanager
def till_of(directory: Path, url: str) -> Iterator[Till]:
    """A scheduler, a machine, and whatever the test starts."""
    with ExitStack() as stack:
        started = stack.enter_context(services(directory, url))
        started.scheduler()
        started.runner("m1")
        till = Till(directory, url, started)
        try:
            yield till
        finally:
            for process in till.bridges:
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()


def payment(number: int) -> tuple[str, bytes]:
    """A good message."""
    return f"payment-{number}", json.dumps({"number": number, "shop": "Essen", "till": 3}).encode()


@pytest.mark.timeout(600)
def test_a_bridge_killed_in_the_middle_applies_each_message_once_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """kill -9, several times, while 3,000 messages are bridged, some of them twice and some that make no sense."""
    count = 3_000
    with till_of(tmp_path, rabbitmq_url) as till:
        till.publish(payment(number) for number in range(count // 2))
        till.publish([("bad-1", b"no json"), ("bad-2", b'{"number": "x", "shop": "Essen"}')])
        first = till.bridge()  # before the program runs: it waits
        till.start_program()
        kills = 0
        for goal in (1, count // 4, count // 3):
            till.until(lambda goal=goal: len(till.counted()) >= goal, f"{goal} payments")  # type: ignore[misc]
            till.bridges[-1].send_signal(signal.SIGKILL)
            till.bridges[-1].wait()
            kills += 1
            if goal == 1:
                till.publish(payment(number) for number in range(count // 2, count))
                till.publish(payment(number) for number in range(0, count, 100))  # the publisher's own copies
                till.publish([("bad-3", b"[]x")])
                till.publish_without_id(rabbitmq, payment(1)[1])
            till.bridge()
        till.until(lambda: len(till.counted()) == count, "all payments")
        till.until(lambda: till.depth("payments") == 0, "an empty queue")
        last = till.bridges[-1]
        last.send_signal(signal.SIGTERM)
        assert last.wait(60) == 0
        assert till.depth("payments") == 0  # nothing that it had comes back
        assert till.counted() == dict.fromkeys(range(count), 1)
        aside = dict(till.set_aside())
        assert set(aside) == {b"no json", b'{"number": "x", "shop": "Essen"}', b"[]x", payment(1)[1]}
        assert aside[b'{"number": "x", "shop": "Essen"}'] == "column 'number': expected int, got 'x'"
        assert "message-id" in aside[payment(1)[1]]
        assert kills == 3
        assert first.returncode == -signal.SIGKILL


@pytest.mark.timeout(600)
def test_a_bridge_outlives_a_restart_of_its_broker_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """The broker is restarted while messages are bridged: what is durable is applied, once."""
    count = 1_500
    with till_of(tmp_path, rabbitmq_url) as till:
        till.publish(payment(number) for number in range(count))
        till.start_program()
        bridge = till.bridge()
        till.until(lambda: bool(till.counted()), "the first payments")
        rabbitmq.restart_container()

        def all_there() -> bool:
            with suppress(OperatorError):
                return len(till.counted()) == count
            return False

        till.until(all_there, "all payments")
        assert bridge.poll() is None
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(60) == 0
        assert till.depth("payments") == 0
        assert till.counted() == dict.fromkeys(range(count), 1)


@pytest.mark.timeout(300)
def test_a_missing_queue_is_said_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """The bridge ends with one sentence and exit code 3."""
    with till_of(tmp_path, rabbitmq_url) as till:
        till.start_program()
        assert till.bridge().wait(SECONDS_MAX) == 3
        assert "has no queue 'payments'" in till.said()
        assert "tester:" not in till.said()
