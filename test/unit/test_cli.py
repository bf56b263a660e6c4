"""The command line as a person meets it: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dist_zero
from dist_zero.cli.app import BUG, CHECK_FAILED, OK, OPERATOR_ERROR, USER_ERROR, app
from dist_zero.cli.main import main
from dist_zero.cli.render import shown, shown_float
from dist_zero.types import DATETIME, FLOAT, INT, STR, decimal_type

PROGRAM = """
import dist_zero as dz

app = dz.Program("toy")


class Thing(dz.Row):
    k: int
    v: float
    s: str | None


things = app.dataset("things", Thing, key="k")
app.view("best", things.where(things["v"] > 1).top(3, by=dz.desc("v")))
app.view("groups", things.group_by("s").agg(n=dz.count(), inverse=dz.sum(1 / things["v"])))
"""
SAMPLE = """

@app.sample
def sample(rng, everything=False):
    yield "a line for people"
    for number in range(20 if everything else 10):
        yield [(things, Thing(k=number, v=rng.random() * 3, s=rng.choice(["a", "b"])))]
    yield things, dz.Update(3, v=100.0)
    yield things, dz.Delete(4)
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Shell:
    """Runs commands in a directory of its own."""

    def __init__(
        self, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._directory, self._capsys, self._monkeypatch = directory, capsys, monkeypatch

    def __call__(self, *arguments: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["dist-zero", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        # The next command may have another program of the same name. Nothing else is forgotten: a library
        # that is imported twice is two libraries.
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(self._directory)):
                del sys.modules[name]
        out, err = self._capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ran(end.value.code, out, err)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write("toy.py", PROGRAM)
    write("sampled.py", PROGRAM + SAMPLE)
    write("good.csv", "k,v,s\n1,2.5,a\n2,0,NA\n3,4,a\n")
    return Shell(tmp_path, capsys, monkeypatch)


def write(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def views(ran: Ran) -> dict[str, list[dict[str, object]]]:
    found = json.loads(ran.out)["views"]
    assert isinstance(found, dict)
    return found


def test_run_shows_views_as_tables(shell: Shell) -> None:
    """Rows in the view's order, numbers shortened, what is left out, a limit, and a line of numbers."""
    ran = shell("run", "toy.py", "--load", "things=good.csv", "--null", "NA", "--rows", "1", "--check")
    assert ran.code == OK
    assert re.search(r"best {2}2 rows", ran.out)
    assert "4.00" in ran.out
    assert "2.50" not in ran.out
    assert "… 1 more" in ran.out
    assert "! 1 row is left out by toy.py:15 agg: division by zero, for example v=0.0" in ran.out
    assert "3 rows in 1 transaction " in ran.out
    assert "1 node on 1 machine" in ran.out
    assert "equal their recomputation" in ran.out
    assert ran.err == ""


def test_json_is_all_there_is_on_standard_output(shell: Shell) -> None:
    """`--json` prints one object with every row, exactly."""
    ran = shell("run", "toy.py", "--load", "things=good.csv", "--null", "NA", "--json", "--check")
    result = json.loads(ran.out)
    assert result["program"] == "toy"
    assert result["views"]["best"] == [{"k": 3, "v": 4.0, "s": "a"}, {"k": 1, "v": 2.5, "s": "a"}]
    assert result["views"]["groups"] == [{"s": "a", "n": 2, "inverse": 0.65}]
    assert result["errors"]["groups"][0]["reason"] == "division by zero"
    assert result["equals_recomputation"] is True
    assert (result["stats"]["rows"], result["stats"]["transactions"]) == (3, 1)


def test_no_seed_and_no_size_changes_an_answer(shell: Shell) -> None:
    """Other weather, nodes and machines: other histories, the same views."""
    runs = [
        shell("run", "sampled.py", "--json", *more.split())
        for more in ("", "--seed 1", "--seed 2 --weather hostile", "--nodes 4 --machines 2", "--weather calm")
    ]
    assert all(views(ran) == views(runs[0]) for ran in runs)
    histories = {json.loads(ran.out)["stats"]["history"] for ran in runs}
    assert len(histories) == len(runs)
    again = shell("run", "sampled.py", "--json")
    assert json.loads(again.out)["stats"]["history"] in histories


def test_a_seed_is_one_history_in_any_process(shell: Shell) -> None:
    """The digest does not depend on the process, nor on how Python hashes."""
    here = json.loads(shell("run", "sampled.py", "--seed", "3", "--nodes", "2", "--json").out)["stats"][
        "history"
    ]
    command = [
        sys.executable,
        "-m",
        "dist_zero.cli",
        "run",
        "sampled.py",
        "--seed",
        "3",
        "--nodes",
        "2",
        "--json",
    ]
    root = str(Path(dist_zero.__file__).parents[1])
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        ran = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        assert json.loads(ran.stdout)["stats"]["history"] == here


def test_samples_change_and_delete_and_speak(shell: Shell) -> None:
    """A generator's updates and deletes are made, its lines go to standard error, `--all` gives it all."""
    ran = shell("run", "sampled.py", "--json", "--show", "groups")
    assert "a line for people" in ran.err
    assert list(views(ran)) == ["groups"]
    assert sum(int(str(row["n"])) for row in views(ran)["groups"]) == 9
    everything = shell("run", "sampled.py", "--json", "--all")
    assert sum(int(str(row["n"])) for row in views(everything)["groups"]) == 19
    assert views(everything)["best"][0]["v"] == 100.0
    other = shell("run", "sampled.py", "--json", "--data-seed", "5")
    assert views(other) != views(shell("run", "sampled.py", "--json"))


def test_out_writes_files_that_load_again(shell: Shell) -> None:
    """A view goes to a file of any kind, and comes back from it as a dataset."""
    outs = [f"--out=best=best.{kind}" for kind in ("csv", "jsonl.gz", "parquet")]
    first = shell("run", "toy.py", "--load", "things=good.csv", "--null", "NA", "--json", *outs)
    assert first.code == OK
    for kind in ("csv", "jsonl.gz", "parquet"):
        again = shell("run", "toy.py", "--load", f"things=best.{kind}", "--json", "--show", "best")
        assert views(again)["best"] == views(first)["best"]


def test_a_store_is_gone_on_from(shell: Shell) -> None:
    """A second run adds to the first; the same file is not loaded twice; without input it shows what is
    there."""
    write("more.csv", "k,v,s\n9,9,z\n")
    shell("run", "toy.py", "--load", "things=good.csv", "--null", "NA", "--store", "data")
    again = shell("run", "toy.py", "--load", "things=good.csv", "--null", "NA", "--store", "data")
    assert "3 rows of the same input were in the store already" in again.out
    more = shell("run", "toy.py", "--load", "things=more.csv", "--store", "data", "--json", "--check")
    assert [row["k"] for row in views(more)["best"]] == [9, 3, 1]
    assert views(shell("run", "toy.py", "--store", "data", "--json")) == views(more)
    wider = shell("run", "toy.py", "--store", "data", "--json", "--nodes", "3")
    assert views(wider) == views(more)
    assert json.loads(wider.out)["stats"]["nodes"] == 1 and "not the 3 asked for" in wider.err


def test_a_load_that_fails_says_what_was_written(shell: Shell) -> None:
    """The line, the column, the value, and how many rows before it were written."""
    lines = ["k,v,s", *(f"{n},1,a" for n in range(30_000))]
    lines[25_000] = "24999,oops,a"
    write("bad.csv", "\n".join(lines))
    ran = shell("run", "toy.py", "--load", "things=bad.csv", "--store", "data")
    assert ran.code == USER_ERROR
    assert ran.err.strip() == (
        "error: bad.csv, line 25,001, column 'v': expected float, got 'oops'; 24,576 rows before it were written"
    )
    shown_rows = views(shell("run", "toy.py", "--store", "data", "--json"))["groups"]
    assert shown_rows[0]["n"] == 24_576


MISTAKES = {
    "no such file": (("run", "nothing.py"), "there is no file nothing.py"),
    "a directory": (("run", "."), "is a directory"),
    "not a program's file": (("run", "good.csv"), "is not a Python file"),
    "no program": (("run", "empty.py"), "empty.py has no program"),
    "several programs": (("run", "two.py"), "pick one of a, b with --program"),
    "an unknown program": (("run", "two.py", "--program", "c"), "no program 'c'; it has a, b"),
    "not Python": (("run", "syntax.py"), "syntax.py:1: not Python"),
    "a cyclic import": (("run", "cycle.py"), "cycle_b.py:1: a cyclic import"),
    "an exception": (("run", "raises.py"), "raises.py:2: ZeroDivisionError: division by zero\n    return 1 / 0"),
    "an exception in the sample": (("run", "bad_sample.py"), "bad_sample.py:18: in the sample generator: Zero"),
    "the clock in the sample": (("test", "clock.py"), "clock.py:18: in the sample generator: SimulationError"),
    "another's dataset": (("run", "foreign.py"), "foreign.py:6: view 'x' of program 'a' uses dataset 'ds' of another"),
    "a missing data file": (("run", "toy.py", "--load", "things=no.csv"), "the file 'no.csv' does not exist"),
    "an unknown dataset": (("run", "toy.py", "--load", "thing=good.csv"), "no dataset 'thing' in program 'toy'"),
    "a wrong column": (("run", "toy.py", "--load", "things=wrong.csv"), "no column 'v'; it has k, value, s"),
    "a null key": (("run", "toy.py", "--load", "things=nullkey.csv"), "line 2, column 'k': null is not allowed"),
    "a wrong value": (("run", "toy.py", "--load", "things=value.csv"), "line 3, column 'v': expected float, got 'x'"),
    "an unknown view": (("run", "toy.py", "--show", "worst"), "no view 'worst' in program 'toy'; there are best"),
    "an unknown kind of file": (("run", "toy.py", "--out", "best=x.doc"), "the name has to end in one of"),
    "no directory to write to": (("run", "toy.py", "--out", "best=no/x.csv"), "there is no directory no"),
    "everything of nothing": (("run", "toy.py", "--all"), "has no sample generator"),
    "an unknown level": (("explain", "toy.py", "--level", "x"), "no level 'x'"),
    "a malformed option": (("run", "toy.py", "--load", "things"), "'things' is not dataset=file"),
    "no weather": (("run", "toy.py", "--weather", "fine"), "calm, faithful, hostile"),
    "no nodes": (("run", "toy.py", "--nodes", "0"), "--nodes"),
    "no command": (("walk",), "walk"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(shell: Shell, mistake: str) -> None:
    """Whatever the user got wrong is told in one message, without a traceback, with exit code 2."""
    write("empty.py", "import dist_zero\n")
    write("two.py", "import dist_zero as dz\na, b = dz.Program('a'), dz.Program('b')\n")
    write("syntax.py", "def f(:\n")
    write("cycle.py", "import cycle_b\n")
    write("cycle_b.py", "from cycle import app\n")
    write("raises.py", "def f():\n    return 1 / 0\nf()\n")
    write("bad_sample.py", PROGRAM + "@app.sample\ndef sample(rng):\n    yield things, 1 / 0\n")
    write(
        "clock.py", PROGRAM + "@app.sample\ndef sample(rng):\n    yield things, __import__('time').time()\n"
    )
    write("wrong.csv", "k,value,s\n1,2,3\n")
    write("nullkey.csv", "k,v,s\n,2,3\n")
    write("value.csv", "k,v,s\n1,2,3\n2,x,3\n")
    write(
        "foreign.py",
        "import dist_zero as dz\nclass R(dz.Row):\n    k: int\n"
        "a, b = dz.Program('a'), dz.Program('b')\nds = b.dataset('ds', R, key='k')\na.view('x', ds)\n",
    )
    arguments, message = MISTAKES[mistake]
    ran = shell(*arguments)
    assert ran.code == USER_ERROR
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_a_store_that_cannot_be_used_is_the_operators_business(shell: Shell) -> None:
    """A directory that is a file ends with exit code 3."""
    write("data", "not a directory")
    ran = shell("run", "toy.py", "--store", "data")
    assert (ran.code, ran.out) == (OPERATOR_ERROR, "")
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", [("up",), ("run", "--mode", "virtual")])
def test_a_system_with_an_impossible_name_leaves_no_file(shell: Shell, command: tuple[str, ...]) -> None:
    """A name that would lead to another directory is refused before any file carries it."""
    ran = shell(*command, "toy.py", "--system", "../../elsewhere")
    assert (ran.code, ran.out) == (OPERATOR_ERROR, "")
    assert "cannot be the name of a system" in ran.err
    assert not [path for path in Path("..").rglob("*") if "elsewhere" in path.name or "keeper" in path.name]


def cloud_options() -> list[list[str]]:
    """Every option of `up` whose help says that it is the cloud's, with a value."""
    command: Any = typer.main.get_command(app)
    options = [each for each in command.commands["up"].params if (each.help or "").startswith("Cloud")]
    return [[each.opts[0], *([] if each.is_flag else ["1"])] for each in options]


@pytest.mark.parametrize("option", cloud_options(), ids=lambda option: option[0])
def test_what_is_meant_for_the_cloud_starts_nothing_elsewhere(shell: Shell, option: list[str]) -> None:
    """An option that would be passed over is refused: nobody who means instances gets containers."""
    ran = shell("up", "toy.py", *option)
    assert (ran.code, ran.out) == (USER_ERROR, "")
    assert f"{option[0]}: that is for --mode cloud" in " ".join(ran.err.split())
    assert not list(Path().rglob("keeper*"))


def test_a_bug_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw keeps its traceback and asks for a report, with exit code 4."""
    monkeypatch.setattr("dist_zero.cli.run._stats", lambda *_: 1 / 0)
    ran = shell("run", "sampled.py")
    assert ran.code == BUG
    assert "ZeroDivisionError" in ran.err
    assert "please report it" in ran.err


def test_a_failed_check_has_its_own_code(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that differ from their recomputation end with exit code 1 and say where."""
    monkeypatch.setattr("dist_zero.cli.run.recomputed_differences", lambda *_: ["view 'best' differs"])
    ran = shell("run", "sampled.py", "--check")
    assert ran.code == CHECK_FAILED
    assert "view 'best' differs" in ran.err


def test_explain_prints_the_levels(shell: Shell) -> None:
    """All levels, or the one that is asked for."""
    assert shell("explain", "toy.py").out.count("toy") >= 4
    assert "typedef struct node" in shell("explain", "toy.py", "--level", "c").out
    assert "exchange" in shell("explain", "toy.py", "--level", "partitioned").out


@pytest.mark.parametrize("command", [(), ("run",), ("test",), ("explain",)])
def test_help_names_every_option(shell: Shell, command: tuple[str, ...]) -> None:
    """Each help says what there is; the first says what exit codes mean."""
    ran = shell(*command, "--help")
    assert ran.code == OK
    assert "--help" in ran.out
    if not command:
        assert "Exit codes" in ran.out


def test_values_for_people() -> None:
    """Floats are shortened without turning small ones into zero; datetimes lose what is zero; nulls are
    marked."""
    assert [shown_float(v) for v in (0.0, 12.3456, -0.001234, 1e20, 1234567.0)] == [
        "0.00", "12.35", "-0.00123", "1e+20", "1234567.00",
    ]  # fmt: skip
    assert shown_float(float("nan")) == "nan"
    assert str(shown(DATETIME, 1_357_016_400_000_000)) == "2013-01-01 05:00"
    assert str(shown(DATETIME, 1_357_016_400_000_001)) == "2013-01-01 05:00:00.000001"
    assert str(shown(INT.optional(), None)) == "–"
    assert str(shown(FLOAT, 1.0)) == "1.00"
    assert str(shown(decimal_type(8), -5)) == "-0.00000005"
    assert len(str(shown(STR, "x" * 100))) == 60


@pytest.mark.parametrize(
    "arguments",
    [(), ("--auto", "--nodes", "2"), ("--auto", "--min-machines", "1"), ("--auto", "--max-machines", "1")],
)
def test_scale_wants_a_number_or_limits(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Not both, and of machines both limits."""
    ran = shell("scale", "toy", *arguments)
    assert ran.code == 2
    said = " ".join(ran.err.replace("│", " ").split())
    assert "--nodes N" in said or "--min-machines and --max-machines" in said, said


@pytest.mark.parametrize("command", [("up", "toy.py"), ("scale", "toy", "--nodes", "2")])
@pytest.mark.parametrize(
    "limits", [("--max-nodes", "3"), ("--min-machines", "1", "--max-machines", "2"), ("--idle", "5")]
)
def test_limits_are_for_what_follows_its_load(
    shell: Shell, command: tuple[str, ...], limits: tuple[str, ...]
) -> None:
    """They would say nothing without `--auto`, and that is told before anything is started."""
    ran = shell(*command, *limits)
    assert ran.code == 2 and "--auto" in ran.err, ran.err


@pytest.mark.parametrize("command", [("up", "toy.py"), ("scale", "toy")])
@pytest.mark.parametrize("what", ["nodes", "machines"])
def test_the_fewest_are_not_more_than_the_most(shell: Shell, command: tuple[str, ...], what: str) -> None:
    """Told before anything is started, or asked of a scheduler."""
    ran = shell(*command, "--auto", f"--min-{what}", "3", f"--max-{what}", "2")
    assert ran.code == 2 and f"--min-{what} 3 is more than --max-{what} 2" in ran.err, ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--service", "node-runner"), "'node-runner' is not NAME=N"),
        (("--service", "broker=2"), "'broker=2' is not NAME=N"),
        (("--service", "scheduler=0"), "'scheduler=0' is not NAME=N"),
        (("--service", "scheduler=1", "--service", "scheduler=2"), "scheduler is given twice"),
        (("stock", "--service", "scheduler=1"), "goes with no program"),
        (("--nodes", "3"), "say which program (PROGRAM), or how many hosts"),
    ],
)
def test_services_are_scaled_by_name_and_number(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    """Anything else is refused before any system is asked."""
    ran = shell("scale", *arguments)
    assert ran.code == USER_ERROR
    assert says in " ".join(re.sub("[│╭╮╰╯─]", " ", ran.err).split())
