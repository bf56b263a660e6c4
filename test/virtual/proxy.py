"""A TCP proxy that does to a connection what networks do: cut it, refuse it, stall it, and heal.

    python -m test.virtual.proxy 25672 rabbitmq:5672

runs one for whoever is told one word a line on standard input: cut, refuse, stall, heal, count.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from types import TracebackType


class Proxy:
    """Listens on a port of loopback and hands bytes through to a server. `async with` it."""

    def __init__(
        self,
        host: str,
        port: int,
        listen_port: int = 0,
        listen_host: str = "127.0.0.1",
        others: Sequence[tuple[str, int]] = (),
    ) -> None:
        """`others`: servers for new connections while nobody listens at the first one."""
        self.connections_made = 0
        """How many connections ever came in, refused ones included."""
        self.bytes_passed = 0
        self._targets = (host, port), *others
        self._listen = listen_host, listen_port
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._begin, *self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset all connections, without a word; new ones may come."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def refuse(self) -> None:
        """Cut all, and reset new ones as they come."""
        self._refusing = True
        self.cut()

    def stall(self) -> None:
        """Pass nothing on any more, in either direction, and say nothing: as if a cable had been pulled."""
        self._flowing.clear()

    def heal(self) -> None:
        """Do what a proxy does; what was held back by `stall` arrives."""
        self._refusing = False
        self._flowing.set()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                return
            await self._flowing.wait()
            await self._pass_both(reader, writer, *await self._connected())
        except OSError:
            return  # the server is away
        finally:
            writer.transport.abort()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first server that takes one."""
        *before, last = self._targets
        for target in before:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*target)
        return await asyncio.open_connection(*last)

    async def _pass_both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        pair = (writer, far_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far_writer))
                tasks.create_task(self._pass(far_reader, writer))
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**18):
                await self._flowing.wait()
                self.bytes_passed += len(data)
                writer.write(data)
                await writer.drain()
        if writer.can_write_eof() and not writer.transport.is_closing():
            with contextlib.suppress(OSError):
                writer.write_eof()


async def main(listen_port: int, target: str) -> None:
    """Serve until standard input ends, doing as it says."""
    host, _, port = target.rpartition(":")
    async with Proxy(host, int(port), listen_port, "0.0.0.0") as proxy:
        print(f"proxy: {proxy.port} -> {target}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            word = line.strip()
            if word == "count":
                print(proxy.connections, proxy.connections_made, flush=True)
            elif word in ("cut", "refuse", "stall", "heal"):
                getattr(proxy, word)()
                print(word, flush=True)
            else:
                print(f"{word!r} is none of cut, refuse, stall, heal, count", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
