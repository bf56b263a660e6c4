"""What all entry points (`python -m services.<name>`) have in common: settings, logs, signals, health, the way out.

A service's `__main__` gives `main` a function that sets it up and serves until it is cancelled. SIGTERM and SIGINT
cancel it, after it has said its goodbye if it has one, and then the exit code is 0. Otherwise it says what happened,
as the command line's does: 2 a setting is missing or makes no sense, 3 the surroundings are wrong (broker, store,
disk), 4 a bug of DistZero's. One sentence goes to stderr, and all the rest is in the logs. Who is at his end for longer
than `END_SECONDS` is ended by the kernel: a thread that has no memory to start with is waited for without end.

A broker that cannot be reached is waited for, with a warning now and then; one that refuses ends the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

from dist_zero_common.allocation import host_nodes, keep_freed_memory
from dist_zero_common.broker.base import Connect
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.clock import Clock, RealClock
from dist_zero_common.errors import (
    InternalError,
    OperatorError,
    SettingsError,
    SimulationError,
    first_error,
)
from dist_zero_common.log import Logger, get_logger, reason_of, warnings_to_stderr
from dist_zero_common.log_shipping import process_log
from dist_zero_common.settings import Settings, load_settings
from dist_zero_common.store.base import Store
from dist_zero_common.store.opening import open_store
from dist_zero_common.store.probe import probe_store
from services.health import SUFFIX
from services.measuring import Collect, Inboxes, Measured, serving_metrics
from services.progress import Watched, showing_progress

EXIT_SETTINGS, EXIT_SURROUNDINGS, EXIT_BUG = 2, 3, 4
GOODBYE_SECONDS = 8.0
END_SECONDS = 60.0

Goodbye = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Process:
    """What a service's process has. `goodbye` is what is still to be done when it is told to end."""

    settings: Settings
    clock: Clock
    log: Logger
    service: str = ""
    goodbye: Goodbye | None = None
    measured: Measured = field(init=False)
    _watched: list[Callable[[], Watched | None]] = field(default_factory=list)
    _failed: asyncio.Future[None] = field(default_factory=asyncio.Future)

    def __post_init__(self) -> None:
        """Nothing is measured of it yet."""
        self.measured = Measured(self.service, self.settings.system, self.settings.machine, self.log)

    @contextmanager
    def watching(self, watched: Callable[[], Watched | None]) -> Iterator[None]:
        """Meanwhile the process is healthy only if this moves, too; None as long as there is nothing to watch."""
        self._watched.append(watched)
        try:
            yield
        finally:
            self._watched.remove(watched)

    def watched(self) -> list[Watched]:
        """All that has to move for this process to be healthy."""
        return [each for each in (watched() for watched in self._watched) if each is not None]

    @contextmanager
    def measuring(self, collect: Collect, inboxes: Inboxes = tuple) -> Iterator[None]:
        """Meanwhile this is part of the process's metrics; `inboxes`: those that it has beside the ones that are
        watched, and for which programs."""
        with self.measured.measuring(collect), self.measured.measuring_posts(inboxes):
            yield

    def connect(self, url: str, part: str) -> Connect:
        """Connections to the broker at `url` for a part of the system, which the broker's own tools then name."""
        return connector(url, f"{self.settings.system}: {part}")

    def fail(self, error: BaseException) -> None:
        """End the process with this error."""
        if not self._failed.done():
            self._failed.set_exception(error)

    async def wait_failed(self) -> None:
        """Until `fail` is called; raises its error."""
        await self._failed


Serve = Callable[[Process], Coroutine[Any, Any, None]]


