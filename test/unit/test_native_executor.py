"""The native executor beyond what it computes: memory, failures of the machine, and who chooses it.

What it computes is held against the interpreter in `test/oracle/test_differential_native.py`, and its contract in
`test/contract`.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import dist_zero as dz
from dist_zero.batch import Batch
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Exchange, Plan
from dist_zero.native import build, choice
from dist_zero.native.executor import NativeExecutor
from dist_zero.native.library import Node, library_of
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map
from dist_zero.types import INT, Row
from dist_zero.writes import placed
from dist_zero_common.errors import InternalError, MalformedMessage, NativeUnavailable
from test.contract.executors import native
from test.oracle.nodes import Nodes, delete, put

pytestmark = pytest.mark.skipif(build.available() is not None, reason=str(build.available()))


class Order(dz.Row):
    order: int
    customer: str
    amount: float | None


class Customer(dz.Row):
    customer: str
    city: str | None


def _plan() -> Plan:
    app = dz.Program("shop")
    orders = app.dataset("orders", Order, key="order")
    customers = app.dataset("customers", Customer, key="customer")
    totals = orders.group_by("customer").agg(
        n=dz.count(), total=dz.sum("amount"), most=dz.max("amount"), first=dz.min("customer")
    )
    app.view("totals", totals)
    app.view("cities", orders.join(customers, on="customer", how="left").select("city").distinct())
    app.view("best", totals.top(3, by=[dz.desc("total")]))
    app.view("all", orders.group_by().agg(n=dz.count(), most=dz.max("amount")))
    app.view("unknown", orders.select("customer").difference(customers.select("customer")))
    return compile(app.graph())


def _orders(first: int) -> list[Row]:
    return [
        (n, f"customer {n % 7}", None if n % 5 == 0 else 1.5 * 10.0 ** (n % 40))
        for n in range(first, first + 300)
    ]


def _customers() -> list[Row]:
    return [(f"customer {n}", f"city {n % 3}" if n else None) for n in range(5)]


def test_what_is_gone_takes_no_memory() -> None:
    """Rows with texts, sums that take memory of their own, indexes: when all rows are gone again, so is what they
    took, however often."""
    nodes = Nodes(_plan(), 2, native)
    executors = [executor for executor in nodes.executors if isinstance(executor, NativeExecutor)]
    used: list[list[int]] = []
    for time in range(6):
        orders, customers = _orders(0), _customers()
        nodes.run([put(nodes.plan, "orders", *orders), put(nodes.plan, "customers", *customers)])
        assert len(nodes.rows("totals")) == 7
        for executor in executors:
            executor.save(time % 2 == 0)
        nodes.run(
            [
                delete(nodes.plan, "orders", *((order,) for order, *_ in orders)),
                delete(nodes.plan, "customers", *((customer,) for customer, _ in customers)),
            ]
        )
        assert nodes.rows("totals") == {} and nodes.rows("all") == {(0, None): 1}
        for executor in executors:
            executor.save(everything=True)
        used.append([executor.bytes_used for executor in executors])
    assert used[2] == used[3] == used[4] == used[5], used


_ENDED_AFTER_ITS_NODE = """
from test.unit.test_native_executor import _orders, _plan
from test.contract.executors import native
from test.oracle.nodes import Nodes, put

for steps in range(8):
    nodes = Nodes(_plan(), 1, native)
    for first in range(0, 30_000, 300):
        nodes.run([put(nodes.plan, "orders", *_orders(first))])
    executor = nodes.executors[0]
    saving = executor.freeze(True)
    for _ in range(steps):
        next(saving)
    executor._node.__del__()
    saving.close()
