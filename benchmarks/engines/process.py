"""What the process of every engine does: it keeps to one core, runs a workload, and prints what it measured as JSON.

    python -m benchmarks.engines.ENGINE run|read WORKLOAD SIZE DATA OUT CORE

`run` computes the answer and writes it to the Parquet file OUT after the clock has stopped; `read` does nothing but
read the files, with the reader that the engine uses. An answer may have a column `diff`: then rows count by its sum,
as a changelog has them. Nothing is imported here that is not in Python itself: engines have their own environments.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workloads import LATENCY, WORKLOADS, Workload


@dataclass(frozen=True, slots=True)
class Task:
    """A workload to run. `data`: where its files are; `out`: where the answer goes."""

    workload: Workload
    size: int
    data: Path
    out: Path

    @property
    def paths(self) -> dict[str, Path]:
        """The Parquet files, by name."""
        return self.workload.paths(self.data)

    @property
    def csv_paths(self) -> dict[str, Path]:
        """The CSV files, by name."""
        return self.workload.paths(self.csv, "csv")

    @property
    def csv(self) -> Path:
        """Where CSV files are."""
        return self.data / f"csv-{self.workload.name}"


@dataclass(frozen=True, slots=True)
class Done:
    """How long it took. `write` writes the answer, as it is then, to a Parquet file."""

    seconds: float
    write: Callable[[Path], None] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


Work = Callable[[Task], Done]


def serve(run: Work, read: Work, latency: Callable[[int], Done] | None = None) -> None:
    """The `main` of an engine."""
    mode, name, size, data, out, core = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})  # threads and processes begun from now on inherit it
    if name == LATENCY:
        if latency is None:
            raise SystemExit("W4 is not written for this engine")
        done = latency(int(size))
    else:
        task = Task(WORKLOADS[name], int(size), Path(data), Path(out))
        done = run(task) if mode == "run" else read(task)
    said = {"seconds": done.seconds, "rss_mb": peak_rss_mb(), "figures": dict(done.figures)}
    if mode == "run" and done.write is not None:
        done.write(Path(out))
    print(json.dumps(said), flush=True)


def peak_rss_mb() -> float:
    """The most memory that this process and those it has begun have held, in MB of 10⁶ bytes. The kernel's mark of
    the process's own memory is taken where there is one: `getrusage` begins with that of the process before `exec`."""
    try:
        return sum(_mark_kb(pid) for pid in [os.getpid(), *_descendants(os.getpid())]) * 1024 / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _mark_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def percentiles(latencies_ms: list[float]) -> dict[str, float]:
    """Median, 99th percentile and the worst, as figures of a measurement."""
    ordered = sorted(latencies_ms)
    return {
        "median_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[len(ordered) * 99 // 100],
        "max_ms": ordered[-1],
    }


class Stopwatch:
    """Says how long each write took to be seen. A write is told by its key and by its number among those of that
    key, which is the count that the view has for the key when it has come. Those of the warm-up are not counted."""

    def __init__(self, writes: int, warm_up: int) -> None:
        self.written: dict[int, list[float]] = {}
        self._seen: dict[int, int] = {}
        self._left, self._warm_up, self._number = writes + warm_up, warm_up, 0
        self._counted_from: float = 0.0
        self.latencies_ms: list[float] = []

    def write(self, key: int, now: float) -> None:
        """This key is being written now."""
        self._number += 1
        if self._number == self._warm_up + 1:
            self._counted_from = now
        self.written.setdefault(key, []).append(now)

    def see(self, key: int, count: int, now: float) -> bool:
        """The view shows this count; whether all that will be written has been seen."""
        times, before = self.written[key], self._seen.get(key, 0)
        for written in times[before:count]:
            self._left -= 1
            if self._counted_from and written >= self._counted_from:
                self.latencies_ms.append(1e3 * (now - written))
        self._seen[key] = max(before, count)
        return self._left <= 0
