"""What the parts of the renderer have in common: the C text of a plan while it grows.

`PlanText` knows the layouts of rows, the functions that were rendered already, which rows are left out where, and how a
row comes from one operator to another. Operators write themselves (`stateless.py`, `stateful.py`, `reducing.py`,
`ends.py`), and `render.py` puts all of it together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dist_zero.compiler import plan as plans
from dist_zero.compiler.plan import Operator, Plan
from dist_zero.expr.functions import may_fail
from dist_zero.expr.ops import Scalar
from dist_zero.native.layout import Layout, is_text, layout_of, tuple_layout
from dist_zero.native.scalars import Constants, predicate_function, tuple_function
from dist_zero.types import DataType, Kind, RowType

ROW = "const uint64_t *row, int64_t weight"
"""The parameters of whatever takes a row, behind the base."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A place where an operator leaves rows out, which are collected by place. `what`: which expressions fail on them:
    "row", or of a join "left", "right", "pair"; or "group": what is left out is a group's key, for this `reason`."""

    operator: int
    what: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """From `source` to input number `place` of `target`. `waits`: what comes in is kept by epoch until `stage`, in
    which the target takes it; a sink takes it when the epoch is finished."""

    source: int
    target: int
    place: int
    stage: int
    waits: bool

    @property
    def name(self) -> str:
        """The member of the node where it waits."""
        return f"op{self.source}_to_op{self.target}" + (f"_{self.place}" if self.place else "")


@dataclass(slots=True)
class Table:
    """A table of the state: the bodies of the functions that `saving.h` wants, in which `n` is the node."""

    entry: Layout
    key: Layout
    entries: str
    touched: str
    get: str
    track: str
    take: str


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


@dataclass(slots=True)
class OperatorText:
    """What one operator becomes. `inputs`: by input, the statements that take a row of it (`row`, `weight`);
    `collects`: by input, the delta to which they do no more than add it."""

    members: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    inputs: dict[int, list[str]] = field(default_factory=dict)
    collects: dict[int, str] = field(default_factory=dict)
    run: list[str] = field(default_factory=list)
    """Statements in its own stage, or of an exchange in the one before."""
    settle: list[str] = field(default_factory=list)
    """Statements behind the loading of its tables."""
    free: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    """By the last part of their names."""

    def collect(self, place: int, delta: str, layout: Layout) -> None:
        """The rows of this input are added to a delta of the node."""
        self.members.append(f"dz_delta {delta};")
        self.collects[place] = f"n->{delta}"
        self.inputs[place] = [f"dz_delta_add(base, &n->{delta}, &{layout.shape}, row, weight);"]
        self.free.append(f"dz_delta_free(base, &n->{delta}, &{layout.shape});")


class PlanText:
    """The text of a plan, piece by piece."""

    def __init__(self, plan: Plan, labelled: bool) -> None:
        self.plan, self._labelled = plan, labelled
        self.declarations: list[str] = []
        self.left_out: list[LeftOut] = []
        self.left_out_layouts: list[Layout] = []
        self.constants = Constants()
        self.keyed: dict[int, KeyedLayouts] = {}
        """By source and sink with a key, how its rows are kept."""
        self._layouts: dict[RowType, Layout] = {}
        self._names: set[str] = set()
        self._readers: dict[tuple[DataType, ...], str] = {}
        self.helpers: list[str] = []
        """Functions in front of those of the operators."""
        self.edges = [edge for operator in plan.operators for edge in _edges_into(plan, operator)]

    def title(self, operator: Operator) -> str:
        """What an operator is called in comments."""
        kind = type(operator).__name__.lower()
        phase = f" ({operator.phase.value})" if isinstance(operator, plans.Reduce) else ""
        label = f": {operator.label}" if self._labelled and operator.label else ""
        return in_comment(f"#{operator.id} {kind}{phase}{label}")

    def row(self, operator: Operator) -> Layout:
        """The layout of an operator's rows. Operators with equal row types share it."""
        return self.layout(operator.row_type, f"op{operator.id}")

    def input(self, operator: Operator, place: int = 0) -> Layout:
        """The layout of the rows that come in."""
        return self.row(self.plan.operators[operator.inputs[place]])

    def layout(self, row_type: RowType, name: str) -> Layout:
        """The layout of a row type, declared the first time under this name."""
        found = self._layouts.get(row_type)
        if found is None:
            found = self._layouts[row_type] = self._declared(layout_of(name, row_type))
        return found

    def tuple(self, name: str, types: Sequence[DataType], names: Sequence[str] = ()) -> Layout:
        """The layout of a tuple of values that is no row of the program."""
        return self._declared(tuple_layout(name, types, names))

    def unnamed(self, types: Sequence[DataType], names: Sequence[str]) -> Layout:
        """The layout of values that lie in a struct of the runtime's own."""
        return tuple_layout("", types, names)

    def scalars(self, name: str, scalars: Sequence[Scalar], source: Layout, out: Layout) -> bool:
        """Renders the function `name` that computes these of a row. Whether it can fail."""
        self.helpers.append(tuple_function(name, scalars, [source], out, self.constants))
        return any(map(may_fail, scalars))

    def predicate(self, name: str, predicate: Scalar, rows: Sequence[Layout]) -> bool:
        """Renders the function `name` that says whether this is true of a row, or of rows. Whether it can fail."""
        self.helpers.append(predicate_function(name, predicate, rows, self.constants))
        return may_fail(predicate)

    def _declared(self, layout: Layout) -> Layout:
        assert layout.name not in self._names
        self._names.add(layout.name)
        self.declarations.append(layout.declaration())
        return layout

    def leaves_out(self, place: LeftOut, layout: Layout) -> int:
        """The number of a place where rows of this layout are left out."""
        self.left_out.append(place)
        self.left_out_layouts.append(layout)
        return len(self.left_out) - 1

    def report(self, place: LeftOut, layout: Layout, row: str = "row", weight: str = "weight") -> str:
        """The statement that reports a row that is left out at this place."""
        number = self.leaves_out(place, layout)
        return f"dz_delta_add(base, &n->left_out[{number}], &{layout.shape}, {row}, {weight});"

    def reader(self, layout: Layout) -> str:
        """The name of the function that makes a row of the columns of a batch."""
        found = self._readers.get(layout.types)
        if found is None:
            found = self._readers[layout.types] = f"read_{layout.name}"
            self.helpers.append(_reader_text(found, layout))
        return found

    def outgoing(self, operator: Operator) -> list[Edge]:
        """Where an operator's rows go."""
        return [edge for edge in self.edges if edge.source == operator.id]


