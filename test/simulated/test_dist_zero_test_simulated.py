"""`dist-zero test`: it passes right programs, and is shown broken ones that it has to catch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.cli.app import CHECK_FAILED, OK
from dist_zero.cli.main import main
from dist_zero.client.session import Session
from dist_zero.reference.interpreter import Interpreter
from dist_zero.testing import SeedOptions, run_seed
from dist_zero_common.protocol.messages.writing import Committed

app = dz.Program("toy")


class Sale(dz.Row):
    id: int
    shop: str
    amount: float | None


class Shop(dz.Row):
    shop: str
    town: str


sales = app.dataset("sales", Sale, key="id")
shops = app.dataset("shops", Shop, key="shop")
app.view(
    "per_town",
    sales.join(shops, on="shop", how="left").group_by("town").agg(total=dz.sum("amount"), n=dz.count()),
)
app.view("best", sales.top(3, by=dz.desc("amount"), per="shop", rank="place"))

SMALL = SeedOptions(nodes=3, machines=2, transactions=24)


@pytest.mark.parametrize("seed", range(6))
def test_a_right_program_holds(seed: int) -> None:
    """I1, I2 and I3 over made-up data, in faithful and hostile weather."""
    result = run_seed(app, seed, SMALL)
    assert result.failures == ()
    assert result.transactions == 24
    assert result.epochs > 1


def test_the_same_seed_is_the_same_history() -> None:
    """A seed means one history, so that a failure can be run again; another seed means another."""
    assert (
        run_seed(app, 3, SMALL).history == run_seed(app, 3, SMALL).history != run_seed(app, 4, SMALL).history
    )


def broken_finish(original: Callable[..., Any]) -> Callable[..., Any]:
    def finish(self: Interpreter, epoch: int) -> Any:
        changes = original(self, epoch)
        return {} if epoch == 6 else changes

    return finish


def test_a_lost_change_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: an executor that forgets to tell what an epoch changed is found at that epoch."""
    monkeypatch.setattr(Interpreter, "finish", broken_finish(Interpreter.finish))
    result = run_seed(app, 0, SMALL)
    assert any("at epoch 6, view" in str(failure) for failure in result.failures)


def test_a_wrong_acknowledgement_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: a commit that is told for another epoch than the log has it in is found."""
    original = Session.on_committed

    def lying(self: Session, message: Committed) -> Any:
        return original(self, Committed(message.session, message.number, message.epoch + 1))

    monkeypatch.setattr(Session, "on_committed", lying)
    result = run_seed(app, 0, SMALL)
    assert any("was acknowledged for epoch" in str(failure) for failure in result.failures)


def test_an_executor_that_fails_is_a_failure_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that halts over an epoch is told with its reason; nobody waits for it without end."""
    monkeypatch.setattr(Interpreter, "finish", lambda *_: 1 / 0)
    (failure,) = run_seed(app, 0, SMALL).failures
    assert "stands still" in failure.text
    assert "has halted" in failure.text


def test_a_crash_is_a_failure_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is told with its place, as a failure of the seed."""
    monkeypatch.setattr(Session, "on_committed", lambda *_: 1 / 0)
    (failure,) = run_seed(app, 0, SMALL).failures
    assert failure.text.startswith("ZeroDivisionError: division by zero (test_dist_zero_test_simulated.py:")


def test_the_command_says_how_to_run_a_failure_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing seed ends the search with exit code 1 and the one line that shows it again; a good one with
    0."""
    program = tmp_path / "small.py"
    program.write_text(
        "import dist_zero as dz\napp = dz.Program('small')\nclass R(dz.Row):\n    k: int\n    v: int\n"
        "ds = app.dataset('ds', R, key='k')\napp.view('x', ds.group_by('v').agg(n=dz.count()))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["dist-zero", "test", "small.py", "--seeds", "2", "--transactions", "9", "--json"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == OK
    assert json.loads(capsys.readouterr().out)["seeds"] == 2
    monkeypatch.setattr(Interpreter, "finish", broken_finish(Interpreter.finish))
    monkeypatch.setattr(sys, "argv", [arg for arg in sys.argv if arg != "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == CHECK_FAILED
    out = capsys.readouterr().out
    assert "seed 0 failed" in out
    assert (
        "run it again: dist-zero test small.py --seeds 1 --seed 0 --nodes 3 --machines 2 --transactions 9"
        " --only-faults none --only-transactions " in out
    )


def test_an_ambush_at_the_very_end_of_all_faults_lets_its_victim_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression, seed 516 of the bank: who fell into an ambush in the moment in which the faults were over failed."""
    bank = str(Path(__file__).parents[2] / "examples" / "bank.py")
    argv = ["dist-zero", "test", bank, "--seeds", "1", "--seed", "516", "--nodes", "3", "--machines", "2"]
    only = ["--transactions", "60", "--only-faults", "3,5", "--only-transactions", "7-14"]
    monkeypatch.setattr(sys, "argv", [*argv, *only])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == OK
