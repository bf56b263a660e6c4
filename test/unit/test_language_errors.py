"""Mistakes, and what is said about them: golden messages for every rule of the language."""

# ruff: noqa: E501  messages stand here as they are, unbroken; not every mistake needs a table
from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import pytest

import dist_zero as dz
from dist_zero.expr.nodes import DEPTH_MAX
from dist_zero.expr.walk import DEPTH_MAX as RELATIONS_DEEP_MAX
from test.unit.language import example

AIRLINES = "(carrier: str, name: str)"


class Nullable(dz.Row):
    """A nullable column, for keys."""

    id: int | None
    x: int


def foreign() -> dz.Table:
    """A dataset of another program."""
    return example().flights


Mistake = Callable[[Any], Any]
MISTAKES: list[tuple[Mistake, str]] = [
    # columns
    (
        lambda e: e.airlines["nam"],
        f"there is no column 'nam' in dataset 'airlines'. Did you mean 'name'? It has {AIRLINES}",
    ),
    (
        lambda e: e.airlines.nam,
        f"there is no column 'nam' in dataset 'airlines'. Did you mean 'name'? It has {AIRLINES}",
    ),
    (
        lambda e: e.airlines.select("zzz"),
        f"there is no column 'zzz' in dataset 'airlines'. It has {AIRLINES}",
    ),
    (lambda e: e.airlines.name.isin(["x"]), "a column has no method 'isin'; what it is for is done by is_in"),
    (lambda e: e.airlines.name.lowr(), "a column has no method 'lowr'. Did you mean 'lower'?"),
    (lambda e: e.airlines.name.zzzz, "a column has no method 'zzzz'"),
    (
        lambda e: e.airlines.agg(n=dz.count()),
        "a table has no verb 'agg'; what it is for is done by group_by(...).agg",
    ),
    (lambda e: e.airlines[0], "t[...] takes the name of a column, got int 0"),
    (
        lambda e: e.airlines.select(lambda a: a.name.lower()),
        "select: a computed column needs a name, as select(name=lower(name))",
    ),
    (lambda e: e.airlines.select("name", name="carrier"), "select names column 'name' twice"),
    (lambda e: e.airlines.select(), "a row needs at least one column"),
    (
        lambda e: e.airlines.with_columns(x=3),
        "with_columns takes columns, got int 3; constants are dz.lit(...)",
    ),
    (
        lambda e: e.airlines.select(**{"a b": "name"}),
        "'a b' cannot be the name of a column: use letters, digits and _, not _ first",
    ),
    # types of operands
    (
        lambda e: e.flights.carrier + 1,
        "'+' between str and int: carrier + 1; cast text to a number with .cast(int) or .cast(float), or a number to text with .cast(str)",
    ),
    (lambda e: e.flights.carrier + "x", "'+' between str and str: carrier + 'x'; join texts with concat"),
    (
        lambda e: e.flights.at - e.flights.at,
        "'-' between datetime and datetime: at - at; use a.difference(b, unit)",
    ),
    (
        lambda e: e.flights.cancelled + 1,
        "'+' between bool and int: cancelled + 1; cast a bool with .cast(int)",
    ),
    (
        lambda e: e.flights.price % 2,
        "'%' between decimal(2) and decimal(2): price % 2.00; cast decimals to int or float first",
    ),
    (
        lambda e: e.flights.price * dz.lit(Decimal("1e-17")),
        "'*' between decimal(2) and decimal(17): the product has 19 digits behind the point, at most 18 fit; round one side first; this is mul(price, 0.00000000000000001)",
    ),
    (lambda e: e.flights.flight == "x", "'==' between int and str: flight == 'x'"),
    (lambda e: e.flights.delay == None, "'==' with None is null for every row; use is_null()"),  # noqa: E711
    (
        lambda e: e.flights.seat == "LAST",
        "'LAST' is no member of enum(ECONOMY, FIRST); it stands beside seat: enum(ECONOMY, FIRST) | None",
    ),
    (
        lambda e: e.flights.at > "soon",
        "'soon' is no datetime; write it as '2013-01-31T05:00:00'; it stands beside at: datetime",
    ),
    (
        lambda e: e.flights.flight == [1],
        "[1] of type list is no value of a column; those are bool, int, float, str, bytes, datetime, Decimal and enum; it stands beside flight: int",
    ),
    (
        lambda e: e.flights.flight > 2**63,
        "9223372036854775808 does not fit a 64-bit int; it stands beside flight: int",
    ),
    (lambda e: e.flights.flight.lower(), "lower of int: it is for str; this is lower(flight)"),
    (lambda e: e.flights.carrier.year(), "year of str: it is for datetime; this is year(carrier)"),
    (
        lambda e: e.flights.at.truncate("decade"),
        "truncate has no unit 'decade'; there are second, minute, hour, day, week, month, year; this is truncate(at, 'decade')",
    ),
    (
        lambda e: e.flights.price.round(3),
        "round of decimal(2) to 3 digits: it can be 0 to 2; this is round(price, 3)",
    ),
    (lambda e: e.flights.at.cast(int), "cast from datetime to int: datetime can become str"),
    (
        lambda e: e.flights.flight.cast(Decimal),
        "Decimal is no column type; say how many digits stand behind the point: Annotated[Decimal, dz.scale(2)]",
    ),
    (lambda e: e.flights.flight.is_in([]), "is_in needs at least one value"),
    (lambda e: e.flights.flight.is_in("a"), "is_in between int and str"),
    (lambda e: dz.coalesce(e.flights.flight, "x"), "coalesce between int and str"),
    (lambda e: dz.lit(None), "None alone has no type; it can stand beside a column, as in coalesce or when"),
    (lambda e: dz.when(e.flights.flight).then(1), "the condition of when has to be bool, flight is int"),
    (
        lambda e: e.flights.flight + dz.when(e.flights.cancelled).then(1),
        "this dz.when(...) is not finished: end it with .then(...).otherwise(...); it stands beside flight: int",
    ),
    (lambda e: dz.when(e.flights.cancelled).then(1).otherwise("x"), "when between int and str"),
    # and, or, not
    (
        lambda e: e.flights.cancelled and e.flights.cancelled,
        "a column has no truth of its own, it has one per row: cancelled. Instead of and, or, not use & | ~, and put each side in parentheses: (a > 1) & (b < 2); instead of if use dz.when; instead of a < b < c use between",
    ),
    (
        lambda e: not e.flights.cancelled,
        "a column has no truth of its own, it has one per row: cancelled. Instead of and, or, not use & | ~, and put each side in parentheses: (a > 1) & (b < 2); instead of if use dz.when; instead of a < b < c use between",
    ),
    (
        lambda e: e.flights.flight & 1,
        "'&' between int and int: flight & 1; it is for bool, and binds before comparisons: put each side in parentheses: (a > 1) & (b < 2)",
    ),
    (
        lambda e: "x" in e.flights.carrier,
        "`in` does not work on a column: use contains for text, is_in for several values",
    ),
    (
        lambda e: list(e.flights.carrier),
        "a column has no rows to loop over while the program is being written: carrier",
    ),
    # verbs
    (lambda e: e.flights.where("flight"), "where needs a condition (bool), flight is int"),
    (
        lambda e: e.flights.where(e.flights.flight > 1 and None),
        "a column has no truth of its own, it has one per row: flight > 1. Instead of and, or, not use & | ~, and put each side in parentheses: (a > 1) & (b < 2); instead of if use dz.when; instead of a < b < c use between",
    ),
    (lambda e: e.flights.top(3), 'top needs an order: by=dz.desc("score")'),
    (lambda e: e.flights.top(0, by="flight"), "top takes how many rows to keep, at least 1, got 0"),
    (
        lambda e: e.flights.top(3, by="flight", rank="carrier"),
        "there would be two columns 'carrier'; give one of them another name",
    ),
    (lambda e: e.flights.window("flight", size="1h"), "window needs a datetime column, flight is int"),
    (
        lambda e: e.flights.window("at", size="1y"),
        "'1y' is no duration: write '500ms', '30s', '10m', '1h', '1d' or a timedelta",
    ),
    (
        lambda e: e.flights.window("at", size="10d", every="1s"),
        "each row would be in 864,000 windows, at most 10,000 are allowed; make every larger",
    ),
    (
        lambda e: e.flights.window("at", size=dt.timedelta(0)),
        "the size of a window and its every have to be longer than nothing, and below 10,000 years",
    ),
    (
        lambda e: e.airlines.union(e.airlines.select("name")),
        f"union needs the same columns on both sides; only one has carrier: {AIRLINES} and (name: str)",
    ),
    (
        lambda e: e.airlines.difference(e.airlines.select("carrier", name=lambda a: a.name.length())),
        "difference: column 'name' between str and int",
    ),
    (
        lambda e: e.airlines.flat_map({"x": "name"}, {"y": "name"}),
        "the alternatives of flat_map need the same columns: ('x',) and ('y',)",
    ),
    (
        lambda e: e.airlines.flat_map({"name": "carrier"}),
        "there would be two columns 'name'; give one of them another name",
    ),
    (
        lambda e: e.airlines.flat_map({"x": "name"}, {"x": dz.lit(1)}),
        "flat_map: column 'x' between str and int",
    ),
    # groups
    (
        lambda e: e.flights.group_by("origin").agg(x=dz.sum("carrier")),
        "agg(x=dz.sum(carrier)): sum of str: only numbers have a sum",
    ),
    (
        lambda e: e.flights.group_by("origin").agg(x=dz.sum("cancelled")),
        "agg(x=dz.sum(cancelled)): sum of bool: only numbers have a sum; count rows with dz.count(where=...)",
    ),
    (
        lambda e: e.flights.group_by("origin").agg(),
        "agg needs at least one aggregate, as n=dz.count(); for the keys alone use select and distinct",
    ),
    (
        lambda e: e.flights.group_by("origin").agg(x="flight"),
        "agg(x=...) needs an aggregate such as dz.count() or dz.mean('x'), got str 'flight'",
    ),
    (
        lambda e: e.flights.group_by("origin").agg(origin=dz.count()),
        "there would be two columns 'origin'; give one of them another name",
    ),
    (
        lambda e: dz.mean("delay") / 2,
        "dz.mean(...) is no column yet: give it a name in agg(...), then compute with with_columns",
    ),
    (
        lambda e: e.flights.select(n=dz.count()),
        "select takes columns of single rows; dz.count belongs into group_by(...).agg(...)",
    ),
    (
        lambda e: e.flights.group_by("origin").top(3, by="origin"),
        "group_by(...) is followed by agg(...); it has no 'top'",
    ),
    (
        lambda e: e.flights.select(x=dz.when(e.flights.cancelled).then(1)),
        "this dz.when(...) is not finished: end it with .then(...).otherwise(...)",
    ),
    # joins
    (
        lambda e: e.flights.join(e.airlines, on="name"),
        "there is no column 'name' in dataset 'flights'. It has (at: datetime, carrier: str, flight: int, origin: str, delay: float | None, price: decimal(2), tax: decimal(3), seat: enum(ECONOMY, FIRST) | None, cancelled: bool, raw: bytes)",
    ),
    (
        lambda e: e.airlines.select("carrier", flight="name").join(e.seen, on="flight"),
        "join on 'flight': it is str on the left and float on the right",
    ),
    (
        lambda e: e.airlines.join(e.seen, e.airlines.name != e.seen.note),
        "join needs at least one equality between a column of the left and one of the right, as on='key' or on=(a.x == b.y); name != note has none. Joining everything with everything is not supported",
    ),
    (lambda e: e.airlines.join(e.seen, e.seen.flight), "on= needs conditions or names; flight is float"),
    (
        lambda e: e.airlines.join(e.airlines, on="name", how="full"),
        "join has no how='full'. There are inner, left, right, outer, semi, anti",
    ),
    (
        lambda e: e.airlines.join(e.airlines, on="name", how="outter"),
        "join has no how='outter'. Did you mean 'outer'? There are inner, left, right, outer, semi, anti",
    ),
    (lambda e: e.airlines.join("seen", on="x"), "join takes a table, got str 'seen'"),
    (
        lambda e: e.airlines.join(e.airlines, on="name", suffix=""),
        "join: both sides have a column 'carrier', and 'carrier' is taken as well; give another suffix=, or select and rename one of them before",
    ),
    (
        lambda e: e.airlines.join(e.airlines, e.airlines.name == e.airlines.carrier),
        "column 'name' is ambiguous: dataset 'airlines' is joined with itself; name one side, as other = t.alias('other'), and join with that",
    ),
    # columns of ancestors
    (
        lambda e: e.airlines.where(e.seen.flight > 1),
        f"column 'flight' (float) of dataset 'seen' is not in dataset 'airlines', or was changed on the way; it has {AIRLINES}",
    ),
    (
        lambda e: e.seen.with_columns(note=lambda s: s.note.lower()).where(e.seen.note == "x").select("note"),
        "column 'note' (str | None) of dataset 'seen' is not in the table made at HERE, or was changed on the way; it has (flight: float, note: str | None); its own 'note' is meant by lambda t: t['note']",
    ),
    (
        lambda e: e.airlines.join(e.airlines, on="carrier").where(e.airlines.name == "x"),
        "column 'name' of dataset 'airlines' is ambiguous in the table made at HERE: it is 'name' and 'name_right'; take it from the table itself, by name, or give one side another identity before the join: other = t.alias('other')",
    ),
    # programs
    (
        lambda e: e.app.dataset("n", Nullable, key="id"),
        "column 'id' (int | None) cannot be in the key of dataset 'n': a key is never null; declare it as int, or choose another key",
    ),
    (
        lambda e: e.app.dataset("n", Nullable, key="ix"),
        "there is no column 'ix' in dataset 'n', for its key. Did you mean 'x'? It has (id: int | None, x: int)",
    ),
    (
        lambda e: e.app.dataset("n", Nullable, key=()),
        "the key of dataset 'n' needs one or more different columns, got ()",
    ),
    (
        lambda e: e.app.dataset("n", int),
        "dataset 'n' needs a row class: class Flight(dz.Row): ..., got <class 'int'>",
    ),
    (lambda e: e.app.dataset("seen", Nullable), "program 'flights' has a dataset 'seen' already"),
    (lambda e: e.app.view("seen", e.seen), "program 'flights' has a dataset 'seen' already"),
    (
        lambda e: e.app.view("No", e.seen),
        "'No' cannot be the name of a view: use up to 100 lower-case letters, digits and underscores, not a digit first",
    ),
    (lambda e: e.app.view("v", "seen"), "view 'v' needs a table, got str 'seen'"),
    (
        lambda e: dz.Program("My program"),
        "'My program' cannot be the name of a program: use 1 to 100 lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
    ),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[m[:48] for _, m in MISTAKES])
