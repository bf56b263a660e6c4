"""A second opinion on what operations mean: the oracle's views against the same queries in DuckDB.

Each case is a view and its SQL, over random small tables with nulls, NaN, infinities and 64-bit limits. Where SQL
means something else by design, the query says what we mean: DuckDB's `//` and `%` round towards zero and ours
down; it fails a whole query on overflow where we leave a row out; it rounds a double to an integer where we cut.
Float columns that are summed hold quarters, so that every order of adding them is exact.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any

import duckdb
import pytest

import dist_zero as dz
from dist_zero.reference.evaluate import evaluate
from dist_zero.row import row_type_of
from dist_zero.types import INT_MAX, INT_MIN, NAN, DataType, Row, from_stored
from dist_zero.zset import ZSet, consolidate

Tables = dict[str, dz.Table]
Query = Callable[[Tables], dz.Table]


class Sale(dz.Row):
    """Rows with every kind of column that DuckDB has too."""

    id: int
    shop: str | None
    buyer: int | None
    amount: float | None
    quarters: float | None
    quantity: int
    divisor: int
    price: Annotated[decimal.Decimal, dz.scale(2)] | None
    sold: dt.datetime | None
    paid: bool | None
    data: bytes | None


class Buyer(dz.Row):
    """The other side of joins; a bag, with nulls in the column joined by."""

    buyer: int | None
    shop: str | None
    limit: float


_ROW_CLASSES: dict[str, type[dz.Row]] = {"sales": Sale, "buyers": Buyer}
_SQL_TYPES = {
    "sales": "id BIGINT, shop VARCHAR, buyer BIGINT, amount DOUBLE, quarters DOUBLE, quantity BIGINT, divisor BIGINT,"
    " price DECIMAL(18, 2), sold TIMESTAMP, paid BOOLEAN, data BLOB",
    "buyers": 'buyer BIGINT, shop VARCHAR, "limit" DOUBLE',
}
_BOUNDS = f"BETWEEN {INT_MIN} AND {INT_MAX}"


def _case(name: str, query: Query, sql: str) -> Any:
    return pytest.param(query, sql, id=name)


def _join(how: str) -> Query:
    return lambda t: (
        t["sales"]
        .select("id", "buyer", "amount")
        .join(
            t["buyers"].select("buyer", "limit"),
            on=(t["sales"]["buyer"] == t["buyers"]["buyer"]) & (t["sales"]["amount"] > t["buyers"]["limit"]),
            how=how,
        )
    )


_ON = 'ON s.buyer = b.buyer AND s.amount > b."limit"'
_LEFT = "SELECT s.id, s.buyer, s.amount"
_BOTH = _LEFT + ', b.buyer, b."limit" FROM sales s'

_CASES = [
    _case(
        "where",
        lambda t: t["sales"].where(t["sales"]["paid"] | (t["sales"]["amount"] > 1.0)).select("id"),
        "SELECT id FROM sales WHERE paid OR amount > 1.0",
    ),
    _case(
        "where_not",
        lambda t: t["sales"].where(~(t["sales"]["paid"] & (t["sales"]["amount"] > 1.0))).select("id"),
        "SELECT id FROM sales WHERE NOT (paid AND amount > 1.0)",
    ),
    _case(
        "nan_in_comparisons",
        lambda t: t["sales"].where(t["sales"]["amount"] >= t["sales"]["quarters"]).select("id"),
        "SELECT id FROM sales WHERE amount >= quarters",
    ),
    _case(
        "nan_is_nan",
        lambda t: t["sales"].where(t["sales"]["amount"] == NAN).select("id"),
        "SELECT id FROM sales WHERE amount = 'NaN'::DOUBLE",
    ),
    _case(
        "is_in_with_null",
        lambda t: t["sales"].select(
            "id", found=t["sales"]["buyer"].is_in([1, 2]), absent=~t["sales"]["buyer"].is_in([3])
        ),
        "SELECT id, buyer IN (1, 2), NOT (buyer IN (3)) FROM sales",
    ),
    _case(
        "nulls",
        lambda t: t["sales"].select(
            "id",
            shop=dz.coalesce(t["sales"]["shop"], "none"),
            absent=t["sales"]["amount"].is_null(),
            size=dz.when(t["sales"]["amount"] > 1.0)
            .then("big")
            .when(t["sales"]["paid"])
            .then("paid")
            .otherwise("small"),
        ),
        "SELECT id, coalesce(shop, 'none'), amount IS NULL,"
        " CASE WHEN amount > 1.0 THEN 'big' WHEN paid THEN 'paid' ELSE 'small' END FROM sales",
    ),
    _case(
        "python_division",
        lambda t: t["sales"].select(
            "id",
            q=t["sales"]["quantity"] // t["sales"]["divisor"],
            r=t["sales"]["quantity"] % t["sales"]["divisor"],
        ),
        "SELECT id, ((quantity::HUGEINT - r) // divisor)::BIGINT, r::BIGINT FROM (SELECT *,"
        " ((quantity::HUGEINT % divisor) + divisor) % divisor AS r FROM sales WHERE divisor <> 0)"
        f" WHERE (quantity::HUGEINT - r) // divisor {_BOUNDS}",
    ),
    _case(
        "overflow_leaves_out",
        lambda t: t["sales"].select("id", sum=t["sales"]["quantity"] + t["sales"]["divisor"]),
        "SELECT id, (quantity::HUGEINT + divisor)::BIGINT FROM sales"
        f" WHERE quantity::HUGEINT + divisor {_BOUNDS}",
    ),
    _case(
        "float_arithmetic",
        lambda t: t["sales"].select(
            "id",
            sum=t["sales"]["amount"] + t["sales"]["quarters"],
            product=t["sales"]["amount"] * t["sales"]["quarters"],
            ratio=t["sales"]["quarters"] / 3.0,
        ),
        "SELECT id, amount + quarters, amount * quarters, quarters / 3.0::DOUBLE FROM sales",
    ),
    _case(
        "casts",
        lambda t: t["sales"].select(
            "id",
            whole=t["sales"]["quarters"].cast(int),
            text=t["sales"]["quantity"].cast(str),
            f=t["sales"]["price"].cast(float),
        ),
        "SELECT id, trunc(quarters)::BIGINT, quantity::VARCHAR, price::DOUBLE FROM sales",
    ),
    _case(
        "text",
        lambda t: t["sales"].select(
            "id",
            upper=t["sales"]["shop"].upper(),
            length=t["sales"]["shop"].length(),
            part=t["sales"]["shop"].slice(1, 2),
            has=t["sales"]["shop"].contains("a"),
            begins=t["sales"]["shop"].starts_with("b"),
        ),
        "SELECT id, upper(shop), length(shop), substr(shop, 2, 2), contains(shop, 'a'), starts_with(shop, 'b')"
        " FROM sales",
    ),
    _case(
        "datetime_parts",
        lambda t: t["sales"].select(
            "id",
            year=t["sales"]["sold"].year(),
            month=t["sales"]["sold"].month(),
            day=t["sales"]["sold"].day(),
            hour=t["sales"]["sold"].hour(),
            weekday=t["sales"]["sold"].weekday(),
            in_year=t["sales"]["sold"].day_of_year(),
            month_start=t["sales"]["sold"].truncate("month"),
            week_start=t["sales"]["sold"].truncate("week"),
        ),
        "SELECT id, year(sold), month(sold), day(sold), hour(sold), isodow(sold), dayofyear(sold),"
        " date_trunc('month', sold)::TIMESTAMP,"
        " date_trunc('week', sold)::TIMESTAMP FROM sales",
    ),
    *(
        _case(f"join_{how}", _join(how), f"{_BOTH} {how.upper()} JOIN buyers b {_ON}")
        for how in ("inner", "left", "right")
    ),
    _case("join_outer", _join("outer"), f"{_BOTH} FULL OUTER JOIN buyers b {_ON}"),
    _case(
        "join_semi",
        _join("semi"),
        f"{_LEFT} FROM sales s WHERE EXISTS (SELECT 1 FROM buyers b WHERE {_ON[3:]})",
    ),
    _case(
        "join_anti",
        _join("anti"),
        f"{_LEFT} FROM sales s WHERE NOT EXISTS (SELECT 1 FROM buyers b WHERE {_ON[3:]})",
    ),
    _case(
        "join_on_two_columns",
        lambda t: (
            t["sales"].select("id", "buyer", "shop").join(t["buyers"], on=["buyer", "shop"], how="outer")
        ),
        'SELECT s.id, coalesce(s.buyer, b.buyer), coalesce(s.shop, b.shop), b."limit"'
        " FROM sales s FULL OUTER JOIN buyers b"
        " ON s.buyer = b.buyer AND s.shop = b.shop",
    ),
    _case(
        "group",
        lambda t: (
            t["sales"]
            .group_by("shop")
            .agg(
                n=dz.count(),
                amounts=dz.count("amount"),
                total=dz.sum("quarters"),
                mean=dz.mean("quarters"),
                low=dz.min("amount"),
                high=dz.max("amount"),
                first=dz.min("sold"),
                data=dz.max("data"),
                money=dz.sum("price"),
                big=dz.count(where=t["sales"]["amount"] > 1.0),
            )
        ),
        "SELECT shop, count(*), count(amount), sum(quarters), avg(quarters), min(amount), max(amount),"
        " min(sold), max(data),"
        " sum(price), count(*) FILTER (WHERE amount > 1.0) FROM sales GROUP BY shop",
    ),
    _case(
        "group_by_nan",
        lambda t: t["sales"].group_by("amount").agg(n=dz.count()),
        "SELECT amount, count(*) FROM sales GROUP BY amount",
    ),
    _case(
        "sum_beyond_64_bits",
        lambda t: t["sales"].group_by("buyer").agg(total=dz.sum("quantity")),
        f"SELECT buyer, sum(quantity)::BIGINT FROM sales GROUP BY buyer HAVING sum(quantity) {_BOUNDS}",
    ),
    _case(
        "global",
        lambda t: (
            t["sales"]
            .where(t["sales"]["id"] < 0)
            .group_by()
            .agg(n=dz.count(), low=dz.min("amount"), t=dz.sum("quarters"))
        ),
        "SELECT count(*), min(amount), sum(quarters) FROM sales WHERE id < 0",
    ),
    _case(
        "top_per_group",
        lambda t: (
            t["sales"]
            .select("id", "shop", "amount", "quantity")
            .top(2, by=[dz.desc("amount"), "quantity"], per="shop", rank="rank")
        ),
        "SELECT id, shop, amount, quantity, row_number() OVER (PARTITION BY shop ORDER BY amount DESC NULLS LAST,"
        " quantity NULLS LAST, id) AS rank FROM sales QUALIFY rank <= 2",
    ),
    _case(
        "top_of_a_bag",
        lambda t: t["buyers"].top(4, by=[dz.desc("shop")]),
        'SELECT * FROM buyers ORDER BY shop DESC NULLS LAST, buyer NULLS LAST, "limit" NULLS LAST LIMIT 4',
    ),
    _case(
        "top_ascending",
        lambda t: t["sales"].select("id", "price", "data").top(5, by=["price", dz.desc("data")]),
        "SELECT id, price, data FROM sales ORDER BY price NULLS LAST, data DESC NULLS LAST, id LIMIT 5",
    ),
    _case(
        "window",
        lambda t: (
            t["sales"]
            .window("sold", size="2d", every="1d")
            .group_by("window_start", "window_end")
            .agg(n=dz.count())
        ),
        "SELECT s, s + INTERVAL 2 DAY, count(*) FROM (SELECT unnest([date_trunc('day', sold)::TIMESTAMP,"
        " date_trunc('day', sold)::TIMESTAMP - INTERVAL 1 DAY]) AS s FROM sales WHERE sold IS NOT NULL) GROUP BY s",
    ),
    _case(
        "distinct",
        lambda t: t["sales"].select("shop", "paid").distinct(),
        "SELECT DISTINCT shop, paid FROM sales",
    ),
    _case(
        "union",
        lambda t: t["sales"].select("buyer").union(t["buyers"].select("buyer")),
        "SELECT buyer FROM sales UNION ALL SELECT buyer FROM buyers",
    ),
    _case(
        "difference",
        lambda t: t["sales"].select("buyer").difference(t["buyers"].select("buyer")),
        "SELECT buyer FROM sales EXCEPT SELECT buyer FROM buyers",
    ),
    _case(
        "flat_map",
        lambda t: t["sales"].select("id", "amount", "quarters").flat_map({"v": "amount"}, {"v": "quarters"}),
        "SELECT id, amount, quarters, amount FROM sales UNION ALL SELECT id, amount, quarters, quarters FROM sales",
    ),
    _case(
        "group_of_join_of_group",
        lambda t: (
            t["sales"]
            .group_by("buyer")
            .agg(total=dz.sum("quarters"))
            .join(t["buyers"], on="buyer")
            .group_by(name="shop")
            .agg(n=dz.count(), most=dz.max("total"))
        ),
        "SELECT b.shop, count(*), max(total) FROM (SELECT buyer, sum(quarters) AS total FROM sales GROUP BY buyer) g"
        " JOIN buyers b ON g.buyer = b.buyer GROUP BY b.shop",
    ),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("query", "sql"), _CASES)
def test_oracle_agrees_with_duckdb(query: Query, sql: str, seed: int) -> None:
    """The view holds the rows of the query, each as often."""
    app = dz.Program("second-opinion")
    tables = {"sales": app.dataset("sales", Sale, key="id"), "buyers": app.dataset("buyers", Buyer)}
    app.view("view", query(tables))
    graph = app.graph()
    datasets = {name: consolidate((row, 1) for row in rows) for name, rows in _rows(seed).items()}
    found = evaluate(graph, "view", datasets)
    types = graph.views[0].relation.row_type.types
    assert _shown(types, found.rows) == _comparable(_database(seed).execute(sql).fetchall())


@cache
def _rows(seed: int) -> dict[str, list[Row]]:
    rng = random.Random(seed)
    shops, buyers = [None, "", "a", "Ab", "b", "bab"], [None, 1, 2, 3, 4]
    amounts = [None, 0.0, 1.0, 1.5, -2.5, 0.1, 1e308, -1e308, math.inf, -math.inf, NAN]
    whole = [0, 1, 2, 3, 7, -7, -1, INT_MAX, INT_MIN, 1 << 62]
    days = [None, 0, -1, 86_400_000_000, 1_709_164_800_123_456, 1_735_689_599_999_999, -86_400_000_001]
    sales = [
        (
            number,
            rng.choice(shops),
            rng.choice(buyers),
            rng.choice(amounts),
            rng.choice([None, *(n / 4 for n in range(-20, 21))]),
            rng.choice(whole),
            rng.choice(whole),
            rng.choice([None, 0, 1, 150, -275, 99_999_999]),
            rng.choice(days),
            rng.choice([None, True, False]),
            rng.choice([None, b"", b"a", b"a\0", b"\xff"]),
        )
        for number in range(40)
    ]
    limits = [value for value in amounts if value is not None]
    return {
        "sales": sales,
        "buyers": [(rng.choice(buyers), rng.choice(shops), rng.choice(limits)) for _ in range(15)],
    }


def _shown(types: tuple[DataType, ...], rows: ZSet) -> list[str]:
    shown = [tuple(map(from_stored, types, row)) for row, weight in rows.items() for _ in range(weight)]
    return _comparable(shown)


@cache
def _database(seed: int) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name, rows in _rows(seed).items():
        types = row_type_of(_ROW_CLASSES[name]).types
        connection.execute(f"CREATE TABLE {name} ({_SQL_TYPES[name]})")
        marks = ", ".join("?" * len(types))
        values = [[_sent(from_stored(dtype, v)) for dtype, v in zip(types, row, strict=True)] for row in rows]
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", values)
    return connection


def _sent(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _comparable(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows as sorted texts, which show type and every bit."""
    return sorted(repr(tuple(_cells(row))) for row in rows)


def _cells(row: tuple[Any, ...]) -> Iterator[Any]:
    for value in row:
        if isinstance(value, dt.datetime):
            yield value.replace(tzinfo=dt.UTC)
        else:
            yield value + 0.0 if isinstance(value, float) else value
