"""The native runtime's structures do what Python's do, give back all memory, and without memory there is an error."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero import types as t
from dist_zero.hashing import key_hash
from dist_zero.native import build
from dist_zero.types import DataType, Row, order_key
from dist_zero.zset import consolidate
from test.unit.native_harness import Harness, NativeFailure, layout_and_text, row_bytes, word
from test.unit.strategies import ENUM, KINDS, stored_rows

pytestmark = pytest.mark.skipif(build.available() is not None, reason="there is no C compiler")

STRUCTURES = r"""
typedef struct node {
    dz_base base;
    dz_table table;
    dz_kept kept;
    dz_delta delta;
    dz_ordered ordered;
} node;

#define S (&shape_test)
#define WORDS (shape_test.words)
static int compare(const uint64_t *left, const uint64_t *right) { return compare_rows(S, left, right); }

static void say_entries(const dz_table *table, uint32_t extra)
{
    say_word(table->count);
    for (uint32_t at = 0; at < table->count; at++) {
        const uint64_t *entry = dz_table_entry(table, S, extra, at);
        say_row(S, entry);
        say_word(extra ? entry[WORDS] : 0);
    }
}
static void say_ordered(node *n)
{
    dz_cursor cursor;
    say_word(n->ordered.count);
    for (uint64_t *e = dz_cursor_first(&cursor, &n->ordered, WORDS); e; e = dz_cursor_next(&cursor, WORDS))
        say_row(S, e), say_word(0);
    say_word(n->ordered.count);
    for (uint64_t *e = dz_cursor_last(&cursor, &n->ordered, WORDS); e; e = dz_cursor_previous(&cursor, WORDS))
        say_row(S, e), say_word(0);
    if (!n->ordered.count) return;
    say_row(S, dz_ordered_first(&n->ordered, WORDS));
    say_row(S, dz_ordered_last(&n->ordered, WORDS));
}
static void command(node *n, char letter)
{
    dz_base *b = &n->base;
    uint64_t row[WORDS + 1], *entry, hash = 0;
    dz_cursor cursor;
    bool is_new;
    if (letter < 'A' || letter > 'Z') {
        hear_row(b, S, row);
        hash = dz_row_hash(S, row);
    }
    switch (letter) {
    case 'h':
        say_word(dz_key_hash(S, row));
        say_word(hash);
        break;
    case 'p':
        entry = dz_table_put(b, &n->table, S, 1, row, hash, &is_new);
        entry[WORDS] = hear_word();
        say_word(is_new);
        break;
    case 'r':
        entry = dz_table_find(&n->table, S, 1, row, hash);
        if (entry) dz_table_remove(b, &n->table, S, 1, entry);
        say_word(entry != NULL);
        break;
    case 'f':
        dz_table_prefetch(&n->table, hash);
        dz_table_prefetch_entry(&n->table, S, 1, hash);
        entry = dz_table_find(&n->table, S, 1, row, hash);
        say_word(entry ? entry[WORDS] : UINT64_MAX);
        break;
    case 'k': {
        dz_weights weights = dz_kept_add(b, &n->kept, S, row, hash, (int64_t)hear_word());
        say_word((uint64_t)weights.before);
        say_word((uint64_t)weights.after);
        break;
    }
    case 'w': say_word((uint64_t)dz_kept_weight(&n->kept, S, row)); break;
    case 'n': dz_kept_take(b, &n->kept, S, row, (int64_t)hear_word()); break;
    case 'd': dz_delta_add(b, &n->delta, S, row, (int64_t)hear_word()); break;
    case 'i':
        dz_ordered_insert(b, &n->ordered, WORDS, compare, row, &is_new);
        if (is_new) dz_row_hold(b, S, row);
        say_word(is_new);
        break;
    case 'x': {
        uint64_t removed[WORDS + 1];
        bool found = dz_ordered_remove(b, &n->ordered, WORDS, compare, row, removed);
        if (found) dz_row_drop(b, S, removed);
        say_word(found);
        break;
    }
    case 'l':
        say_word(dz_ordered_find(&n->ordered, WORDS, compare, row) != NULL);
        entry = dz_cursor_seek(&cursor, &n->ordered, WORDS, compare, row);
        say_word(entry != NULL);
        if (entry) say_row(S, entry);
        break;
    case 'E': say_entries(&n->table, 1); break;
    case 'T': dz_kept_track(b, &n->kept, S); break;
    case 'K': say_entries(&n->kept.rows, DZ_ZSET_EXTRA); say_entries(&n->kept.touched, 0); break;
    case 'C':
        dz_consolidate(b, &n->delta, S);
        say_word(n->delta.negative);
        say_word(n->delta.count);
        for (uint32_t at = 0; at < n->delta.count; at++) {
            say_row(S, dz_delta_row(&n->delta, S, at));
            say_word((uint64_t)dz_delta_weight(&n->delta, S, at));
        }
        dz_delta_clear(&n->delta);
        break;
    case 'O': say_ordered(n); break;
    case 'S': dz_sweep(b); say_word(b->pool.count); break;
    case 'H': dz_delta_hold(b, &n->delta, S); break;
    case 'D': dz_delta_drop(b, &n->delta, S); break;
    default: dz_raise(b, DZ_BUG, "no such command");
    }
}
static void node_clear(node *n)
{
    dz_table_free(&n->base, &n->table, S, 1);
    dz_kept_free(&n->base, &n->kept, S, DZ_ZSET_EXTRA);
    dz_delta_free(&n->base, &n->delta, S);
    dz_ordered_free(&n->base, &n->ordered, WORDS);
}
"""

SHAPES: tuple[tuple[DataType, ...], ...] = (
    (),
    (t.INT,),
    (t.INT.optional(),),
    (t.STR,),
    (t.FLOAT,),
    (t.BOOL,),
    (t.STR, t.INT.optional(), t.FLOAT),
    KINDS,
    (*(dtype.optional() for dtype in KINDS), ENUM, t.BYTES),
)
shapes = pytest.mark.parametrize(
    "types", SHAPES, ids=lambda types: ",".join(map(str, types))[:40] or "nothing"
)


@functools.cache
def harness(types: tuple[DataType, ...]) -> Harness:
    return Harness(layout_and_text("test", types)[1] + STRUCTURES)


def few_rows(types: Sequence[DataType]) -> st.SearchStrategy[list[Row]]:
    """A few rows from which commands choose, so that they meet."""
    return st.lists(stored_rows(tuple(types)), min_size=1, max_size=12)


@shapes
@settings(max_examples=40)
@given(data=st.data())
def test_key_hashes_are_those_of_hashing(types: tuple[DataType, ...], data: st.DataObject) -> None:
    """XXH64 of the canonical encoding, whatever the key is made of; and equal rows have equal hashes of their own."""
    row = data.draw(stored_rows(types))
    found = harness(types).once(b"h" + row_bytes(types, row) + b"h" + row_bytes(types, row))
    assert found.word() == key_hash(types, row)
    internal = found.word()
    found.word()
    assert found.word() == internal


@pytest.mark.parametrize("length", [*range(70), 118, 119, 120, 127, 128, 1000])
def test_key_hashes_of_texts_of_every_length(length: int) -> None:
    """The algorithm goes other ways for short and long input, and for each rest."""
    long = "äbc€" * 300
    for types in ((t.BYTES,), (t.BYTES, t.BYTES.optional())):
        row: Row = (long.encode()[:length], long.encode()[1 : length // 2])[: len(types)]
        assert harness(types).once(b"h" + row_bytes(types, row)).word() == key_hash(types, row)


def test_rows_with_several_null_words() -> None:
    """More than 64 columns, any of them null."""
    types, rng = (t.INT.optional(),) * 70, random.Random(11)
    rows: list[Row] = [tuple(rng.choice((None, 0, number)) for number in range(70)) for _ in range(30)]
    found = harness(types).once(b"".join(b"h" + row_bytes(types, row) for row in rows))
    assert [(found.word(), found.word())[0] for _ in rows] == [key_hash(types, row) for row in rows]
    node = harness(types).node()
    node.run(b"".join(b"p" + row_bytes(types, row) + word(7) for row in rows))
    assert dict(node.run(b"E").rows(types)) == dict.fromkeys(rows, 7)
    assert node.free() == 0


@shapes
@settings(max_examples=40)
@given(data=st.data())
def test_a_table_is_a_dict(types: tuple[DataType, ...], data: st.DataObject) -> None:
    """Puts, removals and lookups, in any order; entries come in the order they lie in."""
    rows, model = data.draw(few_rows(types)), dict[Row, int]()
    node = harness(types).node()
    for letter, at, number in data.draw(commands("prf")):
        row = rows[at % len(rows)]
        found = node.run(letter + row_bytes(types, row) + (word(number) if letter == b"p" else b""))
        if letter == b"p":
            assert found.word() == (row not in model)
            model[row] = number
        elif letter == b"r":
            assert found.word() == (model.pop(row, None) is not None)
        else:
            assert found.word() == model.get(row, -1) & (2**64 - 1)
    everything = node.run(b"E").rows(types)
    assert len(everything) == len(model)
    assert dict(everything) == model
    assert node.free() == 0


def commands(letters: str) -> st.SearchStrategy[list[tuple[bytes, int, int]]]:
    one = st.tuples(
        st.sampled_from([letter.encode() for letter in letters]), st.integers(0, 99), st.integers(-3, 3)
    )
    return st.lists(one, max_size=60)


def test_a_table_of_many() -> None:
    """It grows and shrinks through many sizes, and nothing is lost."""
    types, rng, model = (t.INT, t.STR), random.Random(7), dict[Row, int]()
    node = harness(types).node()
    for _ in range(30):
        script, said = [], []
        for _ in range(1000):
            number = rng.randrange(4000)
            row = (number, f"row {number % 100}")
            if rng.random() < 0.6:
                script.append(b"p" + row_bytes(types, row) + word(number))
                said.append(row not in model)
                model[row] = number
            else:
                script.append(b"r" + row_bytes(types, row))
                said.append(model.pop(row, None) is not None)
        found = node.run(b"".join(script) + b"S")
        assert [bool(found.word()) for _ in said] == said
        assert found.word() == len({row[1] for row in model})
    assert dict(node.run(b"E").rows(types)) == model
    assert node.free() == 0


@shapes
@settings(max_examples=40)
@given(data=st.data())
def test_kept_rows_and_what_was_touched(types: tuple[DataType, ...], data: st.DataObject) -> None:
    """Weights add up, rows of weight 0 are gone, and what was touched since `track` is known, gone or not."""
    rows, model = data.draw(few_rows(types)), dict[Row, int]()
    touched: dict[Row, int] | None = None
    node = harness(types).node()
    for letter, at, number in data.draw(commands("kkkwnT")):
        row, weight = rows[at % len(rows)], number or 5
        if letter == b"T":
            node.run(letter)
            touched = {}
            continue
        found = node.run(letter + row_bytes(types, row) + (b"" if letter == b"w" else word(weight)))
        before = model.get(row, 0)
        if letter == b"w":
            assert found.signed() == before
            continue
        model[row] = before + weight
        if letter == b"k":
            assert (found.signed(), found.signed()) == (before, before + weight)
            if touched is not None:
                touched[row] = 0
        if not model[row]:
            del model[row]
    found = node.run(b"K")
    assert dict(found.rows(types)) == model
    assert dict(found.rows(types)) == (touched or {})
    assert node.free() == 0


@shapes
@settings(max_examples=40)
@given(data=st.data())
def test_consolidation(types: tuple[DataType, ...], data: st.DataObject) -> None:
    """Weights of equal rows add up, zeros go, and rows come in the order of their first appearance."""
    rows = data.draw(few_rows(types))
    pairs = [(rows[at % len(rows)], weight) for _, at, weight in data.draw(commands("d"))]
    script = b"".join(b"d" + row_bytes(types, row) + word(weight) for row, weight in pairs)
    node = harness(types).node()
    found = node.run(script + b"C")
    total: dict[Row, int] = {}
    for row, weight in pairs:
        total[row] = total.get(row, 0) + weight
    expected = [(row, weight) for row, weight in total.items() if weight]
    assert dict(expected) == consolidate(pairs)
    assert bool(found.word()) == any(weight < 0 for _, weight in expected)
    assert found.rows(types) == expected
    assert node.run(b"C").word() == 0
    assert node.free() == 0


def order(types: Sequence[DataType], row: Row) -> tuple[Any, ...]:
    return tuple(order_key(dtype)(value) for dtype, value in zip(types, row, strict=True))


ORDERED: tuple[tuple[DataType, ...], ...] = ((t.INT,), (t.BYTES.optional(), t.INT))


@pytest.mark.parametrize("types", ORDERED, ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_an_ordered_index_is_a_sorted_list(types: tuple[DataType, ...], data: st.DataObject) -> None:
    """Few entries."""
    rows, model = data.draw(few_rows(types)), set[Row]()
    node = harness(types).node()
    for letter, at, _ in data.draw(commands("iixl")):
        check_ordered(types, node, model, [(letter, rows[at % len(rows)])])
    assert node.free() == 0


@pytest.mark.parametrize("types", ORDERED, ids=str)
@pytest.mark.parametrize("how", ["ascending", "descending", "random", "waves"])
def test_a_large_ordered_index(types: tuple[DataType, ...], how: str) -> None:
    """Nodes split and become one again, however entries come and go; texts that are gone are not looked at."""
    rng, model, node = random.Random(3), set[Row](), harness(types).node()
    count = 4_800  # more than 64 nodes of 64, so that there are three levels
    numbers = list(range(count)) if how != "descending" else list(range(count, 0, -1))
    if how == "random":
        rng.shuffle(numbers)
    rows = [(b"%05d" % number, number)[2 - len(types) :] for number in numbers]
    for start in range(0, count, 800):
        check_ordered(types, node, model, [(b"i", row) for row in rows[start : start + 800]])
        if how == "waves":
            some = rng.sample(sorted(model), 640)
            check_ordered(types, node, model, [(b"x", row) for row in some])
    gone = list(model)
    gone.sort()
    if how == "random":
        rng.shuffle(gone)
    for start in range(0, len(gone), 500):
        check_ordered(types, node, model, [(b"x", row) for row in gone[start : start + 500]])
        check_ordered(types, node, model, [(b"l", row) for row in rng.sample(rows, 30)])
    assert not model
    assert node.free() == 0


def check_ordered(
    types: Sequence[DataType], node: Any, model: set[Row], steps: list[tuple[bytes, Row]]
) -> None:
    found = node.run(b"".join(letter + row_bytes(types, row) for letter, row in steps) + b"SO")
    for letter, row in steps:
        if letter == b"i":
            assert bool(found.word()) == (row not in model)
            model.add(row)
        elif letter == b"x":
            assert bool(found.word()) == (row in model)
            model.discard(row)
        else:
            assert bool(found.word()) == (row in model)
            behind = [other for other in model if order(types, other) >= order(types, row)]
            assert bool(found.word()) == bool(behind)
            if behind:
                assert found.row(types) == min(behind, key=lambda other: order(types, other))
    found.word()
    expected = sorted(model, key=lambda row: order(types, row))
    assert [row for row, _ in found.rows(types)] == expected
    assert [row for row, _ in found.rows(types)] == expected[::-1]
    if expected:
        assert (found.row(types), found.row(types)) == (expected[0], expected[-1])
    assert found.done()


def test_texts_go_when_nobody_holds_them() -> None:
    """At the end of a call, not before; and those that are held stay."""
    types = (t.STR,)
    node = harness(types).node()
    put = b"".join(b"p" + row_bytes(types, (f"text {i}",)) + word(i) for i in range(500))
    looked = b"".join(b"f" + row_bytes(types, (f"other {i}",)) for i in range(500))
    gone = b"".join(b"r" + row_bytes(types, (f"text {i}",)) for i in range(0, 500, 2))
    node.run(put + looked)
    assert node.run(b"S").word() == 500
    node.run(gone)
    assert node.run(b"S").word() == 250
    assert dict(node.run(b"E").rows(types)) == {(f"text {i}",): i for i in range(1, 500, 2)}
    waiting = b"d" + row_bytes(types, ("waits",)) + word(1)
    node.run(waiting + b"HS")
    assert node.run(b"S").word() == 251
    node.run(b"DC")
    assert node.run(b"S").word() == 250
    assert node.free() == 0


def test_weights_beyond_64_bits_are_an_error() -> None:
    """Nothing wraps, and the node says so from then on."""
    types, node = (t.INT,), harness((t.INT,)).node()
    one = row_bytes(types, (1,))
    node.run(b"k" + one + word(2**62))
    for _ in range(2):
        with pytest.raises(NativeFailure, match="a weight beyond 64 bits"):
            node.run(b"k" + one + word(2**62))
    assert node.free() == 0
    with pytest.raises(NativeFailure, match="a weight beyond 64 bits"):
        harness(types).once((b"d" + one + word(2**62)) * 2 + b"C")


def test_every_allocation_may_fail() -> None:
    """That is an error, not a crash, and all memory is given back."""
    types, rng = (t.STR, t.INT), random.Random(5)
    parts = [b"T"]
    for number in range(300):
        row = row_bytes(types, (f"text {number % 200}", number % 150))
        parts += [b"p" + row + word(1), b"k" + row + word(1), b"d" + row + word(-1), b"i" + row]
        if rng.random() < 0.3:
            parts += [b"x" + row, b"r" + row, b"k" + row + word(-1), b"S"]
    assert harness(types).every_failure(b"".join(parts) + b"CTKS") > 200