def _edges_into(plan: Plan, operator: Operator) -> Iterator[Edge]:
    is_exchange, is_sink = isinstance(operator, plans.Exchange), isinstance(operator, plans.Sink)
    stage = operator.stage - is_exchange
    for place, number in enumerate(operator.inputs):
        yield Edge(number, operator.id, place, stage, is_sink or plan.operators[number].stage < stage)


# ---- rows --------------------------------------------------------------------------------------------------


Column = tuple[Layout, str, int]
"""A column of a row that is at hand: its layout, the name of a pointer to the struct, the place of the column."""


def assign(target: Layout, to: str, columns: Sequence[Column]) -> list[str]:
    """Statements that write all columns of a row. Where a column's null has no place in the target, it gets lost."""
    lines = []
    for word in range(target.null_words):
        parts = [
            f"{layout.null(pointer, column)} << {place % 64}"
            for place, (layout, pointer, column) in enumerate(columns)
            if place // 64 == word and layout.types[column].nullable
        ]
        lines.append(f"{target.null_word(to, word)} = {' | '.join(parts) or 0};")
    lines += [
        f"{target.value(to, place)} = {layout.value(pointer, column)};"
        for place, (layout, pointer, column) in enumerate(columns)
    ]
    return lines


def columns_of(layout: Layout, pointer: str) -> list[Column]:
    """All columns of a row at hand."""
    return [(layout, pointer, column) for column in range(len(layout.types))]


def pointer(layout: Layout, name: str, words: str, const: bool = True) -> str:
    """The statement that gives words the type of their struct."""
    qualifier = "const " if const else ""
    return f"{qualifier}{layout.struct} *{name} = ({qualifier}{layout.struct} *)({words});"


def words(layout: Layout, name: str) -> str:
    """The statement that declares room for a row."""
    return f"uint64_t {name}[{layout.words}];" if layout.words else f"uint64_t {name}[1] = {{0}};"


def copier(name: str, source: Layout, target: Layout) -> str:
    """A function that makes a row of the target of one of the source, whose columns are the same but for nulls. It says
    whether there is one."""
    lost = [
        source.null("from", i)
        for i, (a, b) in enumerate(zip(source.types, target.types, strict=True))
        if a.nullable and not b.nullable
    ]
    lines = [pointer(source, "from", "row"), pointer(target, "to", "copy", const=False)]
    if lost:
        lines.append(f"if ({' || '.join(lost)}) return false;")
    lines += [*assign(target, "to", columns_of(source, "from")), "return true;"]
    return function(f"static inline bool {name}(const uint64_t *row, uint64_t *copy)", lines)


