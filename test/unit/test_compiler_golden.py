"""`explain` of some programs, word for word: a change of the compiler shows here what it changes.

When the change is meant: `python -m test.unit.test_compiler_golden` writes the texts anew; read their difference.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dist_zero as dz
from test.unit.golden.programs import PROGRAMS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("app", PROGRAMS, ids=lambda app: app.name)
def test_explain_is_as_kept(app: dz.Program) -> None:
    """All levels of each program are the kept text."""
    assert text(app) == (GOLDEN / f"{app.name}.txt").read_text(encoding="utf-8")


def text(app: dz.Program) -> str:
    """What `explain` says, wherever the working directory is."""
    return re.sub(r"\S*golden/programs\.py", "golden/programs.py", app.explain())


def write_all() -> None:
    """Keep the texts as they are now."""
    for app in PROGRAMS:
        (GOLDEN / f"{app.name}.txt").write_text(text(app), encoding="utf-8")


if __name__ == "__main__":
    write_all()
