"""One program in the place of another: their graphs. What that means for plans is in `compiler/change.py`.

The log of a program has writes to datasets by number, clients that have not heard of the change go on writing so, and
what was sent may come again much later. So a dataset keeps its number for ever: what a program has that there was
before keeps its place, what is new comes behind that, and what was dropped stays there, marked as such.
"""

from __future__ import annotations

from dataclasses import replace

from dist_zero.expr.ops import Dataset, Graph


def in_place_of(after: Graph, before: Graph) -> Graph:
    """The program `after`, with its datasets and views where those of the same names are in `before`."""
    datasets = {dataset.name: dataset for dataset in after.datasets}
    views = {view.name: view for view in after.views}
    placed: list[Dataset] = []
    for dataset in before.datasets:
        stays = None if dataset.dropped else datasets.pop(dataset.name, None)
        placed.append(stays if stays is not None else replace(dataset, dropped=True))
    known = [views.pop(view.name) for view in before.views if view.name in views]
    return replace(after, datasets=(*placed, *datasets.values()), views=(*known, *views.values()))


def live(graph: Graph) -> Graph:
    """The program whose views readers are shown."""
    return graph if graph.before is None else graph.before


def behind(graph: Graph) -> Graph:
    """The program as it is when what it takes the place of is gone."""
    return replace(graph, before=None)
