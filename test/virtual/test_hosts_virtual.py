"""Machines that are containers and fall silent, another number of them, and a host that joins their system."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from test.virtual.test_virtual_mode_virtual import Shell, of_system, shell, wait_until

__all__ = ["shell"]
pytestmark = [
    pytest.mark.long,  # more than two minutes; the same is simulated
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("docker_or_skip"),
]


def container(name: str) -> str:
    """The id of a container of this name, or nothing."""
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.Id}}", name], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def status(shell: Shell) -> dict[str, Any]:
    """What the scheduler says, wrong or not."""
    with shell.start("status", "--json") as process:
        out, _ = process.communicate(timeout=shell.wait_seconds)
    said: dict[str, Any] = json.loads(out)
    return said


def is_ready(shell: Shell, machines: int) -> bool:
    """Whether so many machines are, and nothing is wrong."""
    said = status(shell)
    return said["services"][0]["ready"] == machines and not said["wrong"]


def test_a_machine_that_hangs_is_replaced_virtual(shell: Shell) -> None:
    """Its container stands still: what it ran goes elsewhere, and after a while another container has its name. The
    views are right all the time."""
    shell.environment |= {"DIST_ZERO_LOST_SECONDS": "20"}
    shell("up", "toy.py", "--system", "dzt-hangs", "--machines", "2", "--nodes", "2")
    before = shell.views("run", "toy.py", "--system", "dzt-hangs", "--nodes", "2")
    name = "dist-zero.dzt-hangs.m2"
    first = container(name)
    subprocess.run(["docker", "pause", name], check=True, capture_output=True)
    wait_until(lambda: container(name) not in ("", first))
    wait_until(lambda: is_ready(shell, 2))
    assert shell.views("show") == before
    assert "host_replaced" in (shell.directory / ".tmp" / "keeper-dzt-hangs.log").read_text()
    shell("down")
    assert of_system("dzt-hangs") == []


def test_another_number_of_machines_and_one_that_joins_virtual(shell: Shell) -> None:
    """Containers come and go as is asked for; schedulers do not, and it is said why. A process of this host joins
    without being told where anything is, and is nobody's to give back."""
    shell("up", "toy.py", "--system", "dzt-scale", "--machines", "1", "--nodes", "4")
    shell("run", "toy.py", "--system", "dzt-scale", "--nodes", "4")
    joined = shell.start("join", "--machine", "desk")
    with joined:
        out, err = shell("scale", "--service", "node-runner=2")
        assert out.startswith("2 × node-runner are there, after "), out
        assert "node-runner: 2 of 2 ready" in err
        assert container("dist-zero.dzt-scale.m2")
        wait_until(lambda: "desk" in [machine["machine"] for machine in status(shell)["machines"]])
        shell("scale", "--service", "node-runner=1")
        assert not container("dist-zero.dzt-scale.m2")
        _, err = shell("scale", "--service", "scheduler=2", code=2)
        assert "in virtual mode the scheduler is part of the process" in err
        assert [machine["machine"] for machine in status(shell)["machines"] if machine["ready"]] == [
            "desk",
            "m1",
        ]
        wait_until(lambda: "desk" in [node["machine"] for node in status(shell)["programs"][0]["nodes"]])
        joined.send_signal(signal.SIGINT)
        out, err = joined.communicate(timeout=shell.wait_seconds)
    assert joined.returncode == 0, err
    assert "left system dzt-scale: all that ran here runs elsewhere" in out
    assert is_ready(shell, 1)
    assert sum(row["n"] for row in shell.views("show")["sums"]) == 500
    shell("down")
    assert of_system("dzt-scale") == []
