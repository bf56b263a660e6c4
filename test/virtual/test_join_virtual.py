"""`dist-zero join`: a host becomes a machine of a running system over a real RabbitMQ, and leaves it, in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dist_zero.client.remote import RemoteSystem, parts_on
from dist_zero_common.protocol.messages.requests import SystemStatus
from examples.leaderboard import app
from test.virtual.processes import ROOT, SECONDS_MAX, Services, services, wait_gone
from test.virtual.rabbitmq_server import RabbitServer
from test.virtual.test_services_virtual import SYSTEM, check_board, scores


@dataclass
class Joined:
    """One `dist-zero join`; `said` is what it has printed so far."""

    process: subprocess.Popen[str]
    logs: Path
    output: Path

    def said(self) -> str:
        """All that it has printed."""
        return self.output.read_text()

    async def wait_said(self, what: str) -> str:
        """What it has printed when this is in it; for nodes to come, a machine full of other work takes its time."""
        deadline = time.monotonic() + 2 * SECONDS_MAX
        while what not in (said := self.said()):
            assert self.process.poll() is None and time.monotonic() < deadline, said
            await asyncio.sleep(0.05)
        return said

    async def ended(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Its exit code and what it has printed, after this signal."""
        if number is not None:
            self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, timeout=SECONDS_MAX)
        return code, self.said()

    def runner_pid(self) -> int:
        """The process of the runner that it started last."""
        lines = (self.logs / "main.log").read_text().splitlines()
        started = [line for line in lines if "runner_started" in line]
        assert started, lines
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[-1])


@dataclass
class Host:
    """Where `join` is called: a directory with nothing in it. `common` are options of every call."""

    directory: Path
    url: str
    running: list[Joined] = field(default_factory=list)

    def join(self, name: str, *options: str, **settings: str) -> Joined:
        """Call it; it logs to a directory of this name."""
        logs = self.directory / "hosts" / name
        logs.mkdir(parents=True)
        output = logs / "printed"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AMQP_URL": self.url,
            "DIST_ZERO_LOG_DIR": str(logs),
            **settings,
        }
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "dist_zero.cli", "join", *options],
                cwd=logs,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.running.append(Joined(process, logs, output))
        return self.running[-1]


@contextmanager
def hosts(directory: Path, url: str) -> Iterator[Host]:
    """Whatever joins here ends here."""
    host = Host(directory, url)
    try:
        yield host
    finally:
        for joined in host.running:
            joined.process.kill()
            joined.process.wait()


async def wait_status(system: RemoteSystem, what: Callable[[SystemStatus], bool]) -> SystemStatus:
    """The status of a system when this is so."""
    deadline = time.monotonic() + SECONDS_MAX
    while not what(status := await system.status()):
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.2)
    return status


def names(status: SystemStatus) -> list[str]:
    """The machines that the scheduler knows of."""
    return [machine.machine for machine in status.machines]


def test_a_host_joins_and_leaves_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """Nodes come to it, which it says; at Ctrl-C it says goodbye, they move to another machine, and the scheduler
    forgets it at once. Nothing that was written is lost. The store is where the scheduler says."""

    async def main(started: Services, host: Host) -> None:
        started.scheduler()
        started.agent("here")
        system = RemoteSystem(rabbitmq_url, SYSTEM)
        async with system.connect(app, nodes=4) as client:
            await client.put("scores", scores(100))
            joined = host.join("desk", "--system", SYSTEM, "--machine", "desk", "--label", "room=12")
            await joined.wait_said("runs here: leaderboard: ")
            status = await wait_status(system, lambda status: parts_on(status, "desk") > 0)
            assert names(status) == ["desk", "here"]
            assert status.machines[0].labels == ("room=12",)
            await client.put("scores", scores(200))
            await check_board(client, 200)
            code, said = await joined.ended(signal.SIGINT)
            assert code == 0, said
            assert "joins system test as machine desk (" in said and "Ctrl-C leaves it" in said
            assert said.splitlines()[-1] == "left system test: all that ran here runs elsewhere"
            await wait_status(system, lambda status: names(status) == ["here"])
            await client.put("scores", scores(300))
            await check_board(client, 300)
        assert rabbitmq_url not in (joined.logs / "main.jsonl").read_text() + said

    with services(tmp_path, rabbitmq_url, SYSTEM) as started, hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(started, host))


def test_a_joined_host_that_is_killed_is_mended_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """Killed without a word it takes its runner along, and its nodes move; under the same name it joins again."""

    async def main(started: Services, host: Host) -> None:
        started.scheduler()
        started.agent("here")
        system = RemoteSystem(rabbitmq_url, SYSTEM)
        joined = host.join("desk", "--system", SYSTEM, "--machine", "desk")
        await joined.wait_said("ready: nothing runs here yet")
        await wait_status(system, lambda status: len(status.machines) == 2 and status.machines[1].ready)
        async with system.connect(app, nodes=4) as client:
            await client.put("scores", scores(100))
            await wait_status(system, lambda status: parts_on(status, "desk") > 0)
            runner = joined.runner_pid()
            await joined.ended(signal.SIGKILL)
            await wait_gone(runner)
            await client.put("scores", scores(200))
            await check_board(client, 200)
            await wait_status(system, lambda status: parts_on(status, "desk") == 0)
            await wait_status(system, lambda status: status.machines[0].silent_ms >= 5_000)
            again = host.join("again", "--system", SYSTEM, "--machine", "desk")
            assert "takes the place of machine desk, which is silent" in await again.wait_said("runs here: ")
            await check_board(client, 200)
            code, said = await again.ended(signal.SIGTERM)
            assert code == 0, said

    with services(tmp_path, rabbitmq_url, SYSTEM) as started, hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(started, host))


