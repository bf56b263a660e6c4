"""`run --mode virtual`, `up`, `down`, `orphans`: the same answers as simulated, nothing left however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from test.virtual.rabbitmq_server import RabbitServer, docker_things

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 240.0
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("docker_or_skip")]

PROGRAM = """
import dist_zero as dz

app = dz.Program("{name}")


class Thing(dz.Row):
    k: int
    v: float


things = app.dataset("things", Thing, key="k")
app.view("sums", things.group_by(big=things.v > 1).agg(n=dz.count(), sum=dz.sum("v")))


@app.sample
def sample(rng):
    for k in range(500):
        yield things, Thing(k=k, v=rng.random() * 3)
"""


class Shell:
    """Commands of the line in a directory of their own, as processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("DIST_ZERO_", "AMQP_"))
            },
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "dist_zero.cli", *arguments],
            cwd=self.directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end; what it printed, and its errors."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == code, err
        return out, err

    def views(self, *arguments: str) -> Any:
        """What `--json` prints of the views."""
        return json.loads(self(*arguments, "--json")[0])["views"]

    def states(self) -> list[Path]:
        """The state files of systems."""
        return list((self.directory / ".tmp" / "systems").glob("*.json"))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Whatever a test does, Docker holds afterwards what it held before."""
    (tmp_path / "toy.py").write_text(PROGRAM.format(name="dzt-toy"))
    made = Shell(tmp_path)
    yield made
    for state in made.states():
        with made.start("down", "--system", state.stem) as process:
            process.communicate(timeout=WAIT_SECONDS)


def of_system(name: str) -> list[str]:
    """What Docker has of a system."""
    return sorted(
        thing
        for command in (
            ["ps", "-a", "--format", "{{.Names}}"],
            ["network", "ls", "--format", "{{.Name}}"],
            ["volume", "ls", "--format", "{{.Name}}"],
        )
        for thing in subprocess.run(
            ["docker", *command, "--filter", f"label=dist-zero.system={name}"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
    )


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for something that comes by progress of others."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


@pytest.mark.parametrize("example", ["leaderboard", "fraud"])
def test_three_containers_show_the_bits_of_a_simulation(shell: Shell, example: str) -> None:
    """The same program, the same flags, the same views; recomputed from the log, too."""
    file = str(ROOT / "examples" / f"{example}.py")
    simulated = shell.views("run", file, "--nodes", "6")
    ran = json.loads(
        shell(
            "run", file, "--mode", "virtual", "--system", f"dzt-{example}", "--machines", "3", "--nodes", "6",
            "--check", "--json",
        )[0]
    )  # fmt: skip
    assert ran["views"] == simulated
    assert ran["equals_recomputation"] is True
    assert (ran["stats"]["nodes"], ran["stats"]["machines"]) == (6, 3)
    assert "virtual_seconds" not in ran["stats"] and ran["stats"]["first_row_seconds"] > 0
    assert of_system(f"dzt-{example}") == [] and shell.states() == []


def test_up_stays_until_down(shell: Shell) -> None:
    """A system that is up takes programs and questions, refuses a second one of its name, goes on from its store, and
    leaves nothing in Docker."""
    simulated = shell.views("run", "toy.py")
    shell("up", "toy.py", "--system", "dzt-up")
    assert len(of_system("dzt-up")) == 3
    _, refused = shell("up", "toy.py", "--system", "dzt-up", code=3)
    assert "is up already" in refused and "dist-zero down --system dzt-up" in refused
    assert shell.views("run", "toy.py", "--system", "dzt-up", "--check") == simulated
    shell("down")
    assert of_system("dzt-up") == [] and shell.states() == []
    shell("up", "toy.py", "--system", "dzt-up")
    again = json.loads(shell("run", "toy.py", "--system", "dzt-up", "--json")[0])
    assert again["views"] == simulated and again["stats"]["rows_passed_over"] == 500
    shell("down", "--system", "dzt-up")
    assert of_system("dzt-up") == []


@pytest.mark.parametrize("moment", ["starting", "up"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_whoever_holds_it_ends_and_nothing_is_left(shell: Shell, moment: str, how: signal.Signals) -> None:
    """Ctrl-C and kill -9, while the system starts and when it is there."""
    name = f"dzt-{moment}-{how.name.lower()}"
    (shell.directory / "endless.py").write_text(
        PROGRAM.format(name="dzt-endless").replace("range(500)", "range(10**9)")
    )
    process = shell.start("run", "endless.py", "--mode", "virtual", "--system", name)
    with process:
        wait_until(lambda: bool(shell.states() if moment == "up" else of_system(name)))
        process.send_signal(how)
        process.communicate(timeout=WAIT_SECONDS)
    wait_until(lambda: not of_system(name))
    wait_until(lambda: not shell.states())


def test_orphans_are_found_and_removed(shell: Shell) -> None:
    """A keeper that was killed leaves its containers; labels find them, and another system is not touched."""
    shell("up", "toy.py", "--system", "dzt-alive")
    shell("up", "toy.py", "--system", "dzt-dead")
    state = json.loads((shell.directory / ".tmp" / "systems" / "dzt-dead.json").read_text())
    os.kill(int(state["keeper"].partition("-")[0]), signal.SIGKILL)
    found, _ = shell("orphans", "--json")
    assert [thing for thing in json.loads(found)["orphans"] if "dzt-alive" in thing] == []
    assert sum("dzt-dead" in thing for thing in json.loads(found)["orphans"]) >= 4
    shell("orphans", "--remove")
    assert of_system("dzt-dead") == [] and len(of_system("dzt-alive")) == 3
    assert shell.views("run", "toy.py", "--system", "dzt-alive") == shell.views("run", "toy.py")
    shell("down", "--system", "dzt-alive")


def test_a_broker_that_is_given_keeps_no_queue(
    shell: Shell, rabbitmq_url: str, rabbitmq: RabbitServer
) -> None:
    """The machines meet there; afterwards the virtual host has no queue of the system's."""
    simulated = shell.views("run", "toy.py")
    ran = shell.views(
        "run", "toy.py", "--mode", "virtual", "--system", "dzt-given", "--machines", "2", "--nodes", "2",
        "--broker", rabbitmq_url,
    )  # fmt: skip
    assert ran == simulated
    vhost = rabbitmq_url.rpartition("/")[2]
    assert "dz.dzt-given" not in rabbitmq.rabbitmqctl("-q", "list_queues", "-p", vhost, "name")


def test_what_is_missing_is_said(shell: Shell) -> None:
    """No image, no Docker: a sentence that says what to do, and nothing left."""
    before = docker_things()
    shell._environment["DIST_ZERO_IMAGE"] = "dzt-no-such-image:1"
    _, err = shell("run", "toy.py", "--mode", "virtual", code=3)
    assert "no image dzt-no-such-image:1" in err and "make images" in err
    shell._environment["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    _, err = shell("run", "toy.py", "--mode", "virtual", code=3)
    assert "Docker is not running or not installed" in err and "Traceback" not in err
    assert docker_things() == before
