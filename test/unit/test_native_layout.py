"""Layouts of rows: names that C takes, and structs that are the words of the row."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero.native.build import available, compiled
from dist_zero.native.layout import identifiers, layout_of, tuple_layout
from dist_zero.types import BOOL, FLOAT, INT, STR, DataType, RowType, enum_type
from test.unit.strategies import row_types

NAMES = st.one_of(
    st.text(max_size=6), st.sampled_from(("int", "a", "a_2", "nulls", "DZ_INT", "x" * 60, "dz_text"))
)


@settings(max_examples=200)
@given(st.lists(NAMES, max_size=8))
def test_identifiers_are_distinct_and_no_words_of_c(names: list[str]) -> None:
    """Whatever columns are called."""
    found = identifiers(names)
    assert len(set(found)) == len(found) == len(names)
    for word in found:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", word) and not word.startswith("dz_")
        assert word not in ("int", "nulls") and not re.fullmatch(r"[A-Z0-9_]+", word)


def test_names_that_are_identifiers_stay() -> None:
    """So that a person finds them again."""
    assert identifiers(["dep_delay", "Origin", "a1", "int", "Ü", "2nd"]) == (
        "dep_delay",
        "Origin",
        "a1",
        "c_int",
        "c__",
        "c_2nd",
    )


def test_words() -> None:
    """Null words come first, if anything can be null at all."""
    plain = layout_of("plain", RowType(("a", "b"), (INT, STR)))
    assert (plain.null_words, plain.words, plain.word(1), plain.null("row", 1)) == (0, 2, 1, "0")
    mixed = layout_of("mixed", RowType(("a", "b"), (INT, STR.optional())))
    assert (mixed.null_words, mixed.words, mixed.word(1)) == (1, 3, 2)
    assert mixed.null("row", 1) == "(row->nulls >> 1 & 1)"
    wide = tuple_layout("wide", [FLOAT.optional()] * 65)
    assert (wide.null_words, wide.words) == (2, 67)
    assert wide.null("row", 64) == "(row->nulls[1] >> 0 & 1)"


@pytest.mark.skipif(available() is not None, reason=f"no C compiler: {available()}")
@settings(max_examples=5)
@given(st.lists(row_types(max_size=9), min_size=1, max_size=12))
def test_structs_are_the_words(many: list[tuple[DataType, ...]]) -> None:
    """Each member is where its word is, and the shape says the same."""
    types = [*many, (BOOL.optional(),) * 130, (enum_type(("a", "b")),)]
    layouts = [tuple_layout(f"t{number}", some) for number, some in enumerate(types)]
    lines = ['#include "core.h"', *(layout.declaration() for layout in layouts)]
    for layout in layouts:
        lines.append(f'_Static_assert(sizeof({layout.struct}) == 8 * {layout.words}, "size");')
        for column, member in enumerate(layout.members):
            place = f"offsetof({layout.struct}, {member})"
            lines.append(f'_Static_assert({place} == 8 * {layout.word(column)}, "place");')
    known = " + ".join(f"{layout.shape}.words * {1000 + n}" for n, layout in enumerate(layouts))
    lines.append(f"DZ_EXPORT int total(void) {{ return (int)({known}); }}")
    library = compiled("\n".join(lines), extra_flags=("-Wno-unused-const-variable",))
    assert library.total() == sum(layout.words * (1000 + n) for n, layout in enumerate(layouts))
