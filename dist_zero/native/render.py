"""A plan rendered to one C file: readable, with the names of the program, a comment per operator.

From the top: the structs and shapes of rows, `struct node` with what every operator keeps, what scalars compute, then
the operators. An operator's `_emit` hands a row to those that take it, whose functions have to stand before it, so the
operators stand in the opposite order of the plan. One that keeps nothing is a function that the compiler puts where it
is called; one that keeps something collects its input, and works on it when its turn in the stage comes. Where a later
stage, or a view, takes a row, it waits by epoch. `runtime/node.h` has the functions that are called from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Operator, Plan
from dist_zero.native.joining import join_text
from dist_zero.native.reducing import reduce_text
from dist_zero.native.stateful import (
    difference_text,
    distinct_text,
    exchange_text,
    gate_text,
    sink_text,
    source_text,
)
from dist_zero.native.stateless import filter_text, flat_map_text, project_text, union_text, window_text
from dist_zero.native.text import (
    Edge,
    LeftOut,
    OperatorText,
    PlanText,
    Table,
    assign,
    function,
    in_comment,
    pointer,
    words,
)
from dist_zero.native.topping import top_text
from dist_zero.state import Division, state_tables


@dataclass(frozen=True, slots=True)
class Rendered:
    """The source of a plan, and what is to be known to use it. `left_out`: the places of rows that are left out, by
    number; `in_c`: whether a table of the state is kept there, by number; else the executor keeps it."""

    source: str
    left_out: tuple[LeftOut, ...]
    in_c: tuple[bool, ...]


def render(plan: Plan, labelled: bool = False) -> Rendered:
    """The C of a plan. `labelled`: with the user's lines in its comments, for people; without, so that what is compiled
    stays the same where a line of the user's file moves."""
    text = PlanText(plan, labelled)
    operators: list[OperatorText] = []
    for operator in plan.operators:
        operators.append(_OPERATORS[type(operator)](text, operator))
    tables, step = _tables(text, operators), _step(text)
    keys = _table_keys(text, tables)
    parts = [
        f"/* The program {in_comment(plan.name)}, {plan.fingerprint or 'while it changes'}; not to be edited. */\n",
        '#pragma GCC diagnostic ignored "-Wunused-const-variable" /* not every shape is looked at */\n',
        "".join(f'#include "{header}"\n' for header in _HEADERS),
        *text.declarations,
        _node(text, operators),
        *text.helpers,
        *_operators(text, operators),
        *_table_functions(tables),
        *keys,
        _table_list(text, tables),
        _begin(text),
        *_stages(text, operators),
        step,
        _finish(text),
        _rows(text),
        _settle(operators),
        _free(text, operators),
        '#include "node.h"\n',
    ]
    return Rendered("\n".join(parts), tuple(text.left_out), tuple(table is not None for table in tables))


_HEADERS = ("sets.h", "join.h", "reduce.h", "top.h", "loading.h", "scalars.h")

_OPERATORS: dict[type[Operator], Callable[[PlanText, Any], OperatorText]] = {
    plans.Source: source_text,
    plans.Gate: gate_text,
    plans.Filter: filter_text,
    plans.Project: project_text,
    plans.FlatMap: flat_map_text,
    plans.Window: window_text,
    plans.Union: union_text,
    plans.Exchange: exchange_text,
    plans.Join: join_text,
    plans.Reduce: reduce_text,
    plans.Top: top_text,
    plans.Distinct: distinct_text,
    plans.Difference: difference_text,
    plans.Sink: sink_text,
}


def _with_node(lines: list[str]) -> list[str]:
    return ["node *n = (node *)base;", "(void)n;", *lines]


# ---- the node ----------------------------------------------------------------------------------------------


def _node(text: PlanText, operators: list[OperatorText]) -> str:
    members = [
        "dz_base base;",
        "dz_output out; /* what the running call says */",
        "dz_order order;",
        "dz_all_frozen frozen;",
        "dz_folds folds;",
        "dz_shards shards; /* of the running step, as the others of these */",
        "int64_t fill_start, fill_stop;",
        "bool owns_empty_key;",
        f"dz_delta left_out[{max(1, len(text.left_out))}]; /* rows on which something fails, by place */",
        text.constants.member(),
    ]
    for operator, out in zip(text.plan.operators, operators, strict=True):
        if out.members:
            members += ["", f"/* {text.title(operator)} */", *out.members]
    waiting = [f"dz_waiting {edge.name};" for edge in text.edges if edge.waits]
    members += ["", "/* rows on their way into a later stage, or into a view */", *waiting] if waiting else []
    body = "\n".join(f"    {line}" if line else "" for line in members)
    return f"typedef struct node {{\n{body}\n}} node;\n"


