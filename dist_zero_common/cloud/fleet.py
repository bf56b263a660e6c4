"""What the instances of a system are to be, written down once. Pure.

`dist-zero up --mode cloud` decides it and puts it into the system's bucket; every scheduler of the system reads it
there, and so obtains the same instances as `up` did. Nothing in it is secret. What is, the broker's address first of
all, is in objects of its own beside it (`environment_object`), which only the instances' roles can read.

**Names.** An instance carries its system, its host's name, its role and its lease as tags. Two live instances of one
host are one too many, and the younger one goes. An instance that is the n-th of its host carries the generation n; the
token of a launch (`client_token`) is made of it, so that a launch that is asked for twice is one instance, and so that
the successor of an instance that has ended is never taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dist_zero_common.errors import SettingsError
from dist_zero_common.ids import checked_name

SYSTEM_TAG = "dist-zero:system"
HOST_TAG = "dist-zero:host"
ROLE_TAG = "dist-zero:role"
OWNER_TAG = "dist-zero:owner"
LEASE_TAG = "dist-zero:lease-until"
STARTED_BY_TAG = "dist-zero:started-by"
GENERATION_TAG = "dist-zero:generation"
"""Keys may have no slash and no space, or they could not be read inside the instance."""

MACHINE, SCHEDULER = "machine", "scheduler"
ROLES = (SCHEDULER, MACHINE)

DIRECTORY = "cloud"
"""Of the store: what is about the instances and not about programs."""
SYSTEM_LENGTH_MAX = 40
"""Names of roles have 64 characters at most."""
LEASE_SECONDS_MIN, LEASE_SECONDS_MAX = 5, 86_400
RENEWALS_PER_LEASE = 4
IAM_PATH = "/dist-zero/"

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What instances of one role are: the types to try, in this order, and the instance profile they have."""

    types: tuple[str, ...]
    profile: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The instances of a system. `store` is s3://bucket/prefix, `image` an AMI's id; without `subnets` it is the
    default network of the region. `prices` are those of the types, in USD per hour. `source` and `requirements` name
    objects of the store that a host installs DistZero from if its image does not have it, or are empty. `endpoint` and
    `s3_endpoint` are empty for Amazon's own. Before it is `handed_over`, whoever typed `up` renews the leases, and
    afterwards the scheduler that leads. `max_usd_per_hour` is 0 for no limit."""

    system: str
    region: str
    store: str
    image: str
    machine: Kind
    scheduler: Kind
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    spot: bool
    owner: str
    started_by: str
    lease_seconds: int
    machines: int
    schedulers: int
    max_machines: int
    max_usd_per_hour: float
    prices: tuple[tuple[str, float], ...]
    disk_gigabytes: int
    source: str = ""
    requirements: str = ""
    endpoint: str = ""
    s3_endpoint: str = ""
    handed_over: bool = False

    def kind(self, role: str) -> Kind:
        """What instances of this role are."""
        return self.machine if role == MACHINE else self.scheduler

    @property
    def bucket(self) -> str:
        """The bucket of the store."""
        return bucket_and_prefix(self.store)[0]


def checked_fleet(fleet: Fleet) -> Fleet:
    """The fleet itself if it can be; raises `SettingsError` saying what cannot."""
    checked_system(fleet.system)
    bucket_and_prefix(fleet.store)
    lease_low, lease_high = LEASE_SECONDS_MIN, LEASE_SECONDS_MAX
    for wrong, says in (
        (
            not lease_low <= fleet.lease_seconds <= lease_high,
            f"the lease has {lease_low} to {lease_high} seconds",
        ),
        (
            not fleet.machine.types or not fleet.scheduler.types,
            "at least one instance type is needed for each role",
        ),
        (fleet.schedulers < 1, "at least one scheduler is needed"),
        (
            fleet.machines > fleet.max_machines,
            f"{fleet.machines} machines are more than max-machines {fleet.max_machines}: raise that, or ask for fewer",
        ),
    ):
        if wrong:
            raise SettingsError(says)
    for role in ROLES:
        for kind in fleet.kind(role).types:
            if family(kind) in XEN_FAMILIES:
                raise SettingsError(
                    f"instance type {kind}: its family is too old for leases: what is tagged later cannot be read"
                    " inside. Use one of the current families, such as t3 or m6i"
                )
    return fleet


def checked_system(system: str) -> str:
    """The name itself, if a system in the cloud may have it. Raises `SettingsError`."""
    if len(checked_name("system", system)) > SYSTEM_LENGTH_MAX:
        raise SettingsError(
            f"system {system!r}: in the cloud its name has {SYSTEM_LENGTH_MAX} characters at most, because names of"
            " roles are made of it"
        )
    return system


_XEN = "c1 c3 c4 cc2 cg1 cr1 d2 f1 g2 g3 g3s h1 hi1 hs1 i2 i3 m1 m2 m3 m4 p2 p3 r3 r4 t1 t2 x1 x1e"
XEN_FAMILIES = frozenset(_XEN.split())
"""Instance families on the old hypervisor."""


def family(instance_type: str) -> str:
    """The family of an instance type: t3 of t3.small."""
    return instance_type.partition(".")[0]


def bucket_and_prefix(store: str) -> tuple[str, str]:
    """The parts of s3://bucket/prefix. Raises `SettingsError` for anything else."""
    scheme, _, rest = store.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise SettingsError(
            f"{store or 'no store'!r}: in the cloud the store is a bucket, which all instances reach: name it with"
            " --store s3://bucket/prefix or DIST_ZERO_STORE"
        )
    return bucket, prefix.strip("/")


