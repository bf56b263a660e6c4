"""One column of stored values to bytes and back, with every check a peer's bytes need.

The layout is that of `pieces.ColumnBlob`, little-endian, so that native code reads it in place:

    bool                            a byte per row, 0 or 1
    int, datetime, decimal, enum    8 bytes per row, two's complement
    float                           8 bytes per row, IEEE 754 binary64
    str, bytes                      all the values' bytes; value i is at offsets[i] … offsets[i + 1]

The place of a null holds zero, false or nothing; `validity` is empty when no value is null. So the bytes of
a column are a function of its values, and checks can look at a whole column without asking which are null.

Values on the way out are trusted: whoever made them went through `types.to_stored` or computed them under
the rules of types. Values on the way in are checked wholly, before anybody sees one of them: lengths,
offsets, UTF-8, the range of enums and datetimes, bytes of bools, one NaN, no −0.0, null only where allowed.
The checks work on whole columns inside functions of the standard library written in C (`sorted`, `min`,
`bytes.find`, `bytes.translate`), because a Python loop per value would cost more than the decoding.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress
from typing import Any

from dist_zero.native import columns
from dist_zero.types import DATETIME_MAX_US, DATETIME_MIN_US, NAN, DataType, Kind
from dist_zero_common.errors import DataError, MalformedMessage
from dist_zero_common.protocol.messages.pieces import ColumnBlob

Values = Sequence[Any]
"""The stored values of one column."""

# Members of Kind as globals, tested one by one: looking them up in the class, or as keys of a dict, is slow.
_BOOL, _INT, _FLOAT, _STR, _BYTES = Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.STR, Kind.BYTES
_DATETIME, _DECIMAL = Kind.DATETIME, Kind.DECIMAL
_ZERO: dict[Kind, Any] = {_FLOAT: 0.0, _STR: "", _BYTES: b""}
_NAN_WORD = 0x7FF8000000000000
_MINUS_ZERO = (1 << 63).to_bytes(8, "little")
_INVERTED = bytes([1, *([0] * 255)])


def pack(typecode: str, values: Values) -> bytes:
    """Numbers as little-endian bytes; `typecode` is that of `array`: q, Q or d. Raises OverflowError."""
    numbers = array(typecode, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def unpack(typecode: str, data: bytes) -> list[Any]:
    """The reverse of `pack`; the length of `data` must be a multiple of eight (`check_length` saw to it)."""
    numbers = array(typecode, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def check_length(what: str, data: bytes, expected: int) -> None:
    """Raise `MalformedMessage` unless `data` is `expected` bytes long."""
    if len(data) != expected:
        raise MalformedMessage(f"{what} is {len(data)} bytes long instead of {expected}")


def encode_column(dtype: DataType, values: Values) -> ColumnBlob:
    """The bytes of a column. Raises `DataError` if a number does not fit 64 bits."""
    kind, validity = dtype.kind, b""
    if dtype.nullable and None in values:
        validity = bytes([value is not None for value in values])
        zero = _ZERO.get(kind, 0)
        values = [zero if value is None else value for value in values]
    try:
        if kind is _FLOAT:
            return ColumnBlob(validity, b"", pack("d", values))
        if kind is _STR or kind is _BYTES:
            lengths, data = _joined(values, kind is _STR)
            return ColumnBlob(validity, pack("Q", [0, *accumulate(lengths)]), data)
        if kind is _BOOL:
            return ColumnBlob(validity, b"", bytes(values))
        return ColumnBlob(validity, b"", pack("q", values))
    except OverflowError:
        raise DataError(f"a value of type {dtype} does not fit 64 bits") from None


def _joined(values: Values, is_text: bool) -> tuple[Iterable[int], bytes]:
    """The lengths of all values in bytes, and the bytes."""
    if is_text:
        text = "".join(values)
        if text.isascii():
            return map(len, values), text.encode("ascii")
        values = [value.encode() for value in values]
    return map(len, values), b"".join(values)


def decode_column(what: str, dtype: DataType, blob: ColumnBlob, row_count: int) -> list[Any]:
    """The values of a column. Raises `MalformedMessage` that begins with `what`, the column's name."""
    absent = _absent(what, dtype, blob.validity, row_count)
    values = _decoded(what, dtype, blob, row_count)
    if not absent:
        return values
    if any(compress(values, absent)):
        raise MalformedMessage(f"{what}: a null whose place is not empty")
    return [None if null else value for null, value in zip(absent, values, strict=True)]


def slice_column(blob: ColumnBlob, start: int, end: int, row_count: int) -> ColumnBlob:
    """A column's rows from `start` to before `end`, to the byte as encoding them would have given."""
    validity = blob.validity[start:end]
    if b"\0" not in validity:
        validity = b""
    if not blob.offsets:
        width = len(blob.values) // row_count if row_count else 0
        return ColumnBlob(validity, b"", blob.values[width * start : width * end])
    first, last = word_at(blob.offsets, start), word_at(blob.offsets, end)
    offsets = shifted(blob.offsets[8 * start : 8 * (end + 1)], -first)
    return ColumnBlob(validity, offsets, blob.values[first:last])


