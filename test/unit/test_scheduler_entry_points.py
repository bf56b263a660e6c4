"""`python -m services.<name>` as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dist_zero_common.settings import Settings
from services.entry import EXIT_SETTINGS, main, no_broker

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("service", ["scheduler", "machine_agent", "node_runner"])
def test_entry_point_says_what_it_needs(service: str) -> None:
    """Without a broker between processes a service ends at once, with one line that says so and what to do."""
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == EXIT_SETTINGS and ended.stdout == ""
    assert ended.stderr.startswith(f"{service.replace('_', ' ')}: AMQP_URL is not set")
    assert "dist-zero run app.py" in ended.stderr and ended.stderr.count("\n") == 1


def test_wrong_settings_are_named_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that makes no sense is what is complained about."""
    monkeypatch.setenv("AMQP_URL", "http://broker")
    assert main("scheduler") == EXIT_SETTINGS
    assert "scheduler: AMQP_URL: its value makes no sense" in capsys.readouterr().err


def test_a_broker_that_is_set_does_not_help_yet() -> None:
    """With a URL the message is about what is missing here, and does not repeat the URL, which may hold a password."""
    said = str(no_broker("scheduler", Settings(broker_url="amqp://user:secret@host/")))
    assert said.startswith("AMQP_URL is set, but this version has the in-memory broker only")
    assert "secret" not in said
