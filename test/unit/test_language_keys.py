"""The rules of keys are laws about data: the key of every join identifies its rows, whatever the rows are."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.reference.evaluate import evaluate

HISTORIES = 8
"""Contents tried for each join; rows are few and of few values, so that most of them meet, miss and repeat."""


class Sample(dz.Row):
    """Both sides have the same columns."""

    a: int
    b: int
    x: int | None


Shape = Callable[[dz.Program, str], dz.Table]
On = Callable[[dz.Table, dz.Table], Any]


def keyed(*key: str) -> Shape:
    """A dataset with this key."""
    return lambda app, name: app.dataset(name, Sample, key=key)


def grouped(*key: str) -> Shape:
    """A group by these columns, of which x may be null, with what is left of the columns as aggregates."""

    def shape(app: dz.Program, name: str) -> dz.Table:
        rest = {c: dz.max(c) for c in ("a", "b", "x") if c not in key}
        return app.dataset(name, Sample, key=("a", "b")).group_by(*key).agg(**rest).select("a", "b", "x")

    return shape


SHAPES = {
    "a": keyed("a"),
    "b": keyed("b"),
    "ab": keyed("a", "b"),
    "group x": grouped("x"),
    "group xa": grouped("x", "a"),
    "single row": grouped(),
}
ON: dict[str, On] = {
    "a": lambda *_: "a",
    "x": lambda *_: "x",
    "ab": lambda *_: ["a", "b"],
    "a==b": lambda left, right: left["a"] == right["b"],
    "a, b+0==b": lambda left, right: ["a", left["b"] + 0 == right["b"]],
    "a, b<=b": lambda left, right: ["a", left["b"] <= right["b"]],
}
HOW = ["inner", "left", "right", "outer", "semi", "anti"]


def content(rng: random.Random, table: Any) -> dict[tuple[Any, ...], int]:
    """Rows as the Z-set of a keyed dataset: of equal keys the last."""
    rows = [(rng.randrange(3), rng.randrange(3), rng.choice((None, 0, 1))) for _ in range(rng.randrange(6))]
    places = [table.row_type.index(k) for k in table.key]
    by_key = {tuple(row[i] for i in places): row for row in rows}
    return dict.fromkeys(by_key.values(), 1)


@pytest.mark.parametrize("how", HOW)
def test_keys_of_joins_identify_rows(how: str) -> None:
    """No two rows of a keyed result have the same key: each kind of join, pair of shapes, condition, many contents."""
    keyed_joins = 0
    for left, right, on in itertools.product(SHAPES, SHAPES, ON):
        app = dz.Program("keys")
        tables = SHAPES[left](app, "left"), SHAPES[right](app, "right")
        joined = tables[0].join(tables[1], ON[on](*tables), how=how)
        app.view("joined", joined)
        if joined.key is None:
            continue
        keyed_joins += 1
        graph = app.graph()
        places = [joined.row_type.index(k) for k in joined.key]
        rng = random.Random(f"{left} {right} {on}")
        for _ in range(HISTORIES):
            datasets: Any = {d.name: content(rng, d) for d in graph.datasets}
            keys: Counter[tuple[Any, ...]] = Counter()
            for row, weight in evaluate(graph, "joined", datasets).rows.items():
                keys[tuple(row[i] for i in places)] += weight
            assert set(keys.values()) <= {1}, (str(joined), datasets)
    assert keyed_joins >= 60
