"""`dist-zero test` and `check_program` as whole: the same on any number of processes and under any hash seed; failures
are cut down, told, and brought up again by the line that is printed."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dist_zero as dz
from dist_zero.cli.app import CHECK_FAILED, OK, USER_ERROR
from dist_zero.cli.main import main
from dist_zero.program import Program
from dist_zero.testing import ProgramFailed, SeedOptions, check_program, check_program_async, run_seed
from dist_zero.testing.many import run_seeds
from dist_zero.testing.report import numbers_of, numbers_text
from dist_zero.testing.shrinking import shrink
from dist_zero_common.errors import SettingsError
from examples.bank import app as bank

SMALL = SeedOptions(transactions=18)

WRONG = """
import dist_zero as dz

app = dz.Program("wrong-bank")


class Entry(dz.Row):
    transfer: int
    account: str
    cents: int


entries = app.dataset("entries", Entry, key=("transfer", "account"))
app.view("total", entries.group_by().agg(cents=dz.sum("cents")))


@app.invariant
def adds_up(total):
    assert sum(row.cents or 0 for row in total) == 0


@app.sample
def sample(rng):
    for number in range(100):
        payer, payee = rng.sample("abcd", 2)
        both = [(entries, Entry(transfer=number, account=a, cents=c)) for a, c in ((payer, -number), (payee, number))]
        if number == 7:
            yield from both  # as two transactions
        else:
            yield both
"""


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """Exit code and output of `dist-zero` with these words."""
    monkeypatch.setattr(sys, "argv", ["dist-zero", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code, capsys.readouterr().out


def test_results_do_not_depend_on_how_many_processes_there_are() -> None:
    """One process, two and three give the same results in the same order."""
    results = [list(run_seeds(bank, range(6), SMALL, jobs)) for jobs in (1, 2, 3)]
    assert results[0] == results[1] == results[2]
    assert [result.seed for result in results[0]] == [*range(6)]


def test_the_command_prints_the_same_on_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of failures: the same seeds, the same story, the same line to run it again."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    said = []
    for jobs in ("1", "2"):
        words = ("test", "wrong.py", "--seeds", "4", "--transactions", "12", "--jobs", jobs)
        code, out = command(monkeypatch, capsys, *words)
        assert code == CHECK_FAILED
        said.append([line for line in out.splitlines() if "seeds a minute" not in line])
    assert said[0] == said[1]


HISTORIES = """
from dist_zero.testing import SeedOptions, run_seed
from examples.bank import app
print([run_seed(app, seed, SeedOptions(transactions=18)).history for seed in range(4)])
"""


def test_histories_do_not_depend_on_the_hash_seed() -> None:
    """Two processes that hash texts differently live through the same histories, faults and all."""
    root = Path(__file__).parents[2]
    said = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", HISTORIES],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    assert said[0].strip() == str([run_seed(bank, seed, SMALL).history for seed in range(4)])


def test_a_wrong_invariant_is_found_cut_down_and_brought_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's mistake is one transaction; the story has that one, and the printed line fails in the same way."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    code, out = command(monkeypatch, capsys, "test", "wrong.py", "--seeds", "3", "--transactions", "12")
    assert code == CHECK_FAILED
    (seed,) = re.findall(r"seed (\d+) failed: at epoch \d+, invariant", out)[:1]
    assert re.search(rf"seed {seed} still fails with 0 of its \d+ faults and 1 of its 12 transactions", out)
    assert (
        "invariant 'adds_up' does not hold: assert sum(row.cents or 0 for row in total) == 0 (wrong.py:19)"
        in out
    )
    assert re.search(r"writer-0 +sends transaction 1: put entries \(transfer=7, account=\w, cents=-?7\)", out)
    (line,) = [line for line in out.splitlines() if line.startswith("run it again: ")]
    again = shlex.split(line.removeprefix("run it again: dist-zero "))
    code, out = command(monkeypatch, capsys, *again, "--json")
    assert code == CHECK_FAILED
    (failed,) = json.loads(out)["failed"]
    assert failed["seed"] == int(seed) and {failure["check"] for failure in failed["failures"]} == {
        "invariant"
    }


def test_the_bank_keeps_its_money(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example holds, and the command counts what was done to it."""
    monkeypatch.chdir(Path(__file__).parents[2])
    code, out = command(
        monkeypatch, capsys, "test", "examples/bank.py", "--seeds", "6", "--faults", "crash,store", "--json"
    )
    assert code == OK
    said = json.loads(out)
    assert said["failed"] == [] and said["seeds"] == 6 and said["transactions"] == 360
    assert set(said["faults"]) == {"crash", "store"} and said["faults"]["crash"] > 0


