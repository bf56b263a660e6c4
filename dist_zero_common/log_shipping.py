"""Logs of processes: their files, and beside them a Logstash that is sent every event as a line of JSON over TCP.

Logs are worth less than the work they tell of. So whoever logs is never held up by a Logstash, whatever state that is
in: dead, slow, stuck in the middle of a line, or back again. What it costs whoever logs is to write the line and to put
it into a queue that is bounded in lines and in bytes; when there is no room the line is dropped, and counted. A thread
of its own takes lines out of the queue, connects, sends, and waits:

    log.info(...) -> _ToQueue -> _Lines, bounded -> _Listener, a thread -> _Sender -> TCP

- It sends a line again that it could not send whole. TCP says nothing of what arrived, so what a connection had taken
  when it broke may be lost or, being the one line that was on its way, arrive twice: logs, not accounts.
- Before each line it looks whether the other side has closed, which TCP otherwise tells after the next line is lost.
- Connecting and sending each have a time after which they have failed; attempts to connect have pauses between them
  that grow up to a bound, also if a connection is accepted each time and then broken.
- An outage is said once, in the process's own log (`shipping_interrupted`), and so is its end with the number of lines
  that were dropped (`shipping_resumed`); one that follows soon is counted with the next that is said. What is still
  missing when the process ends is said then (`shipping_incomplete`).
- The end of a process waits for the rest for a bounded short time, and not at all when Logstash cannot be reached.

A simulation is shipped from outside: its events are put into the queue by the thread that runs it, which neither waits
nor asks what time it is, and the thread that sends them is no part of it. `@timestamp` is the real time at which an
event was logged; `time` is what the clock of its service said, which is virtual in a simulation.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import select
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

from logstash import LogstashFormatterVersion1, TCPLogstashHandler

from dist_zero_common.clock import Clock, RealClock
from dist_zero_common.log import LEVELS, dropped, entry_of, get_logger, handling, open_log, reason_of

TRACEBACK_LENGTH_MAX = 16_000
CAUSES_MAX = 10
LINE_BYTES_MAX = 256 * 1024
Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept for a Logstash that does not take it, and how long it is waited for.

    `line_count`, `byte_count`: what the queue holds at most. `connect_seconds`, `send_seconds`: for one attempt to
    connect, and for one line. `pause_seconds_min`, `_max`: between two attempts to connect. `end_seconds`: for all that
    is left when the process ends. `quiet_seconds`: between two outages that are said. `kernel_byte_count`: what
    the kernel takes over before it makes the thread wait, and what may be lost with a connection.
    """

    line_count: int = 10_000
    byte_count: int = 8 * 1024 * 1024
    connect_seconds: float = 5.0
    send_seconds: float = 10.0
    pause_seconds_min: float = 0.5
    pause_seconds_max: float = 30.0
    end_seconds: float = 2.0
    quiet_seconds: float = 60.0
    kernel_byte_count: int = 128 * 1024


LIMITS = Limits()


@contextmanager
def process_log(directory: Path, name: str, *, level: str, logstash: Address | None) -> Iterator[None]:
    """The log of a process while this is open: files in `directory` (see `open_log`), and `logstash` if there is one.

    Every process of ours opens its log here. Raises `OSError` if the files cannot be written; of Logstash nothing is
    ever raised.
    """
    with (
        open_log(directory, name, level=level),
        shipping(logstash, level=level) if logstash else nullcontext(),
    ):
        yield


@contextmanager
def shipping(logstash: Address, *, level: str, limits: Limits = LIMITS) -> Iterator[None]:
    """While this is open, events of `level` and above are sent to `logstash`."""
    lines = _Lines(limits)
    to_queue = _ToQueue(lines)
    sender = _Sender(logstash, limits, to_queue, RealClock())
    listener = _Listener(lines, sender)
    listener.start()
    try:
        with handling([to_queue], LEVELS[level]):
            yield
    finally:
        listener.end(limits.end_seconds)


# -- in the thread that logs -----------------------------------------------------------------------------------


class _Line(logging.LogRecord):
    """A line on its way: nothing of a record but its bytes, so that the queue's bound in bytes is one."""

    def __init__(self, line: bytes) -> None:
        self.line = line


