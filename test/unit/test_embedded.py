"""Whole systems in this process on the real clock, with both faces of the client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dist_zero as dz
from dist_zero.client.changed import Change
from dist_zero.client.client import Client
from dist_zero_common.errors import SettingsError, StoreError

app = dz.Program("scores")


class Score(dz.Row):
    player: str
    points: int


scores = app.dataset("scores", Score, key="player")
app.view("board", scores.top(2, by=dz.desc("points")))
app.view("total", scores.group_by().agg(points=dz.sum("points"), players=dz.count()))


def points(rows: Sequence[dz.Row]) -> list[int]:
    return [vars(row)["points"] for row in rows]


def test_blocking_face(tmp_path: Path) -> None:
    """Every method without `await`: writes, a transaction, files, reads, a snapshot, a watch."""
    with dz.embedded(app, nodes=2) as db:
        db.put("scores", [Score(player="ann", points=7), Score(player="bob", points=9)])
        with db.transaction() as transaction:
            transaction.put("scores", {"player": "cy", "points": 8})
            transaction.delete("scores", "bob")
        with pytest.raises(dz.RequestError, match="write in a new one"):
            transaction.put("scores", {"player": "late", "points": 8})
        db.update("scores", "ann", points=10)
        assert points(db["board"]) == [10, 8]
        assert db.flush() > 0
        row = db.get("board", "cy")
        assert row is not None
        assert vars(row) == {"player": "cy", "points": 8}
        assert db.get("board", "bob") is None
        (tmp_path / "more.csv").write_text("player,points\ndee,99\n")
        assert db.load_file("scores", str(tmp_path / "more.csv")) == 1
        snapshot = db.snapshot("total", "board")
        assert points(snapshot["total"]) == [117]
        assert snapshot.to_pandas("board")["points"].tolist() == [99, 10]
        assert db.view("board").errors == []
        assert points(db.view("board").rows()) == [99, 10]


def test_blocking_watch_while_another_thread_writes() -> None:
    """A watch in one thread sees what another thread writes, and ends when its reader leaves it."""
    with dz.embedded(app) as db:
        db.put("scores", Score(player="ann", points=1))
        seen: list[Change] = []

        def write() -> None:
            for number in range(2, 6):
                db.put("scores", Score(player="ann", points=number))

        writer = threading.Thread(target=write)
        for change in db.watch("board"):
            if not seen:
                writer.start()
            seen.append(change)
            if points(change.inserted) == [5]:
                break
        writer.join()
        assert seen[0].snapshot
        assert [points(change.deleted) for change in seen[1:]] == [
            points(change.inserted) for change in seen[:-1]
        ]


def test_many_threads_write_at_once() -> None:
    """The blocking face may be used from several threads; nothing is lost."""
    with dz.embedded(app) as db, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: db.put("scores", Score(player=f"p{n}", points=1)), range(40)))
        assert vars(db["total"][0]) == {"points": 40, "players": 40}


def test_a_directory_store_is_gone_on_from(tmp_path: Path) -> None:
    """The next start shows what the last one committed, watches start anew, and two at a time are refused."""
    store = tmp_path / "data"
    with dz.embedded(app, store=store) as db:
        db.put("scores", Score(player="ann", points=7))
        next(iter(db.watch("board")))
        with pytest.raises(StoreError, match="uses it already"), dz.embedded(app, store=store):
            pass
    with dz.embedded(app, store=store, nodes=3) as db:
        assert "1 node" in db.note
        assert points(db["board"]) == [7]
        db.put("scores", Score(player="bob", points=8))
    with dz.embedded(app, store=store) as db:
        assert points(db["board"]) == [8, 7]


def test_errors_of_the_user_reach_the_caller() -> None:
    """A mistake is raised in the caller's thread, and the database goes on; outside its block it says so."""
    with dz.embedded(app) as db:
        with pytest.raises(dz.DataError, match=r"'points' .*expected int"):
            db.put("scores", {"player": "ann", "points": "many"})
        with pytest.raises(dz.RequestError, match="no view 'bored'"):
            db["bored"]
        with pytest.raises(RuntimeError, match="mine"), db.transaction() as transaction:
            transaction.put("scores", Score(player="ann", points=7))
            raise RuntimeError("mine")
        assert db["board"] == []
    with pytest.raises(dz.OperatorError, match="closed"):
        db["board"]


