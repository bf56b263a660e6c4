"""Accumulators are commutative groups, and their results are those of exact arithmetic."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_zero.expr.ops import Aggregation, ColumnRef
from dist_zero.reference.accumulators import Accumulator, accumulator_factory
from dist_zero.reference.functions import ScalarFailure
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    FLOAT,
    INT,
    INT_MAX,
    INT_MIN,
    NAN,
    STR,
    DataType,
    canonical_float,
    decimal_type,
)
from dist_zero_common.errors import DataError, MalformedMessage

_FLOATS = st.floats(width=64).map(canonical_float)
_INTS = st.integers(INT_MIN, INT_MAX)
_CASES: list[tuple[DataType, st.SearchStrategy[Any], tuple[str, ...]]] = [
    (INT, _INTS, ("count", "sum", "mean", "min", "max")),
    (FLOAT, _FLOATS, ("count", "sum", "mean", "min", "max")),
    (decimal_type(4), _INTS, ("sum", "mean", "min", "max")),
    (STR, st.text(st.characters(exclude_categories=["Cs"]), max_size=3), ("min", "max")),
    (BYTES, st.binary(max_size=3), ("min", "max")),
    (BOOL, st.booleans(), ("min", "max")),
    (DATETIME, st.integers(0, 5), ("min", "max")),
]
_EACH = [(dtype, values, function) for dtype, values, functions in _CASES for function in functions]
_each = pytest.mark.parametrize(("dtype", "values", "function"), _EACH)


def make(function: str, dtype: DataType) -> Accumulator:
    """An empty accumulator."""
    return accumulator_factory(Aggregation(function, ColumnRef(0, dtype), None, dtype))()


def outcome(accumulator: Accumulator) -> object:
    """What an accumulator says, bit by bit."""
    try:
        result = accumulator.result()
    except ScalarFailure as failure:
        return failure.reason
    return struct.pack("<d", result) if isinstance(result, float) else result


def filled(function: str, dtype: DataType, values: list[Any]) -> Accumulator:
    """An accumulator of these values."""
    accumulator = make(function, dtype)
    for value in values:
        accumulator.add(value, 1)
    return accumulator


@_each
@settings(max_examples=20)
@given(data=st.data())
def test_a_retraction_takes_back_precisely_what_was_added(
    dtype: DataType, values: st.SearchStrategy[Any], function: str, data: st.DataObject
) -> None:
    """Adding values and taking them out again, in another order, leaves result and encoding as they were."""
    kept = data.draw(st.lists(values, max_size=6))
    passing = data.draw(st.lists(values, max_size=6))
    plain, disturbed = filled(function, dtype, kept), filled(function, dtype, passing + kept)
    for value in data.draw(st.permutations(passing)):
        disturbed.add(value, -1)
    assert outcome(disturbed) == outcome(plain)
    assert disturbed.encode() == plain.encode()


@_each
@settings(max_examples=20)
@given(data=st.data())
def test_neither_order_nor_grouping_matters(
    dtype: DataType, values: st.SearchStrategy[Any], function: str, data: st.DataObject
) -> None:
    """Values in any order, with weights or one by one, here or merged from encoded parts, give the same bits."""
    found = data.draw(st.lists(values, max_size=8))
    whole = filled(function, dtype, found)
    shuffled = data.draw(st.permutations(found))
    cut = data.draw(st.integers(0, len(found)))
    merged = make(function, dtype)
    for part in (shuffled[:cut], shuffled[cut:]):
        merged.merge(filled(function, dtype, part).encode(), 1)
    doubled = make(function, dtype)
    for value in shuffled:
        doubled.add(value, 2)
        doubled.add(value, -1)
    assert outcome(merged) == outcome(whole)
    assert outcome(doubled) == outcome(whole)
    assert merged.encode() == whole.encode() == doubled.encode()


@_each
@settings(max_examples=20)
@given(data=st.data())
def test_merged_parts_can_be_taken_out_again(
    dtype: DataType, values: st.SearchStrategy[Any], function: str, data: st.DataObject
) -> None:
    """A part that changes is replaced by merging the old encoding with weight −1."""
    old, new, other = (filled(function, dtype, data.draw(st.lists(values, max_size=4))) for _ in range(3))
    total = make(function, dtype)
    for encoded, weight in ((old.encode(), 1), (other.encode(), 1), (old.encode(), -1), (new.encode(), 1)):
        total.merge(encoded, weight)
    expected = make(function, dtype)
    expected.merge(new.encode(), 1)
    expected.merge(other.encode(), 1)
    assert total.encode() == expected.encode()


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False).map(canonical_float), min_size=1, max_size=20)
)
@example([1e308, 1e308, -1e308])
@example([1e16, 1.0, -1e16])
@example([5e-324, -5e-324, 5e-324])
@example([1.0, 2**-53, 2**-1074])
def test_a_float_sum_is_the_exact_sum_rounded_once(values: list[float]) -> None:
    """The sum equals that of fractions, rounded; beyond the largest float it is infinite."""
    exact = sum(map(Fraction, values), Fraction(0))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert filled("sum", FLOAT, values).result() == expected
    assert filled("mean", FLOAT, values).result() == expected / len(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1e308], -math.inf),
        ([math.inf, -math.inf], NAN),
        ([NAN, math.inf], NAN),
        ([1e308, 1e308], math.inf),
        ([-1e308, -1e308], -math.inf),
        ([], None),
    ],
)
def test_sums_with_infinities_and_nan(values: list[float], expected: float | None) -> None:
    """Infinities and NaN follow IEEE whatever the order, and can be taken out again."""
    for order in (values, values[::-1]):
        accumulator = filled("sum", FLOAT, order)
        assert accumulator.result() is expected or accumulator.result() == expected
        accumulator.add(2.5, 1)
        for value in order:
            accumulator.add(value, -1)
        assert accumulator.result() == 2.5


def test_integer_sums_may_leave_64_bits_and_come_back() -> None:
    """A sum beyond 64 bits fails only while it is beyond."""
    accumulator = filled("sum", INT, [INT_MAX, 1])
    with pytest.raises(ScalarFailure, match="integer overflow"):
        accumulator.result()
    accumulator.add(1, -1)
    assert accumulator.result() == INT_MAX
    assert filled("mean", INT, [INT_MAX, INT_MAX]).result() == float(2 * INT_MAX) / 2


@given(st.lists(st.tuples(_FLOATS, st.booleans()), max_size=300))
def test_extremes_follow_a_multiset(steps: list[tuple[float, bool]]) -> None:
    """Smallest and largest are those of the values left, NaN being larger than every number."""
    low, high = make("min", FLOAT), make("max", FLOAT)
    left: list[float] = []
    for value, leave in steps:
        chosen, weight = (left.pop(0), -1) if leave and left else (value, 1)
        low.add(chosen, weight)
        high.add(chosen, weight)
        if weight > 0:
            left.append(chosen)
        ordered = sorted(left, key=lambda v: (v != v, 0.0 if v != v else v))
        assert outcome(low) == (struct.pack("<d", ordered[0]) if ordered else None)
        assert outcome(high) == (struct.pack("<d", ordered[-1]) if ordered else None)


@_each
@settings(max_examples=20)
@given(data=st.binary(max_size=400))
def test_hostile_encodings_are_refused_or_taken_but_never_crash(
    dtype: DataType, values: object, function: str, data: bytes
) -> None:
    """Bytes that no accumulator wrote raise `MalformedMessage` at worst."""
    del values
    with suppress(MalformedMessage):
        make(function, dtype).merge(data, 1)


def test_numbers_that_nobody_could_hold_are_errors_of_ours() -> None:
    """Regression: a sum beyond 128 bits was taken, which the native executor refuses; and for a count beyond 64, Python
    raised an error of its own."""
    (count, total), argument = ((0).to_bytes(8, "little"), 2**127), ColumnRef(0, INT)
    summed = accumulator_factory(Aggregation("sum", argument, None, INT.optional()))()
    summed.merge(count + (total - 1).to_bytes(16, "little", signed=True), 1)
    with pytest.raises(MalformedMessage, match="beyond 128 bits"):
        summed.merge(count + total.to_bytes(17, "little", signed=True), 1)
    for function in ("count", "sum"):
        many = accumulator_factory(Aggregation(function, argument, None, INT.optional()))()
        many.add(1, 2**63)
        with pytest.raises(DataError, match="does not fit 64 bits"):
            many.encode()
