"""Which hash a key has: XXH64, seed 0, of its canonical encoding. A stored format, which never changes.

The encoding of a key is that of its values, one behind the other, each 0x00 for null, or 0x01 and then

    bool                            1 byte, 0 or 1
    int, datetime, decimal, enum    8 bytes, two's complement (the stored value: see `dist_zero/types.py`)
    float                           8 bytes, IEEE 754 binary64; NaN is 0x7ff8000000000000, there is no −0.0
    str, bytes                      length in bytes as 8 bytes, then the bytes (UTF-8)

all little-endian. The empty key is the empty encoding. Equal keys have equal encodings and others differ,
given the types; nullability does not change the encoding, so both sides of a join agree. Some values, with
their hashes:

    ()                                  ef46db3751d8e999
    (int 0,)                            a2443c71157cb676
    (int −1,)                           e4a42358fe73e0b6
    (str "",)                           a2443c71157cb676
    (str "zürich",)                     ba452fc57839148e
    (null,)                             e934a84adb052768
    (float NaN,)                        d8662a94572a50c6
    (bool true, datetime 0, bytes 00ff) 21c69493743ff654
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import call
from typing import Any

from dist_zero.types import DataType, Kind, Row
from dist_zero_common.checksum import xxh64

_PRESENT_BYTE = struct.Struct("<BB").pack
_PRESENT_WORD = struct.Struct("<Bq").pack
_PRESENT_LENGTH = struct.Struct("<BQ").pack
_PRESENT_FLOAT = struct.Struct("<Bd").pack
_NULL = b"\0"
_NAN = b"\1" + (0x7FF8000000000000).to_bytes(8, "little")

Encoder = Callable[[Any], bytes]


def key_hash(types: Sequence[DataType], values: Row) -> int:
    """The hash of one key; `hasher` is for many."""
    return hasher(types)(values)


def encode_key(types: Sequence[DataType], values: Row) -> bytes:
    """The canonical encoding of one key."""
    return b"".join([_encoder(dtype)(value) for dtype, value in zip(types, values, strict=True)])


def hasher(types: Sequence[DataType]) -> Callable[[Row], int]:
    """A function from a key (a tuple of stored values of `types`, as many as these) to its hash."""
    if len(types) == 1:
        return _single_hasher(types[0])
    if len(types) == 2:
        first, second = _encoder(types[0]), _encoder(types[1])
        return lambda row: xxh64(first(row[0]) + second(row[1]))
    encoders = tuple(_encoder(dtype) for dtype in types)
    return lambda row: xxh64(b"".join(map(call, encoders, row)))


def _single_hasher(dtype: DataType) -> Callable[[Row], int]:
    if not dtype.nullable and _ENCODERS[dtype.kind] is _encode_word:  # the commonest key, a call less
        return lambda row: xxh64(_PRESENT_WORD(1, row[0]))
    encode = _encoder(dtype)
    return lambda row: xxh64(encode(row[0]))


def _encoder(dtype: DataType) -> Encoder:
    encode = _ENCODERS[dtype.kind]
    if not dtype.nullable:
        return encode
    return lambda value: _NULL if value is None else encode(value)


def _encode_bool(value: bool) -> bytes:
    return _PRESENT_BYTE(1, value)


def _encode_word(value: int) -> bytes:
    return _PRESENT_WORD(1, value)


def _encode_float(value: float) -> bytes:
    return _PRESENT_FLOAT(1, value) if value == value else _NAN


def _encode_str(value: str) -> bytes:
    data = value.encode()
    return _PRESENT_LENGTH(1, len(data)) + data


def _encode_bytes(value: bytes) -> bytes:
    return _PRESENT_LENGTH(1, len(value)) + value


_ENCODERS: dict[Kind, Encoder] = {
    Kind.BOOL: _encode_bool,
    Kind.INT: _encode_word,
    Kind.FLOAT: _encode_float,
    Kind.STR: _encode_str,
    Kind.BYTES: _encode_bytes,
    Kind.DATETIME: _encode_word,
    Kind.DECIMAL: _encode_word,
    Kind.ENUM: _encode_word,
}
