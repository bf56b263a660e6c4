"""The compose files, as a user drives them: up, more machines in the middle of a load, down, and nothing left.

Each test has project names and ports of its own, and what `.env` would say in a file of its own: a developer's system
beside it is not touched, whatever it is called.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.system import SimulatedSystem
from dist_zero.types import Row
from dist_zero_common.broker.base import Broker, ConnectionState
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.errors import ConnectionLost
from dist_zero_common.protocol.messages.requests import ProgramState, SystemStatus
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from test.unit.tidy import ROOT
from test.virtual.rabbitmq_server import free_port

PATIENCE_SECONDS = 240  # for containers to start on a busy machine
TRANSACTIONS = 60
ROWS = 200
NODES = 9  # ten parts with the sequencer: five machines are clearly better than four, whoever joins when
MACHINES = 5  # one agent's, four node runners'
PASSWORDS = {
    f"BROKER_{name}_PASSWORD": f"{name.lower()}0"
    for name in ("ADMIN", "SCHEDULER", "AGENT", "RUNNER", "CLIENT")
}

app = dz.Program("scores")


class Score(dz.Row):
    number: int
    game: str
    player: str
    points: int


scores = app.dataset("scores", Score, key="number")
app.view("players", scores.group_by("player").agg(points=dz.sum("points"), games=dz.count()))
app.view("board", scores.top(5, by=[dz.desc("points"), "number"], per="game", rank="place"))


@dataclass(frozen=True)
class Project:
    """One project of Compose: its files, its name, and a file with what is set."""

    name: str
    file: str
    env_file: Path
    set: dict[str, str]

    def compose(self, *arguments: str) -> str:
        command = [str(ROOT / "scripts/compose"), "-p", self.name, "-f", self.file]
        command += ["--env-file", str(self.env_file)]
        # What this process or the developer's .env says must not get in.
        environment = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("DIST_ZERO_", "BROKER_", "AMQP_", "PROXY_"))
        }
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def containers(self) -> list[dict[str, Any]]:
        """What Docker says of the containers of this project, ended ones too."""
        ids = labelled("ps -a", self.name)
        if not ids:
            return []
        found = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        described: list[dict[str, Any]] = json.loads(found.stdout)
        return described

    def states(self) -> dict[str, str]:
        """Each container's health; where none is defined, whether it runs and how it ended."""
        states = {}
        for container in self.containers():
            state = container["State"]
            health = state.get("Health", {}).get("Status")
            states[container["Name"]] = health or f"{state['Status']} {state['ExitCode']}"
        return states

    def wait_healthy(self, containers: int) -> None:
        """Until that many are there, and each is healthy or has done what it was for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            states = self.states()
            if len(states) == containers and all(
                state in ("healthy", "exited 0") for state in states.values()
            ):
                return
            assert time.monotonic() < deadline, f"{states}\n{self.compose('logs', '--no-color')}"
            time.sleep(1)


def labelled(listing: str, project: str) -> list[str]:
    """The ids of what Docker has of this project."""
    command = ["docker", *listing.split(), "-q", "--filter", f"label=com.docker.compose.project={project}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def project(tmp_path: Path, file: str, settings: dict[str, str]) -> Iterator[Project]:
    """A project that is gone afterwards, its volumes too."""
    if not (shutil.which("docker-compose") or compose_is_a_plugin()):
        reason = "there is neither docker-compose nor docker compose here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    subprocess.run([ROOT / "scripts/images"], check=True)
    ports = {name: str(free_port()) for name in ("BROKER_PORT", "BROKER_MANAGEMENT_PORT", "PROXY_PORT")}
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={text}\n" for name, text in {**settings, **ports}.items()))
    made = Project(f"dzt{uuid.uuid4().hex[:12]}", file, env_file, {**settings, **ports})
    try:
        yield made
    finally:
        made.compose("down", "-v", "--timeout", "20")
        for listing in ("ps -a", "network ls", "volume ls"):
            assert labelled(listing, made.name) == [], listing


def compose_is_a_plugin() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def system(tmp_path: Path, docker_or_skip: None) -> Iterator[Project]:  # noqa: ARG001
    settings = {"DIST_ZERO_SYSTEM": "shop", "DIST_ZERO_MACHINES": "2", **PASSWORDS}
    yield from project(tmp_path, "docker-compose.yml", settings)


@pytest.fixture
def broker(tmp_path: Path, docker_or_skip: None) -> Iterator[Project]:  # noqa: ARG001
    yield from project(tmp_path, "docker-compose.test.yml", {})


def transactions() -> list[list[tuple[str, Score]]]:
    """What is written: rows, and from the second transaction on other values for some that are there."""
    chance = random.Random(7)

    def score(number: int) -> Score:
        game = chance.choice(("chess", "go", "tetris"))
        return Score(
            number=number, game=game, player=f"p{chance.randrange(50)}", points=chance.randrange(1_000)
        )

    return [
        [
            ("scores", score(number if chance.random() < 0.8 else chance.randrange(number + 1)))
            for number in span
        ]
        for span in (range(first, first + ROWS) for first in range(0, TRANSACTIONS * ROWS, ROWS))
    ]


async def write(client: Client, rows: list[tuple[str, Score]]) -> None:
    async with client.transaction() as transaction:
        for dataset, row in rows:
            transaction.put(dataset, row)


async def views(client: Client) -> dict[str, list[Row]]:
    return dict((await client.snapshot()).stored)


def simulated() -> dict[str, list[Row]]:
    """The views after the same transactions in a simulation."""

    async def scenario() -> dict[str, list[Row]]:
        async with (
            SimulatedSystem(SimWorld(1, "faithful"), machines=2) as system,
            system.connect(app, nodes=2) as client,
        ):
            for rows in transactions():
                await write(client, rows)
            return await views(client)

    return run_simulation(scenario())


def spread(status: SystemStatus) -> set[str]:
    """The machines that have nodes of the program, when all of them run."""
    return {
        place.machine
        for program in status.programs
        if program.state is ProgramState.RUNNING
        for place in program.nodes
    }


def test_machines_join_in_the_middle_of_a_load(system: Project) -> None:
    """Up; a program on the first two machines; three more in the middle of a load, and nodes move there; the views are
    those of the simulated run. All with the client's user and its rights, and nothing there runs as root."""
    system.compose("up", "-d")
    system.wait_healthy(5)
    for container in system.containers():
        config = container["Config"]
        assert config["User"] == "dist-zero" or "rabbitmq" in config["Image"], container["Name"]
    url = f"amqp://client:{PASSWORDS['BROKER_CLIENT_PASSWORD']}@127.0.0.1:{system.set['BROKER_PORT']}/dz"

    async def scenario() -> dict[str, list[Row]]:
        remote = RemoteSystem(url, "shop")
        load = transactions()
        third = len(load) // 3
        async with remote.connect(app, nodes=NODES) as client:
            for rows in load[:third]:
                await write(client, rows)
            assert len(spread(await remote.status())) == 2
            scale = ("up", "-d", "--no-recreate", "--scale", "node-runner=4")
            scaling = asyncio.create_task(asyncio.to_thread(system.compose, *scale))
            meanwhile = iter(load[third : 2 * third])
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(there := spread(await remote.status())) < MACHINES:
                assert time.monotonic() < deadline, there
                for rows in islice(meanwhile, 1):
                    await write(client, rows)
                await asyncio.sleep(0.5)
            await scaling
            for rows in (*meanwhile, *load[2 * third :]):
                await write(client, rows)
            return await views(client)

    assert asyncio.run(scenario()) == simulated()


