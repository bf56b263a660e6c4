"""What can be set from outside, each variable declared once: name, default, meaning, what is allowed.

This is the only reader of the environment. `load_settings` is called by entry points (the command line and
each service's `__main__`), which hand the frozen result on; nobody else asks what is set. A variable comes
from the environment, else from the file `.env`, else it has its default; one that is set to nothing counts as
not set.

`python -m dist_zero_common.settings` prints `.env.template`, which a test compares with the file in the tree.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from dist_zero_common.errors import SettingsError
from dist_zero_common.log import LEVELS
from dist_zero_common.variables import (
    Variable,
    parse_address,
    parse_amount,
    parse_broker_url,
    parse_count,
    parse_host,
    parse_http_url,
    parse_image,
    parse_labels,
    parse_log_level,
    parse_name,
    parse_numbers,
    parse_one_of,
    parse_path_or_none,
    parse_port_or_none,
    parse_store,
    parse_users,
    parse_words,
    parse_yes_or_no,
    variable,
)

ENV_FILE = Path(".env")
VERSION = "0.1.0"
"""What pyproject.toml says; the image of this version carries it."""

MACHINES_MAX = 256

_BROKER_URLS = "amqp://user:password@host:port/vhost, the same with amqps, or nothing"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that is set, checked. Paths are as given: a relative one is meant from the working directory."""

    broker_url: str = variable(
        "AMQP_URL",
        default="",
        meaning="The broker that services and clients meet at, with user and password if it wants them.",
        allowed=_BROKER_URLS,
        parse=parse_broker_url,
        secret=True,
    )
    runner_broker_url: str = variable(
        "DIST_ZERO_RUNNER_AMQP_URL",
        default="",
        meaning="The same broker for node runners, where they have a user of their own; without, it is AMQP_URL.",
        allowed=_BROKER_URLS,
        parse=parse_broker_url,
        secret=True,
    )
    admin_url: str = variable(
        "DIST_ZERO_ADMIN_URL",
        default="",
        meaning="The broker's management interface with an administrator's user: makes virtual host, users and rights.",
        allowed="http://user:password@host:port, the same with https, or nothing",
        parse=parse_http_url,
        secret=True,
    )
    broker_users: tuple[tuple[str, str], ...] = variable(
        "DIST_ZERO_BROKER_USERS",
        default="",
        meaning="The users that the broker's administration makes, by their class, with the passwords they get.",
        allowed="scheduler=password, agent=..., runner=..., client=..., with commas between them, or nothing",
        parse=parse_users,
        secret=True,
    )
    system: str = variable(
        "DIST_ZERO_SYSTEM",
        default="",
        meaning="The system that a service is part of; commands mean it where they are not told another one.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=parse_name,
    )
    machine: str = variable(
        "DIST_ZERO_MACHINE",
        default="",
        meaning="What the machine of an agent or runner is called, or the host of a scheduler; without, its host name.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=parse_name,
    )
    labels: tuple[str, ...] = variable(
        "DIST_ZERO_LABELS",
        default="",
        meaning="What else is to be said of the machine.",
        allowed="name=value, several with commas between them, or nothing",
        parse=parse_labels,
    )
    machines: int = variable(
        "DIST_ZERO_MACHINES",
        default="1",
        meaning="How many machines there shall be before a program is placed on them (a scheduler's).",
        allowed=f"a number from 1 to {MACHINES_MAX}",
        parse=parse_count(1, MACHINES_MAX),
    )
    lease_seconds: float = variable(
        "DIST_ZERO_LEASE_SECONDS",
        default="10",
        meaning="For how long a scheduler that leads may be silent before another one that stands by takes over.",
        allowed="a number from 2 to 600",
        parse=parse_count(2, 600),
    )
    report_seconds: float = variable(
        "DIST_ZERO_REPORT_SECONDS",
        default="600",
        meaning="A host that a scheduler asked for and that has not reported after so long is ended and replaced.",
        allowed="a number from 10 to 86400",
        parse=parse_count(10, 86_400),
    )
    lost_seconds: float = variable(
        "DIST_ZERO_LOST_SECONDS",
        default="300",
        meaning="A host that was there and is silent for so long is ended and replaced; its nodes moved long before.",
        allowed="a number from 10 to 86400",
        parse=parse_count(10, 86_400),
    )
    growth: tuple[tuple[str, float], ...] = variable(
        "DIST_ZERO_GROWTH",
        default="",
        meaning="How automatic programs and machines follow the load, where it is not as usual (a scheduler's).",
        allowed="name=number, several with commas between them, as docs/operations.md lists them, or nothing",
        parse=parse_numbers,
    )
    store: Path | str | None = variable(
        "DIST_ZERO_STORE",
        default="",
        meaning="The directory or bucket that keeps what must not be lost, the same one for all services of a system.",
        allowed="a directory's path, file:///path, s3://bucket/prefix, or nothing",
        parse=parse_store,
    )
    s3_endpoint: str = variable(
        "AWS_ENDPOINT_URL",
        default="",
        meaning="Where buckets are that are not Amazon's: MinIO and its like.",
        allowed="http://host:port, the same with https, or nothing",
        parse=parse_http_url,
    )
    aws_region: str = variable(
        "AWS_REGION",
        default="",
        meaning="The region of the bucket, and of instances; without, it is us-east-1.",
        allowed="a region's name, or nothing",
        parse=str,
    )
    aws_key_id: str = variable(
        "AWS_ACCESS_KEY_ID",
        default="",
        meaning="The key that opens the bucket; without, it is the role of the machine or container that does.",
        allowed="a key's id, or nothing",
        parse=str,
    )
    aws_secret: str = variable(
        "AWS_SECRET_ACCESS_KEY",
        default="",
        meaning="What belongs to the key.",
        allowed="a text, or nothing",
        parse=str,
        secret=True,
    )
    aws_token: str = variable(
        "AWS_SESSION_TOKEN",
        default="",
        meaning="What belongs to a key that is good for some time only.",
        allowed="a text, or nothing",
        parse=str,
        secret=True,
    )
    spawner: str = variable(
        "DIST_ZERO_SPAWNER",
        default="none",
        meaning="Whether a scheduler obtains hosts by itself: ec2, those that `up --mode cloud` has described.",
        allowed="none, ec2",
        parse=parse_one_of("none", "ec2"),
    )
    cloud_image: str = variable(
        "DIST_ZERO_CLOUD_IMAGE",
        default="",
        meaning="The image of instances; without, it is the newest official one of Debian 13.",
        allowed="ami-..., or nothing",
        parse=str,
    )
    cloud_image_has_dist_zero: bool = variable(
        "DIST_ZERO_CLOUD_IMAGE_HAS_DIST_ZERO",
        default="no",
        meaning="Whether the image has DistZero in it; if not, `up` uploads what hosts install.",
        allowed="yes, no",
        parse=parse_yes_or_no,
    )
    cloud_machine_types: tuple[str, ...] = variable(
        "DIST_ZERO_CLOUD_MACHINE_TYPES",
        default="m6i.large,m6a.large,m5.large",
        meaning="The instance types of machines: the first one that there is room for.",
        allowed="instance types with commas between them",
        parse=parse_words,
    )
    cloud_scheduler_types: tuple[str, ...] = variable(
        "DIST_ZERO_CLOUD_SCHEDULER_TYPES",
        default="t3.small,t3a.small",
        meaning="The instance types of hosts that run a scheduler, as for machines.",
        allowed="instance types with commas between them",
        parse=parse_words,
    )
    cloud_subnets: tuple[str, ...] = variable(
        "DIST_ZERO_CLOUD_SUBNETS",
        default="",
        meaning="The subnets of instances: the first one that has room; without, the region's default network.",
        allowed="subnet-..., several with commas between them, or nothing",
        parse=parse_words,
    )
    cloud_security_groups: tuple[str, ...] = variable(
        "DIST_ZERO_CLOUD_SECURITY_GROUPS",
        default="",
        meaning="The security groups of instances; without, one is made that lets nobody in.",
        allowed="sg-..., several with commas between them, or nothing",
        parse=parse_words,
    )
    cloud_machine_profile: str = variable(
        "DIST_ZERO_CLOUD_MACHINE_PROFILE",
        default="",
        meaning="The instance profile of machines; without, one is made.",
        allowed="an instance profile's name, or nothing",
        parse=str,
    )
    cloud_scheduler_profile: str = variable(
        "DIST_ZERO_CLOUD_SCHEDULER_PROFILE",
        default="",
        meaning="The instance profile of hosts that run a scheduler; without, one is made.",
        allowed="an instance profile's name, or nothing",
        parse=str,
    )
    cloud_spot: bool = variable(
        "DIST_ZERO_CLOUD_SPOT",
        default="no",
        meaning="Whether instances are spot instances: cheaper, and ended when Amazon wants them back.",
        allowed="yes, no",
        parse=parse_yes_or_no,
    )
    cloud_owner: str = variable(
        "DIST_ZERO_CLOUD_OWNER",
        default="",
        meaning="The tag dist-zero:owner of what is made; without, it is who the credentials belong to.",
        allowed="a text, or nothing",
        parse=str,
    )
    cloud_lease_seconds: int = variable(
        "DIST_ZERO_CLOUD_LEASE_SECONDS",
        default="900",
        meaning="For how long instances live that nobody renews.",
        allowed="a number from 5 to 86400",
        parse=parse_count(5, 86_400),
    )
    cloud_schedulers: int = variable(
        "DIST_ZERO_CLOUD_SCHEDULERS",
        default="2",
        meaning="How many hosts run a scheduler; with a single one, nobody renews leases when that is gone.",
        allowed="a number from 1 to 9",
        parse=parse_count(1, 9),
    )
    cloud_disk_gigabytes: int = variable(
        "DIST_ZERO_CLOUD_DISK_GIGABYTES",
        default="20",
        meaning="The size of an instance's disk.",
        allowed="a number from 8 to 16000",
        parse=parse_count(8, 16_000),
    )
    cloud_max_machines: int = variable(
        "DIST_ZERO_CLOUD_MAX_MACHINES",
        default="16",
        meaning="How many machines a system may have at once, whatever is asked for.",
        allowed=f"a number from 1 to {MACHINES_MAX}",
        parse=parse_count(1, MACHINES_MAX),
    )
    cloud_max_usd_per_hour: float = variable(
        "DIST_ZERO_CLOUD_MAX_USD_PER_HOUR",
        default="0",
        meaning="What all instances of a system may cost together; 0 is no limit.",
        allowed="a number of USD per hour",
        parse=parse_amount,
    )
    cloud_prices: Path | None = variable(
        "DIST_ZERO_CLOUD_PRICES",
        default="",
        meaning="What instance types cost, in USD per hour, where the snapshot that comes along is not right.",
        allowed="the path of a JSON file, or nothing",
        parse=parse_path_or_none,
    )
    cloud_endpoint: str = variable(
        "DIST_ZERO_CLOUD_ENDPOINT",
        default="",
        meaning="Where EC2, IAM and STS are, in tests; without, they are Amazon's.",
        allowed="http://host:port, the same with https, or nothing",
        parse=parse_http_url,
    )
    executor: str = variable(
        "DIST_ZERO_EXECUTOR",
        default="auto",
        meaning="What runs plans: C that is compiled for them, or Python. auto: C where there is a compiler.",
        allowed="auto, native, interpreter",
        parse=parse_one_of("auto", "native", "interpreter"),
    )
    native_cache: Path | None = variable(
        "DIST_ZERO_NATIVE_CACHE",
        default="",
        meaning="Where compiled plans are kept; without, it is dist-zero/native in the user's directory for caches.",
        allowed="a directory's path, or nothing",
        parse=parse_path_or_none,
    )
    cache_home: Path | None = variable(
        "XDG_CACHE_HOME",
        default="",
        meaning="The user's directory for caches; without, it is ~/.cache.",
        allowed="a directory's path, or nothing",
        parse=parse_path_or_none,
    )
    c_compiler: str = variable(
        "CC",
        default="",
        meaning="The C compiler, with options if it needs some; without, it is the first of cc, gcc and clang.",
        allowed="a command, or nothing",
        parse=str,
    )
    keep_log: bool = variable(
        "DIST_ZERO_KEEP_LOG",
        default="no",
        meaning="Whether logs of programs are kept whole, also what no base reaches: to recompute views (--check).",
        allowed="yes, no",
        parse=parse_yes_or_no,
    )
    runner: str = variable(
        "DIST_ZERO_RUNNER",
        default="",
        meaning="The runner that a process is: a machine agent sets it for those that it starts, and nobody else does.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=parse_name,
    )
    runner_incarnation: int = variable(
        "DIST_ZERO_RUNNER_INCARNATION",
        default="0",
        meaning="The runner's incarnation, set together with its name.",
        allowed="a number from 0 to 2^63 - 1",
        parse=parse_count(0, 2**63 - 1),
    )
    metrics_port: int | None = variable(
        "DIST_ZERO_METRICS_PORT",
        default="",
        meaning="The port at which Prometheus finds a service's metrics; the next one is for a runner that it starts.",
        allowed="a number from 0 (any port that is free) to 65534, or nothing: there are no metrics",
        parse=parse_port_or_none,
    )
    metrics_address: str = variable(
        "DIST_ZERO_METRICS_ADDRESS",
        default="127.0.0.1",
        meaning="The address that metrics are given out at: 0.0.0.0 is all there are, which is what the image says.",
        allowed="an IP address or the name of one",
        parse=parse_address,
    )
    image: str = variable(
        "DIST_ZERO_IMAGE",
        default=f"dist-zero:{VERSION}",
        meaning="The image of services in containers; it is built when it is missing.",
        allowed="an image's name",
        parse=parse_image,
    )
    base_image: str = variable(
        "DIST_ZERO_BASE_IMAGE",
        default="debian:trixie-slim",
        meaning="The image that ours is built from.",
        allowed="an image's name",
        parse=parse_image,
    )
    rabbitmq_image: str = variable(
        "DIST_ZERO_RABBITMQ_IMAGE",
        default="rabbitmq:4.0-management",
        meaning="The image of brokers that DistZero starts.",
        allowed="an image's name",
        parse=parse_image,
    )
    log_directory: Path = variable(
        "DIST_ZERO_LOG_DIR",
        default=".tmp",
        meaning="The directory that log files are written to; it is made when it is missing.",
        allowed="a directory's path",
        parse=Path,
    )
    log_level: str = variable(
        "DIST_ZERO_LOG_LEVEL",
        default="info",
        meaning="The least important events that are still written to log files.",
        allowed=", ".join(LEVELS),
        parse=parse_log_level,
    )
    logstash_host: str = variable(
        "LOGSTASH_HOST",
        default="",
        meaning="The host of a Logstash that every process sends its events to as well; without, none does.",
        allowed="a host's name or address, without a port, or nothing",
        parse=parse_host,
    )
    logstash_port: int = variable(
        "LOGSTASH_PORT",
        default="5533",
        meaning="The port at which that Logstash takes lines of JSON over TCP.",
        allowed="a number from 1 to 65535",
        parse=parse_count(1, 65_535),
    )

    @property
    def logstash(self) -> tuple[str, int] | None:
        """Host and port of the Logstash that events go to, too; None if none is set."""
        return (self.logstash_host, self.logstash_port) if self.logstash_host else None


