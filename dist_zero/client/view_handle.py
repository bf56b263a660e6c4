"""A handle on one view of a client's program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dist_zero.client.changed import Change
from dist_zero.client.snapshot import ViewError
from dist_zero.client.writes import Key
from dist_zero.row import ViewRow

if TYPE_CHECKING:
    from dist_zero.client.client import Client


@dataclass(frozen=True, slots=True)
class ViewHandle:
    """One view of a client's program."""

    client: Client
    name: str

    async def rows(self) -> list[ViewRow]:
        """Its rows, in its order."""
        return await self.client.rows(self.name)

    async def get(self, key: Key) -> ViewRow | None:
        """The row with this key."""
        return await self.client.get(self.name, key)

    def watch(self, *, after: int = 0) -> AsyncIterator[Change]:
        """Its changes; see `Client.watch`."""
        return self.client.watch(self.name, after=after)

    async def errors(self) -> list[ViewError]:
        """The rows that are left out of it, by reason."""
        return list((await self.client.snapshot(self.name)).errors[self.name])
