"""Changing a program: the plan that runs while the new views are filled.

Operators of the two programs are told apart by their *lineage* (`fingerprint.py`): one that computes the same from the
same datasets is the same, and what it keeps is kept. So a view whose lineage is that of one before is kept, too.

The plan of a change (`changing`) is the plan before, untouched, and beside it all that the views need that are not
kept. The two have the sources in common, and nothing else: behind each source stands a gate, through which the rows
that there are pass to what is new in slices (`reference/gate.py`). An operator that both a view before and a new view
need is there twice meanwhile, and comes to keep the same twice; the plan behind the change takes what is kept of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import (
    NEXT,
    Gate,
    Operator,
    Plan,
    Sink,
    Source,
    StateKind,
    ViewPlan,
)

SLICES = 64
"""In so many slices the rows of a dataset are filled in. A part of the format of logs: records count slices."""


def changing(before: Plan, after: Plan) -> Plan:
    """The plan that serves the views of `before` and fills those of `after` that it does not have. The datasets of
    `before` come first in `after`, see `expr/changes.py`."""
    operators, views = list(before.operators), list(before.views)
    places: dict[int, int] = {}
    sources = {o.dataset: o for o in before.operators if isinstance(o, Source)}
    needed = needed_by(after, [view.sink for view in filled_views(before, after)])
    for operator in after.operators:
        if operator.id not in needed:
            continue
        places[operator.id] = len(operators)
        if isinstance(operator, Source) and operator.dataset in sources:
            operators.append(_gate(sources[operator.dataset], len(operators)))
        elif isinstance(operator, Sink):
            view = after.views[operator.view]
            errors_of = tuple(sorted(places[each] for each in operator.errors_of))
            placed = replace(operator, view=len(views), errors_of=errors_of)
            views.append(ViewPlan(NEXT + view.name, view.row_type, len(operators)))
            operators.append(_placed(placed, len(operators), places))
        else:
            operators.append(_placed(operator, len(operators), places))
    return replace(
        before,
        datasets=(*before.datasets, *after.datasets[len(before.datasets) :]),
        views=tuple(views),
        operators=tuple(operators),
        stages=max(before.stages, *(operator.stage for operator in operators)),
        fingerprint="",
    )


def filled_views(before: Plan, after: Plan) -> list[ViewPlan]:
    """The views of a program that have to be filled when it takes the place of another one."""
    known, lineage = frozenset(lineages(before)), lineages(after)
    return [view for view in after.views if lineage[view.sink] not in known]


def needed_by(plan: Plan, operators: Iterable[int]) -> frozenset[int]:
    """These operators, and all that are in front of them."""
    found: dict[int, None] = {}
    waiting = list(operators)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found[number] = None
            waiting += plan.operators[number].inputs
    return frozenset(found)


def _placed(operator: Operator, number: int, places: dict[int, int]) -> Operator:
    return replace(operator, id=number, inputs=tuple(places[each] for each in operator.inputs))


def _gate(source: Source, number: int) -> Gate:
    return Gate(
        id=number,
        inputs=(source.id,),
        row_type=source.row_type,
        stage=source.stage,
        sharding=source.sharding,
        state=StateKind.NONE,
        label=source.label,
        dataset=source.dataset,
        key=source.key,
    )


def slices_of(plan: Plan) -> int:
    """How many slices are to be filled while this plan runs: none, if no gate holds anything back."""
    return SLICES if any(isinstance(operator, Gate) for operator in plan.operators) else 0
