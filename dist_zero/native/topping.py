"""Tops as C: what a top of a program adds to `runtime/top.h`, which has all of the work."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero.compiler import plan as plans
from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import ColumnRef
from dist_zero.native.layout import Layout, tuple_layout
from dist_zero.native.reducing import zset_table
from dist_zero.native.scalars import Constants, compare_function, tuple_function
from dist_zero.native.text import LeftOut, OperatorText, PlanText, Table, function
from dist_zero.state import shows_a_part
from dist_zero_common.errors import InternalError


@dataclass(frozen=True, slots=True)
class TopType:
    """The C of a top's constants: the `dz_top_type` that is called `name`, behind what it needs."""

    name: str
    declarations: tuple[str, ...]
    functions: tuple[str, ...]


def top_type(
    name: str, operator: plans.Top, row: Layout, shown: Layout, part: bool, constants: Constants
) -> TopType:
    """Renders the constants of a top over rows of one layout, which shows rows of another. What it sorts by and is no
    column of the row is kept with the row."""
    if part and operator.per:
        raise InternalError(f"operator #{operator.id}: a top of a part has one group")
    computed = [key.value for key in operator.order if not isinstance(key.value, ColumnRef)]
    per = tuple_layout(f"{name}_per", [scalar.dtype for scalar in operator.per])
    order = tuple_layout(f"{name}_order", [scalar.dtype for scalar in computed])
    width, done = len(computed), 0
    sorted_by: list[tuple[int, bool]] = []
    for key in operator.order:
        if isinstance(key.value, ColumnRef):
            sorted_by.append((width + key.value.index, key.descending))
        else:
            sorted_by.append((done, key.descending))
            done += 1
    # Behind the tie all other columns, so that whatever comes, only equal rows are equal.
    others = [place for place in range(len(row.types)) if place not in operator.tie]
    sorted_by += [(width + place, False) for place in (*operator.tie, *others)]
    place = [
        f"int failure = {name}_per(base, row, per);",
        f"return failure ? failure : {name}_order(base, row, order);",
    ]
    return TopType(
        f"{name}_type",
        (per.declaration(), order.declaration()),
        (
            tuple_function(f"{name}_per", operator.per, [row], per, constants),
            tuple_function(f"{name}_order", computed, [row], order, constants),
            function(
                f"static int {name}_place(dz_base *base, const uint64_t *row, uint64_t *per, uint64_t *order)",
                place,
                "The group of a row, and what it sorts by.",
            ),
            compare_function(f"{name}_compare", [order, row], sorted_by),
            f"static const dz_top_type {name}_type = {{\n"
            f"    .row = &{row.shape}, .per = &{per.shape}, .order = &{order.shape}, .shown = &{shown.shape},\n"
            f"    .count = {operator.count}, .rank = {int(operator.rank)}, .part = {int(part)},\n"
            f"    .place = {name}_place, .compare = {name}_compare,\n}};\n",
        ),
    )


def top_text(text: PlanText, operator: plans.Top) -> OperatorText:
    """The first rows of each group."""
    name, row, part = f"op{operator.id}", text.input(operator), shows_a_part(text.plan, operator)
    shown = text.row(operator) if operator.rank else row
    rendered = top_type(name, operator, row, shown, part, text.constants)
    text.declarations += rendered.declarations
    text.helpers += rendered.functions
    top, type_ = f"n->{name}_top", f"&{rendered.name}"
    failing = any(map(may_fail, [*operator.per, *(key.value for key in operator.order)]))
    lines = (
        ["node *n = (node *)base;", text.report(LeftOut(operator.id, "row"), row)]
        if failing
        else ["(void)base, (void)row, (void)weight;"]
    )
    head = f"static void {name}_fail(dz_base *base, const uint64_t *row, int64_t weight)"
    run = f"dz_top_run(base, &{top}, {type_}, &n->{name}_input, {name}_fail, {name}_emit);"
    rows = zset_table(f"{top}.rows", row)
    rows.take = f"dz_top_take(base, &{top}, {type_}, entry, weight);"
    tables: dict[str, Table] = {"rows": rows}
    if part:
        tables["shown"] = zset_table(f"{top}.shown", shown)
    return OperatorText(
        members=[f"dz_delta {name}_input;", f"dz_top {name}_top;"],
        functions=[function(head, lines, "A row without a place is left out.")],
        inputs={0: [f"dz_delta_add(base, &n->{name}_input, &{row.shape}, row, weight);"]},
        run=[f"if (n->{name}_input.count || {top}.unsettled) {run}"],
        settle=[f"dz_top_settle(base, &{top}, {type_});"],
        free=[
            f"dz_delta_free(base, &n->{name}_input, &{row.shape});",
            f"dz_top_free(base, &{top}, {type_});",
        ],
        tables=tables,
    )
