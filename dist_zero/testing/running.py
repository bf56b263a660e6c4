"""One run of a program under the faults of one seed, and everything that must hold of it.

A run has two parts (vopr's question, asked of a program): **safety** while the plan's faults fall, then, at its
horizon, everything is healed and **progress** is required: within `PROGRESS_SECONDS` of virtual time all that was to
be written is committed and seen by whoever watches. Then the whole is judged (`checks.py`), and the log is played to a
second system of another size and weather, which has to show the same (I3).
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot
from dist_zero.client.writes import Transaction
from dist_zero.compiler import compile
from dist_zero.expr.graph import encode_graph
from dist_zero.native import choice
from dist_zero.program import Program
from dist_zero.system import SimulatedSystem
from dist_zero.testing.checks import (
    Failure,
    Seen,
    Written,
    commit_failures,
    epoch_failures,
    log_alone,
    log_of,
    view_failures,
)
from dist_zero.testing.events import event_counts
from dist_zero.testing.faulty import FaultySystem, drawn_rhythm
from dist_zero.testing.kept import damage, kept_wrong
from dist_zero.testing.readers import Watcher, get_one, get_some, take_snapshots, wait_watched
from dist_zero.testing.workload import input_of, writers_of
from dist_zero.zset import consolidate
from dist_zero_common.errors import OperatorError, SessionExpired, UserError, first_error
from dist_zero_common.log import captured_events
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.plan import KINDS, FaultPlan, drawn_faults
from dist_zero_common.sim.processes import Process
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

GETS = 3
PROGRESS_SECONDS = 300.0
"""How long after the last fault everything may take. Leases, silences and back-offs add up to a minute or two."""

HAPPENED = ("duplicate", "lose", "store-create-failed")
"""What is counted of the simulation's own history."""


DAMAGING = frozenset(["damage flipped", "damage cut", "damage gone", "store tears"])
"""Faults after which a base may be damaged."""


class _Bounds(TypedDict):
    until_seconds: float
    events_max: int


_BOUNDS = _Bounds(until_seconds=3_600.0, events_max=20_000_000)
"""A run that has not ended by then stands still."""


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What runs are made of; a seed draws the rest.

    `only_faults` and `only_transactions` are what a failure was cut down to: places in the drawn plan and input, all of
    them if None.
    """

    nodes: int = 3
    machines: int = 2
    data_seed: int | None = None
    transactions: int = 60
    faults: tuple[str, ...] = tuple(KINDS)
    only_faults: tuple[int, ...] | None = None
    only_transactions: tuple[int, ...] | None = None

    def plan(self, seed: int) -> FaultPlan:
        """The faults of a seed."""
        plan = drawn_faults(seed, self.faults, self.machines)
        return plan if self.only_faults is None else plan.only(self.only_faults)


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed showed; no `failures` is the hope. Counts are by name."""

    seed: int
    failures: tuple[Failure, ...]
    transactions: int = 0
    epochs: int = 0
    messages: int = 0
    history: str = ""
    simulated_seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    """How often each kind of fault was applied."""
    events: dict[str, int] = field(default_factory=dict)
    """What the services logged, by event, and what befell messages: which ways of recovering were gone."""


@dataclass(slots=True)
class Recorded:
    """All that is known of a run, for those who tell its story."""

    result: SeedResult
    seen: Seen | None
    faults: list[tuple[float, str]]
    events: list[dict[str, object]]


def run_seed(program: Program, seed: int, options: SeedOptions) -> SeedResult:
    """Run the program once under the faults of `seed`, and judge it. Raises `UserError` when the program itself cannot
    run."""
    return run_recorded(program, seed, options).result


def run_recorded(program: Program, seed: int, options: SeedOptions) -> Recorded:
    """As `run_seed`, with all that happened."""
    world = SimWorld(seed, "faithful")
    run = _Run(program, world, options)
    failures: list[Failure] = []
    with captured_events("debug") as events:
        try:
            run_simulation(run.live(), **_BOUNDS)
        except Exception as group:  # whatever it is, this seed brings it up again
            failures.append(_failure_of(group))
    failures += run.judged()
    if not failures:
        failures += run.replayed(SimWorld(seed + 1, "hostile" if seed % 2 else "faithful"))
    happened = Counter({kind: counter.records for kind, counter in world.history.counters.items()})
    failures += [
        Failure("kept", f"a base is taken for damaged, and nothing was damaged: {event['reason']}")
        for event in events
        if event["event"] == "base_damaged" and not DAMAGING.intersection(run.applied)
    ][:1]
    counts = event_counts(events)
    counts.update({kind: happened[kind] for kind in HAPPENED if happened[kind]})
    result = SeedResult(
        seed,
        tuple(failures),
        transactions=sum(len(record.transactions) for record in run.seen.log) if run.seen else 0,
        epochs=len(run.seen.changes) if run.seen else 0,
        messages=happened["publish"],
        history=world.history.digest(),
        simulated_seconds=run.seconds,
        faults=dict(sorted(run.applied.items())),
        events=dict(sorted(counts.items())),
    )
    return Recorded(result, run.seen, run.lines, events)


