"""Parts that are alive, report each second, and do not get on: they begin again elsewhere, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero_common.log import captured_events
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import ShardFinished
from services.node_runner.service import RunnerService
from test.simulated.property_world import BusyRun
from test.simulated.test_recovery_simulated import APP, check_views, put_sales


class OpenSystem(SimulatedSystem):
    """A system whose runners a test can get hold of."""

    def __init__(self, world: SimWorld, **options: Any) -> None:
        super().__init__(world, **options)
        self.runners: dict[str, RunnerService] = {}

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        self.runners[machine] = super()._new_runner(machine, runner, incarnation, **others)
        return self.runners[machine]

    def machine_of(self, inbox: str) -> str:
        """The machine whose runner reads an inbox."""
        return str(self.broker.queues[inbox].consumers[0].connection.name.split("-")[1])


def wedge_node(system: OpenSystem, client: Client) -> None:
    """One node ignores all that it is sent."""
    machine = system.machine_of(client.placement.inboxes[1])
    kernel = system.runners[machine]._programs[APP.name].nodes[1].kernel
    assert kernel is not None
    kernel.handle = lambda event: []  # type: ignore[method-assign]


def deafen_sequencer(system: OpenSystem, client: Client) -> None:
    """The sequencer does not hear what nodes have finished."""
    machine = system.machine_of(client.placement.nodes_inbox)
    sequencer = system.runners[machine]._sequencers[APP.name]
    handle = sequencer._handle
    sequencer._handle = lambda event: (  # type: ignore[method-assign]
        None if isinstance(event, ShardFinished) else handle(event)
    )


def lose_record(system: OpenSystem, client: Client) -> None:
    """The store never answers the sequencer any more."""
    machine = system.machine_of(client.placement.nodes_inbox)
    log = system.runners[machine]._sequencers[APP.name]._log_of_epochs

    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    log.append = never  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("wedge", [wedge_node, deafen_sequencer, lose_record])
def test_oracle_who_does_not_get_on_begins_again_elsewhere(wedge: Callable[..., None]) -> None:
    """Writes that were sent are committed, views are right, the generation stays; what was not at fault stays, too."""
    world, objects = SimWorld(60, "faithful"), MemoryObjects(remembers=True)
    system = OpenSystem(world, machines=3, store=MemoryStore(objects, world))

    async def live() -> None:
        async with system, system.connect(APP, nodes=3) as client:
            await put_sales(client, 0, 20)
            await client.flush()
            before = client.placement
            wedge(system, client)
            with captured_events() as events:
                started = world.clock.monotonic()
                await put_sales(client, 20, 20)
                await client.flush()
                took = world.clock.monotonic() - started
                await check_views(system, client)
            begun = [event["node"] for event in events if event["event"] == "node_begun"]
            assert begun == (["n2"] if wedge is wedge_node else [])
            assert 55 < took < 130
            async with system.connect(APP.name) as later:
                after = later.placement
            assert after.generation == before.generation
            assert (after.nodes_inbox != before.nodes_inbox) == (wedge is not wedge_node)
            moved = [shard for shard in range(3) if after.inboxes[shard] != before.inboxes[shard]]
            assert moved == ([1] if wedge is wedge_node else [])

    run_simulation(live(), until_seconds=20_000)


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_network_that_loses_much_holds_up_nobody(seed: int) -> None:
    """Half a second for each message, each twentieth is lost: epochs take many seconds, and no part begins twice."""
    world = SimWorld(70 + seed, Weather("slow", transit=Delay(0.5), loss=0.05))
    run = BusyRun(stages=3, nodes=3, machines=2, transactions=30)
    run.pauses = (0.0, 5.0, 20.0)
    with captured_events() as events:
        run.run(world).check()
    begun = [str(event["node"]) for event in events if event["event"] == "node_begun"]
    assert sorted(begun) == ["n1", "n2", "n3"]
