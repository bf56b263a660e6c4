"""Over RabbitMQ: rows into a count per key, and bytes, through whole systems of 1, 2 and 4 nodes.

`counts` writes the events of `benchmarks/counts.py`, 1,000 to a transaction, as `load` does with files. `bytes` writes
rows of 16 KiB, 16 to a transaction, into a count that does not look at them: little is computed, so it shows what the
way from the client through the broker and the log to the nodes carries. In both, time runs from the first write until
all of it is committed, synced to the disk, and visible in the view; then the view is compared with a dictionary.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator

import dist_zero as dz
from benchmarks import counts
from benchmarks.measure import Figure, Measurement
from benchmarks.system import Broker, System, Used, running_system
from dist_zero.client.client import Client
from dist_zero.client.writes import Transaction
from dist_zero_common.allocation import keep_freed_memory

ROWS_PER_TRANSACTION = 1_000
BODY_BYTES, BODIES_PER_TRANSACTION, BODY_KEYS = 16 * 1024, 16, 100

app = dz.Program("bytes")


class Body(dz.Row):
    """A row that is nearly all body."""

    key: int
    body: bytes


bodies = app.dataset("bodies", Body)
app.view("per_key", bodies.group_by("key").agg(n=dz.count()))


def measure_counts(engine: str, rows: int, broker: Broker) -> list[Measurement]:
    """Rows into a count and a sum per key; `engine` is the number of nodes."""
    before = time.perf_counter()
    data = counts.events(rows)
    reading = time.perf_counter() - before

    def transactions(db: Client) -> Iterator[Transaction]:
        for start in range(0, rows, ROWS_PER_TRANSACTION):
            transaction = db.new_transaction()
            transaction.write_stored("payments", data[start : start + ROWS_PER_TRANSACTION])
            yield transaction

    async def run(system: System, nodes: int) -> Measurement:
        async with system.remote.connect(counts.app, nodes=nodes) as db:
            seconds, used = await _load(db, system, transactions(db))
            got = {row.key: (row.n, row.total) for row in await db.rows("per_key")}
        right = got == counts.dictionary(data)
        return _measured("W1 over RabbitMQ", nodes, rows, seconds, reading, right, used, system)

    return [_with_system(broker, engine, run)]


def measure_bytes(engine: str, rows: int, broker: Broker) -> list[Measurement]:
    """Rows of 16 KiB; `engine` is the number of nodes."""
    before = time.perf_counter()
    rng = random.Random(1)
    keys = [rng.randrange(BODY_KEYS) for _ in range(rows)]
    body = rng.randbytes(BODY_BYTES)
    reading = time.perf_counter() - before

    def transactions(db: Client) -> Iterator[Transaction]:
        for start in range(0, rows, BODIES_PER_TRANSACTION):
            transaction = db.new_transaction()
            transaction.write_stored(
                "bodies", [(key, body) for key in keys[start : start + BODIES_PER_TRANSACTION]]
            )
            yield transaction

    async def run(system: System, nodes: int) -> Measurement:
        async with system.remote.connect(app, nodes=nodes) as db:
            seconds, used = await _load(db, system, transactions(db))
            got = {row.key: row.n for row in await db.rows("per_key")}
        right = got == Counter(keys)
        return _measured(
            "bytes over RabbitMQ", nodes, rows, seconds, reading, right, used, system, rows * BODY_BYTES
        )

    return [_with_system(broker, engine, run)]


async def _load(db: Client, system: System, transactions: Iterator[Transaction]) -> tuple[float, Used]:
    before = await asyncio.to_thread(system.used)
    start = time.perf_counter()
    await db.load(transactions)
    await db.flush()
    seconds = time.perf_counter() - start
    return seconds, await asyncio.to_thread(system.used) - before


def _with_system(
    broker: Broker, engine: str, run: Callable[[System, int], Coroutine[None, None, Measurement]]
) -> Measurement:
    nodes = int(engine.split()[0])
    keep_freed_memory()  # as `dist-zero load` does
    with running_system(broker, nodes) as system:
        return asyncio.run(run(system, nodes))


def _measured(
    workload: str,
    nodes: int,
    rows: int,
    seconds: float,
    reading: float,
    right: bool,
    used: Used,
    system: System,
    payload: int = 0,
) -> Measurement:
    figures: dict[str, Figure] = {
        "mb_per_s": used.bytes / seconds / 1e6,
        "broker_messages": used.messages,
        "client_us_per_row": used.client / rows * 1e6,
        "runners_us_per_row": used.runners / rows * 1e6,
        "broker_us_per_row": used.broker / rows * 1e6,
    }
    note = f"{figures['mb_per_s']:.1f} MB/s through the broker"
    if payload:
        figures["payload_mb_per_s"] = payload / seconds / 1e6
        note += f", {figures['payload_mb_per_s']:.1f} of them the client's"
    shares = (("client", used.client), ("runners", used.runners), ("broker", used.broker))
    note += "; CPU: " + ", ".join(f"{who} {cpu / seconds:.0%}" for who, cpu in shares)
    engine = f"{nodes} node{'s' if nodes > 1 else ''}"
    return Measurement(workload, engine, rows, seconds, reading, system.peak_rss_mb(), right, note, figures)
