"""Growth in containers: machines come with the load, go without it, and come again when somebody writes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.protocol.messages.requests import ProgramState, SystemStatus
from test.virtual.test_virtual_mode_virtual import PROGRAM, Shell, of_system, shell

__all__ = ["shell"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.usefixtures("docker_or_skip")]

SYSTEM, APP = "dzt-growth", "dzt-grown"
WAIT_SECONDS = 240.0
GROWTH = "rows_per_second=500,smooth_seconds=1,up_seconds=3,down_seconds=10,cooldown_seconds=5"


def machines() -> list[str]:
    """The machines' containers."""
    return [thing.rsplit(".", 1)[-1] for thing in of_system(SYSTEM) if thing.rsplit(".", 1)[-1][:1] == "m"]


async def until(there: RemoteSystem, what: Callable[[SystemStatus], bool]) -> SystemStatus:
    """Wait until the status is like that."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        status = await there.status()
        if what(status):
            return status
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.5)


class Writer:
    """Writes so many rows a second, about, and knows how many it wrote."""

    def __init__(self, client: Client) -> None:
        self._client, self.rows = client, 0

    async def write(self, rate: int) -> None:
        """Until cancelled."""
        while True:
            numbers = range(self.rows, self.rows + rate // 5)
            self.rows += len(numbers)
            await self._client.put("things", [{"k": number, "v": number % 3} for number in numbers])
            await asyncio.sleep(0.2)


async def live(there: RemoteSystem) -> None:
    """Load, none, and a write."""
    async with there.connect(APP) as client:
        writer = Writer(client)
        writing = asyncio.create_task(writer.write(4_000))
        status = await until(
            there,
            lambda status: (
                len(status.programs[0].nodes) == 4
                and {place.machine for place in status.programs[0].nodes} == {"m1", "m2", "m3"}
            ),
        )
        assert "times what a node may" in status.programs[0].growth
        assert machines() == ["m1", "m2", "m3"]
        writing.cancel()
        await asyncio.wait([writing])
        await client.flush()
        assert sum(vars(row)["n"] for row in await client.rows("sums")) == writer.rows
    await until(there, lambda status: status.programs[0].state is ProgramState.ASLEEP)
    deadline = time.monotonic() + WAIT_SECONDS
    while machines():
        assert time.monotonic() < deadline, machines()
        await asyncio.sleep(0.5)
    async with there.connect(APP) as client:
        await client.put("things", {"k": writer.rows, "v": 1})
        assert sum(vars(row)["n"] for row in await client.rows("sums")) == writer.rows + 1
    assert machines() == ["m1"]


def test_machines_come_with_the_load_and_go_without_it(shell: Shell) -> None:
    """Up to three containers, down to none, and one again; each row is there once, and nothing is left."""
    shell.environment["DIST_ZERO_GROWTH"] = GROWTH
    Path(shell.directory, "grown.py").write_text(PROGRAM.format(name=APP))
    few = ("--max-nodes", "2", "--min-machines", "1", "--max-machines", "1")
    out, _ = shell("up", "grown.py", "--auto", *few, "--system", SYSTEM)
    assert "runs on 1 to 2 nodes, as its load needs" in out
    assert machines() == ["m1"]
    out, _ = shell("status", "--system", SYSTEM)
    assert "automatic: 1 to 2 nodes" in out
    limits = ("--max-nodes", "4", "--min-machines", "0", "--max-machines", "3", "--idle", "10")
    shell("scale", APP, "--auto", *limits, "--system", SYSTEM)
    (state,) = shell.states()
    url = json.loads(state.read_text())["broker_url"]
    asyncio.run(live(RemoteSystem(url, SYSTEM)))
    out, _ = shell("status", "--system", SYSTEM)
    assert "automatic" in out
    shell("down", "--system", SYSTEM)
    assert of_system(SYSTEM) == []
