"""The groups of an aggregate, as C: their struct, what is shown of them, and the tables of the state that they are.

A group is an entry of a `dz_table`: the words of its key, how many rows, marks, the words of the accumulators, and the
result that is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.compiler import plan as plans
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import Phase
from dist_zero.native.accumulating import Accumulator
from dist_zero.native.layout import Layout
from dist_zero.native.text import (
    OperatorText,
    PlanText,
    Table,
    assign,
    columns_of,
    function,
    pointer,
    words,
    zset_table,
)
from dist_zero.state import is_plain_count, state_tables


class GroupText:
    """The text of the groups of one aggregate. What it renders goes to `out`."""

    def __init__(self, text: PlanText, operator: plans.Reduce) -> None:
        self.text, self.operator = text, operator
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
        self.accumulators: list[Accumulator] = []
        for number, aggregation in enumerate(operator.aggregations):
            plain = not final and is_plain_count(aggregation)
            self.accumulators.append(Accumulator(number, aggregation, plain, fed, members[number]))
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

    @property
    def extra(self) -> str:
        """How many words a group has behind its key."""
        return f"{self.name}_EXTRA"

    def entry(self, at: str) -> str:
        """The group at a place."""
        table = f"&n->{self.name}_groups.rows"
        return f"({self.group} *)dz_table_entry({table}, &{self.key.shape}, {self.extra}, (uint32_t){at})"

    def lookup(self, key: str, mark: str, list_: str, hash_: str = "") -> str:
        """The statement that finds the group of a key, new perhaps, puts the mark on it, and it on the list."""
        hash_ = hash_ or f"dz_row_hash(&{self.key.shape}, {key})"
        arguments = f"{key}, {hash_}, {mark},\n    &n->{self.name}_{list_}"
        return f"{self.group} *group = {self.name}_group(base, {arguments});"

    def find(self) -> list[str]:
        """Statements that find the group of `key`; NULL: there is none."""
        arguments = f"&n->{self.name}_groups.rows, &{self.key.shape}, {self.extra},"
        return [
            f"const {self.group} *group = (const {self.group} *)dz_table_find({arguments}",
            f"    key, dz_row_hash(&{self.key.shape}, key));",
        ]

    @property
    def group(self) -> str:
        """The struct of a group."""
        return f"group_{self.name}"

    def declare_group(self) -> None:
        """The struct of a group."""
        lines = [
            f"    {self.key.struct} key;",
            "    int64_t rows;",
            "    uint64_t marks;",
            *[f"    {a.member}" for a in self.accumulators if not a.plain],
            f"    {self.results.struct} shown;",
        ]
        self.text.declarations.append(
            f"/* A group of {self.text.title(self.operator)}. */\ntypedef struct {{\n"
            + "\n".join(lines)
            + f"\n}} {self.group};\n\n"
            + f"enum {{ {self.extra} = (sizeof({self.group}) - sizeof({self.key.struct})) / 8 }};\n"
        )

    def define(self, head: str, lines: Sequence[str], comment: str) -> None:
        """Adds a function."""
        self.out.functions.append(function(head, lines, comment))

    def free_group(self) -> None:
        """The function that gives back what a group holds."""
        frees = [a.free() for a in self.fed if a.free()]
        lines = [*frees, f"dz_row_drop(base, &{self.results.shape}, (uint64_t *)&group->shown);"]
        self.define(
            f"static void {self.name}_free(dz_base *base, {self.group} *group)",
            lines,
            "What a group holds goes.",
        )

    def outcome(self) -> None:
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
        self.define(head, lines, "The results of a group, or why it has none.")

    def emit_group(self) -> None:
        """The function that emits the row that a group shows."""
        columns = [*columns_of(self.key, "(&group->key)"), *columns_of(self.results, "(&group->shown)")]
        lines = [
            words(self.row, "row"),
            pointer(self.row, "to", "row", const=False),
            *assign(self.row, "to", columns),
            f"{self.name}_emit(base, row, weight);",
        ]
        head = f"static inline void {self.name}_say(dz_base *base, const {self.group} *group, int64_t weight)"
        self.define(head, lines, "Emits the row that a group shows.")

    def encode(self) -> None:
        """The function that makes the row of a part: all accumulators, encoded."""
        lines = [
            "char bytes[DZ_SUM_BYTES_MAX];",
            "(void)bytes;",
            f"if (group->rows == 0 && {' && '.join(a.is_nothing() for a in self.accumulators) or '1'}) return false;",
            *[f"row[{self.row.word(a.number)}] = dz_word_of({a.encoded()});" for a in self.accumulators],
            "return true;",
        ]
        head = f"static bool {self.name}_part(dz_base *base, const {self.group} *group, uint64_t *row)"
        self.define(head, lines, "The row of a part; false: there is nothing in it.")

    def touch(self) -> None:
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
        self.define(
            head, lines, "The group of a key, new perhaps; with the mark and on the list, if it was not yet."
        )

    def forget(self) -> None:
        """The function that removes groups."""
        name = self.name
        lines = [
            "node *n = (node *)base;",
            "count = dz_places_from_the_end(places, count);",
            "for (uint32_t at = 0; at < count; at++) {",
            f"    {self.group} *group = {self.entry('places[at]')};",
            f"    {name}_free(base, group);",
            f"    dz_table_remove(base, &n->{name}_groups.rows, &{self.key.shape}, {self.extra}, (uint64_t *)group);",
            "}",
        ]
        self.define(
            f"static void {name}_forget(dz_base *base, uint64_t *places, uint32_t count)",
            lines,
            "Removes the groups at these places.",
        )

    def values_tables(self) -> None:
        """Tables of the values of minima and maxima."""
        for a in self.extremes:
            state = self.tables[f"values/{a.number}"]
            member = f"{self.name}_values{a.number}"
            table = self.text.tuple(member, state.row_type.types, state.row_type.names)
            self.out.members.append(f"dz_kept {member};")
            self.out.free.append(f"dz_kept_free(base, &n->{member}, &{table.shape}, DZ_ZSET_EXTRA);")
            if self.phase is Phase.PARTIAL:
                kept = zset_table(f"n->{member}", table)
                load = [
                    "uint64_t key[1] = {0};",
                    self.lookup("key", "DZ_GROUP_LOADED", "loaded"),
                    f"{a.add(f'entry[{table.word(len(table.types) - 1)}]')}",
                ]
                kept.take = "\n".join([kept.take, *load])
                self.out.tables[f"values/{a.number}"] = kept
            else:
                self.out.tables[f"values/{a.number}"] = self.values_table(a, member, table)

    def values_table(self, a: Accumulator, member: str, table: Layout) -> Table:
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
        self.define(head, compose, "The entry of a value of a group.")
        note = [
            "node *n = (node *)base;",
            f"if (!n->{member}.tracked) return;",
            words(table, "entry"),
            f"{name}_value{a.number}(group, value, entry);",
            f"dz_kept_note(base, &n->{member}, &{table.shape}, entry, dz_row_hash(&{table.shape}, entry), NULL);",
        ]
        head = f"static inline void {name}_note{a.number}(dz_base *base, const {self.group} *group, uint64_t value)"
        self.define(head, note, "Notes that a value is touched.")
        find = [
            "node *n = (node *)base;",
            *key_of,
            *self.find(),
            f"return group ? dz_values_count(&group->{a.name}, {a.compare}, {value}) : 0;",
        ]
        self.define(
            f"static int64_t {name}_times{a.number}(dz_base *base, const uint64_t *entry)",
            find,
            "How often a value is there.",
        )
        entries = [
            "dz_cursor cursor;",
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++) {{",
            f"    const {self.group} *group = {self.entry('at')};",
            f"    for (const uint64_t *value = dz_cursor_first(&cursor, &group->{a.name}, DZ_VALUE_WORDS); value;",
            "         value = dz_cursor_next(&cursor, DZ_VALUE_WORDS))",
            f"        {name}_value{a.number}(group, *value,",
            f"            dz_delta_place(base, out, &{table.shape}, (int64_t)value[1]));",
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
            self.lookup("key", "DZ_GROUP_LOADED", "loaded"),
            a.add(value),
        ]
        track = f"dz_kept_track(base, &n->{member}, &{table.shape});"
        return Table(
            table, table, "\n".join(entries), "\n".join(touched), "\n".join(get), track, "\n".join(take)
        )

    def groups_table(self) -> None:
        """The table of groups: key, number of rows, accumulators that are sums, encoded."""
        name, width = self.name, len(self.key.types)
        state = self.tables["groups"]
        table = self.text.tuple(f"{name}_saved", state.row_type.types, state.row_type.names)
        rows = table.word(width)
        compose = [
            "char bytes[DZ_SUM_BYTES_MAX];",
            "(void)bytes;",
            pointer(table, "to", "words", const=False),
            *assign(table, "to", columns_of(self.key, "(&group->key)")),
            f"words[{rows}] = (uint64_t)group->rows;",
            *[f"words[{rows + i}] = dz_word_of({a.encoded()});" for i, a in enumerate(self.sums, 1)],
        ]
        self.define(
            f"static void {name}_entry(dz_base *base, const {self.group} *group, uint64_t *words)",
            compose,
            "A group as it is saved.",
        )
        find = self.find()
        put = f"{name}_entry(base, group, dz_delta_place(base, %s, &{table.shape}, 1));"
        entries = [
            f"for (uint32_t at = 0; at < n->{name}_groups.rows.count; at++) {{",
            f"    const {self.group} *group = {self.entry('at')};",
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
            self.lookup("key", "DZ_GROUP_LOADED", "loaded"),
            f"int64_t rows = dz_multiply_weights(base, weight, (int64_t)entry[{rows}]);",
            "group->rows = dz_add_weights(base, group->rows, rows);",
            *[line for i, a in enumerate(self.sums, 1) for line in a.merge(f"dz_text_of(entry[{rows + i}])")],
            "if (weight < 0) group->marks |= DZ_GROUP_TAKEN_BACK;",
        ]
        track = f"dz_kept_track(base, &n->{name}_groups, &{self.key.shape});"
        self.out.tables["groups"] = Table(
            table, self.key, "\n".join(entries), "\n".join(touched), "\n".join(get), track, "\n".join(take)
        )

    def settle(self) -> None:
        """What is shown of the groups that were loaded."""
        name = self.name
        loaded = f"n->{name}_loaded"
        if self.phase is Phase.PARTIAL:
            lines = [
                f"bool {name}_there, {name}_taken_back = false;",
                f"for (uint32_t at = 0; at < {loaded}.count; at++) {{",
                f"    {self.group} *group = {self.entry(f'{loaded}.words[at]')};",
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
            f"    {self.group} *group = {self.entry('place')};",
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
        self.define(head, body, "Shows so many of the groups that were loaded; whether there are more.")
        self.out.settle = [f"more |= {name}_settle(base, count);"]