def test_the_proxy_of_the_test_file_cuts_and_heals(broker: Project) -> None:
    """A connection through the proxy is lost when the proxy is told to cut it, none comes while it refuses, and after
    it has healed they do again."""
    broker.compose("up", "-d")
    container = broker.compose("ps", "-q", "proxy").strip()

    def tell(word: str) -> None:
        """Say it to the proxy, and wait until it has said that it does so."""
        command = ["docker", "attach", "--sig-proxy=false", container]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attached:
            assert attached.stdin is not None
            assert attached.stdout is not None
            try:
                attached.stdin.write(f"{word}\n")
                attached.stdin.flush()
                assert attached.stdout.readline() == f"{word}\n"
            finally:
                attached.kill()

    async def scenario() -> None:
        url = f"amqp://tester:tester@127.0.0.1:{broker.set['PROXY_PORT']}/"
        connect = connector(url, "through the proxy", connect_seconds=5)
        deadline = time.monotonic() + PATIENCE_SECONDS

        async def until_connected() -> Broker:
            while True:
                try:
                    return await connect()
                except ConnectionLost:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)

        made = await until_connected()
        lost = asyncio.Event()
        made.on_connection(lambda state: lost.set() if state is ConnectionState.LOST else None)
        await asyncio.to_thread(tell, "refuse")
        await asyncio.wait_for(lost.wait(), 60)
        with pytest.raises(ConnectionLost):
            await connect()
        await asyncio.to_thread(tell, "heal")
        again = await until_connected()
        assert again.state is ConnectionState.CONNECTED
        await again.close()

    asyncio.run(scenario())
