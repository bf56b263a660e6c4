"""The wire of AMQP without a broker: frames in pieces, confirms, returns, and time that passes; pamqp is the oracle."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pamqp.body
import pamqp.commands as amqp
import pamqp.frame
import pamqp.header
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dist_zero_common.broker.amqp import Channel, Patience, Refused, Wire, properties
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable


class Socket(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class Desk:
    """A wire with one open channel, and the broker's end of it in the hands of the test."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(loop=loop)
        self.socket = Socket()
        self.wire = Wire(self.reader, loop)
        self.wire.connection_made(self.socket)
        self.lost: list[str] = []
        self.wire.on_lost = self.lost.append

    async def channel(self) -> Channel:
        opening = asyncio.ensure_future(self.wire.open_channel())
        await asyncio.sleep(0)
        self.receive(pamqp.frame.marshal(amqp.Channel.OpenOk(), 1))
        channel = await opening
        self.sent()
        return channel

    def receive(self, data: bytes) -> None:
        self.wire.data_received(data)

    def sent(self) -> list[Any]:
        """The frames that were written since the last look, as pamqp reads them."""
        self.wire.flush()
        data, frames = bytes(self.socket.written), []
        self.socket.written.clear()
        while data:
            size, _, frame = pamqp.frame.unmarshal(data)
            frames.append(frame)
            data = data[size:]
        return frames


