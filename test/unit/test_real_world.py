"""No package of ours reads a clock or draws chance by itself: what the guard cannot see, this sees in the source."""

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
}


def refused_at(source: str) -> list[tuple[int, str]]:
    """Line and text of each use of a real clock or of unseeded chance."""
    found: list[ast.stmt | ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if {"time", "secrets"} & {alias.name for alias in names}:
                found.append(node)
            case ast.ImportFrom(module="time" | "secrets"):
                found.append(node)
            case ast.ImportFrom(module="random", names=names) if [alias.name for alias in names] != ["Random"]:
                found.append(node)
            case ast.Attribute(value=ast.Name(id="random"), attr=attribute) if attribute != "Random":
                found.append(node)
            case ast.Attribute(
                value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr="now" | "utcnow" | "today"
            ) if owner in ("datetime", "date"):
                found.append(node)
    return [(node.lineno, ast.unparse(node)) for node in found]


def test_no_package_reads_a_clock_or_draws_chance_by_itself() -> None:
    """Time comes from the Clock and chance from the Rng that were passed in, everywhere but in the two files."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            assert name in ALLOWED or refused_at(path.read_text()) == [], name


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time", [1]),
        ("from time import sleep", [1]),
        ("import random\nrandom.shuffle(x)\nrandom.Random(3)", [2]),
        ("from random import Random, shuffle", [1]),
        ("import secrets", [1]),
        ("datetime.now()\ndatetime.datetime.utcnow()\ndate.today()\ndatetime.fromtimestamp(0)", [1, 2, 3]),
        ("clock.now_us()\nself.now()", []),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, lines: list[int]) -> None:
    """Each forbidden form is seen, and its lawful neighbours are not."""
    assert [line for line, _ in refused_at(source)] == lines