def main(service: str, serve: Serve, missing: Callable[[Settings], list[str]], *, log_name: str = "") -> int:
    """Run a service as a process; `serve` serves until it is cancelled. Returns the exit code.

    `missing` says what of the settings it cannot do without. `log_name` is what its log files are called, if not
    `service`.
    """
    keep_freed_memory()
    host_nodes()
    try:
        settings = load_settings()
        if wanting := missing(settings):
            raise SettingsError("; ".join(wanting))
        name = log_name or log_name_of(service, settings)
        quiet = bool(settings.runner)  # its agent has its log, and passes on what it prints
        with (
            process_log(settings.log_directory, name, level=settings.log_level, logstash=settings.logstash),
            nullcontext() if quiet else warnings_to_stderr(),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(_run(service, name, serve, settings))
    except SettingsError as wrong:
        return _say(service, str(wrong), EXIT_SETTINGS)
    except OSError as wrong:
        return _say(service, f"cannot log: {wrong}", EXIT_SURROUNDINGS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def log_name_of(service: str, settings: Settings) -> str:
    """What the log files of a service are called: a runner's carry its name and incarnation."""
    return f"{service}-{settings.runner}-{settings.runner_incarnation}" if settings.runner else service


async def _run(service: str, name: str, serve: Serve, settings: Settings) -> int:
    clock = RealClock()
    log = get_logger(service, clock, system=settings.system)
    process = Process(settings, clock, log, service)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    log.info("process_started", pid=os.getpid())
    try:
        async with (
            showing_progress(settings.log_directory / f"{name}{SUFFIX}", process.watched),
            _measured(process, f"{service}-{settings.runner}" if settings.runner else service),
        ):
            await _until_stopped(process, serve(process), stopping)
    except BaseException as error:
        return _explained(service, first_error(error), process.log, quiet=bool(settings.runner))
    process.log.info("process_ended")
    return 0


@asynccontextmanager
async def _measured(process: Process, name: str) -> AsyncIterator[None]:
    """Meanwhile metrics are given out, if that is set."""

    def watched() -> Iterator[tuple[Watched, str]]:
        return ((each, "") for each in process.watched())

    with process.measured.measuring_posts(watched):
        async with serving_metrics(process.settings, process.measured, name):
            yield


async def _until_stopped(
    process: Process, serving: Coroutine[Any, Any, None], stopping: asyncio.Event
) -> None:
    """Serve until told to stop, then say goodbye. Raises what ended the service by itself."""
    served = asyncio.create_task(serving)
    told, failed = asyncio.create_task(stopping.wait()), asyncio.create_task(process.wait_failed())
    try:
        await asyncio.wait([served, told, failed], return_when=asyncio.FIRST_COMPLETED)
        signal.setitimer(
            signal.ITIMER_REAL, END_SECONDS
        )  # nobody handles its signal, so no Python has to run
        if not (served.done() or failed.done()) and process.goodbye is not None:
            try:
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await process.goodbye()
            except TimeoutError:
                process.log.warning("goodbye_unsaid", seconds=GOODBYE_SECONDS)
    finally:
        for task in (told, failed, served):
            task.cancel()
        await asyncio.wait([told, failed, served])
    for task in (served, failed):
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    if not stopping.is_set():
        raise InternalError("the service ended by itself")


def _explained(service: str, error: BaseException, log: Logger, *, quiet: bool) -> int:
    """Say and log why the service ends. `quiet`: what it prints is logged by its agent."""
    if isinstance(error, OperatorError | OSError) and not isinstance(error, InternalError | SimulationError):
        log.error("process_failed", reason=str(error))
        return _say(
            service, str(error), EXIT_SETTINGS if isinstance(error, SettingsError) else EXIT_SURROUNDINGS
        )
    log.exception("process_failed", error, reason=reason_of(error))
    if quiet:
        what, where = reason_of(error), f"the traceback in {service}'s own log"
    else:
        traceback.print_exception(error)
        what, where = repr(error), "the lines above"
    return _say(service, f"{what}: this should not happen: please report it with {where}", EXIT_BUG)


def _say(service: str, sentence: str, code: int) -> int:
    print(f"{service}: {sentence}", file=sys.stderr)
    return code


# -- what a service cannot do without ----------------------------------------------------------------------------


def missing_broker(settings: Settings) -> list[str]:
    """What is to be said if no broker is set."""
    if settings.broker_url:
        return []
    return ["AMQP_URL is not set: the broker, as amqp://user:password@host:port/vhost"]


def missing_system(settings: Settings) -> list[str]:
    """What is to be said if no system is set."""
    if settings.system:
        return []
    return ["DIST_ZERO_SYSTEM is not set: the name of the system that this is to be part of"]


def missing_store(settings: Settings) -> list[str]:
    """What is to be said if no store is set."""
    if settings.store is not None:
        return []
    return ["DIST_ZERO_STORE is not set: the directory or bucket that keeps what must not be lost"]


# -- store, broker, parent -------------------------------------------------------------------------------------


@asynccontextmanager
async def opened_store(process: Process, prober: str) -> AsyncIterator[Store]:
    """The system's store, shared with its other services, after a look at whether it keeps its promises. `prober` is
    unique to this process."""
    where = process.settings.store
    assert where is not None, "missing_store"
    store = open_store(where, process.settings)
    try:
        await probe_store(store, prober)
        yield store
    finally:
        await store.close()


def end_with_parent() -> None:
    """End this process when its standard input does, whatever it is doing then: see `ProcessLauncher`."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os._exit(EXIT_SURROUNDINGS)

    threading.Thread(target=wait, name="parent", daemon=True).start()
