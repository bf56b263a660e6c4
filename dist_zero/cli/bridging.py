"""The bridge of a system that is started here: a child of the process that holds the system up (`keeper.py`).

It begins when the system is up and ends before it goes down; its standard input is a pipe, so that it ends with its
parent even if that is killed. One that ends by itself (a queue that is missing, a broker that refuses) is started
again, with pauses that grow: the system goes on, and what the bridge said is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dist_zero.cli.bridge import HELD, bridge_command
from dist_zero_common.log import Logger
from dist_zero_common.settings import child_environment

AGAIN_SECONDS_MIN, AGAIN_SECONDS_MAX = 5.0, 60.0
WELL_SECONDS = 20.0
"""A bridge that has lived so long has found what it needs."""
END_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class BridgeWanted:
    """Which sources to bridge: those of a program in a file, into a system; `source_broker` is where the queues are;
    `settings`: what else is to be set in its environment."""

    file: str
    program: str
    system: str
    source_broker: str = field(repr=False)
    output: Path
    settings: Mapping[str, str] = field(default_factory=dict)


async def keep_bridge(wanted: BridgeWanted, log: Logger, tell: Callable[[str], None]) -> None:
    """Have a bridge until cancelled; `tell` hears what is wrong with it, and an empty text when all is well again."""
    pause = AGAIN_SECONDS_MIN
    while True:
        with wanted.output.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *bridge_command(Path(wanted.file), wanted.system, wanted.program),
                HELD,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=output,
                # all can see arguments
                env=child_environment({"AMQP_URL": wanted.source_broker, **wanted.settings}),
                start_new_session=True,
            )
        log.info("bridge_started", pid=process.pid)
        try:
            try:
                async with asyncio.timeout(WELL_SECONDS):
                    code = await process.wait()
            except TimeoutError:
                tell("")
                pause = AGAIN_SECONDS_MIN
                code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        log.warning("bridge_ended", code=code)
        tell(f"the bridge has ended ({code}), and is started again: {_last_line(wanted.output)}")
        await asyncio.sleep(pause)
        pause = min(2 * pause, AGAIN_SECONDS_MAX)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS_MAX):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
