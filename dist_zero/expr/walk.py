"""The graph of relations: its edges, an order that puts inputs first, and its bounds."""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.expr import ops
from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Relation

OPERATIONS_MAX = 1_000
DEPTH_MAX = 200
"""Operations behind one another; whoever walks relations may recurse."""


def inputs_of(relation: Relation) -> tuple[Relation, ...]:
    """The relations that `relation` is made of."""
    if isinstance(relation, ops.Join | ops.Difference):
        return relation.left, relation.right
    if isinstance(relation, ops.Union):
        return relation.inputs
    if isinstance(relation, ops.Dataset):
        return ()
    assert hasattr(relation, "input")
    return (relation.input,)


def in_order(roots: Sequence[Relation]) -> list[Relation]:
    """All relations that `roots` need and they themselves, each once, inputs first; the same order every time."""
    order: list[Relation] = []
    done: set[int] = set()
    waiting = [(root, False) for root in reversed(roots)]
    while waiting:
        relation, inputs_done = waiting.pop()
        if id(relation) in done:
            continue
        if inputs_done:
            done.add(id(relation))
            order.append(relation)
        else:
            waiting.append((relation, True))
            waiting.extend((r, False) for r in reversed(inputs_of(relation)))
    return order


def check_bounds(roots: Sequence[Relation]) -> None:
    """Refuse a program with too many operations, or too many behind one another."""
    order = in_order(roots)
    if len(order) > OPERATIONS_MAX:
        raise Refused(f"the program has {len(order):,} operations; at most {OPERATIONS_MAX:,} are allowed")
    depth: dict[int, int] = {}
    for relation in order:
        depth[id(relation)] = 1 + max((depth[id(r)] for r in inputs_of(relation)), default=0)
        if depth[id(relation)] > DEPTH_MAX:
            raise Refused(f"more than {DEPTH_MAX} operations behind one another")
