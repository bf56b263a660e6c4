"""Instances of EC2 without anything running on them: launches, leases, limits, faults of AWS's, the spawner, the"
" end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dist_zero.cloud import up
from dist_zero.cloud.access import all_access, make_role
from dist_zero.cloud.down import take_down
from dist_zero.cloud.orphans import found_systems
from dist_zero.cloud.source import Source
from dist_zero_common.clock import LoopClock
from dist_zero_common.cloud.aws import Aws, AwsError, pauses
from dist_zero_common.cloud.fleet import (
    LEASE_TAG,
    MACHINE,
    SCHEDULER,
    SYSTEM_TAG,
    Fleet,
    Kind,
    decoded,
    environment_object,
    fleet_object,
    object_key,
    role_name,
)
from dist_zero_common.cloud.instances import Instances, listed_instances
from dist_zero_common.errors import OperatorError
from dist_zero_common.log import captured_events
from dist_zero_common.settings import Settings
from services.scheduler.spawners.ec2 import EC2Spawner
from test.cloud.aws_server import KEY_ID, SECRET, AwsServer, Parameters, tags_of
from test.cloud.fleets import fleet
from test.unit.saved_states import LOG


class World:
    """A system of its own at an AWS of this process, with a clock that stands still unless it is moved."""

    def __init__(self, server: AwsServer, aws: Aws) -> None:
        self.server, self.aws, self.time = server, aws, 1_000_000.0
        name = f"dzt-{uuid.uuid4().hex[:6]}"
        aws.s3.create_bucket(Bucket=name)
        self.slept: list[float] = []
        self.is_prepared = False
        self.fleet = fleet(
            system=name,
            store=f"s3://{name}/shop",
            image=aws.ec2.register_image(Name=name, RootDeviceName="/dev/xvda")["ImageId"],
            security_groups=(),
            endpoint=server.endpoint,
            s3_endpoint=server.endpoint,
            handed_over=True,
        )

    def prepared(self, **changes: Any) -> Fleet:
        """What `up` prepares, of this fleet with changes, and with profiles of its own."""
        name = changes.get("system", self.fleet.system)
        own = {
            role: Kind(self.fleet.kind(role).types, role_name(name, role)) for role in (MACHINE, SCHEDULER)
        }
        described = replace(self.fleet, **{"security_groups": (), **own, **changes})
        environments = {MACHINE: {"AMQP_URL": "amqp://a"}, SCHEDULER: {"AMQP_URL": "amqp://b"}}
        bringing = up.Bringing(described, environments, Source(b"archive", b"list"), "amqp://c")
        self.is_prepared = True
        self.fleet = replace(up.prepare(self.aws, bringing, lambda *_: None), handed_over=True)
        return self.fleet

    def instances(self, **changes: Any) -> Instances:
        """Whoever asks for instances, as a process of its own."""
        return Instances(
            self.aws,
            replace(self.fleet, **changes),
            now=lambda: self.time,
            monotonic=lambda: self.time,
            sleep=self.slept.append,
        )

    def live(self) -> dict[str, list[str]]:
        """The ids of live instances by host, as EC2 lists them."""
        found: dict[str, list[str]] = {}
        for each in listed_instances(self.aws, self.fleet.system):
            if each.is_live:
                found.setdefault(each.host, []).append(each.id)
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[AwsServer]:
    server = AwsServer()
    for role in (MACHINE, SCHEDULER):
        profile = fleet().kind(role).profile
        server.client("iam").create_instance_profile(InstanceProfileName=profile)
    yield server
    server.close()


@pytest.fixture(scope="module")
def aws(server: AwsServer) -> Aws:
    settings = Settings(
        s3_endpoint=server.endpoint, cloud_endpoint=server.endpoint, aws_key_id=KEY_ID, aws_secret=SECRET
    )
    return Aws(settings)


@pytest.fixture
def world(server: AwsServer, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Pauses of the library between attempts are real ones.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    made = World(server, aws)
    server.calls.clear()
    yield made
    for instance in server.instances():
        if tags_of(instance).get(SYSTEM_TAG) == made.fleet.system:
            instance.terminate()
    if made.is_prepared:
        take_down(aws, made.fleet.system, made.fleet.store, lambda _: None, sleep=lambda _: None)


# ---- launching ---------------------------------------------------------------------------------------------------


def test_a_launch_is_what_was_asked_for_cloud(world: World) -> None:
    """Tags, profile, group, disk, metadata, and the end when it is shut down, as EC2 has taken them."""
    launched = world.instances().launch("m1", MACHINE)
    (found,) = (each for each in world.server.instances() if each.id == launched.id)
    assert found.instance_initiated_shutdown_behavior == "terminate"
    assert (found.metadata_options.http_tokens, found.metadata_options.instance_metadata_tags) == (
        "required",
        "enabled",
    )
    (asked,) = world.server.called("RunInstances")
    assert asked["IamInstanceProfile.Name"] == "dist-zero-shop-machine"
    (image,) = world.aws.ec2.describe_images(ImageIds=[world.fleet.image])["Images"]
    assert asked["BlockDeviceMapping.1.DeviceName"] == image["RootDeviceName"]
    assert asked["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert asked["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert (launched.host, launched.role, launched.generation) == ("m1", MACHINE, 1)
    assert launched.lease_until == 1_000_900


def test_a_launch_is_made_once_cloud(world: World) -> None:
    """Asked for again, by this process or another one: the same instance."""
    first = world.instances().launch("m1", MACHINE)
    assert world.instances().launch("m1", MACHINE).id == first.id
    assert world.live() == {"m1": [first.id]}


def test_an_instance_that_is_not_listed_yet_is_there_cloud(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What EC2 lists lags behind; whoever has launched knows, for a minute."""
    listed: list[Any] = []
    monkeypatch.setattr("dist_zero_common.cloud.instances.listed_instances", lambda *_: listed)
    instances = world.instances()
    first = instances.launch("m1", MACHINE)
    assert [each.id for each in instances.live()] == [first.id]
    assert instances.launch("m1", MACHINE).id == first.id
    world.time += 61
    assert instances.live() == []


