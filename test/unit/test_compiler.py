"""The compiler: which exchanges a program needs, what the rewrites do and leave alone, what the checks catch.

That compiled programs are right is for `test/oracle/test_oracle_programs.py`; here it is said how they are made.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

import dist_zero as dz
from dist_zero.compiler import compile, plan
from dist_zero.compiler.check import check_partitioned, check_program
from dist_zero.compiler.explain import explain
from dist_zero.compiler.normalise import erase_aliases, fold_constants, push_filters
from dist_zero.compiler.plan import EVERYWHERE, UNKNOWN, Exchange, Phase, Plan
from dist_zero.compiler.prune import prune_columns
from dist_zero.compiler.walk import relations
from dist_zero.expr import ops
from dist_zero.expr.ops import ColumnRef
from dist_zero.expr.text import scalar_text
from dist_zero.types import INT, RowType
from dist_zero_common.errors import InternalError, ProgramError, RequestError


class Sale(dz.Row):
    """Something sold."""

    shop: str
    number: int
    at: dt.datetime
    item: str
    amount: int
    price: float


class Shop(dz.Row):
    """Where."""

    shop: str
    city: str
    size: int


class Event(dz.Row):
    """A row without a key."""

    shop: str
    text: str


class Tables:
    """A program and its datasets."""

    def __init__(self) -> None:
        self.app = dz.Program("sales")
        self.sales = self.app.dataset("sales", Sale, key=("shop", "number"))
        self.shops = self.app.dataset("shops", Shop, key="shop")
        self.small = self.app.dataset("small", Shop, key="shop", broadcast=True)
        self.events = self.app.dataset("events", Event)

    def graph(self, table: dz.Table) -> ops.Graph:
        """The program with this one view."""
        self.app.view("result", table)
        return self.app.graph()


Build = Callable[[Tables], dz.Table]


def graph_of(build: Build) -> ops.Graph:
    """A program with one view."""
    tables = Tables()
    return tables.graph(build(tables))


def plan_of(build: Build) -> Plan:
    """The same, compiled."""
    return compile(graph_of(build))


def exchanges(of: Plan) -> list[Exchange]:
    """The exchanges of a plan."""
    return [operator for operator in of.operators if isinstance(operator, Exchange)]


def total(t: dz.Table) -> dz.Table:
    """How much was sold in each shop."""
    return t.group_by("shop").agg(total=dz.sum("amount"))


SHAPES: dict[str, tuple[Build, int, list[str]]] = {
    "a dataset is sharded by its key": (lambda t: t.sales, 1, []),
    "a dataset without a key, as a view, by its rows": (lambda t: t.events, 2, ["shop, text"]),
    "where and select keep rows where they are": (
        lambda t: t.sales.where(t.sales["amount"] > 3).select("shop", "number", "item"),
        1,
        [],
    ),
    "a group by the dataset's key needs nothing": (
        lambda t: t.sales.group_by("number", "shop").agg(n=dz.count()),
        1,
        [],
    ),
    "a group by more than the key needs nothing": (
        lambda t: t.shops.group_by("city", "shop").agg(n=dz.count()),
        1,
        [],
    ),
    "a group by less needs an exchange": (lambda t: total(t.sales), 2, ["shop"]),
    "a group of a group by part of its key": (
        lambda t: total(t.sales.group_by("shop", "item").agg(amount=dz.sum("amount"))),
        3,
        ["shop, item", "shop"],
    ),
    "a top per part of the group gets the groups, not the rows": (
        lambda t: t.sales.group_by("shop", "item").agg(n=dz.count()).top(3, by="n", per="shop"),
        3,
        ["shop, item", "shop"],
    ),
    "a global aggregate runs in two parts": (lambda t: t.sales.group_by().agg(n=dz.count()), 2, [""]),
    "a global top runs in two parts": (lambda t: t.sales.top(3, by="price"), 2, [""]),
    "an aggregate of what is on one node": (
        lambda t: t.sales.top(3, by="price").group_by().agg(n=dz.count()),
        2,
        [""],
    ),
    "a join leaves the side that is sharded by part of its key": (
        lambda t: t.sales.join(t.shops, on="shop"),
        2,
        ["shop"],
    ),
    "a join of groups by the same": (
        lambda t: total(t.sales).join(t.shops, on="shop"),
        2,
        ["shop"],
    ),
    "a join with itself has one source and one exchange": (
        lambda t: t.events.join(t.events.alias("other"), on="shop"),
        2,
        ["shop"],
    ),
    "a small side goes everywhere, and the view to its key": (
        lambda t: t.sales.join(t.small, on="shop"),
        2,
        ["everywhere"],
    ),
    "a small side of an outer join does not": (
        lambda t: t.small.join(t.sales, on="shop", how="outer"),
        3,
        ["shop", "shop, number"],
    ),
    "distinct rows of one key": (lambda t: t.sales.distinct(), 1, []),
    "distinct parts of rows": (lambda t: t.sales.select("item").distinct(), 2, ["item"]),
    "a union of the same sharding": (
        lambda t: total(t.sales.union(t.sales.where(t.sales["amount"] > 3))),
        2,
        ["shop"],
    ),
    "a difference sends the side that is elsewhere": (
        lambda t: t.shops.select("shop").difference(t.events.select("shop")),
        2,
        ["shop"],
    ),
    "equal exchanges are shared": (
        lambda t: total(t.sales).join(t.sales.group_by("shop").agg(most=dz.max("amount")), on="shop"),
        2,
        ["shop"],
    ),
    "a key that is a function of another stays": (
        lambda t: (
            t.sales.group_by(day=t.sales["at"].truncate("day"))
            .agg(n=dz.count())
            .group_by("day", "n")
            .agg(days=dz.count())
        ),
        2,
        ["truncate(at, 'day')"],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_exchanges(name: str) -> None:
    """Programs have the stages and exchanges that the rules of `partition.py` promise, and no more."""
    build, stages, keys = SHAPES[name]
    compiled = plan_of(build)
    found = ["everywhere" if e.broadcast else _key_text(e) for e in exchanges(compiled)]
    assert (compiled.stages, sorted(found)) == (stages, sorted(keys))


def _key_text(exchange: Exchange) -> str:
    return ", ".join(scalar_text(scalar, exchange.row_type.names) for scalar in exchange.key)


def test_a_key_that_may_fail_is_not_shared() -> None:
    """Two groups by the same key that may fail have an exchange each, which counts its errors under their label."""

    def build(t: Tables) -> dz.Table:
        first = t.sales.group_by(per=t.sales["amount"] // t.sales["number"]).agg(n=dz.count())
        second = t.sales.group_by(per=t.sales["amount"] // t.sales["number"]).agg(m=dz.count())
        return first.join(second, on="per")

    compiled = plan_of(build)
    labels = [exchange.label for exchange in exchanges(compiled)]
    users = [o.label for e in exchanges(compiled) for o in compiled.operators if e.id in o.inputs]
    assert len(labels) == 2 and labels == users and all(label.endswith(" agg") for label in labels)


def test_a_key_that_may_fail_is_computed_from_its_beginning() -> None:
    """A row on which two parts of a key fail fails for the first one, so no exchange begins with the second, even if
    the other side is sharded by that."""

    def build(t: Tables) -> dz.Table:
        first, second = (t.sales["amount"] // t.sales["number"]).cast(str), (t.sales["amount"] + 1).cast(str)
        return t.sales.join(t.shops, on=(first == t.shops["city"]) & (second == t.shops["shop"]))

    keys = [_key_text(exchange) for exchange in exchanges(plan_of(build))]
    assert keys[0] == "cast(amount // number, str), cast(amount + 1, str)"


def test_where_rows_are() -> None:
    """The plan tells of each operator where its rows are, and of each state how it is divided."""
    compiled = plan_of(lambda t: t.events.join(t.small, on="shop").group_by().agg(n=dz.count()))
    by_type = {type(operator).__name__: operator for operator in compiled.operators}
    told = {name: operator.sharding for name, operator in by_type.items()}
    assert told["Join"] is UNKNOWN and told["Sink"] == ()
    assert exchanges(compiled)[0].sharding is EVERYWHERE
    assert by_type["Join"].state is plan.StateKind.BROADCAST
    phases = [operator.phase for operator in compiled.operators if isinstance(operator, plan.Reduce)]
    assert phases == [Phase.PARTIAL, Phase.FINAL]


def test_errors_of_a_view_are_those_of_all_it_is_made_of() -> None:
    """A sink names every operator above it, and no other view's."""
    tables = Tables()
    tables.app.view("other", tables.events.distinct())
    compiled = compile(tables.graph(total(tables.sales)))
    other, result = (operator for operator in compiled.operators if isinstance(operator, plan.Sink))
    assert [type(compiled.operators[i]).__name__ for i in result.errors_of] == [
        *("Source", "Project", "Exchange", "Reduce")
    ]
    assert not set(other.errors_of) & set(result.errors_of)


