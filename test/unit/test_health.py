"""Health means progress: of each process that lives, of nobody that has ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_zero_common.broker.base import ConnectionState
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import queue_of, scheduler_inbox
from dist_zero_common.errors import SettingsError
from dist_zero_common.mailbox import Mailbox
from services import progress
from services.health import HEALTHY_SECONDS, judged
from services.progress import Watched, showing_progress

INBOX = scheduler_inbox("test")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service looks more often than each second."""
    monkeypatch.setattr(progress, "SHOW_SECONDS", 0.01)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.02)


def post() -> Mailbox:
    return Mailbox(MemoryBroker().connector("test"), system="test", sender="test", set_aside=lambda *_: None)


async def wait_judged(directory: Path, words: str, later: float = 0.0) -> bool:
    """The judgement, when its sentence holds these words."""
    async with asyncio.timeout(60):
        while True:
            healthy, sentence = judged(directory, time.monotonic() + later)
            if words in sentence:
                return healthy
            await asyncio.sleep(0.01)


def test_a_post_that_moves_is_healthy_and_one_that_stands_still_is_not(tmp_path: Path) -> None:
    """With nothing to do, the broker's answers are progress enough; when they stay out, time goes by; when the
    service has ended, nobody is left."""

    async def main() -> None:
        mailbox = post()
        watched: list[Watched] = []
        async with showing_progress(tmp_path / "scheduler.progress", lambda: watched):
            assert not await wait_judged(tmp_path, "scheduler has not come to do anything yet")
            running = asyncio.create_task(mailbox.run())
            await mailbox.listen(queue_of(INBOX), lambda _, token: mailbox.settle(token))
            watched.append(Watched(mailbox, INBOX))
            assert await wait_judged(tmp_path, "scheduler moved 0.0 s ago")
            assert not await wait_judged(tmp_path, "scheduler has done nothing for", HEALTHY_SECONDS + 60)
            running.cancel()
            await asyncio.wait([running])
            mailbox.state = ConnectionState.LOST
            before = mailbox.last_progress
            await asyncio.sleep(0.2)
            assert mailbox.last_progress == before
        assert judged(tmp_path, time.monotonic()) == (False, f"no service runs that logs to {tmp_path}")

    asyncio.run(main())


def test_each_post_has_to_move(tmp_path: Path) -> None:
    """Of several in one process the oldest counts, and one that has never moved is not passed over."""

    async def main() -> None:
        moved, old = post(), post()
        now = asyncio.get_running_loop().time()
        moved.last_progress, old.last_progress = now, now - 100
        watched = [Watched(moved, INBOX), Watched(old, INBOX)]
        async with showing_progress(tmp_path / "node-runner.progress", lambda: watched):
            assert not await wait_judged(tmp_path, "node-runner has done nothing for 10")
            watched.append(Watched(post(), INBOX))
            watched.pop(1)
            await asyncio.sleep(0.1)
            assert not judged(tmp_path, time.monotonic())[0]

    asyncio.run(main())


def test_every_living_process_counts_and_the_dead_do_not(tmp_path: Path) -> None:
    """One that stands still is named beside one that moves; what a killed one left behind says nothing."""
    (tmp_path / "node-runner-r1-1.progress").write_text("1.0")

    async def main() -> None:
        good, bad = post(), post()
        now = asyncio.get_running_loop().time()
        good.last_progress = bad.last_progress = now + 1e6
        async with showing_progress(tmp_path / "machine-agent.progress", lambda: [Watched(good, INBOX)]):
            assert await wait_judged(tmp_path, "machine-agent moved")
            async with showing_progress(
                tmp_path / "node-runner-r1-2.progress", lambda: [Watched(bad, INBOX)]
            ):
                assert await wait_judged(tmp_path, "node-runner-r1-2 moved")
                bad.last_progress = now - 1000
                assert not await wait_judged(tmp_path, "not healthy: node-runner-r1-2 has done nothing for")

    asyncio.run(main())


def test_two_processes_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would write into each other's logs."""
    monkeypatch.setattr(progress, "LOCK_SECONDS", 0.001)

    async def main() -> None:
        path = tmp_path / "machine-agent.progress"
        async with showing_progress(path, list):
            with pytest.raises(SettingsError, match=r"another machine-agent .* its own DIST_ZERO_LOG_DIR"):
                async with showing_progress(path, list):
                    raise AssertionError
            assert path.exists()

    asyncio.run(main())


def test_the_check_says_one_sentence(tmp_path: Path) -> None:
    """As a container's health check runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "services.health"],
        cwd=tmp_path,
        env={"DIST_ZERO_LOG_DIR": "logs"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "no service runs that logs to logs\n"
