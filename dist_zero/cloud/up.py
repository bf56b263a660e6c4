"""Bringing a system up on EC2, so that every step may be the last one of this machine.

First comes what costs nothing: objects, roles, a security group. Then the schedulers are launched, with a lease each,
and no more than that: the one of them that leads obtains the machines. Until they are ready, leases are renewed from
here; then the system is handed over, and the scheduler that leads renews them. If this machine dies before that, nobody
renews, and all instances end themselves within one lease; if it dies later, it is not missed.

Each step finds what an earlier `up` has made and goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dist_zero.client.remote import RemoteSystem
from dist_zero.cloud.access import account_of, make_group, make_role
from dist_zero.cloud.described import with_answers
from dist_zero.cloud.source import Source
from dist_zero_common.cloud.aws import Aws, explained
from dist_zero_common.cloud.fleet import (
    MACHINE,
    RENEWALS_PER_LEASE,
    ROLES,
    SCHEDULER,
    Fleet,
    decoded,
    encoded,
    environment_object,
    fleet_object,
    object_key,
    role_name,
)
from dist_zero_common.cloud.instances import Instance, Instances, listed_instances
from dist_zero_common.errors import BrokerError, OperatorError, SettingsError
from dist_zero_common.protocol.messages.requests import SystemStatus

START_SECONDS_MAX = 1_200.0
LOOK_SECONDS, ANSWER_SECONDS = 2.0, 5.0
DEBIAN_OWNER = "136693071363"
"""Debian's own account at Amazon."""
DEBIAN_IMAGES = "debian-13-amd64-*"

NODE_RUNNER = "node-runner"
"""What schedulers call the service that machines are there for."""

Tell = Callable[[str, int, int], None]
"""What is under way, how many of how many are done."""


@dataclass(frozen=True, slots=True)
class Bringing:
    """What `up` brings. `environments`: by role, what services are told; they hold secrets."""

    fleet: Fleet
    environments: Mapping[str, Mapping[str, str]]
    source: Source | None
    broker_url: str


def prepare(aws: Aws, bringing: Bringing, tell: Tell) -> Fleet:
    """All but the instances; returns the fleet with nothing left open."""
    fleet = bringing.fleet
    tell("asking AWS", 0, 1)
    fleet = with_answers(
        fleet, "" if fleet.image else newest_debian(aws), aws.caller(), fleet.security_groups
    )
    account = account_of(aws)
    tell("asking AWS", 1, 1)
    _put_objects(aws, bringing, fleet, tell)
    if not fleet.security_groups:
        fleet = with_answers(fleet, "", "", (make_group(aws, fleet),))
    for role in ROLES:
        if fleet.kind(role).profile == role_name(fleet.system, role):
            make_role(aws, fleet, role, account)
    # A system that is up stays handed over, so that nothing ends if this goes wrong.
    lives = any(each.is_live for each in listed_instances(aws, fleet.system))
    fleet = replace(fleet, handed_over=lives and _is_handed_over(aws, fleet))
    write_fleet(aws, fleet)
    tell("roles and security group", 1, 1)
    return fleet


def write_fleet(aws: Aws, fleet: Fleet) -> None:
    """Tell the schedulers."""
    aws.put_object(fleet.bucket, fleet_object(fleet.store), encoded(fleet))


def hand_over(aws: Aws, fleet: Fleet, instances: Instances) -> None:
    """From now on the scheduler that leads renews the leases; they have all of their time until it knows."""
    instances.renew(instances.live())
    write_fleet(aws, replace(fleet, handed_over=True))


def _is_handed_over(aws: Aws, fleet: Fleet) -> bool:
    there = aws.get_object(fleet.bucket, fleet_object(fleet.store))
    try:
        return there is not None and decoded(there).handed_over
    except SettingsError:
        return False  # it is about to be written anew


def _put_objects(aws: Aws, bringing: Bringing, fleet: Fleet, tell: Tell) -> None:
    tell("objects", 0, 1)
    if bringing.source is not None:
        for name, body in (
            (bringing.source.requirements_name, bringing.source.requirements),
            (bringing.source.name, bringing.source.archive),
        ):
            key = object_key(fleet.store, name)
            if not aws.has_object(fleet.bucket, key):
                aws.put_object(fleet.bucket, key, body)
    for role in ROLES:
        body = json.dumps(bringing.environments[role]).encode()
        aws.put_object(fleet.bucket, environment_object(fleet.store, role), body)
    tell("objects", 1, 1)


