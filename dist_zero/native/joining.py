"""Joins, as C: what is theirs alone in a `dz_join_spec`, upon which `runtime/join.h` works."""

from __future__ import annotations

from dist_zero.compiler import plan as plans
from dist_zero.native.text import LeftOut, OperatorText, PlanText, function, zset_table
from dist_zero.types import RowType

_SIDES = ("left", "right")
_SHOWN = {
    ("left", 0): "DZ_JOIN_UNMATCHED",
    ("right", 1): "DZ_JOIN_UNMATCHED",
    ("outer", 0): "DZ_JOIN_UNMATCHED",
    ("outer", 1): "DZ_JOIN_UNMATCHED",
    ("anti", 0): "DZ_JOIN_UNMATCHED",
    ("semi", 0): "DZ_JOIN_MATCHED",
}
"""By kind of join and side, which rows are shown alone."""


def join_text(text: PlanText, operator: plans.Join) -> OperatorText:
    """A join of any kind."""
    name, row = f"op{operator.id}", text.row(operator)
    sides = [text.input(operator, place) for place in (0, 1)]
    pairs = zip(operator.left_key, operator.right_key, strict=True)
    key = text.tuple(f"{name}_key", [a.dtype if a.dtype.nullable else b.dtype for a, b in pairs])
    out = OperatorText(
        members=[f"dz_join {name}_join;"],
        run=[
            f"if (n->{name}_left_input.count || n->{name}_right_input.count) {name}_run(base);",
        ],
        settle=[f"more |= dz_join_settle(base, &n->{name}_join, &{name}_spec, count);"],
        free=[f"dz_join_free(base, &n->{name}_join, &{name}_spec);"],
    )
    reports = []
    for place, (side, scalars) in enumerate(
        zip(_SIDES, (operator.left_key, operator.right_key), strict=True)
    ):
        layout = sides[place]
        if text.scalars(f"{name}_{side}_key", scalars, layout, key):
            report = text.report(LeftOut(operator.id, side), layout)
            reports.append(f"if (what == DZ_JOIN_{side.upper()}) {report}")
        out.collect(place, f"{name}_{side}_input", layout)
        kept, extra = f"n->{name}_join.sides[{place}]", f"dz_join_extra(&{name}_spec, {place})"
        out.tables[side] = zset_table(kept, layout, extra)
        out.tables[side].take = f"dz_join_take(base, &n->{name}_join, &{name}_spec, {place}, entry, weight);"
    left_type, right_type = (text.plan.operators[number].row_type for number in operator.inputs)
    both_type = RowType(left_type.names + right_type.names, left_type.types + right_type.types)
    both = text.tuple(f"{name}_both", both_type.types, both_type.names)
    if operator.condition is not None:
        fails = text.predicate(f"{name}_matches", operator.condition, [both])
        if fails:
            report = text.report(LeftOut(operator.id, "pair"), both)
            reports.append(f"if (what == DZ_JOIN_PAIR) {report}")
        condition = [
            "bool matches;",
            f"if ({name}_matches(base, both, &matches)) return -1;",
            "return matches;",
        ]
        head = f"static inline int {name}_condition(dz_base *base, const uint64_t *both)"
        out.functions.append(function(head, condition, "Whether a pair matches; -1: that fails."))
    lines = ["node *n = (node *)base;", *reports] if reports else []
    head = f"static void {name}_report(dz_base *base, int what, const uint64_t *row, int64_t weight)"
    out.functions.append(
        function(head, lines, "Reports a row whose key fails, or a pair whose condition does.")
    )
    out.functions.append(_spec(operator, [side.shape for side in sides], key.shape, both.shape, row.shape))
    run = [
        "node *n = (node *)base;",
        f"dz_join_step(base, &n->{name}_join, &{name}_spec, &n->{name}_left_input, &n->{name}_right_input);",
        f"dz_delta_clear(&n->{name}_left_input);",
        f"dz_delta_clear(&n->{name}_right_input);",
    ]
    out.functions.append(
        function(f"static void {name}_run(dz_base *base)", run, "The change of the joined rows.")
    )
    return out


def _spec(operator: plans.Join, sides: list[str], key: str, both: str, output: str) -> str:
    name = f"op{operator.id}"
    shown = ", ".join(_SHOWN.get((operator.how, place), "DZ_JOIN_NEVER") for place in (0, 1))
    fields = [
        f".sides = {{&{sides[0]}, &{sides[1]}}}, .key = &{key}, .both = &{both}, .output = &{output},",
        f".keys = {{{name}_left_key, {name}_right_key}},",
        f".condition = {f'{name}_condition' if operator.condition is not None else 'NULL'},",
        f".pairs = {'false' if operator.how in ('semi', 'anti') else 'true'}, .shown = {{{shown}}},",
        f".emit = {name}_emit, .report = {name}_report,",
    ]
    body = "\n".join(f"    {field}" for field in fields)
    return f"static const dz_join_spec {name}_spec = {{\n{body}\n}};\n"
