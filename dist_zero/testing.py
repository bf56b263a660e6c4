"""Asking a program's run two questions from outside: is what it shows right, and would it be the same again.

`recomputed_differences` recomputes views from the log in the store with the oracle (I1). `dist-zero test`
runs a program under many seeds of weather (`run_seed`): a watcher holds every view at every epoch against the
oracle, each writer's transactions are looked for in the log (I2), and the log is played to a second system,
of another size and weather, which has to show the same (I3).
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypedDict

from dist_zero.batch import Writes
from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot, ViewError
from dist_zero.client.watch import StoredChange
from dist_zero.client.writes import Transaction, sampled_transaction
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.expr.ops import Graph
from dist_zero.generated import Generator
from dist_zero.program import Program
from dist_zero.reference.evaluate import LeftOut, Oracle
from dist_zero.reference.history import Datasets
from dist_zero.system import SimulatedSystem, System
from dist_zero.types import Row as StoredRow
from dist_zero.writes import decode_payload
from dist_zero.zset import ZSet, consolidate
from dist_zero_common.errors import InternalError, StoreError, UserError, first_error
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages import LogRecord
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import records_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

WRITERS = 3
GETS = 3
SAMPLE_ROWS = 200
"""Rows of each dataset that are taken from a sample."""
SAMPLE_TRANSACTIONS = 1_000
"""Transactions of a sample that are looked at for them."""
WATCH_SECONDS_MAX = 600


class _Bounds(TypedDict):
    until_seconds: float
    events_max: int


_BOUNDS = _Bounds(until_seconds=3_600.0, events_max=20_000_000)
"""A run that has not ended by then stands still."""


async def log_of(store: Store, program: str) -> list[LogRecord]:
    """Every record of a program's log, in order: of a memory store that remembers, also those that were deleted since
    no base reaches them."""
    records, prefix = [], records_prefix(program)
    gone = store.objects.gone if isinstance(store, MemoryStore) else {}
    before = [name for name in gone if name.startswith(prefix)]
    for name in sorted(frozenset([*before, *await store.list(prefix)])):
        data = (
            gone.get(name) or await store.read(name) or gone.get(name)
        )  # a slot filled again is none of the log
        if data is None:
            raise StoreError(f"{name} was listed and is gone")
        records.append(decode(LogRecord, data))
    return records


def writes_of(plan: Plan, record: LogRecord) -> list[list[Writes]]:
    """The transactions of a record."""
    return [decode_payload(plan.datasets, transaction.payload) for transaction in record.transactions]


def recomputed_differences(
    graph: Graph,
    plan: Plan,
    log: Iterable[LogRecord],
    epoch: int,
    views: dict[str, Sequence[StoredRow]],
    errors: dict[str, Sequence[ViewError]],
) -> list[str]:
    """What of these views, as of `epoch`, differs from what the oracle makes of the log up to there; empty:
    nothing."""
    datasets = Datasets(graph)
    for record in log:
        if record.epoch <= epoch:
            for writes in writes_of(plan, record):
                datasets.apply(writes)
    oracle = Oracle(graph, datasets.contents())
    found = []
    for name, rows in views.items():
        right = oracle.view(name)
        found += view_differences(name, consolidate((row, 1) for row in rows), right.rows)
        shown = sorted((e.label, e.reason, e.example, e.count) for e in errors.get(name, ()))
        if name in errors and shown != sorted(map(_left_out, right.errors)):
            found.append(f"view {name!r} leaves out {shown}, the oracle {[str(e) for e in right.errors]}")
    return found


def view_differences(name: str, shown: ZSet, right: ZSet) -> list[str]:
    """How a view differs from what it should be, in words; nothing if it does not."""
    if shown == right:
        return []
    extra = [row for row, weight in shown.items() if right.get(row) != weight]
    missing = [row for row, weight in right.items() if shown.get(row) != weight]
    return [
        f"view {name!r} differs from its recomputation in {len(extra):,} rows it shows"
        f" (as {_example(extra)}) and {len(missing):,} it should (as {_example(missing)})"
    ]


def _left_out(entry: LeftOut) -> tuple[str, str, str, int]:
    return (entry.label, entry.reason, entry.example, entry.count)


def _example(rows: Sequence[StoredRow]) -> str:
    return repr(rows[0]) if rows else "none"


# ---- one seed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What one run of `dist-zero test` is made of."""

    nodes: int = 3
    machines: int = 2
    data_seed: int | None = None
    transactions: int = 60


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed showed; `failures` are in words, and none is the hope."""

    seed: int
    failures: tuple[str, ...]
    transactions: int = 0
    epochs: int = 0
    messages: int = 0
    history: str = ""


def run_seed(program: Program, seed: int, options: SeedOptions) -> SeedResult:
    """Run the program once in the weather of `seed`, and hold everything against the log."""
    profile = "hostile" if seed % 2 else "faithful"
    world = SimWorld(seed, profile)
    try:
        watched = run_simulation(_watched_run(program, world, options), **_BOUNDS)
        again = run_simulation(_replayed(program, SimWorld(seed + 1, profile), watched), **_BOUNDS)
    except Exception as group:  # whatever it is, this seed brings it up again
        error = first_error(group)
        if isinstance(error, UserError):
            raise error from None  # the program's, whatever the seed
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        return SeedResult(seed, (said,), history=world.history.digest())
    failures = [
        *watched.failures,
        *_epoch_failures(program.graph(), watched),
        *_commit_failures(watched),
        *(f"played again, {line}" for line in again),
    ]
    published = world.history.counters.get("publish")
    return SeedResult(
        seed,
        tuple(failures),
        transactions=len(watched.committed),
        epochs=len(watched.changes),
        messages=published.records if published else 0,
        history=world.history.digest(),
    )


@dataclass(frozen=True, slots=True)
class _Watched:
    """What was seen from outside: every change of every view, every acknowledged transaction, and the log."""

    plan: Plan
    objects: MemoryObjects
    log: list[LogRecord]
    changes: list[StoredChange]
    committed: list[tuple[bytes, int]]
    snapshot: Snapshot
    failures: list[str]


async def _watched_run(program: Program, world: SimWorld, options: SeedOptions) -> _Watched:
    objects = MemoryObjects(remembers=True)
    store = MemoryStore(objects, world)
    async with (
        SimulatedSystem(world, machines=options.machines, store=store) as system,
        system.connect(program, nodes=options.nodes) as client,
        asyncio.TaskGroup() as tasks,
    ):
        changes: list[StoredChange] = []
        watcher = tasks.create_task(_collect(client, changes))
        transactions = _input(program, client.plan, world, options)
        writers = [
            tasks.create_task(
                _write(system, program, f"writer-{number}", transactions[number::WRITERS], world)
            )
            for number in range(WRITERS)
        ]
        acknowledged = [await writer for writer in writers]
        snapshot = await client.snapshot()
        await _wait_watched(changes, snapshot.epoch)
        failures = await _get_failures(client, snapshot)
        watcher.cancel()
        log = await log_of(store, program.name)
        failures += [line for writer in acknowledged for line in writer.failures]
        committed = [each for writer in acknowledged for each in writer.committed]
        return _Watched(client.plan, objects, log, changes, committed, snapshot, failures)


def _input(program: Program, plan: Plan, world: SimWorld, options: SeedOptions) -> list[Transaction]:
    """The beginning of the sample, if there is one, or rows made up; then changes of what is there."""
    data_seed = world.seed if options.data_seed is None else options.data_seed
    generator = Generator(plan, random.Random(data_seed))
    wanted = options.transactions - options.transactions // 3
    if program.has_sample:
        transactions = list(islice(_sampled(program, plan, data_seed, generator), wanted))
    else:
        transactions = list(generator.transactions(wanted))
    return transactions + list(generator.changes(options.transactions - len(transactions)))


def _sampled(program: Program, plan: Plan, data_seed: int, generator: Generator) -> Iterator[Transaction]:
    """The sample, cut down to some rows of every dataset: the oracle looks at all of them at every epoch."""
    left = {dataset.name: SAMPLE_ROWS for dataset in plan.datasets}
    sample = (pairs for pairs in program.generate(data_seed) if not isinstance(pairs, str))
    for pairs in islice(sample, SAMPLE_TRANSACTIONS):
        kept = []
        for dataset, what in pairs:
            if left[dataset] > 0:
                left[dataset] -= 1
                kept.append((dataset, what))
                if isinstance(what, tuple):
                    generator.notice(dataset, what)
        if kept:
            yield sampled_transaction(plan, kept)
        if not any(left.values()):
            return


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    committed: list[tuple[bytes, int]]
    failures: list[str]


async def _write(
    system: System, program: Program, client_id: str, transactions: list[Transaction], world: SimWorld
) -> _Acknowledged:
    """Write in two sessions of one name, the second of which has to know where the first one stopped."""
    rng = world.rng(client_id)
    done = _Acknowledged([], [])
    half = len(transactions) // 2
    for part in (transactions[:half], transactions[half:]):
        async with system.connect(program, client_id=client_id) as client:
            if client.committed != len(done.committed):
                done.failures.append(
                    f"{client_id} had {len(done.committed)} transactions committed, its next session heard of"
                    f" {client.committed}"
                )
            tickets = []
            for transaction in part:
                tickets.append((transaction.payload(), await client.write_soon(transaction)))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() * 0.2)
            for payload, ticket in tickets:
                done.committed.append((payload, await ticket))
            await client.flush()
    return done


async def _collect(client: Client, changes: list[StoredChange]) -> None:
    with client.watch_stored(range(len(client.plan.views))) as watch:
        async for change in watch:
            changes.append(change)


async def _wait_watched(changes: list[StoredChange], epoch: int) -> None:
    for _ in range(WATCH_SECONDS_MAX * 10):
        if changes and changes[-1].epoch >= epoch:
            return
        await asyncio.sleep(0.1)
    newest = changes[-1].epoch if changes else "nothing"
    raise InternalError(f"the watch of all views has seen {newest} when epoch {epoch} was long finished")


async def _get_failures(client: Client, snapshot: Snapshot) -> list[str]:
    """Rows got by key that differ from those in the snapshot."""
    failures = []
    for number, view in enumerate(client.plan.views):
        sink = client.plan.operators[view.sink]
        assert isinstance(sink, Sink)
        for row in snapshot[view.name][:GETS] if sink.key else ():
            key = {
                view.row_type.names[place]: getattr(row, view.row_type.names[place])
                for place in sink.key or ()
            }
            got = await client.get(view.name, key)
            if got != row:
                failures.append(
                    f"get of {key} from view {number} {view.name!r} gave {got}, the snapshot had {row}"
                )
    return failures


async def _replayed(program: Program, world: SimWorld, watched: _Watched) -> list[str]:
    """Differences that a second system shows, which has nothing but the log, in other weather (I3)."""
    async with (
        SimulatedSystem(world, store=MemoryStore(watched.objects, world)) as system,
        system.connect(program) as client,
    ):
        snapshot = await client.snapshot()
        return [
            line
            for view, rows in snapshot.stored.items()
            for line in view_differences(
                view,
                consolidate((r, 1) for r in rows),
                consolidate((r, 1) for r in watched.snapshot.stored[view]),
            )
        ]


# ---- what must hold ----------------------------------------------------------------------------------------


def _epoch_failures(graph: Graph, watched: _Watched) -> list[str]:
    """I1: every view at every watched epoch equals the oracle on the transactions up to there; and the
    snapshot."""
    changes = {change.epoch: change for change in watched.changes}
    views: dict[str, ZSet] = {view.name: {} for view in graph.views}
    datasets = Datasets(graph)
    failures: list[str] = []
    for record in watched.log:
        for writes in writes_of(watched.plan, record):
            datasets.apply(writes)
        change = changes.get(record.epoch)
        if change is None:
            continue
        oracle = Oracle(graph, datasets.contents())
        for number, name in enumerate(views):
            views[name] = consolidate(
                [*(() if change.snapshot else views[name].items()), *change.rows[number]]
            )
            failures += [
                f"at epoch {record.epoch}, {line}"
                for line in view_differences(name, views[name], oracle.view(name).rows)
            ]
        if failures:
            return failures
    snapshot = watched.snapshot
    return recomputed_differences(
        graph, watched.plan, watched.log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
    )


def _commit_failures(watched: _Watched) -> list[str]:
    """I2: what was acknowledged is in the log exactly once, in the epoch that was said, per session in
    order."""
    failures = []
    there: dict[tuple[bytes, int], int] = {}
    newest: dict[int, int] = {}
    for record in watched.log:
        for transaction in record.transactions:
            place = (transaction.payload, record.epoch)
            there[place] = there.get(place, 0) + 1
            before = newest.get(transaction.session)
            if before is not None and transaction.number != before + 1:
                failures.append(
                    f"session {transaction.session}: number {transaction.number} follows {before} in the log"
                )
            newest[transaction.session] = transaction.number
    said: dict[tuple[bytes, int], int] = {}
    for each in watched.committed:
        said[each] = said.get(each, 0) + 1
    for payload, epoch in {**there, **said}:
        if there.get((payload, epoch), 0) != said.get((payload, epoch), 0):
            failures.append(
                f"a transaction of {len(payload)} bytes was acknowledged for epoch {epoch}"
                f" {said.get((payload, epoch), 0)} times and is in its record {there.get((payload, epoch), 0)} times"
            )
    return failures
