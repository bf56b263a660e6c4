"""Changes of a program, one by one: taken back, replaced by another, over a restart of everything, over damaged bases,
and with views that begin empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.client.change import MayChange
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.expr.graph import decode_graph, encode_graph
from dist_zero.testing import log_of
from dist_zero.testing.faulty import FaultySystem
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.errors import DataError, RequestError
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.requests import ChangeWanted, Fate, ProgramState, SubmitProgram
from dist_zero_common.protocol.stored import Base, LogRecord
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import bases_prefix, records_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions

Main = Callable[[FaultySystem, RemoteSystem], Coroutine[Any, Any, None]]
SLOWLY = SequencerOptions(save_interval_seconds=0.3, fill_bytes=1, collects=False)
"""One slice at a time, and all bases are kept."""
ROWS = 40


class Sale(dz.Row):
    number: int
    pieces: int


class Town(dz.Row):
    town: str


class Visit(dz.Row):
    shop: str


def program(
    least: int | None = None, *, towns: bool = False, counted: bool = False, typed: bool = False
) -> dz.Program:
    """Sales; a view of those of more pieces than `least`; a dataset `towns`; a view over appended rows."""
    app = dz.Program("steps")
    sales = app.dataset("sales", Sale, key="number")
    visits = app.dataset("visits", Visit, key="shop" if typed else None)
    app.view("count", sales.group_by().agg(n=dz.count()))
    app.view("shops", visits.group_by("shop").agg(n=dz.count()))
    if least is not None:
        app.view("large", sales.where(sales["pieces"] > least))
    if towns:
        app.view("towns", app.dataset("town", Town, key="town"))
    if counted:
        app.view("visited", visits.group_by().agg(n=dz.count()))
    return app


def with_system(
    main: Main, objects: MemoryObjects | None = None, seed: int = 1, options: SequencerOptions = SLOWLY
) -> None:
    """Run `main` in a system of two machines over these objects."""
    world = SimWorld(seed, "faithful")
    store = MemoryStore(objects or MemoryObjects(remembers=True), world)

    async def live() -> None:
        system = FaultySystem(world, machines=2, store=store, sequencer=options)
        remote = RemoteSystem("", system.name, world.clock, connect=system.connector("asks"), process="asks")
        async with system:
            await main(system, remote)

    run_simulation(live(), until_seconds=20_000)


async def put(client: Client) -> None:
    """Sales of 0 to 39 pieces, and two visits."""
    async with client.transaction() as transaction:
        transaction.put("sales", [{"number": n, "pieces": n} for n in range(ROWS)])
        transaction.append("visits", [{"shop": "a"}, {"shop": "a"}])
    await client.flush()


async def numbers(client: Client, view: str = "large") -> list[int]:
    """The sales that a view has."""
    return [row.number for row in await client.rows(view)]


async def filled(system: FaultySystem) -> int:
    """How many slices the newest record says are filled."""
    newest = (await system.store.list(records_prefix("steps")))[-1]
    data = await system.store.read(newest)
    return decode(LogRecord, data).filled if data is not None else 0


async def until_filled(system: FaultySystem, least: int) -> None:
    """Wait until some slices are filled, and not all."""
    for _ in range(1_000):
        if least <= await filled(system) < 60:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it went by unseen")


def test_a_change_is_taken_back_simulated() -> None:
    """Half-way, by submitting the program that there was; what was filled is gone, and a later change begins anew."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            changing = asyncio.create_task(remote.change(program(20)))
            await until_filled(system, 5)
            await asyncio.sleep(1.5)
            [status] = (await remote.status()).programs
            assert status.state is ProgramState.RUNNING and "of 64 slices are" in status.note
            assert await numbers(client) == [*range(31, ROWS)]
            changing.cancel()
            await remote.change(program(30))
            assert await numbers(client) == [*range(31, ROWS)]
            await client.put("sales", {"number": 35, "pieces": 0})
            assert await numbers(client) == [31, 32, 33, 34, 36, 37, 38, 39]
            await remote.change(program(10))
            assert await numbers(client) == [n for n in range(11, ROWS) if n != 35]

    with_system(main)


