"""Hosts that do not come, fall silent, or come back when they were given up; schedulers' hosts that are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from dist_zero.client.remote import RemoteSystem
from dist_zero.system import SimulatedSystem
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits, ServiceStatus, SystemStatus
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from services.node_runner.sequencer_events import SequencerOptions
from services.scheduler.hosts import HostOptions
from services.scheduler.state import SchedulerOptions
from test.simulated.host_spawner import HostedSystem, HostSpawner
from test.simulated.property_world import PROGRAMS, BusyRun
from test.simulated.seeds import seeds
from test.simulated.test_scaling_simulated import remote
from test.simulated.zombies import Freezer, machines_that_freeze

HOSTS = HostOptions(report_seconds=60.0, lost_seconds=40.0)


async def wait_status(
    there: RemoteSystem, what: Callable[[SystemStatus], bool], seconds: int = 300
) -> SystemStatus:
    """The status when this is so."""
    for _ in range(seconds):
        if what(status := await there.status()):
            return status
        await asyncio.sleep(1.0)
    raise AssertionError(status)


def notes(status: SystemStatus) -> dict[str, str]:
    """What is said of hosts."""
    return {note.host: note.text for note in status.hosts}


def test_a_machine_that_never_comes_up_is_replaced() -> None:
    """It is ended and asked for again, with pauses when that does not help; people are told so, and not any more when
    it is there."""
    world = SimWorld(1, "faithful")

    async def live() -> None:
        async with HostedSystem(world, machines=2, hosts=HOSTS) as system:
            there = remote(system, "remote")
            system.hosts.never.add("m2")
            status = await wait_status(there, lambda status: "m2" in notes(status))
            assert "has not reported yet" in notes(status)["m2"] and not status.hosts[0].wrong
            status = await wait_status(there, lambda status: any(note.wrong for note in status.hosts))
            assert "for the 2nd time in a row, because it had not reported 60 s" in notes(status)["m2"]
            await asyncio.sleep(600.0)
            spawned = [at for at, host in system.hosts.spawned if host == "m2"]
            pauses = [after - before for before, after in pairwise(spawned)]
            assert pauses == sorted(pauses) and pauses[0] < 70.0 and pauses[-1] > 150.0, pauses
            assert [host for _, host in system.hosts.stopped] == ["m2"] * len(system.hosts.stopped)
            system.hosts.never.clear()
            await wait_status(there, lambda status: status.services[0].ready == 2, 600)
            status = await there.status()
            assert status.hosts == ()

    run_simulation(live(), until_seconds=5_000)


def test_what_cannot_be_paid_for_is_said_until_it_can_be() -> None:
    """`scale --service` says it, too, and the scheduler goes on trying; what is there goes on."""
    world = SimWorld(2, "faithful")
    reason = (
        "would cost 1.92 USD per hour, more than max_usd_per_hour 1.50: raise it, or ask for fewer machines"
    )

    async def live() -> None:
        async with (
            HostedSystem(world, machines=1, hosts=HOSTS) as system,
            system.connect(PROGRAMS[1], nodes=2) as client,
        ):
            there = remote(system, "remote")
            system.hosts.refuses["m3"] = reason
            with pytest.raises(OperatorError, match=r"m3 cannot be obtained: would cost 1\.92 USD per hour"):
                await there.scale_services({"node-runner": 3}, wait=True)
            await client.put("sales", {"id": 1, "shop": "s", "amount": 1.0})
            status = await there.status()
            assert [note.host for note in status.hosts if note.wrong] == ["m3"]
            assert status.services[0] == ServiceStatus("node-runner", 3, 2, 0)
            system.hosts.refuses.clear()
            await wait_status(there, lambda status: status.services[0].ready == 3 and not status.hosts)

    run_simulation(live(), until_seconds=2_000)


def test_services_are_scaled_and_the_wish_outlives_the_scheduler() -> None:
    """Hosts of both kinds come and go; whoever leads next wants as many; the number does not follow the load any more;
    and of two wishes the later one counts."""
    world = SimWorld(3, "faithful")

    async def live() -> None:
        async with (
            HostedSystem(world, machines=2, hosts=HOSTS) as system,
            system.connect(PROGRAMS[1], nodes=4) as client,
        ):
            there = remote(system, "remote")
            await client.put("sales", [{"id": n, "shop": "s", "amount": 1.0} for n in range(20)])
            await there.autoscale("stages-1", NodeLimits(4, 4, 0), MachineLimits(2, 5))
            seen: list[tuple[ServiceStatus, ...]] = []
            status = await there.scale_services(
                {"node-runner": 3, "scheduler": 2},
                wait=True,
                on_look=lambda status: seen.append(status.services),
            )
            assert seen[0] != seen[-1] == status.services
            assert status.services == (
                ServiceStatus("node-runner", 3, 3, 0),
                ServiceStatus("scheduler", 2, 2, 0),
            )
            assert status.growth == "" and len(status.standbys) == 1
            await system.hosts.kill("s1")
            status = await wait_status(there, lambda status: status.scheduler > 1)
            assert [service.wanted for service in status.services] == [3, 2]
            await there.scale_services({"node-runner": 1}, wait=True)
            assert sorted(await system.hosts.list()) == ["m1", "s1", "s2"]
            assert await client.get("large", 7) is not None
            for counts, says in (
                ({"node-runner": 0}, "1 to 10000 hosts"),
                ({"bridge": 2}, "no service 'bridge' can be scaled"),
            ):
                with pytest.raises(RequestError, match=says):
                    await there.scale_services(counts)

    run_simulation(live(), until_seconds=3_000)


def test_schedulers_hosts_that_die_are_replaced_whoever_leads() -> None:
    """A standby that says nothing any more is replaced; the host of a leading scheduler that died is, too, by the next
    one, which never touches its own; and a host more is given back, but not the leader's."""
    world = SimWorld(4, "faithful")

    async def live() -> None:
        async with HostedSystem(world, machines=1, hosts=HOSTS) as system:
            there = remote(system, "remote")
            await there.scale_services({"scheduler": 2}, wait=True)
            await system.hosts.kill("s2")
            status = await wait_status(there, lambda status: "s2" in notes(status))
            assert "ended, because it was silent for 4" in notes(status)["s2"]
            await wait_status(there, lambda status: status.services[1].ready == 2)
            await system.hosts.kill("s1")
            await wait_status(there, lambda status: status.scheduler > 1)
            await wait_status(there, lambda status: status.services[1].ready == 2)
            stopped = [host for _, host in system.hosts.stopped]
            assert stopped == ["s2", "s1"]
            await there.scale_services({"scheduler": 1}, wait=True)
            assert await system.hosts.list() == ["m1", "s2"], "the leader's own host went"

    run_simulation(live(), until_seconds=3_000)


