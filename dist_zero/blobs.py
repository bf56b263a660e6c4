"""Batches as bytes, measured and cut by rows without knowing their types.

What the layout gives away is enough (`column_data.py`): a column with offsets has values of any length, any other
one has values that are all of the same. A piece is, to the byte, what encoding its rows would have given.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from dist_zero.batch import BATCH_ROWS_MAX
from dist_zero.column_data import pack, unpack
from dist_zero_common.protocol.messages import (
    BatchBlob,
    ColumnBlob,
)

_ONE = pack("q", [1])


def blob_bytes(blob: BatchBlob) -> int:
    """The bytes of a batch's data, without what a message adds."""
    columns = sum(len(column.validity) + len(column.offsets) + len(column.values) for column in blob.columns)
    return len(blob.weights) + columns


def split_blob(blob: BatchBlob, bytes_max: int) -> list[BatchBlob]:
    """The batch in pieces, in order, each of at most `bytes_max` and as many rows as a batch may have; a row that is
    larger by itself comes alone. A batch without rows has no pieces."""
    if not blob.row_count:
        return []
    if blob_bytes(blob) <= bytes_max and blob.row_count <= BATCH_ROWS_MAX:
        return [blob]
    offsets = [unpack("Q", column.offsets) if column.offsets else [] for column in blob.columns]
    size, pieces, start = _sizes(blob, offsets), [], 0
    while start < blob.row_count:
        ends = range(start + 1, min(start + BATCH_ROWS_MAX, blob.row_count) + 1)
        first = start
        fitting = bisect_right(ends, bytes_max, key=lambda end: size(first, end))
        end = ends[max(fitting - 1, 0)]
        pieces.append(_cut(blob, offsets, start, end))
        start = end
    return pieces


def _sizes(blob: BatchBlob, offsets: list[list[int]]) -> Callable[[int, int], int]:
    """A function that says how many bytes the rows from one place to another take, at most."""
    fixed = 8 if blob.weights else 0
    for column in blob.columns:
        fixed += bool(column.validity) + (8 if column.offsets else len(column.values) // blob.row_count)
    texts = [places for places in offsets if places]

    def size(start: int, end: int) -> int:
        return fixed * (end - start) + sum(8 + places[end] - places[start] for places in texts)

    return size


def _cut(blob: BatchBlob, offsets: list[list[int]], start: int, end: int) -> BatchBlob:
    count, weights = end - start, blob.weights[8 * start : 8 * end]
    if blob.columns and weights == _ONE * count:
        weights = b""
    columns = tuple(
        [
            _cut_column(column, places, start, end, blob.row_count)
            for column, places in zip(blob.columns, offsets, strict=True)
        ]
    )
    return BatchBlob(count, weights, columns)


def _cut_column(column: ColumnBlob, places: list[int], start: int, end: int, row_count: int) -> ColumnBlob:
    validity = column.validity[start:end]
    if b"\0" not in validity:
        validity = b""
    if not column.offsets:
        width = len(column.values) // row_count
        return ColumnBlob(validity, b"", column.values[width * start : width * end])
    first, last = places[start], places[end]
    offsets = pack("Q", [place - first for place in places[start : end + 1]])
    return ColumnBlob(validity, offsets, column.values[first:last])
