"""Snapshots: putting the nodes' answers together, and what the caller gets.

Every node answers for its shard, in parts; a part may come twice, and an answer asked for twice may come as
of two epochs. The first epoch of which everything is here is the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from dist_zero.batch import Batch
from dist_zero.client.changed import StoredRows
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.ordering import sort_key
from dist_zero.row import ViewRow, row_class_of, rows_from_stored
from dist_zero.shards import SHARDS_MAX
from dist_zero.types import DataType, Kind, RowType
from dist_zero.types import Row as StoredRow
from dist_zero_common.errors import MalformedMessage, RequestError
from dist_zero_common.protocol.messages.reading import ErrorEntry, SnapshotAnswer, ViewRows

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


PARTS_MAX = 1 << 16
"""More parts than any node cuts an answer into."""


@dataclass(frozen=True, slots=True)
class ViewError:
    """Rows that an operator leaves out of a view: the user's line and verb, why, how many, and one of
    them (no text for the one row of a global aggregate)."""

    label: str
    reason: str
    example: str
    count: int

    def __str__(self) -> str:
        rows = "row is" if self.count == 1 else "rows are"
        example = f", for example {self.example}" if self.example else ""
        return f"{self.count:,} {rows} left out by {self.label}: {self.reason}{example}"


class ViewReader:
    """How one view's rows are read: its type, its order, its class for people."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.name, self.row_type = plan.views[number].name, plan.views[number].row_type
        sink = plan.operators[plan.views[number].sink]
        assert isinstance(sink, Sink)
        self.sink = sink
        self.row_class = row_class_of(self.name, self.row_type)
        self._passes = sorting_passes(self.row_type, sink.order)

    def batch(self, rows: ViewRows) -> Batch:
        """The rows or changes that a node sent, checked."""
        return Batch.from_blob(self.row_type.types, rows.batch, self.row_type.names)

    def sorted(self, rows: Iterable[StoredRow]) -> list[StoredRow]:
        """The rows in the view's order, then by all columns, so that equal content is in one order whoever sent it."""
        ordered = list(rows)
        for key, reverse in self._passes:
            ordered.sort(key=key, reverse=reverse)
        return ordered

    def user_rows(self, rows: Iterable[StoredRow]) -> list[ViewRow]:
        """The rows as people read them: attributes, datetimes as datetimes."""
        return rows_from_stored(self.row_class, rows)


_Pass = tuple[Callable[[StoredRow], Any] | None, bool]


def sorting_passes(row_type: RowType, order: Sequence[tuple[int, bool]]) -> list[_Pass]:
    """Keys to sort rows by, one after the other, and which of them go the other way round: by the places in `order`, of
    which those with true descend, then by all columns. Plain columns that go one way are one key without a call."""
    named = {place for place, _ in order}
    every = [*order, *((place, False) for place in range(len(row_type)) if place not in named)]
    passes: list[_Pass] = []
    for (is_plain, descending), run in groupby(
        every, lambda each: (_is_plain(row_type.types[each[0]]), each[1])
    ):
        places = [place for place, _ in run]
        if is_plain:
            whole = places == list(range(len(row_type)))
            passes.append((None if whole else itemgetter(*places), descending))
        else:
            keys = [(place, sort_key(row_type.types[place], descending)) for place in places]
            passes.append((partial(_keys_of, keys), False))
    return passes[::-1]


def _is_plain(dtype: DataType) -> bool:
    """Whether Python compares the values of this type as we do."""
    return not dtype.nullable and dtype.kind is not Kind.FLOAT


def _keys_of(keys: Sequence[tuple[int, Callable[[Any], Any]]], row: StoredRow) -> list[Any]:
    return [key(row[place]) for place, key in keys]