def test_a_lost_answer_does_not_make_a_second_instance_cloud(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch happened, and its answer did not arrive: the same request again is the same instance, even where EC2
    does
    not list it yet."""
    instances, run = world.instances(), world.aws.ec2.run_instances
    monkeypatch.setattr("dist_zero_common.cloud.instances.listed_instances", lambda *_: [])

    def lost(**request: Any) -> Any:
        run(**request)
        raise AwsError("the connection broke")

    with monkeypatch.context() as patch, pytest.raises(AwsError):
        patch.setattr(world.aws.ec2, "run_instances", lost)
        instances.launch("m1", MACHINE)
    world.time += 20
    instances.launch("m1", MACHINE)
    assert [len(each) for each in world.live().values()] == [1]


def test_the_successor_of_an_ended_instance_is_another_one_cloud(world: World) -> None:
    """Its token is not used up, whether EC2 still lists the one before, or does not and only knows its token."""
    first = world.instances().launch("m1", MACHINE)
    world.aws.ec2.terminate_instances(InstanceIds=[first.id])
    second = world.instances().launch("m1", MACHINE)
    assert second.generation == 2 and second.id != first.id
    world.aws.ec2.terminate_instances(InstanceIds=[second.id])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_zero_common.cloud.instances.listed_instances", lambda *_: [])
        third = world.instances().launch("m1", MACHINE)
    assert third.id not in (first.id, second.id) and world.live() == {"m1": [third.id]}


def test_two_who_launch_at_once_end_with_one_instance_cloud(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the other's; the younger one is ended by whoever looks next."""
    with monkeypatch.context() as patch:
        patch.setattr("dist_zero_common.cloud.instances.listed_instances", lambda *_: [])
        first = world.instances().launch("m1", MACHINE)
        world.time += 30
        second = world.instances().launch("m1", MACHINE)
    assert first.id != second.id
    assert len(world.live()["m1"]) == 2
    kept = world.instances().live()
    assert len(kept) == 1 and world.live() == {"m1": [kept[0].id]}


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_throttled_calls_are_made_again_cloud(world: World) -> None:
    """Two of three calls are refused for coming too fast; all goes on, with pauses."""
    counts: dict[str, int] = {}

    def throttles(action: str, _: Parameters) -> str | None:
        counts[action] = counts.get(action, 0) + 1
        return "RequestLimitExceeded" if counts[action] % 3 else None

    instances = world.instances()
    with world.server.with_fault(throttles):
        for number in range(1, 4):
            instances.launch(f"m{number}", MACHINE)
        instances.renew(instances.live())
    assert sorted(world.live()) == ["m1", "m2", "m3"]
    assert len(world.server.called("RunInstances")) == 9


def test_what_is_throttled_for_too_long_is_an_error_cloud(world: World) -> None:
    """After some attempts, in a sentence."""
    with (
        world.server.with_fault(lambda *_: "RequestLimitExceeded"),
        pytest.raises(OperatorError, match=r"cannot list instances: .*asked too much at once"),
    ):
        world.instances().live()


def test_where_there_is_no_room_the_next_type_is_taken_cloud(world: World) -> None:
    """In the order of the fleet; the limit of money counts the type that is tried."""

    def full(action: str, parameters: Parameters) -> str | None:
        is_full = action == "RunInstances" and parameters["InstanceType"] == "m6i.large"
        return "InsufficientInstanceCapacity" if is_full else None

    with world.server.with_fault(full):
        assert world.instances().launch("m1", MACHINE).type == "m5.large"
        with pytest.raises(OperatorError, match=r"would cost 0\.2 USD per hour with m2 \(m6i\.large\)"):
            world.instances(max_usd_per_hour=0.15).launch("m2", MACHINE)


def test_no_room_anywhere_is_an_error_that_passes_cloud(world: World) -> None:
    """It names the host and what would help; when there is room, the launch is made."""
    instances = world.instances()
    with (
        world.server.with_fault(
            lambda action, _: "InsufficientInstanceCapacity" if action == "RunInstances" else None
        ),
        pytest.raises(OperatorError, match=r"EC2 has no room for m1.*tried again.*--machine-type"),
    ):
        instances.launch("m1", MACHINE)
    assert instances.launch("m1", MACHINE).type == "m6i.large"


def test_each_subnet_is_tried_cloud(world: World) -> None:
    """Zone after zone, before the next type."""
    subnets = [each["SubnetId"] for each in world.aws.ec2.describe_subnets()["Subnets"]][:2]

    def full(action: str, parameters: Parameters) -> str | None:
        is_full = action == "RunInstances" and parameters["SubnetId"] == subnets[0]
        return "InsufficientInstanceCapacity" if is_full else None

    with world.server.with_fault(full):
        launched = world.instances(subnets=tuple(subnets)).launch("m1", MACHINE)
    asked = [(call["InstanceType"], call["SubnetId"]) for call in world.server.called("RunInstances")]
    assert asked == [("m6i.large", subnets[0]), ("m6i.large", subnets[1])] and launched.type == "m6i.large"


def test_a_profile_that_is_not_known_everywhere_yet_is_waited_for_cloud(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is not, for some seconds."""
    refusals = iter([True, True, False])
    run = world.aws.ec2.run_instances

    def not_yet(**request: Any) -> Any:
        if next(refusals):
            raise AwsError("Value for parameter iamInstanceProfile.name is invalid", "InvalidParameterValue")
        return run(**request)

    monkeypatch.setattr(world.aws.ec2, "run_instances", not_yet)
    world.instances().launch("m1", MACHINE)
    assert len(world.slept) == 2


def test_other_refusals_are_errors_at_once_cloud(world: World) -> None:
    """With what to do, and without trying other types."""
    with (
        world.server.with_fault(lambda action, _: "VcpuLimitExceeded" if action == "RunInstances" else None),
        pytest.raises(OperatorError, match=r"cannot launch m1 \(m6i\.large\): .*limit of vCPUs is reached"),
    ):
        world.instances().launch("m1", MACHINE)
    assert len(world.server.called("RunInstances")) == 1


def test_one_unknown_instance_keeps_no_other_from_being_renewed_cloud(world: World) -> None:
    """Nor from being ended: EC2 refuses the whole call for one that it does not list yet, or no more."""
    instances = world.instances()
    known = [instances.launch(host, MACHINE) for host in ("m1", "m2")]
    missing = replace(known[0], id="i-0123456789abcdef0", host="m3")
    world.time += 100
    instances.renew([*known, missing])
    assert {each.lease_until for each in instances.live()} == {1_001_000}
    instances.terminate([*(each.id for each in known), missing.id])
    assert world.live() == {}


def test_pauses_grow_and_end() -> None:
    """The same for the same seed; in all no longer than they may."""
    assert list(pauses("a")) == list(pauses("a")) != list(pauses("b"))
    assert 60 <= sum(pauses("a")) < 70 and max(pauses("a")) <= 8


# ---- the spawner of schedulers -------------------------------------------------------------------------------------


def spawned(world: World) -> EC2Spawner:
    return EC2Spawner(world.aws, world.fleet.store, LoopClock(0), LOG)


def leases(world: World) -> set[str]:
    """What the tags of live instances say."""
    tags = [tags_of(each) for each in world.server.instances() if each.state == "running"]
    return {each[LEASE_TAG] for each in tags if each.get(SYSTEM_TAG) == world.fleet.system}


def test_the_spawner_spawns_lists_and_stops_cloud(world: World) -> None:
    """Hosts of both roles, each once; one that ended is listed no more."""
    world.prepared()

    async def main() -> None:
        spawner = spawned(world)
        assert await spawner.list() == []
        for host in ("m2", "s1", "m1", "m1"):
            await spawner.spawn(host)
        assert await spawner.list() == ["m1", "m2", "s1"]
        await spawner.stop("m1")
        await spawner.stop("m1")
        assert await spawner.list() == ["m2", "s1"]
        with pytest.raises(OperatorError, match="joined is no host that can be obtained"):
            await spawner.spawn("joined")

    asyncio.run(main())
    types = {each.instance_type for each in world.server.instances() if each.id in str(world.live())}
    assert types == {"m6i.large", "t3.small"}


def test_the_spawner_holds_the_limits_cloud(world: World) -> None:
    """What is more than the fleet may have is refused in a sentence, by schedulers as by `up`."""
    world.prepared(max_machines=2, machines=2, max_usd_per_hour=0.22)

    async def main() -> None:
        spawner = spawned(world)
        await spawner.spawn("m1")
        await spawner.spawn("m2")
        with pytest.raises(OperatorError, match="one machine more than max-machines 2"):
            await spawner.spawn("m3")
        await spawner.spawn("s1")
        with pytest.raises(OperatorError, match=r"0\.24 USD per hour with s2"):
            await spawner.spawn("s2")

    asyncio.run(main())
    assert sorted(world.live()) == ["m1", "m2", "s1"]


def test_whoever_asks_for_the_list_renews_the_leases_cloud(world: World) -> None:
    """Of all that lives, also of what others have launched, but only when the system was handed over."""
    world.prepared()
    world.instances().launch("s1", SCHEDULER)
    before = leases(world)

    async def main() -> None:
        spawner = spawned(world)
        await spawner.list()

    asyncio.run(main())
    assert leases(world) == before, "it is not handed over"
    up.hand_over(world.aws, world.fleet, world.instances())
    asyncio.run(main())
    renewed = leases(world)
    assert renewed != before and all(int(lease) > 1_700_000_000 for lease in renewed)


def test_leases_go_on_while_the_bucket_is_away_cloud(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What instances are to be is read again and again; while it cannot be, those that live are renewed as before. Only
    whoever has never read it does nothing."""
    world.prepared()
    world.instances().launch("s1", SCHEDULER)
    up.hand_over(world.aws, world.fleet, world.instances())
    monkeypatch.setattr("services.scheduler.spawners.ec2.FLEET_SECONDS", 0.0)
    monkeypatch.setattr("services.scheduler.spawners.ec2.RENEWALS_PER_LEASE", 1e9)
    renewed: list[list[str]] = []
    monkeypatch.setattr(
        Instances, "renew", lambda _, live: renewed.append(sorted(each.host for each in live))
    )

    def away(bucket: str, key: str) -> bytes:
        raise AwsError(f"cannot read s3://{bucket}/{key}: it is away", "ServiceUnavailable")

    async def main() -> None:
        spawner = spawned(world)
        assert await spawner.list() == ["s1"]
        monkeypatch.setattr(world.aws, "get_object", away)
        with captured_events() as events:
            assert await spawner.list() == ["s1"]
        assert [event["event"] for event in events] == ["fleet_unread"]
        with pytest.raises(OperatorError, match="it is away"):
            await spawned(world).list()

    asyncio.run(main())
    assert renewed == [["s1"], ["s1"]]


def test_before_it_is_handed_over_machines_end_with_the_schedulers_cloud(world: World) -> None:
    """So that a system whose `up` died ends within one lease of the last renewal, however late a machine was"
    " obtained."""
    instances = world.instances(handed_over=False)
    scheduler = instances.launch("s1", SCHEDULER)
    world.time += 600
    assert instances.launch("m1", MACHINE).lease_until == scheduler.lease_until
    assert world.instances().launch("m2", MACHINE).lease_until == 1_001_500


# ---- up and down ---------------------------------------------------------------------------------------------------


def test_prepare_is_the_same_again_cloud(world: World) -> None:
    """No second group, role or profile; the group lets nobody in; the policy is that of now."""
    world.prepared()
    group, before = world.fleet.security_groups, all_access(world.aws)[world.fleet.system]
    world.server.calls.clear()
    assert world.prepared().security_groups == group
    assert all_access(world.aws)[world.fleet.system] == before
    actions = {action for action, _ in world.server.calls}
    assert "PutRolePolicy" in actions
    (found,) = world.aws.ec2.describe_security_groups(GroupIds=list(group))["SecurityGroups"]
    assert found["IpPermissions"] == []
    assert not actions & {"CreateRole", "CreateInstanceProfile", "CreateSecurityGroup"}


def test_a_system_that_is_up_stays_handed_over_cloud(world: World) -> None:
    """A second `up` that dies does not end it; one that has ended begins anew."""
    world.prepared()

    def is_handed_over() -> bool:
        found = world.aws.get_object(world.fleet.bucket, fleet_object(world.fleet.store))
        assert found is not None
        return decoded(found).handed_over

    instances = world.instances()
    instances.launch("s1", SCHEDULER)
    up.hand_over(world.aws, world.fleet, instances)
    world.prepared()
    assert is_handed_over()
    instances.stop("s1")
    world.prepared()
    assert not is_handed_over()


def test_profiles_of_ones_own_are_used_and_left_alone_cloud(world: World) -> None:
    """Where they are named, none is made; a scheduler may pass the role of the machines' one."""
    iam, name = world.aws.iam, f"mine-{world.fleet.system}"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    mine = Kind(("m6i.large",), name)
    world.prepared(machine=mine)
    own = all_access(world.aws)[world.fleet.system]
    assert own.profiles == own.roles == (f"dist-zero-{world.fleet.system}-scheduler",)
    said = iam.get_role_policy(RoleName=own.roles[0], PolicyName="dist-zero")["PolicyDocument"]
    assert arn in str(said)
    take_down(world.aws, world.fleet.system, world.fleet.store, lambda _: None, sleep=lambda _: None)
    world.prepared(machine=mine, scheduler=mine)
    assert not all_access(world.aws)[world.fleet.system].roles
    assert iam.get_role(RoleName=name)["Role"]["Arn"] == arn


def test_a_role_of_somebody_else_is_not_taken_cloud(world: World) -> None:
    """One that has the name but not the tag."""
    other, iam = replace(world.fleet, system=f"{world.fleet.system}-x"), world.aws.iam
    iam.create_role(RoleName=f"dist-zero-{other.system}-machine", AssumeRolePolicyDocument="{}")
    with pytest.raises(OperatorError, match="is not of system"):
        make_role(world.aws, other, MACHINE, "123456789012")
    iam.delete_role(RoleName=f"dist-zero-{other.system}-machine")


def test_down_leaves_nothing_and_ends_schedulers_first_cloud(world: World) -> None:
    """Instances, group, profiles, roles, and objects with secrets; the store's own objects stay. A second time there is
    nothing to do."""
    world.prepared()
    instances = world.instances()
    for host, role in (("m1", MACHINE), ("s1", SCHEDULER), ("m2", MACHINE)):
        instances.launch(host, role)
    bucket = world.fleet.bucket
    world.aws.put_object(bucket, "shop/programs/toy/log/1", b"record")
    secret = environment_object(world.fleet.store, MACHINE)
    assert world.aws.get_object(bucket, secret) is not None
    ends: list[list[str]] = []
    by_id = {each.id: each.host for each in instances.live()}

    def note(action: str, parameters: Parameters) -> None:
        if action == "TerminateInstances":
            ends.append(
                sorted(by_id[value] for key, value in parameters.items() if key.startswith("InstanceId"))
            )

    told: list[str] = []
    with world.server.with_fault(note):
        take_down(world.aws, world.fleet.system, world.fleet.store, told.append, sleep=lambda _: None)
    assert ends == [["s1"], ["m1", "m2"]]
    assert [each.split()[0] for each in told] == [
        "instance",
        "instance",
        "instance",
        "security",
        "instance",
        "instance",
        "role",
        "role",
        "5",
    ]
    assert world.live() == {} and world.fleet.system not in all_access(world.aws)
    assert world.aws.object_keys(bucket, "") == ["shop/programs/toy/log/1"]
    told.clear()
    take_down(world.aws, world.fleet.system, world.fleet.store, told.append, sleep=lambda _: None)
    assert told == []


def test_a_group_that_is_still_used_is_waited_for_cloud(world: World) -> None:
    """Instances that have ended keep it for a moment."""
    world.prepared()
    refusals = iter(["DependencyViolation", "DependencyViolation"])
    slept: list[float] = []
    with world.server.with_fault(
        lambda action, _: next(refusals, None) if action == "DeleteSecurityGroup" else None
    ):
        take_down(world.aws, world.fleet.system, world.fleet.store, lambda _: None, sleep=slept.append)
    assert len(slept) == 2 and world.fleet.system not in all_access(world.aws)


def test_orphans_are_found_by_their_tags_cloud(world: World) -> None:
    """Those of a system that is known here only if they have outlived their lease."""
    world.prepared()
    name = world.fleet.system
    world.instances().launch("m1", MACHINE)

    def found(known: set[str], now: float) -> list[tuple[list[str], bool]]:
        return [
            ([thing.split()[0] for thing in each.things], each.lives)
            for each in found_systems(world.aws, known, now)
            if each.system == name
        ]

    all_of_it = ["instance", "security", "instance", "instance", "role", "role"]
    assert found(set(), world.time) == [(all_of_it, True)]
    assert found({name}, world.time) == []
    assert found({name}, world.time + 901) == [(["instance"], False)]


def test_what_hosts_install_is_called_by_what_it_holds_cloud(world: World) -> None:
    """The archive and the list are in the bucket, where user data look for them."""
    world.prepared()
    names = [key for key in world.aws.object_keys(world.fleet.bucket, "") if "/source/" in key]
    assert (
        names == [object_key(world.fleet.store, name) for name in ("source/archive", "source/list")]
        or len(names) == 2
    )


def test_credentials_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence, with where they go."""
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda *_: None)
    with pytest.raises(OperatorError, match=r"there are no AWS credentials: set AWS_ACCESS_KEY_ID"):
        Aws(Settings(cloud_endpoint="http://127.0.0.1:9")).caller()
