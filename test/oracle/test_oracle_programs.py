"""Random programs: what the compiled plan shows on any number of nodes is what the oracle says.

The oracle evaluates the program as it was written, from whole datasets; so these tests judge the rewrites,
the plan, its partition and the executor at once. `make test` tries the same programs each time, `make
test-long` others.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dist_zero as dz
from dist_zero.batch import Batch, Writes
from dist_zero.compiler import REWRITES, compile, levels
from dist_zero.compiler.check import JOINS, check_partitioned
from dist_zero.compiler.lower import lower
from dist_zero.compiler.normalise import erase_aliases
from dist_zero.compiler.partition import partition
from dist_zero.compiler.plan import Exchange, Operator, Phase, Plan, Reduce, StateKind
from dist_zero.compiler.walk import relations
from dist_zero.expr import ops
from dist_zero.expr.ops import Graph
from dist_zero.reference.evaluate import Evaluated
from dist_zero.types import Row
from dist_zero_common.protocol.messages.pieces import WriteKind
from test.oracle.harness import check
from test.oracle.random_programs import OPERATIONS, Case, cases, join_cases, shown_cases

SEEDS = st.integers(0, 2**16)
SAME_EACH_TIME = settings(
    max_examples=350,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
"""Does not shrink what it finds, which may take minutes; the programs are small, and print themselves."""
SEARCH = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))


def test_oracle_random_programs() -> None:
    """On 1, 2, 3 and 8 nodes, at every epoch: rows, errors, changes, reads by key and missed writes. The programs
    have every kind of relation, join and exchange, and their histories retract rows and errors."""
    reached: Counter[str] = Counter()

    @SAME_EACH_TIME
    @given(cases(), SEEDS)
    def programs(case: Case, seed: int) -> None:
        plan = compile(case.graph)
        expected = check(case, seed, plan=plan)
        for relation in relations(case.graph):
            reached.update(_kinds(relation))
        for operator in plan.operators:
            reached.update(_operator_kinds(operator))
        reached.update(_history_kinds(expected))

    programs()
    assert not [kind for kind in _WANTED if not reached[kind]]
    assert reached["rows"] > 200 and reached["retractions"] > 80 and reached["errors"] > 20


@pytest.mark.long
@SEARCH
@given(cases(operations_max=9), SEEDS)
def test_oracle_random_programs_long(case: Case, seed: int) -> None:
    """The same for larger programs, and others each time."""
    check(case, seed)


@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "conditioned"])
@pytest.mark.parametrize("how", JOINS)
def test_oracle_joins(how: str, conditioned: bool) -> None:
    """Each kind of join, with and without a condition, between whatever, on 1 and 3 nodes."""

    @settings(SAME_EACH_TIME, max_examples=25)
    @given(join_cases(how, conditioned), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check(case, seed, (1, 3))

    programs()


@pytest.mark.parametrize("last", ["filtered", "narrowed"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_oracle_little_of_an_operation_is_shown(operation: str, last: str) -> None:
    """Of each operation some rows or some columns, for all that filters may pass and that nobody may look at."""

    @settings(SAME_EACH_TIME, max_examples=50)
    @given(shown_cases(operation, last), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check(case, seed, (1, 3))

    programs()


@settings(SAME_EACH_TIME, max_examples=60)
@given(cases(), SEEDS, st.sets(st.sampled_from(REWRITES)))
def test_oracle_every_rewrite_alone(case: Case, seed: int, chosen: set[object]) -> None:
    """Any selection of the rewrites, the empty one too, leaves rows and errors as they are."""
    graph = erase_aliases(case.graph)
    for rewrite in REWRITES:
        if rewrite in chosen:
            graph = rewrite(graph)
    check(case, seed, (3,), placed(graph))


def placed(graph: Graph) -> Plan:
    """The plan of a program that is taken as it is."""
    plan = partition(lower(graph))
    check_partitioned(plan, "partition")
    return plan


@settings(SAME_EACH_TIME, max_examples=40)
@given(cases())
def test_programs_compile_the_same_twice(case: Case) -> None:
    """Compiling is a function of the program, and a compiled program's rewrites find nothing more to do."""
    first, second = compile(case.graph), compile(case.graph)
    assert first.fingerprint == second.fingerprint
    assert [repr(o) for o in first.operators] == [repr(o) for o in second.operators]
    rewritten = dict(levels(case.graph))[REWRITES[-1].__name__]
    assert isinstance(rewritten, Graph)
    for rewrite in REWRITES:
        assert rewrite(rewritten) is rewritten, rewrite.__name__


