"""The saved state of a node: which tables it keeps, and how each is divided when shards are. Not how it is kept in
memory: that is the executor's own business, and a node that one executor saved may be loaded by another.

`state_tables` names, for a plan, everything that a node has to remember at the end of an epoch. What can be computed
from that is in no table: ordered indexes, what a group or a `top` shows, the partners of a row in a conditioned join.
A table is named by the *lineage* of its operator (`compiler/fingerprint.py`), so that under another plan the tables of
an operator that computes the same are found again; those of a dataset by the dataset. An entry of a *keyed* table is
identified by the columns `key`, and is there once; an entry of a *Z-set* is a row with
a weight. Counters are Z-sets, too: `missed/…` is the weight of the row without columns.

How a table is divided follows from where rows are (`compiler/sharding.py`). A change of a row comes to the node that
owns the hash of the row's sharding; so whatever was kept of the row has to be there as well. Several shardings may be
known of an operator's input. It does not matter which is taken, because they agree on every row, not by chance but
value by value: behind a source or an exchange there is one, a join adds that of the other side where both are the
same function of equal keys, and all other operators only hand on what they can. So:

    source        rows of a keyed dataset, by its key. A dataset without one keeps nothing.
    join          each side's rows, by that function of the join key by which both sides are sharded. Beside a
                  broadcast right side, which is a copy everywhere: the left side's rows, by their own sharding.
    reduce        groups, and for minimum and maximum the values of a group with their counts, by the input's sharding
                  as far as the group's key tells it; in phase FINAL by the hash of nothing.
    top           the input's rows, by their sharding; and so a group is never divided, unless the `top` is one that
                  runs on each node on what is there (partial).
    distinct      rows with weights, by their sharding. difference: of both sides, by the common one.
    sink          the view's rows, by its sharding.
    errors        of each operator: (the values of the sharding of the row left out, reason, example), by those values.
                  An operator whose input's sharding is unknown cannot say where a row was; see below.

*Partial* operators see of a group what happens to be on their node, and what they show is kept by an operator on
another node. When shards are divided or joined, that which was shown, by whatever nodes, is still there, so it is
state as well (`…/shown`), and a successor's first step takes it back and shows what is right for what it holds now.

- A partial `top` keeps rows, which have their sharding. After a split each successor shows the first of its own.
- A partial `reduce` keeps one group. Counts and sums are additive: it does not matter on which node which part is, and
  a part may be negative; so they are LOOSE, which is all to one successor. Minimum and maximum are not additive: the
  node where a row is taken back must have its value. So their values are kept with the values of their row's sharding,
  and go where the row goes.

LOOSE is what belongs to no hash: all LOOSE tables of a node go together to one successor, the others begin with none,
and those of several predecessors are added up. That is right for counters and sums (`missed`, errors, partial counts)
and for what a plain or conditioned join keeps beside a broadcast side, since its output is linear in that: a row taken
back on another node than it was put in on leaves +1 here and −1 there, and the sum is right. Errors of an unknown
sharding may so be −1 on a node; readers who add up all nodes and leave out zeros see the right count.

It would be wrong for one thing: a partial `top`, `min` or `max` over rows of which nothing tells where they are. A row
taken back on another node than the one that holds it would still be among the first here. So `compiler/partition.py`
sends such rows by the whole row first, unless they are only ever appended: then none is taken back.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dist_zero.batch import Batch
from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Operator, Phase, Place, Plan
from dist_zero.compiler.sharding import (
    Facts,
    Shard,
    apply,
    common_fact,
    common_key,
    express,
    facts,
    listed,
    top_is_whole,
)
from dist_zero.compiler.walk import all_columns
from dist_zero.expr.ops import Aggregation, ColumnRef, Scalar
from dist_zero.types import BYTES, INT, STR, DataType, RowType
from dist_zero_common.errors import InternalError
from dist_zero_common.remembered import remembered


class Division(enum.Enum):
    """What becomes of a table's entries when shards are divided: each goes to the owner of its hash, all of them go to
    every successor, or all of them go to one."""

    KEYED = "keyed"
    BROADCAST = "broadcast"
    LOOSE = "loose"


@dataclass(frozen=True, slots=True)
class StateTable:
    """One collection of entries. `key`: places of the columns that identify one; None: a Z-set, in which the whole row
    does. `shard` (KEYED only): scalars over an entry whose hash owns it."""

    name: str
    row_type: RowType
    key: tuple[int, ...] | None
    division: Division
    shard: Shard = ()

    @property
    def key_type(self) -> RowType:
        """The columns that identify an entry: what the deletes of a `TableChange` have."""
        return self.row_type if self.key is None else self.row_type.select(self.key)


@dataclass(frozen=True, slots=True)
class TableChange:
    """What changed in table number `table`: entries that are new or have another value or weight now, and the keys of
    those that are gone. A key is in one of the two at most, once."""

    table: int
    puts: Batch
    deletes: Batch


@remembered
def state_tables(plan: Plan) -> tuple[StateTable, ...]:
    """All that a node of this plan keeps; a table's number is its place here."""
    known, names = _known(plan), lineages(plan)
    tables: list[StateTable] = []
    for operator in plan.operators:
        inputs = [plan.operators[i] for i in operator.inputs]
        inputs_known, name = [known[i] for i in operator.inputs], names[operator.id]
        tables += _tables(plan, operator, name, inputs, inputs_known)
        places = _error_places(operator, inputs_known)
        if places is not None:
            tables.append(_errors(name, places))
    return tuple(tables)


