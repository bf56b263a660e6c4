"""The workloads as programs of DistZero: datasets with the columns that the query reads, and one view, `answer`."""

from __future__ import annotations

from collections.abc import Callable

import dist_zero as dz


def counts(key_type: type) -> dz.Program:
    """W1 and W1s: count and sum per key."""
    app = dz.Program("counts")

    class Event(dz.Row):
        """One event."""

        key: key_type  # type: ignore[valid-type]
        amount: int

    events = app.dataset("events", Event)
    app.view("answer", events.group_by("key").agg(n=dz.count(), total=dz.sum("amount")))
    return app


class Bid(dz.Row):
    """A bid on an auction."""

    auction: int
    bidder: int
    price: int
    time_ms: int


class Price(dz.Row):
    """Of a bid what q2 reads."""

    auction: int
    price: int


class Offer(dz.Row):
    """Of a bid what q4 reads."""

    auction: int
    price: int
    time_ms: int


class Person(dz.Row):
    """Who sells and bids."""

    person_id: int
    name: str
    city: str
    state: str


class Selling(dz.Row):
    """Of an auction what q3 reads."""

    auction_id: int
    seller: int
    category: int


class Auction(dz.Row):
    """Of an auction what q4 reads."""

    auction_id: int
    category: int
    time_ms: int
    expires_ms: int


def q1() -> dz.Program:
    """Every bid, with its price in another currency."""
    app = dz.Program("q1")
    bid = app.dataset("bid", Bid)
    app.view("answer", bid.select("auction", "bidder", price=bid.price * 0.908, time_ms="time_ms"))
    return app


def q2() -> dz.Program:
    """Bids on some auctions."""
    app = dz.Program("q2")
    bid = app.dataset("bid", Price)
    app.view("answer", bid.where(bid.auction % 123 == 0))
    return app


def q3() -> dz.Program:
    """Who sells what of a category in three states."""
    app = dz.Program("q3")
    person = app.dataset("person", Person, key="person_id")
    auction = app.dataset("auction", Selling, key="auction_id")
    people = person.where(person.state.is_in("OR", "ID", "CA")).select(
        "name", "city", "state", seller="person_id"
    )
    auctions = auction.where(auction.category == 10).select("seller", auction="auction_id")
    joined = auctions.join(people, on="seller")
    app.view("answer", joined.select("name", "city", "state", "auction"))
    return app


def q4() -> dz.Program:
    """The average of the winning price per category."""
    app = dz.Program("q4")
    auction = app.dataset("auction", Auction, key="auction_id")
    bid = app.dataset("bid", Offer)
    opened = auction.select("category", "expires_ms", auction="auction_id", opened_ms="time_ms")
    valid = bid.join(opened, on="auction")
    valid = valid.where(valid.time_ms.between(valid.opened_ms, valid.expires_ms))
    final = valid.group_by("auction", "category").agg(final=dz.max("price"))
    app.view("answer", final.group_by("category").agg(average=dz.mean("final")))
    return app


class Customer(dz.Row):
    """A customer."""

    customer: int
    region: str


class Order(dz.Row):
    """An order of a customer."""

    id: int
    customer: int
    amount: int


def retractions() -> dz.Program:
    """W3: orders by the regions of their customers."""
    app = dz.Program("retractions")
    customers = app.dataset("customers", Customer, key="customer")
    orders = app.dataset("orders", Order, key="id")
    joined = orders.join(customers, on="customer")
    app.view("answer", joined.group_by("region").agg(n=dz.count(), total=dz.sum("amount")))
    return app


PROGRAMS: dict[str, Callable[[], dz.Program]] = {
    "W1": lambda: counts(int),
    "W1s": lambda: counts(str),
    "q1": q1,
    "q2": q2,
    "q3": q3,
    "q4": q4,
    "W3": retractions,
}
