"""Tops in C against the reference: the same changes, step by step, the same state, and the same after a load."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from typing import Any

import pytest

from dist_zero.compiler import plan as plans
from dist_zero.expr.functions import result_type
from dist_zero.expr.ops import Call, ColumnRef, Literal, Scalar, SortKey
from dist_zero.left_out import Failures
from dist_zero.native.build import available
from dist_zero.native.layout import Layout, layout_of
from dist_zero.native.scalars import Constants
from dist_zero.native.topping import top_type
from dist_zero.reference.functions import ScalarFailure
from dist_zero.reference.operators import Context, Delta
from dist_zero.reference.scalar import Scalars
from dist_zero.reference.top import Top
from dist_zero.types import FLOAT, INT, NAN, STR, Row, RowType, Stored
from dist_zero.zset import ZSet, add_pairs, consolidate
from test.unit.native_words import TEXTS, Library, packed

pytestmark = pytest.mark.skipif(available() is not None, reason=f"no C compiler: {available()}")

_HARNESS = """
static void emit(dz_base *base, const uint64_t *row, int64_t weight)
{
    node *n = (node *)base;
    dz_delta_add(base, &n->out, SHOWN, row, weight);
}
static void fail(dz_base *base, const uint64_t *row, int64_t weight)
{
    node *n = (node *)base;
    dz_delta_add(base, &n->failed, ROW, row, weight);
}
DZ_EXPORT int t_add(node *n, const uint64_t *row, int64_t weight)
{
    if (dz_enter(&n->base)) return -1;
    dz_delta_add(&n->base, &n->input, ROW, row, weight);
    return 0;
}
DZ_EXPORT int t_run(node *n)
{
    if (dz_enter(&n->base)) return -1;
    dz_delta_clear(&n->out);
    dz_delta_clear(&n->failed);
    dz_top_run(&n->base, &n->top, TYPE, &n->input, fail, emit);
    return 0;
}
DZ_EXPORT int t_take(node *n, const uint64_t *row, int64_t weight)
{
    if (dz_enter(&n->base)) return -1;
    dz_top_take(&n->base, &n->top, TYPE, row, weight);
    return 0;
}
DZ_EXPORT int t_take_shown(node *n, const uint64_t *row, int64_t weight)
{
    if (dz_enter(&n->base)) return -1;
    dz_kept_take(&n->base, &n->top.shown, SHOWN, row, weight);
    return 0;
}
DZ_EXPORT int t_settle(node *n)
{
    if (dz_enter(&n->base)) return -1;
    return dz_top_settle(&n->base, &n->top, TYPE);
}
DZ_EXPORT int t_track(node *n)
{
    if (dz_enter(&n->base)) return -1;
    dz_kept_track(&n->base, &n->top.rows, ROW);
    dz_kept_track(&n->base, &n->top.shown, SHOWN);
    return 0;
}
/* What came out and failed; rows, shown rows, and those of them that are touched; groups: how many there are. */
DZ_EXPORT uint32_t t_count(node *n, int which)
{
    const dz_top *top = &n->top;
    const uint32_t counts[] = {n->out.count, n->failed.count, top->rows.rows.count, top->shown.rows.count,
                               top->rows.touched.count, top->shown.touched.count, top->groups.count};
    return counts[which];
}
DZ_EXPORT const uint64_t *t_at(node *n, int which, uint32_t at, int64_t *weight)
{
    dz_top *top = &n->top;
    const dz_shape *shape = which % 2 ? SHOWN : ROW;
    if (which == 0) return *weight = dz_delta_weight(&n->out, SHOWN, at), dz_delta_row(&n->out, SHOWN, at);
    if (which == 1) return *weight = dz_delta_weight(&n->failed, ROW, at), dz_delta_row(&n->failed, ROW, at);
    dz_kept *kept = which % 2 ? &top->shown : &top->rows;
    if (which > 3) return *weight = 1, dz_table_entry(&kept->touched, shape, 0, at);
    const uint64_t *entry = dz_table_entry(&kept->rows, shape, DZ_ZSET_EXTRA, at);
    *weight = (int64_t)entry[shape->words + DZ_ZSET_WEIGHT];
    return entry;
}
DZ_EXPORT void t_fail_after(node *n, int64_t allocations) { n->base.fail_after = allocations; }
DZ_EXPORT uint64_t t_end(node *n)
{
    dz_base_clear(&n->base);
    uint64_t left = n->base.bytes;
    free(n);
    return left;
}
DZ_EXPORT int t_error(const node *n) { return n->base.error; }
DZ_EXPORT void t_clear(node *n)
{
    dz_top_free(&n->base, &n->top, TYPE);
    dz_delta_free(&n->base, &n->input, ROW);
    dz_delta_free(&n->base, &n->out, SHOWN);
    dz_delta_free(&n->base, &n->failed, ROW);
    dz_sweep(&n->base);
    n->top = (dz_top){0};
}
"""

ROW_TYPE = RowType(
    ("key", "group", "score", "name", "size"), (INT, STR.optional(), FLOAT.optional(), STR, INT)
)
_POOLS: tuple[tuple[Stored, ...], ...] = (
    tuple(range(40)),
    ("a", "b", "ä", None),
    (None, NAN, 1.0, -1.0, 2.5, float("inf")),
    ("x", "yy", "X", ""),
    (1, 2, 3),
)


def column(name: str) -> ColumnRef:
    """A column of the rows."""
    place = ROW_TYPE.index(name)
    return ColumnRef(place, ROW_TYPE.types[place])


def made(name: str, *args: Scalar) -> Call:
    """The operation with its type."""
    return Call(name, args, result_type(name, args))


def top_of(
    count: int, order: Sequence[SortKey], per: Sequence[Scalar], tie: Sequence[int], rank: bool = False
) -> plans.Top:
    """A top over `ROW_TYPE`."""
    row_type = RowType((*ROW_TYPE.names, "rank"), (*ROW_TYPE.types, INT)) if rank else ROW_TYPE
    common: dict[str, Any] = {
        "id": 1,
        "inputs": (0,),
        "stage": 1,
        "sharding": plans.UNKNOWN,
        "row_type": row_type,
    }
    return plans.Top(count=count, order=tuple(order), per=tuple(per), tie=tuple(tie), rank=rank, **common)


class InC:
    """A top in C with a harness around it."""

    def __init__(self, operator: plans.Top, part: bool) -> None:
        constants = Constants()
        self.row = row = layout_of("in", ROW_TYPE)
        self.shown = shown = layout_of("out", operator.row_type)
        type_ = top_type("top", operator, row, shown, part, constants)
        source = [
            '#include "core.h"\n#include "scalars.h"\n#include "top.h"',
            row.declaration(),
            shown.declaration(),
            *type_.declarations,
            f"typedef struct node {{ dz_base base; {constants.member()}",
            "dz_top top; dz_delta input, out, failed; } node;",
            *type_.functions,
            f"#define ROW &{row.shape}\n#define SHOWN &{shown.shape}\n#define TYPE &{type_.name}",
            f"static void fill(node *n) {{ {' '.join(constants.fill())} (void)n; }}",
            TEXTS,
            _HARNESS,
        ]
        self.library = Library("\n".join(source))
        self.c, self.node = self.library.c, self.library.node
        self.c.t_end.restype = ctypes.c_uint64
        self.c.t_at.restype = ctypes.POINTER(ctypes.c_uint64)
        self.c.t_at.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint32,
            ctypes.POINTER(ctypes.c_int64),
        ]

    def renew(self) -> None:
        """Another node."""
        self.node = self.library.node = ctypes.c_void_p(self.c.t_new())

    def _give(self, name: str, layout: Layout, row: Row, weight: int) -> None:
        given = packed(self.library.words(layout, row))
        assert getattr(self.c, name)(self.node, given, ctypes.c_int64(weight)) == 0

    def apply(self, delta: Delta) -> Delta:
        """The changes of a step."""
        for row, weight in delta:
            self._give("t_add", self.row, row, weight)
        assert self.c.t_run(self.node) == 0
        changes = self.listed(0, self.shown)
        self.c.t_sweep(self.node)
        return changes

    def take(self, rows: ZSet, shown: ZSet) -> bool:
        """Load; whether the next step has something to say."""
        for row, weight in rows.items():
            self._give("t_take", self.row, row, weight)
        for row, weight in shown.items():
            self._give("t_take_shown", self.shown, row, weight)
        return bool(self.c.t_settle(self.node))

    def listed(self, which: int, layout: Layout) -> Delta:
        """One of the tables of the harness."""
        found: Delta = []
        weight = ctypes.c_int64()
        for at in range(self.c.t_count(self.node, which)):
            words = self.c.t_at(self.node, which, at, ctypes.byref(weight))
            found.append((self.library.row(layout, words[: layout.words]), weight.value))
        return found

    def table(self, which: int, layout: Layout) -> ZSet:
        """The same, of distinct rows."""
        found = self.listed(which, layout)
        assert len(dict(found)) == len(found)
        return dict(found)


class Both:
    """A top in C and one of the reference."""

    def __init__(self, operator: plans.Top, part: bool = False, c: InC | None = None) -> None:
        self.part, self.c = part, c or InC(operator, part)
        self.reference = Top(operator, [ROW_TYPE], part)
        self._scalars = Scalars([*operator.per, *(key.value for key in operator.order)], ROW_TYPE)
        self.steps = 0

    def apply(self, delta: Delta) -> ZSet:
        """A step of both, which say the same."""
        self.steps += 1
        context = context_of()
        expected = self.reference.apply([delta], context)
        found = self.c.apply(delta)
        assert consolidate(found) == consolidate(expected)
        assert len(found) == len(expected), "changes that cancel, or a row twice"
        assert consolidate(self.c.listed(1, self.c.row)) == consolidate(self._failing(delta))
        self.hold_state()
        return consolidate(found)

    def take(self, rows: ZSet, shown: ZSet) -> None:
        """Load the same into both."""
        kept = self.reference.kept()
        kept["rows"].take(rows.items())
        if self.part:
            kept["shown"].take(shown.items())
        settling = self.reference.settle()
        try:
            while True:
                next(settling)
        except StopIteration as end:
            expected = end.value
        assert self.c.take(rows, shown) == expected
        self.hold_state()

    def track(self) -> None:
        """Note what is touched."""
        for kept in self.reference.kept().values():
            kept.track()
        assert self.c.c.t_track(self.c.node) == 0

    def hold_state(self) -> None:
        """The tables are the same, and what is touched of them."""
        layouts = {"rows": self.c.row, "shown": self.c.shown}
        for number, (name, kept) in enumerate(self.reference.kept().items()):
            assert self.c.table(2 + number, layouts[name]) == dict(kept.entries())
            touched = {key for key, _ in kept.touched()}
            assert set(self.c.table(4 + number, layouts[name])) == touched

    def _failing(self, delta: Delta) -> Delta:
        failed: Delta = []
        for row, weight in consolidate(delta).items():
            try:
                self._scalars.evaluate(row)
            except ScalarFailure:
                failed.append((row, weight))
        return failed


def context_of() -> Context:
    """What a step of a top is told."""
    return Context(failures=Failures([lambda _: ()]), owns_empty_key=True)


_SHOUTED = made("concat", made("upper", column("name")), Literal("!", STR))
_DIVIDED = made("floordiv", Literal(12, INT), made("sub", column("size"), Literal(3, INT)))

TOPS: dict[str, plans.Top] = {
    "plain": top_of(3, [SortKey(column("score"), True)], [column("group")], (0,)),
    "ranked": top_of(
        4, [SortKey(column("score")), SortKey(column("name"), True)], [column("group")], (0,), True
    ),
    "global": top_of(5, [SortKey(column("name"), True), SortKey(column("score"), True)], [], (0,)),
    "bag": top_of(5, [SortKey(column("size"))], [column("group"), column("name")], tuple(range(5))),
    "ranked bag": top_of(6, [SortKey(column("score"), True)], [], tuple(range(5)), True),
    "computed": top_of(
        2, [SortKey(_SHOUTED), SortKey(column("size"), True)], [made("lower", column("name"))], (0,)
    ),
    "failing": top_of(3, [SortKey(_DIVIDED)], [made("eq", column("name"), Literal("x", STR))], (0,)),
    "one": top_of(1, [SortKey(column("size"), True)], [column("group")], (0,)),
}


def random_row(rng: random.Random) -> Row:
    """A row from small pools."""
    return tuple(rng.choice(pool) for pool in _POOLS)


def random_delta(rng: random.Random, there: ZSet, keyed: bool, size: int) -> Delta:
    """Changes of what is there, which stays a collection: keys once each, or a bag."""
    delta: Delta = []
    now = dict(there)
    for _ in range(rng.randrange(size)):
        row = random_row(rng)
        if keyed:
            old = [other for other in now if other[0] == row[0]]
            changes = [(other, -1) for other in old] + ([(row, 1)] if rng.randrange(3) else [])
        elif now and rng.randrange(2):
            gone = rng.choice(list(now))
            changes = [(gone, -rng.randint(1, now[gone]))]
        else:
            changes = [(row, rng.randint(1, 3))]
        add_pairs(now, changes)
        delta += changes
    rng.shuffle(delta)
    return delta


@pytest.mark.parametrize("name", TOPS)
def test_steps(name: str) -> None:
    """Rows come, change and go, in small and large steps, and everything goes in the end."""
    operator = TOPS[name]
    rng = random.Random(name)
    c = InC(operator, False)
    for run in range(6):
        both, there = Both(operator, c=c), ZSet()
        shown: ZSet = {}
        for step in range(40):
            if step == 10 and run % 2:
                both.track()
            delta = random_delta(rng, there, len(operator.tie) == 1, rng.choice((2, 4, 60)))
            add_pairs(there, delta)
            add_pairs(shown, both.apply(delta).items())
        add_pairs(shown, both.apply([(row, -weight) for row, weight in there.items()]).items())
        assert not shown and c.c.t_count(c.node, 6) == 0, "a group without rows"
        c.c.t_clear(c.node)
    assert c.c.t_memory(c.node) < 100_000


@pytest.mark.parametrize("name", ["global", "ranked bag"])
def test_parts(name: str) -> None:
    """A part keeps what it has shown; after a load of other rows than those, its first step says the difference."""
    operator = TOPS[name]
    rng = random.Random(name)
    c = InC(operator, True)
    for run in range(12):
        both, there = Both(operator, part=True, c=c), ZSet()
        if run % 2:
            both.take(
                consolidate((random_row(rng), rng.randint(1, 3)) for _ in range(rng.randrange(12))),
                consolidate(
                    (((*random_row(rng), rng.randint(1, 3)), 1) if operator.rank else (random_row(rng), 1))
                    for _ in range(rng.randrange(4))
                ),
            )
            there = dict(both.reference.kept()["rows"].entries())
        if run % 3:
            both.track()
        for _ in range(30):
            delta = random_delta(rng, there, False, rng.choice((1, 4, 20)))
            add_pairs(there, delta)
            both.apply(delta)
        c.c.t_clear(c.node)


@pytest.mark.parametrize("name", TOPS)
def test_loading(name: str) -> None:
    """What was saved is taken in, some of it twice and back again, and goes on as if nothing had been."""
    operator = TOPS[name]
    rng = random.Random(name)
    c = InC(operator, False)
    for _ in range(4):
        keyed = len(operator.tie) == 1
        there: ZSet = {}
        add_pairs(there, random_delta(rng, {}, keyed, 200))
        there = {row: weight for row, weight in there.items() if row[4] != 3}
        gone = {row: -weight for row, weight in there.items() if not rng.randrange(4)}
        both = Both(operator, c=c)
        both.take(there, {})
        both.take(gone, {})
        add_pairs(there, gone.items())
        both.track()
        for _ in range(10):
            delta = random_delta(rng, there, keyed, 6)
            add_pairs(there, delta)
            both.apply(delta)
        c.c.t_clear(c.node)


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("name", ["global", "bag", "ranked bag"])
def test_weights_below_nothing(name: str, part: bool) -> None:
    """A part of rows whose changes go to several nodes may see one taken back that it was never given."""
    operator = TOPS[name]
    if part and operator.per:
        return
    rng = random.Random(name)
    c = InC(operator, part)
    for _ in range(4):
        both = Both(operator, part, c)
        for _ in range(30):
            # One row to a key: rows of one key are never there together.
            rows = [
                (key, *random_row(random.Random(key))[1:]) for key in rng.sample(range(40), rng.randrange(8))
            ]
            both.apply([(row, rng.choice((-2, -1, 1, 2, 3))) for row in rows])
        c.c.t_clear(c.node)


def test_large_groups() -> None:
    """Thousands of rows in one group: changes behind the first places say nothing, others the difference."""
    operator = top_of(3, [SortKey(column("key"), True)], [], (0,))
    c = InC(operator, False)
    both = Both(operator, c=c)
    rows: list[Row] = [(key, "a", 1.0, "x", 1) for key in range(3000)]
    random.Random(4).shuffle(rows)
    both.apply([(row, 1) for row in rows])
    assert both.apply([((5, "a", 1.0, "x", 1), -1)]) == {}
    assert both.apply([((2999, "a", 1.0, "x", 1), -1)]) == {
        (2999, "a", 1.0, "x", 1): -1,
        (2996, "a", 1.0, "x", 1): 1,
    }
    both.apply([(row, -1) for row in rows if row[0] not in (5, 2999)])


@pytest.mark.parametrize("part", [False, True])
def test_without_memory(part: bool) -> None:
    """Whichever allocation fails, the step ends with an error, and all memory is given back."""
    operator = TOPS["global" if part else "computed"]
    c = InC(operator, part)
    rng = random.Random(2)
    rows = [random_row(rng) for _ in range(40)]
    failed, allocation = True, 0
    while failed:
        allocation += 1
        c.c.t_fail_after(c.node, ctypes.c_int64(allocation))
        failed = False
        for place, row in enumerate(rows):
            # Half of them come, then they go again and the others come.
            words = packed(c.library.words(c.row, row) if not c.c.t_error(c.node) else [0] * c.row.words)
            failed = failed or c.c.t_add(c.node, words, ctypes.c_int64(1)) != 0
            if place % 2:
                failed = failed or c.c.t_run(c.node) != 0
        assert failed == (c.c.t_error(c.node) != 0)
        c.c.t_fail_after(c.node, ctypes.c_int64(0))
        c.c.t_clear(c.node)
        assert c.c.t_end(c.node) == 0, f"memory that is left when allocation {allocation} fails"
        c.renew()
    assert allocation > 30
