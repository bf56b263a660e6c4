"""Scalars in C against the reference: the same words and the same failures, of every operation at every extreme."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero.expr.functions import DIFFERENCE_UNITS, FUNCTIONS, TRUNCATE_UNITS, result_type
from dist_zero.expr.location import Refused
from dist_zero.expr.ops import Call, ColumnRef, Literal, Scalar
from dist_zero.native.build import available
from dist_zero.native.layout import Layout, layout_of, tuple_layout
from dist_zero.native.scalar_forms import FORMS
from dist_zero.native.scalars import REASONS, Constants, compare_function, predicate_function, tuple_function
from dist_zero.ordering import sort_key
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.scalar import compile_tuple
from dist_zero.types import (
    BOOL,
    BYTES,
    DATETIME,
    DATETIME_MAX_US,
    DATETIME_MIN_US,
    FLOAT,
    INT,
    INT_MAX,
    INT_MIN,
    NAN,
    STR,
    DataType,
    Row,
    RowType,
    Stored,
    canonical_float,
    decimal_type,
    enum_type,
)
from dist_zero_common.errors import InternalError
from test.oracle.scalars import Chance, scalar
from test.unit.native_words import TEXTS, Library, packed

pytestmark = pytest.mark.skipif(available() is not None, reason=f"no C compiler: {available()}")

MONEY, FINE, COLOUR = decimal_type(2), decimal_type(18), enum_type(("red", "green", "blau ü"))
_DAY = 86_400_000_000

EXTREMES: dict[DataType, tuple[Stored, ...]] = {
    BOOL: (False, True),
    INT: (0, 1, -1, 2, -2, 7, -7, 10, 2**53 + 1, 3 * 10**9, INT_MAX, INT_MIN, INT_MIN + 1),
    FLOAT: (
        *(
            0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            0.1,
            2.675,
            1.005,
            -7.0,
            2.0,
            1e16,
            1e15,
            123456789.125,
            1e-5,
            0.0001,
        ),
        *(1e22, 5e-324, -5e-324, 2.0**-1022, 2.0**-44, 1.7976931348623157e308, -1e308, 2.0**63, -(2.0**63)),
        *(9007199254740993.0, 4503599627370495.5, math.inf, -math.inf, NAN),
    ),
    STR: (
        *(
            "",
            "a",
            "b",
            "aB",
            "Zz{`@[",
            "ab\0c",
            "é",
            "zü\U0001f600x",
            "\uffff",
            "\U0001f600",
            "ell",
            "hello hello",
        ),
        *(
            "0",
            "-0",
            "+7",
            "-9223372036854775808",
            "9223372036854775808",
            "9223372036854775807",
            "00012",
            "1_0",
            "٣",
        ),
        *(
            "1.5",
            "-2.5e-3",
            "1e999",
            "-1e-999",
            "0.1",
            "2.675",
            "1e",
            "1.",
            ".5",
            " 1",
            "1\n",
            "nan",
            "inf",
            "1E5",
        ),
        *(
            "1.005",
            "0.125",
            "1.00500000000000000000000000000000000000000000000000000000000001",
            "-0.005",
            "0.015",
        ),
        *(
            "9" * 40,
            "0" * 60 + "1",
            "1" + "0" * 400 + "e-400",
            "92233720368547758.07",
            "92233720368547758.075",
        ),
        *(
            "5e-324",
            "2.4703282292062327208e-324",
            "2.4703282292062329e-324",
            "9007199254740993",
            "ä" * 300,
            "X" * 300,
        ),
        *("1" * 900 + "." + "3" * 900, "1e" + "9" * 30, "0e" + "9" * 30, "1e-" + "9" * 30),
    ),
    BYTES: (b"", b"a", b"\0", b"a\0", b"\xc3\xbc", b"\xff"),
    DATETIME: (
        *(
            0,
            1,
            -1,
            _DAY - 1,
            _DAY,
            -_DAY,
            10**15,
            951_782_400_000_000,
            951_868_799_999_999,
            1_709_164_800_000_001,
        ),
        *(DATETIME_MIN_US, DATETIME_MIN_US + 59 * _DAY, DATETIME_MAX_US, -2_208_988_800_000_000),
    ),
    MONEY: (0, 1, -1, 50, 150, -150, 125, 135, -125, 199, INT_MAX, INT_MIN, INT_MIN + 1),
    FINE: (0, 1, -1, 5 * 10**17, -5 * 10**17, 10**18, 15 * 10**17, INT_MAX, INT_MIN),
    COLOUR: (0, 1, 2),
}


def columns(*dtypes: DataType) -> tuple[ColumnRef, ...]:
    """References to the first columns of a row of these types, null or not."""
    return tuple(ColumnRef(i, dtype.optional()) for i, dtype in enumerate(dtypes))


def made(name: str, *args: Scalar, target: DataType | None = None) -> Call:
    """The operation with its type."""
    return Call(name, args, result_type(name, args, target))


class Functions:
    """Tuples of scalars over rows of one type each, in one library, and the reference of each."""

    def __init__(self, cases: Sequence[tuple[RowType, Sequence[Scalar]]]) -> None:
        constants, parts, self._layouts, self._references = Constants(), [], [], []
        for number, (row_type, scalars) in enumerate(cases):
            rows = layout_of(f"in{number}", row_type)
            out = tuple_layout(f"out{number}", [scalar.dtype for scalar in scalars])
            parts += [rows.declaration(), out.declaration()]
            parts.append(tuple_function(f"f{number}", scalars, [rows], out, constants))
            self._layouts.append((rows, out))
            self._references.append(compile_tuple(scalars))
        head = ['#include "core.h"\n#include "scalars.h"\ntypedef struct node node;']
        node = f"struct node {{ dz_base base; {constants.member()} }};"
        # The member's length is known at the end, and the functions need it, so the struct comes in front of them.
        names = ", ".join(f"f{number}" for number in range(len(cases)))
        tail = [
            f"static void fill(node *n) {{ {' '.join(constants.fill())} (void)n; }}",
            TEXTS,
            "typedef int function(dz_base *, const uint64_t *, uint64_t *);",
            f"static function *const functions[] = {{{names}}};",
            "DZ_EXPORT int t_call(node *n, int which, const uint64_t *row, uint64_t *out)",
            "{\n    if (dz_enter(&n->base)) return -1;\n    return functions[which](&n->base, row, out);\n}",
        ]
        self.source = "\n".join([*head, node, *parts, *tail])
        self.library = Library(self.source)

    def both(self, which: int, row: Row) -> tuple[Row | str, Row | str]:
        """The row of function number `which`, or why there is none: of C, and of the reference."""
        rows, out = self._layouts[which]
        words = packed([0xEEEEEEEEEEEEEEEE] * (out.words + 1))
        c = self.library.c
        failure = c.t_call(self.library.node, which, packed(self.library.words(rows, row)), words)
        assert failure >= 0
        assert words[out.words] == 0xEEEEEEEEEEEEEEEE
        found: Row | str = REASONS[failure] if failure else self.library.row(out, list(words))
        try:
            return found, self._references[which](row)
        except ScalarFailure as problem:
            return found, problem.reason

    def hold(self, which: int, row: Row, what: object = "") -> None:
        """They are the same."""
        found, expected = self.both(which, row)
        assert typed(found) == typed(expected), f"{what} of {row}: {found} in C, {expected} in the reference"
        self.library.c.t_sweep(self.library.node)


def typed(row: Row | str) -> object:
    """What is equal only to the same values of the same types, to the bit."""
    if isinstance(row, str):
        return row
    return [(type(v), struct.pack("<d", v) if isinstance(v, float) and v == v else repr(v)) for v in row]


# ---- every operation ---------------------------------------------------------------------------------------


def operations() -> list[tuple[Call, tuple[DataType, ...]]]:
    """Every operation on columns of each combination of types that it is for."""
    found: list[tuple[Call, tuple[DataType, ...]]] = []

    def add(
        name: str, *dtypes: DataType, target: DataType | None = None, more: Sequence[Scalar] = ()
    ) -> None:
        found.append((made(name, *columns(*dtypes), *more, target=target), dtypes))

    for dtype in (INT, MONEY, FLOAT):
        for name in ("add", "sub", "mul"):
            add(name, dtype, dtype)
        for name in ("neg", "abs"):
            add(name, dtype)
    add("mul", decimal_type(0), FINE)
    for dtype in (INT, FLOAT):
        for name in ("floordiv", "mod"):
            add(name, dtype, dtype)
            for divisor in (7, -7, -1, 0, 1):
                literal = Literal(float(divisor) if dtype is FLOAT else divisor, dtype)
                add(name, dtype, more=[literal])
    add("div", FLOAT, FLOAT)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        for dtype in EXTREMES:
            add(name, dtype, dtype)
            found.append((made(name, *columns(dtype) * 2), (dtype,)))
            for value in (EXTREMES[dtype][0], EXTREMES[dtype][-1], None):
                add(name, dtype, more=[Literal(value, dtype.optional() if value is None else dtype)])
    add("not", BOOL)
    for name in ("and", "or"):
        add(name, BOOL, BOOL)
    for digits in (0, 1, 2, 5, 18):
        add("round", FLOAT, more=[Literal(digits, INT)])
        add("round", FINE, more=[Literal(digits, INT)])
    for digits in (0, 1, 2):
        add("round", MONEY, more=[Literal(digits, INT)])
    add("round", INT, more=[Literal(0, INT)])
    for dtype, values in EXTREMES.items():
        add("is_null", dtype)
        add("coalesce", dtype, dtype)
        add("coalesce", dtype, more=[Literal(values[-1], dtype)])
        add("case", BOOL, dtype, dtype)
        literals = [Literal(value, dtype) for value in values]
        add("is_in", dtype, more=literals[1:3])
        add("is_in", dtype, more=[literals[0], Literal(None, dtype.optional())])
        add("is_in", dtype, more=[Literal(None, dtype.optional())])
        add("is_in", dtype, more=literals[: len(literals) // 2 + 1])
        add("is_in", dtype, more=literals * 2)
    for name in ("lower", "upper", "length"):
        add(name, STR)
    add("length", BYTES)
    for name in ("contains", "starts_with", "ends_with"):
        add(name, STR, STR)
    add("slice", STR, INT, INT)
    add("slice", STR, INT, more=[Literal(2, INT)])
    add("concat", STR)
    add("concat", STR, STR, more=[Literal("-", STR), ColumnRef(0, STR.optional())])
    for name in ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"):
        add(name, DATETIME)
    for unit in TRUNCATE_UNITS:
        add("truncate", DATETIME, more=[Literal(unit, STR)])
    for unit in DIFFERENCE_UNITS:
        add("difference", DATETIME, DATETIME, more=[Literal(unit, STR)])
    for source, target in itertools.product((*EXTREMES, decimal_type(0)), repeat=2):
        try:
            add("cast", source, target=target)
        except Refused:  # there is no such cast
            continue
    return found


def test_every_operation_has_c() -> None:
    """What is not strict is rendered by `scalars.py`; all others are in its table, and in the tests here."""
    lazy = {"is_null", "and", "or", "coalesce", "is_in", "case"}
    assert {*FORMS, *lazy} == set(FUNCTIONS)
    assert {call.name for call, _ in operations()} == {*FUNCTIONS, "cast"}


def test_operations_of_extremes() -> None:
    """Each operation alone, with every combination of the values that break things, nulls among them."""
    found = operations()
    functions = Functions(
        [(RowType(tuple("abc"[: len(d)]), tuple(t.optional() for t in d)), [call]) for call, d in found]
    )
    for number, (call, dtypes) in enumerate(found):
        pools = [(None, *EXTREMES.get(dtype, EXTREMES[MONEY])) for dtype in dtypes]
        if len(pools) == 3:
            pools[2] = pools[2][::3]
        for row in itertools.product(*pools):
            functions.hold(number, row, f"{call.name} {[str(a) for a in call.args]}")


def test_columns_that_are_never_null() -> None:
    """The same of columns without nulls: other C, the same values."""
    found = []
    for call, dtypes in operations():
        args = [ColumnRef(a.index, a.dtype.required()) if isinstance(a, ColumnRef) else a for a in call.args]
        found.append((made(call.name, *args, target=call.dtype if call.name == "cast" else None), dtypes))
    functions = Functions([(RowType(tuple("abc"[: len(d)]), d), [call]) for call, d in found])
    rng = random.Random(3)
    for number, (call, dtypes) in enumerate(found):
        pools = [EXTREMES.get(dtype, EXTREMES[MONEY]) for dtype in dtypes]
        rows = list(itertools.product(*pools))
        for row in rng.sample(rows, min(len(rows), 60)):
            functions.hold(number, row, call.name)


# ---- expressions -------------------------------------------------------------------------------------------

_KINDS = (INT, STR, FLOAT, DATETIME, MONEY, BOOL, COLOUR, BYTES)
ROW_TYPE = RowType(
    ("key", "note", "value", "at", "price", "good", "int", "raw", "other", "word", "ratio"),
    (
        *(INT, STR.optional(), FLOAT.optional(), DATETIME, MONEY.optional(), BOOL, COLOUR.optional(), BYTES),
        *(INT.optional(), STR, FLOAT),
    ),
)


@settings(max_examples=6)
@given(st.data())
def test_random_expressions(data: st.DataObject) -> None:
    """Deep expressions of everything, several to a tuple, over random rows: values, nulls, and the first failure."""
    seed = data.draw(st.integers(0, 2**32))
    chance = Rolled(seed)
    tuples = [
        [
            scalar(chance, ROW_TYPE, chance.pick(_KINDS), chance.number(1, 4))
            for _ in range(chance.number(1, 4))
        ]
        for _ in range(60)
    ]
    functions = Functions([(ROW_TYPE, scalars) for scalars in tuples])
    rows = [tuple(chance.value(dtype) for dtype in ROW_TYPE.types) for _ in range(12)]
    for number, scalars in enumerate(tuples):
        for row in rows:
            functions.hold(number, row, scalars)


class Rolled(Chance):
    """Drawn by a generator of our own, as thousands of draws are more than Hypothesis has for an example."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def number(self, least: int, most: int) -> int:
        """See `Chance`."""
        return self._rng.randint(least, most)


