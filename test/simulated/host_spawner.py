"""A spawner of a simulated system whose hosts do not come, cannot be paid for, or outlive their end; of both roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import get_logger
from dist_zero_common.sim.world import SimWorld
from services.scheduler.hosts import HostOptions
from services.scheduler.lead import LeadOptions
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.base import Role, role_of
from services.scheduler.state import SchedulerOptions


class HostSpawner:
    """See `Spawner`. What runs on a host is a task, which `start` makes."""

    def __init__(self, start: Callable[[str], asyncio.Task[None]]) -> None:
        self._start = start
        self.tasks: dict[str, asyncio.Task[None] | None] = {}
        self.zombies: list[tuple[str, asyncio.Task[None]]] = []
        """What still runs on hosts that were ended."""
        self.never: set[str] = set()
        """Hosts on which nothing comes up."""
        self.immortal: set[str] = set()
        """Hosts that are ended as far as anybody can see, and go on."""
        self.refuses: dict[str, str] = {}
        """What is said when a host is asked for."""
        self.spawned: list[tuple[float, str]] = []
        self.stopped: list[tuple[float, str]] = []

    async def spawn(self, host: str) -> None:
        if host in self.refuses:
            raise OperatorError(self.refuses[host])
        if host not in self.tasks:
            self.spawned.append((asyncio.get_running_loop().time(), host))
            self.tasks[host] = None if host in self.never else self._start(host)

    async def stop(self, host: str) -> None:
        if host not in self.tasks:
            return
        self.stopped.append((asyncio.get_running_loop().time(), host))
        task = self.tasks.pop(host)
        if task is not None and host in self.immortal:
            self.zombies.append((host, task))
        elif task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def list(self) -> list[str]:
        return sorted(self.tasks)

    async def kill(self, host: str) -> None:
        """What runs there is gone without a word; the host stays, for all that the spawner knows."""
        task, self.tasks[host] = self.tasks[host], None
        assert task is not None
        task.cancel()
        await asyncio.wait([task])


class HostedSystem(SimulatedSystem):
    """A system over such a spawner. The first scheduler runs on host s1."""

    def __init__(
        self, world: SimWorld, *, machines: int, schedulers: int | None = 1, hosts: HostOptions
    ) -> None:
        super().__init__(world, machines=machines)
        self.hosts = HostSpawner(self._start_host)
        self.services: dict[str, SchedulerService] = {}
        self._schedulers_wanted, self._host_options = schedulers, hosts

    async def __aenter__(self) -> HostedSystem:
        await super().__aenter__()
        return self

    def start_scheduler(self, name: str, *, keeps_programs: bool = True) -> SchedulerService:  # noqa: ARG002
        self.hosts.tasks["s1"] = self._start_host("s1")
        return self.services["s1"]

    def _start_host(self, host: str) -> asyncio.Task[None]:
        if role_of(host) is Role.MACHINE:
            return self._tasks.create_task(self._ending(self._run_machine(host)), name=host)
        self._scheduler_starts += 1
        service = self.services[host] = SchedulerService(
            system=self.name,
            connect=self.connector(f"{host}-{self._scheduler_starts}"),
            store=self.store,
            clock=self.clock,
            spawner=self.hosts,
            log=get_logger("scheduler", self.clock),
            options=SchedulerOptions(
                machines=self._machines,
                schedulers=self._schedulers_wanted,
                host=host,
                hosts=self._host_options,
                keeps_programs=self._scheduler_starts > 1,
            ),
            lead=LeadOptions(name=f"{host}-{self._scheduler_starts}", at_once=self._scheduler_starts == 1),
        )
        return self._tasks.create_task(self._ending(service.run()), name=host)

    async def _ending(self, running: object) -> None:
        await running  # type: ignore[misc]