class _Lines(queue.Queue[logging.LogRecord | None]):
    """A queue that holds so many lines and so many bytes."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits.line_count)
        self._byte_count = self._room = limits.byte_count

    def put_nowait(self, item: logging.LogRecord | None) -> None:
        """Raises `queue.Full`."""
        if isinstance(item, _Line) and len(item.line) > self._room:
            raise queue.Full
        super().put_nowait(item)

    def has_room(self) -> bool:
        """Whether it is at most half full."""
        return 2 * self.qsize() <= self.maxsize and 2 * self._room >= self._byte_count

    def put_end(self) -> None:
        """What ends the listener is taken though the queue be full."""
        with self.mutex:
            self.queue.append(None)
            self.unfinished_tasks += 1
            self.not_empty.notify()

    def _put(self, item: logging.LogRecord | None) -> None:  # these two are called with the queue's lock held
        super()._put(item)
        self._room -= len(item.line) if isinstance(item, _Line) else 0

    def _get(self) -> logging.LogRecord | None:
        item = super()._get()
        self._room += len(item.line) if isinstance(item, _Line) else 0
        return item


class _ToQueue(QueueHandler):
    """Makes lines of records, and puts them into the queue, or drops them."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__(lines)
        self.setFormatter(_Formatter())
        self.lines = lines
        self.offered = self.refused = 0
        """All lines, and those of them that there was no room for."""

    def prepare(self, record: logging.LogRecord) -> Any:
        """See QueueHandler."""
        return _Line(self.format(record))  # type: ignore[arg-type]  # the formatter of python-logstash makes bytes

    def enqueue(self, record: logging.LogRecord) -> None:
        """See QueueHandler. Called with the handler's lock held."""
        assert isinstance(record, _Line)
        self.offered += 1
        try:
            if len(record.line) > LINE_BYTES_MAX:
                raise queue.Full
            self.queue.put_nowait(record)
        except queue.Full:
            self.refused += 1
            dropped["logstash-queue"] += 1


class _Formatter(LogstashFormatterVersion1):  # type: ignore[misc]  # python-logstash has no types
    """The line of a record: `@timestamp`, `@version`, `message` (the line for people), `sender`, then the entry."""

    def format(self, record: logging.LogRecord) -> bytes:
        """See LogstashFormatterVersion1, whose names (`host`, `path`, `type`, ...) an event may have for its fields."""
        line = {
            "@timestamp": self.format_timestamp(record.created),
            "@version": "1",
            "message": record.getMessage(),
            "sender": self.host,
            **entry_of(record),
        }
        if record.exc_info:
            line["traceback"] = _traceback(record)[-TRACEBACK_LENGTH_MAX:]  # its end says what the error was
        return self.serialize(line)

    @classmethod
    def format_timestamp(cls, time: float) -> str:
        """See LogstashFormatterBase. In UTC, with microseconds."""
        return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"

    @classmethod
    def serialize(cls, message: dict[str, object]) -> bytes:
        """See LogstashFormatterBase. A lone surrogate becomes a question mark, as UTF-8 has none."""
        return (
            json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        )


def _traceback(record: logging.LogRecord) -> str:
    """The frames and the error of a record, and those of the error that it came of, without texts that may hold a value
    of a row."""
    error = record.exc_info[1] if record.exc_info else None
    parts: list[str] = []
    while error is not None and len(parts) < CAUSES_MAX:
        frames = "".join(traceback.format_tb(error.__traceback__))
        name, reason = type(error).__name__, reason_of(error)
        parts.append(frames + name + (f": {reason}" if reason != name else ""))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nand then:\n".join(reversed(parts))


# -- in the thread that sends ------------------------------------------------------------------------------------


class _Listener(QueueListener):
    """The thread that takes lines out of the queue."""

    def __init__(self, lines: _Lines, sender: _Sender) -> None:
        super().__init__(lines, sender)
        self._lines, self._sender = lines, sender

    def end(self, seconds: float) -> None:
        """Wait so long for what is left, then leave it: the thread ends by itself, and keeps no process alive."""
        thread = self._thread
        assert thread is not None
        self._sender.ending.set()
        self._lines.put_end()
        thread.join(seconds)
        self._sender.give_up()

    def dequeue(self, block: bool) -> Any:
        """See QueueListener. The connection is closed by the thread that uses it, when it comes to the end."""
        item: object = super().dequeue(block)
        if item is None:
            self._sender.close()
        return item


