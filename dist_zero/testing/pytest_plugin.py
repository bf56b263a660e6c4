"""What pytest gets of DistZero, by its entry point: two fixtures, a marker, and two options.

- `dist_zero_system`: a simulated system in virtual time, with the faults of a seed. A test that takes it is a
  coroutine or a plain function, runs once per seed, and is held against recomputation behind its end.
- `dist_zero_check`: `check_program`, with the seeds that the command line says.

pytest-asyncio or anyio are not needed for either, and are not in the way: coroutines that take `dist_zero_system` run
on its loop, those that take `dist_zero_check` alone on whatever loop runs them, or on one of their own if nobody does.
"""

from __future__ import annotations

import asyncio
import inspect
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dist_zero.testing.checking import Checker
    from dist_zero.testing.under_test import SystemUnderTest

MARKER = "dist_zero"
SYSTEM, CHECK = "dist_zero_system", "dist_zero_check"
SYSTEM_SEEDS, CHECK_SEEDS = 1, 50
"""How many seeds there are if nobody says."""
_SYSTEM_OPTIONS = ("faults", "machines", "nodes")
_SEED_OPTIONS = ("seeds", "seed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("dist_zero", "programs of DistZero under faults")
    group.addoption(
        "--dist-zero-seeds",
        type=_whole_number,
        metavar="N",
        help=f"run tests that take {SYSTEM} or {CHECK} under N seeds each, whatever their markers say",
    )
    group.addoption(
        "--dist-zero-seed",
        type=_whole_number,
        metavar="SEED",
        help="begin with this seed, and run it alone unless --dist-zero-seeds is given, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(seeds=N, seed=0, faults='all', machines=2, nodes=3): under how many seeds a test that takes"
        f" {SYSTEM} or {CHECK} runs, beginning with which, and what goes wrong in them",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a system of its own is one test per seed."""
    if SYSTEM in metafunc.fixturenames:
        options = _marked(metafunc.definition)
        seeds = _seeds(metafunc.config, options, SYSTEM_SEEDS)
        metafunc.parametrize(SYSTEM, seeds, indirect=True, ids=[f"seed-{seed}" for seed in seeds])


@pytest.fixture
def dist_zero_system(request: pytest.FixtureRequest) -> Iterator[SystemUnderTest]:
    """A simulated system of several machines, in virtual time, with the faults of a seed."""
    from dist_zero.testing.under_test import SystemUnderTest
    from dist_zero_common.sim.plan import checked_kinds

    options = _marked(request.node)
    faults = checked_kinds(options.get("faults", "all"))
    given = {name: options[name] for name in ("machines", "nodes") if name in options}
    with SystemUnderTest(request.param, faults=faults, **given) as system:
        yield system


@pytest.fixture
def dist_zero_check(request: pytest.FixtureRequest) -> Checker:
    """`check_program(app, ...)` with the seeds of the command line or of the marker, and its other options."""
    from dist_zero.testing.checking import Checker

    def seeds_of(options: Mapping[str, Any]) -> range:
        return _seeds(request.config, options, CHECK_SEEDS)

    return Checker(_marked(request.node), seeds_of, lambda seed: _again(request.node, seed))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run a test with a system of its own on that, and look behind it whether all is right."""
    __tracebackhide__ = True  # what is wrong is in the test
    system: Any = pyfuncitem.funcargs.get(SYSTEM)
    if system is None:
        return None
    # What a plugin has made of a coroutine is for that plugin's loop.
    test = inspect.unwrap(pyfuncitem.obj, stop=inspect.iscoroutinefunction)
    arguments = _arguments(pyfuncitem)
    try:
        if inspect.iscoroutinefunction(test):
            if inspect.ismethod(pyfuncitem.obj) and not inspect.ismethod(test):
                test = test.__get__(pyfuncitem.obj.__self__)
            system.run_test(test(**arguments))
        else:
            pyfuncitem.obj(**arguments)
        system.check()
    except Exception:
        lines = [f"seed {system.seed}, and what went wrong:", *(f"  {line}" for line in system.story())]
        lines.append(f"run it again: {_again(pyfuncitem, system.seed)}")
        pyfuncitem.add_report_section("call", "dist_zero", "\n".join(lines))
        raise
    return True


class _Coroutines:
    """Runs coroutines that take `dist_zero_check` if no other plugin does."""

    @pytest.hookimpl
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """See pytest."""
        if CHECK not in pyfuncitem.funcargs or not inspect.iscoroutinefunction(pyfuncitem.obj):
            return None
        asyncio.run(pyfuncitem.obj(**_arguments(pyfuncitem)))
        return True


def pytest_sessionstart(session: pytest.Session) -> None:
    """See pytest."""
    session.config.pluginmanager.register(_Coroutines(), "dist_zero_coroutines")


def _arguments(item: pytest.Function) -> dict[str, Any]:
    return {name: item.funcargs[name] for name in item._fixtureinfo.argnames}


def _marked(node: Any) -> dict[str, Any]:
    """What the markers say, the nearest one first. Raises `pytest.UsageError`."""
    options: dict[str, Any] = {}
    for marker in node.iter_markers(MARKER):
        if marker.args:
            raise pytest.UsageError(f"{node.nodeid}: the marker {MARKER} takes names only, as in seeds=20")
        options = {**marker.kwargs, **options}
    known = (*_SEED_OPTIONS, *_SYSTEM_OPTIONS, "transactions", "data_seed", "jobs")
    for name in options:
        if name not in known:
            raise pytest.UsageError(
                f"{node.nodeid}: the marker {MARKER} has no {name!r}; it has {', '.join(known)}"
            )
    return options


def _seeds(config: pytest.Config, options: Mapping[str, Any], usual: int) -> range:
    """Which seeds a test runs under."""
    first, count = config.getoption("--dist-zero-seed"), config.getoption("--dist-zero-seeds")
    if first is not None and count is None:
        count = 1
    first = options.get("seed", 0) if first is None else first
    return range(first, first + (options.get("seeds", usual) if count is None else count))


def _again(item: pytest.Item, seed: int) -> str:
    """The command that runs one seed of a test again."""
    return shlex.join(["pytest", item.nodeid, "--dist-zero-seed", str(seed)])


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)
