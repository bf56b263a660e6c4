"""Where messages go that nobody could understand: into the store (of processes that have one), with the reason, and
never back into a queue."""

from __future__ import annotations

import asyncio
import hashlib

from dist_zero_common.errors import StoreError
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import SetAside
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import aside_name

KEPT_MAX = 1_000
"""A process keeps this many; what comes beyond is counted and logged only."""

BYTES_MAX = 64 * 2**10
"""Of a larger message, the beginning is kept."""


def only_logged(log: Logger) -> SetAside:
    """For a process without a store: what it refuses is in its log, with the reason and without the contents."""

    def set_aside(queue: str, body: bytes, reason: str) -> None:
        log.warning("message_set_aside", queue=queue, reason=reason, bytes=len(body))

    return set_aside


class Aside:
    """One process's refused messages. An object holds the queue, the reason, the length, an empty line, the bytes."""

    def __init__(self, store: Store, process: str, log: Logger) -> None:
        self.count = 0
        self._store, self._process, self._log = store, process, log
        self._kept: dict[str, None] = {}
        self._writing: list[asyncio.Task[None]] = []

    def __call__(self, queue: str, body: bytes, reason: str) -> None:
        """Keep `body` unless it is kept already; the store is written in the background."""
        self.count += 1
        self._log.warning("message_set_aside", queue=queue, reason=reason, bytes=len(body), count=self.count)
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        if digest in self._kept or len(self._kept) >= KEPT_MAX:
            return
        self._kept[digest] = None
        head = f"queue: {queue}\nreason: {reason}\nbytes: {len(body)}\n\n".encode()
        self._writing = [task for task in self._writing if not task.done()]
        keep = self._keep(aside_name(self._process, digest), head + body[:BYTES_MAX])
        self._writing.append(asyncio.get_running_loop().create_task(keep))

    async def wait_kept(self) -> None:
        """Wait until all that was set aside is in the store."""
        await asyncio.gather(*self._writing)

    async def _keep(self, name: str, data: bytes) -> None:
        try:
            await self._store.create(name, data)
        except StoreError as failed:
            self._log.error("set_aside_failed", name=name, reason=str(failed))