def test_a_failure_that_needs_a_fault_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting down keeps the faults without which nothing goes wrong, here one crash, and leaves out all others."""
    from dist_zero_common.sim.injector import Injector

    original = Injector._crash

    def crash(self: Injector, fault: Any) -> bool:
        if fault.target == "machine":
            raise ZeroDivisionError("planted")
        return original(self, fault)

    monkeypatch.setattr(Injector, "_crash", crash)
    for seed in range(200):
        plan = SMALL.plan(seed)
        if sum(fault.kind == "crash" and fault.target == "machine" for fault in plan.faults) == 1:
            break
    failed = run_seed(bank, seed, SMALL)
    shrunk = shrink(bank, SMALL, failed)
    (fault,) = shrunk.options.plan(seed).faults
    assert (fault.kind, fault.target) == ("crash", "machine")
    assert shrunk.options.only_transactions == ()
    again = shrink(bank, SMALL, failed)
    assert again == shrunk


def test_shrinking_is_bounded() -> None:
    """However little can be left out, so many runs and no more."""
    wrong = wrong_program()
    failed = next(result for result in run_seeds(wrong, range(20), SMALL, 1) if result.failures)
    assert shrink(wrong, SMALL, failed, runs_max=3).runs <= 3 + 1


def wrong_program() -> Program:
    namespace: dict[str, Any] = {"__name__": "wrong"}
    exec(WRONG, namespace)
    app = namespace["app"]
    assert isinstance(app, Program)
    return app


def test_check_program_holds_or_says_how_to_see_it_again() -> None:
    """A right program gives a report; a wrong one an `AssertionError` with a call that fails in the same way."""
    report = check_program(bank, 4, transactions=18)
    assert report.totals.seeds == 4 and not report.failed
    with pytest.raises(ProgramFailed, match="invariant 'adds_up' does not hold") as failed:
        check_program(wrong_program(), 4, transactions=18, faults="crash")
    call = str(failed.value).splitlines()[-1].removeprefix("run it again: ")
    with pytest.raises(ProgramFailed, match="invariant 'adds_up' does not hold"):
        eval(call, {"check_program": check_program, "app": wrong_program()})


def test_check_program_from_a_coroutine() -> None:
    """In a test that has a loop of its own, awaited."""

    async def a_test() -> int:
        report = await check_program_async(bank, 2, transactions=9, jobs=1)
        return report.totals.seeds

    assert asyncio.run(a_test()) == 2


def test_a_program_that_cannot_run_is_the_users_error() -> None:
    """What is wrong with the sample is raised as it is, from whichever process."""
    app = dz.Program("broken")

    class Row(dz.Row):
        number: int

    rows = app.dataset("rows", Row)
    app.view("all", rows.group_by().agg(n=dz.count()))

    @app.sample
    def sample(_rng: Any) -> Any:
        yield rows, {"numbr": 1}

    for jobs in (1, 2):
        with pytest.raises(dz.DataError, match="numbr"):
            check_program(app, 4, jobs=jobs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--faults", "crush"), "'crush' is no kind of fault"),
        (("--only-faults", "x"), "'x' is no list of numbers"),
        (("--only-transactions", "3-"), "'3-' is no list of numbers"),
    ],
)
def test_mistakes_in_the_command_line_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    """With the option's name, and as the user's error."""
    monkeypatch.setattr(sys, "argv", ["dist-zero", "test", "app.py", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == USER_ERROR
    said = " ".join(capsys.readouterr().err.split())
    assert words[0] in said and says in said


def test_numbers_as_text() -> None:
    """There and back again."""
    for numbers in ((), (0,), (0, 1), (0, 1, 2, 5, 7, 8), (3, 9)):
        assert numbers_of(numbers_text(numbers)) == numbers
    assert numbers_text((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    with pytest.raises(SettingsError):
        numbers_of("1,x")
