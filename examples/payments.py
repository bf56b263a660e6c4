"""What every shop takes per day, from the queue that its tills publish payments to; see docs/bridge.md."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import dist_zero as dz

app = dz.Program("payments")


class Payment(dz.Row):
    id: int
    shop: str
    at: datetime
    amount: Annotated[Decimal, dz.scale(2)]


payments = app.dataset("payments", Payment, key="id")
app.source(payments, queue="payments", decode="json")  # each message once, by its message-id

takings = app.view(
    "takings",
    payments.with_columns(day=payments.at.truncate("day"))
    .group_by("shop", "day")
    .agg(payments=dz.count(), amount=dz.sum("amount")),
)
best = app.view("best", takings.top(3, by=dz.desc("amount"), per="day", rank="place"))


@app.sample
def sample(rng: random.Random) -> Iterator[object]:
    at = datetime(2024, 5, 1, 8, tzinfo=UTC)
    for number in range(2_000):
        at += timedelta(seconds=rng.randrange(120))
        shop = rng.choice(("Bremen", "Cottbus", "Dresden", "Essen"))
        yield payments, Payment(id=number, shop=shop, at=at, amount=Decimal(rng.randrange(20_000)) / 100)
