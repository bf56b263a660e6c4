"""Fleets and instances for tests, with what a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dist_zero_common.cloud.fleet import MACHINE, SCHEDULER, Fleet, Kind
from dist_zero_common.cloud.instances import Instance

FLEET = Fleet(
    system="shop",
    region="us-east-1",
    store="s3://acme/live",
    image="ami-1",
    machine=Kind(("m6i.large", "m5.large"), "dist-zero-shop-machine"),
    scheduler=Kind(("t3.small",), "dist-zero-shop-scheduler"),
    subnets=(),
    security_groups=("sg-1",),
    spot=False,
    owner="ann",
    started_by="laptop",
    lease_seconds=900,
    machines=2,
    schedulers=2,
    max_machines=4,
    max_usd_per_hour=0.0,
    prices=(("m5.large", 0.1), ("m6i.large", 0.1), ("t3.small", 0.02)),
    disk_gigabytes=20,
)


def fleet(**changes: Any) -> Fleet:
    """The usual fleet, with changes."""
    return replace(FLEET, **changes)


def instance(
    host: str = "m1",
    number: int = 1,
    *,
    state: str = "running",
    generation: int = 1,
    launched_at: float = 100.0,
    lease_until: int = 1_000,
    system: str = "shop",
) -> Instance:
    """An instance i-<number>."""
    role, kind = (SCHEDULER, "t3.small") if host.startswith("s") else (MACHINE, "m6i.large")
    return Instance(
        f"i-{number}", system, host, role, kind, state, generation, launched_at, lease_until, spot=False
    )
