"""Batches: both forms hold the same rows, and bytes that are no batch are refused naming the column."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero import batch as batch_module
from dist_zero import zset
from dist_zero.batch import CONTENT_MODULUS, Batch
from dist_zero.types import BOOL, BYTES, DATETIME, DATETIME_MAX_US, FLOAT, INT, NAN, STR, DataType, Row
from dist_zero_common.errors import DataError, InternalError, MalformedMessage
from dist_zero_common.protocol import codec
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob
from test.unit.strategies import ENUM, row_types, stored_rows

pytestmark = pytest.mark.usefixtures("both_ways")

_weights = st.one_of(st.sampled_from((1, -1, 2)), st.integers(-(2**63), 2**63 - 1).filter(bool))


@st.composite
def batches(draw: st.DrawFn, types: tuple[DataType, ...] | None = None) -> Batch:
    """A batch of any rows, with weights or without."""
    if types is None:
        types = draw(row_types())
    rows = draw(st.lists(stored_rows(types), max_size=8))
    weighted = draw(st.booleans())
    weights = draw(st.lists(_weights, min_size=len(rows), max_size=len(rows))) if weighted else None
    return Batch.from_rows(types, rows, weights)


def _same(left: Batch, right: Batch) -> bool:
    return list(left.items()) == list(right.items()) and left.types == right.types


@given(batches())
def test_rows_survive_the_wire(batch: Batch) -> None:
    """Proves that columns of bytes, also through the codec, hold the rows and weights, types of values included."""
    blob = codec.decode(BatchBlob, codec.encode(batch.to_blob()))
    back = Batch.from_blob(batch.types, blob)
    assert _same(back, batch) and len(back) == len(batch)
    for row, expected in zip(back.rows(), batch.rows(), strict=True):
        assert list(map(type, row)) == list(map(type, expected))
        assert [value is NAN for value in row] == [value is NAN for value in expected]
    assert Batch.from_rows(batch.types, back.rows(), back.weights()).to_blob() == blob


@given(batches())
def test_zset_of_a_batch_is_its_pairs_consolidated(batch: Batch) -> None:
    """Proves that `to_zset` and `from_zset` are inverse up to consolidation."""
    consolidated = batch.to_zset()
    assert consolidated == zset.consolidate(batch.items())
    assert Batch.from_zset(batch.types, consolidated).to_zset() == consolidated


@given(batches(), st.integers(1, 300))
def test_split_keeps_rows_and_bounds(batch: Batch, bytes_max: int) -> None:
    """Proves that the pieces are the batch in order, and that a piece is larger than asked for only if it is one
    row."""
    pieces = batch.split(bytes_max)
    assert [pair for piece in pieces for pair in piece.items()] == list(batch.items())
    for piece in pieces:
        assert len(piece) == 1 or piece.size_bytes <= bytes_max
        piece.to_blob()
        assert len(piece) == 1 or piece.size_bytes <= bytes_max


@given(batches())
def test_size_is_not_below_what_is_sent(batch: Batch) -> None:
    """Proves that a batch that is cut to a size fits it as a message too, encoded before or not."""
    fresh = batch.size_bytes
    sent = len(codec.encode(batch.to_blob())) - codec.SEAL_SIZE
    assert sent <= batch.size_bytes <= fresh


@given(batches(), st.randoms(use_true_random=False))
def test_content_hash_is_a_function_of_content(batch: Batch, chance: Any) -> None:
    """Proves independence of order, consolidation, division, and form."""
    pairs = list(batch.items())
    chance.shuffle(pairs)
    shuffled = Batch.from_rows(batch.types, [row for row, _ in pairs], [weight for _, weight in pairs])
    consolidated = Batch.from_zset(batch.types, batch.to_zset())
    sent = Batch.from_blob(batch.types, batch.to_blob())
    assert {each.content_hash() for each in (shuffled, consolidated, sent)} == {batch.content_hash()}
    pieces = [batch.take(range(0, len(batch), 2)), batch.take(range(1, len(batch), 2))]
    assert sum(piece.content_hash() for piece in pieces) % CONTENT_MODULUS == batch.content_hash()


@given(row_types(1).flatmap(lambda types: st.tuples(batches(types), batches(types))))
def test_content_hash_tells_contents_apart(pair: tuple[Batch, Batch]) -> None:
    """Proves that other rows or other weights have another hash (but for one chance in 2⁶⁴)."""
    left, right = pair
    assert (left.content_hash() == right.content_hash()) == (left.to_zset() == right.to_zset())


@pytest.mark.parametrize("weight", [2**61, 2**63 - 1, -(2**63), 2])
def test_content_hash_does_not_forget_heavy_rows(weight: int) -> None:
    """Proves that a weight that is a large power of two does not make its row vanish."""
    types = (BOOL, BOOL.optional())
    assert (
        Batch.from_rows(types, [(False, None)], [weight]).content_hash()
        != Batch.from_rows(types, []).content_hash()
    )


@given(row_types().flatmap(lambda types: st.tuples(st.just(types), st.lists(batches(types), max_size=4))))
def test_concatenation_keeps_order(typed: tuple[tuple[DataType, ...], list[Batch]]) -> None:
    """Proves that `concat` is the pairs of all, weighted and unweighted batches mixed."""
    types, parts = typed
    whole = Batch.concat(types, parts)
    assert list(whole.items()) == [pair for part in parts for pair in part.items()]


def test_batch_of_one_process_is_never_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that rows, weights, take, split and size need no bytes."""

    def refuse(*_: object) -> ColumnBlob:
        raise AssertionError("encoded")

    monkeypatch.setattr(batch_module, "encode_column", refuse)
    batch = Batch.from_rows((INT, STR), [(1, "a"), (2, "b")], [1, -1])
    assert batch.take([1]).to_zset() == {(2, "b"): -1}
    assert len(batch.split(10)) == 2 and batch.size_bytes > 0
    with pytest.raises(AssertionError, match="encoded"):
        batch.to_blob()


