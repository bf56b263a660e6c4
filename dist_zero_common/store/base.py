"""What every store promises: objects that are created once and never change.

Only `create` decides anything (docs/protocol.md). It is put-if-absent, durable when it returns, and its outcome
may be unknown: a `StoreError` from `create` means that the object may or may not be there, and the caller reads it
back. Names are `/`-separated paths of `[A-Za-z0-9._=-]+` parts; `list` returns them sorted.
"""

from __future__ import annotations

import enum
from typing import Protocol


class Created(enum.Enum):
    """What `create` found: nothing, so the object is now there, or an object that was there before."""

    NEW = "new"
    EXISTS = "exists"


class Store(Protocol):
    """A flat map from names to immutable bytes."""

    async def create(self, name: str, data: bytes) -> Created:
        """Write the object unless one of this name exists; durable on return.

        Raises `StoreError` when the outcome is unknown or the store is not usable.
        """
        ...

    async def read(self, name: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        ...

    async def list(self, prefix: str) -> list[str]:
        """Names that start with `prefix`, sorted by code point."""
        ...

    async def delete(self, name: str) -> None:
        """Remove the object; a missing one is no error."""
        ...

    async def close(self) -> None:
        """Release what the store holds."""
        ...
