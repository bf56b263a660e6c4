"""Batches: rows with weights, immutable, as Python rows or as columns of bytes, whichever was there first.

A batch is made from rows (by executors and clients) or from a `BatchBlob` (by whoever receives one) and turns
into the other form when that is asked for, once; so rows that stay inside one process are never encoded, and
bytes that only pass through are never encoded again. `from_blob` checks everything there is to check before
it returns. Rows may repeat: whoever consumes a batch consolidates it (`to_zset`).

`Writes` are a batch and what is to be done with it: the input of a program, before it becomes deltas.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import add, itemgetter, mul

from dist_zero import zset
from dist_zero.column_data import check_length, column_size, decode_column, encode_column, pack, unpack
from dist_zero.compiler.plan import DatasetPlan
from dist_zero.hashing import hasher
from dist_zero.types import DataType, Kind, Row
from dist_zero.zset import ZSet
from dist_zero_common.checksum import xxh64
from dist_zero_common.errors import DataError, InternalError, MalformedMessage
from dist_zero_common.protocol.messages import (
    BatchBlob,
    WriteKind,
    WritesBlob,
)

BATCH_ROWS_MAX = 2**21
"""Most rows of a batch on the wire: what a message full of 8-byte values holds. Bounds what a few bytes, such
as a megabyte of bools, can make a receiver allocate."""

CONTENT_MODULUS = 2**64 - 59
"""The largest prime of 64 bits: no weight but its multiples makes a row vanish from a sum of hashes."""

_COLUMN_OVERHEAD = 64
"""Bytes that a column takes in a message beside its data: three pointers, alignment, one offset."""


class Batch:
    """Rows of one row type with their weights. `types` are the columns' types; equal rows may repeat."""

    __slots__ = ("_blob", "_columns", "_count", "_hash", "_rows", "_weights", "types")

    types: tuple[DataType, ...]
    _count: int
    _rows: list[Row] | None
    _columns: list[Sequence[object]] | None
    _weights: list[int] | None
    _blob: BatchBlob | None
    _hash: int | None

    def __init__(self, types: tuple[DataType, ...], count: int) -> None:
        """For `from_rows` and `from_blob` alone."""
        self.types = types
        self._count = count
        self._rows = self._columns = self._weights = self._blob = self._hash = None

    @classmethod
    def from_rows(
        cls, types: tuple[DataType, ...], rows: Sequence[Row], weights: Sequence[int] | None = None
    ) -> Batch:
        """A batch of stored rows, which are trusted to fit `types`. No `weights`: all +1; none may be 0."""
        batch = cls(types, len(rows))
        batch._rows = rows if isinstance(rows, list) else list(rows)
        if weights is not None:
            if len(weights) != len(rows):
                raise InternalError(f"a batch of {len(rows)} rows with {len(weights)} weights")
            batch._weights = weights if isinstance(weights, list) else list(weights)
        return batch

    @classmethod
    def from_zset(cls, types: tuple[DataType, ...], rows: Mapping[Row, int]) -> Batch:
        """A batch of the rows of a Z-set, in its order."""
        return cls.from_rows(types, list(rows), None if zset.is_set(rows) else list(rows.values()))

    @classmethod
    def from_blob(
        cls, types: tuple[DataType, ...], blob: BatchBlob, names: Sequence[str] | None = None
    ) -> Batch:
        """A batch that somebody sent, wholly checked. Raises `MalformedMessage` naming the column (by `names`
        if they are given, else by place)."""
        count = _checked_count(types, blob)
        batch = cls(types, count)
        if blob.weights:
            check_length("weights", blob.weights, 8 * count)
            batch._weights = unpack("q", blob.weights)
            if 0 in batch._weights:
                raise MalformedMessage("weights: a weight of zero")
        batch._columns = [
            decode_column(f"column {names[i] if names else i}", dtype, column, count)
            for i, (dtype, column) in enumerate(zip(types, blob.columns, strict=True))
        ]
        batch._blob = blob
        return batch

    @classmethod
    def concat(cls, types: tuple[DataType, ...], batches: Sequence[Batch]) -> Batch:
        """One batch of the rows of all `batches`, which are of these types, in order."""
        if len(batches) == 1:
            return batches[0]
        rows = [row for batch in batches for row in batch.rows()]
        if all(batch._weights is None for batch in batches):
            return cls.from_rows(types, rows)
        return cls.from_rows(types, rows, [weight for batch in batches for weight in batch.weights()])

    def __len__(self) -> int:
        """The number of rows, counting repeated ones as often as they occur."""
        return self._count

    def __repr__(self) -> str:
        return f"Batch({self._count} rows of ({', '.join(map(str, self.types))}))"

    def rows(self) -> list[Row]:
        """The rows; not to be changed."""
        if self._rows is None:
            assert self._columns is not None
            self._rows = list(zip(*self._columns, strict=True)) if self.types else [()] * self._count
            self._columns = None
        return self._rows

    def weights(self) -> list[int]:
        """The weights, one per row; not to be changed."""
        return [1] * self._count if self._weights is None else self._weights

    def items(self) -> Iterable[tuple[Row, int]]:
        """The (row, weight) pairs."""
        return zip(self.rows(), repeat(1) if self._weights is None else self._weights, strict=False)

    def to_zset(self) -> ZSet:
        """The rows consolidated."""
        return zset.consolidate(self.items())

    def take(self, indices: Sequence[int]) -> Batch:
        """The batch of the rows at these places, in this order."""
        rows, weights = self.rows(), self._weights
        return Batch.from_rows(
            self.types, [rows[i] for i in indices], None if weights is None else [weights[i] for i in indices]
        )

    def to_blob(self) -> BatchBlob:
        """The batch in columns of bytes. Raises `DataError` if a value or weight does not fit 64 bits."""
        if self._blob is None:
            self._blob = self._encode()
        return self._blob

    def _encode(self) -> BatchBlob:
        if self._count > BATCH_ROWS_MAX:
            raise InternalError(f"a batch of {self._count} rows is too long to encode: split it first")
        assert self._rows is not None
        rows = self._rows
        encoded = tuple(
            [encode_column(dtype, list(map(itemgetter(i), rows))) for i, dtype in enumerate(self.types)]
        )
        explicit = self._weights is not None and self._weights.count(1) != self._count
        try:
            weights = pack("q", self.weights()) if explicit or not self.types else b""
        except OverflowError:
            raise DataError("a row's weight does not fit 64 bits") from None
        return BatchBlob(self._count, weights, encoded)

    @property
    def size_bytes(self) -> int:
        """Bytes that the batch takes in a message, rounded up a little; nothing is encoded to know it."""
        if self._blob is not None:
            data = len(self._blob.weights) + sum(map(column_size, self._blob.columns))
        else:
            data = sum(self._row_sizes())
        return data + self._overhead

    @property
    def _overhead(self) -> int:
        return _COLUMN_OVERHEAD * (1 + len(self.types))

    def _row_sizes(self) -> Sequence[int]:
        """Bytes per row, at most: those of the fixed columns, and of each text its length and an offset."""
        fixed = sum(map(_fixed_size, self.types)) + (8 if self._weights is not None or not self.types else 0)
        sizes: Sequence[int] = [fixed] * self._count
        for place, dtype in enumerate(self.types):
            if dtype.kind is Kind.STR:
                lengths = [len(row[place].encode()) if row[place] else 0 for row in self.rows()]
                sizes = list(map(add, sizes, lengths))
            elif dtype.kind is Kind.BYTES:
                sizes = list(map(add, sizes, [len(row[place] or b"") for row in self.rows()]))
        return sizes

    def split(self, bytes_max: int) -> list[Batch]:
        """The batch in pieces, in order, each of at most `bytes_max` in `size_bytes` and `BATCH_ROWS_MAX`
        rows; a row that is larger by itself comes alone. A batch without rows has no pieces."""
        if self._count <= BATCH_ROWS_MAX and self.size_bytes <= bytes_max:
            return [self] if self._count else []
        ends = list(accumulate(self._row_sizes()))
        pieces, start = [], 0
        while start < self._count:
            limit = (ends[start - 1] if start else 0) + bytes_max - self._overhead
            end = bisect_right(ends, limit, lo=start, hi=min(start + BATCH_ROWS_MAX, self._count))
            end = max(end, start + 1)
            pieces.append(self.take(range(start, end)))
            start = end
        return pieces

    def content_hash(self) -> int:
        """64 bits that depend on the consolidated rows alone: not on their order, nor on whether a row is
        repeated or weighted, nor on how rows are spread over batches (hashes of batches of equal types add up
        modulo `CONTENT_MODULUS`). It is the sum over the rows of weight times key hash of the whole row."""
        if self._hash is None:
            hashes = map(hasher(self.types), self.rows())
            total = sum(hashes if self._weights is None else map(mul, hashes, self._weights))
            self._hash = total % CONTENT_MODULUS
        return self._hash


