"""For a scheduler that obtains no machines: they come by themselves, as containers or hosts that somebody starts."""

from __future__ import annotations


class NoSpawner:
    """See `Spawner`. Whatever machine is wanted, it says that it is on its way; which ones there are, their reports
    tell."""

    def __init__(self, machines: int) -> None:
        """`machines`: how many the scheduler wants."""
        self._wanted = {f"m{number}": None for number in range(1, machines + 1)}

    async def spawn(self, machine: str) -> None:
        self._wanted[machine] = None

    async def stop(self, machine: str) -> None:
        self._wanted.pop(machine, None)

    async def list(self) -> list[str]:
        return sorted(self._wanted)
