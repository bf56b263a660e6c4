"""Joins under long histories over few values: rows come, repeat, lose their partners and go, on both sides.

Simulated: nodes are objects in this process.
"""

from __future__ import annotations

import random

import pytest

import dist_zero as dz
from dist_zero.compiler import compile
from dist_zero.reference.evaluate import Oracle
from dist_zero.reference.history import Datasets
from test.oracle.nodes import Nodes, delete, put

_HOWS = ("inner", "left", "right", "outer", "semi", "anti")


class Item(dz.Row):
    number: int
    key: int | None
    value: int


def _program() -> dz.Program:
    """Both sides are bags: rows without their number, so that they repeat and their weights go up and down."""
    app = dz.Program("joins")
    sides = [app.dataset(name, Item, key="number").select("key", "value") for name in ("lefts", "rights")]
    left, right = sides
    same_key = left["key"] == right["key"]
    for how in _HOWS:
        app.view(f"plain_{how}", left.join(right, on=same_key, how=how))
        app.view(f"greater_{how}", left.join(right, on=same_key & (left["value"] > right["value"]), how=how))
        fallible = dz.lit(6) // (left["value"] - right["value"]) > 2
        app.view(f"fallible_{how}", left.join(right, on=same_key & fallible, how=how))
    return app


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_simulated_joins_equal_the_oracle_over_long_histories(seed: int, count: int) -> None:
    """Every kind of join, plain, with a condition and with one that fails on some pairs, after each of 40 epochs."""
    graph = _program().graph()
    plan = compile(graph)
    rng = random.Random(seed)
    sizes = (
        {"lefts": 6, "rights": 2} if seed % 2 else {"lefts": 2, "rights": 6}
    )  # few partners: they often all go
    nodes, datasets = Nodes(plan, count), Datasets(graph)
    for epoch in range(40):
        transaction = []
        for name, size in sizes.items():
            for _ in range(rng.randrange(3)):
                number = rng.randrange(size)
                if rng.random() < 0.4:
                    transaction.append(delete(plan, name, (number,)))
                else:
                    transaction.append(
                        put(plan, name, (number, rng.choice([None, 1, 1, 1, 2]), rng.randrange(3)))
                    )
        nodes.run(transaction)
        datasets.apply(transaction)
        oracle = Oracle(graph, datasets.contents())
        for view in graph.views:
            expected = oracle.view(view.name)
            assert nodes.rows(view.name) == expected.rows, (view.name, epoch)
            assert nodes.errors(view.name) == expected.errors, (view.name, epoch)
