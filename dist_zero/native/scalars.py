"""Scalars as C functions: over a row as words, a tuple of values, a condition, or the order of two rows.

A function is a list of statements in the order of evaluation. Each operation becomes a local variable, named after it,
and if it may be null another one that says whether it is; so nothing is computed twice, and what cannot fail and is
not null is a plain C expression. A strict operation evaluates its arguments, all of them, and only then is null if
one of them is; the lazy ones (`and`, `or`, `coalesce`, `case`) put what need not be evaluated into blocks, if it can
fail or takes time. A failure returns its reason at once; nothing has been written then.

The functions take the node's base as `b`. Texts that stand in the program are interned once per node: `Constants` has
the member of `struct node` for them, and what fills it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dist_zero.expr.functions import FUNCTIONS, cast_may_fail
from dist_zero.expr.ops import Call, ColumnRef, Literal, Scalar
from dist_zero.native.layout import Layout, is_text
from dist_zero.native.scalar_forms import Way, comment, constant, form_of, nothing, string, word_constant
from dist_zero.reference.functions import value_arguments
from dist_zero.types import DataType, Kind
from dist_zero_common.errors import InternalError

REASONS = ("", "integer overflow", "decimal overflow", "division by zero", "cast", "out of range")
"""The reasons of failures by the numbers that the functions return; 0 is none."""

_EAGER_MAX = 8
"""A lazy operation of more arguments is in blocks, even if it could be one expression."""
_NAME = re.compile(r"(?<![>.])\b[A-Za-z_]\w*")  # no member
_COMMENT = re.compile(r"/\*.*?\*/")
_NEGATED = re.compile(r"\(!(\w+)\)")
_C_TYPES: dict[Kind, str] = {
    Kind.BOOL: "bool ",
    Kind.FLOAT: "double ",
    Kind.STR: "dz_text *",
    Kind.BYTES: "dz_text *",
}


class Constants:
    """The texts of a program, each with its place in a node's table of them."""

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._runs: dict[tuple[bytes, ...], int] = {}

    def text(self, value: str | bytes) -> str:
        """An expression for a text, within a function of this module."""
        data = _encoded(value)
        if data not in self._places:
            self._places[data] = len(self._values)
            self._values.append(data)
        return f"texts[{self._places[data]}] {comment(value)}"

    def run(self, values: Sequence[str | bytes]) -> str:
        """An expression for a pointer to the first of several texts, which stand one behind the other."""
        data = tuple(map(_encoded, values))
        if data not in self._runs:
            self._runs[data] = len(self._values)
            self._values += data
        return f"texts + {self._runs[data]}"

    def member(self) -> str:
        """The member of `struct node`, to be asked for when all functions are rendered."""
        return f"dz_text *texts[{max(1, len(self._values))}];"

    def fill(self) -> list[str]:
        """Statements that fill the member of `n`, a node whose base is ready; they may fail. What is held here goes
        with the pool."""
        return [
            f"dz_hold(n->texts[{place}] = dz_intern(&n->base, {string(data)}, {len(data)}));"
            for place, data in enumerate(self._values)
        ]


def tuple_function(
    name: str, scalars: Sequence[Scalar], rows: Sequence[Layout], out: Layout, constants: Constants
) -> str:
    """`static inline int NAME(dz_base *b, const uint64_t *row, uint64_t *out)`: writes the row of the values, or
    returns why there is none, and then has written nothing. With several `rows` (the sides of a join), whose columns
    are numbered through, there are as many parameters, `row1` and so on."""
    body = _Body(rows, constants)
    values = [body.value(scalar) for scalar in scalars]
    for word in range(out.null_words):
        # A null word per 64 columns, made of those that can be null.
        nulls = [
            _shifted(value.null, column % 64)
            for column, value in enumerate(values)
            if column // 64 == word and value.null != "0"
        ]
        body.write(f"{out.null_word('to', word)} = {' | '.join(nulls) or '0'};")
    for column, (scalar, value) in enumerate(zip(scalars, values, strict=True)):
        if value.null != "0" and not out.types[column].nullable:
            raise InternalError(f"column {column} of {name} can be null and must not")
        body.write(f"{out.value('to', column)} = {_stored(scalar, value)};")
    return body.function(name, "uint64_t *out", [(f"{out.struct} *to", f"({out.struct} *)out")])


def predicate_function(name: str, predicate: Scalar, rows: Sequence[Layout], constants: Constants) -> str:
    """`static inline int NAME(dz_base *b, const uint64_t *row, bool *out)`: whether the predicate is true, neither
    false nor null. `rows` as for `tuple_function`."""
    body = _Body(rows, constants)
    body.write(f"*out = {_bare(_true(body.value(predicate)))};")
    return body.function(name, "bool *out", [])


