"""How rows lie in memory: a row type as words, as a C struct and as a `dz_shape`.

A row is an array of 8-byte words. If a column of the row type is nullable, the row begins with null words, bit i % 64
of word i / 64 for column i; then comes one word per column. The struct is the same memory with names and C types, so
that what is generated can be read; the shape describes it to the functions in `runtime/` that are for rows of any type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dist_zero.types import DataType, Kind, RowType

KIND_NAMES: dict[Kind, str] = {
    Kind.BOOL: "DZ_BOOL",
    Kind.INT: "DZ_INT",
    Kind.FLOAT: "DZ_FLOAT",
    Kind.STR: "DZ_STR",
    Kind.BYTES: "DZ_BYTES",
    Kind.DATETIME: "DZ_DATETIME",
    Kind.DECIMAL: "DZ_DECIMAL",
    Kind.ENUM: "DZ_ENUM",
}
"""The names of kinds in `core.h`, in the order of their numbers."""

MEMBER_TYPES: dict[Kind, str] = {
    Kind.BOOL: "uint64_t ",
    Kind.INT: "int64_t ",
    Kind.FLOAT: "double ",
    Kind.STR: "dz_text *",
    Kind.BYTES: "dz_text *",
    Kind.DATETIME: "int64_t ",
    Kind.DECIMAL: "int64_t ",
    Kind.ENUM: "int64_t ",
}
"""The C type of a column in a struct, as it is written in front of the name; all take eight bytes."""

_RESERVED_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    asm typeof bool true false NULL nulls linux unix stdin stdout stderr errno assert offsetof NAN INFINITY
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


def is_text(dtype: DataType) -> bool:
    """Whether a value is a `dz_text *`."""
    return dtype.kind in (Kind.STR, Kind.BYTES)


def identifier(name: str) -> str:
    """`name` as a C identifier that a person recognises; two names may give the same one."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)[:40]
    # What begins with an underscore, or in capitals, or with our own prefix, is somebody else's.
    if not word or word in _RESERVED or re.match(r"[0-9_]|dz_|[A-Z0-9_]*$|u?int\d+_", word):
        word = f"c_{word}"
    return word


def identifiers(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct C identifiers for `names`, in their order."""
    taken: set[str] = set()
    found = []
    for name in names:
        word = base = identifier(name)
        number = 2
        while word in taken:
            word = f"{base}_{number}"
            number += 1
        taken.add(word)
        found.append(word)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of one type, in C: `row_<name>` is their struct and `shape_<name>` their shape."""

    name: str
    types: tuple[DataType, ...]
    members: tuple[str, ...]
    """The struct's members, one per column."""

    @property
    def struct(self) -> str:
        """The name of the struct."""
        return f"row_{self.name}"

    @property
    def shape(self) -> str:
        """The name of the shape."""
        return f"shape_{self.name}"

    @property
    def null_words(self) -> int:
        """How many null words a row begins with."""
        return (len(self.types) + 63) // 64 if any(dtype.nullable for dtype in self.types) else 0

    @property
    def words(self) -> int:
        """How many words a row has, null words included."""
        return self.null_words + len(self.types)

    def word(self, column: int) -> int:
        """The place of a column's word in the row."""
        return self.null_words + column

    def value(self, row: str, column: int) -> str:
        """The value of a column, as an expression of its C type; `row` is a pointer to the struct."""
        return f"{row}->{self.members[column]}"

    def null(self, row: str, column: int) -> str:
        """Whether a column is null, as an expression that is 0 or 1; `0` if it cannot be."""
        if not self.types[column].nullable:
            return "0"
        return f"({self.null_word(row, column // 64)} >> {column % 64} & 1)"

    def null_word(self, row: str, number: int) -> str:
        """A null word, as an expression that can be assigned to."""
        return f"{row}->nulls" if self.null_words == 1 else f"{row}->nulls[{number}]"

    def declaration(self) -> str:
        """The struct and the shape, for the generated file."""
        return f"{self._struct_text()}\n{self._shape_text()}"

    def _struct_text(self) -> str:
        lines = [f"    {MEMBER_TYPES[t.kind]}{m};" for t, m in zip(self.types, self.members, strict=True)]
        if self.null_words:
            lines.insert(
                0,
                "    uint64_t nulls;" if self.null_words == 1 else f"    uint64_t nulls[{self.null_words}];",
            )
        body = "\n".join(lines or ["    char nothing[0];"])
        return f"typedef struct {{\n{body}\n}} {self.struct};\n"

    def _shape_text(self) -> str:
        texts = [self.word(i) for i, dtype in enumerate(self.types) if is_text(dtype)]
        arrays: dict[str, tuple[str, Sequence[object]]] = {
            "kinds": ("uint8_t", [KIND_NAMES[dtype.kind] for dtype in self.types]),
            "nullable": ("uint8_t", [int(dtype.nullable) for dtype in self.types]),
            "members": ("uint32_t", [len(dtype.members) for dtype in self.types]),
            "text_words": ("uint32_t", texts),
        }
        declared = [
            f"static const {c_type} {self.shape}_{name}[] = {{{', '.join(map(str, values or [0]))}}};"
            for name, (c_type, values) in arrays.items()
        ]
        fields = [
            f"    .words = {self.words}, .columns = {len(self.types)}, .null_words = {self.null_words},",
            *(f"    .{name} = {self.shape}_{name}," for name in ("kinds", "nullable", "members")),
            f"    .texts = {len(texts)}, .text_words = {self.shape}_text_words,",
        ]
        return "\n".join([*declared, f"static const dz_shape {self.shape} = {{", *fields, "};\n"])


def layout_of(name: str, row_type: RowType) -> Layout:
    """The layout of rows of `row_type`; `name` is an identifier, different for each layout of a generated file."""
    return Layout(name, row_type.types, identifiers(row_type.names))


def tuple_layout(name: str, types: Sequence[DataType], names: Sequence[str] = ()) -> Layout:
    """The layout of a tuple of values that is no row of the program, such as the key of a join."""
    return Layout(name, tuple(types), identifiers(names or [f"value{i + 1}" for i in range(len(types))]))