# ---- what random programs found, made small ----------------------------------------------------------------


class Left(dz.Row):
    """Nullable where the others are not."""

    n: int
    name: str | None


class Right(dz.Row):
    """Its key is a text."""

    name: str
    n: int


def found() -> tuple[dz.Program, dz.Table, dz.Table]:
    """A program and two datasets."""
    app = dz.Program("found")
    return app, app.dataset("left", Left, key="n"), app.dataset("right", Right, key="name")


LEFT_ROWS: list[Row] = [(0, None), (1, "a"), (2, "B"), (3, "b")]
RIGHT_ROWS: list[Row] = [("a", 1), ("b", 2), ("B", 2), ("", 0)]


def check_found(app: dz.Program, table: dz.Table) -> None:
    """The program shows what the oracle says once its datasets have some rows."""
    app.view("v", table)
    graph = app.graph()
    writes = [
        Writes(number, WriteKind.PUT, (0, 1), Batch.from_rows(dataset.row_type.types, rows), (), ())
        for number, (dataset, rows) in enumerate(zip(graph.datasets, (LEFT_ROWS, RIGHT_ROWS), strict=True))
    ]
    check(Case(graph, ((), (tuple(writes),))), 0)


def test_oracle_found_join_on_a_column_twice() -> None:
    """A sharding by a column that is twice in the join key is several functions of the key."""
    app, left, right = found()
    check_found(
        app, left.join(right, on=(left["name"] == right["name"]) & (left["name"] == right["name"].lower()))
    )


def test_oracle_found_global_aggregate_of_rows_on_another_node() -> None:
    """Rows sharded by a constant are on one node, which is not the one where a global aggregate has to be."""
    app, left, _ = found()
    check_found(app, left.top(3, by="n", per=dz.lit("x")).group_by().agg(n=dz.count()))


def test_oracle_found_sharding_by_a_function_of_a_nullable_key() -> None:
    """A side that is sharded by a function of its join key may meet a side whose key is nullable."""
    app, left, right = found()
    other = right.alias("other").select(lower="name", m="n")
    sharded = right.join(other, on=right["name"].lower() == other["lower"])
    check_found(app, left.join(sharded, on=left["name"] == sharded["name"], how="outer"))


# ---- what random programs have to have ---------------------------------------------------------------------


def _kinds(relation: ops.Relation) -> list[str]:
    name = type(relation).__name__
    if isinstance(relation, ops.Join):
        kinds = [f"{relation.how} join"]
        if relation.condition is not None:
            kinds.append("join with condition")
        if len(relation.on) > 1:
            kinds.append("join on two pairs")
        return kinds
    if isinstance(relation, ops.Top):
        return [
            name,
            "ranked top" if relation.rank else "plain top",
            "top per" if relation.per else "global top",
        ]
    if isinstance(relation, ops.Dataset):
        return [name, "keyless" if relation.key is None else "broadcast" if relation.broadcast else "keyed"]
    return [name]


def _operator_kinds(operator: Operator) -> list[str]:
    if isinstance(operator, Exchange):
        to_one = ["to one node"] if operator.key == () and not operator.broadcast else []
        return [*to_one, "late exchange"] if operator.stage > 3 else to_one
    if isinstance(operator, Reduce) and operator.phase is Phase.PARTIAL:
        return ["partial"]
    return ["broadcast state"] if operator.state is StateKind.BROADCAST else []


def _history_kinds(views: list[list[Evaluated]]) -> list[str]:
    pairs = [pair for epoch in pairwise(views) for pair in zip(*epoch, strict=True)]
    found = {
        "rows": any(view.rows for view in views[-1]),
        "errors": any(view.errors for view in views[-1]),
        "retractions": any(set(before.rows) - set(after.rows) for before, after in pairs),
        "errors taken back": any(set(before.errors) - set(after.errors) for before, after in pairs),
    }
    return [kind for kind, is_there in found.items() if is_there]


_WANTED = [
    *(f"{how} join" for how in JOINS),
    *("join with condition", "join on two pairs", "ranked top", "plain top", "top per", "global top"),
    *("keyless", "broadcast", "keyed", "broadcast state", "partial", "to one node", "late exchange"),
    *("Filter", "Project", "FlatMap", "Window", "Aggregate", "Distinct", "Union", "Difference", "Alias"),
    *("errors taken back",),
]
"""What the random programs have to have, so that passing them means something."""
