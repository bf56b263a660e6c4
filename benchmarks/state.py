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
from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map
from dist_zero.types import INT, STR
from dist_zero_common.protocol.messages import WriteKind

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

TYPES = ((INT, INT, INT), (INT, STR))


class Runner:
    """An interpreter on one node, an epoch at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._executor, self._shards = plan, Interpreter(plan), even_map(1, ("n1",))
        self._epoch = 0

    def put(self, dataset: int, rows: list[tuple[object, ...]]) -> None:
        """Write these rows in one epoch."""
        self._epoch += 1
        batch = Batch.from_rows(TYPES[dataset], rows)
        columns = tuple(range(len(TYPES[dataset])))
        writes = Writes(dataset, WriteKind.PUT, columns, batch, [0] * len(rows), range(len(rows)))
        arrived: list[tuple[int, Batch]] = []
        for stage in range(1, self._plan.stages + 1):
            parcels = self._executor.step(
                self._epoch, stage, [writes] if stage == 1 else [], arrived, self._shards, 0
            )
            arrived = [(parcel.exchange, parcel.batch) for parcel in parcels]
        self._executor.finish(self._epoch)

    def best(self) -> list[int]:
        """The points on the board of the best, highest first."""
        return sorted((points for _, _, points in self._executor.rows(2).rows()), reverse=True)


def measure(engine: str, rows: int) -> list[Measurement]:
    """Updates over a state of so many rows; `engine` is always the interpreter."""
    rng = random.Random(1)
    runner = Runner(compile(app.graph()))
    team_count = rows // TEAMS_PER_ROWS
    before = time.perf_counter()
    truth = {player: rng.randrange(10**9) for player in range(rows)}
    runner.put(1, [(team, f"team-{team}") for team in range(team_count)])
    for first in range(0, rows, 10_000):
        runner.put(0, [(p, p % team_count, truth[p]) for p in range(first, min(first + 10_000, rows))])
    start = time.perf_counter()
    for _ in range(UPDATES // UPDATES_PER_EPOCH):
        changed = {rng.randrange(rows): rng.randrange(10**9) for _ in range(UPDATES_PER_EPOCH)}
        truth.update(changed)
        runner.put(0, [(player, player % team_count, points) for player, points in changed.items()])
    seconds = time.perf_counter() - start
    right = runner.best() == sorted(truth.values(), reverse=True)[:10]
    note = f"{seconds / UPDATES * 1e6:.0f} µs per update at {rows:,} rows"
    return [Measurement("updates", engine, UPDATES, seconds, start - before, peak_rss_mb(), right, note)]
