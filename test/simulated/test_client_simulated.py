"""The client against whole simulated systems: writing, reading, watching, sessions, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

import dist_zero as dz
from dist_zero.client import watching
from dist_zero.client.changed import Change
from dist_zero.client.client import Client
from dist_zero.client.writes import Transaction
from dist_zero.row import Row
from dist_zero.system import SimulatedSystem, System
from dist_zero_common.errors import SessionExpired
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner import kernel
from services.node_runner.hosting import ProgramHost
from services.node_runner.kernel import NodeKernel
from services.node_runner.sequencer_events import SequencerOptions

Result = TypeVar("Result")

app = dz.Program("shop")


class Item(dz.Row):
    sku: str
    shop: int
    stock: int
    price: float | None = None


class Event(dz.Row):
    sku: str
    sold: int


items = app.dataset("items", Item, key=("shop", "sku"))
events = app.dataset("events", Event)
app.view("low", items.where(items["stock"] < 5))
app.view("per_shop", items.group_by("shop").agg(skus=dz.count(), stock=dz.sum("stock")))
app.view("sold", events.group_by("sku").agg(sold=dz.sum("sold")))
app.view("lines", events.select("sold"))
app.view("inverse", items.select("shop", "sku", inverse=1 / items["stock"]))


def simulated(
    main: Callable[[System], Awaitable[Result]],
    *,
    seed: int = 1,
    weather: str = "hostile",
    machines: int = 1,
    objects: MemoryObjects | None = None,
) -> Result:
    """Run `main` with a system of its own, inside a simulation."""
    world = SimWorld(seed, weather)

    async def live() -> Result:
        store = MemoryStore(objects, world)
        async with SimulatedSystem(world, machines=machines, store=store) as system:
            return await main(system)

    return run_simulation(live(), until_seconds=3_600)


def with_client(main: Callable[[Client], Awaitable[Result]], *, nodes: int = 2, **more: Any) -> Result:
    async def live(system: System) -> Result:
        async with system.connect(app, nodes=nodes) as client:
            return await main(client)

    return simulated(live, **more)


def item(sku: str, stock: int, shop: int = 1) -> Item:
    return Item(sku=sku, shop=shop, stock=stock)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nodes", [1, 3])
def test_writes_are_seen_by_who_made_them(seed: int, nodes: int) -> None:
    """A snapshot and a get include every write that was committed before, on any number of nodes, in bad
    weather."""

    async def main(client: Client) -> None:
        await client.put("items", [item("a", 3), item("b", 9), item("c", 1, shop=2)])
        assert await client.rows("low") == [
            dict_row(client, "low", sku="a", shop=1, stock=3),
            dict_row(client, "low", sku="c", shop=2, stock=1),
        ]
        await client.update("items", (1, "a"), stock=8)
        await client.delete("items", (2, "c"), (2, "nothing"))
        assert await client.rows("low") == []
        snapshot = await client.snapshot("per_shop", "low")
        assert [vars(row) for row in snapshot["per_shop"]] == [{"shop": 1, "skus": 2, "stock": 17}]
        assert snapshot.missed == {"items": 1, "events": 0}
        got = await client.get("per_shop", 1)
        assert got is not None
        assert vars(got)["stock"] == 17
        assert await client.get("per_shop", 2) is None

    with_client(main, nodes=nodes, seed=seed)


def dict_row(client: Client, view: str, **columns: Any) -> Row:
    row_class = next(reader.row_class for reader in client.readers.values() if reader.name == view)
    return row_class(**{"price": None, **columns})


def test_a_transaction_is_seen_whole() -> None:
    """Writes to two datasets become visible in one epoch, and one that raises inside leaves no trace."""

    async def main(client: Client) -> None:
        async with client.transaction() as transaction:
            transaction.put("items", item("a", 1))
            transaction.append("events", [Event(sku="a", sold=2), {"sku": "a", "sold": 3}])
        with pytest.raises(RuntimeError):
            async with client.transaction() as transaction:
                transaction.delete("items", (1, "a"))
                raise RuntimeError("the user's own")
        snapshot = await client.snapshot()
        assert len(snapshot["low"]) == 1
        assert [vars(row) for row in snapshot["sold"]] == [{"sku": "a", "sold": 5}]
        assert [row["sold"] for row in map(vars, snapshot["lines"])] == [2, 3]

    with_client(main)


def test_the_last_write_to_a_key_wins_in_order() -> None:
    """Of several writes to one key in a transaction, and of several transactions, the last one stays."""

    async def main(client: Client) -> None:
        async with client.transaction() as transaction:
            transaction.put("items", item("a", 1))
            transaction.delete("items", (1, "a"))
            transaction.put("items", item("a", 2))
            transaction.update("items", (1, "a"), stock=3)
        tickets = []
        for stock in range(4, 30):
            transaction = client.new_transaction()
            transaction.put("items", item("a", stock))
            tickets.append(await client.write_soon(transaction))
        epochs = [await ticket for ticket in tickets]
        assert epochs == sorted(epochs)
        assert [vars(row)["stock"] for row in await client.rows("per_shop")] == [29]

    with_client(main)


@pytest.mark.parametrize("seed", range(3))
def test_a_watch_adds_up(seed: int) -> None:
    """First the rows, then changes; added up, they are the view at every epoch, and epochs ascend."""

    async def main(system: System) -> None:
        async with system.connect(app, nodes=3) as client, system.connect(app) as writer:
            await writer.put("items", [item("a", 3), item("b", 2)])
            seen: list[Change] = []

            async def watch() -> None:
                async for change in client.watch("low"):
                    seen.append(change)

            watching = asyncio.create_task(watch())
            for stock in (1, 7, 2, 8, 1):
                await writer.put("items", item("a", stock))
                await writer.delete("items", (1, "b"))
                await asyncio.sleep(1.0)
            rows = await client.rows("low")
            await asyncio.sleep(30.0)
            watching.cancel()
            assert seen[0].snapshot
            assert not any(change.snapshot for change in seen[1:])
            assert [change.epoch for change in seen] == sorted({change.epoch for change in seen})
            held: list[Row] = []
            for change in seen:
                for row in change.deleted:
                    held.remove(row)
                held += change.inserted
            assert held == rows

    simulated(main, seed=seed)


def test_a_watch_goes_on_after_an_epoch() -> None:
    """With `after`, changes come from the epoch behind it, without a snapshot, while they are remembered."""

    async def main(client: Client) -> None:
        await client.put("items", item("a", 1))
        first = await anext(client.watch("low"))
        await client.put("items", item("b", 2))
        await client.put("items", item("c", 3))
        await client.flush()
        changes = client.watch("low", after=first.epoch)
        skus: list[str] = []
        while len(skus) < 2:
            change = await anext(changes)
            assert not change.snapshot
            skus += [vars(row)["sku"] for row in change.inserted]
        assert skus == ["b", "c"]

    with_client(main)


def test_a_watch_after_a_forgotten_epoch_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nodes do not remember what came behind `after`, the watch begins again with a snapshot."""
    monkeypatch.setattr(kernel, "HISTORY_EPOCHS", 2)

    async def main(client: Client) -> None:
        for number in range(6):
            await client.put("items", item(f"sku {number}", 1))
        change = await anext(client.watch("low", after=1))
        assert change.snapshot
        assert len(change.inserted) == 6

    with_client(main)


