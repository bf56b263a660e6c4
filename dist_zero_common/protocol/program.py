"""A program on the wire: `GraphBlob`, the flat form of `dist_zero.expr.ops.Graph`.

Types, scalars and relations are three lists, and refer to each other by place; what is referred to stands in front.
Whatever follows from the rest (types of results, names that are passed on, keys of views) is left out where it can
be: the receiver works it out again by the rules of the language, and refuses what breaks them
(`dist_zero/expr/graph.py`). `schemas/program.capnp` has the same structs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class TypeKind(enum.Enum):
    """See `dist_zero.types.Kind`."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"
    BYTES = "bytes"
    DATETIME = "datetime"
    DECIMAL = "decimal"
    ENUM = "enum"


class JoinKind(enum.Enum):
    """What becomes of rows without a partner; see `ops.Join`."""

    INNER = "inner"
    LEFT = "left"
    RIGHT = "right"
    OUTER = "outer"
    SEMI = "semi"
    ANTI = "anti"


class AggregateKind(enum.Enum):
    """The aggregate functions."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class TypeBlob:
    """The type of a column or expression. `scale` is 0 but for decimals, `members` empty but for enums."""

    kind: TypeKind
    nullable: bool
    scale: int
    members: tuple[str, ...]


# ---- scalars -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ColumnRefBlob:
    """The input row's column at `index`; `type` is a place in the list of types."""

    index: int
    type: int


@dataclass(frozen=True, slots=True)
class LiteralBlob:
    """A constant. Its type says which field holds the stored value: `integer` for bool (0 or 1), int, datetime (µs),
    decimal (times 10^scale) and enum (place of the member); `real`, `text` or `data` for float, str and bytes."""

    type: int
    is_null: bool
    integer: int
    real: float
    text: str
    data: bytes


@dataclass(frozen=True, slots=True)
class CallBlob:
    """The operation `name` on scalars that stand in front; `type` is that of the result."""

    name: str
    args: tuple[int, ...]
    type: int


ScalarBlob = ColumnRefBlob | LiteralBlob | CallBlob


# ---- relations ---------------------------------------------------------------------------------------------
# In all of these, relations (`input`, `left`, `right`) and scalars are places in the lists of the graph.


@dataclass(frozen=True, slots=True)
class ColumnTypeBlob:
    """A column of a dataset."""

    name: str
    type: int


@dataclass(frozen=True, slots=True)
class DatasetBlob:
    """A dataset; without a `key` it is append-only. `broadcast`: copied to every node. `dropped`: by a change of the
    program."""

    name: str
    columns: tuple[ColumnTypeBlob, ...]
    key: tuple[str, ...]
    broadcast: bool
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class FilterBlob:
    """Rows for which `predicate` is true."""

    input: int
    predicate: int


@dataclass(frozen=True, slots=True)
class ProjectBlob:
    """One output column per scalar, under `names`."""

    input: int
    names: tuple[str, ...]
    scalars: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AlternativeBlob:
    """The scalars of one alternative of a `FlatMapBlob`."""

    scalars: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FlatMapBlob:
    """Each input row once per alternative, followed by its scalars under `names`."""

    input: int
    names: tuple[str, ...]
    alternatives: tuple[AlternativeBlob, ...]


@dataclass(frozen=True, slots=True)
class WindowBlob:
    """Each input row once per window that contains `at`; lengths in microseconds."""

    input: int
    at: int
    size_us: int
    every_us: int


@dataclass(frozen=True, slots=True)
class JoinBlob:
    """Rows whose `on_left` and `on_right` are equal pair by pair. `condition`: none or one scalar over both sides'
    columns. `right_names`: what the right's columns are called; empty for semi and anti."""

    left: int
    right: int
    on_left: tuple[int, ...]
    on_right: tuple[int, ...]
    condition: tuple[int, ...]
    how: JoinKind
    right_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AggregationBlob:
    """One aggregate; `argument` and `where` are none or one scalar each."""

    function: AggregateKind
    argument: tuple[int, ...]
    where: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AggregateBlob:
    """The keys, then the aggregations, under `names`."""

    input: int
    names: tuple[str, ...]
    keys: tuple[int, ...]
    aggregations: tuple[AggregationBlob, ...]


@dataclass(frozen=True, slots=True)
class SortBlob:
    """One part of an order."""

    value: int
    descending: bool


@dataclass(frozen=True, slots=True)
class TopBlob:
    """The first `count` rows by `order` per group of equal `per`; `rank`: name of the column of places, or empty."""

    input: int
    count: int
    order: tuple[SortBlob, ...]
    per: tuple[int, ...]
    rank: str


@dataclass(frozen=True, slots=True)
class DistinctBlob:
    """Every row once."""

    input: int


@dataclass(frozen=True, slots=True)
class UnionBlob:
    """The rows of all inputs."""

    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DifferenceBlob:
    """The left's rows, once each, that the right does not have."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class AliasBlob:
    """The same rows under another identity."""

    input: int
    name: str


OperationBlob = (
    DatasetBlob
    | FilterBlob
    | ProjectBlob
    | FlatMapBlob
    | WindowBlob
    | JoinBlob
    | AggregateBlob
    | TopBlob
    | DistinctBlob
    | UnionBlob
    | DifferenceBlob
    | AliasBlob
)


@dataclass(frozen=True, slots=True)
class RelationBlob:
    """An operation and the user's `file:line`, which tells people where and means nothing to the program."""

    location: str
    operation: OperationBlob


@dataclass(frozen=True, slots=True)
class ViewBlob:
    """A relation that is kept, under a name."""

    name: str
    relation: int


@dataclass(frozen=True, slots=True)
class GraphBlob:
    """A whole program. Equal programs have equal blobs, down to the order of the lists. `before`: the program that this
    one takes the place of, while that goes on, as such a blob; or nothing."""

    name: str
    types: tuple[TypeBlob, ...]
    scalars: tuple[ScalarBlob, ...]
    relations: tuple[RelationBlob, ...]
    views: tuple[ViewBlob, ...]
    before: bytes = b""
