"""What a user holds of a collection: `Table`, whose methods are the verbs of the language.

A table pairs a relation with the origins of its columns (see `nodes.py`). Verbs look columns up, put in casts, and
let `checked.py` build the operation; joins are in `joins.py`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from dist_zero.expr import checked, nodes
from dist_zero.expr.aggregates import Aggregate, ColumnLike, Order
from dist_zero.expr.checked import unknown_column
from dist_zero.expr.columns import UNFINISHED, Column, Then, When
from dist_zero.expr.elsewhere import unknown_verb
from dist_zero.expr.functions import aggregate_type
from dist_zero.expr.location import NoAttribute, Refused, located, user_location
from dist_zero.expr.nodes import Field, Node, Origin
from dist_zero.expr.ops import Aggregation, Alias, ColumnRef, Dataset, Key, Relation, Scalar, SortKey
from dist_zero.expr.text import scalar_text
from dist_zero.types import RowType

Origins = tuple[Origin, ...]
_DURATION = re.compile(r"\s*(\d{1,18})\s*(us|ms|s|m|h|d)\s*\Z")
_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}


class Table:
    """A dataset, a view, or anything made of them: typed columns, and verbs that make further tables.

    `t["name"]` is a column, and `t.name` where no verb has the name. Nothing is computed here.
    """

    __slots__ = ("_name", "_origins", "_relation")

    def __init__(self, relation: Relation, origins: Origins, name: str | None = None) -> None:
        self._relation = relation
        self._origins = origins
        self._name = name

    @property
    def key(self) -> Key:
        """The columns that identify a row; None for a bag, () for the single row of a global aggregate."""
        return self._relation.key

    @property
    def row_type(self) -> RowType:
        """Names and types of the columns."""
        return self._relation.row_type

    # ---- columns ----

    @located
    def __getitem__(self, name: str) -> Column:
        if not isinstance(name, str):
            raise Refused(f"t[...] takes the name of a column, got {type(name).__name__} {name!r:.80}")
        return Column(column_node(self, name))

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self.row_type.names:
            message = unknown_verb(name) or unknown_column(name, self.row_type, describe(self._relation))
            raise NoAttribute(f"{user_location()}: {message}")
        return Column(column_node(self, name))

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self.row_type.names]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.row_type.names)

    def __iter__(self) -> NoReturn:
        raise TypeError("a table has no rows to loop over while the program is being written")

    # ---- verbs ----

    @located
    def where(self, *conditions: ColumnLike) -> Table:
        """The rows for which all conditions are true (null counts as false)."""
        if not conditions:
            raise Refused("where needs a condition")
        predicate = as_node(self, conditions[0], "where")
        for condition in conditions[1:]:
            predicate = nodes.apply("and", predicate, as_node(self, condition, "where"))
        relation = checked.filter_(self._relation, resolve_in(self, predicate), user_location())
        return Table(relation, passed_on(self._origins))

    @located
    def select(self, *columns: ColumnLike, **computed: ColumnLike) -> Table:
        """These columns alone, in this order; keywords name what is computed or renamed."""
        return _projection(self, _named(self, columns, computed, "select"))

    @located
    def with_columns(self, **computed: ColumnLike) -> Table:
        """All columns, and these besides; one that is there already is replaced, in its place."""
        if not computed:
            raise Refused("with_columns needs columns, as total=t.price * t.count")
        columns = {name: column_node(self, name) for name in self.row_type.names}
        return _projection(self, {**columns, **_named(self, (), computed, "with_columns")})

    @located
    def join(
        self,
        other: Table,
        on: str | Column | Callable[[Table, Table], Column] | Sequence[str | Column],
        *,
        how: str = "inner",
        suffix: str = "_right",
    ) -> Table:
        """Rows of both sides that belong together.

        `on`: a column of both by name, a condition such as `(a.x == b.y) & (a.t < b.t)`, or a list of these; at least
        one equality. A named column is there once; other columns of `other` whose names are taken get `suffix`.
        `how`: inner, left, right, outer, semi (rows of this side with a partner), anti (those without).
        """
        from dist_zero.expr.joins import How, join_tables

        return join_tables(self, other, on, How(how, suffix, user_location()))

    @located
    def alias(self, name: str) -> Table:
        """The same rows as a table of its own, so that a table can be joined with itself."""
        relation = checked.alias(self._relation, name, user_location())
        return Table(relation, fresh_origins(len(relation.row_type)))

    @located
    def group_by(self, *columns: ColumnLike, **renamed: ColumnLike) -> Grouping:
        """Groups of rows with equal values in these columns; without any, the whole table as one group."""
        return Grouping(self, _named(self, columns, renamed, "group_by"))

    @located
    def window(
        self, at: ColumnLike, *, size: str | dt.timedelta, every: str | dt.timedelta | None = None
    ) -> Table:
        """Each row once per window that its `at` falls into, with `window_start` and `window_end` (exclusive).

        Windows are `size` long and begin at multiples of `every` (default: `size`) since 1970: "500ms", "30s", "10m",
        "1h", "1d" or a timedelta. Rows whose `at` is null are in no window.
        """
        size_us = duration_us(size)
        every_us = size_us if every is None else duration_us(every)
        scalar = resolve_in(self, as_node(self, at, "window"))
        relation = checked.window(self._relation, scalar, size_us, every_us, user_location())
        return Table(relation, passed_on(self._origins) + fresh_origins(2))

    @located
    def top(
        self,
        n: int,
        by: ColumnLike | Order | Sequence[ColumnLike | Order] | None = None,
        *,
        per: ColumnLike | Sequence[ColumnLike] | None = None,
        rank: str | None = None,
    ) -> Table:
        """The first `n` rows in the order `by`, in each group of equal `per`; ties break by key.

        `by`: columns, ascending, or `dz.desc("score")`. `rank`: name of a column for the place, from 1.
        """
        order = [_sort_key(self, part) for part in _listed(by)]
        groups = [resolve_in(self, as_node(self, part, "per")) for part in _listed(per)]
        relation = checked.top(self._relation, n, order, groups, rank, user_location())
        return Table(relation, passed_on(self._origins) + fresh_origins(0 if rank is None else 1))

    @located
    def distinct(self) -> Table:
        """Every row once."""
        return Table(checked.distinct(self._relation, user_location()), passed_on(self._origins))

    @located
    def union(self, *others: Table) -> Table:
        """The rows of all; equal rows stay as often as they are there. Columns are matched by name."""
        tables = _matched("union", (self, *others))
        relation = checked.union([t._relation for t in tables], user_location())
        return Table(relation, fresh_origins(len(relation.row_type)))

    @located
    def difference(self, other: Table) -> Table:
        """The rows, once each, that `other` does not have. Columns are matched by name."""
        left, right = _matched("difference", (self, other))
        relation = checked.difference(left._relation, right._relation, user_location())
        return Table(relation, passed_on(left._origins))

    @located
    def flat_map(self, *alternatives: Mapping[str, ColumnLike]) -> Table:
        """Each row once per alternative, followed by that alternative's columns: `{"name": column, ...}`."""
        if not alternatives or not all(isinstance(a, Mapping) and a for a in alternatives):
            raise Refused(
                'flat_map takes alternatives as dictionaries: flat_map({"end": t.home}, {"end": t.away})'
            )
        names = tuple(alternatives[0])
        for alternative in alternatives:
            if set(alternative) != set(names):
                raise Refused(
                    f"the alternatives of flat_map need the same columns: {names} and {tuple(alternative)}"
                )
        columns = [_alternative_column(self, name, [a[name] for a in alternatives]) for name in names]
        rows = tuple(tuple(column[i] for column in columns) for i in range(len(alternatives)))
        relation = checked.flat_map(self._relation, names, rows, user_location())
        return Table(relation, passed_on(self._origins) + fresh_origins(len(names)))

    def __str__(self) -> str:
        from dist_zero.expr.show import table_text

        return table_text(self._relation, self._name)

    def __repr__(self) -> str:
        return f"<table {self._name or describe(self._relation)} {self.row_type}>"


