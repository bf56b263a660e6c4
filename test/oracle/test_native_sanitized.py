"""Native code under AddressSanitizer and UndefinedBehaviorSanitizer: `hardened.py` is what is run, in another process,
and `test/sanitizers.py` how. A finding fails the test, which shows the report.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from test.sanitizers import sanitized, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

UNIT = ("columns", "executor", "join", "runtime", "scalars", "sums", "top")


def check(arguments: list[str], cache: Path, seconds_max: float = 280) -> None:
    """Run Python with these arguments under sanitizers; nothing is to be found."""
    ended = sanitized(arguments, cache, seconds_max)
    assert ended.returncode == 0, ended.stdout


def test_native_code_is_clean(tmp_path: Path) -> None:
    """A program beside the interpreter, hostile input, allocations that fail, and saves that are dropped."""
    work = ["programs=1", "fuzz=1", "less-memory=1", "dropped=1"]
    check(["-m", "test.oracle.hardened", "1", *work], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize(
    "work", ["programs=25", "fuzz=25", "memory=4", "dropped=4", "many=60000", "everything=1"]
)
def test_native_code_is_clean_long(tmp_path: Path, work: str, seed: int) -> None:
    """The same with many more programs."""
    check(["-m", "test.oracle.hardened", str(seed), work], tmp_path, 5_900)


@pytest.mark.long
@pytest.mark.parametrize("which", UNIT)
def test_native_unit_tests_are_clean_long(tmp_path: Path, which: str) -> None:
    """All that is tested of native code elsewhere, but for what the compiler and the cache do."""
    options = ["-p", "no:faulthandler", "-p", "no:cacheprovider", "--timeout", "5900", "-q"]
    check(["-m", "pytest", *options, f"test/unit/test_native_{which}.py"], tmp_path, 5_900)


def check_churn(epochs: int) -> None:
    """Not under sanitizers, which keep what is freed for a while."""
    command = [sys.executable, "-m", "test.oracle.hardened", "1", f"churn={epochs}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_long_history_takes_no_more_memory() -> None:
    """Rows and texts come and go in a program of all operations, and saves are dropped."""
    check_churn(200)


@pytest.mark.long
def test_a_long_history_takes_no_more_memory_long() -> None:
    """The same for longer."""
    check_churn(5_000)


# ---- whether anything would be found -----------------------------------------------------------------------

PLANTED = """
import sys
from pathlib import Path
import dist_zero as dz
from dist_zero.compiler import compile
from dist_zero.native import build
from test.contract.executors import native
from test.oracle.nodes import Nodes, delete, put

build.RUNTIME = Path(sys.argv[1])

class Entry(dz.Row):
    entry: int
    place: str
    amount: int

app = dz.Program("planted")
entries = app.dataset("entries", Entry, key="entry")
app.view("sums", entries.group_by("place").agg(n=dz.sum("amount")))
plan = compile(app.graph())
nodes = Nodes(plan, 1, native)
nodes.run([put(plan, "entries", *((n, "here", -(2**63)) for n in range(2)))])
nodes.run([delete(plan, "entries", (0,))])
print(nodes.rows("sums"))
"""


@pytest.mark.parametrize(
    ("header", "right", "wrong", "report"),
    [
        pytest.param(
            "columns.h",
            "column->values + 8 * (size_t)at)",
            "column->values + 8 * (size_t)at + 8)",
            "AddressSanitizer",
            id="beyond Python's bytes",
        ),
        pytest.param(
            "sums.h",
            "sum, (__int128)value * weight);",
            "sum, value * weight);",
            "signed integer overflow",
            id="overflow",
        ),
        pytest.param(
            "node.h",
            "    dz_base_clear(base);",
            "    dz_base_clear(base); dz_base_clear(base + 1);",
            "AddressSanitizer",
            id="beyond the node",
            marks=pytest.mark.long,
        ),
        pytest.param("nothing", "", "", "", id="nothing", marks=pytest.mark.long),
    ],
)
def test_what_is_planted_is_found(tmp_path: Path, header: str, right: str, wrong: str, report: str) -> None:
    """A runtime that reads one value too far, or computes what C leaves undefined, ends the process with a report; the
    same program with the runtime as it is does not."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for path in (Path(__file__).parents[2] / "dist_zero/native/runtime").glob("*.h"):
        text = path.read_text(encoding="utf-8")
        if path.name == header:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (runtime / path.name).write_text(text, encoding="utf-8")
    ended = sanitized(["-c", PLANTED, str(runtime)], tmp_path / "cache")
    if report:
        assert ended.returncode != 0 and report in ended.stdout, ended.stdout
    else:
        assert ended.returncode == 0 and "{('here', -9223372036854775808): 1}" in ended.stdout, ended.stdout