def test_lazy_operations_evaluate_what_they_need() -> None:
    """A failing part that does not decide is not evaluated; one that does, fails; and strict ones fail before null."""
    row_type = RowType(("a", "b", "c"), (INT.optional(), INT.optional(), BOOL.optional()))
    a, b, c = (
        ColumnRef(0, row_type.types[0]),
        ColumnRef(1, row_type.types[1]),
        ColumnRef(2, row_type.types[2]),
    )
    broken = made("floordiv", a, b)
    truth = made("eq", broken, Literal(1, INT))
    scalars: list[Scalar] = [
        *(made(name, *parts) for name in ("and", "or") for parts in ((c, truth), (truth, c), (truth, truth))),
        made("coalesce", a, broken, Literal(5, INT)),
        made("coalesce", broken, a),
        made("case", c, a, truth, broken, made("neg", broken)),
        made("case", truth, a, c, broken, b),
        made("add", a, made("case", c, broken, b)),
        made("and", made("or", c, truth), made("and", truth, c)),
        made("is_null", broken),
        made("not", made("is_null", a)),
        made("case", made("is_null", a), made("length", Literal("abc", STR)), Literal(2, INT)),
        made("case", *[part for i in range(9) for part in (made("eq", a, Literal(i, INT)), b)], a),
        made("coalesce", *[a, b] * 6),
    ]
    single: list[list[Scalar]] = [[s] for s in scalars]
    every: list[list[Scalar]] = [*single, scalars, []]
    functions = Functions([(row_type, some) for some in every])
    values = (None, 0, 1, -1, 3, INT_MIN)
    for row in itertools.product(values, values, (None, False, True)):
        for number in range(len(scalars) + 2):
            functions.hold(number, row, scalars[number : number + 1])


