"""Something that speaks what Logstash's TCP input speaks, lines of JSON, and can be as bad as one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

PATIENCE_SECONDS = 60.0
Event = dict[str, object]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver:
    """Listens at a port while it is open, and keeps what comes.

    `reads`: whether it reads what it has accepted. `breaks_after`: it closes each connection after so many bytes, and
    resets it if not all was read.
    """

    def __init__(
        self, port: int = 0, *, host: str = "127.0.0.1", reads: bool = True, breaks_after: int = 0
    ) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listening.bind((host, port))
        self._listening.listen()
        self.port = int(self._listening.getsockname()[1])
        self.events: list[Event] = []
        """The lines that came whole, parsed."""
        self.torn: list[bytes] = []
        """What was left of a line when its connection ended."""
        self.connections = 0
        self._reads, self._breaks_after = reads, breaks_after
        self._changed = threading.Condition()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join()

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until this holds of what came."""
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_SECONDS), (self.connections, self.events[-5:])

    def wait_event(self, name: str, **fields: object) -> Event:
        """The first event of this name and with these fields, when it has come."""

        def found() -> list[Event]:
            wanted = {"event": name, **fields}
            return [event for event in self.events if wanted.items() <= event.items()]

        self.wait(lambda: bool(found()))
        return found()[0]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.append(connection)
                self._changed.notify_all()
            if self._reads:
                thread = threading.Thread(target=self._read, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _read(self, connection: socket.socket) -> None:
        rest, count = b"", 0
        with suppress(OSError):
            while data := connection.recv(self._breaks_after - count if self._breaks_after else 65_536):
                count += len(data)
                *lines, rest = (rest + data).split(b"\n")
                with self._changed:
                    self.events += [json.loads(line) for line in lines]
                    self._changed.notify_all()
                if count == self._breaks_after:
                    break
        connection.close()
        with self._changed:
            self.torn += [rest] if rest else []
            self._changed.notify_all()
