"""Runners that are children of the agent's process: how they start, end, and never outlive their agent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from dist_zero_common.clock import RealClock
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.settings import child_environment
from services.machine_agent.launchers.process import LINE_BYTES_MAX, ProcessLauncher
from test.unit.tidy import ROOT

SECONDS_MAX = 60.0

OBEDIENT = "import time\nprint('up', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + OBEDIENT

Events = list[dict[str, object]]


def environment(runner: str, incarnation: int) -> Mapping[str, str]:
    """What a runner is told."""
    return child_environment({"RUNNER": runner, "INCARNATION": str(incarnation)})


def run(
    program: str, scenario: Callable[[ProcessLauncher, Events], Awaitable[None]], *, grace_seconds: float = 30
) -> Events:
    """Run a scenario with a launcher whose runners are this program; returns what was logged."""

    async def main(events: Events) -> None:
        log = get_logger("machine-agent", RealClock(), machine="m1")
        async with ProcessLauncher(
            environment, log, command=(sys.executable, "-c", program), grace_seconds=grace_seconds
        ) as launcher:
            await scenario(launcher, events)

    with captured_events() as events:
        asyncio.run(main(events))
    return events


async def wait_for(what: Callable[[], object]) -> None:
    """Until it is true."""
    deadline = time.monotonic() + SECONDS_MAX
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def lines(events: Events) -> list[object]:
    return [event["line"] for event in events if event["event"] == "runner_output"]


def ends(events: Events) -> list[tuple[object, object]]:
    return [
        (event["runner_incarnation"], event["how"]) for event in events if event["event"] == "runner_exited"
    ]


def test_a_runner_is_told_who_it_is_and_stopped() -> None:
    """It has its name and incarnation, what it prints is logged as its own, and it has ended when `stop` returns."""
    program = "import os\nprint(os.environ['RUNNER'], os.environ['INCARNATION'])\n" + OBEDIENT

    async def scenario(launcher: ProcessLauncher, events: Events) -> None:
        await launcher.start("r", 5)
        await launcher.start("r", 5)
        assert launcher.alive("r", 5) and not launcher.alive("r", 4)
        await wait_for(lambda: "up" in lines(events))
        await launcher.stop("none")
        await launcher.stop("r")
        assert not launcher.alive("r", 5)

    events = run(program, scenario)
    assert lines(events) == ["r 5", "up"]
    assert ends(events) == [(5, "killed by SIGTERM")]
    assert all(event["machine"] == "m1" and event["runner"] == "r" and event["pid"] for event in events)


def test_one_that_does_not_end_is_killed() -> None:
    """After the grace time, and the log says so."""

    async def scenario(launcher: ProcessLauncher, events: Events) -> None:
        await launcher.start("r", 1)
        await wait_for(lambda: "up" in lines(events))
        await launcher.stop("r")
        assert not launcher.alive("r", 1)

    events = run(STUBBORN, scenario, grace_seconds=0.2)
    assert [event["event"] for event in events][-2:] == ["runner_killed", "runner_exited"]
    assert ends(events) == [(1, "killed by SIGKILL")]


@pytest.mark.parametrize(
    ("program", "how"),
    [("raise SystemExit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV")],
)
def test_a_runner_that_ends_by_itself_is_not_alive(program: str, how: str) -> None:
    """And how it ended is in the log; its neighbour goes on, and the next incarnation may start."""

    async def scenario(launcher: ProcessLauncher, events: Events) -> None:
        await launcher.start("r", 1)
        await wait_for(lambda: not launcher.alive("r", 1))
        await launcher.start("r", 2)
        await wait_for(lambda: len(ends(events)) == 2)

    assert ends(run(program, scenario)) == [(1, how), (2, how)]


def test_what_cannot_be_started_is_an_operators_error() -> None:
    """As every launcher says it."""

    async def main() -> None:
        log = get_logger("machine-agent", RealClock())
        async with ProcessLauncher(environment, log, command=("/nowhere/python",)) as launcher:
            with pytest.raises(OperatorError, match="cannot start /nowhere/python"):
                await launcher.start("r", 1)
            assert not launcher.alive("r", 1)

    asyncio.run(main())


def test_output_without_an_end_does_not_fill_the_memory() -> None:
    """A line that never ends is logged in pieces, and bytes that are no text as what can be shown of them."""
    program = f"import sys\nsys.stdout.buffer.write(b'\\xff' + b'x' * {5 * LINE_BYTES_MAX})"

    async def scenario(launcher: ProcessLauncher, _events: Events) -> None:
        await launcher.start("r", 1)
        await wait_for(lambda: not launcher.alive("r", 1))

    logged = lines(run(program, scenario))
    assert 2 <= len(logged) <= 6 and str(logged[0]).startswith("�xxx")


def test_the_end_of_the_launcher_is_the_end_of_all() -> None:
    """Also of those that would not."""
    pids: list[int] = []

    async def scenario(launcher: ProcessLauncher, events: Events) -> None:
        for runner in ("a", "b"):
            await launcher.start(runner, 1)
        await wait_for(lambda: lines(events).count("up") == 2)
        pids.extend(event["pid"] for event in events if isinstance(event["pid"], int))

    run(STUBBORN, scenario)
    assert len(set(pids)) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


AGENT = """
import asyncio, sys
from dist_zero_common.clock import RealClock
from dist_zero_common.log import get_logger
from dist_zero_common.settings import child_environment
from services.machine_agent.launchers.process import ProcessLauncher

RUNNER = '''
import os, signal, time
from services.entry import end_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end_with_parent()
open(os.environ["PID_FILE"], "w").write(str(os.getpid()) + ".")
while True:
    pass  # as a loop that never comes to look at anything
'''

async def main():
    environment = lambda runner, incarnation: child_environment({})
    log = get_logger("machine-agent", RealClock())
    async with ProcessLauncher(environment, log, command=(sys.executable, "-c", RUNNER)) as launcher:
        await launcher.start("r", 1)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_runner_ends_with_its_agent_even_if_that_is_killed(tmp_path: Path) -> None:
    """Nobody is left to tell it, and it is busy: it ends all the same."""
    pid_file = tmp_path / "pid"
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT], cwd=ROOT, env={**child_environment({}), "PID_FILE": str(pid_file)}
    )

    async def main() -> None:
        await wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("."))
        pid = int(pid_file.read_text().rstrip("."))
        os.kill(pid, 0)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        await wait_for(lambda: is_gone(pid))

    try:
        asyncio.run(main())
    finally:
        agent.kill()
        agent.wait()


def is_gone(pid: int) -> bool:
    """Whether the process has ended; where nobody asks for the exit codes of orphans, a zombie has, too."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
