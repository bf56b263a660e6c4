"""The native runtime's join does what `reference/join.py` does: rows, failures, what is kept, and loading."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero.compiler import plan
from dist_zero.expr.ops import Call, ColumnRef, Literal, Scalar
from dist_zero.left_out import Failures
from dist_zero.native import build
from dist_zero.reference.join import Join
from dist_zero.reference.operators import Context, Delta
from dist_zero.reference.scalar import Scalars
from dist_zero.types import BOOL, INT, STR, Row, RowType
from dist_zero.zset import ZSet, consolidate
from test.unit.native_harness import Harness, NativeFailure, Node, layout_and_text, row_bytes, word

pytestmark = pytest.mark.skipif(build.available() is not None, reason="there is no C compiler")

LEFT = RowType(("k", "tag", "v"), (INT.optional(), STR, INT))
RIGHT = RowType(("k", "tag", "w"), (INT.optional(), STR.optional(), INT.optional()))
SIDES = (LEFT, RIGHT)
KEY = (INT.optional(), STR.optional())
BOTH = RowType(("k", "tag", "v", "k'", "tag'", "w"), LEFT.types + RIGHT.types)
HOWS = ("inner", "left", "right", "outer", "semi", "anti")

JOIN = r"""
typedef struct node {
    dz_base base;
    dz_join join;
    dz_delta deltas[2];
} node;

/* (6 // k, tag): fails if k is 0. */
static int key(const dz_shape *shape, const uint64_t *row, uint64_t *out)
{
    out[0] = row[0] & 3;
    int64_t k = (int64_t)row[shape->null_words];
    out[1] = 0;
    out[2] = row[shape->null_words + 1];
    if (row[0] & 1) return 0;
    if (k == 0) return 1;
    out[1] = (uint64_t)(6 / k - (6 % k != 0 && (6 % k < 0) != (k < 0)));
    return 0;
}
static int left_key(dz_base *b, const uint64_t *row, uint64_t *out) { (void)b; return key(&shape_left, row, out); }
static int right_key(dz_base *b, const uint64_t *row, uint64_t *out) { (void)b; return key(&shape_right, row, out); }

/* v // w == 1: fails if w is 0. */
static int condition(dz_base *b, const uint64_t *both)
{
    (void)b;
    if (both[0] >> 5 & 1) return 0;
    int64_t v = (int64_t)both[3], w = (int64_t)both[6];
    if (w == 0) return -1;
    return v / w - (v % w != 0 && (v % w < 0) != (w < 0)) == 1;
}
static void emit(dz_base *b, const uint64_t *row, int64_t weight)
{
    (void)b;
    say("\1", 1);
    say_row(&OUTPUT, row);
    say_word((uint64_t)weight);
}
static void report(dz_base *b, int what, const uint64_t *row, int64_t weight)
{
    (void)b;
    char tag = (char)(2 + what);
    say(&tag, 1);
    say_row(what == DZ_JOIN_LEFT ? &shape_left : what == DZ_JOIN_RIGHT ? &shape_right : &shape_both, row);
    say_word((uint64_t)weight);
}
static const dz_join_spec spec = {
    .sides = {&shape_left, &shape_right}, .key = &shape_key, .both = &shape_both, .output = &OUTPUT,
    .keys = {left_key, right_key}, .condition = CONDITION, .pairs = PAIRS, .shown = {SHOWN_LEFT, SHOWN_RIGHT},
    .emit = emit, .report = report,
};

