"""What instances are allowed, judged as Amazon does: denied by a Deny, else allowed by an Allow, else denied."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest

from dist_zero.cloud.access import Access, Document, policy, trust
from dist_zero.cloud.orphans import judged
from dist_zero_common.cloud.fleet import MACHINE, SCHEDULER
from test.cloud.fleets import FLEET, instance

ACCOUNT = "123456789012"
BUCKET = "arn:aws:s3:::acme"
EC2 = f"arn:aws:ec2:us-east-1:{ACCOUNT}"
OURS, OTHERS = {"aws:ResourceTag/dist-zero:system": "shop"}, {"aws:ResourceTag/dist-zero:system": "other"}


def allowed(document: Document, action: str, resource: str, context: Mapping[str, Any] | None = None) -> bool:
    """Whether the policy allows it; conditions are met only by what the context has."""
    effects = [
        statement["Effect"]
        for statement in document["Statement"]
        if any(fnmatchcase(action, pattern) for pattern in _list(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in _list(statement["Resource"]))
        and _holds(statement.get("Condition", {}), context or {})
    ]
    return "Deny" not in effects and "Allow" in effects


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, Any]) -> bool:
    for operator, keys in conditions.items():
        for key, wanted in keys.items():
            given = _list(context.get(key, []))
            patterns = _list(wanted)
            met = [any(fnmatchcase(value, pattern) for pattern in patterns) for value in given]
            if not (all(met) if operator.startswith("ForAllValues") else any(met)):
                return False
    return True


@pytest.mark.parametrize("role", [MACHINE, SCHEDULER])
def test_the_store_is_for_all_and_what_is_about_instances_for_reading(role: str) -> None:
    """Neither role may change what instances run, or look into another store of the bucket."""
    may = policy(FLEET, role, ACCOUNT)
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert allowed(may, action, f"{BUCKET}/live/log/toy/1")
        assert not allowed(may, action, f"{BUCKET}/other/log/toy/1")
    assert allowed(may, "s3:GetObject", f"{BUCKET}/live/cloud/{role}/environment.json")
    assert allowed(may, "s3:GetObject", f"{BUCKET}/live/cloud/source/abc.tar.gz")
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not allowed(may, action, f"{BUCKET}/live/cloud/source/abc.tar.gz")
        assert not allowed(may, action, f"{BUCKET}/live/cloud/fleet.json")
    assert allowed(may, "s3:ListBucket", BUCKET, {"s3:prefix": "live/log/"})
    assert not allowed(may, "s3:ListBucket", BUCKET, {"s3:prefix": "other/"})


def test_a_machine_may_nothing_with_instances() -> None:
    """Nor read what schedulers are told."""
    may = policy(FLEET, MACHINE, ACCOUNT)
    assert not allowed(may, "s3:GetObject", f"{BUCKET}/live/cloud/scheduler/environment.json")
    for action in ("ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DescribeInstances"):
        assert not allowed(may, action, f"{EC2}:instance/i-1", OURS)


def test_a_scheduler_may_end_and_renew_instances_of_its_system_alone() -> None:
    """It cannot take others by tagging them either."""
    may = policy(FLEET, SCHEDULER, ACCOUNT)
    one = f"{EC2}:instance/i-1"
    assert allowed(may, "ec2:TerminateInstances", one, OURS)
    assert not allowed(may, "ec2:TerminateInstances", one, OTHERS)
    assert not allowed(may, "ec2:TerminateInstances", one)
    lease = {"aws:TagKeys": ["dist-zero:lease-until"]}
    assert allowed(may, "ec2:CreateTags", one, {**OURS, **lease})
    assert not allowed(may, "ec2:CreateTags", one, {**OTHERS, **lease})
    assert not allowed(may, "ec2:CreateTags", one, {**OURS, "aws:TagKeys": ["dist-zero:system"]})
    assert not allowed(may, "ec2:CreateTags", one, {**lease})


def test_a_scheduler_launches_with_its_tag_and_its_roles_alone() -> None:
    """So that what it starts is found, and can do no more than hosts of the system can."""
    may = policy(FLEET, SCHEDULER, ACCOUNT)
    ours = {"aws:RequestTag/dist-zero:system": "shop"}
    assert allowed(may, "ec2:RunInstances", f"{EC2}:instance/*", ours)
    assert not allowed(may, "ec2:RunInstances", f"{EC2}:instance/*")
    assert allowed(may, "ec2:RunInstances", f"{EC2}:security-group/sg-1")
    assert not allowed(may, "ec2:RunInstances", f"{EC2}:security-group/sg-2")
    assert allowed(may, "ec2:CreateTags", f"{EC2}:instance/i-9", {"ec2:CreateAction": "RunInstances"})
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    for role in (MACHINE, SCHEDULER):
        arn = f"arn:aws:iam::{ACCOUNT}:role/dist-zero/dist-zero-shop-{role}"
        assert allowed(may, "iam:PassRole", arn, to_ec2)
        assert not allowed(may, "iam:PassRole", arn, {"iam:PassedToService": "lambda.amazonaws.com"})
    admin = f"arn:aws:iam::{ACCOUNT}:role/admin"
    assert not allowed(may, "iam:PassRole", admin, to_ec2)
    assert allowed(policy(FLEET, SCHEDULER, ACCOUNT, [admin]), "iam:PassRole", admin, to_ec2), "it was named"
    assert trust()["Statement"][0]["Principal"] == {"Service": "ec2.amazonaws.com"}


def test_orphans_are_what_outlived_its_lease_and_what_nobody_here_knows() -> None:
    """A system of ours that is well is none; one of somebody else's that lives is said to."""
    found = judged(
        [
            instance("m1", 1, lease_until=1_100),
            instance("m2", 2, lease_until=900),
            instance("m1", 3, lease_until=1_100, system="bobs"),
            instance("m1", 4, lease_until=900, system="dead"),
            instance("m2", 5, state="terminated", system="dead"),
        ],
        {
            "shop": Access(("sg-1",), (), ()),
            "dead": Access(("sg-2",), ("p",), ("r",)),
            "gone": Access((), (), ("r2",)),
        },
        {"shop"},
        1_000.0,
    )
    assert {each.system: (each.things, each.lives) for each in found} == {
        "bobs": (("instance i-3 (m1, m6i.large), lease for 100 s",), True),
        "dead": (
            (
                "instance i-4 (m1, m6i.large), lease over since 100 s",
                "security group sg-2",
                "instance profile p",
                "role r",
            ),
            False,
        ),
        "gone": (("role r2",), False),
        "shop": (("instance i-2 (m2, m6i.large), lease over since 100 s",), True),
    }
