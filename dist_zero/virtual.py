"""A whole system on this host: each machine in a container of its own, over RabbitMQ.

The scheduler runs in this process, where Docker can be reached; containers hold the machines and, unless one is given,
the broker. What belongs to the system carries its labels, so taking it down needs no memory of what was done: whatever
is marked with this system and this process goes, however far the start had come. The store is a directory of the host.

Broker, network and machines are started at once: a machine that is there before the broker tries until it answers.
A broker of ours has the users of `definitions.py` with passwords drawn for this start, and is reached from this host's
loopback alone. A broker that was given is used by everybody with the user it was given with; containers then share the
host's network, so that they reach it as this process does, and the system's queues are deleted at the end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dist_zero_common.broker.base import Broker
from dist_zero_common.broker.definitions import (
    CONFIGURATION,
    CONFIGURATION_PATH,
    DATA_PATH,
    DEFINITIONS_PATH,
    PLUGINS,
    PLUGINS_PATH,
    Passwords,
    definitions,
    environment,
)
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.topology import UserClass, agent_inbox, scheduler_inbox
from dist_zero_common.clock import RealClock
from dist_zero_common.containers import (
    DIRECTORY_LABEL,
    HOST_NETWORK,
    KEEPER_LABEL,
    SYSTEM_LABEL,
    BindMount,
    ContainerSpec,
    Docker,
    NameTaken,
    container_name,
)
from dist_zero_common.errors import BrokerError, OperatorError, first_error
from dist_zero_common.log import Logger
from dist_zero_common.processes import is_running
from dist_zero_common.store.directory import DirectoryStore

if TYPE_CHECKING:
    from services.scheduler.service import SchedulerService
    from services.scheduler.spawners.docker import MachineOptions, Owner

BROKER_PART, BROKER_ROLE, BROKER_HOST, BROKER_PORT = "broker", "broker", "broker", 5672
CONTAINER_USER = 1000
"""Whom containers run as when the caller is root, which they never are."""
START_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.05
WATCH_SECONDS = 2.0
ONE_SCHEDULER = (
    "in virtual mode the scheduler is part of the process that `up` has left running, and there is one; with"
    " docker-compose there may be several (docs/compose.md)"
)
"""What to do instead of asking for more schedulers."""
ENDED_MAX = 3
"""A machine that ends so often while the system starts will not come up."""
_PASSWORD_BYTES = 24
_PORT_ATTEMPTS = 5

Tell = Callable[[str, int, int], None]
"""Hears how far the start is: `broker` or `machines`, how many are there, of how many."""


@dataclass(frozen=True, slots=True)
class VirtualOptions:
    """What a virtual system is to be. `directory` holds what the system needs beside its store and is its own; `logs`
    gets a directory per container; `keeper` is this process's name. `broker_url`: a broker that is there, or empty.
    `growth`: how machines and programs follow the load, where it is not as usual. `logstash`: where machines send their
    events, too, as this host names it. `report_seconds`, `lost_seconds`: when a machine is replaced, see
    `services/scheduler/hosts.py`. `metrics`: whether machines give out metrics, each at a port that is free."""

    system: str
    machines: int
    keeper: str
    directory: Path
    store: Path
    logs: Path
    image: str
    rabbitmq_image: str
    broker_url: str = field(default="", repr=False)
    log_level: str = "info"
    keep_log: bool = False
    cores: float | None = None
    memory_bytes: int | None = None
    growth: tuple[tuple[str, float], ...] = ()
    logstash: tuple[str, int] | None = None
    report_seconds: float = 600.0
    lost_seconds: float = 300.0
    metrics: bool = False


class VirtualSystem:
    """Use `async with`: inside, all machines are ready."""

    def __init__(self, options: VirtualOptions, docker: Docker, log: Logger, tell: Tell) -> None:
        self.broker_url = options.broker_url
        """Where clients find the broker."""
        self.agent_url = self.runner_url = options.broker_url
        """Where a machine of this host's finds it that joins the system."""
        self._options, self._docker, self._log, self._tell = options, docker, log, tell
        self._tasks: list[asyncio.Task[None]] = []
        self._passwords = Passwords({user: secrets.token_urlsafe(_PASSWORD_BYTES) for user in UserClass})
        self._scheduler: SchedulerService
        self._scheduling: asyncio.Task[None]
        self._used = _UsedQueues(options)
        self._torn_down = False

    @property
    def scheduler(self) -> SchedulerService:
        """The scheduler, which runs in this process."""
        return self._scheduler

    async def __aenter__(self) -> VirtualSystem:
        try:
            await self._start()
        except BaseException as error:
            await self._tear_down()
            if isinstance(error, BaseExceptionGroup):
                raise first_error(error) from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tear_down()

    async def wait_failed(self) -> None:
        """Wait until the scheduler ends, which it does for a reason only; raises that."""
        await asyncio.wait([self._scheduling])
        await self._scheduling
        raise OperatorError("the scheduler has ended")

    # -- start -----------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        from services.scheduler.growth import growth_options
        from services.scheduler.hosts import HostOptions
        from services.scheduler.lead import LeadOptions
        from services.scheduler.service import SchedulerService
        from services.scheduler.spawners.base import Role
        from services.scheduler.spawners.docker import DockerSpawner
        from services.scheduler.state import SchedulerOptions

        options = self._options
        await check_absent(self._docker, options.system, self._log)
        await self._check_images()
        owner = _owner()
        self._prepare_directories(owner)
        store = DirectoryStore(options.store, shared=True)
        try:
            if options.broker_url:
                machines = self._machine_options(owner, HOST_NETWORK, self.broker_url, self.broker_url)
                await self._check_broker()
                before: list[Awaitable[None]] = []
            else:
                network = container_name(options.system, "network")
                machines = self._machine_options(
                    owner,
                    network,
                    self._passwords.url(UserClass.AGENT, BROKER_HOST, BROKER_PORT),
                    self._passwords.url(UserClass.RUNNER, BROKER_HOST, BROKER_PORT),
                )
                await self._docker.create_network(network, machines.labels("network"))
                await self._run_broker(machines)
            spawner = DockerSpawner(self._docker, machines, self._log)
            before = [spawner.spawn(f"m{number}") for number in range(1, options.machines + 1)]
            self._scheduler = SchedulerService(
                system=options.system,
                connect=connector(self._scheduler_url, f"scheduler of {options.system}"),
                store=store,
                clock=RealClock(),
                spawner=spawner,
                log=self._log,
                options=SchedulerOptions(
                    machines=options.machines,
                    hosts=HostOptions(options.report_seconds, options.lost_seconds),
                    unobtainable={Role.SCHEDULER: ONE_SCHEDULER},
                    store=str(options.store),
                    growth=growth_options(options.growth),
                ),
                lead=LeadOptions(name=f"keeper-{secrets.token_hex(6)}", at_once=True),
            )
            self._scheduling = asyncio.create_task(self._run_scheduler(store), name="scheduler")
        except BaseException:
            await store.close()
            raise
        self._tasks.append(self._scheduling)
        async with asyncio.TaskGroup() as tasks:
            for each in before:
                tasks.create_task(_awaited(each))
            tasks.create_task(self._wait_ready(spawner.ended))
        if options.broker_url:
            self._tasks.append(asyncio.create_task(self._note_queues(), name="used queues"))
        else:
            self._tasks.append(asyncio.create_task(self._watch_broker(), name="broker's watch"))

    async def _run_scheduler(self, store: DirectoryStore) -> None:
        try:
            await self._scheduler.run()
        except Exception as error:
            raise first_error(error) from None
        finally:
            await store.close()

    async def _check_images(self) -> None:
        options = self._options
        wanted = [options.image] if options.broker_url else [options.image, options.rabbitmq_image]
        missing = [image for image in wanted if not await self._docker.has_image(image)]
        if missing:
            raise OperatorError(
                f"there is no image {' and no image '.join(missing)} here: `make images` builds and fetches what is"
                " needed; DIST_ZERO_IMAGE and DIST_ZERO_RABBITMQ_IMAGE name others"
            )

    def _prepare_directories(self, owner: Owner) -> None:
        from services.scheduler.spawners.docker import made_directory

        self._options.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        made_directory(self._options.store, owner)
        owner.give_all(self._options.store)

    def _machine_options(self, owner: Owner, network: str, agent_url: str, runner_url: str) -> MachineOptions:
        from services.scheduler.spawners.docker import MachineOptions

        options = self._options
        return MachineOptions(
            system=options.system,
            keeper=options.keeper,
            directory=options.directory,
            image=options.image,
            network=network,
            broker_url=agent_url,
            runner_broker_url=runner_url,
            store=options.store,
            logs=options.logs,
            owner=owner,
            log_level=options.log_level,
            keep_log=options.keep_log,
            cores=options.cores,
            memory_bytes=options.memory_bytes,
            logstash=options.logstash,
            metrics=options.metrics,
        )

    async def _run_broker(self, machines: MachineOptions) -> None:
        """Start a RabbitMQ of this system's own, at a free port of the loopback."""
        directory = self._options.directory / BROKER_PART
        for attempt in range(_PORT_ATTEMPTS):
            port = _free_port()
            spec = broker_container(machines, self._options.rabbitmq_image, directory, self._passwords, port)
            try:
                await self._docker.run(spec)
            except NameTaken as taken:
                raise _up_already(self._options.system, "elsewhere") from taken
            except OperatorError as error:
                if "port is already allocated" not in str(error) or attempt == _PORT_ATTEMPTS - 1:
                    raise
            else:
                self.broker_url = self._passwords.url(UserClass.CLIENT, "127.0.0.1", port)
                self._scheduler_url = self._passwords.url(UserClass.SCHEDULER, "127.0.0.1", port)
                self.agent_url = self._passwords.url(UserClass.AGENT, "127.0.0.1", port)
                self.runner_url = self._passwords.url(UserClass.RUNNER, "127.0.0.1", port)
                return

    async def _check_broker(self) -> None:
        """A broker that was given: can it be reached, and does nobody run this system there already."""
        self._scheduler_url = self.broker_url
        try:
            await self._look_at_broker()
        except BrokerError as error:
            raise OperatorError(
                f"{error}. This broker was given, by --broker or AMQP_URL (of the environment or .env), so its user has"
                " to do all that services do; `--broker new` starts one for this system instead"
            ) from error

    async def _look_at_broker(self) -> None:
        broker = await connector(self.broker_url, f"keeper of {self._options.system}")()
        try:
            inbox = scheduler_inbox(self._options.system)
            depth = await broker.depth(inbox)
            if depth is not None and depth.consumers:
                raise OperatorError(
                    f"a system {self._options.system!r} runs at this broker already: end that, or name this one"
                    " otherwise with --system"
                )
            await broker.delete(inbox)  # with what was said to a scheduler that is no more
        finally:
            await broker.close()

    async def _wait_ready(self, ended: dict[str, list[str]]) -> None:
        """Wait until every machine is ready, and say how far it is."""
        from dist_zero_common.broker.base import ConnectionState
        from services.scheduler.state import ready_machines

        clock, wanted = RealClock(), self._options.machines
        deadline = clock.monotonic() + START_SECONDS_MAX
        connected, ready = False, 0
        self._tell("broker", 0, 1)
        while ready < wanted:
            await asyncio.sleep(LOOK_SECONDS)
            if self._scheduling.done():
                await self._scheduling
            post = getattr(self._scheduler, "post", None)
            if post is None:
                continue
            if not connected and post.state is ConnectionState.CONNECTED:
                connected = True
                self._tell("broker", 1, 1)
                self._tell("machines", 0, wanted)
            now = len(ready_machines(self._scheduler.desired, self._scheduler.observed, clock.monotonic()))
            if now > ready:
                ready = now
                self._tell("machines", ready, wanted)
            for machine, said in ended.items():
                if len(said) >= ENDED_MAX:
                    raise OperatorError(f"machine {machine} ends again and again; it said: {said[-1]}")
            if clock.monotonic() > deadline:
                raise OperatorError(await self._too_slow(connected, ready))

    async def _too_slow(self, connected: bool, ready: int) -> str:
        name = container_name(self._options.system, "m1" if connected else BROKER_PART)
        said = (await self._docker.output(name, lines=3)).strip()
        what = (
            f"{ready} of {self._options.machines} machines are ready"
            if connected
            else "the broker does not answer"
        )
        return f"{what} after {START_SECONDS_MAX:.0f} s; {name} said: {said or 'nothing'}"

    # -- while it is up ----------------------------------------------------------------------------------------

    async def _watch_broker(self) -> None:
        """Start our broker again if it ended. It has forgotten what it held: who misses something asks again."""
        name = container_name(self._options.system, BROKER_PART)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if not await self._docker.is_running(name):
                    self._log.warning("broker_ended", container=name)
                    await self._docker.start(name)
            except OperatorError as error:
                self._log.error("broker_not_restarted", reason=str(error))

    async def _note_queues(self) -> None:
        while True:
            self._used.note(self._scheduler)
            await asyncio.sleep(WATCH_SECONDS)

    # -- the end -----------------------------------------------------------------------------------------------

    async def _tear_down(self) -> None:
        from services.scheduler.spawners.docker import forget_targets

        if self._torn_down:
            return
        self._torn_down = True
        options = self._options
        if hasattr(self, "_scheduling"):
            self._used.note(self._scheduler)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        await self._docker.settled()
        await self._keep_output()
        await remove_system(self._docker, options.system, options.keeper)
        for logs in options.logs.glob(container_name(options.system, "*")):
            forget_targets(logs)
        if options.broker_url:
            await self._delete_queues()
        shutil.rmtree(options.directory / BROKER_PART, ignore_errors=True)

    async def _keep_output(self) -> None:
        """What our broker said goes into a file; machines have logged where it stays."""
        name = container_name(self._options.system, BROKER_PART)
        with suppress(OperatorError, OSError):
            if output := await self._docker.output(name):
                directory = self._options.logs / name
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "output.log").write_text(output)

    async def _delete_queues(self) -> None:
        try:
            await delete_queues(self._options.broker_url, self._used.names)
            self._used.forget()
        except OperatorError as error:
            self._log.warning("queues_left", reason=str(error), queues=sorted(self._used.names))