def run(scenario: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scenario(Desk())

    asyncio.run(main())


def content(method: Any, body: bytes, piece: int, **its: Any) -> bytes:
    """A method with a message, as a broker sends it in pieces of this size."""
    header = pamqp.header.ContentHeader(body_size=len(body), properties=amqp.Basic.Properties(**its))
    frames = [method, header]
    frames += [pamqp.body.ContentBody(body[at : at + piece]) for at in range(0, len(body), piece)]
    return b"".join(pamqp.frame.marshal(frame, 1) for frame in frames)


def delivery(tag: int, redelivered: bool, body: bytes, piece: int = 100) -> bytes:
    method = amqp.Basic.Deliver("c", tag, redelivered, "dz.runner", "dz.s.runner.r.1")
    return content(method, body, piece, message_id=f"m{tag}", headers={"a": [1, None, {"b": True}]})


@given(
    messages=st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_however_the_bytes_come_the_messages_are_the_same(
    messages: list[tuple[bool, bytes]], sizes: list[int]
) -> None:
    """Messages arrive whole, in order, and at once, wherever the stream of bytes is cut; heartbeats in between are
    aio-pika's."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        got: list[tuple[int, bool, str | None, bytes]] = []
        channel.on_message = lambda tag, again, header, body: got.append(
            (tag, again, properties(header).message_id, body)
        )
        heartbeat = b"\x08\x00\x00\x00\x00\x00\x00\xce"
        stream = b"".join(
            delivery(tag, again, body) + heartbeat for tag, (again, body) in enumerate(messages, 1)
        )
        at, turn = 0, 0
        while at < len(stream):
            size = sizes[turn % len(sizes)]
            desk.receive(stream[at : at + size])
            at, turn = at + size, turn + 1
        assert got == [(tag, again, f"m{tag}", body) for tag, (again, body) in enumerate(messages, 1)]

    run(scenario)


@example(body=bytes(4_088), queue="q")
@example(body=bytes(4_089), queue="q")
@example(body=bytes(2 * 4_088 + 1), queue="q")
@given(body=st.binary(max_size=9_000), queue=st.text("abc.", min_size=1, max_size=50))
def test_a_publish_is_what_pamqp_makes_of_it(body: bytes, queue: str) -> None:
    """Method, header and body in frames of the size agreed on, mandatory, transient, with its number as its id."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        confirm = channel.publish(queue, channel.route_to("dz.runner", queue), body)
        method, header, *pieces = desk.sent()
        assert (method.exchange, method.routing_key, method.mandatory) == ("dz.runner", queue, True)
        assert header.body_size == len(body)
        assert (header.properties.delivery_mode, header.properties.message_id) == (1, "1")
        assert b"".join(piece.value for piece in pieces) == body
        assert all(len(piece.value) <= desk.wire.frame_bytes_max - 8 for piece in pieces)
        desk.receive(pamqp.frame.marshal(amqp.Basic.Ack(1), 1))
        assert confirm.done() and confirm.exception() is None

    run(scenario)


@given(answers=st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=12))
def test_confirms_reach_whom_they_mean(answers: list[tuple[int, bool, bool]]) -> None:
    """Single and multiple acks and nacks, in any order and again: the first word about a message holds."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        route = channel.route_to("dz.runner", "q")
        confirms = {number: channel.publish("q", route, b"x") for number in range(1, 13)}
        expected: dict[int, bool] = {}
        for tag, multiple, refused in answers:
            method = amqp.Basic.Nack(tag, multiple) if refused else amqp.Basic.Ack(tag, multiple)
            desk.receive(pamqp.frame.marshal(method, 1))
            for number in range(1, tag + 1) if multiple else [tag]:
                expected.setdefault(number, refused)
        for number, confirm in confirms.items():
            assert confirm.done() == (number in expected)
            if confirm.done():
                assert isinstance(confirm.exception(), BrokerError) == expected[number]
        assert channel.unconfirmed() == min(set(confirms) - set(expected), default=None)

    run(scenario)


def test_a_return_is_told_from_others_by_its_number() -> None:
    """Of several messages in flight to one queue the returned one fails, whichever is confirmed first."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        route = channel.route_to("dz.runner", "q")
        confirms = [channel.publish("q", route, b"x" * 300) for _ in range(3)]
        method = amqp.Basic.Return(312, "NO_ROUTE", "dz.runner", "q")
        desk.receive(content(method, b"x" * 300, 100, message_id="2", delivery_mode=1))
        desk.receive(pamqp.frame.marshal(amqp.Basic.Ack(3, True), 1))
        assert [type(confirm.exception()) for confirm in confirms] == [type(None), Unroutable, type(None)]

    run(scenario)


def test_a_channel_that_the_broker_closes_fails_what_waits_on_it_alone() -> None:
    """Each waiter gets an error of its own, with the broker's words; the close is answered; the wire goes on."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        confirm = channel.publish("q", channel.route_to("dz.runner", "q"), b"x")
        call = asyncio.ensure_future(channel.call(amqp.Basic.Qos(prefetch_count=1)))
        await asyncio.sleep(0)
        desk.sent()
        desk.receive(pamqp.frame.marshal(amqp.Channel.Close(403, "ACCESS_REFUSED - no", 60, 40), 1))
        with pytest.raises(Refused, match="ACCESS_REFUSED") as first:
            await call
        with pytest.raises(Refused, match="ACCESS_REFUSED") as second:
            await confirm
        assert first.value is not second.value and first.value.code == 403
        assert [frame.name for frame in desk.sent()] == ["Channel.CloseOk"]
        with pytest.raises(Refused):
            channel.publish("q", b"", b"x")
        assert not desk.lost and not desk.wire.channels

    run(scenario)


@pytest.mark.parametrize("how", ["eof", "broken", "closed by the broker"])
def test_the_end_of_the_wire_is_told_once(how: str) -> None:
    """All that waits fails with `ConnectionLost`, and whoever holds the wire hears the reason once."""

    async def scenario(desk: Desk) -> None:
        channel = await desk.channel()
        confirm = channel.publish("q", channel.route_to("dz.runner", "q"), b"x")
        reason = "the broker ended the connection"
        if how == "broken":
            desk.wire.connection_lost(OSError("cable"))
            reason = "cable"
        elif how == "closed by the broker":
            desk.receive(pamqp.frame.marshal(amqp.Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0))
            reason = "CONNECTION_FORCED"
        if how != "broken":
            desk.wire.eof_received()
            desk.wire.connection_lost(None)
        assert len(desk.lost) == 1 and reason in desk.lost[0]
        with pytest.raises(ConnectionLost, match=reason):
            await confirm
        with pytest.raises(ConnectionLost):
            await desk.wire.open_channel()

    run(scenario)


def test_a_full_socket_gets_no_more_until_it_has_room() -> None:
    """What the socket does not take waits, in order, and goes when there is room, or when all has to go."""

    async def scenario(desk: Desk) -> None:
        desk.wire.send(b"a")
        desk.wire.pause_writing()
        for data in (b"b", b"c" * 100_000, b"d"):
            desk.wire.send(data)
        desk.wire.flush()
        assert not desk.socket.written
        desk.wire.resume_writing()
        assert bytes(desk.socket.written) == b"ab" + b"c" * 100_000 + b"d"
        desk.wire.pause_writing()
        desk.wire.send(b"e")
        desk.wire.flush(whatever_waits=True)
        assert desk.socket.written.endswith(b"de")

    run(scenario)


def test_patience_ends_when_nothing_comes() -> None:
    """Without an answer so many ticks and no more; answers, an alarm, and nothing due start it anew."""

    async def scenario(desk: Desk) -> None:
        channel, patience = await desk.channel(), Patience(desk.wire, 4)
        route = channel.route_to("dz.runner", "q")

        def ticks(count: int) -> list[bool]:
            return [bool(patience.tick()) for _ in range(count)]

        assert ticks(10) == [False] * 10
        channel.publish("q", route, b"x")
        assert ticks(3) == [False] * 3
        channel.publish("q", route, b"x")
        desk.receive(pamqp.frame.marshal(amqp.Basic.Ack(1), 1))
        assert ticks(4) == [False] * 4
        desk.receive(pamqp.frame.marshal(amqp.Connection.Blocked("low on memory"), 0))
        assert desk.wire.blocked == "low on memory" and ticks(50) == [False] * 50
        desk.receive(pamqp.frame.marshal(amqp.Connection.Unblocked(), 0))
        assert ticks(1) == [True]

    run(scenario)


def test_patience_ends_with_one_message_that_is_never_confirmed() -> None:
    """Others that are confirmed all the time do not hide it for ever."""

    async def scenario(desk: Desk) -> None:
        channel, patience = await desk.channel(), Patience(desk.wire, 2)
        route = channel.route_to("dz.runner", "q")
        channel.publish("q", route, b"forgotten")
        for number in range(2, 30):
            channel.publish("q", route, b"x")
            desk.receive(pamqp.frame.marshal(amqp.Basic.Ack(number), 1))
            if said := patience.tick():
                assert number > 10 and "one message" in said
                return
        raise AssertionError("it waits for ever")

    run(scenario)


def test_a_connection_that_was_never_made_goes_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    """Of an attempt that failed nothing is left to be closed later, in whichever thread it is collected."""

    async def attempt() -> None:
        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        url = f"amqp://user:password@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            await connector(url, "nobody")()
        except ConnectionLost as lost:
            failures.append(lost)  # what failed lives as long as its traceback
        server.close()

    failures: list[ConnectionLost] = []
    with asyncio.Runner() as runner:
        runner.run(attempt())
        assert failures
        with ThreadPoolExecutor(1) as another:
            another.submit(failures.clear).result()
            another.submit(gc.collect).result()
    assert not recwarn.list
