"""Rows that came as batches, for whoever wants them as rows: they become Python objects when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

from dist_zero.batch import Batch
from dist_zero.row import ViewRow
from dist_zero.types import Row as StoredRow

if TYPE_CHECKING:
    import pyarrow

    from dist_zero.client.snapshot import ViewReader


class ChangedRows(Sequence[tuple[StoredRow, int]]):
    """Rows and by how much each of them changed, in stored values."""

    __slots__ = ("_pairs", "batches")

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = tuple(batch for batch in batches if len(batch))
        self._pairs: list[tuple[StoredRow, int]] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[tuple[StoredRow, int]]:
        return chain.from_iterable(batch.items() for batch in self.batches)

    @overload
    def __getitem__(self, place: int) -> tuple[StoredRow, int]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[StoredRow, int]]: ...

    def __getitem__(self, place: int | slice) -> tuple[StoredRow, int] | list[tuple[StoredRow, int]]:
        if self._pairs is None:
            self._pairs = list(self)
        return self._pairs[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class Change:
    """What one epoch changed in a view. With `snapshot`, `inserted` is the whole view, and whatever was known
    before is to be forgotten. `epoch` is the token to go on from: `watch(..., after=change.epoch)`.

    Its rows are made when they are asked for; `to_arrow` makes none.
    """

    __slots__ = ("_deleted", "_inserted", "_reader", "_rows", "epoch", "snapshot")

    def __init__(
        self, reader: ViewReader, epoch: int, rows: Sequence[tuple[StoredRow, int]], snapshot: bool
    ) -> None:
        self.epoch, self.snapshot = epoch, snapshot
        self._reader, self._rows = reader, rows
        self._inserted: list[ViewRow] | None = None
        self._deleted: list[ViewRow] | None = None

    @property
    def inserted(self) -> list[ViewRow]:
        """The rows that came, in the view's order, each as often as it did."""
        if self._inserted is None:
            self._inserted = self._user_rows(1)
        return self._inserted

    @property
    def deleted(self) -> list[ViewRow]:
        """The rows that went, likewise."""
        if self._deleted is None:
            self._deleted = self._user_rows(-1)
        return self._deleted

    def to_arrow(self) -> tuple[pyarrow.Table, pyarrow.Table]:
        """The rows that came and those that went, in the view's order, as Arrow tables."""
        from dist_zero.arrow_batches import sorted_tables

        row_type, order = self._reader.row_type, self._reader.sink.order
        if isinstance(self._rows, ChangedRows):
            batches: Sequence[Batch] = self._rows.batches
        else:
            batches = [Batch.from_zset(row_type.types, dict(self._rows))]
        came, went = sorted_tables(row_type, batches, order, (1, -1))
        return came, went

    def _user_rows(self, sign: int) -> list[ViewRow]:
        rows = [row for row, weight in self._rows for _ in range(sign * weight)]
        return self._reader.user_rows(self._reader.sorted(rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and self._said() == other._said()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        epoch, inserted, deleted, snapshot = self._said()
        return f"Change({epoch=}, {inserted=}, {deleted=}, {snapshot=})"

    def _said(self) -> tuple[int, list[ViewRow], list[ViewRow], bool]:
        return self.epoch, self.inserted, self.deleted, self.snapshot


class StoredRows(Mapping[str, list[StoredRow]]):
    """The rows of views in stored values, each view in its order; made when they are asked for."""

    __slots__ = ("_readers", "_rows", "batches")

    def __init__(self, batches: Mapping[str, Sequence[Batch]], readers: Mapping[str, ViewReader]) -> None:
        """The batches' weights say how often a row is there; none is negative."""
        self.batches = batches
        self._readers = readers
        self._rows: dict[str, list[StoredRow]] = {}

    def __getitem__(self, view: str) -> list[StoredRow]:
        rows = self._rows.get(view)
        if rows is None:
            pairs = chain.from_iterable(batch.items() for batch in self.batches[view])
            repeated = [row for row, weight in pairs for _ in range(weight)]
            rows = self._rows[view] = self._readers[view].sorted(repeated)
        return rows

    def __contains__(self, view: object) -> bool:
        return view in self.batches

    def __iter__(self) -> Iterator[str]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]
