"""The scripts around containers, as far as they need none: settings, `.env`, and that the files agree."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from dist_zero_common.settings import Settings, load_settings
from test.unit.tidy import ROOT, text

COMPOSE_FILES = (Path("docker-compose.yml"), Path("docker-compose.test.yml"))
DEFAULTS = {item.metadata["variable"].name: item.metadata["variable"].default for item in fields(Settings)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with these scripts and nothing set."""
    (tmp_path / "scripts").mkdir()
    for name in ("env-file", "setting"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    shutil.copy(ROOT / ".env.template", tmp_path)
    return tmp_path


def run(tree: Path, *command: str, **environment: str) -> str:
    """What a script says, in an environment that has nothing of ours but this."""
    path = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [tree / "scripts" / command[0], *command[1:]],
        env=path | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def wanted() -> set[str]:
    """The variables that docker-compose.yml cannot do without."""
    return set(re.findall(r"\$\{(\w+):\?", text(COMPOSE_FILES[0])))


def test_env_file_has_all_that_compose_wants(tree: Path) -> None:
    """Passwords are random and nobody else's to read; clients get the address with the client's user."""
    assert wanted() > {"DIST_ZERO_SYSTEM", "BROKER_ADMIN_PASSWORD"}
    run(tree, "env-file")
    path = tree / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = {name: run(tree, "setting", name) for name in wanted()}
    passwords = [value for name, value in said.items() if name.endswith("_PASSWORD")]
    assert all(re.fullmatch("[0-9a-f]{32}", password) for password in passwords)
    assert len(set(passwords)) == len(passwords) == 5
    settings = load_settings({}, path)
    assert settings.system == said["DIST_ZERO_SYSTEM"]
    client = run(tree, "setting", "BROKER_CLIENT_PASSWORD")
    assert settings.broker_url == f"amqp://client:{client}@127.0.0.1:5672/dz"


def test_env_file_leaves_what_is_set(tree: Path) -> None:
    """Also what a person has written oddly; what is set to nothing is not set; twice is once; and what the
    environment says is not what the file says."""
    path = tree / ".env"
    given = "# mine\nexport DIST_ZERO_SYSTEM='shop' # of ours\nBROKER_CLIENT_PASSWORD=mine\nBROKER_PORT=7\nAMQP_URL="
    path.write_text(given)
    said = run(tree, "env-file", BROKER_AGENT_PASSWORD="elsewhere")
    assert "DIST_ZERO_SYSTEM" not in said
    written = path.read_text()
    assert written.startswith(given + "\n")
    assert run(tree, "setting", "DIST_ZERO_SYSTEM") == "shop"
    assert run(tree, "setting", "AMQP_URL") == "amqp://client:mine@127.0.0.1:7/dz"
    assert run(tree, "setting", "BROKER_AGENT_PASSWORD") not in ("", "elsewhere")
    assert "has all that is needed" in run(tree, "env-file")
    assert path.read_text() == written


@pytest.mark.parametrize("line", ["X", "X=", "Y=1"])
def test_settings_of_scripts_have_the_defaults_of_python(tree: Path, line: str) -> None:
    """Environment, then `.env`, then the default; set to nothing is not set."""
    (tree / ".env").write_text(f"{line}\nDIST_ZERO_IMAGE=mine:1\n")
    assert run(tree, "setting", "DIST_ZERO_IMAGE", DIST_ZERO_IMAGE="other:2") == "other:2"
    assert run(tree, "setting", "DIST_ZERO_IMAGE", DIST_ZERO_IMAGE="") == "mine:1"
    for name in set(DEFAULTS) - {"DIST_ZERO_IMAGE"}:
        assert run(tree, "setting", name) == DEFAULTS[name]


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=str)
def test_defaults_of_compose_are_those_of_the_settings(path: Path) -> None:
    """Where a compose file has a default for one of our settings, it is ours: image names have the version in them.
    Metrics are given out there, where the port is nobody else's."""
    found = re.findall(r"\$\{(DIST_ZERO_\w+):-([^}]*)\}", text(path))
    assert found
    for name, default in found:
        assert default == ("9464" if name == "DIST_ZERO_METRICS_PORT" else DEFAULTS[name]), name


def test_the_image_and_its_dependencies_are_the_lock() -> None:
    """Every package of the lock's default section, with its hashes, and not this project itself."""
    lock = ROOT / "Pipfile.lock"
    with lock.open() as stream:
        done = subprocess.run(
            [sys.executable, ROOT / "dist_zero_common/requirements.py", "default"],
            stdin=stream,
            capture_output=True,
            text=True,
            check=True,
        )
    locked = json.loads(lock.read_text())["default"]
    lines = re.findall(r"^([\w-]+)(?:\[[\w,-]+\])?==(\S+)", done.stdout, re.MULTILINE)
    assert dict(lines) == {name: entry["version"][2:] for name, entry in locked.items() if "version" in entry}
    assert done.stdout.count("--hash=") == sum(len(entry.get("hashes", ())) for entry in locked.values())


@pytest.mark.parametrize(
    ("failing", "arguments", "code", "runs"),
    [
        ("nothing", [], 0, ["-k not virtual and not cloud", "-k virtual or cloud"]),
        ("-k not virtual and not cloud", [], 1, ["-k not virtual and not cloud", "-k virtual or cloud"]),
        ("-k virtual or cloud", [], 1, ["-k not virtual and not cloud", "-k virtual or cloud"]),
        ("-k zset", ["-k", "zset"], 1, ["-k zset"]),
        ("nothing", ["--long"], 0, ["-m  --hypothesis-profile=long -k not virtual and not cloud"]),
    ],
)
def test_tests_run_in_halves_and_either_may_fail(
    tmp_path: Path, failing: str, arguments: list[str], code: int, runs: list[str]
) -> None:
    """What both halves say is shown, whichever fails; with arguments there is one run, of what they choose."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\necho "$@"\ncase "$*" in *"{failing}"*) exit 1 ;; esac\n')
    python.chmod(0o755)
    command = [str(tmp_path / "scripts" / "test"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert all(f"-m pytest {run}" in done.stdout for run in runs), done.stdout