def test_bytes_that_pass_through_are_the_same_bytes() -> None:
    """Proves that a batch that came as bytes is not encoded again."""
    blob = Batch.from_rows((INT,), [(1,)]).to_blob()
    assert Batch.from_blob((INT,), blob).to_blob() is blob


def test_column_layout_is_a_stored_format() -> None:
    """Proves that the bytes of known columns are those of the documented layout."""
    types = (BOOL, INT, FLOAT.optional(), STR, BYTES, ENUM)
    rows: list[Row] = [(True, -2, None, "é", b"", 2), (False, 1, NAN, "ab", b"x", 0)]
    blob = Batch.from_rows(types, rows, [1, -1]).to_blob()
    nothing = b""
    assert blob == BatchBlob(
        2,
        struct.pack("<qq", 1, -1),
        (
            ColumnBlob(nothing, nothing, b"\1\0"),
            ColumnBlob(nothing, nothing, struct.pack("<qq", -2, 1)),
            ColumnBlob(b"\0\1", nothing, bytes(8) + (0x7FF8 << 48).to_bytes(8, "little")),
            ColumnBlob(nothing, struct.pack("<QQQ", 0, 2, 4), "éab".encode()),
            ColumnBlob(nothing, struct.pack("<QQQ", 0, 0, 1), b"x"),
            ColumnBlob(nothing, nothing, struct.pack("<qq", 2, 0)),
        ),
    )


# ---- bytes that are no batch -------------------------------------------------------------------------------

_GOOD: dict[DataType, tuple[Any, Any]] = {
    BOOL: (True, False),
    INT: (1, 2),
    FLOAT: (0.5, NAN),
    STR: ("ab", "c"),
    BYTES: (b"ab", b"c"),
    DATETIME: (0, 1),
    ENUM: (0, 2),
    INT.optional(): (None, 7),
    STR.optional(): (None, "x"),
    FLOAT.optional(): (None, 1.0),
}


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=value < 0) for value in values)


@pytest.mark.parametrize(
    ("dtype", "damage", "why"),
    [
        (BOOL, {"values": b"\0\2"}, "0 or 1"),
        (BOOL, {"values": b"\0"}, "1 bytes long instead of 2"),
        (INT, {"values": bytes(15)}, "15 bytes long instead of 16"),
        (INT, {"values": bytes(24)}, "24 bytes long"),
        (INT, {"offsets": bytes(8)}, "offsets"),
        (INT, {"validity": b"\1\0"}, "null"),
        (INT, {"validity": b"\1"}, "validity is 1 bytes"),
        (INT.optional(), {"validity": b"\0\2"}, "validity bytes"),
        (INT.optional(), {"validity": b"\0\1\1"}, "validity is 3 bytes"),
        (INT.optional(), {"values": _words(5, 7)}, "place is not empty"),
        (STR.optional(), {"offsets": _words(0, 1, 1)}, "place is not empty"),
        (FLOAT.optional(), {"values": struct.pack("<dd", 5.0, 1.0)}, "place is not empty"),
        (FLOAT, {"values": struct.pack("<dd", 1.0, -0.0)}, "negative zero"),
        (FLOAT, {"values": _words(0, 0x7FF8000000000001)}, "NaN"),
        (FLOAT, {"values": _words(0, 0xFFF8 << 48)}, "NaN"),
        (FLOAT, {"values": bytes(17)}, "17 bytes"),
        (DATETIME, {"values": _words(0, DATETIME_MAX_US + 1)}, "range of datetime"),
        (DATETIME, {"values": _words(-(2**62), 0)}, "range of datetime"),
        (ENUM, {"values": _words(0, 3)}, "range of enum"),
        (ENUM, {"values": _words(-1, 0)}, "range of enum"),
        (STR, {"values": b"ab\xff"}, "UTF-8"),
        (STR, {"values": "aé".encode()}, "UTF-8"),
        (STR, {"values": b"\xed\xa0\x80", "offsets": _words(0, 3, 3)}, "UTF-8"),
        (STR, {"offsets": _words(0, 2)}, "offsets is 16 bytes"),
        (STR, {"offsets": b""}, "offsets is 0 bytes"),
        (STR, {"offsets": _words(0, 2, 4)}, "ascend"),
        (STR, {"offsets": _words(0, 2, 2)}, "ascend"),
        (STR, {"offsets": _words(1, 2, 3)}, "ascend"),
        (STR, {"offsets": _words(0, 9, 3)}, "ascend"),
        (BYTES, {"offsets": _words(0, 2**64 - 1, 3)}, "ascend"),
        (BYTES, {"values": b"abcd"}, "ascend"),
    ],
)
def test_bad_column_is_refused_by_name(dtype: DataType, damage: dict[str, bytes], why: str) -> None:
    """Proves every check of a column, that it names the column, and that the undamaged column passes."""
    blob = Batch.from_rows((INT, dtype), [(0, value) for value in _GOOD[dtype]]).to_blob()
    assert Batch.from_blob((INT, dtype), blob).rows() == [(0, value) for value in _GOOD[dtype]]
    bad = replace(blob, columns=(blob.columns[0], replace(blob.columns[1], **damage)))
    with pytest.raises(MalformedMessage, match=why) as caught:
        Batch.from_blob((INT, dtype), bad, ("id", "price"))
    assert "column price" in str(caught.value)