def test_a_scheduler_that_obtains_nothing_says_what_to_do() -> None:
    """Where schedulers are somebody else's business, and where no host is to be had."""
    world = SimWorld(5, "faithful")

    async def live() -> None:
        async with HostedSystem(world, machines=1, schedulers=None, hosts=HOSTS) as system:
            with pytest.raises(RequestError, match="schedulers are started by whoever starts the system"):
                await remote(system, "remote").scale_services({"scheduler": 2})
            status = await remote(system, "other").status()
            assert [service.service for service in status.services] == ["node-runner"]

    run_simulation(live(), until_seconds=1_000)


# -- zombies --------------------------------------------------------------------------------------------------------


class Undead(Freezer):
    """Stops one machine until it was replaced, and lets the old one go on beside the new one."""

    def watch_over(self, system: SimulatedSystem) -> None:
        """As `Freezer` does; its spawner cannot end what it was told to."""
        super().watch_over(system)
        self.spawner: HostSpawner | None = None
        self.replaced = ""
        start_scheduler, options_of = system.start_scheduler, system._scheduler_options

        def start(host: str) -> asyncio.Task[None]:
            return system._tasks.create_task(system._run_machine(host), name=host)

        def options(keeps_programs: bool) -> SchedulerOptions:
            of = options_of(keeps_programs)
            return SchedulerOptions(
                machines=of.machines, keeps_programs=of.keeps_programs, growth=of.growth, hosts=HOSTS
            )

        def begin(name: str, *, keeps_programs: bool = True) -> object:
            if self.spawner is None:
                system._spawner = self.spawner = HostSpawner(start)
                self.spawner.immortal |= {f"m{number}" for number in range(1, 10)}
            return start_scheduler(name, keeps_programs=keeps_programs)

        system._scheduler_options = options  # type: ignore[method-assign]
        system.start_scheduler = begin  # type: ignore[method-assign,assignment]

    async def run(self) -> None:
        """Until cancelled."""
        assert self.spawner is not None
        await asyncio.sleep(10.0)
        name = self._of_sequencer() or "m1"
        zombie = self.machines.pop(name)  # the next one of this name is another one
        zombie.frozen = True
        try:
            while name not in [host for _, host in self.spawner.stopped]:
                await asyncio.sleep(1.0)
            await asyncio.sleep(20.0)
            assert name in self.machines, "there is no new machine"
            self.replaced = name
            zombie.go_on()
            await asyncio.sleep(3600.0)
        finally:
            zombie.go_on()


@pytest.mark.parametrize("seed", seeds(3, 9))
def test_oracle_a_replaced_machine_that_comes_back_does_no_harm(seed: int) -> None:
    """Two machines of one name, each with its agent and its runner: what the old one believes is refused. I1 and I2 at
    every epoch, and all that is written is seen in the end."""
    world = SimWorld(8_600 + seed, ("faithful", "hostile")[seed % 2])
    options = SequencerOptions(save_interval_seconds=0.3)
    run = BusyRun(stages=1 + seed % 3, nodes=4, machines=3, transactions=60, options=options)
    run.pauses = (0.0, 5.0, 20.0)
    run.cutter = undead = Undead(world, ("frozen",))
    run.nobody_reads = undead.was_of_the_replaced
    with machines_that_freeze():
        run.run(world).check()
    assert undead.replaced, "the run was over before there was a zombie"
