"""A whole system in containers, for tests that take it apart: each machine, each scheduler and the broker can be
killed, paused, and cut off from the others, and come back.

Either nobody holds it up but the test, and a container that was killed is started again when the test says so; or it is
held up as `dist-zero up` does, by a keeper with the only scheduler in it, who sees to that.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dist_zero.client.remote import RemoteSystem
from dist_zero.virtual import (
    BROKER_HOST,
    BROKER_PART,
    BROKER_PORT,
    CONTAINER_USER,
    VirtualOptions,
    VirtualSystem,
    broker_container,
    remove_system,
)
from dist_zero_common.broker.definitions import Passwords
from dist_zero_common.broker.topology import UserClass
from dist_zero_common.clock import RealClock
from dist_zero_common.containers import BindMount, ContainerSpec, Docker, container_name
from dist_zero_common.errors import ConnectionLost
from dist_zero_common.log import get_logger
from dist_zero_common.processes import process_name
from services.scheduler.spawners.docker import (
    LOGS_TARGET,
    STORE_TARGET,
    MachineOptions,
    Owner,
    machine_container,
    made_directory,
)
from test.virtual.rabbitmq_server import free_port, setting

NETWORK_PART = "network"
SECONDS_MAX = 120.0
"""How long Docker may take for something, on a machine that is full of other work."""
START_SECONDS_MAX = 300.0
SCHEDULER_COMMAND = ("python", "-m", "services.scheduler")
_PASSWORDS = Passwords({user: f"{user.value}0" for user in UserClass})


@dataclass(frozen=True)
class ContainerSystem:
    """One that is up. Its parts are `broker`, the schedulers `s1` ..., and the machines `m1` ...; `kept`: whether a
    keeper starts again what has ended."""

    name: str
    url: str
    directory: Path
    machines: tuple[str, ...]
    schedulers: tuple[str, ...]
    kept: bool = False

    @property
    def store(self) -> Path:
        """The directory with what must not be lost."""
        return self.directory / "store"

    @property
    def remote(self) -> RemoteSystem:
        """The system as clients find it."""
        return RemoteSystem(self.url, self.name)

    async def wait_ready(self) -> None:
        """Return when the broker answers, and all machines are ready."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                status = await self.remote.status()
                if sum(machine.ready for machine in status.machines) == len(self.machines):
                    return
            except ConnectionLost:
                pass  # RabbitMQ takes its time
            assert time.monotonic() < deadline, f"{self.name} does not start"
            await asyncio.sleep(0.2)

    async def kill(self, part: str) -> None:
        """End all its processes at once, and wait until they have ended."""
        said = await self._docker("inspect", "-f", "{{.Id}}", self._container(part))
        await self._docker("kill", "-s", "KILL", said.strip())
        await self._docker("wait", said.strip(), may_fail=True)  # a keeper may have removed it by now

    async def stop(self, part: str) -> None:
        """Tell it to end, and wait until it has."""
        await self._docker("stop", "-t", "20", self._container(part))

    async def start(self, part: str) -> None:
        """Start it again, or wait until the keeper has; it has kept what is in its volumes."""
        if not self.kept:
            await self._docker("start", self._container(part))
            return
        deadline = time.monotonic() + SECONDS_MAX
        while part in await self.ended():
            assert time.monotonic() < deadline, f"the keeper does not start {part} again"
            await asyncio.sleep(0.2)

    async def pause(self, part: str) -> None:
        """Freeze all its processes; the kernel goes on answering for them."""
        await self._docker("pause", self._container(part))

    async def resume(self, part: str) -> None:
        """Let them go on as if nothing had happened."""
        await self._docker("unpause", self._container(part))

    async def cut(self, part: str) -> None:
        """Take it from the network: nothing reaches it, and nobody hears that its connections are gone."""
        await self._docker("network", "disconnect", self._network, self._container(part))

    async def join(self, part: str) -> None:
        """Give it back to the network, perhaps under another address."""
        await self._docker("network", "connect", "--alias", part, self._network, self._container(part))

    async def signal_runner(self, machine: str, signal: str) -> bool:
        """Send a signal to the node runner of a machine, and to nothing else; whether there is one."""
        script = (
            "for each in /proc/[0-9]*; do"
            " grep -q 'services[.]node_runner' $each/cmdline 2>/dev/null"  # which is not what this script is called
            f" && kill -s {signal} ${{each#/proc/}} && echo found; done"
        )
        said = await self._docker("exec", self._container(machine), "sh", "-c", script, may_fail=True)
        return said.strip() == "found"

    async def ended(self) -> list[str]:
        """The parts that do not run."""
        names = f"name=^{self._container('')}"
        running = (await self._docker("ps", "--format", "{{.Names}}", "--filter", names)).split()
        parts = (BROKER_PART, *self.schedulers, *self.machines)
        return [part for part in parts if self._container(part) not in running]

    def logged(self, part: str, event: str) -> list[dict[str, object]]:
        """The events of this name that a part has logged, file by file, in all its lives."""
        files = sorted((self.directory / "logs" / self._container(part)).glob("*.jsonl*"))
        lines = [line for file in files for line in file.read_text().splitlines() if f'"{event}"' in line]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def pids(self, part: str) -> list[int]:
        """Its processes, as this host numbers them."""
        command = ["docker", "top", self._container(part), "-eo", "pid"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(line) for line in said.split()[1:]]

    @property
    def _network(self) -> str:
        return self._container(NETWORK_PART)

    def _container(self, part: str) -> str:
        return container_name(self.name, part)

    async def _docker(self, *arguments: str, may_fail: bool = False) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            ["docker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0 or may_fail, f"docker {' '.join(arguments)}: {done.stderr.strip()}"
        return str(done.stdout)


@asynccontextmanager
async def container_system(
    name: str,
    directory: Path,
    *,
    machines: int,
    schedulers: int = 1,
    broker_keeps: bool = False,
    keep_log: bool = True,
) -> AsyncIterator[ContainerSystem]:
    """A system with so many machines and schedulers; afterwards nothing of it is left but what is in `directory`.

    `broker_keeps`: what is in the broker outlives its processes, as it would on a disk. `keep_log`: records are not
    collected, so that the whole log can be looked at.
    """
    options, port = _machine_options(name, directory, keep_log), free_port()
    broker = broker_container(
        options, setting("DIST_ZERO_RABBITMQ_IMAGE"), directory / BROKER_PART, _PASSWORDS, port
    )
    if broker_keeps:
        broker = replace(broker, in_memory=())
    system = ContainerSystem(
        name,
        _PASSWORDS.url(UserClass.CLIENT, "127.0.0.1", port),
        directory,
        tuple(f"m{number}" for number in range(1, machines + 1)),
        tuple(f"s{number}" for number in range(1, schedulers + 1)),
    )
    specs = [
        broker,
        *(_scheduler(options, part, machines) for part in system.schedulers),
        *(machine_container(options, part) for part in system.machines),
    ]
    async with Docker() as docker:
        try:
            await docker.create_network(options.network, options.labels(NETWORK_PART))
            options.owner.give_all(options.store)  # a copy of another's is whose copied it
            for spec in specs:
                for mount in spec.mounts:
                    if not mount.read_only:
                        made_directory(mount.source, options.owner)
                await docker.run(spec)
            await system.wait_ready()
            yield system
        finally:
            await docker.settled()
            await remove_system(docker, name, options.keeper)


@asynccontextmanager
async def kept_system(name: str, directory: Path, *, machines: int) -> AsyncIterator[ContainerSystem]:
    """A system as `dist-zero up` has it, with this process as its keeper."""
    directory.mkdir(parents=True, exist_ok=True)
    options = VirtualOptions(
        system=name,
        machines=machines,
        keeper=process_name(),
        directory=directory / "kept",
        store=directory / "store",
        logs=directory / "logs",
        image=setting("DIST_ZERO_IMAGE"),
        rabbitmq_image=setting("DIST_ZERO_RABBITMQ_IMAGE"),
        keep_log=True,
    )
    log = get_logger("keeper", RealClock(), system=name)
    async with Docker() as docker, VirtualSystem(options, docker, log, lambda *_: None) as system:
        parts = tuple(f"m{number}" for number in range(1, machines + 1))
        yield ContainerSystem(name, system.broker_url, directory, parts, (), kept=True)


def _machine_options(name: str, directory: Path, keep_log: bool) -> MachineOptions:
    directory.mkdir(parents=True, exist_ok=True)
    uid = _owner_id()
    return MachineOptions(
        system=name,
        keeper=process_name(),
        directory=directory,
        image=setting("DIST_ZERO_IMAGE"),
        network=container_name(name, NETWORK_PART),
        broker_url=_PASSWORDS.url(UserClass.AGENT, BROKER_HOST, BROKER_PORT),
        runner_broker_url=_PASSWORDS.url(UserClass.RUNNER, BROKER_HOST, BROKER_PORT),
        store=directory / "store",
        logs=directory / "logs",
        owner=Owner(uid, uid),
        keep_log=keep_log,
    )


def _owner_id() -> int:
    return os.geteuid() or CONTAINER_USER


def _scheduler(options: MachineOptions, part: str, machines: int) -> ContainerSpec:
    name = container_name(options.system, part)
    return ContainerSpec(
        name=name,
        image=options.image,
        labels=options.labels("scheduler"),
        network=options.network,
        command=SCHEDULER_COMMAND,
        environment={
            "AMQP_URL": _PASSWORDS.url(UserClass.SCHEDULER, BROKER_HOST, BROKER_PORT),
            "DIST_ZERO_SYSTEM": options.system,
            "DIST_ZERO_MACHINES": str(machines),
            "DIST_ZERO_STORE": STORE_TARGET,
            "DIST_ZERO_LOG_DIR": LOGS_TARGET,
        },
        hostname=part,
        aliases=(part,),
        user=f"{options.owner.uid}:{options.owner.gid}",
        mounts=(BindMount(options.store, STORE_TARGET), BindMount(options.logs / name, LOGS_TARGET)),
    )
