"""Datasets after a history of transactions: the oracle's own way to them, one write after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dist_zero.batch import Writes
from dist_zero.expr.ops import Graph
from dist_zero.types import Row
from dist_zero.zset import ZSet
from dist_zero_common.protocol.messages.pieces import WriteKind


class Datasets:
    """The datasets of a program, by name, as transactions leave them."""

    def __init__(self, graph: Graph) -> None:
        self.missed = {dataset.name: 0 for dataset in graph.datasets}
        """Updates and deletes of keys that were not there, by dataset."""
        self._datasets = graph.datasets
        self._rows: dict[str, list[Row]] = {
            dataset.name: [] for dataset in graph.datasets if dataset.key is None
        }
        self._by_key: dict[str, dict[Row, Row]] = {
            dataset.name: {} for dataset in graph.datasets if dataset.key is not None
        }

    def apply(self, transaction: Sequence[Writes]) -> None:
        """Do the writes of one transaction, in order; their places in an epoch are not looked at."""
        for writes in transaction:
            for row in writes.batch.rows():
                self._write(writes, row)

    def contents(self) -> dict[str, ZSet]:
        """The rows of every dataset, with how often they are there."""
        rows = {**self._rows, **{name: list(keyed.values()) for name, keyed in self._by_key.items()}}
        contents: dict[str, ZSet] = {}
        for name, each in rows.items():
            counted = contents[name] = {}
            for row in each:
                counted[row] = counted.get(row, 0) + 1
        return contents

    def _write(self, writes: Writes, values: Row) -> None:
        dataset = self._datasets[writes.dataset]
        given = dict(zip(writes.columns, values, strict=True))
        if dataset.key is None:
            self._rows[dataset.name].append(tuple(given[i] for i in range(len(dataset.row_type))))
            return
        rows = self._by_key[dataset.name]
        key = tuple(given[dataset.row_type.index(name)] for name in dataset.key)
        if writes.kind is WriteKind.PUT:
            rows[key] = tuple(given[i] for i in range(len(dataset.row_type)))
        elif key not in rows:
            self.missed[dataset.name] += 1
        elif writes.kind is WriteKind.DELETE:
            del rows[key]
        else:
            rows[key] = tuple(given.get(i, old) for i, old in enumerate(rows[key]))


def after(graph: Graph, transactions: Iterable[Sequence[Writes]]) -> dict[str, ZSet]:
    """The contents of a program's datasets after these transactions."""
    datasets = Datasets(graph)
    for transaction in transactions:
        datasets.apply(transaction)
    return datasets.contents()