static void say_table(const dz_table *table, int side, uint32_t extra, bool weights)
{
    say_word(table->count);
    for (uint32_t at = 0; at < table->count; at++) {
        const uint64_t *entry = dz_table_entry(table, spec.sides[side], extra, at);
        say_row(spec.sides[side], entry);
        say_word(weights ? entry[spec.sides[side]->words + DZ_ZSET_WEIGHT] : 0);
    }
}
static void command(node *n, char letter)
{
    dz_base *b = &n->base;
    uint64_t row[8];
    int side = letter == 'r' || letter == 'n';
    switch (letter) {
    case 'l':
    case 'r':
        hear_row(b, spec.sides[side], row);
        dz_delta_add(b, &n->deltas[side], spec.sides[side], row, (int64_t)hear_word());
        break;
    case 'm':
    case 'n':
        hear_row(b, spec.sides[side], row);
        dz_join_take(b, &n->join, &spec, side, row, (int64_t)hear_word());
        break;
    case 'Z': while (dz_join_settle(b, &n->join, &spec, 2)) {} dz_sweep(b); break;
    case 'S':
        dz_join_step(b, &n->join, &spec, &n->deltas[0], &n->deltas[1]);
        dz_delta_clear(&n->deltas[0]);
        dz_delta_clear(&n->deltas[1]);
        say("\0", 1);
        dz_sweep(b);
        break;
    case 'T': for (side = 0; side < 2; side++) dz_kept_track(b, &n->join.sides[side], spec.sides[side]); break;
    case 'K':
        for (side = 0; side < 2; side++) {
            say_table(&n->join.sides[side].rows, side, dz_join_extra(&spec, side), true);
            say_table(&n->join.sides[side].touched, side, 0, false);
        }
        say_word(n->join.keys.count);
        break;
    default: dz_raise(b, DZ_BUG, "no such command");
    }
}
static void node_clear(node *n)
{
    dz_join_free(&n->base, &n->join, &spec);
    for (int side = 0; side < 2; side++) dz_delta_free(&n->base, &n->deltas[side], spec.sides[side]);
}
"""


def key_scalars() -> tuple[Scalar, ...]:
    k = Call("floordiv", (Literal(6, INT), ColumnRef(0, INT.optional())), INT.optional())
    return k, ColumnRef(1, STR)


def the_condition() -> Scalar:
    quotient = Call("floordiv", (ColumnRef(2, INT), ColumnRef(5, INT.optional())), INT.optional())
    return Call("eq", (quotient, Literal(1, INT)), BOOL.optional())


def output_type(how: str) -> RowType:
    left = [dtype.optional() if how in ("right", "outer") else dtype for dtype in LEFT.types]
    right = [dtype.optional() if how in ("left", "outer") else dtype for dtype in RIGHT.types]
    return LEFT if how in ("semi", "anti") else RowType(BOTH.names, (*left, *right))


def operator(how: str, conditioned: bool) -> plan.Join:
    condition = the_condition() if conditioned else None
    return plan.Join(
        left_key=key_scalars(),
        right_key=key_scalars(),
        condition=condition,
        how=how,
        id=2,
        inputs=(0, 1),
        row_type=output_type(how),
        stage=1,
        sharding=plan.UNKNOWN,
    )


@functools.cache
def harness(how: str, conditioned: bool) -> Harness:
    shown = {"left": (1, 0), "right": (0, 1), "outer": (1, 1), "semi": (2, 0), "anti": (1, 0)}.get(
        how, (0, 0)
    )
    types = {"left": LEFT, "right": RIGHT, "both": BOTH}
    if how not in ("semi", "anti"):
        types["output"] = output_type(how)
    shapes = [layout_and_text(name, row_type.types)[1] for name, row_type in types.items()]
    defines = {
        "OUTPUT": "shape_output" if how not in ("semi", "anti") else "shape_left",
        "CONDITION": "condition" if conditioned else "NULL",
        "PAIRS": str(how not in ("semi", "anti")).lower(),
        "SHOWN_LEFT": shown[0],
        "SHOWN_RIGHT": shown[1],
    }
    head = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    unused = "int test_unused(void) { return condition(NULL, NULL); }\n"  # with a condition or without
    text = "".join(shapes) + layout_and_text("key", KEY)[1] + head + JOIN + unused
    return Harness('#include "join.h"\n' + text)


@dataclass
class Pair:
    """The same join twice."""

    how: str
    conditioned: bool

    def __post_init__(self) -> None:
        self.reference = Join(operator(self.how, self.conditioned), SIDES)
        self.native: Node = harness(self.how, self.conditioned).node()
        self.kept = self.reference.kept()
        self.scalars = [Scalars(key_scalars(), row_type) for row_type in SIDES]
        self.scalars.append(Scalars((the_condition(),), BOTH))

    def track(self) -> None:
        self.native.run(b"T")
        for kept in self.kept.values():
            kept.track()

    def step(self, deltas: Sequence[Delta]) -> None:
        """Both take a step; what they say has to be the same."""
        failures = Failures([lambda row: row] * 2)
        said = consolidate(self.reference.apply(deltas, Context(failures, True)))
        script = [
            letter + row_bytes(row_type.types, row) + word(weight)
            for letter, row_type, delta in zip((b"l", b"r"), SIDES, deltas, strict=True)
            for row, weight in delta
        ]
        rows, failed = self._answers(b"".join(script) + b"S")
        assert rows == said
        assert failed == consolidate(failures.found)
        self.check_kept()

    def _answers(self, script: bytes) -> tuple[ZSet, ZSet]:
        found = self.native.run(script)
        rows: Delta = []
        failed: Delta = []
        while tag := found.raw(1)[0]:
            row_type = (output_type(self.how), LEFT, RIGHT, BOTH)[tag - 1]
            row = found.row(row_type.types)
            if tag == 1:
                rows.append((row, found.signed()))
            else:
                failed.append((row + self.scalars[tag - 2].failure(row), found.signed()))
        assert found.done()
        return consolidate(rows), consolidate(failed)

    def check_kept(self) -> None:
        found = self.native.run(b"K")
        keys = set()
        for row_type, kept, scalars in zip(SIDES, self.kept.values(), self.scalars, strict=False):
            entries = dict(kept.entries())
            assert dict(found.rows(row_type.types)) == entries
            touched = [key for key, _ in kept.touched()]
            assert {row for row, _ in found.rows(row_type.types)} == set(touched)
            keys |= {scalars.evaluate(row) for row in entries}
        assert found.word() == len(keys)

    def take(self, saved: Mapping[str, Delta]) -> None:
        """Both take in what was saved."""
        for name, kept in self.kept.items():
            kept.take(saved[name])
        for _ in self.reference.settle():
            pass
        script = [
            letter + row_bytes(row_type.types, row) + word(weight)
            for letter, row_type, pairs in zip((b"m", b"n"), SIDES, saved.values(), strict=True)
            for row, weight in pairs
        ]
        self.native.run(b"".join(script) + b"Z")
        self.check_kept()

    def saved(self) -> dict[str, Delta]:
        return {name: list(kept.entries()) for name, kept in self.kept.items()}


def rows_of(which: int) -> st.SearchStrategy[Row]:
    ks = st.sampled_from((None, 0, 1, 1, 2, 2, 3, -4))
    tags = (
        st.sampled_from(("", "a", "a", "zürich"))
        if which == 0
        else st.sampled_from((None, "", "a", "a", "zürich"))
    )
    return st.tuples(ks, tags, st.integers(-3, 6) if which == 0 else st.sampled_from((None, 0, 1, 2, 3)))


Step = tuple[Delta, Delta]


@st.composite
def histories(draw: st.DrawFn, count: int) -> list[list[Step]]:
    """So many histories, all with the same few rows, so that they meet, are taken back, and come again. In some steps
    nothing is taken back, for changes that cannot cancel take a shorter way."""
    pools = [draw(st.lists(rows_of(which), min_size=1, max_size=6)) for which in (0, 1)]

    def step(weights: st.SearchStrategy[int]) -> st.SearchStrategy[Step]:
        return st.tuples(*(st.lists(st.tuples(st.sampled_from(pool), weights), max_size=8) for pool in pools))

    steps = st.one_of(step(st.sampled_from((1, 1, 1, -1, -1, 2, -2))), step(st.sampled_from((1, 2))))
    return [draw(st.lists(steps, min_size=1, max_size=6)) for _ in range(count)]


every_join = pytest.mark.parametrize(
    ("how", "conditioned"),
    [(how, conditioned) for how in HOWS for conditioned in (False, True)],
    ids=lambda value: value if isinstance(value, str) else ("plain", "conditioned")[value],
)


@every_join
@settings(max_examples=50)
@given(given_histories=histories(1), track_at=st.integers(0, 6))
def test_a_join_is_the_reference(
    how: str, conditioned: bool, given_histories: list[list[Step]], track_at: int
) -> None:
    """Rows, failures, and what is kept and touched, step by step."""
    pair = Pair(how, conditioned)
    for number, deltas in enumerate(given_histories[0]):
        if number == track_at:
            pair.track()
        pair.step(deltas)
    pair.step([[(row, -weight) for row, weight in saved] for saved in pair.saved().values()])
    pair.check_kept()
    assert pair.native.free() == 0


@every_join
def test_a_weight_that_passes_zero_within_a_step(how: str, conditioned: bool) -> None:
    """The row was there and is there, so its partners are not counted again: they are gone when the other side is."""
    left, right = (1, "a", 2), (1, "a", 2)
    pair = Pair(how, conditioned)
    pair.track()
    steps: list[Step] = [
        ([(left, -1)], [(right, 1)]),
        ([(left, 1), (left, 1)], []),
        ([], [(right, -2)]),
        ([], [(right, 1), (right, 1)]),
        ([(left, -1)], []),
        ([(left, 1)], [(right, -1)]),
    ]
    for deltas in steps:
        pair.step(deltas)
    assert pair.native.free() == 0


@every_join
@settings(max_examples=30)
@given(given_histories=histories(3))
def test_a_loaded_join_goes_on(how: str, conditioned: bool, given_histories: list[list[Step]]) -> None:
    """What two saved is added up in a third, some is taken back, and it goes on as the reference does."""
    *before, after = given_histories
    saved = []
    for history in before:
        one = Pair(how, conditioned)
        for deltas in history:
            one.step(deltas)
        saved.append(one.saved())
        assert one.native.free() == 0
    loaded = Pair(how, conditioned)
    for state in saved:
        loaded.take(state)
    loaded.take({name: [(row, -weight) for row, weight in pairs[::2]] for name, pairs in saved[0].items()})
    loaded.track()
    for deltas in after:
        loaded.step(deltas)
    assert loaded.native.free() == 0


def many() -> bytes:
    """A history in which much happens."""
    parts = [b"T"]
    for number in range(120):
        left, right = (
            (number % 7 + 1, f"tag {number % 5}", number % 11),
            (number % 5 + 1, f"tag {number % 3}", number % 4),
        )
        weight = word(1 if number % 3 else -1)
        parts += [b"l" + row_bytes(LEFT.types, left) + weight, b"r" + row_bytes(RIGHT.types, right) + weight]
        if number % 20 == 19:
            parts.append(b"S")
    return b"".join(parts)


@every_join
def test_every_allocation_of_a_join_may_fail(how: str, conditioned: bool) -> None:
    """That is an error, and all memory is given back."""
    taken = b"m" + row_bytes(LEFT.types, (1, "tag 1", 2)) + word(1) + b"Z"
    assert harness(how, conditioned).every_failure(taken + many()) > 30


def test_saved_rows_without_a_key_are_refused() -> None:
    """They never were in a join."""
    for row, said in (((None, "a", 1), "without a key"), ((0, "a", 1), "its join key fails")):
        with pytest.raises(NativeFailure, match=said):
            harness("inner", False).once(b"m" + row_bytes(LEFT.types, row) + word(1))


def test_a_weight_beyond_64_bits_is_an_error() -> None:
    """Of a pair as well; but pairs that do not match are none."""
    left, right = (1, "a", 2**40), (1, "a", 1)
    script = (
        b"l"
        + row_bytes(LEFT.types, left)
        + word(2**40)
        + b"r"
        + row_bytes(RIGHT.types, right)
        + word(2**40)
        + b"S"
    )
    with pytest.raises(NativeFailure, match="beyond 64 bits"):
        harness("inner", False).once(script)
    assert harness("inner", True).once(script).done() is False
