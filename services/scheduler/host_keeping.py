"""The leading scheduler's hands on its spawner: obtains hosts, gives them back, replaces those that fail.

Which hosts there shall be, `reconcile.py` says, and when what is done about them, `hosts.py`. The spawner may take its
time for each call, so whether this scheduler still leads is looked at before each.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dist_zero_common.broker.base import ConnectionState
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages.requests import HostNote, ServiceStatus
from services.scheduler.hosts import Hosts, ReplaceHost, ReturnHost, SpawnHost
from services.scheduler.reconcile import reconcile_machines, wanted_hosts
from services.scheduler.scaling import SERVICES, is_empty
from services.scheduler.spawners.base import Role, Spawner, role_of
from services.scheduler.state import ready_machines

if TYPE_CHECKING:
    from services.scheduler.leader import Leader

LOOK_SECONDS_MIN, LOOK_SECONDS_MAX = 1.0, 60.0
"""How often the spawner is asked what there is; more and more seldom while it does not answer."""


class HostKeeping:
    """The hosts of one leading scheduler."""

    def __init__(self, leader: Leader, spawner: Spawner) -> None:
        self._leader, self._spawner = leader, spawner
        self._options = leader.desired.options
        self._hosts = Hosts(self._options.hosts)
        self._spawned: tuple[str, ...] = ()

    async def run(self) -> None:
        """Until cancelled."""
        pause = LOOK_SECONDS_MIN
        while True:
            try:
                spawned = await self._spawner.list()
            except OperatorError as failed:
                self._leader.log.error("spawner_failed", reason=str(failed))
                self._hosts.unlisted(str(failed), self._now() + pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LOOK_SECONDS_MAX)
                continue
            pause = LOOK_SECONDS_MIN
            self._hosts.unlisted("", 0.0)
            self._spawned = tuple(spawned)
            await self._keep()
            await asyncio.sleep(pause)

    def notes(self) -> tuple[HostNote, ...]:
        """What is to be said of single hosts."""
        self._look(self._now())
        return tuple(
            note for note in self._hosts.notes(self._now()) if not note.host or self._keeps(note.host)
        )

    def services(self, ready_schedulers: int) -> tuple[ServiceStatus, ...]:
        """How many hosts there are, and shall be, by service. `ready_schedulers`: how many were heard of lately, on
        whichever hosts."""
        desired = self._leader.desired
        wanted = wanted_hosts(desired, self._spawned)
        machines = ready_machines(desired, self._leader.observed, self._now())
        heard = {Role.MACHINE: machines, Role.SCHEDULER: self._schedulers_heard()}
        told = []
        for service, role in SERVICES.items():
            if role in self._options.unobtainable or (role is Role.SCHEDULER and desired.schedulers is None):
                continue
            there = [host for host in wanted if role_of(host) is role]
            beyond = [host for host in self._spawned if role_of(host) is role and host not in there]
            ready = sum(host in heard[role] for host in there)
            if role is Role.SCHEDULER and not self._options.host:
                ready = min(ready_schedulers, len(there))
            told.append(ServiceStatus(service, len(there), ready, len(beyond)))
        return tuple(told)

    async def _keep(self) -> None:
        """Do what is due."""
        leader, now = self._leader, self._now()
        wanted = self._look(now)
        outstanding = reconcile_machines(leader.desired, self._spawned)
        hears = leader.post.state is ConnectionState.CONNECTED
        kept = [host for host in wanted if host != self._options.host] if hears else []
        for action in self._hosts.due(outstanding, kept, now):
            if not leader.surely_leads():
                return
            try:
                if await self._do(action):
                    self._hosts.done(action, self._now())
            except OperatorError as failed:
                leader.log.error("spawner_failed", host=action.host, reason=str(failed))
                self._hosts.refused(action, str(failed), self._now())

    def _look(self, now: float) -> list[str]:
        """Take in what is known of hosts; returns those that there shall be."""
        leader = self._leader
        wanted = [host for host in wanted_hosts(leader.desired, self._spawned) if self._keeps(host)]
        self._hosts.look(
            [host for host in self._spawned if self._keeps(host)],
            wanted,
            self._heard(now),
            leader.observed.listening_since,
            now,
        )
        return wanted

    async def _do(self, action: SpawnHost | ReturnHost | ReplaceHost) -> bool:
        """Whether it was the time for it, and is done."""
        leader, host = self._leader, action.host
        match action:
            case SpawnHost():
                leader.log.info("machine_wanted", machine=host)
                await self._spawner.spawn(host)
            case ReturnHost():
                if not is_empty(host, leader.desired, leader.observed, self._now()):
                    return False
                leader.log.info("machine_returned", machine=host)
                await self._spawner.stop(host)
                leader.forget_machine(host)
            case ReplaceHost(reason=reason):
                leader.log.warning("host_replaced", host=host, reason=reason)
                leader.counters["hosts_replaced"] += 1
                await self._spawner.stop(host)
        return True

    def _keeps(self, host: str) -> bool:
        """Whether this scheduler sees to it that the host is there."""
        role = role_of(host)
        managed = role is Role.MACHINE or self._leader.desired.schedulers is not None
        return role is not None and managed and role not in self._options.unobtainable

    def _heard(self, now: float) -> dict[str, float]:
        """When each host was last heard of."""
        heard = {name: seen.at for name, seen in self._leader.observed.machines.items()}
        heard |= self._leader.standby_hosts
        return heard | {self._options.host: now}

    def _schedulers_heard(self) -> list[str]:
        """The hosts of schedulers that were heard of lately, this one's among them."""
        return [*self._leader.standbys_now().values(), self._options.host]

    def _now(self) -> float:
        return self._leader.clock.monotonic()
