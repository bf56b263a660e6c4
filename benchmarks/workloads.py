"""The workloads that DistZero is measured on beside others: which columns of which files, and what has to come out.

Everybody reads the same Parquet files (`data.py` makes them), in the order in which they stand here, and no more
columns than the query needs. The answer is DuckDB's, by SQL that computes it once, from scratch, over the same files;
every engine's is held against it. No library is imported here: the processes of all engines read this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Input:
    """A Parquet file, by the name that the SQL has for it, and the columns that are read, with their types (int or
    str)."""

    name: str
    columns: dict[str, type]


@dataclass(frozen=True, slots=True)
class Workload:
    """`data`: the set of files it reads; `size`: the number that they are made from, as it is measured by default.
    `sql`: the answer over tables that have the inputs' names. `stateful`: whether a view of it keeps anything."""

    name: str
    title: str
    data: str
    size: int
    inputs: tuple[Input, ...]
    answer: tuple[str, ...]
    sql: str
    stateful: bool = True

    def paths(self, directory: Path, suffix: str = "parquet") -> dict[str, Path]:
        """Where each input is, by name."""
        return {each.name: directory / f"{each.name}.{suffix}" for each in self.inputs}


_PERSON = Input("person", {"person_id": int, "name": str, "city": str, "state": str})
_SELLING = Input("auction", {"auction_id": int, "seller": int, "category": int})
_AUCTION = Input("auction", {"auction_id": int, "category": int, "time_ms": int, "expires_ms": int})
_OFFER = Input("bid", {"auction": int, "price": int, "time_ms": int})
_CUSTOMERS = Input("customers", {"customer": int, "region": str})
_ORDER: dict[str, type] = {"id": int, "customer": int, "amount": int}

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "count and sum per key: integer keys, one for every 20 events, uniform",
            "keys",
            2_000_000,
            (Input("events", {"key": int, "amount": int}),),
            ("key", "n", "total"),
            "select key, count(*) as n, sum(amount)::bigint as total from events group by key",
        ),
        Workload(
            "W1s",
            "the same: keys of 12 characters, Zipf 1.1",
            "names",
            2_000_000,
            (Input("events", {"key": str, "amount": int}),),
            ("key", "n", "total"),
            "select key, count(*) as n, sum(amount)::bigint as total from events group by key",
        ),
        Workload(
            "q1",
            "Nexmark q1, currency: every bid, with its price in another currency",
            "nexmark",
            1_000_000,
            (Input("bid", {"auction": int, "bidder": int, "price": int, "time_ms": int}),),
            ("auction", "bidder", "price", "time_ms"),
            "select auction, bidder, price * 0.908::double as price, time_ms from bid",
            stateful=False,
        ),
        Workload(
            "q2",
            "Nexmark q2, filter: bids on one auction of 123",
            "nexmark",
            1_000_000,
            (Input("bid", {"auction": int, "price": int}),),
            ("auction", "price"),
            "select auction, price from bid where auction % 123 = 0",
            stateful=False,
        ),
        Workload(
            "q3",
            "Nexmark q3, join: who sells what of one category in three states",
            "nexmark",
            1_000_000,
            (_PERSON, _SELLING),
            ("name", "city", "state", "auction"),
            """select name, city, state, auction_id as auction from auction join person on seller = person_id
            where category = 10 and state in ('OR', 'ID', 'CA')""",
        ),
        Workload(
            "q4",
            "Nexmark q4, average of the winning price per category",
            "nexmark",
            1_000_000,
            (_AUCTION, _OFFER),
            ("category", "average"),
            """select category, avg(final) as average from (
                select category, max(price) as final from auction join bid on auction_id = bid.auction
                where bid.time_ms between auction.time_ms and expires_ms group by auction_id, category
            ) group by category""",
        ),
        Workload(
            "W3",
            "retractions: orders joined with customers, grouped by region; then updates, then deletes",
            "orders",
            500_000,
            (_CUSTOMERS, Input("orders", _ORDER), Input("updates", _ORDER), Input("deletes", {"id": int})),
            ("region", "n", "total"),
            """with written as (
                select * from orders where id not in (select id from updates) union all select * from updates
            ), live as (
                select * from written where id not in (select id from deletes)
            )
            select region, count(*) as n, sum(amount)::bigint as total
            from live join customers on live.customer = customers.customer group by region""",
        ),
    )
}

LATENCY = "W4"
LATENCY_RATE, LATENCY_SECONDS, LATENCY_KEYS, LATENCY_WARM_UP = 1_000, 10, 100_000, 1_000
"""Single-row writes a second into the view of W1, for how long, over how many keys, and how many come before that are
not counted."""
