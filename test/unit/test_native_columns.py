"""The library of columns: it says of every batch, also of hostile ones, what the Python beside it says."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero import shards
from dist_zero.batch import Batch, Writes
from dist_zero.column_data import pack
from dist_zero.hashing import hasher, key_hash
from dist_zero.native import build, columns
from dist_zero.native.columns import Columns
from dist_zero.places import checked_places, packed_places, taken_places
from dist_zero.types import BYTES, DATETIME_MAX_US, DATETIME_MIN_US, FLOAT, INT, STR, DataType, picker
from dist_zero_common.errors import InternalError, MalformedMessage, NativeUnavailable
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob, WriteKind
from test.unit.strategies import row_types
from test.unit.test_batch import batches

pytestmark = pytest.mark.skipif(columns.library() is None, reason="there is no C compiler")


def library() -> Columns:
    found = columns.library()
    assert found is not None
    return found


@contextmanager
def in_python() -> Iterator[None]:
    """As on a machine that has no C compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "library", lambda: None)
        yield


def _outcome(types: tuple[DataType, ...], blob: BatchBlob) -> str | list[Any]:
    """What becomes of a blob: its rows, each value with its type, or why it is refused."""
    try:
        batch = Batch.from_blob(types, blob, [f"c{place}" for place in range(len(types))])
    except MalformedMessage as refused:
        return str(refused)
    values = [(type(value), repr(value)) for row in batch.rows() for value in row]
    return [values, batch.weights(), len(batch)]


# ---- checks --------------------------------------------------------------------------------------------------

_BYTES_TO_FIND = (
    b"\x80 \xc0\x80 \xc1\xbf \xc2 \xc2\x80 \xdf\xbf \xe0\x80\x80 \xe0\x9f\xbf \xe0\xa0\x80 \xe1\x80 \xed\x9f\xbf"
    b" \xed\xa0\x80"
    b" \xed\xbf\xbf \xee\x80\x80 \xf0\x80\x80\x80 \xf0\x8f\xbf\xbf \xf0\x90\x80\x80 \xf1\x80\x80 \xf4\x8f\xbf\xbf"
    b" \xf4\x90\x80\x80 \xf5\x80\x80\x80 \xff \xfe a"
).split(b" ")
_WORDS = st.sampled_from(
    [
        0,
        1,
        2,
        3,
        8,
        2**63,
        2**63 - 1,
        2**64 - 1,
        0x7FF8 << 48,
        (0x7FF8 << 48) + 1,
        0xFFF8 << 48,
        0x7FF0 << 48,
        (0x7FF0 << 48) + 1,
        0xFFF0 << 48,
        DATETIME_MAX_US,
        DATETIME_MAX_US + 1,
        DATETIME_MIN_US % 2**64,
        (DATETIME_MIN_US - 1) % 2**64,
    ]
)
_contents = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from((0, 0, 1, 1, 2, 255)), max_size=5).map(bytes),
    st.lists(_WORDS, max_size=5).map(lambda words: pack("Q", words)),
    st.lists(st.sampled_from(_BYTES_TO_FIND), max_size=5).map(b"".join),
)


