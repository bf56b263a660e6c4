"""The native runtime's sums and means are those of `reference/accumulators.py`, to the bit."""

from __future__ import annotations

import functools
import math
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero import types as t
from dist_zero.native import build
from dist_zero.reference.accumulators import Accumulator, Count, FloatSum, IntSum
from dist_zero.reference.functions import ScalarFailure
from dist_zero.types import canonical_float, decimal_type
from dist_zero_common.errors import MalformedMessage
from test.unit.native_harness import Answers, Harness, NativeFailure, Node, text, word

pytestmark = pytest.mark.skipif(build.available() is not None, reason="there is no C compiler")

SUMS = r"""
typedef struct node {
    dz_base base;
    uint64_t count[DZ_COUNT_WORDS];
    uint64_t whole[DZ_INT_SUM_WORDS];
    uint64_t real[DZ_FLOAT_SUM_WORDS];
} node;

static void say_state(const char *bytes, size_t length, bool nothing)
{
    say_bytes(bytes, length);
    say_word(nothing);
}
static void say_result(int status, uint64_t word) { say_word((uint64_t)status); say_word(word); }
static void command(node *n, char letter)
{
    dz_base *b = &n->base;
    char bytes[DZ_SUM_BYTES_MAX];
    uint64_t value = 0;
    const char *given = NULL;
    size_t length = 0;
    if (letter == 'w' || letter == 'r') value = hear_word();
    if (letter == 'C' || letter == 'W' || letter == 'R') {
        length = hear_word();
        given = malloc(length + 1); /* exactly this long, so that reading beyond is found */
        given = memcpy((char *)given, script, length);
        script += length;
    }
    switch (letter) {
    case 'c': dz_count_add(b, n->count, (int64_t)hear_word()); break;
    case 'C': dz_count_merge(b, n->count, given, length, (int64_t)hear_word()); break;
    case '1': say_state(bytes, dz_count_encode(n->count, bytes), n->count[0] == 0); break;
    case 'w': dz_int_sum_add(b, n->whole, (int64_t)value, (int64_t)hear_word()); break;
    case 'W': dz_int_sum_merge(b, n->whole, given, length, (int64_t)hear_word()); break;
    case '2': {
        double unit;
        uint64_t bits = hear_word();
        memcpy(&unit, &bits, 8);
        say_state(bytes, dz_int_sum_encode(n->whole, bytes), dz_int_sum_is_nothing(n->whole));
        int status = dz_int_sum_result(n->whole, &value);
        say_result(status, value);
        status = dz_int_mean_result(n->whole, unit, &value);
        say_result(status, value);
        break;
    }
    case 'r': dz_float_sum_add(b, n->real, value, (int64_t)hear_word()); break;
    case 'R': dz_float_sum_merge(b, n->real, given, length, (int64_t)hear_word()); break;
    case '3': {
        say_state(bytes, dz_float_sum_encode(n->real, bytes), dz_float_sum_is_nothing(n->real));
        int status = dz_float_sum_result(n->real, &value);
        say_result(status, value);
        status = dz_float_mean_result(n->real, &value);
        say_result(status, value);
        say_word(dz_float_sum_spilt(n->real) != NULL);
        break;
    }
    case 'F': dz_float_sum_free(b, n->real); break;
    default: dz_raise(b, DZ_BUG, "no such command");
    }
    free((char *)given);
}
static void node_clear(node *n) { dz_float_sum_free(&n->base, n->real); }
"""


@functools.cache
def harness() -> Harness:
    """With a `char` that has no sign, as on ARM; everything else is tested with one that has."""
    return Harness(SUMS, ["-funsigned-char"])


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def expected(accumulator: Accumulator) -> tuple[int, bytes]:
    """The status and the word that a result comes to."""
    try:
        value = accumulator.result()
    except ScalarFailure:
        return 2, word(0)
    if value is None:
        return 1, word(0)
    return 0, bits(value) if isinstance(value, float) else word(int(value))


