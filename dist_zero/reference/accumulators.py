"""Accumulators: what an aggregation remembers of a group, so that a row can be taken out as well as put in.

An accumulator is a commutative group: adding a value with weight −1 takes back precisely what weight 1 put
in, and nothing depends on order or on how rows were spread over nodes. For floats that needs an exact sum.

*Exact float sums.* Every finite binary64 value is an integer times 2⁻¹⁰⁷⁴, so the sum of any number of them
is one too, and a Python integer holds it: about 2,100 bits for the largest values. It is rounded once, when
it is read: Python divides integers by integers correctly rounded (half to even), and a quotient beyond the
largest float is the infinity of its sign. As most values need few digits behind the point, the integer is
kept as total × 2⁻ˢᶜᵃˡᵉ with a scale that starts at 0 and grows to what the finest value so far needs; only
the encoding goes to 1074. Infinities and NaN are not part of the sum but counted beside it: of any NaN, or of
infinities of both signs, the sum is NaN.

*Integer sums* are at most 2⁶³ rows of 2⁶³, so 128 bits hold them; Python integers do too. Reading one that
does not fit 64 bits fails.

*Minimum and maximum* keep a multiset of the values: a dict of counts, and the distinct values in order.

*Encoding* (between the partial and the final phase, and in saved state). Equal states have equal bytes:

    count          count: 8 bytes, two's complement
    sum, mean      count as above; of floats the counts of +inf, −inf and NaN, 8 bytes each; then the total,
                   two's complement in as few bytes as it takes (of 0: none), of floats in units of 2⁻¹⁰⁷⁴
    min, max       nothing, or 0x01 and the value: bool 1 byte; int, datetime, decimal, enum 8 bytes; float
                   8 bytes; text as UTF-8, bytes as they are

all little-endian. For minimum and maximum the final phase keeps a multiset of its nodes' values. In saved state their
values stand one by one, as columns of their type, with their counts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, Protocol

from dist_zero.expr.ops import Aggregation
from dist_zero.ordering import SortedItems
from dist_zero.reference.functions import ScalarFailure
from dist_zero.types import (
    INT_MAX,
    INT_MIN,
    NAN,
    DataType,
    Kind,
    Stored,
    canonical_float,
    check_stored,
    order_key,
)
from dist_zero_common.errors import DataError, InternalError, MalformedMessage

FLOAT_SCALE = 1074
"""The finest float is 2⁻¹⁰⁷⁴."""

_COUNT = struct.Struct("<q")
_FLOAT_COUNTS = struct.Struct("<qqqq")
_INT_TOTAL_END = 2**127
_TOTAL_BYTES_MAX = 300  # 2⁶³ times the largest float in units of 2⁻¹⁰⁷⁴ is below 2²²⁰⁰


class Accumulator(Protocol):
    """The state of one aggregation over one group."""

    def add(self, value: Any, weight: int) -> None:
        """Take in a value (never null) with a weight, negative to take it out again."""

    def merge(self, data: bytes, weight: int) -> None:
        """Take in the encoded state of another node, or take it out; raises `MalformedMessage`."""

    def result(self) -> Stored:
        """The aggregation's value; raises `ScalarFailure` if it does not fit its type."""

    def encode(self) -> bytes:
        """The state as bytes; equal states have equal bytes."""

    def frozen(self) -> Any:
        """The state as of now, quickly, for `encoded` to make bytes of it later."""

    @staticmethod
    def encoded(frozen: Any) -> bytes:
        """What `encode` said when this was frozen."""


def accumulator_factory(aggregation: Aggregation) -> Callable[[], Accumulator]:
    """A function that makes the empty accumulator of `aggregation`."""
    argument = aggregation.argument
    if aggregation.function == "count":
        return Count
    if argument is None:
        raise InternalError(f"{aggregation.function} without an argument; the compiler let it through")
    dtype = argument.dtype
    if aggregation.function in ("min", "max"):
        largest = aggregation.function == "max"
        return lambda: Extreme(dtype, largest)
    if aggregation.function not in ("sum", "mean"):
        raise InternalError(f"no aggregation {aggregation.function!r}; the compiler let it through")
    mean = aggregation.function == "mean"
    if dtype.kind is Kind.FLOAT:
        return lambda: FloatSum(mean)
    return lambda: IntSum(dtype, mean)


