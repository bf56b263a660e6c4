"""A whole system moves to another store and another broker, as docs/operations.md says: its directory is copied once
while it runs, and again when it has ended, and a new system with a broker that knows nothing begins with the copy."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from dist_zero.testing import log_of
from dist_zero_common.store.directory import DirectoryStore
from examples.bank import app
from test.virtual.bank_clients import PROGRAM, Loader
from test.virtual.bank_load import ACCOUNTS, balances
from test.virtual.containers import ContainerSystem, container_system

SEED = 7
COMMITTED = 150


def synchronised(source: Path, target: Path) -> int:
    """Make the target what the source is, as `rsync -a --delete` does: files that are there are not copied again, and
    those that vanish meanwhile are passed over. Returns how many were copied."""
    copied = 0
    for parent, names, files in os.walk(source):
        there = target / Path(parent).relative_to(source)
        there.mkdir(exist_ok=True)
        for name in frozenset(entry.name for entry in there.iterdir()).difference(names, files):
            gone = there / name
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        for name in files:
            if not (there / name).exists():
                try:
                    shutil.copy2(Path(parent, name), there / name)
                except FileNotFoundError:
                    continue
                copied += 1
    return copied


async def written(loader: Loader, more: int) -> None:
    """Let the loader write some more, and end when all of it is committed."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loader.run())
        await loader.heard(loader.committed + more)
        loader.stop()


async def check(system: ContainerSystem, loader: Loader) -> None:
    """The bank is what the loader has written."""
    async with system.remote.connect(PROGRAM) as db:
        shown = await db.snapshot()
    assert {row.account: (row.balance, row.entries) for row in shown["balances"]} == balances(
        SEED, [loader.committed]
    )
    assert len(shown["owners"]) == len({account[-1] for account in ACCOUNTS})


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", ["dzt-moved", pytest.param("dzt-moved-and-renamed", marks=pytest.mark.long)])
def test_a_system_moves_to_another_store_and_broker_virtual(
    docker_or_skip: None,  # noqa: ARG001
    tmp_path: Path,
    name: str,
) -> None:
    """Everything is there, a loader that was killed in the middle goes on where it was, and views go on being right."""
    first, second = tmp_path / "first", tmp_path / "second"
    (second / "store").mkdir(parents=True)

    async def live_here() -> Loader:
        async with container_system("dzt-moved", first, machines=2) as system:
            async with system.remote.connect(app, nodes=3) as db:
                await db.put("accounts", [{"account": each, "owner": each[-1]} for each in ACCOUNTS])
            loader = Loader(system.url, system.name, 0, SEED)
            running = asyncio.create_task(loader.run())
            await loader.heard(COMMITTED)
            assert await asyncio.to_thread(synchronised, system.store, second / "store")
            await loader.heard(2 * COMMITTED)
            loader.give_up()
            await running
            return loader

    async def live_there(before: Loader) -> None:
        async with container_system(name, second, machines=3) as system:
            loader = Loader(system.url, system.name, 0, SEED)
            await written(loader, COMMITTED)
            assert loader.began_at >= before.committed
            await check(system, loader)
            await system.kill("broker")
            await system.start("broker")
            await written(loader, COMMITTED)
            await check(system, loader)

    before = asyncio.run(live_here())
    assert synchronised(first / "store", second / "store")
    shutil.rmtree(first)
    asyncio.run(live_there(before))
    asyncio.run(is_right(second / "store"))


async def is_right(directory: Path) -> None:
    """Nothing is in the log twice."""
    store = DirectoryStore(directory, shared=True)
    try:
        log = await log_of(store, PROGRAM)
    finally:
        await store.close()
    sent = [(each.session, each.number) for record in log for each in record.transactions]
    assert len(sent) == len(frozenset(sent))
    assert [record.epoch for record in log] == list(range(log[0].epoch, log[-1].epoch + 1))
