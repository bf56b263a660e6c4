"""What systems have left at AWS: found by their tags, whoever has started them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dist_zero.cloud.access import Access, all_access
from dist_zero.cloud.down import ENDED, said
from dist_zero_common.cloud.aws import Aws
from dist_zero_common.cloud.instances import Instance, listed_instances


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a system. `lives`: some instance has a lease that goes on, so somebody may be using it."""

    system: str
    things: tuple[str, ...]
    lives: bool


def found_systems(aws: Aws, known: Collection[str], now: float) -> list[Found]:
    """Systems of which something is there and that are not `known` here, and those of which an instance has outlived
    its lease. `now`: seconds since 1970."""
    return judged(listed_instances(aws), all_access(aws), known, now)


def judged(
    instances: Collection[Instance], access: dict[str, Access], known: Collection[str], now: float
) -> list[Found]:
    """The same, of what AWS has listed."""
    there = [each for each in instances if each.state != ENDED]
    found = []
    for system in sorted({*access, *(each.system for each in there)}):
        ours = [each for each in there if each.system == system]
        outlived = [each for each in ours if each.lease_until < now]
        if system in known and not outlived:
            continue
        things = [said(each) + _lease(each, now) for each in ours if system not in known or each in outlived]
        if system not in known and system in access:
            things += access[system].said()
        found.append(Found(system, tuple(things), any(each.lease_until >= now for each in ours)))
    return found


def _lease(instance: Instance, now: float) -> str:
    left = instance.lease_until - now
    if left < 0:
        return f", lease over since {-left:.0f} s"
    return f", lease for {left:.0f} s"
