"""The user's queue as the bridge wants it (`foreign.py`), at a RabbitMQ."""

from __future__ import annotations

from dist_zero.bridge.bridge import PREFETCH
from dist_zero.bridge.foreign import Message, OnMessage, OpenQueue
from dist_zero.bridge.source import Source
from dist_zero_common.broker.rabbitmq_foreign import (
    ForeignConsumer,
    ForeignMessage,
    QueueBeside,
    consume_foreign,
)
from dist_zero_common.errors import ConnectionLost


def rabbitmq_queue(url: str, source: Source) -> OpenQueue:
    """The queue of a source, at the broker with this URL."""

    async def open_queue(on_message: OnMessage) -> RabbitQueue:
        name = f"dist-zero bridge of {source.queue}"
        consumer = await consume_foreign(url, source.queue, on_message, PREFETCH, name)
        beside = QueueBeside(url, source.set_aside, f"{name} (sets aside)")
        try:
            await beside.open()
        except BaseException:
            await consumer.close()
            raise
        return RabbitQueue(source.queue, consumer, beside)

    return open_queue


class RabbitQueue:
    """See `foreign.Consumer`."""

    def __init__(self, queue: str, consumer: ForeignConsumer, beside: QueueBeside) -> None:
        self._queue, self._consumer, self._beside = queue, consumer, beside
        self._closed = False

    def ack(self, tags: list[int]) -> None:
        for tag in tags:
            self._consumer.ack(tag)

    async def set_aside(self, message: Message, queue: str, reason: str) -> None:
        assert isinstance(message, ForeignMessage) and queue == self._beside.name
        try:
            await self._beside.keep(message, self._queue, reason)
        except ConnectionLost:
            await self.close()  # so that it comes again, and everything is made anew
            raise
        self._consumer.ack(message.tag)

    async def wait_closed(self) -> None:
        try:
            await self._consumer.wait_closed()
        except ConnectionLost:
            return

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._consumer.close()
            await self._beside.close()
