"""The tutorial, word by word, with its machines in containers: it prints what it says it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from test.examples.test_docs import DOCS, NEEDS_DOCKER, ROOT, Session, blocks_of, empty_directory
from test.virtual.rabbitmq_server import docker_things

__all__ = ["empty_directory"]

COMMAND_SECONDS = 240.0
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("docker_or_skip", "empty_directory")]


def run_process(words: list[str]) -> str:
    """What `dist-zero …` prints, to both streams, as a process of its own: `up` leaves another one behind."""
    ran = subprocess.run(
        [sys.executable, "-m", "dist_zero.cli", *words[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return ran.stdout + (f"exit code {ran.returncode}\n" if ran.returncode else "")


def test_the_tutorial_prints_what_it_says_virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer who types it gets what it shows: a program, machines, a kill, a change; and at the end nothing is
    left in Docker."""
    for name in ("DIST_ZERO_SYSTEM", "AMQP_URL"):
        monkeypatch.delenv(name, raising=False)
    before = docker_things()
    blocks = blocks_of((DOCS / "tutorial.md").read_text())
    assert any(NEEDS_DOCKER in block.before for block in blocks), "the second half is marked"
    session = Session("docs/tutorial.md", run_process)
    try:
        for block in blocks:
            session.run(block)
    finally:
        for state in Path(".tmp", "systems").glob("*.json"):
            run_process(["dist-zero", "down", "--system", state.stem])
    assert docker_things() == before
