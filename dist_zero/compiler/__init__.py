"""From a program to a plan. Reading order: `plan.py` (what comes out), then the passes as they are listed
here.

`normalise.py` and `prune.py` rewrite relations, `lower.py` makes operators of them, `partition.py` (by the
rules of `sharding.py`) puts exchanges between them, `fingerprint.py` names the result. `check.py` says what
is legal at each level and looks after every pass; `explain.py` prints any level. `change.py` puts two plans together
while one takes the place of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dist_zero.compiler.change import changing
from dist_zero.compiler.check import check_partitioned, check_plan, check_program, check_rewritten
from dist_zero.compiler.fingerprint import fingerprint
from dist_zero.compiler.lower import lower
from dist_zero.compiler.normalise import drop_identities, erase_aliases, fold_constants, push_filters
from dist_zero.compiler.partition import partition
from dist_zero.compiler.plan import Plan
from dist_zero.compiler.prune import prune_columns
from dist_zero.expr.ops import Graph
from dist_zero_common.remembered import remembered

__all__ = ["LEVELS", "compile", "levels"]

REWRITES = (
    erase_aliases,
    fold_constants,
    push_filters,
    prune_columns,
    drop_identities,
)

LEVELS = {
    "program": "program",
    "normalised": REWRITES[-1].__name__,
    "plan": "lower",
    "partitioned": "partition",
}
"""The levels that people look at, with the pass behind which each is seen; `explain` takes names of passes
too."""


def levels(graph: Graph) -> Iterator[tuple[str, Graph | Plan]]:
    """The program as written and then as every pass leaves it, checked, with the pass's name; the plan comes
    last."""
    check_program(graph)
    yield "program", graph
    for rewrite in REWRITES:
        graph = rewrite(graph)
        check_rewritten(graph, rewrite.__name__)
        yield rewrite.__name__, graph
    lowered = lower(graph)
    check_plan(lowered, "lower")
    yield "lower", lowered
    placed = partition(lowered)
    check_partitioned(placed, "partition")
    yield "partition", placed
    yield "fingerprint", fingerprint(placed)


@remembered
def compile(graph: Graph) -> Plan:
    """The plan of a program; of one that takes the place of another, the one for the time in which it does. Raises
    `ProgramError` for a graph that is not well-typed.

    The newest few are kept, by the identity of their graphs (`decode_graph` gives the same one for the same bytes):
    one process compiles a program for each client and host that it has, and for each time that it is placed anew.
    """
    *_, (_, plan) = levels(replace(graph, before=None))
    assert isinstance(plan, Plan)
    if graph.before is not None:
        plan = fingerprint(changing(compile(graph.before), plan))
        check_partitioned(plan, "changing")
    return plan
