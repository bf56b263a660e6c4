"""The commands for a running system, over one inside the test's process: what is written, printed and refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.cli.data import GetOptions, LoadOptions, ShowOptions, get, load, show
from dist_zero.cli.doctor import Report, examine_system
from dist_zero.cli.status import show_status
from dist_zero.cli.watch import WatchOptions, watch
from dist_zero.client import loading
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero.system import EmbeddedSystem, System
from dist_zero_common.broker.base import QueueKind
from dist_zero_common.broker.topology import ROLES
from dist_zero_common.errors import DataError, DistZeroError, RequestError
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits

app = dz.Program("shop")


class Sale(dz.Row):
    number: int
    at: dt.datetime
    shop: str
    item: str | None
    price: float


class Note(dz.Row):
    text: str


sales = app.dataset("sales", Sale, key="number")
notes = app.dataset("notes", Note)
app.view("dear", sales.where(sales["price"] > 10))
app.view("turnover", sales.group_by("shop", "item").agg(n=dz.count(), sum=dz.sum("price")))
app.view("days", sales.group_by(day=sales["at"].truncate("day")).agg(n=dz.count()))
app.view("total", sales.group_by().agg(n=dz.count()))
app.view("texts", notes.select("text"))

ROWS = "number,at,shop,item,price\n" + "".join(
    f"{n},2013-01-0{1 + n % 9} 12:00,{'ab'[n % 2]},{'NA' if n % 3 else 'tea'},{n}.5\n" for n in range(20)
)


class InProcess(RemoteSystem):
    """A system inside this process, reached as one over a broker is."""

    def __init__(self, system: System) -> None:
        super().__init__("", system.name, connect=system.broker.connector("command"))
        self.broker = system.broker


@asynccontextmanager
async def running(
    *programs: dz.Program, machines: int = 1, nodes: int = 2, store: Path | None = None
) -> AsyncIterator[InProcess]:
    """A system on which these programs run."""
    async with EmbeddedSystem(machines=machines, store=store, name="local") as system:
        for program in programs:
            async with system.connect(program, nodes=nodes):
                pass
        yield InProcess(system)


Work = Callable[[InProcess], Awaitable[Any]]


def run(work: Work, *programs: dz.Program, machines: int = 1, nodes: int = 2) -> Any:
    """Run `work` on a system with these programs; the shop, if none is named."""

    async def live() -> Any:
        async with running(*(programs or (app,)), machines=machines, nodes=nodes) as system:
            return await work(system)

    return asyncio.run(live())


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sales.csv").write_text(ROWS)
    (tmp_path / "notes.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    return tmp_path


async def load_sales(system: InProcess, **options: Any) -> None:
    await load(system, LoadOptions("sales", (Path("sales.csv"),), ("NA",), **options))


# ---- load --------------------------------------------------------------------------------------------------


def test_load_writes_files_and_says_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    """Every row is there; the last line has rows, dataset, program, time and speed."""

    async def work(system: InProcess) -> object:
        await load_sales(system)
        await load(system, LoadOptions("notes", (Path("notes.jsonl"),)))
        async with system.connect("shop") as client:
            return (await client.rows("total"))[0].n, len(await client.rows("texts"))

    assert run(work) == (20, 2)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("20 rows into sales of shop in ")
    assert out[0].endswith(" rows/s")
    assert out[1].startswith("2 rows into notes")


def test_the_same_file_is_loaded_once_unless_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The content is the load's name, whatever the file is called; other content, other nulls or another dataset are
    another load; `--again` writes it once more."""

    async def work(system: InProcess) -> list[int]:
        counts = []
        Path("copy.jsonl").write_bytes(Path("notes.jsonl").read_bytes())
        for file, again in (("notes.jsonl", False), ("copy.jsonl", False), ("notes.jsonl", True)):
            await load(system, LoadOptions("notes", (Path(file),), again=again, as_json=True))
            async with system.connect("shop") as client:
                counts.append(len(await client.rows("texts")))
        Path("copy.jsonl").write_text('{"text": "three"}\n')
        await load(system, LoadOptions("notes", (Path("copy.jsonl"),), as_json=True))
        async with system.connect("shop") as client:
            counts.append(len(await client.rows("texts")))
        return counts

    assert run(work) == [2, 2, 4, 5]
    loads = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["rows"], each["rows_passed_over"]) for each in loads] == [(2, 0), (0, 2), (2, 0), (1, 0)]
    assert loads[0]["files"] == [
        {"file": "notes.jsonl", "rows": 2, "rows_passed_over": 0, "transactions": 1}
        | {"seconds": loads[0]["files"][0]["seconds"]}
    ]


