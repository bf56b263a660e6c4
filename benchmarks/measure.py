"""What a measurement is, how it is kept, and how it is shown."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.jsonl"


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

    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


def peak_rss_mb() -> float:
    """The most memory this process has held, in MB of 10⁶ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def keep(measurements: Sequence[Measurement]) -> None:
    """Append a JSON line for each to the results file, which git ignores."""
    with RESULTS.open("a", encoding="utf-8") as file:
        for each in measurements:
            file.write(json.dumps(asdict(each)) + "\n")


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