def _variables() -> dict[str, Variable[Any]]:
    return {item.name: _variable_of(item) for item in fields(Settings)}


def _variable_of(item: Field[Any]) -> Variable[Any]:
    variable = item.metadata["variable"]
    assert isinstance(variable, Variable), item
    return variable


def load_settings(environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE) -> Settings:
    """Read every variable once, from `environ` (default: this process's) and from `env_file`, if it exists.

    Raises `SettingsError` for a value that is not allowed, for a line of the file that says nothing, and for
    a variable that begins with DIST_ZERO_ and is not one of ours: a misspelt setting is an error.
    """
    given = _from_file(env_file) | {
        name: text for name, text in (os.environ if environ is None else environ).items() if text
    }
    variables = _variables()
    known = sorted(variable.name for variable in variables.values())
    for name in sorted(given):
        if name.startswith("DIST_ZERO_") and name not in known:
            raise SettingsError(f"{name} is set, but there is no such setting; there are {', '.join(known)}")
    return Settings(
        **{
            field_name: variable.read(given.get(variable.name, variable.default))
            for field_name, variable in variables.items()
        }
    )


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that this one starts: its own, with these changes."""
    return {**os.environ, **changes}


def _from_file(env_file: Path | None) -> dict[str, str]:
    if env_file is None or not env_file.is_file():
        return {}
    given = {}
    with env_file.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            if binding.error or (binding.key is not None and binding.value is None):
                raise SettingsError(f"{env_file}, line {binding.original.line}: this is not NAME=value")
            if binding.key and binding.value:
                given[binding.key] = binding.value
    return given


def template() -> str:
    """The text of `.env.template`: every variable with its meaning, what is allowed and its default."""
    parts = ["# Copy this file to .env and change what you need. The environment comes before .env.\n"]
    for each in _variables().values():
        parts.append(f"\n# {each.meaning}\n# Allowed: {each.allowed}.\n{each.name}={each.default}\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(template())
