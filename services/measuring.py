"""A service's metrics: where they are read, and the server that gives them out.

A scrape is answered in a thread (`exposition.py`), which asks the service's loop for a look at its numbers. The loop
does that between two of its steps, so the numbers belong together; of a loop that is too busy, or hangs, the numbers of
the look before are given out, with their age. One look is under way at a time, however many ask.

A port that is taken costs the metrics and nothing else: it is said once, and tried again every few seconds, because it
may be the one of a predecessor that is about to end.

Where a server is, a file beside the service's logs says, in the form in which Prometheus discovers targets
(`file_sd_configs`). It goes with the process, and the next incarnation of a runner takes its predecessor's place.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dist_zero_common import log as logs
from dist_zero_common import metrics
from dist_zero_common.broker.base import ConnectionState
from dist_zero_common.broker.topology import parsed
from dist_zero_common.errors import BrokerError
from dist_zero_common.exposition import PATH, MetricsServer
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox
from dist_zero_common.metrics import TARGET_SUFFIX, Readings
from dist_zero_common.settings import VERSION, Settings
from services.progress import Watched

LOOK_SECONDS = 3.0
"""For so long a scrape waits for the loop."""
QUEUE_SECONDS = 1.0
"""For so long a look waits for what the broker says of queues."""
AGAIN_SECONDS = 5.0
"""So often a port that is taken is tried again."""

Collect = Callable[[Readings], None]
"""Adds what a part of a service has counted; called on the service's loop."""
Inboxes = Callable[[], Iterable[tuple[Watched, str]]]
"""Inboxes of a service, and the program that each is for, or nothing."""


@dataclass(slots=True)
class Measured:
    """What can be measured of a process."""

    service: str
    system: str
    machine: str
    log: Logger
    _collects: list[Collect] = field(default_factory=list)
    _posts: list[Inboxes] = field(default_factory=list)
    _failed: set[str] = field(default_factory=set)

    @contextmanager
    def measuring(self, collect: Collect) -> Iterator[None]:
        """Meanwhile this is part of each look."""
        self._collects.append(collect)
        try:
            yield
        finally:
            self._collects.remove(collect)

    @contextmanager
    def measuring_posts(self, inboxes: Inboxes) -> Iterator[None]:
        """Meanwhile these posts, and their inboxes at the broker, are part of each look."""
        self._posts.append(inboxes)
        try:
            yield
        finally:
            self._posts.remove(inboxes)

    async def look(self) -> Readings:
        """The numbers of now. A part that cannot say its own is left out, which is logged once."""
        readings = Readings()
        readings.add(metrics.INFO, 1, VERSION, self.system, self.service, self.machine)
        for to, count in logs.dropped.items():
            readings.add(metrics.LOG_LINES_DROPPED, count, to)
        for collect in list(self._collects):
            try:
                collect(readings)
            except Exception as error:
                self._tell_failed(error)
        inboxes = [each for posts in self._posts for each in posts()]
        seen: list[Mailbox] = []
        for watched, _ in inboxes:
            if watched.post not in seen:
                seen.append(watched.post)
                measure_post(readings, watched.post, _role(watched.inbox))
        await asyncio.gather(*(_measure_queue(readings, watched, program) for watched, program in inboxes))
        return readings

    def _tell_failed(self, error: Exception) -> None:
        if repr(error) not in self._failed:
            self._failed.add(repr(error))
            self.log.exception("metrics_failed", error, reason=str(error))


def measure_post(readings: Readings, post: Mailbox, name: str) -> None:
    """What a mailbox has counted; `name` tells it from others of its process."""
    counters = post.counters
    readings.add(metrics.BROKER_CONNECTED, post.state is ConnectionState.CONNECTED, name)
    readings.add(metrics.BROKER_CONNECTIONS, post.connections, name)
    readings.add(metrics.MESSAGES_RECEIVED, counters["messages"], name)
    readings.add(metrics.ENVELOPES_SENT, counters["envelopes"], name)
    readings.add(metrics.SENT_BYTES, counters["envelope_bytes"], name)
    readings.add(metrics.SENT_AGAIN, counters["published_again"], name)
    readings.add(metrics.MESSAGES_ASIDE, counters["malformed"], name)
    readings.add(metrics.MESSAGES_UNSENT, post.unsent, name)
    readings.add(metrics.MESSAGES_UNACKED, post.unsettled, name)


