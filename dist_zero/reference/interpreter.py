"""The reference executor: plain Python over Z-sets. It defines what every operator means and needs nothing
installed.

`Interpreter` keeps the contract of `dist_zero/executor.py`. It owns the order of things: which operator runs
in which stage, what waits for a later stage or for the end of the epoch, and where rows are sent. What
operators compute is in `operators.py` and the files it names; an operator knows neither its epoch nor where
its rows go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Operator, Plan
from dist_zero.executor import NOTHING_FILLED, ErrorCount, Parcel
from dist_zero.executor_state import ExecutorState
from dist_zero.hashing import hasher, key_hash
from dist_zero.kept import Kept, freeze
from dist_zero.left_out import Failures, RowsLeftOut
from dist_zero.reference import operators
from dist_zero.reference.aggregate import Reduce
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.gate import Gate
from dist_zero.reference.join import Join
from dist_zero.reference.loading import Loading
from dist_zero.reference.operators import Context, Delta, OperatorState, by_key, consolidated
from dist_zero.reference.scalar import Scalars
from dist_zero.reference.source import Source, View, sorted_batch
from dist_zero.reference.top import Top
from dist_zero.shards import owner
from dist_zero.state import TableChange, shows_a_part, state_tables, value_place
from dist_zero.types import Row, RowType
from dist_zero.zset import ZSet
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.pieces import ShardMap

_EMPTY_KEY_HASH = key_hash((), ())


class Interpreter(ExecutorState):
    """One node's plan, state and views; see `Executor` for what its methods promise."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._sources: dict[int, Source] = {}
        self._views: dict[int, View] = {}
        self._gates: dict[int, Gate] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._states: dict[int, OperatorState] = {}
        self._by_stage: list[list[Operator]] = [[] for _ in range(plan.stages + 1)]
        for operator in plan.operators:
            self._by_stage[operator.stage].append(operator)
            if isinstance(operator, plans.Source):
                self._sources[operator.dataset] = Source(operator)
            elif isinstance(operator, plans.Sink):
                self._views[operator.view] = View(operator)
            elif isinstance(operator, plans.Gate):
                self._gates[operator.id] = Gate(operator, self._sources[operator.dataset])
            elif isinstance(operator, plans.Exchange):
                self._exchanges[operator.id] = _Exchange(operator, plan)
            else:
                self._states[operator.id] = _STATES[type(operator)](operator, plan)
        self._last_use = _last_use(plan)
        self._unstarted = {o.id for o in plan.operators if isinstance(o, plans.Reduce) and not o.keys}
        self._waiting: dict[int, dict[int, Delta]] = {}
        self._left_out = RowsLeftOut(plan)
        self._waiting_missed: dict[int, dict[int, int]] = {}
        self._missed = dict.fromkeys(self._sources, 0)
        self._tables = state_tables(plan)
        self._settle = [state.settle for state in self._states.values()]
        kept = self._kept_by_name()
        self._kept = [kept[table.name] for table in self._tables]
        super().__init__(Loading(self._tables, self._kept))

    def _kept_by_name(self) -> dict[str, Kept]:
        """Everything there is to save, by the names of the tables."""
        kept: dict[str, Kept] = {}
        names = lineages(self.plan)
        for number, source in self._sources.items():
            name = self.plan.datasets[number].name
            kept[f"dataset/{name}"], kept[f"missed/{name}"] = source.kept, source.missed
        for number, view in self._views.items():
            kept[f"view/{names[self.plan.views[number].sink]}"] = view.kept
        for number, state in self._states.items():
            kept.update({f"operator/{names[number]}/{what}": table for what, table in state.kept().items()})
        kept.update({f"errors/{names[number]}": errors for number, errors in self._left_out.kept.items()})
        return kept

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
        deltas = self._waiting.pop(epoch, {})
        self._receive(stage, arrived, deltas)
        owns_empty_key = owner(shards, _EMPTY_KEY_HASH) == shard
        for operator in self._by_stage[stage]:
            try:
                if isinstance(operator, plans.Source):
                    own = [batch for batch in writes if batch.dataset == operator.dataset]
                    deltas[operator.id] = self._sources[operator.dataset].apply(own)
                elif isinstance(operator, plans.Gate):
                    deltas[operator.id] = self._gates[operator.id].apply(deltas[operator.inputs[0]], fill)
                elif isinstance(operator, plans.Sink):
                    self._views[operator.view].wait(epoch, deltas.get(operator.inputs[0], []))
                elif not isinstance(operator, plans.Exchange):
                    inputs = [deltas.get(number, []) for number in operator.inputs]
                    if any(inputs) or operator.id in self._unstarted:
                        self._unstarted.discard(operator.id)
                        context = Context(self._left_out.failures(epoch, operator.id), owns_empty_key)
                        deltas[operator.id] = self._states[operator.id].apply(inputs, context)
            except Exception as error:
                error.add_note(f"in operator {operator.id} ({operator.label or type(operator).__name__})")
                raise
        if stage == 1:
            self._waiting_missed[epoch] = {n: source.missed_count for n, source in self._sources.items()}
        parcels = self._send(epoch, stage, deltas, shards, shard)
        waiting = {n: delta for n, delta in deltas.items() if delta and self._last_use[n] > stage}
        if waiting:
            self._waiting[epoch] = waiting
        return parcels

    def finish(self, epoch: int) -> dict[int, Batch]:
        """Make `epoch` visible. Returns what changed, by view number, without empty ones."""
        self._left_out.finish(epoch)
        self._missed = self._waiting_missed.pop(epoch)
        changed = {number: view.finish(epoch) for number, view in self._views.items()}
        return {number: batch for number, batch in changed.items() if batch is not None}

    def rows(self, view: int) -> Batch:
        """This node's part of a view as of the newest finished epoch."""
        return self._views[view].rows()

    def get(self, view: int, key: Row) -> Row | None:
        """The row of a keyed view with this key, as of the newest finished epoch."""
        return self._views[view].get(key)

    def errors(self, view: int) -> list[ErrorCount]:
        """What this node leaves out of a view as of the newest finished epoch, by operator and reason."""
        return self._left_out.errors(self._views[view].errors_of)

    def missed(self, dataset: int) -> int:
        """Updates and deletes of keys that were not there, on this node, up to the newest finished epoch."""
        return self._missed.get(dataset, 0)

    # ---- state --------------------------------------------------------------------------------------------

    def _is_ahead(self) -> bool:
        waits = self._waiting or self._waiting_missed or self._left_out.waits
        return bool(waits) or any(view.waits for view in self._views.values())

    def _frozen(self, tracked: bool) -> list[Iterator[TableChange | None]]:
        pairs = zip(self._tables, self._kept, strict=True)
        return [freeze(n, table, kept, tracked).changes() for n, (table, kept) in enumerate(pairs)]

    def _note_touched(self) -> None:
        for kept in self._kept:
            kept.track()

    def _settling(self, slices: Iterator[None]) -> Iterator[None]:
        try:
            yield from slices
            for number, settle in zip(self._states, self._settle, strict=True):
                if (yield from settle()):
                    self._unstarted.add(number)
        except ScalarFailure as failure:
            raise MalformedMessage(f"saved state has a row that is left out: {failure}") from None
        self._missed = {number: source.missed_count for number, source in self._sources.items()}

    # ---- rows ---------------------------------------------------------------------------------------------

    def _receive(self, stage: int, arrived: Sequence[tuple[int, Batch]], deltas: dict[int, Delta]) -> None:
        """Put what arrived where the exchanges' consumers look for it."""
        for number, batch in arrived:
            exchange = self._exchanges.get(number)
            if exchange is None or exchange.stage != stage:
                raise MalformedMessage(f"rows for operator {number}, which is no exchange into stage {stage}")
            deltas.setdefault(number, []).extend(batch.items())

    def _send(
        self, epoch: int, stage: int, deltas: dict[int, Delta], shards: ShardMap, shard: int
    ) -> list[Parcel]:
        """What the exchanges into the next stage send, in ascending (shard, exchange); what stays here waits there."""
        parcels = []
        for operator in self._by_stage[stage + 1] if stage < self.plan.stages else ():
            delta = deltas.get(operator.inputs[0]) if isinstance(operator, plans.Exchange) else None
            if delta:
                routed = self._exchanges[operator.id].route(
                    delta, self._left_out.failures(epoch, operator.id), shards
                )
                types = operator.row_type.types
                deltas[operator.id] = list(routed.pop(shard, {}).items())
                parcels += [Parcel(to, operator.id, sorted_batch(types, rows)) for to, rows in routed.items()]
        return sorted(parcels, key=lambda parcel: (parcel.shard, parcel.exchange))


