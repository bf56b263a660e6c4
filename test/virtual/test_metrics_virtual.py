"""A real scrape of each service of a system over RabbitMQ, as Prometheus would find and read it; and `dist-zero top`,
typed at a terminal.

One system serves all tests here: a scheduler, an agent with a runner, and a machine in one process.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dist_zero.cli.load_program import load_program
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.metrics import METRICS, Service
from examples.leaderboard import Score, app
from test.virtual.processes import SECONDS_MAX, Services, services
from test.virtual.rabbitmq_server import RabbitServer

SYSTEM = "measured"
ROWS = 300
NODES = 4

TILL = """
import dist_zero as dz

app = dz.Program("tills")


class Payment(dz.Row):
    number: int


payments = app.dataset("payments", Payment)
app.source(payments, queue="tills", decode="json")
app.view("numbers", payments.group_by("number").agg(times=dz.count()))
"""


@dataclass(frozen=True)
class Target:
    """A service as it is discovered."""

    url: str
    labels: dict[str, str]

    def scraped(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Its samples, by name."""
        with urllib.request.urlopen(f"http://{self.url}/metrics", timeout=SECONDS_MAX) as answer:
            text = answer.read().decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


def targets(directory: Path) -> list[Target]:
    """What Prometheus discovers, as monitoring/prometheus.yml has it."""
    return [
        Target(each["targets"][0], each["labels"])
        for path in sorted(directory.glob("logs/*/*.metrics.json"))
        for each in json.loads(path.read_text())
    ]


def until(holds: object, what: str) -> None:
    """Wait until this is so."""
    assert callable(holds)
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@dataclass(frozen=True)
class Site:
    """A system that is measured."""

    directory: Path
    url: str
    started: Services


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A system on which the leaderboard runs, with rows in it; each service at a port that is free."""
    directory = tmp_path_factory.mktemp("measured")
    with rabbitmq.virtual_host() as name, services(directory, rabbitmq.url(name), SYSTEM) as started:
        for module, name_of, more in (
            ("scheduler", "scheduler", {"DIST_ZERO_MACHINES": "2"}),
            ("machine_agent", "m1", {"DIST_ZERO_MACHINE": "m1"}),
            ("node_runner", "m2", {"DIST_ZERO_MACHINE": "m2"}),
        ):
            started.start(module, name_of, DIST_ZERO_METRICS_PORT="0", **more)

        async def write() -> None:
            async with RemoteSystem(started.url, SYSTEM).connect(app, nodes=NODES) as client:
                rows = [Score(game="go", player=f"player-{n}", points=n) for n in range(ROWS)]
                await client.put("scores", rows)
                await client.flush()

        asyncio.run(write())
        yield Site(directory, started.url, started)


def test_each_service_is_scraped_virtual(site: Site) -> None:
    """Four processes are found, by the files beside their logs, with who they are; each exports what is declared for
    its services, and nothing else; the rows that were put are the rows that were counted; and queues were asked for
    at the broker."""
    until(lambda: len(targets(site.directory)) == 4, "all services are discovered")
    found = targets(site.directory)
    assert sorted((each.labels["service"], each.labels.get("machine", "")) for each in found) == [
        ("machine-agent", "m1"),
        ("node-runner", "m1"),
        ("node-runner", "m2"),
        ("scheduler", ""),
    ]
    scrapes = [(each, each.scraped()) for each in found]
    for target, samples in scrapes:
        assert samples["dist_zero_info"][0][0]["service"] == target.labels["service"]
        assert samples["process_resident_memory_bytes"][0][1] > 2**20
        assert all(value == 1 for _, value in samples["dist_zero_broker_connected"])
        for name in samples:
            base = re.sub("_(bucket|sum|count|created)$", "", name) if name not in METRICS else name
            if base.startswith("dist_zero_"):
                declared = {service.value for service in METRICS[base].services}
                its = (
                    {"machine-agent", "node-runner"}
                    if target.labels.get("machine") == "m2"
                    else {target.labels["service"]}
                )
                assert declared & its, f"{name} is not declared for {target.labels}"
    rows = [
        value
        for _, samples in scrapes
        for labels, value in samples.get("dist_zero_rows_in_total", [])
        if labels == {"program": "leaderboard", "dataset": "scores"}
    ]
    assert rows == [ROWS]
    nodes = {
        labels["node"] for _, samples in scrapes for labels, _ in samples.get("dist_zero_node_rows_total", [])
    }
    assert nodes == {f"n{number}" for number in range(1, NODES + 1)}
    scheduler = next(samples for target, samples in scrapes if target.labels["service"] == "scheduler")
    assert scheduler["dist_zero_leader"] == [({}, 1.0)]
    assert scheduler["dist_zero_machines_ready"] == scheduler["dist_zero_machines_wanted"] == [({}, 2.0)]
    inboxes = {labels["inbox"] for _, samples in scrapes for labels, _ in samples["dist_zero_queue_messages"]}
    assert inboxes == {"scheduler", "agent", "runner", "sequencer-clients", "sequencer-nodes"}
    missing = {
        name
        for name, metric in METRICS.items()
        if Service.BRIDGE not in metric.services or len(metric.services) > 1
        if not any(name in samples or f"{name}_count" in samples for _, samples in scrapes)
    }
    assert missing <= {"dist_zero_rows_replayed_total", "dist_zero_link_lag_epochs"}


def test_top_prints_once_where_there_is_no_terminal_virtual(site: Site) -> None:
    """A table of machines, program and nodes with load; and as JSON, in which memory is what /proc says."""
    done = top(site, "--once", "--json", "--interval", "2.5")
    said = json.loads(done)
    assert {each["machine"] for each in said["machines"]} == {"m1", "m2"}
    assert all(each["memory_used_bytes"] > 2**20 and each["cpu"] is not None for each in said["machines"])
    assert len(said["nodes"]) == NODES
    table = top(site)
    assert "scheduler" in table and "leaderboard n1" in table and "cores busy" in table


def top(site: Site, *words: str) -> str:
    """What `dist-zero top` prints."""
    done = subprocess.run(
        command(site, *words),
        cwd=site.directory,
        env=environment(site),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    assert not done.stderr
    return done.stdout


def command(site: Site, *words: str) -> list[str]:
    """As it is typed."""
    return [sys.executable, "-m", "dist_zero.cli", "top", "--system", SYSTEM, "--broker", site.url, *words]


def environment(site: Site, **more: str) -> dict[str, str]:
    """Where it is typed."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "DIST_ZERO_LOG_DIR": str(site.directory / "typed"), **more}


