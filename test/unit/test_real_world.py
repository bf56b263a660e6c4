"""No package of ours reads a clock by itself: what the guard cannot see, this sees in the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dist_zero_common", "dist_zero", "services")

#: Who may, and why.
ALLOWED = {
    "dist_zero_common/clock.py": "it is the clock",
    "dist_zero_common/sim/guard.py": "it replaces them",
    "dist_zero_common/logs_tail.py": "it follows files, for a person, outside of any simulation",
    "dist_zero_common/cloud/boot/fetch.py": "it signs requests, on a host that has no DistZero yet",
    "dist_zero_common/cloud/boot/watch_lease.py": "it ends its machine, likewise",
    "dist_zero_common/cloud/instances.py": "EC2 is asked in threads, with retries; tests pass in another time",
    "dist_zero/cloud/access.py": "likewise",
    "dist_zero/cloud/down.py": "likewise",
    "dist_zero/cloud/up.py": "likewise",
    "services/log_copies.py": "it copies files, in a process of its own",
    "dist_zero/cli/cloud.py": "it tells how long a start took",
    "dist_zero/cli/run.py": "it tells how long a run took, from outside the simulation",
    "dist_zero/cli/test.py": "likewise",
    "dist_zero/cli/data.py": "it tells how long a load took",
    "dist_zero/cli/doctor.py": "it tells how fast answers come",
    "dist_zero/cli/keeping.py": "it waits for another process",
    "dist_zero/cli/logs.py": "a person's `--since` is meant from now on",
    "services/health.py": "it judges the age of files, in a process of its own",
    "services/measuring.py": "it tells how old numbers are, in the thread that gives them out",
    "services/node_runner/measured.py": "likewise",
    "services/progress.py": "it is what that looks at",
}


def refused_at(source: str) -> list[tuple[int, str]]:
    """Line and text of each use of a real clock."""
    found: list[ast.stmt | ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if "time" in {alias.name for alias in names}:
                found.append(node)
            case ast.ImportFrom(module="time"):
                found.append(node)
            case ast.Attribute(
                value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr="now" | "utcnow" | "today"
            ) if owner in ("datetime", "date"):
                found.append(node)
    return [(node.lineno, ast.unparse(node)) for node in found]


def test_no_package_reads_a_clock_by_itself() -> None:
    """Time comes from the Clock that was passed in, everywhere but in the files that have a reason."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            assert name in ALLOWED or refused_at(path.read_text()) == [], name


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time", [1]),
        ("from time import sleep", [1]),
        ("datetime.now()\ndatetime.datetime.utcnow()\ndate.today()\ndatetime.fromtimestamp(0)", [1, 2, 3]),
        ("clock.now_us()\nself.now()", []),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, lines: list[int]) -> None:
    """Each forbidden form is seen, and its lawful neighbours are not."""
    assert [line for line, _ in refused_at(source)] == lines
