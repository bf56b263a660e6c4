"""Batches as bytes: what is cut by rows is what encoding those rows would have given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero import types as t
from dist_zero.batch import Batch
from dist_zero.blobs import blob_bytes, split_blob
from test.unit.strategies import row_types, stored_rows

pytestmark = pytest.mark.usefixtures("both_ways")


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches of any row type, with weights or without, encoded or not."""
    types = draw(row_types())
    rows: list[Any] = draw(st.lists(stored_rows(types), max_size=12))
    weights = st.lists(st.sampled_from((1, 1, 1, -1, 5)), min_size=len(rows), max_size=len(rows))
    return Batch.from_rows(types, rows, draw(st.one_of(st.none(), weights)))


@given(batches(), st.integers(1, 200))
def test_oracle_pieces_of_bytes_are_pieces_of_rows(batch: Batch, bytes_max: int) -> None:
    """Each piece is to the byte the encoding of its rows; they follow each other, none is larger than it may be unless
    it is one row, and none could have taken the first row of the next."""
    pieces = split_blob(batch.to_blob(), bytes_max)
    start = 0
    for piece in pieces:
        end = start + piece.row_count
        assert piece == batch.take(range(start, end)).to_blob() or len(pieces) == 1
        assert piece.row_count == 1 or blob_bytes(piece) <= bytes_max
        start = end
    assert start == len(batch)
    assert Batch.concat(batch.types, [Batch.from_blob(batch.types, p) for p in pieces]).rows() == (
        batch.rows() if pieces else []
    )


def test_pieces_are_as_long_as_they_may_be() -> None:
    """A thousand numbers of eight bytes in pieces of 800 are ten, and a large text has one of its own."""
    numbers = Batch.from_rows((t.INT,), [(i,) for i in range(1000)]).to_blob()
    assert [piece.row_count for piece in split_blob(numbers, 800)] == [100] * 10
    texts = Batch.from_rows((t.STR,), [("a",), ("b" * 1000,), ("c",), ("d",)]).to_blob()
    assert [piece.row_count for piece in split_blob(texts, 60)] == [1, 1, 2]
