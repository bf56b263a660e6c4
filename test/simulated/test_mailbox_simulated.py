"""The mailbox: nothing that is sent gets lost, nothing settled comes again, and rubbish is set aside for good."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dist_zero_common.aside import Aside
from dist_zero_common.broker.base import Queue
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.clock import LoopClock
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.log import get_logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages import Committed, Envelope, Message, Transaction
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryStore


@asynccontextmanager
async def running(mailbox: Mailbox) -> AsyncIterator[Mailbox]:
    """A mailbox that moves messages while the block runs."""
    task = asyncio.create_task(mailbox.run())
    try:
        yield mailbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Keep:
    """Takes messages, and settles them at once if it is told to."""

    def __init__(self, settle: Callable[[Token], None] | None = None) -> None:
        self.messages: list[Message] = []
        self.tokens: list[Token] = []
        self._settle = settle

    def __call__(self, message: Message, token: Token) -> None:
        self.messages.append(message)
        self.tokens.append(token)
        if self._settle is not None:
            self._settle(token)


def mailbox(broker: MemoryBroker, name: str, aside: list[tuple[str, bytes, str]] | None = None) -> Mailbox:
    """A mailbox of the system `s`; what it sets aside goes into `aside`."""
    refused = aside if aside is not None else []
    return Mailbox(
        broker.connector(name), system="s", sender=name, set_aside=lambda q, b, r: refused.append((q, b, r))
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in virtual time, until something holds."""
    async with asyncio.timeout(3600):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("profile", ["calm", "faithful", "hostile"])
def test_everything_sent_arrives_and_is_batched(profile: str) -> None:
    """Each message comes at least once, unchanged, in far fewer envelopes than messages; settled, none is left."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(7, profile))
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sent = [Transaction(1, n, b"x" * (n % 5000), "me") for n in range(1, 501)]
            for message in sent:
                sender.send("dz.s.runner.b", message)
            await sender.wait_sent()
            await until(lambda: len(set(keep.messages)) == 500)
            assert set(keep.messages) == set(sent)
            assert sender.counters["envelopes"] < 50
            await until(lambda: broker.depths()["dz.s.runner.b"].unacked == 0)

    run_simulation(scenario())


def test_a_lone_message_leaves_at_once() -> None:
    """With nothing under way, a message is an envelope of its own and waits for nobody."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            for n in range(3):
                before = asyncio.get_running_loop().time()
                sender.send("dz.s.runner.b", Committed(1, n, 1))
                while len(keep.messages) <= n:
                    await asyncio.sleep(0)
                assert asyncio.get_running_loop().time() == before

    run_simulation(scenario())


def test_unsettled_messages_come_again() -> None:
    """A delivery is acked when all its messages are settled; otherwise the next consumer gets all of them."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender = mailbox(broker, "a")
        first, second = mailbox(broker, "b"), mailbox(broker, "c")
        early, late = Keep(), Keep()
        async with running(sender):
            async with running(first):
                await first.listen(Queue("dz.s.runner.b"), early)
                for n in range(10):
                    sender.send("dz.s.runner.b", Committed(1, n, 1))
                await until(lambda: len(early.messages) == 10)
                for token in early.tokens[:-1]:
                    first.settle(token)
                await first.stop_listening("dz.s.runner.b")
            async with running(second):
                await second.listen(Queue("dz.s.runner.b"), late)
                await until(lambda: bool(late.messages))
                assert early.messages[-1] in late.messages

    run_simulation(scenario())


def test_shared_token_is_settled_by_all() -> None:
    """A token shared by three is settled when all three are, and not before."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep()
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sender.send("dz.s.runner.b", Committed(1, 1, 1))
            await until(lambda: bool(keep.tokens))
            shares = receiver.share(keep.tokens[0], 3)
            for token in shares[:2]:
                receiver.settle(token)
            assert broker.depths()["dz.s.runner.b"].unacked == 1
            receiver.settle(shares[2])
            assert broker.depths()["dz.s.runner.b"].unacked == 0

    run_simulation(scenario())


def test_own_inbox_does_not_touch_the_broker() -> None:
    """What a process sends to itself is handed over as it is."""

    async def scenario() -> None:
        broker = MemoryBroker()
        alone = mailbox(broker, "a")
        keep = Keep(alone.settle)
        async with running(alone):
            await alone.listen(Queue("dz.s.runner.a"), keep)
            message = Committed(1, 2, 3)
            alone.send("dz.s.runner.a", message)
            await until(lambda: bool(keep.messages))
            assert keep.messages[0] is message
            assert broker.depths()["dz.s.runner.a"].published == 0

    run_simulation(scenario())


def test_rubbish_is_set_aside_once_and_never_comes_again() -> None:
    """Undecodable bytes, other systems' envelopes and refused messages are kept with the reason; the rest goes on."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(3, "faithful"))
        aside: list[tuple[str, bytes, str]] = []
        receiver = mailbox(broker, "b", aside)
        good: list[Message] = []

        def handler(message: Message, token: Token) -> None:
            if message == Committed(6, 6, 6):
                raise MalformedMessage("not this one")
            good.append(message)
            receiver.settle(token)

        other = broker.connect()
        whole = encode(Envelope("s", "x", (Committed(1, 1, 1), Committed(6, 6, 6), Committed(2, 2, 2))))
        bad = [b"", b"rubbish", whole[:-8], whole[:40] + b"\xff" + whole[41:], encode(Envelope("t", "x", ()))]
        async with running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), handler)
            for body in [*bad, whole]:
                await other.publish("dz.s.runner.b", body)
            await until(lambda: len(good) == 2 and len(aside) == 6)
            await until(lambda: broker.depths()["dz.s.runner.b"].unacked == 0)
            assert Counter(body for _, body, _ in aside) == Counter([*bad, whole])
            assert any("not this one" in reason for _, _, reason in aside)
            assert any("'t'" in reason for _, _, reason in aside)
            assert broker.depths()["dz.s.runner.b"].waiting == 0

    run_simulation(scenario())


def test_missing_inbox_is_told_and_forgotten() -> None:
    """Sending to an inbox that does not exist calls `on_unroutable`, and later messages there are tried afresh."""

    async def scenario() -> None:
        broker = MemoryBroker()
        gone: list[str] = []
        sender = Mailbox(
            broker.connector("a"),
            system="s",
            sender="a",
            set_aside=lambda *_: None,
            on_unroutable=gone.append,
        )
        receiver = mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            sender.send("dz.s.runner.b", Committed(1, 1, 1))
            await until(lambda: gone == ["dz.s.runner.b"])
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sender.send("dz.s.runner.b", Committed(2, 2, 2))
            await until(lambda: keep.messages == [Committed(2, 2, 2)])

    run_simulation(scenario())


def test_set_aside_keeps_the_bytes_and_the_reason_in_the_store() -> None:
    """The same bytes are kept once, with queue and reason, and a large message is cut."""

    async def scenario() -> None:
        store = MemoryStore()
        aside = Aside(store, "runner-1", get_logger("test", LoopClock(0)))
        aside("dz.q", b"abc", "no message")
        aside("dz.q", b"abc", "no message")
        aside("dz.q", b"y" * 2**20, "too large")
        await aside.wait_kept()
        names = await store.list("aside/")
        assert len(names) == 2 and aside.count == 3
        kept = [await store.read(name) or b"" for name in names]
        small = min(kept, key=len)
        assert small.endswith(b"\n\nabc") and b"reason: no message" in small and b"queue: dz.q" in small
        assert max(map(len, kept)) < 2**17

    run_simulation(scenario())