def broker_container(
    machines: MachineOptions, image: str, directory: Path, passwords: Passwords, port: int
) -> ContainerSpec:
    """The RabbitMQ of a system with these machines, at this port of the loopback; what it reads when it starts is
    written to `directory`."""
    directory.mkdir(exist_ok=True)
    mounts = []
    for path, content in (
        (DEFINITIONS_PATH, definitions(passwords, secrets.token_bytes(4), machines.system)),
        (CONFIGURATION_PATH, CONFIGURATION),
        (PLUGINS_PATH, PLUGINS),
    ):
        file = directory / Path(path).name
        file.write_text(content)
        file.chmod(0o644)  # RabbitMQ's user in there reads it; there are no passwords in it, only hashes
        mounts.append(BindMount(file, path, read_only=True))
    return ContainerSpec(
        name=container_name(machines.system, BROKER_PART),
        image=image,
        labels=machines.labels(BROKER_ROLE),
        network=machines.network,
        hostname=BROKER_HOST,
        aliases=(BROKER_HOST,),
        environment=environment(BROKER_HOST),
        mounts=tuple(mounts),
        in_memory=(DATA_PATH,),
        loopback_ports={BROKER_PORT: port},
    )


class _UsedQueues:
    """The queues that a system has at a broker that was given; also in a file, for when this process is killed."""

    def __init__(self, options: VirtualOptions) -> None:
        self.names: set[str] = set()
        self._system, self._url = options.system, options.broker_url
        self._file = used_queues_file(options.directory)
        self._machines = options.machines if options.broker_url else 0

    def note(self, scheduler: SchedulerService) -> None:
        """Add those that the scheduler knows of by now."""
        if not self._machines:
            return
        names = {scheduler_inbox(self._system)}
        names.update(agent_inbox(self._system, f"m{number}") for number in range(1, self._machines + 1))
        for machine in scheduler.observed.machines.values():
            names.add(machine.report.inbox)
        for runner in scheduler.observed.runners.values():
            names.add(runner.report.inbox)
        desired = getattr(scheduler, "desired", None)
        for program in desired.programs.values() if desired is not None else ():
            if program.assignment is not None:
                names.update(
                    (program.assignment.placement.clients_inbox, program.assignment.placement.nodes_inbox)
                )
        if not names <= self.names:
            self.names |= names
            self._file.touch(mode=0o600)  # there is a password in the first line
            self._file.write_text("".join(f"{line}\n" for line in (self._url, *sorted(self.names))))

    def forget(self) -> None:
        """They are gone."""
        self._file.unlink(missing_ok=True)