def compare_function(name: str, rows: Sequence[Layout], order: Sequence[tuple[int, bool]]) -> str:
    """`static inline int NAME(const uint64_t *left, const uint64_t *right)`: below 0, 0 or above 0, by (column,
    descending), one behind the other. Nulls are last in both directions, NaN is above all numbers. Several `rows` lie
    one behind the other, and their columns are numbered through."""
    places = [(number, column) for number, row in enumerate(rows) for column in range(len(row.types))]
    lines = []
    for place, descending in order:
        number, column = places[place]
        row = rows[number]
        one, two = (f"left{number + 1}", f"right{number + 1}") if len(rows) > 1 else ("a", "b")
        a, b, dtype = row.value(one, column), row.value(two, column), row.types[column]
        if dtype.nullable:
            is_null, other = row.null(one, column), row.null(two, column)
            lines.append(f"if ({is_null} != {other}) return {is_null} ? 1 : -1;")
        less, differ = f"{a} < {b}", f"{a} != {b}"
        if dtype.kind is Kind.FLOAT:
            less, differ = f"dz_float_lt({a}, {b})", f"!dz_float_eq({a}, {b})"
        elif is_text(dtype):
            less = f"dz_text_compare({a}, {b}) < 0"
        lines.append(f"if ({differ}) return {less} ? {'1 : -1' if descending else '-1 : 1'};")
    used, offset = {places[place][0] for place, _ in order}, 0
    casts = [] if used else ["(void)left, (void)right;"]
    for number, row in enumerate(rows):
        if number in used:
            one, two = (f"left{number + 1}", f"right{number + 1}") if len(rows) > 1 else ("a", "b")
            at = f" + {offset}" if offset else ""
            pair = ((one, f"(left{at})"), (two, f"(right{at})")) if at else ((one, "left"), (two, "right"))
            casts += [f"const {row.struct} *{what} = (const {row.struct} *){words};" for what, words in pair]
        offset += row.words
    head = f"static inline int {name}(const uint64_t *left, const uint64_t *right)"
    return "\n".join([head, "{", *(f"    {line}" for line in (*casts, *lines, "return 0;")), "}", ""])


