"""The pytest plugin, as a user has it: tests of his program, run by a pytest that knows of it by its entry point."""

from __future__ import annotations

import importlib.util

import pytest

pytest_plugins = "pytester"

APP = """
import dist_zero as dz

app = dz.Program("stock")


class Movement(dz.Row):
    id: int
    item: str
    pieces: int


movements = app.dataset("movements", Movement, key="id")
app.view("stock", movements.group_by("item").agg(pieces=dz.sum("pieces")))
"""


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    """What pytest makes of this test, in a process of its own: what it imports is forgotten."""
    pytester.makepyfile(app=APP, test_it="import asyncio, pytest, time\nfrom app import app\n" + test)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


BOTH = """
@pytest.fixture
def db(dist_zero_system):
    with dist_zero_system.connect(app) as db:
        yield db


class TestBoth:
    @pytest.mark.dist_zero(seeds=3, faults="crash,loss", machines=3, nodes=2)
    def test_plain(self, dist_zero_system, db):
        for n in range(6):
            db.put("movements", {"id": n, "item": "tea", "pieces": n})
            dist_zero_system.sleep(60 if n == 5 else 1)
        assert [row.pieces for row in db["stock"]] == [15]

    async def test_coroutine(self, dist_zero_system, tmp_path):
        async with dist_zero_system.connect(app) as db, asyncio.timeout(10_000):
            for n in range(6):
                await db.put("movements", {"id": n, "item": "tea", "pieces": n})
                await asyncio.sleep(60 if n == 5 else 1)
            assert [row.pieces for row in await db.rows("stock")] == [15]
            await dist_zero_system.healed()
"""


def test_plain_functions_and_coroutines_have_a_system_in_virtual_time(pytester: pytest.Pytester) -> None:
    """Ten minutes of sleep take none; a test is one per seed; a fixture of the user's may use the system, too."""
    run(pytester, BOTH, "-v").assert_outcomes(passed=4)
    chosen = run(pytester, BOTH, "-v", "--dist-zero-seed", "17", "--dist-zero-seeds", "2")
    chosen.assert_outcomes(passed=4)
    chosen.stdout.fnmatch_lines(["*test_plain?seed-17? PASSED*", "*test_coroutine?seed-18? PASSED*"])


@pytest.mark.skipif(importlib.util.find_spec("pytest_asyncio") is None, reason="needs pytest-asyncio")
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio_is_not_in_the_way(pytester: pytest.Pytester, mode: str) -> None:
    """Where it is installed, tests that it would run have the simulated loop all the same."""
    marked = BOTH.replace("    async def test", "    @pytest.mark.asyncio\n    async def test")
    run(pytester, marked, f"--asyncio-mode={mode}").assert_outcomes(passed=4)


def test_another_plugin_that_runs_coroutines_is_not_in_the_way(pytester: pytest.Pytester) -> None:
    """What it has made of a coroutine is undone for tests with a system; others it runs as ever."""
    pytester.makeconftest(
        """
        import asyncio, functools, inspect
        import pytest

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_call(item):
            test = item.obj
            if inspect.iscoroutinefunction(test):
                item.obj = functools.wraps(test)(lambda **given: asyncio.run(test(**given)))
            yield
        """
    )
    others = """
async def test_of_others():
    await asyncio.sleep(0.01)

async def test_check(dist_zero_check):
    await asyncio.sleep(0.01)
    assert dist_zero_check(app, seeds=1, transactions=9).totals.seeds == 1
"""
    run(pytester, BOTH + others).assert_outcomes(passed=6)


def test_what_a_system_of_a_test_does_follows_from_its_seed(pytester: pytest.Pytester) -> None:
    """The same seed is the same run, in a plain function and in a coroutine; another one is another."""
    told = run(
        pytester,
        """
@pytest.mark.dist_zero(seeds=2)
def test_plain(dist_zero_system):
    with dist_zero_system.connect(app) as db:
        for n in range(5):
            db.put("movements", {"id": n, "item": "tea", "pieces": n})
    dist_zero_system.sleep(30)
    print("digest", dist_zero_system.world.history.digest())

test_again = test_plain
""",
        "-s",
    )
    digests = [line.split()[-1] for line in told.outlines if "digest" in line]
    assert len(digests) == 4
    assert len({*digests}) == 2 and digests[:2] == digests[2:]


