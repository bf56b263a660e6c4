"""Transfers between accounts, written to `examples/bank.py` by a process that may be killed: it goes on where it was.

`python -m test.virtual.bank_load SYSTEM LOADER SEED` reads the broker's address from AMQP_URL. What it writes follows
from its seed and its number, so whoever knows how many of its transactions are committed knows what is in the bank. It
prints how many are, whenever more are, and ends when its standard input does and all are.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.client.writes import Transaction

LOADERS = 2
ACCOUNTS = tuple(f"account-{number}" for number in range(12))
UNDER_WAY_MAX = 16
TRANSFERS_PER_SECOND = 60.0
CALL_BACK_EVERY, CALL_BACK_AFTER = 10, 5


@dataclass(frozen=True, slots=True)
class Transfer:
    """So many cents from one account to another."""

    id: int
    payer: str
    payee: str
    cents: int

    def keys(self) -> list[tuple[int, str]]:
        """Of its two entries."""
        return [(self.id, self.payer), (self.id, self.payee)]

    def entries(self) -> dict[tuple[int, str], Decimal]:
        """What they say."""
        amount = Decimal(self.cents) / 100
        return dict(zip(self.keys(), (-amount, amount), strict=True))


def transfer(seed: int, loader: int, number: int) -> Transfer:
    """What a loader writes as its transaction `number`, counted from 0."""
    rng = random.Random(f"{seed}/{loader}/{number}")
    payer, payee = rng.sample(ACCOUNTS, 2)
    return Transfer(number * LOADERS + loader, payer, payee, rng.randrange(1, 10_000))


def called_back(seed: int, loader: int, number: int) -> Transfer | None:
    """The earlier transfer that the same transaction takes back, if any."""
    if number % CALL_BACK_EVERY or number < CALL_BACK_AFTER:
        return None
    return transfer(seed, loader, number - CALL_BACK_AFTER)


def balances(seed: int, committed: Sequence[int]) -> dict[str, tuple[Decimal, int]]:
    """When so many transactions of each loader are committed: by account, what its entries add up to and how many they
    are."""
    entries: dict[tuple[int, str], Decimal] = {}
    for loader, count in enumerate(committed):
        for number in range(count):
            entries.update(transfer(seed, loader, number).entries())
            back = called_back(seed, loader, number)
            for key in back.keys() if back is not None else ():
                del entries[key]
    by_account: dict[str, list[Decimal]] = {}
    for (_, account), amount in entries.items():
        by_account.setdefault(account, []).append(amount)
    return {account: (sum(of, Decimal()), len(of)) for account, of in by_account.items()}


def _transaction(db: Client, seed: int, loader: int, number: int) -> Transaction:
    transaction = db.new_transaction()
    for (identity, account), amount in transfer(seed, loader, number).entries().items():
        transaction.put("entries", {"transfer": identity, "account": account, "amount": amount})
    back = called_back(seed, loader, number)
    if back is not None:
        transaction.delete("entries", *back.keys())
    return transaction


async def _load(system: str, loader: int, seed: int) -> None:
    remote = RemoteSystem(os.environ["AMQP_URL"], system)
    async with remote.connect("bank", client_id=f"loader-{loader}") as db, asyncio.TaskGroup() as tasks:
        committed = await db.committed_before()
        under_way: asyncio.Queue[Awaitable[int] | None] = asyncio.Queue(UNDER_WAY_MAX)
        tasks.create_task(_write(db, seed, loader, committed, under_way))
        _say(committed)
        while ticket := await under_way.get():
            await ticket
            committed += 1
            _say(committed)


async def _write(
    db: Client, seed: int, loader: int, number: int, under_way: asyncio.Queue[Awaitable[int] | None]
) -> None:
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        await under_way.put(await db.write_soon(_transaction(db, seed, loader, number)))
        number += 1
        await asyncio.sleep(1 / TRANSFERS_PER_SECOND)
    await under_way.put(None)


def _say(committed: int) -> None:
    sys.stdout.write(f"{committed}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
