"""What programs build: types of expressions, row types and keys of tables, columns of ancestors, places, text."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.expr import ops
from dist_zero.expr.functions import may_fail
from dist_zero.expr.walk import in_order
from test.unit.language import Class, Example, every_operation, example

Build = Callable[[Example], Any]


@pytest.fixture
def e() -> Example:
    """The shared tables."""
    return example()


def project_of(table: dz.Table) -> ops.Project:
    """The projection that a table is."""
    assert isinstance(table._relation, ops.Project)
    return table._relation


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda e: e.flights.flight + 1, "flight + 1: int"),
        (lambda e: 1 - e.flights.flight, "1 - flight: int"),
        (lambda e: e.flights.flight * 1.5, "cast(flight, float) * 1.5: float"),
        (lambda e: e.flights.delay + 1, "delay + 1.0: float | None"),
        (lambda e: e.flights.price + 1, "price + 1.00: decimal(2)"),
        (lambda e: e.flights.price + e.flights.tax, "cast(price, decimal(3)) + tax: decimal(3)"),
        (lambda e: e.flights.price + Decimal("0.125"), "cast(price, decimal(3)) + 0.125: decimal(3)"),
        (lambda e: e.flights.price * e.flights.tax, "price * tax: decimal(5)"),
        (lambda e: e.flights.price * 2, "price * 2: decimal(2)"),
        (lambda e: Decimal("0.5") * e.flights.price, "0.5 * price: decimal(3)"),
        (lambda e: e.flights.delay * 2, "delay * 2.0: float | None"),
        (lambda e: e.flights.flight * e.flights.price, "cast(flight, decimal(0)) * price: decimal(2)"),
        (lambda e: e.flights.price * 0.5, "cast(price, float) * 0.5: float"),
        (lambda e: e.flights.flight / 2, "cast(flight, float) / 2.0: float"),
        (lambda e: e.flights.flight // 2 % 3, "flight // 2 % 3: int"),
        (lambda e: (e.flights.flight - 1) - (2 - e.flights.flight), "flight - 1 - (2 - flight): int"),
        (lambda e: -(e.flights.flight * 2), "-(flight * 2): int"),
        (lambda e: e.flights.price.round(1), "round(price, 1): decimal(1)"),
        (lambda e: e.flights.at > "2013-01-01", "at > '2013-01-01T00:00:00': bool"),
        (lambda e: e.flights.seat == Class.FIRST, "seat == 'FIRST': bool | None"),
        (lambda e: ~(e.flights.cancelled | (e.flights.flight == 3)), "~(cancelled | flight == 3): bool"),
        (lambda e: (e.flights.flight == 3) == e.flights.cancelled, "(flight == 3) == cancelled: bool"),
        (lambda e: e.flights.flight.is_in([1, 2]), "is_in(flight, 1, 2): bool"),
        (lambda e: e.flights.flight.is_in(1, None), "is_in(flight, 1, None): bool | None"),
        (lambda e: e.flights.delay.coalesce(0), "coalesce(delay, 0.0): float"),
        (
            lambda e: dz.coalesce(e.flights.flight, e.flights.delay),
            "coalesce(cast(flight, float), delay): float",
        ),
        (lambda e: e.flights.delay.is_null(), "is_null(delay): bool"),
        (lambda e: dz.concat(e.flights.origin, "-", e.flights.carrier), "concat(origin, '-', carrier): str"),
        (lambda e: e.flights.price.cast(dz.scale(0)), "cast(price, decimal(0)): decimal(0)"),
        (lambda e: e.flights.flight.cast(int), "flight: int"),
        (lambda _: dz.lit(Decimal("1.20")), "1.20: decimal(2)"),
        (
            lambda e: (
                dz.when(e.flights.flight > 1).then(1).when(e.flights.cancelled).then(None).otherwise(2.5)
            ),
            "when(flight > 1).then(1.0).when(cancelled).then(None).otherwise(2.5): float | None",
        ),
    ],
)
def test_expressions_have_types(e: Example, build: Build, text: str) -> None:
    """Operands are promoted by casts, constants take the type beside them, and the text reads as it was written."""
    assert str(build(e)) == text


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda e: e.flights, ("at", "carrier", "flight")),
        (lambda e: e.seen, None),
        (lambda e: e.flights.where(e.flights.cancelled).top(3, by="delay"), ("at", "carrier", "flight")),
        (lambda e: e.flights.select("delay", "at", "carrier", nr="flight"), ("at", "carrier", "nr")),
        (lambda e: e.flights.select("delay", "at", "carrier"), None),
        (lambda e: e.flights.with_columns(flight=e.flights.flight + 1), None),
        (lambda e: e.flights.with_columns(x=e.flights.flight + 1), ("at", "carrier", "flight")),
        (lambda e: e.flights.alias("o"), ("at", "carrier", "flight")),
        (
            lambda e: e.flights.group_by("origin", hour=e.flights.at.hour()).agg(n=dz.count()),
            ("origin", "hour"),
        ),
        (lambda e: e.flights.group_by().agg(n=dz.count()), ()),
        (lambda e: e.flights.distinct(), None),
        (lambda e: e.flights.window("at", size="1h"), None),
        (lambda e: e.flights.union(e.flights), None),
        (lambda e: e.flights.difference(e.flights), None),
        (lambda e: e.airlines.flat_map({"x": dz.lit(1)}), None),
        (lambda e: e.flights.join(e.airlines, on="carrier"), ("at", "carrier", "flight")),
        (lambda e: e.flights.join(e.airlines, on="carrier", how="left"), ("at", "carrier", "flight")),
        (lambda e: e.flights.join(e.airlines, on="carrier", how="right"), ("at", "carrier", "flight")),
        (lambda e: e.airlines.join(e.flights, on="carrier", how="right"), ("at", "carrier", "flight")),
        (lambda e: e.flights.join(e.airlines, on="carrier", how="outer"), ("carrier", "at", "flight")),
        (lambda e: e.flights.join(e.seen, on="flight", how="semi"), ("at", "carrier", "flight")),
        (lambda e: e.flights.join(e.seen, on="flight"), None),
        (lambda e: e.seen.join(e.airlines, e.seen.note == e.airlines.name, how="anti"), None),
        (
            lambda e: e.flights.join(e.airlines, e.flights.origin == e.airlines.name),
            ("at", "carrier", "flight", "carrier_right"),
        ),
        (
            lambda e: e.flights.join(e.airlines, e.flights.origin == e.airlines.name, how="outer"),
            ("at", "carrier", "flight", "carrier_right"),
        ),
        (
            lambda e: e.flights.join(
                e.airlines, ["carrier", e.flights.origin != e.airlines.name], how="outer"
            ),
            None,
        ),
    ],
)
def test_keys(e: Example, build: Build, key: tuple[str, ...] | None) -> None:
    """Keys follow docs/language.md; `keys.py` says why, and test_language_keys.py that they identify rows."""
    assert build(e).key == key


def test_join_row_types(e: Example) -> None:
    """A named column is there once; clashes get the suffix; the side that may be missing becomes nullable."""
    f, s = e.flights.select("flight", "delay"), e.seen.select("flight", delay="note")
    assert (
        str(f.join(s, on="flight").row_type) == "(flight: int, delay: float | None, delay_right: str | None)"
    )
    outer = f.join(s, on="flight", how="outer", suffix="_seen").row_type
    assert str(outer) == "(flight: float | None, delay: float | None, delay_seen: str | None)"
    right = f.join(s, f.flight == s.flight, how="right").row_type
    assert (
        str(right)
        == "(flight: int | None, delay: float | None, flight_right: float, delay_right: str | None)"
    )
    assert str(f.join(s, on="flight", how="right").row_type).startswith("(flight: float, ")


def test_join_conditions_are_divided(e: Example) -> None:
    """Equalities between the sides are joined on, whichever way round; the rest is the condition."""
    f, s = e.flights, e.seen
    conditions = (
        (s.flight + 1 == f.flight) & (f.origin == "JFK") & (f.delay == f.flight) & (s.note == f.carrier)
    )
    joined = f.join(s, conditions)._relation
    assert isinstance(joined, ops.Join) and len(joined.on) == 2
    assert str(f.join(s, conditions)).splitlines()[-1] == (
        "  #3 join #1 #2 inner on cast(flight, float) == flight + 1.0 & carrier == note"
        " & origin == 'JFK' & delay == cast(flight, float)"
    )


def test_columns_of_ancestors_resolve(e: Example) -> None:
    """A column is found by its value through verbs that pass it on, under its new name and type."""
    f, a = e.flights, e.airlines
    late = f.where(f.delay > 15)
    joined = late.join(a, f.carrier == a.carrier, how="left")
    renamed = joined.select(who=a.name, where=f.origin, at=late.at).where(
        a.name.is_null() & (f.origin == "JFK")
    )
    assert str(renamed.row_type) == "(who: str | None, where: str, at: datetime)"
    assert project_of(joined.select(x=f.carrier)).columns[0] == ops.ColumnRef(1, f.row_type.types[1])
    assert joined.select(x=a.name.concat("!")).row_type.types[0].nullable
    grouped = f.group_by("origin").agg(n=dz.count())
    assert grouped.top(1, by=f.origin).row_type.names == ("origin", "n")
    assert grouped.join(f, grouped.origin == f.origin).row_type.names[-1] == "raw"
    one, two = f.where(f.flight > 1), f.where(f.flight < 1)
    both = one.join(two, one.carrier == two.carrier).select(a=one.origin, b=two.origin)
    assert [c.index for c in project_of(both).columns if isinstance(c, ops.ColumnRef)] == [3, 13]


def test_locations_are_the_users_lines(e: Example) -> None:
    """An operation knows the line of its verb, also in a chain over several lines."""
    table = (
        e.flights.where(e.flights.cancelled)
        .top(3, by="delay")
    )  # fmt: skip
    relation = table._relation
    assert isinstance(relation, ops.Top)
    file, line = relation.location.rsplit(":", 1)
    assert file == "test/unit/test_language.py"
    assert relation.input.location == f"{file}:{int(line) - 1}"


def test_a_lambda_is_called_once(e: Example) -> None:
    """A lambda gets the table it is used in, once."""
    calls: list[dz.Table] = []

    def cancelled(table: dz.Table) -> dz.Column:
        calls.append(table)
        return table.cancelled

    e.flights.where(cancelled)
    assert calls == [e.flights]


def test_attributes_find_columns_that_no_verb_hides(e: Example) -> None:
    """`t.name` is a column unless a verb has the name; `hasattr` and completion work."""
    table = e.flights.group_by("origin").agg(top=dz.count(), n=dz.count())
    assert str(table["top"]) == "top: int" and callable(table.top)
    assert hasattr(table, "n") and not hasattr(table, "m") and "origin" in dir(table)


def test_tables_show_what_they_are(e: Example) -> None:
    """`print(view)` gives name, row type, key and the operations, inputs first."""
    f = e.flights
    late = f.where(f.delay > 15).join(e.airlines, on="carrier")
    board = e.app.view(
        "board",
        late.group_by("origin", airline="name")
        .agg(flights=dz.count(), mean=dz.mean("delay", where=f.flight > 1))
        .top(10, by=dz.desc("mean"), per="origin", rank="place"),
    )
    assert str(board) == (
        "board: (origin: str, airline: str, flights: int, mean: float | None, place: int)\n"
        "key: origin, airline\n"
        "  #1 dataset flights\n"
        "  #2 where #1 delay > 15.0\n"
        "  #3 dataset airlines (broadcast)\n"
        "  #4 join #2 #3 inner on carrier == carrier\n"
        "  #5 select #4 at, carrier, flight, origin, delay, price, tax, seat, cancelled, raw, name\n"
        "  #6 group_by #5 origin, airline=name agg flights=count(), mean=mean(delay, where=flight > 1)\n"
        "  #7 top #6 10 by desc(mean) per origin rank place"
    )
    assert "window #1 at size 10m every 1m" in str(f.window("at", size="10m", every="60s"))
    assert "key: () (one row)" in str(f.group_by().agg(n=dz.count()))


def test_aggregates_are_nullable_where_there_may_be_no_values(e: Example) -> None:
    """Only aggregates of a column without null, over groups, without `where`, cannot be null; counts never are."""
    f = e.flights
    aggregates = {
        "a": dz.sum("flight"),
        "b": dz.sum("flight", where=f.cancelled),
        "c": dz.mean("delay"),
        "d": dz.count("delay"),
        "e": dz.max("seat"),
    }
    grouped = f.group_by("origin").agg(**aggregates).row_type.types[1:]
    assert [str(t) for t in grouped] == [
        "int",
        "int | None",
        "float | None",
        "int",
        "enum(ECONOMY, FIRST) | None",
    ]
    assert str(f.group_by().agg(a=dz.sum("price")).row_type) == "(a: decimal(2) | None)"


@pytest.mark.parametrize(
    ("build", "fails"),
    [
        (lambda f: f.flight + 1, True),
        (lambda f: f.delay + 1, False),
        (lambda f: f.delay / 2, False),
        (lambda f: f.delay / f.delay, True),
        (lambda f: f.flight // 60, False),
        (lambda f: f.flight // -1, True),
        (lambda f: f.flight.cast(float), False),
        (lambda f: f.delay.cast(int), True),
        (lambda f: f.origin.cast(int) == 3, True),
        (lambda f: f.price.cast(dz.scale(1)), False),
        (lambda f: f.price.cast(dz.scale(3)), True),
        (lambda f: f.origin.slice(0, 3), False),
        (lambda f: f.origin.slice(0, f.flight), True),
    ],
)
def test_which_operations_can_fail(e: Example, build: Callable[[dz.Table], dz.Column], fails: bool) -> None:
    """The compiler moves only what cannot fail; a needless yes is slow, a wrong no changes answers."""
    assert may_fail(project_of(e.flights.select(x=build)).columns[0]) is fails


def test_shared_tables_are_one_relation(e: Example) -> None:
    """A view used in another one is the same relation, so it is computed once."""
    late = e.app.view("late", e.flights.where(e.flights.delay > 15))
    e.app.view("n", late.group_by("origin").agg(n=dz.count()))
    graph = e.app.graph()
    assert graph.views[0].relation in in_order([graph.views[1].relation])


def test_every_operation_explains() -> None:
    """The program of all operations compiles, and every level of it can be printed."""
    text = every_operation().explain()
    assert all(f"{verb} " in text for verb in ("where", "flat_map", "window", "union", "difference", "top"))


def test_samples_are_transactions_of_stored_rows(e: Example) -> None:
    """The generator follows from its seed alone; pairs and lists of pairs, rows and mappings."""

    @e.app.sample
    def sample(rng: Any) -> Any:
        yield e.airlines, {"carrier": "AA", "name": str(rng.random())}
        yield [("seen", {"flight": 1}), (e.seen, {"flight": 2.5, "note": "x"})]

    first = list(e.app.generate(3))
    assert first == list(e.app.generate(3)) != list(e.app.generate(4))
    assert first[1] == [("seen", (1.0, None)), ("seen", (2.5, "x"))]
    assert e.app.has_sample
