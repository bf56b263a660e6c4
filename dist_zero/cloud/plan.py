"""What `dist-zero up --mode cloud` would make, as a table that a person can check before it costs anything. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero_common.cloud import prices
from dist_zero_common.cloud.fleet import (
    MACHINE,
    SCHEDULER,
    Fleet,
    bucket_and_prefix,
    environment_object,
    fleet_object,
    group_name,
    object_key,
    role_name,
)
from dist_zero_common.cloud.instances import usd_per_hour

DISK_USD_PER_GIGABYTE_MONTH, ADDRESS_USD_PER_HOUR, HOURS_PER_MONTH = 0.08, 0.005, 730


@dataclass(frozen=True, slots=True)
class PlannedInstance:
    """One instance. `price` is USD per hour, None if it is not known."""

    host: str
    role: str
    type: str
    price: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. `made`: what else is created, a line each; `total` in USD per hour; `unknown`: types without a"
    " price."""

    fleet: Fleet
    instances: tuple[PlannedInstance, ...]
    made: tuple[str, ...]
    total: float
    unknown: tuple[str, ...]


def plan_of(fleet: Fleet, *, makes_group: bool, makes_roles: bool) -> Plan:
    """What would be made."""
    price = dict(fleet.prices)
    hosts = [(f"s{number}", SCHEDULER) for number in range(1, fleet.schedulers + 1)]
    hosts += [(f"m{number}", MACHINE) for number in range(1, fleet.machines + 1)]
    instances = tuple(
        PlannedInstance(host, role, fleet.kind(role).types[0], price.get(fleet.kind(role).types[0]))
        for host, role in hosts
    )
    bucket, _ = bucket_and_prefix(fleet.store)
    made = []
    if makes_group:
        made.append(f"security group {group_name(fleet.system)}: nobody may connect to the instances")
    if makes_roles:
        for role, may in (
            (SCHEDULER, "the store; starts and ends instances of this system alone"),
            (MACHINE, "the store, but nothing that is about instances"),
        ):
            made.append(f"role and instance profile {role_name(fleet.system, role)}: {may}")
    objects = [
        fleet_object(fleet.store),
        *(environment_object(fleet.store, role) for role in (SCHEDULER, MACHINE)),
    ]
    objects += [object_key(fleet.store, name) for name in (fleet.source, fleet.requirements) if name]
    made += [f"object s3://{bucket}/{key}" for key in objects]
    return Plan(
        fleet,
        instances,
        tuple(made),
        usd_per_hour(fleet, [each.type for each in instances]),
        tuple(sorted(frozenset(each.type for each in instances if each.price is None))),
    )


def lines_of(plan: Plan) -> list[str]:
    """The plan for people, below the table of instances."""
    fleet = plan.fleet
    kind = "spot, at most the on-demand price" if fleet.spot else "on demand"
    lease = shown_seconds(fleet.lease_seconds)
    limit = (
        f"{fleet.max_usd_per_hour:g} USD per hour" if fleet.max_usd_per_hour else "no limit of USD per hour"
    )
    lines = [
        f"image           {fleet.image or 'the newest official Debian 13, found when it is done'}"
        + (f", and DistZero from {fleet.source}" if fleet.source else ", which has DistZero in it"),
        f"region          {fleet.region}",
        f"subnet          {', '.join(fleet.subnets) or 'of the default network'}",
        f"security group  {', '.join(fleet.security_groups) or f'{group_name(fleet.system)} (made)'}",
        f"profiles        scheduler {fleet.scheduler.profile}, machine {fleet.machine.profile}",
        f"store           {fleet.store}",
        f"owner           {fleet.owner or 'who the credentials belong to'}",
        f"other types     machine {', '.join(fleet.machine.types[1:]) or 'none'};"
        f" scheduler {', '.join(fleet.scheduler.types[1:]) or 'none'}, where there is no room for the first",
        f"limits          {fleet.max_machines} machines, {limit}",
        f"lease           {lease}: an instance that nobody renews ends itself then",
        "",
        f"total           {plan.total:.4f} USD per hour ({kind}; {_authority(fleet)})",
        f"                and for each instance a disk of {fleet.disk_gigabytes} GB"
        f" ({fleet.disk_gigabytes * DISK_USD_PER_GIGABYTE_MONTH / HOURS_PER_MONTH:.4f} USD per hour) and, where the"
        f" subnet gives one, an address ({ADDRESS_USD_PER_HOUR:g} USD per hour);",
        "                not in it: the store, its requests, traffic, the broker",
        f"at most lost    {plan.total * fleet.lease_seconds / 3600:.4f} USD: a lease of all, if this machine dies"
        " before a scheduler renews it, or all schedulers die",
    ]
    if plan.unknown:
        lines.append(
            f"not known       the price of {', '.join(plan.unknown)}, which is not in the total: --prices FILE adds it"
        )
    lines += ["", "made as well, and removed by `dist-zero down` (the store stays):"]
    return [*lines, *(f"  {each}" for each in plan.made)]


def _authority(fleet: Fleet) -> str:
    elsewhere = "" if fleet.region == prices.REGION else f", which is not {fleet.region}"
    return f"prices of {prices.REGION}{elsewhere} as of {prices.AS_OF}, unless --prices says otherwise"


def shown_seconds(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} minutes" if seconds < 7200 else f"{seconds / 3600:g} hours"