def newest_debian(aws: Aws) -> str:
    """The newest official image."""
    filters = [
        {"Name": "name", "Values": [DEBIAN_IMAGES]},
        {"Name": "state", "Values": ["available"]},
    ]
    with explained("look for Debian's images"):
        found = aws.ec2.describe_images(Owners=[DEBIAN_OWNER], Filters=filters)["Images"]  # type: ignore[arg-type]
    if not found:
        raise OperatorError(
            f"there is no image {DEBIAN_IMAGES} of Debian's in {aws.region}: name one with --image or"
            " DIST_ZERO_CLOUD_IMAGE"
        )
    return max(found, key=lambda image: image["CreationDate"])["ImageId"]


class Launching:
    """The schedulers' hosts, and the leases, until somebody else sees to them."""

    def __init__(self, instances: Instances, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._instances, self._monotonic = instances, monotonic
        self._renewed_at = monotonic()

    def look(self) -> list[Instance]:
        """Launch what is missing, renew if it is time; returns what lives."""
        fleet = self._instances.fleet
        live = self._instances.live()
        hosts = frozenset(each.host for each in live)
        for number in range(1, fleet.schedulers + 1):
            host = f"s{number}"
            if host not in hosts:
                live.append(self._instances.launch(host, SCHEDULER))
        now = self._monotonic()
        if now - self._renewed_at >= fleet.lease_seconds / RENEWALS_PER_LEASE:
            self._instances.renew(live)
            self._renewed_at = now
        return live


async def wait_ready(
    launching: Launching, remote: RemoteSystem, fleet: Fleet, tell: Tell, *, asked: bool
) -> None:
    """Return when a scheduler leads and all machines are ready. `asked`: somebody has said how many machines there
    shall be, so a system that is up already is to have as many; otherwise, and where their number follows the load, it
    keeps what it has. Raises `OperatorError` when that takes too long."""
    started = time.monotonic()
    machines, status = fleet.machines, None
    while True:
        live = await asyncio.to_thread(launching.look)
        tell("scheduler hosts", sum(each.role == SCHEDULER for each in live), fleet.schedulers)
        said = await _status(remote)
        if said is not None and status is None:
            machines = await _settled(remote, said, machines, asked)
            tell("scheduler", 1, 1)
        status = said or status
        if status is not None:
            ready = sum(machine.ready for machine in status.machines)
            tell("machines", min(ready, machines), machines)
            if ready >= machines:
                return
        if time.monotonic() - started > START_SECONDS_MAX:
            raise OperatorError(_too_slow(fleet, machines, live, status))
        await asyncio.sleep(LOOK_SECONDS)


async def _settled(remote: RemoteSystem, status: SystemStatus, machines: int, asked: bool) -> int:
    """How many machines there shall be: those that were asked for, of which the scheduler is told, or its own."""
    wanted = next((each.wanted for each in status.services if each.service == NODE_RUNNER), machines)
    if not asked or status.growth or wanted == machines:
        return wanted
    await remote.scale_services({NODE_RUNNER: machines})
    return machines


async def _status(remote: RemoteSystem) -> SystemStatus | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await remote.status()
    except (TimeoutError, BrokerError):
        return None


def _too_slow(fleet: Fleet, wanted: int, live: list[Instance], status: SystemStatus | None) -> str:
    machines = [each.host for each in live if each.role == MACHINE]
    what = (
        "no scheduler has answered"
        if status is None
        else f"{sum(each.ready for each in status.machines)} of {wanted} machines are ready"
    )
    return (
        f"{what} after {START_SECONDS_MAX:.0f} s; instances live for {', '.join(sorted(machines)) or 'no machine'}."
        f" Do they reach the broker and the bucket? `dist-zero status --system {fleet.system}` says how it goes on,"
        f" `dist-zero down --system {fleet.system}` ends it"
    )
