"""Pathway: its Rust engine on one worker, expressions and reducers of its own, no Python per row but in W3 and W4.

Its fast paths: it reads CSV with its own reader (for Parquet it has none but through pandas), in static mode, where all
that is there is taken in as one commit, so that it computes each answer once and no change twice; and it writes
changes with its own writer, as CSV. W3 is told what changes, which no reader of files can do: a Python connector with a
primary key, in an upsert session, that commits between orders, updates and deletes. W4 is another one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pathway as pw
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.engines.process import Done, Stopwatch, Task, percentiles, serve
from benchmarks.workloads import LATENCY_KEYS, LATENCY_RATE, LATENCY_WARM_UP, Input

AUTOCOMMIT_MS = 1
Tables = dict[str, Any]


def _schema(columns: dict[str, type], key: str | None = None) -> Any:
    definitions = {
        name: pw.column_definition(dtype=dtype, primary_key=name == key) for name, dtype in columns.items()
    }
    return pw.schema_builder(definitions)


def _table(task: Task, each: Input) -> Any:
    return pw.io.csv.read(task.csv_paths[each.name], schema=_schema(each.columns), mode="static")


class _Orders(pw.io.python.ConnectorSubject):
    """Orders, then updates, then deletes; a commit behind each."""

    def __init__(self, paths: dict[str, Path]) -> None:
        super().__init__(session_type="upsert")
        self._paths = paths

    def run(self) -> None:
        """Read and send."""
        for name in ("orders", "updates"):
            for row in _rows(self._paths[name]):
                self.next(**row)
            self.commit()
        for row in _rows(self._paths["deletes"]):
            self.delete(id=row["id"], customer=0, amount=0)
        self.commit()


def _rows(path: Path) -> list[dict[str, int]]:
    with pq.ParquetFile(path) as file:
        rows: list[dict[str, int]] = file.read().to_pylist()
    return rows


def _tables(task: Task) -> Tables:
    if task.workload.name != "W3":
        return {each.name: _table(task, each) for each in task.workload.inputs}
    customers, orders = task.workload.inputs[:2]
    schema = _schema(orders.columns, key="id")
    return {
        "customers": _table(task, customers),
        "orders": pw.io.python.read(_Orders(task.paths), schema=schema, autocommit_duration_ms=None),
    }


def _counts(tables: Tables) -> Any:
    events = tables["events"]
    return events.groupby(events.key).reduce(
        events.key, n=pw.reducers.count(), total=pw.reducers.sum(events.amount)
    )


def _q1(tables: Tables) -> Any:
    bid = tables["bid"]
    return bid.select(bid.auction, bid.bidder, price=bid.price * 0.908, time_ms=bid.time_ms)


def _q2(tables: Tables) -> Any:
    bid = tables["bid"]
    return bid.filter(bid.auction % 123 == 0)


def _q3(tables: Tables) -> Any:
    person, auction = tables["person"], tables["auction"]
    people = person.filter((person.state == "OR") | (person.state == "ID") | (person.state == "CA"))
    auctions = auction.filter(auction.category == 10)
    joined = auctions.join(people, auctions.seller == people.person_id)
    return joined.select(people.name, people.city, people.state, auction=auctions.auction_id)


def _q4(tables: Tables) -> Any:
    auction, bid = tables["auction"], tables["bid"]
    joined = bid.join(auction, bid.auction == auction.auction_id).select(
        bid.auction,
        bid.price,
        bid.time_ms,
        auction.category,
        opened_ms=auction.time_ms,
        ends=auction.expires_ms,
    )
    valid = joined.filter((joined.time_ms >= joined.opened_ms) & (joined.time_ms <= joined.ends))
    final = valid.groupby(valid.auction, valid.category).reduce(
        valid.category, final=pw.reducers.max(valid.price)
    )
    return final.groupby(final.category).reduce(final.category, average=pw.reducers.avg(final.final))


def _w3(tables: Tables) -> Any:
    orders, customers = tables["orders"], tables["customers"]
    joined = orders.join(customers, orders.customer == customers.customer).select(
        customers.region, orders.amount
    )
    return joined.groupby(joined.region).reduce(
        joined.region, n=pw.reducers.count(), total=pw.reducers.sum(joined.amount)
    )


QUERIES: dict[str, Callable[[Tables], Any]] = {
    "W1": _counts,
    "W1s": _counts,
    "q1": _q1,
    "q2": _q2,
    "q3": _q3,
    "q4": _q4,
    "W3": _w3,
}


def _run() -> float:
    start = time.perf_counter()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return time.perf_counter() - start


def run(task: Task) -> Done:
    """The workload, until all changes are written."""
    changes = task.out.with_suffix(".csv")
    pw.io.csv.write(QUERIES[task.workload.name](_tables(task)), changes)
    seconds = _run()

    def write(out: Path) -> None:
        table = pa_csv.read_csv(changes, convert_options=pa_csv.ConvertOptions(strings_can_be_null=False))
        pq.write_table(table.select([*task.workload.answer, "diff"]), out)

    return Done(seconds, write)


def read(task: Task) -> Done:
    """The files, by the same readers, to nowhere."""
    for table in _tables(task).values():
        pw.io.null.write(table)
    return Done(_run())


class _Writes(pw.io.python.ConnectorSubject):
    """Single rows at a steady rate."""

    def __init__(self, watch: Stopwatch, writes: int, all_seen: threading.Event) -> None:
        super().__init__()
        self._watch, self._writes, self._all_seen = watch, writes, all_seen

    def run(self) -> None:
        """Write, and wait until all has been seen."""
        rng = random.Random(1)
        start = time.perf_counter()
        for number in range(LATENCY_WARM_UP + self._writes):
            time.sleep(max(0.0, start + number / LATENCY_RATE - time.perf_counter()))
            key = rng.randrange(LATENCY_KEYS)
            self._watch.write(key, time.perf_counter())
            self.next(key=key, amount=number)
        self._all_seen.wait()


def latency(writes: int) -> Done:
    """W4: a connector in a thread, and `subscribe`."""
    watch = Stopwatch(writes, LATENCY_WARM_UP)
    all_seen = threading.Event()
    subject = _Writes(watch, writes, all_seen)
    events = pw.io.python.read(
        subject, schema=_schema({"key": int, "amount": int}), autocommit_duration_ms=AUTOCOMMIT_MS
    )

    def on_change(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:  # noqa: ARG001
        if is_addition and watch.see(row["key"], row["n"], now()):
            all_seen.set()

    now = time.perf_counter
    pw.io.subscribe(_counts({"events": events}), on_change)
    return Done(_run(), figures=percentiles(watch.latencies_ms))


if __name__ == "__main__":
    serve(run, read, latency)
