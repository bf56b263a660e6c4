"""A node is split while others write and watch, over RabbitMQ: how long does anybody wait?

Two machines, each a process that is agent and runner in one. One node holds a keyed dataset and views of it: a thousand
groups, and the number of all rows. A process writes 20 transactions of 50 new rows a second, one after the other, and
another one watches the number of all rows, which changes with every epoch. Then the program is to have two nodes, so
the one is split. Both processes note the longest time between two commits, and between two epochs: for some seconds
before, and from the wish until some seconds after it has come true. What they note before is what such a machine does
by itself.

Right: each change that the watcher saw takes back what the one before it showed, from the first to the number that was
written at the end, and a snapshot shows the same.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import dist_zero as dz
from benchmarks.latency import started
from benchmarks.measure import Figure, Measurement
from benchmarks.system import SYSTEM, Broker, peak_rss_mb_of
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from test.virtual.processes import Services, services

MACHINES = 2
ROWS_PER_TRANSACTION, TRANSACTIONS_PER_SECOND = 50, 20
ROWS_PER_FILLING = 1_000
QUIET_SECONDS = 20.0
"""For so long gaps are noted before the wish, and behind its coming true."""

app = dz.Program("reshard")


class Account(dz.Row):
    """What is known of one key."""

    key: int
    branch: int
    number: int


BRANCHES = 1_000
accounts = app.dataset("accounts", Account, key="key")
app.view("per_branch", accounts.group_by("branch").agg(n=dz.count(), total=dz.sum("number")))
app.view("total", accounts.group_by().agg(n=dz.count(), total=dz.sum("number")))


def measure(engine: str, rows: int, broker: Broker) -> list[Measurement]:
    """A split of a node with so many rows; `engine` names what is measured."""
    with TemporaryDirectory() as directory, services(Path(directory), broker.url, SYSTEM) as running:
        return [asyncio.run(_measure(engine, rows, broker, running))]


async def _measure(engine: str, rows: int, broker: Broker, running: Services) -> Measurement:
    running.scheduler(machines=MACHINES)
    machines = [running.runner(f"m{number}") for number in range(1, MACHINES + 1)]
    remote = RemoteSystem(broker.url, SYSTEM)
    async with remote.connect(app, nodes=1) as db:
        start = time.perf_counter()
        await _fill(db, rows)
        filled = time.perf_counter() - start
        watcher, watched = started(_watch, broker.url)
        await asyncio.to_thread(watched.recv)
        writer, wrote = started(_write, broker.url, rows)
        try:
            await asyncio.to_thread(wrote.recv)
            await asyncio.sleep(QUIET_SECONDS)
            before = time.monotonic()
            await remote.scale(app.name, 2)
            scaled = time.monotonic() - before
            await asyncio.sleep(QUIET_SECONDS)
            wrote.send(True)
            commits, written = await asyncio.to_thread(wrote.recv)
            watched.send(rows + written)
            epochs, unbroken = await asyncio.to_thread(watched.recv)
        finally:
            writer.kill()
            watcher.kill()
        total = (await db.snapshot("total"))["total"]
    right = unbroken and [row.n for row in total] == [rows + written]
    begun = [event for machine in machines for event in machine.found("node_begun")]
    figures: dict[str, Figure] = {
        "rows": rows,
        "scaled_seconds": scaled,
        "writer_before_seconds": _longest_gap(commits, before - QUIET_SECONDS, before),
        "writer_seconds": _longest_gap(commits, before, commits[-1]),
        "watcher_before_seconds": _longest_gap(epochs, before - QUIET_SECONDS, before),
        "watcher_seconds": _longest_gap(epochs, before, commits[-1]),
        "prepared": sum(event.get("how") == "prepared" for event in begun),
    }
    note = (
        f"longest wait of a writer {figures['writer_seconds']:.2f} s (before {figures['writer_before_seconds']:.2f} s),"
        f" of a watcher {figures['watcher_seconds']:.2f} s (before {figures['watcher_before_seconds']:.2f} s);"
        f" done {scaled:.0f} s after the wish"
    )
    rss = sum(peak_rss_mb_of(machine.process.pid) for machine in machines)
    return Measurement(
        "reshard", engine, rows, float(figures["watcher_seconds"]), filled, rss, right, note, figures
    )


def _longest_gap(times: list[float], first: float, last: float) -> float:
    """Between two of these times, of which the second is within the bounds."""
    gaps = [b - a for a, b in pairwise(times) if first <= b <= last]
    return max(gaps, default=0.0)


async def _fill(db: Client, rows: int) -> None:
    for first in range(0, rows, ROWS_PER_FILLING):
        transaction = db.new_transaction()
        for key in range(first, first + ROWS_PER_FILLING):
            transaction.put("accounts", {"key": key, "branch": key % BRANCHES, "number": 1})
        await db.write_soon(transaction)
    await db.flush()


async def _write(pipe: Connection, url: str, rows: int) -> None:
    """Transactions one after the other, until told to stop; then says when each was committed, and how many rows."""
    commits: list[float] = []
    written = 0
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        start = time.monotonic()
        pipe.send(True)
        while not pipe.poll():
            await asyncio.sleep(max(0.0, start + len(commits) / TRANSACTIONS_PER_SECOND - time.monotonic()))
            transaction = db.new_transaction()
            for number in range(written, written + ROWS_PER_TRANSACTION):
                row = {"key": rows + number, "branch": number * 7919 % BRANCHES, "number": number}
                transaction.put("accounts", row)
            await db.write(transaction)
            written += ROWS_PER_TRANSACTION
            commits.append(time.monotonic())
        await db.flush()
        pipe.send((commits, written))


async def _watch(pipe: Connection, url: str) -> None:
    """Says when it has begun; then, when it has seen as many rows as it is told to wait for, when it saw each change,
    and whether each took back what the one before it showed."""
    times: list[float] = []
    count, unbroken = -1, True

    async def see() -> None:
        nonlocal count, unbroken
        async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
            async for change in db.watch("total"):
                times.append(time.monotonic())
                if change.snapshot:
                    unbroken = unbroken and count < 0
                    pipe.send(True)
                else:
                    unbroken = unbroken and [row.n for row in change.deleted] == [count]
                (count,) = (row.n for row in change.inserted)

    seeing = asyncio.create_task(see())
    wanted = await asyncio.to_thread(pipe.recv)
    while count != wanted and not seeing.done():
        await asyncio.sleep(0.05)
    seeing.cancel()
    pipe.send((times, unbroken))
