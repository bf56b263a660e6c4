"""The plan: what a program becomes before it runs. Plain data, in an order in which it can be executed.

A plan is a list of operators over deltas; an operator's inputs stand before it. Every node runs the whole list on its
interval of the hash space. The list is cut into *stages* by exchanges: an operator belongs to the earliest stage in
which all its inputs are known, so a program of depth d exchanges has d + 1 stages, numbered from 1. An `Exchange`
sends what its input produced in the stage before its own; what it delivers is there when its own stage starts.

Operators stand for the relations of `expr/ops.py` one to one and mean the same; the compiler adds exchanges, and in
front of a single shard the partial forms of `Reduce` and `Top`. Keeping them apart (rather than fusing, which is the
native executor's business) lets the errors of an operator be counted where the user wrote it.

`sharding` says where an operator's output rows are: a tuple of scalars over the output row whose hash owns the row
(the empty tuple: all on the one shard that owns the hash of nothing), `EVERYWHERE`: a full copy on each node, or
`UNKNOWN`: on some node, of which the row itself tells nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from dist_zero.expr.ops import Aggregation, Scalar, SortKey
from dist_zero.types import RowType


class Place(enum.Enum):
    """Shardings that are not a function of the row."""

    EVERYWHERE = "everywhere"
    UNKNOWN = "unknown"


EVERYWHERE, UNKNOWN = Place.EVERYWHERE, Place.UNKNOWN
NEXT = "next:"
"""In front of the name of a view that is being filled, beside the one that it takes the place of."""
Sharding = tuple[Scalar, ...] | Place


class StateKind(enum.Enum):
    """How an operator's state is divided when shards are: by the hash of `sharding`, copied whole, or not at all."""

    NONE = "none"
    KEYED = "keyed"
    BROADCAST = "broadcast"


class Phase(enum.Enum):
    """`PARTIAL` runs where the rows are and emits accumulators as bytes columns; `FINAL` adds those up."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FINAL = "final"


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """Common to all. `label` is the user's line and the verb, as errors name it; `id` is the place in the plan."""

    id: int = field(kw_only=True)
    inputs: tuple[int, ...] = field(kw_only=True)
    row_type: RowType = field(kw_only=True)
    stage: int = field(kw_only=True)
    sharding: Sharding = field(kw_only=True)
    state: StateKind = field(kw_only=True, default=StateKind.NONE)
    label: str = field(kw_only=True, default="")


@dataclass(frozen=True, slots=True, eq=False)
class Source(Operator):
    """Applies writes to dataset number `dataset` and emits their deltas. `key`: places of the key's columns."""

    dataset: int
    key: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Gate(Operator):
    """What those see of dataset number `dataset` that a change of the program has added behind its source: the rows of
    the slices that are filled, see `compiler/change.py`. Without a key: what is appended from the first one on."""

    dataset: int
    key: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Filter(Operator):
    """See `ops.Filter`."""

    predicate: Scalar


@dataclass(frozen=True, slots=True, eq=False)
class Project(Operator):
    """See `ops.Project`."""

    columns: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FlatMap(Operator):
    """See `ops.FlatMap`."""

    alternatives: tuple[tuple[Scalar, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Window(Operator):
    """See `ops.Window`."""

    at: Scalar
    size_us: int
    every_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Exchange(Operator):
    """Sends each row to the shard that owns the hash of `key`, or every row to all shards (`broadcast`)."""

    key: tuple[Scalar, ...]
    broadcast: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Join(Operator):
    """See `ops.Join`; inputs are left and right, `left_key` and `right_key` are scalars over each side's rows."""

    left_key: tuple[Scalar, ...]
    right_key: tuple[Scalar, ...]
    condition: Scalar | None
    how: str


@dataclass(frozen=True, slots=True, eq=False)
class Reduce(Operator):
    """See `ops.Aggregate`. In phases partial and final there are no `keys`, and between them each aggregation is one
    bytes column that holds its accumulator (`reference/accumulators.py` defines the encoding)."""

    keys: tuple[Scalar, ...]
    aggregations: tuple[Aggregation, ...]
    phase: Phase = Phase.COMPLETE


@dataclass(frozen=True, slots=True, eq=False)
class Top(Operator):
    """See `ops.Top`; `tie` are the places of the columns that break ties, ascending, behind `order`."""

    count: int
    order: tuple[SortKey, ...]
    per: tuple[Scalar, ...]
    tie: tuple[int, ...]
    rank: bool


@dataclass(frozen=True, slots=True, eq=False)
class Distinct(Operator):
    """See `ops.Distinct`."""


@dataclass(frozen=True, slots=True, eq=False)
class Union(Operator):
    """See `ops.Union`."""


@dataclass(frozen=True, slots=True, eq=False)
class Difference(Operator):
    """See `ops.Difference`."""


@dataclass(frozen=True, slots=True, eq=False)
class Sink(Operator):
    """Holds the view number `view`. `key`: places of the key's columns, None for a bag. A keyed view's `sharding` uses
    columns of the key alone, so that a reader who has the key knows the node. `order`: how the whole view is sorted
    for people, (column, descending) pairs with nulls last; `errors_of`: operators whose errors are this view's."""

    view: int
    key: tuple[int, ...] | None
    order: tuple[tuple[int, bool], ...]
    errors_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """A dataset as the runtime sees it. `key`: places of the columns whose hash owns a row, in the key's order; None
    for a dataset without a key, whose rows go by the hash of (epoch, transaction, row). `dropped`: it is not there any
    more, and nothing may be written to it; in the log there are writes to it still."""

    name: str
    row_type: RowType
    key: tuple[int, ...] | None
    broadcast: bool = False
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A view as the runtime sees it; `sink` is its operator."""

    name: str
    row_type: RowType
    sink: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled program. `fingerprint`: hex, stable over machines and versions, of all that saved state depends on."""

    name: str
    datasets: tuple[DatasetPlan, ...]
    views: tuple[ViewPlan, ...]
    operators: tuple[Operator, ...]
    stages: int
    fingerprint: str
