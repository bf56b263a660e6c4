"""Health that means progress: a service shows each second that its loop turns and that its post moves.

`show_progress` writes a file beside the service's logs: when (on the machine's monotonic clock) a message of its last
went through, published and confirmed or received and handled. A loop that stands still writes nothing; a post that
stands still is old. The file is locked while its process lives, however that ends, so nobody is fooled by what the
dead have left.

`python -m services.health` looks at the files of all processes that live, prints one sentence, and exits 0 if each of
them has moved within `HEALTHY_SECONDS`, else 1. It is what a container's health check runs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dist_zero_common.errors import BrokerError, OperatorError
from dist_zero_common.mailbox import Mailbox
from dist_zero_common.settings import load_settings

HEALTHY_SECONDS = 15.0
SHOW_SECONDS = 1.0
QUIET_SECONDS = 3.0
"""A post that had nothing to do for so long asks the broker something, to see whether it still answers."""

SUFFIX = ".progress"
TEXT_LENGTH_MAX = 40


@dataclass(frozen=True, slots=True)
class Watched:
    """A post that has to move, and an inbox of its own that the broker can be asked about."""

    post: Mailbox
    inbox: str


@asynccontextmanager
async def showing_progress(path: Path, watched: Callable[[], Collection[Watched]]) -> AsyncIterator[None]:
    """While this is open, the file at `path` says when all that is `watched` has moved last."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        showing = asyncio.create_task(_show(descriptor, watched))
        try:
            yield
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


async def _show(descriptor: int, watched: Callable[[], Collection[Watched]]) -> None:
    asking: dict[str, asyncio.Task[None]] = {}
    while True:
        here = asyncio.get_running_loop().time()
        posts = watched()
        for each in posts:
            if here - each.post.last_progress > QUIET_SECONDS:
                asked = asking.get(each.inbox)
                if asked is None or asked.done():
                    asking[each.inbox] = asyncio.create_task(_ask(each))
        oldest = min((each.post.last_progress for each in posts), default=float("-inf"))
        if oldest > float("-inf"):
            moved = time.monotonic() - (here - oldest)
            os.pwrite(descriptor, f"{moved:.3f}".ljust(TEXT_LENGTH_MAX).encode(), 0)
        await asyncio.sleep(SHOW_SECONDS)


async def _ask(watched: Watched) -> None:
    with suppress(BrokerError):
        await watched.post.ask_broker(watched.inbox)


def judged(directory: Path, now: float) -> tuple[bool, str]:
    """Whether all services that log to `directory` are healthy, and the sentence that says so. `now` is the monotonic
    clock's."""
    ages: dict[str, float | None] = {}
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        said = _said_by_living(path)
        if said is not None:
            ages[path.name.removesuffix(SUFFIX)] = now - float(said) if said else None
    if not ages:
        return False, f"no service runs that logs to {directory}"
    bad = [
        f"{name} has not come to do anything yet"
        if age is None
        else f"{name} has done nothing for {age:.0f} s"
        for name, age in ages.items()
        if age is None or age > HEALTHY_SECONDS
    ]
    if bad:
        return False, f"not healthy: {', '.join(bad)}"
    good = [f"{name} moved {max(0.0, age):.1f} s ago" for name, age in ages.items() if age is not None]
    return True, f"healthy: {', '.join(good)}"


def _said_by_living(path: Path) -> str | None:
    """The file's text, or None when the process that wrote it has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, TEXT_LENGTH_MAX, 0).decode().strip()
    else:
        return None
    finally:
        os.close(descriptor)


def main() -> int:
    """Judge the services that run here; the exit code says how it went."""
    try:
        healthy, sentence = judged(load_settings().log_directory, time.monotonic())
    except (OperatorError, OSError) as error:
        healthy, sentence = False, str(error)
    sys.stdout.write(f"{sentence}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
