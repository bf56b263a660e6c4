"""Rows out of lines of text, one at a time: CSV where pyarrow was too strict or has found a mistake, and JSON
Lines.

Every mistake is a `DataError` that names the file, the line as an editor shows it, the column and the value.
"""

from __future__ import annotations

import csv
import decimal
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dist_zero.text_values import row_from_json, value_from_text
from dist_zero.types import DataType, Kind, RowType, Stored, to_stored
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError

BLOCK_ROWS = 8_192


def csv_rows(
    path: Path, text: IO[str], row_type: RowType, nulls: Sequence[str], skip: int
) -> Iterator[StoredRow]:
    """The rows of a CSV file behind the first `skip`, which have been read already."""
    reader = csv.reader(text)
    try:
        places = column_places(path, row_type, next(reader, None))
        for cells in islice(reader, skip, None):
            if cells:
                yield _csv_row(path, reader.line_num, cells, places, row_type, nulls)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num:,}: {error}") from None


def json_rows(path: Path, lines: Iterable[str], row_type: RowType, before: int) -> Iterator[StoredRow]:
    """The rows of some lines of a file of JSON Lines, behind `before` others; null is JSON's own."""
    exact = any(dtype.kind is Kind.DECIMAL for dtype in row_type.types)
    loads = partial(json.loads, parse_float=decimal.Decimal) if exact else json.loads
    for number, line in enumerate(lines, before + 1):
        if line.strip():
            yield _json_row(path, number, line, row_type, loads)


def column_places(path: Path, row_type: RowType, header: list[str] | None) -> list[int]:
    """Where the columns are in a CSV file with this first line."""
    if not header:
        raise DataError(f"{path} is empty: its first line has to name the columns")
    header = [name.strip() for name in header]
    check_columns(path, row_type, header)
    return [header.index(name) for name in row_type.names]


def check_columns(path: Path, row_type: RowType, there: Sequence[str]) -> None:
    """Refuse a file that lacks a column, naming those it has."""
    missing = [name for name in row_type.names if name not in there]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(str, there))}"
        )


def in_blocks(rows: Iterable[StoredRow]) -> Iterator[list[StoredRow]]:
    """Lists of rows; those before a bad one come before its error."""
    block: list[StoredRow] = []
    try:
        for row in rows:
            block.append(row)
            if len(block) == BLOCK_ROWS:
                yield block
                block = []
    except DataError:
        if block:
            yield block
        raise
    if block:
        yield block


def _csv_row(
    path: Path, line: int, cells: list[str], places: list[int], row_type: RowType, nulls: Sequence[str]
) -> StoredRow:
    if len(cells) <= max(places):
        raise DataError(f"{path}, line {line:,}: {len(cells)} cells, too few for its columns")
    row = []
    for name, dtype, place in zip(row_type.names, row_type.types, places, strict=True):
        try:
            row.append(_cell(dtype, cells[place], nulls))
        except DataError as error:
            raise DataError(f"{path}, line {line:,}, column {name!r}: {error}") from None
    return tuple(row)


def _cell(dtype: DataType, text: str, nulls: Sequence[str]) -> Stored:
    if text and text not in nulls:
        return value_from_text(dtype, text)
    if not text and dtype.kind is Kind.STR and not dtype.nullable:
        return ""
    return to_stored(dtype, None)


def _json_row(
    path: Path, number: int, line: str, row_type: RowType, loads: Callable[[str], Any]
) -> StoredRow:
    try:
        return row_from_json(row_type, loads(line))
    except json.JSONDecodeError as error:
        problem = f"no JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        problem = "JSON that is nested too deep"
    except DataError as error:
        problem = str(error)
    raise DataError(f"{path}, line {number:,}: {problem}")
