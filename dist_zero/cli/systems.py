"""Which system a command means, and where its broker is.

Whoever starts a system here (`up`, `run --mode virtual`) leaves a file `systems/<system>.json` in the log directory; it
goes when the system goes. A system that something else started (docker-compose, another host) is found by its name and
its broker's address.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from dist_zero_common.errors import OperatorError, SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.processes import is_running
from dist_zero_common.settings import Settings, load_settings

DIRECTORY = "systems"
CLOUD_MODE = "cloud"


@dataclass(frozen=True, slots=True)
class SystemState:
    """What is written down about a system that was started here.

    `broker_url` is for clients, `agent_url` and `runner_url` are for machines of this host's that join; there are
    passwords in them. `keeper` is the process that holds the system up, as
    `process_name` says it. `program` is what it was started for, or empty. `bridge` says what is wrong with the bridge
    of its sources, if anything. `region` is where the instances of one in the cloud are: it has no keeper, and holds
    itself up.
    """

    system: str
    mode: str
    broker_url: str
    keeper: str
    store: str
    log_dir: str
    program: str
    bridge: str = ""
    agent_url: str = field(default="", repr=False)
    runner_url: str = field(default="", repr=False)
    region: str = ""

    def alive(self) -> bool:
        """Whether the process that holds the system up is still there, as far as one does."""
        return self.mode == CLOUD_MODE or is_running(self.keeper)


@dataclass(frozen=True, slots=True)
class Target:
    """A system to talk to. `origin` says in words where the address came from; `state` is there if it was started
    here."""

    broker_url: str
    system: str
    origin: str
    state: SystemState | None


def resolve(
    system: str | None, broker: str | None, *, otherwise: str | None = None, settings: Settings | None = None
) -> Target:
    """The system that a command means: the one named, else DIST_ZERO_SYSTEM, else the only one that was started here,
    else `otherwise`.

    Raises `SettingsError` if there is none or several, or nothing says where the broker is.
    """
    settings = settings or load_settings()
    states = {state.system: state for state in load_states(settings.log_directory)}
    name = _chosen(system, broker, otherwise, settings, states)
    checked_name("system", name)
    state = states.get(name)
    if broker is not None:
        return Target(checked_url(broker), name, "--broker", state)
    if state is not None:
        return Target(state.broker_url, name, str(state_path(settings.log_directory, name)), state)
    if settings.broker_url:
        return Target(settings.broker_url, name, "AMQP_URL", None)
    raise SettingsError(
        f"it is not known where the broker of system {name!r} is: name it with --broker URL or AMQP_URL"
        f" ({_here(states)})"
    )


def _chosen(
    system: str | None,
    broker: str | None,
    otherwise: str | None,
    settings: Settings,
    states: dict[str, SystemState],
) -> str:
    named = system or settings.system
    if named:
        return named
    if broker is not None:
        there = [state.system for state in states.values() if state.broker_url == broker]
    else:
        there = [state.system for state in states.values() if state.alive()] or list(states)
    if len(there) == 1:
        return there[0]
    if otherwise is not None:
        return otherwise
    if there:
        raise SettingsError(
            f"{len(there)} systems are there: pick one of {', '.join(there)} with --system NAME"
        )
    if broker is not None or settings.broker_url:
        raise SettingsError(
            "say which system of this broker is meant, with --system NAME or DIST_ZERO_SYSTEM"
        )
    raise SettingsError(
        "no system was started from this directory: `dist-zero up app.py` starts one; one that runs elsewhere is named"
        " with --broker URL and --system NAME"
    )


def _here(states: dict[str, SystemState]) -> str:
    return f"started here: {', '.join(sorted(states)) or 'none'}"


def checked_url(url: str, option: str = "--broker") -> str:
    """The address as it was given on the command line, or `SettingsError`; it is not repeated, for its password."""
    if not url.startswith(("amqp://", "amqps://")):
        raise SettingsError(
            f"{option}: this is no address of a broker; it looks like amqp://user:password@host:5672/vhost"
        )
    return url


# ---- the files -----------------------------------------------------------------------------------------------


def state_path(log_directory: Path, system: str) -> Path:
    """The file about a system."""
    return log_directory / DIRECTORY / f"{system}.json"


def load_states(log_directory: Path) -> list[SystemState]:
    """All systems that were started here, by name; those whose keeper is gone, too. A file that makes no sense, as an
    older version may have left, is passed over."""
    states = []
    for path in sorted((log_directory / DIRECTORY).glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            states.append(
                SystemState(
                    **{item.name: str(found[item.name]) for item in fields(SystemState) if item.name in found}
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return states


def save_state(log_directory: Path, state: SystemState) -> None:
    """Write the file about a system; only its owner may read it, because of the password."""
    path = state_path(log_directory, state.system)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(state), file, indent=2)
        part.replace(path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}") from error


def remove_state(log_directory: Path, system: str) -> None:
    """Remove the file about a system, if it is there."""
    state_path(log_directory, system).unlink(missing_ok=True)
