"""Key hashes: a stored format, held by golden values that never change."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from dist_zero import hashing
from dist_zero.types import BOOL, BYTES, DATETIME, FLOAT, INT, NAN, STR, DataType, Row, decimal_type
from dist_zero_common.checksum import xxh64
from test.unit.strategies import ENUM, row_types, stored_rows

_GOLDEN: list[tuple[tuple[DataType, ...], Row, str, str]] = [
    ((), (), "", "ef46db3751d8e999"),
    ((INT,), (0,), "010000000000000000", "a2443c71157cb676"),
    ((INT,), (-1,), "01ffffffffffffffff", "e4a42358fe73e0b6"),
    ((STR,), ("",), "010000000000000000", "a2443c71157cb676"),
    ((STR,), ("zürich",), "0107000000000000007ac3bc72696368", "ba452fc57839148e"),
    ((INT.optional(),), (None,), "00", "e934a84adb052768"),
    ((FLOAT,), (NAN,), "01000000000000f87f", "d8662a94572a50c6"),
    (
        (BOOL, DATETIME, BYTES),
        (True, 0, b"\0\xff"),
        "010101000000000000000001020000000000000000ff",
        "21c69493743ff654",
    ),
    ((decimal_type(2), ENUM), (-150, 2), "016affffffffffffff010200000000000000", "71df801a8609fdba"),
    ((FLOAT, FLOAT), (0.0, float("-inf")), "01000000000000000001000000000000f0ff", "4c42f5ea027df9de"),
]


def test_golden_values() -> None:
    """Proves that encodings and hashes are those that data in stores and other nodes have."""
    for types, row, encoding, key_hash in _GOLDEN:
        assert hashing.encode_key(types, row).hex() == encoding
        assert f"{hashing.key_hash(types, row):016x}" == key_hash


def test_documented_values_are_the_golden_ones() -> None:
    """Proves that the module's description of the format is true."""
    for _, _, _, key_hash in _GOLDEN[:8]:
        assert hashing.__doc__ is not None and key_hash in hashing.__doc__


def test_nan_has_the_documented_bits_on_this_machine() -> None:
    """Proves that the one NaN is 0x7ff8000000000000, which columns of floats rely on."""
    assert struct.pack("<d", NAN) == (0x7FF8000000000000).to_bytes(8, "little")


@given(row_types(0, 5).flatmap(lambda types: st.tuples(st.just(types), stored_rows(types))))
def test_every_specialised_hasher_hashes_the_encoding(typed: tuple[tuple[DataType, ...], Row]) -> None:
    """Proves that the fast functions for few columns are the definition: XXH64 of the encoding."""
    types, row = typed
    assert hashing.hasher(types)(row) == xxh64(hashing.encode_key(types, row))


@given(
    row_types(1, 3).flatmap(
        lambda types: st.tuples(st.just(types), stored_rows(types), stored_rows(types)),
    )
)
def test_encodings_are_equal_just_when_keys_are(typed: tuple[tuple[DataType, ...], Row, Row]) -> None:
    """Proves that the encoding tells keys apart, and that allowing null does not change it."""
    types, a, b = typed
    nullable = tuple(dtype.optional() for dtype in types)
    assert (hashing.encode_key(types, a) == hashing.encode_key(types, b)) == (a == b)
    assert hashing.encode_key(nullable, a) == hashing.encode_key(types, a)


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_columns_do_not_run_together(a: str, b: str, c: str, d: str) -> None:
    """Proves that ("ab", "c") and ("a", "bc") differ."""
    types = (STR, STR)
    assert (hashing.encode_key(types, (a, b)) == hashing.encode_key(types, (c, d))) == ((a, b) == (c, d))
