"""Events for counting and summing per key through whole systems: DistZero's over RabbitMQ, and Celery."""

from __future__ import annotations

import random

import dist_zero as dz

Event = tuple[int, int]
Totals = dict[int, tuple[int, int]]

app = dz.Program("counts")


class Payment(dz.Row):
    """One event."""

    key: int
    amount: int


payments = app.dataset("payments", Payment)
app.view("per_key", payments.group_by("key").agg(n=dz.count(), total=dz.sum("amount")))


def events(count: int) -> list[Event]:
    """Uniform over one key for every twenty events; always the same ones."""
    rng = random.Random(1)
    keys = max(count // 20, 1)
    return [(rng.randrange(keys), rng.randrange(1_000)) for _ in range(count)]


def dictionary(rows: list[Event]) -> Totals:
    """A loop over a dictionary."""
    totals: Totals = {}
    for key, amount in rows:
        n, total = totals.get(key, (0, 0))
        totals[key] = (n + 1, total + amount)
    return totals
