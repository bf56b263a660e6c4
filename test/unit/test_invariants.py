"""`@app.invariant`: checked when it is declared, with the user's line; and what it says of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import dist_zero as dz
from dist_zero_common.errors import ProgramError


class Entry(dz.Row):
    account: str
    cents: int


def program() -> dz.Program:
    app = dz.Program("books")
    entries = app.dataset("entries", Entry)
    app.view("balances", entries.group_by("account").agg(cents=dz.sum("cents")))
    app.view("total", entries.group_by().agg(cents=dz.sum("cents")))
    return app


def row(**columns: object) -> Any:
    return type("Row", (), columns)()


def test_parameters_name_views_unless_the_decorator_does() -> None:
    """Three ways to say which views it is about; the function stays what it was."""
    app = program()

    @app.invariant
    def adds_up(total: Sequence[Any], balances: Sequence[Any]) -> bool:
        return bool(sum(r.cents for r in total) == sum(r.cents for r in balances))

    @app.invariant("total")
    def whatever(rows: Sequence[Any]) -> None:
        assert len(rows) == 1, "no total"

    table = app.view("second", app.dataset("others", Entry).group_by().agg(n=dz.count()))

    @app.invariant(table, "total")
    def both(*rows: Sequence[Any]) -> None:
        assert len(rows) == 2

    assert [(i.name, i.views) for i in app.invariants] == [
        ("adds_up", ("total", "balances")),
        ("whatever", ("total",)),
        ("both", ("second", "total")),
    ]
    assert adds_up([], []) is True


def test_what_it_says() -> None:
    """None and True hold; False and whatever is raised do not, with the reason and the user's line."""
    app = program()

    @app.invariant
    def is_zero(total: Sequence[Any]) -> None:
        assert sum(r.cents for r in total) == 0, "money was made"

    @app.invariant
    def is_false(total: Sequence[Any]) -> bool:
        return not total

    @app.invariant
    def is_wrong(total: Sequence[Any]) -> bool:
        return bool(total[0].pounds)

    first, second, third = app.invariants
    rows = {"total": [row(cents=5)]}
    assert first.broken_by({"total": []}) is None and second.broken_by({"total": []}) is None
    assert str(first.broken_by(rows)).startswith("AssertionError: money was made (")
    assert "test_invariants.py:" in str(first.broken_by(rows))
    assert str(second.broken_by(rows)).startswith("it returned False (")
    assert "AttributeError" in str(third.broken_by(rows))


def no_view(balance: Sequence[Any]) -> None: ...


def nothing() -> None: ...


async def later(total: Sequence[Any]) -> None: ...


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda app: app.invariant(no_view), "about 'balance', which is no view; there are balances, total"),
        (lambda app: app.invariant(nothing), "is about no view"),
        (lambda app: app.invariant(later), "is async"),
        (lambda app: app.invariant(7), "invariant decorates a function"),
        (lambda app: app.invariant("nowhere"), "'nowhere' is no view"),
        (
            lambda app: app.invariant("total", "balances")(no_view),
            "cannot be called with the rows of 2 views",
        ),
        (lambda app: [app.invariant("total")(no_view) for _ in range(2)], "an invariant 'no_view' already"),
    ],
)
def test_mistakes_name_the_users_line(declare: Callable[[dz.Program], object], says: str) -> None:
    """Views that do not exist, functions that do not fit, and what is no function are refused when declared."""
    with pytest.raises(ProgramError, match=says) as refused:
        declare(program())
    assert "test_invariants.py:" in str(refused.value)
