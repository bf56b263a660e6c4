"""Logs: events with fields and bound context, in virtual time, for people and for machines, within bounds."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common import log as log_module
from dist_zero_common.clock import LoopClock
from dist_zero_common.errors import DataError, OperatorError, ProgramError, RequestError
from dist_zero_common.log import captured_events, get_logger, open_log, plain, reason_of
from test.unit.tidy import ROOT


@dataclass
class StoppedClock:
    """Always the same time, in microseconds: here one hour into 1970."""

    at_us: int = 3_600_000_000

    def now_us(self) -> int:
        return self.at_us

    def monotonic(self) -> float:
        return 0.0


class Colour(enum.IntEnum):
    RED = 1


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_events_carry_time_level_service_and_bound_context() -> None:
    """An entry is the event, the context bound to the logger and to those it comes from, and its own fields."""
    log = get_logger("node-runner", StoppedClock(), system="local").bind(node="n-1", epoch=1)
    with captured_events() as events:
        log.bind(epoch=2).warning("rows_asked_again", stage=3)
        log.debug("idle", epoch=9)
    assert events == [
        {
            "time": "1970-01-01T01:00:00.000000Z",
            "level": "warning",
            "service": "node-runner",
            "event": "rows_asked_again",
            "system": "local",
            "node": "n-1",
            "epoch": 2,
            "stage": 3,
        },
        {
            "time": "1970-01-01T01:00:00.000000Z",
            "level": "debug",
            "service": "node-runner",
            "event": "idle",
            "system": "local",
            "node": "n-1",
            "epoch": 9,
        },
    ]


def test_time_is_the_loops() -> None:
    """With the loop's clock, an event has the loop's time: virtual in a simulation."""
    log = get_logger("system", LoopClock(epoch_us=1_000_000))

    async def main() -> None:
        log.info("started")

    loop = asyncio.new_event_loop()
    loop.time = lambda: 12.5  # type: ignore[method-assign]
    try:
        with captured_events() as events:
            loop.run_until_complete(main())
    finally:
        loop.close()
    assert events[0]["time"] == "1970-01-01T00:00:13.500000Z"


def test_both_files_say_the_same(tmp_path: Path) -> None:
    """One line for a person in `.log`, one object in `.jsonl`; what is below the level is in neither."""
    log = get_logger("scheduler", StoppedClock(), program="flights")
    with open_log(tmp_path / "new", "run", level="info"):
        log.debug("not_wanted")
        log.info("program_started", nodes=4, ratio=float("inf"), reason="two words", nothing=None)
    assert (tmp_path / "new" / "run.log").read_text(encoding="utf-8") == (
        "1970-01-01T01:00:00.000000Z INFO    scheduler: program_started"
        ' program=flights nodes=4 ratio=inf reason="two words" nothing=null\n'
    )
    assert lines_of(tmp_path / "new" / "run.jsonl") == [
        {
            "time": "1970-01-01T01:00:00.000000Z",
            "level": "info",
            "service": "scheduler",
            "event": "program_started",
            "program": "flights",
            "nodes": 4,
            "ratio": "inf",
            "reason": "two words",
            "nothing": None,
        }
    ]


def test_tracebacks_are_kept(tmp_path: Path) -> None:
    """An exception's traceback follows the line for people, and is a field for machines."""
    log = get_logger("system", StoppedClock())
    with open_log(tmp_path, "run", level="error"):
        try:
            raise RuntimeError("no such luck")
        except RuntimeError as error:
            log.exception("service_failed", error, name="x")
    [entry] = lines_of(tmp_path / "run.jsonl")
    assert entry["level"] == "error"
    for shown in (str(entry["traceback"]), (tmp_path / "run.log").read_text(encoding="utf-8")):
        assert "Traceback" in shown
        assert shown.rstrip().endswith("RuntimeError: no such luck")


def test_after_closing_nothing_is_written(tmp_path: Path) -> None:
    """The files belong to the block; afterwards handlers and level are as before."""
    ours = logging.getLogger("dist_zero")
    before = (list(ours.handlers), ours.level)
    with open_log(tmp_path, "run", level="debug"):
        pass
    get_logger("system", StoppedClock()).info("late")
    assert (list(ours.handlers), ours.level) == before
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == ""


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is logged, so many files of so many bytes stay, and the newest events are in them."""
    monkeypatch.setattr(log_module, "FILE_BYTES_MAX", 2_000)
    log = get_logger("system", StoppedClock())
    with open_log(tmp_path, "run", level="info"):
        for number in range(500):
            log.info("counted", number=number)
    files = sorted(tmp_path.glob("run.jsonl*"))
    assert len(files) == 1 + log_module.FILES_KEPT
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert lines_of(tmp_path / "run.jsonl")[-1]["number"] == 499


def test_a_full_disk_costs_the_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever logs goes on, and stderr is told once for each file."""
    for kind in ("log", "jsonl"):
        (tmp_path / f"full.{kind}").symlink_to("/dev/full")
    with open_log(tmp_path, "full", level="info"):
        for number in range(3):
            get_logger("scheduler", StoppedClock()).info("tried", number=number)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and all("No space left on device; work goes on" in line for line in said), said


def test_reserved_names_are_refused() -> None:
    """A field cannot hide the time, level, service or event of its entry."""
    log = get_logger("system", StoppedClock())
    with pytest.raises(ValueError, match="a 'service' of its own"):
        log.bind(service="other")
    with captured_events() as events, pytest.raises(ValueError, match="a 'time' of its own"):
        log.info("started", time=3)
    assert not events


def test_plain_values() -> None:
    """What JSON cannot say is said as text; enums by name; long things are cut and say how long they were."""
    assert plain(Colour.RED) == "RED"
    assert plain([(1, b"\x00\xff"), {"a": Path("b")}]) == [[1, "00ff"], {"a": "b"}]
    assert plain(ValueError("bad")) == "bad"
    assert plain("x" * 5_000) == "x" * 1_000 + "… (5000 characters)"
    assert plain(list(range(10_000))) == list(range(50))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(event=st.text(max_size=5), value=VALUES)
def test_an_entry_is_one_line_whatever_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, event: str, value: object
) -> None:
    """No text, with newlines, quotes, lone surrogates or control characters, makes two lines of one or stops a log."""
    directory = tmp_path_factory.mktemp("log")
    with open_log(directory, "run", level="info"):
        get_logger("system", StoppedClock()).info("happened", value=value, text="\ud800\n", given=event)
    [entry] = lines_of(directory / "run.jsonl")
    assert entry["given"] == event
    assert (directory / "run.log").read_text(encoding="utf-8").count("\n") == 1


def test_importing_does_nothing() -> None:
    """Importing the module makes no file, no handler and no logger of ours."""
    code = (
        "import logging; import dist_zero_common.log;"
        " names = [n for n in logging.root.manager.loggerDict if n.startswith('dist_zero')];"
        " assert not names and not logging.root.handlers, names"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OperatorError("the store is away"), "the store is away"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (OperatorError(), "OperatorError"),
        (DataError("column 'iban': expected int, got 'SECRET'"), "DataError"),
        (RequestError("no row with key 'SECRET'"), "RequestError"),
        (ProgramError("literal 'SECRET'"), "ProgramError"),
        (KeyError("SECRET"), "KeyError"),
        (ValueError("invalid literal: 'SECRET'"), "ValueError"),
    ],
)
def test_the_reason_of_an_error_holds_no_value_of_a_row(error: Exception, reason: str) -> None:
    """Errors of the surroundings are told in their words; those about data, and those that are not ours, by their type,
    since their texts may quote a row."""
    assert reason_of(error) == reason