def test_a_watch_left_open_ends_with_its_database(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever leaves the block in the middle of watches hears nothing of how, and in which order, they end."""
    with dz.embedded(app) as db:
        watches = [db.watch("board") for _ in range(8)]
        for changes in watches:
            next(changes)
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


def test_a_watch_goes_on_from_an_epoch_alone() -> None:
    """Whatever is no epoch is refused where it is said, and not by the wire."""
    with dz.embedded(app) as db:
        for after in (-1, 2**64, "3", True):
            with pytest.raises(dz.RequestError, match=r"after=change\.epoch"):
                next(db.watch("board", after=after))  # type: ignore[arg-type]


def test_asyncio_face_and_further_clients() -> None:
    """`async with` gives the asynchronous client; `dz.connect` reaches the same system, under other names."""

    async def main() -> None:
        async with dz.embedded(app) as db:
            assert isinstance(db, Client)
            await db.put("scores", Score(player="ann", points=7))
            async with dz.connect("scores", to=db.system, client_id="loader-7") as other:
                await other.put("scores", Score(player="bob", points=8))
                assert other.committed == 1
            async with dz.connect(app, to=db.system, client_id="loader-7") as again:
                assert again.committed == 1
            assert points(await db.rows("board")) == [8, 7]

    asyncio.run(main())


def test_what_cannot_be_connected_to() -> None:
    """What is no URL is refused with what to do instead; names and numbers are checked."""
    with pytest.raises(SettingsError, match="URL of its broker"):
        dz.connect(app, to="localhost")
    with pytest.raises(SettingsError, match="system"):
        dz.connect(app, to="amqp://localhost", system="Not A Name").open()
    for nowhere in (5, None, ""):
        with pytest.raises(SettingsError, match="cannot connect to"):
            dz.connect(app, to=nowhere)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"give a dz\.Program"):
        dz.connect(None, to="amqp://localhost")  # type: ignore[arg-type]
    for nodes in (0, "3", 1.5):
        with pytest.raises(SettingsError, match="nodes: a program has"):
            dz.connect(app, to="amqp://localhost", nodes=nodes).open()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"no 'board' before it runs: write `with dz\.connect"):
        dz.connect(app, to="amqp://localhost")["board"]  # type: ignore[index]
    with pytest.raises(SettingsError, match="at least one"), dz.embedded(app, nodes=0):
        pass
    with pytest.raises(SettingsError, match="client"), dz.embedded(app, client_id="Not A Name"):
        pass


def test_a_failing_service_fails_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside a service is raised by whoever waits, in whatever thread."""
    from services.node_runner.hosting import ProgramHost

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside a service")

    with dz.embedded(app) as db:
        db.put("scores", Score(player="ann", points=7))
        monkeypatch.setattr(ProgramHost, "hand_out", broken)
        with pytest.raises(ZeroDivisionError, match="inside a service"):
            db["board"]


def test_opened_without_a_block() -> None:
    """`open` and `close` do without a block, a watch that is left behind is harmless, and a database that was never
    entered says what to write."""
    with pytest.raises(AttributeError, match=r"with dz\.embedded"):
        getattr(dz.embedded(app), "put")  # noqa: B009
    db = dz.embedded(app).open()
    db.put("scores", Score(player="ann", points=7))
    changes = db.watch("board")
    assert points(next(changes).inserted) == [7]
    assert repr(db) == "<client of program scores: views board, total>"
    assert repr(db.snapshot("board")).endswith(": board: 1 row>")
    with pytest.raises(dz.RequestError, match="'scores' is a dataset"):
        db["scores"]
    db.close()
    db.close()
    changes.close()  # type: ignore[attr-defined]
    with dz.embedded(app) as closed_inside:
        closed_inside.close()
    assert repr(db) == "<closed database>"


def test_a_program_is_changed_where_it_is_kept(tmp_path: Path) -> None:
    """Only if that is said; the rows stay, and the new view has them."""
    with dz.embedded(app, tmp_path) as db:
        db.put("scores", [Score(player="ann", points=7), Score(player="bob", points=9)])
    other = dz.Program("scores")
    table = other.dataset("scores", Score, key="player")
    other.view("board", table.top(1, by="points"))
    with pytest.raises(dz.RequestError, match="there is another program"), dz.embedded(other, tmp_path):
        pass
    with dz.embedded(other, tmp_path, change=dz.MayChange()) as db:
        assert points(db["board"]) == [7]
        db.put("scores", Score(player="cy", points=1))
        assert points(db["board"]) == [1]
