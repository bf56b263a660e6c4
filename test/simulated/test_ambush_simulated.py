"""Who fell into an ambush sleeps until others have done what he waits for, and nothing else wakes him."""

from __future__ import annotations

import asyncio
import random

import pytest

from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.sim.injector import Injector, Processes
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.plan import Fault
from dist_zero_common.sim.processes import Process, SkewedClock
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import record_name

MINE, OTHER = record_name("p", 5), record_name("p", 6)


@pytest.mark.parametrize(
    ("variant", "wakes"),
    [
        ("before log", [("written", MINE), ("written", OTHER)]),
        ("before log collected", [("deleted", MINE)]),
    ],
)
def test_a_sleeper_wakes_by_what_he_waits_for(variant: str, wakes: list[tuple[str, str]]) -> None:
    """Others write a record; or, of the longer kind, collect the very one that he was to write."""
    every = [(how, name) for how in ("written", "deleted") for name in (MINE, OTHER)]

    async def wakes_by(how: str, name: str) -> bool:
        world = SimWorld(1, "faithful")
        injector = Injector(world, MemoryBroker(world), Processes(), SkewedClock(world.clock))
        victim, other = (Process("runner", each, "m1", random.Random(1)) for each in ("r1", "r2"))
        fault = Fault("ambush", 0.0, "sequencer", 0, variant, duration_seconds=50.0, amount=0.1)
        sleeping = asyncio.create_task(injector._sleep(fault, "log", victim, MINE))
        await asyncio.sleep(1.0)
        getattr(injector, how)(victim, name)  # his own doing is nothing
        getattr(injector, how)(other, name)
        await asyncio.sleep(1.0)
        awake = sleeping.done()
        await sleeping
        return awake

    assert [each for each in every if run_simulation(wakes_by(*each), until_seconds=1_000)] == wakes