@pytest.mark.parametrize(
    ("build", "order"),
    [
        (lambda t: t.sales, [("shop", False), ("number", False)]),
        (lambda t: t.events, [("shop", False), ("text", False)]),
        (
            lambda t: t.sales.top(3, by=dz.desc("price")),
            [("price", True), ("shop", False), ("number", False)],
        ),
        (
            lambda t: t.sales.top(3, by=dz.desc("price"), per="item", rank="place"),
            [("item", False), ("place", False)],
        ),
        (
            lambda t: t.sales.top(3, by=["item", dz.desc("price")]).select(
                "price", "shop", "number", what="item"
            ),
            [("what", False), ("price", True), ("shop", False), ("number", False)],
        ),
        (lambda t: t.sales.top(3, by="price").select("shop", "number"), [("shop", False), ("number", False)]),
    ],
)
def test_how_a_view_is_sorted_for_people(build: Build, order: list[tuple[str, bool]]) -> None:
    """A top in its order as far as that can be seen, everything else by key, a bag by its rows."""
    compiled = plan_of(build)
    sink = compiled.operators[compiled.views[0].sink]
    assert isinstance(sink, plan.Sink)
    assert [(sink.row_type.names[place], descending) for place, descending in sink.order] == order


# ---- rewrites ----------------------------------------------------------------------------------------------