# ---- values and nulls as C ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    """What has been evaluated: an expression of the type's C type, and one that is 1 if it is null (then the first is
    not looked at), else 0. Both can be repeated."""

    text: str
    null: str = "0"


def _not(a: str) -> str:
    if negated := _NEGATED.fullmatch(a):
        return negated[1]
    return {"0": "1", "1": "0"}.get(a, f"(!{a})")


def _and(a: str, b: str) -> str:
    if "0" in (a, b):
        return "0"
    return b if a == "1" else a if b == "1" else f"({a} & {b})"


def _or(*parts: str) -> str:
    distinct = list(dict.fromkeys(part for part in parts if part != "0"))
    if "1" in distinct:
        return "1"
    return "0" if not distinct else distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"


def _bare(text: str) -> str:
    """Without parentheses around the whole."""
    depth = 0
    for place, c in enumerate(text):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1] if text.startswith("(") else text


def _true(value: _Value) -> str:
    return _and(value.text, _not(value.null))


def _shifted(null: str, place: int) -> str:
    return f"(uint64_t){null} << {place}" if place else f"(uint64_t){null}"


def _stored(scalar: Scalar, value: _Value) -> str:
    """The value as it stands in a row: nothing for null, floats with the one NaN."""
    if isinstance(scalar, ColumnRef):
        return value.text
    kind = scalar.dtype.kind
    text = f"dz_canonical({value.text})" if kind is Kind.FLOAT else value.text
    if value.null == "0":
        return text
    return nothing(scalar.dtype) if value.null == "1" else f"{value.null} ? {nothing(scalar.dtype)} : {text}"


@dataclass(frozen=True, slots=True)
class _Line:
    """A statement at a depth of blocks. One with a `target` only gives that variable a value, and is left out if
    nobody looks at it."""

    depth: int
    text: str
    target: str = ""


class _Body:
    """The statements of a function, and what they have computed."""

    def __init__(self, rows: Sequence[Layout], constants: Constants) -> None:
        self._rows, self._constants = rows, constants
        self._columns = [(row, column) for row in range(len(rows)) for column in range(len(rows[row].types))]
        self._lines: list[_Line] = []
        self._depth = 1
        self._used: Counter[str] = Counter()
        self._numbers: dict[tuple[object, ...], int] = {}
        self._number_of: dict[int, int] = {}
        self._lazy_numbers: set[int] = set()
        self._scopes: list[dict[int, _Value]] = [{}]

    def value(self, scalar: Scalar) -> _Value:
        """Statements that evaluate `scalar`, unless that has been done; and its value."""
        if isinstance(scalar, ColumnRef):
            return self._column(scalar)
        if isinstance(scalar, Literal):
            return self._literal(scalar)
        number = self._number(scalar)
        for scope in self._scopes:
            if number in scope:
                return scope[number]
        lazy = _LAZY.get(scalar.name)
        found = lazy(self, scalar) if lazy is not None else self._strict(scalar)
        self._scopes[-1][number] = found
        return found

    def write(self, text: str, target: str = "") -> None:
        """Add a statement."""
        self._lines.append(_Line(self._depth, text, target))

    def function(self, name: str, out: str, locals_: Sequence[tuple[str, str]]) -> str:
        """The whole function."""
        many = len(self._rows) > 1
        suffixes = [str(i + 1) if many else "" for i in range(len(self._rows))]
        parameters = ["dz_base *b", *(f"const uint64_t *row{s}" for s in suffixes), out]
        pairs = zip(suffixes, self._rows, strict=True)
        declared = [
            *((f"const {row.struct} *in{s}", f"(const {row.struct} *)row{s}") for s, row in pairs),
            ("dz_text *const *texts", "((const node *)b)->texts"),
            *locals_,
        ]
        first = [_Line(1, f"{what} = {how};", _name(what)) for what, how in declared]
        lines = _needed([*first, _Line(1, "int failure;", "failure"), *self._lines])
        text = "\n".join("    " * line.depth + line.text for line in lines)
        seen = set(_NAME.findall(_COMMENT.sub("", text)))
        unused = [f"(void){n};" for n in map(_name, parameters) if n not in seen]
        head = f"static inline int {name}({', '.join(parameters)})"
        parts = [head, "{", *([f"    {' '.join(unused)}"] if unused else []), text, "    return 0;", "}", ""]
        return "\n".join(part for part in parts if part or part is parts[-1])

    # -- leaves --

    def _column(self, scalar: ColumnRef) -> _Value:
        row, column = self._columns[scalar.index]
        pointer = f"in{row + 1}" if len(self._rows) > 1 else "in"
        layout = self._rows[row]
        return _Value(layout.value(pointer, column), layout.null(pointer, column))

    def _literal(self, scalar: Literal) -> _Value:
        if scalar.value is None:
            return _Value(nothing(scalar.dtype), "1")
        if isinstance(scalar.value, str | bytes):
            return _Value(self._constants.text(scalar.value))
        return _Value(constant(scalar.value, scalar.dtype))

    # -- what is known of a scalar --

    def _number(self, scalar: Scalar) -> int:
        """Equal scalars have equal numbers."""
        known = self._number_of.get(id(scalar))
        if known is not None:
            return known
        if isinstance(scalar, Call):
            key: tuple[object, ...] = (scalar.name, scalar.dtype, *map(self._number, scalar.args))
        elif isinstance(scalar, Literal):
            key = (Literal, repr(scalar.value), scalar.dtype)
        else:
            key = (ColumnRef, scalar.index)
        number = self._numbers.setdefault(key, len(self._numbers))
        self._number_of[id(scalar)] = number
        if isinstance(scalar, Call) and (
            self._own_lazy(scalar) or any(self._number_of[id(a)] in self._lazy_numbers for a in scalar.args)
        ):
            self._lazy_numbers.add(number)
        return number

    def _own_lazy(self, call: Call) -> bool:
        if call.name == "cast" and cast_may_fail(call.args[0].dtype, call.dtype):
            return True
        if call.name != "cast" and FUNCTIONS[call.name].fallible(call.args):
            return True
        if call.name in _LAZY:
            return len(call.args) > _EAGER_MAX
        return form_of(call, _NO_TEXTS).heavy

    def _is_lazy(self, scalar: Scalar) -> bool:
        """Whether `scalar` should be evaluated only where it is needed: it can fail, or takes time."""
        return self._number(scalar) in self._lazy_numbers

    # -- statements --

    def _fresh(self, name: str) -> str:
        self._used[name] += 1
        return f"{name}{self._used[name]}"

    def _local(self, name: str, dtype: DataType, text: str, null: str) -> _Value:
        """A variable that has a value from the start, and another for its null."""
        c_type = f"{_c_type(dtype)}const " if is_text(dtype) else f"const {_c_type(dtype)}"
        self.write(f"{c_type}{name} = {_bare(text)};", name)
        return _Value(name, self._null_local(name, null))

    def _null_local(self, name: str, null: str) -> str:
        # What is as short as a name needs none.
        if null in ("0", "1") or _NAME.fullmatch(null):
            return null
        self.write(f"const bool {name}_null = {_bare(null)};", f"{name}_null")
        return f"{name}_null"

    def _open(self, head: str) -> None:
        self.write(f"{head} {{")
        self._depth += 1
        self._scopes.append({})

    def _close(self, tail: str = "") -> None:
        self._scopes.pop()
        self._depth -= 1
        self.write(f"}}{tail}")

    def _strict(self, call: Call) -> _Value:
        arguments = [self.value(argument) for argument in value_arguments(call)]
        null = _or(*(a.null for a in arguments))
        if null == "1":
            return _Value(nothing(call.dtype), "1")
        form, name = form_of(call, self._constants), self._fresh(call.name)
        values = [a.text for a in arguments]
        if form.way is Way.PLAIN:
            return self._local(name, call.dtype, form.text.format(*values), null)
        null = self._null_local(name, null)
        text = form.text.format(*values, out=f"&{name}")
        if form.way is Way.GUARDED:
            if null != "0":
                text = f"{null} ? {nothing(call.dtype)} : {text}"
            return self._local(name, call.dtype, text, null)
        self.write(f"{_c_type(call.dtype)}{name} = {nothing(call.dtype)};")
        guard = "" if null == "0" else f"!{null} && "
        if form.way is Way.OVERFLOWS:
            self.write(f"if ({guard}{text}) return {form.reason};")
        elif guard:
            self.write(f"if ({guard}(failure = {text})) return failure;")
        else:
            self.write(f"if ((failure = {text})) return failure;")
        return _Value(name, null)

    # -- operations that look at nulls, or evaluate only what they need --

    def is_null(self, call: Call) -> _Value:
        """True or false, of anything."""
        return _Value(self.value(call.args[0]).null)

    def logic(self, call: Call) -> _Value:
        """`and` is false if a part is, `or` true if a part is; else null if a part is."""
        conjunction = call.name == "and"
        decided: Callable[[str], str] = _not if conjunction else str
        left, lazy = self.value(call.args[0]), self._is_lazy(call.args[1])
        name = self._fresh(call.name)
        if lazy:
            # Where the left side has decided, this stays.
            self.write(f"bool {name} = {0 if conjunction else 1};", name)
            self.write(f"bool {name}_null = 0;", f"{name}_null")
            self._open(f"if ({_bare(_or(left.null, _not(decided(left.text))))})")
        right = self.value(call.args[1])
        value = _and(left.text, right.text) if conjunction else _or(left.text, right.text)
        null = _or(
            _and(left.null, _or(right.null, _not(decided(right.text)))),
            _and(right.null, _or(left.null, _not(decided(left.text)))),
        )
        if not lazy:
            return self._local(name, call.dtype, value, null)
        self.write(f"{name} = {value};", name)
        self.write(f"{name}_null = {null};", f"{name}_null")
        self._close()
        return _Value(name, "0" if null == "0" else f"{name}_null")

    def coalesce(self, call: Call) -> _Value:
        """The first that is not null."""
        if len(call.args) <= _EAGER_MAX and not any(map(self._is_lazy, call.args[1:])):
            values = [self.value(argument) for argument in call.args]
            text = values[-1].text
            for value in values[-2::-1]:
                text = value.text if value.null == "0" else f"{value.null} ? {text} : {value.text}"
            null = "1"
            for value in values:
                null = _and(null, value.null)
            return self._local(self._fresh("coalesce"), call.dtype, text, null)
        return self._choice(call, [(None, argument) for argument in call.args])

    def case(self, call: Call) -> _Value:
        """The value of the first condition that is true."""
        conditions, results = call.args[:-1:2], [*call.args[1:-1:2], call.args[-1]]
        branches = [*zip(conditions, results, strict=False)]
        if len(call.args) > _EAGER_MAX or any(map(self._is_lazy, call.args[1:])):
            return self._choice(call, [*branches, (None, results[-1])])
        truths, values = [], []
        for condition, result in branches:
            truths.append(_true(self.value(condition)))
            values.append(self.value(result))
        otherwise = self.value(results[-1])
        text, null = otherwise.text, otherwise.null
        can_be_null = any(value.null != "0" for value in (*values, otherwise))
        for truth, value in zip(truths[::-1], values[::-1], strict=True):
            text = f"{truth} ? {value.text} : {text}"
            null = f"{truth} ? {value.null} : {null}" if can_be_null else "0"
        return self._local(self._fresh("case"), call.dtype, text, null)

    def _choice(self, call: Call, branches: Sequence[tuple[Scalar | None, Scalar]]) -> _Value:
        """The first branch whose condition is true; if that is None, whose value is not null; or the last one."""
        name = self._fresh(call.name)
        self.write(f"{_c_type(call.dtype)}{name} = {nothing(call.dtype)};", name)
        self.write(f"bool {name}_null = 1;", f"{name}_null")
        self._open("do")
        nulls = []
        for place, (condition, result) in enumerate(branches):
            last = place == len(branches) - 1
            if condition is not None:
                self._open(f"if ({_bare(_true(self.value(condition)))})")
            value = self.value(result)
            if condition is None and not last and value.null != "0":
                self._open(f"if ({_bare(_not(value.null))})")
                value = _Value(value.text)
                opened = True
            else:
                opened = condition is not None
            nulls.append(value.null)
            self.write(f"{name} = {value.text};", name)
            self.write(f"{name}_null = {value.null};", f"{name}_null")
            if opened:
                self.write("break;")
                self._close()
            elif not last:
                break  # this one is never null
        self._close(" while (0);")
        return _Value(name, "0" if set(nulls) == {"0"} else f"{name}_null")

    def is_in(self, call: Call) -> _Value:
        """Whether it is one of the constants; null rather than false if one of those is null."""
        argument, dtype = self.value(call.args[0]), call.args[0].dtype
        constants = [a.value for a in call.args[1:] if isinstance(a, Literal)]
        if len(constants) != len(call.args) - 1:
            raise InternalError("is_in takes literals; the compiler let something else through")
        present = list(dict.fromkeys(value for value in constants if value is not None))
        name = self._fresh("is_in")
        if argument.null == "1" or not present:
            text = "0"
        elif is_text(dtype):
            texts = [value for value in present if isinstance(value, str | bytes)]
            text = self._text_in(argument, sorted(texts, key=_encoded))
        else:
            text = self._word_in(name, argument, dtype, [word_constant(value, dtype) for value in present])
        found = self._local(name, call.dtype, text, argument.null)
        if None not in constants:
            return found
        return _Value(found.text, _or(found.null, _not(found.text)))

    def _text_in(self, argument: _Value, texts: list[str | bytes]) -> str:
        if len(texts) <= _EAGER_MAX:
            return " | ".join(f"({argument.text} == {self._constants.text(text)})" for text in texts)
        # Nulls are equal to nothing, and have nothing to compare.
        look = f"dz_in_texts({argument.text}, {self._constants.run(texts)}, {len(texts)})"
        return look if argument.null == "0" else f"{argument.null} ? 0 : {look}"

    def _word_in(self, name: str, argument: _Value, dtype: DataType, words: list[str]) -> str:
        is_float = dtype.kind is Kind.FLOAT
        word = f"dz_word_of_float({argument.text})" if is_float else f"(uint64_t){argument.text}"
        if len(words) <= _EAGER_MAX or is_float:
            return " | ".join(f"({word} == {other})" for other in words)
        listed = ", ".join(sorted(words, key=lambda w: int(w[:-1])))
        self.write(f"static const uint64_t {name}_words[] = {{{listed}}};", f"{name}_words")
        return f"dz_in_words({word}, {name}_words, {len(words)})"


_LAZY: dict[str, Callable[[_Body, Call], _Value]] = {
    "is_null": _Body.is_null,
    "and": _Body.logic,
    "or": _Body.logic,
    "coalesce": _Body.coalesce,
    "is_in": _Body.is_in,
    "case": _Body.case,
}


class _NoTexts:
    """For whoever asks for a form to learn something about it."""

    def text(self, _value: str | bytes) -> str:
        """No matter which."""
        return "texts[0]"

    def run(self, _values: Sequence[str | bytes]) -> str:
        """No matter which."""
        return "texts"


_NO_TEXTS = _NoTexts()


def _encoded(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _c_type(dtype: DataType) -> str:
    return _C_TYPES.get(dtype.kind, "int64_t ")


def _name(declared: str) -> str:
    """The name in "const uint64_t *row"."""
    return str(_NAME.findall(declared)[-1])


def _needed(lines: Sequence[_Line]) -> list[_Line]:
    """The lines without those that give a value to what nobody looks at."""
    seen: set[str] = set()
    kept = []
    for line in reversed(lines):
        if line.target and line.target not in seen:
            continue
        names = _NAME.findall(_COMMENT.sub("", line.text))
        if line.target:
            names.remove(line.target)
        seen.update(names)
        kept.append(line)
    return kept[::-1]