def join_columns(blobs: Sequence[ColumnBlob], counts: Sequence[int]) -> ColumnBlob:
    """The rows of all columns, which are of one type and have these numbers of rows, in order."""
    validity = b""
    if any(b"\0" in blob.validity for blob in blobs):
        validity = b"".join(
            [blob.validity or b"\1" * count for blob, count in zip(blobs, counts, strict=True)]
        )
    values = b"".join([blob.values for blob in blobs])
    if not any(blob.offsets for blob in blobs):
        return ColumnBlob(validity, b"", values)
    starts = accumulate([len(blob.values) for blob in blobs], initial=0)
    ends = [shifted(blob.offsets[8:], start) for blob, start in zip(blobs, starts, strict=False)]
    return ColumnBlob(validity, b"".join([bytes(8), *ends]), values)


def word_at(words: bytes, place: int) -> int:
    """The unsigned 8-byte number at this place."""
    return int.from_bytes(words[8 * place : 8 * place + 8], "little")


def shifted(words: bytes, by: int) -> bytes:
    """Unsigned 8-byte numbers with `by` added to each."""
    if not by:
        return words
    native = columns.library()
    return (
        native.shifted(words, by)
        if native is not None
        else pack("Q", [word + by for word in unpack("Q", words)])
    )


def _absent(what: str, dtype: DataType, validity: bytes, row_count: int) -> bytes:
    """A byte per row, 1 where there is null; empty if there is none."""
    if not validity:
        return b""
    check_length(f"{what}: validity", validity, row_count)
    if validity.translate(None, b"\0\1"):
        raise MalformedMessage(f"{what}: validity bytes must be 0 or 1")
    if b"\0" not in validity:
        return b""
    if not dtype.nullable:
        raise MalformedMessage(f"{what}: null in a column of type {dtype}")
    return validity.translate(_INVERTED)


def _decoded(what: str, dtype: DataType, blob: ColumnBlob, row_count: int) -> list[Any]:
    kind = dtype.kind
    if kind is _STR:
        return _decode_str(what, blob, row_count)
    if kind is _BYTES:
        return _decode_bytes(what, blob, row_count)
    if blob.offsets:
        raise MalformedMessage(f"{what}: offsets in a column of type {dtype}")
    if kind is _FLOAT:
        return _decode_float(what, blob, row_count)
    if kind is _BOOL:
        return _decode_bool(what, blob, row_count)
    values = _decode_int(what, blob, row_count)
    if not values or kind is _INT or kind is _DECIMAL:
        return values
    first, last = (DATETIME_MIN_US, DATETIME_MAX_US) if kind is _DATETIME else (0, len(dtype.members) - 1)
    if min(values) < first or max(values) > last:
        raise MalformedMessage(f"{what}: a value out of the range of {dtype}")
    return values


def _decode_bool(what: str, blob: ColumnBlob, row_count: int) -> list[Any]:
    check_length(what, blob.values, row_count)
    if blob.values.translate(None, b"\0\1"):
        raise MalformedMessage(f"{what}: bools must be 0 or 1")
    return list(map(bool, blob.values))


def _decode_int(what: str, blob: ColumnBlob, row_count: int) -> list[Any]:
    check_length(what, blob.values, 8 * row_count)
    return unpack("q", blob.values)


def _decode_float(what: str, blob: ColumnBlob, row_count: int) -> list[Any]:
    check_length(what, blob.values, 8 * row_count)
    if _has_word(blob.values, _MINUS_ZERO):
        raise MalformedMessage(f"{what}: negative zero, which is stored as 0.0")
    values = unpack("d", blob.values)
    total = sum(values)
    return values if total == total else _with_one_nan(what, blob, values)


def _with_one_nan(what: str, blob: ColumnBlob, values: list[float]) -> list[float]:
    """`values`, one of which may be NaN, with every NaN being the one object, if its bits are right."""
    words = unpack("Q", blob.values)
    if any(value != value and word != _NAN_WORD for value, word in zip(values, words, strict=True)):
        raise MalformedMessage(f"{what}: a NaN other than 0x{_NAN_WORD:x}")
    return [value if value == value else NAN for value in values]


def _has_word(data: bytes, word: bytes) -> bool:
    """Whether one of the 8-byte words of `data` is `word`."""
    at = data.find(word)
    while at >= 0 and at % 8:
        at = data.find(word, at + 1)
    return at >= 0


def _decode_str(what: str, blob: ColumnBlob, row_count: int) -> list[Any]:
    places, data = _places(what, blob, row_count), blob.values
    if data.isascii():
        text = data.decode("ascii")
        return [text[start:end] for start, end in places]
    try:
        return [data[start:end].decode() for start, end in places]
    except UnicodeDecodeError:
        raise MalformedMessage(f"{what}: text that is not UTF-8") from None


def _decode_bytes(what: str, blob: ColumnBlob, row_count: int) -> list[Any]:
    data = blob.values
    return [data[start:end] for start, end in _places(what, blob, row_count)]


def _places(what: str, blob: ColumnBlob, row_count: int) -> Iterable[tuple[int, int]]:
    """Where each value starts and ends."""
    check_length(f"{what}: offsets", blob.offsets, 8 * (row_count + 1))
    offsets = unpack("Q", blob.offsets)
    if offsets[0] != 0 or offsets[-1] != len(blob.values) or sorted(offsets) != offsets:
        raise MalformedMessage(f"{what}: offsets do not ascend from 0 to the end of the values")
    ends = offsets[1:]
    return zip(offsets, ends, strict=False)
