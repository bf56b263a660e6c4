"""The contract of executors beyond what views hold: epochs in flight, order of writes, misses, parcels, cost."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dist_zero as dz
from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.executor import Executor, Parcel
from dist_zero.left_out import Failures
from dist_zero.ordering import SortedItems
from dist_zero.reference.evaluate import evaluate
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.history import Datasets, after
from dist_zero.reference.interpreter import Interpreter
from dist_zero.reference.operators import consolidated
from dist_zero.reference.source import View
from dist_zero.shards import even_map
from dist_zero.types import INT, Row
from dist_zero.zset import consolidate
from dist_zero_common.errors import InternalError, MalformedMessage, RequestError
from test.contract.executors import EXECUTORS
from test.oracle.nodes import Nodes, delete, put, update

_ONE = even_map(1, ["only"])
Make = Callable[[Plan], Executor]


@pytest.fixture(params=EXECUTORS, ids=lambda harness: harness.name)
def make(request: pytest.FixtureRequest) -> Make:
    """What makes an executor, of each kind."""
    made: Make = request.param.make
    return made


class Payment(dz.Row):
    payment: int
    card: int | None
    amount: int


class Card(dz.Row):
    card: int
    limit: int


def _program(views: Callable[[dz.Table, dz.Table], dict[str, dz.Table]]) -> dz.Program:
    app = dz.Program("payments")
    payments = app.dataset("payments", Payment, key="payment")
    cards = app.dataset("cards", Card, key="card")
    for name, table in views(payments, cards).items():
        app.view(name, table)
    return app


def _totals(payments: dz.Table, cards: dz.Table) -> dict[str, dz.Table]:
    totals = payments.group_by("card").agg(total=dz.sum("amount"), n=dz.count())
    return {
        "totals": totals,
        "over": totals.join(cards, on="card").where(lambda t: t["total"] > t["limit"]),
        "share": payments.select("payment", share=dz.lit(100) // payments["amount"]),
        "all": payments.group_by().agg(n=dz.count(), total=dz.sum("amount")),
        "bag": payments.select("card"),
    }


def _placed(writes: Writes, transaction: int, first_row: int = 0) -> Writes:
    count = len(writes.batch)
    rows = range(first_row, first_row + count)
    return Writes(
        writes.dataset, writes.kind, writes.columns, writes.batch, [transaction] * count, list(rows)
    )


def _deliver(parcels: list[Parcel]) -> list[tuple[int, Batch]]:
    return [(parcel.exchange, parcel.batch) for parcel in parcels]


def test_stage_1_may_run_many_epochs_ahead_of_the_last_stage(make: Make) -> None:
    """Ten epochs of stage 1 first, then the others stage by stage: every epoch shows what it would have, alone."""
    program = _program(_totals)
    plan, graph = compile(program.graph()), program.graph()
    assert plan.stages >= 2
    rng = random.Random(1)
    history = [
        [
            put(
                plan,
                "payments",
                *((rng.randrange(8), rng.randrange(3), rng.randrange(-5, 99)) for _ in range(4)),
            ),
            delete(plan, "payments", (rng.randrange(12),)),
        ]
        for _ in range(10)
    ]
    node, datasets = make(plan), Datasets(graph)
    node_arrivals: dict[tuple[int, int], list[tuple[int, Batch]]] = {}
    for stage in range(1, plan.stages + 1):
        for epoch, (puts, deletes) in enumerate(history, 1):
            own = [_placed(puts, 0), _placed(deletes, 0, 4)] if stage == 1 else []
            arrived = node_arrivals.get((epoch, stage), [])
            node_arrivals[epoch, stage + 1] = _deliver(node.step(epoch, stage, own, arrived, _ONE, 0))
    assert not len(node.rows(0)) and not node.missed(0), "nothing is visible before an epoch is finished"
    for epoch, transaction in enumerate(history, 1):
        datasets.apply(transaction)
        node.finish(epoch)
        assert node.missed(0) == datasets.missed["payments"]
        for number, view in enumerate(graph.views):
            expected = evaluate(graph, view.name, datasets.contents())
            assert node.rows(number).to_zset() == expected.rows, (view.name, epoch)
            told = [(e.label, e.reason, e.example, e.count) for e in node.errors(number)]
            assert told == [(e.label, e.reason, e.example, e.count) for e in expected.errors]


def test_writes_apply_in_the_order_of_transaction_and_row(make: Make) -> None:
    """However the writes of an epoch are handed over, the last one of a key wins, and only the net change is told."""
    plan = compile(_program(_totals).graph())
    bag = [view.name for view in plan.views].index("bag")
    history = [
        _placed(put(plan, "payments", (1, 7, 10), (2, 7, 10)), 0),
        _placed(update(plan, "payments", ["amount"], (1, 11)), 0, 2),
        _placed(delete(plan, "payments", (2,)), 1),
        _placed(update(plan, "payments", ["amount"], (2, 12), (9, 12)), 1, 1),
        _placed(put(plan, "payments", (2, 8, 13)), 2),
        _placed(put(plan, "payments", (3, 8, 1)), 2, 1),
        _placed(delete(plan, "payments", (3,)), 3),
    ]
    for seed in range(20):
        node = make(plan)
        writes = random.Random(seed).sample(history, len(history))
        _run(node, 1, writes)
        assert node.rows(bag).to_zset() == {(7,): 1, (8,): 1}
        assert node.get(0, (7,)) == (7, 11, 1)
        assert node.get(0, (8,)) == (8, 13, 1)
        assert node.missed(0) == 2, "the update of a deleted key and that of one never there"
        assert node.missed(1) == 0


def _run(node: Executor, epoch: int, writes: Sequence[Writes]) -> dict[int, Batch]:
    arrived: list[tuple[int, Batch]] = []
    for stage in range(1, node.plan.stages + 1):
        arrived = _deliver(node.step(epoch, stage, writes if stage == 1 else [], arrived, _ONE, 0))
    return node.finish(epoch)


def test_an_epoch_that_changes_nothing_tells_nothing(make: Make) -> None:
    """The same rows again, or a row put and deleted in one epoch, are no change anywhere."""
    plan = compile(_program(_totals).graph())
    node = make(plan)
    assert set(_run(node, 1, [_placed(put(plan, "payments", (1, 7, 10)), 0)])) == {0, 2, 3, 4}
    assert _run(node, 2, [_placed(put(plan, "payments", (1, 7, 10)), 0)]) == {}
    passing = [_placed(put(plan, "payments", (2, 7, 10)), 0), _placed(delete(plan, "payments", (2,)), 1)]
    assert _run(node, 3, passing) == {}
    assert _run(node, 4, []) == {}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_global_aggregate_has_a_row_of_no_input_on_one_node(make: Make, count: int) -> None:
    """The first epoch shows it although nothing was written; it never goes, whatever is deleted."""
    plan = compile(_program(_totals).graph())
    nodes = Nodes(plan, count, make)
    first = nodes.run()
    assert nodes.rows("all") == {(0, None): 1}
    assert sum(len(changed) for changed in first) == 1
    nodes.run([put(plan, "payments", (1, 7, 10))])
    assert nodes.rows("all") == {(1, 10): 1}
    nodes.run([delete(plan, "payments", (1,))])
    assert nodes.rows("all") == {(0, None): 1}


def test_errors_are_those_of_the_rows_that_are_there(make: Make) -> None:
    """An error is counted from the epoch of its row to that of its end, with the smallest example."""
    plan = compile(_program(_totals).graph())
    nodes = Nodes(plan, 3, make)
    nodes.run([put(plan, "payments", (1, 7, 0), (2, 7, 0), (3, 7, 50))])
    (error,) = nodes.errors("share")
    assert (error.reason, error.example, error.count) == ("division by zero", "amount=0", 2)
    assert error.label.endswith("select")
    assert nodes.rows("share") == {(3, 2): 1}
    nodes.run([update(plan, "payments", ["amount"], (1, 25)), delete(plan, "payments", (2,))])
    assert nodes.errors("share") == ()
    assert nodes.rows("share") == {(3, 2): 1, (1, 4): 1}


def test_a_sum_that_overflows_leaves_its_group_out_until_it_fits(make: Make) -> None:
    """The group's row goes, an error with the group's key comes, and the other way round."""
    plan = compile(_program(_totals).graph())
    nodes = Nodes(plan, 2, make)
    nodes.run([put(plan, "payments", (1, 7, 2**62), (2, 7, 2**62), (3, 8, 1))])
    assert nodes.rows("totals") == {(8, 1, 1): 1}
    (error,) = nodes.errors("totals")
    assert (error.reason, error.example, error.count) == ("integer overflow", "card=7", 1)
    nodes.run([delete(plan, "payments", (1,))])
    assert nodes.rows("totals") == {(8, 1, 1): 1, (7, 2**62, 1): 1}
    assert nodes.errors("totals") == ()


def test_parcels_are_a_function_of_the_set_of_rows(make: Make) -> None:
    """Two nodes that are handed the same writes in any order and any pieces send the same bytes."""
    plan = compile(_program(_totals).graph())
    shards = even_map(1, ["a", "b", "c"])
    rows = [(n, n % 5 if n % 4 else None, n * n) for n in range(60)]
    sent = []
    for seed in range(5):
        rng = random.Random(seed)
        pieces = [_placed(put(plan, "payments", row), 0, number) for number, row in enumerate(rows)]
        rng.shuffle(pieces)
        parcels = make(plan).step(1, 1, pieces, [], shards, 1)
        sent.append([(p.shard, p.exchange, p.batch.rows(), p.batch.weights()) for p in parcels])
    assert all(each == sent[0] for each in sent)
    assert {shard for shard, *_ in sent[0]} == {0, 2}, "what is for shard 1, itself, stays"


def test_rows_for_what_is_no_exchange_are_refused(make: Make) -> None:
    """A peer that names another operator, or another stage's exchange, has sent a malformed message."""
    plan = compile(_program(_totals).graph())
    batch = Batch.from_rows((INT,), [(1,)])
    for number in (0, 10_000, -1):
        with pytest.raises(MalformedMessage, match="no exchange into stage 2"):
            make(plan).step(1, 2, [], [(number, batch)], _ONE, 0)


