"""Flink, by PyFlink's SQL in streaming mode, parallelism 1: no Python takes part once the job runs.

Its fast paths: CSV of the columns that the query reads (its reader of Parquet is no part of PyFlink), mini-batches for
groups and joins, objects used again. Orders and their changes come as Debezium's JSON, which is how Flink takes updates
from files. The answer is written by its own writer of files: CSV where rows are only added, Debezium's JSON where they
change. The JVM and the table environment are started before the clock; that the job is planned and its cluster started
is part of reading the files as of the whole. W4 is a row a line from a socket, and changes by `print`, without
mini-batches and with a buffer timeout of 0.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.data_stream import DataStream
from pyflink.java_gateway import get_gateway
from pyflink.table import EnvironmentSettings, StreamTableEnvironment, TableEnvironment

from benchmarks.engines.process import Done, Stopwatch, Task, percentiles, serve
from benchmarks.workloads import LATENCY_KEYS, LATENCY_RATE, LATENCY_WARM_UP

SETTINGS = {
    "parallelism.default": "1",
    "pipeline.object-reuse": "true",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "1 s",
    "table.exec.mini-batch.size": "5000",
}
_COUNTS = "select `key`, count(*) as n, sum(amount) as total from events group by `key`"
QUERIES = {
    "W1": _COUNTS,
    "W1s": _COUNTS,
    "q1": "select auction, bidder, cast(price as double) * 0.908e0 as price, time_ms from bid",
    "q2": "select auction, price from bid where mod(auction, 123) = 0",
    "q3": """select name, city, state, auction_id as auction from auction join person on seller = person_id
        where category = 10 and state in ('OR', 'ID', 'CA')""",
    "q4": """select category, avg(cast(final as double)) as average from (
            select category, max(price) as final from auction join bid on auction_id = bid.auction
            where bid.time_ms between auction.time_ms and expires_ms group by auction_id, category
        ) group by category""",
    "W3": """select region, count(*) as n, sum(amount) as total
        from orders join customers on orders.customer = customers.customer group by region""",
}
_TYPES = {int: "bigint", str: "string"}
KEYS = {"person": "person_id", "auction": "auction_id", "customers": "customer", "orders": "id"}
"""Which Flink is told of, for joins keep less then; it does not check them."""
APPENDS = ("q1", "q2", "q3")
TEXTS = ("name", "city", "state", "region")


def _answer_types(task: Task) -> dict[str, str]:
    name = task.workload.name
    types = {column: "string" if column in TEXTS else "bigint" for column in task.workload.answer}
    if name == "q1":
        types["price"] = "double"
    if name == "q4":
        types["average"] = "double"
    if name == "W1s":
        types["key"] = "string"
    return types


def _environment() -> Any:
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        environment.get_config().set(name, value)
    return environment


def _create(
    environment: Any, name: str, columns: dict[str, str], options: dict[str, str], key: str | None = None
) -> None:
    listed = [f"`{column}` {kind}" for column, kind in columns.items()]
    if key is not None:
        listed.append(f"primary key ({key}) not enforced")
    settings = ", ".join(f"'{option}' = '{value}'" for option, value in options.items())
    environment.execute_sql(f"create table {name} ({', '.join(listed)}) with ({settings})")


def _file(path: Path, form: str) -> dict[str, str]:
    return {"connector": "filesystem", "path": path.resolve().as_uri(), "format": form}


def _sources(environment: Any, task: Task) -> list[str]:
    names = []
    for each in task.workload.inputs:
        if each.name in ("updates", "deletes"):
            continue  # they are in changes.json
        options = _file(task.csv / f"{each.name}.bare.csv", "csv")
        if each.name == "orders":
            options = _file(task.csv / "changes.json", "debezium-json")
        columns = {column: _TYPES[kind] for column, kind in each.columns.items()}
        _create(environment, each.name, columns, options, KEYS.get(each.name))
        names.append(each.name)
    return names


def run(task: Task) -> Done:
    """The workload, until the job is done and its files are there."""
    environment = _environment()
    _sources(environment, task)
    types = _answer_types(task)
    out = task.out.with_suffix("")
    is_appended = task.workload.name in APPENDS
    _create(environment, "answer", types, _file(out, "csv" if is_appended else "debezium-json"))
    start = time.perf_counter()
    environment.execute_sql(f"insert into answer {QUERIES[task.workload.name]}").wait()
    seconds = time.perf_counter() - start
    return Done(seconds, lambda path: pq.write_table(_answer(out, types, is_appended), path))


def _answer(out: Path, types: dict[str, str], is_appended: bool) -> Any:
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.stat().st_size]
    if is_appended:
        kinds = {"double": pa.float64(), "bigint": pa.int64(), "string": pa.string()}
        options = pa_csv.ConvertOptions(column_types={name: kinds[kind] for name, kind in types.items()})
        names = pa_csv.ReadOptions(column_names=list(types))
        tables = [pa_csv.read_csv(path, read_options=names, convert_options=options) for path in files]
        return pa.concat_tables(tables) if tables else pa.table({name: [] for name in types})
    rows = []
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                change = json.loads(line)
                rows += [change[side] | {"diff": diff} for side, diff in _SIDES if change[side] is not None]
    return pa.Table.from_pylist(rows)


_SIDES = (("before", -1), ("after", 1))


def read(task: Task) -> Done:
    """The files, by the same readers, into black holes."""
    environment = _environment()
    statements = environment.create_statement_set()
    for name in _sources(environment, task):
        environment.execute_sql(
            f"create table hole_{name} with ('connector' = 'blackhole') like {name} (excluding all)"
        )
        statements.add_insert_sql(f"insert into hole_{name} select * from {name}")
    start = time.perf_counter()
    statements.execute().wait()
    return Done(time.perf_counter() - start)


def _jvm_output() -> Any:
    """Start the JVM with a pipe as its standard output, and give the end to read from."""
    here, there = os.pipe()
    ours = os.dup(1)
    os.dup2(there, 1)
    get_gateway()
    os.dup2(ours, 1)
    os.close(there)
    return os.fdopen(here, encoding="utf-8")


def latency(writes: int) -> Done:
    """W4: Flink runs in a process of its own in any case, so rows come by a socket, and changes go by a pipe."""
    watch = Stopwatch(writes, LATENCY_WARM_UP)
    output = _jvm_output()
    rows_in = socket.create_server(("127.0.0.1", 0))
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.set_parallelism(1)
    environment.set_buffer_timeout(0)
    tables = StreamTableEnvironment.create(environment)
    host, port = rows_in.getsockname()
    lines = DataStream(environment._j_stream_execution_environment.socketTextStream(host, port))
    tables.create_temporary_view("line", tables.from_data_stream(lines).alias("t"))
    tables.execute_sql(
        """create temporary view events as select cast(split_index(t, ',', 0) as bigint) as `key`,
        cast(split_index(t, ',', 1) as bigint) as amount from line"""
    )
    changes = tables.to_changelog_stream(tables.sql_query(_COUNTS))
    changes._j_data_stream.print()  # by Java; PyFlink's own would take each row through Python
    job = environment.execute_async("W4")

    def write() -> None:
        connection, _ = rows_in.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rng = random.Random(1)
        start = time.perf_counter()
        for number in range(LATENCY_WARM_UP + writes):
            time.sleep(max(0.0, start + number / LATENCY_RATE - time.perf_counter()))
            key = rng.randrange(LATENCY_KEYS)
            watch.write(key, time.perf_counter())
            connection.sendall(f"{key},{number}\n".encode())
        connection.recv(1)  # until the job is cancelled

    started = time.perf_counter()
    threading.Thread(target=write, daemon=True).start()
    for line in output:
        now = time.perf_counter()
        change = _PRINTED.search(line)
        if change is not None and watch.see(int(change[1]), int(change[2]), now):
            break
    seconds = time.perf_counter() - started
    job.cancel().result()
    return Done(seconds, figures=percentiles(watch.latencies_ms))


_PRINTED = re.compile(r"\+(?:I|U)\[(\d+), ?(\d+), ?\d+\]")

if __name__ == "__main__":
    serve(run, read, latency)
