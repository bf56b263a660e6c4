"""Runs that come back: to the log that is in a store, on another number of nodes, by another process, after damage, and
under stores that are slow or answer wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import dist_zero as dz
from dist_zero.cli.main import main
from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import OperatorError, SessionExpired
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import record_name
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS, BusyRun

Result = TypeVar("Result")

APP = """
import dist_zero as dz

app = dz.Program("till")

class Sale(dz.Row):
    id: int
    amount: int

sales = app.dataset("sales", Sale, key="id")
app.view("total", sales.group_by(all=sales["id"] * 0).agg(n=dz.count(), total=dz.sum("amount")))
"""


def live(
    use: Callable[[Client], Awaitable[Result]],
    store: str | Path | Store | None,
    *,
    seed: int = 1,
    nodes: int = 2,
    app: dz.Program = PROGRAMS[2],
    weather: str | Weather = "faithful",
    sequencer: SequencerOptions | None = None,
) -> Result:
    """Run `use` with a client of a system over this store."""
    world = SimWorld(seed, weather)

    async def inside() -> Result:
        kept = MemoryStore(store, world) if isinstance(store, MemoryObjects) else store
        async with (
            SimulatedSystem(world, machines=2, store=kept, sequencer=sequencer) as system,
            system.connect(app, nodes=nodes) as client,
        ):
            client.system = system
            return await use(client)

    return run_simulation(inside(), until_seconds=20_000)


async def sell(client: Client, first: int = 0) -> list[object]:
    """Five sales, then all shops."""
    for number in range(first, first + 5):
        await client.put("sales", {"id": number, "shop": f"s{number % 2}", "amount": 1.0})
    return [vars(row) for row in await client.rows("per_shop")]


def test_a_directory_is_gone_on_from_on_the_nodes_that_it_began_with(tmp_path: Path) -> None:
    """A second run goes on where the first ended; asked for other nodes, it says that it keeps those of the log."""
    before = live(sell, tmp_path)

    async def look(client: Client) -> tuple[list[object], str]:
        return [vars(row) for row in await client.rows("per_shop")], client.note

    shown, note = live(look, tmp_path, seed=2, nodes=5)
    assert shown == before
    assert "it has 2 nodes" in note and "5" in note
    assert live(lambda client: sell(client, 5), tmp_path, seed=3) != before
    assert live(look, tmp_path, seed=4)[1] == ""


def test_many_runs_over_one_log_are_one_history() -> None:
    """Three busy runs after one another over one store: the log tells of all of them, and the views are of all."""
    objects = MemoryObjects(remembers=True)
    for seed in (1, 2):
        BusyRun(stages=2, nodes=2, transactions=9, writers=1, objects=objects, names=f"run-{seed}").run(
            SimWorld(seed, "hostile")
        )
    last = BusyRun(stages=2, nodes=2, transactions=9, objects=objects).run(SimWorld(3, "hostile"))
    last.check_views()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("faults", [StoreFaults(Delay(0.5), fails_stored=0.4), StoreFaults(fails_absent=0.4)])
def test_a_bad_store_delays_and_loses_nothing(seed: int, faults: StoreFaults) -> None:
    """I1 and I2 over a store that is slow, says that it failed when it stored, or when it did not."""
    weather = Weather("bad store", transit=Delay(0.01), duplicate=0.1, store=faults)
    BusyRun(stages=2, nodes=2, transactions=18).run(SimWorld(seed, weather)).check()


# ---- sessions ------------------------------------------------------------------------------------------------


def test_a_writer_that_was_forgotten_is_told() -> None:
    """A session that wrote nothing for longer than the limit ends in a record. Its writer hears `SessionExpired`, with
    what is committed and what to do, and a new connection under the name goes on."""
    options = SequencerOptions(session_idle_us=30_000_000)

    async def use(client: Client) -> None:
        system = client.system
        async with system.connect("stages-2", client_id="idler") as idler:
            await idler.put("sales", {"id": 1, "shop": "a", "amount": 1.0})
            await asyncio.sleep(40)
            await client.put("sales", {"id": 2, "shop": "a", "amount": 1.0})
            with pytest.raises(SessionExpired, match=r"'idler'.*idle for too long.*number 1 are"):
                await idler.put("sales", {"id": 3, "shop": "a", "amount": 1.0})
            with pytest.raises(SessionExpired, match="connect again to go on"):
                await idler.put("sales", {"id": 3, "shop": "a", "amount": 1.0})
            assert len(await idler.rows("per_shop")) == 1  # it may still read
        async with system.connect("stages-2", client_id="idler") as again:
            await again.put("sales", {"id": 3, "shop": "b", "amount": 1.0})
            assert len(await again.rows("per_shop")) == 2

    live(use, None, sequencer=options)


# ---- damage, and what a person sees --------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> object:
    """`dist-zero run till.py --store data …` in `folder`; returns the exit code."""
    (folder / "till.py").write_text(APP)
    (folder / "sales.csv").write_text("id,amount\n" + "".join(f"{n},{n}\n" for n in range(50)))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dist-zero", "run", "till.py", "--store", "data", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


LOAD = ("--load", "sales=sales.csv")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """All that was printed, on one line."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_a_damaged_or_missing_record_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs a program over a damaged store is told which object is damaged, in words, with an exit code that is
    not 0; and a good one goes on."""
    assert run(monkeypatch, tmp_path, *LOAD) == 0
    assert "1225" in said(capsys).replace(",", "")
    assert run(monkeypatch, tmp_path) == 0
    assert "1225" in said(capsys).replace(",", "")
    victim = tmp_path / "data" / f"{record_name('till', 2)}+"
    kept = victim.read_bytes()
    for damage in (kept[:-5], None):
        victim.unlink()
        if damage is not None:
            victim.write_bytes(damage)
        assert run(monkeypatch, tmp_path) not in (0, None)
        text = said(capsys)
        assert record_name("till", 2) in text, text
        assert "Traceback" not in text
        victim.write_bytes(kept)
    assert run(monkeypatch, tmp_path) == 0


def test_another_program_under_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store belongs to the program that began it; a changed one is refused with what to do."""
    assert run(monkeypatch, tmp_path) == 0
    monkeypatch.setattr(sys.modules[__name__], "APP", APP.replace("amount: int", "amount: float"))
    capsys.readouterr()
    assert run(monkeypatch, tmp_path) not in (0, None)
    assert "under another name" in said(capsys)