@st.composite
def hostile_blobs(draw: st.DrawFn) -> tuple[tuple[DataType, ...], BatchBlob]:
    """A batch of which something is what somebody may have put there."""
    batch = draw(batches(draw(row_types(1))))
    blob = batch.to_blob()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(blob.columns) - 1))
        what = draw(st.sampled_from(("validity", "offsets", "values", "word", "weights", "row_count")))
        if what == "weights":
            blob = replace(blob, weights=draw(_contents))
        elif what == "row_count":
            blob = replace(blob, row_count=draw(st.integers(-1, 9)))
        else:
            name = draw(st.sampled_from(("offsets", "values"))) if what == "word" else what
            column = blob.columns[place]
            content = draw(_contents)
            if what == "word" and (there := getattr(column, name)):
                at = 8 * draw(st.integers(0, max(0, len(there) // 8 - 1)))
                content = there[:at] + pack("Q", [draw(_WORDS)]) + there[at + 8 :]
            column = replace(column, **{name: content})
            blob = replace(blob, columns=(*blob.columns[:place], column, *blob.columns[place + 1 :]))
    return batch.types, blob


@given(st.one_of(hostile_blobs(), batches().map(lambda batch: (batch.types, batch.to_blob()))))
def test_oracle_a_blob_is_taken_or_refused_as_in_python(
    typed: tuple[tuple[DataType, ...], BatchBlob],
) -> None:
    """Proves that the same blobs are good, that they hold the same rows, and that errors are the same texts."""
    with in_python():
        expected = _outcome(*typed)
    assert _outcome(*typed) == expected
    types, blob = typed
    if blob.row_count >= 0 and len(blob.columns) == len(types):
        assert library().is_good(types, blob) == (not isinstance(expected, str))


@pytest.mark.parametrize("text", [*_BYTES_TO_FIND, b"12345678\xff", "é1234567é".encode(), "𝄞".encode() * 5])
@pytest.mark.parametrize("cut", range(5))
def test_oracle_texts_are_texts_as_python_has_them(text: bytes, cut: int) -> None:
    """Proves that shortest forms, surrogates, the last code point and cuts inside of characters are judged alike."""
    values = b"ab" + text + b"c"
    for offsets in ([0, min(cut, len(values)), len(values)], [0, 2, 2 + len(text), len(values)]):
        blob = BatchBlob(len(offsets) - 1, b"", (ColumnBlob(b"", pack("Q", offsets), values),))
        with in_python():
            expected = _outcome((STR,), blob)
        assert _outcome((STR,), blob) == expected


# ---- hashes and routing --------------------------------------------------------------------------------------


@given(batches(), st.data())
def test_oracle_hashes_are_those_of_hashing(batch: Batch, data: st.DataObject) -> None:
    """Proves it for keys of any columns in any order, and for content hashes of batches and of writes."""
    places = data.draw(st.permutations(range(len(batch.types)))) if batch.types else []
    places = places[: data.draw(st.integers(0, len(places)))]
    expected = list(map(hasher(tuple(batch.types[p] for p in places)), map(picker(places), batch.rows())))
    blob = batch.to_blob()
    assert list(library().key_hashes(batch.types, blob, places)) == expected
    sent = Batch.of_blob(batch.types, blob)
    numbers = st.lists(st.integers(0, 2**63 - 1), min_size=len(batch), max_size=len(batch))
    transactions, rows = data.draw(numbers), data.draw(numbers)
    writes = [Writes(1, WriteKind.PUT, (0,), each, transactions, rows) for each in (batch, sent)]
    with in_python():
        expected_content = (
            Batch.from_rows(batch.types, batch.rows(), batch.weights()).content_hash(),
            writes[0].content_hash(),
        )
    assert (sent.content_hash(), writes[1].content_hash()) == expected_content


@given(
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=6),
    st.integers(0, 2**62),
)
def test_oracle_rows_without_a_key_have_their_place_as_key(places: list[tuple[int, int]], epoch: int) -> None:
    """Proves that they are routed by the hash of epoch, transaction and row."""
    transactions, rows = (pack("q", [place[i] for place in places]) for i in range(2))
    expected = [key_hash((INT, INT, INT), (epoch, *place)) for place in places]
    assert list(library().place_hashes(epoch, transactions, rows)) == expected


@given(
    st.lists(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from((0, 2**63 - 1, 2**63, 2**64 - 1)))),
    st.integers(1, 9),
)
def test_oracle_rows_go_to_the_owner_of_their_hash(hashes: list[int], nodes: int) -> None:
    """Proves that each shard gets its rows, in order, and those that get none are not there."""
    lasts = shards.even_map(1, [f"n{number}" for number in range(nodes)]).lasts
    expected: dict[int, list[int]] = {}
    for place, each in enumerate(hashes):
        expected.setdefault(bisect_left(lasts, each), []).append(place)
    given_hashes = memoryview(bytearray(pack("Q", hashes))).cast("Q")
    assert {shard: list(its) for shard, its in library().routed(given_hashes, lasts).items()} == expected


def test_a_hash_without_owner_is_no_crash() -> None:
    """Proves that a map that covers less than everything is our bug, and not a wild address."""
    with pytest.raises(InternalError, match="owns"):
        library().routed(memoryview(bytearray(pack("Q", [7]))).cast("Q"), (5,))


# ---- making batches ------------------------------------------------------------------------------------------


@given(batches(), st.data())
def test_oracle_rows_taken_are_the_bytes_of_those_rows(batch: Batch, data: st.DataObject) -> None:
    """Proves that what is gathered or cut is to the byte the encoding of its rows, places repeated or not."""
    sent = Batch.of_blob(batch.types, batch.to_blob())
    indices = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=9)) if len(batch) else []
    assert sent.take(indices).to_blob() == batch.take(indices).to_blob()
    start = data.draw(st.integers(0, len(batch)))
    piece = range(start, data.draw(st.integers(start, len(batch))))
    assert sent.take(piece).to_blob() == batch.take(piece).to_blob()
    with in_python():
        assert sent.take(piece).to_blob() == batch.take(piece).to_blob()


