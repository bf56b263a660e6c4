"""Connections that are lost at random moments, of every part of a system: nothing is lost, nothing is doubled."""

from __future__ import annotations

import pytest

from dist_zero_common.sim.world import SimWorld
from test.simulated.property_world import BusyRun, Cutter


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