def test_one_process_at_a_time_uses_a_directory(tmp_path: Path) -> None:
    """A second process on a store directory is refused while the first lives."""

    async def use(client: Client) -> None:
        await sell(client)
        with pytest.raises(OperatorError, match="uses it already"):
            SimulatedSystem(SimWorld(2), store=tmp_path)
        root = str(Path(__file__).parents[2])
        code = (
            f"from dist_zero_common.store.directory import DirectoryStore; DirectoryStore({str(tmp_path)!r})"
        )
        env = {**os.environ, "PYTHONPATH": root}
        other = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert "StoreError" in other.stderr and str(tmp_path) in other.stderr

    live(use, tmp_path)


@pytest.mark.parametrize("how", ["run", "embedded"])
def test_ctrl_c_ends_a_run_without_a_traceback(tmp_path: Path, how: str) -> None:
    """SIGINT in the middle of a long load: a clean end with the shell's code for it, and what was committed stays."""
    (tmp_path / "till.py").write_text(APP)
    if how == "run":
        (tmp_path / "sales.csv").write_text("id,amount\n" + "".join(f"{n},{n}\n" for n in range(400_000)))
        command = ["-m", "dist_zero.cli", "run", "till.py", "--store", "data", "--load", "sales=sales.csv"]
    else:
        forever = "import dist_zero as dz\nfrom till import app\nwith dz.embedded(app, store='data') as db:\n"
        forever += (
            "    n = 0\n    while True:\n        db.put('sales', {'id': n, 'amount': 1})\n        n += 1\n"
        )
        (tmp_path / "loop.py").write_text(forever)
        command = ["loop.py"]
    root = str(Path(__file__).parents[2])
    # Whoever runs the tests in the background may have them ignore SIGINT, which a new process inherits.
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "data" / "programs" / "till" / "log"
    while process.poll() is None and len(list(log.glob("*"))) < 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    if how == "run":
        assert process.returncode == 130, (out, err)
        assert "Traceback" not in err + out
    else:
        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert "never retrieved" not in err and "was destroyed" not in err
