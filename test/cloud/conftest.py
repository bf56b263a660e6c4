"""What tests of cloud mode stand on: an EC2 whose instances are containers, RabbitMQ, and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from test.cloud.cloud import Cloud
    from test.cloud.instances import Ec2
    from test.virtual.rabbitmq_server import RabbitServer


@pytest.fixture(scope="session")
def ec2(docker_or_skip: None) -> Iterator[Ec2]:  # noqa: ARG001
    """One EC2 for all tests of the session."""
    from test.cloud.cloud import our_image
    from test.cloud.instances import Ec2

    with Ec2(our_image()) as ec2:
        yield ec2


@pytest.fixture
def cloud(ec2: Ec2, rabbitmq: RabbitServer, tmp_path: Path) -> Iterator[Cloud]:
    """The command line before it, with a bucket and a broker of the test's own; afterwards none of its instances is
    left."""
    from test.cloud.cloud import Cloud

    with rabbitmq.virtual_host("cloud") as virtual_host:
        made = Cloud(ec2, rabbitmq, virtual_host, tmp_path)
        yield made
        made.end()
