"""Places of writes, a transaction's in its epoch and a row's in its transaction: numbers that come and go as 8-byte
words, and that nobody has to look at one by one on their way.

Where the library of `native/columns.py` is there, they stay bytes, behind a view that is a sequence of ints to whoever
wants one; else they are lists and ranges.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.column_data import check_length, pack, unpack
from dist_zero.native import columns
from dist_zero.types import INT
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob

Places = Sequence[int]

_FEW = 64
"""Fewer numbers than these are made faster without a call."""


def checked_places(what: str, data: bytes, count: int) -> Places:
    """The places in these bytes that somebody sent, `count` of them. Raises `MalformedMessage` that begins with
    `what`."""
    check_length(what, data, 8 * count)
    if not data[7::8].isascii():  # of each word the byte that has its sign
        raise MalformedMessage(f"{what}: a negative place")
    return _viewed(data) if columns.library() is not None else unpack("q", data)


def packed_places(places: Places) -> bytes:
    """Places as bytes."""
    if not isinstance(places, memoryview):
        return pack("q", places)
    whole = places.obj
    return whole if isinstance(whole, bytes) and len(whole) == places.nbytes else places.tobytes()


def one_place(place: int, count: int) -> Places:
    """The same place `count` times."""
    return [place] * count if columns.library() is None else _viewed(pack("q", [place]) * count)


def places_from(first: int, count: int) -> Places:
    """`count` places that follow each other."""
    native = columns.library()
    if native is None:
        return range(first, first + count)
    few = count < _FEW
    return _viewed(pack("q", range(first, first + count)) if few else native.counting(first, count))


def joined_places(parts: Sequence[Places]) -> Places:
    """All places, in order."""
    if all(isinstance(part, memoryview) for part in parts):
        return _viewed(b"".join(map(packed_places, parts)))
    return [place for part in parts for place in part]


def taken_places(transactions: Places, rows: Places, indices: Sequence[int]) -> tuple[Places, Places]:
    """Of both, those at these indices."""
    native = columns.library()
    if isinstance(indices, range) and indices.step == 1:
        return transactions[indices.start : indices.stop], rows[indices.start : indices.stop]
    if native is None:
        return [transactions[i] for i in indices], [rows[i] for i in indices]
    both = (ColumnBlob(b"", b"", packed_places(each)) for each in (transactions, rows))
    taken = native.take((INT, INT), BatchBlob(len(rows), b"", tuple(both)), indices)
    return _viewed(taken.columns[0].values), _viewed(taken.columns[1].values)


def _viewed(data: bytes) -> memoryview:
    return memoryview(data).cast("q")
