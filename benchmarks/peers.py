"""Runs a workload on one engine: reading alone, then everything, each in a process of its own on one core; and holds
the answer against DuckDB's.

Peers have environments of their own in `.tmp/peers`, made by `scripts/peers` (`make bench-peers`); one that is not
there, or does not run, is left out, with the reason. DuckDB and polars are in the project's own environment.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from benchmarks import data
from benchmarks.measure import Measurement
from benchmarks.workloads import LATENCY, LATENCY_RATE, LATENCY_SECONDS, WORKLOADS, Workload
from dist_zero.native import build

PEERS = data.ROOT / ".tmp/peers"
CORE = 1
SECONDS_MAX = 1_800


@dataclass(frozen=True, slots=True)
class Engine:
    """How to run one: the module, the environment's interpreter, and what is set in the process's environment."""

    name: str
    module: str
    variables: tuple[str, ...] = ()
    streams: bool = True
    """It keeps answers up to date; DuckDB and polars do not."""
    wants_csv: bool = False

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        own = PEERS / self.module / "bin/python"
        return own if self.module in PEER_MODULES else Path(sys.executable)

    @property
    def missing(self) -> str:
        """Why it cannot be measured, or nothing."""
        if not self.python.exists():
            why = PEERS / f"{self.module}.missing"
            return why.read_text().strip() if why.exists() else "not installed: make bench-peers"
        return (build.available() or "") if self.name == "native" else ""


PEER_MODULES = ("pathway", "bytewax", "flink")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("native", "distzero", ("DIST_ZERO_EXECUTOR=native",)),
        Engine("interpreter", "distzero", ("DIST_ZERO_EXECUTOR=interpreter",)),
        Engine("pathway", "pathway", ("PATHWAY_THREADS=1",), wants_csv=True),
        Engine("bytewax", "bytewax"),
        Engine("flink", "flink", wants_csv=True),
        Engine("duckdb", "duckdb", streams=False),
        Engine("polars", "polars", ("POLARS_MAX_THREADS=1",), streams=False),
    )
}


@cache
def has_native_executor() -> bool:
    """Whether programs can be compiled to C here."""
    return build.available() is None


def measure(workload: Workload, engine: Engine, size: int, repeats: int = 1) -> Measurement:
    """A workload on an engine; of several runs the one whose processing takes the median. Raises `Unable` when the
    engine is not there or fails."""
    directory = data.files(workload, size)
    if engine.wants_csv:
        data.csv_files(workload, size)
    runs = [_measure_once(workload, engine, size, directory) for _ in range(repeats)]
    runs.sort(key=processing_seconds)
    middle = runs[(len(runs) - 1) // 2]
    seconds = [run.seconds for run in runs]
    figures = dict(middle.figures) | {"repeats": repeats, "fastest": min(seconds), "slowest": max(seconds)}
    right = all(run.right for run in runs)
    return Measurement(
        workload.name,
        engine.name,
        middle.rows,
        middle.seconds,
        middle.reading_seconds,
        statistics.median(run.rss_mb for run in runs),
        right,
        figures=figures,
    )


class Unable(Exception):
    """An engine is not there, or did not come to an answer."""


def _measure_once(workload: Workload, engine: Engine, size: int, directory: Path) -> Measurement:
    with TemporaryDirectory(prefix="bench-") as scratch:
        out = Path(scratch) / "answer.parquet"
        reading = _run(engine, "read", workload.name, size, directory, out)
        done = _run(engine, "run", workload.name, size, directory, out)
        right = is_right(workload, directory, out)
    rows = data.row_count(workload, directory)
    figures = done["figures"]
    return Measurement(
        workload.name,
        engine.name,
        rows,
        done["seconds"],
        reading["seconds"],
        done["rss_mb"],
        right,
        figures=figures,
    )


def measure_latency(engine: Engine, writes: int) -> Measurement:
    """W4 on an engine."""
    done = _run(engine, "run", LATENCY, writes, Path("-"), Path("-"))
    figures = done["figures"]
    note = f"median {figures['median_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms at {LATENCY_RATE:,}/s"
    return Measurement(
        LATENCY, engine.name, writes, done["seconds"], 0.0, done["rss_mb"], True, note, figures
    )


def _run(engine: Engine, mode: str, name: str, size: int, directory: Path, out: Path) -> Any:
    if engine.missing:
        raise Unable(engine.missing)
    module = f"benchmarks.engines.{engine.module}"
    variables = (*engine.variables, f"PYTHONPATH={data.ROOT}")
    command = ["env", *variables, str(engine.python), "-m", module]
    command += [mode, name, str(size), str(directory), str(out), str(CORE)]
    try:
        done = subprocess.run(
            command, cwd=data.ROOT, capture_output=True, text=True, check=True, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        raise Unable(f"{mode} was not done after {SECONDS_MAX} s") from None
    except subprocess.CalledProcessError as failed:
        said = (failed.stderr or failed.stdout).strip().splitlines() or ["nothing"]
        raise Unable(f"{mode} ended with {failed.returncode}: {said[-1][:200]}") from None
    return json.loads(done.stdout.strip().splitlines()[-1])


def is_right(workload: Workload, directory: Path, out: Path) -> bool:
    """Whether an engine's answer has the rows that DuckDB's has, as often. Floats may differ behind the sixth
    digit, for not everyone adds exactly."""
    connection = duckdb.connect()
    for name, path in workload.paths(directory).items():
        connection.execute(f"create view {name} as select * from read_parquet('{path}')")
    connection.execute(f"create table wanted as {workload.sql}")
    connection.execute(f"create view given as select * from read_parquet('{out}')")
    given = [name for name, *_ in connection.execute("describe given").fetchall()]
    described = connection.execute("describe wanted").fetchall()
    columns = [f"round({name}, 6)" if kind == "DOUBLE" else name for name, kind, *_ in described]
    selected = ", ".join(columns)
    weight = "sum(diff)" if "diff" in given else "count(*)"
    wanted = f"select {selected}, count(*) from wanted group by all"
    got = f"select {selected}, {weight} from given group by all having {weight} <> 0"
    for left, right in ((wanted, got), (got, wanted)):
        difference = connection.execute(f"select count(*) from (({left}) except ({right}))").fetchone()
        if difference is None or difference[0]:
            return False
    return True


def processing_seconds(m: Measurement) -> float:
    """The whole time less that of reading the files alone; nothing where that is lost in the noise."""
    return max(0.0, m.seconds - m.reading_seconds)


def _shown(number: float, divisor: float, form: str) -> str:
    return format(number / divisor, form) if number and divisor else ""


def measured(
    name: str, engines: Sequence[str], size: int | None, divisor: int, repeats: int
) -> tuple[list[Measurement], dict[str, str]]:
    """One workload on every engine; and why some are not there."""
    found: list[Measurement] = []
    unable: dict[str, str] = {}
    for engine in (ENGINES[each] for each in engines):
        try:
            if name != LATENCY:
                workload = WORKLOADS[name]
                found.append(measure(workload, engine, (size or workload.size) // divisor, repeats))
            elif engine.streams:
                writes = (size or LATENCY_RATE * LATENCY_SECONDS) // divisor
                found.append(measure_latency(engine, writes))
        except Unable as error:
            unable[f"{name} on {engine.name}"] = str(error)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found, unable


def table(found: Sequence[Measurement], unable: dict[str, str]) -> str:
    """Each measurement in a line; how many times as long the others take as the first engine of ours, whole and
    processing alone; and what is not there."""
    head = ("workload", "engine", "rows", "seconds", "reading", "rows/s", "processing/s", "MB", "right")
    lines: list[tuple[str, ...]] = [(*head, "x whole", "x processing", "")]
    ours: dict[str, Measurement] = {}
    for m in found:
        base = ours.setdefault(m.workload, m)
        lines.append(
            (
                m.workload,
                m.engine,
                f"{m.rows:,}",
                f"{m.seconds:.2f}",
                f"{m.reading_seconds:.2f}",
                f"{m.rate():,.0f}",
                _shown(m.rows, processing_seconds(m), ",.0f"),
                f"{m.rss_mb:.0f}",
                "yes" if m.right else "NO",
                f"{m.seconds / base.seconds:.2f}",
                _shown(processing_seconds(m), processing_seconds(base), ".2f"),
                m.note,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "  ".join(
            cell.ljust(w) if i in (0, 1, len(lines[0]) - 1) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*shown, *(f"{what}: {why}" for what, why in unable.items())])