def verbs(graph: ops.Graph) -> list[str]:
    """The names of the relations of a program but for datasets, inputs first."""
    return [type(r).__name__ for r in relations(graph) if not isinstance(r, ops.Dataset)]


def test_columns_that_nobody_uses_are_not_sent() -> None:
    """What is exchanged has the columns that somebody looks at, and ties and conditions are looked at."""
    compiled = plan_of(
        lambda t: (
            t.sales.where(t.sales["price"] > 1.5)
            .join(t.shops, on="shop")
            .group_by("city")
            .agg(amount=dz.sum("amount"))
        )
    )
    assert [exchange.row_type.names for exchange in exchanges(compiled)] == [
        ("shop", "amount"),
        ("amount", "city"),
    ]
    top = plan_of(lambda t: t.sales.top(3, by="price", per="item").select("amount"))
    assert exchanges(top)[0].row_type.names == ("shop", "number", "item", "amount", "price")


def test_columns_that_may_fail_are_kept() -> None:
    """A computed column that may fail leaves rows out, whether or not somebody looks at it; one that cannot goes."""

    def build(t: Tables) -> dz.Table:
        sales = t.sales
        return (
            sales.select("shop", failing=sales["amount"] // sales["number"], plain=sales["price"] + 1.0)
            .group_by()
            .agg(n=dz.count())
        )

    pruned = prune_columns(graph_of(build))
    project = next(r for r in relations(pruned) if isinstance(r, ops.Project))
    assert project.row_type.names == ("failing",)


def test_aggregates_that_may_fail_are_kept() -> None:
    """A sum of integers that overflows leaves its group out, whether or not somebody looks at the sum."""

    def build(t: Tables) -> dz.Table:
        sums = {"total": dz.sum("amount"), "turnover": dz.sum("price"), "most": dz.max("amount")}
        return t.sales.group_by("item").agg(**sums).select("item")

    aggregate = next(r for r in relations(prune_columns(graph_of(build))) if isinstance(r, ops.Aggregate))
    assert aggregate.row_type.names == ("item", "total")


def test_filters_go_below_joins_side_by_side() -> None:
    """The parts of a condition go to the sides whose columns they look at; what looks at both stays."""

    def build(t: Tables) -> dz.Table:
        joined = t.sales.join(t.shops, on="shop")
        return joined.where(
            (joined["amount"] > 3) & (joined["size"] < 9) & (joined["amount"] > joined["size"])
        )

    pushed = push_filters(erase_aliases(graph_of(build)))
    assert verbs(pushed)[-3:] == ["Join", "Project", "Filter"] or verbs(pushed)[-2:] == ["Filter", "Project"]
    join = next(r for r in relations(pushed) if isinstance(r, ops.Join))
    assert isinstance(join.left, ops.Filter) and isinstance(join.right, ops.Filter)
    assert verbs(pushed).count("Filter") == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda t: (j := t.sales.join(t.shops, on="shop")).where(j["amount"] // j["number"] > 3),
        lambda t: t.sales.join(t.shops, on=t.sales["amount"] + 3 == t.shops["size"]).where(
            lambda row: row["price"] > 3.0
        ),
        lambda t: (j := t.sales.join(t.shops, on="shop", how="left")).where(j["size"] > 3),
        lambda t: (w := t.events.flat_map({"n": dz.lit(1)}, {"n": dz.lit(2)})).where(w["n"] > 1),
        lambda t: (w := t.sales.window("at", size="1h")).where(w["amount"] > 3),
        lambda t: (p := t.sales.select("shop", q=t.sales["amount"] // t.sales["number"])).where(
            p["shop"] == "a"
        ),
    ],
    ids=[
        "may fail",
        "join key may fail",
        "side that may be missing",
        "computed",
        "window",
        "select may fail",
    ],
)
def test_filters_that_would_change_something_stay(build: Build) -> None:
    """A filter stays on top when it may fail, when what is below may, or when it looks at what is made there."""
    pushed = push_filters(erase_aliases(graph_of(build)))
    filters = [r for r in relations(pushed) if isinstance(r, ops.Filter)]
    assert filters and not any(isinstance(r.input, ops.Dataset) for r in filters)


def test_a_filter_stays_above_what_others_use() -> None:
    """A join that is used twice is computed once."""

    def build(t: Tables) -> dz.Table:
        joined = t.sales.join(t.shops, on="shop").select("shop", "number", "amount", "size")
        return joined.where(joined["amount"] > 3).union(joined.where(joined["amount"] < 2))

    assert verbs(push_filters(graph_of(build))).count("Join") == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_folded_keeps_its_type(swapped: bool) -> None:
    """A condition that is always true, but may be null by its type, is not left out where the type of what it is part
    of would change."""

    def build(t: Tables) -> dz.Table:
        sure, large = dz.when(dz.lit(True)).then(True).otherwise(None), t.sales.amount > 5
        both = large & sure if swapped else sure & large
        return t.sales.where(both | (t.sales.amount < -5))

    compile(graph_of(build))


def test_constants_are_folded_unless_they_fail() -> None:
    """What can be computed once is; what fails stays, and fails for each row."""

    def build(t: Tables) -> dz.Table:
        sales = t.sales
        return sales.where((dz.lit(1) + 1 == 2) & (sales["amount"] > dz.lit(2) * 3)).where(
            dz.lit(1) // 0 == 1
        )

    folded = fold_constants(graph_of(build))
    predicates = [
        scalar_text(r.predicate, r.row_type.names) for r in relations(folded) if isinstance(r, ops.Filter)
    ]
    assert predicates == ["amount > 6", "1 // 0 == 1"]


def test_a_deep_program_compiles() -> None:
    """Programs as deep as the language allows need no deep stack and no long time."""

    def build(t: Tables) -> dz.Table:
        table = t.sales
        for i in range(190):
            table = table.where(table["amount"] > i)
        return total(table)

    assert len(plan_of(build).operators) > 190


# ---- checks ------------------------------------------------------------------------------------------------


def broken(compiled: Plan, place: int, **changes: object) -> Plan:
    """The plan with one operator changed."""
    operators = list(compiled.operators)
    operators[place] = replace(operators[place], **changes)  # type: ignore[arg-type]
    return replace(compiled, operators=tuple(operators))


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        (plan.Reduce, {"inputs": (0,)}, "rows of one group on one node"),
        (plan.Exchange, {"stage": 1}, "in stage 1"),
        (plan.Exchange, {"key": (ColumnRef(9, INT),)}, "columns .9. of a row of 2"),
        (plan.Exchange, {"key": (ColumnRef(1, INT),)}, "not where it says"),
        (plan.Reduce, {"id": 7}, "has the id 7"),
        (plan.Sink, {"inputs": (7,)}, "stand before it"),
        (plan.Sink, {"key": (1,)}, "where readers look"),
    ],
)
def test_a_broken_plan_is_named(kind: type, changes: dict[str, object], complaint: str) -> None:
    """The check behind the passes says which operator is wrong, and how."""
    compiled = plan_of(lambda t: total(t.sales))
    check_partitioned(compiled, "nothing")
    place = next(o.id for o in compiled.operators if isinstance(o, kind))
    with pytest.raises(InternalError, match=complaint) as caught:
        check_partitioned(broken(compiled, place, **changes), "a test")
    assert "after a test: operator #" in str(caught.value)