NASTY = (
    *(
        '"',
        "\\",
        "*/",
        "/*",
        "//",
        "??/",
        "??)",
        "%s%n",
        "{0}{out}",
        "{",
        "}",
        "\n\r\t\0x",
        "(",
        ")",
        "a\\",
        "\x7f",
        "é\u2028",
    ),
    *(
        "'",
        "#define x",
        "texts[0]",
        "failure",
        "in->a",
        "gt1",
        "add1_null",
        "\N{ZERO WIDTH SPACE}",
        "é" * 20,
        "Z" * 9000,
    ),
)


def test_texts_of_a_program_stand_in_the_source() -> None:
    """Whatever they are; and names of columns, whatever they are, are no names of C's."""
    names = (
        "int",
        "a b",
        "a_b",
        "nulls",
        "dz_text",
        "",
        "1st",
        "ä",
        "ö",
        "linux",
        "b",
        "row",
        "in",
        "A",
        "*/",
        "x" * 90,
    )
    row_type = RowType(names, tuple(STR if i % 2 else STR.optional() for i in range(len(names))))
    scalars: list[Scalar] = []
    for i, text in enumerate(NASTY):
        literal, here = Literal(text, STR), ColumnRef(i % len(names), row_type.types[i % len(names)])
        scalars += [made("concat", literal, here, literal), made("eq", here, literal)]
        scalars.append(made("is_in", here, literal, Literal("" if text else "-", STR)))
    scalars.append(made("is_in", ColumnRef(0, row_type.types[0]), *(Literal(text, STR) for text in NASTY)))
    raw = enum_type(NASTY)
    scalars += [made("cast", Literal(i, raw), target=STR) for i in range(len(NASTY))]
    scalars.append(made("eq", Literal(b"\x00*/\xff", BYTES), Literal(b"\xff", BYTES)))
    functions = Functions(
        [(row_type, scalars), (row_type, [made("is_null", ColumnRef(0, row_type.types[0]))])]
    )
    for text in NASTY:
        row = tuple(text if i % 3 else NASTY[-1 - i] for i in range(len(names)))
        functions.hold(0, row)
        functions.hold(1, row)


