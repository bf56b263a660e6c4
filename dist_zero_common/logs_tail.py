"""Follow the log files of many processes as one stream, one line per event, coloured by machine.

`dist-zero logs` and `scripts/tail_container_logs` read what `log.open_log` writes: below the log directory, and in
one directory per container beneath it, every `<name>.jsonl`. A `.log` file without such a twin is of somebody else
(a broker, what a process printed): its lines come as they are. Files that appear later are found, and one that was
moved aside is read to its end before the new one is begun.

What is there already comes sorted by time. What is written later comes as it is seen, sorted within one look; two
processes' clocks may differ, so that order is a help to the eye and no proof.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dist_zero_common.errors import SettingsError
from dist_zero_common.log import FILES_KEPT, LEVELS, RESERVED, shown_fields
from dist_zero_common.settings import load_settings

LOOK_SECONDS = 0.3
READ_BYTES = 2**20
LINE_BYTES_MAX = 2**20
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_LEVEL_COLOURS = {"warning": 33, "error": 31}
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, or one line of a file that holds no events (then `event` is empty and `text` is the line).

    `time` is ISO 8601 in UTC, so that it sorts as text; a line that says none has its file's. `fields` is all else
    that the event carries. `machine` and `system` are empty where an event has none; `source` says which file it is
    from, as `<directory>/<name>`.
    """

    time: str
    level: str
    service: str
    event: str
    system: str
    machine: str
    source: str
    fields: Mapping[str, object] = field(default_factory=dict)
    text: str = ""

    def as_json(self) -> dict[str, object]:
        """The event as it stands in its file, with `source`."""
        said = {"text": self.text} if self.text else {}
        return {
            "time": self.time,
            "level": self.level,
            "service": self.service,
            "event": self.event,
            **self.fields,
            **said,
            "source": self.source,
        }


def follow(
    directory: Path,
    *,
    system: str = "",
    level: str = "debug",
    since: datetime | None = None,
    forever: bool = True,
    look_seconds: float = LOOK_SECONDS,
    goes_on: Callable[[], bool] = lambda: True,
) -> Iterator[Entry]:
    """The entries of all log files in `directory` and in the directories right below it.

    `system`: only that one's, and those that name none. `level`: this one and above. `since`: only those from then on.
    `forever`: go on with what is written later, while `goes_on()`; without it, end with what is there.
    """
    wanted = _Wanted(system, LEVELS[level], _text_of(since) if since is not None else "")
    tails: dict[Path, _Tail] = {}
    while True:
        for path in _log_files(directory):
            if path not in tails:
                tails[path] = _Tail(path)
        found = [entry for tail in tails.values() for entry in tail.entries() if wanted.holds(entry)]
        yield from sorted(found, key=lambda entry: entry.time)
        if not (forever and goes_on()):
            return
        time.sleep(look_seconds)


def parsed_since(text: str, now: datetime) -> datetime:
    """`10m`, `2h`, `30s`, `1d` before `now`, or a time as 2013-01-01T05:15 (UTC without an offset).

    Raises `SettingsError` for anything else.
    """
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isdigit():
        return now - timedelta(seconds=int(number) * _UNITS[unit])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{text!r} is no time: write 30s, 10m, 2h, 1d or 2013-01-01T05:15") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def line_of(entry: Entry, *, colour: bool) -> str:
    """One line for a person; the machine (else the file) is its coloured head."""
    head = entry.machine or entry.source.partition("/")[0]
    body = f"{entry.service}: {entry.event}" if entry.event else f"{entry.source}: {entry.text}"
    at = entry.time[11:23]
    level = f"{entry.level.upper():<7}"
    fields = shown_fields({name: value for name, value in entry.fields.items() if name not in _HEADS})
    parts = [body, *fields]
    if not colour:
        return " ".join([at, level, f"[{head}]", *parts])
    code = _COLOURS[zlib.crc32(head.encode()) % len(_COLOURS)]
    painted = f"\x1b[{_LEVEL_COLOURS[entry.level]}m{level}\x1b[0m" if entry.level in _LEVEL_COLOURS else level
    return " ".join([at, painted, f"\x1b[{code}m[{head}]\x1b[0m", *parts])


_HEADS = ("machine", "system")


