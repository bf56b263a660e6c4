"""From `kill -9` of a machine to the next epoch that every node has finished, over RabbitMQ.

Four machines, each a process that is agent and runner in one, hold a view of 100,000 rows; another process goes on
writing all the time. A machine is killed, and right after it a row is written by a client of its own: time runs until
that client's `flush` returns, which is when every node has finished the epoch of that row, so whatever the dead one
held has begun again somewhere. The machine is started again one second after the kill, as whoever keeps containers
would do; or else only when all is over, so that the others have to do without it. The next one is killed when all four
are ready again and all nodes run. Of the machines with a part those take turns, so the sequencer is lost now and then.
Right: at the end the view holds every row that was written, once.

The note says where the time went, from what the services logged: until the scheduler placed the lost parts anew, then
until the last of them had its state, then the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dist_zero as dz
from benchmarks.latency import started
from benchmarks.measure import Figure, Measurement
from benchmarks.system import SYSTEM, Broker, peak_rss_mb_of
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.protocol.messages import (
    ProgramState,
)
from test.virtual.processes import Service, Services, services

MACHINES = 4
ROWS = 100_000
ROWS_PER_TRANSACTION = 1_000
WRITES_PER_SECOND = 50
BACK = {"back after 1 s": 1.0, "not back": None}
"""After how many seconds a killed machine is started again."""
QUIET_SECONDS = 3.0
"""Between the end of one recovery and the next kill, at least: a base or two are written meanwhile."""
READY_SECONDS_MAX = 60.0

app = dz.Program("recovery")


class Event(dz.Row):
    """One event of one key."""

    key: int
    number: int


events = app.dataset("events", Event)
app.view("by_key", events.group_by("key").agg(n=dz.count(), number=dz.max("number")))


def measure(engine: str, kills: int, broker: Broker) -> list[Measurement]:
    """So many kills."""
    with TemporaryDirectory() as directory, services(Path(directory), broker.url, SYSTEM) as running:
        return [asyncio.run(_measure(engine, kills, broker, running))]


async def _measure(engine: str, kills: int, broker: Broker, running: Services) -> Measurement:
    scheduler = running.scheduler(machines=MACHINES)
    machines = {name: running.runner(name) for name in (f"m{number}" for number in range(1, MACHINES + 1))}
    remote = RemoteSystem(broker.url, SYSTEM)
    async with remote.connect(app, nodes=MACHINES) as db:
        await _fill(db)
        writer, wrote = started(_write, broker.url)
        recoveries = []
        try:
            for kill in range(kills):
                victim, with_sequencer = await _next_victim(kill, remote)
                name = f"{victim}-{kill}"
                again = partial(running.start, "node_runner", name, DIST_ZERO_MACHINE=victim)
                dead = machines.pop(victim)
                at, finished, machines[victim] = await _recovery(kill, db, dead, again, BACK[engine])
                placed = _last_logged([scheduler], "program_placed", at)
                begun = _last_logged(list(machines.values()), "node_begun", at)
                recoveries.append(Recovery(placed, begun, finished, with_sequencer))
            wrote.send(True)
            written = await asyncio.to_thread(wrote.recv)
        finally:
            writer.kill()
        rows = (await db.snapshot("by_key"))["by_key"]
    right = len(rows) == ROWS + 1 and sum(row.n for row in rows) == ROWS + written + kills
    rss = sum(peak_rss_mb_of(machine.process.pid) for machine in machines.values())
    return _measurement(engine, recoveries, right, rss)


@dataclass(frozen=True, slots=True)
class Recovery:
    """One kill: seconds from it until the lost parts were placed anew, until the last of them had its state, and until
    the row written right after it was in an epoch that all have finished; and whether the sequencer was lost, too."""

    placed: float
    begun: float
    finished: float
    with_sequencer: bool


async def _recovery(
    kill: int, db: Client, victim: Service, again: Callable[[], Service], down_seconds: float | None
) -> tuple[float, float, Service]:
    """Kill a machine; returns at what time, how long it took, and the machine as it was started again."""
    at, start = time.time(), time.perf_counter()
    victim.process.kill()
    flushed = asyncio.create_task(_write_and_flush(db, kill))
    await (asyncio.sleep(down_seconds) if down_seconds is not None else asyncio.wait([flushed]))
    back = again()
    return at, await flushed - start, back


async def _write_and_flush(db: Client, kill: int) -> float:
    await db.append("events", {"key": ROWS, "number": kill})
    await db.flush()
    return time.perf_counter()


async def _next_victim(kill: int, remote: RemoteSystem) -> tuple[str, bool]:
    """A machine with a part, when all are ready and all parts run; and whether it has the sequencer."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        await asyncio.sleep(QUIET_SECONDS)
        status = await remote.status()
        program = status.programs[0]
        ready = sum(machine.ready for machine in status.machines)
        if program.state is ProgramState.RUNNING and ready == MACHINES:
            with_parts = sorted({program.sequencer_machine, *(node.machine for node in program.nodes)})
            victim = with_parts[kill % len(with_parts)]
            return victim, victim == program.sequencer_machine
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all machines are ready again: {status}")


def _last_logged(of: list[Service], event: str, at: float) -> float:
    """Seconds after `at` when this was logged the last time; 0 if it was not."""
    times = [
        datetime.fromisoformat(str(entry["time"])).timestamp() - at
        for service in of
        for entry in service.found(event)
    ]
    return max(0.0, *times)


async def _fill(db: Client) -> None:
    for first in range(0, ROWS, ROWS_PER_TRANSACTION):
        transaction = db.new_transaction()
        for key in range(first, first + ROWS_PER_TRANSACTION):
            transaction.append("events", {"key": key, "number": 0})
        await db.write_soon(transaction)
    await db.flush()


async def _write(pipe: Connection, url: str) -> None:
    """Rows of one key after the other, until told to stop; then says how many."""
    written = 0
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        while not pipe.poll():
            await asyncio.sleep(1 / WRITES_PER_SECOND)
            transaction = db.new_transaction()
            transaction.append("events", {"key": written * 7919 % ROWS, "number": written})
            await db.write_soon(transaction)
            written += 1
        await db.flush()
        pipe.send(written)


def _measurement(engine: str, recoveries: list[Recovery], right: bool, rss_mb: float) -> Measurement:
    finished = sorted(recovery.finished for recovery in recoveries)
    of_sequencers = sorted(recovery.finished for recovery in recoveries if recovery.with_sequencer)
    placed = median(recovery.placed for recovery in recoveries)
    begun = median(recovery.begun for recovery in recoveries)
    figures: dict[str, Figure] = {
        "kills": len(recoveries),
        "kills_of_sequencers": len(of_sequencers),
        "median_seconds": median(finished),
        "worst_seconds": finished[-1],
        "best_seconds": finished[0],
        "median_placed_seconds": placed,
        "median_begun_seconds": begun,
    }
    if of_sequencers:
        figures["worst_of_sequencers_seconds"] = of_sequencers[-1]
    note = (
        f"{len(recoveries)} kills, {len(of_sequencers)} of a sequencer, too: median {median(finished):.1f} s, worst"
        f" {finished[-1]:.1f} s; medians: placed anew after {placed:.1f} s, state there after {begun:.1f} s;"
        f" each: {', '.join(f'{r.finished:.1f}' + 's' * r.with_sequencer for r in recoveries)}"
    )
    return Measurement("recovery", engine, ROWS, median(finished), 0.0, rss_mb, right, note, figures)