def test_a_load_that_was_cut_off_goes_on_where_it_stopped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the middle, as by Ctrl-C; then run again: what was committed is passed over, nothing is doubled."""
    monkeypatch.setattr(loading, "LOAD_ROWS", 1_000)
    texts = [f"text {n}" for n in range(20_000)]
    Path("many.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    options = LoadOptions("notes", (Path("many.jsonl"),), as_json=True)
    write_soon = Client.write_soon

    async def cut_off(client: Client, transaction: Any) -> Any:
        ticket = await write_soon(client, transaction)
        cut_off.count += 1  # type: ignore[attr-defined]
        if cut_off.count == 8:  # type: ignore[attr-defined]
            await ticket
            raise asyncio.CancelledError
        return ticket

    cut_off.count = 0  # type: ignore[attr-defined]

    async def work(system: InProcess) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(Client, "write_soon", cut_off)
            with pytest.raises(asyncio.CancelledError):
                await load(system, options)
        assert "interrupted after about" in capsys.readouterr().err
        await load(system, options)
        async with system.connect("shop") as client:
            return [row.text for row in await client.rows("texts")]

    assert run(work) == sorted(texts)
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["rows"] + loaded["rows_passed_over"] == len(texts)
    assert 8_000 <= loaded["rows_passed_over"] < len(texts)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (LoadOptions("sales", (Path("none.csv"),)), DataError, "'none.csv' does not exist"),
        (LoadOptions("sales", (Path("sales.txt"),)), DataError, "sales.txt"),
        (
            LoadOptions("salse", (Path("sales.csv"),)),
            RequestError,
            "no dataset 'salse' in program 'shop'; there are",
        ),
        (LoadOptions("notes", (Path("sales.csv"),)), DataError, "no column 'text'"),
        (
            LoadOptions("notes", (Path("notes.jsonl"), Path("sales.csv"))),
            DataError,
            "no column 'text'; it has number",
        ),
        (
            LoadOptions("sales", (Path("sales.csv"),), program="shoop"),
            RequestError,
            "no program 'shoop' runs there; there are shop",
        ),
    ],
)
def test_load_refuses_before_it_writes(options: LoadOptions, error: type[DistZeroError], says: str) -> None:
    """What is misspelt is found before the first row is written: also in the last of several files."""

    async def work(system: InProcess) -> object:
        with pytest.raises(error, match=says):
            await load(system, options)
        async with system.connect("shop") as client:
            return (await client.snapshot("total", "texts")).stored

    assert run(work) == {"total": [(0,)], "texts": []}


def test_load_keeps_what_came_before_a_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the line; what was written before is said, and a corrected file is another load."""
    monkeypatch.setattr(loading, "LOAD_ROWS", 1_000)
    good = "".join(f"{n},2013-01-01,a,b,1\n" for n in range(1_500))
    Path("bad.csv").write_text(f"{ROWS.splitlines()[0]}\n{good}x,2013-01-01,a,b,1\n")

    async def work(system: InProcess) -> object:
        with pytest.raises(
            DataError, match=r"bad.csv, line 1,502, column 'number'.*1,000 rows before it were written"
        ):
            await load(system, LoadOptions("sales", (Path("bad.csv"),), ("NA",)))
        async with system.connect("shop") as client:
            return (await client.rows("total"))[0].n

    assert run(work) == 1_000


# ---- which program -----------------------------------------------------------------------------------------


