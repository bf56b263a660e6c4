"""Machines that are containers of this host: one machine agent each, which starts its runners inside.

A container that has ended is no machine any more: it is noted with the last of what it said, removed, and not listed,
so that it is spawned anew. There is no restart policy: whether a machine is to be there, the scheduler knows, and
Docker does not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from dist_zero_common.containers import (
    DIRECTORY_LABEL,
    HOST_NETWORK,
    KEEPER_LABEL,
    MACHINE_LABEL,
    ROLE_LABEL,
    SYSTEM_LABEL,
    BindMount,
    ContainerSeen,
    ContainerSpec,
    Docker,
    NameTaken,
    container_name,
)
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import Logger
from dist_zero_common.metrics import TARGET_SUFFIX

MACHINE_ROLE = "machine"
COMMAND = ("python", "-m", "services.machine_agent")
STORE_TARGET, LOGS_TARGET = "/data", "/logs"
STOP_SECONDS = 3
HOST_NAME, HOST_GATEWAY = "host.docker.internal", "host-gateway"
"""What this host is called in containers, and Docker's word for its address."""
OUTPUT_FILE = "output.log"
"""What a machine wrote to standard output and error before it ended, in its log directory."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom files and containers belong to: never root."""

    uid: int
    gid: int

    def give(self, path: Path) -> None:
        """Make the path this user's, which only root can, and only root needs."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)

    def give_all(self, directory: Path) -> None:
        """Make all in the directory this user's, as `give` does."""
        if os.geteuid() != 0:
            return
        for parent, names, files in os.walk(directory):
            for name in (*names, *files):
                path = Path(parent, name)
                if path.lstat().st_uid != self.uid:
                    os.lchown(path, self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What all machines of a system have in common.

    `keeper` and `directory` say who holds the system up, and where. Each machine logs to a directory of its
    container's name below `logs`, and to `logstash`, which is named as this host names it. `cores` and `memory_bytes`
    limit a machine; None: all that the host has. `metrics`: whether its services give out metrics, each at a port that
    is free: containers may share the host's network.
    """

    system: str
    keeper: str
    directory: Path
    image: str
    network: str
    broker_url: str = field(repr=False)
    runner_broker_url: str = field(repr=False)
    store: Path
    logs: Path
    owner: Owner
    log_level: str = "info"
    keep_log: bool = False
    cores: float | None = None
    memory_bytes: int | None = None
    logstash: tuple[str, int] | None = None
    metrics: bool = False

    def labels(self, role: str) -> Mapping[str, str]:
        """What everything of this system is marked with."""
        return {
            SYSTEM_LABEL: self.system,
            ROLE_LABEL: role,
            KEEPER_LABEL: self.keeper,
            DIRECTORY_LABEL: str(self.directory),
        }


class DockerSpawner:
    """See `Spawner`."""

    def __init__(self, docker: Docker, options: MachineOptions, log: Logger) -> None:
        self._docker, self._options, self._log = docker, options, log
        self.ended: dict[str, list[str]] = {}
        """Of each machine that ended by itself, the last line it said, once for each time."""

    async def spawn(self, machine: str) -> None:
        spec = machine_container(self._options, machine)
        for mount in spec.mounts:
            made_directory(mount.source, self._options.owner)
        try:
            await self._docker.run(spec)
        except NameTaken as taken:
            there = await self._containers(machine)
            if not there:
                raise OperatorError(
                    f"{taken}, which is not a machine of the system {self._options.system!r}: remove it with"
                    f" docker rm -f {spec.name}"
                ) from taken
            if any(each.ended for each in there):
                await self.list()  # removes it; whoever wants this machine asks again
                await self._docker.run(spec)

    async def stop(self, machine: str) -> None:
        name = container_name(self._options.system, machine)
        await self._docker.remove(name, stop_seconds=STOP_SECONDS)
        forget_targets(self._options.logs / name)

    async def list(self) -> list[str]:
        seen = await self._containers()
        ended = [each for each in seen if each.ended]
        await asyncio.gather(*(self._remove_ended(each) for each in ended))
        return sorted(each.labels[MACHINE_LABEL] for each in seen if not each.ended)

    async def _containers(self, machine: str = "") -> Sequence[ContainerSeen]:
        return await self._docker.containers({**self._options.labels(MACHINE_ROLE), MACHINE_LABEL: machine})

    async def _remove_ended(self, seen: ContainerSeen) -> None:
        output = await self._docker.output(seen.name)
        lines = output.strip().splitlines()
        machine, said = seen.labels[MACHINE_LABEL], lines[-1] if lines else "nothing"
        self.ended.setdefault(machine, []).append(said)
        self._log.warning("machine_ended", machine=machine, container=seen.name, said=said)
        with (self._options.logs / seen.name / OUTPUT_FILE).open("a", encoding="utf-8") as file:
            file.write(output)
        await self._docker.remove(seen.name)
        forget_targets(self._options.logs / seen.name)


def machine_container(options: MachineOptions, machine: str) -> ContainerSpec:
    """The container that is this machine."""
    name = container_name(options.system, machine)
    logstash, hosts = logstash_inside(options.logstash, options.network)
    return ContainerSpec(
        name=name,
        image=options.image,
        labels={**options.labels(MACHINE_ROLE), MACHINE_LABEL: machine},
        network=options.network,
        command=COMMAND,
        environment={
            "AMQP_URL": options.broker_url,
            "DIST_ZERO_RUNNER_AMQP_URL": options.runner_broker_url,
            "DIST_ZERO_SYSTEM": options.system,
            "DIST_ZERO_MACHINE": machine,
            "DIST_ZERO_STORE": STORE_TARGET,
            "DIST_ZERO_LOG_DIR": LOGS_TARGET,
            "DIST_ZERO_LOG_LEVEL": options.log_level,
            "DIST_ZERO_KEEP_LOG": "yes" if options.keep_log else "no",
            **logstash,
            "DIST_ZERO_METRICS_PORT": "0" if options.metrics else "",
        },
        hostname=machine,
        aliases=(machine,),
        user=f"{options.owner.uid}:{options.owner.gid}",
        mounts=(
            BindMount(options.store, STORE_TARGET),
            BindMount(options.logs / name, LOGS_TARGET),
        ),
        hosts=hosts,
        cores=options.cores,
        memory_bytes=options.memory_bytes,
    )


def logstash_inside(
    logstash: tuple[str, int] | None, network: str
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What a container in this network is told of Logstash, and the names of hosts that it needs for that.

    Loopback is the container's own in there. So one of this host's is looked for at the gateway to the host.
    """
    if logstash is None:
        return {}, {}
    host, port = logstash
    inside, hosts = host, {}
    if network != HOST_NETWORK and is_loopback(host):
        inside, hosts = HOST_NAME, {HOST_NAME: HOST_GATEWAY}
    return {"LOGSTASH_HOST": inside, "LOGSTASH_PORT": str(port)}, hosts


def is_loopback(host: str) -> bool:
    """Whether this name or address means the machine that uses it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in ("localhost", "localhost.localdomain")


def forget_targets(logs: Path) -> None:
    """A container is gone, and nobody is to look for its metrics: it may have had no time to take away the files that
    say where they were. `logs`: its log directory."""
    for file in logs.glob(f"*{TARGET_SUFFIX}"):
        file.unlink(missing_ok=True)


def made_directory(path: Path, owner: Owner) -> None:
    """Make sure that the directory is there, and that the containers may write in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        owner.give(path)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be made or given to user {owner.uid}: {error.strerror}"
        ) from error
