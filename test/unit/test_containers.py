"""Machines as containers, against a Docker that is a few lists: asked for twice, ended, taken, missing, refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from dist_zero_common.clock import RealClock
from dist_zero_common.containers import HOST_NETWORK, Docker, container_name
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import get_logger
from services.scheduler.spawners.docker import (
    OUTPUT_FILE,
    DockerSpawner,
    MachineOptions,
    Owner,
    logstash_inside,
)


def refused(status: int, explanation: str) -> APIError:
    """What Docker's API says no with."""
    return APIError(explanation, response=SimpleNamespace(status_code=status), explanation=explanation)  # type: ignore[arg-type]


class FakeDocker:
    """As much of `docker.DockerClient` as the spawner uses."""

    def __init__(self) -> None:
        self.there: dict[str, FakeContainer] = {}
        self.created = 0
        self.fails: Exception | None = None
        self.containers, self.api = self, SimpleNamespace(containers=self._listed)

    def create(self, image: str, command: list[str], **arguments: Any) -> FakeContainer:
        """A container, if the name is free."""
        if self.fails is not None:
            raise self.fails
        if arguments["name"] in self.there:
            raise refused(409, "the name is in use")
        self.created += 1
        made = self.there[arguments["name"]] = FakeContainer(self, image, command, arguments)
        return made

    def get(self, name: str) -> FakeContainer:
        """The container of this name."""
        if name not in self.there:
            raise NotFound("no such container")
        return self.there[name]

    def _listed(self, *, all: bool, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        assert all
        wanted = [label.partition("=") for label in filters["label"]]
        return [
            {"Names": [f"/{each.name}"], "State": each.status, "Labels": each.labels, "Id": each.name}
            for each in self.there.values()
            if not any(
                name not in each.labels or (equals and each.labels[name] != value)
                for name, equals, value in wanted
            )
        ]

    def close(self) -> None:
        """Nothing is open."""


class FakeContainer:
    """One container."""

    def __init__(self, docker: FakeDocker, image: str, command: list[str], arguments: dict[str, Any]) -> None:
        self.docker, self.image, self.command, self.arguments = docker, image, command, arguments
        self.name, self.labels, self.status = arguments["name"], arguments["labels"], "created"

    def start(self) -> None:
        """Run it."""
        self.status = "running"

    def stop(self, *, timeout: int) -> None:
        """End it."""
        assert timeout > 0
        self.status = "exited"

    def remove(self, *, v: bool, force: bool) -> None:
        """Take it away with its volumes."""
        assert v and force
        del self.docker.there[self.name]

    def logs(self, *, tail: int) -> bytes:
        """What it said."""
        assert tail
        return b"first line\nit fell over\n"


def with_spawner(tmp_path: Path, fake: FakeDocker, scenario: Any) -> None:
    """Run a scenario with a spawner of the system `s` on the fake."""

    async def main() -> None:
        async with Docker(fake) as docker:
            options = MachineOptions(
                system="s", keeper="1-2@h", directory=tmp_path, image="i:1", network="n", broker_url="amqp://a",
                runner_broker_url="amqp://r", store=tmp_path / "store", logs=tmp_path, owner=Owner(1000, 1000),
                cores=1.5, memory_bytes=2**28,
            )  # fmt: skip
            await scenario(DockerSpawner(docker, options, get_logger("test", RealClock())))

    asyncio.run(main())


def test_a_machine_is_one_container_however_often_it_is_spawned(tmp_path: Path) -> None:
    """It is no one's root, starts by itself no second time, and is found by its labels."""
    fake = FakeDocker()

    async def scenario(spawner: DockerSpawner) -> None:
        await asyncio.gather(*(spawner.spawn(machine) for machine in ("m2", "m1", "m2")))
        assert await spawner.list() == ["m1", "m2"]

    with_spawner(tmp_path, fake, scenario)
    assert fake.created == 2
    made = fake.there["dist-zero.s.m1"]
    assert made.command == ["python", "-m", "services.machine_agent"]
    assert made.arguments["user"] == "1000:1000" and "restart_policy" not in made.arguments
    assert made.arguments["nano_cpus"] == 1_500_000_000 and made.arguments["mem_limit"] == 2**28
    assert made.arguments["environment"]["DIST_ZERO_MACHINE"] == "m1"
    assert made.labels["dist-zero.system"] == "s" and made.labels["dist-zero.machine"] == "m1"


def test_a_container_that_ended_is_no_machine_and_its_name_is_free_again(tmp_path: Path) -> None:
    """It is not listed, what it said last is kept, and the next spawn makes a new one, listed before or not."""
    fake = FakeDocker()

    async def scenario(spawner: DockerSpawner) -> None:
        for listed in (True, False):
            await spawner.spawn("m1")
            fake.there["dist-zero.s.m1"].status = "exited"
            if listed:
                assert await spawner.list() == [] and not fake.there
            await spawner.spawn("m1")
            assert await spawner.list() == ["m1"]
            assert fake.there["dist-zero.s.m1"].status == "running"
        assert spawner.ended == {"m1": ["it fell over", "it fell over"]}

    with_spawner(tmp_path, fake, scenario)
    assert "it fell over" in (tmp_path / "dist-zero.s.m1" / OUTPUT_FILE).read_text()


def test_stopping_is_for_good_and_may_be_repeated(tmp_path: Path) -> None:
    """A missing machine is stopped already."""
    fake = FakeDocker()

    async def scenario(spawner: DockerSpawner) -> None:
        await spawner.spawn("m1")
        for _ in range(2):
            await spawner.stop("m1")
            assert await spawner.list() == []

    with_spawner(tmp_path, fake, scenario)


def test_somebody_elses_container_of_that_name_is_left_alone(tmp_path: Path) -> None:
    """The error says whose name it is and how to free it."""
    fake = FakeDocker()
    fake.create("other", [], name="dist-zero.s.m1", labels={})

    async def scenario(spawner: DockerSpawner) -> None:
        with pytest.raises(OperatorError, match=r"docker rm -f dist-zero\.s\.m1"):
            await spawner.spawn("m1")

    with_spawner(tmp_path, fake, scenario)
    assert fake.there["dist-zero.s.m1"].image == "other"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ImageNotFound("No such image: i:1"), "make images"),
        (DockerException("Error while fetching server API version: PermissionError(13)"), "join the group docker"),
        (DockerException("FileNotFoundError(2, 'No such file or directory')"), "start it, install it"),
        (ConnectionRefusedError("Connection refused"), "does not answer"),
        (refused(500, "write /x: no space left on device"), "the disk is full"),
    ],
)  # fmt: skip
def test_dockers_errors_say_what_to_do(tmp_path: Path, error: Exception, advice: str) -> None:
    """Each is the operator's business, in a sentence."""
    fake = FakeDocker()
    fake.fails = error

    async def scenario(spawner: DockerSpawner) -> None:
        with pytest.raises(OperatorError, match=advice):
            await spawner.spawn("m1")

    with_spawner(tmp_path, fake, scenario)


