"""Who was given up and is still there does no harm: machines that stop for a minute and wake up with all that they
believed, and machines that reach the store and not the broker, or the other way round."""

from __future__ import annotations

import pytest

from dist_zero_common.log import captured_events
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import BusyRun
from test.simulated.seeds import seeds
from test.simulated.zombies import Freezer, machines_that_freeze


def troubled_run(
    world: SimWorld, *troubles: str, stages: int, rounds: int = 3, transactions: int = 60
) -> tuple[BusyRun, Freezer, list[dict[str, object]]]:
    """A busy run whose machines are troubled; what it was, and what was logged."""
    options = SequencerOptions(save_interval_seconds=0.3)
    run = BusyRun(stages=stages, nodes=4, machines=3, transactions=transactions, options=options)
    run.pauses = (0.0, 2.0, 15.0)
    run.cutter = freezer = Freezer(world, troubles, rounds=rounds, only_sequencers=world.seed % 2 == 0)
    run.nobody_reads = freezer.was_of_the_replaced
    with machines_that_freeze(), captured_events() as events:
        run.run(world).check()
    return run, freezer, list(events)


@pytest.mark.parametrize("seed", seeds(3, 6))
def test_oracle_a_machine_that_stood_still_for_a_minute_does_no_harm(seed: int) -> None:
    """I1 and I2; its parts were taken over meanwhile, and what was on its way to the store arrived a minute late."""
    world = SimWorld(8_000 + seed, ("faithful", "hostile")[seed % 2])
    _, freezer, events = troubled_run(world, "frozen", stages=1 + seed % 3)
    assert freezer.troubled
    placed = [event for event in events if event["event"] == "program_placed"]
    assert len(placed) > 1


@pytest.mark.parametrize("seed", seeds(3, 6))
def test_oracle_a_machine_that_reaches_the_store_alone_does_no_harm(seed: int) -> None:
    """A sequencer that cannot be heard goes on to write bases and records for a while; one that took its place finds
    them, and it is deposed."""
    world = SimWorld(8_100 + seed, ("faithful", "hostile")[seed % 2])
    _, freezer, events = troubled_run(world, "from_broker", stages=1 + seed % 3)
    assert freezer.troubled
    assert len([event for event in events if event["event"] == "program_placed"]) > 1


@pytest.mark.parametrize("seed", seeds(3, 6))
def test_oracle_a_machine_that_reaches_the_broker_alone_does_no_harm(seed: int) -> None:
    """A sequencer that cannot record answers nobody; after a while another one takes its place."""
    world = SimWorld(8_200 + seed, ("faithful", "hostile")[seed % 2])
    _, freezer, _ = troubled_run(world, "from_store", stages=1 + seed % 3)
    assert freezer.troubled


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_oracle_long_troubled_machines_do_no_harm(seed: int) -> None:
    """All of it over many seeds."""
    world = SimWorld(8_300 + seed, ("faithful", "hostile")[seed % 2])
    troubled_run(
        world, "frozen", "from_broker", "from_store", stages=1 + seed % 3, rounds=6, transactions=150
    )