def _begin(text: PlanText) -> str:
    return function("static void node_begin(dz_base *base)", _with_node(text.constants.fill()))


def _free(text: PlanText, operators: list[OperatorText]) -> str:
    lines = [line for out in operators for line in out.free]
    for edge in text.edges:
        if edge.waits:
            shape = text.row(text.plan.operators[edge.source]).shape
            lines.append(f"dz_waiting_free(base, &n->{edge.name}, &{shape});")
    lines += [
        f"dz_delta_free(base, &n->left_out[{number}], &{layout.shape});"
        for number, layout in enumerate(text.left_out_layouts)
    ]
    lines += ["dz_all_frozen_free(base, &n->frozen);", "dz_folds_free(base, &n->folds);"]
    return function("static void node_free(dz_base *base)", _with_node(lines))


# ---- operators ---------------------------------------------------------------------------------------------


def _operators(text: PlanText, operators: list[OperatorText]) -> list[str]:
    parts: list[str] = []
    for operator, out in zip(reversed(text.plan.operators), reversed(operators), strict=True):
        parts.append(f"/* ---- {text.title(operator)} ---- */\n")
        parts.append(_emit(text, operator))
        parts += out.functions
        for place, lines in sorted(out.inputs.items()):
            head = f"static inline void op{operator.id}_in{place}(dz_base *base, const uint64_t *row, int64_t weight)"
            parts.append(function(head, _body(lines)))
    return parts


def _body(lines: list[str]) -> list[str]:
    """Statements with the node at hand, if they look at it."""
    return ["node *n = (node *)base;", *lines] if any("n->" in line for line in lines) else lines


def _emit(text: PlanText, operator: Operator) -> str:
    lines = []
    for edge in text.outgoing(operator):
        if edge.waits:
            shape = text.row(operator).shape
            lines.append(f"dz_delta_add(base, &n->{edge.name}.now, &{shape}, row, weight);")
        else:
            lines.append(f"op{edge.target}_in{edge.place}(base, row, weight);")
    if isinstance(operator, plans.Sink):
        return ""
    head = f"static inline void op{operator.id}_emit(dz_base *base, const uint64_t *row, int64_t weight)"
    return function(head, _body(lines))


# ---- stages ------------------------------------------------------------------------------------------------


def _stages(text: PlanText, operators: list[OperatorText]) -> list[str]:
    return [_stage(text, operators, stage) for stage in range(1, text.plan.stages + 1)]


def _stage(text: PlanText, operators: list[OperatorText], stage: int) -> str:
    lines: list[str] = []
    for edge in text.edges:
        target = text.plan.operators[edge.target]
        if edge.waits and edge.stage == stage and not isinstance(target, plans.Sink):
            lines += _take_edge(text, operators, edge)
    for operator in text.plan.operators:
        if operator.stage == stage and isinstance(operator, plans.Exchange):
            lines += _take_own(text, operators, operator)
    runs = [o for o in text.plan.operators if o.stage == stage and not isinstance(o, plans.Exchange)]
    sends = [o for o in text.plan.operators if o.stage == stage + 1 and isinstance(o, plans.Exchange)]
    for operator in runs:
        lines += operators[operator.id].run
    lines.append("uint32_t parcels = 0;")
    for operator in sends:
        lines += operators[operator.id].run
        shape = text.row(operator).shape
        lines.append(f"dz_wait(base, &n->op{operator.id}_routing.own, &{shape}, epoch);")
    for edge in text.edges:
        if edge.waits and text.plan.operators[edge.source].stage == stage:
            shape = text.row(text.plan.operators[edge.source]).shape
            lines.append(f"dz_wait(base, &n->{edge.name}, &{shape}, epoch);")
    lines.append("return parcels;")
    head = f"static uint32_t stage_{stage}(dz_base *base, int64_t epoch)"
    return function(head, _with_node(lines), f"What runs in stage {stage}; how many parcels it sends.")


def _take_edge(text: PlanText, operators: list[OperatorText], edge: Edge) -> list[str]:
    """Gives what has waited for this stage to whom it waited for."""
    collects = operators[edge.target].collects.get(edge.place)
    shape = text.row(text.plan.operators[edge.source]).shape
    return _take_waiting(f"&n->{edge.name}", shape, collects, f"op{edge.target}_in{edge.place}")


