"""What every spawner promises: it obtains machines by name, and a machine, once up, announces itself.

A spawner is asked again and again until what it lists is what is wanted, so each call may be repeated, and a
call whose outcome is unknown is simply made again. What a spawner cannot do is an `OperatorError`, which is
logged, and tried again later.
"""

from __future__ import annotations

from typing import Protocol


class Spawner(Protocol):
    """Obtains and returns machines."""

    async def spawn(self, machine: str) -> None:
        """Obtain a machine of this name, on which a machine agent will start; one that is there stays as it
        is."""
        ...

    async def stop(self, machine: str) -> None:
        """Give the machine back with all that runs on it; a missing one is no error."""
        ...

    async def list(self) -> list[str]:
        """The machines that are there or on their way, sorted by name."""
        ...
