"""What saving costs, at a thousand, 100 thousand and a million rows of state, and what it takes to begin with it
again.

The program and its updates are those of `growth`. Every thousand updates the executor is asked for what changed, which
is encoded as it goes to the store; bytes are of that, and the share is of the processor's time, save and updates
together. Both must follow what changed and not how much there is. Then another executor loads everything. Right: it
shows the same as the one that was saved.
"""

from __future__ import annotations

import random
import time

from benchmarks.growth import TEAMS_PER_ROWS, UPDATES, UPDATES_PER_EPOCH, app, best
from benchmarks.measure import Measurement, peak_rss_mb
from benchmarks.one_node import OneNode, new_executor
from dist_zero.blobs import blob_bytes
from dist_zero.compiler import compile
from dist_zero.state import TableChange

EPOCHS_PER_SAVE = 10


def measure(engine: str, rows: int) -> list[Measurement]:
    """Saves of a state of so many rows; `engine` is the executor."""
    rng = random.Random(1)
    plan = compile(app.graph())
    node = OneNode(plan, engine)
    team_count = max(1, rows // TEAMS_PER_ROWS)
    node.write(1, [(team, f"team-{team}") for team in range(team_count)])
    for first in range(0, rows, 10_000):
        last = min(first + 10_000, rows)
        node.write(0, [(p, p % team_count, rng.randrange(10**9)) for p in range(first, last)])
    chain = [node.executor.save(everything=True)]
    whole_bytes = _size(chain[0])
    saving = changed_bytes = 0.0
    start = time.perf_counter()
    for number in range(UPDATES // UPDATES_PER_EPOCH):
        changed = {rng.randrange(rows): rng.randrange(10**9) for _ in range(UPDATES_PER_EPOCH)}
        node.write(0, [(player, player % team_count, points) for player, points in changed.items()])
        if number % EPOCHS_PER_SAVE == EPOCHS_PER_SAVE - 1:
            before = time.perf_counter()
            chain.append(node.executor.save(everything=False))
            changed_bytes += _size(chain[-1])
            saving += time.perf_counter() - before
    seconds = time.perf_counter() - start
    before = time.perf_counter()
    again = new_executor(plan, engine)
    again.load(node.epoch, chain)
    loading = time.perf_counter() - before
    right = all(
        sorted(again.rows(view).rows()) == sorted(node.executor.rows(view).rows())
        for view in range(len(plan.views))
    )
    figures = {
        "bytes_per_update": changed_bytes / UPDATES,
        "share": saving / seconds,
        "whole_bytes": whole_bytes,
        "load_seconds": loading,
    }
    note = (
        f"{figures['bytes_per_update']:.0f} bytes saved per update, {100 * figures['share']:.0f} % of the time;"
        f" everything is {whole_bytes / 1e6:.1f} MB, and begins again in {loading:.2f} s"
    )
    assert best(node)
    name = f"{engine}, {rows:,} rows"
    return [Measurement("saves", name, UPDATES, seconds, 0.0, peak_rss_mb(), right, note, figures)]


def _size(changes: list[TableChange]) -> int:
    """The bytes that go to the store; encoding them is part of the cost."""
    return sum(blob_bytes(batch.to_blob()) for change in changes for batch in (change.puts, change.deletes))
