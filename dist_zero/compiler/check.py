"""What is legal at each level of the compiler. Run between passes; names the first thing that breaks it.

A program that arrives wrong is the user's, or whoever sent it: `ProgramError`. What is wrong after a pass is
the pass's mistake: `InternalError`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dist_zero.compiler import plan
from dist_zero.compiler.lower import label
from dist_zero.compiler.plan import Exchange, Operator, Phase, Plan
from dist_zero.compiler.sharding import Facts, facts, holds, need, same, top_is_whole
from dist_zero.compiler.walk import aggregation_scalars, relations, scalars
from dist_zero.expr import ops
from dist_zero.expr.functions import aggregate_type, may_fail, result_type
from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Call, ColumnRef, Graph, Relation, Scalar
from dist_zero.expr.scalars import columns_of
from dist_zero.expr.walk import inputs_of
from dist_zero.types import BOOL, BYTES, DATETIME, INT, DataType, RowType
from dist_zero_common.errors import InternalError, ProgramError

JOINS = ("inner", "left", "right", "outer", "semi", "anti")


def check_program(graph: Graph) -> None:
    """What `compile` takes: every row type is what its operation makes of its inputs. Raises
    `ProgramError`."""
    for complaint in _program_complaints(graph):
        raise ProgramError(complaint)


def check_rewritten(graph: Graph, level: str) -> None:
    """A program behind one of our passes: as before, and without aliases. Raises `InternalError`."""
    for complaint in _program_complaints(graph):
        raise InternalError(f"after {level}: {complaint}")
    for relation in relations(graph):
        if isinstance(relation, ops.Alias):
            raise InternalError(f"after {level}: {label(relation)}: an alias is left")


def check_plan(lowered: Plan, level: str) -> None:
    """A plan, placed or not: inputs first, columns that exist, one sink per view. Raises `InternalError`."""
    for complaint in _plan_complaints(lowered):
        raise InternalError(f"after {level}: {complaint}")


def check_partitioned(placed: Plan, level: str) -> None:
    """A placed plan: stages follow exchanges, and every operator has its rows where it needs them, whatever
    made the partition. Raises `InternalError`."""
    check_plan(placed, level)
    known: list[Facts] = []
    for operator in placed.operators:
        for complaint in _placement_complaints(placed, operator, [known[i] for i in operator.inputs]):
            raise InternalError(f"after {level}: operator #{operator.id} ({operator.label}): {complaint}")
        sources = [placed.operators[i] for i in operator.inputs]
        known.append(facts(operator, sources, [known[i] for i in operator.inputs]))


# ---- relations ---------------------------------------------------------------------------------------------


def _program_complaints(graph: Graph) -> Iterator[str]:
    for what, names in (
        ("dataset", [d.name for d in graph.datasets if not d.dropped]),
        ("view", [v.name for v in graph.views]),
    ):
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two {what}s have the name {name!r}"
    datasets = {id(dataset) for dataset in graph.datasets}
    for relation in relations(graph):
        if isinstance(relation, ops.Dataset) and id(relation) not in datasets:
            yield f"dataset {relation.name!r} is not one of this program's"
        if isinstance(relation, ops.Dataset) and relation.dropped:
            yield f"dataset {relation.name!r} was dropped"
        for complaint in (*_shape_complaints(relation), *_relation_complaints(relation)):
            yield f"{label(relation)}: {complaint}"


def _shape_complaints(relation: Relation) -> Iterator[str]:
    names = relation.row_type.names
    if not names or len(names) != len(relation.row_type.types):
        yield f"{len(names)} column names for {len(relation.row_type.types)} columns"
    if len(set(names)) != len(names):
        yield f"two columns of one name: {', '.join(names)}"
    unknown = [name for name in relation.key or () if name not in names]
    if unknown:
        yield f"the key has columns that are not there: {', '.join(unknown)}"


def _relation_complaints(relation: Relation) -> Iterator[str]:
    for row_type, scalar in _rows_of(relation):
        yield from _scalar_complaints(scalar, row_type)
    if isinstance(relation, ops.Dataset):
        return
    if isinstance(relation, ops.Join):
        if relation.how not in JOINS:
            yield f"there is no join {relation.how!r}"
        if any(a.dtype.required() != b.dtype.required() for a, b in relation.on):
            yield "a pair of join columns differs in type"
    if isinstance(relation, ops.Filter) and relation.predicate.dtype.required() != BOOL:
        yield f"the condition is {relation.predicate.dtype}, not bool"
    if isinstance(relation, ops.Window) and min(relation.size_us, relation.every_us) <= 0:
        yield "a window needs a size and a step above zero"
    if isinstance(relation, ops.Top) and relation.count < 1:
        yield f"a top of {relation.count} rows"
    expected = _types(relation)
    if relation.row_type.types != expected:
        shown = ", ".join(map(str, expected))
        yield f"its columns are {relation.row_type}, but the operation makes ({shown})"


def _rows_of(relation: Relation) -> list[tuple[RowType, Scalar]]:
    """Each scalar of a relation with the row it refers to."""
    if not isinstance(relation, ops.Join):
        return [(inputs_of(relation)[0].row_type, scalar) for scalar in scalars(relation)]
    left, right = relation.left.row_type, relation.right.row_type
    pairs = [*((left, a) for a, _ in relation.on), *((right, b) for _, b in relation.on)]
    if relation.condition is not None:
        pairs.append((_beside(left, right), relation.condition))
    return pairs


def _beside(left: RowType, right: RowType) -> RowType:
    return RowType((*left.names, *right.names), (*left.types, *right.types))


def _scalar_complaints(scalar: Scalar, row_type: RowType) -> Iterator[str]:
    if isinstance(scalar, ColumnRef):
        if not 0 <= scalar.index < len(row_type):
            yield f"column {scalar.index} of a row of {len(row_type)}"
        elif row_type.types[scalar.index] != scalar.dtype:
            name, dtype = row_type.names[scalar.index], row_type.types[scalar.index]
            yield f"column {name!r} is {dtype}, and referred to as {scalar.dtype}"
    elif isinstance(scalar, Call):
        for arg in scalar.args:
            yield from _scalar_complaints(arg, row_type)
        try:
            expected = result_type(scalar.name, scalar.args, scalar.dtype)
        except Refused as refused:
            yield str(refused)
        else:
            if expected != scalar.dtype:
                yield f"{scalar.name} makes {expected}, not {scalar.dtype}"


def _types(relation: Relation) -> tuple[DataType, ...]:
    """The column types that an operation makes of its inputs."""
    sources = [source.row_type.types for source in inputs_of(relation)]
    if isinstance(relation, ops.Project):
        return tuple(scalar.dtype for scalar in relation.columns)
    if isinstance(relation, ops.Aggregate):
        return (
            *(k.dtype for k in relation.keys),
            *(_aggregation_type(a, relation) for a in relation.aggregations),
        )
    if isinstance(relation, ops.FlatMap):
        return (*sources[0], *_nullable_if_any([[s.dtype for s in a] for a in relation.alternatives]))
    if isinstance(relation, ops.Window):
        return (*sources[0], DATETIME, DATETIME)
    if isinstance(relation, ops.Top):
        return (*sources[0], INT) if relation.rank else sources[0]
    if isinstance(relation, ops.Union):
        return _nullable_if_any(sources)
    if isinstance(relation, ops.Join) and relation.how not in ("semi", "anti"):
        left = [t.optional() if relation.how in ("right", "outer") else t for t in sources[0]]
        return (*left, *(t.optional() if relation.how in ("left", "outer") else t for t in sources[1]))
    return sources[0]


def _aggregation_type(aggregation: ops.Aggregation, aggregate: ops.Aggregate) -> DataType:
    has_where, has_keys = aggregation.where is not None, bool(aggregate.keys)
    return aggregate_type(aggregation.function, aggregation.argument, has_where, has_keys)


def _nullable_if_any(rows: Sequence[Sequence[DataType]]) -> tuple[DataType, ...]:
    columns = zip(*rows, strict=True)
    return tuple(next((t for t in column if t.nullable), column[0]) for column in columns)


# ---- operators ---------------------------------------------------------------------------------------------

_ARITY: dict[type[Operator], int] = {plan.Source: 0, plan.Join: 2, plan.Difference: 2}


def _plan_complaints(lowered: Plan) -> Iterator[str]:
    for place, operator in enumerate(lowered.operators):
        for complaint in _operator_complaints(lowered, place, operator):
            yield f"operator #{place} ({operator.label}): {complaint}"
    sinks = [operator.id for operator in lowered.operators if isinstance(operator, plan.Sink)]
    if sinks != [view.sink for view in lowered.views]:
        yield f"the sinks are operators {sinks}, the views say {[view.sink for view in lowered.views]}"


def _operator_complaints(lowered: Plan, place: int, operator: Operator) -> Iterator[str]:
    if operator.id != place:
        yield f"it has the id {operator.id}"
    if any(not 0 <= i < place for i in operator.inputs):
        yield f"its inputs {operator.inputs} do not all stand before it"
        return
    if not isinstance(operator, plan.Union) and len(operator.inputs) != _ARITY.get(type(operator), 1):
        yield f"it has {len(operator.inputs)} inputs"
    sources = [lowered.operators[i].row_type for i in operator.inputs]
    for width, columns in _references(operator, [len(source) for source in sources]):
        if any(not 0 <= column < width for column in columns):
            yield f"it refers to columns {sorted(columns)} of a row of {width}"
    same_rows = isinstance(operator, plan.Filter | plan.Exchange | plan.Distinct | plan.Sink)
    if same_rows and operator.row_type.types != sources[0].types:
        yield "its rows are not those of its input"


def _references(operator: Operator, widths: list[int]) -> Iterator[tuple[int, set[int]]]:
    """Pairs of the width of a row and the columns of it that the operator refers to."""
    if isinstance(operator, plan.Join):
        yield widths[0], columns_of(operator.left_key)
        yield widths[1], columns_of(operator.right_key)
        yield sum(widths), columns_of(() if operator.condition is None else (operator.condition,))
    elif isinstance(operator, plan.Reduce) and operator.phase is not Phase.FINAL:
        arguments = [s for a in operator.aggregations for s in aggregation_scalars(a)]
        yield widths[0], columns_of((*operator.keys, *arguments))
    elif isinstance(operator, plan.Top):
        yield widths[0], columns_of((*operator.per, *(k.value for k in operator.order))) | set(operator.tie)
    elif isinstance(operator, plan.Exchange):
        yield widths[0], columns_of(operator.key)
    elif isinstance(operator, plan.Filter):
        yield widths[0], columns_of((operator.predicate,))
    elif isinstance(operator, plan.Project):
        yield widths[0], columns_of(operator.columns)
    elif isinstance(operator, plan.FlatMap):
        yield widths[0], columns_of(s for a in operator.alternatives for s in a)
    elif isinstance(operator, plan.Window):
        yield widths[0], columns_of((operator.at,))
    elif isinstance(operator, plan.Sink):
        yield widths[0], {*(operator.key or ()), *(column for column, _ in operator.order)}


def _placement_complaints(placed: Plan, operator: Operator, known: list[Facts]) -> Iterator[str]:
    missing = need(operator, known)
    if missing is not None:
        yield f"it needs {missing}"
    sources = [placed.operators[i] for i in operator.inputs]
    stage = max((s.stage for s in sources), default=1) + isinstance(operator, Exchange)
    if operator.stage != stage or operator.stage > placed.stages:
        yield f"it is in stage {operator.stage} of {placed.stages}, but its inputs are known in stage {stage}"
    told = operator.sharding
    if isinstance(told, tuple) and not holds(facts(operator, sources, known), told):
        yield "its rows are not where it says"
    if isinstance(operator, Exchange) and any(map(may_fail, operator.key)):
        users = [o for o in placed.operators if operator.id in o.inputs]
        if any(user.label != operator.label for user in users):
            yield "its key may fail, and the error would not be that of its only user"
    if isinstance(operator, Exchange) and not all(_tells_null(scalar) for scalar in operator.key):
        yield "its key may be null where its type says that it is not"
    if isinstance(operator, plan.Top) and not top_is_whole(operator, known[0]):
        yield from _partial_complaints(placed, operator)
    if isinstance(operator, plan.Reduce) and operator.phase is Phase.PARTIAL:
        if set(operator.row_type.types) != {BYTES}:
            yield "its accumulators are not bytes"
        yield from _partial_complaints(placed, operator)


def _tells_null(scalar: Scalar) -> bool:
    """Whether the type of an expression is nullable wherever its value may be null; hashes rely on it."""
    if not isinstance(scalar, Call):
        return scalar.dtype.nullable or not (isinstance(scalar, ops.Literal) and scalar.value is None)
    nullable = result_type(scalar.name, scalar.args, scalar.dtype).nullable
    return (scalar.dtype.nullable or not nullable) and all(map(_tells_null, scalar.args))


def _partial_complaints(placed: Plan, operator: Operator) -> Iterator[str]:
    """What ran on each node on what was there has to be finished on one, by an operator of the same kind."""
    for user in _users(placed, operator):
        finishers = _users(placed, user)
        to_one = isinstance(user, Exchange) and same(user.key, ()) and not user.broadcast
        if not to_one or any(type(f) is not type(operator) or f.label != operator.label for f in finishers):
            yield f"it sees a part of each group, and #{user.id} takes it for whole"


def _users(placed: Plan, operator: Operator) -> list[Operator]:
    return [user for user in placed.operators if operator.id in user.inputs]