def _failure_of(group: Exception) -> Failure:
    error = first_error(group)
    if isinstance(error, UserError):
        raise error from None  # the program's, whatever the seed
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    return Failure("progress" if isinstance(error, NoProgress) else "error", said)


class NoProgress(OperatorError):
    """Faults are over, and something that should come does not."""


class _Run:
    """One run, while it lives and afterwards."""

    def __init__(self, program: Program, world: SimWorld, options: SeedOptions) -> None:
        self.seen: Seen | None = None
        self.lines: list[tuple[float, str]] = []
        self.applied: Counter[str] = Counter()
        self.seconds = 0.0
        self._program, self._world, self._options = program, world, options
        self._objects = MemoryObjects(remembers=True)
        self._failures: list[Failure] = []
        self._last: Snapshot | None = None
        self._plan = options.plan(world.seed)

    async def live(self) -> None:
        """Safety, then progress."""
        store = MemoryStore(self._objects, self._world)
        options = self._options
        transactions = self._input()
        largest = max((len(transaction.payload()) for transaction in transactions), default=1)
        rhythm = drawn_rhythm(self._world.rng("rhythm"), largest)
        system = FaultySystem(self._world, machines=options.machines, store=store, sequencer=rhythm)
        try:
            async with system, system.connect(self._program, nodes=options.nodes) as client:
                self.seen = Seen(client.plan)
                system.may_reshard(self._program.name)
                system.injector.damage = self._damage
                await self._live_with(system, client, self.seen, transactions)
        finally:
            self.lines, self.applied = system.injector.lines, system.injector.applied
            self.seconds = asyncio.get_running_loop().time()
            if self.seen is not None:
                self.seen.log = await log_of(MemoryStore(self._objects), self._program.name)

    async def _live_with(
        self, system: FaultySystem, client: Client, seen: Seen, transactions: list[Transaction]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            watcher = Watcher(system, self._program.name, seen)
            watching = tasks.create_task(system.run_again("watcher", "watcher", watcher.live, lambda: False))
            try:
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await wait_watched(seen, 0)  # whatever is written is to be seen
            except TimeoutError:
                await client.snapshot()  # which says why, if the program stands still
                raise self._no_progress(client, (), seen) from None
            reading = tasks.create_task(take_snapshots(client, seen))
            writers = self._writers(system, seen, transactions)
            seen.written += [writer.written for writer in writers]
            running = [
                tasks.create_task(system.run_again("writer", w.written.client, w.live, w.is_done))
                for w in writers
            ]
            await system.injector.run(self._plan)
            try:
                async with asyncio.timeout(PROGRESS_SECONDS):
                    await asyncio.gather(*running)
                    self._last = await client.snapshot()
                    await wait_watched(seen, self._last.epoch)
                    seen.complete = True
                    await get_some(client, seen, self._last, GETS)
            except TimeoutError:
                raise self._no_progress(client, writers, seen) from None
            finally:
                for task in (watching, reading, *running):
                    task.cancel()
            seen.snapshots.append(self._last)
            self._failures += [failure for writer in writers for failure in writer.failures]

    def _damage(self, how: str) -> str:
        return damage(self._objects, self._program.name, how, self._world.rng("damage"))

    def _no_progress(self, client: Client, writers: Sequence[_Writer], seen: Seen) -> NoProgress:
        late = [
            f"{w.written.client} has heard of {len(w.written.acknowledged)} of {len(w.written.payloads)} transactions"
            + (f" ({w.gave_up})" if w.gave_up else "")
            for w in writers
            if not w.is_done()
        ]
        newest = seen.changes[-1].epoch if seen.changes else "none"
        what = ", ".join(late) or f"the newest epoch that was watched is {newest}"
        waits = f"; {client.waiting_for}" if client.waiting_for else ""
        return NoProgress(f"{PROGRESS_SECONDS:g} s after the last fault was over, {what}{waits}")

    def _input(self) -> list[Transaction]:
        seed = self._world.seed if self._options.data_seed is None else self._options.data_seed
        plan = compile(self._program.graph())
        return input_of(self._program, plan, seed, self._options.transactions)

    def _writers(self, system: FaultySystem, seen: Seen, transactions: list[Transaction]) -> list[_Writer]:
        only = self._options.only_transactions
        chosen = range(len(transactions)) if only is None else only
        count = writers_of(self._program)
        pause = self._plan.horizon_seconds * count / max(1, len(transactions))
        return [
            _Writer(
                system,
                seen,
                self._program.name,
                f"writer-{number}",
                [
                    transactions[place]
                    for place in chosen
                    if place % count == number and place < len(transactions)
                ],
                pause,
            )
            for number in range(count)
        ]

    # -- afterwards -------------------------------------------------------------------------------------------

    def judged(self) -> list[Failure]:
        """What does not hold of what was seen."""
        if self.seen is None:
            return []
        graph = self._program.graph()
        wrong = kept_wrong(self._objects, self._program.name) if self.seen.complete else []
        return [
            *self._failures,
            *(Failure("kept", text) for text in wrong),
            *epoch_failures(graph, self._program.invariants, self.seen),
            *commit_failures(self.seen),
        ]

    def replayed(self, world: SimWorld) -> list[Failure]:
        """Differences that a second system shows, which has nothing but the log, and another number of nodes (I3)."""
        try:
            return run_simulation(self._replayed(world), **_BOUNDS)
        except Exception as group:
            failure = _failure_of(group)
            return [Failure("replay", f"played again: {failure.text}")]

    async def _replayed(self, world: SimWorld) -> list[Failure]:
        assert self._last is not None and self.seen is not None
        graph = encode_graph(self._program.graph())
        nodes = 1 + self._options.nodes % 3
        objects = log_alone(self._program.name, graph, self.seen.log, nodes)
        async with (
            SimulatedSystem(
                world, store=MemoryStore(objects, world), make_executor=choice.make_tested_executor
            ) as system,
            system.connect(self._program) as client,
        ):
            snapshot = await client.snapshot()
        return [
            Failure("replay", f"played again, {failure.text}", rows=failure.rows)
            for view, rows in snapshot.stored.items()
            for failure in view_failures(
                view,
                consolidate((row, 1) for row in rows),
                consolidate((row, 1) for row in self._last.stored[view]),
            )
        ]


class _Writer:
    """A client that writes its transactions, over as many lives as it takes: each asks how far the ones before came."""

    def __init__(
        self,
        system: FaultySystem,
        seen: Seen,
        program: str,
        name: str,
        transactions: list[Transaction],
        pause: float,
    ) -> None:
        self.written = Written(name, [transaction.payload() for transaction in transactions])
        self.failures: list[Failure] = []
        self.gave_up = ""
        """Why a life of it ended before all was done, if one gave up."""
        self._system, self._program, self._transactions = system, program, transactions
        self._seen = seen
        self._pause, self._rng = 2 * pause, system.world.rng(name)
        self._sent = 0
        self._half = len(transactions) // 2
        """A first session ends here, also without any fault."""
        self._done = False

    def is_done(self) -> bool:
        """Whether all is committed and visible everywhere."""
        return self._done

    async def live(self, _process: Process) -> None:
        """One life."""
        try:
            await self._live()
        except OperatorError as error:  # it gives up, and is started again
            self.gave_up = str(error)
        except UserError as error:  # what it writes was checked when it was made
            self.failures.append(Failure("commit", f"{self.written.client}: {type(error).__name__}: {error}"))
            self._done = True
        except SessionExpired as error:
            self.gave_up = str(error)
            self.written.expired.append(str(error))

    async def _live(self) -> None:
        name, acknowledged = self.written.client, self.written.acknowledged
        async with self._system.connect(self._program, client_id=name) as client:
            first, heard = client.committed, max(acknowledged, default=-1) + 1
            if not heard <= first <= self._sent:
                text = f"{name} had {heard} transactions committed and {self._sent} sent, and now hears of {first}"
                self.failures.append(Failure("commit", text))
                self._done = True
                return
            last = self._half if first < self._half else len(self._transactions)
            tickets: list[asyncio.Future[int]] = []
            for place in range(first, last):
                self._sent = max(self._sent, place + 1)
                self.written.sent_at.setdefault(place, asyncio.get_running_loop().time())
                ticket: asyncio.Future[int] = asyncio.ensure_future(
                    await client.write_soon(self._transactions[place])
                )
                ticket.add_done_callback(lambda done, place=place: self._hear(place, done))  # type: ignore[misc]
                tickets.append(ticket)
                if self._rng.random() < 0.5:
                    await asyncio.sleep(2 * self._rng.random() * self._pause)
                if self._rng.random() < 0.2:
                    await self._read_own(client, await ticket)
            for ticket in tickets:
                await ticket
            finished = await client.flush()
            await self._read_own(client, finished)
            self._done = last == len(self._transactions)

    async def _read_own(self, client: Client, epoch: int) -> None:
        """All that this one wrote up to an epoch is there for it: rows that changed lately have to be as of then, or
        later."""
        changes = [change for change in self._seen.changes[-5:] if any(change.rows.values())]
        for number, rows in changes[-1].rows.items() if changes else ():
            for row, _ in rows[:2]:
                await get_one(client, self._seen, number, row, epoch)

    def _hear(self, place: int, ticket: asyncio.Future[int]) -> None:
        if not ticket.cancelled() and ticket.exception() is None:
            self.written.acknowledged[place] = ticket.result()
            self.written.heard_at[place] = asyncio.get_running_loop().time()
