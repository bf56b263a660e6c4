"""A simulated system whose parts are processes, so that a fault plan can end them, stop them and cut them off.

What looks after processes in production looks after them here: an agent after its runners, the scheduler's spawner
after machines. The scheduler itself is started again as `docker compose` or systemd would, and keeps its programs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dist_zero.client.remote import RemoteSystem
from dist_zero.native import choice
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import first_error
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.stored import LogRecord
from dist_zero_common.sim.injector import Injector, Processes
from dist_zero_common.sim.processes import CURRENT, GuardedStore, Process, SkewedClock, guarded_connector
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store

if TYPE_CHECKING:
    import random

    from services.machine_agent.service import AgentService
    from services.node_runner.sequencer_events import SequencerOptions

AGAIN_SECONDS_MIN = 0.1
"""Who has ended is started again after this time, unless the fault says more."""
TIGHT_TRANSACTIONS = 16
"""Of the largest that there are, so many may be kept behind a base where room is tight: a save comes with a quarter of
them, and there are two records more before it at most."""


class FaultySystem(SimulatedSystem):
    """See `SimulatedSystem`; `injector` does the harm."""

    def __init__(
        self, world: SimWorld, *, machines: int, store: Store, sequencer: SequencerOptions | None = None
    ) -> None:
        super().__init__(
            world,
            machines=machines,
            store=store,
            sequencer=sequencer,
            make_executor=choice.make_tested_executor,
        )
        self.processes = Processes()
        clock = SkewedClock(world.clock)
        self.injector = Injector(world, self.broker, self.processes, clock)
        self.clock, self.store = clock, GuardedStore(store)
        self.store.on_created = self.injector.written
        self.store.on_deleted = self.injector.deleted
        self.injector.is_full = _is_full
        self.connector = guarded_connector(self.broker.connector)

    def may_reshard(self, program: str) -> None:
        """Let faults ask for other numbers of nodes for this program, as the command line would."""
        asked = itertools.count(1)

        async def reshard(nodes: int) -> None:
            name = f"scaler{next(asked)}"
            connect = self.broker.connector(f"client-{name}")
            remote = RemoteSystem("", self.name, self.world.clock, connect=connect, process=name)
            await remote.scale(program, nodes)

        self.injector.reshard = reshard

    async def run_process(
        self, kind: str, name: str, machine: str, main: Callable[[Process], Awaitable[None]]
    ) -> Process:
        """Run `main` as a process until it ends or is killed; returns the process."""
        process = self.processes.started(Process(kind, name, machine, self.world.rng("deaths")))
        await process.live(_as_coroutine(main, process))
        return process

    async def run_again(
        self, kind: str, name: str, main: Callable[[Process], Awaitable[None]], done: Callable[[], bool]
    ) -> None:
        """Run `main` as a process, and start it again whenever it has ended, until it is `done`."""
        while not done():
            await self.run_process(kind, name, "", main)
            if not done():
                away = self.processes.away_seconds.pop(kind, 0.0)
                await asyncio.sleep(max(AGAIN_SECONDS_MIN, away))

    async def _serve(self) -> None:
        from services.scheduler.spawners.in_process import InProcessSpawner

        try:
            async with asyncio.TaskGroup() as machines:
                log = get_logger("system", self.clock, system=self.name)
                spawner = InProcessSpawner(machines, self._run_machine, log)

                async def schedule(_process: Process) -> None:
                    await self._new_scheduler("scheduler", spawner, keeps_programs=True).run()

                await self.run_again("scheduler", "scheduler", schedule, lambda: False)
        except Exception as error:
            self.fail(first_error(error))

    async def _run_machine(self, machine: str) -> None:
        async def main(_process: Process) -> None:
            await super(FaultySystem, self)._run_machine(machine)

        CURRENT.set(None)  # who started it has no more to do with it
        await self.run_process("agent", machine, machine, main)

    def _on_agent(self, agent: AgentService) -> None:
        process = CURRENT.get()
        assert process is not None
        process.say_goodbye = agent.say_goodbye

    async def _run_runner(self, machine: str, runner: str, incarnation: int) -> None:
        async def main(_process: Process) -> None:
            await super(FaultySystem, self)._run_runner(machine, runner, incarnation)

        await self.run_process("runner", f"{runner}-{incarnation}", machine, main)


def drawn_rhythm(rng: random.Random, largest_bytes: int) -> SequencerOptions:
    """How often a program's state is saved, and how much may be kept behind a base: swarm of its own kind. A run of a
    few seconds that saves five times a second collects, and begins at bases; one that hardly ever saves goes long ways
    back. `largest_bytes`: of one transaction; bounds that hold less than some of them would stop the program."""
    from services.node_runner.sequencer_events import SequencerOptions

    interval, is_tight = rng.choice((0.2, 1.0, 5.0)), rng.random() < 0.25
    usual = SequencerOptions(save_interval_seconds=interval)
    if not is_tight:
        return usual
    return replace(
        usual,
        record_bytes=largest_bytes,
        record_bytes_max=largest_bytes,
        behind_bytes=TIGHT_TRANSACTIONS * largest_bytes,
    )


def _is_full(name: str, data: bytes) -> bool:
    """Whether a record of a program's log has transactions, or opens a generation; of the others, of which an idle time
    has many, every fourth one counts, for fences are among them."""
    if "/log/" not in name:
        return True
    record = decode(LogRecord, data)
    return bool(record.transactions) or record.begins is not None or record.epoch % 4 == 0


async def _as_coroutine(main: Callable[[Process], Awaitable[None]], process: Process) -> None:
    await main(process)
