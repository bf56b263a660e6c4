"""Operators that keep nothing, as C: each takes a row, and hands on at once what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from dist_zero.compiler import plan as plans
from dist_zero.native.layout import Layout
from dist_zero.native.text import (
    LeftOut,
    OperatorText,
    PlanText,
    assign,
    columns_of,
    copier,
    pointer,
    words,
)
from dist_zero.types import DATETIME_MAX_US, DATETIME_MIN_US


def filter_text(text: PlanText, operator: plans.Filter) -> OperatorText:
    """Rows for which the predicate is true."""
    source = text.input(operator)
    name = f"op{operator.id}_predicate"
    fails = text.predicate(name, operator.predicate, [source])
    take = [
        "bool passes;",
        *_computed(text, operator, fails, f"{name}(base, row, &passes)", source),
        f"if (passes) op{operator.id}_emit(base, row, weight);",
    ]
    return OperatorText(inputs={0: take})


def project_text(text: PlanText, operator: plans.Project) -> OperatorText:
    """Each row's scalars."""
    source, target = text.input(operator), text.row(operator)
    name = f"op{operator.id}_columns"
    fails = text.scalars(name, operator.columns, source, target)
    take = [
        words(target, "projected"),
        *_computed(text, operator, fails, f"{name}(base, row, projected)", source),
        f"op{operator.id}_emit(base, projected, weight);",
    ]
    return OperatorText(inputs={0: take})


def flat_map_text(text: PlanText, operator: plans.FlatMap) -> OperatorText:
    """Each row with each alternative behind it; none of them, if one fails."""
    source, target = text.input(operator), text.row(operator)
    width = len(source.types)
    declared: list[str] = []
    computed: list[str] = []
    emitted: list[str] = []
    everything = [scalar for scalars in operator.alternatives for scalar in scalars]
    for number, scalars in enumerate(operator.alternatives):
        name = f"op{operator.id}_alternative{number}"
        result = text.tuple(name, [scalar.dtype for scalar in scalars], operator.row_type.names[width:])
        fails = text.scalars(name, scalars, source, result)
        declared.append(words(result, f"values{number}"))
        if fails:
            computed.append(f"failure = failure ? failure : {name}(base, row, values{number});")
        else:
            computed.append(f"{name}(base, row, values{number});")
        emitted += [
            pointer(result, f"more{number}", f"values{number}"),
            *assign(target, "to", [*columns_of(source, "from"), *columns_of(result, f"more{number}")]),
            f"op{operator.id}_emit(base, mapped, weight);",
        ]
    fallible = any("failure" in line for line in computed)
    if fallible:
        # As all of them are computed from the same row, the order in which they are does not tell which fails first.
        declared.append("int failure = 0;")
        report = text.report(LeftOut(operator.id, "row"), source)
        computed += ["if (DZ_UNLIKELY(failure)) {", f"    {report}", "    return;", "}"]
    assert everything or operator.alternatives
    take = [
        *declared,
        words(target, "mapped"),
        *computed,
        pointer(source, "from", "row"),
        pointer(target, "to", "mapped", const=False),
        *emitted,
    ]
    return OperatorText(inputs={0: take})


def window_text(text: PlanText, operator: plans.Window) -> OperatorText:
    """Each row once per window that contains its time: every start in (at - size, at]."""
    source, target = text.input(operator), text.row(operator)
    name = f"op{operator.id}_at"
    result = text.tuple(name, [operator.at.dtype], ["at"])
    fails = text.scalars(name, [operator.at], source, result)
    at = f"(int64_t)at[{result.word(0)}]"
    report = text.report(LeftOut(operator.id, "row"), source)
    size, every = f"INT64_C({operator.size_us})", f"INT64_C({operator.every_us})"
    fixed = columns_of(source, "from")
    starts = assign(target, "to", [*fixed, *fixed[:0], *_bounds(text, operator)])
    take = [
        words(result, "at"),
        words(target, "windowed"),
        *_computed(text, operator, fails, f"{name}(base, row, at)", source, report),
        *(["if (at[0] & 1) return;"] if operator.at.dtype.nullable else []),
        f"__int128 first = dz_wide_floor_div((__int128){at} - {size}, {every}) + 1;",
        f"__int128 last = dz_wide_floor_div({at}, {every});",
        f"if (first <= last && (first * {every} < INT64_C({DATETIME_MIN_US})",
        f"                      || last * {every} + {size} > INT64_C({DATETIME_MAX_US}))) {{",
        f"    {report}",
        "    return;",
        "}",
        pointer(source, "from", "row"),
        pointer(target, "to", "windowed", const=False),
        "for (__int128 number = first; number <= last; number++) {",
        f"    dz_bounds bounds = {{(int64_t)(number * {every}), (int64_t)(number * {every} + {size})}};",
        *[f"    {line}" for line in starts],
        f"    op{operator.id}_emit(base, windowed, weight);",
        "}",
    ]
    return OperatorText(inputs={0: take})


def union_text(text: PlanText, operator: plans.Union) -> OperatorText:
    """The sum of the inputs."""
    target = text.row(operator)
    inputs: dict[int, list[str]] = {}
    for place in range(len(operator.inputs)):
        source = text.input(operator, place)
        if source.types == target.types:
            inputs[place] = [f"op{operator.id}_emit(base, row, weight);"]
            continue
        name = f"op{operator.id}_from{place}"
        text.helpers.append(copier(name, source, target))
        inputs[place] = [
            words(target, "copy"),
            f"{name}(row, copy);",
            f"op{operator.id}_emit(base, copy, weight);",
        ]
    return OperatorText(inputs=inputs)


def _computed(
    text: PlanText, operator: plans.Operator, fails: bool, call: str, source: Layout, report: str = ""
) -> list[str]:
    """Statements that compute, and leave out a row on which that fails."""
    if not fails:
        return [f"{call};"]
    report = report or text.report(LeftOut(operator.id, "row"), source)
    return [f"if (DZ_UNLIKELY({call})) {{", f"    {report}", "    return;", "}"]


def _bounds(text: PlanText, operator: plans.Window) -> Sequence[tuple[Layout, str, int]]:
    """The columns of a window's start and end, which lie in a `dz_bounds`."""
    types = operator.row_type.types[-2:]
    bounds = text.unnamed(types, ["start", "end"])
    return columns_of(bounds, "(&bounds)")
