"""Connections that are lost at random moments, of every part of a system: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio

import pytest

from dist_zero.system import SimulatedSystem
from dist_zero_common.broker.base import Broker, Connect
from dist_zero_common.broker.memory import MemoryConnection
from dist_zero_common.errors import ConnectionLost
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from test.simulated.property_world import PROGRAMS, BusyRun, Cutter


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(8, 100))]
)
def test_lost_connections_change_no_answer(seed: int) -> None:
    """With connections of scheduler, agents, runners and clients lost all the time, every acknowledged transaction is
    in the log once, in order (I2), and a watcher sees every epoch once, right (I1)."""
    world = SimWorld(seed, "hostile" if seed % 2 else "faithful")
    cutter = Cutter(world, seconds=(0.1, 0.2, 0.4)[seed % 3])
    run = BusyRun(
        stages=1 + seed % 3, nodes=1 + seed % 4, machines=1 + seed % 2, transactions=90, cutter=cutter
    )
    run.run(world).check()
    assert cutter.cuts.total() > 5, cutter.cuts


@pytest.mark.parametrize("seed", range(4))
def test_clients_follow_their_program_to_other_machines(seed: int) -> None:
    """A machine falls silent and the program is placed anew without it: writes, gets, snapshots, `flush` and a watch go
    on by themselves, with every epoch told once."""

    async def live() -> None:
        system = SimulatedSystem(SimWorld(seed, "hostile" if seed % 2 else "faithful"), machines=2)
        away = Away(system, "runner-m2")
        async with system, system.connect(PROGRAMS[2], nodes=4) as client:
            epochs: list[int] = []

            async def watch() -> None:
                with client.watch_stored((0,)) as changes:
                    async for change in changes:
                        epochs.append(change.epoch)

            watching = asyncio.create_task(watch())
            rows = [{"id": n, "shop": f"shop {n % 5}", "amount": 1.0} for n in range(40)]
            await client.put("sales", rows[:10])
            before = client.placement
            away.begins()
            for row in rows[10:]:
                await client.put("sales", row)
                got = await client.get("per_shop", row["shop"])
                assert got is not None and vars(got)["n"] == row["id"] // 5 + 1  # type: ignore[operator]
            assert client.placement.version > before.version
            assert not any(".m2-" in inbox for inbox in client.placement.inboxes)
            assert sum(vars(row)["n"] for row in await client.rows("per_shop")) == 40
            newest = await client.flush()
            away.ends()
            while not epochs or epochs[-1] < newest:
                await asyncio.sleep(1)
            assert epochs == [*range(epochs[0], epochs[-1] + 1)]
            watching.cancel()

    run_simulation(live(), until_seconds=3_600)


class Away:
    """Connections of the parts whose names begin so can be kept from the broker for a while."""

    def __init__(self, system: SimulatedSystem, names: str) -> None:
        self._away = False
        self._connections: list[MemoryConnection] = []
        connector = system.broker.connector

        def watched(name: str) -> Connect:
            connect = connector(name)

            async def connect_unless_away() -> Broker:
                if not name.startswith(names):
                    return await connect()
                if self._away:
                    raise ConnectionLost("no route to host")
                connection = await connect()
                assert isinstance(connection, MemoryConnection)
                self._connections.append(connection)
                return connection

            return connect_unless_away

        system.connector = watched

    def begins(self) -> None:
        """They lose their connections and get no others."""
        self._away = True
        for connection in self._connections:
            connection.drop_connection()

    def ends(self) -> None:
        """They may connect again."""
        self._away = False