def test_mistakes_name_place_and_remedy(mistake: Mistake, message: str) -> None:
    """The error has the file and line of the mistake, and the message word for word."""
    here = f"test/unit/test_language_errors.py:{inspect.getsourcelines(mistake)[1]}"
    with pytest.raises(dz.ProgramError) as caught:
        mistake(example())
    assert str(caught.value) == f"{here}: {message}".replace("HERE", here)


def test_views_read_their_own_program() -> None:
    """A view over another program's dataset is refused, naming the dataset and where it was declared."""
    e = example()
    with pytest.raises(dz.ProgramError) as caught:
        e.app.view("mixed", e.flights.union(foreign()))
    assert "view 'mixed' of program 'flights' uses dataset 'flights' of another program, declared at" in str(
        caught.value
    )
    assert not e.app.graph().views


def test_a_second_sampler_is_refused() -> None:
    """A program has one generator of input."""
    e = example()
    e.app.sample(lambda rng: [])
    with pytest.raises(dz.ProgramError, match="has a sample generator already"):
        e.app.sample(lambda rng: [])


def test_bad_samples_name_the_transaction() -> None:
    """Rows that do not fit are refused with the number of their transaction."""
    e = example()
    e.app.sample(lambda rng: [(e.airlines, {"carrier": "AA", "name": "x"}), (e.airlines, {"carrier": 1})])
    with pytest.raises(dz.DataError, match="transaction 2 of the sample generator: column 'carrier'"):
        list(e.app.generate(0))


