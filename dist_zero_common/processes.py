"""Processes called so that no later one is taken for them."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def process_name(pid: int | None = None) -> str:
    """A process as no other is called: `<pid>-<when it started>@<host>`, where the operating system says when."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}-{_started(pid)}@{platform.node()}"


def pid_of(process: str) -> int:
    """The number in a `process_name`."""
    return int(process.partition("-")[0])


def is_running(process: str) -> bool:
    """Whether the process of this `process_name` is there; one of another host may be, for all that is known here."""
    if process.rpartition("@")[2] != platform.node():
        return True
    try:
        pid = pid_of(process)
        os.kill(pid, 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it is somebody else's, and there
    return process_name(pid) == process


def _started(pid: int) -> str:
    """In ticks since the machine started; a process that ended and was not waited for has none."""
    try:
        fields_behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    return "ended" if fields_behind_name[0] in ("Z", "X") else fields_behind_name[19]
