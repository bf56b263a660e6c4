"""From `kill -9` of a machine to the next epoch that every node has finished, in containers over RabbitMQ.

Four machines, a container each, hold a view of 100,000 or 1,000,000 rows; another process goes on writing all the time,
and a third one reads, from each node by itself. A machine's container is killed with all that is in it, and right after
it a row is written by a client of its own: time runs until that client's `flush` returns, which is when every node has
finished the epoch of that row, so whatever the dead one held has begun again somewhere. The container is started again
one second after the kill, as whoever keeps containers would do; or else only when all is over, so that the others have
to do without it. The next one is killed when all four are ready again and all nodes run. Of the machines with a part
those take turns, so the sequencer is lost now and then. Right: at the end the view holds every row that was written,
once.

The note says where the time went, from what the services logged: until the scheduler placed the lost parts anew, then
until the last of them had its state, then the rest; and how the nodes on other machines answered reads meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dist_zero as dz
from benchmarks.latency import started
from benchmarks.measure import Figure, Measurement
from benchmarks.system import peak_rss_mb_of
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.hashing import key_hash
from dist_zero.shards import owner
from dist_zero.types import DataType, Kind
from dist_zero_common.protocol.messages.requests import ProgramState, SystemStatus
from test.virtual.containers import ContainerSystem, container_system

SYSTEM = "bench-recovery"
MACHINES = 4
ROWS_PER_TRANSACTION = 1_000
WRITES_PER_SECOND = 50
READS_PER_SECOND = 25
"""Of each node."""
FILL_ROWS = 50_000
QUIET_SECONDS = 3.0
"""Between the end of one recovery and the next kill, at least: a base or two are written meanwhile."""
READY_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """So many rows of state; a killed machine is started again after so many seconds, or when all is over."""

    rows: int
    back_seconds: float | None


CASES = {
    "100,000 rows, back after 1 s": Case(100_000, 1.0),
    "100,000 rows, not back": Case(100_000, None),
    "1,000,000 rows, back after 1 s": Case(1_000_000, 1.0),
    "1,000,000 rows, not back": Case(1_000_000, None),
}

app = dz.Program("recovery")


class Event(dz.Row):
    """One event of one key."""

    key: int
    number: int


events = app.dataset("events", Event)
app.view("by_key", events.group_by("key").agg(n=dz.count(), number=dz.max("number")))


@dataclass(frozen=True, slots=True)
class Recovery:
    """One kill: seconds from it until the lost parts were placed anew, until the last of them had its state, and until
    the row written right after it was in an epoch that all have finished. `shards` are the nodes that were lost, and
    `with_sequencer` whether the sequencer was, too; `at` is when, by the clock of all processes."""

    at: float
    placed: float
    begun: float
    finished: float
    shards: frozenset[int]
    with_sequencer: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A row was got from this node."""

    shard: int
    began: float
    ended: float


def measure(engine: str, kills: int) -> list[Measurement]:
    """So many kills."""
    with TemporaryDirectory() as directory:
        return [asyncio.run(_measure(engine, kills, Path(directory)))]


async def _measure(engine: str, kills: int, directory: Path) -> Measurement:
    case = CASES[engine]
    async with (
        container_system(SYSTEM, directory, machines=MACHINES, keep_log=False) as system,
        system.remote.connect(app, nodes=MACHINES) as db,
    ):
        await _fill(db, case.rows)
        writer, wrote = started(_write, system.url, case.rows)
        reader, read = started(_read, system.url, case.rows)
        recoveries = []
        try:
            await asyncio.to_thread(read.recv)  # it reads
            for kill in range(kills):
                status = await _settled(system)
                recoveries.append(await _recovery(kill, case, db, system, status))
            wrote.send(True)
            written = await asyncio.to_thread(wrote.recv)
            read.send(True)
            reads = await asyncio.to_thread(read.recv)
        finally:
            writer.kill()
            reader.kill()
        rows = (await db.snapshot("by_key"))["by_key"]
        right = len(rows) == case.rows + 1 and sum(row.n for row in rows) == case.rows + written + kills
        rss = sum(peak_rss_mb_of(pid) for machine in system.machines for pid in system.pids(machine))
    return _measurement(engine, case, recoveries, [Read(*each) for each in reads], right, rss)


async def _recovery(
    kill: int, case: Case, db: Client, system: ContainerSystem, status: SystemStatus
) -> Recovery:
    """Kill a machine with a part and wait until all is well."""
    program = status.programs[0]
    with_parts = sorted({program.sequencer_machine, *(node.machine for node in program.nodes)})
    victim = with_parts[kill % len(with_parts)]
    at, start = time.time(), time.perf_counter()
    await system.kill(victim)
    flushed = asyncio.create_task(_write_and_flush(db, case.rows, kill))
    if case.back_seconds is None:
        await asyncio.wait([flushed])
    else:
        await asyncio.sleep(case.back_seconds)
    await system.start(victim)
    finished = await flushed - start
    return Recovery(
        at,
        placed=_last_logged(system, system.schedulers, "program_placed", at),
        begun=_last_logged(system, system.machines, "node_begun", at),
        finished=finished,
        shards=frozenset(node.shard for node in program.nodes if node.machine == victim),
        with_sequencer=program.sequencer_machine == victim,
    )


