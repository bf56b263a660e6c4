"""The compiled library of a plan, and calls into it: batches go in as pointers to the bytes of their columns, and what
is said comes back as one piece of bytes, of which batches are made without a look at their rows.
"""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from dist_zero.batch import Batch
from dist_zero.compiler.plan import Plan
from dist_zero.native.build import compiled
from dist_zero.native.render import Rendered, render
from dist_zero.types import DataType, Kind
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob

_MESSAGE_BYTES = 256
_MALFORMED = 3
"""`DZ_MALFORMED` in core.h."""
_PLANS_MAX = 64
_TEXTS = (Kind.STR, Kind.BYTES)


class Library:
    """The C of one plan, loaded."""

    def __init__(self, plan: Plan, flags: Sequence[str] = ()) -> None:
        self.rendered: Rendered = render(plan)
        library = compiled(self.rendered.source, extra_flags=flags)
        pointer, word, words = ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
        blobs = ctypes.POINTER(ctypes.c_char_p)
        self.new = _function(library, "dz_new", pointer)
        self.delete = _function(library, "dz_delete", word, pointer)
        self.error = _function(library, "dz_error", word, pointer, ctypes.c_char_p)
        self.said = _function(library, "dz_said", pointer, pointer)
        self.bytes = _function(library, "dz_bytes", word, pointer)
        self.fail_after = _function(library, "dz_fail_after", None, pointer, word)
        self.step = _function(library, "dz_step", word, pointer, words, blobs)
        self.finish = _function(library, "dz_finish", word, pointer, word)
        self.rows = _function(library, "dz_rows", word, pointer, word)
        self.get = _function(library, "dz_get", word, pointer, word, words, blobs)
        self.freeze = _function(library, "dz_freeze", word, pointer, word, word)
        self.next = _function(library, "dz_next", word, pointer, word)
        self.thaw = _function(library, "dz_thaw", word, pointer, word)
        self.track = _function(library, "dz_track", word, pointer)
        self.take = _function(library, "dz_take", word, pointer, word, words, blobs)
        self.settle = _function(library, "dz_settle", word, pointer, word)
        self.load_begin = _function(library, "dz_load_begin", word, pointer, word)
        self.load_change = _function(library, "dz_load_change", word, pointer, word, words, blobs)
        self.load_missing = _function(library, "dz_load_missing", word, pointer, word, word)
        self.load_hashes = _function(library, "dz_load_hashes", word, pointer, word)
        self.load_keep = _function(library, "dz_load_keep", word, pointer, word, ctypes.c_char_p, word)
        self.load_interval = _function(library, "dz_load_interval", word, pointer, word, word, word, word)
        self.load_take = _function(library, "dz_load_take", word, pointer, word, word)
        self.load_replace = _function(library, "dz_load_replace", word, pointer, word, word, word)
        self.load_end = _function(library, "dz_load_end", word, pointer, word)


_Function = Callable[..., Any]
"""A function of a library."""


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> _Function:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    found: _Function = function
    return found


_building = threading.Lock()


def library_of(plan: Plan, flags: tuple[str, ...] = ()) -> Library:
    """The library of a plan, compiled if need be; `flags`, behind those of `build.py`, are for tests. Raises
    `NativeUnavailable` on a machine that cannot compile."""
    with _building:
        return _library_of(plan, flags)


@lru_cache(maxsize=_PLANS_MAX)
def _library_of(plan: Plan, flags: tuple[str, ...]) -> Library:
    return Library(plan, flags)


