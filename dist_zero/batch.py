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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import add, itemgetter, mul

from dist_zero import zset
from dist_zero.blobs import BATCH_ROWS_MAX, COLUMN_OVERHEAD, cut_blob, join_blobs
from dist_zero.column_data import check_length, decode_column, encode_column, pack, unpack, word_at
from dist_zero.compiler.plan import DatasetPlan
from dist_zero.hashing import hasher
from dist_zero.native import columns
from dist_zero.places import Places, checked_places, packed_places, taken_places
from dist_zero.types import DataType, Kind, Row, picker
from dist_zero.zset import ZSet
from dist_zero_common.checksum import xxh64
from dist_zero_common.errors import DataError, InternalError, MalformedMessage
from dist_zero_common.garbage import no_collection
from dist_zero_common.protocol.messages.pieces import BatchBlob, WriteKind, WritesBlob

CONTENT_MODULUS = 2**64 - 59
"""The largest prime of 64 bits: no weight but its multiples makes a row vanish from a sum of hashes."""

_MANY = 1_000
"""So many rows are made without the garbage collector."""


class Batch:
    """Rows of one row type with their weights. `types` are the columns' types; equal rows may repeat."""

    __slots__ = ("_blob", "_columns", "_count", "_hash", "_rows", "_weights", "types")

    types: tuple[DataType, ...]
    _count: int
    _rows: list[Row] | None
    _columns: list[Sequence[object]] | None
    _weights: list[int] | None  # None where all are +1, or nobody has asked for those of the blob yet
    _blob: BatchBlob | None
    _hash: int | None

    def __init__(self, types: tuple[DataType, ...], count: int) -> None:
        """For the functions below alone."""
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
        native = columns.library()
        if native is not None and native.is_good(types, blob):
            return cls.of_blob(types, blob)
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
    def of_blob(cls, types: tuple[DataType, ...], blob: BatchBlob) -> Batch:
        """A batch around columns of bytes that are trusted: they were checked, or made by us."""
        batch = cls(types, blob.row_count)
        batch._blob = blob
        return batch

    @classmethod
    def concat(cls, types: tuple[DataType, ...], batches: Sequence[Batch]) -> Batch:
        """One batch of the rows of all `batches`, which are of these types, in order."""
        if len(batches) == 1:
            return batches[0]
        blobs = [batch._blob for batch in batches if batch._blob is not None]
        if len(blobs) == len(batches) and any(batch._is_packed for batch in batches):
            return cls.of_blob(types, join_blobs(blobs))
        rows = [row for batch in batches for row in batch.rows()]
        if all(batch._told_weights() is None for batch in batches):
            return cls.from_rows(types, rows)
        return cls.from_rows(types, rows, [weight for batch in batches for weight in batch.weights()])

    def __len__(self) -> int:
        """The number of rows, counting repeated ones as often as they occur."""
        return self._count

    def __repr__(self) -> str:
        return f"Batch({self._count} rows of ({', '.join(map(str, self.types))}))"

    @property
    def is_encoded(self) -> bool:
        """Whether its bytes are there."""
        return self._blob is not None

    @property
    def _is_packed(self) -> bool:
        """Whether there is nothing but bytes."""
        return self._rows is None and self._columns is None

    def rows(self) -> list[Row]:
        """The rows; not to be changed."""
        if self._rows is None:
            if not self.types:
                self._rows = [()] * self._count
            else:
                with no_collection() if self._count > _MANY else nullcontext():
                    self._rows = list(zip(*(self._columns or self._decoded()), strict=True))
            self._columns = None
        return self._rows

    def _decoded(self) -> list[Sequence[object]]:
        assert self._blob is not None
        blobs = zip(self.types, self._blob.columns, strict=True)
        return [
            decode_column(f"column {place}", dtype, column, self._count)
            for place, (dtype, column) in enumerate(blobs)
        ]

    def _told_weights(self) -> list[int] | None:
        """The weights, or None where all are +1."""
        if self._weights is None and self._blob is not None and self._blob.weights:
            self._weights = unpack("q", self._blob.weights)
        return self._weights

    def weights(self) -> list[int]:
        """The weights, one per row; not to be changed."""
        weights = self._told_weights()
        return [1] * self._count if weights is None else weights

    @property
    def is_weighted(self) -> bool:
        """Whether weights were given: else all are +1."""
        return self._weights is not None or (self._blob is not None and self._blob.weights != b"")

    @property
    def has_negative_weight(self) -> bool:
        """Whether a weight is below zero."""
        if self._weights is not None:
            return bool(self._weights) and min(self._weights) < 0
        # of each weight the byte that has its sign
        return self._blob is not None and not self._blob.weights[7::8].isascii()

    def items(self) -> Iterable[tuple[Row, int]]:
        """The (row, weight) pairs."""
        weights = self._told_weights()
        return zip(self.rows(), repeat(1) if weights is None else weights, strict=False)

    def to_zset(self) -> ZSet:
        """The rows consolidated."""
        return zset.consolidate(self.items())

    def take(self, indices: Sequence[int]) -> Batch:
        """The batch of the rows at these places, in this order."""
        native = columns.library()
        if indices == range(self._count):
            return self
        if self._is_packed and isinstance(indices, range) and indices.step == 1:
            assert self._blob is not None
            return Batch.of_blob(self.types, cut_blob(self._blob, indices.start, indices.stop))
        if self._is_packed and native is not None:
            assert self._blob is not None
            return Batch.of_blob(self.types, native.take(self.types, self._blob, indices))
        rows, weights = self.rows(), self._told_weights()
        return Batch.from_rows(
            self.types, [rows[i] for i in indices], None if weights is None else [weights[i] for i in indices]
        )

    def to_blob(self) -> BatchBlob:
        """The batch in columns of bytes. Raises `DataError` if a value or weight does not fit 64 bits."""
        if self._count > BATCH_ROWS_MAX:
            raise InternalError(f"a batch of {self._count} rows is too long to encode: split it first")
        return self.whole_blob()

    def whole_blob(self) -> BatchBlob:
        """As `to_blob`, however many rows there are: for who computes with columns, not for a message."""
        if self._blob is None:
            self._blob = self._encode()
        return self._blob

    def _encode(self) -> BatchBlob:
        assert self._rows is not None
        rows = self._rows
        encoded = tuple(
            [encode_column(dtype, list(map(itemgetter(i), rows))) for i, dtype in enumerate(self.types)]
        )
        try:
            weights = pack("q", self.weights()) if self._tells_weights else b""
        except OverflowError:
            raise DataError("a row's weight does not fit 64 bits") from None
        return BatchBlob(self._count, weights, encoded)

    @property
    def _tells_weights(self) -> bool:
        """Whether its weights are part of its bytes: not all are +1, or there is nothing else."""
        if self._weights is None:
            return not self.types or (self._blob is not None and self._blob.weights != b"")
        return not self.types or self._weights.count(1) != self._count

    @property
    def size_bytes(self) -> int:
        """Bytes that the batch takes in a message, rounded up a little; nothing is encoded to know it. It depends on
        the rows and weights alone, and so does what `split` makes of it."""
        return self._size_up_to()(self._count) + self._overhead

    @property
    def _overhead(self) -> int:
        return COLUMN_OVERHEAD * (1 + len(self.types))

    def _size_up_to(self) -> Callable[[int], int]:
        """A function that says how many bytes so many of its first rows take, at most: the fixed columns, and of each
        text its length and an offset."""
        fixed = sum(map(_fixed_size, self.types)) + 8 * self._tells_weights
        texts = [place for place, dtype in enumerate(self.types) if dtype.kind in (Kind.STR, Kind.BYTES)]
        if not texts:
            return lambda end: fixed * end
        if self._blob is not None:
            offsets = [self._blob.columns[place].offsets for place in texts]
            return lambda end: fixed * end + sum([word_at(each, end) for each in offsets])
        sizes: Iterable[int] = repeat(fixed, self._count)
        for place in texts:
            if self.types[place].kind is Kind.STR:
                lengths = [len(row[place].encode()) if row[place] else 0 for row in self.rows()]
            else:
                lengths = [len(row[place] or b"") for row in self.rows()]
            sizes = map(add, sizes, lengths)
        return list(accumulate(sizes, initial=0)).__getitem__

    def split(self, bytes_max: int) -> list[Batch]:
        """The batch in pieces, in order, each of at most `bytes_max` in `size_bytes` and `BATCH_ROWS_MAX`
        rows; a row that is larger by itself comes alone. A batch without rows has no pieces."""
        size = self._size_up_to()
        if self._count <= BATCH_ROWS_MAX and size(self._count) + self._overhead <= bytes_max:
            return [self] if self._count else []
        pieces, start = [], 0
        while start < self._count:
            limit = size(start) + bytes_max - self._overhead
            ends = range(start + 1, min(start + BATCH_ROWS_MAX, self._count) + 1)
            end = start + max(bisect_right(ends, limit, key=size), 1)
            pieces.append(self.take(range(start, end)))
            start = end
        return pieces

    def content_hash(self) -> int:
        """64 bits that depend on the consolidated rows alone: not on their order, nor on whether a row is
        repeated or weighted, nor on how rows are spread over batches (hashes of batches of equal types add up
        modulo `CONTENT_MODULUS`). It is the sum over the rows of weight times key hash of the whole row."""
        if self._hash is None:
            native, weights = columns.library(), self._told_weights()
            if native is not None and self._blob is not None:
                self._hash = native.content_hash(self.types, self._blob)
            else:
                hashes = map(hasher(self.types), self.rows())
                total = sum(hashes if weights is None else map(mul, hashes, weights))
                self._hash = total % CONTENT_MODULUS
        return self._hash

    def key_hashes(self, key: Sequence[int]) -> Sequence[int]:
        """Of every row, the hash of the key that is made of the columns at these places."""
        native = columns.library()
        if native is not None and self._blob is not None:
            return native.key_hashes(self.types, self._blob, key)
        hash_of = hasher(tuple(self.types[place] for place in key))
        return list(map(hash_of, map(picker(key), self.rows())))


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
    transactions: Places
    rows: Places

    def take(self, indices: Sequence[int]) -> Writes:
        """The writes at these places of the batch."""
        transactions, rows = taken_places(self.transactions, self.rows, indices)
        return Writes(self.dataset, self.kind, self.columns, self.batch.take(indices), transactions, rows)

    def to_blob(self) -> WritesBlob:
        """As it is sent."""
        return WritesBlob(
            self.dataset,
            self.kind,
            self.columns,
            self.batch.to_blob(),
            packed_places(self.transactions),
            packed_places(self.rows),
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
            transactions = checked_places("transactions", blob.transactions, len(batch))
            rows = checked_places("rows", blob.rows, len(batch))
        except MalformedMessage as e:
            raise MalformedMessage(f"{blob.kind.value} to dataset {dataset.name!r}: {e}") from None
        return cls(blob.dataset, blob.kind, blob.columns, batch, transactions, rows)

    def content_hash(self) -> int:
        """64 bits that depend on the set of writes alone, as in `Batch.content_hash`; those of several add
        up. The writes must have their places."""
        head = struct.pack(f"<q8s{len(self.columns)}q", self.dataset, self.kind.value.encode(), *self.columns)
        what, pack_place = xxh64(head), struct.Struct("<QQQQ").pack
        native = columns.library()
        if native is not None and self.batch.is_encoded:
            places = packed_places(self.transactions), packed_places(self.rows)
            return native.writes_content_hash(self.batch.types, self.batch.to_blob(), what, *places)
        contents = map(hasher(self.batch.types), self.batch.rows())
        writes = map(pack_place, repeat(what), self.transactions, self.rows, contents)
        return sum(map(xxh64, writes)) % CONTENT_MODULUS


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
