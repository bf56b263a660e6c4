"""Operators over whole rows that keep something, and the ends of a plan, as C; what they do is in `runtime/`."""

from __future__ import annotations

from dist_zero.compiler import plan as plans
from dist_zero.expr.functions import may_fail
from dist_zero.native.text import (
    KeyedLayouts,
    LeftOut,
    OperatorText,
    PlanText,
    Table,
    copier,
    function,
    keyed_type,
    words,
    zset_table,
)


def distinct_text(text: PlanText, operator: plans.Distinct) -> OperatorText:
    """Every row that is there, once."""
    name, row = f"op{operator.id}", text.row(operator)
    out = OperatorText(
        members=[f"dz_kept {name}_rows;"],
        run=[f"dz_distinct_run(base, &n->{name}_rows, &{row.shape}, &n->{name}_input, {name}_emit);"],
        free=[f"dz_kept_free(base, &n->{name}_rows, &{row.shape}, DZ_ZSET_EXTRA);"],
        tables={"rows": zset_table(f"n->{name}_rows", row)},
    )
    out.collect(0, f"{name}_input", row)
    return out


def difference_text(text: PlanText, operator: plans.Difference) -> OperatorText:
    """Every row that the left input has and the right one has not, once."""
    name = f"op{operator.id}"
    left, right = text.input(operator, 0), text.input(operator, 1)
    text.helpers += [
        copier(f"{name}_to_left", right, left),
        copier(f"{name}_to_right", left, right),
        f"static const dz_difference_type {name}_type = {{\n    .left = &{left.shape}, .right = &{right.shape},"
        f"\n    .to_left = {name}_to_left, .to_right = {name}_to_right,\n}};\n",
    ]
    inputs = f"&n->{name}_left_input, &n->{name}_right_input"
    out = OperatorText(
        members=[f"dz_difference {name}_rows;"],
        run=[f"dz_difference_run(base, &n->{name}_rows, &{name}_type, {inputs}, {name}_emit);"],
    )
    for place, (side, layout) in enumerate((("left", left), ("right", right))):
        out.collect(place, f"{name}_{side}_input", layout)
        out.free.append(f"dz_kept_free(base, &n->{name}_rows.{side}, &{layout.shape}, DZ_ZSET_EXTRA);")
        out.tables[side] = zset_table(f"n->{name}_rows.{side}", layout)
    return out


def exchange_text(text: PlanText, operator: plans.Exchange) -> OperatorText:
    """Sends rows to the shards that own the hashes of their keys, or to all of them."""
    name, row = f"op{operator.id}", text.row(operator)
    out = OperatorText(
        members=[f"dz_routing {name}_routing;"],
        inputs={0: [f"dz_delta_add(base, &n->{name}_routing.own.now, &{row.shape}, row, weight);"]},
        free=[f"dz_routing_free(base, &n->{name}_routing, &{row.shape});"],
    )
    arguments = f"base, &n->{name}_routing, &{row.shape}, &n->shards, {operator.id}, &n->out"
    has_rows = f"n->{name}_routing.own.now.count"
    if operator.broadcast:
        out.run = [f"if ({has_rows}) parcels += dz_broadcast_run({arguments});"]
        return out
    fails = any(map(may_fail, operator.key))
    _key_hash(text, operator, out, fails)
    # Where everything is on one shard, nobody needs a hash; but who fails is left out.
    needed = has_rows if fails else f"n->shards.count > 1 && {has_rows}"
    out.run = [f"if ({needed}) parcels += dz_exchange_run({arguments}, {name}_key_hash);"]
    return out


def _key_hash(text: PlanText, operator: plans.Exchange, out: OperatorText, fails: bool) -> None:
    """The function that says the hash of a row's key."""
    name, source = f"op{operator.id}", text.input(operator)
    key = text.tuple(f"{name}_key", [scalar.dtype for scalar in operator.key])
    text.scalars(f"{name}_key", operator.key, source, key)
    lines = ["(void)weight;", words(key, "key")]
    if fails:
        report = text.report(LeftOut(operator.id, "row"), source)
        lines = ["node *n = (node *)base;", *lines, f"if (DZ_UNLIKELY({name}_key(base, row, key))) {{"]
        lines += [f"    {report}", "    return false;", "}"]
    else:
        lines.append(f"{name}_key(base, row, key);")
    lines += [f"*hash = dz_key_hash(&{key.shape}, key);", "return true;"]
    head = f"static bool {name}_key_hash(dz_base *base, const uint64_t *row, int64_t weight, uint64_t *hash)"
    out.functions.append(function(head, lines, "The hash of a row's key; false: it fails."))


def source_text(text: PlanText, operator: plans.Source) -> OperatorText:
    """Applies the writes to a dataset."""
    name, row = f"op{operator.id}", text.row(operator)
    out = OperatorText(members=[f"dz_source {name}_source;"])
    read = text.reader(row)
    if operator.key is None:
        lines = [
            "node *n = (node *)base;",
            f"dz_source *source = &n->{name}_source;",
            "for (uint32_t number = 0; number < source->writes_count; number++) {",
            "    const dz_batch *batch = &source->writes[number].batch;",
            "    for (uint32_t at = 0; at < batch->count; at++) {",
            f"        {words(row, 'row')}",
            f"        {read}(base, batch, at, row);",
            f"        {name}_emit(base, row, 1);",
            "    }",
            "}",
            "source->writes_count = 0;",
        ]
        out.functions.append(
            function(f"static void {name}_append(dz_base *base)", lines, "Emits the rows that are appended.")
        )
        out.run = [f"{name}_append(base);"]
        source = f"&n->{name}_source"
        out.free = [
            f"dz_free_memory(base, n->{name}_source.writes, n->{name}_source.writes_capacity * sizeof(dz_writes));"
        ]
        assert source
        return out
    kept = keyed_type(text, operator, operator.key)
    key_read = text.reader(kept.key)
    out.run = [
        f"dz_source_apply(base, &n->{name}_source, &{kept.name}, {read}, {key_read}, {name}_emit);",
    ]
    out.free = [f"dz_source_free(base, &n->{name}_source, &{kept.name});"]
    out.tables["rows"] = keyed_table(f"n->{name}_source.kept", kept)
    return out


