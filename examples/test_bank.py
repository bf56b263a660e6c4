"""How a program is tested with pytest: DistZero brings the fixtures, and nothing has to be imported for them."""

import asyncio
from decimal import Decimal

import pytest

from dist_zero.testing import Checker, SystemUnderTest
from examples.bank import Account, Entry, app


def transfer(number: int, payer: str, payee: str, cents: int) -> list[Entry]:
    amount = Decimal(cents) / 100
    return [
        Entry(transfer=number, account=payer, amount=-amount),
        Entry(transfer=number, account=payee, amount=amount),
    ]


def test_the_bank_keeps_its_money(dist_zero_check: Checker) -> None:
    """Its sample, under faults that are drawn from each of some seeds, with its invariants at every epoch."""
    dist_zero_check(app, seeds=6, transactions=20)


@pytest.mark.dist_zero(seeds=3)
def test_transfers_arrive(dist_zero_system: SystemUnderTest) -> None:
    """A plain function: every call waits, and virtual time goes on as long as it takes."""
    with dist_zero_system.connect(app) as db:
        db.put("accounts", [Account(account=name, owner=name) for name in ("ann", "ben")])
        for number in range(10):
            db.put("entries", transfer(number, "ann", "ben", 150))
            dist_zero_system.sleep(2)  # while machines crash and messages are lost
        balance = db.get("balances", "ben")
        assert balance is not None and vars(balance)["balance"] == 15


@pytest.mark.dist_zero(seeds=3, faults="crash,partition")
async def test_watchers_see_whole_transfers(dist_zero_system: SystemUnderTest) -> None:
    """A coroutine: tasks, timeouts and sleeps go by virtual time."""
    async with dist_zero_system.connect(app) as db:

        async def pay() -> None:
            for number in range(10):
                await db.put("entries", transfer(number, "ann", "ben", 1))
                await asyncio.sleep(3)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pay())
            async for change in db.watch("total"):
                shown = [vars(row) for row in change.inserted]
                assert all(not row["total"] for row in shown), "half a transfer was seen"
                if any(row["entries"] == 20 for row in shown):
                    break
