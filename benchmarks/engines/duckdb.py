"""DuckDB: the answer computed once, from scratch, on one thread. A reference for what the same hardware can do when
nothing has to be kept up to date. Its own reader of Parquet; the answer is taken as Arrow."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from benchmarks.engines.process import Done, Task, serve


def connected(paths: dict[str, Path]) -> duckdb.DuckDBPyConnection:
    """A connection on one thread, with the files as views of their names."""
    connection = duckdb.connect(config={"threads": 1})
    for name, path in paths.items():
        connection.execute(f"create view {name} as select * from read_parquet('{path}')")
    return connection


def run(task: Task) -> Done:
    """The answer, once."""
    connection = connected(task.paths)
    start = time.perf_counter()
    answer = connection.sql(task.workload.sql).to_arrow_table()
    seconds = time.perf_counter() - start
    return Done(seconds, lambda out: pq.write_table(answer, out))


def read(task: Task) -> Done:
    """All columns that the query reads, a batch at a time."""
    connection = connected(task.paths)
    start = time.perf_counter()
    for each in task.workload.inputs:
        columns = ", ".join(each.columns)
        for _ in connection.sql(f"select {columns} from {each.name}").to_arrow_reader(100_000):
            pass
    return Done(time.perf_counter() - start)


if __name__ == "__main__":
    serve(run, read)
