"""Whole systems inside one process: scheduler, machines, runners, store and clients.

`SimulatedSystem` lives in a simulation (`dist_zero_common.sim`): virtual time, a network with weather,
everything from one seed. `EmbeddedSystem` lives on the real clock. Both have a broker that is an object, and
run the services that other modes run, unmodified; a `System` may as well be given connections to any other
broker. A service that fails takes the system down: whatever waits for an answer raises its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dist_zero.client.blocking import EitherWay
from dist_zero.client.change import MayChange
from dist_zero.client.client import Client
from dist_zero.client.opening import new_client
from dist_zero.client.remote import RemoteSystem
from dist_zero.native import choice
from dist_zero_common.broker.base import Connect
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.clock import Clock, RealClock
from dist_zero_common.errors import OperatorError, SettingsError, StoreError, first_error
from dist_zero_common.ids import checked_name
from dist_zero_common.log import get_logger
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.layout import number_of, scheduler_log_prefix
from dist_zero_common.store.memory import MemoryStore
from dist_zero_common.store.opening import open_directory
from dist_zero_common.store.probe import probe_store

if TYPE_CHECKING:
    from dist_zero.compiler.plan import Plan
    from dist_zero.executor import Executor
    from dist_zero.program import Program
    from services.machine_agent.service import AgentService
    from services.node_runner.sequencer_events import SequencerOptions
    from services.node_runner.service import RunnerService
    from services.scheduler.growth import GrowthOptions
    from services.scheduler.service import SchedulerService
    from services.scheduler.spawners.base import Spawner
    from services.scheduler.state import SchedulerOptions

Connector = Callable[[str], Connect]
"""Gives a part of the system, by its name, what makes its connections to the broker."""

STORE_PAUSE_SECONDS, STORE_PAUSE_SECONDS_MAX = 0.1, 6.4
"""Pauses between tries of a store that does not answer at the start: the first, and the last of those that double; some
13 seconds altogether."""
MACHINE_CORES = 2
MACHINE_BYTES = 4 * 2**30


class System:
    """All services of one system, as tasks of this loop; use `async with`."""

    broker: MemoryBroker
    """Of a simulated or embedded system: its broker."""

    def __init__(
        self,
        name: str,
        *,
        connector: Connector,
        store: Store,
        clock: Clock,
        machines: int,
        sequencer: SequencerOptions | None = None,
        growth: GrowthOptions | None = None,
    ) -> None:
        """`machines`: how many there are from the beginning; `growth`: how their number and programs follow the load,
        where they are let."""
        if machines < 1:
            raise SettingsError(f"{machines} machines: a system has at least one")
        self.name = checked_name("system", name)
        self.connector, self.store, self.clock = connector, store, clock
        self._machines, self._sequencer, self._growth = machines, sequencer, growth
        self._log = get_logger("system", clock, system=name)
        self._clients: list[Client] = []
        # together they name a connection, also among those of earlier starts
        self._connections = self._starts = self._scheduler_starts = 0
        self._services: asyncio.Task[None]
        self._schedulers: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup
        self._spawner: Spawner

    async def __aenter__(self) -> System:
        records = await self._first_listing()
        self._starts = number_of(records[-1]) if records else 0
        if isinstance(self.store, DirectoryStore):  # a file system may promise less than our memory
            await probe_store(self.store, f"{self.name}-{self._starts}")
        self._services = asyncio.create_task(self._serve(), name=f"system {self.name}")
        await asyncio.sleep(0)  # there may be further schedulers as soon as the first one was started
        return self

    async def _first_listing(self) -> list[str]:
        """The schedulers' log as it is. A store that does not answer at once may do so soon; one that never does is
        told to whoever starts this. Raises `StoreError`."""
        pause = STORE_PAUSE_SECONDS
        while True:
            try:
                return await self.store.list(scheduler_log_prefix())
            except StoreError as failed:
                if pause > STORE_PAUSE_SECONDS_MAX:
                    raise
                self._log.warning("store_failed", reason=str(failed), retry_seconds=pause)
            await asyncio.sleep(pause)
            pause *= 2

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._services.cancel()
        with suppress(asyncio.CancelledError):
            await self._services
        await self.store.close()

    @asynccontextmanager
    async def connect(
        self, program: Program | str, *, nodes: int = 1, client_id: str | None = None
    ) -> AsyncIterator[Client]:
        """A client of a program, which is submitted on `nodes` nodes if it is given whole; a name finds one
        that runs.

        `client_id` names its sessions, see `dz.connect`.
        """
        self._connections += 1
        connection = f"client-{self._starts}-{self._connections}"
        client = new_client(
            program,
            system=self.name,
            connection=connection,
            connect=self.connector(connection),
            clock=self.clock,
            nodes=nodes,
            client_id=client_id,
        )
        self._clients.append(client)
        try:
            if self._services.done():
                self._on_end()
            async with client:
                yield client
        finally:
            self._clients.remove(client)

    def fail(self, error: BaseException) -> None:
        """A service has failed: every client raises `error` from now on."""
        self._log.exception("service_failed", error)
        for client in self._clients:
            client.fail(error)

    # -- the services ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        from services.scheduler.spawners.in_process import InProcessSpawner

        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._spawner = InProcessSpawner(self._tasks, self._run_machine, self._log)
                self.start_scheduler("scheduler", keeps_programs=False)
                await asyncio.Event().wait()
        except Exception as error:
            self.fail(first_error(error))
        else:
            self._on_end()

    def start_scheduler(self, name: str, *, keeps_programs: bool = True) -> SchedulerService:
        """Start one more scheduler, which stands by while another one leads."""
        scheduler = self._new_scheduler(name, self._spawner, keeps_programs=keeps_programs)
        self._schedulers[name] = self._tasks.create_task(scheduler.run(), name=name)
        return scheduler

    def _new_scheduler(self, name: str, spawner: Spawner, *, keeps_programs: bool) -> SchedulerService:
        """A scheduler; the first one need not wait to see whether another one leads."""
        from services.scheduler.lead import LeadOptions
        from services.scheduler.service import SchedulerService

        self._scheduler_starts += 1
        return SchedulerService(
            system=self.name,
            connect=self.connector(name),
            store=self.store,
            clock=self.clock,
            spawner=spawner,
            log=get_logger("scheduler", self.clock),
            options=self._scheduler_options(keeps_programs),
            lead=LeadOptions(
                name=f"{name}-{self._starts}-{self._scheduler_starts}", at_once=self._scheduler_starts == 1
            ),
        )

    def _scheduler_options(self, keeps_programs: bool) -> SchedulerOptions:
        from services.scheduler.growth import GrowthOptions
        from services.scheduler.state import SchedulerOptions

        growth = self._growth or GrowthOptions()
        return SchedulerOptions(machines=self._machines, keeps_programs=keeps_programs, growth=growth)

    async def kill_scheduler(self, name: str) -> None:
        """End a scheduler, whatever it is at."""
        task = self._schedulers.pop(name)
        task.cancel()
        await asyncio.wait([task])

    def _on_end(self) -> None:
        self.fail(OperatorError(f"the services of system {self.name!r} have ended"))

    async def _run_machine(self, machine: str) -> None:
        from services.machine_agent.launchers.in_process import InProcessLauncher
        from services.machine_agent.service import AgentService

        async def run_runner(runner: str, incarnation: int) -> None:
            await self._run_runner(machine, runner, incarnation)

        log = get_logger("machine-agent", self.clock)
        try:
            async with InProcessLauncher(run_runner, log) as launcher:
                agent = AgentService(
                    system=self.name,
                    machine=machine,
                    connect=self.connector(f"agent-{machine}"),
                    clock=self.clock,
                    launcher=launcher,
                    cores=MACHINE_CORES,
                    memory_bytes=MACHINE_BYTES,
                    labels=(),
                    log=log,
                )
                self._on_agent(agent)
                await agent.run()
        except Exception as error:
            self.fail(first_error(error))
            raise

    def _on_agent(self, agent: AgentService) -> None:
        """A machine's agent is about to run."""

    async def _run_runner(self, machine: str, runner: str, incarnation: int) -> None:
        try:
            await self._new_runner(machine, runner, incarnation).run()
        except Exception as error:
            self.fail(first_error(error))
            raise

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        """A machine's next runner, in the task that will run it. `others`: what it is given beside the usual."""
        from services.node_runner.service import RunnerService

        return RunnerService(
            system=self.name,
            runner=runner,
            incarnation=incarnation,
            machine=machine,
            connect=self.connector(f"runner-{runner}-{incarnation}"),
            store=self.store,
            clock=self.clock,
            log=get_logger("node-runner", self.clock),
            options=self._sequencer,
            **others,
        )