class Node:
    """A node in C. Freed when it is not used any more. One thread at a time calls it: others may run Python during a
    call, and with it finalisers, which therefore call nothing."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._dropped: list[int] = []
        self._pointer: int | None = library.new()
        if not self._pointer:
            raise MemoryError("no memory for a node")

    def __del__(self) -> None:
        self.free()

    def free(self) -> int:
        """Give its memory back; whoever calls it after that gets an error. How many bytes it had lost, which should be
        none. The collector of cycles ends objects in any order: a generator that is at something in the node may be
        ended after the node."""
        pointer, self._pointer = getattr(self, "_pointer", None), None
        lost: int = self.library.delete(pointer) if pointer else 0
        return lost

    @property
    def _address(self) -> int:
        if self._pointer is None:
            raise InternalError("a native node is used after its end")
        return self._pointer

    def call(self, function: _Function, *arguments: object) -> int:
        """What a function of the library answers. Raises if the call has failed."""
        if self._dropped:
            self._thaw()
        answer: int = function(self._address, *arguments)
        if answer < 0:
            self._fail()
        return answer

    def ask(self, function: _Function, *arguments: object) -> Said:
        """What a function of the library says, to be read before the next call."""
        length = self.call(function, *arguments)
        return Said(self.library.said(self._address) if length else 0, length)

    def drop(self, frozen: int) -> None:
        """Let what is frozen under this number be forgotten by the next call. A finaliser may say so in any thread, at
        any time, also while another thread is in a call, or after the node's end."""
        self._dropped.append(frozen)

    def _thaw(self) -> None:
        while self._dropped:
            self.library.thaw(self._address, self._dropped.pop())

    @property
    def bytes_used(self) -> int:
        """Memory that the node has."""
        self._thaw()
        used: int = self.library.bytes(self._address)
        return used

    def fail_after(self, allocations: int) -> None:
        """For tests: the so many-th allocation from now on fails."""
        self.library.fail_after(self._address, allocations)

    def _fail(self) -> None:
        text = ctypes.create_string_buffer(_MESSAGE_BYTES)
        error = self.library.error(self._address, text)
        message = text.value.decode(errors="replace")
        if error == _MALFORMED:
            raise MalformedMessage(message)
        raise InternalError(f"the native executor has failed: {message}")


class Given:
    """What a call is given: words, and pointers to bytes."""

    __slots__ = ("_blobs", "head")

    def __init__(self) -> None:
        self.head = array("q")
        self._blobs: list[bytes | None] = []

    def bytes(self, data: bytes) -> None:
        """Adds bytes, for whose length there is a word elsewhere; of none, no pointer."""
        self._blobs.append(data or None)

    def batch(self, batch: Batch) -> None:
        """Adds a batch."""
        blob = batch.whole_blob()
        self.head.append(blob.row_count)
        blobs = self._blobs
        blobs.append(blob.weights or None)
        for column in blob.columns:
            blobs += (column.validity or None, column.offsets, column.values)

    def arguments(self) -> tuple[int, object]:
        """The two arguments of the call; good as long as this is."""
        blobs = (ctypes.c_char_p * max(1, len(self._blobs)))(*self._blobs)
        return self.head.buffer_info()[0], blobs


class Said:
    """What a call has said, read from the front: where it is in the node, whose next call overwrites it."""

    __slots__ = ("_at", "_end")

    def __init__(self, address: int, length: int) -> None:
        self._at, self._end = address, address + length

    def __bool__(self) -> bool:
        return self._at < self._end

    def word(self) -> int:
        """The next word."""
        return self.words(1)[0]

    def words(self, count: int) -> Sequence[int]:
        """The next words."""
        return memoryview(self._bytes(8 * count)).cast("q")

    def batch(self, types: Sequence[DataType]) -> Batch:
        """The next batch, of these types."""
        count, weights_length, *lengths = self.words(2 + 2 * len(types))
        weights = self._bytes(weights_length)
        columns = []
        for place, dtype in enumerate(types):
            validity = self._bytes(lengths[2 * place])
            offsets = self._bytes(8 * count + 8) if dtype.kind in _TEXTS else b""
            columns.append(ColumnBlob(validity, offsets, self._bytes(lengths[2 * place + 1])))
        return Batch.of_blob(tuple(types), BatchBlob(count, weights, tuple(columns)))

    def rest(self) -> bytes:
        """All that is left."""
        return self._bytes(self._end - self._at)

    def _bytes(self, length: int) -> bytes:
        if not length:
            return b""
        start = self._at
        self._at += length + 7 & ~7
        return ctypes.string_at(start, length)
