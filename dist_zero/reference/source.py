"""The ends of a plan: sources, which turn writes into deltas, and the views that sinks keep."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import plan
from dist_zero.kept import Kept, KeptZSet
from dist_zero.ordering import canonical_order
from dist_zero.reference.kept import KeptByKey
from dist_zero.reference.operators import Delta, consolidated
from dist_zero.types import DataType, Row, picker
from dist_zero.zset import ZSet
from dist_zero_common.errors import InternalError, RequestError
from dist_zero_common.protocol.messages.pieces import WriteKind

_Write = tuple[int, int, Writes, Row]
"""Transaction, row in the transaction, the writes it belongs to, the values of its columns."""

_transaction_order = itemgetter(0, 1)


class Source:
    """The rows of a dataset whose keys this node owns."""

    def __init__(self, operator: plan.Source) -> None:
        self.missed = KeptZSet()
        self.kept = KeptByKey(operator.key or ())
        self._rows = self.kept.rows
        self._key_size = len(operator.key or ())
        self._key_of = picker(operator.key) if operator.key is not None else None

    def apply(self, batches: Sequence[Writes]) -> Delta:
        """Apply an epoch's writes in the order of transaction and row; what that changed."""
        if self._key_of is None:
            return [(row, 1) for writes in batches for row in writes.batch.rows()]
        rows = self._rows
        before: dict[Row, Row | None] = {}
        missed = 0
        for _, _, writes, values in _in_order(batches):
            kind = writes.kind
            key = self._key_of(values) if kind is WriteKind.PUT else values[: self._key_size]
            old = rows.get(key)
            if key not in before:
                before[key] = old
            if kind is WriteKind.PUT:
                rows[key] = values
            elif old is None:
                missed += 1
            elif kind is WriteKind.DELETE:
                del rows[key]
            else:
                rows[key] = _updated(old, writes.columns, values)
        if missed:
            self.missed.add([((), missed)])
        return self._changes(before)

    @property
    def missed_count(self) -> int:
        """Updates and deletes of keys that were not there."""
        return self.missed.weights.get((), 0)

    def _changes(self, before: dict[Row, Row | None]) -> Delta:
        changes: Delta = []
        touched = self.kept.keys
        for key, old in before.items():
            new = self._rows.get(key)
            if old != new:
                if touched is not None:
                    touched[key] = ()
                if old is not None:
                    changes.append((old, -1))
                if new is not None:
                    changes.append((new, 1))
        return changes


def _in_order(batches: Sequence[Writes]) -> list[_Write]:
    every: list[_Write] = []
    for writes in batches:
        every += [
            (transaction, row, writes, values)
            for transaction, row, values in zip(
                writes.transactions, writes.rows, writes.batch.rows(), strict=True
            )
        ]
    every.sort(key=_transaction_order)
    return every


def _updated(row: Row, columns: Sequence[int], values: Row) -> Row:
    """`row` with the `values` of these columns."""
    changed = list(row)
    for column, value in zip(columns, values, strict=True):
        changed[column] = value
    return tuple(changed)


class View:
    """The rows of a view on this node as of the newest finished epoch, and the changes that wait for later
    ones.
    """

    def __init__(self, operator: plan.Sink) -> None:
        self.errors_of = operator.errors_of
        self._types = operator.row_type.types
        self._key_of = picker(operator.key) if operator.key is not None else None
        self._bag, self._keyed = KeptZSet(), KeptByKey(operator.key or ())
        self._by_key = self._keyed.rows
        self._waiting: dict[int, Delta] = {}

    def wait(self, epoch: int, delta: Delta) -> None:
        """Keep what `epoch` changes until it is finished."""
        if delta:
            self._waiting[epoch] = delta

    def finish(self, epoch: int) -> Batch | None:
        """Make `epoch` visible; what changed, in canonical order, or None if nothing did."""
        changes = consolidated(self._waiting.pop(epoch, []))
        if not changes:
            return None
        if self._key_of is None:
            self._bag.add(changes.items())
        else:
            self._replace(changes)
        return sorted_batch(self._types, changes)

    def rows(self) -> Batch:
        """All rows."""
        if self._key_of is None:
            return Batch.from_zset(self._types, self._bag.weights)
        return Batch.from_rows(self._types, list(self._by_key.values()))

    def get(self, key: Row) -> Row | None:
        """The row with this key. Raises `RequestError` for a bag."""
        if self._key_of is None:
            raise RequestError("this view has no key, so there is nothing to get a row by")
        return self._by_key.get(key)

    @property
    def kept(self) -> Kept:
        """The rows, as they are saved."""
        return self._bag if self._key_of is None else self._keyed

    @property
    def waits(self) -> bool:
        """Whether there are changes that are not visible yet."""
        return bool(self._waiting)

    def _replace(self, changes: ZSet) -> None:
        """Change the rows of a keyed view, of which each is there once: what goes, goes first."""
        key_of = self._key_of
        assert key_of is not None
        self._keyed.note(map(key_of, changes))
        for row, weight in changes.items():
            if weight < 0 and self._by_key.pop(key_of(row), None) is None:
                raise InternalError("a view lacks a row that is taken back")
        for row, weight in changes.items():
            if weight > 0:
                self._by_key[key_of(row)] = row


def sorted_batch(types: tuple[DataType, ...], zset: ZSet) -> Batch:
    """The rows of a Z-set in canonical order, so that the batch is a function of the content."""
    rows = canonical_order(types, zset)
    return Batch.from_rows(types, rows, [zset[row] for row in rows])
