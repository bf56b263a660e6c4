"""A program whose views together use every operation, over data that hurt: nulls, NaN, infinities, 64-bit limits."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
from typing import Annotated

import dist_zero as dz


class Colour(enum.Enum):
    """For an enum column."""

    RED = 1
    GREEN = 2
    BLUE = 3


class Sale(dz.Row):
    """Has a key, and a column of every type."""

    shop: str
    number: int
    buyer: int | None
    amount: float | None
    quantity: int
    price: Annotated[decimal.Decimal, dz.scale(2)] | None
    at: dt.datetime | None
    colour: Colour | None
    tag: bytes | None
    paid: bool


class Buyer(dz.Row):
    """What sales are joined with."""

    buyer: int
    name: str | None
    limit: float


class Shop(dz.Row):
    """Small: copied to every node."""

    shop: str
    town: str | None
    bias: int


class Event(dz.Row):
    """Without a key."""

    kind: str | None
    value: float
    count: int


def program() -> dz.Program:
    """The program; a new one each time, since programs are mutable while they are declared."""
    app = dz.Program("everything")
    sales = app.dataset("sales", Sale, key=("shop", "number"))
    buyers = app.dataset("buyers", Buyer, key="buyer")
    shops = app.dataset("shops", Shop, key="shop", broadcast=True)
    events = app.dataset("events", Event)

    app.view("paid", sales.where(sales["paid"] & (sales["amount"] > 1.5)))
    app.view("computed", sales.select("shop", "number", total=sales["quantity"] * sales["quantity"] + 1))
    app.view("ratio", events.select("kind", ratio=events["value"] / events["count"]))
    app.view("windows", sales.window("at", size="2d", every="1d").group_by("window_start").agg(n=dz.count()))
    for how in ("inner", "left", "right", "outer", "semi", "anti"):
        app.view(
            f"join_{how}", sales.select("shop", "number", "buyer", "amount").join(buyers, on="buyer", how=how)
        )
        conditioned = sales.join(
            buyers,
            on=(sales["buyer"] == buyers["buyer"]) & (sales["amount"] > buyers["limit"]),
            how=how,
        )
        app.view(f"conditioned_{how}", conditioned)
    app.view(
        "fallible_left",
        sales.join(buyers, on=(sales["buyer"] == buyers["buyer"]) & (sales["quantity"] * 4 > 3), how="left"),
    )
    app.view(
        "with_shops",
        sales.join(shops, on="shop").select("number", "town", sum=sales["quantity"] + shops["bias"]),
    )
    payers, buying = sales.select("shop", "paid"), sales.select("shop", "buyer").alias("buying")
    willing = (payers["shop"] == buying["shop"]) & (payers["paid"] | (buying["buyer"] > 1))
    for how in ("inner", "left", "right", "outer", "semi", "anti"):
        app.view(f"shrinking_bags_{how}", payers.join(buying, on=willing, how=how))
    other = events.alias("other")
    larger = (events["kind"] == other["kind"]) & (events["value"] > other["value"])
    for how in ("inner", "outer", "semi", "anti"):
        app.view(f"bags_{how}", events.join(other, on=larger, how=how))
    by_colour = sales.group_by("colour").agg(
        n=dz.count(),
        with_amount=dz.count("amount"),
        quantity=dz.sum("quantity"),
        amount=dz.sum("amount"),
        mean_amount=dz.mean("amount"),
        mean_quantity=dz.mean("quantity"),
        money=dz.sum("price"),
        mean_money=dz.mean("price"),
        first=dz.min("at"),
        largest=dz.max("amount"),
        tag=dz.max("tag"),
        shop=dz.min("shop"),
        unpaid=dz.max("amount", where=~sales["paid"]),
    )
    app.view("by_colour", by_colour)
    app.view("large_colours", by_colour.where(by_colour["n"] > 1))
    app.view(
        "everything",
        sales.group_by().agg(
            n=dz.count(),
            quantity=dz.sum("quantity"),
            amount=dz.sum("amount"),
            mean=dz.mean("price"),
            low=dz.min("amount"),
            high=dz.max("shop"),
            paid=dz.count(where=sales["paid"]),
        ),
    )
    app.view("best", sales.top(3, by=[dz.desc("amount"), "quantity"], per="colour", rank="rank"))
    app.view("cheapest", sales.top(4, by=["price", dz.desc("tag")]))
    app.view("top_events", events.top(5, by=[dz.desc("value")], rank="place"))
    app.view("top_kinds", events.top(2, by=["count"], per="kind"))
    app.view("kinds", events.select("kind").distinct())
    app.view(
        "all_names", sales.select(name="shop").union(shops.select(name="shop"), events.select(name="kind"))
    )
    app.view("unused_shops", shops.select("shop").difference(sales.select("shop")))
    app.view(
        "legs",
        events.flat_map(
            {"side": dz.lit("in"), "signed": events["count"]},
            {"side": dz.lit("out"), "signed": -events["count"]},
        ),
    )
    app.view(
        "busy_buyers",
        sales.group_by("buyer")
        .agg(total=dz.sum("quantity"))
        .join(buyers, on="buyer")
        .top(2, by=[dz.desc("total")]),
    )
    return app