def test_get_on_a_bag_is_refused(make: Make) -> None:
    """There is no key to get by."""
    plan = compile(_program(_totals).graph())
    with pytest.raises(RequestError, match="no key"):
        make(plan).get([view.name for view in plan.views].index("bag"), (1,))


def test_a_row_of_a_top_may_change_where_it_stands(make: Make) -> None:
    """The new version of a row sorts where the old one is, and a null beside a value is no obstacle."""
    plan = compile(_program(lambda p, c: {"top": p.top(2, by=["amount"], rank="rank")}).graph())
    nodes = Nodes(plan, 2, make)
    nodes.run([put(plan, "payments", (1, None, 5), (2, 7, 5), (3, 8, 1))])
    for card in (4, None, 6):
        nodes.run([update(plan, "payments", ["card"], (1, card), (3, card))])
        assert nodes.rows("top") == {(3, card, 1, 1): 1, (1, card, 5, 2): 1}


@given(st.lists(st.tuples(st.tuples(st.integers(0, 3)), st.sampled_from([-2, -1, 1, 2])), max_size=12))
def test_the_quick_consolidation_is_the_plain_one(delta: list[tuple[tuple[int], int]]) -> None:
    """`operators.consolidated` is `zset.consolidate`."""
    assert consolidated(list(delta)) == consolidate(delta)


