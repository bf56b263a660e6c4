"""Column types, row types, and the values that are stored for them.

A *stored value* is what batches, kernels and executors see; a *user value* is what programs write and read:

    kind       user value          stored value
    bool       bool                bool
    int        int                 int, −2⁶³ … 2⁶³−1
    float      float               float; NaN is the one object `NAN`, −0.0 is 0.0
    str        str                 str without lone surrogates
    bytes      bytes               bytes
    datetime   datetime.datetime   int, microseconds since 1970-01-01 UTC (naive datetimes are taken as UTC)
    decimal    decimal.Decimal     int, the value times 10^scale
    enum       enum.Enum member    int, the member's place in its class, from 0
    optional   None                None

There is one NaN object because Python compares tuples and looks up dictionary keys by identity first: with it, a
NaN equals itself in rows and keys. Whoever makes a float makes it through
`canonical_float`.

The order of values (`order_key`) is: numbers by value, NaN behind them, strings by code point, bytes by byte, false
before true, enums by place; null comes last.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from dist_zero_common.errors import DataError

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
DECIMAL_SCALE_MAX = 18
NAN: float = float("nan")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_US = dt.timedelta(microseconds=1)

Stored = bool | int | float | str | bytes | None
Row = tuple[Any, ...]
"""A stored row: one stored value per column of its row type."""


class Kind(enum.Enum):
    """The types a column can have; each may also be nullable."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"
    BYTES = "bytes"
    DATETIME = "datetime"
    DECIMAL = "decimal"
    ENUM = "enum"


@dataclass(frozen=True, slots=True)
class DataType:
    """The type of a column or expression. `scale` is used by decimals only, `members` by enums only."""

    kind: Kind
    nullable: bool = False
    scale: int = 0
    members: tuple[str, ...] = ()

    def optional(self) -> DataType:
        """The same type, null allowed."""
        return self if self.nullable else replace(self, nullable=True)

    def required(self) -> DataType:
        """The same type, null not allowed."""
        return replace(self, nullable=False) if self.nullable else self

    def __str__(self) -> str:
        name: str = self.kind.value
        if self.kind is Kind.DECIMAL:
            name = f"decimal({self.scale})"
        elif self.kind is Kind.ENUM:
            name = f"enum({', '.join(self.members)})"
        return f"{name} | None" if self.nullable else name


BOOL, INT, FLOAT = DataType(Kind.BOOL), DataType(Kind.INT), DataType(Kind.FLOAT)
STR, BYTES, DATETIME = DataType(Kind.STR), DataType(Kind.BYTES), DataType(Kind.DATETIME)


def decimal_type(scale: int) -> DataType:
    """Fixed point with `scale` digits behind the point, 0 to 18; the digits together fit 64 bits."""
    return DataType(Kind.DECIMAL, scale=scale)


def enum_type(members: tuple[str, ...]) -> DataType:
    """One of `members`, ordered as listed."""
    return DataType(Kind.ENUM, members=members)


@dataclass(frozen=True, slots=True)
class RowType:
    """The shape of a collection: column names and their types, in order."""

    names: tuple[str, ...]
    types: tuple[DataType, ...]

    def index(self, name: str) -> int:
        """The place of the column `name`; raises KeyError."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None

    def select(self, indices: tuple[int, ...]) -> RowType:
        """The row type of these columns, in this order."""
        return RowType(tuple(self.names[i] for i in indices), tuple(self.types[i] for i in indices))

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return "(" + ", ".join(f"{n}: {t}" for n, t in zip(self.names, self.types, strict=True)) + ")"


def picker(places: Sequence[int]) -> Callable[[Row], Row]:
    """A function from a row to the tuple of its values at these places."""
    if not places:
        return lambda _: ()
    if len(places) == 1:
        place = places[0]
        return lambda row: (row[place],)
    return itemgetter(*places)


def canonical_float(value: float) -> float:
    """`value` with the one NaN and without −0.0."""
    return value + 0.0 if value == value else NAN


def to_stored(dtype: DataType, value: object) -> Stored:
    """The stored value of a user value. Raises `DataError` that says what was expected and what came."""
    if value is None:
        if dtype.nullable:
            return None
        raise DataError(f"null is not allowed in a column of type {dtype}")
    return _TO_STORED[dtype.kind](dtype, value)


def from_stored(dtype: DataType, value: Stored) -> Any:
    """The user value of a stored value; enums come back as their member's name."""
    if value is None:
        return None
    if dtype.kind is Kind.DATETIME:
        assert isinstance(value, int)
        return datetime_from_us(value)
    if dtype.kind is Kind.DECIMAL:
        assert isinstance(value, int)
        return decimal.Decimal(value).scaleb(-dtype.scale, _WIDE)
    if dtype.kind is Kind.ENUM:
        assert isinstance(value, int)
        return dtype.members[value]
    return value


