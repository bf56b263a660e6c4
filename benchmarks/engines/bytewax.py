"""Bytewax: a dataflow on one worker, its sources and sinks written here, as Bytewax wants it (it has no reader of
Parquet of its own; pyarrow reads).

Its fast paths: q1 and q2 hand whole Arrow batches through `op.map`, and pyarrow computes them. What keeps state takes
single rows, keyed by text, through `op.stateful_batch`, with logic that takes all rows of a key that have come together
at once; its state is what the Python here keeps. Before that pyarrow counts and sums what is in a batch (W1, W1s), or
filters it (q3); batches are large for that, at the price of latency. Files are read in order, so that the changes of W3
come behind the orders. Recovery is off, so nothing is saved.

The sink is the watcher: it gets every change, and for what has a key keeps the newest.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from benchmarks.engines.process import Done, Stopwatch, Task, percentiles, serve
from benchmarks.workloads import LATENCY_KEYS, LATENCY_RATE, LATENCY_WARM_UP

BATCH_ROWS = 100_000
Batch = tuple[str, Any]
"""The name of a file, and an Arrow batch of it."""


class _Part(StatelessSourcePartition):
    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def next_batch(self) -> Iterable[Any]:
        """The next Arrow batch, as one item."""
        return [next(self._items)]


class _Source(DynamicSource):
    """Batches of all files, one file after the other."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Part:  # noqa: ARG002
        """The one part."""
        return _Part(self._items)


class _Written(StatelessSinkPartition):
    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self._take = take

    def write_batch(self, items: list[Any]) -> None:
        """What has come."""
        self._take(items)


class _Sink(DynamicSink):
    def __init__(self, take: Callable[[list[Any]], None]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Written:  # noqa: ARG002
        """The one part."""
        return _Written(self._take)


def _batches(task: Task) -> Iterator[Batch]:
    for each in task.workload.inputs:
        with pq.ParquetFile(task.paths[each.name]) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(each.columns), use_threads=False):
                yield each.name, batch


def _columns(batch: Any) -> list[list[Any]]:
    return [column.to_pylist() for column in batch.columns]


class _Logic(StatefulBatchLogic):
    """State of one key. `on_values` is given all values that came at once, and returns what goes on."""

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        """The values that have come for this key, and that the key is kept."""
        return self.on_values(values), StatefulBatchLogic.RETAIN

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """What changes."""
        raise NotImplementedError

    def snapshot(self) -> None:
        """Nothing: recovery is off."""
        return


def _stateful(name: str, stream: Any, logic: Callable[[], _Logic]) -> Any:
    return op.stateful_batch(name, stream, lambda _: logic())


# -- W1, W1s ------------------------------------------------------------------------------------------------


class _Count(_Logic):
    __slots__ = ("n", "total")

    def __init__(self) -> None:
        self.n = self.total = 0

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """Count and sum by what they change by."""
        for n, total in values:
            self.n += n
            self.total += total
        return ((self.n, self.total),)


def _counted(item: Batch) -> Iterable[Any]:
    """Of each key in the batch its count and sum."""
    table = pa.Table.from_batches([item[1]]).group_by("key", use_threads=False)
    found = table.aggregate([("amount", "count"), ("amount", "sum")])
    values = zip(found["amount_count"].to_pylist(), found["amount_sum"].to_pylist(), strict=True)
    return zip(found["key"].cast(pa.string()).to_pylist(), values, strict=True)


def _w1(stream: Stream) -> Any:
    return _stateful("count", op.flat_map("in a batch", stream, _counted), _Count)


# -- q1, q2 -------------------------------------------------------------------------------------------------


def _converted(item: Batch) -> Any:
    batch = item[1]
    prices = pc.multiply(pc.cast(batch["price"], pa.float64()), 0.908)
    return pa.record_batch(
        [batch["auction"], batch["bidder"], prices, batch["time_ms"]],
        ["auction", "bidder", "price", "time_ms"],
    )


def _wanted(item: Batch) -> Any:
    auction = item[1]["auction"]
    times = pc.multiply(pc.divide(auction, 123), 123)
    return item[1].filter(pc.equal(auction, times))


# -- q3 -----------------------------------------------------------------------------------------------------

STATES = pa.array(["OR", "ID", "CA"])


