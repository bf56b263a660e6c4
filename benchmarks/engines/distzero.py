"""DistZero: a whole embedded system in this process, as `dz.embedded` gives it.

The files are loaded as `load_file` loads them, through session, codec, log, sequencer and executor, and a watcher
follows the view from the beginning. Time runs from when the system takes writes until the watcher has the last change.
A system of the same program was started and ended before, so imports and compiling do not count; how long the second
one takes to start is `start_seconds`, and `benchmarks deploy` measures deploying by itself. Which executor runs is the
setting DIST_ZERO_EXECUTOR's.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import dist_zero as dz
from benchmarks.engines.process import Done, Stopwatch, Task, percentiles, serve
from benchmarks.engines.programs import PROGRAMS, counts
from benchmarks.workloads import LATENCY_KEYS, LATENCY_RATE, LATENCY_WARM_UP, Workload
from dist_zero.client.client import Client
from dist_zero.client.watch import change_for_people
from dist_zero.files import RowFile

DELETES_PER_TRANSACTION = 1_000


class Watcher:
    """Follows the view `answer`, as `watch` does, takes every change as Arrow tables of the rows that came and went,
    and knows of which epoch the newest one is."""

    def __init__(self, db: Client) -> None:
        self._db = db
        self.rows, self.changes, self._epoch = 0, 0, 0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. `watch` says nothing of epochs that change nothing; here they count, so that the
        last change is known to be the last."""
        with self._db.watch_stored((0,)) as changes:
            async for change in changes:
                if change.snapshot or change.rows[0]:
                    seen = change_for_people(self._db.readers[0], 0, change)
                    came, went = (table.num_rows for table in seen.to_arrow())
                    self.rows += came - went
                    self.changes += came + went
                self._epoch = change.epoch
                self._moved.set()

    async def wait_epoch(self, epoch: int) -> None:
        """Until it has seen this epoch."""
        while self._epoch < epoch:
            self._moved.clear()
            await self._moved.wait()


async def _load(db: Client, workload: Workload, paths: dict[str, Path]) -> None:
    for each in workload.inputs:
        if each.name == "updates":
            await _load_as(db, "orders", paths[each.name])
        elif each.name == "deletes":
            ids = _ids(paths[each.name])
            for first in range(0, len(ids), DELETES_PER_TRANSACTION):
                transaction = db.new_transaction()
                transaction.delete("orders", *ids[first : first + DELETES_PER_TRANSACTION])
                await db.write_soon(transaction)
        else:
            await _load_as(db, each.name, paths[each.name])


def _ids(path: Path) -> list[int]:
    with pq.ParquetFile(path) as file:
        ids: list[int] = file.read(["id"])["id"].to_pylist()
    return ids


async def _load_as(db: Client, dataset: str, path: Path) -> None:
    await db.load_file(dataset, path)


async def _warm_up(program: dz.Program) -> None:
    """Start a system of the program and end it, so that modules are imported, and C is compiled and cached. pyarrow
    imports pandas, where that is installed, with the first list that it is given."""
    pa.array([0])
    async with dz.embedded(program) as db:
        (await db.snapshot("answer")).to_arrow("answer")


def run(task: Task) -> Done:
    """The workload, with a watcher."""
    program = PROGRAMS[task.workload.name]()
    paths = task.paths

    async def main() -> Done:
        await _warm_up(program)
        before = time.perf_counter()
        async with dz.embedded(program) as db:
            start = time.perf_counter()
            watcher = Watcher(db)
            watching = asyncio.create_task(watcher.run())
            await _load(db, task.workload, paths)
            committed = time.perf_counter()
            await watcher.wait_epoch(await db.flush())
            end = time.perf_counter()
            watching.cancel()
            answer = (await db.snapshot("answer")).to_arrow("answer")
        if watcher.rows != answer.num_rows:
            raise AssertionError(f"the watcher has {watcher.rows} rows, the view {answer.num_rows}")
        figures = {
            "start_seconds": start - before,
            "commit_seconds": committed - start,
            "watched_changes": float(watcher.changes),
        }
        return Done(end - start, lambda out: pq.write_table(answer, out), figures)

    return asyncio.run(main())


def read(task: Task) -> Done:
    """The files, with the reader of `load_file`, into what transactions are made of."""
    program = PROGRAMS[task.workload.name]()
    row_types = {dataset.name: dataset.row_type for dataset in program.graph().datasets}
    start = time.perf_counter()
    for each in task.workload.inputs:
        if each.name == "deletes":
            _ids(task.paths[each.name])
        else:
            row_type = row_types["orders" if each.name == "updates" else each.name]
            for _ in RowFile(task.paths[each.name], row_type).batches():
                pass
    return Done(time.perf_counter() - start)


def latency(writes: int) -> Done:
    """W4: single-row writes at a steady rate, and how long until a watcher has the row that each has changed."""

    async def main() -> Done:
        rng = random.Random(1)
        watch = Stopwatch(writes, LATENCY_WARM_UP)
        program = counts(int)
        await _warm_up(program)
        async with dz.embedded(program) as db:
            began = asyncio.Event()

            async def see() -> None:
                async for change in db.watch("answer"):
                    began.set()
                    now = time.perf_counter()
                    for row in change.inserted:
                        if watch.see(row.key, row.n, now):
                            return

            seeing = asyncio.create_task(see())
            await began.wait()
            start = time.perf_counter()
            for number in range(LATENCY_WARM_UP + writes):
                await asyncio.sleep(max(0.0, start + number / LATENCY_RATE - time.perf_counter()))
                key = rng.randrange(LATENCY_KEYS)
                transaction = db.new_transaction()
                watch.write(key, time.perf_counter())
                transaction.append("events", {"key": key, "amount": number})
                await db.write_soon(transaction)
            await seeing
        return Done(time.perf_counter() - start, figures=percentiles(watch.latencies_ms))

    return asyncio.run(main())


if __name__ == "__main__":
    serve(run, read, latency)
