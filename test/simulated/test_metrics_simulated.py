"""Metrics count what was done: over a whole system, each service its own, through deaths of machines.

What a process has counted is gone with it, so the tests keep each runner that there was, and look at it when it is
dead, as a Prometheus that scraped it in its last moment would have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dist_zero.client.client import Client
from dist_zero.system import SimulatedSystem
from dist_zero_common import metrics
from dist_zero_common.log import captured_events
from dist_zero_common.metrics import METRICS, Histogram, Metric, Readings, Service
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.machine_agent.measured import measure_agent
from services.machine_agent.service import AgentService
from services.measuring import measure_post
from services.node_runner.measured import measure_runner
from services.node_runner.service import RunnerService
from services.scheduler.measured import measure_scheduler
from services.scheduler.service import SchedulerService
from services.scheduler.spawners.base import Spawner
from test.simulated.property_world import PROGRAMS, WitnessWorld
from test.simulated.test_recovery_simulated import end_machine, put_sales
from test.simulated.test_scaling_simulated import remote

APP = PROGRAMS[3]
SOMETIMES = (
    metrics.ROWS_REPLAYED,  # after a start
    metrics.LINK_LAG,  # while a link is behind
    metrics.NODE_MEMORY,  # of native executors
)
OF_PROCESSES = (metrics.INFO, metrics.READINGS_AGE, metrics.LOG_LINES_DROPPED, metrics.QUEUE_MESSAGES)
"""What `services/measuring.py` adds where there is a process: test/unit/test_measuring.py."""


class MeasuredSystem(SimulatedSystem):
    """A system that keeps all services that it ever had."""

    def __init__(self, world: SimWorld, machines: int) -> None:
        super().__init__(world, machines=machines)
        self.agents: list[AgentService] = []
        self.runners: list[RunnerService] = []
        self.schedulers: list[SchedulerService] = []

    def _on_agent(self, agent: AgentService) -> None:
        self.agents.append(agent)

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        self.runners.append(super()._new_runner(machine, runner, incarnation, **others))
        return self.runners[-1]

    def _new_scheduler(self, name: str, spawner: Spawner, *, keeps_programs: bool) -> SchedulerService:
        self.schedulers.append(super()._new_scheduler(name, spawner, keeps_programs=keeps_programs))
        return self.schedulers[-1]

    def of_runners(self, metric: Metric, *labels: str) -> float:
        """What all runners that there ever were have counted."""
        total = 0.0
        for runner in self.runners:
            readings = Readings()
            measure_runner(readings, runner)
            total += sum(
                value
                for found, value in readings.series(metric)
                if found[: len(labels)] == labels and not isinstance(value, Histogram)
            )
        return total

    def of_scheduler(self, metric: Metric) -> float:
        """What the first scheduler has counted."""
        readings = Readings()
        measure_scheduler(readings, self.schedulers[0])
        return readings.total(metric)


def live(
    work: Callable[[MeasuredSystem, Client], Awaitable[None]],
    *,
    world: SimWorld | None = None,
    machines: int = 3,
    nodes: int = 3,
) -> None:
    """Do this in a system with the program on it."""

    async def main() -> None:
        system = MeasuredSystem(world or SimWorld(1, "faithful"), machines)
        async with system, system.connect(APP, nodes=nodes) as client:
            await work(system, client)

    run_simulation(main(), until_seconds=20_000)


def test_the_log_counts_what_metrics_count() -> None:
    """What `base_written` says of records since the base before adds up to what was recorded: a base that covers all is
    written in the end."""
    said = {"epochs": 0, "transactions": 0, "bytes": 0}

    async def work(system: MeasuredSystem, client: Client) -> None:
        for begin in range(0, 60, 20):
            await put_sales(client, begin, begin + 20)
            await asyncio.sleep(20)
        counted = (metrics.EPOCHS, metrics.TRANSACTIONS, metrics.TRANSACTION_BYTES)
        said.update(zip(said, (-int(system.of_runners(metric)) for metric in counted), strict=True))

    with captured_events("info") as events:
        live(work)
    bases = [event for event in events if event["event"] == "base_written"]
    assert len(bases) >= 3 and said["transactions"] <= -60
    for name in said:
        assert said[name] + sum(int(str(base[name])) for base in bases) == 0, name


def place_of_sequencer(system: MeasuredSystem, client: Client) -> str:
    """The machine that has the program's sequencer."""
    consumer = system.broker.queues[client.placement.clients_inbox].consumers[0]
    return consumer.connection.name.split("runner-")[1].split("-r1")[0]


