"""What instances may do, and who may reach them: roles with instance profiles, and a security group.

They are made where none were named, and removed by `down` if they were. Each is found again by its name and carries the
system's tag; one of that name without the tag is somebody else's, and is neither used nor removed.

A **machine** reads and writes the store, except what is about instances: it can read what it is told itself, and
nothing else there, and change none of it. A **scheduler** may do so, too, launch instances only with the system's tag
and the system's two roles, and end and tag only those with the tag.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dist_zero_common.cloud.aws import Aws, AwsError, Sleep, explained, pauses
from dist_zero_common.cloud.fleet import (
    IAM_PATH,
    LEASE_TAG,
    MACHINE,
    OWNER_TAG,
    ROLES,
    SCHEDULER,
    SYSTEM_TAG,
    Fleet,
    bucket_and_prefix,
    group_name,
    object_key,
    role_name,
)
from dist_zero_common.errors import OperatorError

POLICY = "dist-zero"
Document = dict[str, Any]


# ---- policies: pure --------------------------------------------------------------------------------------------


def trust() -> Document:
    """Who may take a role: instances."""
    return _document(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    )


def policy(fleet: Fleet, role: str, account: str, others: Sequence[str] = ()) -> Document:
    """What a role allows. `others`: roles (their ARNs) of instance profiles that were named, which hosts have, too."""
    hosts = [f"arn:aws:iam::{account}:role{IAM_PATH}{role_name(fleet.system, each)}" for each in ROLES]
    instances = _instances(fleet, account, [*hosts, *others]) if role == SCHEDULER else ()
    return _document(*_store(fleet, role), *instances)


def _store(fleet: Fleet, role: str) -> list[Document]:
    bucket, prefix = bucket_and_prefix(fleet.store)
    all_of_it = f"{prefix}/*" if prefix else "*"
    about = object_key(fleet.store)
    statements: list[Document] = [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            "Resource": f"arn:aws:s3:::{bucket}/{all_of_it}",
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": f"arn:aws:s3:::{bucket}",
            "Condition": {"StringLike": {"s3:prefix": [prefix, all_of_it] if prefix else ["*"]}},
        },
        {
            "Effect": "Deny",
            "Action": ["s3:PutObject", "s3:DeleteObject"],
            "Resource": f"arn:aws:s3:::{bucket}/{about}/*",
        },
    ]
    if role == MACHINE:
        statements.append(
            {
                "Effect": "Deny",
                "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{bucket}/{object_key(fleet.store, SCHEDULER)}/*",
            }
        )
    return statements


def _instances(fleet: Fleet, account: str, roles: Sequence[str]) -> list[Document]:
    here = f"arn:aws:ec2:{fleet.region}:{account}"
    ours = {"StringEquals": {f"aws:ResourceTag/{SYSTEM_TAG}": fleet.system}}
    asked = {"StringEquals": {f"aws:RequestTag/{SYSTEM_TAG}": fleet.system}}
    return [
        {"Effect": "Allow", "Action": ["ec2:DescribeInstances", "ec2:DescribeImages"], "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": [f"{here}:instance/*", f"{here}:volume/*"],
            "Condition": asked,
        },
        {
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": [
                f"arn:aws:ec2:{fleet.region}::image/*",
                f"{here}:subnet/*",
                f"{here}:network-interface/*",
                f"{here}:spot-instances-request/*",
                *(f"{here}:security-group/{group}" for group in fleet.security_groups),
            ],
        },
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": [f"{here}:instance/*", f"{here}:volume/*"],
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": f"{here}:instance/*",
            "Condition": {**ours, "ForAllValues:StringEquals": {"aws:TagKeys": [LEASE_TAG]}},
        },
        {
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": f"{here}:instance/*",
            "Condition": ours,
        },
        {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": list(roles),
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        },
    ]


def _document(*statements: Document) -> Document:
    return {"Version": "2012-10-17", "Statement": list(statements)}


# ---- making them -----------------------------------------------------------------------------------------------


def account_of(aws: Aws) -> str:
    """The account's number."""
    with explained("find out whose credentials these are"):
        return aws.sts.get_caller_identity()["Account"]


