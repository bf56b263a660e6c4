"""From a client's write to the changed row at a watcher, over RabbitMQ.

A process writes rows, one to a transaction, at a steady rate, whether or not the ones before have been answered (`idle`
is one write every half second); another process watches the view. Each row holds when it was written, on the machine's
monotonic clock, just before its transaction was made; each of them belongs to another key than the thousand before it,
so the watcher sees all of them. Time runs until the watcher's loop has the changed row, as the user sees it. Every
commit is synced to the disk on the way. Right: the watcher saw every write once.

`rows` and `seconds` of a measurement are the writes and how long they took to write: a rate below the one asked for
means that the writer could not keep up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import dist_zero as dz
from benchmarks.measure import Measurement
from benchmarks.system import SYSTEM, Broker, System, running_system
from dist_zero.client.remote import RemoteSystem

RATES = {"idle": 2, "100/s": 100, "1,000/s": 1_000}
KEYS = 1_000
WARM_UP = 20
"""Writes before the measured ones."""

app = dz.Program("latency")


class Event(dz.Row):
    """One event, and when it was written."""

    key: int
    number: int
    written_ns: int


events = app.dataset("events", Event)
newest = events.group_by("key").agg(n=dz.count(), number=dz.max("number"), written_ns=dz.max("written_ns"))
app.view("newest", newest)


def measure(engine: str, writes: int, broker: Broker) -> list[Measurement]:
    """So many writes; `engine` is the number of nodes and the rate, as `2 nodes, 100/s`."""
    nodes, rate_name = engine.split(" ", 1)[0], engine.rpartition(", ")[2]
    with running_system(broker, int(nodes)) as system:
        return [asyncio.run(_measure(engine, int(nodes), RATES[rate_name], writes, system))]


async def _measure(engine: str, nodes: int, rate: int, writes: int, system: System) -> Measurement:
    async with system.remote.connect(app, nodes=nodes):
        watcher, watched = started(_watch, system.broker.url, writes)
        writer, wrote = started(_write, system.broker.url, writes, rate)
        try:
            await asyncio.to_thread(watched.recv)  # it has the view as it is
            before = await asyncio.to_thread(system.used)
            wrote.send(True)
            seconds, writer_cpu = await asyncio.to_thread(wrote.recv)
            latencies, watcher_cpu = await asyncio.to_thread(watched.recv)
            used = await asyncio.to_thread(system.used) - before
        finally:
            for process in (writer, watcher):
                process.kill()
    latencies.sort()
    median, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    figures = {
        "median_ms": median,
        "p99_ms": p99,
        "max_ms": latencies[-1],
        "writer_us_per_write": writer_cpu / writes * 1e6,
        "watcher_us_per_write": watcher_cpu / writes * 1e6,
        "runners_us_per_write": used.runners / writes * 1e6,
        "broker_us_per_write": used.broker / writes * 1e6,
        "broker_messages": used.messages,
    }
    note = (
        f"median {median:.1f} ms, p99 {p99:.1f} ms; CPU per write: writer {figures['writer_us_per_write']:.0f} µs,"
        f" watcher {figures['watcher_us_per_write']:.0f} µs, runners {figures['runners_us_per_write']:.0f} µs,"
        f" broker {figures['broker_us_per_write']:.0f} µs"
    )
    right = len(latencies) == writes
    return Measurement(
        "write to watcher", engine, writes, seconds, 0.0, system.peak_rss_mb(), right, note, figures
    )


def started(work: Callable[..., Coroutine[Any, Any, None]], *given: Any) -> tuple[BaseProcess, Connection]:
    """A process that does this work, with its end of a pipe; and the other end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(work, there, *given), daemon=True)
    process.start()
    there.close()
    return process, here


def _run(work: Callable[..., Coroutine[Any, Any, None]], *given: Any) -> None:
    asyncio.run(work(*given))


async def _write(pipe: Connection, url: str, writes: int, rate: int) -> None:
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        for number in range(WARM_UP):
            await db.append("events", {"key": number, "number": 0, "written_ns": 0})
        await asyncio.to_thread(pipe.recv)
        used, start = sum(os.times()[:2]), time.monotonic()
        for number in range(1, writes + 1):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            written_ns = time.monotonic_ns()
            transaction = db.new_transaction()
            transaction.append("events", {"key": number % KEYS, "number": number, "written_ns": written_ns})
            await db.write_soon(transaction)
        await db.flush()
        pipe.send((time.monotonic() - start, sum(os.times()[:2]) - used))


async def _watch(pipe: Connection, url: str, writes: int) -> None:
    """Sends a word when it has begun, then the latencies in milliseconds, one for each number that was seen."""
    latencies: dict[int, float] = {}
    async with RemoteSystem(url, SYSTEM).connect(app.name) as db:
        used = 0.0
        async for change in db.watch("newest"):
            now = time.monotonic_ns()
            if change.snapshot:
                pipe.send(True)
                used = sum(os.times()[:2])
            for row in change.inserted:
                if row.number:
                    latencies[row.number] = (now - row.written_ns) / 1e6
            if len(latencies) == writes:
                break
        pipe.send((list(latencies.values()), sum(os.times()[:2]) - used))