def test_errors_in_a_lambda_are_on_its_line() -> None:
    """What is wrong inside a lambda is reported there, not at the verb that calls it."""
    bad = lambda t: t.name + 1  # noqa: E731
    line = inspect.getsourcelines(bad)[1]
    with pytest.raises(dz.ProgramError, match=f"errors.py:{line}: '\\+' between str and int"):
        example().airlines.where(bad)


def test_expressions_are_bounded() -> None:
    """Neither depth nor doubling can make an expression that overflows a stack or takes for ever to walk."""
    flight = example().flights.flight
    with pytest.raises(dz.ProgramError, match=f"more than {DEPTH_MAX} operations deep"):
        for _ in range(DEPTH_MAX + 1):
            flight = flight + 1
    doubled = example().flights.flight
    with pytest.raises(dz.ProgramError, match="more than 10,000 operations"):
        for _ in range(60):
            doubled = doubled + doubled


def test_programs_are_bounded() -> None:
    """A view has a bounded number of operations behind one another."""
    e = example()
    table = e.airlines
    for _ in range(RELATIONS_DEEP_MAX):
        table = table.where(table.name != "x")
    with pytest.raises(
        dz.ProgramError, match=f"more than {RELATIONS_DEEP_MAX} operations behind one another"
    ):
        e.app.view("deep", table)


def test_a_suffix_that_settles_nothing_is_refused() -> None:
    """The suffixed name may be taken as well, by either side."""

    class Wide(dz.Row):
        id: int
        x: int
        x_right: Annotated[Decimal, dz.scale(2)]

    wide = dz.Program("p").dataset("wide", Wide, key="id")
    with pytest.raises(dz.ProgramError, match="both sides have a column 'x', and 'x_right' is taken as well"):
        wide.join(wide, on="id")
    assert wide.join(wide, on="id", suffix="_2").row_type.names == ("id", "x", "x_right", "x_2", "x_right_2")
