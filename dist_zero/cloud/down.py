"""Ending a system on EC2: its instances, and what was made for them. The store stays.

Schedulers go first, and have ended before the machines are: one that still runs would obtain new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dist_zero.cloud.access import all_access, remove_access
from dist_zero_common.cloud.aws import Aws, Sleep, explained
from dist_zero_common.cloud.fleet import SCHEDULER, bucket_and_prefix, object_key
from dist_zero_common.cloud.instances import Instance, listed_instances
from dist_zero_common.errors import OperatorError

END_SECONDS_MAX = 600.0
LOOK_SECONDS = 2.0
ENDED = "terminated"
Tell = Callable[[str], None]


def take_down(
    aws: Aws,
    system: str,
    store: str,
    tell: Tell,
    *,
    sleep: Sleep = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """End all instances of the system and remove what was made for it, telling what it was; without a `store`, no
    object. Raises `OperatorError` if something is left."""
    _end(aws, system, (SCHEDULER,), tell, sleep, monotonic)
    _end(aws, system, (), tell, sleep, monotonic)
    found = all_access(aws).get(system)
    if found is not None:
        remove_access(aws, found, sleep=sleep)
        for each in found.said():
            tell(each)
    if store:
        remove_objects(aws, store, tell)
    left = what_is_left(aws, system)
    if left:
        raise OperatorError(f"of system {system} there is still {', '.join(left)}: `dist-zero down` again")


def _end(
    aws: Aws,
    system: str,
    roles: tuple[str, ...],
    tell: Tell,
    sleep: Sleep,
    monotonic: Callable[[], float],
) -> None:
    """End the instances of these roles, or all, and wait until they have ended."""
    started, told = monotonic(), frozenset[str]()
    while True:
        there = [
            each
            for each in listed_instances(aws, system)
            if each.state != ENDED and (not roles or each.role in roles)
        ]
        if not there:
            return
        if monotonic() - started > END_SECONDS_MAX:
            raise OperatorError(
                f"{', '.join(each.id for each in there)} of system {system} did not end within {END_SECONDS_MAX:.0f} s:"
                " `dist-zero down` again"
            )
        ending = [each for each in there if each.state != "shutting-down"]
        if ending:
            with explained(f"end the instances of system {system}"):
                aws.ec2.terminate_instances(InstanceIds=sorted(each.id for each in ending))
        for each in there:
            if each.id not in told:
                tell(said(each))
        told |= {each.id for each in there}
        sleep(LOOK_SECONDS)


def said(instance: Instance) -> str:
    """An instance for people."""
    return f"instance {instance.id} ({instance.host}, {instance.type})"


def remove_objects(aws: Aws, store: str, tell: Tell) -> None:
    """Remove the objects that are about instances, secrets among them."""
    bucket = bucket_and_prefix(store)[0]
    keys = aws.object_keys(bucket, object_key(store) + "/")
    for key in keys:
        aws.delete_object(bucket, key)
    if keys:
        tell(f"{len(keys)} objects below s3://{bucket}/{object_key(store)}")


def what_is_left(aws: Aws, system: str) -> list[str]:
    """What AWS has of the system, apart from its store, in words."""
    access = all_access(aws).get(system)
    left = [said(each) for each in listed_instances(aws, system) if each.state != ENDED]
    return left + (access.said() if access is not None else [])
