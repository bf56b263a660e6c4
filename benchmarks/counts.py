"""W1: count and sum per key of uniform events, on the bare interpreter and through a whole embedded system.

Beside them: a loop over a dictionary, which is what Python itself allows, and DuckDB computing the answer once, from
scratch, on one thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

import duckdb
import pyarrow

import dist_zero as dz
from benchmarks.measure import Measurement, peak_rss_mb
from benchmarks.one_node import OneNode
from dist_zero.client.client import Client
from dist_zero.client.writes import Transaction
from dist_zero.compiler import compile

BATCH_ROWS = 10_000
Event = tuple[int, int]
Totals = dict[int, tuple[int, int]]

app = dz.Program("counts")


class Payment(dz.Row):
    """One event."""

    key: int
    amount: int


payments = app.dataset("payments", Payment)
app.view("per_key", payments.group_by("key").agg(n=dz.count(), total=dz.sum("amount")))


def events(count: int) -> list[Event]:
    """Uniform over one key for every twenty events; always the same ones."""
    rng = random.Random(1)
    keys = max(count // 20, 1)
    return [(rng.randrange(keys), rng.randrange(1_000)) for _ in range(count)]


def batches(rows: list[Event]) -> Iterator[list[Event]]:
    """The events in pieces of 10,000."""
    return (rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS))


def dictionary(rows: list[Event]) -> Totals:
    """A loop over a dictionary."""
    totals: Totals = {}
    for key, amount in rows:
        n, total = totals.get(key, (0, 0))
        totals[key] = (n + 1, total + amount)
    return totals


def interpreter(rows: list[Event]) -> Totals:
    """The reference interpreter alone: one epoch per batch, no system around it."""
    node = OneNode(compile(app.graph()))
    for batch in batches(rows):
        node.write(0, batch)
    return {key: (n, total) for key, n, total in node.rows(0)}


def transactions(db: Client, rows: list[Event]) -> Iterator[Transaction]:
    """The events in transactions of 10,000."""
    for batch in batches(rows):
        transaction = db.new_transaction()
        transaction.write_stored("payments", batch)
        yield transaction


def embedded(rows: list[Event]) -> Totals:
    """A whole system in this process: session, codec, log, hand-out, interpreter, and a snapshot at the end."""

    async def run() -> Totals:
        async with dz.embedded(app) as db:
            await db.load(transactions(db, rows))
            await db.flush()
            return {row.key: (row.n, row.total) for row in await db.rows("per_key")}

    return asyncio.run(run())


def duckdb_once(rows: list[Event]) -> Totals:
    """DuckDB over an Arrow table, once, on one thread."""
    keys, amounts = zip(*rows, strict=True)
    events_table = pyarrow.table({"key": keys, "amount": amounts})
    connection = duckdb.connect(config={"threads": 1})
    connection.register("events", events_table)
    found = connection.execute("select key, count(*), sum(amount) from events group by key").fetchall()
    return {key: (n, int(total)) for key, n, total in found}


ENGINES: dict[str, Callable[[list[Event]], Totals]] = {
    "dictionary": dictionary,
    "interpreter": interpreter,
    "embedded": embedded,
    "duckdb": duckdb_once,
}


def measure(engine: str, rows: int) -> list[Measurement]:
    """One engine on so many events."""
    before = time.perf_counter()
    data = events(rows)
    start = time.perf_counter()
    got = ENGINES[engine](data)
    end = time.perf_counter()
    name = f"W1 {rows:,}"
    right = got == dictionary(data)
    return [Measurement(name, engine, rows, end - start, start - before, peak_rss_mb(), right)]
