"""A connection to RabbitMQ: aio-pika's, with our wire under it (`amqp.py`). It opens, keeps and closes it; frames that
matter for speed go past it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import aio_pika
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPError
from yarl import URL

from dist_zero_common.broker.amqp import Wire
from dist_zero_common.errors import BrokerError, ConnectionLost

_CLOSE_SECONDS = 5.0
#: Turns of the loop that aio-pika's tasks need to end after their connection, or they complain when the loop ends.
_LAST_TURNS = 20

# What goes wrong with a connection is raised, and told to callbacks; aio-pika's tracebacks beside that help nobody.
logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)


class Link:
    """One connection: aio-pika's, and our wire under it."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, wire: Wire, address: str) -> None:
        self.wire = wire
        self.address = address
        self._connection = connection
        self._transport = connection.transport
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, name: str, heartbeat_seconds: int, connect_seconds: float) -> Link:
        """Connect. Raises `ConnectionLost` or `BrokerError`, as `Connect` does."""
        address = address_of(url)
        transport = _Transport()
        wired = URL(url).update_query(heartbeat=str(heartbeat_seconds), name=name)
        connection = _Connection(wired, transport)
        try:
            await connection.connect(timeout=connect_seconds)
        except TimeoutError:
            transport.abort()
            text = f"{address} does not answer: nothing came within {connect_seconds:g} s"
            raise ConnectionLost(text) from None
        except (AMQPError, OSError, StopAsyncIteration) as error:  # the last: it ended
            transport.abort()
            raise _refusal(address, transport.wire, error) from error
        except BaseException:
            transport.abort()
            raise
        wire = transport.wire
        assert wire is not None and connection.transport is not None
        tune: Any = connection.transport.connection.connection_tune
        wire.frame_bytes_max = tune.frame_max or 131072
        return cls(connection, wire, address)

    async def close(self) -> None:
        """End the connection, after what was sent; while the broker does not read, at once."""
        if self.wire.blocked:
            self.abort()
            return
        self.wire.flush(whatever_waits=True)
        await self._close_connection()
        self.wire.abort()
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)

    def abort(self) -> None:
        """End the connection without a word; aio-pika's tasks find it closed."""
        self.wire.abort()
        self._closing = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        try:
            await self._close_connection()
        finally:
            for _ in range(_LAST_TURNS):
                await asyncio.sleep(0)

    async def _close_connection(self) -> None:
        """Let aio-pika end its part, for so long and no longer. A close of its that is cancelled, as by the end of the
        loop, waits for a callback, which may have been cancelled before it began: then nobody would ever end."""
        closing = asyncio.ensure_future(self._connection.close())
        try:
            await asyncio.wait((closing,), timeout=_CLOSE_SECONDS)
        finally:
            if not closing.done():
                closing.cancel()
                if self._transport is not None:
                    self._transport.close_callback.finished.set()
            elif not closing.cancelled():
                closing.exception()  # it is closed all the same


class _Connection(aio_pika.Connection):
    """aio-pika's connection over a transport of ours."""

    def __init__(self, url: URL, transport: _Transport) -> None:
        super().__init__(url)
        self.kwargs["transport_factory"] = transport

    def __del__(self) -> None:
        """Nothing: aio-pika would close it in a task, of whatever loop runs when it is collected, or of none."""


class _Transport(TransportFactory):
    """Opens the socket for aio-pika, with a `Wire` on it."""

    def __init__(self) -> None:
        self.wire: Wire | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See aiormq."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        wire = self.wire = Wire(reader, loop)
        context = await kwargs["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        transport, _ = await loop.create_connection(lambda: wire, url.host or "", url.port or 0, ssl=context)
        return reader, asyncio.StreamWriter(transport, wire, reader, loop)

    def abort(self) -> None:
        """Close the socket, if there is one."""
        if self.wire is not None:
            self.wire.abort()


def address_of(url: str) -> str:
    """Where a URL leads, for people: without the password. Raises `BrokerError` when it is no URL of a broker."""
    try:
        parts = URL(url)
        if parts.scheme not in ("amqp", "amqps") or not parts.host:
            raise ValueError
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    except ValueError:
        raise BrokerError(
            "a broker's URL reads amqp://user:password@host:port/vhost; this one does not"
        ) from None
    return f"RabbitMQ at {parts.host}:{port}{parts.path if parts.path != '/' else ''}"


def _refusal(address: str, wire: Wire | None, error: Exception) -> BrokerError:
    """What a failed attempt to connect means: refused for good, or to be tried again."""
    closed = wire.closed_by_broker if wire is not None else None
    if closed is None:
        return ConnectionLost(f"{address} cannot be reached: {str(error) or type(error).__name__}")
    code, text = closed
    if code in (403, 530) and "limit" not in text:
        return BrokerError(f"{address} refuses: {text}")
    return ConnectionLost(f"{address} is not ready: {text}")


async def open_both(first: Awaitable[Link], second: Awaitable[Link]) -> tuple[Link, Link]:
    """Both links, or none of them and the first error."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    links = [result for result in results if isinstance(result, Link)]
    if errors:
        for link in links:
            link.abort()
        raise next((error for error in errors if not isinstance(error, ConnectionLost)), errors[0])
    return links[0], links[1]