async def _write_and_flush(db: Client, key: int, kill: int) -> float:
    await db.append("events", {"key": key, "number": kill})
    await db.flush()
    return time.perf_counter()


async def _settled(system: ContainerSystem) -> SystemStatus:
    """How things are when all machines are ready and all parts run."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        await asyncio.sleep(QUIET_SECONDS)
        status = await system.remote.status()
        ready = sum(machine.ready for machine in status.machines)
        if status.programs[0].state is ProgramState.RUNNING and ready == MACHINES:
            return status
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all machines are ready again: {status}")


def _last_logged(system: ContainerSystem, parts: Iterable[str], event: str, at: float) -> float:
    """Seconds after `at` when one of these parts logged this the last time; 0 if none did."""
    times = [
        datetime.fromisoformat(str(entry["time"])).timestamp() - at
        for part in parts
        for entry in system.logged(part, event)
    ]
    return max(0.0, *times)


async def _fill(db: Client, rows: int) -> None:
    for first in range(0, rows, ROWS_PER_TRANSACTION):
        transaction = db.new_transaction()
        for key in range(first, first + ROWS_PER_TRANSACTION):
            transaction.append("events", {"key": key, "number": 0})
        await db.write_soon(transaction)
        if first % FILL_ROWS == 0:
            await db.flush()  # a busy machine takes longer for all of it than anybody waits for an answer
    await db.flush()


async def _write(pipe: Connection, url: str, rows: int) -> None:
    """Rows of one key after the other, until told to stop; then says how many."""
    written = 0
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        while not pipe.poll():
            await asyncio.sleep(1 / WRITES_PER_SECOND)
            transaction = db.new_transaction()
            transaction.append("events", {"key": written * 7919 % rows, "number": written})
            await db.write_soon(transaction)
            written += 1
        await db.flush()
        pipe.send(written)


async def _read(pipe: Connection, url: str, rows: int) -> None:
    """Rows of each node by itself, until told to stop; then says when each read began and ended. It says one word
    first, when it has read from all."""
    reads: list[tuple[int, float, float]] = []
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        keys: dict[int, list[int]] = {}
        for key in range(0, rows, max(1, rows // 1_000)):
            keys.setdefault(owner(db.placement.shard_map, key_hash([DataType(Kind.INT)], (key,))), []).append(
                key
            )

        async def read_from(shard: int) -> None:
            while True:
                for key in keys[shard]:
                    began = time.time()
                    await db.get("by_key", key)
                    reads.append((shard, began, time.time()))
                    await asyncio.sleep(1 / READS_PER_SECOND)

        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(read_from(shard)) for shard in keys]
            while len({shard for shard, _, _ in reads}) < MACHINES:
                await asyncio.sleep(0.1)
            pipe.send(True)
            await asyncio.to_thread(pipe.recv)
            for task in reading:
                task.cancel()
        pipe.send(reads)


def _measurement(
    engine: str, case: Case, recoveries: list[Recovery], reads: list[Read], right: bool, rss_mb: float
) -> Measurement:
    finished = sorted(recovery.finished for recovery in recoveries)
    of_sequencers = sorted(recovery.finished for recovery in recoveries if recovery.with_sequencer)
    placed = median(recovery.placed for recovery in recoveries)
    begun = median(recovery.begun for recovery in recoveries)
    meanwhile = [read for recovery in recoveries for read in _meanwhile(recovery, reads)]
    waits = sorted(read.ended - read.began for read in meanwhile)
    figures: dict[str, Figure] = {
        "kills": len(recoveries),
        "kills_of_sequencers": len(of_sequencers),
        "median_seconds": median(finished),
        "worst_seconds": finished[-1],
        "best_seconds": finished[0],
        "median_placed_seconds": placed,
        "median_begun_seconds": begun,
        "reads_of_others": len(waits),
        "reads_of_others_median_ms": 1_000 * median(waits),
        "reads_of_others_p99_ms": 1_000 * waits[len(waits) * 99 // 100],
        "reads_of_others_worst_ms": 1_000 * waits[-1],
    }
    if of_sequencers:
        figures["worst_of_sequencers_seconds"] = of_sequencers[-1]
    note = (
        f"{len(recoveries)} kills, {len(of_sequencers)} of a sequencer, too: median {median(finished):.1f} s, worst"
        f" {finished[-1]:.1f} s; medians: placed anew after {placed:.1f} s, state there after {begun:.1f} s;"
        f" meanwhile other nodes answered {len(waits)} reads, median {1_000 * median(waits):.0f} ms, worst"
        f" {1_000 * waits[-1]:.0f} ms;"
        f" each: {', '.join(f'{r.finished:.1f}' + 's' * r.with_sequencer for r in recoveries)}"
    )
    return Measurement("recovery", engine, case.rows, median(finished), 0.0, rss_mb, right, note, figures)


def _meanwhile(recovery: Recovery, reads: Iterable[Read]) -> list[Read]:
    """The reads of nodes that were not lost, between the kill and the end of the recovery."""
    end = recovery.at + recovery.finished
    return [
        read
        for read in reads
        if read.shard not in recovery.shards and read.ended > recovery.at and read.began < end
    ]
