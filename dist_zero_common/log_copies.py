"""Logs of hosts that go away with their disks: copies of them in the system's store, piece by piece.

    cloud-logs/<host>/<time of the last entry>     entries of one host, in order of time, a JSON object a line

A piece is written when there is news, every few seconds, so what a host said last may be missing when it ends. The time
in a piece's name says where the next one goes on, also after a restart of whoever copies. Old pieces are removed by the
host that wrote them, when it starts and once a day.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dist_zero_common.errors import StoreError
from dist_zero_common.log import Logger
from dist_zero_common.logs_tail import Entry
from dist_zero_common.store.base import Store

PREFIX = "cloud-logs/"
COPY_SECONDS = 5.0
KEPT = timedelta(days=14)
ENTRIES_MAX = 20_000
"""As long as the store does not answer, later entries are not copied; they are in the files of the host."""
_NAME_TIME = "%Y%m%dT%H%M%S%fZ"
_ENTRY_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


def piece_name(host: str, last: str) -> str:
    """The name of a piece that ends with an entry of this time."""
    return f"{PREFIX}{host}/{datetime.strptime(last, _ENTRY_TIME).strftime(_NAME_TIME)}"


def piece_time(name: str) -> datetime:
    """The time of the last entry in the piece of this name."""
    return datetime.strptime(name.rpartition("/")[2], _NAME_TIME).replace(tzinfo=UTC)


def host_of(name: str) -> str:
    """The host whose piece this is."""
    return name.removeprefix(PREFIX).partition("/")[0]


def piece_of(entries: Iterable[Entry]) -> bytes:
    """A piece with these entries."""
    return "".join(json.dumps(entry.as_json(), ensure_ascii=False) + "\n" for entry in entries).encode()


class Copier:
    """Copies one host's entries into the store. Blocks."""

    def __init__(self, store: Store, host: str, log: Logger, now: Callable[[], datetime]) -> None:
        self._store, self._host, self._log, self._now = store, host, log, now
        self._waiting: list[Entry] = []
        self._swept_at = datetime.min.replace(tzinfo=UTC)

    def since(self) -> datetime | None:
        """Behind which time to begin; None: with the first entry. Raises `StoreError`."""
        names = asyncio.run(self._store.list(f"{PREFIX}{self._host}/"))
        return piece_time(names[-1]) + timedelta(microseconds=1) if names else None

    def add(self, entry: Entry) -> None:
        """An entry to be copied; one without a time is none of ours."""
        if entry.event and len(self._waiting) < ENTRIES_MAX:
            self._waiting.append(entry)

    def copy(self) -> None:
        """Write what waits, and remove what is too old. What fails is tried with the next."""
        entries = sorted(self._waiting, key=lambda entry: entry.time)
        try:
            if entries:
                asyncio.run(self._store.create(piece_name(self._host, entries[-1].time), piece_of(entries)))
                self._waiting = []
            if self._now() - self._swept_at > timedelta(days=1):
                asyncio.run(self._sweep())
                self._swept_at = self._now()
        except StoreError as failed:
            self._log.warning("logs_not_copied", entries=len(entries), reason=str(failed))
        except ValueError:
            self._waiting = []  # a time that is none: somebody else writes here

    async def _sweep(self) -> None:
        oldest = self._now() - KEPT
        for name in await self._store.list(f"{PREFIX}{self._host}/"):
            if piece_time(name) >= oldest:
                return
            await self._store.delete(name)


async def fetch(store: Store, directory: Path) -> int:
    """Add what is new in the store to one file per host in `directory`, where `logs_tail.follow` finds it. Returns how
    many pieces that was."""
    new = 0
    for name in await store.list(PREFIX):
        place = directory / host_of(name)
        mark = place / "fetched"
        if mark.exists() and name <= mark.read_text(encoding="utf-8"):
            continue
        piece = await store.read(name)
        if piece is None:
            continue  # it is old, and was removed just now
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"{host_of(name)}.jsonl").open("ab") as file:
            file.write(piece)
        mark.write_text(name, encoding="utf-8")
        new += 1
    return new
