""".github/workflows: they can be read, run what is there, use pinned actions, may do no more than they need, and run
what they are for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from test.unit.tidy import ROOT, text, tracked

WORKFLOWS = [path for path in tracked() if path.as_posix().startswith(".github/workflows/")]
TARGETS = set(re.findall(r"^([a-z-]+):", text(Path("Makefile")), re.MULTILINE))
Workflow = dict[Any, Any]


def read(path: Path) -> Workflow:
    found: Workflow = yaml.safe_load(text(path))
    found["on"] = found.pop(True)  # YAML 1.1 takes `on` for a truth value
    return found


def steps(workflow: Workflow) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def commands(workflow: Workflow) -> list[str]:
    return [line for step in steps(workflow) for line in str(step.get("run", "")).splitlines() if line]


def trouble(command: str) -> str:
    """What is wrong with a command: it names no target of make's, and no program of the tree."""
    words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", command))
    if words[0] == "make":
        named = [word for word in words[1:] if "=" not in word]
        return "" if named and set(named) <= TARGETS else f"make has no {named}"
    program = ROOT / words[0]
    if "/" in words[0] and program.is_file() and program.stat().st_mode & 0o100:
        return ""
    return f"{words[0]} is no program of the tree"


def test_there_are_four() -> None:
    """One for each push, two nightly, and the one that publishes the documentation."""
    assert {path.stem for path in WORKFLOWS} == {"test", "nightly", "docs", "elk"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_they_run_is_there(path: Path) -> None:
    """Each command is a target of make's or a program of the tree, so that a person can run it, too."""
    workflow = read(path)
    assert [found for found in map(trouble, commands(workflow)) if found] == []
    for step in steps(workflow):
        assert ("run" in step) is not ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), step["uses"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_they_may_do_little_and_come_to_an_end(path: Path) -> None:
    """They read, unless a job says what else; a job has a time limit, and runs on a named version."""
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 180 and "latest" not in job["runs-on"]
        assert "permissions" not in job or name == "publish"


def test_each_is_for_something() -> None:
    """Every push: style, types, simulated mode, documentation. Nightly: virtual and cloud; and the real stack."""
    test, nightly, docs, elk = (
        read(Path(f".github/workflows/{name}.yml")) for name in ("test", "nightly", "docs", "elk")
    )
    assert "push" in test["on"] and test["on"]["push"] is None
    assert {"make check", "make docs", 'make test ARGS="-k simulated"'} <= set(commands(test))
    assert nightly["on"]["schedule"] and elk["on"]["schedule"]
    assert nightly["jobs"]["whole"]["strategy"]["matrix"]["mode"] == ["virtual", "cloud"]
    assert 'make test ARGS="-k ${{ matrix.mode }}"' in commands(nightly)
    [shown] = [step for step in steps(docs) if step.get("uses", "").startswith("actions/upload-pages")]
    assert shown["with"]["path"] in text(Path("Makefile"))
    assert [command.partition(" --")[0] for command in commands(elk)][:3] == [
        "make setup",
        "make elk",
        "elk/check",
    ]


@pytest.mark.parametrize("command", ["make coffee", "make", "scripts/nothing", "pytest", "elk/README.md"])
def test_trouble_is_seen(command: str) -> None:
    """The check finds what is for it."""
    assert trouble(command)