async def _measure_queue(readings: Readings, watched: Watched, program: str) -> None:
    with suppress(BrokerError, TimeoutError):
        async with asyncio.timeout(QUEUE_SECONDS):
            depth = await watched.post.ask_broker(watched.inbox)
        if depth is not None:
            readings.add(metrics.QUEUE_MESSAGES, depth.waiting, _role(watched.inbox), program)


def _role(inbox: str) -> str:
    """What kind of inbox this is, as `runner` or `clients`."""
    return parsed(inbox).role.name


class _Looks:
    """Looks at a process from other threads."""

    def __init__(self, measured: Measured, loop: asyncio.AbstractEventLoop) -> None:
        self._measured, self._loop = measured, loop
        self._lock = threading.Lock()
        self._asked: Future[Readings] | None = None
        self._newest: tuple[Readings, float] | None = None

    def read(self) -> Readings:
        """The numbers of now, or the newest that there were. Raises `TimeoutError` if there were none."""
        asked = self._ask()
        with suppress(TimeoutError, CancelledError):
            readings = asked.result(LOOK_SECONDS) if asked is not None else None
            if readings is not None:
                self._newest = readings, time.monotonic()
        if self._newest is None:
            raise TimeoutError
        readings, at = self._newest
        fresh = asked is not None and asked.done() and not asked.cancelled()
        aged = readings.copy()
        aged.add(metrics.READINGS_AGE, 0.0 if fresh else time.monotonic() - at)
        return aged

    def _ask(self) -> Future[Readings] | None:
        """The look that is under way; None when the loop is no more."""
        with self._lock:
            if self._asked is None or self._asked.done():
                looking = self._measured.look()
                try:
                    self._asked = asyncio.run_coroutine_threadsafe(looking, self._loop)
                except RuntimeError:
                    looking.close()
                    return None
            return self._asked


@asynccontextmanager
async def serving_metrics(settings: Settings, measured: Measured, name: str) -> AsyncIterator[None]:
    """Meanwhile metrics are given out where the settings say so, if they do. `name` is unique among the services that
    log to one directory."""
    if settings.metrics_port is None:
        yield
        return
    looks = _Looks(measured, asyncio.get_running_loop())
    file = settings.log_directory / f"{name}{TARGET_SUFFIX}"
    servers: list[MetricsServer] = []
    serving = asyncio.create_task(_serve(settings, measured, looks, file, servers), name="metrics")
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        for server in servers:
            _remove(file, server.port)
            with suppress(RuntimeError):  # no room for a thread: it ends with the process
                await asyncio.to_thread(server.close)


async def _serve(
    settings: Settings, measured: Measured, looks: _Looks, file: Path, servers: list[MetricsServer]
) -> None:
    """Have a server, as soon as the port can be had."""
    address, port = settings.metrics_address, settings.metrics_port
    assert port is not None
    told = False
    while True:
        try:
            server = MetricsServer(address, port, looks.read)
            break
        except OSError as failed:
            if not told:
                measured.log.warning(
                    "metrics_not_served",
                    address=address,
                    port=port,
                    reason=failed.strerror or str(failed),
                    retry_seconds=AGAIN_SECONDS,
                )
            told = True
        await asyncio.sleep(AGAIN_SECONDS)
    servers.append(server)
    measured.log.info("metrics_served", address=address, port=server.port, path=PATH)
    with suppress(OSError):  # a full disk: it is found by its port
        _write(file, target(measured, address, server.port))


def target(measured: Measured, address: str, port: int) -> list[dict[str, object]]:
    """A process as Prometheus discovers it."""
    labels = {"system": measured.system, "service": measured.service, "machine": measured.machine}
    return [
        {
            "targets": [f"{reachable(address)}:{port}"],
            "labels": {name: value for name, value in labels.items() if value},
        }
    ]


def reachable(address: str) -> str:
    """Where others find a server that listens at this address; if that is all there are, the one that this host has in
    the network that it uses most."""
    if address in ("0.0.0.0", "::"):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent
            return str(probe.getsockname()[0])
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def _write(file: Path, content: object) -> None:
    """At once, so that nobody reads half of it."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(json.dumps(content) + "\n", encoding="utf-8")
    part.replace(file)


def _remove(file: Path, port: int) -> None:
    """Unless it is another process's by now."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        if str(json.loads(file.read_text(encoding="utf-8"))[0]["targets"][0]).endswith(f":{port}"):
            file.unlink()


def metrics_of_child(settings: Settings) -> dict[str, str]:
    """What a process that starts another one tells it in its environment: the port behind its own."""
    port = settings.metrics_port
    return {} if port is None else {"DIST_ZERO_METRICS_PORT": str(port + 1 if port else 0)}
