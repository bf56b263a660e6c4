"""What several conversations share: shard maps, rows in columns, writes, places in the log, and the plain no.

Nodes are named by their place in a shard map (`shard`, with `map_version`); a map never changes, so the pair names
one node for ever.
Column data are opaque here (`BatchBlob`); `dist_zero/batch.py` knows what they mean and checks them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which node owns which hashes. `lasts[i]` is the last hash (inclusive, 64 bits) of shard i, ascending; the last
    one is 2⁶⁴ − 1. `nodes[i]` is the name of the node that owns shard i. Versions count from 1."""

    version: int
    lasts: tuple[int, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnBlob:
    """One column. `validity`: a byte per row, 1 where there is a value, empty if all have one. `values`: bool a byte
    per row; int, datetime, decimal, enum 8 bytes; float 8 bytes; str and bytes: the bytes, with `offsets` of
    row_count + 1 unsigned 8-byte positions. Little-endian."""

    validity: bytes
    offsets: bytes
    values: bytes


@dataclass(frozen=True, slots=True)
class BatchBlob:
    """Rows in columns. `weights`: 8 bytes per row, empty if all are +1."""

    row_count: int
    weights: bytes
    columns: tuple[ColumnBlob, ...]


class WriteKind(enum.Enum):
    """What a write does: insert or replace; change some columns of; remove; add to a dataset without key."""

    PUT = "put"
    UPDATE = "update"
    DELETE = "delete"
    APPEND = "append"


@dataclass(frozen=True, slots=True)
class WritesBlob:
    """Writes of one kind to one dataset. `columns`: which columns of the dataset the batch holds, in its order.

    Inside a client's payload `transactions` and `rows` are empty: rows count through the payload in order. In a
    hand-out they are 8 bytes per row: the transaction's place in the epoch, the row's place in the transaction.
    """

    dataset: int
    kind: WriteKind
    columns: tuple[int, ...]
    batch: BatchBlob
    transactions: bytes
    rows: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """The writes of one transaction, in order."""

    writes: tuple[WritesBlob, ...]


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The question cannot be answered, and asking again will not help."""

    request: int
    reason: str


@dataclass(frozen=True, slots=True)
class TransactionPlace:
    """Which transaction of a log: its record, and its place there."""

    epoch: int
    index: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.index}"
