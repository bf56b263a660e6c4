"""Many processes' logs as one stream: found, followed, sorted, chosen and shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dist_zero_common.errors import SettingsError
from dist_zero_common.log import FILES_KEPT, get_logger, open_log
from dist_zero_common.logs_tail import Entry, follow, line_of, main, parsed_since
from test.unit.tidy import ROOT

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class SetClock:
    """Stands where it is put."""

    seconds: float = 0.0

    def now_us(self) -> int:
        return round((START.timestamp() + self.seconds) * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds


def write(directory: Path, name: str, at: float, event: str, level: str = "info", **fields: object) -> None:
    """One event, by the service `name`."""
    log = get_logger(name, SetClock(at), **fields)
    with open_log(directory, name, level="debug"):
        getattr(log, level)(event)


def events(entries: Iterator[Entry]) -> list[str]:
    return [entry.event or entry.text for entry in entries]


def test_files_of_all_containers_come_sorted_by_time(tmp_path: Path) -> None:
    """The directory's own files and those one below, events once although there are two files of each."""
    write(tmp_path, "main", 3, "third", system="s")
    write(tmp_path / "m1", "machine-agent", 2, "second", system="s", machine="m1")
    write(tmp_path / "m2", "machine-agent", 1, "first", system="s", machine="m2")
    write(tmp_path / "m2" / "deeper", "machine-agent", 1, "not looked at")
    found = list(follow(tmp_path, forever=False))
    assert events(iter(found)) == ["first", "second", "third"]
    assert [(entry.machine, entry.source) for entry in found] == [
        ("m2", "m2/machine-agent"),
        ("m1", "m1/machine-agent"),
        ("", f"{tmp_path.name}/main"),
    ]
    assert found[0].as_json() == {
        "time": "2026-01-01T00:00:01.000000Z",
        "level": "info",
        "service": "machine-agent",
        "event": "first",
        "system": "s",
        "machine": "m2",
        "source": "m2/machine-agent",
    }


def test_what_is_asked_for_is_what_comes(tmp_path: Path) -> None:
    """By system (events without one belong to all), by level, by time."""
    write(tmp_path / "a", "scheduler", 1, "early", "error", system="s")
    write(tmp_path / "a", "scheduler", 5, "quiet", "debug", system="s")
    write(tmp_path / "a", "scheduler", 6, "loud", "error", system="s")
    write(tmp_path / "b", "scheduler", 7, "other", "error", system="t")
    write(tmp_path / "b", "broker", 8, "anybody", "warning")
    since = START + timedelta(seconds=5)
    assert events(follow(tmp_path, system="s", since=since, forever=False)) == ["quiet", "loud", "anybody"]
    assert events(follow(tmp_path, system="s", level="warning", since=since, forever=False)) == [
        "loud",
        "anybody",
    ]
    assert events(follow(tmp_path, level="error", forever=False)) == ["early", "loud", "other"]
    assert events(follow(tmp_path / "missing", forever=False)) == []


def test_following_finds_new_lines_new_files_and_moved_ones(tmp_path: Path) -> None:
    """A line counts when it is whole; a file that is moved aside is read to its end, then the new one."""
    path = tmp_path / "m1" / "machine-agent.jsonl"
    write(path.parent, "machine-agent", 1, "first")
    looks: list[int] = []

    def goes_on() -> bool:
        """Between two looks, something happens."""
        looks.append(len(looks))
        match len(looks):
            case 1:
                with path.open("a") as stream:
                    stream.write('{"time": "2026-01-01T00:00:02Z", "level": "info", "event": "sec')
            case 2:
                with path.open("a") as stream:
                    stream.write('ond"}\n')
            case 3:
                write(path.parent, "machine-agent", 3, "last of the old file")
                path.rename(path.with_name(path.name + ".1"))
                write(path.parent, "machine-agent", 4, "first of the new file")
                write(tmp_path / "m2", "machine-agent", 5, "of a new machine")
        return len(looks) < 5

    assert events(follow(tmp_path, look_seconds=0, goes_on=goes_on)) == [
        "first",
        "second",
        "last of the old file",
        "first of the new file",
        "of a new machine",
    ]


def test_files_that_were_moved_before_are_read_first(tmp_path: Path) -> None:
    """All that are kept, the oldest first."""
    for number in range(FILES_KEPT, -1, -1):
        name = "scheduler.jsonl" + (f".{number}" if number else "")
        line = {
            "time": "2026-01-01T00:00:00Z",
            "level": "info",
            "service": "scheduler",
            "event": f"e{number}",
        }
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    assert events(follow(tmp_path, forever=False)) == [f"e{n}" for n in range(FILES_KEPT, -1, -1)]


def test_lines_that_are_no_events_come_as_they_are(tmp_path: Path) -> None:
    """Of files that others write, and of ours where they are damaged; bytes that are no text are no obstacle."""
    (tmp_path / "rabbit").mkdir()
    (tmp_path / "rabbit" / "output.log").write_bytes(b"started\xff\n\nlistening\n")
    (tmp_path / "rabbit" / "torn.jsonl").write_text('{"time": "20\n[1]\n')
    found = list(follow(tmp_path, forever=False))
    assert sorted(events(iter(found))) == ["[1]", "listening", "started�", '{"time": "20']
    assert {entry.source for entry in found} == {"rabbit/output", "rabbit/torn"}
    assert "rabbit/output: listening" in [
        line_of(entry, colour=False)[len("00:00:00.000 INFO    [rabbit] ") :] for entry in found
    ]


def test_a_line_is_coloured_by_its_machine() -> None:
    """The same machine in the same colour, levels in theirs; without colour there is no escape in it."""
    entry = Entry(
        "2026-01-01T10:20:30.123456Z",
        "warning",
        "node-runner",
        "rows_asked_again",
        "s",
        "m1",
        "m1/node-runner",
        {"system": "s", "machine": "m1", "node": "flights-3", "epoch": 17},
    )
    plain = line_of(entry, colour=False)
    assert plain == "10:20:30.123 WARNING [m1] node-runner: rows_asked_again node=flights-3 epoch=17"
    coloured = line_of(entry, colour=True)
    assert "\x1b[33mWARNING\x1b[0m" in coloured and "[m1]\x1b[0m" in coloured
    assert line_of(entry, colour=True) == coloured


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30s", START - timedelta(seconds=30)),
        ("10m", START - timedelta(minutes=10)),
        ("2h", START - timedelta(hours=2)),
        ("1d", START - timedelta(days=1)),
        ("2025-12-31T23:00", datetime(2025, 12, 31, 23, tzinfo=UTC)),
        ("2025-12-31T23:00+01:00", datetime(2025, 12, 31, 22, tzinfo=UTC)),
    ],
)
def test_since_is_an_age_or_a_time(text: str, at: datetime) -> None:
    """As a person writes it."""
    assert parsed_since(text, START) == at


@pytest.mark.parametrize("text", ["", "m", "yesterday", "10", "-5m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With what is understood."""
    with pytest.raises(SettingsError, match="write 30s, 10m, 2h, 1d"):
        parsed_since(text, START)


def test_the_script_prints_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is no colour; a wrong time is exit code 2."""
    write(tmp_path / "m1", "machine-agent", 1, "first", machine="m1")
    command = [str(ROOT / "scripts/tail_container_logs"), "--no-follow", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed == "00:00:01.000 INFO    [m1] machine-agent: first\n"
    assert main(["--no-follow", "--since", "soon", str(tmp_path)]) == 2
    assert "'soon' is no time" in capsys.readouterr().err
