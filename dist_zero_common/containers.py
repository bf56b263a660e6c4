"""Containers, networks and volumes of Docker's, as far as systems are made of them. The only importer of `docker`.

Everything that belongs to a system carries labels: which system, which role, which machine, which process (the keeper)
holds the system up, and in which directory that was started. So whatever went wrong, what is left can be found by
asking Docker, and nothing else has to be remembered.

Docker's API blocks, so each call runs in a thread. A call that was begun goes on when whoever waits for it is
cancelled; `settled` waits for such calls, after which a list of what there is holds. Each call may be repeated.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig, Mount

from dist_zero_common.errors import OperatorError

R = TypeVar("R")

SYSTEM_LABEL = "dist-zero.system"
ROLE_LABEL = "dist-zero.role"
MACHINE_LABEL = "dist-zero.machine"
KEEPER_LABEL = "dist-zero.keeper"
DIRECTORY_LABEL = "dist-zero.directory"

HOST_NETWORK = "host"
THREADS = 8
STOP_SECONDS = 5
CALL_SECONDS = 60
LOG_BYTES_MAX = "16m"
"""Of what a container writes to its standard output, which is not where our services log."""

_CONFLICT, _SERVER_ERROR = 409, 500


class NameTaken(OperatorError):
    """There is a container of this name already."""


@dataclass(frozen=True, slots=True)
class BindMount:
    """A directory of the host inside a container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container as it is to be. `network` is a network's name or `HOST_NETWORK`; `aliases` are names it has there;
    `user` is `uid:gid`, or empty for the image's own; `in_memory` are directories that last as long as the container
    runs; `loopback_ports` says at which port of the host's loopback each of the container's is reached; `hosts`
    are further names of hosts, with their addresses."""

    name: str
    image: str
    labels: Mapping[str, str]
    network: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    user: str = ""
    mounts: tuple[BindMount, ...] = ()
    in_memory: tuple[str, ...] = ()
    loopback_ports: Mapping[int, int] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    cores: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """A container as it is. `status` is Docker's word: created, running, exited, dead ..."""

    name: str
    status: str
    labels: Mapping[str, str]

    @property
    def ended(self) -> bool:
        """Whether it has run and runs no more."""
        return self.status in ("exited", "dead", "removing")


@dataclass(frozen=True, slots=True)
class NetworkSeen:
    """A network as it is; names of networks are not unique, so it is removed by its `id`."""

    id: str
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """A volume as it is."""

    name: str
    labels: Mapping[str, str]


def container_name(system: str, part: str) -> str:
    """What the container of a machine, or of another part of a system, is called; its logs are in a directory of this
    name. The names of systems and machines have no dots."""
    return f"dist-zero.{system}.{part}"


