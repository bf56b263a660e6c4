"""Batches as bytes, measured, cut by rows and put together without knowing their types.

What the layout gives away is enough (`column_data.py`): a column with offsets has values of any length, any other
one has values that are all of the same. A piece is, to the byte, what encoding its rows would have given.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from dist_zero.column_data import join_columns, pack, slice_column, word_at
from dist_zero_common.protocol.messages.pieces import BatchBlob

BATCH_ROWS_MAX = 2**21
"""Most rows of a batch on the wire: what a message full of 8-byte values holds. Bounds what a few bytes, such
as a megabyte of bools, can make a receiver allocate."""

COLUMN_OVERHEAD = 64
"""Bytes that a column takes in a message beside its data: three pointers, alignment, one offset."""

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
    size, pieces, start = _sizes(blob), [], 0
    while start < blob.row_count:
        ends = range(start + 1, min(start + BATCH_ROWS_MAX, blob.row_count) + 1)
        first = start
        fitting = bisect_right(ends, bytes_max, key=lambda end: size(first, end))
        end = ends[max(fitting - 1, 0)]
        pieces.append(cut_blob(blob, start, end))
        start = end
    return pieces


def cut_blob(blob: BatchBlob, start: int, end: int) -> BatchBlob:
    """The rows from `start` to before `end`, to the byte as encoding them would have given."""
    weights = blob.weights[8 * start : 8 * end]
    if blob.columns and weights == _ONE * (end - start):
        weights = b""
    columns = [slice_column(column, start, end, blob.row_count) for column in blob.columns]
    return BatchBlob(end - start, weights, tuple(columns))


def join_blobs(blobs: Sequence[BatchBlob]) -> BatchBlob:
    """The rows of all blobs, at least one, which are of the same types, in order."""
    counts = [blob.row_count for blob in blobs]
    weights = b""
    if any(blob.weights for blob in blobs):
        weights = b"".join([blob.weights or _ONE * blob.row_count for blob in blobs])
    columns = [join_columns(each, counts) for each in zip(*[blob.columns for blob in blobs], strict=True)]
    return BatchBlob(sum(counts), weights, tuple(columns))


def _sizes(blob: BatchBlob) -> Callable[[int, int], int]:
    """A function that says how many bytes the rows from one place to another take, at most."""
    fixed = 8 if blob.weights else 0
    for column in blob.columns:
        fixed += bool(column.validity) + (8 if column.offsets else len(column.values) // blob.row_count)
    texts = [column.offsets for column in blob.columns if column.offsets]

    def size(start: int, end: int) -> int:
        return fixed * (end - start) + sum(
            8 + word_at(places, end) - word_at(places, start) for places in texts
        )

    return size