def test_what_keeps_a_host_from_joining_is_said_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """A name that is taken, or is the system's own to give; a wrong system, no system; a store that is not there, or is
    not the system's: each is an error with what to do, and nothing has begun."""

    async def main(started: Services, host: Host) -> None:
        (await started.scheduler().wait_event("scheduler_started"))
        agent = started.agent("here")
        await agent.wait_event("runner_started")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        here = ("--system", SYSTEM, "--machine")
        for name, options, code, says in (
            ("taken", (*here, "here"), 3, "a machine 'here' is there already, heard of"),
            ("spawned", (*here, "m3"), 3, "'m3' is a name for hosts that a system obtains by itself"),
            ("wrong", ("--system", "other"), 3, "system 'other' is not running at this broker"),
            ("none", (), 3, "say which system of this broker is meant, with --system NAME"),
            ("missing", (*here, "x", "--store", "/nowhere"), 3, "there is no directory /nowhere; mount"),
            ("other", (*here, "x", "--store", str(elsewhere)), 3, "no scheduler has written there"),
            ("label", (*here, "x", "--label", "a b"), 2, "a label is name=value"),
        ):
            exited, said = await host.join(name, *options).ended()
            assert says in " ".join(said.split()), (name, said)
            assert exited == code and "Traceback" not in said, (name, exited, said)
        assert names(await RemoteSystem(rabbitmq_url, SYSTEM).status()) == ["here"]

    with services(tmp_path, rabbitmq_url, SYSTEM) as started, hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(started, host))


def test_a_broker_that_refuses_is_said_virtual(
    rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """A wrong password, and a broker that is not there; the password is in no line."""
    vhost = rabbitmq_url.rpartition("/")[2]
    wrong = f"amqp://tester:sesame-open@{rabbitmq.host}:{rabbitmq.port}/{vhost}"

    async def main(host: Host) -> None:
        for name, url, says in (
            ("refused", wrong, "who may do what agents, runners and clients do"),
            ("absent", f"amqp://tester:sesame-open@{rabbitmq.host}:1/{vhost}", "127.0.0.1:1"),
        ):
            code, said = await host.join(name, "--system", SYSTEM, "--broker", url).ended()
            assert code == 3 and says in " ".join(said.split()), said
            assert "sesame" not in said + (host.running[-1].logs / "main.jsonl").read_text()

    with hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(host))


def test_another_host_of_the_same_name_takes_its_place_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """Of two the one that was started later counts, however it came by the name; the one before finds out, says so and
    ends, and its runner with it."""

    async def main(started: Services, host: Host) -> None:
        await started.scheduler().wait_event("scheduler_started")
        joined = host.join("desk", "--system", SYSTEM, "--machine", "desk")
        await joined.wait_said("ready: nothing runs here yet")
        runner = joined.runner_pid()
        started.agent("desk")
        code, said = await joined.ended()
        assert code == 3, said
        assert "another machine has joined system 'test' as 'desk' since" in " ".join(said.split())
        await wait_gone(runner)
        async with RemoteSystem(rabbitmq_url, SYSTEM).connect(app, nodes=2) as client:
            await client.put("scores", scores(10))
            await check_board(client, 10)

    with services(tmp_path, rabbitmq_url, SYSTEM) as started, hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(started, host))


def test_a_scheduler_that_goes_is_said_and_disturbs_nobody_virtual(rabbitmq_url: str, tmp_path: Path) -> None:
    """While no scheduler answers, what runs here goes on, and that is said; and so is that one is back."""

    async def main(started: Services, host: Host) -> None:
        scheduler = started.scheduler()
        joined = host.join("desk", "--system", SYSTEM, "--machine", "desk")
        system = RemoteSystem(rabbitmq_url, SYSTEM)
        async with system.connect(app, nodes=2) as client:
            await client.put("scores", scores(10))
            await joined.wait_said("runs here: leaderboard: 2 of 2 nodes and the sequencer")
            await scheduler.ended(signal.SIGKILL)
            await joined.wait_said("does not answer; what runs here goes on")
            await client.put("scores", scores(20))
            await check_board(client, 20)
            before = joined.said().count("runs here: leaderboard")
            started.start("scheduler", "second")
            deadline = time.monotonic() + SECONDS_MAX
            while joined.said().count("runs here: leaderboard") == before:
                assert time.monotonic() < deadline, joined.said()
                await asyncio.sleep(0.2)
            code, said = await joined.ended(signal.SIGINT)
            assert code == 0 and "waits for a machine that has room for it" in said

    with services(tmp_path, rabbitmq_url, SYSTEM) as started, hosts(tmp_path, rabbitmq_url) as host:
        asyncio.run(main(started, host))
