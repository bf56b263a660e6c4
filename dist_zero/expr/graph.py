"""Programs to and from the wire. What comes in is rebuilt through the rules that the builder obeys.

Encoding numbers types, scalars and relations in the order in which they are first needed, datasets first, so equal
programs become equal bytes in every process. Locations travel with the program but are no part of its identity.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from dist_zero.expr import checked, nodes, ops
from dist_zero.expr.functions import aggregate_type, result_type
from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Aggregation, Call, ColumnRef, Graph, Literal, Relation, Scalar, SortKey
from dist_zero.expr.walk import OPERATIONS_MAX, check_bounds, in_order, inputs_of
from dist_zero.types import DECIMAL_SCALE_MAX, DataType, Kind, RowType, Stored, canonical_float, check_stored
from dist_zero_common.errors import MalformedMessage, SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.protocol import program as wire
from dist_zero_common.protocol.codec import decode, encode

SCALARS_MAX = 100_000
LOCATION_LENGTH_MAX = 1_000
FINGERPRINT_BYTES = 16

_T = TypeVar("_T")


def encode_graph(graph: Graph) -> bytes:
    """The program as sealed bytes, as messages carry it."""
    return encode(graph_to_blob(graph))


@functools.lru_cache(maxsize=4)
def decode_graph(data: bytes) -> Graph:
    """The program in these bytes, wholly checked; raises `MalformedMessage`. The same bytes soon again are the same
    program, which is compiled once."""
    return graph_from_blob(decode(wire.GraphBlob, data))


def fingerprint(graph: Graph) -> str:
    """32 hexadecimal digits that are equal for equal programs, wherever in a file they were written."""
    blob = graph_to_blob(graph)
    before = fingerprint(graph.before).encode() if graph.before is not None else b""
    placeless = replace(blob, relations=tuple(replace(r, location="") for r in blob.relations), before=before)
    return hashlib.blake2b(encode(placeless), digest_size=FINGERPRINT_BYTES).hexdigest()


# ---- to the wire -------------------------------------------------------------------------------------------


def graph_to_blob(graph: Graph) -> wire.GraphBlob:
    """The flat form of a program."""
    writer = _Writer()
    for relation in in_order([*graph.datasets, *(view.relation for view in graph.views)]):
        writer.add(relation)
    views = tuple(wire.ViewBlob(v.name, writer.place[id(v.relation)]) for v in graph.views)
    before = encode_graph(graph.before) if graph.before is not None else b""
    return wire.GraphBlob(
        graph.name, tuple(writer.types), tuple(writer.scalars), tuple(writer.relations), views, before
    )


class _Writer:
    """The lists of a graph so far, and what is in them already."""

    def __init__(self) -> None:
        self.types: dict[wire.TypeBlob, int] = {}
        self.scalars: list[wire.ScalarBlob] = []
        self.relations: list[wire.RelationBlob] = []
        self.place: dict[int, int] = {}
        self._known: dict[Scalar, int] = {}

    def add(self, relation: Relation) -> None:
        """Append a relation whose inputs are there."""
        operation = _ENCODERS[type(relation)](
            self, relation, [self.place[id(r)] for r in inputs_of(relation)]
        )
        self.place[id(relation)] = len(self.relations)
        self.relations.append(wire.RelationBlob(relation.location[:LOCATION_LENGTH_MAX], operation))

    def type(self, dtype: DataType) -> int:
        """The place of a type."""
        blob = wire.TypeBlob(wire.TypeKind(dtype.kind.value), dtype.nullable, dtype.scale, dtype.members)
        return self.types.setdefault(blob, len(self.types))

    def scalar(self, scalar: Scalar) -> int:
        """The place of a scalar; equal ones share it."""
        if scalar not in self._known:
            blob = self._scalar_blob(scalar)
            self._known[scalar] = len(self.scalars)
            self.scalars.append(blob)
        return self._known[scalar]

    def all(self, scalars: Sequence[Scalar | None]) -> tuple[int, ...]:
        """The places of those that there are."""
        return tuple(self.scalar(s) for s in scalars if s is not None)

    def _scalar_blob(self, scalar: Scalar) -> wire.ScalarBlob:
        if isinstance(scalar, ColumnRef):
            return wire.ColumnRefBlob(scalar.index, self.type(scalar.dtype))
        if isinstance(scalar, Literal):
            return _literal_blob(scalar, self.type(scalar.dtype))
        args = self.all(scalar.args)
        return wire.CallBlob(scalar.name, args, self.type(scalar.dtype))


def _literal_blob(literal: Literal, dtype: int) -> wire.LiteralBlob:
    value = literal.value
    return wire.LiteralBlob(
        type=dtype,
        is_null=value is None,
        integer=int(value) if isinstance(value, int) else 0,
        real=value if isinstance(value, float) else 0.0,
        text=value if isinstance(value, str) else "",
        data=value if isinstance(value, bytes) else b"",
    )


def _dataset_blob(w: _Writer, r: ops.Dataset, _: list[int]) -> wire.OperationBlob:
    columns = (
        wire.ColumnTypeBlob(n, w.type(t)) for n, t in zip(r.row_type.names, r.row_type.types, strict=True)
    )
    return wire.DatasetBlob(r.name, tuple(columns), r.key or (), r.broadcast, r.dropped)


def _flat_map_blob(w: _Writer, r: ops.FlatMap, inputs: list[int]) -> wire.OperationBlob:
    alternatives = tuple(wire.AlternativeBlob(w.all(a)) for a in r.alternatives)
    return wire.FlatMapBlob(inputs[0], r.row_type.names[len(r.input.row_type) :], alternatives)


def _join_blob(w: _Writer, r: ops.Join, inputs: list[int]) -> wire.OperationBlob:
    on_left, on_right = w.all([left for left, _ in r.on]), w.all([right for _, right in r.on])
    right_names = r.row_type.names[len(r.left.row_type) :]
    how = wire.JoinKind(r.how)
    return wire.JoinBlob(inputs[0], inputs[1], on_left, on_right, w.all([r.condition]), how, right_names)


def _aggregate_blob(w: _Writer, r: ops.Aggregate, inputs: list[int]) -> wire.OperationBlob:
    keys = w.all(r.keys)
    aggregations = tuple(
        wire.AggregationBlob(wire.AggregateKind(a.function), w.all([a.argument]), w.all([a.where]))
        for a in r.aggregations
    )
    return wire.AggregateBlob(inputs[0], r.row_type.names, keys, aggregations)


def _top_blob(w: _Writer, r: ops.Top, inputs: list[int]) -> wire.OperationBlob:
    order = tuple(wire.SortBlob(w.scalar(k.value), k.descending) for k in r.order)
    return wire.TopBlob(inputs[0], r.count, order, w.all(r.per), r.row_type.names[-1] if r.rank else "")


_ENCODERS: dict[type[Relation], Callable[[_Writer, Any, list[int]], wire.OperationBlob]] = {
    ops.Dataset: _dataset_blob,
    ops.Filter: lambda w, r, i: wire.FilterBlob(i[0], w.scalar(r.predicate)),
    ops.Project: lambda w, r, i: wire.ProjectBlob(i[0], r.row_type.names, w.all(r.columns)),
    ops.FlatMap: _flat_map_blob,
    ops.Window: lambda w, r, i: wire.WindowBlob(i[0], w.scalar(r.at), r.size_us, r.every_us),
    ops.Join: _join_blob,
    ops.Aggregate: _aggregate_blob,
    ops.Top: _top_blob,
    ops.Distinct: lambda _, __, i: wire.DistinctBlob(i[0]),
    ops.Union: lambda _, __, i: wire.UnionBlob(tuple(i)),
    ops.Difference: lambda _, __, i: wire.DifferenceBlob(i[0], i[1]),
    ops.Alias: lambda _, r, i: wire.AliasBlob(i[0], r.name),
}


# ---- from the wire -----------------------------------------------------------------------------------------


def graph_from_blob(blob: wire.GraphBlob) -> Graph:
    """The program, built again and checked; raises `MalformedMessage`."""
    try:
        return _graph(blob)
    except (Refused, SettingsError) as error:
        raise MalformedMessage(f"program {blob.name!r:.120}: {error}") from None


def _graph(blob: wire.GraphBlob) -> Graph:
    checked_name("program", blob.name)
    if len(blob.relations) > OPERATIONS_MAX or len(blob.scalars) > SCALARS_MAX:
        raise Refused(f"{len(blob.relations)} operations and {len(blob.scalars)} expressions are too many")
    reader = _Reader(blob)
    datasets = tuple(r for r in reader.relations if isinstance(r, ops.Dataset))
    views = tuple(ops.View(v.name, _at(reader.relations, v.relation)) for v in blob.views)
    names: set[str] = set()
    for name in [*(d.name for d in datasets if not d.dropped), *(v.name for v in views)]:
        checked.check_collection_name("dataset or view", name)
        if name in names:
            raise Refused(f"two datasets or views are called {name!r}")
        names.add(name)
    check_bounds(reader.relations)
    return Graph(blob.name, datasets, views, _before(blob) if blob.before else None)


def _before(blob: wire.GraphBlob) -> Graph:
    before = decode(wire.GraphBlob, blob.before)
    if before.before or before.name != blob.name:
        raise Refused("a program takes the place of one of its own name, and of one at a time")
    return _graph(before)


class _Reader:
    """Types, scalars and relations, each built from those in front of it."""

    def __init__(self, blob: wire.GraphBlob) -> None:
        self.types = [_type(t) for t in blob.types]
        self.scalars: list[Scalar] = []
        self._extent: list[tuple[int, int]] = []
        for scalar in blob.scalars:
            self._add_scalar(scalar)
        self.relations: list[Relation] = []
        for relation in blob.relations:
            if len(relation.location) > LOCATION_LENGTH_MAX:
                raise Refused("a location is too long")
            decoder = _DECODERS[type(relation.operation)]
            self.relations.append(decoder(self, relation.operation, relation.location))

    def relation(self, place: int) -> Relation:
        """The relation at `place`, which has to stand in front."""
        return _at(self.relations, place)

    def scalar(self, place: int) -> Scalar:
        """The scalar at `place`."""
        return _at(self.scalars, place)

    def all(self, places: Sequence[int]) -> tuple[Scalar, ...]:
        """The scalars at these places."""
        return tuple(self.scalar(place) for place in places)

    def optional(self, places: Sequence[int]) -> Scalar | None:
        """The scalar of a list that has none or one."""
        if len(places) > 1:
            raise Refused("more than one expression where one is allowed")
        return self.scalar(places[0]) if places else None

    def _add_scalar(self, blob: wire.ScalarBlob) -> None:
        """Build one scalar; depth and size are bounded, for a list can say an exponential expression."""
        dtype = _at(self.types, blob.type)
        depth = size = 0
        scalar: Scalar
        if isinstance(blob, wire.ColumnRefBlob):
            scalar = ColumnRef(blob.index, dtype)
        elif isinstance(blob, wire.LiteralBlob):
            scalar = _literal(blob, dtype)
        else:
            extents = [_at(self._extent, a) for a in blob.args]
            depth = 1 + max((d for d, _ in extents), default=0)
            size = 1 + sum(s for _, s in extents)
            nodes.check_bounds(depth, size)
            scalar = _call(blob.name, self.all(blob.args), dtype)
        self.scalars.append(scalar)
        self._extent.append((depth, size))


def _at(items: Sequence[_T], place: int) -> _T:
    if not 0 <= place < len(items):
        raise Refused(f"place {place} is none of the {len(items)} in front")
    return items[place]


def _type(blob: wire.TypeBlob) -> DataType:
    kind = Kind(blob.kind.value)
    if blob.scale > (DECIMAL_SCALE_MAX if kind is Kind.DECIMAL else 0):
        raise Refused(f"{kind.value} of scale {blob.scale}")
    if (kind is Kind.ENUM) != bool(blob.members) or len(set(blob.members)) != len(blob.members):
        raise Refused(f"{kind.value} with the members {blob.members!r:.200}")
    return DataType(kind, blob.nullable, blob.scale, blob.members)


def _literal(blob: wire.LiteralBlob, dtype: DataType) -> Literal:
    value: Stored = None
    if not blob.is_null:
        value = _literal_value(blob, dtype.kind)
    wrong = check_stored(dtype, value)
    if wrong is not None:
        raise Refused(wrong)
    return Literal(value, dtype)


def _literal_value(blob: wire.LiteralBlob, kind: Kind) -> Stored:
    if kind is Kind.BOOL:
        return bool(blob.integer)
    if kind is Kind.FLOAT:
        return canonical_float(blob.real)
    if kind is Kind.STR:
        return blob.text
    return blob.data if kind is Kind.BYTES else blob.integer


def _call(name: str, args: tuple[Scalar, ...], dtype: DataType) -> Call:
    result = result_type(name, args, dtype)
    if result != dtype:
        raise Refused(f"{name} is {result}, not {dtype}")
    return Call(name, args, dtype)


def _dataset(r: _Reader, b: wire.DatasetBlob, location: str) -> Relation:
    types = tuple(_at(r.types, c.type) for c in b.columns)
    row_type = RowType(tuple(c.name for c in b.columns), types)
    return replace(checked.dataset(b.name, row_type, b.key or None, b.broadcast, location), dropped=b.dropped)


def _join(r: _Reader, b: wire.JoinBlob, location: str) -> Relation:
    if len(b.on_left) != len(b.on_right):
        raise Refused("a join equates unequal numbers of expressions")
    on = list(zip(r.all(b.on_left), r.all(b.on_right), strict=True))
    left, right, condition = r.relation(b.left), r.relation(b.right), r.optional(b.condition)
    return checked.join(left, right, on, condition, b.how.value, b.right_names, location)


def _aggregate(r: _Reader, b: wire.AggregateBlob, location: str) -> Relation:
    keys = r.all(b.keys)
    aggregations = [_aggregation(r, a, bool(keys)) for a in b.aggregations]
    return checked.aggregate(r.relation(b.input), b.names, keys, aggregations, location)


def _aggregation(r: _Reader, b: wire.AggregationBlob, has_keys: bool) -> Aggregation:
    argument, where = r.optional(b.argument), r.optional(b.where)
    dtype = aggregate_type(b.function.value, argument, where is not None, has_keys)
    return Aggregation(b.function.value, argument, where, dtype)


def _top(r: _Reader, b: wire.TopBlob, location: str) -> Relation:
    order = [SortKey(r.scalar(s.value), s.descending) for s in b.order]
    return checked.top(r.relation(b.input), b.count, order, r.all(b.per), b.rank or None, location)


def _flat_map(r: _Reader, b: wire.FlatMapBlob, location: str) -> Relation:
    alternatives = [r.all(a.scalars) for a in b.alternatives]
    return checked.flat_map(r.relation(b.input), b.names, alternatives, location)


def _union(r: _Reader, b: wire.UnionBlob, location: str) -> Relation:
    return checked.union([r.relation(i) for i in b.inputs], location)


_DECODERS: dict[type[wire.OperationBlob], Callable[[_Reader, Any, str], Relation]] = {
    wire.DatasetBlob: _dataset,
    wire.FilterBlob: lambda r, b, at: checked.filter_(r.relation(b.input), r.scalar(b.predicate), at),
    wire.ProjectBlob: lambda r, b, at: checked.project(r.relation(b.input), b.names, r.all(b.scalars), at),
    wire.FlatMapBlob: _flat_map,
    wire.WindowBlob: lambda r, b, at: checked.window(
        r.relation(b.input), r.scalar(b.at), b.size_us, b.every_us, at
    ),
    wire.JoinBlob: _join,
    wire.AggregateBlob: _aggregate,
    wire.TopBlob: _top,
    wire.DistinctBlob: lambda r, b, at: checked.distinct(r.relation(b.input), at),
    wire.UnionBlob: _union,
    wire.DifferenceBlob: lambda r, b, at: checked.difference(r.relation(b.left), r.relation(b.right), at),
    wire.AliasBlob: lambda r, b, at: checked.alias(r.relation(b.input), b.name, at),
}