def test_many_columns_have_several_null_words() -> None:
    """Nulls beyond the 64th column, in and out."""
    row_type = RowType(tuple(f"c{i}" for i in range(130)), tuple(INT.optional() for _ in range(130)))
    scalars = [
        made("add", ColumnRef(i, INT.optional()), ColumnRef(129 - i, INT.optional())) for i in range(130)
    ]
    functions = Functions([(row_type, scalars)])
    rng = random.Random(1)
    for _ in range(50):
        functions.hold(0, tuple(rng.choice((None, rng.randrange(9))) for _ in range(130)))


def test_the_longest_expressions_compile() -> None:
    """As deep and as large as a program may have them."""
    deep: Scalar = ColumnRef(0, INT)
    for _ in range(199):
        deep = made("add", deep, Literal(1, INT))
    wide: list[Scalar] = []
    for i in range(1500):
        wide += [
            made("eq", ColumnRef(0, INT), Literal(i, INT)),
            made("sub", Literal(i, INT), ColumnRef(0, INT)),
        ]
    many = [Literal(str(i), STR) for i in range(3000)]
    text = made("is_in", made("cast", ColumnRef(0, INT), target=STR), *many)
    halves = [Literal(i / 2, FLOAT) for i in range(3000)]
    number = made("is_in", made("cast", ColumnRef(0, INT), target=FLOAT), *halves)
    tuples = [deep, made("case", *wide, ColumnRef(0, INT)), text, number]
    functions = Functions([(RowType(("a",), (INT,)), tuples)])
    for value in (0, 7, 1499, 2999, 3000, -1, INT_MAX, INT_MAX - 199):
        functions.hold(0, (value,))