class Grouping:
    """Groups of a table's rows, for `agg`."""

    __slots__ = ("_keys", "_table")

    def __init__(self, table: Table, keys: dict[str, Node]) -> None:
        self._table = table
        self._keys = keys

    @located
    def agg(self, **aggregates: Aggregate) -> Table:
        """One row per group: its columns, then the aggregates, as `agg(n=dz.count(), worst=dz.max("delay"))`."""
        keys = [resolve_in(self._table, node) for node in self._keys.values()]
        aggregations = [_aggregation(self._table, n, a, bool(keys)) for n, a in aggregates.items()]
        names = (*self._keys, *aggregates)
        relation = checked.aggregate(self._table._relation, names, keys, aggregations, user_location())
        origins = tuple(_origin_of(self._table, s) for s in keys) + fresh_origins(len(aggregations))
        return Table(relation, origins)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NoAttribute(f"{user_location()}: group_by(...) is followed by agg(...); it has no {name!r}")


# ---- columns in tables -------------------------------------------------------------------------------------


def fresh_origins(count: int) -> Origins:
    """Origins for columns whose values are new."""
    return tuple(Origin() for _ in range(count))


def passed_on(origins: Origins) -> Origins:
    """Origins for columns that hold the values of these."""
    return tuple(Origin(origin) for origin in origins)


