"""The newest results of workloads beside other engines, as the tables of `docs/performance.md`.

python -m benchmarks report
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers import ENGINES
from benchmarks.workloads import LATENCY, WORKLOADS

Line = Mapping[str, Any]


def newest(lines: Iterable[str]) -> dict[tuple[str, str], Line]:
    """Of each workload on each engine what was measured last, of those that were right, on as many rows as that
    workload was ever measured on."""
    right = [line for line in map(json.loads, lines) if line["right"]]
    most: dict[str, int] = {}
    for line in right:
        most[line["workload"]] = max(line["rows"], most.get(line["workload"], 0))
    return {
        (line["workload"], line["engine"]): line for line in right if line["rows"] == most[line["workload"]]
    }


def tables(path: Path) -> str:
    """Four tables: the whole, processing alone, memory, latency. A cell that was not measured is empty."""
    with path.open(encoding="utf-8") as file:
        found = newest(file)
    parts = [
        _table("thousand rows/s, whole", found, lambda line: _thousands(line, line["seconds"])),
        _table(
            "thousand rows/s, processing",
            found,
            lambda line: _thousands(line, line["seconds"] - line["reading_seconds"]),
        ),
        _table("peak MB", found, lambda line: f"{line['rss_mb']:,.0f}"),
    ]
    engines = [name for name in ENGINES if (LATENCY, name) in found]
    if engines:
        parts.append("| W4, ms | median | p99 | worst |\n|---|---|---|---|")
        for name in engines:
            line = found[LATENCY, name]
            cells = [f"{line[figure]:.2f}" for figure in ("median_ms", "p99_ms", "max_ms")]
            parts[-1] += f"\n| {name} | {' | '.join(cells)} |"
    where = sorted(
        {f"{line['date']}, commit {line['commit']}, load {line['load']}" for line in found.values()}
    )
    return "\n\n".join([*parts, "\n".join(where)])


def _table(what: str, found: Mapping[tuple[str, str], Line], cell: Callable[[Line], str]) -> str:
    engines = [name for name in ENGINES if any(engine == name for _, engine in found)]
    lines = [f"| {what} | {' | '.join(engines)} |", "|---" * (1 + len(engines)) + "|"]
    for name in WORKLOADS:
        cells = [cell(found[name, engine]) if (name, engine) in found else "" for engine in engines]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _thousands(line: Line, seconds: float) -> str:
    return f"{line['rows'] / seconds / 1_000:,.0f}" if seconds > 0 else ""
