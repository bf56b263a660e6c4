"""Services as processes of this machine, for tests: started with nothing of this process's settings, and watched by
what they log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 120.0
"""How long anything may take that only a machine full of other work would make slow."""


@dataclass
class Service:
    """One process. `logs` is its directory of log files."""

    process: subprocess.Popen[str]
    logs: Path

    def events(self) -> list[dict[str, object]]:
        """All that was logged there, also by processes that it started, file by file."""
        lines = [line for path in sorted(self.logs.glob("*.jsonl")) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def found(self, event: str, **fields: object) -> list[dict[str, object]]:
        """The events of this name that have these fields."""
        return [
            entry for entry in self.events() if entry["event"] == event and fields.items() <= entry.items()
        ]

    async def wait_event(self, event: str, count: int = 1, **fields: object) -> dict[str, object]:
        """The last of the first `count` such events, when it is there."""
        deadline = time.monotonic() + SECONDS_MAX
        while len(found := self.found(event, **fields)) < count:
            assert time.monotonic() < deadline, (event, fields, self.events())
            assert self.process.poll() is None, (event, fields, self.events())
            await asyncio.sleep(0.05)
        return found[count - 1]

    async def ended(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr, after this signal."""
        if number is not None:
            self.process.send_signal(number)
        _, said = await asyncio.to_thread(self.process.communicate, timeout=SECONDS_MAX)
        return self.process.returncode, said

    def health(self) -> tuple[int, str]:
        """What its container's health check would say."""
        command = [sys.executable, "-m", "services.health"]
        done = subprocess.run(
            command,
            cwd=self.logs,
            env={"DIST_ZERO_LOG_DIR": str(self.logs)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    async def wait_health(self, code: int) -> str:
        """The sentence with which the health check ends with this code, when it does."""
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            is_code, sentence = await asyncio.to_thread(self.health)
            if is_code == code:
                return sentence
            assert time.monotonic() < deadline, sentence
            await asyncio.sleep(0.2)


@dataclass
class Services:
    """Those of one system, over one broker and one store."""

    directory: Path
    url: str
    system: str = "test"
    running: list[Service] = field(default_factory=list)

    def start(self, module: str, name: str, *, url: str = "", **settings: str) -> Service:
        """Start `services.<module>`; it logs to a directory of this name."""
        logs = self.directory / "logs" / name
        logs.mkdir(parents=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),  # this tree, whichever one is installed
            "AMQP_URL": url or self.url,
            "DIST_ZERO_SYSTEM": self.system,
            "DIST_ZERO_KEEP_LOG": "yes",
            "DIST_ZERO_STORE": str(self.directory / "store"),
            "DIST_ZERO_LOG_DIR": str(logs),
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{module}"],
            cwd=logs,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(Service(process, logs))
        return self.running[-1]

    def scheduler(self, machines: int = 1) -> Service:
        """Start a scheduler that waits for so many machines."""
        return self.start("scheduler", "scheduler", DIST_ZERO_MACHINES=str(machines))

    def agent(self, machine: str) -> Service:
        """Start a machine whose runners are the agent's children."""
        return self.start("machine_agent", machine, DIST_ZERO_MACHINE=machine)

    def runner(self, machine: str) -> Service:
        """Start a machine that is one process."""
        return self.start("node_runner", machine, DIST_ZERO_MACHINE=machine)


@contextmanager
def services(directory: Path, url: str, system: str = "test") -> Iterator[Services]:
    """Whatever is started here ends here."""
    started = Services(directory, url, system)
    try:
        yield started
    finally:
        for service in started.running:
            service.process.kill()
        for service in started.running:
            service.process.communicate()


async def wait_gone(pid: int) -> None:
    """Until there is no process of this number."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, pid
        await asyncio.sleep(0.05)