def test_negative_zero_is_found_at_words_alone() -> None:
    """Proves that its bytes across two numbers are no negative zero, and do not hide one that follows."""
    across = (b"\1" + bytes(7)) + (b"\x80" + bytes(7))
    rows = Batch.from_blob((FLOAT,), BatchBlob(2, b"", (ColumnBlob(b"", b"", across),))).rows()
    assert rows == [(5e-324,), (6.3e-322,)]
    with pytest.raises(MalformedMessage, match="negative zero"):
        Batch.from_blob((FLOAT,), BatchBlob(3, b"", (ColumnBlob(b"", b"", across + bytes(7) + b"\x80"),)))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"weights": _words(1)}, "weights is 8 bytes"),
        ({"weights": _words(1, 0)}, "zero"),
        ({"row_count": 3}, "16 bytes long instead of 24"),
        ({"row_count": 0}, "instead of 0"),
        ({"row_count": 2**32 - 1}, "rows"),
        ({"columns": ()}, "columns"),
    ],
)
def test_bad_batch_is_refused(damage: dict[str, Any], why: str) -> None:
    """Proves that counts and weights are checked, huge ones before anything is made of them."""
    blob = Batch.from_rows((INT,), [(1,), (2,)]).to_blob()
    with pytest.raises(MalformedMessage, match=why):
        Batch.from_blob((INT,), replace(blob, **damage))


def test_rows_without_columns_cost_their_sender_bytes() -> None:
    """Proves that a batch without columns cannot claim rows for nothing."""
    with pytest.raises(MalformedMessage, match="weights"):
        Batch.from_blob((), BatchBlob(1000, b"", ()))
    assert Batch.from_blob((), Batch.from_rows((), [(), ()]).to_blob()).rows() == [(), ()]


@given(batches(), st.data())
def test_damaged_blob_is_read_or_refused(batch: Batch, data: st.DataObject) -> None:
    """Proves that no damage of a column makes anything but rows that could be sent, or `MalformedMessage`."""
    blob = batch.to_blob()
    if not blob.columns:
        return
    place = data.draw(st.integers(0, len(blob.columns) - 1))
    name = data.draw(st.sampled_from(("validity", "offsets", "values")))
    content = bytearray(getattr(blob.columns[place], name) or bytes(data.draw(st.integers(0, 9))))
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    column = replace(blob.columns[place], **{name: bytes(content)})
    columns = (*blob.columns[:place], column, *blob.columns[place + 1 :])
    try:
        back = Batch.from_blob(batch.types, replace(blob, columns=columns))
    except MalformedMessage:
        return
    again = Batch.from_rows(batch.types, back.rows(), back.weights())
    assert _same(Batch.from_blob(batch.types, again.to_blob()), back)


def test_what_cannot_be_sent_says_so() -> None:
    """Proves that values and weights over 64 bits, and weights of another number, are refused by the sender."""
    with pytest.raises(DataError, match="64 bits"):
        Batch.from_rows((INT,), [(2**63,)]).to_blob()
    with pytest.raises(DataError, match="weight"):
        Batch.from_rows((INT,), [(1,)], [2**63]).to_blob()
    with pytest.raises(InternalError, match="weights"):
        Batch.from_rows((INT,), [(1,)], [])


def test_long_batches_are_split_by_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that what is too long for one message splits into what is not, and is refused unsplit."""
    monkeypatch.setattr(batch_module, "BATCH_ROWS_MAX", 10)
    batch = Batch.from_rows((BOOL,), [(True,)] * 25)
    assert [len(piece) for piece in batch.split(2**20)] == [10, 10, 5]
    with pytest.raises(InternalError, match="split"):
        batch.to_blob()
