"""A queue that belongs to somebody else, for simulated bridges: as unkind as a broker may be.

Deliveries and acks take time, and acks on their way are lost with their subscription. What was not acked comes back, at
a random place. A `Fuse` ends a bridge in front of a certain step, as `kill -9` does: from then on nothing that it
does reaches anybody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dist_zero.bridge.foreign import Message, OnMessage
from dist_zero_common.errors import BrokerError, ConnectionLost


@dataclass(frozen=True)
class Sent:
    """A message; see `dist_zero.bridge.foreign.Message`."""

    body: bytes
    message_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    redelivered: bool = False
    tag: int = 0


class Fuse:
    """Burns through after some steps, and calls `kill` then. Steps behind that have no effect."""

    def __init__(self, steps: int | None, kill: Callable[[], None] = lambda: None) -> None:
        self.left, self.kill = steps, kill
        self.burnt = False

    def step(self) -> bool:
        """Whether the step in front of us is taken."""
        if self.left is not None and not self.burnt:
            self.left -= 1
            if self.left < 0:
                self.blow()
        return not self.burnt

    def blow(self) -> None:
        """Now."""
        if not self.burnt:
            self.burnt = True
            self.kill()


class ForeignQueue:
    """The queue, with the one that messages are set aside in."""

    def __init__(self, rng: random.Random) -> None:
        self.waiting: list[Sent] = []
        self.aside: list[tuple[Sent, str]] = []
        self.subscriptions: list[Subscription] = []
        self.acked: list[Sent] = []
        self.redelivered = 0
        self.exists = True
        self.reachable = True
        self._rng = rng

    def publish(self, message: Sent) -> None:
        """Somebody sends a message."""
        self.waiting.append(message)
        self.wake()

    @property
    def is_empty(self) -> bool:
        """Whether every message has been acked."""
        return not self.waiting and not any(each.unacked for each in self.subscriptions)

    async def open(self, on_message: OnMessage, prefetch: int, fuse: Fuse) -> Subscription:
        """What a bridge calls."""
        await self.delay()
        if not self.reachable:
            raise ConnectionLost("the foreign broker cannot be reached")
        if not self.exists:
            raise BrokerError("there is no such queue")
        if not fuse.step():
            await asyncio.Event().wait()
        subscription = Subscription(self, on_message, prefetch, fuse)
        self.subscriptions.append(subscription)
        self.wake()
        await self.delay()  # so that messages may come first
        return subscription

    def drop(self) -> None:
        """All connections are lost, as when the broker starts again."""
        for subscription in list(self.subscriptions):
            subscription.end()

    def wake(self) -> None:
        """Deliver one message soon, if there is somebody to take it."""
        asyncio.get_running_loop().call_later(self._rng.random() * 0.01, self._turn)

    async def delay(self) -> None:
        """Something crosses the network."""
        await asyncio.sleep(self._rng.random() * 0.01)

    def later(self, action: Callable[[], None]) -> None:
        """Something will have crossed the network."""
        asyncio.get_running_loop().call_later(self._rng.random() * 0.02, action)

    def take_back(self, messages: list[Sent]) -> None:
        """What was not acked comes again."""
        for message in messages:
            self.redelivered += 1
            self.waiting.insert(self._rng.randint(0, len(self.waiting)), replace(message, redelivered=True))
        self.wake()

    def _turn(self) -> None:
        ready = [each for each in self.subscriptions if len(each.unacked) < each.prefetch]
        if not self.waiting or not ready:
            return
        self._rng.choice(ready).deliver(self.waiting.pop(0))
        self.wake()


class Subscription:
    """See `dist_zero.bridge.foreign.Consumer`."""

    def __init__(self, queue: ForeignQueue, on_message: OnMessage, prefetch: int, fuse: Fuse) -> None:
        self.unacked: dict[int, Sent] = {}
        self.prefetch = prefetch
        self._queue, self._on_message, self.fuse = queue, on_message, fuse
        self._tags = 0
        self._ended = asyncio.Event()

    def deliver(self, message: Sent) -> None:
        """The queue's turn."""
        self._tags += 1
        self.unacked[self._tags] = message
        if self.fuse.step():
            self._on_message(replace(message, tag=self._tags))

    def ack(self, tags: list[int]) -> None:
        for tag in tags:
            assert self._ended.is_set() or tag in self.unacked, "acked twice, or at another subscription"
            if self.fuse.step():
                self._queue.later(lambda tag=tag: self._acked(tag))  # type: ignore[misc]

    async def set_aside(self, message: Message, queue: str, reason: str) -> None:
        assert queue.endswith(".set-aside")
        await self._queue.delay()
        if self._ended.is_set():
            raise ConnectionLost("the subscription has ended")
        if self.fuse.step():
            self._queue.aside.append((self.unacked[message.tag], reason))
        await self._queue.delay()
        self.ack([message.tag])

    async def wait_closed(self) -> None:
        await self._ended.wait()

    async def close(self) -> None:
        if not self.fuse.burnt:
            self.end()

    def end(self) -> None:
        """The connection is gone."""
        if not self._ended.is_set():
            self._ended.set()
            self._queue.subscriptions.remove(self)
            self._queue.take_back(list(self.unacked.values()))
            self.unacked.clear()

    def _acked(self, tag: int) -> None:
        message = self.unacked.pop(tag, None)
        if message is not None:
            self._queue.acked.append(message)
            self._queue.wake()
