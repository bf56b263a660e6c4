"""Growth: what an update costs at 10 thousand, 100 thousand and 1 million rows of state.

The program joins, groups and ranks; each of 20,000 updates changes one row somewhere in the state. The interpreter is
fed directly, in epochs of 100 updates. The cost must follow what changes and not how much there is; what growth is left
is the memory hierarchy's.
"""

from __future__ import annotations

import random
import time

import dist_zero as dz
from benchmarks.measure import Measurement, peak_rss_mb
from benchmarks.one_node import OneNode
from dist_zero.compiler import compile

UPDATES, UPDATES_PER_EPOCH = 20_000, 100
TEAMS_PER_ROWS = 50

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
    """Updates over a state of so many rows; `engine` is always the interpreter."""
    rng = random.Random(1)
    node = OneNode(compile(app.graph()))
    team_count = rows // TEAMS_PER_ROWS
    before = time.perf_counter()
    truth = {player: rng.randrange(10**9) for player in range(rows)}
    node.write(1, [(team, f"team-{team}") for team in range(team_count)])
    for first in range(0, rows, 10_000):
        node.write(0, [(p, p % team_count, truth[p]) for p in range(first, min(first + 10_000, rows))])
    start = time.perf_counter()
    for _ in range(UPDATES // UPDATES_PER_EPOCH):
        changed = {rng.randrange(rows): rng.randrange(10**9) for _ in range(UPDATES_PER_EPOCH)}
        truth.update(changed)
        node.write(0, [(player, player % team_count, points) for player, points in changed.items()])
    seconds = time.perf_counter() - start
    right = best(node) == sorted(truth.values(), reverse=True)[:10]
    note = f"{seconds / UPDATES * 1e6:.0f} µs per update at {rows:,} rows"
    return [Measurement("updates", engine, UPDATES, seconds, start - before, peak_rss_mb(), right, note)]
