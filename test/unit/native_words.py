"""Rows in and out of generated C, for tests: what `dz_row` words are for a stored row, and back."""

from __future__ import annotations

import array
import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from dist_zero.native.build import compiled
from dist_zero.native.layout import Layout
from dist_zero.types import NAN, DataType, Kind, Row

TEXTS = """
DZ_EXPORT void *t_new(void)
{
    node *n = calloc(1, sizeof(node));
    if (dz_enter(&n->base)) return NULL;
    fill(n);
    return n;
}
DZ_EXPORT void t_free(node *n)
{
    dz_base_clear(&n->base);
    free(n);
}
DZ_EXPORT dz_text *t_intern(node *n, const char *bytes, size_t length)
{
    if (dz_enter(&n->base)) return NULL;
    dz_text *text = dz_intern(&n->base, bytes, length);
    dz_hold(text);
    return text;
}
DZ_EXPORT const char *t_bytes(const dz_text *text) { return text->bytes; }
DZ_EXPORT uint32_t t_length(const dz_text *text) { return text->length; }
DZ_EXPORT void t_sweep(node *n) { dz_sweep(&n->base); }
DZ_EXPORT uint64_t t_memory(const node *n) { return n->base.bytes; }
"""
"""What the library of a test has to have; `fill(node *)` is its own, and so is `struct node`."""


class Library:
    """A compiled source that has `TEXTS`, and a node of it."""

    def __init__(self, source: str) -> None:
        self.c = compiled(source, extra_flags=("-Wno-unused-const-variable",))
        for name, result in (
            ("t_new", ctypes.c_void_p),
            ("t_intern", ctypes.c_void_p),
            ("t_bytes", ctypes.c_void_p),
        ):
            getattr(self.c, name).restype = result
        self.c.t_intern.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        self.c.t_bytes.argtypes = self.c.t_length.argtypes = [ctypes.c_void_p]
        self.c.t_length.restype = ctypes.c_uint32
        self.c.t_memory.restype = ctypes.c_uint64
        self.node = ctypes.c_void_p(self.c.t_new())
        assert self.node.value

    def words(self, layout: Layout, row: Row) -> list[int]:
        """The words of a stored row."""
        nulls = [0] * layout.null_words
        for column, value in enumerate(row):
            if value is None:
                nulls[column // 64] |= 1 << column % 64
        return nulls + [self._word(dtype, value) for dtype, value in zip(layout.types, row, strict=True)]

    def row(self, layout: Layout, words: Sequence[int]) -> Row:
        """The stored row of these words; those of nulls have to be 0."""
        values = []
        for column, dtype in enumerate(layout.types):
            word = words[layout.word(column)]
            is_null = bool(layout.null_words and words[column // 64] >> column % 64 & 1)
            assert dtype.nullable or not is_null
            assert word == 0 or not is_null, "the word of a null"
            values.append(None if is_null else self._value(dtype, word))
        return tuple(values)

    def _word(self, dtype: DataType, value: Any) -> int:
        if value is None:
            return 0
        if dtype.kind in (Kind.STR, Kind.BYTES):
            data = value.encode() if isinstance(value, str) else value
            return int(self.c.t_intern(self.node, data, len(data)))
        if dtype.kind is Kind.FLOAT:
            return (
                0x7FF8000000000000
                if value != value
                else int(struct.unpack("<Q", struct.pack("<d", value))[0])
            )
        return int(value) & (2**64 - 1)

    def _value(self, dtype: DataType, word: int) -> Any:
        if dtype.kind in (Kind.STR, Kind.BYTES):
            data = ctypes.string_at(self.c.t_bytes(word), self.c.t_length(word))
            return data.decode() if dtype.kind is Kind.STR else data
        if dtype.kind is Kind.FLOAT:
            (value,) = struct.unpack("<d", struct.pack("<Q", word))
            assert value == value or word == 0x7FF8000000000000, "another NaN"
            assert value != 0 or word == 0, "-0.0"
            return value if value == value else NAN
        if dtype.kind is Kind.BOOL:
            assert word in (0, 1)
            return bool(word)
        return word - 2**64 if word >> 63 else word


def packed(words: Sequence[int]) -> ctypes.Array[ctypes.c_uint64]:
    """Words as C has them."""
    data = array.array("Q", words or [0])
    return (ctypes.c_uint64 * len(data)).from_buffer(data)