def test_what_the_compiler_should_have_refused() -> None:
    """Is our bug, and named."""
    rows, out = layout_of("r", RowType(("a",), (STR,))), tuple_layout("o", [STR])
    for call in (Call("shout", (ColumnRef(0, STR),), STR), Call("cast", (ColumnRef(0, STR),), BOOL)):
        with pytest.raises(InternalError):
            tuple_function("f", [call], [rows], out, Constants())


# ---- predicates and orders ---------------------------------------------------------------------------------


def test_a_predicate_is_true_or_not_and_looks_at_two_rows() -> None:
    """Null counts as false; columns of several rows are numbered through; what is simple reads so."""
    left = layout_of("left", RowType(("a", "b"), (INT.optional(), STR)))
    right = layout_of("right", RowType(("c", "d"), (INT, STR.optional())))
    a, c = ColumnRef(0, INT.optional()), ColumnRef(2, INT)
    predicate = made("or", made("gt", a, c), made("eq", ColumnRef(1, STR), ColumnRef(3, STR.optional())))
    constants = Constants()
    simple = predicate_function("simple", made("gt", a, Literal(15, INT)), [left], constants)
    assert "const bool gt1 = in->a > INT64_C(15);" in simple
    text = predicate_function("f", predicate, [left, right], constants)
    library = Library(
        "\n".join(
            [
                '#include "core.h"\n#include "scalars.h"',
                f"typedef struct node {{ dz_base base; {constants.member()} }} node;",
                *(left.declaration(), right.declaration(), simple, text),
                "static void fill(node *n) { (void)n; }",
                TEXTS,
                "DZ_EXPORT int t_call(node *n, const uint64_t *one, const uint64_t *two)",
                "{\n    bool found;\n    int failure = f(&n->base, one, two, &found);",
                "    return failure ? -failure : found;\n}",
            ]
        )
    )
    evaluate = compile_tuple([predicate])
    for row in itertools.product((None, 1, 2), ("x", "y"), (1, 2), (None, "x", "y")):
        one, two = packed(library.words(left, row[:2])), packed(library.words(right, row[2:]))
        assert library.c.t_call(library.node, one, two) == (evaluate(row)[0] is True)


