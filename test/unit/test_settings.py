"""Settings: every variable is declared once, read once, checked, and described in `.env.template`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from dist_zero_common.errors import SettingsError
from dist_zero_common.settings import VERSION, Settings, load_settings, template
from test.unit.tidy import PRODUCT, ROOT, python_files, text, tracked


def load(tmp_path: Path, environ: dict[str, str], env_file: str | None = None) -> Settings:
    path = tmp_path / ".env"
    if env_file is not None:
        path.write_text(env_file, encoding="utf-8")
    return load_settings(environ, path)


def shell_scripts() -> list[Path]:
    """The files that are run and have no suffix: those that are not Python's are the shell's."""
    return [path for path in tracked() if path.parts[0] == "scripts" and not path.suffix]


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    """Without environment and `.env`, and with variables set to nothing, every setting has its default."""
    assert load(tmp_path, {}) == Settings()
    assert load(tmp_path, {"DIST_ZERO_LOG_LEVEL": ""}, "DIST_ZERO_LOG_DIR=\n") == Settings()


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    """`.env` gives what the environment does not; comments, quotes and `export` in it are understood."""
    env_file = "# ours\nexport DIST_ZERO_LOG_LEVEL='debug'\nDIST_ZERO_LOG_DIR=logs # here\n"
    settings = load(tmp_path, {"DIST_ZERO_LOG_LEVEL": "Error"}, env_file)
    assert (settings.log_level, settings.log_directory) == ("error", Path("logs"))


def test_other_variables_are_left_alone(tmp_path: Path) -> None:
    """What does not begin with our name is somebody else's, in the file too."""
    assert load(tmp_path, {"HOME": "x", "PYTHONHASHSEED": "1"}, "OTHER=$HOME\n") == Settings()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DIST_ZERO_LOG_LEVEL": "loud"}, ["DIST_ZERO_LOG_LEVEL", "'loud'", "debug, info, warning, error"]),
        ({"AMQP_URL": "http://host"}, ["AMQP_URL", "amqp://user:password@host"]),
        ({"DIST_ZERO_SYSTEM": "My System"}, ["DIST_ZERO_SYSTEM", "'My System'", "lower-case"]),
        ({"DIST_ZERO_MACHINES": "0"}, ["DIST_ZERO_MACHINES", "'0'", "from 1 to 256"]),
        ({"DIST_ZERO_MACHINES": "many"}, ["DIST_ZERO_MACHINES", "'many'"]),
        ({"DIST_ZERO_LABELS": "zone=a,disk"}, ["DIST_ZERO_LABELS", "name=value"]),
        ({"DIST_ZERO_IMAGE": "an image"}, ["DIST_ZERO_IMAGE", "'an image'"]),
        ({"DIST_ZERO_ADMIN_URL": "amqp://host"}, ["DIST_ZERO_ADMIN_URL", "http://user:password@host"]),
        ({"DIST_ZERO_LOGLEVEL": "info"}, ["DIST_ZERO_LOGLEVEL", "no such setting", "DIST_ZERO_LOG_LEVEL"]),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, environ: dict[str, str], said: list[str]) -> None:
    """The error names the variable, the value, and what is allowed, from the environment and from `.env`."""
    env_file = "".join(f"{name}={value}\n" for name, value in environ.items())
    for given, in_file in ((environ, None), ({}, env_file)):
        with pytest.raises(SettingsError) as caught:
            load(tmp_path, given, in_file)
        assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize("line", ["DIST_ZERO_LOG_LEVEL", "what is this", "'unclosed=1"])
def test_a_line_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    """A line of `.env` that would be passed over is an error with its number."""
    with pytest.raises(SettingsError, match=r"\.env, line 2: this is not NAME=value"):
        load(tmp_path, {}, f"A=1\n{line}\n")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """A broker's password appears neither in an error nor in the settings' text."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {"AMQP_URL": "ampq://me:hunter2@host"})
    assert "hunter2" not in str(caught.value)
    settings = load(tmp_path, {"AMQP_URL": "amqp://me:hunter2@host"})
    assert settings.broker_url.endswith("hunter2@host")
    assert "hunter2" not in repr(settings)


def test_values_are_what_they_stand_for(tmp_path: Path) -> None:
    """Numbers, lists and paths come out as such."""
    given = {"DIST_ZERO_MACHINES": "12", "DIST_ZERO_LABELS": "zone=a, disk=ssd", "DIST_ZERO_STORE": "data"}
    settings = load(tmp_path, given)
    assert (settings.machines, settings.labels, settings.store) == (12, ("zone=a", "disk=ssd"), Path("data"))


def test_images_carry_the_version() -> None:
    """The default image is the one of this version, which pyproject.toml says."""
    project = tomllib.loads(text(Path("pyproject.toml")))["project"]
    assert project["version"] == VERSION and Settings().image == f"dist-zero:{VERSION}"


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after it was read."""
    with pytest.raises(FrozenInstanceError):
        Settings().log_level = "debug"  # type: ignore[misc]


def test_the_template_is_up_to_date() -> None:
    """`.env.template` is what the table of variables says: each with meaning, what is allowed, and default."""
    command = [sys.executable, "-m", "dist_zero_common.settings"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == template() == text(Path(".env.template")), (
        "run: python -m dist_zero_common.settings > .env.template"
    )
    for item in fields(Settings):
        variable = item.metadata["variable"]
        assert f"# {variable.meaning}\n" in printed
        assert f"\n{variable.name}={variable.default}\n" in printed


def test_the_template_gives_the_defaults(tmp_path: Path) -> None:
    """Copied to `.env` as it is, the template changes nothing."""
    assert load(tmp_path, {}, template()) == Settings()


def test_every_setting_is_read_by_something() -> None:
    """A variable that nobody asks for would only mislead whoever sets it."""
    sources = [
        text(path)
        for path in (*python_files(*PRODUCT), *shell_scripts())
        if path.as_posix() != "dist_zero_common/settings.py"
    ]
    for item in fields(Settings):
        names = f"settings.{item.name}", f"scripts/setting {item.metadata['variable'].name}"
        assert any(name in source for source in sources for name in names), item.name
