"""Tables as text: the row type, the key, and the operations that make it, numbered, inputs first."""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.expr import ops
from dist_zero.expr.ops import Relation, Scalar
from dist_zero.expr.text import aggregation_text, scalar_text, sort_text
from dist_zero.expr.walk import in_order, inputs_of

_UNITS = (
    (86_400_000_000, "d"),
    (3_600_000_000, "h"),
    (60_000_000, "m"),
    (1_000_000, "s"),
    (1_000, "ms"),
    (1, "us"),
)


def table_text(relation: Relation, name: str | None = None) -> str:
    """What `print(table)` shows."""
    header = f"{name}: " if name else ""
    lines = [f"{header}{relation.row_type}", f"key: {_key_text(relation)}"]
    order = in_order([relation])
    number = {id(r): i for i, r in enumerate(order, 1)}
    lines += [
        f"  #{i} {relation_text(r, [number[id(x)] for x in inputs_of(r)])}" for i, r in enumerate(order, 1)
    ]
    return "\n".join(lines)


def _key_text(relation: Relation) -> str:
    if relation.key is None:
        return "none (a bag)"
    return ", ".join(relation.key) or "() (one row)"


def relation_text(relation: Relation, inputs: Sequence[int]) -> str:
    """One operation in one line; `inputs` are the numbers of its inputs."""
    of = " ".join(f"#{i}" for i in inputs)
    return f"{_VERBS[type(relation)]} {of} {_details(relation)}".replace("  ", " ").rstrip()


_VERBS: dict[type[Relation], str] = {
    ops.Dataset: "dataset",
    ops.Filter: "where",
    ops.Project: "select",
    ops.FlatMap: "flat_map",
    ops.Window: "window",
    ops.Join: "join",
    ops.Aggregate: "group_by",
    ops.Top: "top",
    ops.Distinct: "distinct",
    ops.Union: "union",
    ops.Difference: "difference",
    ops.Alias: "alias",
}


def _details(relation: Relation) -> str:
    if isinstance(relation, ops.Dataset):
        return relation.name + (" (broadcast)" if relation.broadcast else "")
    if isinstance(relation, ops.Alias):
        return repr(relation.name)
    if isinstance(relation, ops.Join):
        return _join_details(relation)
    if isinstance(relation, ops.Aggregate):
        return _aggregate_details(relation)
    if isinstance(relation, ops.Union | ops.Difference | ops.Distinct):
        return ""
    return _row_details(relation)


def _row_details(relation: Relation) -> str:
    assert isinstance(relation, ops.Filter | ops.Project | ops.FlatMap | ops.Window | ops.Top)
    names = relation.input.row_type.names
    if isinstance(relation, ops.Filter):
        return scalar_text(relation.predicate, names)
    if isinstance(relation, ops.Project):
        return _columns(relation.row_type.names, relation.columns, names)
    if isinstance(relation, ops.FlatMap):
        added = relation.row_type.names[len(names) :]
        return " | ".join(f"{{{_columns(added, a, names)}}}" for a in relation.alternatives)
    if isinstance(relation, ops.Window):
        every = f" every {duration_text(relation.every_us)}" if relation.every_us != relation.size_us else ""
        return f"{scalar_text(relation.at, names)} size {duration_text(relation.size_us)}{every}"
    order = ", ".join(sort_text(k, names) for k in relation.order)
    per = f" per {', '.join(scalar_text(s, names) for s in relation.per)}" if relation.per else ""
    rank = f" rank {relation.row_type.names[-1]}" if relation.rank else ""
    return f"{relation.count} by {order}{per}{rank}"


def _join_details(relation: ops.Join) -> str:
    left, right = relation.left.row_type.names, relation.right.row_type.names
    pairs = [f"{scalar_text(a, left)} == {scalar_text(b, right)}" for a, b in relation.on]
    if relation.condition is not None:
        # names of both sides may be equal, so those of the right are told apart as they are in the result
        shown = relation.row_type.names if len(relation.row_type) > len(left) else left + right
        pairs.append(scalar_text(relation.condition, shown))
    return f"{relation.how} on {' & '.join(pairs)}"


def _aggregate_details(relation: ops.Aggregate) -> str:
    names, own = relation.input.row_type.names, relation.row_type.names
    keys = _columns(own[: len(relation.keys)], relation.keys, names)
    added = own[len(relation.keys) :]
    aggregations = (
        f"{n}={aggregation_text(a, names)}" for n, a in zip(added, relation.aggregations, strict=True)
    )
    return f"{keys or '()'} agg {', '.join(aggregations)}"


def _columns(new: Sequence[str], scalars: Sequence[Scalar], names: Sequence[str]) -> str:
    texts = ((n, scalar_text(s, names)) for n, s in zip(new, scalars, strict=True))
    return ", ".join(n if n == text else f"{n}={text}" for n, text in texts)


def duration_text(us: int) -> str:
    """`10m`, in the largest unit that divides it."""
    return next(f"{us // size}{unit}" for size, unit in _UNITS if us % size == 0)