def _sides(item: Batch) -> Iterable[Any]:
    name, batch = item
    if name == "person":
        chosen = batch.filter(pc.is_in(batch["state"], STATES))
        ids, *others = _columns(chosen)
        return zip(map(str, ids), zip(*others, strict=True), strict=True)
    ids, sellers, _ = _columns(batch.filter(pc.equal(batch["category"], 10)))
    return zip(map(str, sellers), ids, strict=True)


class _Seller(_Logic):
    __slots__ = ("auctions", "person")

    def __init__(self) -> None:
        self.person: tuple[str, str, str] | None = None
        self.auctions: list[int] = []

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """Auctions are numbers, a person is a tuple; either may come first."""
        before = self.person
        new = []
        for value in values:
            if isinstance(value, tuple):
                self.person = value
            else:
                new.append(value)
        self.auctions += new
        if self.person is None:
            return ()
        return [(*self.person, auction) for auction in (self.auctions if before is None else new)]


def _q3(stream: Stream) -> Any:
    return _stateful("join", op.flat_map("sides", stream, _sides), _Seller)


# -- q4 -----------------------------------------------------------------------------------------------------


def _auctions_and_bids(item: Batch) -> Iterable[Any]:
    name, batch = item
    ids, *others = _columns(batch)
    kind = (name == "auction",) * len(ids)
    return zip(map(str, ids), zip(kind, *others, strict=True), strict=True)


class _Auction(_Logic):
    """The highest valid bid; emits the category's key with what its sum and its count change by."""

    __slots__ = ("best", "opened", "waiting")

    def __init__(self) -> None:
        self.opened: tuple[int, int, int] | None = None
        self.best = 0
        self.waiting: list[Any] = []

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """Bids are (False, price, time), the auction is (True, category, opened, expires)."""
        before = self.best
        for value in values:
            if value[0]:
                self.opened = value[1:]
        if self.opened is None:
            self.waiting += values
            return ()
        category, begins, ends = self.opened
        for value in [*self.waiting, *values] if self.waiting else values:
            if not value[0] and begins <= value[2] <= ends and value[1] > self.best:
                self.best = value[1]
        self.waiting = []
        if self.best == before:
            return ()
        return ((str(category), (self.best - before, 0 if before else 1)),)


class _Mean(_Logic):
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = self.total = 0

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """Sum and count by what they change by."""
        for difference, more in values:
            self.total += difference
            self.count += more
        return (self.total / self.count,)


def _q4(stream: Stream) -> Any:
    best = _stateful("best", op.flat_map("rows", stream, _auctions_and_bids), _Auction)
    return _stateful("mean", op.map("by category", best, _second), _Mean)


def _second(item: tuple[str, Any]) -> Any:
    return item[1]


# -- W3 -----------------------------------------------------------------------------------------------------


def _orders(item: Batch) -> Iterable[Any]:
    """By the order's id; those of customers go round."""
    name, batch = item
    if name == "customers":
        keys, regions = _columns(batch)
        return zip([f"c{key}" for key in keys], regions, strict=True)
    ids, *others = _columns(batch)
    values = zip(*others, strict=True) if others else [None] * len(ids)
    return zip(map(str, ids), values, strict=True)


class _Order(_Logic):
    """The newest of an order; emits what its customer loses and gains."""

    __slots__ = ("row",)

    def __init__(self) -> None:
        self.row: Any = None

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """Rows are (customer, amount), a delete is None; the last one counts. A text is a customer's region."""
        if isinstance(values[0], str):
            return values
        before, self.row = self.row, values[-1]
        changes = []
        if before is not None:
            changes.append((f"c{before[0]}", (-1, -before[1])))
        if self.row is not None:
            changes.append((f"c{self.row[0]}", (1, self.row[1])))
        return changes


class _Customer(_Logic):
    """Passes on what its orders change, to its region, as soon as that is known."""

    __slots__ = ("region", "waiting")

    def __init__(self) -> None:
        self.region: str | None = None
        self.waiting: list[Any] = []

    def on_values(self, values: list[Any]) -> Iterable[Any]:
        """A text is the region."""
        for value in values:
            if isinstance(value, str):
                self.region = value
            else:
                self.waiting.append(value)
        if self.region is None or not self.waiting:
            return ()
        n, total = (sum(column) for column in zip(*self.waiting, strict=True))
        self.waiting = []
        return ((self.region, (n, total)),)


