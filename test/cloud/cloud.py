"""The command line before an EC2 of this host, with a bucket and a broker of the test's own."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from test.cloud.aws_server import KEY_ID, REGION, SECRET
from test.cloud.command_line import ROOT, CommandLine
from test.cloud.instances import Ec2
from test.virtual.rabbitmq_server import PASSWORD, USER, RabbitServer, setting


def our_image() -> str:
    """The image of services, which stands for an image for instances."""
    image = setting("DIST_ZERO_IMAGE")
    there = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    if there.returncode != 0:
        missing = f"no image {image}: `make images` builds it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return image


class Cloud(CommandLine):
    """See `CommandLine`."""

    def __init__(self, ec2: Ec2, rabbitmq: RabbitServer, virtual_host: str, directory: Path) -> None:
        name = f"dzt-{uuid.uuid4().hex[:6]}"
        super().__init__(directory, name, f"bucket-{name}", "shop")
        self.ec2 = ec2
        self.client = cache(ec2.aws.client)  # type: ignore[method-assign]
        self.client("s3").create_bucket(Bucket=self.bucket)
        port = ec2.reachable(rabbitmq.port)
        self.broker_url = f"amqp://{USER}:{PASSWORD}@{ec2.gateway}:{port}/{virtual_host}"
        self.environment = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("DIST_ZERO_", "AMQP_", "AWS_", "LOGSTASH_"))
            },
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": ec2.aws.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AMQP_URL": self.broker_url,
            "DIST_ZERO_STORE": f"s3://{self.bucket}/{self.prefix}",
            "DIST_ZERO_SYSTEM": self.system,
            "DIST_ZERO_LEASE_SECONDS": "4",
            "DIST_ZERO_EXECUTOR": "interpreter",  # each new machine would compile for some seconds
            "DIST_ZERO_CLOUD_ENDPOINT": ec2.aws.endpoint,
            "DIST_ZERO_CLOUD_IMAGE": ec2.image,
            "DIST_ZERO_CLOUD_IMAGE_HAS_DIST_ZERO": "yes",
            "DIST_ZERO_CLOUD_SCHEDULERS": "1",
        }

    def story(self) -> str:
        """See `CommandLine`."""
        return self.ec2.story()

    def wait(self, what: Callable[[], Any]) -> None:
        """See `CommandLine`."""

        def looked() -> object:
            self.ec2.check()
            return what()

        super().wait(looked)

    def end(self) -> None:
        """Whatever a test has done: no instance of the system lives any more."""
        with self.ec2.aws.lock:
            for instance in self.ec2.all_of(self.system):
                instance.terminate()
        self.ec2.wait_ended({each.id for each in self.ec2.all_of(self.system)})
