"""A native executor and an interpreter that are given the same, and have to say the same: an executor for any harness
that takes one. What one of them saves, the other loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, ErrorCount, Parcel
from dist_zero.reference.interpreter import Interpreter
from dist_zero.state import TableChange
from dist_zero.types import Row
from dist_zero_common.protocol.messages.pieces import BatchBlob, ShardMap
from test.contract.executors import native

_T = TypeVar("_T")


class Twins:
    """Both, which have to say the same."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.native, self.reference = native(plan), Interpreter(plan)

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
        """See `Executor`."""
        wanted = self.reference.step(epoch, stage, writes, arrived, shards, shard, fill)
        found = self.native.step(epoch, stage, writes, arrived, shards, shard, fill)
        where = f"epoch {epoch}, stage {stage}"
        assert [_parcel(p) for p in found] == [_parcel(p) for p in wanted], f"parcels of {where}"
        return found

    def finish(self, epoch: int) -> dict[int, Batch]:
        """See `Executor`."""
        wanted, found = self.reference.finish(epoch), self.native.finish(epoch)
        assert _blobs(found) == _blobs(wanted), f"changes of epoch {epoch}"
        for view in range(len(self.plan.views)):
            self.rows(view)
            self.errors(view)
        for dataset in range(len(self.plan.datasets)):
            self.missed(dataset)
        return found

    def rows(self, view: int) -> Batch:
        """See `Executor`. Their order may differ."""
        wanted, found = self.reference.rows(view), self.native.rows(view)
        assert _exact(found) == _exact(wanted), f"rows of view {view}"
        return found

    def get(self, view: int, key: Row) -> Row | None:
        """See `Executor`."""
        return _same(self.reference.get(view, key), self.native.get(view, key), f"get from view {view}")

    def errors(self, view: int) -> list[ErrorCount]:
        """See `Executor`."""
        return _same(self.reference.errors(view), self.native.errors(view), f"errors of view {view}")

    def missed(self, dataset: int) -> int:
        """See `Executor`."""
        return _same(self.reference.missed(dataset), self.native.missed(dataset), f"missed of {dataset}")

    def save(self, everything: bool) -> list[TableChange]:
        """See `Executor`."""
        return [change for change in self.freeze(everything) if change is not None]

    def freeze(self, everything: bool) -> Iterator[TableChange | None]:
        """See `Executor`. Places where others may go on may differ."""
        wanted = self.reference.freeze(everything)
        found = self.native.freeze(everything)

        def given() -> Iterator[TableChange | None]:
            changes: list[TableChange] = []
            for change in found:
                if change is not None:
                    changes.append(change)
                yield change
            assert _changes(changes) == _changes([c for c in wanted if c is not None]), "what is saved"

        return given()

    def load(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> None:
        """See `Executor`."""
        for _ in self.loading(epoch, saves, keep, loose):
            pass

    def loading(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> Iterator[None]:
        """See `Executor`."""
        every = [list(save) for save in saves]
        yield from self.native.loading(epoch, every, keep, loose)
        yield from self.reference.loading(epoch, every, keep, loose)

    def catching_up(
        self,
        epoch: int,
        number: int,
        saves: Iterable[Iterable[TableChange]],
        whole: bool,
        owns: Callable[[int], bool] | None = None,
    ) -> Iterator[None]:
        """See `Executor`."""
        every = [list(save) for save in saves]
        yield from self.native.catching_up(epoch, number, every, whole, owns)
        yield from self.reference.catching_up(epoch, number, every, whole, owns)


def _parcel(parcel: Parcel) -> tuple[int, int, BatchBlob]:
    return parcel.shard, parcel.exchange, parcel.batch.to_blob()


def _blobs(changes: dict[int, Batch]) -> list[tuple[int, BatchBlob]]:
    return [(view, batch.to_blob()) for view, batch in changes.items()]


def _changes(changes: Sequence[TableChange]) -> list[tuple[int, BatchBlob, BatchBlob]]:
    return [(change.table, change.puts.to_blob(), change.deletes.to_blob()) for change in changes]


def _exact(batch: Batch) -> list[tuple[str, int]]:
    return sorted((repr(row), weight) for row, weight in batch.to_zset().items())


def _same(wanted: _T, found: _T, what: str) -> _T:
    assert repr(found) == repr(wanted), what
    return found
