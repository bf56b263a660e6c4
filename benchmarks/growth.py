"""Growth: what an update costs at 10 thousand to 10 million rows of state, and what a row of state costs in memory.

The program joins, groups and ranks; each of 20,000 updates changes one row somewhere in the state. The executor is fed
directly, in epochs of 100 updates. The cost must follow what changes and not how much there is; what growth is left
is the memory hierarchy's. Bytes per row are those that the process has grown by while the rows came in, over all that
the program keeps of them: the dataset, the join, the group, two rankings.
"""

from __future__ import annotations

import time

import numpy as np

import dist_zero as dz
from benchmarks.measure import Measurement, peak_rss_mb, rss_bytes
from benchmarks.one_node import OneNode
from dist_zero.compiler import compile

UPDATES, UPDATES_PER_EPOCH = 20_000, 100
TEAMS_PER_ROWS = 50
ROWS_PER_EPOCH = 10_000

app = dz.Program("growth")


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
named = scores.join(teams, on="team")
app.view("totals", named.group_by("name").agg(n=dz.count(), total=dz.sum("points"), best=dz.max("points")))
app.view("board", scores.top(10, by=dz.desc("points"), per="team"))
app.view("best", scores.top(10, by=dz.desc("points")))


def best(node: OneNode) -> list[int]:
    """The points on the board of the best, highest first."""
    return sorted((points for _, _, points in node.rows(2)), reverse=True)


def measure(engine: str, rows: int) -> list[Measurement]:
    """Updates over a state of so many rows; `engine` is the executor."""
    rng = np.random.default_rng(1)
    node = OneNode(compile(app.graph()), engine)
    team_count = rows // TEAMS_PER_ROWS
    truth = rng.integers(0, 10**9, rows)
    before, held = time.perf_counter(), rss_bytes()
    node.write(1, [(team, f"team-{team}") for team in range(team_count)])
    for first in range(0, rows, ROWS_PER_EPOCH):
        points = truth[first : first + ROWS_PER_EPOCH].tolist()
        node.write(0, [(p, p % team_count, its) for p, its in enumerate(points, first)])
    bytes_per_row = (rss_bytes() - held) / rows
    updates = [_updates(rng, rows) for _ in range(UPDATES // UPDATES_PER_EPOCH)]
    start = time.perf_counter()
    for players, points in updates:
        node.write(0, [(p, p % team_count, its) for p, its in zip(players, points, strict=True)])
    seconds = time.perf_counter() - start
    for players, points in updates:
        truth[players] = points
    right = best(node) == np.sort(truth)[::-1][:10].tolist()
    figures = {"us_per_update": seconds / UPDATES * 1e6, "bytes_per_row": bytes_per_row}
    note = f"{figures['us_per_update']:.1f} µs per update at {rows:,} rows, {bytes_per_row:.0f} bytes per row"
    name = f"{engine}, {rows:,} rows"
    return [
        Measurement("growth", name, UPDATES, seconds, start - before, peak_rss_mb(), right, note, figures)
    ]


def _updates(rng: np.random.Generator, rows: int) -> tuple[list[int], list[int]]:
    """Players, each once, and what they have from now on."""
    players = rng.choice(rows, UPDATES_PER_EPOCH, replace=False).tolist()
    return players, rng.integers(0, 10**9, UPDATES_PER_EPOCH).tolist()