def _take_own(text: PlanText, operators: list[OperatorText], exchange: plans.Exchange) -> list[str]:
    """Gives on what an exchange has kept in the stage before for this shard."""
    edges = text.outgoing(exchange)
    alone = edges[0] if len(edges) == 1 and not edges[0].waits else None
    collects = operators[alone.target].collects.get(alone.place) if alone is not None else None
    own, shape = f"&n->op{exchange.id}_routing.own", text.row(exchange).shape
    return _take_waiting(own, shape, collects, f"op{exchange.id}_emit")


def _take_waiting(waiting: str, shape: str, collects: str | None, take: str) -> list[str]:
    """`take` takes row by row, where there is no delta that `collects` them."""
    lines = [f"dz_delta *waited = dz_take_waiting({waiting}, epoch);"]
    if collects is not None:
        lines += [
            f"dz_delta_drop(base, waited, &{shape});",
            f"dz_delta_move(base, &{collects}, waited, &{shape});",
        ]
    else:
        lines += [
            "for (uint32_t at = 0; at < waited->count; at++)",
            f"    {take}(base, dz_delta_row(waited, &{shape}, at), dz_delta_weight(waited, &{shape}, at));",
        ]
    lines.append(f"dz_waited(base, {waiting}, &{shape});")
    return ["{", *(f"    {line}" for line in lines), "}"]


def _step(text: PlanText) -> str:
    plan = text.plan
    sources = [o for o in plan.operators if isinstance(o, plans.Source)]
    exchanges = [o for o in plan.operators if isinstance(o, plans.Exchange)]
    lines = [
        "n->owns_empty_key = dz_read(reader) != 0;",
        "n->fill_start = dz_read(reader);",
        "n->fill_stop = dz_read(reader);",
        "n->shards.count = (uint32_t)dz_read(reader);",
        "n->shards.lasts = (const uint64_t *)dz_read_words(reader, n->shards.count);",
        "n->shards.own = (uint32_t)dz_read(reader);",
        *[f"n->op{o.id}_source.missed = 0;" for o in sources],
        "for (int64_t left = dz_read(reader); left > 0; left--) {",
        "    int64_t dataset = dz_read(reader);",
        "    dz_writes writes = dz_read_writes(base, reader);",
        "    switch (dataset) {",
    ]
    for source in sources:
        lines.append(
            f"    case {source.dataset}: dz_source_add(base, &n->op{source.id}_source, &writes); break;"
        )
    lines += ["    default: break;", "    }", "}"]
    lines += ["for (int64_t left = dz_read(reader); left > 0; left--) {", "    switch (dz_read(reader)) {"]
    for exchange in exchanges:
        lines += _receive(text, exchange)
    lines += [
        '    default: dz_raise(base, DZ_BUG, "rows for an operator that is no exchange");',
        "    }",
        "}",
        "dz_write(base, &n->out, 0);",
        "uint32_t parcels = 0;",
        "switch (stage) {",
        *[
            f"case {stage}: parcels = stage_{stage}(base, epoch); break;"
            for stage in range(1, plan.stages + 1)
        ],
        'default: dz_raise(base, DZ_BUG, "a stage that is not there");',
        "}",
        "dz_write_at(&n->out, 0, parcels);",
        *[f"dz_write(base, &n->out, n->op{o.id}_source.missed);" for o in sources],
        *_say_left_out(text),
    ]
    head = "static void node_step(dz_base *base, dz_reader *reader, int64_t epoch, int64_t stage)"
    comment = "One stage of one epoch. Says parcels, what missed by source, and by place the rows that are left out."
    return function(head, _with_node(lines), comment)


def _receive(text: PlanText, exchange: plans.Exchange) -> list[str]:
    row = text.row(exchange)
    read = text.reader(row)
    return [
        f"    case {exchange.id}: {{",
        f"        dz_batch batch = dz_read_batch(base, reader, {len(row.types)});",
        f"        uint64_t row[{max(1, row.words)}];",
        "        for (uint32_t at = 0; at < batch.count; at++) {",
        f"            {read}(base, &batch, at, row);",
        f"            op{exchange.id}_emit(base, row, dz_batch_weight(&batch, at));",
        "        }",
        "        break;",
        "    }",
    ]


def _say_left_out(text: PlanText) -> list[str]:
    lines: list[str] = []
    for number, layout in enumerate(text.left_out_layouts):
        lines += [
            f"if (n->left_out[{number}].count) {{",
            f"    dz_write(base, &n->out, {number});",
            f"    dz_write_delta(base, &n->out, &n->order, &n->left_out[{number}], &{layout.shape});",
            f"    dz_delta_clear(&n->left_out[{number}]);",
            "}",
        ]
    return lines