def _fixed_size(dtype: DataType) -> int:
    return (1 if dtype.kind is Kind.BOOL else 8) + dtype.nullable


def _checked_count(types: tuple[DataType, ...], blob: BatchBlob) -> int:
    """The number of rows of a blob that somebody sent, if it may be as large as that."""
    if len(blob.columns) != len(types):
        raise MalformedMessage(f"a batch of {len(blob.columns)} columns where {len(types)} are expected")
    if not 0 <= blob.row_count <= BATCH_ROWS_MAX:
        raise MalformedMessage(f"a batch of {blob.row_count} rows; at most {BATCH_ROWS_MAX} are allowed")
    if not types:  # nothing else would tie the count to the size of the message
        check_length("weights", blob.weights, 8 * blob.row_count)
    return blob.row_count


@dataclass(frozen=True, slots=True)
class Writes:
    """Writes of one kind to dataset number `dataset`. `columns`: which of its columns it has, in order.

    `transactions` and `rows` say for every row of the batch which transaction of the epoch it is from and
    which row of that: the order in which writes to one key apply. In a client's payload both are empty.
    """

    dataset: int
    kind: WriteKind
    columns: tuple[int, ...]
    batch: Batch
    transactions: Sequence[int]
    rows: Sequence[int]

    def take(self, indices: Sequence[int]) -> Writes:
        """The writes at these places of the batch."""
        transactions, rows = [self.transactions[i] for i in indices], [self.rows[i] for i in indices]
        return Writes(self.dataset, self.kind, self.columns, self.batch.take(indices), transactions, rows)

    def to_blob(self) -> WritesBlob:
        """As it is sent."""
        return WritesBlob(
            self.dataset,
            self.kind,
            self.columns,
            self.batch.to_blob(),
            pack("q", self.transactions),
            pack("q", self.rows),
        )

    @classmethod
    def from_blob(cls, datasets: Sequence[DatasetPlan], blob: WritesBlob) -> Writes:
        """What somebody sent, wholly checked against the program's datasets. Raises `MalformedMessage`."""
        dataset = _checked_dataset(datasets, blob)
        row_type = dataset.row_type.select(blob.columns)
        try:
            batch = Batch.from_blob(row_type.types, blob.batch, row_type.names)
            if blob.batch.weights:
                raise MalformedMessage("writes have no weights")
            if not blob.transactions and not blob.rows:
                return cls(blob.dataset, blob.kind, blob.columns, batch, (), ())
            transactions = _checked_places("transactions", blob.transactions, len(batch))
            rows = _checked_places("rows", blob.rows, len(batch))
        except MalformedMessage as e:
            raise MalformedMessage(f"{blob.kind.value} to dataset {dataset.name!r}: {e}") from None
        return cls(blob.dataset, blob.kind, blob.columns, batch, transactions, rows)

    def content_hash(self) -> int:
        """64 bits that depend on the set of writes alone, as in `Batch.content_hash`; those of several add
        up. The writes must have their places."""
        head = struct.pack(f"<q8s{len(self.columns)}q", self.dataset, self.kind.value.encode(), *self.columns)
        what, pack_place = xxh64(head), struct.Struct("<QQQQ").pack
        contents = map(hasher(self.batch.types), self.batch.rows())
        places = map(pack_place, repeat(what), self.transactions, self.rows, contents)
        return sum(map(xxh64, places)) % CONTENT_MODULUS


