"""Logs are events with fields, not prose.

A logger has a context bound to it once (system, machine, node, incarnation, ...); `bind` adds to it:

    log = get_logger("node-runner", clock, system="local", machine="m-1").bind(node="n-3", incarnation=2)
    log.info("epoch_finished", epoch=17, rows=4096)

In `<name>.log` that is one line for a person, in `<name>.jsonl` one object with time, level, service, event
and every field. An event's name is a constant in snake_case that a person can search for; what varies is a
field.

Time comes from the `Clock` that the logger was given, so that the log of a simulation shows virtual time. The
contents of rows are never logged: a caller passes counts, keys' hashes, names and numbers. As a second fence,
long texts are cut, and the files are of bounded size. One thing may hold a value: the traceback of a bug ends with the
text of an error that is not ours. It stays in the files of this machine, and is not shipped.

No file is written before `open_log` is called, which for a process `log_shipping.process_log` does. Events also go
wherever the surrounding program's standard `logging` sends those of the logger "dist_zero".
"""

from __future__ import annotations

import enum
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path

from dist_zero_common.clock import Clock
from dist_zero_common.errors import DistZeroError, UserError

ROOT = "dist_zero"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 3
TEXT_LENGTH_MAX = 1_000
ITEMS_MAX = 50

dropped: Counter[str] = Counter(file=0)
"""Of this process: how many lines could not be written, by where they were to go."""

