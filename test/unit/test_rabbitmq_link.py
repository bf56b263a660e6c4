"""The end of a connection to RabbitMQ, where aio-pika's own end does not come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aio_pika.abc import UnderlayConnection
from aio_pika.tools import OneShotCallback

from dist_zero_common.broker import rabbitmq_link
from dist_zero_common.broker.amqp import Wire
from dist_zero_common.broker.rabbitmq_link import Link


class Deaf:
    """A connection of aio-pika's whose callback was cancelled before it began, so that its close never ends."""

    def __init__(self) -> None:
        self.close_calls = 0
        self.transport = UnderlayConnection(self, OneShotCallback(self.called))  # type: ignore[arg-type]

    async def called(self) -> None:
        """Never called."""

    async def close(self, exc: Any = None) -> None:
        """As aio-pika does it: of what is below, and then wait for the callback."""
        self.close_calls += 1
        if self.close_calls == 1:
            await self.transport.close(exc)
        else:
            await asyncio.get_running_loop().create_future()


def a_link(rescued: list[bool]) -> tuple[Link, Deaf]:
    """A link over it. What hangs is set free in the end, and noted, so that the test fails and does not hang too."""
    loop, connection = asyncio.get_running_loop(), Deaf()
    link = Link(connection, Wire(asyncio.StreamReader(), loop), "nowhere")  # type: ignore[arg-type]

    def rescue() -> None:
        rescued.append(not connection.transport.close_callback.finished.is_set())
        connection.transport.close_callback.finished.set()

    loop.call_later(3, rescue)
    return link, connection


def test_the_loop_ends_although_a_connection_does_not() -> None:
    """A link is given up, and at that moment the process ends: all its tasks are cancelled, ours before aio-pika's
    (asyncio has no order), and end."""
    rescued: list[bool] = []

    async def main() -> None:
        link, connection = a_link(rescued)
        link.abort()
        while not connection.close_calls:
            await asyncio.sleep(0)
        assert link._closing is not None
        link._closing.cancel()

    asyncio.run(main())
    assert not rescued


def test_a_close_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` comes back after its time; whoever cancels it gets it back at once."""
    rescued: list[bool] = []

    async def main() -> None:
        link, _ = a_link(rescued)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await link.close()
        monkeypatch.setattr(rabbitmq_link, "_CLOSE_SECONDS", 0.05)
        link, _ = a_link(rescued)
        await link.close()

    asyncio.run(main())
    assert not rescued
