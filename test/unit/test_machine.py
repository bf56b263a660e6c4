"""What a machine is called, and what of it a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dist_zero_common.errors import SettingsError
from dist_zero_common.ids import checked_name
from services.machine_agent.machine import NAME_LENGTH_MAX, cores, legal_name, memory_bytes, this_machine

MEMINFO = "MemTotal:        8000000 kB\nMemFree:         1000 kB\n"
GIB = 2**30


def files(root: Path, **contents: str) -> Path:
    """A file system with these files; `__` stands for a slash and `_DOT_` for a dot."""
    for name, content in {"proc__meminfo": MEMINFO, **contents}.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("web-1", "web-1"),
        ("Web_1.example.org", "web-1"),
        ("-dashes-", "dashes"),
        ("3f2a", "3f2a"),
        ("...", "machine"),
        ("x" * 200, "x" * NAME_LENGTH_MAX),
    ],
)
def test_a_host_name_becomes_a_legal_name(host: str, name: str) -> None:
    """Whatever a host is called, a machine may be called what becomes of it, and its runner, too."""
    assert legal_name(host) == name
    checked_name("runner", f"{name}-r1")


def test_a_given_name_is_taken_as_it_is() -> None:
    """What somebody set is not mended but refused."""
    assert this_machine("m-7").name == "m-7"
    with pytest.raises(SettingsError, match="cannot be the name of a machine"):
        this_machine("M 7")
    assert this_machine().name == legal_name(os.uname().nodename)


@pytest.mark.parametrize(
    ("contents", "held_to"),
    [
        ({}, 64),
        ({"sys__fs__cgroup__cpu_DOT_max": "max 100000"}, 64),
        ({"sys__fs__cgroup__cpu_DOT_max": "200000 100000"}, 2),
        ({"sys__fs__cgroup__cpu_DOT_max": "50000 100000"}, 1),
        ({"sys__fs__cgroup__cpu_DOT_max": "350000 100000"}, 3),
        (
            {
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us": "-1",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us": "100000",
            },
            64,
        ),
        (
            {
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us": "300000",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us": "100000",
            },
            3,
        ),
    ],
)
def test_cores_are_those_that_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, str], held_to: int
) -> None:
    """Version 1 and version 2 of control groups, with and without a limit; never less than one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: frozenset(range(64)))
    assert cores(files(tmp_path, **contents)) == held_to


@pytest.mark.parametrize(
    ("contents", "there"),
    [
        ({}, 8_000_000 * 1024),
        ({"sys__fs__cgroup__memory_DOT_max": "max"}, 8_000_000 * 1024),
        ({"sys__fs__cgroup__memory_DOT_max": str(GIB)}, GIB),
        ({"sys__fs__cgroup__memory__memory_DOT_limit_in_bytes": str(2 * GIB)}, 2 * GIB),
        ({"sys__fs__cgroup__memory__memory_DOT_limit_in_bytes": str(2**63 - 4096)}, 8_000_000 * 1024),
    ],
)
def test_memory_is_what_the_container_may_use(tmp_path: Path, contents: dict[str, str], there: int) -> None:
    """The limit, and not more than the host has."""
    assert memory_bytes(files(tmp_path, **contents)) == there


def test_this_machine_has_something() -> None:
    """Here, too."""
    machine = this_machine("here")
    assert machine.cores >= 1 and machine.memory_bytes > 2**20