def test_a_failure_says_what_went_wrong_and_how_to_run_it_again(pytester: pytest.Pytester) -> None:
    """The seed, its faults, and the command; the real world is refused inside."""
    test = """
@pytest.mark.dist_zero(seeds=4)
def test_it(dist_zero_system):
    dist_zero_system.sleep(60)
    assert dist_zero_system.seed != 3

async def test_clock(dist_zero_system):
    time.time()
"""
    failed = run(pytester, test)
    failed.assert_outcomes(passed=3, failed=2)
    failed.stdout.fnmatch_lines(
        [
            "seed 3, and what went wrong:",
            "  * s  all faults are over",
            "run it again: pytest 'test_it.py::test_it[[]seed-3[]]' --dist-zero-seed 3",
            "*SimulationError: time.time() was called inside the simulation, at *test_it.py:*",
        ]
    )
    again = run(pytester, test, "test_it.py::test_it[seed-3]", "--dist-zero-seed", "3")
    again.assert_outcomes(failed=1)


def test_behind_a_test_its_programs_are_held_against_recomputation(pytester: pytest.Pytester) -> None:
    """Views that differ fail a test that looked at nothing, and so does an invariant that does not hold."""
    broken = """
from dist_zero.reference.evaluate import Oracle

@app.invariant
def few(stock):
    assert len(stock) < 2

def test_broken(dist_zero_system, monkeypatch):
    write(dist_zero_system, ["tea"])
    monkeypatch.setattr(Oracle, "view", lambda *_: type("V", (), {"rows": {}, "errors": ()}))

def test_invariant(dist_zero_system):
    write(dist_zero_system, ["tea", "ink"])

def write(system, items):
    with system.connect(app) as db:
        db.put("movements", [{"id": n, "item": item, "pieces": 1} for n, item in enumerate(items)])
"""
    failed = run(pytester, broken)
    failed.assert_outcomes(failed=2)
    failed.stdout.fnmatch_lines(
        [
            "*program 'stock' behind the test: view 'stock' differs from its recomputation*",
            "*program 'stock' behind the test: invariant 'few' does not hold: *(test_it.py:*",
        ]
    )


def test_the_check_has_the_seeds_of_call_marker_and_command_line(pytester: pytest.Pytester) -> None:
    """The command line counts most, then the call, then the marker; a coroutine may ask, too, without any plugin."""
    test = """
@pytest.mark.dist_zero(seeds=2, transactions=6, faults="loss")
def test_marked(dist_zero_check):
    print("marked", dist_zero_check(app).totals.seeds)

@pytest.mark.dist_zero(seeds=2, transactions=6)
async def test_called(dist_zero_check):
    print("called", dist_zero_check(app, seeds=3).totals.seeds)
"""
    for options, counts in (((), ("2", "3")), (("--dist-zero-seeds", "1"), ("1", "1"))):
        told = run(pytester, test, "-s", *options)
        told.assert_outcomes(passed=2)
        told.stdout.fnmatch_lines([f"*marked {counts[0]}", f"*called {counts[1]}"])


def test_a_failed_check_tells_its_story(pytester: pytest.Pytester) -> None:
    """The shortest run that fails, and both ways to run it again."""
    failed = run(
        pytester,
        """
@app.invariant
def never(stock):
    return not any(row.pieces for row in stock)

def test_it(dist_zero_check):
    dist_zero_check(app, seeds=2, seed=5, transactions=6, faults="none")
""",
    )
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(
        [
            "*ProgramFailed: seed 5 failed: at epoch *, invariant 'never' does not hold: *",
            "*what happened:",
            "*run it again: check_program(app, seeds=1, seed=5, faults='none', machines=2, nodes=3, transactions=6,*",
            "*or, all of seed 5: pytest test_it.py::test_it --dist-zero-seed 5",
        ]
    )


@pytest.mark.parametrize(
    ("marker", "said"),
    [("sedes=3", "the marker dist_zero has no 'sedes'; it has seeds, seed,"), ("3", "takes names only")],
)
def test_a_marker_that_says_nothing_is_refused(pytester: pytest.Pytester, marker: str, said: str) -> None:
    """A misspelt option is no silent default."""
    refused = run(pytester, f"@pytest.mark.dist_zero({marker})\ndef test_it(dist_zero_system):\n    pass\n")
    refused.stdout.fnmatch_lines([f"*{said}*"])
    assert refused.ret != 0
