"""Tops under long histories over few values: places are taken, shared by equal rows, and given up again.

Simulated: nodes are objects in this process.
"""

from __future__ import annotations

import random

import pytest

import dist_zero as dz
from dist_zero.compiler import compile
from dist_zero.reference.evaluate import Oracle
from dist_zero.reference.history import Datasets
from dist_zero.types import NAN
from test.oracle.nodes import Nodes, delete, put


class Score(dz.Row):
    player: int
    team: str | None
    points: float | None
    note: str | None


def _program() -> dz.Program:
    app = dz.Program("tops")
    scores = app.dataset("scores", Score, key="player")
    bag = scores.select("team", "points")
    for count in (1, 3):
        app.view(f"keyed_{count}", scores.top(count, by=[dz.desc("points"), dz.desc("note")], per="team"))
        app.view(f"keyed_rank_{count}", scores.top(count, by="points", per="team", rank="rank"))
        app.view(f"bag_{count}", bag.top(count, by=dz.desc("points"), per="team"))
        app.view(f"bag_rank_{count}", bag.top(count, by="points", per="team", rank="rank"))
        app.view(f"whole_{count}", bag.top(count, by=dz.desc("team"), rank="rank"))
    app.view("of_a_top", scores.top(2, by="points", per="team").top(2, by=dz.desc("points")))
    return app


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_simulated_tops_equal_the_oracle_over_long_histories(seed: int, count: int) -> None:
    """Of rows with keys and of bags, ranked or not, per group or of all, after each of 40 epochs."""
    graph = _program().graph()
    plan = compile(graph)
    rng = random.Random(seed)
    nodes, datasets = Nodes(plan, count), Datasets(graph)
    for epoch in range(40):
        transaction = []
        for _ in range(rng.randrange(4)):
            player = rng.randrange(9)
            if rng.random() < 0.4:
                transaction.append(delete(plan, "scores", (player,)))
            else:
                points = rng.choice([None, 1.0, 1.0, 2.0, NAN])
                row = (player, rng.choice([None, "a", "a"]), points, rng.choice([None, "x", "xy"]))
                transaction.append(put(plan, "scores", row))
        nodes.run(transaction)
        datasets.apply(transaction)
        oracle = Oracle(graph, datasets.contents())
        for view in graph.views:
            assert nodes.rows(view.name) == oracle.view(view.name).rows, (view.name, epoch)
