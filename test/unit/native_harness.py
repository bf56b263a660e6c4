"""A C program around the native runtime that does what a script says, for tests that compare it with Python.

A script is a sequence of commands, each one letter and its arguments: rows in the canonical encoding of
`dist_zero/hashing.py`, numbers in 8 bytes, byte strings with their length in front. What the commands find comes back
as one byte string, which `Answers` takes apart.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from dist_zero.hashing import encode_key
from dist_zero.native.build import compiled
from dist_zero.native.layout import Layout, tuple_layout
from dist_zero.types import NAN, DataType, Kind, Row
from dist_zero_common.errors import DistZeroError

INCLUDES = "".join(f'#include "{name}.h"\n' for name in ("core", "xxh64", "table", "ordered", "sums"))

FRAME = r"""
typedef struct { char *bytes; size_t length, capacity; } answers;

struct node;
static void node_clear(struct node *n);
static void command(struct node *n, char letter);

/* What runs has the script and the answers, which are none of the node's memory. */
static const char *script;
static answers said;

static void say(const void *bytes, size_t length)
{
    if (said.length + length > said.capacity) {
        said.capacity = (said.length + length) * 2;
        said.bytes = realloc(said.bytes, said.capacity);
        if (!said.bytes) abort();
    }
    if (length) memcpy(said.bytes + said.length, bytes, length);
    said.length += length;
}
static void say_word(uint64_t word) { say(&word, 8); }
static void say_bytes(const char *bytes, size_t length) { say_word(length); say(bytes, length); }
static void say_row(const dz_shape *shape, const uint64_t *row)
{
    for (uint32_t column = 0; column < shape->columns; column++) {
        bool null = dz_is_null(shape, row, column);
        say(null ? "\0" : "\1", 1);
        uint64_t word = row[shape->null_words + column];
        if (null) continue;
        if (shape->kinds[column] == DZ_STR || shape->kinds[column] == DZ_BYTES)
            say_bytes(dz_text_of(word)->bytes, dz_text_of(word)->length);
        else
            say_word(word);
    }
}
static uint64_t hear_word(void) { uint64_t word = dz_load_word(script); script += 8; return word; }
static void hear_row(dz_base *base, const dz_shape *shape, uint64_t *row)
{
    memset(row, 0, shape->words * 8);
    for (uint32_t column = 0; column < shape->columns; column++) {
        uint64_t *word = row + shape->null_words + column;
        if (!*script++) {
            row[column / 64] |= (uint64_t)1 << column % 64;
        } else if (shape->kinds[column] == DZ_BOOL) {
            *word = (uint8_t)*script++;
        } else if (shape->kinds[column] == DZ_STR || shape->kinds[column] == DZ_BYTES) {
            size_t length = hear_word();
            *word = dz_word_of(dz_intern(base, script, length));
            script += length;
        } else {
            *word = hear_word();
        }
    }
}
/* The order of rows, column by column, texts by byte, nulls last. */
static int compare_rows(const dz_shape *shape, const uint64_t *left, const uint64_t *right)
{
    for (uint32_t column = 0; column < shape->columns; column++) {
        int nulls = dz_is_null(shape, left, column) - dz_is_null(shape, right, column);
        if (nulls) return nulls;
        uint64_t one = left[shape->null_words + column], other = right[shape->null_words + column];
        if (one == other) continue;
        if (shape->kinds[column] == DZ_STR || shape->kinds[column] == DZ_BYTES) {
            const dz_text *a = dz_text_of(one), *b = dz_text_of(other);
            int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
            return order ? order : a->length < b->length ? -1 : 1;
        }
        return (int64_t)one < (int64_t)other ? -1 : 1;
    }
    return 0;
}
"""

LAST = r"""
DZ_EXPORT void *test_new(void) { return calloc(1, sizeof(struct node)); }
DZ_EXPORT int64_t test_run(struct node *n, const char *commands, int64_t length, int64_t fail_after)
{
    const char *end = commands + length;
    script = commands;
    said.length = 0;
    n->base.fail_after = fail_after;
    if (dz_enter(&n->base)) return -1;
    while (script < end) command(n, *script++);
    return (int64_t)said.length;
}
DZ_EXPORT const char *test_answers(void) { return said.bytes; }
DZ_EXPORT const char *test_message(struct node *n) { return n->base.message; }
DZ_EXPORT int64_t test_error(struct node *n) { return n->base.error; }
/* How many bytes are left when all is given back; then the node is gone. */
DZ_EXPORT int64_t test_free(struct node *n)
{
    node_clear(n);
    dz_base_clear(&n->base);
    int64_t left = (int64_t)n->base.bytes;
    free(n);
    return left;
}
"""


class NativeFailure(DistZeroError):
    """A call failed; `error` is its code in `core.h`."""

    def __init__(self, error: int, message: str) -> None:
        super().__init__(message)
        self.error = error


class Answers:
    """What came back, taken apart from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def raw(self, length: int) -> bytes:
        found = self.data[self.at : self.at + length]
        assert len(found) == length
        self.at += length
        return found

    def word(self) -> int:
        return int.from_bytes(self.raw(8), "little")

    def signed(self) -> int:
        return int.from_bytes(self.raw(8), "little", signed=True)

    def real(self) -> float:
        (value,) = struct.unpack("<d", self.raw(8))
        return NAN if value != value else float(value)

    def text(self) -> bytes:
        return self.raw(self.word())

    def row(self, types: Sequence[DataType]) -> Row:
        return tuple(self._value(dtype) if self.raw(1) == b"\1" else None for dtype in types)

    def rows(self, types: Sequence[DataType]) -> list[tuple[Row, int]]:
        """Rows with a number each, how many in front."""
        return [(self.row(types), self.signed()) for _ in range(self.word())]

    def done(self) -> bool:
        return self.at == len(self.data)

    def _value(self, dtype: DataType) -> bool | int | float | str | bytes:
        if dtype.kind is Kind.STR:
            return self.text().decode()
        if dtype.kind is Kind.BYTES:
            return self.text()
        if dtype.kind is Kind.FLOAT:
            return self.real()
        return bool(self.word()) if dtype.kind is Kind.BOOL else self.signed()