@pytest.mark.parametrize("place", [-1, 2, 2**62])
def test_a_place_that_there_is_not_is_no_crash(place: int) -> None:
    """Proves that nothing is read behind a batch."""
    with pytest.raises(InternalError):
        Batch.of_blob((INT,), Batch.from_rows((INT,), [(1,), (2,)]).to_blob()).take([0, place])


def test_places_that_are_missing_are_no_crash() -> None:
    """C reads as many as there are rows."""
    blob = Batch.from_rows((INT,), [(1,), (2,)]).to_blob()
    for transactions, rows in ((b"", bytes(16)), (bytes(16), bytes(8))):
        with pytest.raises(InternalError, match="places of"):
            library().writes_content_hash((INT,), blob, 0, transactions, rows)
    for transactions in (b"", bytes(8)):
        with pytest.raises(InternalError, match="places of"):
            library().place_hashes(1, transactions, bytes(16))


@given(
    row_types().flatmap(
        lambda types: st.tuples(st.just(types), st.lists(batches(types), min_size=1, max_size=4))
    )
)
def test_oracle_batches_joined_are_the_bytes_of_their_rows(
    typed: tuple[tuple[DataType, ...], list[Batch]],
) -> None:
    """Proves that what is put together of bytes is what encoding the rows of all would have given, but for weights and
    validity that say nothing, and that it is cut like that."""
    types, parts = typed
    whole = Batch.concat(types, [Batch.of_blob(types, part.to_blob()) for part in parts])
    rows = Batch.concat(types, [Batch.from_rows(types, part.rows(), part.weights()) for part in parts])
    assert whole.to_blob() == rows.to_blob()
    assert whole.size_bytes == Batch.from_rows(types, rows.rows(), rows.weights()).size_bytes
    assert [piece.to_blob() for piece in whole.split(200)] == [piece.to_blob() for piece in rows.split(200)]


def test_nobody_decodes_what_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that checking, hashing, routing, cutting and joining make no row."""

    def refuse(*_: object) -> list[Any]:
        raise AssertionError("decoded")

    types = (INT, STR, FLOAT.optional(), BYTES)
    blob = Batch.from_rows(types, [(n, f"é{n}", None, b"x" * n) for n in range(50)]).to_blob()
    monkeypatch.setattr("dist_zero.batch.decode_column", refuse)
    batch = Batch.from_blob(types, blob)
    joined = Batch.concat(types, [batch, batch.take([3, 1]), batch.take(range(7, 11))])
    assert len(joined) == 56 and len(joined.split(300)) > 2
    assert joined.content_hash() and joined.key_hashes([1, 0]) and joined.to_blob()
    with pytest.raises(AssertionError, match="decoded"):
        joined.rows()


# ---- places --------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1)), max_size=6), st.data())
def test_oracle_places_are_the_same_numbers(numbers: list[int], data: st.DataObject) -> None:
    """Proves that bytes and lists of places are refused, told, taken and packed alike."""
    packed = pack("q", numbers)
    indices = data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=4)) if numbers else []

    def outcome() -> object:
        try:
            places = checked_places("rows", packed, len(numbers))
        except MalformedMessage as refused:
            return str(refused)
        taken = taken_places(places, places, indices)
        return list(places), packed_places(places), [list(each) for each in taken]

    natively = outcome()
    with in_python():
        assert outcome() == natively


def test_the_library_compiles_without_a_word() -> None:
    """Proves that its source has nothing that compilers warn of."""
    assert Columns(build.compiled(columns.SOURCE, extra_flags=build.STRICT))


def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that a machine that cannot compile does everything in Python."""

    def refuse(*_: object, **__: object) -> None:
        raise NativeUnavailable("no compiler")

    monkeypatch.setattr(build, "compiled", refuse)
    assert columns.library.__wrapped__() is None
