"""Messages that are lost for good: asked for again, by whoever waits for them. The broker may forget any of them; only
what is in the store counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from dist_zero.system import SimulatedSystem
from dist_zero_common.log import captured_events
from dist_zero_common.sim.faults import drawn_weather
from dist_zero_common.sim.world import SimWorld
from test.simulated.property_world import BusyRun, Cutter
from test.simulated.seeds import seeds


def lossy(seed: int, loss: float) -> SimWorld:
    """Hostile weather that also loses this share of all messages."""
    world = SimWorld(seed, "hostile")
    return SimWorld(seed, replace(drawn_weather("hostile", world.rng("weather")), loss=loss))


def check(run: BusyRun, world: SimWorld) -> None:
    """Right at every epoch, and without any node having begun again: what was lost was asked for."""
    with captured_events() as events:
        run.run(world).check()
    assert len([event for event in events if event["event"] == "program_placed"]) == 1


@pytest.mark.parametrize("seed", seeds(4, 8))
def test_oracle_lost_messages_are_asked_for_again(seed: int) -> None:
    """One in fifty to one in ten is lost, between any two parts, in either direction."""
    run = BusyRun(stages=1 + seed % 3, nodes=2 + seed % 4, machines=2 + seed % 2, transactions=30)
    check(run, lossy(5_000 + seed, (0.02, 0.1)[seed % 2]))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_lost_messages_are_asked_for_again(seed: int) -> None:
    """The same over many seeds."""
    run = BusyRun(stages=1 + seed % 3, nodes=1 + seed % 6, machines=2 + seed % 3, transactions=60)
    check(run, lossy(6_000 + seed, (0.01, 0.02, 0.05)[seed % 3]))


@dataclass
class Forgetter(Cutter):
    """Restarts the broker now and then, which keeps nothing."""

    world: SimWorld

    def watch_over(self, system: SimulatedSystem) -> None:
        self.system = system

    async def run(self) -> None:
        rng = self.world.rng("forgetter")
        while True:
            await asyncio.sleep(rng.choice((0.3, 2.0, 7.0)))
            self.system.broker.restart()


@pytest.mark.parametrize("seed", seeds(4, 8))
def test_oracle_a_broker_that_forgets_everything_costs_time_alone(seed: int) -> None:
    """All queues are emptied and all connections lost, again and again."""
    world = SimWorld(7_000 + seed, ("faithful", "hostile")[seed % 2])
    run = BusyRun(stages=1 + seed % 3, nodes=2 + seed % 4, machines=2, transactions=40)
    run.cutter = Forgetter(world)
    run.run(world).check()
