"""One subscription to a queue of RabbitMQ's, on a channel of its own: deliveries in order, acks in batches."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from dist_zero_common.broker.amqp import Channel, OnMessage, Refused
from dist_zero_common.errors import BrokerError


class Subscriber(Protocol):
    """Whose subscription it is, and hears how it ends."""

    def forget(self, consumer: RabbitConsumer) -> None:
        """The consumer has ended."""
        ...

    def lost_queue(self, consumer: RabbitConsumer) -> None:
        """The queue under this consumer was deleted."""
        ...

    def lost_channel(self, consumer: RabbitConsumer, reason: str) -> None:
        """The broker ended this consumer."""
        ...


class RabbitConsumer:
    """See `broker.base.Consumer`."""

    def __init__(
        self, broker: Subscriber, channel: Channel, queue: str, on_message: OnMessage, prefetch: int
    ) -> None:
        self.queue = queue
        self.alive = True
        self._broker = broker
        self._channel = channel
        self._on_message = on_message
        self._prefetch = prefetch
        self._early: list[tuple[int, bool, bytes, bytes]] | None = []
        self._unacked: dict[int, bool] = {}
        """By tag, in the order of delivery: whether the ack is only waiting to be sent."""
        self._acked: list[int] = []
        self._delivered = 0
        self._delivered_before = -1
        self._stuck_ticks = 0
        channel.on_message = self._deliver
        channel.on_cancelled = lambda: broker.lost_queue(self)

    async def start(self) -> None:
        """Subscribe."""
        try:
            await self._channel.consume(self.queue, self._prefetch)
        except Refused as refused:
            why = "there is no such queue" if refused.code == 404 else str(refused)
            raise BrokerError(f"queue {self.queue} cannot be consumed: {why}") from refused
        self._channel.on_closed = lambda reason: self._broker.lost_channel(self, reason)
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Deliver what came before the caller had its consumer."""
        early, self._early = self._early or [], None
        for message in early:
            if self.alive:
                self._on_message(*message)

    def _deliver(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        if not self.alive:
            return
        self._unacked[tag] = False
        self._delivered += 1
        if self._early is None:
            self._on_message(tag, redelivered, header, body)
        else:
            self._early.append((tag, redelivered, header, body))

    def ack(self, tags: list[int]) -> None:
        if not self.alive:
            return
        for tag in tags:
            if self._unacked.get(tag) is not False:
                raise BrokerError(f"delivery {tag} of {self.queue} is acked already or was never delivered")
            self._unacked[tag] = True
        if tags and not self._acked:
            asyncio.get_running_loop().call_soon(self.flush)
        self._acked += tags

    def set_aside(self, tag: int) -> None:
        """Reject this delivery for good."""
        if not self.alive:
            return
        if self._unacked.pop(tag, None) is not False:
            raise BrokerError(f"delivery {tag} of {self.queue} is acked already or was never delivered")
        self._channel.set_aside(tag)

    def flush(self) -> None:
        """Send the acks of this turn of the loop: a run from the oldest delivery on as one, the others one by one."""
        if not self.alive or not self._acked:
            return
        acked, self._acked = self._acked, []
        newest_of_run = 0
        for tag, waits in self._unacked.items():
            if not waits:
                break
            newest_of_run = tag
        if newest_of_run:
            self._channel.ack(newest_of_run, multiple=True)
        for tag in acked:
            del self._unacked[tag]
            if tag > newest_of_run:
                self._channel.ack(tag, multiple=False)

    async def cancel(self) -> None:
        if not self.alive:
            return
        self.flush()
        self._broker.forget(self)
        with contextlib.suppress(Refused):
            await self._channel.close()  # not basic.cancel, after which what is unacked may come out of order

    def end(self) -> None:
        """No more deliveries, and no more acks."""
        self.alive = False

    def idle(self) -> bool:
        """Whether it has room and was given nothing since it was asked last."""
        quiet = self._delivered == self._delivered_before
        self._delivered_before = self._delivered
        room = not self._prefetch or len(self._unacked) < self._prefetch
        if not (quiet and room):
            self._stuck_ticks = 0
        return quiet and room and self.alive

    def stuck(self, waiting: int, ticks: int) -> int:
        """For how many ticks messages have waited and none has come, now that `ticks` more have passed."""
        self._stuck_ticks = self._stuck_ticks + ticks if waiting and self.alive and self.idle() else 0
        return self._stuck_ticks
