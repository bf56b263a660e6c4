"""What a save costs, what may be wrong with one, and when nodes can be divided, by example; over every executor."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

import dist_zero as dz
from dist_zero.batch import Batch
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.reference.evaluate import evaluate
from dist_zero.reference.history import after
from dist_zero.shards import HASH_MAX, even_map
from dist_zero.state import TableChange, state_tables
from dist_zero.types import INT, STR, Row
from dist_zero_common.errors import InternalError, MalformedMessage
from dist_zero_common.protocol.messages.pieces import ShardMap
from test.contract.executors import EXECUTORS, ExecutorHarness, Run, Save, entries, in_bytes, reshard, stored
from test.oracle.nodes import delete, put, summed, update

pytestmark = pytest.mark.parametrize("harness", EXECUTORS, ids=lambda harness: harness.name)

ONE = even_map(1, ["only"])


class Payment(dz.Row):
    payment: int
    card: int
    amount: int


class Card(dz.Row):
    card: int
    limit: int


Views = Callable[[dz.Table, dz.Table], dict[str, dz.Table]]


def program(views: Views, keyed: bool = True) -> dz.Program:
    app = dz.Program("payments")
    payments = app.dataset("payments", Payment, key="payment" if keyed else None)
    cards = app.dataset("cards", Card, key="card", broadcast=True)
    for name, table in views(payments, cards).items():
        app.view(name, table)
    return app


def planned(views: Views, keyed: bool = True) -> Plan:
    return compile(program(views, keyed).graph())


def halves(payments: dz.Table, cards: dz.Table) -> dz.Table:
    """A conditioned join that counts partners, some of which are there several times."""
    half = payments.select("card", half=payments["amount"] // 50)
    return half.join(
        cards, on=(half["card"] == cards["card"]) & (half["half"] * 100 > cards["limit"]), how="right"
    )


def itself(payments: dz.Table) -> dz.Table:
    """A join in which each payment is on both sides."""
    other = payments.alias("other").select(other="payment", worth="amount")
    return payments.join(other, on=payments["payment"] == other["other"])


SHAPES: dict[str, Views] = {
    "sums": lambda p, _: {
        "v": p.group_by("card").agg(n=dz.count(), total=dz.sum("amount"), mean=dz.mean("amount"))
    },
    "extremes": lambda p, _: {"v": p.group_by("card").agg(least=dz.min("amount"), most=dz.max("amount"))},
    "all": lambda p, _: {"v": p.group_by().agg(n=dz.count(), total=dz.sum("amount"), most=dz.max("amount"))},
    "sums of all": lambda p, _: {"v": p.group_by().agg(n=dz.count(), total=dz.sum("amount"))},
    "top": lambda p, _: {"v": p.top(3, by=dz.desc("amount"), rank="rank")},
    "top of a column": lambda p, _: {"v": p.select("amount").top(3, by="amount")},
    "extremes of a column": lambda p, _: {
        "v": p.select("amount").group_by().agg(least=dz.min("amount"), most=dz.max("amount"))
    },
    "top per": lambda p, _: {"v": p.top(2, by=dz.desc("amount"), per="card")},
    "distinct": lambda p, _: {"v": p.select("card", "amount").distinct()},
    "joined": lambda p, c: {"v": p.join(c, on="card", how="left")},
    "conditioned": lambda p, c: {
        "v": p.join(c, on=(p["card"] == c["card"]) & (p["amount"] > c["limit"]), how="anti")
    },
    "conditioned bag": lambda p, c: {"v": halves(p, c)},
    "itself": lambda p, _: {"v": itself(p)},
    "left out": lambda p, _: {"v": p.select("payment", share=dz.lit(100) // (p["amount"] % 7))},
    "left out of joins": lambda p, c: {
        "v": p.join(
            c, on=(p["card"] == c["card"]) & (dz.lit(100) // (p["amount"] % 7) > c["limit"]), how="left"
        )
    },
    "left out of groups": lambda p, _: {
        "v": p.group_by(tier=p["amount"] % 9).agg(total=dz.sum(p["card"] % 5 * 2**61 - 2**62))
    },
    "difference": lambda p, _: {"v": p.where(p["amount"] > 50).difference(p.where(p["card"] > 5))},
}


def drawn(chance: random.Random, payments: Sequence[int]) -> list[Row]:
    """These payments, with anything in them."""
    return [(number, chance.randrange(20), chance.randrange(100)) for number in payments]


def rows_in(save: Save) -> int:
    return sum(len(change.puts) + len(change.deletes) for change in save)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_save_follows_what_changed(harness: ExecutorHarness, shape: str) -> None:
    """Of many payments some change: what is saved is a few entries for each, as many however many there are."""
    plan = planned(SHAPES[shape])
    tables = state_tables(plan)
    for count in (300, 3000):
        run, chance = Run(plan, harness.make, ONE, random.Random(1)), random.Random(2)
        cards = put(plan, "cards", *[(card, 10 * card) for card in range(0, 20, 2)])
        run.run(((put(plan, "payments", *drawn(chance, range(count))), cards),))
        assert rows_in(run.nodes[0].save(True)) >= count
        for changed in (0, 1, 10):
            some, none = drawn(chance, range(changed)), delete(plan, "payments", (count + 1,))
            run.run(((put(plan, "payments", *some), none),))
            save = run.nodes[0].save(False)
            assert {tables[change.table].name for change in save} >= {"missed/payments"}
            assert rows_in(save) <= 1 + 12 * changed
        assert run.nodes[0].save(False) == []


def test_what_was_touched_does_not_depend_on_how_it_was_cut(harness: ExecutorHarness) -> None:
    """An entry that goes and comes within one epoch was not touched: a row that moves between nodes, say."""
    plan = planned(lambda p, _: {"v": p.group_by("card").agg(n=dz.count(), most=dz.max("amount"))})
    group = next(i for i, table in enumerate(state_tables(plan)) if table.name.endswith("/groups"))
    exchange = next(o for o in plan.operators if type(o).__name__ == "Exchange")
    rows = Batch.from_rows(exchange.row_type.types, [tuple(range(len(exchange.row_type)))])
    back = Batch.from_rows(rows.types, rows.rows(), [-1])
    executor = harness.make(plan)
    for epoch, arrived in ((1, []), (2, [(exchange.id, rows), (exchange.id, back)])):
        executor.step(epoch, 1, [], [], ONE, 0)
        executor.step(epoch, 2, [], arrived, ONE, 0)
        executor.finish(epoch)
        assert all(change.table != group for change in executor.save(epoch == 1))
        assert executor.save(False) == []


def test_state_is_saved_when_no_epoch_is_under_way(harness: ExecutorHarness) -> None:
    """While the first stage is ahead of the last there is no state to save."""
    plan = planned(SHAPES["sums"])
    executor = harness.make(plan)
    executor.step(1, 1, [], [], ONE, 0)
    with pytest.raises(InternalError, match="same epoch"):
        executor.save(True)


def test_state_is_loaded_before_the_first_step_and_as_of_one_epoch(harness: ExecutorHarness) -> None:
    """Nobody mixes states."""
    plan = planned(SHAPES["sums"])
    run = Run(plan, harness.make, ONE, random.Random(1))
    run.run(((put(plan, "payments", (1, 2, 3)),),))
    save = run.nodes[0].save(True)
    with pytest.raises(InternalError, match="before the first step"):
        run.nodes[0].load(1, [save])
    executor = harness.make(plan)
    executor.load(1, [save])
    with pytest.raises(InternalError, match="one epoch"):
        executor.load(2, [save])


# ---- saves that somebody spoiled ---------------------------------------------------------------------------


def spoiled(plan: Plan, save: Save) -> dict[str, Save]:
    """A save, wrong in many ways."""
    numbers = {table.name: number for number, table in enumerate(state_tables(plan))}
    by_name = {state_tables(plan)[change.table].name: change for change in save}
    payments = by_name["dataset/payments"]
    rows = payments.puts.types
    nothing = Batch.from_rows(payments.deletes.types, [])
    groups = next(change for name, change in by_name.items() if name.endswith("/groups"))
    values = next(change for name, change in by_name.items() if "/values/" in name)
    cut = [(*row[:-1], row[-1][:5]) for row in groups.puts.rows()]

    def instead(old: TableChange, new: TableChange) -> Save:
        return [new if change is old else change for change in save]

    def keyed(some: Sequence[Row], weights: list[int] | None = None, gone: Batch = nothing) -> Save:
        return instead(
            payments, TableChange(payments.table, Batch.from_rows(rows, list(some), weights), gone)
        )

    return {
        "a table that is not there": [TableChange(len(numbers), payments.puts, payments.deletes)],
        "a negative table": [TableChange(-1, payments.puts, payments.deletes)],
        "tables in another order": save[::-1],
        "other columns": instead(payments, replace(payments, puts=Batch.from_rows((INT, STR, INT), []))),
        "rows deleted where keys are": instead(payments, replace(payments, deletes=payments.puts)),
        "a weight in a keyed table": keyed([(1, 2, 3)], [2]),
        "a key twice": keyed([(1, 2, 3), (1, 4, 5)]),
        "a key put and deleted": keyed([(1, 2, 3)], None, Batch.from_rows(nothing.types, [(1,)])),
        "a weight of zero": instead(
            values,
            replace(
                values, puts=Batch.from_rows(values.puts.types, values.puts.rows(), [0] * len(values.puts))
            ),
        ),
        "a sum that is none": instead(groups, replace(groups, puts=Batch.from_rows(groups.puts.types, cut))),
        "values of no group": [change for change in save if change is not groups],
    }


def test_malformed_state_is_refused_and_nobody_goes_on_with_it(harness: ExecutorHarness) -> None:
    """Whatever is wrong: it is said, and the executor does not take a step."""
    plan = planned(lambda p, _: {"v": p.group_by("card").agg(most=dz.max("amount"), total=dz.sum("amount"))})
    run = Run(plan, harness.make, ONE, random.Random(1))
    run.run(((put(plan, "payments", (1, 2, 3), (2, 2, 5), (3, 1, 5)),),))
    save = run.nodes[0].save(True)
    harness.make(plan).load(1, [stored(plan, save)])
    for what, wrong in spoiled(plan, save).items():
        executor = harness.make(plan)
        with pytest.raises(MalformedMessage):
            executor.load(1, [wrong])
            pytest.fail(f"{what} was taken")
        with pytest.raises(InternalError):
            executor.step(2, 1, [], [], ONE, 0)
            pytest.fail(f"after {what} it went on")


def test_state_with_a_row_that_is_left_out_is_refused(harness: ExecutorHarness) -> None:
    """A row of a `top` on which its order fails was never kept."""
    plan = planned(lambda p, _: {"v": p.top(2, by=dz.lit(100) // p["amount"])})
    run = Run(plan, harness.make, ONE, random.Random(1))
    run.run(((put(plan, "payments", (1, 2, 3)),),))
    names = [table.name.split("/")[-1] for table in state_tables(plan)]
    wrong = [
        replace(c, puts=Batch.from_rows(c.puts.types, [(1, 2, 0)])) if names[c.table] == "rows" else c
        for c in run.nodes[0].save(True)
    ]
    with pytest.raises(MalformedMessage, match="left out"):
        harness.make(plan).load(1, [wrong])


# ---- dividing ----------------------------------------------------------------------------------------------

HALVES, WHOLE = ShardMap(2, (HASH_MAX // 3, HASH_MAX), ("a", "b")), ShardMap(3, (HASH_MAX,), ("c",))


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_divided_then_joined_then_everything_goes(harness: ExecutorHarness, shape: str) -> None:
    """Fill, divide, change half, join, delete it all: at each step the view is the oracle's. Partial tops, minima and
    sums have to take back on one node what another one showed."""
    app = program(SHAPES[shape])
    graph, plan = app.graph(), compile(app.graph())
    run, chance, history = Run(plan, harness.make, ONE, random.Random(1)), random.Random(3), []
    cards = put(plan, "cards", *[(card, 10 * card) for card in range(0, 20, 2)])
    epochs = [
        (put(plan, "payments", *drawn(chance, range(60))), cards),
        (put(plan, "payments", *drawn(chance, range(0, 60, 2))),),
        (delete(plan, "payments", *[(n,) for n in range(0, 60, 3)]), delete(plan, "cards", (4,), (5,))),
        (update(plan, "payments", ["amount"], *[(n, 99 - n) for n in range(60)]),),
        (delete(plan, "payments", *[(n,) for n in range(60)]),),
    ]
    for writes, shards in zip(epochs, (HALVES, WHOLE, HALVES, HALVES, WHOLE), strict=True):
        run.run((writes,))
        history.append(writes)
        wanted = evaluate(graph, "v", after(graph, history))
        assert run.rows(0) == wanted.rows
        assert summed(run.errors(0)) == wanted.errors
        reshard(run, [[executor.save(True)] for executor in run.nodes], shards)
        assert run.rows(0) == wanted.rows
        assert summed(run.errors(0)) == wanted.errors
    assert run.missed(0) == 40, "the third of 60 rows that was deleted is updated, and deleted again"


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_nodes_that_hear_nothing_after_a_division_say_what_they_hold(
    harness: ExecutorHarness, shape: str
) -> None:
    """After a division one payment changes or goes in each epoch, so that only its own node has input: what the others
    hold and had not shown, because another row of the same node was in front of it, is there."""
    app = program(SHAPES[shape])
    graph, plan = app.graph(), compile(app.graph())
    run, history = Run(plan, harness.make, ONE, random.Random(1)), []
    payments = [(number, number % 3, 10 + 7 * number) for number in range(8)]
    epochs = [[put(plan, "payments", *payments), put(plan, "cards", (0, 20), (2, 50))]]
    epochs += [[delete(plan, "payments", (number,))] for number in reversed(range(8))]
    for number, writes in enumerate(epochs):
        run.run((tuple(writes),))
        history.append(writes)
        assert run.rows(0) == evaluate(graph, "v", after(graph, history)).rows
        if number % 4 == 0:
            reshard(run, [[executor.save(True)] for executor in run.nodes], WHOLE if number % 8 else HALVES)


@pytest.mark.parametrize("shape", SHAPES)
def test_predecessors_are_loaded_in_any_order(harness: ExecutorHarness, shape: str) -> None:
    """Who replaces two nodes saves the same bytes afterwards, whichever it loaded first, and no more than what
    changed."""
    plan = planned(SHAPES[shape])
    run = Run(plan, harness.make, HALVES, random.Random(1))
    cards = put(plan, "cards", *[(card, 10 * card) for card in range(0, 20, 2)])
    run.run(((put(plan, "payments", *drawn(random.Random(2), range(500))), cards),))
    saves = [executor.save(True) for executor in run.nodes]
    said = []
    for order in (saves, saves[::-1]):
        joined = Run(plan, harness.make, WHOLE, random.Random(1), epoch=1)
        for save in order:
            joined.nodes[0].load(1, [save])
        joined.run(())  # what partial operators have to put right
        joined.nodes[0].save(False)
        joined.run(((put(plan, "payments", (1, 2, 3)),),))
        changes = joined.nodes[0].save(False)
        assert rows_in(changes) <= 12
        said.append((in_bytes(changes), in_bytes(joined.nodes[0].save(True))))
    assert said[0] == said[1]


def test_values_of_a_group_that_went_and_came_again_are_gone(harness: ExecutorHarness) -> None:
    """Between two saves a group loses all its rows and gets others: the change says that the old values are gone."""
    plan = planned(SHAPES["extremes"])
    run = Run(plan, harness.make, ONE, random.Random(1))
    run.run(((put(plan, "payments", (1, 2, 3)),),))
    chain = [run.nodes[0].save(True)]
    run.run(((delete(plan, "payments", (1,)),),))
    run.run(((put(plan, "payments", (1, 2, 7)),),))
    chain.append(run.nodes[0].save(False))
    assert entries(plan, chain) == entries(plan, [run.nodes[0].save(True)])
