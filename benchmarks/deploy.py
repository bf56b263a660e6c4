"""Deploying: from a program that is only declared to the first row of its view, in an embedded system.

`cold`: nobody has compiled it before; its source has a number that was never there. `warm`: the same once more, by
another process. Importing DistZero comes before; the services, which an embedded system brings in by itself, count.
"""

from __future__ import annotations

import asyncio
import time

import dist_zero as dz
from benchmarks.measure import Measurement, peak_rss_mb

WARM = 4_711


def program(number: int) -> dz.Program:
    """A program of a join, a group and a ranking, and of this number."""
    app = dz.Program("deploy")

    class Score(dz.Row):
        """A player's points."""

        player: int
        team: int
        points: int

    class Team(dz.Row):
        """A team's name."""

        team: int
        name: str

    scores = app.dataset("scores", Score, key="player")
    teams = app.dataset("teams", Team, key="team")
    named = scores.where(scores.points != number).join(teams, on="team")
    app.view(
        "totals", named.group_by("name").agg(n=dz.count(), total=dz.sum("points"), best=dz.max("points"))
    )
    app.view("board", scores.top(10, by=dz.desc("points"), per="team"))
    return app


def measure(engine: str, size: int) -> list[Measurement]:
    """`engine` is the executor and `cold` or `warm`; `size` is how often it is done."""
    executor, _, kind = engine.partition(", ")
    seconds = []
    right = True
    if kind == "warm":
        asyncio.run(_deploy(program(WARM)))
    for _ in range(size):
        app = program(WARM if kind == "warm" else time.time_ns())
        start = time.perf_counter()
        right = right and asyncio.run(_deploy(app))
        seconds.append(time.perf_counter() - start)
    middle = sorted(seconds)[size // 2]
    note = f"first answer after {middle:.2f} s"
    return [Measurement("deploy", engine, 1, middle, 0.0, peak_rss_mb(), right, note, {"executor": executor})]


async def _deploy(app: dz.Program) -> bool:
    async with dz.embedded(app) as db:
        await db.put("teams", {"team": 1, "name": "a"})
        await db.put("scores", {"player": 1, "team": 1, "points": 3})
        return [(row.name, row.n) for row in await db.rows("totals")] == [("a", 1)]
