"""Virtual mode ships its logs: from the command, from the keeper with the scheduler in it, and from containers, whose
way to a Logstash on this host's loopback is the gateway."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from test.unit.logstash_receiver import PATIENCE_SECONDS, Receiver
from test.unit.tidy import ROOT

pytestmark = pytest.mark.usefixtures("docker_or_skip")

SHIPPED = (
    ("keeper", "system_up"),
    ("keeper", "program_placed"),  # by the scheduler in it
    ("machine-agent", "agent_started"),
    ("node-runner", "sequencer_started"),
    ("node-runner", "base_written"),
)
PROGRAM = """
import dist_zero as dz

app = dz.Program("dzt-shipped")


class Thing(dz.Row):
    k: int
    secret: str


things = app.dataset("things", Thing, key="k")
app.view("count", things.group_by("secret").agg(n=dz.count()))


@app.sample
def sample(rng):
    for k in range(50):
        yield things, Thing(k=k, secret="hunter2")
"""


def test_every_part_of_a_virtual_system_ships(tmp_path: Path) -> None:
    """`run --mode virtual` with LOGSTASH_HOST: lines come of each service, from this host and from the container; what
    they say is what the files say; neither the broker's passwords nor rows are in them."""
    (tmp_path / "shipped.py").write_text(PROGRAM)
    kept = {
        name: text
        for name, text in os.environ.items()
        if name == "DIST_ZERO_IMAGE" or not name.startswith(("DIST_ZERO_", "AMQP_", "LOGSTASH_"))
    }
    with Receiver(host="0.0.0.0") as receiver:
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "LOGSTASH_HOST": "localhost",
            "LOGSTASH_PORT": str(receiver.port),
        }
        command = [sys.executable, "-m", "dist_zero.cli", "run", "shipped.py", "--mode", "virtual"]
        done = subprocess.run(
            [*command, "--machines", "1"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        for service, event in SHIPPED:
            got = receiver.wait_event(event, service=service, system="dzt-shipped")
            inside = service in ("machine-agent", "node-runner")
            assert got["sender"] == ("m1" if inside else socket.gethostname())
            assert (got.get("machine") == "m1") is inside
        receiver.wait_event("connected", service="client", program="dzt-shipped")  # the command itself
        lines = str(receiver.events)
    assert "hunter2" not in lines and "amqp://" not in lines
    logged = "".join(path.read_text() for path in (tmp_path / ".tmp").glob("*/node-runner-*.jsonl"))
    assert all(str(event["time"]) in logged for event in receiver.events if event["service"] == "node-runner")