def test_a_program_is_chosen_by_name_or_by_being_the_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    """None runs: what to do. Several: which there are."""
    other = dz.Program("other")
    table = other.dataset("notes", Note)
    other.view("all", table.select("text"))

    async def work(system: InProcess) -> None:
        with pytest.raises(
            RequestError, match="2 programs run there: pick one of other, shop with --program"
        ):
            await show(system, ShowOptions())
        await show(system, ShowOptions(program="other"))

    run(work, app, other)
    assert "all  0 rows" in capsys.readouterr().out

    async def empty() -> None:
        async with running() as system:
            with pytest.raises(RequestError, match=r"no program runs there yet: `dist-zero run app.py`"):
                await show(system, ShowOptions())

    asyncio.run(empty())


# ---- show --------------------------------------------------------------------------------------------------


def test_show_prints_views_as_of_one_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of the views that were named, all without names, cut at `--rows`, with the epoch."""

    async def work(system: InProcess) -> list[str]:
        await load_sales(system)
        capsys.readouterr()
        printed = []
        for options in (ShowOptions(("dear",), rows=3), ShowOptions()):
            await show(system, options)
            printed.append(capsys.readouterr().out)
        return printed

    one, everything = run(work)
    assert one.startswith("dear  10 rows\n")
    assert "… 7 more" in one
    assert "turnover" not in one
    assert "as of epoch " in one
    for view in ("dear  10 rows", "turnover  4 rows", "days  9 rows", "total  1 row", "texts  0 rows"):
        assert view in everything


def test_show_as_json_and_into_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Every row exactly, under the names that `run --json` has; files are what `load` reads."""

    async def work(system: InProcess) -> object:
        await load_sales(system)
        capsys.readouterr()
        outs = (("dear", Path("dear.parquet")), ("turnover", Path("turnover.csv")))
        await show(system, ShowOptions(("total",), outs, as_json=True))
        async with system.connect("shop") as client:
            return (await client.snapshot("dear")).to_arrow("dear").num_rows

    assert run(work) == 10
    result = json.loads(capsys.readouterr().out)
    assert (result["program"], result["views"]["total"]) == ("shop", [{"n": 20}])
    assert result["stats"]["epoch"] >= 1
    assert len(list(dz.read_rows("dear.parquet", Sale))) == 10
    assert Path("turnover.csv").read_text().startswith('"shop","item","n","sum"\n')


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (ShowOptions(("deer",)), "no view 'deer' in program 'shop'; there are dear, turnover, days"),
        (ShowOptions(outs=(("dear", Path("dear.docx")),)), "docx"),
        (ShowOptions(outs=(("dear", Path("nowhere/dear.csv")),)), "there is no directory nowhere"),
    ],
)
def test_show_names_what_is_wrong(options: ShowOptions, says: str) -> None:
    """View, kind of file, directory."""

    async def work(system: InProcess) -> None:
        with pytest.raises((RequestError, DataError), match=says):
            await show(system, options)

    run(work)


