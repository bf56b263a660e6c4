"""Random typed programs with random histories.

A program grows relation by relation on what is there, through the same checked constructors that the language
uses; so programs share collections, join them with themselves and build views on views. Nothing else is
assumed of them.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.explain import explain
from dist_zero.expr import checked, ops
from dist_zero.expr.functions import aggregate_type
from dist_zero.expr.ops import Aggregation, Relation, Scalar, SortKey
from dist_zero.types import DATETIME, FLOAT, INT, STR, DataType, Row, RowType
from dist_zero_common.protocol.messages.pieces import WriteKind
from test.oracle.scalars import (
    HOUR_US,
    KEY_POOL_SIZE,
    MONEY,
    TYPES,
    Chance,
    column,
    columns_like,
    condition,
    mostly_true,
    risky,
    scalar,
)

ROWS_MAX = 400
"""How many rows a relation may have by a rough estimate; joins of joins grow fast."""
COLUMNS_MAX = 8

Transaction = tuple[Writes, ...]
Epoch = tuple[Transaction, ...]


class Case:
    """A program and what happens to it: transactions by epoch. No dataclass, because Hypothesis prints those
    itself and would not show `explain`."""

    def __init__(self, graph: ops.Graph, epochs: tuple[Epoch, ...]) -> None:
        self.graph = graph
        self.epochs = epochs

    def __repr__(self) -> str:
        lines = [explain(self.graph, "program")]
        for number, epoch in enumerate(self.epochs, 1):
            for transaction in epoch:
                for w in transaction:
                    name = self.graph.datasets[w.dataset].name
                    lines.append(f"epoch {number}: {w.kind.value} {name} {w.columns} {w.batch.rows()}")
        return "\n" + "\n".join(lines)


@st.composite
def cases(draw: st.DrawFn, operations_max: int = 6) -> Case:
    """A program of up to `operations_max` operations beside its datasets, and up to four epochs for it."""
    chance = Chance(draw)
    growing = Growing(chance)
    for _ in range(chance.number(1, 2 + chance.maybe(30))):
        growing.add_dataset()
    for _ in range(chance.number(1, operations_max)):
        growing.add_operation()
    graph = growing.graph(percent=35)
    return Case(graph, _history(chance, graph))


@st.composite
def join_cases(draw: st.DrawFn, how: str, conditioned: bool) -> Case:
    """A program around one join of this kind: of datasets or of what one operation makes of them; what is joined is
    filtered, or goes through another operation, perhaps."""
    chance = Chance(draw)
    growing = Growing(chance)
    growing.add_dataset()
    growing.add_dataset()
    if chance.maybe(50):
        growing.add_operation()
    growing.join(how, conditioned)
    if chance.maybe(80):
        chance.pick((Growing.filter, Growing.filter, Growing.add_operation))(growing)
    graph = growing.graph()
    return Case(graph, _history(chance, graph))


@st.composite
def shown_cases(draw: st.DrawFn, operation: str, last: str) -> Case:
    """A program of an operation (named as in `OPERATIONS`), upon another perhaps, of which few rows (`last` is
    "filtered") or few columns ("narrowed") are shown."""
    chance = Chance(draw)
    growing = Growing(chance)
    growing.add_dataset()
    growing.add_dataset()
    if chance.maybe(40):
        growing.add_operation()
    OPERATIONS[operation](growing)
    if last == "filtered":
        growing.filter()
    else:
        growing.narrow()
    graph = growing.graph()
    return Case(graph, _history(chance, graph))


# ---- histories ---------------------------------------------------------------------------------------------


def _history(chance: Chance, graph: ops.Graph) -> tuple[Epoch, ...]:
    """An epoch that fills the datasets, and some that change them."""
    filling = tuple(_writes(chance, graph, number, WriteKind.PUT) for number in range(len(graph.datasets)))
    return ((filling,), *(_epoch(chance, graph) for _ in range(chance.number(1, 3))))


def _epoch(chance: Chance, graph: ops.Graph) -> Epoch:
    return tuple(_transaction(chance, graph) for _ in range(chance.pick((1, 2, 0, 3))))


def _transaction(chance: Chance, graph: ops.Graph) -> Transaction:
    numbers = [chance.number(0, len(graph.datasets) - 1) for _ in range(chance.number(1, 2))]
    kinds = (WriteKind.PUT, WriteKind.UPDATE, WriteKind.DELETE)
    return tuple(_writes(chance, graph, number, chance.pick(kinds)) for number in numbers)


def _writes(chance: Chance, graph: ops.Graph, number: int, kind: WriteKind) -> Writes:
    """Some rows for one dataset, of this kind if it can have it."""
    dataset = graph.datasets[number]
    width, key = len(dataset.row_type), _key_of(dataset)
    columns: tuple[int, ...]
    if key is None:
        kind, columns = WriteKind.APPEND, tuple(range(width))
    else:
        others = [i for i in range(width) if i not in key]
        kind = WriteKind.PUT if kind is WriteKind.UPDATE and not others else kind
        changed = chance.some(others, 1, 2) if kind is WriteKind.UPDATE else []
        columns = tuple(range(width)) if kind is WriteKind.PUT else (*key, *changed)
    types = tuple(dataset.row_type.types[i] for i in columns)
    rows = [_row(chance, types, [i in (key or (0,)) for i in columns]) for _ in range(chance.number(2, 6))]
    return Writes(number, kind, columns, Batch.from_rows(types, rows), (), ())


def _row(chance: Chance, types: tuple[DataType, ...], is_key: list[bool]) -> Row:
    pairs = zip(types, is_key, strict=True)
    return tuple(
        chance.value(dtype, KEY_POOL_SIZE if small or chance.maybe(50) else 100) for dtype, small in pairs
    )


def _key_of(dataset: ops.Dataset) -> tuple[int, ...] | None:
    return None if dataset.key is None else tuple(dataset.row_type.index(name) for name in dataset.key)


# ---- programs ----------------------------------------------------------------------------------------------


class Growing:
    """A program that grows. `rows` estimates how many rows each relation may come to have."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.datasets: list[ops.Dataset] = []
        self.relations: list[Relation] = []
        self.rows: dict[int, int] = {}
        self.names = 0

    def graph(self, percent: int = 15) -> ops.Graph:
        """The program; the last relation is a view, and of the others so many percent."""
        viewed = [self.relations[-1]]
        viewed += [r for r in reversed(self.relations[:-1]) if self.chance.maybe(percent)][:3]
        views = tuple(ops.View(f"v{i}", relation) for i, relation in enumerate(viewed))
        return ops.Graph("random", tuple(self.datasets), views)

    def add_dataset(self) -> None:
        """A dataset whose first column is an int or a text, so that datasets can be joined."""
        chance = self.chance
        types = [chance.pick((INT, INT, INT, STR)), *(chance.pick(TYPES) for _ in range(chance.number(1, 3)))]
        types = [t.optional() if chance.maybe(35) else t for t in types]
        names = tuple(f"{'abcd'[i]}{len(self.datasets)}" for i in range(len(types)))
        key = None
        if not chance.maybe(20):
            places = chance.some(range(len(types)), 1, 2) if chance.maybe(40) else [0]
            types = [t.required() if i in places else t for i, t in enumerate(types)]
            key = tuple(names[i] for i in places)
        name, row_type = f"d{len(self.datasets)}", RowType(names, tuple(types))
        dataset = checked.dataset(name, row_type, key, chance.maybe(25), "p.py:0")
        self.datasets.append(dataset)
        self.add(dataset, 10)

    def add_operation(self) -> None:
        """One operation on what is there; a join or union may bring a few more with it."""
        self.chance.pick(_USUAL)(self)

    def add(self, relation: Relation, rows: int) -> Relation:
        """Take in a relation."""
        self.relations.append(relation)
        self.rows[id(relation)] = rows
        return relation

    def source(self) -> Relation:
        """Something to build on: most often the newest."""
        return self.chance.pick(self.relations) if self.chance.maybe(35) else self.relations[-1]

    def name(self) -> str:
        """A column name that is not taken."""
        self.names += 1
        return f"n{self.names}"

    def location(self) -> str:
        """A line of its own for each relation, mostly, so that errors are told apart."""
        return f"p.py:{len(self.relations)}"

    def scalar(self, source: Relation, dtype: DataType, depth: int = 2) -> Scalar:
        """An expression over the rows of a relation."""
        return scalar(self.chance, source.row_type, dtype, depth)

    def some_scalar(self, source: Relation) -> Scalar:
        """An expression of any type; mostly a column."""
        if self.chance.maybe(40):
            return self.scalar(source, self.chance.pick(TYPES))
        if self.chance.maybe(20):
            return risky(self.chance, source.row_type)
        return column(source.row_type, self.chance.number(0, len(source.row_type) - 1))

    # ---- operations ----------------------------------------------------------------------------------------

    def filter(self) -> None:
        source = self.source()
        predicate = condition(self.chance, source.row_type)
        self.add(checked.filter_(source, predicate, self.location()), self.rows[id(source)])

    def project(self) -> None:
        source = self.source()
        kept = self.chance.some(range(len(source.row_type)), 0, 4)
        names = [self.name() if self.chance.maybe(20) else source.row_type.names[i] for i in kept]
        scalars: list[Scalar] = [column(source.row_type, i) for i in kept]
        scalars += [self.some_scalar(source) for _ in range(self.chance.number(0 if kept else 1, 2))]
        if self.chance.maybe(25):
            scalars.append(risky(self.chance, source.row_type))
        names += [self.name() for _ in scalars[len(kept) :]]
        self.add(checked.project(source, names, scalars, self.location()), self.rows[id(source)])

    def narrow(self) -> None:
        source = self.relations[-1]
        kept = self.chance.some(range(len(source.row_type)), 1, 2)
        names = [source.row_type.names[i] for i in kept]
        columns = [column(source.row_type, i) for i in kept]
        self.add(checked.project(source, names, columns, self.location()), self.rows[id(source)])

    def flat_map(self) -> None:
        source, chance = self.source(), self.chance
        if self.rows[id(source)] * 3 > ROWS_MAX:
            return
        types = [chance.pick((INT, STR, FLOAT)) for _ in range(chance.number(1, 2))]
        alternatives = [
            tuple(self.scalar(source, dtype) for dtype in types) for _ in range(chance.number(1, 3))
        ]
        names = [self.name() for _ in types]
        mapped = checked.flat_map(source, names, alternatives, self.location())
        self.add(mapped, self.rows[id(source)] * len(alternatives))

    def window(self) -> None:
        source, chance = self.source(), self.chance
        if {"window_start", "window_end"} & set(source.row_type.names) or self.rows[
            id(source)
        ] * 3 > ROWS_MAX:
            return
        every = chance.pick((HOUR_US, 7, 24 * HOUR_US))
        size = every * chance.pick((1, 2, 3)) - chance.pick((0, 0, 1))
        at = self.scalar(source, DATETIME, 1)
        self.add(checked.window(source, at, size, every, self.location()), self.rows[id(source)] * 3)

    def any_join(self) -> None:
        how = self.chance.pick(("inner", "left", "semi", "anti", "right", "outer"))
        self.join(how, self.chance.maybe(40))

    def join(self, how: str, conditioned: bool) -> None:
        left, right, chance = self.source(), self.source(), self.chance
        small = [dataset for dataset in self.datasets if dataset.broadcast]
        if small and chance.maybe(40):
            right = chance.pick(small)
        rows = self.rows[id(left)] * self.rows[id(right)] // 2
        if rows > ROWS_MAX:
            return
        if left is right or chance.maybe(10):
            right = self.add(checked.alias(right, self.name(), self.location()), self.rows[id(right)])
        pairs = [self._pair(left, right) for _ in range(chance.pick((1, 1, 2)))]
        both = RowType(left.row_type.names + right.row_type.names, left.row_type.types + right.row_type.types)
        extra = mostly_true(chance, both) if conditioned else None
        taken = set(left.row_type.names)
        right_names = [self.name() if n in taken else n for n in right.row_type.names]
        joined = checked.join(left, right, pairs, extra, how, right_names, self.location())
        self.add(joined, rows)
        self._cut(joined)

    def _pair(self, left: Relation, right: Relation) -> tuple[Scalar, Scalar]:
        shared = [t for t in TYPES if columns_like(left.row_type, t) and columns_like(right.row_type, t)]
        dtype = self.chance.pick((shared[0], *shared)) if shared else INT
        depth = 1 if self.chance.maybe(20) or not shared else 0
        return self.scalar(left, dtype, depth), self.scalar(right, dtype, depth)

    def _cut(self, wide: Relation) -> None:
        """Keep programs readable: of many columns, go on with some."""
        if len(wide.row_type) > COLUMNS_MAX:
            kept = self.chance.some(range(len(wide.row_type)), 4, 5)
            names = [wide.row_type.names[i] for i in kept]
            columns = [column(wide.row_type, i) for i in kept]
            self.add(checked.project(wide, names, columns, self.location()), self.rows[id(wide)])

    def aggregate(self) -> None:
        source, chance = self.source(), self.chance
        keys = [self.some_scalar(source) for _ in range(chance.pick((1, 0, 1, 2)))]
        aggregations = [self._aggregation(source, bool(keys)) for _ in range(chance.number(1, 3))]
        names = [self.name() for _ in (*keys, *aggregations)]
        grouped = checked.aggregate(source, names, keys, aggregations, self.location())
        self.add(grouped, self.rows[id(source)] if keys else 1)

    def _aggregation(self, source: Relation, has_keys: bool) -> Aggregation:
        chance = self.chance
        function = chance.pick(("count", "sum", "min", "max", "mean"))
        types = (INT, FLOAT, MONEY) if function in ("sum", "mean") else TYPES
        counts_rows = function == "count" and not chance.maybe(40)
        anything = self.some_scalar(source) if types is TYPES else self.scalar(source, chance.pick(types))
        argument = None if counts_rows else anything
        if function == "sum" and chance.maybe(40):
            argument = chance.pick([*columns_like(source.row_type, INT), self.scalar(source, INT)])
        where = condition(chance, source.row_type) if chance.maybe(25) else None
        dtype = aggregate_type(function, argument, where is not None, has_keys)
        return Aggregation(function, argument, where, dtype)

    def top(self) -> None:
        source, chance = self.source(), self.chance
        order = [SortKey(self.some_scalar(source), chance.maybe(50)) for _ in range(chance.number(1, 2))]
        per = [self.some_scalar(source) for _ in range(chance.pick((0, 1, 1, 2)))]
        rank = self.name() if chance.maybe(50) else None
        top = checked.top(source, chance.number(1, 3), order, per, rank, self.location())
        self.add(top, self.rows[id(source)])

    def distinct(self) -> None:
        source = self.source()
        self.add(checked.distinct(source, self.location()), self.rows[id(source)])

    def union(self) -> None:
        parts = self._alike(self.chance.pick((2, 2, 3, 1)))
        rows = sum(self.rows[id(part)] for part in parts)
        if rows <= ROWS_MAX:
            self.add(checked.union(parts, self.location()), rows)

    def difference(self) -> None:
        left, right = self._alike(2)
        self.add(checked.difference(left, right, self.location()), self.rows[id(left)])

    def _alike(self, count: int) -> list[Relation]:
        """Relations of the same columns: one and parts of it, or several projected to the same types."""
        source, chance = self.source(), self.chance
        if chance.maybe(30):
            predicates = [condition(chance, source.row_type) for _ in range(count - 1)]
            parts = [checked.filter_(source, predicate, self.location()) for predicate in predicates]
            return [source, *(self.add(part, self.rows[id(source)]) for part in parts)]
        types = [chance.pick(source.row_type.types).required() for _ in range(chance.number(1, 2))]
        names = [self.name() for _ in types]
        sources = [source, *(self.source() for _ in range(count - 1))]
        return [self._projected(s, names, types) for s in sources]

    def _projected(self, source: Relation, names: list[str], types: list[DataType]) -> Relation:
        columns: list[Scalar] = [self.scalar(source, dtype, 1) for dtype in types]
        return self.add(checked.project(source, names, columns, self.location()), self.rows[id(source)])


OPERATIONS: dict[str, Callable[[Growing], None]] = {
    "filter": Growing.filter,
    "project": Growing.project,
    "join": Growing.any_join,
    "aggregate": Growing.aggregate,
    "top": Growing.top,
    "distinct": Growing.distinct,
    "union": Growing.union,
    "difference": Growing.difference,
    "flat_map": Growing.flat_map,
    "window": Growing.window,
}
_USUAL = tuple(OPERATIONS[name] for name in (*OPERATIONS, "join", "join", "aggregate", "top"))
"""What programs are made of; where the mistakes are likely more often."""
