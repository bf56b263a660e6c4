"""From settings to the fleet of a system, and to what services on its hosts are told. Nothing is asked of AWS."""

from __future__ import annotations

import platform
from dataclasses import replace

from dist_zero.cloud.source import Source, source_here
from dist_zero_common.cloud.aws import REGION
from dist_zero_common.cloud.fleet import (
    MACHINE,
    SCHEDULER,
    Fleet,
    Kind,
    checked_fleet,
    checked_system,
    role_name,
)
from dist_zero_common.cloud.prices import prices_of, read_prices
from dist_zero_common.errors import SettingsError
from dist_zero_common.settings import Settings


def fleet_of(settings: Settings, system: str, machines: int, source: Source | None) -> Fleet:
    """The fleet that the settings ask for. Empty are the image and the owner, if they were not said, and the security
    groups, if one is to be made: AWS tells. Raises `SettingsError`."""
    checked_system(system)
    types = (*settings.cloud_machine_types, *settings.cloud_scheduler_types)
    own = read_prices(settings.cloud_prices) if settings.cloud_prices is not None else {}
    return checked_fleet(
        Fleet(
            system=system,
            region=settings.aws_region or REGION,
            store=str(settings.store or ""),
            image=settings.cloud_image,
            machine=Kind(
                settings.cloud_machine_types, settings.cloud_machine_profile or role_name(system, MACHINE)
            ),
            scheduler=Kind(
                settings.cloud_scheduler_types,
                settings.cloud_scheduler_profile or role_name(system, SCHEDULER),
            ),
            subnets=settings.cloud_subnets,
            security_groups=settings.cloud_security_groups,
            spot=settings.cloud_spot,
            owner=settings.cloud_owner,
            started_by=platform.node() or "unknown",
            lease_seconds=settings.cloud_lease_seconds,
            machines=machines,
            schedulers=settings.cloud_schedulers,
            max_machines=settings.cloud_max_machines,
            max_usd_per_hour=settings.cloud_max_usd_per_hour,
            prices=prices_of(types, own, limited=settings.cloud_max_usd_per_hour > 0),
            disk_gigabytes=settings.cloud_disk_gigabytes,
            source=source.name if source else "",
            requirements=source.requirements_name if source else "",
            endpoint=settings.cloud_endpoint,
            s3_endpoint=settings.s3_endpoint,
        )
    )


def source_of(settings: Settings) -> Source | None:
    """What hosts are to install, None if their image is said to have it."""
    return None if settings.cloud_image_has_dist_zero else source_here()


def broker_of(settings: Settings, broker: str | None) -> str:
    """The broker of the system. Raises `SettingsError`: in the cloud none is started."""
    url = broker or settings.broker_url
    if not url:
        raise SettingsError(
            "in the cloud the system's broker is one that is there, your own or Amazon MQ, and that instances reach:"
            " name it with --broker amqps://user:password@host/vhost or AMQP_URL"
        )
    return url


def environment(settings: Settings, fleet: Fleet, role: str, broker_url: str) -> dict[str, str]:
    """What services on hosts of this role are told: their environment, with secrets in it."""
    told = {
        "AMQP_URL": broker_url,
        "DIST_ZERO_RUNNER_AMQP_URL": settings.runner_broker_url,
        "DIST_ZERO_SYSTEM": fleet.system,
        "DIST_ZERO_STORE": fleet.store,
        "AWS_REGION": fleet.region,
        "AWS_ENDPOINT_URL": fleet.s3_endpoint,
        "DIST_ZERO_LOG_LEVEL": settings.log_level,
        "DIST_ZERO_KEEP_LOG": "yes" if settings.keep_log else "no",
        "DIST_ZERO_EXECUTOR": settings.executor,
        "DIST_ZERO_METRICS_PORT": "" if settings.metrics_port is None else str(settings.metrics_port),
        "DIST_ZERO_METRICS_ADDRESS": settings.metrics_address if settings.metrics_port is not None else "",
        "LOGSTASH_HOST": settings.logstash_host,
        "LOGSTASH_PORT": str(settings.logstash_port),
    }
    if role == SCHEDULER:
        told |= {
            "DIST_ZERO_SPAWNER": "ec2",
            "DIST_ZERO_MACHINES": str(fleet.machines),
            "DIST_ZERO_CLOUD_SCHEDULERS": str(fleet.schedulers),
            "DIST_ZERO_CLOUD_ENDPOINT": fleet.endpoint,
            "DIST_ZERO_LEASE_SECONDS": f"{settings.lease_seconds:g}",
            "DIST_ZERO_REPORT_SECONDS": f"{settings.report_seconds:g}",
            "DIST_ZERO_LOST_SECONDS": f"{settings.lost_seconds:g}",
            "DIST_ZERO_GROWTH": ",".join(f"{name}={number!r}" for name, number in settings.growth),
        }
    return {name: text for name, text in told.items() if text}


def with_answers(fleet: Fleet, image: str, owner: str, groups: tuple[str, ...]) -> Fleet:
    """The fleet with what AWS was asked for."""
    return replace(
        fleet,
        image=fleet.image or image,
        owner=fleet.owner or owner,
        security_groups=fleet.security_groups or groups,
    )