class Harness:
    """A compiled program; `run` is on one node, from the first command to `free`."""

    def __init__(self, source: str, flags: Sequence[str] = ()) -> None:
        self.library = compiled(INCLUDES + FRAME + source + LAST, extra_flags=flags)
        for name in ("test_new", "test_answers"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.test_message.restype = ctypes.c_char_p
        for name in ("test_run", "test_error", "test_free"):
            getattr(self.library, name).restype = ctypes.c_int64

    def node(self) -> Node:
        return Node(self.library)

    def once(self, script: bytes) -> Answers:
        """Run a script on a node of its own; nothing may be left of it."""
        node = self.node()
        try:
            return node.run(script)
        finally:
            assert node.free() == 0

    def every_failure(self, script: bytes) -> int:
        """Run a script with each of its allocations failing in turn: it is an error, and all can be given back."""
        number = 0
        while True:
            number += 1
            node = self.node()
            try:
                node.run(script, fail_after=number)
            except NativeFailure as failure:
                assert (failure.error, str(failure)) == (1, "out of memory")
                assert node.free() == 0
            else:
                assert node.free() == 0
                return number - 1


class Node:
    """The state that scripts work on."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._address = ctypes.c_void_p(library.test_new())

    def run(self, script: bytes, fail_after: int = 0) -> Answers:
        length = self._library.test_run(
            self._address, script, ctypes.c_int64(len(script)), ctypes.c_int64(fail_after)
        )
        if length < 0:
            message = self._library.test_message(self._address).decode()
            raise NativeFailure(self._library.test_error(self._address), message)
        return Answers(ctypes.string_at(self._library.test_answers(), length) if length else b"")

    def free(self) -> int:
        return int(self._library.test_free(self._address))


def layout_and_text(name: str, types: Sequence[DataType]) -> tuple[Layout, str]:
    layout = tuple_layout(name, types)
    return layout, layout.declaration()


def word(number: int) -> bytes:
    return (number & (2**64 - 1)).to_bytes(8, "little")


def text(data: bytes) -> bytes:
    return word(len(data)) + data


def row_bytes(types: Sequence[DataType], row: Row) -> bytes:
    return encode_key(types, row)
