"""Levels of the compiler as text for people: one line per relation or operator, inputs above, numbered."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dist_zero.compiler import LEVELS, compile, levels, plan
from dist_zero.compiler.plan import Operator, Phase, Place, Plan, StateKind
from dist_zero.compiler.walk import relations
from dist_zero.expr import ops
from dist_zero.expr.ops import Graph, Relation, Scalar, SortKey
from dist_zero.expr.text import aggregation_text, scalar_text, sort_text
from dist_zero.expr.walk import inputs_of
from dist_zero.types import RowType
from dist_zero_common.errors import RequestError

COLUMNS_WIDTH = 90
TEXT_WIDTH = 80

Names = Sequence[str]


def explain(graph: Graph, level: str | None = None) -> str:
    """The program at `level`, or at the four levels of `LEVELS`, for people; `c` is the native executor's C source,
    which is long. Raises `RequestError`."""
    if level == "c":
        from dist_zero.native.render import render as rendered  # all of a back end, for one who asks

        return rendered(compile(graph), labelled=True).source
    if level is None:
        seen = dict(levels(graph))
        return "\n\n".join(render(name, seen[behind]) for name, behind in LEVELS.items()) + "\n"
    found = next((at for name, at in levels(graph) if name == LEVELS.get(level, level)), None)
    if found is None:
        names = dict.fromkeys((*LEVELS, *(name for name, _ in levels(graph)), "c"))
        raise RequestError(f"there is no level {level!r} to explain; there are {', '.join(names)}")
    return render(level, found) + "\n"


def render(title: str, level: Graph | Plan) -> str:
    """A level with its name above."""
    if isinstance(level, Graph):
        return "\n".join([f"{title}: {level.name}", *_graph_lines(level, title == "program")])
    if all(operator.stage == 1 and operator.sharding is Place.UNKNOWN for operator in level.operators):
        return "\n".join(
            [f"{title}: {level.name}", *_table((o.id, _operator_text(level, o)) for o in level.operators)]
        )
    return "\n".join([_placed_title(title, level), *_placed_lines(level)])


# ---- programs ----------------------------------------------------------------------------------------------


def _graph_lines(graph: Graph, with_columns: bool) -> list[str]:
    order = relations(graph)
    number = {id(relation): i for i, relation in enumerate(order)}
    lines: list[str] = []
    for view in graph.views:
        lines.append(f"  view {view.name} = #{number[id(view.relation)]}{_key_remark(view.relation)}")
        lines.extend(_column_lines(view.relation.row_type))
    table = _table((i, _relation_text(r, number), r.location) for i, r in enumerate(order))
    if not with_columns:
        return [*table, *(line for line in lines if line.startswith("  view"))]
    datasets = [[line, *_column_lines(d.row_type)] for line, d in zip(table, graph.datasets, strict=False)]
    return [*(line for block in datasets for line in block), *table[len(datasets) :], *lines]


def _relation_text(relation: Relation, number: dict[int, int]) -> str:
    if isinstance(relation, ops.Dataset):
        broadcast = ", copied to every node" if relation.broadcast else ""
        return f"dataset {relation.name}{_key_remark(relation)}{broadcast}"
    refs = [f"#{number[id(i)]}" for i in inputs_of(relation)]
    if isinstance(relation, ops.Alias):
        return f"alias {refs[0]}: {relation.name}"
    return _TEXTS[type(relation).__name__](relation, refs, [i.row_type.names for i in inputs_of(relation)])


def _key_remark(relation: Relation) -> str:
    if relation.key is None:
        return ", without a key"
    return f", key ({', '.join(relation.key)})" if relation.key else ", one row"


def _column_lines(row_type: RowType) -> list[str]:
    """Names and types, wrapped. Types hold spaces that must not be broken at, hence the detour."""
    text = ", ".join(
        f"{n}: {t}".replace(" ", "\0") for n, t in zip(row_type.names, row_type.types, strict=True)
    )
    lines = textwrap.wrap(text, COLUMNS_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"        {line}".replace("\0", " ") for line in lines]


# ---- operations, alike in programs and plans ---------------------------------------------------------------


def _scalars(scalars: Iterable[Scalar], names: Names) -> str:
    return ", ".join(scalar_text(scalar, names) for scalar in scalars)


def _named(names: Names, scalars: Sequence[Scalar], inside: Names) -> str:
    """`origin, airline = name`: what is not called what it is has its name before it."""
    texts = [scalar_text(scalar, inside) for scalar in scalars]
    return ", ".join(
        text if text == name else f"{name} = {text}" for name, text in zip(names, texts, strict=True)
    )


def _filter(o: Any, refs: list[str], names: list[Names]) -> str:
    return f"where {refs[0]}: {scalar_text(o.predicate, names[0])}"


def _project(o: Any, refs: list[str], names: list[Names]) -> str:
    return f"select {refs[0]}: {_named(o.row_type.names, o.columns, names[0])}"


def _flat_map(o: Any, refs: list[str], names: list[Names]) -> str:
    own = o.row_type.names[len(names[0]) :]
    rows = "; ".join(_scalars(alternative, names[0]) for alternative in o.alternatives)
    return f"flat_map {refs[0]}: {', '.join(own) or 'no columns'} = {rows}"


def _window(o: Any, refs: list[str], names: list[Names]) -> str:
    size, every = duration_text(o.size_us), duration_text(o.every_us)
    return f"window {refs[0]}: {scalar_text(o.at, names[0])}, {size} every {every}"


def _join(how: str, on: Sequence[tuple[Scalar, Scalar]], o: Any, refs: list[str], names: list[Names]) -> str:
    pairs = " and ".join(f"{scalar_text(a, names[0])} = {scalar_text(b, names[1])}" for a, b in on)
    clashing = set(names[0]) & set(names[1])
    left = [f"left.{name}" if name in clashing else name for name in names[0]]
    right = [f"right.{name}" if name in clashing else name for name in names[1]]
    condition = "" if o.condition is None else f", if {scalar_text(o.condition, [*left, *right])}"
    return f"{how} join {refs[0]} with {refs[1]}: {pairs}{condition}"


def _groups(o: Any, refs: list[str], names: list[Names]) -> str:
    by, made = o.row_type.names[: len(o.keys)], o.row_type.names[len(o.keys) :]
    made_texts = [
        f"{name} = {aggregation_text(a, names[0])}" for name, a in zip(made, o.aggregations, strict=True)
    ]
    keys = f" by {_named(by, o.keys, names[0])}" if o.keys else ""
    return f"agg {refs[0]}{keys}: {', '.join(made_texts) or 'nothing else'}"


def _top(o: Any, refs: list[str], names: list[Names]) -> str:
    order = ", ".join(sort_text(SortKey(k.value, k.descending), names[0]) for k in o.order)
    per = f", per {_scalars(o.per, names[0])}" if o.per else ""
    return f"top {o.count} of {refs[0]}: by {order}{per}{', ranked' if o.rank else ''}"


def _listed(verb: str) -> Callable[[Any, list[str], list[Names]], str]:
    return lambda _o, refs, _names: f"{verb} {', '.join(refs)}"


def _relation_join(o: Any, refs: list[str], names: list[Names]) -> str:
    on = o.on if isinstance(o, ops.Join) else tuple(zip(o.left_key, o.right_key, strict=True))
    return _join(o.how, on, o, refs, names)


_TEXTS: dict[str, Callable[[Any, list[str], list[Names]], str]] = {
    "Filter": _filter,
    "Project": _project,
    "FlatMap": _flat_map,
    "Window": _window,
    "Join": _relation_join,
    "Aggregate": _groups,
    "Reduce": _groups,
    "Top": _top,
    "Distinct": _listed("distinct"),
    "Union": _listed("union"),
    "Difference": _listed("difference"),
}
"""By the name of the relation's or operator's class: both have the same fields, but for the keys of joins."""


def duration_text(us: int) -> str:
    """`90 s`, `10 min`: the largest unit that goes into it whole."""
    units = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1_000, "µs": 1}
    return next(f"{us // length} {unit}" for unit, length in units.items() if us % length == 0)


# ---- plans -------------------------------------------------------------------------------------------------


def _operator_text(of: Plan, operator: Operator) -> str:
    refs = [f"#{i}" for i in operator.inputs]
    names: list[Names] = [of.operators[i].row_type.names for i in operator.inputs]
    if isinstance(operator, plan.Source):
        return f"dataset {of.datasets[operator.dataset].name}"
    if isinstance(operator, plan.Sink):
        return f"view {of.views[operator.view].name} = {refs[0]}"
    if isinstance(operator, plan.Exchange):
        by = f"by {_key_text(operator.key, names[0])}" if operator.key else "to one node"
        return f"exchange {refs[0]} {'to every node' if operator.broadcast else by}"
    if isinstance(operator, plan.Reduce) and operator.phase is not Phase.COMPLETE:
        if operator.phase is Phase.FINAL:
            return f"agg {refs[0]}, added up: {', '.join(operator.row_type.names)}"
        return f"{_groups(operator, refs, names)}, each node's part"
    return _TEXTS[type(operator).__name__](operator, refs, names)


def _key_text(key: Sequence[Scalar], names: Names) -> str:
    if len(key) > 1 and [getattr(k, "index", None) for k in key] == list(range(len(names))):
        return "the whole row"
    return _scalars(key, names)


def _placed_title(title: str, placed: Plan) -> str:
    exchanges = sum(isinstance(operator, plan.Exchange) for operator in placed.operators)
    counted = f"{_count(placed.stages, 'stage')}, {_count(exchanges, 'exchange')}"
    return f"{title}: {placed.name}, {counted}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _placed_lines(placed: Plan) -> list[str]:
    lines: list[str] = []
    for stage in range(1, placed.stages + 1):
        here = [operator for operator in placed.operators if operator.stage == stage]
        lines.append(f"  stage {stage}")
        lines.extend(
            "  " + line for line in _table((o.id, _operator_text(placed, o), _where(o)) for o in here)
        )
    return lines


def _where(operator: Operator) -> str:
    """Where the rows are and what is kept."""
    told, names = operator.sharding, operator.row_type.names
    if isinstance(operator, plan.Exchange):
        return ""
    place = (
        "anywhere" if isinstance(told, Place) else f"by {_key_text(told, names)}" if told else "on one node"
    )
    return place + _STATE[operator.state]


_STATE = {StateKind.NONE: "", StateKind.KEYED: "; kept", StateKind.BROADCAST: "; kept, its right side whole"}


def _table(rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """Number, text (wrapped) and, in a column of its own, a remark."""
    cells = [(f"#{row[0]}", _wrapped(str(row[1])), str(row[2]) if len(row) > 2 else "") for row in rows]
    number_width = max((len(number) for number, _, _ in cells), default=0)
    text_width = max((len(line) for _, lines, _ in cells for line in lines), default=0)
    table: list[str] = []
    for number, lines, remark in cells:
        table.append(f"  {number:>{number_width}}  {lines[0]:{text_width}}  {remark}".rstrip())
        table.extend(f"  {'':{number_width}}  {line}" for line in lines[1:])
    return table


def _wrapped(text: str) -> list[str]:
    indent = "    "
    return textwrap.wrap(
        text, TEXT_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
