"""A RabbitMQ for tests: one container for the session, a virtual host for each test, and its faults. And a cluster.

All of it blocks: tests that are in a loop call it in a thread (`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID
from testcontainers.core.network import Network

from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.errors import BrokerError

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "tester", "tester"
_READY_SECONDS = 120
_ANSWER_SECONDS = 60

# The reaper is a container more, of an image more, that needs Docker's socket: what is started here is also ended here.
testcontainers_config.ryuk_disabled = True


def docker_is_missing() -> str:
    """Why there is no Docker to test with, or nothing if there is."""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker here: {error}"
    said = (done.stderr.strip() or "it says nothing").splitlines()[-1]
    return "" if done.returncode == 0 else f"no Docker Engine answers here: {said}"


def setting(name: str) -> str:
    """What the tree's scripts take for this setting."""
    script = subprocess.run([ROOT / "scripts/setting", name], capture_output=True, text=True, check=True)
    return script.stdout.strip()


def have_base_images() -> None:
    """Make sure of Debian's and RabbitMQ's images."""
    image = setting("DIST_ZERO_RABBITMQ_IMAGE")
    there = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    if there.returncode != 0:
        subprocess.run([ROOT / "scripts/base-images"], check=True)


def free_port() -> int:
    """A port of loopback that nobody listens on. Docker would choose another one at each restart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RabbitServer:
    """A RabbitMQ in a container, reachable from loopback. `with` it."""

    def __init__(
        self, image: str | None = None, prepare: Callable[[DockerContainer], object] = lambda _: None
    ) -> None:
        """`prepare` is called with the container before it starts."""
        self.host = "127.0.0.1"
        self.port, self.management_port = free_port(), free_port()
        self._image = image or setting("DIST_ZERO_RABBITMQ_IMAGE")
        self._prepare = prepare
        self._container: DockerContainer | None = None
        self._names = itertools.count(1)

    def __enter__(self) -> RabbitServer:
        container = DockerContainer(self._image)
        container.with_env("RABBITMQ_DEFAULT_USER", USER).with_env("RABBITMQ_DEFAULT_PASS", PASSWORD)
        ports: dict[str, Any] = container.ports  # testcontainers itself would listen to the whole network
        ports["5672/tcp"] = (self.host, self.port)
        ports["15672/tcp"] = (self.host, self.management_port)
        self._container = container
        self._prepare(container)
        try:
            container.start()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._container is not None
        self._container.stop()

    @property
    def container_id(self) -> str:
        """Docker's id of the container."""
        assert self._container is not None
        return self._container.get_container_id()

    def url(
        self, virtual_host: str = "", port: int | None = None, user: str = USER, password: str = PASSWORD
    ) -> str:
        """The AMQP URL of a virtual host (the default one: `/`), perhaps through a proxy at another port."""
        return f"amqp://{user}:{password}@{self.host}:{port or self.port}/{quote(virtual_host, safe='')}"

    @property
    def management_url(self) -> str:
        """The URL of the management API, with a user who may do everything."""
        return f"http://{USER}:{PASSWORD}@{self.host}:{self.management_port}"

    # -- virtual hosts -------------------------------------------------------------------------------------------

    @contextmanager
    def virtual_host(self, prefix: str = "test") -> Iterator[str]:
        """An empty virtual host of one's own; it goes with all that is in it."""
        name = f"{prefix}-{next(self._names)}"
        self.manage("PUT", f"vhosts/{name}")
        try:
            yield name
        finally:
            self.manage("DELETE", f"vhosts/{name}")

    def manage(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the management API."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}:{self.management_port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    # -- faults --------------------------------------------------------------------------------------------------

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run it inside; returns what it says."""
        command = ["docker", "exec", self.container_id, "rabbitmqctl", "-q", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """While it lasts the broker is stopped; its container and its files stay. Afterwards, come what may, since the
        other tests need it too, it takes connections again."""
        await asyncio.to_thread(self.rabbitmqctl, "stop_app")
        try:
            yield
        finally:
            await asyncio.to_thread(self.rabbitmqctl, "start_app")
            await asyncio.to_thread(self.wait_ready)

    def restart_container(self) -> None:
        """End the container's processes and start them again; its files stay."""
        client = docker.from_env()
        try:
            client.containers.get(self.container_id).restart(timeout=20)
        finally:
            client.close()
        self.wait_ready()

    def kill_container(self) -> None:
        """End the container's processes at once, and start them again; its files stay."""
        client = docker.from_env()
        try:
            container = client.containers.get(self.container_id)
            container.kill()
            container.start()
        finally:
            client.close()
        self.wait_ready()

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """While it lasts, the broker takes nothing from publishers."""
        self.rabbitmqctl("set_vm_memory_high_watermark", "0.0001")
        try:
            yield
        finally:
            self.rabbitmqctl("set_vm_memory_high_watermark", "0.6")

    @contextmanager
    def disk_alarm(self) -> Iterator[None]:
        """The same, for want of disk."""
        self.rabbitmqctl("set_disk_free_limit", str(10**15))
        try:
            yield
        finally:
            self.rabbitmqctl("set_disk_free_limit", "1MB")

    def wait_ready(self) -> None:
        """Return when the broker takes connections."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                asyncio.run(_connect_once(self.url()))
                self.manage("GET", "overview")
            except (BrokerError, OSError, urllib.error.URLError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return


@contextmanager
def rabbit_cluster(
    names: tuple[str, ...] = ("rabbit1", "rabbit2", "rabbit3"),
) -> Iterator[list[RabbitServer]]:
    """Brokers that are one: each takes connections, and knows the queues of the others."""
    cookie = "-setcookie dist-zero-test"

    def prepared(container: DockerContainer, network: Network, name: str) -> None:
        container.with_network(network).with_network_aliases(name).with_kwargs(hostname=name)
        container.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", cookie)
        container.with_env("RABBITMQ_CTL_ERL_ARGS", cookie)

    with ExitStack() as stack:
        network = stack.enter_context(Network())
        servers = [
            stack.enter_context(RabbitServer(prepare=partial(prepared, network=network, name=name)))
            for name in names
        ]
        for server in servers[1:]:
            server.rabbitmqctl("stop_app")
            server.rabbitmqctl("reset")
            server.rabbitmqctl("join_cluster", f"rabbit@{names[0]}")
            server.rabbitmqctl("start_app")
            server.wait_ready()
        yield servers


async def _connect_once(url: str) -> None:
    broker = await connector(url, "is it ready?", connect_seconds=5)()
    await broker.close()


def docker_things() -> dict[str, set[str]]:
    """What Docker holds of ours: with CI=true everything, else (others may be at work here) what carries the
    label of this session."""
    strict = os.environ.get("CI") == "true"
    client = docker.from_env()
    try:
        things: dict[str, list[Any]] = {
            "containers": client.containers.list(all=True),
            "networks": client.networks.list(),
            "volumes": client.volumes.list(),
        }
        return {
            kind: {thing.name for thing in found if strict or _is_ours(thing.attrs)}
            for kind, found in things.items()
        }
    finally:
        client.close()


def _is_ours(attributes: dict[str, Any]) -> bool:
    labels = {**(attributes.get("Labels") or {}), **(attributes.get("Config", {}).get("Labels") or {})}
    return labels.get(LABEL_SESSION_ID) == SESSION_ID