def make_role(aws: Aws, fleet: Fleet, role: str, account: str) -> None:
    """Make sure of the role and the instance profile, with what it allows by now."""
    name = role_name(fleet.system, role)
    tags: Any = [{"Key": SYSTEM_TAG, "Value": fleet.system}, {"Key": OWNER_TAG, "Value": fleet.owner}]
    with explained(f"make the role {name}"):
        if not _is_there(lambda: aws.iam.get_role(RoleName=name)["Role"].get("Tags", []), name, fleet.system):
            aws.iam.create_role(
                RoleName=name,
                Path=IAM_PATH,
                AssumeRolePolicyDocument=json.dumps(trust()),
                Description=f"Instances ({role}) of the DistZero system {fleet.system}",
                Tags=tags,
            )
        document = json.dumps(policy(fleet, role, account, _roles_of_others(aws, fleet)))
        aws.iam.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=document)
    with explained(f"make the instance profile {name}"):
        if not _is_there(lambda: _profile(aws, name).get("Tags", []), name, fleet.system):
            aws.iam.create_instance_profile(InstanceProfileName=name, Path=IAM_PATH, Tags=tags)
        if not _profile(aws, name)["Roles"]:
            aws.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def _roles_of_others(aws: Aws, fleet: Fleet) -> list[str]:
    """The roles of the instance profiles that were named."""
    names = [fleet.kind(role).profile for role in ROLES]
    own = [role_name(fleet.system, role) for role in ROLES]
    return sorted(role["Arn"] for name in names if name not in own for role in _profile(aws, name)["Roles"])


def _profile(aws: Aws, name: str) -> Any:
    return aws.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]


def _is_there(tags_of: Any, name: str, system: str) -> bool:
    """Whether there is one of ours. Raises `OperatorError` if it is somebody else's."""
    try:
        with explained(f"look at {name}"):
            tags = {tag["Key"]: tag["Value"] for tag in tags_of()}
    except AwsError as failed:
        if failed.code != "NoSuchEntity":
            raise
        return False
    if tags.get(SYSTEM_TAG) != system:
        raise OperatorError(
            f"there is a role or instance profile {name} that is not of system {system!r} (it has no tag"
            f" {SYSTEM_TAG}): name the system otherwise with --system, or give instance profiles of your own"
        )
    return True


def make_group(aws: Aws, fleet: Fleet) -> str:
    """Make sure of the security group, in the network of the subnets; returns its id. It lets nobody in."""
    found = groups_of(aws, fleet.system)
    if found:
        return found[0]
    name = group_name(fleet.system)
    with explained(f"make the security group {name}"):
        request: dict[str, Any] = {
            "GroupName": name,
            "Description": f"Instances of the DistZero system {fleet.system}: nobody may connect to them",
            "TagSpecifications": [
                {
                    "ResourceType": "security-group",
                    "Tags": [
                        {"Key": SYSTEM_TAG, "Value": fleet.system},
                        {"Key": OWNER_TAG, "Value": fleet.owner},
                    ],
                }
            ],
        }
        if fleet.subnets:
            subnets = aws.ec2.describe_subnets(SubnetIds=list(fleet.subnets))["Subnets"]
            networks = sorted({subnet["VpcId"] for subnet in subnets})
            if len(networks) != 1:
                raise OperatorError(
                    f"the subnets are of several networks ({', '.join(networks)}): name those of one"
                )
            request["VpcId"] = networks[0]
        return aws.ec2.create_security_group(**request)["GroupId"]


# ---- finding and removing them -----------------------------------------------------------------------------------


def groups_of(aws: Aws, system: str) -> list[str]:
    """The ids of the system's security groups."""
    with explained("list security groups"):
        filters: Any = [{"Name": f"tag:{SYSTEM_TAG}", "Values": [system]}]
        return sorted(
            each["GroupId"] for each in aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        )


