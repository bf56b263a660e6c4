"""Values as text: how cells of CSV files and values of JSON are read and written, one at a time.

JSON has no datetime, decimal, bytes or NaN: they are strings, in ISO 8601 with Z, in digits, in Base64, and
as `NaN`, `Infinity` and `-Infinity`. CSV cells are written the same way. Reading is strict: what does not fit
is a `DataError`.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import math
from collections.abc import Callable, Mapping
from typing import Any

from dist_zero.types import (
    DataType,
    Kind,
    RowType,
    Stored,
    datetime_text,
    decimal_text,
    from_stored,
    to_stored,
)
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import DataError

TRUE_TEXTS = ("true", "True", "TRUE", "1")
FALSE_TEXTS = ("false", "False", "FALSE", "0")


def value_from_text(dtype: DataType, text: str) -> Stored:
    """The stored value that a cell stands for, null aside. Raises `DataError` saying what was expected."""
    try:
        return to_stored(dtype.required(), _PARSERS[dtype.kind](text))
    except (ValueError, ArithmeticError):
        raise DataError(f"expected {dtype}, got {text!r:.80}") from None


def json_value(dtype: DataType, value: Stored) -> Any:
    """A stored value as JSON can say it; nothing is lost."""
    if value is None:
        return None
    kind = dtype.kind
    if kind is Kind.DATETIME:
        assert isinstance(value, int)
        return datetime_text(value)
    if kind is Kind.DECIMAL:
        assert isinstance(value, int)
        return decimal_text(value, dtype.scale)
    if kind is Kind.BYTES:
        assert isinstance(value, bytes)
        return base64.b64encode(value).decode()
    if kind is Kind.FLOAT:
        assert isinstance(value, float)
        return value if math.isfinite(value) else _float_text(value)
    return from_stored(dtype, value)


def json_row(row_type: RowType, row: StoredRow) -> dict[str, Any]:
    """A stored row as a JSON object."""
    return {n: json_value(t, v) for n, t, v in zip(row_type.names, row_type.types, row, strict=True)}


def row_from_json(row_type: RowType, value: object) -> StoredRow:
    """The stored row of a JSON object; nullable columns may be left out, further ones are passed over."""
    if not isinstance(value, Mapping):
        raise DataError(f"expected an object with the columns {row_type}, got {value!r:.80}")
    row = []
    for name, dtype in zip(row_type.names, row_type.types, strict=True):
        if name not in value and not dtype.nullable:
            raise DataError(f"column {name!r} ({dtype}) is missing; there are {', '.join(map(str, value))}")
        try:
            row.append(_value_from_json(dtype, value.get(name)))
        except DataError as error:
            raise DataError(f"column {name!r}: {error}") from None
    return tuple(row)


def _value_from_json(dtype: DataType, value: object) -> Stored:
    if isinstance(value, str) and dtype.kind not in (Kind.STR, Kind.ENUM):
        return value_from_text(dtype, value)
    if dtype.kind is Kind.DECIMAL and isinstance(value, float):
        return value_from_text(dtype, repr(value))
    if dtype.kind is Kind.FLOAT and isinstance(value, decimal.Decimal):
        value = float(value)
    return to_stored(dtype, value)


def _bool(text: str) -> bool:
    text = text.strip()
    if text in TRUE_TEXTS:
        return True
    if text in FALSE_TEXTS:
        return False
    raise ValueError(text)


def _int(text: str) -> int:
    if "_" in text:
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _datetime(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text.strip())


def _decimal(text: str) -> decimal.Decimal:
    if "_" in text:
        raise ValueError(text)
    return decimal.Decimal(text.strip())


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _float_text(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


_PARSERS: dict[Kind, Callable[[str], Any]] = {
    Kind.BOOL: _bool,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.STR: str,
    Kind.BYTES: _bytes,
    Kind.DATETIME: _datetime,
    Kind.DECIMAL: _decimal,
    Kind.ENUM: str,
}
