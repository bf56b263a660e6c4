"""An executor on one node, an epoch at a time, with no system around it."""

from __future__ import annotations

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.executor import Executor
from dist_zero.native.executor import NativeExecutor
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map
from dist_zero.types import Row
from dist_zero_common.protocol.messages.pieces import WriteKind


def new_executor(plan: Plan, name: str) -> Executor:
    """The executor of this name, `interpreter` or `native`."""
    if name == "interpreter":
        return Interpreter(plan)
    return NativeExecutor(plan)


class OneNode:
    """Runs a plan on stored rows."""

    def __init__(self, plan: Plan, executor: str = "interpreter") -> None:
        self._plan, self._shards = plan, even_map(1, ("n1",))
        self.executor = new_executor(plan, executor)
        self.epoch = 0

    def write(self, dataset: int, rows: list[Row]) -> None:
        """Put these rows in one epoch; append them to a dataset without a key."""
        self.epoch += 1
        source = self._plan.datasets[dataset]
        kind = WriteKind.APPEND if source.key is None else WriteKind.PUT
        types = source.row_type.types
        batch = Batch.from_rows(types, rows)
        writes = [Writes(dataset, kind, tuple(range(len(types))), batch, [0] * len(rows), range(len(rows)))]
        arrived: list[tuple[int, Batch]] = []
        for stage in range(1, self._plan.stages + 1):
            parcels = self.executor.step(self.epoch, stage, writes, arrived, self._shards, 0)
            arrived, writes = [(parcel.exchange, parcel.batch) for parcel in parcels], []
        self.executor.finish(self.epoch)

    def rows(self, view: int) -> list[Row]:
        """The rows of a view, in no particular order."""
        return self.executor.rows(view).rows()
