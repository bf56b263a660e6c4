"""A bank that keeps books: every transfer is two entries of one transaction, so that all accounts add up to nothing."""

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any

import dist_zero as dz

app = dz.Program("bank")


class Entry(dz.Row):
    transfer: int
    account: str
    amount: Annotated[Decimal, dz.scale(2)]


class Account(dz.Row):
    account: str
    owner: str


accounts = app.dataset("accounts", Account, key="account")
entries = app.dataset("entries", Entry, key=("transfer", "account"))

balances = app.view("balances", entries.group_by("account").agg(balance=dz.sum("amount"), entries=dz.count()))
total = app.view("total", balances.group_by().agg(total=dz.sum("balance"), entries=dz.sum("entries")))
owners = app.view(
    "owners", entries.join(accounts, on="account").group_by("owner").agg(balance=dz.sum("amount"))
)


@app.invariant
def money_is_neither_made_nor_lost(total: Sequence[Any]) -> None:
    for row in total:
        assert not row.total, f"all accounts together have {row.total}"


@app.invariant
def every_transfer_is_whole(total: Sequence[Any], balances: Sequence[Any]) -> None:
    assert sum(row.entries for row in balances) % 2 == 0
    assert sum(row.entries or 0 for row in total) == sum(row.entries for row in balances)


@app.sample
def sample(rng: random.Random) -> Iterator[object]:
    names = ["bank", *(f"account-{number}" for number in range(6))]
    yield [(accounts, Account(account=name, owner=name.partition("-")[0] or name)) for name in names]
    for number in range(2_000):
        payer, payee = rng.sample(names, 2)
        amount = Decimal(rng.randrange(1, 10_000)) / 100
        yield [
            (entries, Entry(transfer=number, account=payer, amount=-amount)),
            (entries, Entry(transfer=number, account=payee, amount=amount)),
        ]
        if rng.random() < 0.1:  # called back, as a whole
            yield [(entries, dz.Delete((number, name))) for name in (payer, payee)]
