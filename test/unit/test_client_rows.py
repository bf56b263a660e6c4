"""What comes of a view: the order of its rows, and the same as Python objects and as Arrow tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.arrow_batches import sorted_table, table_of
from dist_zero.batch import Batch
from dist_zero.client.changed import ChangedRows, StoredRows
from dist_zero.client.snapshot import row_count, sorting_passes
from dist_zero.files import arrow_table
from dist_zero.ordering import sort_key
from dist_zero.row import row_class_of, row_from_stored, rows_from_stored
from dist_zero.types import INT, Row, RowType
from test.unit.strategies import row_types, stored_rows
from test.unit.test_batch import batches

pytestmark = pytest.mark.usefixtures("both_ways")


@st.composite
def views(draw: st.DrawFn) -> tuple[RowType, list[Batch], list[tuple[int, bool]]]:
    """Batches of a view with small weights, some of them negative, and an order that may name some columns."""
    types = draw(row_types(1))
    row_type = RowType(tuple(f"c{place}" for place in range(len(types))), types)
    weights = st.sampled_from((1, 1, 1, 2, 3, -1, -2))
    made = []
    for rows in draw(st.lists(st.lists(stored_rows(types), max_size=6), max_size=3)):
        told = draw(st.lists(weights, min_size=len(rows), max_size=len(rows)))
        batch = Batch.from_rows(types, rows, draw(st.sampled_from((None, told))))
        made.append(Batch.from_blob(types, batch.to_blob()) if draw(st.booleans()) else batch)
    places = draw(st.permutations(range(len(types))))[: draw(st.integers(0, len(types)))]
    return row_type, made, [(place, draw(st.booleans())) for place in places]


def _sorted(row_type: RowType, rows: list[Row], order: list[tuple[int, bool]]) -> list[Row]:
    """By one key that has all columns in it."""
    rest = [(place, False) for place in range(len(row_type)) if place not in {place for place, _ in order}]
    keys = [(place, sort_key(row_type.types[place], descending)) for place, descending in order + rest]
    return sorted(rows, key=lambda row: [key(row[place]) for place, key in keys])


@given(views())
def test_oracle_passes_sort_as_one_key(view: tuple[RowType, list[Batch], list[tuple[int, bool]]]) -> None:
    """Proves that sorting by groups of columns, the last one first, is sorting by all."""
    row_type, made, order = view
    rows = [row for batch in made for row in batch.rows()]
    ordered = list(rows)
    for key, reverse in sorting_passes(row_type, order):
        ordered.sort(key=key, reverse=reverse)
    assert list(map(repr, ordered)) == list(map(repr, _sorted(row_type, rows, order)))


@given(views())
def test_oracle_a_table_is_its_rows(view: tuple[RowType, list[Batch], list[tuple[int, bool]]]) -> None:
    """Proves that columns become the table that rows become: in the order of the view, as often as weights say, what
    came and what went apart."""
    row_type, made, order = view
    for sign in (1, -1):
        rows = [row for batch in made for row, weight in batch.items() for _ in range(sign * weight)]
        expected = arrow_table(row_type, _sorted(row_type, rows, order))
        table = sorted_table(row_type, made, order, sign)
        assert table.schema == expected.schema
        assert repr(table.to_pylist()) == repr(expected.to_pylist())
    everything = [row for batch in made for row in batch.rows()]
    assert repr(table_of(row_type, made).to_pylist()) == repr(arrow_table(row_type, everything).to_pylist())


@given(st.lists(batches(), max_size=3))
def test_changed_rows_are_a_sequence_of_pairs(made: list[Batch]) -> None:
    """Proves that they are to all appearances the list of all pairs."""
    rows, pairs = ChangedRows(made), [pair for batch in made for pair in batch.items()]
    assert len(rows) == len(pairs) and list(rows) == pairs and bool(rows) == bool(pairs)
    assert (
        rows == pairs and rows == ChangedRows(made) and rows[1:2] == pairs[1:2] and repr(rows) == repr(pairs)
    )
    if pairs:
        assert rows[-1] == pairs[-1]


def test_stored_rows_are_made_when_they_are_asked_for() -> None:
    """Proves that neither names nor counts make rows, and that rows are made once."""

    class Reader:
        asked = 0

        def sorted(self, rows: Any) -> list[Row]:
            self.asked += 1
            return sorted(rows)

    reader: Any = Reader()
    batch = Batch.from_rows((INT,), [(2,), (1,)], [1, 2])
    stored = StoredRows({"a": [batch]}, {"a": reader})
    assert list(stored) == ["a"] and "a" in stored and "b" not in stored and len(stored) == 1
    assert row_count(batch) == 3 and reader.asked == 0
    assert stored == {"a": [(1,), (1,), (2,)]} and stored["a"] is stored["a"] and reader.asked == 1


@given(
    row_types(1).flatmap(lambda types: st.tuples(st.just(types), st.lists(stored_rows(types), max_size=4)))
)
def test_many_rows_are_made_as_one_is(typed: tuple[Any, list[Row]]) -> None:
    """Proves that rows made together are those made alone."""
    types, rows = typed
    row_class = row_class_of("view", RowType(tuple(f"c{place}" for place in range(len(types))), types))
    made, alone = rows_from_stored(row_class, rows), [row_from_stored(row_class, row) for row in rows]
    assert list(map(repr, made)) == list(map(repr, alone)) and list(map(hash, made)) == list(map(hash, alone))


@pytest.mark.parametrize("descends", [(False, False), (True, False), (False, True), (True, True)])
def test_rows_are_taken_for_ordered_only_where_they_are(descends: tuple[bool, bool]) -> None:
    """All series of up to four rows with ties in either column: a table is in order, whatever it began with."""
    row_type = RowType(("a", "b"), (INT, INT))
    order = list(enumerate(descends))
    for count in range(5):
        for rows in product(product((0, 1), repeat=2), repeat=count):
            table = sorted_table(row_type, [Batch.from_rows(row_type.types, list(rows))], order)
            found = list(zip(*table.to_pydict().values(), strict=True))
            assert found == _sorted(row_type, list(rows), order), rows