class SimulatedSystem(System):
    """A system inside the simulation `world`. `store`: a directory to keep the log in, a store, or None for
    memory."""

    def __init__(
        self,
        world: SimWorld,
        *,
        machines: int = 1,
        store: str | Path | Store | None = None,
        name: str = "local",
        sequencer: SequencerOptions | None = None,
        growth: GrowthOptions | None = None,
        make_executor: Callable[[Plan], Executor] = choice.make_executor,
    ) -> None:
        self.world, self._make_executor = world, make_executor
        if store is None:
            store = MemoryStore(world=world)
        elif isinstance(store, str | Path):
            store = open_directory(store, threads=False)
        self.broker = MemoryBroker(world)
        super().__init__(
            name,
            connector=self.broker.connector,
            store=store,
            clock=world.clock,
            machines=machines,
            sequencer=sequencer,
            growth=growth,
        )

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        return super()._new_runner(
            machine, runner, incarnation, **{"make_executor": self._make_executor, **others}
        )


class EmbeddedSystem(System):
    """A system in this process, on the real clock. `store`: a directory to keep the log in, or None for
    memory."""

    def __init__(self, *, machines: int = 1, store: str | Path | None = None, name: str = "local") -> None:
        self.broker = MemoryBroker(hands_on=True)
        super().__init__(
            name,
            connector=self.broker.connector,
            store=MemoryStore() if store is None else open_directory(store),
            clock=RealClock(),
            machines=machines,
        )

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        return super()._new_runner(machine, runner, incarnation, **{"prepare": choice.prepare, **others})


