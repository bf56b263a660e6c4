"""One program with every operation, under random histories: after each epoch every view equals the oracle's.

Simulated: nodes are objects in this process, and what arrives is put in a random order and cut at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import DatasetPlan, Plan
from dist_zero.expr.ops import Graph
from dist_zero.hashing import encode_key
from dist_zero.reference.evaluate import Oracle
from dist_zero.reference.history import Datasets
from dist_zero.types import INT_MAX, INT_MIN, NAN, DataType, Kind, RowType
from dist_zero.zset import ZSet, add_pairs
from test.oracle.everything import program
from test.oracle.nodes import Arrived, Nodes, delete, put, update

_VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.BOOL: st.booleans(),
    Kind.INT: st.sampled_from([0, 1, 1, 2, 2, 3, -1, INT_MAX, INT_MIN, 1 << 62]),
    Kind.FLOAT: st.sampled_from(
        [0.0, 1.0, 1.5, 2.0, -1.0, 0.1, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), NAN]
    ),
    Kind.STR: st.sampled_from(["", "a", "b", "b", "zürich", "\U0001f600"]),
    Kind.BYTES: st.sampled_from([b"", b"a", b"a\x00", b"\xff"]),
    Kind.DATETIME: st.sampled_from([0, 1, -1, 86_400_000_000, 3 * 86_400_000_000, 253402300799999999]),
    Kind.DECIMAL: st.sampled_from([0, 1, 150, -150, INT_MAX]),
}


_FEW: dict[Kind, list[Any]] = {Kind.STR: ["a", "b"], Kind.INT: [1, 2], Kind.FLOAT: [1.0, 2.0, NAN]}


def values(dtype: DataType, few: bool) -> st.SearchStrategy[Any]:
    """Stored values of a type; `few` different ones, so that they meet."""
    if few:
        found: st.SearchStrategy[Any] = st.sampled_from(_FEW[dtype.kind])
    elif dtype.kind is Kind.ENUM:
        found = st.integers(0, len(dtype.members) - 1)
    else:
        found = _VALUES[dtype.kind]
    return st.none() | found if dtype.nullable else found


def rows(
    row_type: RowType, key: tuple[int, ...] | None, columns: Sequence[int]
) -> st.SearchStrategy[tuple[Any, ...]]:
    """Stored rows of these columns; there are few keys, and few rows of a bag."""
    return st.tuples(*(values(row_type.types[i], key is None or i in key) for i in columns))


def bits(types: tuple[DataType, ...], zset: ZSet) -> dict[bytes, int]:
    """A Z-set by the bytes of its rows: 1, 1.0 and true are equal, and their bytes are not."""
    return {encode_key(types, row): weight for row, weight in zset.items()}


@cache
def everything() -> tuple[Graph, Plan]:
    """The program and its plan."""
    graph = program().graph()
    return graph, compile(graph)


def writes(plan: Plan) -> st.SearchStrategy[Writes]:
    """Writes of any kind to any dataset."""
    return st.one_of([option for dataset in plan.datasets for option in _writes(plan, dataset)])


def _writes(plan: Plan, dataset: DatasetPlan) -> list[st.SearchStrategy[Writes]]:
    name, row_type, key = dataset.name, dataset.row_type, dataset.key
    puts = st.lists(rows(row_type, key, range(len(row_type))), min_size=1, max_size=6).map(
        partial(_call, put, plan, name)
    )
    if key is None:
        return [puts]
    other = tuple(i for i in range(len(row_type)) if i not in key)
    keys = st.lists(rows(row_type, key, key), min_size=1, max_size=3)
    changes = st.lists(rows(row_type, key, (*key, *other)), min_size=1, max_size=3)
    changed = [row_type.names[i] for i in other]
    return [
        puts,
        keys.map(partial(_call, delete, plan, name)),
        changes.map(partial(_call, update, plan, name, changed)),
    ]


def _call(function: Callable[..., Writes], *args: Any) -> Writes:
    """`function`, with the last argument, a list, spread out."""
    return function(*args[:-1], *args[-1])


def shuffled(seed: int) -> Any:
    """A function that cuts batches in pieces and puts them in a random order."""
    rng = random.Random(seed)

    def reorder(arrived: Arrived) -> Arrived:
        pieces: Arrived = []
        for exchange, batch in arrived:
            pairs = list(batch.items())
            rng.shuffle(pairs)
            cut = rng.randint(0, len(pairs))
            for part in (pairs[:cut], pairs[cut:]):
                if part:
                    types = batch.types
                    pieces.append(
                        (exchange, Batch.from_rows(types, [r for r, _ in part], [w for _, w in part]))
                    )
        rng.shuffle(pieces)
        return pieces

    return reorder


@pytest.mark.parametrize("count", [1, 3])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_simulated_views_equal_the_oracle(count: int, data: st.DataObject) -> None:
    """Rows, errors, changes, `get` and misses are what the definition says, at every epoch, for any number of nodes."""
    graph, plan = everything()
    nodes = Nodes(plan, count, reorder=shuffled(data.draw(st.integers(0, 2**16))))
    datasets = Datasets(graph)
    told: dict[str, dict[Any, int]] = {view.name: {} for view in graph.views}
    for _ in range(data.draw(st.integers(1, 4))):
        transactions = data.draw(st.lists(st.lists(writes(plan), max_size=3), max_size=3))
        for transaction in transactions:
            datasets.apply(transaction)
        for changed in nodes.run(*transactions):
            for number, batch in changed.items():
                add_pairs(told[plan.views[number].name], batch.items())
        oracle = Oracle(graph, datasets.contents())
        for view in graph.views:
            expected = oracle.view(view.name)
            types = view.relation.row_type.types
            assert bits(types, nodes.rows(view.name)) == bits(types, expected.rows), view.name
            assert told[view.name] == expected.rows, view.name
            assert nodes.errors(view.name) == expected.errors, view.name
            if view.relation.key is not None:
                places = [view.relation.row_type.index(name) for name in view.relation.key]
                for row in expected.rows:
                    assert nodes.get(view.name, tuple(row[i] for i in places)) == [row], view.name
        for number, dataset in enumerate(graph.datasets):
            assert nodes.missed(number) == datasets.missed[dataset.name]
