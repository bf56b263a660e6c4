"""The rules of the house that no linter knows: layers, foreign libraries, determinism, what files may say.

The checks themselves are in `tidy.py`; each is shown to find what it is for, and then to find nothing in the tree.
A rule that has to give way does so in a table here, with its reason.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from test.unit import tidy
from test.unit.tidy import PRODUCT, ROOT, parsed, python_files, text, tracked

LAYERS = ("dist_zero_common", "dist_zero", "services")  # each may import itself and what stands before it
STARTERS = (
    "dist_zero/cli/",
    "dist_zero/system.py",
    "dist_zero/testing/",
    "dist_zero/virtual.py",
)  # may import services, inside functions

IMPORTERS = {
    "aio_pika": ("dist_zero_common/broker/rabbitmq",),
    "aiormq": ("dist_zero_common/broker/rabbitmq",),  # aio-pika's own ground, as are pamqp and yarl
    "boto3": ("dist_zero_common/cloud/aws.py",),
    "botocore": ("dist_zero_common/cloud/aws.py",),
    "capnp": ("dist_zero_common/protocol/codec.py",),
    "docker": ("dist_zero_common/containers.py",),
    "dotenv": ("dist_zero_common/settings.py",),
    "logstash": ("dist_zero_common/log_shipping.py",),
    "pamqp": ("dist_zero_common/broker/amqp.py", "dist_zero_common/broker/rabbitmq"),
    "msgpack": ("dist_zero/bridge/decoding.py",),
    "obstore": ("dist_zero_common/store/obstore.py",),
    "pandas": ("dist_zero/files.py",),
    "polars": ("dist_zero/files.py",),
    "prometheus_client": ("dist_zero_common/exposition.py",),
    "pyarrow": ("dist_zero/arrow_batches.py", "dist_zero/files.py"),
    "pytest": ("dist_zero/testing/pytest_plugin.py",),
    "rich": ("dist_zero/cli/",),
    "typer": ("dist_zero/cli/",),
    "uvloop": ("services/entry.py",),
    "xxhash": ("dist_zero_common/checksum.py",),
    "yarl": ("dist_zero_common/broker/rabbitmq",),
}

PURE = (
    "dist_zero/batch.py",
    "dist_zero/blobs.py",
    "dist_zero/bridge/ledger.py",
    "dist_zero/cli/diagnosis.py",
    "dist_zero/cli/top_model.py",
    "dist_zero/cloud/plan.py",
    "dist_zero/column_data.py",
    "dist_zero/compiler/*.py",
    "dist_zero/executor.py",
    "dist_zero/executor_state.py",
    "dist_zero/hashing.py",
    "dist_zero/kept.py",
    "dist_zero/left_out.py",
    "dist_zero/ordering.py",
    "dist_zero/reference/*.py",
    "dist_zero/shards.py",
    "dist_zero/state.py",
    "dist_zero/types.py",
    "dist_zero/writes.py",
    "dist_zero/zset.py",
    "dist_zero_common/cloud/fleet.py",
    "dist_zero_common/cloud/prices.py",
    "dist_zero_common/cloud/user_data.py",
    "dist_zero_common/protocol/*.py",
    "dist_zero_common/protocol/messages/*.py",
    "services/*/kernel.py",
    "services/*/state.py",
    "services/node_runner/*_events.py",
    "services/node_runner/handing_out.py",
    "services/node_runner/patience.py",
    "services/node_runner/readers.py",
    "services/node_runner/sequencer.py",
    "services/node_runner/sessions.py",
    "services/scheduler/deciding.py",
    "services/scheduler/placement.py",
    "services/scheduler/programs.py",
    "services/scheduler/reconcile.py",
)

# Modules that are run or found by name.
ENTRY_POINTS = (
    "__main__.py",
    "__init__.py",
    "dist_zero/cli/main.py",
    "dist_zero/testing/pytest_plugin.py",
    "dist_zero_common/broker/administration.py",
    "dist_zero_common/cloud/boot/fetch.py",  # part of user data, as is the next
    "dist_zero_common/cloud/boot/watch_lease.py",
    "services/log_copies.py",
)

LINES_MAX = 700

# In pieces, because this file, too, must not name them.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("crates", "io"),
        ("npmjs", "org"),
        ("debian", "org"),
        ("golang", "org"),
        ("anaconda", "org"),
    )
)
PATH_OF_ONE_MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|farm|home/\w+|tmp/\w+)/")


def report(findings: dict[Path, list[str]]) -> str:
    return "\n".join(f"{path}: {finding}" for path, found in findings.items() for finding in found)


def hold(paths: list[Path], check: Callable[[ast.Module], list[str]]) -> None:
    found = report({path: check(parsed(path)) for path in paths})
    assert not found, found


def test_layers() -> None:
    """Imports point one way; services are imported from below only by what starts them, and only when it does."""
    findings: dict[Path, list[str]] = {}
    for path in python_files(*LAYERS):
        above = LAYERS[LAYERS.index(path.parts[0]) + 1 :]
        for found in tidy.imports(parsed(path)):
            starts = path.as_posix().startswith(STARTERS) and (found.in_function or found.for_types_only)
            if found.top in above and not (found.top == "services" and starts):
                findings.setdefault(path, []).append(f"line {found.line}: imports {found.module}")
            if found.top in ("test", "examples", "benchmarks", "scripts"):
                findings.setdefault(path, []).append(f"line {found.line}: imports {found.module}")
    assert not findings, report(findings)


def test_foreign_libraries_have_one_importer() -> None:
    """Each library from outside is behind one file (the command line and RabbitMQ, a few of one name) of ours."""
    findings: dict[Path, list[str]] = {}
    for path in python_files(*LAYERS):
        for found in tidy.imports(parsed(path)):
            if found.top in sys.stdlib_module_names or found.top in PRODUCT or found.for_types_only:
                continue
            if not path.as_posix().startswith(IMPORTERS.get(found.top, ())):
                findings.setdefault(path, []).append(f"line {found.line}: imports {found.top}")
    assert not findings, report(findings)


def test_only_settings_reads_the_environment() -> None:
    """`dist_zero_common/settings.py` is the only reader of the environment and of `.env`."""
    everywhere = python_files(*PRODUCT, "examples", "benchmarks", "scripts", "docs")
    others = [path for path in everywhere if path != Path("dist_zero_common/settings.py")]
    hold(others, tidy.environment_reads)


def pure_files() -> list[Path]:
    return [path for path in tracked() if any(PurePosixPath(path).match(pattern) for pattern in PURE)]


def test_kernels_and_executors_are_pure() -> None:
    """What decides and what computes asks no clock, draws no lots, waits for nothing, and iterates over no set."""
    assert len(pure_files()) >= len(PURE)
    hold(pure_files(), tidy.impurities)


@pytest.mark.parametrize("pattern", PURE)
def test_each_pure_pattern_names_something(pattern: str) -> None:
    """A renamed kernel does not slip out of the list."""
    assert any(PurePosixPath(path).match(pattern) for path in tracked())


def test_chance_comes_from_a_seed() -> None:
    """Whoever uses `random` makes a generator from a seed or is given one."""
    guard = Path("dist_zero_common/sim/guard.py")  # names what it refuses
    hold(
        [path for path in python_files(*PRODUCT, "examples", "benchmarks") if path != guard],
        tidy.unseeded_chance,
    )


def test_public_methods_have_docstrings() -> None:
    """Docstrings on all that is public; ruff looks at modules, classes and functions.

    A method that an interface of ours promises is described there, once.
    """
    files = python_files(*LAYERS)
    promised = {name for path in files for name in tidy.interface_methods(parsed(path))}
    hold(files, lambda tree: tidy.without_docstring(tree, promised))


def test_no_file_names_a_package_registry_or_one_machine() -> None:
    """Installing goes where pip is told to; a path of one machine is right on no other."""
    findings: dict[Path, list[str]] = {}
    for path in tracked():
        for number, line in enumerate(text(path).splitlines(), 1):
            found = [host for host in REGISTRY_HOSTS if host in line]
            if match := PATH_OF_ONE_MACHINE.search(line):
                found.append(match.group())
            for name in found:
                findings.setdefault(path, []).append(f"line {number}: {name}")
    assert not findings, report(findings)


def test_files_are_not_too_long() -> None:
    """A file that grows beyond this has become two."""
    for path in python_files(*LAYERS, "test", "examples", "benchmarks", "scripts"):
        lines = len(text(path).splitlines())
        assert lines <= LINES_MAX, f"{path} has {lines} lines"


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def test_no_dead_files() -> None:
    """Every module is imported by another one of the product, or is run by name."""
    imported: set[str] = set()
    for path in python_files(*LAYERS, "examples", "benchmarks"):
        found = tidy.imports(parsed(path))
        imported |= {item.module for item in found} | {f"{item.module}.{item.name}" for item in found}
    # Names that a package hands on when they are asked for.
    lazily = set(re.findall(r'"(dist_zero[\w.]+)"', text(Path("dist_zero/__init__.py"))))
    dead = [
        str(path)
        for path in python_files(*LAYERS)
        if not path.as_posix().endswith(ENTRY_POINTS) and module_name(path) not in imported | lazily
    ]
    assert not dead, f"nobody imports {', '.join(dead)}"


def test_dependencies_agree() -> None:
    """What the Pipfile installs for users is what pyproject.toml declares, and someone imports each of them."""
    pipfile = tomllib.loads(text(Path("Pipfile")))
    project = tomllib.loads(text(Path("pyproject.toml")))["project"]
    assert set(pipfile["packages"]) - {"dist-zero"} == set(project["dependencies"])
    modules = {
        "aio-pika": "aio_pika",
        "pycapnp": "capnp",
        "python-dotenv": "dotenv",
        "prometheus-client": "prometheus_client",
        "python-logstash": "logstash",
    }
    assert {modules.get(name, name) for name in project["dependencies"]} <= set(IMPORTERS)


def test_the_lock_names_no_index() -> None:
    """`pipenv lock` writes the index that it asked; `make lock` takes it out again."""
    assert "source" not in tomllib.loads(text(Path("Pipfile")))
    lock = json.loads(text(Path("Pipfile.lock")))
    assert lock["_meta"]["sources"] == []
    assert not [
        name for part in ("default", "develop") for name, entry in lock[part].items() if "index" in entry
    ]


def test_the_lock_is_good_for_every_python() -> None:
    """Nothing in the lock wants more than 3.11.0: made with the newest patch release, it would leave something out
    on a machine that has an older one."""
    for part in ("default", "develop"):
        for name, entry in json.loads(text(Path("Pipfile.lock")))[part].items():
            for version in re.findall(r"python\w*version >=? '([\d.]+)'", entry.get("markers", "")):
                assert tuple(map(int, version.split("."))) <= (3, 11, 0), f"{name}: {entry['markers']}"


# Each check finds what it is for.

IMPURE_SNIPPETS = [
    "import time",
    "from asyncio import sleep",
    "def f():\n    import threading",
    "for x in {1, 2}: pass",
    "for x in set(y): pass",
    "[x for x in frozenset(y)]",
    "list({x for x in y})",
    "','.join({'a', 'b'})",
    "def f(seen: set[int]):\n    return [x for x in seen]",
    "def f():\n    seen = set()\n    for x in seen: pass",
    "def f():\n    both = set(a) | b\n    return tuple(both)",
    "for key in a.keys() - b.keys(): pass",
    "class C:\n    seen: set[int]\n    def f(self):\n        return [*self.seen]",
    "class C:\n    def __init__(self):\n        self.seen = set()\n    def f(self):\n        return self.seen.pop()",
    "sum(x for x in {0.1, 0.2})",
    "hash(x)",
    "sorted(y, key=id)",
    "id(x) < id(y)",
    "datetime.now()",
]
PURE_SNIPPETS = [
    "sorted({1, 2})",
    "1 in {1, 2}",
    "len(set(y))",
    "max(x for x in {1, 2})",
    "{x for x in {1, 2}}",
    "for x in sorted(set(y)): pass",
    "for x in {1: 2}: pass",
    "def f():\n    seen = set()\ndef g(seen):\n    return list(seen)",
    "seen.pop()",
    "a - b",
    "self.hash(x)",
    "known[id(x)]",
    "id(x) in known",
]


@pytest.mark.parametrize("snippet", IMPURE_SNIPPETS)
def test_impurities_are_found(snippet: str) -> None:
    """The check of kernels sees this."""
    assert tidy.impurities(ast.parse(snippet))


@pytest.mark.parametrize("snippet", PURE_SNIPPETS)
def test_what_is_pure_is_left_alone(snippet: str) -> None:
    """The check of kernels has nothing against this."""
    assert not tidy.impurities(ast.parse(snippet))


@pytest.mark.parametrize(
    "snippet", ["import os\nos.environ['A']", "from os import getenv", "import dotenv", "os.getenv('A')"]
)
def test_environment_reads_are_found(snippet: str) -> None:
    """However it is spelt."""
    assert tidy.environment_reads(ast.parse(snippet))


@pytest.mark.parametrize(
    ("snippet", "seeded"),
    [
        ("random.random()", False),
        ("random.Random()", False),
        ("from random import choice", False),
        ("make = random.choice", False),
        ("random.Random(7)", True),
        ("def f(rng: random.Random) -> None: ...", True),
    ],
)
def test_unseeded_chance_is_found(snippet: str, seeded: bool) -> None:
    """A generator made from a seed, or asked for in a signature, is right; the module's own is not."""
    assert bool(tidy.unseeded_chance(ast.parse(snippet))) is not seeded


def test_imports_know_where_they_stand() -> None:
    """At the top, inside a function, for types only."""
    source = """
        import a.b
        if TYPE_CHECKING:
            from c import d
        def f():
            from e import g
    """
    found = tidy.imports(ast.parse(textwrap.dedent(source)))
    assert [(item.top, item.in_function, item.for_types_only) for item in found] == [
        ("a", False, False),
        ("c", False, True),
        ("e", True, False),
    ]


def test_tracked_files_are_there() -> None:
    """The rules look at the whole tree: files of every layer, and those that begin with a dot."""
    names = {path.as_posix() for path in tracked()}
    assert {"Makefile", ".ci/run", ".env.template", "dist_zero_common/log.py"} <= names
    assert (ROOT / "pyproject.toml").is_file()