def test_a_program_that_is_not_well_typed_is_refused() -> None:
    """A relation whose row type is not what its operation makes is named with the user's line."""
    dataset = ops.Dataset(RowType(("a", "b"), (INT, INT)), ("a",), name="d", location="app.py:1")
    project = ops.Project(RowType(("c",), (INT,)), None, dataset, (ColumnRef(5, INT),), location="app.py:2")
    graph = ops.Graph("p", (dataset,), (ops.View("v", project),))
    with pytest.raises(ProgramError, match=r"app\.py:2 select: column 5 of a row of 2"):
        check_program(graph)
    foreign = ops.Graph("p", (), (ops.View("v", dataset),))
    with pytest.raises(ProgramError, match="'d' is not one of this program's"):
        check_program(foreign)


# ---- fingerprints and explain ------------------------------------------------------------------------------

_PROGRAM = """
import dist_zero as dz
from dist_zero.compiler import compile

class Row(dz.Row):
    k: str
    x: float

app = dz.Program("p")
rows = app.dataset("rows", Row, key="k")
app.view("v", rows.where(rows["x"] > 0.1).group_by(kind=rows["k"].is_in("ä", "b")).agg(n=dz.count()))
print(compile(app.graph()).fingerprint)
"""


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Nothing in a fingerprint depends on the hash seed, and lines of code do not count."""
    found = set()
    for seed, program in (("0", _PROGRAM), ("1", _PROGRAM), ("2", "\n\n" + _PROGRAM)):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(ran.stdout.strip())
    assert found == {"dc8db136964e470ae0bf793e849d39ec"}


def test_fingerprints_differ_with_the_plan() -> None:
    """Another constant, name, type or order of columns is another plan."""
    builds: list[Build] = [
        lambda t: t.sales.where(t.sales["amount"] > 3),
        lambda t: t.sales.where(t.sales["amount"] > 4),
        lambda t: t.sales.where(t.sales["amount"] > 3).select("shop", "number"),
        lambda t: t.sales.where(t.sales["amount"] > 3).select("number", "shop"),
        lambda t: t.sales.where(t.sales["amount"] > 3).select("shop", n="number"),
        lambda t: t.sales.where(t.sales["price"] > 3.0),
    ]
    assert len({plan_of(build).fingerprint for build in builds}) == len(builds)


def test_explain_names_the_levels() -> None:
    """Every level and pass can be asked for; another is refused with the list of them."""
    graph = graph_of(lambda t: total(t.sales))
    assert explain(graph).count("\n\n") == 3
    assert explain(graph, "partitioned").startswith("partitioned: sales, 2 stages, 1 exchange\n")
    assert explain(graph, "prune_columns").startswith("prune_columns: sales\n")
    with pytest.raises(RequestError, match=r"no level 'x' to explain. there are program, normalised, plan"):
        explain(graph, "x")