def check(found: Answers, summed: Accumulator, mean: Accumulator) -> None:
    encoded = found.text()
    assert encoded == summed.encode() == mean.encode()
    assert bool(found.word()) == (not any(encoded))
    for accumulator in (summed, mean):
        assert (found.word(), found.raw(8)) == expected(accumulator)


weights = st.one_of(
    st.sampled_from((1, -1)), st.integers(-5, 5), st.integers(-(2**40), 2**40), st.just(2**62)
)
Steps = list[tuple[Any, int]]


def steps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Steps]:
    """Values with weights; at the end, perhaps, some of them are taken back."""
    few = st.lists(st.tuples(values, weights), max_size=20)
    return st.tuples(few, st.integers(0, 20)).map(
        lambda drawn: drawn[0] + [(value, -weight) for value, weight in drawn[0][: drawn[1]]]
    )


def fits(taken: Steps) -> Steps:
    """The first of these steps whose count fits 64 bits all along."""
    count = 0
    for at, (_, weight) in enumerate(taken):
        count += weight
        if not -(2**63) <= count < 2**63:
            return taken[:at]
    return taken


ints = st.one_of(
    st.integers(-10, 10), st.integers(t.INT_MIN, t.INT_MAX), st.sampled_from((t.INT_MIN, t.INT_MAX))
)


@settings(max_examples=300)
@given(taken=steps(ints).map(fits), scale=st.integers(0, 18))
def test_sums_of_integers(taken: Steps, scale: int) -> None:
    """Totals of 128 bits, their results and means, encoded and merged."""
    dtype = decimal_type(scale)
    summed, mean = IntSum(dtype, False), IntSum(dtype, True)
    for value, weight in taken:
        summed.add(value, weight)
        mean.add(value, weight)
    script = b"".join(b"w" + word(value) + word(weight) for value, weight in taken)
    unit = b"2" + bits(float(10**scale))
    check(harness().once(script + unit), summed, mean)
    check(harness().once(b"W" + text(summed.encode()) + word(1) + unit), summed, mean)
    twice = b"W" + text(summed.encode()) + word(-1)
    if abs(summed.count) < 2**62:
        nothing = IntSum(dtype, False), IntSum(dtype, True)
        check(harness().once(script + twice + unit), *nothing)


floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000),
    st.integers(-(10**6), 10**6).map(lambda n: n / 100),
    st.sampled_from(
        (5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 1e16)
    ),
).map(canonical_float)
all_floats = st.one_of(floats, floats, st.floats().map(canonical_float))


def add_all(taken: Steps) -> tuple[FloatSum, FloatSum]:
    summed, mean = FloatSum(False), FloatSum(True)
    for value, weight in taken:
        summed.add(value, weight)
        mean.add(value, weight)
    return summed, mean


@pytest.mark.parametrize("values", [floats, all_floats, st.floats(-1e6, 1e6)], ids=["finite", "all", "usual"])
@settings(max_examples=300)
@given(data=st.data())
def test_sums_of_floats(values: st.SearchStrategy[float], data: st.DataObject) -> None:
    """Exact, whatever the order; rounded once; the same bytes; merged with any weight."""
    taken = data.draw(steps(values.map(canonical_float)).map(fits))
    summed, mean = add_all(taken)
    script = b"".join(b"r" + bits(value) + word(weight) for value, weight in taken)
    check(harness().once(script + b"3"), summed, mean)
    shuffled = data.draw(st.permutations(taken)) if fits(taken) == taken else taken
    if fits(list(shuffled)) == list(shuffled):
        again = b"".join(b"r" + bits(value) + word(weight) for value, weight in shuffled)
        assert harness().once(again + b"3").text() == summed.encode()
    weight = data.draw(st.sampled_from((1, -1, 3, -7)))
    if abs(summed.count) * 8 < 2**63:
        summed.merge(summed.encode(), weight)
        merged, _ = add_all(taken)
        merge = b"R" + text(merged.encode()) + word(weight)
        mean.merge(mean.encode(), weight)
        if all(abs(c) < 2**63 for c in (mean.positive_infinity, mean.negative_infinity, mean.nan)):
            check(harness().once(script + merge + b"3"), summed, mean)