def _checked_places(what: str, data: bytes, count: int) -> list[int]:
    check_length(what, data, 8 * count)
    places = unpack("q", data)
    if places and min(places) < 0:
        raise MalformedMessage(f"{what}: a negative place")
    return places


def _checked_dataset(datasets: Sequence[DatasetPlan], blob: WritesBlob) -> DatasetPlan:
    """The dataset that writes are meant for, if their kind and columns are legal for it."""
    if not 0 <= blob.dataset < len(datasets):
        raise MalformedMessage(f"writes to dataset number {blob.dataset} of {len(datasets)}")
    dataset = datasets[blob.dataset]
    problem = columns_problem(dataset, blob.kind, blob.columns)
    if problem:
        raise MalformedMessage(f"{blob.kind.value} to dataset {dataset.name!r}: {problem}")
    return dataset


def columns_problem(dataset: DatasetPlan, kind: WriteKind, columns: tuple[int, ...]) -> str | None:
    """Why `dataset` cannot be written to in this way, or None. Put and append give all columns; delete those
    of the key; update those of the key and then at least one other."""
    if (kind is WriteKind.APPEND) != (dataset.key is None):
        return "a dataset without a key takes appends alone, and one with a key takes none"
    count, key = len(dataset.row_type), dataset.key or ()
    if kind in (WriteKind.PUT, WriteKind.APPEND):
        return None if columns == tuple(range(count)) else f"it needs all {count} columns in order"
    if kind is WriteKind.DELETE:
        return None if columns == key else "it needs the columns of the key and no others"
    legal = columns[: len(key)] == key and len(columns) > len(key)
    legal = legal and all(0 <= column < count for column in columns) and len(set(columns)) == len(columns)
    return None if legal else "it needs the columns of the key, then one or more others, each once"