"""


def test_a_save_that_is_ended_after_its_node_touches_nothing() -> None:
    """The collector of cycles ends what it finds in any order, so a node may be freed before a save of it that was
    broken off, as when a system ends in the middle of one. In a process of its own, which would crash."""
    run = [sys.executable, "-c", _ENDED_AFTER_ITS_NODE]
    done = subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    node = Node(library_of(_plan()))
    node.free()
    with pytest.raises(InternalError, match="after its end"):
        node.ask(node.library.rows, 0)


def test_without_memory_a_node_fails_and_nothing_else() -> None:
    """Whichever allocation fails: the call raises, and so do those behind it; what there is can still be given back."""
    plan = _plan()
    failed = 0
    for allocation in (*range(1, 60), *range(60, 400, 17)):
        nodes = Nodes(plan, 1, native)
        (executor,) = nodes.executors
        assert isinstance(executor, NativeExecutor)
        nodes.run([put(plan, "orders", *_orders(0))])
        executor.fail_after(allocation)
        try:
            nodes.run([put(plan, "orders", *_orders(250)), put(plan, "customers", *_customers())])
            executor.save(everything=True)
        except InternalError as error:
            assert "out of memory" in str(error)
            failed += 1
            with pytest.raises(InternalError):
                executor.rows(0)
        assert executor.free() == 0, "memory is lost"
    assert failed > 50


def test_saves_that_nobody_goes_through_are_forgotten() -> None:
    """Begun or not; and whoever drops one does not call C, where another thread may be: the next call forgets it.
    Regression: one that nobody had begun to go through stayed until the node went."""
    plan = _plan()
    nodes = Nodes(plan, 1, native)
    (executor,) = nodes.executors
    assert isinstance(executor, NativeExecutor)
    nodes.run([put(plan, "orders", *_orders(0)), put(plan, "customers", *_customers())])
    executor.save(everything=True)
    before = executor.bytes_used
    frozen, begun = executor.freeze(True), executor.freeze(True)
    next(begun)
    assert executor.bytes_used > before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor._library, "thaw", None)
        del frozen, begun
        gc.collect()
    assert executor.bytes_used == before
    assert executor.free() == 0


def test_writes_that_are_not_as_c_reads_them_are_refused() -> None:
    """C takes lengths and columns from here: without a place for each row, it would read what is not there."""
    plan = _plan()
    shards = even_map(1, ["only"])
    good = placed([put(plan, "orders", *_orders(0))], plan, 0)[0]
    native(plan).step(1, 1, [good], [], shards, 0)
    for wrong in (
        replace(good, transactions=()),
        replace(good, rows=good.rows[:1]),
        replace(good, columns=good.columns[:2]),
        replace(good, batch=Batch.from_rows((INT, INT, INT), [(1, 1, 1)] * 300)),
    ):
        with pytest.raises(InternalError, match="each with its place"):
            native(plan).step(1, 1, [wrong], [], shards, 0)


def test_rows_of_other_columns_are_refused() -> None:
    """Columns are read by their types, so a peer's have to be those of the exchange."""
    plan = _plan()
    exchange = next(operator for operator in plan.operators if isinstance(operator, Exchange))
    wrong = Batch.from_rows((INT,), [(1,)])
    with pytest.raises(MalformedMessage, match="that are not"):
        native(plan).step(1, exchange.stage, [], [(exchange.id, wrong)], even_map(1, ["only"]), 0)


def test_the_setting_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto takes C where there is a compiler, else the interpreter, and says so once."""
    app = dz.Program("small")
    app.view("v", app.dataset("d", Order, key="order"))
    plan = compile(app.graph())
    monkeypatch.setattr(choice, "setting", lambda: "auto")
    assert isinstance(choice.make_executor(plan), NativeExecutor)
    monkeypatch.setattr(choice, "setting", lambda: "interpreter")
    assert isinstance(choice.make_executor(plan), Interpreter)
    monkeypatch.setattr(build, "available", lambda: "there is no C compiler")
    monkeypatch.setattr(choice, "setting", lambda: "auto")
    with pytest.warns(RuntimeWarning, match="there is no C compiler; so plans are interpreted"):
        assert isinstance(choice.make_executor(plan), Interpreter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(choice.make_executor(plan), Interpreter)


def test_who_wants_native_code_and_has_no_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """native never means the interpreter."""

    def unavailable(*_: object, **__: object) -> None:
        raise NativeUnavailable("there is no C compiler")

    monkeypatch.setattr(choice, "setting", lambda: "native")
    monkeypatch.setattr("dist_zero.native.library.compiled", unavailable)
    app = dz.Program("another")
    app.view("v", app.dataset("d", Customer, key="customer"))
    with pytest.raises(NativeUnavailable):
        choice.make_executor(compile(app.graph()))