def comparer(layout: Layout, order: Sequence[tuple[int, bool]]) -> Library:
    """A library with the order of these rows."""
    return Library(
        "\n".join(
            [
                '#include "core.h"\n#include "scalars.h"',
                "typedef struct node { dz_base base; } node;",
                layout.declaration(),
                compare_function("compare", layout, order),
                "static void fill(node *n) { (void)n; }",
                TEXTS,
                "DZ_EXPORT int t_call(const uint64_t *left, const uint64_t *right) { return compare(left, right); }",
            ]
        )
    )


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("nullable", [False, True])
def test_orders(descending: bool, nullable: bool) -> None:
    """Each type in both directions: nulls last in both, NaN above all numbers."""
    dtypes = [dtype.optional() if nullable else dtype for dtype in EXTREMES]
    layout = tuple_layout("r", dtypes)
    rng = random.Random(5)
    order = [
        (column, descending ^ (column % 3 == 2)) for column in rng.sample(range(len(dtypes)), len(dtypes))
    ]
    library = comparer(layout, order)
    keys = [(column, sort_key(dtypes[column], down)) for column, down in order]

    def value(dtype: DataType) -> Stored:
        pool = EXTREMES[dtype.required()]
        return rng.choice((None, *pool) if nullable else pool)

    for _ in range(3000):
        left = tuple(map(value, dtypes))
        equal = rng.randrange(len(order) + 1)  # so that later columns decide, too
        right = list(map(value, dtypes))
        for column, _ in order[:equal]:
            right[column] = left[column]
        a, b = (tuple(key(row[column]) for column, key in keys) for row in (left, right))
        found = library.c.t_call(
            packed(library.words(layout, left)), packed(library.words(layout, tuple(right)))
        )
        assert found == (-1 if a < b else 1 if b < a else 0)


