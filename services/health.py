"""`python -m services.health`: one sentence on the services that run here, and exit code 0 if they are healthy, else 1.

Healthy is who makes progress. The processes that live and log to this directory say in files (`progress.py`) when they
have moved last; each of them has to have moved within `HEALTHY_SECONDS`. A container's health check runs this every few
seconds, so it imports as little as it can.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

from dist_zero_common.errors import OperatorError
from dist_zero_common.settings import load_settings

HEALTHY_SECONDS = 15.0
SUFFIX = ".progress"
TEXT_LENGTH_MAX = 40


def judged(directory: Path, now: float) -> tuple[bool, str]:
    """Whether all services that log to `directory` are healthy, and the sentence that says so. `now` is the monotonic
    clock's."""
    ages: dict[str, float | None] = {}
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        said = _said_by_living(path)
        if said is not None:
            ages[path.name.removesuffix(SUFFIX)] = now - float(said) if said else None
    if not ages:
        return False, f"no service runs that logs to {directory}"
    bad = [
        f"{name} has not come to do anything yet"
        if age is None
        else f"{name} has done nothing for {age:.0f} s"
        for name, age in ages.items()
        if age is None or age > HEALTHY_SECONDS
    ]
    if bad:
        return False, f"not healthy: {', '.join(bad)}"
    good = [f"{name} moved {max(0.0, age):.1f} s ago" for name, age in ages.items() if age is not None]
    return True, f"healthy: {', '.join(good)}"


def _said_by_living(path: Path) -> str | None:
    """The file's text, or None when the process that wrote it has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, TEXT_LENGTH_MAX, 0).decode().strip()
    else:
        return None
    finally:
        os.close(descriptor)


def main() -> int:
    """Judge the services that run here; the exit code says how it went."""
    try:
        healthy, sentence = judged(load_settings().log_directory, time.monotonic())
    except (OperatorError, OSError) as error:
        healthy, sentence = False, str(error)
    sys.stdout.write(f"{sentence}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
