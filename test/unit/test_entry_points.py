"""`python -m services.<name>`: what they need, how they say it, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_zero_common.errors import BrokerError, InternalError
from dist_zero_common.log import captured_events, reason_of
from dist_zero_common.settings import Settings
from services.entry import EXIT_BUG, EXIT_SETTINGS, EXIT_SURROUNDINGS, Process, main
from services.machine_agent.__main__ import runner_settings
from services.machine_agent.machine import Machine
from services.scheduler.spawners.none import NoSpawner

SERVICES = {"scheduler": "scheduler", "machine_agent": "machine-agent", "node_runner": "node-runner"}
NEEDED = {
    "AMQP_URL": "amqp://me:hunter2@127.0.0.1:1/",
    "DIST_ZERO_SYSTEM": "test",
    "DIST_ZERO_STORE": "store",
}


def started(module: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"services.{module}"],
        cwd=directory,
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("module", SERVICES)
def test_what_is_missing_is_said(module: str, tmp_path: Path) -> None:
    """Without settings a service ends at once, with one line that names all that it wants; and so it does with some."""
    ended = started(module, tmp_path)
    assert ended.returncode == EXIT_SETTINGS and ended.stdout == ""
    assert ended.stderr.startswith(f"{SERVICES[module]}: ") and ended.stderr.count("\n") == 1
    assert all(f"{name} is not set" in ended.stderr for name in NEEDED)
    ended = started(module, tmp_path, **NEEDED | {"DIST_ZERO_SYSTEM": ""})
    assert ended.returncode == EXIT_SETTINGS
    assert "AMQP_URL" not in ended.stderr and "DIST_ZERO_SYSTEM is not set" in ended.stderr


@pytest.mark.parametrize("module", ["scheduler", "node_runner"])
def test_a_store_that_cannot_be_used_is_said(module: str, tmp_path: Path) -> None:
    """The surroundings are wrong: one sentence with the reason, beside the event that the log shows."""
    (tmp_path / "store").write_text("a file")
    ended = started(module, tmp_path, **NEEDED)
    assert ended.returncode == EXIT_SURROUNDINGS
    assert "it is a file, and a store is a directory" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr and "hunter2" not in ended.stderr


def test_logs_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    """So is a log directory that is none."""
    (tmp_path / "logs").write_text("a file")
    ended = started("scheduler", tmp_path, **NEEDED, DIST_ZERO_LOG_DIR="logs")
    assert ended.returncode == EXIT_SURROUNDINGS
    assert ended.stderr.startswith("scheduler: cannot log: ") and ended.stderr.count("\n") == 1


def test_wrong_settings_are_named_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that makes no sense is what is complained about."""
    monkeypatch.setenv("AMQP_URL", "http://broker")
    assert main("scheduler", serve_forever, lambda _: []) == EXIT_SETTINGS
    assert "scheduler: AMQP_URL: its value makes no sense" in capsys.readouterr().err


# ---- how a service ends --------------------------------------------------------------------------------------


async def serve_forever(process: Process) -> None:
    """Until cancelled."""
    process.log.info("serving")
    await asyncio.Event().wait()


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("DIST_ZERO_") or name == "AMQP_URL":
            monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_a_service_says_goodbye(in_directory: Path, number: signal.Signals) -> None:
    """It is still serving when it does, and has ended when `main` returns 0; its log is closed and its progress
    file gone."""
    said: list[str] = []

    async def serve(process: Process) -> None:
        async def goodbye() -> None:
            said.append("goodbye")
            await asyncio.sleep(0)

        process.goodbye = goodbye
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            said.append("ended")

    assert main("scheduler", serve, lambda _: []) == 0
    assert said == ["goodbye", "ended"]
    assert sorted(path.name for path in (in_directory / ".tmp").iterdir()) == [
        "scheduler.jsonl",
        "scheduler.log",
    ]
    assert "process_ended" in (in_directory / ".tmp" / "scheduler.log").read_text()


