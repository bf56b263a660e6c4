"""Where rows are: which shardings hold behind an operator, and what an operator needs of its inputs.

A *sharding* is a tuple of scalars over a row; the row is on the node that owns the hash of their values.
Several may hold at once (behind an inner join, that of the left's columns and that of the right's): a `Facts`
lists all that are known. None known means UNKNOWN. Two rules carry everything:

- If rows are sharded by S and every scalar of S can be computed from the columns K, then rows of equal K are
  on one node. So a grouping by K needs no exchange, and its groups are sharded by S again, now over the
  group's columns.
- If the left is sharded by f(its join key) and the right by the same f(its join key), partners are on one
  node.

The empty sharding (all on one node) is computed from any columns, and so needs no case of its own. A sharding
by a constant is on one node as well, but on another one: a global aggregate, which shows a row even of no
input, has to be where the empty sharding is.

Comparison ignores nullability, as hashes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dist_zero.compiler import plan
from dist_zero.compiler.plan import EVERYWHERE, UNKNOWN, Operator, Phase, Place, Sharding
from dist_zero.compiler.walk import all_columns
from dist_zero.expr.ops import Call, ColumnRef, Scalar
from dist_zero.expr.scalars import columns_of, shift
from dist_zero.types import RowType

Shard = tuple[Scalar, ...]
Facts = tuple[Shard, ...] | Place
"""All shardings known to hold, the most useful first; or EVERYWHERE. No sharding known is `()`."""


def sharding_of(known: Facts) -> Sharding:
    """The one sharding that the plan tells of an operator."""
    if isinstance(known, Place):
        return known
    return known[0] if known else UNKNOWN


def bare(scalar: Scalar) -> Scalar:
    """`scalar` with nullability left out of its types: what is compared."""
    if isinstance(scalar, Call):
        return replace(scalar, args=tuple(map(bare, scalar.args)), dtype=scalar.dtype.required())
    return replace(scalar, dtype=scalar.dtype.required())


def same(a: Shard, b: Shard) -> bool:
    """Whether two shardings over the same row send every row to the same node."""
    return len(a) == len(b) and all(bare(x) == bare(y) for x, y in zip(a, b, strict=True))


def holds(known: Facts, wanted: Shard) -> bool:
    """Whether rows of which `known` is known are sharded by `wanted`."""
    return not isinstance(known, Place) and any(same(fact, wanted) for fact in known)


def express(shard: Shard, columns: Sequence[Scalar]) -> Shard | None:
    """`shard`, over a row r, as scalars over the row of the values of `columns` on r; None if they do not
    tell it."""
    place = {bare(column): ColumnRef(i, column.dtype) for i, column in reversed(list(enumerate(columns)))}
    expressed = [_express(scalar, place) for scalar in shard]
    return None if None in expressed else tuple(s for s in expressed if s is not None)


def _express(scalar: Scalar, place: dict[Scalar, ColumnRef]) -> Scalar | None:
    found = place.get(bare(scalar))
    if found is not None or isinstance(scalar, ColumnRef):
        return found
    if not isinstance(scalar, Call):
        return scalar
    args = [_express(arg, place) for arg in scalar.args]
    return None if None in args else replace(scalar, args=tuple(a for a in args if a is not None))


def expressible(known: Facts, columns: Sequence[Scalar]) -> tuple[Shard, ...]:
    """Those of the known shardings that can be computed from `columns`, as scalars over them."""
    if isinstance(known, Place):
        return ()
    return tuple(shard for shard in (express(fact, columns) for fact in known) if shard is not None)


def apply(shard: Shard, columns: Sequence[Scalar]) -> Shard:
    """`shard`, over the row of the values of `columns`, as scalars over the row that these refer to.

    A column may be nullable where the one that it stands for was not; then so is what is computed from it, for a hash
    has to know. Where that says nullable of what never is null, it does no harm.
    """
    return tuple(_applied(scalar, columns) for scalar in shard)


def _applied(scalar: Scalar, columns: Sequence[Scalar]) -> Scalar:
    if isinstance(scalar, ColumnRef):
        return columns[scalar.index]
    if not isinstance(scalar, Call):
        return scalar
    args = tuple(_applied(arg, columns) for arg in scalar.args)
    nullable = any(arg.dtype.nullable for arg in args)
    return replace(scalar, args=args, dtype=scalar.dtype.optional() if nullable else scalar.dtype)


# ---- what holds behind an operator -------------------------------------------------------------------------


def facts(operator: Operator, inputs: Sequence[Operator], known: Sequence[Facts]) -> Facts:
    """What is known of an operator's output, given its input operators and what is known of theirs."""
    found = _facts(operator, inputs, known)
    if isinstance(found, Place):
        return found
    distinct: list[Shard] = []
    for fact in found:
        if not any(same(fact, other) for other in distinct):
            distinct.append(apply(fact, all_columns(operator.row_type)))
    return tuple(distinct)