@remembered
def error_places(plan: Plan) -> dict[int, tuple[Shard, ...]]:
    """By operator that may leave rows out: where a row that it leaves out is, as scalars whose values stand in front of
    an entry of its `errors` table. One for each kind of row that it may leave out: for a join rows of the left side
    (and pairs) and of the right side, for a reduce rows and groups' keys, else rows. Empty ones: nothing tells."""
    known = _known(plan)
    found = {o.id: _error_places(o, [known[i] for i in o.inputs]) for o in plan.operators}
    return {number: places or ((), ()) for number, places in found.items() if places is not None}


def value_place(plan: Plan, reduce: plans.Reduce) -> Shard:
    """Where a row of a partial reduce is: scalars over it, whose values stand in front of each `values` entry."""
    return _first(_known(plan)[reduce.inputs[0]]) or ()


def shows_a_part(plan: Plan, top: plans.Top) -> bool:
    """Whether a top is a partial one, so that what it shows is state."""
    return not top_is_whole(top, _known(plan)[top.inputs[0]])


def is_plain_count(aggregation: Aggregation) -> bool:
    """Whether an aggregation is the number of a group's rows, which is kept once for all of them."""
    return aggregation.function == "count" and aggregation.argument is None and aggregation.where is None


def is_extreme(aggregation: Aggregation) -> bool:
    """Whether an aggregation keeps values, not a sum."""
    return aggregation.function in ("min", "max")


# ---- what is known -----------------------------------------------------------------------------------------


@remembered
def _known(plan: Plan) -> tuple[Facts, ...]:
    """By operator, the shardings that hold for its rows."""
    known: list[Facts] = []
    for operator in plan.operators:
        inputs = operator.inputs
        known.append(facts(operator, [plan.operators[i] for i in inputs], [known[i] for i in inputs]))
    return tuple(known)


def _first(known: Facts) -> Shard | None:
    return next(iter(listed(known)), None)


# ---- tables, by kind of operator ---------------------------------------------------------------------------


def _tables(
    plan: Plan, operator: Operator, lineage: str, inputs: Sequence[Operator], known: Sequence[Facts]
) -> Iterator[StateTable]:
    name = f"operator/{lineage}"
    if isinstance(operator, plans.Source):
        yield from _source(plan, operator)
    elif isinstance(operator, plans.Sink):
        assert isinstance(operator.sharding, tuple)
        yield _table(f"view/{lineage}", operator.row_type, operator.key, operator.sharding)
    elif isinstance(operator, plans.Join):
        left, right = _join_shards(operator, known)
        yield _table(f"{name}/left", inputs[0].row_type, None, left)
        copied = isinstance(known[1], Place)
        right_type = inputs[1].row_type
        if copied:
            yield StateTable(f"{name}/right", right_type, None, Division.BROADCAST)
        else:
            yield _table(f"{name}/right", right_type, None, right)
    elif isinstance(operator, plans.Reduce):
        yield from _reduce(name, operator, known[0])
    elif isinstance(operator, plans.Top):
        yield _table(f"{name}/rows", inputs[0].row_type, None, _first(known[0]))
        if not top_is_whole(operator, known[0]):
            yield _table(f"{name}/shown", operator.row_type, None, _first(known[0]))
    elif isinstance(operator, plans.Distinct):
        yield _table(f"{name}/rows", operator.row_type, None, _first(known[0]))
    elif isinstance(operator, plans.Difference):
        common = common_fact(known)
        yield _table(f"{name}/left", inputs[0].row_type, None, common)
        yield _table(f"{name}/right", inputs[1].row_type, None, common)


def _table(name: str, row_type: RowType, key: tuple[int, ...] | None, shard: Shard | None) -> StateTable:
    """A table whose entries are where their `shard` says; LOOSE where nothing does."""
    if shard is None:
        return StateTable(name, row_type, key, Division.LOOSE)
    return StateTable(name, row_type, key, Division.KEYED, apply(shard, all_columns(row_type)))


