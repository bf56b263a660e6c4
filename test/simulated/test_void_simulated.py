"""Poison: a program that cannot finish an epoch stands still with the evidence, until its transaction is taken out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from dist_zero.cli.voiding import void_transaction
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.client.snapshot import Snapshot
from dist_zero.compiler import compile
from dist_zero.testing import log_of, recomputed_differences, writes_of
from dist_zero.voids import void_transactions
from dist_zero.zset import consolidate
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.requests import ProgramState, ProgramStatus
from dist_zero_common.protocol.stored import (
    LogRecord,
)
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import halted_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.poisoned import POISON, DeadlySystem, PoisonedSystem
from test.simulated.property_world import PROGRAMS
from test.simulated.test_recall_simulated import Recalled, end
from test.simulated.test_recovery_simulated import put_sales

Main = Callable[[PoisonedSystem, RemoteSystem], Coroutine[Any, Any, None]]


def with_poison(
    main: Main,
    world: SimWorld,
    objects: MemoryObjects,
    machines: int = 2,
    kind: type[PoisonedSystem] = PoisonedSystem,
) -> None:
    """Run `main` in a system that a sale of 666 hurts."""

    options = SequencerOptions(save_interval_seconds=0.3)
    system = kind(world, machines=machines, store=MemoryStore(objects, world), sequencer=options)
    remote = RemoteSystem("", system.name, world.clock, connect=system.connector("operator"))

    async def live() -> None:
        async with system:
            await main(system, remote)

    run_simulation(live(), until_seconds=20_000)


def right_views(stages: int, log: list[LogRecord], epoch: int, snapshot: Snapshot) -> list[str]:
    """What of a snapshot differs from the oracle on the log up to its epoch, less the void transactions."""
    graph = PROGRAMS[stages].graph()
    return recomputed_differences(graph, compile(graph), log, epoch, dict(snapshot.stored), {})


async def status_of(remote: RemoteSystem, program: str) -> ProgramStatus:
    """How a program is."""
    return next(each for each in (await remote.status()).programs if each.program == program)


async def until_halted(remote: RemoteSystem, program: str, says: str = "transaction") -> str:
    """Wait until a program stands still with a reason that says this much; returns the reason."""
    for _ in range(600):
        status = await status_of(remote, program)
        if status.state is ProgramState.HALTED and says in status.note:
            return status.note
        await asyncio.sleep(1)
    raise AssertionError(f"it does not stand still: {status}")


async def poison_of(system: PoisonedSystem, program: str, number: int) -> TransactionPlace:
    """Where the log has transaction `number` of any client's that holds the poison."""
    from dist_zero.compiler import compile

    plan = compile(next(each for each in PROGRAMS.values() if each.name == program).graph())
    found = [
        TransactionPlace(record.epoch, index)
        for record in await log_of(system.store, program)
        for index, writes in enumerate(writes_of(plan, record))
        if any(POISON in row for each in writes for row in each.batch.rows())
    ]
    return found[number]


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("profile", ["faithful", "hostile"])
def test_oracle_a_program_stands_still_and_goes_on_without_the_void_transaction(
    stages: int, profile: str
) -> None:
    """Another program on the same runners goes on; the reason names the transaction; afterwards all views are those of
    the log without it, and the answer to its client stays."""
    world, objects = SimWorld(700 + stages, profile), MemoryObjects(remembers=True)
    app, other = PROGRAMS[stages], PROGRAMS[1 + stages % 3]

    async def main(system: PoisonedSystem, remote: RemoteSystem) -> None:
        async with (
            system.connect(app, nodes=3, client_id="ann") as client,
            system.connect(other, nodes=2) as unharmed,
        ):
            await put_sales(client, 0, 30)
            await client.flush()
            await asyncio.sleep(3)
            committed = await client.put("sales", {"id": 500, "shop": "s1", "amount": POISON})
            with suppress(OperatorError):  # writes are taken until clients are told
                await put_sales(client, 30, 20)
            note = await until_halted(remote, app.name)
            place = await poison_of(system, app.name, 0)
            assert str(place) in note and "'ann' number 31" in note and "stage 1" in note
            assert f"dist-zero void {app.name} {place}" in note
            evidence = objects.list(halted_prefix(app.name))
            assert evidence and str(place).encode() in objects.data[evidence[0]]
            await put_sales(unharmed, 0, 10)
            await unharmed.flush()
            await remote.void(app.name, place)
            async with system.connect(app.name, client_id="ann") as again:
                assert again.committed >= 31
                await put_sales(again, 50, 5)
                await again.flush()
                snapshot = await again.snapshot()
            log = await log_of(system.store, app.name)
            assert void_transactions(log) == {(place.epoch, place.index)} and committed == place.epoch
            assert not right_views(stages, log, snapshot.epoch, snapshot)
            await asyncio.sleep(5)
            # it is, already, though the record that says so was collected
            await void_transaction(remote, app.name, str(place), as_json=False)
            assert (await status_of(remote, app.name)).state is ProgramState.RUNNING

    with_poison(main, world, objects)


