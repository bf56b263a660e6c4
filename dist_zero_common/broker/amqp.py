"""AMQP 0-9-1 channels at the level of frames: what `rabbitmq_link.py` and `rabbitmq.py` are built on.

aio-pika opens the connection, logs in, keeps the heartbeat and closes it: that is channel 0 of the wire. All other
channels are ours, because of three things that its own do not give: deliveries and confirms are handled in the order
in which they come, in the turn of the loop in which they come (aio-pika makes a task of each); nothing waits behind a
queue of frames, so that a connection that the broker does not read from any more can still be ended at once; and a
message costs a tenth of the time (figures in docs/broker.md).

`Wire` cuts the bytes that come into frames. Those of channel 0 it hands on to aio-pika's stream, noting on the way what
the broker says about the whole connection (blocked, why it closed it); those of other channels go to their `Channel`.
Bodies are not copied on the way: a channel gets the pieces in which they come, and joins them once.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pamqp.commands as amqp
import pamqp.frame
import pamqp.header
from pamqp.base import Frame
from pamqp.exceptions import PAMQPException

from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable

_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME = struct.Struct(">BHI")
_FRAME_OVERHEAD = _FRAME.size + 1
_END = b"\xce"
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_U64 = struct.Struct(">Q")

# Methods, by class and number, that are taken apart by hand because they come with each message.
_DELIVER, _RETURN, _ACK, _NACK = (
    b"\x00\x3c\x00\x3c",
    b"\x00\x3c\x00\x32",
    b"\x00\x3c\x00\x50",
    b"\x00\x3c\x00\x78",
)
_CHANNEL_CLOSE, _BASIC_CANCEL = b"\x00\x14\x00\x28", b"\x00\x3c\x00\x1e"
_CONNECTION_CLOSE, _BLOCKED, _UNBLOCKED = b"\x00\x0a\x00\x32", b"\x00\x0a\x00\x3c", b"\x00\x0a\x00\x3d"

#: Delivery mode: the message does not outlive its broker. Persistent would be 2.
_TRANSIENT = 1
#: Seconds between two heartbeats that aio-pika is shown while other frames come, which count as heartbeats.
_HEARTBEAT_SHOWN_SECONDS = 2.0
#: How often is looked whether answers are out.
TICK_SECONDS = 0.25
#: How many times as long a single publish may take while others are confirmed.
_LONGEST_PUBLISH = 6
#: Small pieces are written together, up to so many bytes.
_JOINED_BYTES_MAX = 64 * 1024
#: How much may wait in the socket's own buffer, which is copied at each write.
_WRITTEN_BYTES_MAX = 64 * 1024


class Refused(BrokerError):
    """The broker closed a channel because of what was asked on it. `code` is AMQP's: 403, 404, 405, 406."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Wire(asyncio.StreamReaderProtocol):
    """One connection. Its channels end when it does, each with the same `ConnectionLost`."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.channels: dict[int, Channel] = {}
        self.frame_bytes_max = 4096
        self.blocked = ""
        """Why the broker takes no publishes just now, or nothing."""
        self.closed_by_broker: tuple[int, str] | None = None
        """AMQP's code and the broker's words, if it closed the connection."""
        self.progress = 0
        """Grows with each answer and each confirm."""
        self.on_blocked: Callable[[], None] | None = None
        self.on_lost: Callable[[str], None] | None = None
        self._reader = reader  # which would end the connection if it were collected
        self._socket: asyncio.Transport | None = None
        self._begun = b""
        """The beginning of a frame that has not come whole."""
        self._body_of: Channel | None = None
        self._body_left = 0
        """How much of a frame with a piece of a body is still to come, its last byte included, and for whom."""
        self._out: deque[bytes] = deque()
        self._full = False
        self._clock = loop.time
        self._call_soon = loop.call_soon
        self._heartbeat_shown = 0.0
        self._ended = False

    # -- what asyncio calls --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = cast(asyncio.Transport, transport)  # of uvloop's are none by inheritance
        self._socket.set_write_buffer_limits(high=_WRITTEN_BYTES_MAX)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._full = False
        self.flush()

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        if now - self._heartbeat_shown > _HEARTBEAT_SHOWN_SECONDS and self.channels:
            self._heartbeat_shown = now
            super().data_received(_HEARTBEAT)
        if self._begun:
            data, self._begun = self._begun + data, b""
        view = memoryview(data)
        start, size = 0, len(data)
        while start < size:
            if self._body_left:
                end = min(start + self._body_left, size)
                self._on_body(view[start:end])
                start = end
                continue
            if size - start < _FRAME.size:
                break
            kind, number, length = _FRAME.unpack_from(data, start)
            channel = self.channels.get(number)
            if kind == _BODY:
                self._body_of, self._body_left = channel, length + 1
                start += _FRAME.size
                continue
            end = start + length + _FRAME_OVERHEAD
            if end > size:
                break
            if number == 0:
                self._on_connection_frame(bytes(view[start:end]))
            elif channel is not None:
                channel.on_frame(kind, bytes(view[start + _FRAME.size : end - 1]))
            start = end
        self._begun = bytes(view[start:])

    def _on_body(self, piece: memoryview) -> None:
        self._body_left -= len(piece)
        if not self._body_left:
            piece = piece[:-1]  # the mark at the end of the frame
        if piece and self._body_of is not None and self._body_of.ended is None:
            self._body_of.on_body(piece)

    def eof_received(self) -> bool | None:
        self._end("the broker ended the connection")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection broke: {exc}" if exc else "the connection was closed")
        super().connection_lost(exc)

    # -- what channels and the broker call ---------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write whole frames, together with all else of this turn of the loop. Never waits."""
        if not self._out and not self._full:
            self._call_soon(self.flush)
        self._out.append(data)

    def flush(self, whatever_waits: bool = False) -> None:
        """Write now what `send` was given, as far as the socket takes it; the rest stays here, uncopied."""
        if self._socket is None:
            return
        out = self._out
        while out and (whatever_waits or not self._full):
            data = out.popleft()
            if len(data) < _JOINED_BYTES_MAX and out:
                together, size = [data], len(data)
                while out and size + len(out[0]) < _JOINED_BYTES_MAX:
                    size += len(out[0])
                    together.append(out.popleft())
                data = b"".join(together)
            self._socket.write(data)

    def waits(self) -> bool:
        """Whether an answer or a confirm is due."""
        return any(channel.waits() for channel in self.channels.values())

    def abort(self) -> None:
        """End the connection without a word."""
        if self._socket is not None:
            self._socket.abort()

    async def open_channel(self) -> Channel:
        """A new channel."""
        self.check()
        number = 1
        while number in self.channels:
            number += 1
        channel = self.channels[number] = Channel(self, number)
        await channel.call(amqp.Channel.Open())
        return channel

    def check(self) -> None:
        """Raise `ConnectionLost` if this connection has ended."""
        if self._ended:
            raise ConnectionLost("the connection to the broker has ended")

    def closed(self) -> bool:
        """Whether this connection has ended."""
        return self._ended

    def fail(self, error: ConnectionLost) -> None:
        """All that waits on this connection fails with this error."""
        self._ended = True
        for channel in list(self.channels.values()):
            channel.end(error)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        if self.closed_by_broker is not None:
            reason = f"the broker closed the connection: {self.closed_by_broker[1]}"
        self.fail(ConnectionLost(reason))
        if self.on_lost is not None:
            self.on_lost(reason)

    def _on_connection_frame(self, frame: bytes) -> None:
        method = frame[7:11] if frame[0] == _METHOD else b""
        if method == _BLOCKED:
            self.blocked = _short_string(frame, 11)[0] or "an alarm"
            if self.on_blocked is not None:
                self.on_blocked()
        elif method == _UNBLOCKED:
            self.blocked = ""
            if self.on_blocked is not None:
                self.on_blocked()
        elif method == _CONNECTION_CLOSE:
            self.closed_by_broker = int.from_bytes(frame[11:13], "big"), _short_string(frame, 13)[0]
        super().data_received(frame)


