"""What the virtual tests stand on: Docker, one RabbitMQ for the session, and nothing left behind.

Without Docker they skip, with the reason, on a user's machine, and fail when the environment says CI=true. The
contract suite uses the same broker, so these fixtures are loaded by conftest.py, for all tests; what they need
is imported when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from test.virtual.rabbitmq_server import RabbitServer


@pytest.fixture(scope="session")
def docker_or_skip() -> Iterator[None]:
    """There is a Docker Engine; afterwards it holds what it held before."""
    from test.virtual.rabbitmq_server import docker_is_missing, docker_things

    missing = docker_is_missing()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    before = docker_things()
    yield
    after = docker_things()
    left = {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}
    assert not left, f"the tests left in Docker: {left}"


@pytest.fixture(scope="session")
def rabbitmq(docker_or_skip: None) -> Iterator[RabbitServer]:  # noqa: ARG001
    """One RabbitMQ for all tests of the session. It may be restarted; who does waits until it is ready."""
    from test.virtual.rabbitmq_server import RabbitServer, have_base_images

    have_base_images()
    with RabbitServer() as server:
        yield server


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitServer) -> Iterator[str]:
    """The URL of a virtual host that is the test's own."""
    with rabbitmq.virtual_host() as name:
        yield rabbitmq.url(name)
