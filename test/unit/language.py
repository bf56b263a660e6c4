"""Tables that the tests of the language share: one program per call, so that no test sees another's views."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

import dist_zero as dz


class Class(enum.Enum):
    """Of a seat."""

    ECONOMY = 1
    FIRST = 2


class Flight(dz.Row):
    """Every type of column, some nullable."""

    at: dt.datetime
    carrier: str
    flight: int
    origin: str
    delay: float | None
    price: Annotated[Decimal, dz.scale(2)]
    tax: Annotated[Decimal, dz.scale(3)]
    seat: Class | None
    cancelled: bool
    raw: bytes


class Airline(dz.Row):
    """The small side of joins."""

    carrier: str
    name: str


class Seen(dz.Row):
    """A dataset without a key; `flight` is a float, so that joins have to promote."""

    flight: float
    note: str | None


@dataclass(frozen=True)
class Example:
    """A program and its datasets."""

    app: dz.Program
    flights: dz.Table
    airlines: dz.Table
    seen: dz.Table


def example() -> Example:
    """A new program with three datasets."""
    app = dz.Program("flights")
    return Example(
        app,
        app.dataset("flights", Flight, key=("at", "carrier", "flight")),
        app.dataset("airlines", Airline, key="carrier", broadcast=True),
        app.dataset("seen", Seen),
    )


def every_operation() -> dz.Program:
    """A program with views that have each relational operation, each scalar operation and each type of constant."""
    e = example()
    f, a, s = e.flights, e.airlines, e.seen
    flights_by_name = f.join(a, on="carrier", how="left").with_columns(name=lambda t: t.name.coalesce("?"))
    e.app.view("named", flights_by_name)
    e.app.view(
        "scalars",
        f.select(
            "at",
            "flight",
            carrier=f.carrier,
            numbers=-(f.flight + 1) * 2 - f.flight // 3 % 7,
            ratio=abs(f.delay / f.price).round(2),
            money=(f.price + f.tax).round(1) * f.flight,
            casts=f.flight.cast(str).concat(f.delay.cast(int).cast(str), "-", f.price.cast(float).cast(str)),
            fits=(f.delay > float("nan")) | ~f.cancelled & f.seat.is_in(Class.FIRST, "ECONOMY"),
            text=f.origin.lower().upper().slice(-2, 1),
            tests=f.origin.contains("J") & f.origin.starts_with("K") & f.origin.ends_with("L"),
            length=f.origin.length() + f.raw.length(),
            parts=f.at.year() + f.at.month() + f.at.day() + f.at.hour() + f.at.minute() + f.at.second(),
            days=f.at.weekday() + f.at.day_of_year() + f.at.difference("2013-01-01", "hour"),
            week=f.at.truncate("week"),
            blank=f.raw == b"\0",
            chosen=dz.when(f.delay.is_null()).then("none").when(f.delay > 15).then(None).otherwise(f.origin),
            between=f.price.between(1, Decimal("99.5")) | (f.at < dt.date(2013, 2, 1)),
        ),
    )
    e.app.view("groups", f.group_by("origin", hour=f.at.truncate("hour")).agg(
        n=dz.count(), late=dz.count("delay", where=f.delay > 15), total=dz.sum("price"),
        mean=dz.mean(f.delay), first=dz.min("at"), last=dz.max(lambda t: t.seat),
    ))  # fmt: skip
    e.app.view("total", f.group_by().agg(n=dz.count(), total=dz.sum("flight")))
    e.app.view("windows", f.window("at", size="10m", every=dt.timedelta(minutes=1)).distinct())
    e.app.view("best", f.top(3, by=[dz.desc("delay"), "flight"], per="origin", rank="rank"))
    e.app.view("notes", f.join(s, (f.flight == s.flight) & (f.delay > 3), how="outer").select("at", "note"))
    e.app.view("jfk", f.where(f.origin == "JFK", ~f.cancelled))
    e.app.view("unseen", f.join(s, on="flight", how="anti"))
    e.app.view("pairs", a.join(a.alias("b"), on="name", how="right"))
    ends = f.flat_map({"end": f.origin, "kind": dz.lit(0.5)}, {"end": f.carrier, "kind": f.delay})
    e.app.view("ends", ends)
    names = a.select("carrier").union(ends.select(carrier="end"), f.select("carrier"))
    e.app.view("names", names.difference(a.select("carrier")))
    return e.app
