"""Aggregates, as C: a struct of a group, how rows are fed to it, and what is shown of it.

Phase by phase as in `reference/aggregate.py`. A group is an entry of a `dz_table`: the words of its key, how many rows,
marks, the words of the accumulators, and the result that is shown. What a step has touched is told by places in the
table, from which nothing is removed before all of it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Phase
from dist_zero.expr.ops import Aggregation
from dist_zero.native.layout import KIND_NAMES, Layout, is_text
from dist_zero.native.text import (
    LeftOut,
    OperatorText,
    PlanText,
    Table,
    assign,
    columns_of,
    function,
    pointer,
    words,
)
from dist_zero.reference.scalar import aggregation_input
from dist_zero.state import is_extreme, is_plain_count, state_tables, value_place
from dist_zero.types import INT, DataType, Kind

_FAILURES = ("integer overflow", "decimal overflow")
"""Why a group may have no row; numbers from 1 on."""


@dataclass(frozen=True, slots=True)
class _Accumulator:
    """One aggregation of a group. `plain`: it is the number of rows. `fed`: the place among what rows are fed to it;
    `column`: its name in the program."""

    number: int
    aggregation: Aggregation
    plain: bool
    fed: int
    column: str

    @property
    def name(self) -> str:
        """The member of the group."""
        return f"{self.kind}{self.number}_{self.column}"

    @property
    def kind(self) -> str:
        """What it is."""
        function = self.aggregation.function
        return {"count": "count", "min": "min", "max": "max"}.get(
            function, "float_sum" if self.is_float else "int_sum"
        )

    @property
    def dtype(self) -> DataType:
        """The type of its argument."""
        return self.aggregation.argument.dtype.required() if self.aggregation.argument is not None else INT

    @property
    def is_float(self) -> bool:
        """Whether it is a sum of floats."""
        return self.dtype.kind is Kind.FLOAT

    @property
    def extreme(self) -> bool:
        """Whether it keeps values."""
        return is_extreme(self.aggregation)

    @property
    def compare(self) -> str:
        """How its values compare."""
        if is_text(self.dtype):
            return "dz_compare_text_values"
        return "dz_compare_floats" if self.is_float else "dz_compare_ints"

    @property
    def member(self) -> str:
        """The declaration in the group."""
        if self.extreme:
            return f"dz_ordered {self.name};"
        size = {"count": "DZ_COUNT_WORDS", "int_sum": "DZ_INT_SUM_WORDS", "float_sum": "DZ_FLOAT_SUM_WORDS"}
        return f"uint64_t {self.name}[{size[self.kind]}];"

    def add(self, value: str) -> str:
        """The statement that takes in a value."""
        if self.extreme:
            text = "true" if is_text(self.dtype) else "false"
            return f"dz_values_add(base, &group->{self.name}, {self.compare}, {text}, {value}, weight);"
        if self.kind == "count":
            return f"dz_count_add(base, group->{self.name}, weight);"
        cast = "(int64_t)" if self.kind == "int_sum" else ""
        return f"dz_{self.kind}_add(base, group->{self.name}, {cast}{value}, weight);"

    def encoded(self) -> str:
        """The text of its encoding."""
        if self.plain:
            return "dz_text_of_bytes(base, (const char *)&group->rows, 8)"
        if self.extreme:
            largest = "true" if self.aggregation.function == "max" else "false"
            return f"dz_encode_extreme(base, &group->{self.name}, {largest}, {KIND_NAMES[self.dtype.kind]})"
        return f"dz_text_of_bytes(base, bytes, dz_{self.kind}_encode(group->{self.name}, bytes))"

    def is_nothing(self) -> str:
        """Whether it is that of nothing."""
        if self.plain:
            return "group->rows == 0"
        if self.extreme:
            return f"group->{self.name}.count == 0"
        if self.kind == "count":
            return f"group->{self.name}[0] == 0"
        return f"dz_{self.kind}_is_nothing(group->{self.name})"

    def merge(self, data: str) -> list[str]:
        """Statements that take in an encoded one, a text."""
        if self.extreme:
            decoded = (
                f"dz_decode_extreme(base, {data}, {KIND_NAMES[self.dtype.kind]}, {len(self.dtype.members)})"
            )
            return [f"if ({data}->length) {self.add(decoded)}"]
        merge = f"dz_{self.kind}_merge(base, group->{self.name}, {data}->bytes, {data}->length, weight);"
        return [merge]

    def result(self, results: Layout) -> list[str]:
        """Statements that write its result into `result`, whose words are `words`, or return why there is none."""
        out = f"&words[{results.word(self.number)}]"
        if self.kind == "count":
            return [f"*({out}) = (uint64_t)group->{'rows' if self.plain else self.name + '[0]'};"]
        if self.extreme:
            largest = "true" if self.aggregation.function == "max" else "false"
            return self._or_null(results, f"!dz_values_extreme(&group->{self.name}, {largest}, {out})")
        if self.aggregation.function == "sum" and self.kind == "int_sum":
            lines = [
                f"found = dz_int_sum_result(group->{self.name}, {out});",
                f"if (DZ_UNLIKELY(found == DZ_SUM_OVERFLOW)) return {self.failure};",
            ]
            return [
                *lines,
                *(self._or_null(results, "found == DZ_SUM_NULL") if self._nullable(results) else []),
            ]
        if self.aggregation.function == "mean" and self.kind == "int_sum":
            return self._or_null(
                results, f"dz_int_mean_result(group->{self.name}, 1e{self.dtype.scale}, {out}) == DZ_SUM_NULL"
            )
        call = f"dz_float_{self.aggregation.function}_result(group->{self.name}, {out})"
        return self._or_null(results, f"{call} == DZ_SUM_NULL")

    @property
    def failure(self) -> int:
        """Why its result may not be there; 0: it always is."""
        if self.aggregation.function != "sum" or self.kind != "int_sum":
            return 0
        return 2 if self.dtype.kind is Kind.DECIMAL else 1

    def _nullable(self, results: Layout) -> bool:
        return results.types[self.number].nullable

    def _or_null(self, results: Layout, is_null: str) -> list[str]:
        """Statements that make the result null where it is; they compute it in any case."""
        if not self._nullable(results):
            return [f"(void)({is_null});"]
        null = f"{results.null_word('result', self.number // 64)} |= (uint64_t)1 << {self.number % 64};"
        return [f"if ({is_null}) {null}"]

    def free(self) -> str:
        """The statement that frees it; nothing if there is nothing to free."""
        if self.extreme:
            return f"dz_values_free(base, &group->{self.name}, {'true' if is_text(self.dtype) else 'false'});"
        return f"dz_float_sum_free(base, group->{self.name});" if self.kind == "float_sum" else ""


def reduce_text(text: PlanText, operator: plans.Reduce) -> OperatorText:
    """An aggregate of any phase."""
    return _Reduce(text, operator).text()


class _Reduce:
    """The text of one aggregate."""

    def __init__(self, text: PlanText, operator: plans.Reduce) -> None:
        self.plan_text, self.operator = text, operator
        self.name = name = f"op{operator.id}"
        self.source, self.row = text.input(operator), text.row(operator)
        names, types = operator.row_type.names, operator.row_type.types
        count = len(operator.keys)
        self.key = text.tuple(f"{name}_key", types[:count], names[:count])
        self.phase = operator.phase
        partial = self.phase is Phase.PARTIAL
        self.results = text.tuple(
            f"{name}_results", () if partial else types[count:], () if partial else names[count:]
        )
        final = self.phase is Phase.FINAL
        members = self.row.members[count:]
        fed = 0
        self.accumulators: list[_Accumulator] = []
        for number, aggregation in enumerate(operator.aggregations):
            plain = not final and is_plain_count(aggregation)
            self.accumulators.append(_Accumulator(number, aggregation, plain, fed, members[number]))
            fed += not plain
        self.fed = [a for a in self.accumulators if not a.plain]
        self.sums = [a for a in self.fed if not a.extreme]
        self.extremes = [a for a in self.accumulators if a.extreme]
        self.is_global = not operator.keys and not partial
        lineage = lineages(text.plan)[operator.id]
        self.tables = {
            table.name.removeprefix(f"operator/{lineage}/"): table
            for table in state_tables(text.plan)
            if table.name.startswith(f"operator/{lineage}/")
        }
        self.out = OperatorText()

    # ---- pieces -------------------------------------------------------------------------------------------

    def text(self) -> OperatorText:
        """All of it."""
        name, out = self.name, self.out
        self._declare_group()
        out.members += [
            f"dz_delta {name}_input;",
            f"dz_kept {name}_groups;",
            f"dz_words {name}_touched, {name}_loaded;",
        ]
        if self.is_global or self.phase is Phase.PARTIAL:
            out.members.append(f"bool {name}_started;")
        out.inputs[0] = [f"dz_delta_add(base, &n->{name}_input, &{self.source.shape}, row, weight);"]
        self._free_group()
        if self.phase is Phase.PARTIAL:
            self._encode()
        else:
            self._outcome()
            self._emit_group()
        self._values_tables()
        self._touch()
        if self.phase is Phase.FINAL:
            self._merge()
        else:
            self._accumulate()
        if self.phase is Phase.PARTIAL:
            self._show_part()
        else:
            self._show()
        self._run()
        self._groups_table()
        self._settle()
        out.free += [
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++)",
            f"    {name}_free(base, {self._entry('at')});",
            f"dz_kept_free(base, &n->{name}_groups, &{self.key.shape}, {self.extra});",
            f"dz_words_free(base, &n->{name}_touched);",
            f"dz_words_free(base, &n->{name}_loaded);",
            f"dz_delta_free(base, &n->{name}_input, &{self.source.shape});",
        ]
        return out

    @property
    def extra(self) -> str:
        """How many words a group has behind its key."""
        return f"{self.name}_EXTRA"

    def _entry(self, at: str) -> str:
        """The group at a place."""
        table = f"&n->{self.name}_groups.rows"
        return f"({self.group} *)dz_table_entry({table}, &{self.key.shape}, {self.extra}, (uint32_t){at})"

    @property
    def group(self) -> str:
        """The struct of a group."""
        return f"group_{self.name}"

    def _declare_group(self) -> None:
        lines = [
            f"    {self.key.struct} key;",
            "    int64_t rows;",
            "    uint64_t marks;",
            *[f"    {a.member}" for a in self.accumulators if not a.plain],
            f"    {self.results.struct} shown;",
        ]
        self.plan_text.declarations.append(
            f"/* A group of {self.plan_text.title(self.operator)}. */\ntypedef struct {{\n"
            + "\n".join(lines)
            + f"\n}} {self.group};\n\nenum {{ {self.extra} = (sizeof({self.group}) - sizeof({self.key.struct})) / 8 }};\n"
        )

    def _define(self, head: str, lines: Sequence[str], comment: str) -> None:
        self.out.functions.append(function(head, lines, comment))

    def _free_group(self) -> None:
        frees = [a.free() for a in self.fed if a.free()]
        lines = [*frees, f"dz_row_drop(base, &{self.results.shape}, (uint64_t *)&group->shown);"]
        self._define(
            f"static void {self.name}_free(dz_base *base, {self.group} *group)",
            lines,
            "What a group holds goes.",
        )

    def _outcome(self) -> None:
        """The function that computes a group's results."""
        lines = [
            "uint64_t *words = (uint64_t *)result;",
            "int found = 0;",
            "(void)words, (void)found;",
            f"memset(result, 0, {self.results.words * 8});",
            *[line for a in self.accumulators for line in a.result(self.results) if line],
            "return 0;",
        ]
        head = (
            f"static inline int {self.name}_outcome(const {self.group} *group, {self.results.struct} *result)"
        )
        self._define(head, lines, "The results of a group, or why it has none.")

    def _emit_group(self) -> None:
        columns = [*columns_of(self.key, "(&group->key)"), *columns_of(self.results, "(&group->shown)")]
        lines = [
            words(self.row, "row"),
            pointer(self.row, "to", "row", const=False),
            *assign(self.row, "to", columns),
            f"{self.name}_emit(base, row, weight);",
        ]
        head = f"static inline void {self.name}_say(dz_base *base, const {self.group} *group, int64_t weight)"
        self._define(head, lines, "Emits the row that a group shows.")

    def _encode(self) -> None:
        """The function that makes the row of a part: all accumulators, encoded."""
        lines = [
            "char bytes[DZ_SUM_BYTES_MAX];",
            "(void)bytes;",
            f"if (group->rows == 0 && {' && '.join(a.is_nothing() for a in self.accumulators) or '1'}) return false;",
            *[f"row[{self.row.word(a.number)}] = dz_word_of({a.encoded()});" for a in self.accumulators],
            "return true;",
        ]
        head = f"static bool {self.name}_part(dz_base *base, const {self.group} *group, uint64_t *row)"
        self._define(head, lines, "The row of a part; false: there is nothing in it.")

    def _touch(self) -> None:
        """The function that finds the group of a key."""
        lines = [
            "node *n = (node *)base;",
            f"dz_kept *kept = &n->{self.name}_groups;",
            "bool is_new;",
            f"uint64_t *entry = dz_table_put(base, &kept->rows, &{self.key.shape}, {self.extra}, key, hash, &is_new);",
            f"{self.group} *group = ({self.group} *)entry;",
            "if (!(group->marks & mark)) {",
            f"    uint64_t place = (uint64_t)(entry - kept->rows.entries) / ({self.key.words} + {self.extra});",
            "    *dz_words_add(base, list, 1) = place;",
            "    group->marks |= mark;",
            "}",
            "return group;",
        ]
        head = (
            f"static inline {self.group} *{self.name}_group(dz_base *base, const uint64_t *key, uint64_t hash, "
            "uint64_t mark,\n    dz_words *list)"
        )
        self._define(
            head, lines, "The group of a key, new perhaps; with the mark and on the list, if it was not yet."
        )

    def _feed(self) -> Layout:
        """Renders what computes a row's key and what it feeds to the accumulators; the layout of both."""
        inputs = [aggregation_input(a.aggregation) for a in self.fed]
        count = len(self.operator.keys)
        names = [*self.key.members, *[f"to_{a.column}" for a in self.fed]]
        types = [*self.key.types, *[scalar.dtype for scalar in inputs]]
        layout = self.plan_text.tuple(f"{self.name}_fed", types, names)
        fails = self.plan_text.scalars(
            f"{self.name}_feed", [*self.operator.keys, *inputs], self.source, layout
        )
        report = self.plan_text.report(LeftOut(self.operator.id, "row"), self.source) if fails else ""
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
        head = f"static inline bool {name}_key(dz_base *base, {'const uint64_t *row, int64_t weight'}, uint64_t *out,\n    uint64_t *key, uint64_t *hash)"
        self._define(
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
            f"        left += {name}_key(base, row, (int64_t)row[{source.words}], outs[left], keys[left], &hashes[left]);",
            "    }",
            "    for (uint32_t at = 0; at < left; at++)",
            f"        dz_table_prefetch_entry(&n->{name}_groups.rows, &{self.key.shape}, {self.extra}, hashes[at]);",
            "    for (uint32_t at = 0; at < left; at++) {",
            "        const uint64_t *row = rows[at], *out = outs[at];",
            f"        int64_t weight = (int64_t)row[{source.words}];",
            f"        {self.group} *group = {name}_group(base, keys[at], hashes[at], DZ_GROUP_SEEN, &n->{name}_touched);",
            f"        {pointer(fed, 'fed', 'out')}",
            "        (void)out;",
            *[f"        {line}" for line in adds],
            "    }",
            "}",
            "dz_delta_clear(input);",
        ]
        self._define(f"static void {name}_accumulate(dz_base *base)", block, "Takes in the rows of the step.")

    def _note_value(self, accumulator: _Accumulator, value: str) -> list[str]:
        """Statements that note that a value of a minimum or maximum is touched."""
        if not accumulator.extreme or self.phase is Phase.PARTIAL:
            return []
        return [f"{self.name}_note{accumulator.number}(base, group, {value});"]

    def _place_values(self, fed: Layout, count: int) -> list[str]:
        """Statements that keep the values of a part by the place of their row."""
        place = value_place(self.plan_text.plan, self.operator)
        lines = []
        for a in self.extremes:
            table = self._values_layout(a)
            width = len(table.types) - 1
            places = self.plan_text.tuple(
                f"{self.name}_place{a.number}", table.types[:width], table.members[:width]
            )
            function_name = f"{self.name}_place{a.number}"
            self.plan_text.scalars(function_name, place, self.source, places)
            at = count + a.fed
            value: tuple[Layout, str, int] = (fed, "fed", at)
            lines += [
                f"if (!{fed.null('fed', at)}) {{",
                f"    {words(places, 'placed')}",
                f"    {words(table, 'entry')}",
                f'    if ({function_name}(base, row, placed)) dz_raise(base, DZ_BUG, "the place of a row cannot be told");',
                f"    {pointer(places, 'its_place', 'placed')}",
                f"    {pointer(table, 'to', 'entry', const=False)}",
                *[f"    {line}" for line in assign(table, "to", [*columns_of(places, "its_place"), value])],
                f"    dz_kept_add(base, &n->{self.name}_values{a.number}, &{table.shape}, entry,"
                f" dz_row_hash(&{table.shape}, entry), weight);",
                "}",
            ]
        return lines

    def _values_layout(self, a: _Accumulator) -> Layout:
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
            f"    {self.group} *group = {name}_group(base, key, dz_row_hash(&{self.key.shape}, key), DZ_GROUP_SEEN, &n->{name}_touched);",
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
        self._define(
            f"static void {name}_accumulate(dz_base *base)",
            lines,
            "Takes in what the nodes have of the group.",
        )

    def _show(self) -> None:
        name = self.name
        there = "true" if not self.operator.keys else "group->rows != 0"
        reports = [
            f"if (failure == {number}) {self.plan_text.report(LeftOut(self.operator.id, 'group', reason), self.key, '(const uint64_t *)&group->key', 'weight')}"
            for number, reason in enumerate(_FAILURES, 1)
            if any(a.failure == number for a in self.accumulators)
        ]
        if reports:
            head = f"static void {name}_fail(dz_base *base, const {self.group} *group, int failure, int64_t weight)"
            self._define(
                head,
                ["node *n = (node *)base;", *reports],
                "Reports a group that has no row, or that it has one again.",
            )
        lines = [
            "node *n = (node *)base;",
            f"{self.group} *group = {self._entry('place')};",
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
        self._define(
            f"static inline bool {name}_show(dz_base *base, uint64_t place)",
            lines,
            "Replaces what is shown of a group by what is right now; whether the group is gone.",
        )
        self._forget()

    def _forget(self) -> None:
        """The function that removes groups."""
        name = self.name
        lines = [
            "node *n = (node *)base;",
            "count = dz_places_from_the_end(places, count);",
            "for (uint32_t at = 0; at < count; at++) {",
            f"    {self.group} *group = {self._entry('places[at]')};",
            f"    {name}_free(base, group);",
            f"    dz_table_remove(base, &n->{name}_groups.rows, &{self.key.shape}, {self.extra}, (uint64_t *)group);",
            "}",
        ]
        self._define(
            f"static void {name}_forget(dz_base *base, uint64_t *places, uint32_t count)",
            lines,
            "Removes the groups at these places.",
        )

    def _show_part(self) -> None:
        name, row = self.name, self.row
        self._forget()
        self.out.members.append(f"dz_kept {name}_shown;")
        self.out.free.append(f"dz_kept_free(base, &n->{name}_shown, &{row.shape}, DZ_ZSET_EXTRA);")
        change = [
            "node *n = (node *)base;",
            f"{name}_emit(base, row, weight);",
            f"dz_kept_add(base, &n->{name}_shown, &{row.shape}, row, dz_row_hash(&{row.shape}, row), weight);",
        ]
        self._define(
            f"static void {name}_change(dz_base *base, const uint64_t *row, int64_t weight)",
            change,
            "Shows a row of a part, or takes it back.",
        )
        lines = [
            "node *n = (node *)base;",
            f"dz_table *groups = &n->{name}_groups.rows, *shown = &n->{name}_shown.rows;",
            words(row, "part"),
            words(row, "old"),
            f"bool there = groups->count && {name}_part(base, {self._entry('0')}, part), stays = false;",
            "dz_delta showed = {0};",
            f"dz_zset_entries(base, shown, &{row.shape}, DZ_ZSET_EXTRA, &showed);",
            "for (uint32_t at = 0; at < showed.count; at++) {",
            f"    const uint64_t *row = dz_delta_row(&showed, &{row.shape}, at);",
            f"    int64_t weight = dz_delta_weight(&showed, &{row.shape}, at);",
            f"    bool same = there && dz_row_equal(&{row.shape}, row, part);",
            "    stays |= same;",
            f"    if (weight != same) {name}_change(base, row, same - weight);",
            "}",
            f"if (there && !stays) {name}_change(base, part, 1);",
            f"dz_delta_free(base, &showed, &{row.shape});",
            "uint64_t first = 0;",
            f"if (!there && groups->count) {name}_forget(base, &first, 1);",
            "(void)old;",
        ]
        self._define(
            f"static void {name}_show_part(dz_base *base)",
            [line for line in lines if "old" not in line],
            "Replaces what is shown of this node's part by what is right now.",
        )
        same = [
            "node *n = (node *)base;",
            f"dz_table *groups = &n->{name}_groups.rows, *shown = &n->{name}_shown.rows;",
            words(row, "part"),
            f"*there = groups->count && {name}_part(base, {self._entry('0')}, part);",
            "if (shown->count != *there) return false;",
            f"return !*there || dz_kept_weight(&n->{name}_shown, &{row.shape}, part) == 1;",
        ]
        self._define(
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
                f"        {self.group} *group = {self._entry(f'n->{name}_touched.words[at]')};",
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
            f"        __builtin_prefetch({self._entry('touched->words[at + DZ_AHEAD]')});",
            f"    if ({name}_show(base, touched->words[at])) touched->words[gone++] = touched->words[at];",
            "}",
            f"{name}_forget(base, touched->words, gone);",
            "touched->count = 0;",
        ]
        self._define(f"static void {name}_run(dz_base *base)", lines, "The change of the groups' rows.")
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

    # ---- what is kept -------------------------------------------------------------------------------------

    def _values_tables(self) -> None:
        """Tables of the values of minima and maxima."""
        for a in self.extremes:
            state = self.tables[f"values/{a.number}"]
            member = f"{self.name}_values{a.number}"
            table = self.plan_text.tuple(member, state.row_type.types, state.row_type.names)
            self.out.members.append(f"dz_kept {member};")
            self.out.free.append(f"dz_kept_free(base, &n->{member}, &{table.shape}, DZ_ZSET_EXTRA);")
            if self.phase is Phase.PARTIAL:
                kept = zset_table(f"n->{member}", table)
                load = [
                    "uint64_t key[1] = {0};",
                    f"{self.group} *group = {self.name}_group(base, key, dz_row_hash(&{self.key.shape}, key), DZ_GROUP_LOADED, &n->{self.name}_loaded);",
                    f"{a.add(f'entry[{table.word(len(table.types) - 1)}]')}",
                ]
                kept.take = "\n".join([kept.take, *load])
                self.out.tables[f"values/{a.number}"] = kept
            else:
                self.out.tables[f"values/{a.number}"] = self._values_table(a, member, table)

    def _values_table(self, a: _Accumulator, member: str, table: Layout) -> Table:
        """Of a whole group's values, which are in the group; `touched` of the `dz_kept` has those that were touched."""
        name, width = self.name, len(self.key.types)
        value = f"entry[{table.word(width)}]"
        value_column = f"words[{table.word(width)}]"
        key_of = [
            words(self.key, "key"),
            pointer(table, "from", "entry"),
            pointer(self.key, "to", "key", const=False),
            *assign(self.key, "to", [(table, "from", i) for i in range(width)]),
        ]
        entry_of = [
            pointer(table, "to", "words", const=False),
            *assign(table, "to", [*columns_of(self.key, "(&group->key)"), (table, "to", width)]),
        ]
        entry_of = [line for line in entry_of if not line.startswith(f"to->{table.members[width]} =")]
        compose = [*entry_of, f"{value_column} = value;"]
        head = (
            f"static void {name}_value{a.number}(const {self.group} *group, uint64_t value, uint64_t *words)"
        )
        self._define(head, compose, "The entry of a value of a group.")
        note = [
            "node *n = (node *)base;",
            f"if (!n->{member}.tracked) return;",
            words(table, "entry"),
            f"{name}_value{a.number}(group, value, entry);",
            f"dz_kept_note(base, &n->{member}, &{table.shape}, entry, dz_row_hash(&{table.shape}, entry), NULL);",
        ]
        head = f"static inline void {name}_note{a.number}(dz_base *base, const {self.group} *group, uint64_t value)"
        self._define(head, note, "Notes that a value is touched.")
        find = [
            "node *n = (node *)base;",
            *key_of,
            f"const {self.group} *group = (const {self.group} *)dz_table_find(&n->{name}_groups.rows, &{self.key.shape}, {self.extra}, key,",
            f"    dz_row_hash(&{self.key.shape}, key));",
            f"return group ? dz_values_count(&group->{a.name}, {a.compare}, {value}) : 0;",
        ]
        self._define(
            f"static int64_t {name}_times{a.number}(dz_base *base, const uint64_t *entry)",
            find,
            "How often a value is there.",
        )
        entries = [
            "dz_cursor cursor;",
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++) {{",
            f"    const {self.group} *group = {self._entry('at')};",
            f"    for (const uint64_t *value = dz_cursor_first(&cursor, &group->{a.name}, DZ_VALUE_WORDS); value;",
            "         value = dz_cursor_next(&cursor, DZ_VALUE_WORDS))",
            f"        {name}_value{a.number}(group, *value, dz_delta_place(base, out, &{table.shape}, (int64_t)value[1]));",
            "}",
        ]
        touched = [
            f"for (uint32_t at = 0; at < n->{member}.touched.count; at++) {{",
            f"    const uint64_t *entry = dz_table_entry(&n->{member}.touched, &{table.shape}, 0, at);",
            f"    int64_t times = {name}_times{a.number}(base, entry);",
            f"    dz_delta_add(base, times ? puts : gone, &{table.shape}, entry, times ? times : 1);",
            "}",
        ]
        get = [
            f"int64_t times = {name}_times{a.number}(base, key);",
            f"if (times) dz_delta_add(base, out, &{table.shape}, key, times);",
            "return times != 0;",
        ]
        take = [
            *key_of,
            f"{self.group} *group = {name}_group(base, key, dz_row_hash(&{self.key.shape}, key), DZ_GROUP_LOADED, &n->{name}_loaded);",
            a.add(value),
        ]
        track = f"dz_kept_track(base, &n->{member}, &{table.shape});"
        return Table(
            table, table, "\n".join(entries), "\n".join(touched), "\n".join(get), track, "\n".join(take)
        )

    def _groups_table(self) -> None:
        """The table of groups: key, number of rows, accumulators that are sums, encoded."""
        name, width = self.name, len(self.key.types)
        state = self.tables["groups"]
        table = self.plan_text.tuple(f"{name}_saved", state.row_type.types, state.row_type.names)
        rows = table.word(width)
        compose = [
            "char bytes[DZ_SUM_BYTES_MAX];",
            "(void)bytes;",
            pointer(table, "to", "words", const=False),
            *assign(table, "to", columns_of(self.key, "(&group->key)")),
            f"words[{rows}] = (uint64_t)group->rows;",
            *[f"words[{rows + i}] = dz_word_of({a.encoded()});" for i, a in enumerate(self.sums, 1)],
        ]
        self._define(
            f"static void {name}_entry(dz_base *base, const {self.group} *group, uint64_t *words)",
            compose,
            "A group as it is saved.",
        )
        find = [
            f"const {self.group} *group = (const {self.group} *)dz_table_find(&n->{name}_groups.rows, &{self.key.shape}, {self.extra}, key,",
            f"    dz_row_hash(&{self.key.shape}, key));",
        ]
        put = f"{name}_entry(base, group, dz_delta_place(base, %s, &{table.shape}, 1));"
        entries = [
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++) {{",
            f"    const {self.group} *group = {self._entry('at')};",
            f"    {put % 'out'}",
            "}",
        ]
        touched = [
            f"for (uint32_t at = 0; at < n->{name}_groups.touched.count; at++) {{",
            f"    const uint64_t *key = dz_table_entry(&n->{name}_groups.touched, &{self.key.shape}, 0, at);",
            *[f"    {line}" for line in find],
            f"    if (group) {put % 'puts'}",
            f"    else dz_delta_add(base, gone, &{self.key.shape}, key, 1);",
            "}",
        ]
        get = [*find, f"if (group) {put % 'out'}", "return group != NULL;"]
        take = [
            words(self.key, "key"),
            pointer(table, "from", "entry"),
            pointer(self.key, "to", "key", const=False),
            *assign(self.key, "to", [(table, "from", i) for i in range(width)]),
            f"{self.group} *group = {name}_group(base, key, dz_row_hash(&{self.key.shape}, key), DZ_GROUP_LOADED, &n->{name}_loaded);",
            f"group->rows = dz_add_weights(base, group->rows, dz_multiply_weights(base, weight, (int64_t)entry[{rows}]));",
            *[line for i, a in enumerate(self.sums, 1) for line in a.merge(f"dz_text_of(entry[{rows + i}])")],
            "if (weight < 0) group->marks |= DZ_GROUP_TAKEN_BACK;",
        ]
        track = f"dz_kept_track(base, &n->{name}_groups, &{self.key.shape});"
        self.out.tables["groups"] = Table(
            table, self.key, "\n".join(entries), "\n".join(touched), "\n".join(get), track, "\n".join(take)
        )

    def _settle(self) -> None:
        """What is shown of the groups that were loaded."""
        name = self.name
        loaded = f"n->{name}_loaded"
        if self.phase is Phase.PARTIAL:
            lines = [
                f"bool {name}_there, {name}_taken_back = false;",
                f"for (uint32_t at = 0; at < {loaded}.count; at++) {{",
                f"    {self.group} *group = {self._entry(f'{loaded}.words[at]')};",
                f"    {name}_taken_back |= (group->marks & DZ_GROUP_TAKEN_BACK) != 0;",
                "    group->marks &= ~(uint64_t)(DZ_GROUP_LOADED | DZ_GROUP_TAKEN_BACK);",
                "}",
                f"{loaded}.count = 0;",
                f"n->{name}_started = {name}_is_shown(base, &{name}_there) && n->{name}_started;",
                f"if (!{name}_there && {name}_taken_back && n->{name}_groups.rows.count) {{",
                "    uint64_t first = 0;",
                f"    {name}_forget(base, &first, 1);",
                "}",
            ]
            self.out.settle = lines
            return
        there = "true" if not self.operator.keys else "group->rows != 0"
        self.out.members.append(f"uint32_t {name}_settled, {name}_gone;")
        body = [
            "node *n = (node *)base;",
            f"dz_words *loaded = &{loaded};",
            f"for (; count && n->{name}_settled < loaded->count; count--, n->{name}_settled++) {{",
            f"    uint64_t place = loaded->words[n->{name}_settled];",
            f"    {self.group} *group = {self._entry('place')};",
            f"    {self.results.struct} result;",
            f"    bool there = {there}, taken_back = (group->marks & DZ_GROUP_TAKEN_BACK) != 0;",
            f"    int failure = there ? {name}_outcome(group, &result) : 0;",
            "    bool shows = there && !failure;",
            "    group->marks &= ~(uint64_t)(DZ_GROUP_LOADED | DZ_GROUP_TAKEN_BACK);",
            f"    if (shows) dz_row_hold(base, &{self.results.shape}, (uint64_t *)&result);",
            f"    dz_row_drop(base, &{self.results.shape}, (uint64_t *)&group->shown);",
            f"    if (shows) memcpy(&group->shown, &result, {self.results.words * 8});",
            f"    else memset(&group->shown, 0, {self.results.words * 8});",
            "    group->marks = dz_group_show(group->marks, shows, failure);",
            "    if (shows || failure) continue;",
            "    if (!taken_back)",
            '        dz_raise(base, DZ_MALFORMED, "the saved state of an aggregate has a group without rows");',
            f"    loaded->words[n->{name}_gone++] = place;",
            "}",
            f"if (n->{name}_settled < loaded->count) return true;",
            f"{name}_forget(base, loaded->words, n->{name}_gone);",
            f"loaded->count = n->{name}_settled = n->{name}_gone = 0;",
            "return false;",
        ]
        head = f"static bool {name}_settle(dz_base *base, uint32_t count)"
        self._define(head, body, "Shows so many of the groups that were loaded; whether there are more.")
        self.out.settle = [f"more |= {name}_settle(base, count);"]


def zset_table(kept: str, layout: Layout, extra: str = "DZ_ZSET_EXTRA") -> Table:
    """The table of a Z-set, whose rows have `extra` words of payload."""
    return Table(
        layout,
        layout,
        f"dz_zset_entries(base, &{kept}.rows, &{layout.shape}, {extra}, out);",
        f"dz_zset_touched(base, &{kept}, &{layout.shape}, {extra}, puts, gone);",
        f"return dz_zset_get(base, &{kept}, &{layout.shape}, {extra}, key, out);",
        f"dz_kept_track(base, &{kept}, &{layout.shape});",
        f"dz_kept_take(base, &{kept}, &{layout.shape}, entry, weight);",
    )