async def kill(system: MeasuredSystem, machine: str) -> None:
    """A machine is gone at once, and what it held at the broker with it."""
    for runner in system.runners:
        queue = system.broker.queues.get(runner.inbox)
        if runner.inbox.split(".")[3] == f"{machine}-r1" and queue is not None:
            for consumer in list(queue.consumers):
                consumer.connection.drop_connection()
    await end_machine(system, machine)


def test_each_service_exports_what_is_declared_for_it() -> None:
    """In a system that works, each metric is there that is declared for a service, and none that is not."""

    async def work(system: MeasuredSystem, client: Client) -> None:
        await put_sales(client, 0, 30)
        await client.rows(APP.graph().views[0].name)
        await client.flush()
        await asyncio.sleep(3)
        readings = {service: Readings() for service in Service}
        measure_scheduler(readings[Service.SCHEDULER], system.schedulers[0])
        for agent in system.agents:
            measure_agent(readings[Service.AGENT], agent)
        for runner in system.runners:
            measure_runner(readings[Service.RUNNER], runner)
        posts = {
            Service.SCHEDULER: system.schedulers[0].post,
            Service.AGENT: system.agents[0].post,
            Service.RUNNER: system.runners[0].post,
        }
        for service, post in posts.items():
            measure_post(readings[service], post, service.value)
            found = {metric.name for metric in readings[service].metrics()}
            declared = {metric.name for metric in METRICS.values() if service in metric.services}
            assert found <= declared
            assert declared - found <= {each.name for each in (*SOMETIMES, *OF_PROCESSES)}

    live(work)


def test_what_was_written_is_counted() -> None:
    """Rows put are rows counted, transactions are transactions, and each epoch has its duration; what nodes have put
    into views is what the log makes of it; when all is quiet nothing lags, waits or is unsaved."""

    async def work(system: MeasuredSystem, client: Client) -> None:
        await put_sales(client, 0, 40)
        await client.put("sales", [{"id": n, "shop": "s", "amount": 2.0} for n in range(100, 160)])
        await client.delete("sales", 100)
        await client.flush()
        await asyncio.sleep(5)
        assert system.of_runners(metrics.ROWS_IN, APP.name, "sales") == 40 + 60 + 1
        assert system.of_runners(metrics.ROWS_IN) == 101
        assert system.of_runners(metrics.ROWS_REPLAYED) == 0
        assert system.of_runners(metrics.TRANSACTIONS) == 42
        epoch = system.of_runners(metrics.EPOCH)
        assert system.of_runners(metrics.EPOCHS) == epoch == system.of_runners(metrics.FINISHED_EPOCH)
        assert system.of_runners(metrics.NODE_FINISHED) == 3 * epoch
        assert system.of_runners(metrics.BASE_EPOCH) == epoch
        for quiet in (
            metrics.LAG,
            metrics.NODE_LAG,
            metrics.LINK_LAG,
            metrics.BASE_AGE,
            metrics.CHECKPOINT_AGE,
            metrics.WAITING_BYTES,
            metrics.SEQUENCER_HALTED,
            metrics.NODE_HALTED,
        ):
            assert system.of_runners(quiet) == 0, quiet.name
        assert system.of_runners(metrics.NODES_BEGUN, APP.name, "loaded") == 3
        (counts,) = [each.counts[APP.name] for each in system.runners if each.counts[APP.name].epochs]
        assert counts.epoch_seconds.count == counts.commit_seconds.count == epoch
        assert counts.epoch_seconds.sum >= counts.commit_seconds.sum > 0
        assert system.of_scheduler(metrics.LEADER) == 1
        assert (
            system.of_scheduler(metrics.MACHINES_READY) == system.of_scheduler(metrics.MACHINES_WANTED) == 3
        )
        assert system.of_scheduler(metrics.PROGRAM_STATE) == 1

    live(work, world=SimWorld(1, "hostile"))


