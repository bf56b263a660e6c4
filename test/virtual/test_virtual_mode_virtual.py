"""`run --mode virtual`, `up`, `down`, `orphans`: the same answers as simulated, nothing left however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from examples.flights import data_directory
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
        self.directory, self.wait_seconds = directory, WAIT_SECONDS
        self.environment = {
            **{
                name: text
                for name, text in os.environ.items()
                if name == "DIST_ZERO_IMAGE" or not name.startswith(("DIST_ZERO_", "AMQP_"))
            },
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "dist_zero.cli", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command to its end; what it printed, and its errors."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=self.wait_seconds)
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


@pytest.fixture
def flights(shell: Shell) -> list[str]:
    """The options that load the first lines of the example's tables."""
    data = data_directory()
    with zipfile.ZipFile(data / "flights.csv.zip") as packed:
        lines = packed.read(packed.namelist()[0]).decode().splitlines(keepends=True)
    (shell.directory / "flights.csv").write_text("".join(lines[:2_001]))
    weather = (data / "weather.csv").read_text().splitlines(keepends=True)
    (shell.directory / "weather.csv").write_text("".join(weather[:501]))
    tables = {
        "airlines": data / "airlines.csv",
        "planes": data / "planes.csv",
        "weather": shell.directory / "weather.csv",
        "flights": shell.directory / "flights.csv",
    }
    loads = [word for name, file in tables.items() for word in ("--load", f"{name}={file}")]
    return [str(ROOT / "examples" / "flights.py"), *loads, "--null", "NA", "--nodes", "6"]


def test_three_containers_fly_as_a_simulation_does(shell: Shell, flights: list[str]) -> None:
    """A slice of the flights, joined with airlines, planes and the weather: the same bits."""
    simulated = shell.views("run", *flights)
    assert len(simulated["plane_age"]) > 5
    virtual = shell.views(
        "run", *flights, "--mode", "virtual", "--system", "dzt-flights", "--machines", "3", "--check"
    )
    assert virtual == simulated


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_three_containers_fly_a_whole_year_as_a_simulation_does(shell: Shell) -> None:
    """All flights of 2013."""
    shell.wait_seconds = 3_000
    words = ["run", str(ROOT / "examples" / "flights.py"), "--all", "--nodes", "6"]
    virtual = shell.views(*words, "--mode", "virtual", "--system", "dzt-year", "--machines", "3")
    assert virtual == shell.views(*words)


def test_up_stays_until_down(shell: Shell) -> None:
    """A system that is up takes programs and questions, is not started a second time, changes its program, goes on from
    its store, and leaves nothing in Docker."""
    shell.environment["DIST_ZERO_KEEP_LOG"] = (
        "yes"  # for --check; on a slow machine some of it is collected else
    )
    simulated = shell.views("run", "toy.py")
    shell.environment["DIST_ZERO_KEEP_LOG"] = "yes"  # for the check below, however long that takes
    shell("up", "toy.py", "--system", "dzt-up")
    assert len(of_system("dzt-up")) == 3
    assert shell.views("run", "toy.py", "--system", "dzt-up", "--check") == simulated
    again, _ = shell("up", "toy.py", "--system", "dzt-up")
    assert "fills" not in again and len(of_system("dzt-up")) == 3
    text = (shell.directory / "toy.py").read_text()
    (shell.directory / "toy.py").write_text(text + 'app.view("all", things.group_by().agg(n=dz.count()))\n')
    told, _ = shell("up", "toy.py", "--system", "dzt-up", "--dry-run")
    changed, _ = shell("up", "toy.py", "--system", "dzt-up")
    for said in (told, changed):
        assert said.split()[2:] and said[said.index("fills") :].split()[:3] == ["fills", "view", "all"]
    assert shell.views("show", "all", "--system", "dzt-up") == {"all": [{"n": 500}]}
    shell("down")
    told, _ = shell("up", "toy.py", "--system", "dzt-up", "--dry-run")
    assert "nothing would change" in told
    (shell.directory / "toy.py").write_text(text)
    told, _ = shell("up", "toy.py", "--system", "dzt-up", "--dry-run")
    assert told[told.index("drops") :].split()[:3] == ["drops", "view", "all"] and of_system("dzt-up") == []
    assert of_system("dzt-up") == [] and shell.states() == []
    shell("up", "toy.py", "--system", "dzt-up")
    again = json.loads(shell("run", "toy.py", "--system", "dzt-up", "--json")[0])
    assert again["views"] == simulated and again["stats"]["rows_passed_over"] == 500
    shell("down", "--system", "dzt-up")
    assert of_system("dzt-up") == []