def _finish(text: PlanText) -> str:
    lines = ["dz_write(base, &n->out, 0);", "uint32_t views = 0;"]
    lines += [f"views += op{view.sink}_finish(base, epoch);" for view in text.plan.views]
    lines.append("dz_write_at(&n->out, 0, views);")
    return function("static void node_finish(dz_base *base, int64_t epoch)", _with_node(lines))


def _rows(text: PlanText) -> str:
    lines = ["switch (view) {"]
    lines += [
        f"case {number}: op{view.sink}_rows_of(base); break;" for number, view in enumerate(text.plan.views)
    ]
    lines += ['default: dz_raise(base, DZ_BUG, "a view that is not there");', "}"]
    return function("static void node_rows(dz_base *base, int64_t view)", lines)


def _settle(operators: list[OperatorText]) -> str:
    lines = ["bool more = false;", *(line for out in operators for line in out.settle), "return more;"]
    return function("static bool node_settle(dz_base *base, uint32_t count)", _with_node(lines))


# ---- tables ------------------------------------------------------------------------------------------------


def _tables(text: PlanText, operators: list[OperatorText]) -> list[Table | None]:
    """The tables of the state in their order; None for those that the executor keeps."""
    names = lineages(text.plan)
    found: dict[str, Table] = {}
    for operator, out in zip(text.plan.operators, operators, strict=True):
        for what, table in out.tables.items():
            if isinstance(operator, plans.Source):
                found[f"dataset/{text.plan.datasets[operator.dataset].name}"] = table
            elif isinstance(operator, plans.Sink):
                found[f"view/{names[operator.id]}"] = table
            else:
                found[f"operator/{names[operator.id]}/{what}"] = table
    tables = [found.pop(table.name, None) for table in state_tables(text.plan)]
    assert not found, f"tables that are no state: {', '.join(found)}"
    return tables


_TABLE_FUNCTIONS = {
    "entries": "static void {}(dz_base *base, dz_delta *out)",
    "touched": "static void {}(dz_base *base, dz_delta *puts, dz_delta *gone)",
    "get": "static bool {}(dz_base *base, const uint64_t *key, dz_delta *out)",
    "track": "static void {}(dz_base *base)",
    "take": "static void {}(dz_base *base, const uint64_t *entry, int64_t weight)",
}


def _table_functions(tables: list[Table | None]) -> list[str]:
    parts = ["/* ---- the tables of the state ---- */\n"]
    for number, table in enumerate(tables):
        if table is None:
            continue
        for what, head in _TABLE_FUNCTIONS.items():
            lines = getattr(table, what).split("\n")
            parts.append(function(head.format(f"table{number}_{what}"), _with_node(lines)))
    return parts


def _table_keys(text: PlanText, tables: list[Table | None]) -> list[str]:
    """The functions that tell the key of an entry, and the hash that owns it."""
    parts = []
    for number, (table, state) in enumerate(zip(tables, state_tables(text.plan), strict=True)):
        if table is None:
            continue
        if state.key is not None:
            lines = [
                pointer(table.entry, "from", "entry"),
                pointer(table.key, "to", "key", const=False),
                *assign(table.key, "to", [(table.entry, "from", place) for place in state.key]),
            ]
            head = f"static void table{number}_key_of(const uint64_t *entry, uint64_t *key)"
            parts.append(function(head, lines))
        if state.division is Division.KEYED:
            place = text.tuple(f"table{number}_place", [scalar.dtype for scalar in state.shard])
            text.scalars(f"table{number}_place", state.shard, table.entry, place)
            lines = [
                words(place, "place"),
                f"if (table{number}_place(base, entry, place)) return false;",
                f"*hash = dz_key_hash(&{place.shape}, place);",
                "return true;",
            ]
            head = f"static bool table{number}_hash(dz_base *base, const uint64_t *entry, uint64_t *hash)"
            parts.append(function(head, lines))
    return parts


def _table_list(text: PlanText, tables: list[Table | None]) -> str:
    lines = []
    states = state_tables(text.plan)
    for number, table in enumerate(tables):
        if table is None:
            lines.append("    {0}, /* the executor keeps it */")
            continue
        whats = [*_TABLE_FUNCTIONS]
        whats += ["key_of"] if states[number].key is not None else []
        whats += ["hash"] if states[number].division is Division.KEYED else []
        functions = ", ".join(f".{what} = table{number}_{what}" for what in whats)
        lines.append(f"    {{.entry = &{table.entry.shape}, .key = &{table.key.shape}, {functions}}},")
    lines = lines or ["    {0},"]
    body = "\n".join(lines)
    return (
        f"static const dz_state_table state_tables[] = {{\n{body}\n}};\n"
        f"enum {{ state_table_count = {len(tables)} }};\n"
    )
