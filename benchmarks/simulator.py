"""The simulator: a whole system on three machines under weather, with nothing in real time but the processor."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import dist_zero as dz
from benchmarks.measure import Measurement, peak_rss_mb
from dist_zero.system import SimulatedSystem
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld

MACHINES, NODES, SEED = 3, 6, 1

app = dz.Program("simulated")


class Event(dz.Row):
    """One event."""

    key: int
    amount: int


events = app.dataset("events", Event)
per_key = events.group_by("key").agg(n=dz.count(), total=dz.sum("amount"))
app.view("per_key", per_key)
app.view("histogram", per_key.group_by("n").agg(keys=dz.count()))


@dataclass(frozen=True, slots=True)
class _Run:
    right: bool
    messages: int
    epochs: int
    virtual_seconds: float


def measure(engine: str, transactions: int) -> list[Measurement]:
    """So many transactions of three rows, one after the other; `rows` of the measurements are messages and epochs."""
    start = time.perf_counter()
    world = SimWorld(SEED)
    run = run_simulation(_main(world, transactions))
    seconds = time.perf_counter() - start
    note = f"{run.virtual_seconds / seconds:,.0f} simulated seconds per second"
    return [
        Measurement("simulator messages", engine, run.messages, seconds, 0.0, peak_rss_mb(), run.right, note),
        Measurement("simulator epochs", engine, run.epochs, seconds, 0.0, peak_rss_mb(), run.right),
    ]


async def _main(world: SimWorld, transactions: int) -> _Run:
    rng = random.Random(SEED)
    truth: dict[int, tuple[int, int]] = {}
    async with SimulatedSystem(world, machines=MACHINES) as system, system.connect(app, nodes=NODES) as db:
        for _ in range(transactions):
            rows = [{"key": rng.randrange(50), "amount": rng.randrange(100)} for _ in range(3)]
            for row in rows:
                n, total = truth.get(row["key"], (0, 0))
                truth[row["key"]] = (n + 1, total + row["amount"])
            await db.append("events", rows)
        epoch = await db.flush()
        got = {row.key: (row.n, row.total) for row in await db.rows("per_key")}
    return _Run(got == truth, world.history.counters["deliver"].records, epoch, world.clock.monotonic())