def function(head: str, lines: Sequence[str], comment: str = "") -> str:
    """A function; parameters that its statements do not look at are said to be unused."""
    written = _needed([line for text in lines for line in text.split("\n")])
    names = _PARAMETER.findall(head.split("(", 1)[1])
    silent = [name for name in names if not any(re.search(rf"\b{name}\b", line) for line in written)]
    if silent:
        written = [f"(void){', (void)'.join(silent)};", *written]
    body = "\n".join(f"    {line}" if line else "" for line in written)
    return (f"/* {comment} */\n" if comment else "") + f"{head}\n{{\n{body}\n}}\n"


_PARAMETER = re.compile(r"(\w+)(?=[,)])")
_POINTER = re.compile(r" *(?:const )?row_\w+ \*(\w+) = ")


def _needed(lines: Sequence[str]) -> list[str]:
    """Statements without those that give a row the type of its struct where nobody looks at it by that name."""
    needed = []
    for place, line in enumerate(lines):
        named = _POINTER.match(line)
        name = rf"\b{named[1]}\b" if named else ""
        if not named or any(re.search(name, other) for at, other in enumerate(lines) if at != place):
            needed.append(line)
    return needed


def in_comment(text: str) -> str:
    """Text of the user's that may stand in a comment."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("\n", " ")


def _reader_text(name: str, layout: Layout) -> str:
    lines = [pointer(layout, "to", "row", const=False)]
    lines += [f"{layout.null_word('to', word)} = 0;" for word in range(layout.null_words)]
    for place, dtype in enumerate(layout.types):
        column = f"&batch->columns[{place}]"
        if is_text(dtype):
            value = f"dz_text_of(dz_column_text(base, {column}, at))"
            lines += (
                _read_text(layout, place, column, value) if dtype.nullable else [_set(layout, place, value)]
            )
            continue
        word = f"{'dz_column_bool' if dtype.kind is Kind.BOOL else 'dz_column_word'}({column}, at)"
        lines.append(f"row[{layout.word(place)}] = {word};")
        if dtype.nullable:
            null = f"(uint64_t)!dz_is_present({column}, at) << {place % 64}"
            lines.append(f"{layout.null_word('to', place // 64)} |= {null};")
    head = f"static inline void {name}(dz_base *base, const dz_batch *batch, uint32_t at, uint64_t *row)"
    used = lines if any("to->" in line for line in lines) else lines[1:]
    return function(head, used, "A row of a batch.")


def _set(layout: Layout, place: int, value: str) -> str:
    return f"{layout.value('to', place)} = {value};"


def _read_text(layout: Layout, place: int, column: str, value: str) -> list[str]:
    return [
        f"if (dz_is_present({column}, at))",
        f"    {_set(layout, place, value)}",
        "else {",
        f"    {_set(layout, place, 'NULL')}",
        f"    {layout.null_word('to', place // 64)} |= (uint64_t)1 << {place % 64};",
        "}",
    ]


@dataclass(frozen=True, slots=True)
class KeyedLayouts:
    """How rows with a key are kept: `name` is the `dz_keyed_type` in C."""

    name: str
    row: Layout
    key: Layout
    rest: Layout


def keyed_type(text: PlanText, operator: Operator, key: Sequence[int]) -> KeyedLayouts:
    """Declares how the rows of a source or sink are kept by their key."""
    name, row = f"op{operator.id}", text.row(operator)
    names, types = operator.row_type.names, operator.row_type.types
    others = [place for place in range(len(types)) if place not in key]
    key_layout = text.tuple(f"{name}_key", [types[i] for i in key], [names[i] for i in key])
    rest = text.tuple(f"{name}_rest", [types[i] for i in others], [names[i] for i in others])
    where = {place: (key_layout, "key", i) for i, place in enumerate(key)}
    where |= {place: (rest, "rest", i) for i, place in enumerate(others)}
    parts = [
        pointer(row, "to", "row", const=False),
        pointer(key_layout, "key", "entry"),
        pointer(rest, "rest", f"entry + {key_layout.words}"),
    ]
    join = [*parts, *assign(row, "to", [where[i] for i in range(len(types))])]
    split = [
        pointer(row, "from", "row"),
        pointer(key_layout, "key", "entry", const=False),
        pointer(rest, "rest", f"entry + {key_layout.words}", const=False),
        *assign(key_layout, "key", [(row, "from", i) for i in key]),
        *assign(rest, "rest", [(row, "from", i) for i in others]),
    ]
    text.helpers += [
        function(f"static inline void {name}_split(const uint64_t *row, uint64_t *entry)", split),
        function(f"static inline void {name}_join(const uint64_t *entry, uint64_t *row)", join),
        f"static const dz_keyed_type {name}_type = {{\n    .row = &{row.shape}, .key = &{key_layout.shape},"
        f" .rest = &{rest.shape},\n    .split = {name}_split, .join = {name}_join,\n}};\n",
    ]
    layouts = text.keyed[operator.id] = KeyedLayouts(f"{name}_type", row, key_layout, rest)
    return layouts