def test_a_reader_who_is_far_behind_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are not kept without bound: who does not read for long gets a snapshot instead, which is
    right."""
    monkeypatch.setattr(watching, "WAITING_ROWS_MAX", 5)

    async def main(system: System) -> None:
        async with system.connect(app) as client, system.connect(app) as writer:
            changes = client.watch("low")
            assert (await anext(changes)).snapshot
            for number in range(9):
                await writer.put("items", item(f"sku {number}", 1))
            await writer.flush()
            await asyncio.sleep(60)
            change = await anext(changes)
            assert change.snapshot
            assert len(change.inserted) == 9

    simulated(main)


def test_a_store_is_gone_on_from() -> None:
    """A second system over the same store shows what the first one committed."""
    objects = MemoryObjects(remembers=True)
    with_client(lambda client: client.put("items", item("a", 1)), objects=objects)

    async def look(client: Client) -> list[str]:
        return [vars(row)["sku"] for row in await client.rows("low")]

    assert with_client(look, objects=objects, seed=2) == ["a"]


def test_a_new_session_deposes_the_older_one() -> None:
    """A client that comes back under its name hears how far it was, and the older session is told that it
    ended."""

    async def main(system: System) -> None:
        async with system.connect(app, client_id="loader-7") as old:
            await old.put("items", item("a", 1))
            await old.put("items", item("b", 1))
            async with system.connect(app, client_id="loader-7") as new:
                assert new.committed == 2
                await new.put("items", item("c", 1))
                with pytest.raises(SessionExpired, match=r"loader-7.*up to\s+number 2"):
                    await old.put("items", item("d", 1))
                with pytest.raises(SessionExpired, match="connect again"):
                    await old.put("items", item("d", 1))
                assert [vars(row)["sku"] for row in await new.rows("low")] == ["a", "b", "c"]

    simulated(main)


def test_a_writer_that_was_forgotten_is_told_so() -> None:
    """A session that was idle for too long has ended: its next write is refused, never taken for a new one's,
    and a new session of the name begins anew."""

    async def live() -> None:
        options = SequencerOptions(session_idle_us=60_000_000)
        async with (
            SimulatedSystem(SimWorld(1, "faithful"), sequencer=options) as system,
            system.connect(app, client_id="loader-7") as old,
            system.connect(app) as other,
        ):
            await old.put("items", item("a", 1))
            await asyncio.sleep(120)
            await other.put("items", item("b", 1))
            with pytest.raises(
                SessionExpired, match=r"may or may not be committed; those up to number 1 are"
            ):
                await old.put("items", item("c", 1))
            async with system.connect(app, client_id="loader-7") as new:
                await new.put("items", item("d", 1))
                assert [vars(row)["sku"] for row in await new.rows("low")] == ["a", "b", "d"]

    run_simulation(live(), until_seconds=3_600)


def test_a_killed_load_goes_on_where_it_stopped() -> None:
    """What is committed is passed over when the same transactions are offered again; nothing comes twice."""
    objects = MemoryObjects(remembers=True)

    def transactions(client: Client) -> list[Transaction]:
        made = []
        for number in range(20):
            transaction = client.new_transaction()
            transaction.append("events", Event(sku="a", sold=number))
            made.append(transaction)
        return made

    async def killed(system: System) -> None:
        async with system.connect(app, client_id="load") as client:
            for transaction in transactions(client)[:7]:
                await client.write(transaction)

    async def again(system: System) -> list[Any]:
        async with system.connect(app, client_id="load") as client:
            loaded = await client.load(transactions(client))
            assert (loaded.transactions, loaded.rows, loaded.rows_passed_over) == (13, 13, 7)
            return [vars(row)["sold"] for row in await client.rows("lines")]

    simulated(killed, objects=objects)
    assert simulated(again, objects=objects, seed=2) == list(range(20))


def test_rows_left_out_are_told() -> None:
    """A row that an expression has no value for is missing from the view and stands in its errors."""

    async def main(client: Client) -> None:
        await client.put("items", [item("a", 0), item("b", 0), item("c", 4)])
        snapshot = await client.snapshot("inverse", "low")
        assert [vars(row)["inverse"] for row in snapshot["inverse"]] == [0.25]
        (error,) = snapshot.errors["inverse"]
        assert (error.reason, error.count) == ("division by zero", 2)
        assert snapshot.errors["low"] == []
        await client.delete("items", (1, "a"), (1, "b"))
        assert await client.view("inverse").errors() == []

    with_client(main, nodes=3)


def test_mistakes_are_refused_before_anything_is_sent() -> None:
    """Wrong rows, keys, names and verbs are told with dataset, row and column, and the client goes on."""

    async def main(client: Client) -> None:
        for work, error, message in (
            (
                client.put("items", [item("a", 1), {"sku": "b", "shop": 1}]),
                dz.DataError,
                r"'items', row 2: .*'stock'",
            ),
            (
                client.put("items", {"sku": "b", "shop": None, "stock": 1}),
                dz.DataError,
                "'shop' .*null is not allowed",
            ),
            (
                client.put("items", {"sku": "b", "shop": "x", "stock": 1}),
                dz.DataError,
                "'shop' .*expected int",
            ),
            (client.put("items", 7), dz.DataError, "expected a row or rows"),  # type: ignore[arg-type]
            (client.put("nothing", []), dz.RequestError, "no dataset 'nothing' .* items, events"),
            (client.put("events", []), dz.RequestError, "append"),
            (client.append("items", []), dz.RequestError, "put"),
            (
                client.delete("items", "a"),
                dz.DataError,
                r"the key is \(shop: int, sku: str\); give a tuple of 2",
            ),
            (client.update("items", (1, "a"), sku="b"), dz.DataError, "belongs to the key"),
            (client.update("items", (1, "a"), stok=1), dz.DataError, "Did you mean 'stock'"),
            (client.update("items", (1, "a")), dz.DataError, "at least one column"),
            (client.get("lines", 1), dz.RequestError, "is a bag"),
            (client.get("per_shop", "x"), dz.DataError, "'shop': expected int"),
            (client.snapshot("nothing"), dz.RequestError, "no view 'nothing'"),
        ):
            with pytest.raises(error, match=message):
                await work
        await client.put("items", item("a", 1))
        assert len(await client.rows("low")) == 1

    with_client(main)


def test_a_transaction_that_is_too_large_is_refused() -> None:
    """One message carries at most 15 MiB; the error says so, nothing of it is written, and the session goes
    on."""

    async def main(client: Client) -> None:
        with pytest.raises(dz.DataError, match=r"at most .* several transactions"):
            await client.put("items", [item("x" * 200_000, n) for n in range(100)])
        await client.put("items", item("a", 1))
        assert len(await client.rows("low")) == 1

    with_client(main)


def test_a_program_that_nobody_runs() -> None:
    """A name that no program has is told with those that run."""

    async def main(system: System) -> None:
        with pytest.raises(dz.RequestError, match=r"no program 'nothing'"):
            async with system.connect("nothing"):
                pass
        async with system.connect(app), system.connect("shop") as by_name:
            assert await by_name.rows("low") == []

    simulated(main)


def test_another_program_under_the_same_name_is_refused() -> None:
    """What a store holds of a program governs: another one of its name says so."""
    other = dz.Program("shop")
    other.view("all", other.dataset("items", Item, key="sku"))

    async def main(system: System) -> None:
        async with system.connect(app):
            with pytest.raises(dz.RequestError, match="shop"):
                async with system.connect(other):
                    pass

    simulated(main)


def test_a_failing_service_fails_the_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside a service is raised by whoever waits for an answer, at once and not after a timeout."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside a service")

    async def main(client: Client) -> None:
        monkeypatch.setattr(ProgramHost, "on_message", broken)
        monkeypatch.setattr(ProgramHost, "hand_out", broken)
        with pytest.raises(ZeroDivisionError, match="inside a service"):
            await client.put("items", item("a", 1))
            await client.get("per_shop", 1)

    with_client(main)


def test_a_program_that_stands_still_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a node halts, whoever waits hears the reason within seconds, not after a long patience."""

    async def main(client: Client) -> None:
        await client.put("items", item("a", 1))
        monkeypatch.setattr(
            NodeKernel, "_advance", lambda self, effects: self._halt("two contents for one stage", effects)
        )
        started = asyncio.get_running_loop().time()
        with pytest.raises(dz.OperatorError, match=r"'shop' stands still: .*two contents"):
            await client.put("items", item("a", 2))
            await client.get("per_shop", 1)
        assert asyncio.get_running_loop().time() - started < 60

    with_client(main)


def test_lost_messages_are_sent_again() -> None:
    """With a network that loses a tenth of all that is sent, writes and reads still come through."""
    world = SimWorld(3, Weather("lossy", transit=Delay(0.001), loss=0.1))

    async def live() -> int:
        async with SimulatedSystem(world) as system, system.connect(app) as client:
            for number in range(10):
                await client.put("items", item(f"sku {number}", 1))
            return len(await client.rows("low"))

    assert run_simulation(live(), until_seconds=3_600) == 10