class Count:
    """How many values."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self, value: Any, weight: int) -> None:  # noqa: ARG002 - which value does not matter
        """Take in any value."""
        self.count += weight

    def merge(self, data: bytes, weight: int) -> None:
        """Take in another count."""
        self.count += _unpack(_COUNT, data)[0] * weight

    def result(self) -> int:
        """The count."""
        return self.count

    def encode(self) -> bytes:
        """Eight bytes."""
        return _pack(_COUNT, self.count)

    def frozen(self) -> int:
        """See `Accumulator`."""
        return self.count

    @staticmethod
    def encoded(frozen: int) -> bytes:
        """See `Accumulator`."""
        return _pack(_COUNT, frozen)


class IntSum:
    """Sum or mean of integers, or of decimals of one scale."""

    __slots__ = ("_dtype", "_mean", "count", "total")

    def __init__(self, dtype: DataType, mean: bool) -> None:
        self._dtype = dtype
        self._mean = mean
        self.count = 0
        self.total = 0

    def add(self, value: int, weight: int) -> None:
        """Take in `weight` times `value`."""
        self.count += weight
        self.total += value * weight

    def merge(self, data: bytes, weight: int) -> None:
        """Take in another sum."""
        (count,) = _unpack(_COUNT, data[: _COUNT.size])
        total = _decode_total(data[_COUNT.size :])
        if not -_INT_TOTAL_END <= total < _INT_TOTAL_END:
            raise MalformedMessage("a partial sum of integers beyond 128 bits")
        self.count += count * weight
        self.total += total * weight

    def result(self) -> int | float | None:
        """The sum, or the mean: the sum as a float divided by the count; null of no values."""
        if not self.count:
            return None
        if self._mean:
            return canonical_float(float(self.total) / float(10**self._dtype.scale) / self.count)
        if INT_MIN <= self.total <= INT_MAX:
            return self.total
        raise ScalarFailure("decimal overflow" if self._dtype.kind is Kind.DECIMAL else "integer overflow")

    def encode(self) -> bytes:
        """The count and the total."""
        return self.encoded(self.frozen())

    def frozen(self) -> tuple[int, int]:
        """See `Accumulator`."""
        return self.count, self.total

    @staticmethod
    def encoded(frozen: tuple[int, int]) -> bytes:
        """See `Accumulator`."""
        return _pack(_COUNT, frozen[0]) + _encode_total(frozen[1])


class FloatSum:
    """Exact sum of floats, rounded once when it is read, or that sum divided by the count."""

    __slots__ = ("_mean", "_scale", "_total", "count", "nan", "negative_infinity", "positive_infinity")

    def __init__(self, mean: bool) -> None:
        self._mean = mean
        self._total = 0
        self._scale = 0
        self.count = 0
        self.positive_infinity = 0
        self.negative_infinity = 0
        self.nan = 0

    def add(self, value: float, weight: int) -> None:
        """Take in `weight` times `value`, exactly."""
        self.count += weight
        try:
            numerator, denominator = value.as_integer_ratio()
        except (OverflowError, ValueError):
            self._add_special(value, weight)
            return
        shift = self._scale - denominator.bit_length() + 1
        if shift < 0:
            self._refine(self._scale - shift)
            shift = 0
        self._total += (numerator * weight) << shift

    def merge(self, data: bytes, weight: int) -> None:
        """Take in another sum."""
        counts = _unpack(_FLOAT_COUNTS, data[: _FLOAT_COUNTS.size])
        self.count += counts[0] * weight
        self.positive_infinity += counts[1] * weight
        self.negative_infinity += counts[2] * weight
        self.nan += counts[3] * weight
        total = _decode_total(data[_FLOAT_COUNTS.size :])
        if total:
            unused = min((total & -total).bit_length() - 1, FLOAT_SCALE)
            self._refine(max(self._scale, FLOAT_SCALE - unused))
            self._total += ((total >> unused) * weight) << (self._scale - FLOAT_SCALE + unused)

    def result(self) -> float | None:
        """The sum or the mean; null of no values."""
        if not self.count:
            return None
        total = self.rounded_sum()
        return canonical_float(total / self.count) if self._mean else total

    def rounded_sum(self) -> float:
        """The float nearest to the exact sum."""
        if self.nan or (self.positive_infinity and self.negative_infinity):
            return NAN
        if self.positive_infinity or self.negative_infinity:
            return math.inf if self.positive_infinity else -math.inf
        try:
            return self._total / (1 << self._scale)
        except OverflowError:
            return math.inf if self._total > 0 else -math.inf

    def encode(self) -> bytes:
        """The counts and the total in units of 2⁻¹⁰⁷⁴."""
        return self.encoded(self.frozen())

    def frozen(self) -> tuple[int, ...]:
        """See `Accumulator`."""
        infinities = self.positive_infinity, self.negative_infinity
        return self._scale, self._total, self.count, *infinities, self.nan

    @staticmethod
    def encoded(frozen: tuple[int, ...]) -> bytes:
        """See `Accumulator`."""
        scale, total, *counts = frozen
        return _pack(_FLOAT_COUNTS, *counts) + _encode_total(total << (FLOAT_SCALE - scale))

    def _refine(self, scale: int) -> None:
        self._total <<= scale - self._scale
        self._scale = scale

    def _add_special(self, value: float, weight: int) -> None:
        if value != value:
            self.nan += weight
        elif value > 0:
            self.positive_infinity += weight
        else:
            self.negative_infinity += weight


class Extreme:
    """The smallest or the largest value of a multiset. `touched`: which values changed, if anybody wants to know."""

    __slots__ = ("_dtype", "_largest", "_order", "_ordered", "counts", "touched")

    def __init__(self, dtype: DataType, largest: bool) -> None:
        self._dtype = dtype.required()
        self._largest = largest
        self.counts: dict[Any, int] = {}
        self.touched: dict[Any, None] | None = None
        self._ordered: SortedItems[Any] = SortedItems()
        # Only NaN is out of order: it is behind all numbers.
        self._order = order_key(self._dtype) if dtype.kind is Kind.FLOAT else None

    def add(self, value: Any, weight: int) -> None:
        """Take in `weight` copies of `value`."""
        if self.touched is not None:
            self.touched[value] = None
        count = self.counts.get(value)
        if count is None:
            self.counts[value] = weight
            self._ordered.add(self._order(value) if self._order else value)
        elif count + weight:
            self.counts[value] = count + weight
        else:
            del self.counts[value]
            self._ordered.remove(self._order(value) if self._order else value)

    def merge(self, data: bytes, weight: int) -> None:
        """Take in the extreme of another node as one value."""
        if data:
            self.add(_decode_value(self._dtype, data), weight)

    def result(self) -> Stored:
        """The extreme; null of no values."""
        if not self._ordered:
            return None
        found = self._ordered.last() if self._largest else self._ordered.first()
        if self._order is None:
            value: Stored = found
            return value
        return NAN if found[0] else float(found[1])

    def encode(self) -> bytes:
        """The extreme alone: the rest of the multiset stays on its node."""
        value = self.result()
        return b"" if value is None else _encode_value(self._dtype, value)

    def frozen(self) -> bytes:
        """See `Accumulator`."""
        return self.encode()

    @staticmethod
    def encoded(frozen: bytes) -> bytes:
        """See `Accumulator`."""
        return frozen


# ---- encoding ----------------------------------------------------------------------------------------------


def _encode_total(total: int) -> bytes:
    if total == 0:
        return b""
    magnitude_bits = total.bit_length() if total > 0 else (total + 1).bit_length()
    return total.to_bytes(magnitude_bits // 8 + 1, "little", signed=True)


def _decode_total(data: bytes) -> int:
    if len(data) > _TOTAL_BYTES_MAX:
        raise MalformedMessage(
            f"a partial sum of {len(data)} bytes; no sum takes more than {_TOTAL_BYTES_MAX}"
        )
    return int.from_bytes(data, "little", signed=True)


def _pack(layout: struct.Struct, *counts: int) -> bytes:
    try:
        return layout.pack(*counts)
    except struct.error:
        raise DataError("a number of rows does not fit 64 bits") from None


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise MalformedMessage(
            f"a partial aggregation of {len(data)} bytes where {layout.size} were expected"
        )
    return layout.unpack(data)


def _encode_value(dtype: DataType, value: Any) -> bytes:
    if dtype.kind is Kind.STR:
        return b"\1" + str(value).encode()
    if dtype.kind is Kind.BYTES:
        return b"\1" + bytes(value)
    data = bytes(_VALUES.get(dtype.kind, _COUNT).pack(value))
    return b"\1" + data


def _decode_value(dtype: DataType, data: bytes) -> Any:
    value = _decoded(dtype, data[1:])
    problem = check_stored(dtype, value)
    if problem is not None or data[0] != 1:
        raise MalformedMessage(
            f"a partial extreme that is no {dtype}: {problem or 'its first byte is not 1'}"
        )
    return value


def _decoded(dtype: DataType, data: bytes) -> Any:
    try:
        if dtype.kind is Kind.STR:
            return data.decode()
        if dtype.kind is Kind.BYTES:
            return data
        (value,) = _VALUES.get(dtype.kind, _COUNT).unpack(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedMessage(f"a partial extreme that is no {dtype}: {error}") from None
    return NAN if value != value else value


_VALUES: dict[Kind, struct.Struct] = {Kind.BOOL: struct.Struct("<?"), Kind.FLOAT: struct.Struct("<d")}