def test_a_change_is_replaced_by_another_simulated() -> None:
    """Half-way, by submitting a third program: that is filled from the beginning, beside the first."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            changing = asyncio.create_task(remote.change(program(20)))
            await until_filled(system, 5)
            changing.cancel()
            await remote.change(program(10, towns=True))
            assert await numbers(client) == [*range(11, ROWS)]
            await client.put("town", {"town": "x"})
            assert [row.town for row in await client.rows("towns")] == ["x"]

    with_system(main)


def test_a_change_goes_on_when_everything_was_down_simulated() -> None:
    """Half-way all ends; whoever starts it again finds in the store what it was to become."""
    objects = MemoryObjects(remembers=True)

    async def first(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            changing = asyncio.create_task(remote.change(program(20)))
            await until_filled(system, 20)
            changing.cancel()

    async def second(system: FaultySystem, remote: RemoteSystem) -> None:
        await remote.change(program(20))
        async with system.connect(program(20)) as client:
            assert await numbers(client) == [*range(21, ROWS)]
        assert (await log_of(system.store, "steps"))[-1].generation  # and it is the log of before
        assert [row.n for row in await rows_of(system, "count")] == [ROWS]

    with_system(first, objects)
    with_system(second, objects, seed=2)


async def rows_of(system: FaultySystem, view: str) -> list[Any]:
    """The rows of a view."""
    async with system.connect("steps") as client:
        return list(await client.rows(view))


def test_a_program_that_was_down_is_changed_when_it_starts_simulated() -> None:
    """The usual way of a small team: end it, edit the file, start it again."""
    objects = MemoryObjects(remembers=True)

    async def first(system: FaultySystem, _: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)

    async def second(system: FaultySystem, remote: RemoteSystem) -> None:
        told = await remote.tell_change(program(20))
        assert [(line.name, line.fate) for line in told.lines if line.fate is not Fate.KEPT] == [
            ("large", Fate.FILLED)
        ]
        with pytest.raises(RequestError, match="there is another program 'steps' already"):
            async with system.connect(program(20)):
                pass
        await remote.change(program(20))
        async with system.connect("steps") as client:
            assert await numbers(client) == [*range(21, ROWS)]

    with_system(first, objects)
    with_system(second, objects, seed=2)


def test_views_are_filled_again_behind_damaged_bases_simulated() -> None:
    """All bases that have all slices are damaged: what is left is one at which not all are filled, so the old views are
    shown once more, and the new ones filled again."""
    objects = MemoryObjects(remembers=True)

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            await remote.change(program(20))
            await client.put("sales", {"number": 100, "pieces": 100})
            await client.flush()
            await asyncio.sleep(3)
            names = objects.list(bases_prefix("steps"))
            bases = {name: decode(Base, objects.data[name]) for name in names}
            half = [name for name in names if 0 < bases[name].filled < 64]
            for name in names[names.index(half[-1]) + 1 :]:
                objects.data[name] = b"damaged"
            for process in system.processes.living():
                if process.kind == "runner":
                    process.kill()
            assert await numbers(client) in ([*range(21, ROWS), 100], [*range(31, ROWS), 100])
            await remote.change(program(20))
            assert await numbers(client) == [*range(21, ROWS), 100]
            assert [row.n for row in await client.rows("count")] == [ROWS + 1]
            opened = [record.graph for record in await log_of(system.store, "steps") if record.graph]
            kinds = [decode_graph(graph).before is not None for graph in opened]
            assert [kind for kind, _ in groupby(kinds)] == [False, True, False, True, False]

    with_system(main, objects)


def test_a_transaction_is_voided_while_views_are_filled_simulated() -> None:
    """What was filled since is filled again, without it."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            await asyncio.sleep(12)  # so that a base knows how large the state is
            changing = asyncio.create_task(remote.change(program(20)))
            await until_filled(system, 10)
            epoch = await client.put("sales", [{"number": n, "pieces": 0} for n in range(30, ROWS, 2)])
            await client.flush()
            await remote.void("steps", TransactionPlace(epoch, 0))
            await changing
            assert await numbers(client) == [*range(21, ROWS)]
            assert [record.voids for record in await log_of(system.store, "steps") if record.voids]

    with_system(main, options=replace(SLOWLY, save_interval_seconds=10.0))