def datetime_from_us(value: int) -> dt.datetime:
    """The UTC datetime of a stored one."""
    return _EPOCH + dt.timedelta(microseconds=value)


def datetime_text(value: int) -> str:
    """A stored datetime in ISO form, "2013-01-01T05:00:00Z", with six digits more if it has microseconds."""
    return datetime_from_us(value).replace(tzinfo=None).isoformat() + "Z"


def decimal_text(value: int, scale: int) -> str:
    """A stored decimal as text with all its `scale` digits, never an exponent: 150 of scale 2 is "1.50"."""
    if scale == 0:
        return str(value)
    whole, part = divmod(abs(value), 10**scale)
    return f"{'-' if value < 0 else ''}{whole}.{part:0{scale}}"


def us_from_datetime(value: dt.datetime) -> int:
    """Microseconds since 1970-01-01 UTC; a naive datetime is taken as UTC."""
    aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // _US


DATETIME_MIN_US = us_from_datetime(dt.datetime.min)
DATETIME_MAX_US = us_from_datetime(dt.datetime.max)
_WIDE = decimal.Context(prec=60)


def check_stored(dtype: DataType, value: object) -> str | None:
    """What is wrong with `value` as a stored value of `dtype`, or None: for values that a peer sent."""
    if value is None:
        return None if dtype.nullable else f"null in a column of type {dtype}"
    kind = dtype.kind
    if kind is Kind.ENUM and not (isinstance(value, int) and 0 <= value < len(dtype.members)):
        return f"{value!r} is no member of {dtype}"
    if kind is Kind.DATETIME and not (isinstance(value, int) and DATETIME_MIN_US <= value <= DATETIME_MAX_US):
        return f"{value!r} microseconds is no datetime between the years 1 and 9999"
    if kind is Kind.FLOAT and isinstance(value, float) and value == 0 and math.copysign(1, value) < 0:
        return "negative zero, which is stored as 0.0"
    return None


def order_key(dtype: DataType) -> Callable[[Any], Any]:
    """A function from a stored value to what Python sorts by: ascending, NaN behind numbers, null last."""
    if dtype.kind is Kind.FLOAT:
        return lambda v: (2, 0.0) if v is None else (0, v) if v == v else (1, 0.0)
    if dtype.nullable:
        return lambda v: (1, False) if v is None else (0, v)
    return lambda v: v


def _bool(dtype: DataType, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _unfit(dtype, value)


def _int(dtype: DataType, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unfit(dtype, value)
    if not INT_MIN <= value <= INT_MAX:
        raise DataError(f"{value} does not fit a 64-bit int")
    return int(value)


def _float(dtype: DataType, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(dtype, value)
    try:
        return canonical_float(float(value))
    except OverflowError:
        raise DataError(f"{value} is too large for a float") from None


def _str(dtype: DataType, value: object) -> str:
    if not isinstance(value, str) or isinstance(value, enum.Enum):
        raise _unfit(dtype, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{value!r} has a lone surrogate, which is no text") from None
    return value


def _bytes(dtype: DataType, value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _unfit(dtype, value)


def _datetime(dtype: DataType, value: object) -> int:
    if not isinstance(value, dt.datetime):
        raise _unfit(dtype, value)
    us = us_from_datetime(value)
    if not DATETIME_MIN_US <= us <= DATETIME_MAX_US:
        raise DataError(f"{value} is outside the years 1 to 9999 in UTC")
    return us


def _decimal(dtype: DataType, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | decimal.Decimal):
        raise _unfit(dtype, value)
    exact = decimal.Decimal(value)
    if not exact.is_finite() or exact.adjusted() > 20:
        raise DataError(f"{value} does not fit {dtype}: 64 bits hold about 18 digits in all")
    scaled = exact.scaleb(dtype.scale, _WIDE)
    whole = int(scaled)
    if scaled != whole:
        raise DataError(f"{value} has more than {dtype.scale} digits behind the point, the scale of {dtype}")
    if not INT_MIN <= whole <= INT_MAX:
        raise DataError(f"{value} does not fit {dtype}: 64 bits hold about 18 digits in all")
    return whole


def _enum(dtype: DataType, value: object) -> int:
    name = value.name if isinstance(value, enum.Enum) else value
    if isinstance(name, str) and name in dtype.members:
        return dtype.members.index(name)
    raise DataError(f"{value!r} is no member of {dtype}")


def _unfit(dtype: DataType, value: object) -> DataError:
    return DataError(f"expected {dtype}, got {type(value).__name__} {value!r:.80}")


_TO_STORED: dict[Kind, Callable[[DataType, object], Stored]] = {
    Kind.BOOL: _bool,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.STR: _str,
    Kind.BYTES: _bytes,
    Kind.DATETIME: _datetime,
    Kind.DECIMAL: _decimal,
    Kind.ENUM: _enum,
}