def gate_text(text: PlanText, operator: plans.Gate) -> OperatorText:
    """Lets pass what is of slices that are filled."""
    name, row = f"op{operator.id}", text.row(operator)
    if operator.key is None:
        return OperatorText(inputs={0: [f"if (n->fill_stop) {name}_emit(base, row, weight);"]})
    source = text.plan.operators[operator.inputs[0]]
    kept = text.keyed[source.id]
    lines = [
        words(kept.key, "key"),
        f"const {row.struct} *from = (const {row.struct} *)row;",
        f"{kept.key.struct} *to = ({kept.key.struct} *)key;",
        *_key_columns(kept, operator.key),
        f"return dz_key_hash(&{kept.key.shape}, key);",
    ]
    out = OperatorText(
        members=[f"dz_gate {name}_gate;"],
        functions=[
            function(
                f"static uint64_t {name}_key_hash(const uint64_t *row)", lines, "The hash of a row's key."
            )
        ],
        run=[
            f"dz_gate_run(base, &n->{name}_gate, &{kept.name}, &n->op{source.id}_source.kept, &n->{name}_input,",
            f"    n->fill_start, n->fill_stop, {name}_key_hash, {name}_emit);",
        ],
        free=[f"dz_gate_free(base, &n->{name}_gate, &{row.shape});"],
    )
    out.collect(0, f"{name}_input", row)
    return out


def _key_columns(kept: KeyedLayouts, key: tuple[int, ...]) -> list[str]:
    from dist_zero.native.text import assign

    return assign(kept.key, "to", [(kept.row, "from", place) for place in key])


def sink_text(text: PlanText, operator: plans.Sink) -> OperatorText:
    """The rows of a view; what changes them waits for the end of its epoch, on the edge into it."""
    name, row = f"op{operator.id}", text.row(operator)
    edge = next(edge for edge in text.edges if edge.target == operator.id)
    out = OperatorText(members=[f"dz_kept {name}_rows;"])
    if operator.key is None:
        change = f"dz_zset_change(base, &n->{name}_rows, &{row.shape}, &n->order);"
        entries = f"dz_zset_entries(base, &n->{name}_rows.rows, &{row.shape}, DZ_ZSET_EXTRA, rows);"
        out.free = [f"dz_kept_free(base, &n->{name}_rows, &{row.shape}, DZ_ZSET_EXTRA);"]
        out.tables["view"] = zset_table(f"n->{name}_rows", row)
    else:
        kept = keyed_type(text, operator, operator.key)
        change = f"dz_view_replace(base, &n->{name}_rows, &{kept.name}, &n->order);"
        entries = f"dz_keyed_entries(base, &n->{name}_rows, &{kept.name}, rows);"
        out.free = [f"dz_keyed_free(base, &n->{name}_rows, &{kept.name});"]
        out.tables["view"] = keyed_table(f"n->{name}_rows", kept)
    finish = [
        "node *n = (node *)base;",
        f"dz_delta *changes = dz_take_waiting(&n->{edge.name}, epoch);",
        "uint32_t views = 0;",
        "if (changes->count) {",
        f"    dz_order_delta(base, &n->order, changes, &{row.shape});",
        f"    {change}",
        "    if (n->order.count) {",
        f"        dz_write(base, &n->out, {operator.view});",
        f"        dz_write_rows(base, &n->out, &{row.shape}, n->order.rows, n->order.count, true);",
        "        views = 1;",
        "    }",
        "}",
        f"dz_waited(base, &n->{edge.name}, &{row.shape});",
        "return views;",
    ]
    out.functions.append(
        function(
            f"static uint32_t {name}_finish(dz_base *base, int64_t epoch)",
            finish,
            "Makes the changes of an epoch visible, and says them.",
        )
    )
    rows = [
        "node *n = (node *)base;",
        f"dz_delta *rows = dz_lend(base, &{row.shape});",
        f"{entries}",
        f"dz_write_delta(base, &n->out, &n->order, rows, &{row.shape});",
        f"dz_return(base, rows, &{row.shape});",
    ]
    out.functions.append(
        function(f"static void {name}_rows_of(dz_base *base)", rows, "Says all rows of the view.")
    )
    return out


def keyed_table(kept_rows: str, kept: KeyedLayouts) -> Table:
    """The table of rows with a key."""
    return Table(
        kept.row,
        kept.key,
        f"dz_keyed_entries(base, &{kept_rows}, &{kept.name}, out);",
        f"dz_keyed_touched(base, &{kept_rows}, &{kept.name}, puts, gone);",
        f"return dz_keyed_get(base, &{kept_rows}, &{kept.name}, key, out);",
        f"dz_kept_track(base, &{kept_rows}, {kept.key.shape and '&' + kept.key.shape});",
        f"dz_keyed_take(base, &{kept_rows}, &{kept.name}, entry, weight);",
    )