def used_queues_file(directory: Path) -> Path:
    """Where the URL of a broker that was given stands, and the names of the system's queues there, each in a line."""
    return directory / "queues"


async def delete_queues(url: str, names: Collection[str]) -> None:
    """Delete these queues with what they hold; missing ones are no error."""
    broker: Broker = await connector(url, "end of a system")()
    try:
        for name in sorted(names):
            await broker.delete(name)
    finally:
        await broker.close()


async def remove_system(docker: Docker, system: str, keeper: str) -> list[str]:
    """Remove all that is marked with this system and keeper (any keeper, if it is empty); what that was, in words."""
    labels = {SYSTEM_LABEL: system, KEEPER_LABEL: keeper}
    removed = []
    containers = await docker.containers(labels)
    await asyncio.gather(*(docker.remove(each.name) for each in containers))
    removed += [f"container {each.name}" for each in containers]
    networks = await docker.networks(labels)
    for network in networks:
        await docker.remove_network(network)
        removed.append(f"network {network.name}")
    for volume in await docker.volumes(labels):
        await docker.remove_volume(volume)
        removed.append(f"volume {volume.name}")
    return removed


async def check_absent(docker: Docker, system: str, log: Logger) -> None:
    """Raise `OperatorError` if a system of this name is up; remove what one left whose keeper is gone."""
    labels = {SYSTEM_LABEL: system}
    found = [each.labels for each in await docker.containers(labels)]
    found += [each.labels for each in await docker.networks(labels)]
    for keeper in sorted({each.get(KEEPER_LABEL, "") for each in found}):
        if is_running(keeper):
            where = next(each.get(DIRECTORY_LABEL, "") for each in found if each.get(KEEPER_LABEL) == keeper)
            raise _up_already(system, f"with its files in {where}")
        for removed in await remove_system(docker, system, keeper):
            log.warning("orphan_removed", what=removed)


async def orphaned(docker: Docker) -> dict[tuple[str, str], list[str]]:
    """What is on this host of systems whose keeper is gone, in words, by system and keeper."""
    labels = {SYSTEM_LABEL: "", KEEPER_LABEL: ""}
    found = [
        *((f"container {each.name}", each.labels) for each in await docker.containers(labels)),
        *((f"network {each.name}", each.labels) for each in await docker.networks(labels)),
        *((f"volume {each.name}", each.labels) for each in await docker.volumes(labels)),
    ]
    orphans: dict[tuple[str, str], list[str]] = {}
    for what, marks in found:
        if not is_running(marks[KEEPER_LABEL]):
            orphans.setdefault((marks[SYSTEM_LABEL], marks[KEEPER_LABEL]), []).append(what)
    return orphans


def _up_already(system: str, where: str) -> OperatorError:
    return OperatorError(
        f"a system {system!r} is up on this host already ({where}): end it with `dist-zero down --system {system}`, or"
        " name this one otherwise with --system"
    )


def _owner() -> Owner:
    from services.scheduler.spawners.docker import Owner

    if os.geteuid() == 0:
        return Owner(CONTAINER_USER, CONTAINER_USER)
    return Owner(os.geteuid(), os.getegid())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable
