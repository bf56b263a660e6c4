"""What people read: tables of views, what is left out of them, and the line of numbers at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_zero.client.snapshot import Snapshot, ViewError
from dist_zero.text_values import json_row
from dist_zero.types import DataType, Kind, RowType, Stored, datetime_from_us, decimal_text, from_stored
from dist_zero.types import Row as StoredRow

CELL_LENGTH_MAX = 60
_WIDTH_OF_FILES = 1_000
_NUMBERS = (Kind.INT, Kind.FLOAT, Kind.DECIMAL)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a run took. What the kind of system does not have is None, and left out of `--json`."""

    nodes: int
    machines: int
    seed: int | None
    rows: int
    rows_passed_over: int
    transactions: int
    epochs: int
    messages: int | None
    message_bytes: int | None
    virtual_seconds: float | None
    first_row_seconds: float | None
    real_seconds: float
    history: str | None


def console_for(stderr: bool = False) -> Console:
    """A console that folds tables for a terminal only: in a file, lines are as long as they need to be."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDTH_OF_FILES)


def view_title(name: str, count: int) -> Text:
    """The line above a view's table."""
    return Text.assemble((name, "bold"), "  ", (_counted(count, "row"), "dim"))


def view_table(row_type: RowType, rows: Sequence[StoredRow]) -> Table:
    """Rows of a view, numbers to the right."""
    table = Table()
    for column, dtype in zip(row_type.names, row_type.types, strict=True):
        table.add_column(column, justify="right" if dtype.kind in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(dtype, value) for dtype, value in zip(row_type.types, row, strict=True)))
    return table


def shown(dtype: DataType, value: Stored) -> Text:
    """A value for people: floats shortened, datetimes without what is zero, long texts cut."""
    if value is None:
        return Text("–", "dim")
    if isinstance(value, float):
        return Text(shown_float(value))
    if dtype.kind is Kind.DATETIME:
        assert isinstance(value, int)
        moment = datetime_from_us(value)
        return Text(
            f"{moment:%Y-%m-%d %H:%M}" if value % 60_000_000 == 0 else str(moment.replace(tzinfo=None))
        )
    if dtype.kind is Kind.DECIMAL:
        assert isinstance(value, int)
        return Text(decimal_text(value, dtype.scale))
    text = str(from_stored(dtype, value))
    return Text(text if len(text) <= CELL_LENGTH_MAX else text[: CELL_LENGTH_MAX - 1] + "…")


def shown_float(value: float) -> str:
    """Two digits behind the point, more for small numbers, none lost to a column of zeros."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1e15:
        return f"{value:.2f}"
    return f"{value:.3g}"


def error_lines(errors: Sequence[ViewError]) -> list[Text]:
    """What a view leaves out, one line per reason."""
    return [Text(f"! {error}", "yellow") for error in errors]


def stats_line(stats: Stats) -> str:
    """The numbers of a run in a line."""
    parts = [
        f"{_counted(stats.rows, 'row')} in {_counted(stats.transactions, 'transaction')}",
        _counted(stats.epochs, "epoch"),
        f"{_counted(stats.nodes, 'node')} on {_counted(stats.machines, 'machine')}",
        f"{stats.real_seconds:,.1f} s",
    ]
    if stats.first_row_seconds is not None:
        parts.append(f"first row after {stats.first_row_seconds:,.1f} s")
    if stats.messages is not None and stats.virtual_seconds is not None:
        parts.insert(2, _counted(stats.messages, "message"))
        parts[-1] = f"{stats.virtual_seconds:,.1f} s virtual, {stats.real_seconds:,.1f} s real"
    return " · ".join(parts)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def json_result(program: str, snapshot: Snapshot, stats: Stats, checked: bool | None) -> dict[str, Any]:
    """What `--json` prints: every row, exactly."""
    result: dict[str, Any] = {
        "program": program,
        "views": {
            name: [json_row(snapshot.row_types[name], row) for row in rows]
            for name, rows in snapshot.stored.items()
        },
        "errors": {
            name: [asdict(error) for error in errors] for name, errors in snapshot.errors.items() if errors
        },
        "stats": {name: value for name, value in asdict(stats).items() if value is not None},
    }
    if checked is not None:
        result["equals_recomputation"] = checked
    return result
