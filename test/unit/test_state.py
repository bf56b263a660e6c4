"""The tables of a node's state: which there are, and how each is divided."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings

import dist_zero as dz
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Exchange, Plan
from dist_zero.expr.ops import ColumnRef
from dist_zero.state import Division, state_tables
from test.oracle.random_programs import Case, cases
from test.oracle.test_oracle_programs import SAME_EACH_TIME

KEYED, BROADCAST, LOOSE = Division.KEYED, Division.BROADCAST, Division.LOOSE


class Payment(dz.Row):
    payment: int
    card: int
    amount: int


class Card(dz.Row):
    card: int
    limit: int


Make = Callable[[dz.Table, dz.Table], dz.Table]


NUMBERS = re.compile(r"/([0-9]+|[0-9a-f]{32})(?=/|$)")


def planned(make: Make, keyed: bool = True) -> Plan:
    app = dz.Program("payments")
    payments = app.dataset("payments", Payment, key="payment" if keyed else None)
    cards = app.dataset("cards", Card, key="card", broadcast=True)
    app.view("v", make(payments, cards))
    return compile(app.graph())


def divisions(make: Make, keyed: bool = True) -> dict[str, tuple[Division, tuple[object, ...]]]:
    """By a table's name without numbers and lineages: its division, and the columns by which that is."""
    plan = planned(make, keyed)
    found: dict[str, tuple[Division, tuple[object, ...]]] = {}
    for table in state_tables(plan):
        columns = tuple(
            table.row_type.names[scalar.index] if isinstance(scalar, ColumnRef) else scalar
            for scalar in table.shard
        )
        if not table.name.startswith("errors/"):
            found[NUMBERS.sub("", table.name)] = table.division, columns
    return found


def test_what_is_kept_is_divided_as_rows_are_placed() -> None:
    """Datasets by key, groups by the group's key, views by theirs, tops and joins by their rows'."""
    both = {"dataset/payments": (KEYED, ("payment",)), "missed/payments": (LOOSE, ())}
    both |= {"dataset/cards": (KEYED, ("card",)), "missed/cards": (LOOSE, ())}
    assert divisions(lambda p, _: p.group_by("card").agg(n=dz.count(), most=dz.max("amount"))) == both | {
        "operator/groups": (KEYED, ("card",)),
        "operator/values": (KEYED, ("card",)),
        "view": (KEYED, ("card",)),
    }
    assert divisions(lambda p, c: p.join(c, on="card")) == both | {
        "operator/left": (KEYED, ("payment",)),
        "operator/right": (BROADCAST, ()),
        "view": (KEYED, ("payment",)),
    }
    assert divisions(lambda p, c: p.join(c, on="card", how="outer")) == both | {
        "operator/left": (KEYED, ("card",)),
        "operator/right": (KEYED, ("card",)),
        "view": (KEYED, ("card", "payment")),
    }


def test_a_partial_top_is_divided_by_its_rows_and_the_final_one_is_on_one_node() -> None:
    """The first keeps what it has shown; the names tell the two apart."""
    plan = planned(lambda p, _: p.top(3, by="amount"))
    tables = [t for t in state_tables(plan) if t.name.startswith("operator/")]
    shards = [(t.name.split("/")[-1], t.division, len(t.shard)) for t in tables]
    assert shards == [("rows", KEYED, 1), ("shown", KEYED, 1), ("rows", KEYED, 0)]


def test_a_partial_aggregate_is_additive_but_for_the_values_of_extremes() -> None:
    """Counts and sums are loose, values go with their rows; the final one is on one node."""
    plan = planned(lambda p, _: p.group_by().agg(n=dz.count(), total=dz.sum("amount"), most=dz.max("amount")))
    tables = [t for t in state_tables(plan) if t.name.startswith("operator/")]
    shards = [(t.name.split("/")[2], t.division, len(t.shard), len(t.row_type)) for t in tables]
    assert shards == [
        ("groups", LOOSE, 0, 2),  # rows, total
        ("values", KEYED, 1, 2),  # payment, amount
        ("shown", LOOSE, 0, 3),
        ("groups", KEYED, 0, 3),  # rows, and the counts and sums of all nodes
        ("values", KEYED, 0, 1),
    ]


def test_a_dataset_without_a_key_keeps_nothing() -> None:
    """And beside a broadcast side its rows belong to no hash."""
    found = divisions(lambda p, c: p.join(c, on="card"), keyed=False)
    assert "dataset/payments" not in found and "missed/payments" not in found
    assert found["operator/left"] == (LOOSE, ())


@pytest.mark.parametrize(
    ("make", "keyed", "sent"),
    [
        (lambda p, _: p.select("amount").top(2, by="amount"), True, True),
        (lambda p, _: p.select("amount").group_by().agg(most=dz.max("amount")), True, True),
        (lambda p, _: p.select("amount").group_by().agg(total=dz.sum("amount")), True, False),
        (lambda p, _: p.select("amount").top(2, by="amount"), False, False),
        (lambda p, _: p.select("amount").group_by().agg(most=dz.max("amount")), False, False),
        (lambda p, _: p.group_by().agg(most=dz.max("amount")), True, False),
        (lambda p, _: p.top(2, by="amount"), True, False),
        (lambda p, _: p.top(2, by="amount", per="card"), True, False),
    ],
    ids=[
        "top of column",
        "max of column",
        "sum of column",
        "top of appended",
        "max of appended",
        "max of rows",
        "top of rows",
        "top per card",
    ],
)
def test_rows_that_may_be_taken_back_are_where_they_say(make: Make, keyed: bool, sent: bool) -> None:
    """A partial top or extreme over rows of which nothing tells where they are could not be divided; so those are sent
    by the whole row before, and nothing else is."""
    plan = planned(make, keyed)
    whole = [o for o in plan.operators if isinstance(o, Exchange) and len(o.key) == len(o.row_type) == 1]
    assert [o.stage for o in whole] == ([2] if sent else [])


@settings(SAME_EACH_TIME, max_examples=100)
@given(cases())
def test_tables_are_a_function_of_the_plan_and_have_names_of_their_own(case: Case) -> None:
    """Whoever compiles a program numbers its tables alike."""
    tables = state_tables(compile(case.graph))
    assert tables == state_tables(compile(case.graph))
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert len(set(table.row_type.names)) == len(table.row_type)
        assert not table.shard or table.division is KEYED
