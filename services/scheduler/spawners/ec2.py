"""Hosts that are instances of EC2: what they are to be, `dist-zero up --mode cloud` has written into the bucket.

Whoever asks for the list is the scheduler that leads, and so it is here that leases go on: every instance of the system
that lives is told a new end of its lease, long before the old one. When no scheduler leads any more nobody asks, and
the instances end themselves. Until `up` has seen the system run, and handed it over, its leases are `up`'s to renew:
if that dies, a system that nobody knows of does not go on.

All that EC2 and the bucket are asked is asked in a thread, one thing after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from dist_zero_common.clock import Clock
from dist_zero_common.cloud.aws import Aws
from dist_zero_common.cloud.fleet import RENEWALS_PER_LEASE, Fleet, bucket_and_prefix, decoded, fleet_object
from dist_zero_common.cloud.instances import Instance, Instances
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import Logger
from services.scheduler.spawners.base import role_of

R = TypeVar("R")

LOOK_SECONDS = 5.0
"""What was listed is believed for so long, and at most for an eighth of the lease."""
FLEET_SECONDS = 15.0
"""After so long it is looked whether another `up` has described the instances otherwise."""


class EC2Spawner:
    """See `Spawner`."""

    def __init__(self, aws: Aws, store: str, clock: Clock, log: Logger) -> None:
        """Nothing is asked yet. `store`: s3://bucket/prefix, with the description of the fleet in it."""
        self._aws, self._store, self._clock, self._log = aws, store, clock, log
        self._one_at_a_time = asyncio.Lock()
        self._instances: Instances | None = None
        self._live: list[Instance] = []
        self._looked_at = self._described_at = self._renewed_at = float("-inf")

    async def spawn(self, host: str) -> None:
        role = role_of(host)
        if role is None:
            raise OperatorError(
                f"{host} is no host that can be obtained: those are m1, m2 ... and s1, s2 ..."
            )
        instances = await self._described()
        instance = await self._do(lambda: instances.launch(host, role.value))
        self._looked_at = float("-inf")
        self._log.info(
            "instance_launched",
            host=host,
            instance=instance.id,
            type=instance.type,
            generation=instance.generation,
        )

    async def stop(self, host: str) -> None:
        instances = await self._described()
        await self._do(lambda: instances.stop(host))
        self._looked_at = float("-inf")
        self._log.info("instance_ended", host=host)

    async def list(self) -> list[str]:
        instances = await self._described()
        now, lease = self._clock.monotonic(), instances.fleet.lease_seconds
        if now - self._looked_at >= min(LOOK_SECONDS, lease / 8):
            before = frozenset(each.id for each in self._live)
            self._live = await self._do(instances.live)
            self._looked_at = now
            gone = before.difference(each.id for each in self._live)
            if gone:
                self._log.warning("instances_gone", instances=sorted(gone))
        due = now - self._renewed_at >= lease / RENEWALS_PER_LEASE or self._is_short(now, lease)
        if due and instances.fleet.handed_over:
            live = self._live
            await self._do(lambda: instances.renew(live))
            self._renewed_at = now
        return sorted(frozenset(each.host for each in self._live))

    def _is_short(self, now: float, lease: float) -> bool:
        """Whether a lease needs to be renewed at once. Before the next look the last renewal does not show."""
        wall = now if self._looked_at <= self._renewed_at else self._clock.now_us() / 1e6
        return self._looked_at > self._renewed_at and any(
            each.lease_until - wall < lease / 2 for each in self._live
        )

    async def _described(self) -> Instances:
        """The instances as they are described by now."""
        now = self._clock.monotonic()
        patience = FLEET_SECONDS
        if self._instances is not None and not self._instances.fleet.handed_over:
            patience = min(LOOK_SECONDS, self._instances.fleet.lease_seconds / 8)
        if self._instances is None or now - self._described_at >= patience:
            try:
                fleet = await self._do(self._read_fleet)
            except OperatorError as failed:
                if self._instances is None:
                    raise
                # Leases have to go on while the bucket is away: what it said last holds until it says something else.
                self._log.warning("fleet_unread", reason=str(failed))
                fleet = self._instances.fleet
            self._described_at = now
            if self._instances is None:
                self._instances = Instances(self._aws, fleet)
            elif self._instances.fleet != fleet:
                self._log.info("fleet_changed", image=fleet.image, handed_over=fleet.handed_over)
                self._instances.fleet = fleet
        return self._instances

    def _read_fleet(self) -> Fleet:
        bucket, key = bucket_and_prefix(self._store)[0], fleet_object(self._store)
        found = self._aws.get_object(bucket, key)
        if found is None:
            raise OperatorError(
                f"s3://{bucket}/{key} is not there, which says what instances are to be: `dist-zero up --mode cloud`"
                " writes it"
            )
        return decoded(found)

    async def _do(self, call: Callable[[], R]) -> R:
        async with self._one_at_a_time:
            return await asyncio.to_thread(call)
