"""What can be set from outside, each variable declared once: name, default, meaning, what is allowed.

This is the only reader of the environment. `load_settings` is called by entry points (the command line and
each service's `__main__`), which hand the frozen result on; nobody else asks what is set. A variable comes
from the environment, else from the file `.env`, else it has its default; one that is set to nothing counts as
not set.

`python -m dist_zero_common.settings` prints `.env.template`, which a test compares with the file in the tree.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar

from dotenv.parser import parse_stream

from dist_zero_common.errors import SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import LEVELS

ENV_FILE = Path(".env")
VERSION = "0.1.0"
"""What pyproject.toml says; the image of this version carries it."""

MACHINES_MAX = 256
PORT_MAX = 65_534
"""The one behind it is for a child of whoever has it."""

_BROKER_URLS = "amqp://user:password@host:port/vhost, the same with amqps, or nothing"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z|[0-9A-Fa-f:.]{2,45}\Z")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,100}=[A-Za-z0-9._-]{1,100}\Z")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Variable(Generic[Value]):
    """One variable of the environment.

    `parse` turns its text into the value, raising `ValueError` for text that is not `allowed`. A `secret` one
    is never repeated in an error.
    """

    name: str
    default: str
    meaning: str
    allowed: str
    parse: Callable[[str], Value]
    secret: bool = False

    def read(self, text: str) -> Value:
        """What `text` stands for; raises `SettingsError` naming variable, text and what is allowed."""
        try:
            return self.parse(text)
        except ValueError:
            shown = "its value" if self.secret else repr(text)
            raise SettingsError(f"{self.name}: {shown} makes no sense; allowed is {self.allowed}") from None


def _variable(
    name: str,
    *,
    default: str,
    meaning: str,
    allowed: str,
    parse: Callable[[str], Value],
    secret: bool = False,
) -> Value:
    variable = Variable(name, default, meaning, allowed, parse, secret)
    made: Value = field(default=variable.read(default), metadata={"variable": variable}, repr=not secret)
    return made


def _broker_url(text: str) -> str:
    if text and not text.startswith(("amqp://", "amqps://")):
        raise ValueError(text)
    return text


def _image(text: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise ValueError(text)
    return text


def _host(text: str) -> str:
    if text and not _HOST.match(text):
        raise ValueError(text)
    return text


def _http_url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(text)
    return text


def _name(text: str) -> str:
    try:
        return checked_name("system", text) if text else ""
    except SettingsError as wrong:
        raise ValueError(text) from wrong


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def _port_or_none(text: str) -> int | None:
    return _count(0, PORT_MAX)(text) if text else None


def _address(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:-]+", text):
        raise ValueError(text)
    return text


def _numbers(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    numbers = tuple((name.strip(), float(number)) for name, _, number in pairs)
    if not all(isfinite(number) and number >= 0 for _, number in numbers):
        raise ValueError
    return numbers


def _amount(text: str) -> float:
    amount = float(text)
    if not (isfinite(amount) and amount >= 0):
        raise ValueError(text)
    return amount


def _words(text: str) -> tuple[str, ...]:
    words = tuple(part.strip() for part in text.split(",") if part.strip())
    if any(character.isspace() for word in words for character in word):
        raise ValueError(text)
    return words


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return parse


def _path_or_none(text: str) -> Path | None:
    return Path(text) if text else None


def parse_labels(text: str) -> tuple[str, ...]:
    """Labels of a machine, `name=value` with commas between them. Raises `ValueError`."""
    labels = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(_LABEL.match(label) for label in labels):
        raise ValueError(text)
    return labels


def _users(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(name and password for name, _, password in pairs):
        raise ValueError(text)
    return tuple((name, password) for name, _, password in pairs)


def _store(text: str) -> Path | str | None:
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text) if text else None
    if scheme not in ("s3", "file") or not rest:
        raise ValueError(text)
    return text


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError(text)
    return text.lower() == "yes"


def _log_level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(text)
    return text.lower()


@dataclass(frozen=True, slots=True)
class Settings:
    """All that is set, checked. Paths are as given: a relative one is meant from the working directory."""

    broker_url: str = _variable(
        "AMQP_URL",
        default="",
        meaning="The broker that services and clients meet at, with user and password if it wants them.",
        allowed=_BROKER_URLS,
        parse=_broker_url,
        secret=True,
    )
    runner_broker_url: str = _variable(
        "DIST_ZERO_RUNNER_AMQP_URL",
        default="",
        meaning="The same broker for node runners, where they have a user of their own; without, it is AMQP_URL.",
        allowed=_BROKER_URLS,
        parse=_broker_url,
        secret=True,
    )
    admin_url: str = _variable(
        "DIST_ZERO_ADMIN_URL",
        default="",
        meaning="The broker's management interface with an administrator's user: makes virtual host, users and rights.",
        allowed="http://user:password@host:port, the same with https, or nothing",
        parse=_http_url,
        secret=True,
    )
    broker_users: tuple[tuple[str, str], ...] = _variable(
        "DIST_ZERO_BROKER_USERS",
        default="",
        meaning="The users that the broker's administration makes, by their class, with the passwords they get.",
        allowed="scheduler=password, agent=..., runner=..., client=..., with commas between them, or nothing",
        parse=_users,
        secret=True,
    )
    system: str = _variable(
        "DIST_ZERO_SYSTEM",
        default="",
        meaning="The system that a service is part of; commands mean it where they are not told another one.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=_name,
    )
    machine: str = _variable(
        "DIST_ZERO_MACHINE",
        default="",
        meaning="What the machine of an agent or runner is called, or the host of a scheduler; without, its host name.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=_name,
    )
    labels: tuple[str, ...] = _variable(
        "DIST_ZERO_LABELS",
        default="",
        meaning="What else is to be said of the machine.",
        allowed="name=value, several with commas between them, or nothing",
        parse=parse_labels,
    )
    machines: int = _variable(
        "DIST_ZERO_MACHINES",
        default="1",
        meaning="How many machines there shall be before a program is placed on them (a scheduler's).",
        allowed=f"a number from 1 to {MACHINES_MAX}",
        parse=_count(1, MACHINES_MAX),
    )
    lease_seconds: float = _variable(
        "DIST_ZERO_LEASE_SECONDS",
        default="10",
        meaning="For how long a scheduler that leads may be silent before another one that stands by takes over.",
        allowed="a number from 2 to 600",
        parse=_count(2, 600),
    )
    report_seconds: float = _variable(
        "DIST_ZERO_REPORT_SECONDS",
        default="600",
        meaning="A host that a scheduler asked for and that has not reported after so long is ended and replaced.",
        allowed="a number from 10 to 86400",
        parse=_count(10, 86_400),
    )
    lost_seconds: float = _variable(
        "DIST_ZERO_LOST_SECONDS",
        default="300",
        meaning="A host that was there and is silent for so long is ended and replaced; its nodes moved long before.",
        allowed="a number from 10 to 86400",
        parse=_count(10, 86_400),
    )
    growth: tuple[tuple[str, float], ...] = _variable(
        "DIST_ZERO_GROWTH",
        default="",
        meaning="How automatic programs and machines follow the load, where it is not as usual (a scheduler's).",
        allowed="name=number, several with commas between them, as docs/operations.md lists them, or nothing",
        parse=_numbers,
    )
    store: Path | str | None = _variable(
        "DIST_ZERO_STORE",
        default="",
        meaning="The directory or bucket that keeps what must not be lost, the same one for all services of a system.",
        allowed="a directory's path, file:///path, s3://bucket/prefix, or nothing",
        parse=_store,
    )
    s3_endpoint: str = _variable(
        "AWS_ENDPOINT_URL",
        default="",
        meaning="Where buckets are that are not Amazon's: MinIO and its like.",
        allowed="http://host:port, the same with https, or nothing",
        parse=_http_url,
    )
    aws_region: str = _variable(
        "AWS_REGION",
        default="",
        meaning="The region of the bucket, and of instances; without, it is us-east-1.",
        allowed="a region's name, or nothing",
        parse=str,
    )
    aws_key_id: str = _variable(
        "AWS_ACCESS_KEY_ID",
        default="",
        meaning="The key that opens the bucket; without, it is the role of the machine or container that does.",
        allowed="a key's id, or nothing",
        parse=str,
    )
    aws_secret: str = _variable(
        "AWS_SECRET_ACCESS_KEY",
        default="",
        meaning="What belongs to the key.",
        allowed="a text, or nothing",
        parse=str,
        secret=True,
    )
    aws_token: str = _variable(
        "AWS_SESSION_TOKEN",
        default="",
        meaning="What belongs to a key that is good for some time only.",
        allowed="a text, or nothing",
        parse=str,
        secret=True,
    )
    spawner: str = _variable(
        "DIST_ZERO_SPAWNER",
        default="none",
        meaning="Whether a scheduler obtains hosts by itself: ec2, those that `up --mode cloud` has described.",
        allowed="none, ec2",
        parse=_one_of("none", "ec2"),
    )
    cloud_image: str = _variable(
        "DIST_ZERO_CLOUD_IMAGE",
        default="",
        meaning="The image of instances; without, it is the newest official one of Debian 13.",
        allowed="ami-..., or nothing",
        parse=str,
    )
    cloud_image_has_dist_zero: bool = _variable(
        "DIST_ZERO_CLOUD_IMAGE_HAS_DIST_ZERO",
        default="no",
        meaning="Whether the image has DistZero in it; if not, `up` uploads what hosts install.",
        allowed="yes, no",
        parse=_yes_or_no,
    )
    cloud_machine_types: tuple[str, ...] = _variable(
        "DIST_ZERO_CLOUD_MACHINE_TYPES",
        default="m6i.large,m6a.large,m5.large",
        meaning="The instance types of machines: the first one that there is room for.",
        allowed="instance types with commas between them",
        parse=_words,
    )
    cloud_scheduler_types: tuple[str, ...] = _variable(
        "DIST_ZERO_CLOUD_SCHEDULER_TYPES",
        default="t3.small,t3a.small",
        meaning="The instance types of hosts that run a scheduler, as for machines.",
        allowed="instance types with commas between them",
        parse=_words,
    )
    cloud_subnets: tuple[str, ...] = _variable(
        "DIST_ZERO_CLOUD_SUBNETS",
        default="",
        meaning="The subnets of instances: the first one that has room; without, the region's default network.",
        allowed="subnet-..., several with commas between them, or nothing",
        parse=_words,
    )
    cloud_security_groups: tuple[str, ...] = _variable(
        "DIST_ZERO_CLOUD_SECURITY_GROUPS",
        default="",
        meaning="The security groups of instances; without, one is made that lets nobody in.",
        allowed="sg-..., several with commas between them, or nothing",
        parse=_words,
    )
    cloud_machine_profile: str = _variable(
        "DIST_ZERO_CLOUD_MACHINE_PROFILE",
        default="",
        meaning="The instance profile of machines; without, one is made.",
        allowed="an instance profile's name, or nothing",
        parse=str,
    )
    cloud_scheduler_profile: str = _variable(
        "DIST_ZERO_CLOUD_SCHEDULER_PROFILE",
        default="",
        meaning="The instance profile of hosts that run a scheduler; without, one is made.",
        allowed="an instance profile's name, or nothing",
        parse=str,
    )
    cloud_spot: bool = _variable(
        "DIST_ZERO_CLOUD_SPOT",
        default="no",
        meaning="Whether instances are spot instances: cheaper, and ended when Amazon wants them back.",
        allowed="yes, no",
        parse=_yes_or_no,
    )
    cloud_owner: str = _variable(
        "DIST_ZERO_CLOUD_OWNER",
        default="",
        meaning="The tag dist-zero:owner of what is made; without, it is who the credentials belong to.",
        allowed="a text, or nothing",
        parse=str,
    )
    cloud_lease_seconds: int = _variable(
        "DIST_ZERO_CLOUD_LEASE_SECONDS",
        default="900",
        meaning="For how long instances live that nobody renews.",
        allowed="a number from 5 to 86400",
        parse=_count(5, 86_400),
    )
    cloud_schedulers: int = _variable(
        "DIST_ZERO_CLOUD_SCHEDULERS",
        default="2",
        meaning="How many hosts run a scheduler; with a single one, nobody renews leases when that is gone.",
        allowed="a number from 1 to 9",
        parse=_count(1, 9),
    )
    cloud_disk_gigabytes: int = _variable(
        "DIST_ZERO_CLOUD_DISK_GIGABYTES",
        default="20",
        meaning="The size of an instance's disk.",
        allowed="a number from 8 to 16000",
        parse=_count(8, 16_000),
    )
    cloud_max_machines: int = _variable(
        "DIST_ZERO_CLOUD_MAX_MACHINES",
        default="16",
        meaning="How many machines a system may have at once, whatever is asked for.",
        allowed=f"a number from 1 to {MACHINES_MAX}",
        parse=_count(1, MACHINES_MAX),
    )
    cloud_max_usd_per_hour: float = _variable(
        "DIST_ZERO_CLOUD_MAX_USD_PER_HOUR",
        default="0",
        meaning="What all instances of a system may cost together; 0 is no limit.",
        allowed="a number of USD per hour",
        parse=_amount,
    )
    cloud_prices: Path | None = _variable(
        "DIST_ZERO_CLOUD_PRICES",
        default="",
        meaning="What instance types cost, in USD per hour, where the snapshot that comes along is not right.",
        allowed="the path of a JSON file, or nothing",
        parse=_path_or_none,
    )
    cloud_endpoint: str = _variable(
        "DIST_ZERO_CLOUD_ENDPOINT",
        default="",
        meaning="Where EC2, IAM and STS are, in tests; without, they are Amazon's.",
        allowed="http://host:port, the same with https, or nothing",
        parse=_http_url,
    )
    executor: str = _variable(
        "DIST_ZERO_EXECUTOR",
        default="auto",
        meaning="What runs plans: C that is compiled for them, or Python. auto: C where there is a compiler.",
        allowed="auto, native, interpreter",
        parse=_one_of("auto", "native", "interpreter"),
    )
    native_cache: Path | None = _variable(
        "DIST_ZERO_NATIVE_CACHE",
        default="",
        meaning="Where compiled plans are kept; without, it is dist-zero/native in the user's directory for caches.",
        allowed="a directory's path, or nothing",
        parse=_path_or_none,
    )
    cache_home: Path | None = _variable(
        "XDG_CACHE_HOME",
        default="",
        meaning="The user's directory for caches; without, it is ~/.cache.",
        allowed="a directory's path, or nothing",
        parse=_path_or_none,
    )
    c_compiler: str = _variable(
        "CC",
        default="",
        meaning="The C compiler, with options if it needs some; without, it is the first of cc, gcc and clang.",
        allowed="a command, or nothing",
        parse=str,
    )
    keep_log: bool = _variable(
        "DIST_ZERO_KEEP_LOG",
        default="no",
        meaning="Whether logs of programs are kept whole, also what no base reaches: to recompute views (--check).",
        allowed="yes, no",
        parse=_yes_or_no,
    )
    runner: str = _variable(
        "DIST_ZERO_RUNNER",
        default="",
        meaning="The runner that a process is: a machine agent sets it for those that it starts, and nobody else does.",
        allowed="a name of lower-case letters, digits and hyphens, or nothing",
        parse=_name,
    )
    runner_incarnation: int = _variable(
        "DIST_ZERO_RUNNER_INCARNATION",
        default="0",
        meaning="The runner's incarnation, set together with its name.",
        allowed="a number from 0 to 2^63 - 1",
        parse=_count(0, 2**63 - 1),
    )
    metrics_port: int | None = _variable(
        "DIST_ZERO_METRICS_PORT",
        default="",
        meaning="The port at which Prometheus finds a service's metrics; the next one is for a runner that it starts.",
        allowed="a number from 0 (any port that is free) to 65534, or nothing: there are no metrics",
        parse=_port_or_none,
    )
    metrics_address: str = _variable(
        "DIST_ZERO_METRICS_ADDRESS",
        default="127.0.0.1",
        meaning="The address that metrics are given out at: 0.0.0.0 is all there are, which is what the image says.",
        allowed="an IP address or the name of one",
        parse=_address,
    )
    image: str = _variable(
        "DIST_ZERO_IMAGE",
        default=f"dist-zero:{VERSION}",
        meaning="The image of services in containers; it is built when it is missing.",
        allowed="an image's name",
        parse=_image,
    )
    base_image: str = _variable(
        "DIST_ZERO_BASE_IMAGE",
        default="debian:trixie-slim",
        meaning="The image that ours is built from.",
        allowed="an image's name",
        parse=_image,
    )
    rabbitmq_image: str = _variable(
        "DIST_ZERO_RABBITMQ_IMAGE",
        default="rabbitmq:4.0-management",
        meaning="The image of brokers that DistZero starts.",
        allowed="an image's name",
        parse=_image,
    )
    log_directory: Path = _variable(
        "DIST_ZERO_LOG_DIR",
        default=".tmp",
        meaning="The directory that log files are written to; it is made when it is missing.",
        allowed="a directory's path",
        parse=Path,
    )
    log_level: str = _variable(
        "DIST_ZERO_LOG_LEVEL",
        default="info",
        meaning="The least important events that are still written to log files.",
        allowed=", ".join(LEVELS),
        parse=_log_level,
    )
    logstash_host: str = _variable(
        "LOGSTASH_HOST",
        default="",
        meaning="The host of a Logstash that every process sends its events to as well; without, none does.",
        allowed="a host's name or address, without a port, or nothing",
        parse=_host,
    )
    logstash_port: int = _variable(
        "LOGSTASH_PORT",
        default="5533",
        meaning="The port at which that Logstash takes lines of JSON over TCP.",
        allowed="a number from 1 to 65535",
        parse=_count(1, 65_535),
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
    for variable in _variables().values():
        parts.append(
            f"\n# {variable.meaning}\n# Allowed: {variable.allowed}.\n{variable.name}={variable.default}\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(template())