class Embedded(EitherWay):
    """What `dz.embedded` gives: `async with` it for a `Client`, `with` it for a `BlockingClient`, or `open` it."""

    def __init__(
        self,
        program: Program,
        store: str | Path | None,
        nodes: int,
        client_id: str | None,
        change: MayChange | None,
    ) -> None:
        super().__init__(self._live)
        self._change = change
        self._program, self._store, self._nodes, self._client_id = program, store, nodes, client_id

    def _written(self) -> str:
        return "dz.embedded(app)"

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[Client]:
        async with EmbeddedSystem(store=self._store) as system:
            if self._change is not None:
                connect = system.connector("changes")
                remote = RemoteSystem("", system.name, system.clock, connect=connect, process="changes")
                await remote.change(self._program, self._change, nodes=self._nodes)
            async with system.connect(self._program, nodes=self._nodes, client_id=self._client_id) as client:
                client.system = system
                yield client


def embedded(
    program: Program,
    store: str | Path | None = None,
    *,
    nodes: int = 1,
    client_id: str | None = None,
    change: MayChange | None = None,
) -> Embedded:
    """The whole system in this process, for notebooks and small services::

        with dz.embedded(app, store="./data") as db:
            db.put("scores", {"player": "ann", "points": 7})
            print(db["board"])

    `async with` gives the same with `await`; `db = dz.embedded(app).open()` and `db.close()` do without a block.
    `store`: a directory that keeps the program's log, so that the next start goes on where this one ended; None keeps
    everything in memory. `nodes`: how many share the data. `client_id`: see `dz.connect`.
    `change`: `dz.MayChange()` lets the program take the place of the one that the store has under its name.
    """
    return Embedded(program, store, nodes, client_id, change)
