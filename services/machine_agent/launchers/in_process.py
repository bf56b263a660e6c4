"""Runners that are tasks of this process: of a simulation, or of a whole system inside one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from dist_zero_common.errors import SimulationError
from dist_zero_common.log import Logger

RunRunner = Callable[[str, int], Coroutine[Any, Any, None]]
"""Runs this incarnation of the runner of this name until it is cancelled."""


class InProcessLauncher:
    """See `Launcher`. A context: its runners live no longer than it does, and one that fails takes no other along.

    async with InProcessLauncher(run_runner, log) as launcher:
        await AgentService(..., launcher=launcher).run()
    """

    def __init__(self, run_runner: RunRunner, log: Logger) -> None:
        self._run_runner, self._log = run_runner, log
        self._tasks = asyncio.TaskGroup()
        self._runners: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def __aenter__(self) -> InProcessLauncher:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._runners.values():
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def start(self, runner: str, incarnation: int) -> None:
        key = runner, incarnation
        if key not in self._runners:
            task = self._tasks.create_task(self._run(runner, incarnation), name=f"{runner} {incarnation}")
            self._runners[key] = task

    async def stop(self, runner: str) -> None:
        for key, task in list(self._runners.items()):
            if key[0] == runner:
                task.cancel()
                await asyncio.wait([task])
                self._runners.pop(key, None)

    def alive(self, runner: str, incarnation: int) -> bool:
        return (runner, incarnation) in self._runners

    async def _run(self, runner: str, incarnation: int) -> None:
        try:
            await self._run_runner(runner, incarnation)
            self._log.error("runner_ended", runner=runner, incarnation=incarnation)
        except SimulationError:
            raise  # not the runner's failure but the simulation's
        except Exception as error:  # whatever it was, the agent reports it and others go on
            self._log.exception("runner_failed", error, runner=runner, incarnation=incarnation)
        finally:
            self._runners.pop((runner, incarnation), None)
