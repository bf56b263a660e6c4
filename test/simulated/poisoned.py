"""Systems whose executors cannot stand one row: it makes them raise, or ends their whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, Executor, Parcel
from dist_zero.reference.interpreter import Interpreter
from dist_zero.system import SimulatedSystem
from dist_zero_common.protocol.messages.pieces import ShardMap
from services.node_runner.loading import MakeExecutor
from services.node_runner.service import RunnerService

POISON = 666.0
Hurt = Callable[[], None]
"""What the poison does."""


class Poisonable(Interpreter):
    """An interpreter that a sale of 666 hurts, in stage 1, and in any later one that carries that amount."""

    def __init__(self, plan: Plan, hurt: Hurt) -> None:
        super().__init__(plan)
        self.hurt = hurt

    def step(
        self,
        epoch: int,
        stage: int,
        writes: Sequence[Writes],
        arrived: Sequence[tuple[int, Batch]],
        shards: ShardMap,
        shard: int,
        fill: range = NOTHING_FILLED,
    ) -> list[Parcel]:
        """Run one stage, if nothing in it hurts."""
        if any(POISON in row for each in writes for row in each.batch.rows()):
            self.hurt()
        return super().step(epoch, stage, writes, arrived, shards, shard, fill)


def fails() -> None:
    """The executor raises."""
    raise ArithmeticError("six hundred and sixty-six")


def raising(plan: Plan) -> Executor:
    """An executor that raises on the poison."""
    return Poisonable(plan, fails)


class PoisonedSystem(SimulatedSystem):
    """A simulated system with executors of one's own."""

    make_executor: MakeExecutor = staticmethod(raising)

    def _new_runner(self, machine: str, runner: str, incarnation: int, **others: Any) -> RunnerService:
        make_executor = self.executor_of(asyncio.current_task())
        return super()._new_runner(machine, runner, incarnation, make_executor=make_executor, **others)

    def executor_of(self, _runner: asyncio.Task[None] | None) -> MakeExecutor:
        """What makes the executors of the runner that is this task."""
        return type(self).make_executor


class DeadlySystem(PoisonedSystem):
    """One in which the poison ends the runner's process, in the middle of the step, as a segmentation fault does."""

    deaths = 0

    def executor_of(self, runner: asyncio.Task[None] | None) -> MakeExecutor:
        """What makes executors that end this runner."""
        assert runner is not None

        def dies() -> None:
            self.deaths += 1
            runner.cancel()
            raise asyncio.CancelledError

        return lambda plan: Poisonable(plan, dies)
