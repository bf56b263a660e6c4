"""`dist-zero logs`: what all processes of a system that was started here have logged, as one stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dist_zero.cli.render import console_for
from dist_zero.cli.systems import CLOUD_MODE, DIRECTORY, SystemState, load_states
from dist_zero_common.errors import SettingsError
from dist_zero_common.logs_tail import Entry, follow, line_of, parsed_since
from dist_zero_common.settings import Settings


@dataclass(frozen=True, slots=True)
class LogsOptions:
    """What `dist-zero logs` was asked for; see its help."""

    system: str | None = None
    follow: bool = False
    machine: str | None = None
    level: str = "info"
    since: str | None = None
    as_json: bool = False


def print_logs(options: LogsOptions, settings: Settings) -> None:
    """Print entries in order of time, and with `follow` those to come."""
    directory, system, state = _where(options, settings)
    with _brought(state, directory, settings, follow=options.follow):
        _print(options, directory, system)


def _brought(
    state: SystemState | None, directory: Path, settings: Settings, *, follow: bool
) -> AbstractContextManager[None]:
    """Meanwhile the logs are in the directory: those of a system in the cloud are brought from its store."""
    if state is None or state.mode != CLOUD_MODE:
        return nullcontext()
    from dist_zero.cloud.logs import fetched

    return fetched(state.store, state.region, directory, settings, follow=follow)


def _print(options: LogsOptions, directory: Path, system: str) -> None:
    since = parsed_since(options.since, datetime.now(UTC)) if options.since else None
    entries = follow(directory, system=system, level=options.level, since=since, forever=options.follow)
    colour = sys.stdout.isatty()
    shown = 0
    for entry in _of_machine(entries, options.machine):
        line = (
            json.dumps(entry.as_json(), ensure_ascii=False)
            if options.as_json
            else line_of(entry, colour=colour)
        )
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        shown += 1
    if not shown:
        of = f" of machine {options.machine}" if options.machine else ""
        console_for(stderr=True).print(
            f"nothing{of} of level {options.level} and above is in the logs in {directory}"
        )


def _where(options: LogsOptions, settings: Settings) -> tuple[Path, str, SystemState | None]:
    """The directory of logs, the system's name, or nothing for all that are there, and what is known of it here."""
    named = options.system or settings.system
    states = {state.system: state for state in load_states(settings.log_directory)}
    if named in states or (not named and len(states) == 1):
        state = states[named] if named else next(iter(states.values()))
        if state.mode == CLOUD_MODE:
            return Path(state.log_dir) / DIRECTORY / state.system / "logs", state.system, state
        return Path(state.log_dir), state.system, state
    if not settings.log_directory.is_dir():
        raise SettingsError(
            f"there are no logs here: {settings.log_directory} does not exist; they are on the machine, and in the"
            " directory, that the system was started from (DIST_ZERO_LOG_DIR)"
        )
    return settings.log_directory, named, None


def _of_machine(entries: Iterator[Entry], machine: str | None) -> Iterator[Entry]:
    for entry in entries:
        if machine is None or entry.machine == machine:
            yield entry
