"""What every launcher promises: it starts and stops the runners of one machine, by name and incarnation."""

from __future__ import annotations

from typing import Protocol


class Launcher(Protocol):
    """Starts node runners. What it cannot do is an `OperatorError`."""

    async def start(self, runner: str, incarnation: int) -> None:
        """Start this incarnation; one that was started before stays as it is."""
        ...

    async def stop(self, runner: str) -> None:
        """End every incarnation of the runner, and return when it has ended; none is no error."""
        ...

    def alive(self, runner: str, incarnation: int) -> bool:
        """Whether this incarnation was started and has not ended."""
        ...
