"""Messages that are handed on inside one process, as the embedded form does, and never become bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

import dist_zero as dz
from dist_zero_common import mailbox as mailboxes
from dist_zero_common.broker.base import ConnectionState, Queue
from dist_zero_common.broker.memory import MemoryBroker, MemoryConnection
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.writing import Committed
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld

INBOX = "dz.s.runner.b"


class Counted(dz.Row):
    page: str
    amount: int


def _program() -> dz.Program:
    app = dz.Program("handed")
    clicks = app.dataset("clicks", Counted)
    app.view("pages", clicks.group_by("page").agg(n=dz.count(), total=dz.sum("amount")))
    return app


@asynccontextmanager
async def _pair(broker: MemoryBroker, gone: list[str]) -> AsyncIterator[tuple[Mailbox, Mailbox]]:
    """Two mailboxes that run; the first tells into `gone` which inboxes do not exist."""

    def made(name: str) -> Mailbox:
        return Mailbox(
            broker.connector(name),
            system="s",
            sender=name,
            set_aside=lambda queue, body, reason: gone.append(f"{queue} {len(body)} {reason}"),
            on_unroutable=gone.append,
        )

    both = made("a"), made("b")
    tasks = [asyncio.create_task(each.run()) for each in both]
    try:
        yield both
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_is_handed_on_is_neither_encoded_nor_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader gets the very object, in the order of sending."""

    def refuse(*_: object) -> bytes:
        raise AssertionError("a message became bytes")

    async def scenario() -> None:
        got: list[Message] = []
        async with _pair(MemoryBroker(hands_on=True), []) as (sender, receiver):
            await receiver.listen(Queue(INBOX), _taking(receiver, got))
            await _until(lambda: sender.state is ConnectionState.CONNECTED)
            monkeypatch.setattr(mailboxes, "encode", refuse)
            monkeypatch.setattr(mailboxes, "decode", refuse)
            sent = [Committed(1, number, 1) for number in range(300)]
            for message in sent:
                sender.send(INBOX, message)
            await _until(lambda: len(got) == len(sent))
            assert all(one is other for one, other in zip(got, sent, strict=True))
            assert sender.counters["envelopes"] == len(sent)

    run_simulation(scenario())


def test_what_cannot_be_handed_on_is_published() -> None:
    """During an alarm, and to an inbox that is not there: an alarm holds everything back, nothing passes what was sent
    before, and who sends to nobody is told."""

    async def scenario() -> None:
        got, gone = list[Message](), list[str]()
        broker = MemoryBroker(hands_on=True)
        async with _pair(broker, gone) as (sender, receiver):
            await receiver.listen(Queue(INBOX), _taking(receiver, got))
            await _until(lambda: sender.state is ConnectionState.CONNECTED)
            sent = [Committed(1, number, 1) for number in range(3)]
            broker.raise_alarm("memory runs out")
            for message in sent[:2]:
                sender.send(INBOX, message)
            await asyncio.sleep(1)
            assert not got
            broker.clear_alarm()
            sender.send(INBOX, sent[2])
            await _until(lambda: len(got) == len(sent))
            sender.send("dz.s.runner.nobody", Committed(1, 4, 1))
            await _until(lambda: bool(gone))
        assert got == sent
        assert gone == ["dz.s.runner.nobody"]

    run_simulation(scenario())


def test_what_was_handed_on_and_not_settled_comes_again() -> None:
    """A connection that ends gives its messages back, handed on or not; depths count them by their size."""

    async def scenario() -> None:
        got: list[Message] = []
        broker = MemoryBroker(hands_on=True)
        async with _pair(broker, []) as (sender, receiver):
            await receiver.listen(Queue(INBOX), lambda message, _: got.append(message))
            message = Committed(1, 1, 1)
            sender.send(INBOX, message)
            await _until(lambda: len(got) == 1)
            held = broker.depths()[INBOX]
            assert (held.unacked, held.bytes) == (1, mailboxes.approximate_bytes(message))
            broker.lose_connections("cut")
            await _until(lambda: len(got) == 2)
            assert got == [message, message]

    run_simulation(scenario())


def test_a_world_hands_nothing_on() -> None:
    """The simulator proves the codec, and has bytes in its history."""

    async def handed_on(world: SimWorld | None) -> bool:
        connection = MemoryBroker(world, hands_on=True).connect()
        await connection.declare(Queue(INBOX))
        return connection.hand_on(INBOX, Committed(1, 1, 1), 10)

    assert not run_simulation(handed_on(SimWorld(1)))
    assert run_simulation(handed_on(None))


def test_what_the_embedded_form_hands_on_is_what_the_codec_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message of an embedded system that takes writes, answers questions and is watched has a schema. When its
    reader is done with it, it is what its bytes were when it was sent: nobody changes what both have."""
    handed: list[tuple[Envelope, bytes]] = []
    takes = MemoryConnection.hand_on

    def noting(self: MemoryConnection, queue: str, message: object, size_bytes: int) -> bool:
        taken = takes(self, queue, message, size_bytes)
        if taken:
            assert isinstance(message, Envelope)
            handed.append((message, encode(message)))
        return taken

    monkeypatch.setattr(MemoryConnection, "hand_on", noting)

    async def scenario() -> None:
        async with dz.embedded(_program(), nodes=2) as db:
            for number in range(20):
                await db.append("clicks", {"page": f"page-{number % 3}", "amount": number})
            await db.flush()
            assert sum(row.n for row in await db.rows("pages")) == 20
            async for change in db.watch("pages"):
                assert len(change.inserted) == 3
                break

    asyncio.run(scenario())
    kinds = {type(message).__name__ for envelope, _ in handed for message in envelope.messages}
    assert {"Transaction", "Committed", "SnapshotAnswer", "Subscribe"} <= kinds
    for envelope, data in handed:
        assert encode(envelope) == data and decode(Envelope, data) == envelope


def _taking(receiver: Mailbox, got: list[Message]) -> Callable[[Message, Token], None]:
    def take(message: Message, token: Token) -> None:
        got.append(message)
        receiver.settle(token)

    return take