@pytest.mark.parametrize(
    ("how", "moment"),
    [
        (signal.SIGINT, "starting"),
        (signal.SIGKILL, "up"),
        pytest.param(signal.SIGINT, "up", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, "starting", marks=pytest.mark.long),
    ],
)
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


@pytest.mark.parametrize("holder", ["again", pytest.param("killed", marks=pytest.mark.long)])
def test_an_end_that_is_interrupted_leaves_nothing(shell: Shell, holder: str) -> None:
    """Ctrl-C, and while everything is taken down Ctrl-C again, or kill -9 of the command."""
    name = f"dzt-twice-{holder}"
    process = shell.start("run", "toy.py", "--mode", "virtual", "--system", name, "--machines", "2")
    with process:
        wait_until(lambda: len(of_system(name)) == 4)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: len(of_system(name)) < 4)
        process.send_signal(signal.SIGINT if holder == "again" else signal.SIGKILL)
        process.communicate(timeout=WAIT_SECONDS)
    wait_until(lambda: not of_system(name))
    wait_until(lambda: not shell.states())


def test_a_keeper_that_is_killed_during_a_run_is_said(shell: Shell) -> None:
    """The command ends with a sentence, and takes down what the keeper left."""
    (shell.directory / "endless.py").write_text(
        PROGRAM.format(name="dzt-endless").replace("range(500)", "range(10**9)")
    )
    process = shell.start("run", "endless.py", "--mode", "virtual", "--system", "dzt-headless")
    with process:
        wait_until(lambda: bool(shell.states()))
        keeper = json.loads(shell.states()[0].read_text())["keeper"]
        os.kill(int(keeper.partition("-")[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3, err
    assert "the process that held the system up has ended" in err and "Traceback" not in err
    assert of_system("dzt-headless") == [] and shell.states() == []


@pytest.mark.long
def test_a_broker_of_ours_that_dies_is_started_again(shell: Shell) -> None:
    """Under load, twice unless the load is over by then; it forgets everything, and the views are right in the end."""
    (shell.directory / "big.py").write_text(
        PROGRAM.format(name="dzt-big").replace("range(500)", "range(20_000)")
    )
    simulated = shell.views("run", "big.py", "--nodes", "4")
    shell("up", "big.py", "--system", "dzt-dies", "--machines", "2", "--nodes", "4")
    process = shell.start("run", "big.py", "--system", "dzt-dies", "--nodes", "4", "--check", "--json")
    kills = 0
    with process:
        for wanted in (2, 8):
            there = partial(has_files, shell, "dzt-dies", wanted)
            wait_until(lambda there=there: there() or process.poll() is not None)  # type: ignore[misc]
            if process.poll() is not None:
                break
            kills += 1
            subprocess.run(["docker", "kill", "dist-zero.dzt-dies.broker"], check=True, capture_output=True)
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, err
    assert json.loads(out)["views"] == simulated
    log = shell.directory / ".tmp" / "keeper-dzt-dies.log"
    assert kills
    wait_until(lambda: log.read_text().count("broker_ended") == kills)
    shell("down")
    assert of_system("dzt-dies") == []


def has_files(shell: Shell, system: str, count: int) -> bool:
    """Whether the store of a system holds so many objects: how far its epochs are."""
    store = shell.directory / ".tmp" / "systems" / system / "store"
    return sum(path.is_file() for path in store.rglob("*")) >= count


def test_up_bridges_the_queues_of_a_program(shell: Shell, rabbitmq_url: str, rabbitmq: RabbitServer) -> None:
    """A queue that is missing is said, and harms nobody; when it is there, its messages come in, each once; the bridge
    ends with its system."""
    example = str(ROOT / "examples" / "payments.py")
    shell("up", example, "--system", "dzt-till", "--source-broker", rabbitmq_url)
    wait_until(lambda: "has no queue 'payments'" in json.loads(shell.states()[0].read_text())["bridge"])
    _, err = shell("status", "--system", "dzt-till", code=1)
    assert "the bridge has ended" in err and "has no queue 'payments'" in err
    asyncio.run(pay(rabbitmq_url))

    def takings() -> list[dict[str, object]]:
        views: list[dict[str, object]] = shell.views("show", "takings", "--system", "dzt-till")["takings"]
        return views

    day = "2024-05-01T00:00:00Z"
    wait_until(lambda: takings() == [{"shop": "Ulm", "day": day, "payments": 50, "amount": "75.00"}])
    shell("down", "--system", "dzt-till")
    assert of_system("dzt-till") == []
    vhost = rabbitmq_url.rpartition("/")[2]
    assert rabbitmq.rabbitmqctl("-q", "list_consumers", "-p", vhost).strip() == ""


async def pay(url: str) -> None:
    """Fifty payments, each sent twice."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("payments", durable=True)
        for number in range(50):
            body = {"id": number, "shop": "Ulm", "at": "2024-05-01T08:00:00Z", "amount": "1.50"}
            for _ in range(2):
                message = aio_pika.Message(
                    json.dumps(body).encode(), message_id=f"p{number}", delivery_mode=2
                )
                await channel.default_exchange.publish(message, "payments")


def test_run_takes_nothing_from_a_queue_that_it_would_not_keep(
    shell: Shell, rabbitmq_url: str, rabbitmq: RabbitServer
) -> None:
    """Without --store the messages stay where they are, and that is said."""
    asyncio.run(pay(rabbitmq_url))
    example = str(ROOT / "examples" / "payments.py")
    _, err = shell(
        "run", example, "--mode", "virtual", "--system", "dzt-passing", "--source-broker", rabbitmq_url
    )
    assert "queues are not read" in err
    vhost = rabbitmq_url.rpartition("/")[2]
    assert "payments\t100" in rabbitmq.rabbitmqctl("-q", "list_queues", "-p", vhost, "name", "messages")


def test_a_user_that_may_not_is_explained(shell: Shell, rabbitmq: RabbitServer) -> None:
    """A broker that was given, perhaps by a file of compose's, with a user that does not suffice."""
    user = "dzt-weak"
    with rabbitmq.virtual_host() as vhost:
        rabbitmq.rabbitmqctl("add_user", user, "dzt-weak")
        rabbitmq.rabbitmqctl("set_permissions", "-p", vhost, user, "^$", "^$", "^$")
        try:
            host = rabbitmq.url(vhost).rpartition("@")[2]
            shell.environment["AMQP_URL"] = f"amqp://{user}:dzt-weak@{host}"
            _, err = shell("run", "toy.py", "--mode", "virtual", "--system", "dzt-weak", code=3)
            shell("run", "toy.py", "--mode", "virtual", "--system", "dzt-weak", "--broker", "new")
        finally:
            rabbitmq.rabbitmqctl("delete_user", user)
    assert "`--broker new`" in err and "Traceback" not in err
    assert of_system("dzt-weak") == []


def test_orphans_are_found_and_removed(shell: Shell) -> None:
    """A keeper that was killed leaves its containers; labels find them, and another system is neither touched nor
    called ill for them."""
    shell("up", "toy.py", "--system", "dzt-alive")
    shell("up", "toy.py", "--system", "dzt-dead")
    state = json.loads((shell.directory / ".tmp" / "systems" / "dzt-dead.json").read_text())
    os.kill(int(state["keeper"].partition("-")[0]), signal.SIGKILL)
    found, _ = shell("orphans", "--json")
    assert [thing for thing in json.loads(found)["orphans"] if "dzt-alive" in thing] == []
    assert sum("dzt-dead" in thing for thing in json.loads(found)["orphans"]) >= 4
    # The other system is told of them, and is well: exit code 0.
    said, _ = shell("doctor", "--system", "dzt-alive", "--seconds", "1")
    assert "left over from systems that are gone" in said and "dzt-dead" in said
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
    shell.environment["DIST_ZERO_IMAGE"] = "dzt-no-such-image:1"
    _, err = shell("run", "toy.py", "--mode", "virtual", code=3)
    assert "no image dzt-no-such-image:1" in err and "make images" in err
    shell.environment["DOCKER_HOST"] = "unix:///nowhere/docker.sock"
    _, err = shell("run", "toy.py", "--mode", "virtual", code=3)
    assert "Docker is not running or not installed" in err and "Traceback" not in err
    assert docker_things() == before