async def _watch(client: Client, shown: dict[int, dict[Any, int]]) -> None:
    """Keep every view by number, and under -1 the newest epoch that was seen."""
    with client.watch_stored(range(len(client.plan.views))) as watch:
        async for change in watch:
            for number, rows in change.rows.items():
                before = () if change.snapshot else shown.get(number, {}).items()
                shown[number] = consolidate([*before, *rows])
            shown[-1] = {0: change.epoch}


def test_what_a_base_holds_cannot_be_voided() -> None:
    """A transaction that was finished and saved is refused, with the reason; so is one that is not there; the program
    runs on in its generation."""
    world, objects = SimWorld(710, "faithful"), MemoryObjects(remembers=True)
    app = PROGRAMS[2]

    async def main(system: PoisonedSystem, remote: RemoteSystem) -> None:
        async with system.connect(app, nodes=2) as client:
            epoch = await client.put("sales", {"id": 1, "shop": "s", "amount": 1.0})
            for number in range(4):
                await put_sales(client, 10 * number, 5)
                await client.flush()
                await asyncio.sleep(3)
            generation = (await status_of(remote, app.name)).generation
            with pytest.raises(RequestError, match="not kept any more"):
                await remote.void(app.name, TransactionPlace(epoch, 0))
            newest = await client.put("sales", {"id": 2, "shop": "s", "amount": 1.0})
            with pytest.raises(RequestError, match="there is no"):
                await remote.void(app.name, TransactionPlace(newest, 7))
            with pytest.raises(RequestError, match="has no epoch"):
                await remote.void(app.name, TransactionPlace(newest + 99, 0))
            with pytest.raises(RequestError, match="no program"):
                await remote.void("nothing", TransactionPlace(newest, 0))
            assert (await status_of(remote, app.name)).generation == generation

    with_poison(main, world, objects)