class _Sender(TCPLogstashHandler):  # type: ignore[misc]  # python-logstash has no types
    """Sends lines, one after the other, each for as long as it takes."""

    sock: socket.socket | None

    def __init__(self, logstash: Address, limits: Limits, to_queue: _ToQueue, clock: Clock) -> None:
        super().__init__(*logstash, version=1)
        self.ending = threading.Event()
        """Set when the process ends: then what fails is tried once more, and no more."""
        self._limits, self._to_queue, self._clock = limits, to_queue, clock
        self._given_up = False
        self._pause = limits.pause_seconds_min
        self._connected_at = -math.inf
        self._sent = self._lost = self._dropped_seen = 0
        self._outage = _Outage(f"{logstash[0]}:{logstash[1]}", limits.quiet_seconds, clock)

    def handle(self, record: logging.LogRecord) -> bool:
        """See Handler. Without its lock, which the end of a process would wait for: one thread sends."""
        self.emit(record)
        return True

    def makePickle(self, record: logging.LogRecord) -> bytes:
        """See SocketHandler."""
        assert isinstance(record, _Line)
        return record.line

    def makeSocket(self, timeout: float = 0) -> socket.socket:  # noqa: ARG002
        """See SocketHandler."""
        made: socket.socket = super().makeSocket(self._limits.connect_seconds)
        made.settimeout(self._limits.send_seconds)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.kernel_byte_count)
        return made

    def send(self, line: bytes) -> None:
        """Until it is sent whole, or given up."""
        while not self._given_up:
            last = self.ending.is_set()
            trouble = self._tried(line)
            if not trouble:
                self._sent += 1
                self._look()
                return
            self._outage.begin(trouble)
            self._given_up = self._given_up or last
            self.ending.wait(self._next_pause())
        self._lost += 1
        dropped["logstash-network"] += 1

    def give_up(self) -> None:
        """Called by another thread, at the end: send nothing any more, nor wait for what is being sent. Says how many
        lines have not been shipped, if nobody was told of them yet."""
        self._given_up = True
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._outage.say_incomplete(self._to_queue.offered - self._sent)

    def _tried(self, line: bytes) -> str:
        """Try to send this line. Returns what is wrong, or nothing."""
        try:
            if self.sock is not None and _is_closed(self.sock):
                self._disconnect()
                if not self._has_lasted():
                    return "it has closed the connection"
            if self.sock is None:
                self.sock = self.makeSocket()
                self._connected_at = self._clock.monotonic()
            self.sock.sendall(line)
        except OSError as error:
            self._disconnect()
            return str(error) or type(error).__name__
        return ""

    def _disconnect(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _has_lasted(self) -> bool:
        """Whether the last connection has lasted so long that Logstash was well."""
        return self._clock.monotonic() - self._connected_at > self._limits.pause_seconds_max

    def _next_pause(self) -> float:
        """How long to wait before the next attempt: longer each time, until a connection has lasted."""
        if math.isfinite(self._connected_at) and self._has_lasted():
            self._pause = self._limits.pause_seconds_min
        self._connected_at = -math.inf
        pause, self._pause = self._pause, min(2 * self._pause, self._limits.pause_seconds_max)
        return pause

    def _look(self) -> None:
        """After a line that was sent: was something dropped meanwhile, or is all well again?"""
        missing = self._to_queue.refused + self._lost
        if missing > self._dropped_seen:
            self._outage.begin("there is no room for more lines: it takes them more slowly than they come")
        elif self._to_queue.lines.has_room():
            self._outage.end(missing)
        self._dropped_seen = missing


class _Outage:
    """What the log of the process itself says of times in which lines are not shipped."""

    def __init__(self, logstash: str, quiet_seconds: float, clock: Clock) -> None:
        self._log = get_logger("log-shipping", clock, logstash=logstash)
        self._quiet_seconds, self._clock = quiet_seconds, clock
        self._goes_on = self._is_told = False
        self._began_at = self._told_at = -math.inf
        self._dropped_told = 0

    def begin(self, reason: str) -> None:
        """Something goes wrong; if it does already, nothing is said."""
        if self._goes_on:
            return
        self._goes_on, self._began_at = True, self._clock.monotonic()
        self._is_told = self._began_at - self._told_at >= self._quiet_seconds
        if self._is_told:
            self._told_at = self._began_at
            self._log.warning("shipping_interrupted", reason=reason)

    def end(self, dropped: int) -> None:
        """All is well; `dropped` is the number of lines since the beginning of all."""
        if not self._goes_on:
            return
        self._goes_on = False
        if self._is_told:
            count, self._dropped_told = dropped - self._dropped_told, dropped
            say = self._log.warning if count else self._log.info
            say("shipping_resumed", dropped=count, seconds=round(self._clock.monotonic() - self._began_at, 3))

    def say_incomplete(self, dropped: int) -> None:
        """At the end of the process, if something is missing that was not told of."""
        if dropped > self._dropped_told:
            self._log.warning("shipping_incomplete", dropped=dropped - self._dropped_told)


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other side has closed. Logstash says nothing, so what can be read is the end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        return bool(poll.poll(0)) and not sock.recv(4096)
    except OSError:
        return True