# ---- digits ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def float_functions() -> Functions:
    """Of a float: its text, and rounded."""
    value = ColumnRef(0, FLOAT)
    rounded = [made("round", value, Literal(digits, INT)) for digits in (0, 1, 2, 9, 18)]
    there: Scalar = made("cast", value, target=STR)
    texts = RowType(("t",), (STR,))
    back = made("cast", ColumnRef(0, STR), target=FLOAT)
    nearest = [made("cast", value, target=decimal_type(scale)) for scale in (0, 2, 18)]
    floats = RowType(("a",), (FLOAT,))
    singly: list[tuple[RowType, list[Scalar]]] = [(floats, [cast]) for cast in nearest]
    return Functions([(floats, [there, *rounded]), (texts, [back]), *singly])


def hold_float(functions: Functions, value: float) -> None:
    """Everything about this float."""
    for number in (0, 2, 3, 4):
        functions.hold(number, (canonical_float(value),))
    if math.isfinite(value):
        for text in (repr(value), f"{value:.40e}", f"{value:.3e}"):
            functions.hold(1, (text,))


@settings(max_examples=300)
@given(st.floats())
def test_digits_of_any_float(float_functions: Functions, value: float) -> None:
    """`repr`, reading, rounding and decimals as Python has them."""
    hold_float(float_functions, value)


def test_digits_of_special_floats(float_functions: Functions) -> None:
    """Powers of two and their neighbours, where the interval is lopsided; decimals of few places; ties; subnormals."""
    for exponent in range(-1074, 1024, 3):
        power = math.ldexp(1.0, exponent)
        for value in (power, math.nextafter(power, 0), -math.nextafter(power, math.inf)):
            hold_float(float_functions, value)
    rng = random.Random(2)
    for _ in range(500):
        hold_float(float_functions, round(rng.uniform(-1e4, 1e4), rng.randrange(6)))
        hold_float(float_functions, rng.randrange(4000) / 2 ** rng.randrange(12))
        hold_float(float_functions, rng.randrange(3000) * 5e-324)
        hold_float(float_functions, float(rng.randrange(10**18)))


@settings(max_examples=200)
@given(st.from_regex(r"[+-]?[0-9]{1,30}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,4})?", fullmatch=True))
def test_reading_any_number(float_functions: Functions, text: str) -> None:
    """Digits, fractions and exponents of all lengths."""
    float_functions.hold(1, (text,))


def test_every_date_has_its_parts() -> None:
    """One day in each month of ten thousand years, and around each turn of a year."""
    at = ColumnRef(0, DATETIME)
    parts: list[Any] = [made(name, at) for name in ("year", "month", "day", "day_of_year", "weekday")]
    parts += [made("truncate", at, Literal(unit, STR)) for unit in ("month", "year", "week")]
    parts.append(made("cast", at, target=STR))
    functions = Functions([(RowType(("at",), (DATETIME,)), parts)])
    for day in range(0, 3_652_059, 97):
        functions.hold(0, (DATETIME_MIN_US + day * _DAY + day * 7_919,))
