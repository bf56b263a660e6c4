"""The files that workloads read: made once from a seed, kept in `.tmp/bench`, the same for every engine.

Parquet is what they are; beside it, for engines that have no reader of Parquet of their own, CSV of the columns that
a query reads, and for Flink the orders and their changes as Debezium's JSON, the form in which it takes updates from
files. Nobody is timed while these are made.

Nexmark's generator is written anew after its published description: of 50 events one is a new person, three are new
auctions, 46 are bids; half of the bids go to the hottest auction, three quarters come from the hottest bidder and
three quarters of the auctions from the hottest seller; times are milliseconds, 10 events in each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / ".tmp/bench/data-1"  # another number when the files are made in another way
ROWS_PER_KEY = 20
ZIPF = 1.1
ROW_GROUP_ROWS = 100_000

PERSON_SHARE, AUCTION_SHARE, SHARES = 1, 3, 50
FIRST_ID, FIRST_CATEGORY, CATEGORIES = 1_000, 10, 5
HOT_EVERY, ACTIVE_PEOPLE, AUCTIONS_IN_FLIGHT = 100, 1_000, 100
FIRST_TIME_MS, EVENTS_PER_MS = 1_700_000_000_000, 10
STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
)
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
REGIONS = 20

Table = dict[str, Any]
Rng = np.random.Generator


def files(workload: Workload, size: int, directory: Path = DIRECTORY) -> Path:
    """The directory that has the files of a workload, which are made if they are not there."""
    there = directory / f"{workload.data}-{size}"
    if not (there / "made").exists():
        there.mkdir(parents=True, exist_ok=True)
        for name, columns in MAKERS[workload.data](np.random.default_rng(1), size).items():
            pq.write_table(pa.table(columns), there / f"{name}.parquet", row_group_size=ROW_GROUP_ROWS)
        (there / "made").touch()
    return there


def csv_files(workload: Workload, size: int, directory: Path = DIRECTORY) -> Path:
    """A directory with the same as CSV, of the columns that the workload reads, with names in the first line and
    without; for W3 also `changes.json`."""
    parquet = files(workload, size, directory)
    there = parquet / f"csv-{workload.name}"
    if not (there / "made").exists():
        there.mkdir(exist_ok=True)
        for each in workload.inputs:
            table = pq.read_table(parquet / f"{each.name}.parquet", columns=list(each.columns))
            for suffix, header in (("csv", True), ("bare.csv", False)):
                options = pa_csv.WriteOptions(include_header=header, quoting_style="none")
                pa_csv.write_csv(table, there / f"{each.name}.{suffix}", options)
        if workload.data == "orders":
            _write_changes(parquet, there / "changes.json")
        (there / "made").touch()
    return there


def row_count(workload: Workload, directory: Path) -> int:
    """How many rows the workload reads in all."""
    return sum(pq.read_metadata(path).num_rows for path in workload.paths(directory).values())


def _keys(rng: Rng, size: int) -> dict[str, Table]:
    keys = rng.integers(0, max(1, size // ROWS_PER_KEY), size)
    return {"events": {"key": keys, "amount": rng.integers(0, 1_000, size)}}


def _names(rng: Rng, size: int) -> dict[str, Table]:
    count = max(1, size // ROWS_PER_KEY)
    shares = np.cumsum(1 / np.arange(1, count + 1) ** ZIPF)
    places = np.searchsorted(shares, rng.random(size) * shares[-1])
    texts = np.array([f"{number * 0x9E3779B97F4A7C15 % 2**48:012x}" for number in range(1, count + 1)])
    return {"events": {"key": pa.array(texts[places]), "amount": rng.integers(0, 1_000, size)}}


def _orders(rng: Rng, size: int) -> dict[str, Table]:
    people, updated, deleted = max(1, size // 10), size // 5, size // 10
    regions = np.array([f"region-{number:02d}" for number in range(REGIONS)])
    updates = rng.choice(size, updated, replace=False)
    return {
        "customers": {
            "customer": np.arange(people),
            "region": pa.array(regions[rng.integers(0, REGIONS, people)]),
        },
        "orders": {
            "id": np.arange(size),
            "customer": rng.integers(0, people, size),
            "amount": rng.integers(1, 10_000, size),
        },
        "updates": {
            "id": updates,
            "customer": rng.integers(0, people, updated),
            "amount": rng.integers(1, 10_000, updated),
        },
        "deletes": {"id": rng.choice(size, deleted, replace=False)},
    }


def _nexmark(rng: Rng, size: int) -> dict[str, Table]:
    number = np.arange(size)
    place = number % SHARES
    at = FIRST_TIME_MS + number // EVENTS_PER_MS
    is_person, is_bid = place < PERSON_SHARE, place >= PERSON_SHARE + AUCTION_SHARE
    is_auction = ~is_person & ~is_bid
    # the number of the newest person and auction when each event happens
    newest_person = np.maximum(np.cumsum(is_person) - 1, 0)
    newest_auction = np.maximum(np.cumsum(is_auction) - 1, 0)
    return {
        "person": _people(rng, at[is_person]),
        "auction": _auctions(rng, at[is_auction], newest_person[is_auction]),
        "bid": _bids(rng, at[is_bid], newest_person[is_bid], newest_auction[is_bid]),
    }


def _people(rng: Rng, at: Any) -> Table:
    count = len(at)
    first, last = _drawn(rng, FIRST_NAMES, count), _drawn(rng, LAST_NAMES, count)
    names = [f"{a} {b}" for a, b in zip(first, last, strict=True)]
    return {
        "person_id": FIRST_ID + np.arange(count),
        "name": names,
        "email": [f"{name.replace(' ', '.').lower()}@example.com" for name in names],
        "credit_card": [f"{n:016d}" for n in rng.integers(0, 10**16, count).tolist()],
        "city": _drawn(rng, CITIES, count),
        "state": _drawn(rng, STATES, count),
        "time_ms": at,
    }


def _auctions(rng: Rng, at: Any, newest_person: Any) -> Table:
    count = len(at)
    first = _prices(rng, count)
    # events until as many auctions more have been opened, as milliseconds, twice: the mean is once
    longest = 2 * AUCTIONS_IN_FLIGHT * SHARES // AUCTION_SHARE // EVENTS_PER_MS
    return {
        "auction_id": FIRST_ID + np.arange(count),
        "item": [f"item {n}" for n in rng.integers(0, 10**6, count).tolist()],
        "first_bid": first,
        "reserve": first + _prices(rng, count),
        "time_ms": at,
        "expires_ms": at + 1 + rng.integers(0, longest, count),
        "seller": FIRST_ID + _hot_or_any(rng, newest_person, 0.75, ACTIVE_PEOPLE),
        "category": FIRST_CATEGORY + rng.integers(0, CATEGORIES, count),
    }


def _bids(rng: Rng, at: Any, newest_person: Any, newest_auction: Any) -> Table:
    count = len(at)
    return {
        "auction": FIRST_ID + _hot_or_any(rng, newest_auction, 0.5, AUCTIONS_IN_FLIGHT),
        "bidder": FIRST_ID + _hot_or_any(rng, newest_person, 0.75, ACTIVE_PEOPLE),
        "price": _prices(rng, count),
        "channel": _drawn(rng, ("Google", "Facebook", "Baidu", "Apple"), count),
        "time_ms": at,
    }


def _hot_or_any(rng: Rng, newest: Any, hot_share: float, active: int) -> Any:
    """Of a share of the events the last of every hundred, of the others any of the newest ones."""
    behind = (rng.random(len(newest)) * np.minimum(newest + 1, active)).astype(np.int64)
    is_hot = rng.random(len(newest)) < hot_share
    return np.where(is_hot, newest // HOT_EVERY * HOT_EVERY, newest - behind)


def _prices(rng: Rng, count: int) -> Any:
    return np.round(10 ** (rng.random(count) * 6) * 100).astype(np.int64)


def _drawn(rng: Rng, texts: tuple[str, ...], count: int) -> Any:
    return pa.array(np.array(texts)[rng.integers(0, len(texts), count)])


def _write_changes(parquet: Path, path: Path) -> None:
    """Orders, updates, deletes in this order; each with the row before it, as Debezium reads it from a database."""
    there: dict[int, dict[str, int]] = {}
    with path.open("w", encoding="utf-8") as out:

        def write(op: str, before: dict[str, int] | None, after: dict[str, int] | None) -> None:
            out.write(json.dumps({"before": before, "after": after, "op": op}, separators=(",", ":")) + "\n")

        for name, op in (("orders", "c"), ("updates", "u")):
            for row in pq.read_table(parquet / f"{name}.parquet").to_pylist():
                write(op, there.get(row["id"]), row)
                there[row["id"]] = row
        for row in pq.read_table(parquet / "deletes.parquet").to_pylist():
            write("d", there.pop(row["id"]), None)


MAKERS: dict[str, Callable[[Rng, int], dict[str, Table]]] = {
    "keys": _keys,
    "names": _names,
    "orders": _orders,
    "nexmark": _nexmark,
}
assert {workload.data for workload in WORKLOADS.values()} == set(MAKERS)
