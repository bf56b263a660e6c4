"""Tops as C: what a top of a program adds to `runtime/top.h`, which has all of the work."""

from __future__ import annotations

from dataclasses import dataclass

from dist_zero.compiler import plan as plans
from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import ColumnRef, Literal, Scalar
from dist_zero.native.layout import Layout, tuple_layout
from dist_zero.native.scalars import Constants, compare_function, tuple_function
from dist_zero.native.text import LeftOut, OperatorText, PlanText, Table, function, zset_table
from dist_zero.state import shows_a_part
from dist_zero.types import INT
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
    """Renders the constants of a top over rows of one layout, which shows rows of another."""
    if part and operator.per:
        raise InternalError(f"operator #{operator.id}: a top of a part has one group")
    keys: list[tuple[Scalar, bool]] = []
    for scalar, descending in [(key.value, key.descending) for key in operator.order]:
        if all(scalar != other for other, _ in keys):  # what decides a second time decides nothing
            keys.append((scalar, descending))
    columns = {scalar.index for scalar, _ in keys if isinstance(scalar, ColumnRef)}
    keys += [(ColumnRef(i, row.types[i]), False) for i in operator.tie if i not in columns]
    # Behind them the row's hash, so that whatever comes, different rows have different places.
    keys.append((Literal(0, INT), False))
    values = [scalar for scalar, _ in keys]
    per = tuple_layout(f"{name}_per", [scalar.dtype for scalar in operator.per])
    order = tuple_layout(f"{name}_order", [scalar.dtype for scalar in values])
    sorted_by = [(place, descending) for place, (_, descending) in enumerate(keys)]
    place = [
        f"int failure = {name}_per(base, row, per);",
        f"return failure ? failure : {name}_order(base, row, order);",
    ]
    return TopType(
        f"{name}_type",
        (per.declaration(), order.declaration()),
        (
            tuple_function(f"{name}_per", operator.per, [row], per, constants),
            tuple_function(f"{name}_order", values, [row], order, constants),
            function(
                f"static int {name}_place(dz_base *base, const uint64_t *row, uint64_t *per, uint64_t *order)",
                place,
                "The group of a row, and what it sorts by.",
            ),
            compare_function(f"{name}_compare", order, sorted_by),
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
    out = OperatorText(
        members=[f"dz_top {name}_top;"],
        functions=[function(head, lines, "A row without a place is left out.")],
        run=[f"if (n->{name}_input.count || {top}.unsettled) {run}"],
        settle=[f"dz_top_settle(base, &{top}, {type_});"],
        free=[f"dz_top_free(base, &{top}, {type_});"],
        tables=tables,
    )
    out.collect(0, f"{name}_input", row)
    return out
