"""`up` of a system in the cloud that is up already: how many machines it has then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from dist_zero.cloud.up import wait_ready
from dist_zero_common.protocol.messages.requests import MachineStatus, ServiceStatus, SystemStatus
from test.cloud.fleets import fleet


class Remote:
    """A scheduler that wants `wanted` machines; each look finds one more of them ready."""

    def __init__(self, wanted: int, growth: str = "") -> None:
        self.wanted, self.growth, self.ready = wanted, growth, 0
        self.scaled: list[Mapping[str, int]] = []

    async def status(self) -> SystemStatus:
        self.ready = min(self.ready + 1, self.wanted)
        machines = tuple(machine(f"m{number}") for number in range(1, self.ready + 1))
        services = (ServiceStatus("node-runner", self.wanted, self.ready, 0),)
        return SystemStatus(1, 1, machines, (), growth=self.growth, services=services)

    async def scale_services(self, counts: Mapping[str, int]) -> None:
        self.scaled.append(counts)
        self.wanted = counts["node-runner"]


class Launching:
    """Instances that need nothing."""

    def look(self) -> list[Any]:
        return []


def machine(name: str) -> MachineStatus:
    """A machine that is ready."""
    return MachineStatus(name, 2, 2**30, (), 0, True, "", "", 1, "", "")


def ready_machines(monkeypatch: pytest.MonkeyPatch, remote: Remote, *, asked: bool) -> int:
    """How many machines are ready when `up` of two returns."""
    monkeypatch.setattr("dist_zero.cloud.up.LOOK_SECONDS", 0.0)
    launching: Any = Launching()
    system: Any = remote
    asyncio.run(wait_ready(launching, system, fleet(machines=2), lambda what, count, of: None, asked=asked))
    return remote.ready


@pytest.mark.parametrize("wanted", [1, 5])
def test_a_number_that_was_said_is_the_systems_from_then_on(
    monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    """The scheduler is told once, and `up` waits for so many and no more."""
    remote = Remote(wanted)
    assert ready_machines(monkeypatch, remote, asked=True) == 2
    assert remote.scaled == [{"node-runner": 2}]


@pytest.mark.parametrize(("growth", "asked"), [("", False), ("automatic: 3 wanted", True)])
def test_otherwise_the_system_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch, growth: str, asked: bool
) -> None:
    """A number that nobody has said, and one that follows the load, take nothing away from a system that is up."""
    remote = Remote(3, growth)
    assert ready_machines(monkeypatch, remote, asked=asked) == 3
    assert remote.scaled == []