def describe(relation: Relation) -> str:
    """A table in messages: `dataset 'flights'`, or what made it and where."""
    if isinstance(relation, Dataset):
        return f"dataset {relation.name!r}"
    if isinstance(relation, Alias):
        return f"alias {relation.name!r}"
    return f"the table made at {relation.location}"


def column_node(table: Table, name: str) -> Field:
    """The column `name` of the table; raises `Refused` naming those that exist."""
    relation = table._relation
    if name not in relation.row_type.names:
        raise Refused(unknown_column(name, relation.row_type, describe(relation)))
    index = relation.row_type.index(name)
    return Field(relation, index, name, table._origins[index], relation.row_type.types[index])


def as_node(table: Table, column: object, verb: str) -> Node:
    """What a user gave for a column: its name, a column, or a lambda that makes one of the table."""
    if callable(column) and not isinstance(column, type | Aggregate | Column):
        column = column(table)
    if isinstance(column, str):
        return column_node(table, column)
    if isinstance(column, Column):
        return column._node
    if isinstance(column, When | Then):
        raise Refused(UNFINISHED)
    if isinstance(column, Aggregate):
        raise Refused(
            f"{verb} takes columns of single rows; dz.{column.function} belongs into group_by(...).agg(...)"
        )
    raise Refused(
        f"{verb} takes columns, got {type(column).__name__} {column!r:.80}; constants are dz.lit(...)"
    )


def resolve_in(table: Table, node: Node) -> Scalar:
    """The expression over the table's columns."""
    return nodes.resolve(node, lambda field: _place(table, field), table.row_type)


def _place(table: Table, field: Field) -> int:
    return place_of(field, table._origins, table.row_type, describe(table._relation))


def place_of(field: Field, origins: Origins, row_type: RowType, what: str) -> int:
    """The one column that is `field`, or else the one that holds its value."""
    places = [i for i, own in enumerate(origins) if own is field.origin]
    places = places or [i for i, own in enumerate(origins) if own.descends_from(field.origin)]
    if len(places) == 1:
        return places[0]
    source = describe(field.relation)
    if not places:
        raise Refused(
            f"column {field.name!r} ({field.dtype}) of {source} is not in {what}, or was changed on the way;"
            f" it has {row_type}" + _own_hint(field.name, row_type)
        )
    found = " and ".join(repr(row_type.names[i]) for i in places)
    raise Refused(
        f"column {field.name!r} of {source} is ambiguous in {what}: it is {found}; take it from the table itself, by"
        " name, or give one side another identity before the join: other = t.alias('other')"
    )


def _own_hint(name: str, row_type: RowType) -> str:
    return f"; its own {name!r} is meant by lambda t: t[{name!r}]" if name in row_type.names else ""


def _origin_of(table: Table, scalar: Scalar) -> Origin:
    return Origin(table._origins[scalar.index]) if isinstance(scalar, ColumnRef) else Origin()


