"""The workloads of the benchmarks, small: DistZero and polars come to what DuckDB says, and who does not is found out.

Peers in environments of their own are not run here; `make bench` holds their answers against DuckDB's each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import data, peers, report
from benchmarks.engines import distzero, duckdb, polars
from benchmarks.engines.process import Done, Stopwatch, Task, percentiles
from benchmarks.measure import Measurement
from benchmarks.workloads import WORKLOADS, Workload

SIZE = 3_000
"""Few, and as many as it takes for q2 to have an answer: one auction of 123."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files are made once for all tests."""
    return tmp_path_factory.mktemp("data")


def task_of(workload: Workload, directory: Path, out: Path) -> Task:
    return Task(workload, SIZE, data.files(workload, SIZE, directory), out)


@pytest.mark.parametrize("run", [distzero.run, polars.run, duckdb.run])
@pytest.mark.parametrize("name", WORKLOADS)
def test_answers_are_duckdbs(name: str, run: Callable[[Task], Done], directory: Path, tmp_path: Path) -> None:
    task = task_of(WORKLOADS[name], directory, tmp_path / "answer.parquet")
    done = run(task)
    assert done.write is not None and done.seconds > 0
    done.write(task.out)
    assert pq.read_metadata(task.out).num_rows
    assert peers.is_right(task.workload, task.data, task.out)


@pytest.mark.parametrize("read", [distzero.read, polars.read, duckdb.read])
def test_files_are_read_alone(read: Callable[[Task], Done], directory: Path, tmp_path: Path) -> None:
    for workload in WORKLOADS.values():
        assert read(task_of(workload, directory, tmp_path / "none")).seconds > 0


def test_wrong_answers_are_found_out(directory: Path, tmp_path: Path) -> None:
    """A row too many, too few, one that is another; and a changelog that ends right."""
    task = task_of(WORKLOADS["W1"], directory, tmp_path / "answer.parquet")
    done = duckdb.run(task)
    assert done.write is not None
    done.write(task.out)
    right = pq.read_table(task.out)
    other = right.set_column(2, "total", pa.array([0, *right["total"].to_pylist()[1:]]))
    for wrong in (right.slice(1), pa.concat_tables([right, right.slice(0, 1)]), other):
        pq.write_table(wrong, task.out)
        assert not peers.is_right(task.workload, task.data, task.out)
    count = right.num_rows
    changes = pa.concat_tables([other, other, right])
    diffs = [1] * count + [-1] * count + [1] * count
    pq.write_table(changes.append_column("diff", pa.array(diffs)), task.out)
    assert peers.is_right(task.workload, task.data, task.out)


def test_files_are_the_same_each_time(directory: Path, tmp_path: Path) -> None:
    for workload in WORKLOADS.values():
        first, again = (data.files(workload, SIZE, place) for place in (directory, tmp_path))
        for name, path in workload.paths(first).items():
            assert pq.read_table(path).equals(pq.read_table(workload.paths(again)[name]))
        assert data.row_count(workload, first) == data.row_count(workload, again) > 0


def test_csv_is_of_the_columns_that_are_read(directory: Path) -> None:
    """With names and without; and every change of an order, with what was there before it."""
    for workload in WORKLOADS.values():
        there = data.csv_files(workload, SIZE, directory)
        for each in workload.inputs:
            lines = (there / f"{each.name}.csv").read_text().splitlines()
            assert lines[0] == ",".join(f'"{name}"' for name in each.columns)
            assert (there / f"{each.name}.bare.csv").read_text().splitlines() == lines[1:]
    changes = (data.csv_files(WORKLOADS["W3"], SIZE, directory) / "changes.json").read_text().splitlines()
    assert len(changes) == SIZE + SIZE // 5 + SIZE // 10


def test_latency_is_of_the_writes_behind_the_warm_up() -> None:
    """A change that shows several writes of a key ends all of them; the last one is told."""
    watch = Stopwatch(writes=3, warm_up=1)
    for key, now in ((1, 0.0), (1, 1.0), (2, 2.0), (1, 3.0)):
        watch.write(key, now)
    assert not watch.see(1, 1, 1.5)
    assert not watch.see(1, 3, 4.0)
    assert not watch.see(1, 2, 5.0)
    assert watch.see(2, 1, 6.0)
    assert watch.latencies_ms == [3_000.0, 1_000.0, 4_000.0]
    assert percentiles(watch.latencies_ms) == {"median_ms": 3_000.0, "p99_ms": 4_000.0, "max_ms": 4_000.0}


def test_an_engine_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the reason that `scripts/peers` has left, or with what would bring it."""
    monkeypatch.setattr(peers, "PEERS", tmp_path)
    (tmp_path / "flink.missing").write_text("no Java runtime\n")
    found, unable = peers.measured("W4", ["flink", "pathway", "duckdb"], 10, 1, 1)
    assert not found
    assert unable == {"W4 on flink": "no Java runtime", "W4 on pathway": "not installed: make bench-peers"}


def test_the_table_compares_with_the_first_engine() -> None:
    found = [
        Measurement("W1", "native", 100, 2.0, 1.0, 10.0, True),
        Measurement("W1", "flink", 100, 5.0, 2.0, 20.0, False),
        Measurement("W1", "fast", 100, 1.0, 1.5, 20.0, True),
    ]
    _, native, flink, fast, unable = peers.table(found, {"W1 on pathway": "not installed"}).splitlines()
    assert native.split() == ["W1", "native", "100", "2.00", "1.00", "50", "100", "10", "yes", "1.00", "1.00"]
    assert flink.split() == ["W1", "flink", "100", "5.00", "2.00", "20", "33", "20", "NO", "2.50", "3.00"]
    assert fast.split() == ["W1", "fast", "100", "1.00", "1.50", "100", "20", "yes", "0.50"]
    assert unable == "W1 on pathway: not installed"


def test_the_report_is_of_the_newest_and_largest_that_were_right(tmp_path: Path) -> None:
    common = {"date": "today", "commit": "c", "load": 0.1, "rss_mb": 20.0, "reading_seconds": 1.0}
    lines = [
        {"workload": "W1", "engine": "native", "rows": 2_000_000, "seconds": 3.0, "right": True},
        {"workload": "W1", "engine": "native", "rows": 2_000_000, "seconds": 2.0, "right": True},
        {"workload": "W1", "engine": "native", "rows": 10_000, "seconds": 1.0, "right": True},
        {"workload": "W1", "engine": "flink", "rows": 2_000_000, "seconds": 1.0, "right": False},
        {"workload": "W3", "engine": "duckdb", "rows": 700_000, "seconds": 1.7, "right": True},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(common | line) + "\n" for line in lines))
    whole, processing, memory, where = report.tables(tmp_path / "results.jsonl").split("\n\n")
    assert whole.splitlines() == [
        "| thousand rows/s, whole | native | duckdb |",
        "|---|---|---|",
        "| W1 | 1,000 |  |",
        "| W3 |  | 412 |",
    ]
    assert processing.splitlines()[2:] == ["| W1 | 2,000 |  |", "| W3 |  | 1,000 |"]
    assert memory.splitlines()[2:] == ["| W1 | 20 |  |", "| W3 |  | 20 |"]
    assert where == "today, commit c, load 0.1"