@dataclass(frozen=True, repr=False)
class Snapshot:
    """Views at one epoch. `snapshot["board"]` is the rows of a view in its order."""

    epoch: int
    """The epoch of which this is the state: it includes every write committed before the question."""
    stored: StoredRows
    """The rows as stored values (see `dist_zero.types`), by view."""
    row_types: Mapping[str, RowType]
    """The row types, by view."""
    errors: Mapping[str, list[ViewError]]
    """What is left out of each view and why; an empty list where nothing is."""
    missed: Mapping[str, int]
    """By dataset: how many updates and deletes named a key that was not there."""
    _readers: Mapping[str, ViewReader]

    def __getitem__(self, view: str) -> list[ViewRow]:
        """The rows of a view; raises `RequestError` for one that was not asked for."""
        return self._readers[self._known(view)].user_rows(self.stored[view])

    def __iter__(self) -> Iterator[str]:
        """The names of the views."""
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __repr__(self) -> str:
        counts = {name: sum(map(row_count, batches)) for name, batches in self.stored.batches.items()}
        views = ", ".join(f"{name}: {n:,} {'row' if n == 1 else 'rows'}" for name, n in counts.items())
        return f"<snapshot at epoch {self.epoch}: {views}>"

    def to_arrow(self, view: str) -> pyarrow.Table:
        """A view as an Arrow table."""
        from dist_zero.arrow_batches import sorted_table

        reader = self._readers[self._known(view)]
        return sorted_table(reader.row_type, self.stored.batches[view], reader.sink.order)

    def to_pandas(self, view: str) -> pandas.DataFrame:
        """A view as a pandas data frame; pandas has to be installed."""
        from dist_zero.files import pandas_frame

        return pandas_frame(self.to_arrow(view))

    def to_polars(self, view: str) -> polars.DataFrame:
        """A view as a polars data frame; polars has to be installed."""
        from dist_zero.files import polars_frame

        return polars_frame(self.to_arrow(view))

    def _known(self, view: str) -> str:
        if view not in self.stored:
            raise RequestError(f"no view {view!r} in this snapshot; it has {', '.join(self.stored)}")
        return view


class PartsByEpoch:
    """Collects the answers to one question until one epoch is whole."""

    def __init__(self) -> None:
        self._epochs: dict[tuple[int, int], dict[tuple[int, int], SnapshotAnswer]] = {}
        """By epoch and map: one that was answered by nodes of two maps is whole when those of one have."""

    def add(self, answer: SnapshotAnswer) -> list[SnapshotAnswer] | None:
        """Take one in; returns those of its epoch, sorted, if it was the one that was missing."""
        check_part(answer)
        parts = self._epochs.setdefault((answer.epoch, answer.map_version), {})
        parts.setdefault((answer.shard, answer.part), answer)
        counts = {shard: each.parts for (shard, _), each in parts.items()}
        if len(counts) < answer.shards or len(parts) < sum(counts.values()):
            return None
        return [parts[place] for place in sorted(parts)]


def check_part(answer: Any) -> None:
    """Refuse a part whose place is impossible: `MalformedMessage`."""
    places = 0 <= answer.shard < answer.shards <= SHARDS_MAX and 0 <= answer.part < answer.parts <= PARTS_MAX
    if not places:
        raise MalformedMessage(
            f"part {answer.part} of {answer.parts} of shard {answer.shard} of {answer.shards} of a view"
        )


def snapshot_of(
    plan: Plan, readers: Mapping[int, ViewReader], views: tuple[int, ...], answers: list[SnapshotAnswer]
) -> Snapshot:
    """What the answers of all shards say together."""
    rows: dict[int, list[Batch]] = {view: [] for view in views}
    for answer in answers:
        for part in answer.views:
            if part.view not in rows:
                raise MalformedMessage(
                    f"a snapshot's answer with view number {part.view}, which was not asked for"
                )
            batch = readers[part.view].batch(part)
            if batch.has_negative_weight:
                raise MalformedMessage("a view with a row of negative weight")
            rows[part.view].append(batch)
    missed = [0] * len(plan.datasets)
    for answer in answers:
        for number, count in enumerate(answer.missed[: len(missed)]):
            missed[number] += count
    names = {view: plan.views[view].name for view in views}
    by_name = {names[view]: readers[view] for view in views}
    return Snapshot(
        epoch=answers[0].epoch,
        stored=StoredRows({names[view]: rows[view] for view in views}, by_name),
        row_types={names[view]: plan.views[view].row_type for view in views},
        errors={names[view]: merged_errors(view, answers) for view in views},
        missed={d.name: count for d, count in zip(plan.datasets, missed, strict=True) if not d.dropped},
        _readers=by_name,
    )


def merged_errors(view: int, answers: Iterable[SnapshotAnswer]) -> list[ViewError]:
    """The errors of a view over all shards: counts add up, the smallest example stays."""
    merged: dict[tuple[int, str], ErrorEntry | None] = {}
    counts: dict[tuple[int, str], int] = {}
    for answer in answers:
        for entry in answer.errors:
            if entry.view != view:
                continue
            place = (entry.operator, entry.reason)
            known = merged.get(place)
            if known is None or entry.example < known.example:
                merged[place] = entry
            counts[place] = counts.get(place, 0) + entry.count
    return [
        ViewError(entry.label, entry.reason, entry.example, counts[place])
        for place, entry in sorted(merged.items())
        if entry is not None
    ]


def row_count(batch: Batch) -> int:
    """How many rows a batch stands for, each as often as its weight says."""
    return sum(batch.weights()) if batch.is_weighted else len(batch)