def test_a_view_over_appended_rows_begins_empty_if_that_is_said_simulated() -> None:
    """Views that are kept have seen all; the new one what is appended from the change on."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            with pytest.raises(RequestError, match=r"view 'visited' cannot be filled.*--begin-empty visited"):
                await remote.change(program(30, counted=True))
            await remote.change(program(20, counted=True), MayChange(begin_empty=("visited",)))
            await client.append("visits", {"shop": "b"})
            await client.append("visits", {"shop": "a"})
            assert [(row.shop, row.n) for row in await client.rows("shops")] == [("a", 3), ("b", 1)]
            assert [row.n for row in await rows_of(system, "visited")] == [2]

    with_system(main)


def test_datasets_are_dropped_and_declared_again_simulated() -> None:
    """Only if that is said; what clients still write there is refused, and a dataset of that name is a new one."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30, towns=True), nodes=2) as client:
            await put(client)
            await client.put("town", {"town": "x"})
            watch = client.watch("towns")
            assert [row.town for row in (await anext(watch)).inserted] == ["x"]
            with pytest.raises(RequestError, match="dataset 'town' is declared no more"):
                await remote.change(program(30))
            late = client.new_transaction()
            late.put("town", {"town": "y"})
            await remote.change(program(30), MayChange(drop_datasets=True))
            with pytest.raises(DataError, match="a change of the program has dropped"):
                await client.write(late)
            with pytest.raises(RequestError, match="no dataset 'town' in program"):
                await client.put("town", {"town": "y"})
            with pytest.raises(RequestError, match="has dropped view towns"):
                await anext(watch)
            with pytest.raises(RequestError, match="no view 'towns'"):
                await client.get("towns", "x")
            await remote.change(program(30, towns=True))
            async with system.connect("steps") as fresh:
                assert await fresh.rows("towns") == []
                await fresh.put("town", {"town": "z"})
                assert [row.town for row in await fresh.rows("towns")] == ["z"]
            assert await numbers(client) == [*range(31, ROWS)]

    with_system(main)


def test_another_row_type_or_key_is_refused_simulated() -> None:
    """Naming what differs; the program goes on as it was."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            with pytest.raises(
                RequestError, match="'visits' cannot become others: its key was none and is shop"
            ):
                await remote.change(program(30, typed=True))
            assert [row.n for row in await client.rows("count")] == [ROWS]
            [status] = (await remote.status()).programs
            assert status.state is ProgramState.RUNNING and not status.note

    with_system(main)


def test_a_copy_of_a_change_that_comes_late_changes_nothing_simulated() -> None:
    """A broker holds one back until the program was changed once more."""

    async def main(system: FaultySystem, remote: RemoteSystem) -> None:
        async with system.connect(program(30), nodes=2) as client:
            await put(client)
            wanted = ChangeWanted(only_tells=False, drops=False, begins_empty=())
            graph = encode_graph(program(20).graph())
            late = SubmitProgram(10_000, graph, 2, client.replies, wanted)
            client.send(scheduler_inbox(system.name), late)
            await remote.change(program(20))
            await remote.change(program(10))
            client.send(scheduler_inbox(system.name), late)
            await asyncio.sleep(30)
            assert await numbers(client) == [*range(11, ROWS)]

    with_system(main)
