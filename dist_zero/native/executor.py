"""The native executor: the contract of `dist_zero/executor.py` by a plan in C, with the same bits as the interpreter.

In C is what rows go through and what is kept of them. Here is the order of calls, and what is rare: the texts of
failures, which the interpreter's own code writes, and the tables of rows that are left out and of writes that missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, ErrorCount, Parcel
from dist_zero.executor_state import ExecutorState
from dist_zero.hashing import key_hash
from dist_zero.kept import Kept, KeptZSet, freeze
from dist_zero.left_out import RowsLeftOut
from dist_zero.native.failing import Failing
from dist_zero.native.kept import KeptInC, TableInC
from dist_zero.native.library import Given, Node, Said, library_of
from dist_zero.native.loading import SLICE, NativeLoading
from dist_zero.places import packed_places
from dist_zero.shards import owner
from dist_zero.state import TableChange, state_tables
from dist_zero.types import DataType, Row
from dist_zero_common.errors import InternalError, MalformedMessage, RequestError
from dist_zero_common.protocol.messages.pieces import ShardMap, WriteKind

_EMPTY_KEY_HASH = key_hash((), ())
_KINDS = {WriteKind.PUT: 0, WriteKind.UPDATE: 1, WriteKind.DELETE: 2, WriteKind.APPEND: 3}


class NativeExecutor(ExecutorState):
    """One node's plan, state and views; see `Executor` for what its methods promise. Raises `NativeUnavailable` where
    there is no compiler. `flags` for the compiler are for tests."""

    def __init__(self, plan: Plan, flags: tuple[str, ...] = ()) -> None:
        self.plan = plan
        self._library = library = library_of(plan, flags)
        self._node = Node(library)
        self._sources = [o for o in plan.operators if isinstance(o, plans.Source)]
        self._exchanges = {o.id: o for o in plan.operators if isinstance(o, plans.Exchange)}
        self._sinks = [plan.operators[view.sink] for view in plan.views]
        self._left_out = RowsLeftOut(plan)
        self._failing = Failing(plan, library.rendered.left_out, self._left_out)
        self._kept_missed = {source.dataset: KeptZSet() for source in self._sources}
        self._missed = dict.fromkeys(self._kept_missed, 0)
        self._waiting_missed: dict[int, dict[int, int]] = {}
        self._tables = state_tables(plan)
        self._in_c = [
            TableInC(self._node, number, table) if in_c else None
            for number, (table, in_c) in enumerate(zip(self._tables, library.rendered.in_c, strict=True))
        ]
        self._kept = self._all_kept()
        self._view_tables = self._tables_of_views()
        super().__init__(NativeLoading(self._node, self._tables, self._in_c, self._kept))
        self._shards: tuple[ShardMap, list[int], bool] | None = None
        self._written: dict[tuple[int, tuple[int, ...]], tuple[DataType, ...]] = {}

    def _all_kept(self) -> list[Kept]:
        """Every table of the state, by number."""
        names = lineages(self.plan)
        here: dict[str, Kept] = {
            f"missed/{self.plan.datasets[number].name}": kept for number, kept in self._kept_missed.items()
        }
        here.update({f"errors/{names[number]}": kept for number, kept in self._left_out.kept.items()})
        return [
            KeptInC(in_c) if in_c is not None else here[table.name]
            for table, in_c in zip(self._tables, self._in_c, strict=True)
        ]

    def _tables_of_views(self) -> list[TableInC]:
        names = lineages(self.plan)
        by_name = {table.name: in_c for table, in_c in zip(self._tables, self._in_c, strict=True)}
        found = [by_name[f"view/{names[sink.id]}"] for sink in self._sinks]
        return [table for table in found if table is not None]

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
        """Run one stage of one epoch."""
        self._begin_step()
        given = Given()
        head = given.head
        lasts, owns_empty_key = self._map(shards, shard)
        head.extend((epoch, stage, owns_empty_key, fill.start, fill.stop, len(lasts), *lasts, shard))
        head.append(len(writes))
        for each in writes:
            head.extend((each.dataset, _KINDS[each.kind], len(each.columns), *each.columns))
            self._give_writes(given, each)
        head.append(len(arrived))
        for number, batch in arrived:
            head.append(self._checked_exchange(number, stage, batch.types))
            given.batch(batch)
        others = [each for each in range(len(lasts)) if each != shard]
        return self._step(epoch, stage, self._node.ask(self._library.step, *given.arguments()), others)

    def _give_writes(self, given: Given, writes: Writes) -> None:
        """Adds what C reads by the columns and rows that there have to be."""
        batch = writes.batch
        key = writes.dataset, writes.columns
        types = self._written.get(key)
        if types is None:
            types = self.plan.datasets[writes.dataset].row_type.select(writes.columns).types
            self._written[key] = types
        if batch.types != types or not len(batch) == len(writes.transactions) == len(writes.rows):
            raise InternalError(
                f"writes to dataset {writes.dataset} that are not of its columns, each with its place"
            )
        given.bytes(packed_places(writes.transactions))
        given.bytes(packed_places(writes.rows))
        given.batch(batch)

    def _step(self, epoch: int, stage: int, said: Said, others: list[int]) -> list[Parcel]:
        """What a step has said: parcels, what missed, what is left out."""
        parcels: list[Parcel] = []
        for _ in range(said.word()):
            shard, number = said.word(), said.word()
            batch = said.batch(self._exchanges[number].row_type.types)
            parcels += [Parcel(each, number, batch) for each in (others if shard < 0 else (shard,))]
        parcels.sort(key=lambda parcel: (parcel.shard, parcel.exchange))
        for source in self._sources:
            missed = said.word()
            if missed:
                self._kept_missed[source.dataset].add([((), missed)])
        if stage == 1:
            self._waiting_missed[epoch] = {n: k.weights.get((), 0) for n, k in self._kept_missed.items()}
        self._failing.take(epoch, said)
        return parcels

    def _map(self, shards: ShardMap, shard: int) -> tuple[list[int], bool]:
        """The last hashes of the shards as signed words, and whether the empty key is here."""
        if self._shards is None or self._shards[0] is not shards:
            lasts = [last - (1 << 64) if last >> 63 else last for last in shards.lasts]
            self._shards = shards, lasts, False
        return self._shards[1], owner(shards, _EMPTY_KEY_HASH) == shard

    def _checked_exchange(self, number: int, stage: int, types: tuple[DataType, ...]) -> int:
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.stage != stage:
            raise MalformedMessage(f"rows for operator {number}, which is no exchange into stage {stage}")
        if types != exchange.row_type.types:
            raise MalformedMessage(f"rows for operator {number} that are not {exchange.row_type}")
        return number

    def finish(self, epoch: int) -> dict[int, Batch]:
        """Make `epoch` visible. Returns what changed, by view number, without empty ones."""
        self._left_out.finish(epoch)
        self._missed = self._waiting_missed.pop(epoch)
        said = self._node.ask(self._library.finish, epoch)
        changed: dict[int, Batch] = {}
        for _ in range(said.word()):
            view = said.word()
            changed[view] = said.batch(self._sinks[view].row_type.types)
        return changed

    def rows(self, view: int) -> Batch:
        """This node's part of a view as of the newest finished epoch."""
        types = self._sinks[view].row_type.types
        return self._node.ask(self._library.rows, view).batch(types)

    def get(self, view: int, key: Row) -> Row | None:
        """The row of a keyed view with this key, as of the newest finished epoch."""
        sink = self._sinks[view]
        assert isinstance(sink, plans.Sink)
        if sink.key is None:
            raise RequestError("this view has no key, so there is nothing to get a row by")
        found = self._view_tables[view].get(key)
        return None if found is None else found[0]

    def errors(self, view: int) -> list[ErrorCount]:
        """What this node leaves out of a view as of the newest finished epoch, by operator and reason."""
        sink = self._sinks[view]
        assert isinstance(sink, plans.Sink)
        return self._left_out.errors(sink.errors_of)

    def missed(self, dataset: int) -> int:
        """Updates and deletes of keys that were not there, on this node, up to the newest finished epoch."""
        return self._missed.get(dataset, 0)

    @property
    def bytes_used(self) -> int:
        """Memory that is in use in C."""
        return self._node.bytes_used

    def fail_after(self, allocations: int) -> None:
        """For tests: the so many-th allocation from now on fails."""
        self._node.fail_after(allocations)

    def free(self) -> int:
        """For tests: gives everything in C back; how many bytes were lost before."""
        return self._node.free()

    # ---- state --------------------------------------------------------------------------------------------

    def _is_ahead(self) -> bool:
        return bool(self._waiting_missed)

    def _frozen(self, tracked: bool) -> list[Iterator[TableChange | None]]:
        tables = zip(self._tables, self._in_c, self._kept, strict=True)
        return [
            freeze(number, table, kept, tracked).changes() if in_c is None else in_c.frozen(tracked)
            for number, (table, in_c, kept) in enumerate(tables)
        ]

    def _note_touched(self) -> None:
        self._node.call(self._library.track)
        for kept in self._kept:
            kept.track()

    def _settling(self, slices: Iterator[None]) -> Iterator[None]:
        yield from slices
        while self._node.call(self._library.settle, SLICE):
            yield
        self._missed = {number: kept.weights.get((), 0) for number, kept in self._kept_missed.items()}