class Docker:
    """The Docker engine of this machine (or the one that DOCKER_HOST names). `async with` it."""

    def __init__(self, client: Any = None) -> None:
        """`client`: in tests, what stands in for `docker.DockerClient`."""
        self._client = client
        self._threads = ThreadPoolExecutor(THREADS, "docker")
        self._begun: set[concurrent.futures.Future[Any]] = set()

    async def __aenter__(self) -> Docker:
        if self._client is None:
            self._client = await self._do("reach Docker", _connected)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.settled()
        self._threads.shutdown()
        self._client.close()

    async def settled(self) -> None:
        """Wait until no call is under way any more."""
        while self._begun:
            await asyncio.wait([asyncio.wrap_future(future) for future in self._begun])
            await asyncio.sleep(0)

    # -- images ----------------------------------------------------------------------------------------------

    async def has_image(self, image: str) -> bool:
        """Whether the image is there; it is never fetched."""

        def look() -> bool:
            try:
                self._client.images.get(image)
            except ImageNotFound:
                return False
            return True

        return await self._do(f"look for the image {image}", look)

    # -- containers ------------------------------------------------------------------------------------------

    async def run(self, spec: ContainerSpec) -> None:
        """Create the container and start it. Raises `NameTaken` if there is one of this name, `OperatorError` for all
        else that Docker cannot do; then no container is left."""
        await self._do(f"run the container {spec.name}", lambda: self._run(spec))

    def _run(self, spec: ContainerSpec) -> None:
        try:
            container = self._client.containers.create(spec.image, list(spec.command), **_arguments(spec))
        except APIError as error:
            if error.status_code == _CONFLICT:
                raise NameTaken(f"there is a container {spec.name} already") from error
            raise
        try:
            container.start()
        except BaseException:
            container.remove(v=True, force=True)
            raise

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerSeen]:
        """The containers that carry all of these labels (with an empty text: with any), running or not, by name."""

        def look() -> list[ContainerSeen]:
            found = self._client.api.containers(all=True, filters={"label": _filters(labels)})
            seen = [
                ContainerSeen(
                    each["Names"][0].lstrip("/") if each["Names"] else each["Id"],
                    each["State"],
                    each["Labels"] or {},
                )
                for each in found
            ]
            return sorted(seen, key=lambda each: each.name)

        return await self._do("list containers", look)

    async def remove(self, name: str, *, stop_seconds: int = 0) -> None:
        """Remove a container with its anonymous volumes; a missing one is no error. With `stop_seconds` it is asked to
        end first, and has so long."""

        def remove() -> None:
            try:
                container = self._client.containers.get(name)
                if stop_seconds:
                    container.stop(timeout=stop_seconds)
                container.remove(v=True, force=True)
            except NotFound:
                pass
            except APIError as error:
                if error.status_code != _CONFLICT:  # its removal is under way
                    raise
                container.wait(condition="removed", timeout=CALL_SECONDS)

        await self._do(f"remove the container {name}", remove)

    async def start(self, name: str) -> None:
        """Start a container again that has ended."""
        await self._do(f"start the container {name}", lambda: self._client.containers.get(name).start())

    async def is_running(self, name: str) -> bool:
        """Whether there is a container of this name that runs."""

        def look() -> bool:
            try:
                return str(self._client.containers.get(name).status) in ("created", "running")
            except NotFound:
                return False

        return await self._do(f"look at the container {name}", look)

    async def output(self, name: str, *, lines: int = 1_000) -> str:
        """The last of what a container wrote to standard output and error; of a missing one, nothing."""

        def look() -> str:
            try:
                return _output(self._client.containers.get(name), lines)
            except NotFound:
                return ""

        return await self._do(f"read the output of the container {name}", look)

    # -- networks and volumes --------------------------------------------------------------------------------

    async def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a network of its own for a system."""

        def create() -> None:
            self._client.networks.create(name, driver="bridge", labels=dict(labels), check_duplicate=True)

        await self._do(f"create the network {name}", create)

    async def networks(self, labels: Mapping[str, str]) -> list[NetworkSeen]:
        """The networks that carry all of these labels, by name."""

        def look() -> list[NetworkSeen]:
            found = self._client.api.networks(filters={"label": _filters(labels)})
            seen = [NetworkSeen(each["Id"], each["Name"], each["Labels"] or {}) for each in found]
            return sorted(seen, key=lambda each: (each.name, each.id))

        return await self._do("list networks", look)

    async def remove_network(self, network: NetworkSeen) -> None:
        """Remove a network that no container is in any more; a missing one is no error."""

        def remove() -> None:
            with suppress(NotFound):
                self._client.api.remove_network(network.id)

        await self._do(f"remove the network {network.name}", remove)

    async def volumes(self, labels: Mapping[str, str]) -> list[VolumeSeen]:
        """The volumes that carry all of these labels, by name."""

        def look() -> list[VolumeSeen]:
            found = self._client.api.volumes(filters={"label": _filters(labels)})["Volumes"] or []
            return sorted(
                (VolumeSeen(each["Name"], each["Labels"] or {}) for each in found), key=lambda each: each.name
            )

        return await self._do("list volumes", look)

    async def remove_volume(self, volume: VolumeSeen) -> None:
        """Remove a volume; a missing one is no error."""

        def remove() -> None:
            with suppress(NotFound):
                self._client.api.remove_volume(volume.name, force=True)

        await self._do(f"remove the volume {volume.name}", remove)

    # -- inside ----------------------------------------------------------------------------------------------

    async def _do(self, what: str, call: Callable[[], R]) -> R:
        begun = self._threads.submit(call)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        try:
            return await asyncio.shield(asyncio.wrap_future(begun))
        except OperatorError:
            raise
        except ImageNotFound as error:
            raise OperatorError(
                f"{_explained(error)}; `make images` builds and fetches the images that DistZero needs"
            ) from error
        except (DockerException, OSError) as error:
            raise OperatorError(f"cannot {what}: {_advice(error)}") from error


def _connected() -> Any:
    client = docker.from_env(timeout=CALL_SECONDS)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


def _arguments(spec: ContainerSpec) -> dict[str, Any]:
    """What the docker package calls these things."""
    arguments: dict[str, Any] = {
        "name": spec.name,
        "labels": dict(spec.labels),
        "environment": dict(spec.environment),
        "detach": True,
        "init": True,
        # the image's check starts a process every few seconds; machines are watched by their reports instead
        "healthcheck": {"test": ["NONE"]},
        "mounts": [
            Mount(mount.target, str(mount.source), type="bind", read_only=mount.read_only)
            for mount in spec.mounts
        ],
        "tmpfs": dict.fromkeys(spec.in_memory, ""),
        "ports": {f"{inside}/tcp": ("127.0.0.1", port) for inside, port in spec.loopback_ports.items()},
        "extra_hosts": dict(spec.hosts),
        "log_config": LogConfig(
            type=LogConfig.types.JSON, config={"max-size": LOG_BYTES_MAX, "max-file": "2"}
        ),
    }
    if spec.network == HOST_NETWORK:
        arguments["network_mode"] = HOST_NETWORK
    else:
        arguments["hostname"] = spec.hostname or None
        arguments["network"] = spec.network
        arguments["networking_config"] = {
            spec.network: docker.types.EndpointConfig("1.40", aliases=list(spec.aliases))
        }
    if spec.user:
        arguments["user"] = spec.user
    if spec.cores is not None:
        arguments["nano_cpus"] = int(spec.cores * 1e9)
    if spec.memory_bytes is not None:
        arguments["mem_limit"] = spec.memory_bytes
    return arguments


def _filters(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in labels.items()]


def _output(container: Any, lines: int = 5) -> str:
    return str(container.logs(tail=lines).decode(errors="replace"))


def _advice(error: BaseException) -> str:
    """Docker's error in a sentence, with what to do about it where that is known."""
    text = _explained(error)
    if "Permission denied" in text or "PermissionError" in text:
        return "this user may not use Docker: join the group docker (and log in again), or set DOCKER_HOST"
    if "FileNotFoundError" in text or ("No such file" in text and "socket" in text.lower()):
        return "Docker is not running or not installed here: start it, install it, or set DOCKER_HOST"
    if "Connection refused" in text or "ConnectionRefusedError" in text:
        return "Docker does not answer: is it running? DOCKER_HOST names another one"
    if "no space left" in text.lower():
        return f"the disk is full: make room ({text})"
    if "predefined address pools" in text or "non-overlapping" in text:
        return f"Docker has no addresses left for another network: `docker network prune` frees some ({text})"
    return text


def _explained(error: BaseException) -> str:
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation).strip()
    return str(error)