def _keyed_again(item: tuple[str, Any]) -> Any:
    key, value = item
    return (key, value) if isinstance(value, str) else value


def _w3(stream: Stream) -> Any:
    orders = _stateful("orders", op.flat_map("rows", stream, _orders), _Order)
    customers = _stateful("customers", op.map("by customer", orders, _keyed_again), _Customer)
    return _stateful("regions", op.map("by region", customers, _second), _Count)


# -- running ------------------------------------------------------------------------------------------------

FLOWS: dict[str, Callable[[Stream], Any]] = {
    "W1": _w1,
    "W1s": _w1,
    "q1": lambda stream: op.map("convert", stream, _converted),
    "q2": lambda stream: op.map("filter", stream, _wanted),
    "q3": _q3,
    "q4": _q4,
    "W3": _w3,
}


def _flow(
    items: Iterator[Any], build: Callable[[Stream], Any], take: Callable[[list[Any]], None]
) -> Dataflow:
    flow = Dataflow("bench")
    op.output("out", build(op.input("in", flow, _Source(items))), _Sink(take))
    return flow


def run(task: Task) -> Done:
    """The workload, to the last change at the sink."""
    name = task.workload.name
    seen: list[Any] = []
    newest: dict[str, Any] = {}
    keyed = name in ("W1", "W1s", "q4", "W3")
    start = time.perf_counter()
    run_main(_flow(_batches(task), FLOWS[name], newest.update if keyed else seen.extend))
    seconds = time.perf_counter() - start

    def write(out: Path) -> None:
        columns = task.workload.answer
        if name in ("q1", "q2"):
            table = pa.Table.from_batches(seen)
        elif name == "q3":
            table = pa.table(dict(zip(columns, zip(*(row for _, row in seen), strict=True), strict=True)))
        else:
            keys = list(newest) if name in ("W1s", "W3") else list(map(int, newest))
            values = list(newest.values())
            rest = [values] if name == "q4" else list(zip(*values, strict=True))
            table = pa.table(dict(zip(columns, [keys, *rest], strict=True)))
        pq.write_table(table, out)

    return Done(seconds, write)


def read(task: Task) -> Done:
    """The files, by the same source, into a sink that drops them."""
    start = time.perf_counter()
    run_main(_flow(_batches(task), lambda stream: stream, lambda _: None))
    return Done(time.perf_counter() - start)


def latency(writes: int) -> Done:
    """W4: another thread writes rows into a queue, from which the source takes them as soon as it is asked."""
    rows: queue.SimpleQueue[tuple[str, tuple[int, int]] | None] = queue.SimpleQueue()
    watch = Stopwatch(writes, LATENCY_WARM_UP)

    class Part(StatelessSourcePartition):
        """Rows as they come."""

        def next_batch(self) -> Iterable[Any]:
            """What is there, at once; an end when there is no more to come."""
            found: list[Any] = []
            try:
                while True:
                    row = rows.get_nowait()
                    if row is None:
                        raise StopIteration
                    found.append(row)
            except queue.Empty:
                return found

        def next_awake(self) -> datetime:
            """Soon: it polls."""
            return datetime.now(UTC) + timedelta(microseconds=50)

    class Source(DynamicSource):
        """The queue."""

        def build(self, step_id: str, worker_index: int, worker_count: int) -> Part:  # noqa: ARG002
            """The one part."""
            return Part()

    def take(items: list[Any]) -> None:
        now = time.perf_counter()
        for key, (n, _) in items:
            if watch.see(int(key), n, now):
                rows.put(None)

    def write() -> None:
        rng = random.Random(1)
        start = time.perf_counter()
        for number in range(LATENCY_WARM_UP + writes):
            time.sleep(max(0.0, start + number / LATENCY_RATE - time.perf_counter()))
            key = rng.randrange(LATENCY_KEYS)
            watch.write(key, time.perf_counter())
            rows.put((str(key), (1, number)))

    flow = Dataflow("bench")
    op.output("out", _stateful("count", op.input("in", flow, Source()), _Count), _Sink(take))
    start = time.perf_counter()
    threading.Thread(target=write, daemon=True).start()
    run_main(flow)
    return Done(time.perf_counter() - start, figures=percentiles(watch.latencies_ms))


if __name__ == "__main__":
    serve(run, read, latency)