class _Exchange:
    """Finds the shards that rows go to."""

    def __init__(self, operator: plans.Exchange, plan: Plan) -> None:
        self.stage = operator.stage
        self._broadcast = operator.broadcast
        self._key = Scalars(operator.key, plan.operators[operator.inputs[0]].row_type)
        self._hash = hasher(tuple(scalar.dtype for scalar in operator.key))

    def route(self, delta: Delta, failures: Failures, shards: ShardMap) -> dict[int, ZSet]:
        """The rows for each shard that gets any. Rows whose key fails go nowhere and are counted."""
        rows = consolidated(delta)
        if self._broadcast:
            return dict.fromkeys(range(len(shards.nodes)), rows) if rows else {}
        if len(shards.nodes) == 1 and not self._key.fallible:
            return {0: rows} if rows else {}
        hash_of = self._hash
        owners: dict[Row, int] = {}
        routed: dict[int, ZSet] = {}
        for key, (row, weight) in by_key(list(rows.items()), self._key, failures):
            to = owners.get(key)
            if to is None:
                to = owners[key] = owner(shards, hash_of(key))
            if to in routed:
                routed[to][row] = weight
            else:
                routed[to] = {row: weight}
        return routed


def _last_use(plan: Plan) -> list[int]:
    """By operator, the last stage that looks at its output; an exchange does so one stage before its own."""
    last = [0] * len(plan.operators)
    for operator in plan.operators:
        used = operator.stage - isinstance(operator, plans.Exchange)
        for number in operator.inputs:
            last[number] = max(last[number], used)
    return last


def _input_types(operator: Operator, plan: Plan) -> list[RowType]:
    return [plan.operators[number].row_type for number in operator.inputs]


_STATES: dict[type[Operator], Callable[[Any, Plan], OperatorState]] = {
    plans.Filter: lambda o, plan: operators.Filter(o, _input_types(o, plan)),
    plans.Project: lambda o, plan: operators.Project(o, _input_types(o, plan)),
    plans.FlatMap: lambda o, plan: operators.FlatMap(o, _input_types(o, plan)),
    plans.Window: lambda o, plan: operators.Window(o, _input_types(o, plan)),
    plans.Join: lambda o, plan: Join(o, _input_types(o, plan)),
    plans.Reduce: lambda o, plan: Reduce(o, _input_types(o, plan), value_place(plan, o)),
    plans.Top: lambda o, plan: Top(o, _input_types(o, plan), shows_a_part(plan, o)),
    plans.Distinct: lambda _, __: operators.Distinct(),
    plans.Union: lambda _, __: operators.Union(),
    plans.Difference: lambda _, __: operators.Difference(),
}