def test_a_goodbye_that_hangs_is_not_waited_for(in_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker may be away: then the service ends all the same."""
    monkeypatch.setattr("services.entry.GOODBYE_SECONDS", 0.05)

    async def serve(process: Process) -> None:
        process.goodbye = asyncio.Event().wait
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with captured_events() as events:
        assert main("scheduler", serve, lambda _: []) == 0
    assert "goodbye_unsaid" in [event["event"] for event in events]
    assert in_directory.exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokerError("the broker at 127.0.0.1:1 refuses the user"), EXIT_SURROUNDINGS),
        (OSError("no space left"), EXIT_SURROUNDINGS),
        (InternalError("two and two is five"), EXIT_BUG),
        (ZeroDivisionError("division by zero"), EXIT_BUG),
    ],
)
@pytest.mark.usefixtures("in_directory")
def test_what_ends_a_service_by_itself_is_said(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it comes out of a group of tasks or is told to the process: a sentence, the exit code, an event; a
    traceback for bugs only."""

    async def raises(_: Process) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(60))
            raise error

    async def fails(process: Process) -> None:
        process.fail(error)
        await asyncio.Event().wait()

    for serve in (raises, fails):
        with captured_events() as events:
            assert main("scheduler", serve, lambda _: []) == code
        assert events[-1]["event"] == "process_failed" and events[-1]["reason"] == reason_of(error)
        said = capsys.readouterr().err
        assert str(error) in said and ("Traceback" in said) is (code == EXIT_BUG)


@pytest.mark.usefixtures("in_directory")
def test_a_service_that_just_returns_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody told it to."""

    async def serve(_: Process) -> None:
        return

    assert main("scheduler", serve, lambda _: []) == EXIT_BUG
    assert "the service ended by itself" in capsys.readouterr().err


# ---- settings of what is started -----------------------------------------------------------------------------


def test_a_runner_is_not_told_the_agents_password() -> None:
    """Where runners have a user of their own, their environment holds that one's URL alone."""
    machine = Machine("m1", 2, 2**30)
    settings = Settings(broker_url="amqp://agent:a@b/", runner_broker_url="amqp://runner:r@b/", system="s")
    told = runner_settings(settings, machine, "m1-r1", 7)
    assert told == {
        "AMQP_URL": "amqp://runner:r@b/",
        "DIST_ZERO_RUNNER_AMQP_URL": "amqp://runner:r@b/",
        "DIST_ZERO_SYSTEM": "s",
        "DIST_ZERO_MACHINE": "m1",
        "DIST_ZERO_RUNNER": "m1-r1",
        "DIST_ZERO_RUNNER_INCARNATION": "7",
    }
    assert (
        runner_settings(Settings(broker_url="amqp://one@b/"), machine, "r", 1)["AMQP_URL"] == "amqp://one@b/"
    )


def test_nothing_is_spawned_where_machines_come_by_themselves() -> None:
    """What is wanted is always on its way, so a scheduler asks for nothing."""

    async def main() -> None:
        spawner = NoSpawner(2)
        assert await spawner.list() == ["m1", "m2"]
        await spawner.stop("m1")
        await spawner.spawn("m3")
        assert await spawner.list() == ["m2", "m3"]

    asyncio.run(main())


_HANGS_AT_ITS_END = """
import asyncio
import threading
from services import entry

async def serve(process):
    try:
        await asyncio.sleep(1000)
    finally:
        threading.Event().wait()

entry.END_SECONDS = 0.5
entry.main("hanging", serve, lambda settings: [])
"""


def test_a_service_that_hangs_at_its_end_is_ended(tmp_path: Path) -> None:
    """As one may whose memory is at its end: the kernel ends it, though no Python runs in it any more."""
    run = [sys.executable, "-c", _HANGS_AT_ITS_END]
    environment = {**os.environ, "DIST_ZERO_LOG_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(run, env=environment) as process:
        while (
            not list(tmp_path.glob("*.jsonl"))
            or "process_started" not in (tmp_path / "hanging.jsonl").read_text()
        ):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        try:
            assert process.wait(timeout=120) == -signal.SIGALRM
        finally:
            process.kill()
