"""What a machine is: its name, and how many cores and how much memory a process on it may use.

A container may use less than its host has. Linux says so in control groups, in the files of version 2 or in those of
version 1; a limit that is not set is no limit.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from dist_zero_common.ids import checked_name

NAME_LENGTH_MAX = 90
"""The names of a machine's runners are longer than its own."""

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Machine:
    """What an agent announces of its machine."""

    name: str
    cores: int
    memory_bytes: int


def this_machine(name: str = "") -> Machine:
    """The machine that this process runs on; `name` is what it is called, if anything (else it is the host's)."""
    return Machine(checked_name("machine", name or legal_name(platform.node())), cores(), memory_bytes())


def legal_name(host: str) -> str:
    """A host's name (without its domain) as a machine may be called; `machine` if nothing of it is left."""
    name = re.sub(r"[^a-z0-9]+", "-", host.partition(".")[0].lower()).strip("-")
    return name[:NAME_LENGTH_MAX].strip("-") or "machine"


def cores(root: Path = _ROOT) -> int:
    """How many cores a process may use here, at least 1: those it may run on, less what the container is held to."""
    there = len(os.sched_getaffinity(0))
    held_to = _cores_v2(root) or _cores_v1(root)
    return max(1, there if held_to is None else min(there, int(held_to)))


def memory_bytes(root: Path = _ROOT) -> int:
    """How much memory a process may use here."""
    there = _memory_of_host(root)
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _number(_text(root / path))
        if limit is not None:
            return min(there, limit)
    return there


def _cores_v2(root: Path) -> float | None:
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    return _share(_number(quota), _number(period))


def _cores_v1(root: Path) -> float | None:
    quota, period = (
        _number(_text(root / f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us")) for name in ("quota", "period")
    )
    return _share(quota, period)


def _share(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None


def _memory_of_host(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return 0


def _number(text: str) -> int | None:
    """The number, and None for `max`, for -1 and for nothing: no limit."""
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
