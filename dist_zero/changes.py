"""What a change of a program keeps, fills and drops.

What cannot be filled is a view over a dataset without a key that there was before, since nobody keeps its rows. Such a
view *begins empty*: it sees what is appended from the change on. Only if the user says so, and not where it would share
an operator with state with a view that goes on with all it has seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from dist_zero.compiler import compile
from dist_zero.compiler.change import needed_by
from dist_zero.compiler.fingerprint import lineages
from dist_zero.compiler.plan import DatasetPlan, Plan, Source
from dist_zero.expr.graph import fingerprint
from dist_zero.expr.ops import Dataset, Graph, View
from dist_zero.expr.walk import in_order
from dist_zero.state import state_tables
from dist_zero_common.protocol.messages.requests import ChangeLine, Fate


@dataclass(frozen=True, slots=True)
class Description:
    """A change in words: what becomes of each dataset and view, and why it cannot be made, if so."""

    lines: tuple[ChangeLine, ...]
    refusals: tuple[str, ...]


def described(before: Graph, after: Graph, *, drops: bool, begins_empty: Collection[str]) -> Description:
    """What a change does, from a program that runs to one whose datasets are where they are in it
    (`expr/changes.py`). `drops`: datasets may be dropped; `begins_empty`: views that may begin empty."""
    old, new = compile(before), compile(after)
    lines: list[ChangeLine] = []
    refusals: list[str] = []
    for number, dataset in enumerate(after.datasets):
        known = before.datasets[number] if number < len(before.datasets) else None
        if known is None:
            lines.append(ChangeLine("dataset", dataset.name, Fate.EMPTY, "it is new"))
        elif not known.dropped and dataset.dropped:
            lines.append(ChangeLine("dataset", dataset.name, Fate.DROPPED, "it is declared no more"))
            if not drops:
                refusals.append(
                    f"dataset {dataset.name!r} is declared no more, and its rows would be lost: say --drop-datasets if"
                    " they shall be"
                )
        elif not known.dropped:
            lines.append(ChangeLine("dataset", dataset.name, Fate.KEPT, ""))
            refusals += _refused_dataset(dataset, old.datasets[number], new.datasets[number])
    if refusals:  # what becomes of views is not told where their datasets are others
        return Description(tuple(lines), tuple(refusals))
    views = {view.name: view for view in before.views}
    for fate, view in zip(view_fates(old, new), after.views, strict=True):
        lines.append(ChangeLine("view", view.name, *_told(fate, view, views.pop(view.name, None))))
        refusals += _refused_view(fate, view, after, begins_empty)
    lines += [ChangeLine("view", name, Fate.DROPPED, "it is declared no more") for name in views]
    unknown = sorted(frozenset(begins_empty).difference(view.name for view in after.views))
    if unknown:
        refusals.append(f"no view {', '.join(unknown)} is there to begin empty")
    return Description(tuple(lines), tuple(refusals))


def _told(fate: ViewFate, view: View, known: View | None) -> tuple[Fate, str]:
    if fate.kept:
        return Fate.KEPT, ""
    reason = "it is new"
    if known is not None and _is_same(view, known):
        reason = "an operator that it shares with other views has changed"
    elif known is not None:
        reason = "its definition has changed"
    if fate.unfilled:
        return Fate.EMPTY, f"{reason}, and {', '.join(fate.unfilled)} keeps no rows"
    return Fate.FILLED, reason


def _is_same(one: View, other: View) -> bool:
    graphs = []
    for view in (one, other):
        datasets = tuple(r for r in in_order([view.relation]) if isinstance(r, Dataset))
        graphs.append(fingerprint(Graph("view", datasets, (view,))))
    return graphs[0] == graphs[1]


def _refused_dataset(dataset: Dataset, before: DatasetPlan, after: DatasetPlan) -> list[str]:
    differences = "; ".join(dataset_differences(before, after))
    if not differences:
        return []
    return [
        f"{dataset.location}: the rows of dataset {dataset.name!r} cannot become others: {differences}. Declare a"
        " dataset under another name, and load the rows into that"
    ]


def _refused_view(fate: ViewFate, view: View, graph: Graph, begins_empty: Collection[str]) -> list[str]:
    if not fate.unfilled:
        return []
    where = view.relation.location
    declared = {dataset.name: dataset.location for dataset in graph.datasets}
    reads = ", ".join(f"{name!r} ({declared[name]})" for name in fate.unfilled)
    if fate.shared:
        return [
            f"{where}: view {view.name!r} cannot begin empty, because it has {fate.shared} in common with a view that"
            f" has seen all of {reads}: give it an expression of its own up to there"
        ]
    if view.name in begins_empty:
        return []
    return [
        f"{where}: view {view.name!r} cannot be filled, because dataset {reads} has no key, so its rows are not kept:"
        f" say --begin-empty {view.name} if it shall see what is appended from now on, or give the dataset a key"
    ]


@dataclass(frozen=True, slots=True)
class ViewFate:
    """What becomes of a view. `unfilled`: the datasets without a key that it reads and of which it sees what is
    appended from the change on; `shared`: why it cannot begin empty, or the empty text."""

    name: str
    kept: bool
    unfilled: tuple[str, ...] = ()
    shared: str = ""


def view_fates(before: Plan, after: Plan) -> list[ViewFate]:
    """What becomes of each view of `after`."""
    known, lineage = frozenset(lineages(before)), lineages(after)
    keeps = frozenset(table.name.split("/")[1] for table in state_tables(after))
    there = [dataset.name for dataset in before.datasets if not dataset.dropped]
    fates = []
    for view in after.views:
        if lineage[view.sink] in known:
            fates.append(ViewFate(view.name, kept=True))
            continue
        needed = needed_by(after, [view.sink])
        blind = _blind(after, there, needed)
        unfilled = tuple(dict.fromkeys(after.datasets[source.dataset].name for source in blind))
        behind = _behind(after, [source.id for source in blind])
        shared = [
            operator.label
            for operator in after.operators
            if operator.id in needed & behind and lineage[operator.id] in known & keeps
        ]
        fates.append(ViewFate(view.name, False, unfilled, shared[0] if shared else ""))
    return fates


def _blind(plan: Plan, there: Sequence[str], operators: frozenset[int]) -> list[Source]:
    """Of these operators, the sources of datasets that there were before and whose rows nobody keeps."""
    return [
        operator
        for operator in plan.operators
        if isinstance(operator, Source)
        and operator.id in operators
        and operator.key is None
        and plan.datasets[operator.dataset].name in there
    ]


def _behind(plan: Plan, sources: Sequence[int]) -> frozenset[int]:
    """All operators that these are in front of."""
    found = list(sources)
    for operator in plan.operators:
        if any(place in found for place in operator.inputs):
            found.append(operator.id)
    return frozenset(found)


def dataset_differences(before: DatasetPlan, after: DatasetPlan) -> Iterator[str]:
    """Why the rows of a dataset are none of the dataset that is declared now, in words."""
    old = dict(zip(before.row_type.names, before.row_type.types, strict=True))
    new = dict(zip(after.row_type.names, after.row_type.types, strict=True))
    for name, dtype in old.items():
        if name not in new:
            yield f"column {name!r} ({dtype}) is gone"
        elif new[name] != dtype:
            yield f"column {name!r} was {dtype} and is {new[name]}"
    for name, dtype in new.items():
        if name not in old:
            yield f"column {name!r} ({dtype}) is new"
    if old == new and before.row_type.names != after.row_type.names:
        yield f"its columns were in the order {', '.join(before.row_type.names)}"
    old_key, new_key = _key_names(before), _key_names(after)
    if old_key != new_key:
        yield f"its key was {old_key or 'none'} and is {new_key or 'none'}"


def _key_names(dataset: DatasetPlan) -> str:
    return ", ".join(dataset.row_type.names[place] for place in dataset.key or ())
