"""The writes of one transaction while a client collects them: user rows in, a payload out.

Everything is checked here, before anything is sent, so that an error names the dataset, the column, the value
and the row's place in what the caller passed. The sequencer checks again; it trusts nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, cast

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import DatasetPlan, Plan
from dist_zero.row import Row, to_stored_column, to_stored_row
from dist_zero.sample import Delete
from dist_zero.types import INT_MAX, INT_MIN, DataType, Kind, RowType, to_stored
from dist_zero.types import Row as StoredRow
from dist_zero.writes import encode_payload
from dist_zero_common.errors import DataError, RequestError
from dist_zero_common.protocol.messages.pieces import WriteKind

RowLike = Row | Mapping[str, Any]
"""What a caller writes as a row: an instance of the dataset's row class, or a mapping from columns to
values."""
Key = Any
"""A key of one column: its value. A key of several: a tuple of values in the key's order. For either: a mapping from
its columns, or a row that has them."""


class Transaction:
    """Rows written together: all become visible in one epoch, or none. Made by `transaction()` of a database.

    Writes apply in the order in which they are made here; of several to one key the last one wins.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers = {
            dataset.name: number for number, dataset in enumerate(plan.datasets) if not dataset.dropped
        }
        self._blocks: list[tuple[int, WriteKind, tuple[int, ...], list[StoredRow] | Batch]] = []
        self.row_count = 0
        self._is_ended = False

    def put(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> None:
        """Insert these rows, or replace those that have their keys."""
        self._write_rows(dataset, WriteKind.PUT, rows)

    def append(self, dataset: str, rows: RowLike | Iterable[RowLike]) -> None:
        """Add rows to a dataset without a key."""
        self._write_rows(dataset, WriteKind.APPEND, rows)

    def update(self, dataset: str, key: Key, **columns: Any) -> None:
        """Change these columns of the row with this key; an absent row stays absent and is counted."""
        number, plan = self._dataset(dataset)
        places = self._key_places(plan, "update")
        if not columns:
            raise DataError(f"update of {dataset!r}: name at least one column to change")
        names = [plan.row_type.names[i] for i in places]
        try:
            changed = {name: to_stored_column(plan.row_type, name, value) for name, value in columns.items()}
        except DataError as error:
            raise DataError(f"update of {dataset!r}: {error}") from None
        for name in changed:
            if name in names:
                raise DataError(
                    f"update of {dataset!r}: {name!r} belongs to the key; delete the row and put another"
                )
        row = stored_key(plan, key) + tuple(changed.values())
        self._add(number, WriteKind.UPDATE, places + tuple(plan.row_type.index(n) for n in changed), [row])

    def delete(self, dataset: str, *keys: Key) -> None:
        """Remove the rows with these keys; absent ones are counted."""
        number, plan = self._dataset(dataset)
        places = self._key_places(plan, "delete")
        self._add(number, WriteKind.DELETE, places, stored_keys(plan, keys))

    def write_stored(self, dataset: str, rows: list[StoredRow]) -> None:
        """Put or append rows that are stored rows already, as `dist_zero.files` makes them."""
        number, plan = self._dataset(dataset)
        kind = WriteKind.APPEND if plan.key is None else WriteKind.PUT
        self._add(number, kind, tuple(range(len(plan.row_type))), rows)

    def write_batch(self, dataset: str, batch: Batch) -> None:
        """Put or append rows of the dataset's row type that nobody has to look at."""
        number, plan = self._dataset(dataset)
        kind = WriteKind.APPEND if plan.key is None else WriteKind.PUT
        self._add(number, kind, tuple(range(len(plan.row_type))), batch)

    def row_type(self, dataset: str) -> RowType:
        """The row type of a dataset; raises `RequestError` if there is none of the name."""
        return self._dataset(dataset)[1].row_type

    def payload(self) -> bytes:
        """The transaction as it travels. Raises `DataError` when it is larger than a transaction may be."""
        return encode_payload(
            [
                Writes(number, kind, columns, self._batch(number, columns, rows), (), ())
                for number, kind, columns, rows in self._blocks
            ]
        )

    def end(self) -> None:
        """Take no more writes: nobody would send them."""
        self._is_ended = True

    # -- inside ----------------------------------------------------------------------------------------------

    def _batch(self, number: int, columns: tuple[int, ...], rows: list[StoredRow] | Batch) -> Batch:
        if isinstance(rows, Batch):
            return rows
        return Batch.from_rows(self._plan.datasets[number].row_type.select(columns).types, rows)

    def _add(
        self, number: int, kind: WriteKind, columns: tuple[int, ...], rows: list[StoredRow] | Batch
    ) -> None:
        if self._is_ended:
            raise RequestError("this transaction has ended with its block; write in a new one")
        self.row_count += len(rows)
        newest = self._blocks[-1] if self._blocks else None
        if isinstance(rows, Batch):
            if rows:
                self._blocks.append((number, kind, columns, rows))
        elif newest and newest[:3] == (number, kind, columns) and isinstance(newest[3], list):
            newest[3].extend(rows)
        elif rows:
            self._blocks.append((number, kind, columns, list(rows)))

    def _write_rows(self, dataset: str, kind: WriteKind, rows: RowLike | Iterable[RowLike]) -> None:
        number, plan = self._dataset(dataset)
        if kind is WriteKind.APPEND and plan.key is not None:
            raise RequestError(f"dataset {dataset!r} has a key, so rows are written with put, not append")
        if kind is WriteKind.PUT and plan.key is None:
            raise RequestError(f"dataset {dataset!r} has no key, so rows are written with append, not put")
        self._add(number, kind, tuple(range(len(plan.row_type))), stored_rows(plan, rows))

    def _dataset(self, name: str) -> tuple[int, DatasetPlan]:
        number = self._numbers.get(name)
        if number is None:
            raise RequestError(
                f"no dataset {name!r} in program {self._plan.name!r}; there are {', '.join(self._numbers)}"
            )
        return number, self._plan.datasets[number]

    def _key_places(self, plan: DatasetPlan, verb: str) -> tuple[int, ...]:
        if plan.key is None:
            raise RequestError(
                f"dataset {plan.name!r} has no key, so there is no {verb}; it takes append alone"
            )
        return plan.key


@contextmanager
def ended(transaction: Transaction) -> Iterator[Transaction]:
    """The transaction, which takes writes inside this block alone."""
    try:
        yield transaction
    finally:
        transaction.end()


def sampled_transaction(plan: Plan, pairs: Iterable[tuple[str, Any]]) -> Transaction:
    """A transaction as a sample generator gives it (see `Program.generate`)."""
    transaction = Transaction(plan)
    for (dataset, is_row), run in groupby(pairs, key=lambda pair: (pair[0], isinstance(pair[1], tuple))):
        changes = [what for _, what in run]
        if is_row:
            transaction.write_stored(dataset, changes)
            continue
        for what in changes:
            if isinstance(what, Delete):
                transaction.delete(dataset, what.key)
            else:
                transaction.update(dataset, what.key, **what.columns)
    return transaction


def stored_rows(dataset: DatasetPlan, rows: object) -> list[StoredRow]:
    """The stored rows of one row or several. Raises `DataError` naming dataset, row number (from 1) and
    column."""
    if isinstance(rows, Row | Mapping):
        return [_stored_row(dataset, rows, "")]
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise DataError(
            f"dataset {dataset.name!r}: expected a row or rows, got {type(rows).__name__} {rows!r:.80}"
        )
    return [_stored_row(dataset, row, f", row {number:,}") for number, row in enumerate(rows, 1)]


def stored_key(dataset: DatasetPlan, key: Key) -> StoredRow:
    """The stored values of a key of `dataset`."""
    assert dataset.key is not None
    return stored_key_of(f"dataset {dataset.name!r}", dataset.row_type.select(dataset.key), key)


def stored_keys(dataset: DatasetPlan, keys: Sequence[Key]) -> list[StoredRow]:
    """The stored values of keys of `dataset`. Many plain numbers or texts are looked at all at once."""
    assert dataset.key is not None
    if len(dataset.key) == 1 and _are_stored(dataset.row_type.types[dataset.key[0]], keys):
        return list(zip(keys, strict=True))
    return [stored_key(dataset, key) for key in keys]


def _are_stored(dtype: DataType, values: Sequence[object]) -> bool:
    """Whether values are stored ones of this type already; it may be said of fewer than are."""
    types = set(map(type, values))
    if dtype.kind is Kind.INT and types == {int}:
        numbers = cast(Sequence[int], values)
        return min(numbers) >= INT_MIN and max(numbers) <= INT_MAX
    if dtype.kind is Kind.STR and types == {str}:
        return "".join(cast(Sequence[str], values)).isascii()  # no lone surrogates
    return False


def stored_key_of(what: str, key_type: RowType, key: Key) -> StoredRow:
    """The stored values of a key with these columns; `what` has it, for the error."""
    values = _key_values(what, key_type, key)
    stored = []
    for name, dtype, value in zip(key_type.names, key_type.types, values, strict=True):
        try:
            stored.append(to_stored(dtype, value))
        except DataError as error:
            raise DataError(f"{what}, key column {name!r}: {error}") from None
    return tuple(stored)


def _key_values(what: str, key_type: RowType, key: Key) -> Sequence[Any]:
    names = key_type.names
    if isinstance(key, Row):
        key = vars(key)
        key = {name: key[name] for name in names if name in key}
    if isinstance(key, Mapping):
        if set(key) != set(names):
            raise DataError(f"{what}: the key is {key_type}, got {', '.join(map(str, key)) or 'nothing'}")
        return [key[name] for name in names]
    if len(names) == 1 and not isinstance(key, tuple):
        return [key]
    if not isinstance(key, tuple) or len(key) != len(names):
        wanted = {0: "()", 1: "its value"}.get(len(names), f"a tuple of {len(names)}")
        raise DataError(f"{what}: the key is {key_type}; give {wanted}, got {key!r:.80}")
    return key


def _stored_row(dataset: DatasetPlan, row: Any, where: str) -> StoredRow:
    try:
        return to_stored_row(dataset.row_type, row)
    except DataError as error:
        raise DataError(f"dataset {dataset.name!r}{where}: {error}") from None