# ---- get ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "key", "expected"),
    [
        (
            "dear",
            ("12",),
            {"number": 12, "at": "2013-01-04T12:00:00Z", "shop": "a", "item": "tea", "price": 12.5},
        ),
        ("turnover", ("a", "tea"), {"shop": "a", "item": "tea", "n": 4, "sum": 38.0}),
        ("turnover", ("b", "NA"), {"shop": "b", "item": None, "n": 7, "sum": 76.5}),
        ("days", ("2013-01-02",), {"day": "2013-01-02T00:00:00Z", "n": 3}),
        ("total", (), {"n": 20}),
        ("dear", ("-3",), None),
        ("turnover", ("c", "tea"), None),
    ],
)
def test_get_finds_rows_by_keys_in_text(
    view: str, key: tuple[str, ...], expected: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value by its column's type, a text of `--null` as null; a missing row is null, and the answer is no."""

    async def work(system: InProcess) -> list[object]:
        await load_sales(system)
        capsys.readouterr()
        found = await get(system, GetOptions(view, key, ("NA",), as_json=True))
        as_json = json.loads(capsys.readouterr().out)
        await get(system, GetOptions(view, key, ("NA",)))
        return [found, as_json]

    assert run(work) == [expected is not None, expected]
    printed = capsys.readouterr()
    if expected is None:
        assert printed.err.startswith(f"no row of {view} has the key '{key[0]}'")
        assert printed.out == ""
    else:
        assert "┏" in printed.out


@pytest.mark.parametrize(
    ("view", "key", "error", "says"),
    [
        (
            "dear",
            ("x",),
            DataError,
            r"view 'dear', key column 'number': expected int, got 'x'; the key is \(number: int\)",
        ),
        ("dear", (), DataError, r"view 'dear': the key is \(number: int\): give 1 value, got none"),
        (
            "turnover",
            ("a",),
            DataError,
            r"view 'turnover': the key is \(shop: str, item: str \| None\): give 2 values, got 'a'",
        ),
        ("days", ("yesterday",), DataError, "key column 'day': expected datetime, got 'yesterday'"),
        ("texts", ("one",), RequestError, "view 'texts' is a bag: it has no key .* `dist-zero show texts`"),
        ("deer", ("1",), RequestError, "no view 'deer' in program 'shop'; there are dear"),
        ("sales", ("1",), RequestError, "'sales' is a dataset"),
    ],
)
def test_get_names_the_key_and_its_types(
    view: str, key: tuple[str, ...], error: type[DistZeroError], says: str
) -> None:
    """Whoever typed a wrong key reads which columns it has, of which types."""

    async def work(system: InProcess) -> None:
        with pytest.raises(error, match=says):
            await get(system, GetOptions(view, key))

    run(work)


# ---- watch -------------------------------------------------------------------------------------------------


def test_watch_prints_a_line_per_changed_row(capsys: pytest.CaptureFixture[str]) -> None:
    """First the view, then + and - with the epoch; it ends after `--count` epochs, and says where to go on."""

    async def work(system: InProcess) -> tuple[list[str], list[dict[str, Any]], int]:
        await load_sales(system)
        capsys.readouterr()
        watching = asyncio.create_task(watch(system, WatchOptions("total", count=3)))
        async with system.connect("shop") as client:
            while "n=20" not in (seen := capsys.readouterr().out):
                await asyncio.sleep(0.01)
            await client.delete("sales", 3)
            await client.put(
                "sales",
                [
                    {"number": n, "at": dt.datetime(2013, 1, 1), "shop": "a", "item": None, "price": 1.0}
                    for n in (50, 51)
                ],
            )
            await watching
            printed = capsys.readouterr()
            lines = (seen + printed.out).splitlines()
            after = int(printed.err.split("--after ")[1])
            await client.delete("sales", 50)
            await watch(system, WatchOptions("total", after=after, count=1, as_json=True))
        return lines, [json.loads(line) for line in capsys.readouterr().out.splitlines()], after

    lines, later, after = run(work)
    parts = [line.split(" ", 2) for line in lines]
    assert [part[1:] for part in parts] == [
        ["", " the view as of here: 1 row"],
        ["+", "n=20"],
        ["-", "n=20"],
        ["+", "n=19"],
        ["-", "n=19"],
        ["+", "n=21"],
    ]
    epochs = [int(part[0]) for part in parts]
    assert epochs == sorted(epochs)
    assert epochs[-1] == after
    assert [(each["change"], each["row"]) for each in later] == [("-", {"n": 21}), ("+", {"n": 20})]
    assert all(each["epoch"] > after for each in later)


def test_watch_as_json_begins_with_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    """One object per line; the first says how many rows the view has, which follow."""

    async def work(system: InProcess) -> None:
        await load_sales(system)
        capsys.readouterr()
        await watch(system, WatchOptions("turnover", count=1, as_json=True))

    run(work)
    first, *rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first == {"epoch": first["epoch"], "snapshot": True, "rows": 4}
    assert {each["change"] for each in rows} == {"+"}
    assert {(each["row"]["shop"], each["row"]["item"]) for each in rows} == {
        ("a", "tea"),
        ("a", None),
        ("b", "tea"),
        ("b", None),
    }


def test_watch_that_is_interrupted_says_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Cancelled, as by Ctrl-C: nothing is lost of what was printed."""

    async def work(system: InProcess) -> None:
        await load_sales(system)
        capsys.readouterr()
        watching = asyncio.create_task(watch(system, WatchOptions("total")))
        while "n=20" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    run(work)
    assert "to go on from here: --after " in capsys.readouterr().err


# ---- status ------------------------------------------------------------------------------------------------


def test_status_shows_machines_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """People see where nodes are and how far they are; `--json` has all that the scheduler says."""

    async def work(system: InProcess) -> list[Any]:
        await load_sales(system)
        capsys.readouterr()
        while True:  # what machines report is a moment old
            status = (await system.status()).programs[0]
            if status.finished_epoch == status.epoch > 0:
                break
            await asyncio.sleep(0.05)
        printed: list[Any] = []
        for as_json in (False, True):
            fine = await show_status(system, broker="amqp://me@here", as_json=as_json)
            printed += [fine, capsys.readouterr().out]
        return printed

    fine, text, json_fine, as_json = run(work, machines=2, nodes=3)
    assert fine
    assert json_fine
    lines = [line.split() for line in text.splitlines() if line]
    assert lines[0] == ["system", "local", "at", "amqp://me@here"]
    assert lines[1] == ["scheduler", "1", "leads"]
    assert ["m1", "2", "4.0", "GiB", "ready"] in lines
    assert ["m2", "2", "4.0", "GiB", "ready"] in lines
    program = next(line for line in lines if line[0] == "shop")
    assert program[1:3] == ["running", "3:"]
    assert program[-1] == "0"
    result = json.loads(as_json)
    assert result["wrong"] == []
    assert [machine["ready"] for machine in result["machines"]] == [True, True]
    assert (result["programs"][0]["state"], result["programs"][0]["lag"]) == ("running", 0)
    assert len(result["programs"][0]["nodes"]) == 3


def test_status_of_an_empty_system_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing runs: that is no trouble, and the next step is said."""

    async def work() -> bool:
        async with running() as system:
            return await show_status(system, broker="amqp://me@here", as_json=False)

    assert asyncio.run(work())
    assert "no program runs here yet: `dist-zero run app.py` submits one" in capsys.readouterr().out


# ---- doctor ------------------------------------------------------------------------------------------------


def test_doctor_finds_a_healthy_system_healthy() -> None:
    """Every queue that the topology knows of is looked at, but for replies; nothing is wrong."""

    async def work(system: InProcess) -> Report:
        await load_sales(system)
        return await examined(system)

    report = run(work, machines=2)
    assert report.healthy, report.findings
    roles = {queue.split(".")[2] for queue in report.queues}
    assert roles == {role.name for role in ROLES.values() if role.kind is QueueKind.INBOX}
    says = " ".join(finding.says for finding in report.findings)
    assert "scheduler 1 of local leads and answers" in says and "none stands by" in says
    assert "2 machines are ready: m1, m2" in says
    assert "program shop runs" in says
    assert f"all {len(report.queues)} queues of the system are there and are read" in says


def test_doctor_says_that_there_is_no_such_system() -> None:
    """Its scheduler has no inbox: the name may be wrong."""

    async def work(system: InProcess) -> Report:
        return await examined(system, "locla")

    report = run(work)
    assert [finding.says for finding in report.findings] == [
        "no system 'locla' is at this broker: it has no queue dz.locla.scheduler; is the name right, and was the"
        " scheduler started?"
    ]
    assert not report.healthy


async def examined(system: InProcess, name: str = "local") -> Report:
    """What the doctor says of a system."""
    report = Report()
    broker = system.broker.connect("doctor")
    await examine_system(report, broker, name, seconds=0.1, sleep=asyncio.sleep)
    await broker.close()
    return report


def test_status_says_what_growth_did(capsys: pytest.CaptureFixture[str]) -> None:
    """On lines of their own, and in fields of the JSON; where nothing is automatic there is nothing of it."""

    async def work(system: InProcess) -> None:
        await show_status(system, broker="here", as_json=False)
        assert "automatic" not in capsys.readouterr().out
        await system.autoscale("shop", NodeLimits(1, 4, 60), MachineLimits(1, 3))
        await show_status(system, broker="here", as_json=False)
        said = " ".join(capsys.readouterr().out.split())
        assert "machines automatic: 1 wanted, of 1 to 3" in said
        assert "shop: automatic: 1 to 4 nodes, asleep after 60 s without input" in said
        await show_status(system, broker="here", as_json=True)
        status = json.loads(capsys.readouterr().out)
        assert status["growth"].startswith("automatic: 1 wanted")
        assert status["programs"][0]["growth"].startswith("automatic: 1 to 4 nodes")

    run(work)
