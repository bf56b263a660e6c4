"""Machines join, leave and die while programs are busy: nodes move, and nobody who writes or watches notices more than
a pause. Whoever moves begins at a base; the others go on, and the generation stays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from dist_zero.system import SimulatedSystem
from dist_zero_common.log import captured_events
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import BusyRun, Cutter
from test.simulated.seeds import seeds


@dataclass
class Mover(Cutter):
    """Starts machines that nobody asked for and ends them without a word, now and then, for a while."""

    world: SimWorld
    moves: int = 5
    machines: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def watch_over(self, system: SimulatedSystem) -> None:
        self.system = system

    async def run(self) -> None:
        rng = self.world.rng("mover")
        try:
            for number in range(self.moves):
                await asyncio.sleep(rng.choice((2.0, 9.0, 25.0)))
                if self.machines and rng.random() < 0.5:
                    self.ended.append(rng.choice(sorted(self.machines)))
                    self.machines.pop(self.ended[-1]).cancel()
                else:
                    name = f"x{number}"
                    running = asyncio.create_task(self.system._run_machine(name), name=f"machine {name}")
                    self.machines[name] = running
            await asyncio.sleep(3600)
        finally:
            for name, machine in self.machines.items():
                self.ended.append(name)
                machine.cancel()

    def was_of_the_dead(self, queue: str) -> bool:
        """Whether a queue was read by a machine that has ended."""
        return any(f".{name}-r1." in queue or queue.endswith(f".agent.{name}") for name in self.ended)


@pytest.mark.parametrize("seed", seeds(4, 8))
def test_oracle_views_and_log_are_right_while_machines_come_and_go(seed: int) -> None:
    """I1 and I2 at every epoch that a watcher saw, and it saw every one, once; the nodes did move."""
    profile = ("calm", "faithful", "hostile")[seed % 3]
    world = SimWorld(3_200 + seed, profile)
    options = SequencerOptions(record_bytes=(600, 2**20)[seed % 2], record_bytes_max=(600, 2**25)[seed % 2])
    run = BusyRun(
        stages=1 + seed % 3, nodes=2 + seed % 4, machines=1 + seed % 2, transactions=60, options=options
    )
    run.pauses = (0.0, 0.5, 10.0)
    run.cutter = mover = Mover(world)
    run.nobody_reads = mover.was_of_the_dead
    with captured_events() as events:
        run.run(world).check()
    placed = [event for event in events if event["event"] == "program_placed"]
    versions = [int(str(event["version"])) for event in placed]
    assert len(placed) > 1 and versions == sorted(frozenset(versions))
    assert len(frozenset(event["generation"] for event in placed)) == 1
    begun = [int(str(event["epoch"])) for event in events if event["event"] == "node_begun"]
    assert max(begun) > 0, "nobody began at a base that holds anything"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_views_and_log_are_right_while_machines_come_and_go(seed: int) -> None:
    """The same over many seeds."""
    world = SimWorld(4_000 + seed, ("faithful", "hostile")[seed % 2])
    run = BusyRun(stages=1 + seed % 3, nodes=1 + seed % 6, machines=1 + seed % 3, transactions=120)
    run.pauses = (0.0, 0.5, 10.0)
    run.cutter = mover = Mover(world, moves=9)
    run.nobody_reads = mover.was_of_the_dead
    run.run(world).check()