@dataclass(frozen=True, slots=True)
class Access:
    """What a system has of these."""

    groups: tuple[str, ...]
    profiles: tuple[str, ...]
    roles: tuple[str, ...]

    def said(self) -> list[str]:
        """For people, in the order in which they go."""
        return [
            *(f"security group {each}" for each in self.groups),
            *(f"instance profile {each}" for each in self.profiles),
            *(f"role {each}" for each in self.roles),
        ]


def all_access(aws: Aws) -> dict[str, Access]:
    """What there is of these, by system."""
    with explained("list security groups"):
        filters: Any = [{"Name": "tag-key", "Values": [SYSTEM_TAG]}]
        pages = aws.ec2.get_paginator("describe_security_groups").paginate(Filters=filters)
        groups = [
            (each["GroupId"], {tag["Key"]: tag["Value"] for tag in each.get("Tags", ())}[SYSTEM_TAG])
            for page in pages
            for each in page["SecurityGroups"]
        ]
    with explained("list roles and instance profiles"):
        roles = [
            each["RoleName"]
            for page in aws.iam.get_paginator("list_roles").paginate(PathPrefix=IAM_PATH)
            for each in page["Roles"]
        ]
        profiles = [
            each["InstanceProfileName"]
            for page in aws.iam.get_paginator("list_instance_profiles").paginate(PathPrefix=IAM_PATH)
            for each in page["InstanceProfiles"]
        ]
        # Lists do not say tags.
        tags: dict[tuple[str, str], Any] = {
            **{("role", name): aws.iam.get_role(RoleName=name)["Role"].get("Tags", []) for name in roles},
            **{("profile", name): _profile(aws, name).get("Tags", []) for name in profiles},
        }
    owned = {key: {tag["Key"]: tag["Value"] for tag in found}.get(SYSTEM_TAG) for key, found in tags.items()}
    systems = sorted({system for _, system in groups} | {each for each in owned.values() if each})
    return {
        system: Access(
            tuple(sorted(group for group, of in groups if of == system)),
            *(
                tuple(sorted(name for (what, name), of in owned.items() if (what, of) == (kind, system)))
                for kind in ("profile", "role")
            ),
        )
        for system in systems
    }


def remove_access(aws: Aws, access: Access, *, sleep: Sleep = time.sleep) -> None:
    """Remove them; what is gone already is no error. Groups are waited for until no instance uses them any more."""
    for group in access.groups:
        waits = pauses(group, total=120.0)
        while not _gone(
            lambda group=group: aws.ec2.delete_security_group(GroupId=group),
            f"remove the security group {group}",
            ("DependencyViolation",),
        ):
            pause = next(waits, None)
            if pause is None:
                raise OperatorError(
                    f"the security group {group} is still used by something: see which network interfaces have it,"
                    " and try again"
                )
            sleep(pause)
    for name in access.profiles:
        what = f"remove the instance profile {name}"
        with explained(what):
            try:
                held = _profile(aws, name)["Roles"]
            except aws.iam.exceptions.NoSuchEntityException:
                continue
        for role in held:
            _gone(
                lambda role=role["RoleName"], name=name: aws.iam.remove_role_from_instance_profile(
                    InstanceProfileName=name, RoleName=role
                ),
                what,
            )
        _gone(lambda name=name: aws.iam.delete_instance_profile(InstanceProfileName=name), what)
    for name in access.roles:
        what = f"remove the role {name}"
        _gone(lambda name=name: aws.iam.delete_role_policy(RoleName=name, PolicyName=POLICY), what)
        _gone(lambda name=name: aws.iam.delete_role(RoleName=name), what)


def _gone(remove: Any, what: str, not_yet: tuple[str, ...] = ()) -> bool:
    """Remove it; whether it is gone. False for the errors that pass."""
    try:
        with explained(what):
            remove()
    except AwsError as failed:
        if failed.code in not_yet:
            return False
        if failed.code not in ("NoSuchEntity", "InvalidGroup.NotFound"):
            raise
    return True