def test_usual_sums_stay_in_the_window() -> None:
    """Prices and measurements need no memory of their own; and what once did is right all the same."""
    rng = random.Random(1)
    taken = [(canonical_float(rng.uniform(-1e6, 1e6)), rng.choice((1, 1, -1))) for _ in range(5000)]
    taken += [(round(rng.uniform(0, 1000), 2), 1) for _ in range(5000)]
    script = b"".join(b"r" + bits(value) + word(weight) for value, weight in taken)
    found = harness().once(script + b"3")
    check(found, *add_all(taken))
    assert found.word() == 0
    taken += [(1e300, 1), (1e-300, 1), (1e300, -1), (1e-300, -1)]
    script = b"".join(b"r" + bits(value) + word(weight) for value, weight in taken)
    found = harness().once(script + b"3")
    check(found, *add_all(taken))
    assert found.word() == 1


def test_rounding_at_every_exponent() -> None:
    """Halves go to even, what is over a half goes up, everywhere from subnormals to the largest float, and beyond."""
    for exponent in range(-1074, 1024):
        for steps_up in (0, 1):
            low = math.ldexp(1.0, exponent)
            high = math.ldexp(1 + steps_up * 2.0**-52, min(exponent + 53, 1023))
            for taken in (
                [(high, 1), (low, 1)],
                [(high, 1), (low, 1), (5e-324, 1)],
                [(high, -1), (low, -1), (low, -1)],
            ):
                script = b"".join(b"r" + bits(value) + word(weight) for value, weight in taken)
                check(harness().once(script + b"3"), *add_all(taken))
    largest = 1.7976931348623157e308
    for taken in (
        [(largest, 2)],
        [(largest, -2)],
        [(largest, 1), (math.ldexp(1.0, 969), 1)],
        [(largest, 2**62)],
    ):
        script = b"".join(b"r" + bits(value) + word(weight) for value, weight in taken)
        check(harness().once(script + b"3"), *add_all(taken))


@given(data=st.binary(max_size=310), weight=st.sampled_from((1, -1)))
def test_what_others_sent_is_checked(data: bytes, weight: int) -> None:
    """The same encoded sums are taken and refused, with the same words, whatever their bytes."""
    for letter, show, accumulator, mean in (
        (b"C", b"1", Count(), Count()),
        (b"W", b"2" + bits(1.0), IntSum(t.INT, False), IntSum(t.INT, True)),
        (b"R", b"3", FloatSum(False), FloatSum(True)),
    ):
        one: Accumulator = accumulator
        try:
            one.merge(data, weight)
            mean.merge(data, weight)
        except MalformedMessage as refused:
            with pytest.raises(NativeFailure) as found:
                harness().once(letter + text(data) + word(weight))
            assert (found.value.error, str(found.value)) == (3, str(refused))
            continue
        try:
            answers = harness().once(letter + text(data) + word(weight) + show)
        except (
            NativeFailure
        ) as failure:  # a count that is the smallest, taken back; an integer that no sum is
            assert failure.error in (2, 3)
            assert "beyond" in str(failure)
        else:
            if letter == b"C":
                assert answers.text() == one.encode()
            else:
                check(answers, one, mean)


def test_spilt_sums_are_given_back() -> None:
    """What a sum has beside the table goes with it; and without memory that is an error."""
    script = b"".join(b"r" + bits(v) + word(1) for v in (1.0, 1e300, math.inf, math.nan)) + b"3F"
    node: Node = harness().node()
    node.run(script)
    node.run(script)
    assert node.free() == 0
    assert harness().every_failure(script) == 1
