"""What a measurement is, how it is kept, and how it is shown."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.engines.process import peak_rss_mb as peak_rss_mb

RESULTS = Path(__file__).parent / "results.jsonl"

Figure = float | int | str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload on one engine. `seconds` are of the work alone; `reading_seconds` of making or reading the input;
    `right`: the answer was compared with one from elsewhere, and is equal. `note` is for the reader of the table."""

    workload: str
    engine: str
    rows: int
    seconds: float
    reading_seconds: float
    rss_mb: float
    right: bool
    note: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """What else was measured; each is a field of the line in the results file. Milliseconds, MB and MB/s by name."""

    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


def rss_bytes() -> int:
    """The memory this process holds now; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def keep(measurements: Sequence[Measurement]) -> None:
    """Append a JSON line for each to the results file, which git ignores, with where and when it was measured."""
    where = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        for each in measurements:
            line = asdict(each)
            figures = line.pop("figures")
            file.write(json.dumps(line | figures | where) + "\n")


def commit() -> str:
    """The commit that is measured, with a `+` if files differ from it; nothing where git has no answer."""
    try:
        command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--abbrev=10", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def table(measurements: Sequence[Measurement]) -> str:
    """Rates, and the ratio of each to the first of the same workload."""
    head = ("workload", "engine", "rows", "seconds", "rows/s", "ratio", "MB", "right", "")
    lines = [head]
    first: dict[str, float] = {}
    for m in measurements:
        base = first.setdefault(m.workload, m.rate())
        lines.append(
            (
                m.workload,
                m.engine,
                f"{m.rows:,}",
                f"{m.seconds:.2f}",
                f"{m.rate():,.0f}",
                f"{m.rate() / base:.2f}",
                f"{m.rss_mb:.0f}",
                "yes" if m.right else "NO",
                m.note,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in (0, 1, 8) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
