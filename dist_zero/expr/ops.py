"""What a program *is*: operations as plain data. What a user *holds* (`Table`, `Column`) is in `tables.py` and
`columns.py`; who runs it is the compiler's and the executors' business.

Scalar operations compute one value from one row. They name input columns by place (`ColumnRef.index`), never by
name, so that joins, projections and rewrites need no scopes. All computation is `Call`: the operation's name, its
arguments and the type of its result. `functions.py` is the table of the names, with the rule of types of each.

Relational operations make collections. Every one knows its row type and its key (`None`: a bag). They are built
checked; a `Relation` that exists is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dist_zero.types import DataType, RowType, Stored

# ---- scalar operations -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """The value of the input row's column at `index`."""

    index: int
    dtype: DataType


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `value` is a stored value of `dtype`."""

    value: Stored
    dtype: DataType


@dataclass(frozen=True, slots=True)
class Call:
    """The operation `name` of `functions.py` applied to `args`. `cast` and friends take their target from `dtype`."""

    name: str
    args: tuple[Scalar, ...]
    dtype: DataType


Scalar = ColumnRef | Literal | Call


@dataclass(frozen=True, slots=True)
class Aggregation:
    """`function` (count, sum, mean, min, max) of `argument` over the group's rows for which `where` is true.

    `argument` is None for `count` of rows only; nulls are passed over. Of no rows, count is 0 and the others null.
    """

    function: str
    argument: Scalar | None
    where: Scalar | None
    dtype: DataType


@dataclass(frozen=True, slots=True)
class SortKey:
    """One part of an order. Nulls come last in both directions; NaN counts as larger than every number."""

    value: Scalar
    descending: bool = False


# ---- relational operations ---------------------------------------------------------------------------------

Key = tuple[str, ...] | None
NamedScalars = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, eq=False)
class Relation:
    """Common to all: the shape of the result, its key, and the user's `file:line` for messages.

    Relations are compared by identity: a collection that is used twice is one object, computed once.
    """

    row_type: RowType
    key: Key
    location: str = field(kw_only=True, default="")


@dataclass(frozen=True, eq=False)
class Dataset(Relation):
    """A collection the user changes; `key` None means append-only. `broadcast`: small, copied to every node. `dropped`:
    a change of the program has left it out. It keeps its number, because what was written to it is in the log."""

    name: str
    broadcast: bool = False
    dropped: bool = False


@dataclass(frozen=True, eq=False)
class Filter(Relation):
    """Rows for which `predicate` (bool) is true; null counts as false."""

    input: Relation
    predicate: Scalar


@dataclass(frozen=True, eq=False)
class Project(Relation):
    """One output column per scalar, in the order of the row type."""

    input: Relation
    columns: tuple[Scalar, ...]


@dataclass(frozen=True, eq=False)
class FlatMap(Relation):
    """Each input row becomes one row per alternative: the input's columns followed by the alternative's scalars."""

    input: Relation
    alternatives: tuple[tuple[Scalar, ...], ...]


@dataclass(frozen=True, eq=False)
class Window(Relation):
    """Each input row once per window that contains `at`: the input's columns, then window_start, window_end.

    Windows are [start, start + size) with start a multiple of `every_us` since 1970-01-01 UTC; rows whose `at` is
    null are in no window.
    """

    input: Relation
    at: Scalar
    size_us: int
    every_us: int


@dataclass(frozen=True, eq=False)
class Join(Relation):
    """Rows of `left` and `right` for which all `on` pairs are equal (null equals nothing) and `condition` is true.

    Output: the left's columns followed by the right's (for `semi` and `anti`: the left's alone); the side that may
    be missing is nullable. `condition` refers to the left's columns followed by the right's, and is part of the
    match: an outer join keeps a row whose every partner fails it. `how`: inner, left, right, outer, semi, anti.
    """

    left: Relation
    right: Relation
    on: tuple[tuple[Scalar, Scalar], ...]
    condition: Scalar | None
    how: str


@dataclass(frozen=True, eq=False)
class Aggregate(Relation):
    """One row per distinct value of `keys`: the keys, then the aggregations. No keys: one row, even of no input."""

    input: Relation
    keys: tuple[Scalar, ...]
    aggregations: tuple[Aggregation, ...]


@dataclass(frozen=True, eq=False)
class Top(Relation):
    """The first `count` rows by `order` in each group of equal `per`; ties break by key, of a bag by the whole row.

    With `rank`, one column more: 1 for the first row. A bag's row of weight w takes w places.
    """

    input: Relation
    count: int
    order: tuple[SortKey, ...]
    per: tuple[Scalar, ...]
    rank: bool


@dataclass(frozen=True, eq=False)
class Distinct(Relation):
    """Every row once."""

    input: Relation


@dataclass(frozen=True, eq=False)
class Union(Relation):
    """The rows of all inputs; a row's weights add up."""

    inputs: tuple[Relation, ...]


@dataclass(frozen=True, eq=False)
class Difference(Relation):
    """Every row of `left`, once, that `right` does not have: the difference of sets."""

    left: Relation
    right: Relation


@dataclass(frozen=True, eq=False)
class Alias(Relation):
    """The same rows under another identity, so that a collection can be joined with itself."""

    input: Relation
    name: str


@dataclass(frozen=True, slots=True)
class View:
    """A collection with a name, kept equal to `relation`."""

    name: str
    relation: Relation


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole program as plain data: what travels, and what the compiler takes. `before`: the program that this one
    takes the place of, whose views are served while the new ones are filled (`compiler/change.py`)."""

    name: str
    datasets: tuple[Dataset, ...]
    views: tuple[View, ...]
    before: Graph | None = None