@dataclass(slots=True)
class _Unconfirmed:
    queue: str
    confirm: asyncio.Future[None]
    returned: str = ""


OnMessage = Callable[[int, bool, bytes, bytes], None]
"""Called with the tag, whether it is a redelivery, the properties as they came, and the body."""


class Channel:
    """One channel: a sequence of commands with answers; publishes with confirms, or one consumer's deliveries."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.number = number
        self.ended: BrokerError | None = None
        self.on_message: OnMessage | None = None
        self.on_cancelled: Callable[[], None] | None = None
        """The broker took the consumer away: its queue is gone."""
        self.on_closed: Callable[[str], None] | None = None
        """The broker closed the channel, for this reason."""
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[list[str], asyncio.Future[Any]]] = deque()
        self._published = 0
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._content: tuple[bytes, int, bool, str] | None = None  # method, tag, redelivered, reason
        self._header = b""
        self._body: list[memoryview] = []
        self._body_missing = 0

    def waits(self) -> bool:
        """Whether an answer or a confirm is due."""
        return bool(self._answers or self._unconfirmed)

    def unconfirmed(self) -> int | None:
        """The number of the oldest publish that is not confirmed, or None."""
        return next(iter(self._unconfirmed), None)

    async def call(self, command: Frame) -> Any:
        """Send a command and return the broker's answer. Raises `Refused`, or `ConnectionLost`."""
        self.check()
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._answers.append((command.valid_responses, answer))
        self.send(command)
        return await answer

    def send(self, command: Frame) -> None:
        """Send a command that has no answer."""
        self._wire.send(pamqp.frame.marshal(command, self.number))

    def publish(self, queue: str, route: bytes, body: bytes) -> asyncio.Future[None]:
        """Publish on the route that `route_to` made, mandatory; the future is done when the broker has confirmed.

        The channel must be in confirm mode. The message's id is its number on this channel, by which a return is
        told from another one.
        """
        self.check()
        self._published = number = self._published + 1
        confirm: asyncio.Future[None] = self._loop.create_future()
        self._unconfirmed[number] = _Unconfirmed(queue, confirm)
        message_id = b"%d" % number
        # Class 60, weight 0, size, flags (there are a delivery mode and a message id), their values.
        header = struct.pack(">HHQHBB", 60, 0, len(body), 0x1080, _TRANSIENT, len(message_id)) + message_id
        piece_bytes_max = self._wire.frame_bytes_max - _FRAME_OVERHEAD
        view = memoryview(body)
        pieces: list[bytes | memoryview] = [
            route,
            _FRAME.pack(_HEADER, self.number, len(header)),
            header,
            _END,
        ]
        if body:
            pieces += self._frame(view[:piece_bytes_max])
        self._wire.send(b"".join(pieces))
        for start in range(piece_bytes_max, len(body), piece_bytes_max):
            self._wire.send(b"".join(self._frame(view[start : start + piece_bytes_max])))
        return confirm

    def _frame(self, piece: memoryview) -> tuple[bytes, memoryview, bytes]:
        """A piece of a body, with what goes before and behind it."""
        return _FRAME.pack(_BODY, self.number, len(piece)), piece, _END

    def route_to(self, exchange: str, queue: str) -> bytes:
        """What a publish to this queue begins with."""
        publish = amqp.Basic.Publish(exchange=exchange, routing_key=queue, mandatory=True)
        return pamqp.frame.marshal(publish, self.number)

    async def consume(self, queue: str, prefetch: int) -> None:
        """Subscribe to a queue: what comes goes to `on_message`."""
        await self.call(amqp.Basic.Qos(prefetch_count=prefetch))
        await self.call(amqp.Basic.Consume(queue=queue, consumer_tag="c"))

    def ack(self, tag: int, multiple: bool) -> None:
        """Forget this delivery, or all up to it."""
        if self.ended is None:
            payload = _ACK + _U64.pack(tag) + (b"\x01" if multiple else b"\x00")
            self._wire.send(_FRAME.pack(_METHOD, self.number, len(payload)) + payload + _END)

    def set_aside(self, tag: int) -> None:
        """Reject this delivery: it goes where its queue sends what is rejected, which may be nowhere."""
        if self.ended is None:
            self.send(amqp.Basic.Reject(delivery_tag=tag, requeue=False))

    async def close(self) -> None:
        """End the channel: what it delivered and was not acked returns to its queue."""
        if self.ended is None:
            self.on_message = None
            await self.call(amqp.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
            self.end(ConnectionLost("the channel is closed"))

    def check(self) -> None:
        """Raise why the channel has ended, if it has."""
        if self.ended is not None:
            raise _another(self.ended)

    def end(self, error: BrokerError) -> None:
        """No more frames; all that waits fails with this error."""
        if self.ended is not None:
            return
        self.ended = error
        self._wire.channels.pop(self.number, None)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        answers, self._answers = self._answers, deque()
        for waiting in unconfirmed.values():
            _fail(waiting.confirm, _another(error))
        for _, answer in answers:
            _fail(answer, _another(error))

    # -- what comes ----------------------------------------------------------------------------------------------

    def on_frame(self, kind: int, payload: bytes) -> None:
        """A frame of this channel, in the order of the wire, but for those with bodies."""
        if kind == _HEADER:
            self._header, self._body = payload, []
            self._body_missing = _U64.unpack_from(payload, 4)[0]
            if self._body_missing == 0:
                self._on_content(b"")
        elif kind == _METHOD:
            self._on_method(payload[:4], payload)

    def on_body(self, piece: memoryview) -> None:
        """A piece of the body of the message whose header came before."""
        self._body.append(piece)
        self._body_missing -= len(piece)
        if self._body_missing <= 0:
            self._on_content(b"".join(self._body))

    def _on_method(self, method: bytes, payload: bytes) -> None:
        if method == _DELIVER:
            tag_at = 5 + payload[4]
            self._content = (method, _U64.unpack_from(payload, tag_at)[0], payload[tag_at + 8] != 0, "")
        elif method in (_ACK, _NACK):
            self._on_confirm(_U64.unpack_from(payload, 4)[0], bool(payload[12] & 1), method == _NACK)
        elif method == _RETURN:
            self._content = (method, 0, False, _short_string(payload, 6)[0])
        elif method == _CHANNEL_CLOSE:
            self._wire.progress += 1
            code, text = int.from_bytes(payload[4:6], "big"), _short_string(payload, 6)[0]
            self.send(amqp.Channel.CloseOk())
            self.end(Refused(code, text))
            if self.on_closed is not None:
                self.on_closed(text)
        elif method == _BASIC_CANCEL:
            if self.on_cancelled is not None:
                self.on_cancelled()
        else:
            self._on_answer(payload)

    def _on_answer(self, payload: bytes) -> None:
        data = _FRAME.pack(_METHOD, self.number, len(payload)) + payload + _END
        try:
            frame: Any = pamqp.frame.unmarshal(data)[2]
        except PAMQPException:
            return  # a method that we never ask for
        if self._answers and frame.name in self._answers[0][0]:
            self._wire.progress += 1
            _, answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(frame)

    def _on_content(self, body: bytes) -> None:
        content, self._content, self._body = self._content, None, []
        if content is None:
            return
        method, tag, redelivered, reason = content
        if method == _DELIVER:
            if self.on_message is not None:
                self.on_message(tag, redelivered, self._header, body)
        else:
            waiting = self._unconfirmed.get(int(properties(self._header).message_id or 0))
            if waiting is not None:
                waiting.returned = reason

    def _on_confirm(self, tag: int, multiple: bool, refused: bool) -> None:
        self._wire.progress += 1
        if not multiple:
            waiting = self._unconfirmed.pop(tag, None)
            if waiting is not None:
                _settle(waiting, refused)
            return
        for number in [number for number in self._unconfirmed if number <= tag]:
            _settle(self._unconfirmed.pop(number), refused)


class Patience:
    """Counts how long a connection has owed an answer, in ticks of the loop.

    A process that was stopped, or busy with something else, does not tick, and does not take its own sleep for the
    broker's silence. While the broker has blocked the connection no time passes.
    """

    def __init__(self, wire: Wire, ticks_max: int) -> None:
        self._wire = wire
        self._ticks_max = ticks_max
        self._progress = 0
        self._silent_ticks = 0
        self._oldest: dict[
            int, tuple[int, int]
        ] = {}  # by channel: its oldest publish, ticks that it has waited

    def tick(self) -> str:
        """Note that a tick has passed. What is to be said if it was one too many, else nothing."""
        if self._wire.blocked:
            return ""
        if self._wire.progress != self._progress or not self._wire.waits():
            self._progress, self._silent_ticks = self._wire.progress, 0
        else:
            self._silent_ticks += 1
            if self._silent_ticks >= self._ticks_max:
                return f"has not answered for {self._ticks_max * TICK_SECONDS:g} s"
        oldest: dict[int, tuple[int, int]] = {}
        for number, channel in self._wire.channels.items():
            publish = channel.unconfirmed()
            if publish is not None:
                before = self._oldest.get(number)
                ticks = before[1] + 1 if before is not None and before[0] == publish else 0
                if ticks >= self._ticks_max * _LONGEST_PUBLISH:
                    return f"has not confirmed one message for {ticks * TICK_SECONDS:g} s"
                oldest[number] = publish, ticks
        self._oldest = oldest
        return ""


def properties(header: bytes) -> amqp.Basic.Properties:
    """A message's properties, from its header as it came."""
    parsed = pamqp.header.ContentHeader()
    parsed.unmarshal(header)
    return parsed.properties


def _settle(waiting: _Unconfirmed, refused: bool) -> None:
    if refused:
        text = f"the broker refused a message to {waiting.queue}: the queue is full, or its machine is down"
        _fail(waiting.confirm, BrokerError(text))
    elif waiting.returned:
        _fail(
            waiting.confirm,
            Unroutable(f"there is no queue {waiting.queue} (the broker says {waiting.returned})"),
        )
    elif not waiting.confirm.done():
        waiting.confirm.set_result(None)


def _fail(future: asyncio.Future[Any], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever was cancelled meanwhile does not ask any more


def _another(error: BrokerError) -> BrokerError:
    """The same error once more, for another one to raise."""
    return Refused(error.code, str(error)) if isinstance(error, Refused) else type(error)(str(error))


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end