def test_rows_are_counted_once_when_a_node_dies() -> None:
    """A machine without the sequencer dies in the middle: what was written is counted as if nothing had been, because
    the sequencer counts it; the nodes that come in its place count what they compute again; and the scheduler counts
    the part that it has placed again."""

    async def work(system: MeasuredSystem, client: Client) -> None:
        await put_sales(client, 0, 30)
        await client.flush()
        home = place_of_sequencer(system, client)
        homes = [inbox.split(".")[3].removesuffix("-r1") for inbox in client.placement.inboxes]
        victim = next(machine for machine in homes if machine != home)
        await kill(system, victim)
        await put_sales(client, 30, 30)
        await client.flush()
        assert system.of_runners(metrics.ROWS_IN) == 60
        assert system.of_runners(metrics.ROWS_REPLAYED) == 0
        assert system.of_runners(metrics.NODES_BEGUN) == 3 + homes.count(victim)
        assert system.of_scheduler(metrics.RECOVERIES) == homes.count(victim)
        assert system.of_scheduler(metrics.MOVES) == system.of_scheduler(metrics.REWINDS) == 0

    live(work)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_sequencer_that_dies_loses_no_count_but_what_it_had_no_time_to_count(quiet: bool) -> None:
    """The one with the sequencer dies. Where it had counted all that it had recorded, the sum over both is what was
    written. Where it had not, what is missing was handed out by nobody yet, and its successor counts it as replayed:
    so what was written lies between the rows that were counted and those with what was replayed."""

    async def work(system: MeasuredSystem, client: Client) -> None:
        await put_sales(client, 0, 30)
        if quiet:
            await client.flush()
            await asyncio.sleep(3)
        writing = asyncio.create_task(put_sales(client, 30, 0 if quiet else 30))
        if not quiet:
            await asyncio.sleep(0.02)
        await kill(system, place_of_sequencer(system, client))
        await writing
        await put_sales(client, 60, 30)
        await client.flush()
        counted, replayed = (system.of_runners(each) for each in (metrics.ROWS_IN, metrics.ROWS_REPLAYED))
        written = 60 if quiet else 90
        if quiet:
            assert counted == written and replayed == 0
        assert counted <= written <= counted + replayed
        assert system.of_runners(metrics.TRANSACTIONS) <= written

    live(work)


def test_nodes_that_are_divided_and_joined_and_moved_are_counted() -> None:
    """From 2 nodes to 4 is two divisions, to 1 three joins; a machine that is drained gives its parts away."""

    async def work(system: MeasuredSystem, client: Client) -> None:
        await put_sales(client, 0, 10)
        await remote(system, "one").scale(APP.name, 4)
        assert system.of_scheduler(metrics.SPLITS) == 2
        await remote(system, "two").scale(APP.name, 1)
        assert system.of_scheduler(metrics.MERGES) == 3
        status = await remote(system, "three").status()
        (program,) = status.programs
        assert (program.splits, program.merges, program.recoveries) == (2, 3, 0)
        before = system.of_scheduler(metrics.MOVES)
        await remote(system, "four").drain(program.nodes[0].machine, wait=True)
        assert system.of_scheduler(metrics.MOVES) > before
        assert system.of_scheduler(metrics.RECOVERIES) == 0

    live(work, nodes=2)


def test_who_looks_changes_nothing() -> None:
    """A system that is measured all the time has the very history of one that never is."""

    def history(looks: bool) -> str:
        world = WitnessWorld(7, "hostile")

        async def work(system: MeasuredSystem, client: Client) -> None:
            for number in range(5):
                await put_sales(client, 20 * number, 20)
                for runner in system.runners if looks else ():
                    measure_runner(Readings(), runner)
                for scheduler in system.schedulers if looks else ():
                    measure_scheduler(Readings(), scheduler)
            await client.flush()

        live(work, world=world)
        return world.history.digest()

    assert history(True) == history(False)
