"""Time, passed in. Nothing below a service's shell reads a clock by itself.

`now_us` is the wall clock: the time of records and bases, the incarnation of a machine agent, log lines. `monotonic` is
what waits and back-off count in. Waiting itself is asyncio's, which the simulation's loop makes free.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Protocol


class Clock(Protocol):
    """Where a service gets the time from."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC; may jump, back too, so whoever decides from it says what comes of that."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class RealClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()


class LoopClock:
    """The running event loop's time: virtual inside a simulation. Wall time starts at `epoch_us`."""

    def __init__(self, epoch_us: int) -> None:
        self._epoch_us = epoch_us

    def now_us(self) -> int:
        return self._epoch_us + round(asyncio.get_running_loop().time() * 1_000_000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def wait_changed(changed: asyncio.Event, seconds: float) -> None:
    """Wait until `changed` is set, and clear it, but wait no longer than this: a service's pause between two rounds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
        changed.clear()
