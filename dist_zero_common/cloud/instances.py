"""The instances of a system, as EC2 has them: which live, one more, fewer, and leases that go on.

What EC2 lists lags behind what it was told. So an instance that was launched is taken to be there for a while, listed
or not, and one that was ended is no more. An answer that was lost is asked for again under the same token.

A launch tries each type in each subnet, in the order of the fleet, where there is no room; other refusals are errors.
Instances are ended by their own shutdown, carry an encrypted disk that goes with them, and tell about themselves only
to who asks with a token (IMDSv2).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dist_zero_common.cloud.aws import Aws, AwsError, Sleep, explained, pauses
from dist_zero_common.cloud.fleet import (
    GENERATION_TAG,
    HOST_TAG,
    LEASE_TAG,
    MACHINE,
    ROLE_TAG,
    SCHEDULER,
    SYSTEM_TAG,
    Fleet,
    client_token,
    instance_tags,
)
from dist_zero_common.cloud.user_data import user_data
from dist_zero_common.errors import OperatorError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

UNSEEN_SECONDS = 60.0
"""For so long an instance that was launched may not be listed yet."""
TOKENS_MAX = 50
"""Generations that are tried for one launch: tokens of instances that EC2 does not list any more are used up for a
day."""
TAGGED_AT_ONCE = 200
PROFILE_SECONDS = 60.0
"""A new instance profile is not known at once everywhere."""

LIVE = ("pending", "running")
_NO_ROOM = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientFreeAddressesInSubnet",
    "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",
    "Unsupported",  # the zone does not have the type
)
_UNKNOWN_INSTANCE = "InvalidInstanceID.NotFound"
_TOKEN_ENDED = "IdempotentInstanceTerminated"
_TOKEN_USED = "IdempotentParameterMismatch"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as EC2 lists it. `state` is EC2's word; `launched_at` and `lease_until` are seconds since 1970."""

    id: str
    system: str
    host: str
    role: str
    type: str
    state: str
    generation: int
    launched_at: float
    lease_until: int
    spot: bool

    @property
    def is_live(self) -> bool:
        """Whether it costs something and may do something: not ended, nor about to end."""
        return self.state in LIVE


# ---- pure ------------------------------------------------------------------------------------------------------


def by_host(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """The live instances of each host, the oldest first."""
    hosts: dict[str, list[Instance]] = defaultdict(list)
    for instance in sorted(instances, key=lambda each: (each.launched_at, each.id)):
        if instance.is_live:
            hosts[instance.host].append(instance)
    return dict(hosts)


def surplus(instances: Iterable[Instance]) -> list[Instance]:
    """Instances of hosts that have an older one: two launches have crossed."""
    return [instance for each in by_host(instances).values() for instance in each[1:]]


def next_generation(instances: Iterable[Instance], host: str) -> int:
    """The generation of the host's next instance, as far as EC2 lists the earlier ones."""
    return 1 + max((each.generation for each in instances if each.host == host), default=0)


def usd_per_hour(fleet: Fleet, types: Iterable[str]) -> float:
    """What instances of these types cost; a type of unknown price is taken for the dearest one that is known."""
    prices = dict(fleet.prices)
    dearest = max(prices.values(), default=0.0)
    return sum(prices.get(kind, dearest) for kind in types)


def check_limits(fleet: Fleet, live: Sequence[Instance], host: str, role: str, instance_type: str) -> None:
    """Raise `OperatorError` if one more instance is more than the fleet may have."""
    machines = sum(each.role == MACHINE for each in live)
    if role == MACHINE and machines >= fleet.max_machines:
        raise OperatorError(
            f"{host} would be one machine more than max-machines {fleet.max_machines} of system {fleet.system}: ask for"
            " fewer, or raise the limit: `dist-zero up` again with DIST_ZERO_CLOUD_MAX_MACHINES"
        )
    if fleet.max_usd_per_hour:
        cost = usd_per_hour(fleet, [*(each.type for each in live), instance_type])
        if cost > fleet.max_usd_per_hour + 1e-9:
            raise OperatorError(
                f"system {fleet.system} would cost {cost:.4g} USD per hour with {host} ({instance_type}), more than"
                f" max-usd-per-hour {fleet.max_usd_per_hour:g}: ask for fewer machines, or raise the limit:"
                " `dist-zero up` again with --max-usd-per-hour"
            )


def launch_request(
    fleet: Fleet, host: str, role: str, *, generation: int, instance_type: str, subnet: str, lease_until: int
) -> dict[str, Any]:
    """The arguments of RunInstances."""
    tags = [
        {"Key": key, "Value": value}
        for key, value in instance_tags(fleet, host, role, generation, lease_until).items()
    ]
    request: dict[str, Any] = {
        "ImageId": fleet.image,
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(fleet, host, generation, instance_type, subnet),
        "UserData": user_data(fleet, host, role),
        "IamInstanceProfile": {"Name": fleet.kind(role).profile},
        "SecurityGroupIds": list(fleet.security_groups),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": [tag for tag in tags if tag["Key"] != LEASE_TAG]},
        ],
    }
    if subnet:
        request["SubnetId"] = subnet
    if fleet.spot:
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return request