def _source(plan: Plan, source: plans.Source) -> Iterator[StateTable]:
    if source.key is not None:
        name = plan.datasets[source.dataset].name
        by_key = tuple(ColumnRef(place, source.row_type.types[place]) for place in source.key)
        yield _table(f"dataset/{name}", source.row_type, source.key, by_key)
        yield StateTable(f"missed/{name}", RowType((), ()), None, Division.LOOSE)


def _join_shards(join: plans.Join, known: Sequence[Facts]) -> tuple[Shard | None, Shard | None]:
    """Where the rows of both sides are. Of a broadcast right side: None."""
    if isinstance(known[1], Place):
        return _first(known[0]), None
    by = common_key(join, known)
    if by is None:
        raise InternalError(f"operator #{join.id}: the sides of a join are not together")
    return apply(by, join.left_key), apply(by, join.right_key)


def _reduce(name: str, reduce: plans.Reduce, known: Facts) -> Iterator[StateTable]:
    """The groups; the values of each minimum and maximum; and what a partial one shows."""
    columns = list(zip(reduce.row_type.names, reduce.row_type.types, strict=True))
    key, results = columns[: len(reduce.keys)], columns[len(reduce.keys) :]
    partial, final = reduce.phase is Phase.PARTIAL, reduce.phase is Phase.FINAL
    shard = None if partial else _group_shard(reduce, known)
    sums = [
        (column, BYTES)
        for (column, _), aggregation in zip(results, reduce.aggregations, strict=True)
        if not is_extreme(aggregation) and (final or not is_plain_count(aggregation))
    ]
    group_type = _row_type([*key, ("rows", INT), *sums])
    yield _table(f"{name}/groups", group_type, tuple(range(len(key))), shard)
    place = [("place", scalar.dtype) for scalar in _first(known) or ()]
    for number, aggregation in enumerate(reduce.aggregations):
        if is_extreme(aggregation) and aggregation.argument is not None:
            value = (results[number][0], aggregation.argument.dtype.required())
            row_type = _row_type([*(place if partial else key), value])
            by = _leading(row_type, place) if partial and _first(known) is not None else shard
            yield _table(f"{name}/values/{number}", row_type, None, by)
    if partial:
        yield _table(f"{name}/shown", reduce.row_type, None, None)


def _group_shard(reduce: plans.Reduce, known: Facts) -> Shard:
    """Where a group is, as scalars over its key."""
    return _group_place(reduce, known)[1]


def _group_place(reduce: plans.Reduce, known: Facts) -> tuple[Shard, Shard]:
    """A sharding of the input that a group's key tells: over a row, and over the key."""
    for fact in listed(known):
        by_key = express(fact, reduce.keys)
        if by_key is not None and (by_key == () or reduce.keys):
            return fact, by_key
    raise InternalError(f"operator #{reduce.id}: the rows of a group are not together")


def _row_type(columns: Sequence[tuple[str, DataType]]) -> RowType:
    """A row type of these columns, whose names need not differ."""
    names: list[str] = []
    for name, _ in columns:
        while name in names:
            name += "'"
        names.append(name)
    return RowType(tuple(names), tuple(dtype for _, dtype in columns))


def _leading(row_type: RowType, place: Sequence[object]) -> Shard:
    """The first columns of a row, as many as `place` has, as a sharding."""
    return all_columns(row_type)[: len(place)]


# ---- errors ------------------------------------------------------------------------------------------------


def _errors(lineage: str, places: tuple[Shard, ...]) -> StateTable:
    name = f"errors/{lineage}"
    columns = [("place", _either(scalars)) for scalars in zip(*places, strict=True)]
    row_type = _row_type([*columns, ("reason", STR), ("example", STR)])
    return _table(name, row_type, None, _leading(row_type, columns) if places else None)


def _either(scalars: Sequence[Scalar]) -> DataType:
    """The type of a column that holds the values of any of these."""
    return next((s.dtype for s in scalars if s.dtype.nullable), scalars[0].dtype)


_NEVER_LEAVE_OUT = (plans.Source, plans.Gate, plans.Sink, plans.Union, plans.Distinct, plans.Difference)


def _error_places(operator: Operator, known: Sequence[Facts]) -> tuple[Shard, ...] | None:
    """See `error_places`; the empty tuple if nothing tells where rows are, None if no row is ever left out."""
    if isinstance(operator, _NEVER_LEAVE_OUT):
        return None
    place = _first(known[0])
    if isinstance(operator, plans.Join):
        left, right = _join_shards(operator, known)
        # No key of a broadcast side may fail, so of the right side there is nothing to tell.
        return () if left is None else (left, left if right is None else right)
    if isinstance(operator, plans.Reduce) and operator.phase is not Phase.PARTIAL:
        return _group_place(operator, known[0])
    return () if place is None else (place, place)