def test_top_moves_and_ends_with_q_virtual(site: Site) -> None:
    """At a terminal it draws again and again, while rows come in, on a screen of its own, and the key q ends it with
    exit code 0, which leaves the terminal as it was."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(site, "--interval", "0.5"),
        cwd=site.directory,
        env=environment(site, TERM="xterm", COLUMNS="100", LINES="30"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        close_fds=True,
    )
    os.close(slave)
    seen = ""
    deadline = time.monotonic() + SECONDS_MAX
    try:
        pressed = False
        while True:
            assert time.monotonic() < deadline, seen[-2000:]
            if not select.select([master], [], [], 0.5)[0]:
                continue
            try:
                data = os.read(master, 65_536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data.decode(errors="replace")
            if not pressed and seen.count("cores busy") >= 4:
                os.write(master, b"q")
                pressed = True
        assert process.wait(SECONDS_MAX) == 0, seen[-2000:]
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(master)
    assert "\x1b[?1049h" in seen and seen.rindex("\x1b[?1049l") > seen.rindex("\x1b[?1049h")
    assert "leaderboard n1" in seen and "Traceback" not in seen


def test_a_bridge_is_scraped_virtual(site: Site) -> None:
    """The process of `dist-zero bridge` has what it did with the messages of its queue."""
    file = site.directory / "till.py"
    file.write_text(TILL)

    async def publish_and_submit() -> None:
        async with await aio_pika.connect(site.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("tills", durable=True)
            for name, body in (
                ("a", b'{"number": 1}'),
                ("b", b'{"number": 2}'),
                ("a", b'{"number": 1}'),
                ("c", b"?"),
            ):
                await channel.default_exchange.publish(aio_pika.Message(body, message_id=name), "tills")
        async with RemoteSystem(site.url, SYSTEM).connect(load_program(file, None)):
            pass

    asyncio.run(publish_and_submit())
    logs = site.directory / "logs" / "bridge"
    process = subprocess.Popen(
        [sys.executable, "-m", "dist_zero.cli", "bridge", str(file), "--system", SYSTEM],
        env=environment(site, AMQP_URL=site.url, DIST_ZERO_LOG_DIR=str(logs), DIST_ZERO_METRICS_PORT="0"),
        stderr=subprocess.DEVNULL,
    )

    def counted() -> bool:
        found = [each for each in targets(site.directory) if each.labels["service"] == "bridge"]
        samples = found[0].scraped() if found else {}
        counts = [
            samples.get(f"dist_zero_bridge_{name}_total")
            for name in ("messages_applied", "rows", "messages_repeated", "messages_aside", "sessions")
        ]
        return counts == [[({"queue": "tills"}, float(count))] for count in (2, 2, 1, 1, 1)]

    try:
        until(counted, "all messages are counted")
    finally:
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0
    assert not list(logs.glob("*.metrics.json")), "the file goes with the process"
