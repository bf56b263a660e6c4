"""Cloud mode in a real account: only where somebody has said so, because it costs money (some cents).

DIST_ZERO_CLOUD_TESTS=1, credentials that boto3 finds, AMQP_URL (a broker that instances reach, and this machine), and
DIST_ZERO_STORE (s3://bucket/prefix; what is written goes below a prefix of the test's own and is removed). Other
settings DIST_ZERO_CLOUD_..., as the image and the subnet, are taken as they are.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from dist_zero_common.cloud.fleet import bucket_and_prefix
from test.cloud.command_line import ROOT, CommandLine
from test.cloud.conftest import IN_AN_ACCOUNT
from test.cloud.flights import FLIGHTS, fly

WAIT_SECONDS = 1_500.0
NEEDED = ("AMQP_URL", "DIST_ZERO_STORE")


class Amazon(CommandLine):
    """See `CommandLine`."""

    wait_seconds = WAIT_SECONDS

    def __init__(self, directory: Path) -> None:
        name = f"dzt-{uuid.uuid4().hex[:6]}"
        bucket, prefix = bucket_and_prefix(os.environ["DIST_ZERO_STORE"])
        super().__init__(directory, name, bucket, f"{prefix}/{name}".strip("/"))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DIST_ZERO_STORE": f"s3://{bucket}/{self.prefix}",
            "DIST_ZERO_SYSTEM": name,
            "DIST_ZERO_LOG_DIR": str(directory / ".tmp"),
            "DIST_ZERO_CLOUD_SCHEDULERS": "2",
            "DIST_ZERO_CLOUD_MAX_USD_PER_HOUR": "1",
        }

    def client(self, service: str) -> Any:
        """See `CommandLine`."""
        make: Any = boto3.client
        return make(service, region_name=os.environ.get("AWS_REGION") or "us-east-1")

    def end(self) -> None:
        """Whatever a test has done: nothing of the system is left, not even its store."""
        self("orphans", "--cloud", "--remove", "--system", self.system)
        s3 = self.client("s3")
        for page in s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/"
        ):
            for each in page.get("Contents", []):
                s3.delete_object(Bucket=self.bucket, Key=each["Key"])


@pytest.fixture
def amazon(tmp_path: Path) -> Iterator[Amazon]:
    if not IN_AN_ACCOUNT:
        pytest.skip("DIST_ZERO_CLOUD_TESTS=1 is not set: nothing is started in an account")
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not set: there is no broker, or no bucket, for a test in an account"
        )
    if boto3.Session().get_credentials() is None:
        pytest.skip("boto3 finds no credentials")
    made = Amazon(tmp_path)
    yield made
    made.end()


@pytest.mark.timeout(7_200)
def test_flights_survive_the_loss_of_instances_of_amazons_cloud(amazon: Amazon) -> None:
    """The same as before moto, with real instances."""
    amazon.up(FLIGHTS, "--nodes", "4", machines=2)
    fly(amazon)
