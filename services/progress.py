"""Each second, a service says that its loop turns and that its post moves; what is made of it, `health.py` says.

The file beside the service's logs holds when (on the machine's monotonic clock) a message last went through: published
and confirmed, or received and handled. A loop that stands still writes nothing; a post that stands still is old. The
file is locked while its process lives, however that ends, so nobody is fooled by what the dead have left.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dist_zero_common.errors import BrokerError, SettingsError
from dist_zero_common.mailbox import Mailbox
from services.health import TEXT_LENGTH_MAX

SHOW_SECONDS = 1.0
LOCK_ATTEMPTS, LOCK_SECONDS = 20, 0.1
QUIET_SECONDS = 3.0
"""A post that had nothing to do for so long asks the broker something, to see whether it still answers."""


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
        await _lock(descriptor, path)
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


async def _lock(descriptor: int, path: Path) -> None:
    for _ in range(LOCK_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        await asyncio.sleep(LOCK_SECONDS)  # a health check may be looking at it
    raise SettingsError(
        f"another {path.stem} that runs here logs to {path.parent}: give each its own DIST_ZERO_LOG_DIR"
    )


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
            with suppress(OSError):  # a full disk
                os.pwrite(descriptor, f"{moved:.3f}".ljust(TEXT_LENGTH_MAX).encode(), 0)
        await asyncio.sleep(SHOW_SECONDS)


async def _ask(watched: Watched) -> None:
    with suppress(BrokerError):
        await watched.post.ask_broker(watched.inbox)