def object_key(store: str, *names: str) -> str:
    """The key of an object about instances, in the store's bucket."""
    return "/".join(part for part in (bucket_and_prefix(store)[1], DIRECTORY, *names) if part)


def fleet_object(store: str) -> str:
    """The key of the fleet."""
    return object_key(store, "fleet.json")


def environment_object(store: str, role: str) -> str:
    """The key of what services on hosts of this role are told, secrets among it: a JSON object of texts."""
    return object_key(store, role, "environment.json")


def role_name(system: str, role: str) -> str:
    """What the IAM role and the instance profile of these hosts are called, where we make them."""
    return f"dist-zero-{system}-{role}"


def group_name(system: str) -> str:
    """What the security group is called, where we make it."""
    return f"dist-zero-{system}"


def instance_tags(fleet: Fleet, host: str, role: str, generation: int, lease_until: int) -> dict[str, str]:
    """What an instance is marked with when it is launched. `lease_until`: seconds since 1970."""
    return {
        "Name": f"dist-zero {fleet.system} {host}",
        SYSTEM_TAG: fleet.system,
        HOST_TAG: host,
        ROLE_TAG: role,
        OWNER_TAG: fleet.owner,
        LEASE_TAG: str(lease_until),
        STARTED_BY_TAG: fleet.started_by,
        GENERATION_TAG: str(generation),
    }


def client_token(fleet: Fleet, host: str, generation: int, instance_type: str, subnet: str) -> str:
    """The token of a launch: the same for the same launch, whoever asks for it, and another one for each next one of
    the host. Type and subnet are part of it because another one is tried where there is no room, under the same
    name."""
    said = "\n".join((fleet.system, fleet.store, host, str(generation), instance_type, subnet))
    return hashlib.blake2b(said.encode(), digest_size=24).hexdigest()


def encoded(fleet: Fleet) -> bytes:
    """The fleet as an object of the bucket."""
    return json.dumps({"version": _VERSION, **asdict(fleet)}, indent=2).encode()


def decoded(data: bytes) -> Fleet:
    """The fleet of an object. What a later version has added is passed over. Raises `SettingsError`."""
    try:
        found: Mapping[str, Any] = json.loads(data)
        given = {item.name: found[item.name] for item in fields(Fleet) if item.name in found}
        for name in (MACHINE, SCHEDULER):
            given[name] = Kind(tuple(given[name]["types"]), given[name]["profile"])
        for name in ("subnets", "security_groups"):
            given[name] = tuple(given[name])
        given["prices"] = tuple((str(kind), float(price)) for kind, price in given["prices"])
        return checked_fleet(Fleet(**given))
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise SettingsError(
            "the description of the system's instances in its bucket makes no sense: `dist-zero up --mode cloud` writes"
            f" it anew ({type(wrong).__name__})"
        ) from wrong