RESERVED = ("time", "level", "service", "event", "traceback")
_ENTRY = "dist_zero_entry"
_SPEAKS_OF_NO_ROWS = (DistZeroError, OSError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Logger:
    """Writes events of one service, with the context that is bound to it. Made by `get_logger`."""

    __slots__ = ("_bound", "_clock", "_logger", "_service")

    def __init__(self, service: str, clock: Clock, bound: Mapping[str, object]) -> None:
        """As `get_logger`; raises `ValueError` for a field whose name every entry has already."""
        _refuse_reserved(bound)
        self._service = service
        self._clock = clock
        self._bound = dict(bound)
        self._logger = logging.getLogger(f"{ROOT}.{service}")

    def bind(self, **fields: object) -> Logger:
        """A logger with these fields, too, in every event; a field bound before is replaced."""
        return Logger(self._service, self._clock, self._bound | fields)

    def debug(self, event: str, /, **fields: object) -> None:
        """For whoever looks for a bug: may come once per message."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something changed that an operator may want to know: started, moved, saved."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something was wrong and has been dealt with: refused, asked again, started again."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something is wrong and stays so until somebody acts."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, error: BaseException, /, **fields: object) -> None:
        """`error` as a level, with the traceback of the exception `error`."""
        self._write(logging.ERROR, event, fields, error)

    def _write(
        self, level: int, event: str, fields: dict[str, object], error: BaseException | None = None
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        _refuse_reserved(fields)
        entry = {
            "time": _utc(self._clock.now_us()),
            "level": logging.getLevelName(level).lower(),
            "service": self._service,
            "event": event,
            **{name: plain(value) for name, value in (self._bound | fields).items()},
        }
        self._logger.log(level, "%s", _Line(entry), exc_info=error, extra={_ENTRY: entry}, stacklevel=3)


def get_logger(service: str, clock: Clock, /, **bound: object) -> Logger:
    """A logger for `service` (as in "scheduler"): its events have `clock`'s time, and the fields `bound`."""
    return Logger(service, clock, bound)


@contextmanager
def open_log(directory: Path, name: str, *, level: str) -> Iterator[None]:
    """While this is open, events of `level` and above go to `<name>.log` and `<name>.jsonl` in `directory`.

    The directory is made when it is missing. A file is moved aside at 16 MiB, and three older ones are kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handlers = [
        _file_handler(directory / f"{name}.log", _TextFormatter()),
        _file_handler(directory / f"{name}.jsonl", _JsonFormatter()),
    ]
    with handling(handlers, LEVELS[level]):
        yield


@contextmanager
def warnings_to_stderr() -> Iterator[None]:
    """While this is open, warnings and errors go to stderr, too: what a container's own log shows."""
    handler = logging.StreamHandler()
    handler.setFormatter(_TextFormatter())
    with handling([handler], logging.WARNING):
        yield


@contextmanager
def captured_events(level: str = "debug") -> Iterator[list[dict[str, object]]]:
    """For tests: the list that every event of `level` and above that is written meanwhile is appended to."""
    handler = _ListHandler()
    with handling([handler], LEVELS[level]):
        yield handler.entries


def plain(value: object) -> object:
    """`value` as JSON can say it, cut to size: an enum by its name, what JSON does not know by its `str`."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in list(value.items())[:ITEMS_MAX]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value[:ITEMS_MAX]]
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= TEXT_LENGTH_MAX else f"{text[:TEXT_LENGTH_MAX]}… ({len(text)} characters)"


def reason_of(error: BaseException) -> str:
    """What an event may say of an error: its text, if it is one of ours about the surroundings or ourselves, or the
    operating system's; else no more than its type, because the text may hold a value of a row."""
    if isinstance(error, _SPEAKS_OF_NO_ROWS) and not isinstance(error, UserError):
        return str(error) or type(error).__name__
    return type(error).__name__


def _refuse_reserved(fields: Mapping[str, object]) -> None:
    for name in RESERVED:
        if name in fields:
            raise ValueError(f"every log entry has a {name!r} of its own: give the field another name")


def _utc(now_us: int) -> str:
    moment = (_EPOCH + timedelta(microseconds=now_us)).isoformat(timespec="microseconds")
    return moment.removesuffix("+00:00") + "Z"


@contextmanager
def handling(handlers: list[logging.Handler], level: int) -> Iterator[None]:
    """While this is open, `handlers` get every event of `level` and above; at its end they are closed.

    Meanwhile the level of our root logger lets through whatever one of its handlers wants.
    """
    root = logging.getLogger(ROOT)
    level_before = root.level
    for handler in handlers:
        handler.setLevel(level)
        root.addHandler(handler)
    root.setLevel(min(level, level_before or level))
    try:
        yield
    finally:
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _file_handler(path: Path, formatter: logging.Formatter) -> logging.Handler:
    handler = _LogFile(
        path,
        maxBytes=FILE_BYTES_MAX,
        backupCount=FILES_KEPT,
        encoding="utf-8",
        errors="backslashreplace",  # a lone surrogate becomes an escape, which is right in JSON, too
    )
    handler.setFormatter(formatter)
    return handler


class _LogFile(RotatingFileHandler):
    """A disk that is full costs lines of the log and nothing else: stderr is told once, and work goes on."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        error = sys.exception()
        dropped["file"] += 1
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            sys.stderr.write(f"cannot write the log {self.baseFilename}: {error.strerror}; work goes on\n")

    def close(self) -> None:
        """See logging.Handler."""
        with suppress(OSError):
            super().close()


def entry_of(record: logging.LogRecord) -> dict[str, object]:
    """The entry that `_write` put on the record: `record.created` and its like are not our time."""
    entry: dict[str, object] = getattr(record, _ENTRY)
    return entry


class _Line:
    """An entry's line for a person, made only if somebody wants it."""

    def __init__(self, entry: Mapping[str, object]) -> None:
        self._entry = entry

    def __str__(self) -> str:
        return " ".join([f"{self._entry['service']}: {self._entry['event']}", *shown_fields(self._entry)])


def shown_fields(entry: Mapping[str, object]) -> list[str]:
    """Each field of an entry as `name=value`, for a person."""
    return [f"{name}={_shown(value)}" for name, value in entry.items() if name not in RESERVED]


def _shown(value: object) -> str:
    """Bare where that is unmistakable, else as JSON: an entry stays one line, whatever is in it."""
    if isinstance(value, str) and value.isprintable() and value and not set(value) & set(' "='):
        return value
    return json.dumps(value, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    """`2013-01-01T05:15:00.000000Z INFO scheduler: program_started program=flights`, then any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{entry_of(record)['time']} {record.levelname:<7} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """The entry as one JSON object, with the traceback as a field."""

    def format(self, record: logging.LogRecord) -> str:
        entry = dict(entry_of(record))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _ListHandler(logging.Handler):
    """Keeps entries."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.entries.append(entry_of(record))
