"""The tutorial, word by word, with its machines in containers: it prints what it says it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.examples.test_docs import DOCS, NEEDS_DOCKER, Session, blocks_of, empty_directory, run_command
from test.virtual.rabbitmq_server import docker_things

__all__ = ["empty_directory"]

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("docker_or_skip", "empty_directory")]


def test_the_tutorial_prints_what_it_says_virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer who types it gets what it shows: a program, machines, a kill, a change; and at the end nothing is
    left in Docker."""
    for name in ("DIST_ZERO_SYSTEM", "AMQP_URL"):
        monkeypatch.delenv(name, raising=False)
    before = docker_things()
    page = (DOCS / "tutorial.md").read_text()
    blocks = blocks_of(page)
    assert any(NEEDS_DOCKER in block.before for block in blocks), "the second half is marked"
    session = Session("docs/tutorial.md")
    try:
        for block in blocks:
            session.run(block)
    finally:
        for state in Path(".tmp", "systems").glob("*.json"):
            run_command(["dist-zero", "down", "--system", state.stem])
    assert docker_things() == before
