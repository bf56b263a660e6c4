"""What every store promises: objects that are created once and never change.

Only `create` decides anything (docs/protocol.md). It is put-if-absent, durable when it returns, and its outcome
may be unknown: a `StoreError` from `create` means that the object may or may not be there, and the caller reads it
back. Names are `/`-separated paths of `[A-Za-z0-9._=-]+` parts; `list` returns them sorted.

An object is there as a whole or not at all, and what is there stays. A directory keeps this by linking what is synced;
of object stores it is what a PUT is. Where disks rot, or a gateway tears an object in two, readers notice by the seal
(`codec.py`). Then nobody may take the damaged object away and create it anew, not even the writer that was told of a
failure: looking and deleting are two steps, between which another may do the same and act upon what it has written; and
what looks torn may be on its way. So a torn record of a log is `LogDamaged`, and the program halts until a person
decides. Nothing that was answered can be lost with it if it was torn when it was written: a record is read back before
anybody hears of it. Objects whose content follows from the log, as that of checkpoints does, are written once more
under another name.
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
