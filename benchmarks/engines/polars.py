"""polars: the answer computed once, from scratch, by its lazy engine on one thread (POLARS_MAX_THREADS=1). A
reference, as DuckDB is. Its own reader of Parquet, which reads the columns that are needed."""

from __future__ import annotations

import time
from collections.abc import Callable

import polars as pl

from benchmarks.engines.process import Done, Task, serve

Frames = dict[str, pl.LazyFrame]


def _counts(frames: Frames) -> pl.LazyFrame:
    return frames["events"].group_by("key").agg(n=pl.len().cast(pl.Int64), total=pl.col("amount").sum())


def _q1(frames: Frames) -> pl.LazyFrame:
    return frames["bid"].select("auction", "bidder", pl.col("price") * 0.908, "time_ms")


def _q2(frames: Frames) -> pl.LazyFrame:
    return frames["bid"].filter(pl.col("auction") % 123 == 0).select("auction", "price")


def _q3(frames: Frames) -> pl.LazyFrame:
    people = frames["person"].filter(pl.col("state").is_in(["OR", "ID", "CA"]))
    auctions = frames["auction"].filter(pl.col("category") == 10).select("seller", auction="auction_id")
    joined = auctions.join(people, left_on="seller", right_on="person_id")
    return joined.select("name", "city", "state", "auction")


def _q4(frames: Frames) -> pl.LazyFrame:
    auctions = (
        frames["auction"]
        .rename({"time_ms": "opened_ms"})
        .select("auction_id", "category", "opened_ms", "expires_ms")
    )
    joined = frames["bid"].join(auctions, left_on="auction", right_on="auction_id")
    valid = joined.filter(pl.col("time_ms").is_between(pl.col("opened_ms"), pl.col("expires_ms")))
    final = valid.group_by("auction", "category").agg(final=pl.col("price").max())
    return final.group_by("category").agg(average=pl.col("final").mean())


def _w3(frames: Frames) -> pl.LazyFrame:
    untouched = frames["orders"].join(frames["updates"], on="id", how="anti")
    live = pl.concat([untouched, frames["updates"]]).join(frames["deletes"], on="id", how="anti")
    joined = live.join(frames["customers"], on="customer")
    return joined.group_by("region").agg(n=pl.len().cast(pl.Int64), total=pl.col("amount").sum())


QUERIES: dict[str, Callable[[Frames], pl.LazyFrame]] = {
    "W1": _counts,
    "W1s": _counts,
    "q1": _q1,
    "q2": _q2,
    "q3": _q3,
    "q4": _q4,
    "W3": _w3,
}


def run(task: Task) -> Done:
    """The answer, once."""
    start = time.perf_counter()
    frames = {name: pl.scan_parquet(path) for name, path in task.paths.items()}
    answer = QUERIES[task.workload.name](frames).collect()
    seconds = time.perf_counter() - start
    return Done(seconds, lambda out: answer.write_parquet(out))


def read(task: Task) -> Done:
    """All columns that the query reads."""
    start = time.perf_counter()
    paths = task.paths
    for each in task.workload.inputs:
        pl.read_parquet(paths[each.name], columns=list(each.columns))
    return Done(time.perf_counter() - start)


if __name__ == "__main__":
    serve(run, read)