@pytest.mark.parametrize(
    ("host", "network", "inside", "hosts"),
    [
        ("logs.example.org", "n", "logs.example.org", {}),
        ("10.0.0.7", "n", "10.0.0.7", {}),
        ("localhost", "n", "host.docker.internal", {"host.docker.internal": "host-gateway"}),
        ("127.0.0.1", "n", "host.docker.internal", {"host.docker.internal": "host-gateway"}),
        ("::1", "n", "host.docker.internal", {"host.docker.internal": "host-gateway"}),
        ("localhost", HOST_NETWORK, "localhost", {}),
    ],
)
def test_machines_are_told_of_logstash(host: str, network: str, inside: str, hosts: dict[str, str]) -> None:
    """As they reach it: loopback is not this host's in a container, unless that shares this host's network."""
    told, names = logstash_inside((host, 5533), network)
    assert told == {"LOGSTASH_HOST": inside, "LOGSTASH_PORT": "5533"} and names == hosts
    assert logstash_inside(None, network) == ({}, {})


def test_a_machine_has_what_shipping_needs(tmp_path: Path) -> None:
    """In its environment, and among the hosts that it knows; without a Logstash there is neither."""
    fake = FakeDocker()

    async def scenario(spawner: DockerSpawner) -> None:
        await spawner.spawn("m1")
        spawner._options = replace(spawner._options, logstash=("localhost", 7_000))
        await spawner.spawn("m2")
        without, shipping = (fake.there[container_name("s", name)].arguments for name in ("m1", "m2"))
        assert not [name for name in without["environment"] if name.startswith("LOGSTASH")]
        assert without["extra_hosts"] == {}
        assert shipping["environment"]["LOGSTASH_PORT"] == "7000"
        assert shipping["environment"]["LOGSTASH_HOST"] in shipping["extra_hosts"]

    with_spawner(tmp_path, fake, scenario)
