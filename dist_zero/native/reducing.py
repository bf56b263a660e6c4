"""Aggregates, as C: how rows are fed to groups, and how what is shown of a group is replaced.

Phase by phase as in `reference/aggregate.py`. What a step has touched is told by places in the table of groups, from
which nothing is removed before all of it is shown.
"""

from __future__ import annotations

from dist_zero.compiler import plan as plans
from dist_zero.compiler.plan import Phase
from dist_zero.native.accumulating import FAILURES, Accumulator
from dist_zero.native.groups import GroupText
from dist_zero.native.layout import KIND_NAMES, Layout
from dist_zero.native.text import (
    LeftOut,
    OperatorText,
    PlanText,
    assign,
    columns_of,
    pointer,
    words,
    zset_table,
)
from dist_zero.reference.scalar import aggregation_input
from dist_zero.state import value_place


def reduce_text(text: PlanText, operator: plans.Reduce) -> OperatorText:
    """An aggregate of any phase."""
    return _Reduce(text, operator).rendered()


class _Reduce(GroupText):
    """The text of one aggregate."""

    def rendered(self) -> OperatorText:
        """All of it."""
        name, out = self.name, self.out
        self.declare_group()
        out.members += [
            f"dz_kept {name}_groups;",
            f"dz_words {name}_touched, {name}_loaded;",
        ]
        if self.is_global or self.phase is Phase.PARTIAL:
            out.members.append(f"bool {name}_started;")
        out.collect(0, f"{name}_input", self.source)
        self.free_group()
        if self.phase is Phase.PARTIAL:
            self.encode()
        else:
            self.outcome()
            self.emit_group()
        self.values_tables()
        self.touch()
        if self.phase is Phase.FINAL:
            self._merge()
        else:
            self._accumulate()
        if self.phase is Phase.PARTIAL:
            self._show_part()
        else:
            self._show()
        self._run()
        self.groups_table()
        self.settle()
        out.free += [
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++)",
            f"    {name}_free(base, {self.entry('at')});",
            f"dz_kept_free(base, &n->{name}_groups, &{self.key.shape}, {self.extra});",
            f"dz_words_free(base, &n->{name}_touched);",
            f"dz_words_free(base, &n->{name}_loaded);",
        ]
        return out

    def _feed(self) -> Layout:
        """Renders what computes a row's key and what it feeds to the accumulators; the layout of both."""
        inputs = [aggregation_input(a.aggregation) for a in self.fed]
        count = len(self.operator.keys)
        names = [*self.key.members, *[f"to_{a.column}" for a in self.fed]]
        types = [*self.key.types, *[scalar.dtype for scalar in inputs]]
        layout = self.text.tuple(f"{self.name}_fed", types, names)
        fails = self.text.scalars(f"{self.name}_feed", [*self.operator.keys, *inputs], self.source, layout)
        report = self.text.report(LeftOut(self.operator.id, "row"), self.source) if fails else ""
        name = self.name
        lines = ["(void)weight;", pointer(layout, "fed", "out"), pointer(self.key, "to", "key", const=False)]
        if fails:
            lines = [
                "node *n = (node *)base;",
                *lines,
                f"if (DZ_UNLIKELY({name}_feed(base, row, out))) {{",
                f"    {report}",
                "    return false;",
                "}",
            ]
        else:
            lines = [*lines, f"{name}_feed(base, row, out);"]
        lines += [*assign(self.key, "to", [(layout, "fed", i) for i in range(count)])]
        lines += [
            f"*hash = dz_row_hash(&{self.key.shape}, key);",
            f"dz_table_prefetch(&((node *)base)->{name}_groups.rows, *hash);",
            "return true;",
        ]
        head = (
            f"static inline bool {name}_key(dz_base *base, const uint64_t *row, int64_t weight,\n"
            "    uint64_t *out, uint64_t *key, uint64_t *hash)"
        )
        self.define(
            head,
            lines,
            "What a row feeds, the key of its group, and the hash of that; false: the row is left out.",
        )
        return layout

    def _accumulate(self) -> None:
        name, source = self.name, self.source
        fed = self._feed()
        count = len(self.operator.keys)
        adds = ["group->rows = dz_add_weights(base, group->rows, weight);"]
        for a in self.fed:
            place = count + a.fed
            value = f"out[{fed.word(place)}]"
            statements = [a.add(value), *self._note_value(a, value)]
            if fed.types[place].nullable:
                statements = [f"if (!{fed.null('fed', place)}) {{", *[f"    {s}" for s in statements], "}"]
            adds += statements
        if self.phase is Phase.PARTIAL and self.extremes:
            adds += self._place_values(fed, count)
        block = [
            "node *n = (node *)base;",
            f"dz_delta *input = &n->{name}_input;",
            f"if (input->negative) dz_consolidate(base, input, &{source.shape});",
            "for (uint32_t start = 0; start < input->count; start += DZ_TOGETHER) {",
            "    uint32_t count = input->count - start < DZ_TOGETHER ? input->count - start : DZ_TOGETHER, left = 0;",
            f"    uint64_t outs[DZ_TOGETHER][{max(1, fed.words)}], keys[DZ_TOGETHER][{max(1, self.key.words)}];",
            "    uint64_t hashes[DZ_TOGETHER];",
            "    const uint64_t *rows[DZ_TOGETHER];",
            "    for (uint32_t at = 0; at < count; at++) {",
            f"        const uint64_t *row = dz_delta_row(input, &{source.shape}, start + at);",
            "        rows[left] = row;",
            f"        int64_t weight = (int64_t)row[{source.words}];",
            f"        left += {name}_key(base, row, weight, outs[left], keys[left], &hashes[left]);",
            "    }",
            "    for (uint32_t at = 0; at < left; at++)",
            f"        dz_table_prefetch_entry(&n->{name}_groups.rows, &{self.key.shape}, {self.extra}, hashes[at]);",
            "    for (uint32_t at = 0; at < left; at++) {",
            "        const uint64_t *row = rows[at], *out = outs[at];",
            f"        int64_t weight = (int64_t)row[{source.words}];",
            *_indented(8, self.lookup("keys[at]", "DZ_GROUP_SEEN", "touched", "hashes[at]")),
            f"        {pointer(fed, 'fed', 'out')}",
            "        (void)out;",
            *[f"        {line}" for line in adds],
            "    }",
            "}",
            "dz_delta_clear(input);",
        ]
        self.define(f"static void {name}_accumulate(dz_base *base)", block, "Takes in the rows of the step.")

    def _note_value(self, accumulator: Accumulator, value: str) -> list[str]:
        """Statements that note that a value of a minimum or maximum is touched."""
        if not accumulator.extreme or self.phase is Phase.PARTIAL:
            return []
        return [f"{self.name}_note{accumulator.number}(base, group, {value});"]

    def _place_values(self, fed: Layout, count: int) -> list[str]:
        """Statements that keep the values of a part by the place of their row."""
        place = value_place(self.text.plan, self.operator)
        lines = []
        for a in self.extremes:
            table = self._values_layout(a)
            width = len(table.types) - 1
            places = self.text.tuple(
                f"{self.name}_place{a.number}", table.types[:width], table.members[:width]
            )
            function_name = f"{self.name}_place{a.number}"
            self.text.scalars(function_name, place, self.source, places)
            at = count + a.fed
            value: tuple[Layout, str, int] = (fed, "fed", at)
            lines += [
                f"if (!{fed.null('fed', at)}) {{",
                f"    {words(places, 'placed')}",
                f"    {words(table, 'entry')}",
                f"    if ({function_name}(base, row, placed))",
                '        dz_raise(base, DZ_BUG, "the place of a row cannot be told");',
                f"    {pointer(places, 'its_place', 'placed')}",
                f"    {pointer(table, 'to', 'entry', const=False)}",
                *[f"    {line}" for line in assign(table, "to", [*columns_of(places, "its_place"), value])],
                f"    dz_kept_add(base, &n->{self.name}_values{a.number}, &{table.shape}, entry,"
                f" dz_row_hash(&{table.shape}, entry), weight);",
                "}",
            ]
        return lines

    def _values_layout(self, a: Accumulator) -> Layout:
        table = self.out.tables.get(f"values/{a.number}")
        assert table is not None
        return table.entry

    def _merge(self) -> None:
        name, source = self.name, self.source
        lines = [
            "node *n = (node *)base;",
            f"dz_delta *input = &n->{name}_input;",
            "uint64_t key[1] = {0};",
            f"dz_consolidate(base, input, &{source.shape});",
            "for (uint32_t at = 0; at < input->count; at++) {",
            f"    const uint64_t *row = dz_delta_row(input, &{source.shape}, at);",
            f"    int64_t weight = (int64_t)row[{source.words}];",
            *_indented(4, self.lookup("key", "DZ_GROUP_SEEN", "touched")),
        ]
        for a in self.accumulators:
            data = f"dz_text_of(row[{source.word(a.number)}])"
            lines += [f"    {line}" for line in a.merge(data)]
            if a.extreme:
                decoded = (
                    f"dz_decode_extreme(base, {data}, {KIND_NAMES[a.dtype.kind]}, {len(a.dtype.members)})"
                )
                lines += [f"    if ({data}->length) {line}" for line in self._note_value(a, decoded)]
        lines += ["}", "dz_delta_clear(input);"]
        self.define(
            f"static void {name}_accumulate(dz_base *base)",
            lines,
            "Takes in what the nodes have of the group.",
        )

    def _show(self) -> None:
        name = self.name
        there = "true" if not self.operator.keys else "group->rows != 0"
        reports = [
            f"if (failure == {number}) {self._group_report(reason)}"
            for number, reason in enumerate(FAILURES, 1)
            if any(a.failure == number for a in self.accumulators)
        ]
        if reports:
            head = f"static void {name}_fail(dz_base *base, const {self.group} *group, int failure, int64_t weight)"
            self.define(
                head,
                ["node *n = (node *)base;", *reports],
                "Reports a group that has no row, or that it has one again.",
            )
        lines = [
            "node *n = (node *)base;",
            f"{self.group} *group = {self.entry('place')};",
            f"{self.results.struct} result;",
            "int failure = 0;",
            f"bool there = {there};",
            f"if (there) failure = {name}_outcome(group, &result);",
            "bool shows = there && !failure, showed = (group->marks & DZ_GROUP_SHOWN) != 0;",
            f"dz_group_note(base, &n->{name}_groups, &{self.key.shape}, (uint64_t *)group, &group->marks);",
            "group->marks &= ~(uint64_t)DZ_GROUP_SEEN;",
            f"if (shows != showed || (shows && memcmp(&result, &group->shown, {self.results.words * 8}) != 0)) {{",
            f"    if (showed) {name}_say(base, group, -1);",
            f"    if (shows) dz_row_hold(base, &{self.results.shape}, (uint64_t *)&result);",
            f"    dz_row_drop(base, &{self.results.shape}, (uint64_t *)&group->shown);",
            "    if (shows)",
            f"        memcpy(&group->shown, &result, {self.results.words * 8});",
            "    else",
            f"        memset(&group->shown, 0, {self.results.words * 8});",
            f"    if (shows) {name}_say(base, group, 1);",
            "}",
        ]
        if reports:
            lines += [
                "int failed = dz_group_failure(group->marks);",
                "if (failure != failed) {",
                f"    if (failed) {name}_fail(base, group, failed, -1);",
                f"    if (failure) {name}_fail(base, group, failure, 1);",
                "}",
            ]
        lines += [
            "group->marks = dz_group_show(group->marks, shows, failure);",
            "return group->rows == 0 && !shows && !failure;",
        ]
        self.define(
            f"static inline bool {name}_show(dz_base *base, uint64_t place)",
            lines,
            "Replaces what is shown of a group by what is right now; whether the group is gone.",
        )
        self.forget()

    def _group_report(self, reason: str) -> str:
        place = LeftOut(self.operator.id, "group", reason)
        return self.text.report(place, self.key, "(const uint64_t *)&group->key")

    def _show_part(self) -> None:
        name, row = self.name, self.row
        self.forget()
        self.out.members.append(f"dz_kept {name}_shown;")
        self.out.free.append(f"dz_kept_free(base, &n->{name}_shown, &{row.shape}, DZ_ZSET_EXTRA);")
        change = [
            "node *n = (node *)base;",
            f"{name}_emit(base, row, weight);",
            f"dz_kept_add(base, &n->{name}_shown, &{row.shape}, row, dz_row_hash(&{row.shape}, row), weight);",
        ]
        self.define(
            f"static void {name}_change(dz_base *base, const uint64_t *row, int64_t weight)",
            change,
            "Shows a row of a part, or takes it back.",
        )
        lines = [
            "node *n = (node *)base;",
            f"dz_table *groups = &n->{name}_groups.rows, *shown = &n->{name}_shown.rows;",
            words(row, "part"),
            words(row, "old"),
            f"bool there = groups->count && {name}_part(base, {self.entry('0')}, part), stays = false;",
            f"dz_delta *showed = dz_lend(base, &{row.shape});",
            f"dz_zset_entries(base, shown, &{row.shape}, DZ_ZSET_EXTRA, showed);",
            "for (uint32_t at = 0; at < showed->count; at++) {",
            f"    const uint64_t *row = dz_delta_row(showed, &{row.shape}, at);",
            f"    int64_t weight = dz_delta_weight(showed, &{row.shape}, at);",
            f"    bool same = there && dz_row_equal(&{row.shape}, row, part);",
            "    stays |= same;",
            f"    if (weight != same) {name}_change(base, row, same - weight);",
            "}",
            f"if (there && !stays) {name}_change(base, part, 1);",
            f"dz_return(base, showed, &{row.shape});",
            "uint64_t first = 0;",
            f"if (!there && groups->count) {name}_forget(base, &first, 1);",
            "(void)old;",
        ]
        self.define(
            f"static void {name}_show_part(dz_base *base)",
            [line for line in lines if "old" not in line],
            "Replaces what is shown of this node's part by what is right now.",
        )
        same = [
            "node *n = (node *)base;",
            f"dz_table *groups = &n->{name}_groups.rows, *shown = &n->{name}_shown.rows;",
            words(row, "part"),
            f"*there = groups->count && {name}_part(base, {self.entry('0')}, part);",
            "if (shown->count != *there) return false;",
            f"return !*there || dz_kept_weight(&n->{name}_shown, &{row.shape}, part) == 1;",
        ]
        self.define(
            f"static bool {name}_is_shown(dz_base *base, bool *there)",
            same,
            "Whether what is shown of this node's part is right.",
        )
        self.out.tables["shown"] = zset_table(f"n->{name}_shown", row)

    def _run(self) -> None:
        name = self.name
        if self.phase is Phase.PARTIAL:
            self.out.run = [
                f"if (n->{name}_input.count || !n->{name}_started) {{",
                f"    n->{name}_started = true;",
                f"    {name}_accumulate(base);",
                f"    for (uint32_t at = 0; at < n->{name}_touched.count; at++) {{",
                f"        {self.group} *group = {self.entry(f'n->{name}_touched.words[at]')};",
                f"        dz_group_note(base, &n->{name}_groups, &{self.key.shape}, (uint64_t *)group, &group->marks);",
                "        group->marks &= ~(uint64_t)DZ_GROUP_SEEN;",
                "    }",
                f"    n->{name}_touched.count = 0;",
                f"    {name}_show_part(base);",
                "}",
            ]
            return
        begins: list[str] = []
        if self.is_global:
            begins = [
                f"if (n->owns_empty_key && n->{name}_groups.rows.count == 0) {{",
                "    uint64_t key[1] = {0};",
                f"    {name}_group(base, key, dz_row_hash(&{self.key.shape}, key), DZ_GROUP_SEEN, &n->{name}_touched);",
                "}",
            ]
        lines = [
            "node *n = (node *)base;",
            f"dz_words *touched = &n->{name}_touched;",
            "uint32_t gone = 0;",
            f"{name}_accumulate(base);",
            *begins,
            "for (uint32_t at = 0; at < touched->count; at++) {",
            "    if (at + DZ_AHEAD < touched->count)",
            f"        __builtin_prefetch({self.entry('touched->words[at + DZ_AHEAD]')});",
            f"    if ({name}_show(base, touched->words[at])) touched->words[gone++] = touched->words[at];",
            "}",
            f"{name}_forget(base, touched->words, gone);",
            "touched->count = 0;",
        ]
        self.define(f"static void {name}_run(dz_base *base)", lines, "The change of the groups' rows.")
        condition = f"n->{name}_input.count"
        if self.is_global:
            self.out.run = [
                f"if ({condition} || !n->{name}_started) {{",
                f"    n->{name}_started = true;",
                f"    {name}_run(base);",
                "}",
            ]
        else:
            self.out.run = [f"if ({condition}) {name}_run(base);"]


def _indented(depth: int, statement: str) -> list[str]:
    return [" " * depth + line for line in statement.split("\n")]
