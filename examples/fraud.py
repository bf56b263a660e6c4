"""Cards whose payments of the last hour go beyond their limit, kept up to date every ten minutes."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import dist_zero as dz

app = dz.Program("fraud")


class Payment(dz.Row):
    id: int
    card: int
    at: datetime
    amount: Annotated[Decimal, dz.scale(2)]


class Card(dz.Row):
    card: int
    holder: str
    limit: Annotated[Decimal, dz.scale(2)]


payments = app.dataset("payments", Payment, key="id")
cards = app.dataset("cards", Card, key="card")

spent = (
    payments.window("at", size="1h", every="10m")
    .group_by("card", "window_start", "window_end")
    .agg(spent=dz.sum("amount"), payments=dz.count())
)
alarms = app.view("alarms", spent.join(cards, on="card").where(lambda row: row.spent > row.limit))
worst = app.view("worst", alarms.top(5, by=[dz.desc("spent"), "window_start"]))


@app.sample
def sample(rng: random.Random) -> Iterator[object]:
    def money(whole: int) -> Decimal:
        return Decimal(rng.randrange(whole * 100)) / 100

    yield [(cards, Card(card=n, holder=f"holder {n}", limit=money(400) + 200)) for n in range(200)]
    at = datetime(2024, 5, 1, 8, tzinfo=UTC)
    for start in range(0, 5_000, 50):
        batch = []
        for number in range(start, start + 50):
            at += timedelta(seconds=rng.randrange(10))
            batch.append((payments, Payment(id=number, card=rng.randrange(200), at=at, amount=money(150))))
        yield batch
    for number in rng.sample(range(5_000), 100):
        yield payments, dz.Delete(number)  # charged back
