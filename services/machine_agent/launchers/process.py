"""Runners that are processes of this machine, children of the agent's.

A runner outlives its agent under no circumstances, or nobody would look after it: its standard input is a pipe that
nothing is ever written to, and the end of it, which the system brings about however the agent ends, is the end of the
runner (`entry.end_with_parent`). What it prints is in the agent's log, line by line; a runner that is well prints
nothing, because it has log files of its own.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from dist_zero_common.errors import OperatorError
from dist_zero_common.log import Logger

COMMAND = (sys.executable, "-m", "services.node_runner")
GRACE_SECONDS = 5.0
LINE_BYTES_MAX = 4096

Environment = Callable[[str, int], Mapping[str, str]]
"""The environment of this incarnation of the runner of this name."""


class ProcessLauncher:
    """See `Launcher`. A context: its runners live no longer than it does.

    async with ProcessLauncher(environment, log) as launcher:
        await AgentService(..., launcher=launcher).run()
    """

    def __init__(
        self,
        environment: Environment,
        log: Logger,
        *,
        command: Sequence[str] = COMMAND,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """A runner that is told to end and has not after `grace_seconds` is killed."""
        self._environment, self._log = environment, log
        self._command, self._grace_seconds = tuple(command), grace_seconds
        self._tasks = asyncio.TaskGroup()
        self._running: dict[tuple[str, int], tuple[asyncio.subprocess.Process, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> ProcessLauncher:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._running.values():
            _signal(process, signal.SIGKILL)
        await self._tasks.__aexit__(kind, error, trace)

    async def start(self, runner: str, incarnation: int) -> None:
        key = runner, incarnation
        if key in self._running:
            return
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self._environment(runner, incarnation)),
                start_new_session=True,  # Ctrl-C is for the agent, which tells its runners
            )
        except OSError as failed:
            raise OperatorError(f"cannot start {' '.join(self._command)}: {failed}") from failed
        log = self._log.bind(runner=runner, runner_incarnation=incarnation, pid=process.pid)
        self._running[key] = process, self._tasks.create_task(self._look_after(key, process, log))

    async def stop(self, runner: str) -> None:
        for key, (process, task) in list(self._running.items()):
            if key[0] != runner:
                continue
            _signal(process, signal.SIGTERM)
            done, _ = await asyncio.wait([task], timeout=self._grace_seconds)
            if not done:
                self._log.warning("runner_killed", runner=runner, seconds=self._grace_seconds)
                _signal(process, signal.SIGKILL)
                await asyncio.wait([task])

    def alive(self, runner: str, incarnation: int) -> bool:
        return (runner, incarnation) in self._running

    async def _look_after(
        self, key: tuple[str, int], process: asyncio.subprocess.Process, log: Logger
    ) -> None:
        """Until it has ended: log what it prints, then how it ended."""
        assert process.stdout is not None
        try:
            await _log_output(process.stdout, log)
            code = await process.wait()
            log.info("runner_exited", how=_how(code))
        finally:
            if process.stdin is not None:
                process.stdin.close()
            self._running.pop(key, None)


async def _log_output(output: asyncio.StreamReader, log: Logger) -> None:
    rest = b""
    while data := await output.read(LINE_BYTES_MAX):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _log_line(line, log)
    _log_line(rest, log)


def _log_line(line: bytes, log: Logger) -> None:
    text = line.decode("utf-8", "replace").rstrip()
    if text:
        log.warning("runner_output", line=text)


def _how(code: int) -> str:
    """How a process has ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # it has ended meanwhile