def test_history_counts_bag_rows_and_misses() -> None:
    """The oracle's datasets: rows of a bag are counted, and writes without a target are."""

    class Event(dz.Row):
        kind: str

    app = dz.Program("events")
    events = app.dataset("events", Event)
    app.dataset("cards", Card, key="card")
    app.view("all", events)
    graph = app.graph()
    plan = compile(graph)
    history = [
        [put(plan, "events", ("a",), ("b",)), put(plan, "events", ("a",))],
        [delete(plan, "cards", (1,)), put(plan, "cards", (1, 5)), update(plan, "cards", ["limit"], (1, 6))],
    ]
    assert after(graph, history) == {"events": {("a",): 2, ("b",): 1}, "cards": {(1, 6): 1}}
    datasets = Datasets(graph)
    for transaction in history:
        datasets.apply(transaction)
    assert datasets.missed == {"events": 0, "cards": 1}


# ---- cost: counted in comparisons and lines, never in seconds -------------------------------------------------


class _Counted(int):
    """An int that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        _Counted.compared += 1
        return int(self) < int(other)


def test_a_change_of_a_sorted_collection_compares_logarithmically() -> None:
    """Adding to and removing from 100,000 items takes a few dozen comparisons."""
    items: SortedItems[_Counted] = SortedItems()
    for number in range(0, 200_000, 2):
        items.add(_Counted(number))
    for number in (1, 77_777, 199_999):
        _Counted.compared = 0
        items.add(_Counted(number))
        items.remove(_Counted(number))
        assert _Counted.compared < 100


def _lines(function: Callable[[], Any]) -> int:
    """How many lines of Python are executed by `function`, a line of a loop once per turn."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "view",
    [
        lambda p, c: p.group_by("card").agg(n=dz.count(), low=dz.min("amount"), total=dz.sum("amount")),
        lambda p, c: p.group_by().agg(high=dz.max("amount"), mean=dz.mean("amount")),
        lambda p, c: p.top(3, by=[dz.desc("amount")], per="card", rank="rank"),
        lambda p, c: p.top(3, by=["amount"]),
        lambda p, c: p.join(c, on="card", how="outer"),
        lambda p, c: p.join(
            c, on=lambda p, c: (p["card"] == c["card"]) & (p["amount"] > c["limit"]), how="left"
        ),
        lambda p, c: p.select("card").distinct(),
        lambda p, c: p.select("card").difference(c.select("card")),
    ],
)
def test_the_cost_of_a_change_does_not_grow_with_the_state(
    view: Callable[[dz.Table, dz.Table], dz.Table],
) -> None:
    """A put, an update and a delete take as many lines over 4,000 rows of state as over 400, within a third."""
    plan = compile(_program(lambda p, c: {"view": view(p, c)}).graph())
    assert _cost(plan, 4000) < 4 / 3 * _cost(plan, 400) + 20