@dataclass(frozen=True, slots=True)
class _Wanted:
    system: str
    level: int
    since: str

    def holds(self, entry: Entry) -> bool:
        if self.system and entry.system not in ("", self.system):
            return False
        return LEVELS.get(entry.level, 0) >= self.level and entry.time >= self.since


class _Tail:
    """One file, and the moved ones before it, from the beginning on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = f"{path.parent.name}/{path.stem}"
        self._descriptor = -1
        self._rest = b""
        self._before = [path.with_name(f"{path.name}.{number}") for number in range(FILES_KEPT, 0, -1)]

    def entries(self) -> Iterator[Entry]:
        """What was written since the last call, whole lines only."""
        for path in self._before:
            try:
                with path.open("rb") as older:
                    for line in older:
                        yield from self._entry(line)
            except OSError:
                continue
        self._before.clear()
        while True:
            if self._descriptor < 0:
                try:
                    self._descriptor = os.open(self._path, os.O_RDONLY)
                except OSError:
                    return
            yield from self._read()
            if not self._was_moved():
                return
            os.close(self._descriptor)
            self._descriptor, self._rest = -1, b""

    def _read(self) -> Iterator[Entry]:
        while data := os.read(self._descriptor, READ_BYTES):
            *lines, rest = (self._rest + data).split(b"\n")
            self._rest = rest if len(rest) < LINE_BYTES_MAX else b""
            for line in lines:
                yield from self._entry(line)

    def _was_moved(self) -> bool:
        """Whether the name stands for another file now, or for none, so that ours gets no more lines."""
        try:
            there = os.stat(self._path)
        except OSError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev)

    def _written_at(self) -> str:
        """The time of lines that say none: when the file was last written."""
        return _text_of(datetime.fromtimestamp(self._path.stat().st_mtime, UTC))

    def _entry(self, line: bytes) -> Iterator[Entry]:
        text = line.decode("utf-8", "replace").rstrip()
        if not text:
            return
        said: object = None
        if self._path.suffix == ".jsonl":
            try:
                said = json.loads(text)
            except ValueError:
                said = None
        if not isinstance(said, dict):
            yield Entry(self._written_at(), "info", self._path.stem, "", "", "", self._source, text=text)
            return
        yield Entry(
            str(said.get("time", "")),
            str(said.get("level", "info")),
            str(said.get("service", "")),
            str(said.get("event", "")),
            str(said.get("system", "")),
            str(said.get("machine", "")),
            self._source,
            {name: value for name, value in said.items() if name not in RESERVED or name == "traceback"},
        )


def _log_files(directory: Path) -> list[Path]:
    """The files to follow: events, and what has no events for a twin."""
    found = sorted(path for pattern in ("*.jsonl", "*/*.jsonl") for path in directory.glob(pattern))
    twins = dict.fromkeys(path.with_suffix(".log") for path in found)
    others = sorted(path for pattern in ("*.log", "*/*.log") for path in directory.glob(pattern))
    return found + [path for path in others if path not in twins]


def _text_of(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def main(arguments: list[str] | None = None) -> int:
    """`scripts/tail_container_logs`: print what `follow` finds, until Ctrl-C."""
    settings = load_settings()
    parser = argparse.ArgumentParser(
        "tail_container_logs", description="Follow the logs of all containers, coloured by machine."
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=settings.log_directory, help="default: %(default)s"
    )
    parser.add_argument("--system", default="", metavar="NAME", help="only this system's")
    parser.add_argument(
        "--level", default="info", choices=list(LEVELS), help="this one and above (default: info)"
    )
    parser.add_argument("--since", metavar="TIME", help="30s, 10m, 2h, 1d ago, or a time as 2013-01-01T05:15")
    parser.add_argument("--no-follow", action="store_true", help="end with what is there")
    given = parser.parse_args(arguments)
    try:
        since = parsed_since(given.since, datetime.now(UTC)) if given.since else None
        colour = sys.stdout.isatty()
        entries = follow(
            given.directory, system=given.system, level=given.level, since=since, forever=not given.no_follow
        )
        for entry in entries:
            sys.stdout.write(line_of(entry, colour=colour) + "\n")
            sys.stdout.flush()
    except SettingsError as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
