"""Random changes of random programs: what is shown before, during and after is what the oracle says.

A program P1 runs, is changed to P2 while writes go on, and P2 runs on. Until the change is through, every view of P1 is
at every epoch P1's over all that was written, and every view that is being filled is P2's over the slices that are
filled. From then on every view of P2 is the oracle's. Views over datasets without a key that are not kept have seen
what was appended from the change on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dist_zero.changes import view_fates
from dist_zero.compiler import compile
from dist_zero.compiler.change import SLICES
from dist_zero.compiler.plan import NEXT, Plan
from dist_zero.executor import Executor
from dist_zero.expr import ops
from dist_zero.expr.changes import in_place_of
from dist_zero.expr.graph import decode_graph, encode_graph
from dist_zero.hashing import key_hash
from dist_zero.reference.evaluate import Evaluated, Oracle
from dist_zero.reference.gate import Gate
from dist_zero.reference.history import Datasets
from dist_zero.reference.interpreter import Interpreter
from dist_zero.reference.operators import Delta
from dist_zero.shards import interval
from dist_zero.state import TableChange, state_tables
from dist_zero.types import Row
from dist_zero.zset import ZSet
from dist_zero_common.errors import InternalError
from dist_zero_common.protocol.messages.pieces import WriteKind
from test.oracle.harness import exact
from test.oracle.nodes import Nodes
from test.oracle.random_programs import Epoch, Growing, _epoch, _writes
from test.oracle.scalars import Chance
from test.oracle.test_oracle_programs import SAME_EACH_TIME, SEARCH


class Change:
    """Two programs, and what is written before, during and after the change. No dataclass: see `Case`."""

    def __init__(
        self, before: ops.Graph, after: ops.Graph, epochs: Sequence[Sequence[Epoch]], nodes: Sequence[int]
    ) -> None:
        self.before, self.after, self.epochs, self.nodes = before, after, epochs, nodes


@st.composite
def changes(draw: st.DrawFn, operations_max: int = 5) -> Change:
    """P2 has some of P1's views, some of P1's relations under other names or as new views, and some new relations."""
    chance = Chance(draw)
    growing = Growing(chance)
    for _ in range(chance.number(1, 2 + chance.maybe(30))):
        growing.add_dataset()
    for _ in range(chance.number(1, operations_max)):
        growing.add_operation()
    before = _program(chance, growing)
    if chance.maybe(30):
        growing.add_dataset()
    for _ in range(chance.number(0, operations_max)):
        growing.add_operation()
    after = in_place_of(_program(chance, growing), before)
    first = (tuple(_writes(chance, before, n, WriteKind.PUT) for n in range(len(before.datasets))),)
    epochs = [
        [first, *(_epoch(chance, before) for _ in range(chance.number(0, 2)))],
        [_epoch(chance, before) for _ in range(chance.number(2, 5))],
        [_epoch(chance, after) for _ in range(chance.number(1, 3))],
    ]
    return Change(before, after, epochs, [chance.pick((1, 2, 3)) for _ in range(3)])


def _program(chance: Chance, growing: Growing) -> ops.Graph:
    relations = list(enumerate(growing.relations))
    viewed = [relations[-1], *(each for each in relations[:-1] if chance.maybe(30))]
    views = tuple(ops.View(f"v{place}", relation) for place, relation in viewed)
    return ops.Graph("random", tuple(growing.datasets), views)


def check(change: Change, reached: Counter[str], make: Callable[[Plan], Executor] = Interpreter) -> None:
    """The law."""
    before, after = _again(change.before), _again(change.after)
    meanwhile = _again(replace(after, before=before))
    first, between, last = compile(before), compile(meanwhile), compile(after)
    fates = {fate.name: fate for fate in view_fates(first, last)}
    assume(not any(fate.shared for fate in fates.values()))
    counts = list(change.nodes)
    written = Datasets(after)

    nodes = Nodes(first, counts[0], make)
    for epoch in change.epochs[0]:
        nodes.run(*epoch)
        _apply(written, epoch)
        _check_views(nodes, before, written.contents(), "")
    seen_by_kept = Datasets(after)
    for epoch in change.epochs[0]:
        _apply(seen_by_kept, epoch)

    begun = {name: dict(rows) for name, rows in written.contents().items()}
    nodes = loaded(between, counts[1], nodes, make)
    _check_views(nodes, before, written.contents(), "as loaded")
    step = -(-SLICES // len(change.epochs[1]))
    filled = 0
    for epoch in change.epochs[1]:
        fill = range(filled, min(SLICES, filled + step))
        filled = fill.stop
        nodes.run(*epoch, fill=fill)
        _apply(written, epoch)
        contents = written.contents()
        _check_views(nodes, before, contents, f"with {filled} slices filled")
        part = {dataset.name: _passed(before, dataset, contents, begun, filled) for dataset in after.datasets}
        for view in after.views:
            if not fates[view.name].kept:
                _check_view(nodes, NEXT + view.name, Oracle(after, part).view(view.name), f"{filled} filled")
    assert filled == SLICES

    nodes = loaded(last, counts[2], nodes, make)
    for more in [None, *change.epochs[2]]:
        if more is not None:
            nodes.run(*more)
            _apply(written, more)
        contents = written.contents()
        since = {d.name: _passed(before, d, contents, begun, SLICES) for d in after.datasets}
        for view in after.views:
            rows = contents if fates[view.name].kept else since
            _check_view(nodes, view.name, Oracle(after, rows).view(view.name), "behind the change")
    for fate in fates.values():
        reached["kept" if fate.kept else "begins empty" if fate.unfilled else "filled"] += 1
    reached["dropped"] += sum(view.name not in fates for view in before.views)
    reached["kept and filled"] += len({fate.kept for fate in fates.values()}) == 2
    shared = [t.name for t in state_tables(between) if "~" in t.name]
    reached["shared"] += any(fate.kept for fate in fates.values()) and bool(shared)
    reached["resharded"] += len(set(counts)) > 1
    reached["rows"] += any(nodes.rows(view.name) for view in after.views)


def loaded(plan: Plan, count: int, before: Nodes, make: Callable[[Plan], Executor] = Interpreter) -> Nodes:
    """Nodes of another plan, and of another number, with what these have saved."""
    nodes = Nodes(plan, count, make)
    names = [table.name for table in state_tables(before.plan)]
    numbers = {table.name: number for number, table in enumerate(state_tables(plan))}
    saved = [executor.save(everything=True) for executor in before.executors]
    for shard, executor in enumerate(nodes.executors):
        first, last = interval(nodes.shards, shard)
        for place, changes in enumerate(saved):
            its_first, its_last = interval(before.shards, place)
            if its_last < first or last < its_first:
                continue
            taken = [
                TableChange(numbers[names[change.table]], change.puts, change.deletes)
                for change in changes
                if names[change.table] in numbers
            ]
            whole = first <= its_first and its_last <= last
            executor.load(
                before.epoch,
                [sorted(taken, key=lambda change: change.table)],
                None if whole else _between(first, last),
                first <= its_first <= last,
            )
    nodes.epoch = before.epoch
    return nodes


def _between(first: int, last: int) -> Callable[[int], bool]:
    return lambda key_hash: first <= key_hash <= last


def _again(graph: ops.Graph) -> ops.Graph:
    """As it comes over the wire: two programs have no relation in common."""
    return decode_graph(encode_graph(graph))


def _apply(datasets: Datasets, epoch: Epoch) -> None:
    for transaction in epoch:
        datasets.apply(transaction)


def _passed(
    before: ops.Graph, dataset: ops.Dataset, contents: dict[str, ZSet], begun: dict[str, ZSet], filled: int
) -> ZSet:
    """What gates have let pass of a dataset."""
    rows = contents[dataset.name]
    if dataset.name not in [each.name for each in before.datasets]:
        return rows
    if dataset.key is None:
        old = begun[dataset.name]
        return {row: weight - old.get(row, 0) for row, weight in rows.items() if weight > old.get(row, 0)}
    places = [dataset.row_type.index(name) for name in dataset.key]
    types = [dataset.row_type.types[place] for place in places]

    def slice_of(row: Row) -> int:
        return key_hash(types, tuple(row[place] for place in places)) % SLICES

    return {row: weight for row, weight in rows.items() if slice_of(row) < filled}


def _check_views(nodes: Nodes, graph: ops.Graph, contents: dict[str, ZSet], when: str) -> None:
    oracle = Oracle(graph, contents)
    for view in graph.views:
        _check_view(nodes, view.name, oracle.view(view.name), when)


def _check_view(nodes: Nodes, name: str, want: Evaluated, when: str) -> None:
    where = f"view {name} at epoch {nodes.epoch} on {len(nodes.executors)} nodes, {when}"
    assert exact(nodes.rows(name)) == exact(want.rows), f"rows of {where}"
    assert nodes.errors(name) == want.errors, f"errors of {where}"


def test_oracle_random_changes() -> None:
    """On 1 to 3 nodes, another number before, during and after the change: views kept, filled and dropped, begun empty,
    and operators that a kept and a new view share."""
    reached: Counter[str] = Counter()

    @settings(SAME_EACH_TIME, max_examples=150)
    @given(changes())
    def programs(change: Change) -> None:
        check(change, reached)

    programs()
    for kind in ("kept", "filled", "begins empty", "dropped", "kept and filled", "shared", "resharded"):
        assert reached[kind] > 4, (kind, reached)
    assert reached["rows"] > 80


@pytest.mark.long
@SEARCH
@given(changes(operations_max=8))
def test_oracle_random_changes_long(change: Change) -> None:
    """The same for larger programs, and others each time."""
    check(change, Counter())


class PassesTwice(Gate):
    """Planted: the changes of a slice pass in the epoch that fills it, and are in what is filled as well."""

    def apply(self, delta: Delta, fill: range) -> Delta:
        """As a gate that is one slice ahead for what changes."""
        passing = super().apply(delta, fill)
        if self._key is None or not fill:
            return passing
        return passing + [pair for pair in delta if self._slice(pair[0]) in fill]


class IsNoGate(Gate):
    """Planted: whatever changes passes, filled or not."""

    def apply(self, delta: Delta, fill: range) -> Delta:
        """As a gate, and what waits passes as well."""
        passing = super().apply(delta, fill)
        if self._key is None:
            return passing
        return passing + [pair for pair in delta if self._slice(pair[0]) >= fill.stop]


@pytest.mark.parametrize("planted", [PassesTwice, IsNoGate])
def test_oracle_planted_gates_are_found(planted: type[Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice that passes twice and a gate that is open are seen by the same programs."""
    monkeypatch.setattr("dist_zero.reference.interpreter.Gate", planted)

    @settings(SAME_EACH_TIME, max_examples=60, report_multiple_bugs=False)
    @given(changes())
    def programs(change: Change) -> None:
        check(change, Counter())

    with pytest.raises((AssertionError, InternalError)):
        programs()
