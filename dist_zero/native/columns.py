"""What can be done with batches as bytes in C: checks, hashes, routing, gathering rows. No row becomes a Python object.

The C is `runtime/batches.h`, one library for all programs. `library()` is it, or None on a machine that has no C
compiler, or is big-endian, or is told to interpret; then whoever asks does the same in Python. Both say the same of
every batch: the C side only ever says that something is wrong with one, and what it is, the Python side finds out.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache

from dist_zero.native import build
from dist_zero.types import DataType, Kind
from dist_zero_common.errors import InternalError, NativeUnavailable
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob
from dist_zero_common.settings import load_settings

ROWS_MIN = 16
"""A batch of fewer rows is not worth a call."""

SOURCE = '#include "batches.h"\n'
"""All that there is to compile."""

_KINDS = {kind: number for number, kind in enumerate(Kind)}  # as in core.h
_WORD = ctypes.c_int64
_POINTER = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "dz_batch_good": (_WORD, (_POINTER, _POINTER)),
    "dz_batch_hashes": (_WORD, (_POINTER, _POINTER, _POINTER, _WORD, _POINTER)),
    "dz_batch_content": (_WORD, (_POINTER, _POINTER, _POINTER)),
    "dz_writes_content": (
        _WORD,
        (_POINTER, _POINTER, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_char_p, _POINTER),
    ),
    "dz_place_hashes": (None, (_WORD, ctypes.c_char_p, ctypes.c_char_p, _WORD, _POINTER)),
    "dz_route": (_WORD, (_POINTER, _WORD, _POINTER, _WORD, _POINTER, _POINTER)),
    "dz_batch_take": (_WORD, (_POINTER, _POINTER, _POINTER, _WORD, _POINTER)),
    "dz_release": (None, (_POINTER,)),
    "dz_shift": (None, (ctypes.c_char_p, _WORD, ctypes.c_uint64, _POINTER)),
    "dz_count": (None, (_WORD, _WORD, _POINTER)),
}

Words = memoryview
"""8-byte numbers in a row; a sequence of ints to whoever wants one."""


class Columns:
    """The functions of the library. A blob that they are given has been checked, but for `is_good`."""

    def __init__(self, found: ctypes.CDLL) -> None:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
        self._good: Callable[..., int] = found.dz_batch_good
        self._hashes: Callable[..., int] = found.dz_batch_hashes
        self._content: Callable[..., int] = found.dz_batch_content
        self._writes_content: Callable[..., int] = found.dz_writes_content
        self._place_hashes: Callable[..., None] = found.dz_place_hashes
        self._route: Callable[..., int] = found.dz_route
        self._take: Callable[..., int] = found.dz_batch_take
        self._release: Callable[..., None] = found.dz_release
        self._shift: Callable[..., None] = found.dz_shift
        self._count: Callable[..., None] = found.dz_count

    def is_good(self, types: Sequence[DataType], blob: BatchBlob) -> bool:
        """Whether a blob of so many columns and so many rows, whoever sent it, is a batch of these types."""
        head, blobs = _described(types, blob)
        return self._good(head.buffer_info()[0], blobs) == 1

    def key_hashes(self, types: Sequence[DataType], blob: BatchBlob, places: Sequence[int]) -> Words:
        """`hashing.hasher` of the columns at `places`, of all rows."""
        head, blobs = _described(types, blob)
        key, out = array("q", places), _room("Q", blob.row_count)
        _check(
            self._hashes(head.buffer_info()[0], blobs, key.buffer_info()[0], len(key), out.buffer_info()[0])
        )
        return memoryview(out)

    def place_hashes(self, epoch: int, transactions: bytes, rows: bytes) -> Words:
        """The hashes of rows that have no key: of epoch, transaction and row, as a key of three ints."""
        count = len(rows) // 8
        _check_lengths(8 * count, transactions, rows)
        out = _room("Q", count)
        self._place_hashes(epoch, transactions, rows, count, out.buffer_info()[0])
        return memoryview(out)

    def content_hash(self, types: Sequence[DataType], blob: BatchBlob) -> int:
        """`Batch.content_hash`."""
        head, blobs = _described(types, blob)
        out = ctypes.c_uint64()
        _check(self._content(head.buffer_info()[0], blobs, ctypes.addressof(out)))
        return out.value

    def writes_content_hash(
        self, types: Sequence[DataType], blob: BatchBlob, what: int, transactions: bytes, rows: bytes
    ) -> int:
        """`Writes.content_hash`; `what` stands for dataset, kind and columns."""
        _check_lengths(8 * blob.row_count, transactions, rows)
        head, blobs = _described(types, blob)
        out = ctypes.c_uint64()
        _check(
            self._writes_content(
                head.buffer_info()[0], blobs, what, transactions, rows, ctypes.addressof(out)
            )
        )
        return out.value

    def routed(self, hashes: Words, lasts: Sequence[int]) -> dict[int, Words]:
        """By shard, ascending: the places of the rows whose hashes it owns; `lasts` as in a shard map."""
        ends, counts, indices = array("Q", lasts), _room("q", len(lasts)), _room("q", len(hashes))
        problem = self._route(
            _address(hashes),
            len(hashes),
            ends.buffer_info()[0],
            len(ends),
            counts.buffer_info()[0],
            indices.buffer_info()[0],
        )
        _check(problem)
        routed, start, every = {}, 0, memoryview(indices)
        for shard, count in enumerate(counts):
            if count:
                routed[shard] = every[start : start + count]
            start += count
        return routed

    def take(self, types: Sequence[DataType], blob: BatchBlob, indices: Sequence[int]) -> BatchBlob:
        """The rows at these places, in this order, to the byte as encoding them would have given."""
        if isinstance(indices, memoryview) and not indices.readonly:
            places = indices
        else:
            places = memoryview(array("q", indices))
        head, blobs = _described(types, blob)
        block = _POINTER()
        _check(
            self._take(head.buffer_info()[0], blobs, _address(places), len(places), ctypes.addressof(block))
        )
        assert block.value is not None
        try:
            return _taken(block.value, len(types), len(places))
        finally:
            self._release(block)

    def shifted(self, offsets: bytes, by: int) -> bytes:
        """8-byte words with `by` added to each, modulo 2⁶⁴."""
        count = len(offsets) // 8
        out = ctypes.create_string_buffer(8 * count)
        self._shift(offsets, count, by & 0xFFFFFFFFFFFFFFFF, out)
        return out.raw

    def counting(self, first: int, count: int) -> bytes:
        """The numbers from `first` on as 8-byte words."""
        out = ctypes.create_string_buffer(8 * count)
        self._count(first, count, out)
        return out.raw


@cache
def library() -> Columns | None:
    """The library, compiled when it is first asked for; None where there is none, or the settings say that everything
    is to be interpreted."""
    settings = load_settings()
    if settings.executor == "interpreter":
        return None
    try:
        return Columns(build.compiled(SOURCE))
    except NativeUnavailable:
        return None


def _described(
    types: Sequence[DataType], blob: BatchBlob
) -> tuple[array[int], ctypes.Array[ctypes.c_char_p]]:
    """A blob as the C side gets it."""
    head = [blob.row_count, len(types), len(blob.weights)]
    data = [blob.weights]
    for dtype, column in zip(types, blob.columns, strict=True):
        head += (
            _KINDS[dtype.kind],
            dtype.nullable,
            len(dtype.members),
            len(column.validity),
            len(column.offsets),
            len(column.values),
        )
        data += (column.validity, column.offsets, column.values)
    return array("q", head), (ctypes.c_char_p * len(data))(*data)


def _room(typecode: str, count: int) -> array[int]:
    """Room for so many words."""
    return array(typecode, bytes(8 * count))


def _address(words: Words) -> int:
    """Where words are; they must be writable, as are all that are made here."""
    return ctypes.addressof((ctypes.c_char * 0).from_buffer(words)) if len(words) else 0


def _check_lengths(expected: int, *each: bytes) -> None:
    """Of places, for which C takes the word of whoever calls."""
    if any(len(data) != expected for data in each):
        raise InternalError(f"places of {[len(data) for data in each]} bytes where {expected} were expected")


def _check(problem: int) -> None:
    if problem == -1:
        raise MemoryError
    if problem:
        raise InternalError("a hash that no shard owns, or a place that a batch does not have")


def _taken(block: int, columns: int, count: int) -> BatchBlob:
    sizes = array("q", ctypes.string_at(block, 8 * (1 + 3 * columns)))
    at = block + 8 * len(sizes)
    pieces = []
    for size in sizes:
        pieces.append(ctypes.string_at(at, size))
        at += size
    each = iter(pieces[1:])
    return BatchBlob(
        count, pieces[0], tuple(ColumnBlob(*three) for three in zip(each, each, each, strict=True))
    )