# ---- asking EC2 --------------------------------------------------------------------------------------------------


class Instances:
    """The instances of one system. Its methods block, and are called by one thread at a time."""

    def __init__(
        self,
        aws: Aws,
        fleet: Fleet,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        """`now` is seconds since 1970."""
        self.fleet = fleet
        self._aws, self._now, self._monotonic, self._sleep = aws, now, monotonic, sleep
        self._launched: dict[str, tuple[Instance, float]] = {}
        self._ended: dict[str, float] = {}
        self._disks: dict[str, str] = {}
        self._asked: dict[str, tuple[dict[str, Any], float]] = {}
        self._lease_end = 0

    def all(self) -> list[Instance]:
        """All that EC2 lists, those that have ended lately, too, and what was launched and is not listed yet."""
        listed = listed_instances(self._aws, self.fleet.system)
        now = self._monotonic()
        ids = frozenset(each.id for each in listed)
        self._launched = {
            key: (instance, at)
            for key, (instance, at) in self._launched.items()
            if key not in ids and now - at < UNSEEN_SECONDS
        }
        self._ended = {key: at for key, at in self._ended.items() if now - at < UNSEEN_SECONDS}
        found = [*listed, *(instance for instance, _ in self._launched.values())]
        return [each for each in found if not (each.is_live and each.id in self._ended)]

    def live(self) -> list[Instance]:
        """Those that have not ended, nor are about to; of a host that has two, the younger one is ended."""
        found = self.all()
        double = surplus(found)
        if double:
            self.terminate([each.id for each in double])
        ids = frozenset(each.id for each in double)
        return [each for each in found if each.is_live and each.id not in ids]

    def launch(self, host: str, role: str) -> Instance:
        """Launch an instance of the host, unless one lives; returns that. Raises `OperatorError` where a limit forbids
        it, or there is no room anywhere."""
        found = self.all()
        there = by_host(found).get(host)
        if there:
            return there[0]
        self._lease_end = self._first_lease(found)
        live, full = [each for each in found if each.is_live], ""
        generation = next_generation(found, host)
        for instance_type in self.fleet.kind(role).types:
            for subnet in self.fleet.subnets or ("",):
                check_limits(self.fleet, live, host, role, instance_type)
                try:
                    instance = self._launch(host, role, generation, instance_type, subnet)
                except AwsError as failed:
                    if failed.code not in _NO_ROOM:
                        raise
                    full = str(failed)
                    continue
                self._launched[instance.id] = instance, self._monotonic()
                self._asked.clear()
                return instance
        raise OperatorError(
            f"EC2 has no room for {host}: {full}; it is tried again; more types (--machine-type, --scheduler-type) or"
            " subnets in other zones would help"
        )

    def _launch(self, host: str, role: str, generation: int, instance_type: str, subnet: str) -> Instance:
        """Launch one, with the first token from this generation on that is not used up."""
        for this in range(generation, generation + TOKENS_MAX):
            request = self._request(host, role, this, instance_type, subnet)
            try:
                instance = self._run(host, request)
            except AwsError as failed:
                # Somebody else has used this token: for an instance that has ended, or one that is not listed yet. If
                # it is, there are two for a moment, and the younger one goes.
                if failed.code not in (_TOKEN_ENDED, _TOKEN_USED):
                    raise
                continue
            if instance.is_live:
                return instance
        raise OperatorError(f"{host} was launched {TOKENS_MAX} times within a day and has ended each time")

    def _request(
        self, host: str, role: str, generation: int, instance_type: str, subnet: str
    ) -> dict[str, Any]:
        """What is asked for; for a while exactly the same again, so that EC2 knows it by its token."""
        token = client_token(self.fleet, host, generation, instance_type, subnet)
        request, at = self._asked.get(token, ({}, float("-inf")))
        if self._monotonic() - at >= min(UNSEEN_SECONDS, self.fleet.lease_seconds / 2):
            request, at = (
                launch_request(
                    self.fleet,
                    host,
                    role,
                    generation=generation,
                    instance_type=instance_type,
                    subnet=subnet,
                    lease_until=self._lease_end,
                ),
                self._monotonic(),
            )
            request["BlockDeviceMappings"] = [self._disk()]
            self._asked[token] = request, at
        return request

    def _run(self, host: str, request: Mapping[str, Any]) -> Instance:
        waits = pauses(request["ClientToken"], total=PROFILE_SECONDS)
        while True:
            try:
                with explained(f"launch {host} ({request['InstanceType']})"):
                    return _instance(self._aws.ec2.run_instances(**request)["Instances"][0])
            except AwsError as failed:
                # A profile that was made just now is not known everywhere.
                if failed.code != "InvalidParameterValue" or "rofile" not in str(failed):
                    raise
                pause = next(waits, None)
                if pause is None:
                    raise
                self._sleep(pause)

    def _disk(self) -> Any:
        """The root disk: the image says how that is called."""
        image = self.fleet.image
        if image not in self._disks:
            with explained(f"look at the image {image}"):
                found = self._aws.ec2.describe_images(ImageIds=[image])["Images"]
            self._disks[image] = found[0].get("RootDeviceName", "/dev/xvda") if found else "/dev/xvda"
        ebs = {
            "VolumeSize": self.fleet.disk_gigabytes,
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
        }
        return {"DeviceName": self._disks[image], "Ebs": ebs}

    def terminate(self, ids: Collection[str]) -> None:
        """End these; those that have ended are no error."""
        if not ids:
            return

        def end(some: list[str]) -> None:
            with explained(f"end {', '.join(some)}"):
                self._aws.ec2.terminate_instances(InstanceIds=some)

        _each_if_missing(end, sorted(ids))
        now = self._monotonic()
        self._ended.update(dict.fromkeys(sorted(ids), now))
        for each in ids:
            self._launched.pop(each, None)

    def stop(self, host: str) -> None:
        """End all instances of a host."""
        self.terminate([each.id for each in by_host(self.all()).get(host, ())])

    def renew(self, live: Iterable[Instance]) -> None:
        """Let the leases of these go on, for the fleet's time from now."""
        ids = sorted(each.id for each in live)

        def tag(some: list[str]) -> None:
            with explained("renew leases"):
                lease = [{"Key": LEASE_TAG, "Value": str(self._lease_until())}]
                self._aws.ec2.create_tags(Resources=some, Tags=lease)  # type: ignore[arg-type]

        for begin in range(0, len(ids), TAGGED_AT_ONCE):
            _each_if_missing(tag, ids[begin : begin + TAGGED_AT_ONCE])

    def _first_lease(self, found: Iterable[Instance]) -> int:
        """Until when the lease of a new instance is. Machines of a system that is not handed over yet end with its
        schedulers, so that all of it ends within one lease of the last renewal."""
        schedulers = [each.lease_until for each in found if each.is_live and each.role == SCHEDULER]
        if self.fleet.handed_over or not schedulers:
            return self._lease_until()
        return max(schedulers)

    def _lease_until(self) -> int:
        return int(self._now()) + self.fleet.lease_seconds


def _each_if_missing(call: Callable[[list[str]], None], ids: list[str]) -> None:
    """Make the call for all of them, or, where EC2 does not know one (not yet, or no more), for each that it knows: it
    refuses the whole call for the sake of one."""
    try:
        call(ids)
    except AwsError as failed:
        if failed.code != _UNKNOWN_INSTANCE:
            raise
        for each in ids if len(ids) > 1 else ():
            _each_if_missing(call, [each])


def listed_instances(aws: Aws, system: str = "") -> list[Instance]:
    """What EC2 lists of this system, or of all systems."""
    name, wanted = (f"tag:{SYSTEM_TAG}", system) if system else ("tag-key", SYSTEM_TAG)
    with explained("list instances"):
        pages = aws.ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": name, "Values": [wanted]}]
        )
        return [
            _instance(each)
            for page in pages
            for reservation in page["Reservations"]
            for each in reservation["Instances"]
        ]


def _instance(found: InstanceTypeDef) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}
    return Instance(
        id=found["InstanceId"],
        system=tags.get(SYSTEM_TAG, ""),
        host=tags.get(HOST_TAG, ""),
        role=tags.get(ROLE_TAG, ""),
        type=found["InstanceType"],
        state=found["State"]["Name"],
        generation=_number(tags.get(GENERATION_TAG, "")),
        launched_at=found["LaunchTime"].timestamp(),
        lease_until=_number(tags.get(LEASE_TAG, "")),
        spot=found.get("InstanceLifecycle") == "spot",
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0
