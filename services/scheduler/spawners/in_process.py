"""Machines that are tasks of this process: of a simulation, or of a whole system inside one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from dist_zero_common.errors import SimulationError
from dist_zero_common.log import Logger

RunMachine = Callable[[str], Coroutine[Any, Any, None]]
"""Runs the machine of this name until it is cancelled: its agent, and whatever that starts."""


class InProcessSpawner:
    """See `Spawner`. A machine that ends by itself is logged and no longer listed, so that it is spawned
    anew."""

    def __init__(self, tasks: asyncio.TaskGroup, run_machine: RunMachine, log: Logger) -> None:
        """`tasks` is the group in which the machines run."""
        self._tasks, self._run_machine, self._log = tasks, run_machine, log
        self._machines: dict[str, asyncio.Task[None]] = {}

    async def spawn(self, machine: str) -> None:
        if machine not in self._machines:
            self._machines[machine] = self._tasks.create_task(self._run(machine), name=f"machine {machine}")

    async def stop(self, machine: str) -> None:
        task = self._machines.get(machine)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._machines.pop(machine, None)

    async def list(self) -> list[str]:
        return sorted(self._machines)

    async def _run(self, machine: str) -> None:
        try:
            await self._run_machine(machine)
            self._log.warning("machine_ended", machine=machine)
        except SimulationError:
            raise  # not the machine's failure but the simulation's
        except Exception as error:  # whatever it was, other machines go on
            if _has_loop():
                self._log.exception("machine_failed", error, machine=machine)
        finally:
            self._machines.pop(machine, None)


def _has_loop() -> bool:
    """Whether there is still a loop: a task that was left behind, as after Ctrl-C, is ended without one, and fails."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