def _cost(plan: Plan, size: int) -> int:
    node = Interpreter(plan)
    payments = [(n, 1 if n % 2 else 2 + n % 50, n * 7919 % 10007) for n in range(size)]
    cards = [(n, n * 100) for n in range(2, size)]
    _run(node, 1, [_placed(put(plan, "payments", *payments), 0), _placed(put(plan, "cards", *cards), 1)])

    def change() -> None:
        _run(node, 2, [_placed(put(plan, "payments", (size, 1, 5000)), 0)])
        _run(node, 3, [_placed(update(plan, "payments", ["amount"], (3, 1)), 0)])
        _run(node, 4, [_placed(delete(plan, "payments", (5,)), 0)])

    return _lines(change)


def test_a_view_says_what_it_lacks() -> None:
    """Regression: a peer that takes back a row which it never sent was answered by a KeyError of Python's."""
    program = dz.Program("lacking")
    program.view("all", program.dataset("data", Lacking, key="key"))
    plan = compile(program.graph())
    sink = plan.operators[plan.views[0].sink]
    assert isinstance(sink, Sink)
    view = View(sink)
    view.wait(1, [((1,), -1)])
    with pytest.raises(InternalError, match="lacks a row"):
        view.finish(1)


def test_a_row_that_belongs_nowhere_is_refused() -> None:
    """Regression: where the place of a row that is left out cannot be computed, as of one that no node can have sent,
    the failure of the expression ended the step."""

    def nowhere(row: Row) -> Row:
        raise ScalarFailure(f"no place for {row}")

    with pytest.raises(MalformedMessage, match="belongs nowhere: no place"):
        Failures([nowhere]).add(("reason", "example"), (1,), 1)


class Lacking(dz.Row):
    """A key alone."""

    key: int