@pytest.mark.parametrize("seed", range(6))
def test_oracle_a_transaction_that_hurts_nobody_is_void_while_all_are_busy(seed: int) -> None:
    """Voided in the midst of writing, before a base holds it: views, and what a watcher has, are those of the log
    without it from then on."""
    world, objects = SimWorld(720 + seed, ("faithful", "hostile")[seed % 2]), MemoryObjects(remembers=True)
    app = PROGRAMS[3]

    async def main(system: PoisonedSystem, remote: RemoteSystem) -> None:
        async with system.connect(app, nodes=3) as client:
            shown: dict[int, dict[Any, int]] = {}
            watching = asyncio.create_task(_watch(client, shown))
            await put_sales(client, 0, 20)
            writing = asyncio.create_task(put_sales(client, 20, 60))
            epoch = await client.put("sales", {"id": 1_000, "shop": "s1", "amount": 12_345.0})
            place = next(
                TransactionPlace(record.epoch, index)
                for record in await log_of(system.store, app.name)
                if record.epoch == epoch
                for index, writes in enumerate(writes_of(client.plan, record))
                if any(12_345.0 in row for each in writes for row in each.batch.rows())
            )
            try:
                await remote.void(app.name, place)
                void = {(place.epoch, place.index)}
            except RequestError:
                void = set()
            await writing
            await put_sales(client, 90, 3)
            newest = await client.flush()
            snapshot = await client.snapshot()
            log = await log_of(system.store, app.name)
            assert void_transactions(log) == void
            outcomes.append(bool(void))
            assert not right_views(3, log, snapshot.epoch, snapshot)
            while shown.get(-1, {}).get(0, 0) < newest:
                await asyncio.sleep(1)
            for number, view in enumerate(client.plan.views):
                rows = consolidate((row, 1) for row in snapshot.stored[view.name])
                assert shown[number] == rows, view.name
            watching.cancel()

    outcomes: list[bool] = []
    with_poison(main, world, objects)
    assert outcomes


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("profile", ["faithful", "hostile"])
def test_oracle_an_epoch_that_ends_processes_is_refused_after_some_tries(stages: int, profile: str) -> None:
    """The poison ends the process of whichever runner has the node. After few such ends the node stands still instead,
    the runners live, and the other program, whose nodes went down with it each time, goes on. With the transaction
    void, so does this one, and the marks of attempts are gone."""
    world, objects = SimWorld(740 + stages, profile), MemoryObjects(remembers=True)
    app, other = PROGRAMS[stages], PROGRAMS[1 + stages % 3]

    async def main(system: PoisonedSystem, remote: RemoteSystem) -> None:
        assert isinstance(system, DeadlySystem)
        async with system.connect(other, nodes=3) as unharmed:
            async with system.connect(app, nodes=3, client_id="ann") as client:
                await put_sales(client, 0, 30)
                await client.flush()
                await asyncio.sleep(3)
                await client.put("sales", {"id": 500, "shop": "s1", "amount": POISON})
                note = await until_halted(remote, app.name)
            place = await poison_of(system, app.name, 0)
            assert str(place) in note and "ended the whole process" in note
            assert 3 <= system.deaths <= 5
            deaths = system.deaths
            await put_sales(unharmed, 0, 10)
            await unharmed.flush()
            await asyncio.sleep(60)
            assert (
                system.deaths == deaths and (await status_of(remote, app.name)).state is ProgramState.HALTED
            )
            await remote.void(app.name, place)
            async with system.connect(app.name, client_id="ann") as again:
                assert again.committed == 31
                await put_sales(again, 50, 5)
                await again.flush()
                snapshot = await again.snapshot()
            log = await log_of(system.store, app.name)
            assert not right_views(stages, log, snapshot.epoch, snapshot)
            await asyncio.sleep(5)
            assert system.deaths == deaths
            for program in (app, other):
                assert not objects.list(f"programs/{program.name}/attempts/")

    with_poison(main, world, objects, machines=3, kind=DeadlySystem)


class RecalledPoisoned(PoisonedSystem, Recalled):
    """One whose scheduler can be ended and started again."""


@pytest.mark.parametrize("after", [0.05, 0.6, 2.0, 3.3, 3.6, 4.0, 4.5, 6.0])
def test_oracle_a_void_survives_the_scheduler(after: float) -> None:
    """Whenever it ends while it is asked, the next one does it, or sees that it is done, because the question comes
    again."""
    world, objects = SimWorld(760, "faithful"), MemoryObjects(remembers=True)
    system = RecalledPoisoned(world, machines=2, store=MemoryStore(objects, world))
    remote = RemoteSystem("", system.name, world.clock, connect=system.connector("operator"))
    app = PROGRAMS[2]

    async def live() -> None:
        async with system:
            first = system.scheduler()
            async with system.connect(app, nodes=3) as client:
                await put_sales(client, 0, 30)
                await client.put("sales", {"id": 500, "shop": "s1", "amount": POISON})
                await until_halted(remote, app.name)
            place = await poison_of(system, app.name, 0)
            voiding = asyncio.create_task(remote.void(app.name, place))
            await asyncio.sleep(after)
            await end(first)
            await asyncio.sleep(2)
            second = system.scheduler()
            await voiding
            async with system.connect(app.name) as again:
                await put_sales(again, 50, 5)
                await again.flush()
                snapshot = await again.snapshot()
            log = await log_of(system.store, app.name)
            assert void_transactions(log) == {(place.epoch, place.index)}
            assert not right_views(2, log, snapshot.epoch, snapshot)
            await end(second)

    run_simulation(live(), until_seconds=20_000)