def _facts(operator: Operator, inputs: Sequence[Operator], known: Sequence[Facts]) -> Facts:
    if isinstance(operator, plan.Source):
        return () if operator.key is None else (_columns(operator.row_type, operator.key),)
    if isinstance(operator, plan.Exchange):
        return EVERYWHERE if operator.broadcast else (operator.key,)
    if isinstance(operator, plan.Project):
        return expressible(known[0], operator.columns)
    if isinstance(operator, plan.Join):
        return _join_facts(operator, inputs, known)
    if isinstance(operator, plan.Reduce):
        return () if operator.phase is Phase.PARTIAL else expressible(known[0], operator.keys)
    if isinstance(operator, plan.Union | plan.Difference):
        return tuple(f for f in listed(known[0]) if all(holds(k, f) for k in known))
    return known[0]  # the input's columns stand first in the output, unchanged


def _join_facts(join: plan.Join, inputs: Sequence[Operator], known: Sequence[Facts]) -> Facts:
    """An output row is where its left row is, and where its right row is, unless that side may be missing."""
    left, right = listed(known[0]), listed(known[1])
    by_key = tuple(apply(f, join.right_key) for f in expressible(left, join.left_key))
    width = len(inputs[0].row_type)
    at_right = tuple(tuple(shift(s, width) for s in shard) for shard in (*right, *by_key))
    if join.how == "inner":
        return (*left, *at_right)
    if join.how == "right":
        return at_right[: len(right)]
    return () if join.how == "outer" else left


def only_grows(operator: Operator, inputs: Sequence[bool]) -> bool:
    """Whether rows of `operator` are never taken back, given whether those of its inputs never are."""
    if isinstance(operator, plan.Source):
        return operator.key is None
    if isinstance(operator, plan.Join) and operator.how not in ("inner", "semi"):
        return False
    takes_back = isinstance(operator, plan.Reduce | plan.Top | plan.Difference)
    return not takes_back and all(inputs)


def listed(known: Facts) -> tuple[Shard, ...]:
    """The shardings known; none for a full copy on each node."""
    return () if isinstance(known, Place) else known


def _columns(row_type: RowType, places: Sequence[int]) -> Shard:
    return tuple(ColumnRef(place, row_type.types[place]) for place in places)


# ---- what an operator needs --------------------------------------------------------------------------------


def need(operator: Operator, known: Sequence[Facts]) -> str | None:
    """What `operator` misses when this is known of its inputs; None if it can run where they are."""
    if any(isinstance(k, Place) for k in known) and not _may_be_everywhere(operator, known):
        return "a full copy on each node is only for the right side of a join that keeps left rows or pairs"
    if isinstance(operator, plan.Join):
        together = isinstance(known[1], Place) or common_key(operator, known) is not None
        return None if together else "rows with equal join keys on one node"
    if isinstance(operator, plan.Reduce) and operator.phase is not Phase.PARTIAL:
        by_keys = expressible(known[0], operator.keys)
        together = bool(by_keys) if operator.keys else holds(known[0], ())
        return None if together else "rows of one group on one node"
    if isinstance(operator, plan.Distinct):
        return None if known[0] else "equal rows on one node"
    if isinstance(operator, plan.Difference):
        return None if common_fact(known) is not None else "equal rows of both sides on one node"
    if isinstance(operator, plan.Sink):
        return None if sink_sharding(operator, known[0]) is not None else "rows where readers look for them"
    return None


def _may_be_everywhere(operator: Operator, known: Sequence[Facts]) -> bool:
    return (
        isinstance(operator, plan.Join)
        and operator.how in BROADCAST_JOINS
        and not isinstance(known[0], Place)
        and isinstance(known[1], Place)
    )


BROADCAST_JOINS = ("inner", "left", "semi", "anti")
"""Joins that may see the whole right side on each node: an unmatched right row would come out of each."""


def top_is_whole(operator: plan.Top, known: Facts) -> bool:
    """Whether the rows of each of its groups are on one node."""
    return bool(expressible(known, operator.per))


def common_key(join: plan.Join, known: Sequence[Facts]) -> Shard | None:
    """A function of the join key, as scalars over it, by which both sides are sharded.

    Where a side's key has one scalar twice, a sharding by it is several functions of the key; so each
    function that either side suggests, and the whole key, is tried on both.
    """
    suggested = (
        *expressible(known[0], join.left_key),
        *expressible(known[1], join.right_key),
        whole(join.left_key),
    )
    for by in suggested:
        if holds(known[0], apply(by, join.left_key)) and holds(known[1], apply(by, join.right_key)):
            return by
    return None


def whole(key: Shard) -> Shard:
    """All of a key, as scalars over it."""
    return tuple(ColumnRef(i, scalar.dtype) for i, scalar in enumerate(key))


def common_fact(known: Sequence[Facts]) -> Shard | None:
    """A sharding that holds for every input."""
    return next((f for f in listed(known[0]) if all(holds(k, f) for k in known)), None)


def sink_sharding(sink: plan.Sink, known: Facts) -> Shard | None:
    """The sharding by which a reader finds rows: plain columns of the key; of a bag, any function of the
    row."""
    for fact in listed(known):
        plain = all(isinstance(scalar, ColumnRef) for scalar in fact)
        if sink.key is None or (plain and columns_of(fact) <= set(sink.key)):
            return fact
    return None


def sink_key(sink: plan.Sink) -> Shard:
    """By what a view is sharded if nothing else decides: its key; a bag by the whole row."""
    return all_columns(sink.row_type) if sink.key is None else _columns(sink.row_type, sink.key)