def _named(
    table: Table, columns: Sequence[ColumnLike], computed: Mapping[str, ColumnLike], verb: str
) -> dict[str, Node]:
    """Positional columns under their own names, then those named by keywords; no name twice."""
    named: dict[str, Node] = {}
    for column in columns:
        node = as_node(table, column, verb)
        if not isinstance(node, Field):
            raise Refused(f"{verb}: a computed column needs a name, as {verb}(name={scalar_text(node)})")
        if node.name in named:
            raise Refused(f"{verb} names column {node.name!r} twice")
        named[node.name] = node
    for name, column in computed.items():
        if name in named:
            raise Refused(f"{verb} names column {name!r} twice")
        named[name] = as_node(table, column, verb)
    return named


def _projection(table: Table, columns: Mapping[str, Node]) -> Table:
    scalars = [resolve_in(table, node) for node in columns.values()]
    relation = checked.project(table._relation, tuple(columns), scalars, user_location())
    return Table(relation, tuple(_origin_of(table, s) for s in scalars))


def _sort_key(table: Table, part: object) -> SortKey:
    order = part if isinstance(part, Order) else None
    column = order.column if order is not None else part
    return SortKey(resolve_in(table, as_node(table, column, "top")), order is not None and order.descending)


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _aggregation(table: Table, name: str, aggregate: object, has_keys: bool) -> Aggregation:
    if not isinstance(aggregate, Aggregate):
        raise Refused(
            f"agg({name}=...) needs an aggregate such as dz.count() or dz.mean('x'), got"
            f" {type(aggregate).__name__} {aggregate!r:.80}"
        )
    argument = None
    if aggregate.argument is not None:
        argument = resolve_in(table, as_node(table, aggregate.argument, "agg"))
    where = None if aggregate.where is None else resolve_in(table, as_node(table, aggregate.where, "where"))
    try:
        dtype = aggregate_type(aggregate.function, argument, where is not None, has_keys)
    except Refused as refused:
        shown = scalar_text(argument, table.row_type.names) if argument is not None else ""
        raise Refused(f"agg({name}=dz.{aggregate.function}({shown})): {refused}") from None
    return Aggregation(aggregate.function, argument, where, dtype)


def _alternative_column(table: Table, name: str, columns: Sequence[ColumnLike]) -> list[Scalar]:
    given = [as_node(table, column, "flat_map") for column in columns]
    return [resolve_in(table, node) for node in nodes.unified(f"flat_map: column {name!r}", given)]


def _matched(verb: str, tables: Sequence[Table]) -> list[Table]:
    """The tables with the columns in the first one's order and one type each."""
    first = tables[0]
    for other in tables:
        if not isinstance(other, Table):
            raise Refused(f"{verb} takes tables, got {type(other).__name__} {other!r:.80}")
        missing = set(first.row_type.names) ^ set(other.row_type.names)
        if missing:
            raise Refused(
                f"{verb} needs the same columns on both sides; only one has"
                f" {', '.join(sorted(missing))}: {first.row_type} and {other.row_type}"
            )
    columns = [
        nodes.unified(f"{verb}: column {name!r}", [column_node(t, name) for t in tables])
        for name in first.row_type.names
    ]
    return [
        _as_matched(t, {n: c[i] for n, c in zip(first.row_type.names, columns, strict=True)})
        for i, t in enumerate(tables)
    ]


def _as_matched(table: Table, columns: Mapping[str, Node]) -> Table:
    """The table itself if it has these columns as they are."""
    unchanged = [isinstance(n, Field) and n.index == i for i, n in enumerate(columns.values())]
    return table if all(unchanged) else _projection(table, columns)


def duration_us(value: object) -> int:
    """The microseconds of a duration as users write it."""
    if isinstance(value, dt.timedelta):
        return value // dt.timedelta(microseconds=1)
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise Refused(f"{value!r:.80} is no duration: write '500ms', '30s', '10m', '1h', '1d' or a timedelta")
    return int(match[1]) * _UNIT_US[match[2]]
