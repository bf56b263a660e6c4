"""Row classes: what they accept as columns, what their instances do, and rows between users and the runtime."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import pickle
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Optional

import pytest

import dist_zero as dz
from dist_zero.row import (
    from_stored_row,
    row_class_of,
    row_from_stored,
    row_type_of,
    to_stored_column,
    to_stored_row,
)
from dist_zero.types import BOOL, BYTES, DATETIME, FLOAT, INT, STR, RowType, decimal_type, enum_type


class Colour(enum.Enum):
    """Names differ from values, so that a mix-up shows."""

    RED = "r"
    BLUE = "b"
    ROUGE = "r"  # noqa: PIE796  an alias, which is no member of its own


class Payment(dz.Row):
    """Every type that a column can have."""

    ok: bool
    id: int
    score: float
    note: str
    raw: bytes
    at: dt.datetime
    amount: Annotated[Decimal, dz.scale(2)]
    colour: Colour
    limit: Annotated[Decimal, dz.scale(0)] | None = None
    other: Optional[Colour] = None  # noqa: UP045  the older spelling has to work as well
    count: ClassVar[int] = 0


VALUES: dict[str, Any] = {
    "ok": True,
    "id": 7,
    "score": 3,
    "note": "x",
    "raw": b"\0",
    "at": dt.datetime(2013, 1, 1, 5),
    "amount": Decimal("9.9"),
    "colour": Colour.BLUE,
}
STORED = (True, 7, 3.0, "x", b"\0", 1357016400000000, 990, 1, None, None)


def test_annotations_become_column_types() -> None:
    """Each annotation, as text by the future import, stands for its type; class variables are no columns."""
    colour = enum_type(("RED", "BLUE"))
    assert row_type_of(Payment).types == (
        BOOL,
        INT,
        FLOAT,
        STR,
        BYTES,
        DATETIME,
        decimal_type(2),
        colour,
        decimal_type(0).optional(),
        colour.optional(),
    )
    assert row_type_of(Payment).names[:3] == ("ok", "id", "score")


def test_instances_are_values() -> None:
    """Rows are equal by what they hold, in canonical user values, and survive copying and pickling."""
    row = Payment(**VALUES)
    assert row == Payment(**VALUES) and hash(row) == hash(Payment(**VALUES))
    assert row != Payment(**{**VALUES, "id": 8})
    assert (row.at, row.score, row.amount) == (
        dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC),
        3.0,
        Decimal("9.90"),
    )
    assert row.colour is Colour.BLUE and row.other is None
    assert copy.deepcopy(row) == row == pickle.loads(pickle.dumps(row))
    assert Payment(**vars(row)) == row
    assert repr(row).startswith("Payment(ok=True, id=7, score=3.0, note='x'")


def test_instances_do_not_change() -> None:
    """Assignment and deletion are refused."""
    row = Payment(**VALUES)
    with pytest.raises(AttributeError, match="a Payment does not change"):
        row.id = 8  # type: ignore[misc]
    with pytest.raises(AttributeError, match="a Payment does not change"):
        del row.id
    assert row.id == 7


def test_rows_are_stored_and_come_back() -> None:
    """A row, or a mapping that leaves out nullable columns, becomes the stored tuple, and comes back equal."""
    row_type = row_type_of(Payment)
    assert to_stored_row(row_type, Payment(**VALUES)) == STORED == to_stored_row(row_type, VALUES)
    assert row_from_stored(Payment, STORED) == Payment(**VALUES)
    assert from_stored_row(row_type, STORED)["colour"] == "BLUE"
    assert to_stored_column(row_type, "amount", Decimal("1.5")) == 150
    shown: Any = row_from_stored(row_class_of("Board", row_type), STORED)
    assert (shown.colour, shown.id, type(shown).__name__) == ("BLUE", 7, "Board")


def test_columns_of_a_base_come_first() -> None:
    """A row class can extend another."""

    class Base(dz.Row):
        a: int

    class Extended(Base):
        b: str = "x"

    assert row_type_of(Extended).names == ("a", "b")
    assert vars(Extended(a=1)) == {"a": 1, "b": "x"}
    assert to_stored_row(row_type_of(Base), Base(a=1)) == (1,)
    with pytest.raises(dz.DataError, match=r"a Extended has the columns"):
        to_stored_row(row_type_of(Base), Extended(a=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "x"}, "column 'id' (int): expected int, got str 'x'"),
        ({"id": 2**63}, f"column 'id' (int): {2**63} does not fit a 64-bit int"),
        ({"id": None}, "column 'id' (int): null is not allowed in a column of type int"),
        (
            {"amount": Decimal("1.234")},
            "column 'amount' (decimal(2)): 1.234 has more than 2 digits behind the point",
        ),
        ({"colour": "GREEN"}, "column 'colour' (enum(RED, BLUE)): 'GREEN' is no member of enum(RED, BLUE)"),
        ({"note": "\ud800"}, "column 'note' (str): '\\ud800' has a lone surrogate"),
        ({"idd": 1}, "Payment has no column 'idd'. Did you mean 'id'? It has (ok: bool, id: int,"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    """The error names the column, its type and the value."""
    with pytest.raises(dz.DataError) as caught:
        Payment(**{**VALUES, **change})
    assert str(caught.value).startswith(message)


def test_missing_columns_are_refused() -> None:
    """A column without a default has to be given; of a mapping, unless it is nullable."""
    some = {k: v for k, v in VALUES.items() if k != "id"}
    with pytest.raises(dz.DataError, match=r"Payment lacks the column 'id' \(int\)"):
        Payment(**some)
    with pytest.raises(dz.DataError, match=r"the row lacks the column 'id' \(int\)"):
        to_stored_row(row_type_of(Payment), some)


def test_rows_of_other_classes_are_refused() -> None:
    """A row of another type is not taken for a mapping; one of equal columns is welcome."""

    class Other(dz.Row):
        a: int

    class Same(dz.Row):
        a: int

    with pytest.raises(dz.DataError, match=r"a Other has the columns \(a: int\), not \(ok: bool"):
        to_stored_row(row_type_of(Payment), Other(a=1))
    with pytest.raises(dz.DataError, match="expected a row or a mapping, got list"):
        to_stored_row(row_type_of(Payment), [1])  # type: ignore[arg-type]
    assert to_stored_row(row_type_of(Same), Other(a=1)) == (1,)


class Empty(enum.Enum):
    """No members."""


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (list[int], "list[int] is no column type; use bool, int"),
        (int | str, "int | str is no column type; use bool, int"),
        (
            Decimal,
            "Decimal is no column type; say how many digits stand behind the point: Annotated[Decimal, dz",
        ),
        (Annotated[Decimal, 2], "say how many digits stand behind the point"),
        (dt.date, "date is no column type; use datetime"),
        (dt.timedelta, "timedelta is no column type; use int, in a unit that the name says"),
        (object, "object is no column type; use bool"),
        (Empty, "Empty is no column type: an enum needs members"),
        (enum.IntFlag("Flags", ["A", "B"]), "Flags is no column type"),
        ("Nowhere", "name 'Nowhere' is not defined"),
    ],
)
def test_refused_types_name_the_column(annotation: object, message: str) -> None:
    """A type that no column can have is refused where the class is written, with what to use instead."""
    with pytest.raises(dz.ProgramError) as caught:
        type("Bad", (dz.Row,), {"__annotations__": {"x": annotation}})
    text = str(caught.value)
    assert text.startswith("test/unit/test_row.py:") and message in text
    assert "column 'x' of Bad" in text or annotation == "Nowhere"


@pytest.mark.parametrize("name", ["_x", "a b", "x" * 201, "9"])
def test_bad_column_names_are_refused(name: str) -> None:
    """Names of columns are identifiers that do not begin with an underscore."""
    with pytest.raises(dz.ProgramError, match="cannot be the name of a column"):
        type("Bad", (dz.Row,), {"__annotations__": {name: int}})


def test_row_sizes_are_bounded() -> None:
    """A row has 1 to 200 columns."""
    with pytest.raises(dz.ProgramError, match="a row needs at least one column"):
        type("Bad", (dz.Row,), {})
    with pytest.raises(dz.ProgramError, match="201 columns; a row has at most 200"):
        type("Bad", (dz.Row,), {"__annotations__": {f"c{i}": int for i in range(201)}})
    with pytest.raises(dz.ProgramError, match="a decimal has 0 to 18 digits"):
        dz.scale(19)


def test_rows_of_views_can_be_pickled_and_copied() -> None:
    """A view's row goes into a cache or to another process and comes back equal, though its class has no module."""
    row_type = RowType(("game", "at", "points"), (STR, DATETIME.optional(), INT))
    row = row_from_stored(row_class_of("board", row_type), ("go", 1_000_000, 7))
    assert copy.deepcopy(row) == row == pickle.loads(pickle.dumps(row))
    assert repr(pickle.loads(pickle.dumps(row))) == repr(row)
    assert pickle.loads(pickle.dumps(row)).points == 7
