"""A simulated system for one test: virtual time, faults from a seed, and at the end the question whether all is right.

What the test does is a step of the simulation (`sim.loop.Simulation`), or several: a coroutine is one step as a whole,
in a plain function every call is one, and between two calls time stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import Any, TypeVar

from dist_zero.client.blocking import BlockingClient, EitherWay
from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot
from dist_zero.program import Program
from dist_zero.testing.checks import log_of, recomputed_differences
from dist_zero.testing.faulty import FaultySystem, drawn_rhythm
from dist_zero.testing.running import PROGRESS_SECONDS, NoProgress
from dist_zero_common.errors import RequestError
from dist_zero_common.sim.loop import Simulation
from dist_zero_common.sim.plan import KINDS, FaultPlan, drawn_faults
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

T = TypeVar("T")

LARGEST_BYTES = 1 << 20
"""No transaction of a test is expected to be larger."""
BOUND_SECONDS, BOUND_EVENTS = 3_600.0, 4_000_000
"""A test that has not ended by then waits for something that does not come."""


class SystemUnderTest:
    """A system of several machines in a simulation of its own, with the faults of `seed`: what the pytest fixture
    `dist_zero_system` is.

    Programs are reached with `connect`: `async with` it in a coroutine, `with` it in a plain function. In coroutines
    everything of asyncio goes by virtual time, so `await asyncio.sleep(60)` costs next to nothing; plain functions say
    `system.sleep(60)`.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        faults: tuple[str, ...] = tuple(KINDS),
        machines: int = 2,
        nodes: int = 3,
    ) -> None:
        self.seed = seed
        self.plan: FaultPlan = drawn_faults(seed, faults, machines)
        """What goes wrong, and when: in seconds after the system began."""
        self._nodes = nodes
        self.world = SimWorld(seed, "faithful")
        self._objects = MemoryObjects(remembers=True)
        self._system = FaultySystem(
            self.world,
            machines=machines,
            store=MemoryStore(self._objects, self.world),
            sequencer=drawn_rhythm(self.world.rng("rhythm"), LARGEST_BYTES),
        )
        self._simulation = Simulation(until_seconds=BOUND_SECONDS, events_max=BOUND_EVENTS)
        self._programs: dict[str, Program] = {}
        self._injecting: asyncio.Task[None]
        self._exits = ExitStack()

    def __enter__(self) -> SystemUnderTest:
        self._exits.enter_context(self._simulation)
        self._simulation.run(self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.push(lambda *_: self._simulation.run(self._end()))
        self._exits.__exit__(kind, error, traceback)

    # -- for tests -----------------------------------------------------------------------------------------------

    def connect(self, program: Program, *, nodes: int = 0, client_id: str | None = None) -> EitherWay:
        """A client of a program, which is submitted on `nodes` nodes (0: as many as the test has) if it does not run
        yet. `client_id`: see `dz.connect`."""
        if not self._programs:
            self._system.may_reshard(program.name)
        known = self._programs.setdefault(program.name, program)
        if known is not program:
            raise RequestError(
                f"another program {program.name!r} runs in this test: give one of them another name"
            )

        def opened() -> AbstractAsyncContextManager[Client]:
            return self._system.connect(program, nodes=nodes or self._nodes, client_id=client_id)

        return _Steps(opened, self._simulation)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In a plain function: run a coroutine of the simulation to its end, and return what it returns."""
        return self._simulation.run(work)

    def sleep(self, seconds: float) -> None:
        """In a plain function: let virtual time go by. Coroutines say `await asyncio.sleep(seconds)`."""
        self._simulation.run(asyncio.sleep(seconds))

    async def healed(self) -> None:
        """Wait until the last fault of the seed is over; in a plain function `system.run(system.healed())`."""
        await asyncio.shield(self._injecting)

    # -- for whoever runs the test ---------------------------------------------------------------------------------

    def run_test(self, test: Coroutine[Any, Any, T]) -> T:
        """Run a test that is a coroutine."""
        return self._simulation.run(test)

    def check(self) -> None:
        """End all faults, and ask of each program of the test: does it get done what it has to do, do its views equal
        their recomputation from the log, do its invariants hold? Raises `AssertionError` if not."""
        __tracebackhide__ = True
        self._simulation.run(self._check())

    def story(self) -> list[str]:
        """What went wrong in the course of the test, with the seconds."""
        return [f"{at:9.3f} s  {line}" for at, line in self._system.injector.lines]

    async def _begin(self) -> None:
        await self._system.__aenter__()
        self._injecting = asyncio.create_task(self._system.injector.run(self.plan), name="faults")

    async def _end(self) -> None:
        self._injecting.cancel()
        await asyncio.wait([self._injecting])
        await self._system.__aexit__(None, None, None)

    async def _check(self) -> None:
        self._system.injector.heal()
        self._injecting.cancel()
        await asyncio.wait([self._injecting])
        self._system.injector.heal()
        for program in self._programs.values():
            wrong = await self._wrong_with(program)
            if wrong:
                raise AssertionError(f"program {program.name!r} behind the test: " + "; ".join(wrong))

    async def _wrong_with(self, program: Program) -> list[str]:
        late = ""
        try:
            async with asyncio.timeout(PROGRESS_SECONDS):
                async with self._system.connect(program, nodes=self._nodes) as client:
                    try:
                        snapshot = await client.snapshot()
                    except asyncio.CancelledError:
                        late = f"; {client.waiting_for}"
                        raise
        except TimeoutError:
            what = f"{PROGRESS_SECONDS:g} s after the last fault was over, program {program.name!r} shows nothing"
            raise NoProgress(what + late) from None
        log = await log_of(MemoryStore(self._objects), program.name)
        differences = recomputed_differences(
            program.graph(), client.plan, log, snapshot.epoch, {**snapshot.stored}, {**snapshot.errors}
        )
        return differences or _broken(program, snapshot)


def _broken(program: Program, snapshot: Snapshot) -> list[str]:
    """The invariants that do not hold of these views."""
    said = []
    for invariant in program.invariants:
        why = invariant.broken_by({view: snapshot[view] for view in invariant.views})
        said += [] if why is None else [f"invariant {invariant.name!r} does not hold: {why}"]
    return said


class _Steps(EitherWay):
    """A client that plain functions drive step by step."""

    def __init__(self, opened: Any, simulation: Simulation) -> None:
        super().__init__(opened)
        self._simulation = simulation

    def _written(self) -> str:
        return "dist_zero_system.connect(app)"

    def __enter__(self) -> BlockingClient:
        self._blocking = _SteppedClient(self._opened, self._simulation)
        return self._blocking.__enter__()


class _SteppedClient(BlockingClient):
    """See `BlockingClient`. Instead of a thread there is a simulation, which goes on as long as a call takes."""

    def __init__(self, connect: Any, simulation: Simulation) -> None:
        super().__init__(connect)
        self._simulation = simulation
        self._living: asyncio.Task[None] | None = None

    def __enter__(self) -> BlockingClient:
        self._simulation.run(self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._living is not None and not self._living.done():
            self._simulation.run(self._end())

    @property
    def _is_open(self) -> bool:
        return self._living is not None and not self._living.done()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._is_open:
            work.close()
            raise RequestError("this database is closed: use it inside its with block, or before close()")
        return self._simulation.run(work)

    async def _begin(self) -> None:
        entered = asyncio.Event()
        self._leave = asyncio.Event()
        self._living = asyncio.create_task(self._live_until_left(entered), name="client of a test")
        waiting = asyncio.create_task(entered.wait())
        await asyncio.wait([self._living, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not entered.is_set():
            waiting.cancel()
            await self._living  # raises why it could not begin

    async def _live_until_left(self, entered: asyncio.Event) -> None:
        async with self._connect() as self._client:
            entered.set()
            await self._leave.wait()

    async def _end(self) -> None:
        assert self._living is not None
        self._leave.set()
        await self._living
