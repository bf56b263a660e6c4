"""From the writes of one transaction to what each node gets of an epoch: payloads, routing, merging.

A transaction travels as a `Payload`, which the sequencer decodes and checks wholly before it records it.
When its epoch is handed out, every write gets its place: the transaction in the epoch, and the row counted
through the whole payload. `merge_writes` makes few blocks out of those of many small transactions, and `route_placed`
gives every write to the shard that owns its key (for a dataset without one: the hash of epoch, transaction and
row).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat

from dist_zero.batch import Batch, Writes
from dist_zero.blobs import BATCH_ROWS_MAX, COLUMN_OVERHEAD, blob_bytes
from dist_zero.compiler.plan import DatasetPlan, Plan
from dist_zero.hashing import hasher
from dist_zero.native import columns
from dist_zero.places import joined_places, one_place, packed_places, places_from
from dist_zero.types import INT
from dist_zero_common.errors import DataError, MalformedMessage
from dist_zero_common.protocol import codec
from dist_zero_common.protocol.messages.pieces import BatchBlob, Payload, ShardMap, WriteKind
from dist_zero_common.protocol.messages.writing import TRANSACTION_BYTES_MAX

_PLACE_TYPES = (INT, INT, INT)
_PLACE_SIZE = 16


def encode_payload(writes: Sequence[Writes]) -> bytes:
    """The payload of a transaction that does these writes in order. Raises `DataError` if it is too large."""
    row_count = sum(len(each.batch) for each in writes)
    problem = _size_problem(0, row_count)  # before anything is encoded
    if not problem:
        blobs = tuple([each.to_blob() for each in writes])
        problem = _size_problem(sum(_payload_bytes(blob.batch) for blob in blobs), row_count)
    if problem:
        raise DataError(f"{problem}; write the rows in several transactions")
    return codec.encode(Payload(blobs))


def decode_payload(datasets: Sequence[DatasetPlan], data: bytes) -> list[Writes]:
    """The writes of a payload that somebody sent, wholly checked. Raises `MalformedMessage`."""
    payload = codec.decode(Payload, data)
    problem = _size_problem(len(data), sum(blob.batch.row_count for blob in payload.writes))
    if problem:
        raise MalformedMessage(problem)
    if any(blob.transactions or blob.rows for blob in payload.writes):
        raise MalformedMessage("a payload's writes have no places yet")
    return [Writes.from_blob(datasets, blob) for blob in payload.writes]


def _payload_bytes(batch: BatchBlob) -> int:
    """What a batch takes in a payload, rounded up a little."""
    return blob_bytes(batch) + COLUMN_OVERHEAD * (1 + len(batch.columns))


def hand_out_size(payload_bytes: int, row_count: int) -> int:
    """Bytes of a transaction when it is handed out: in its payload, rows have no places yet."""
    return payload_bytes + _PLACE_SIZE * row_count


def _size_problem(payload_bytes: int, row_count: int) -> str | None:
    """Why a transaction is too large, or None."""
    size = hand_out_size(payload_bytes, row_count)
    if row_count <= BATCH_ROWS_MAX and size <= TRANSACTION_BYTES_MAX:
        return None
    return (
        f"a transaction of {row_count} rows and {size} bytes ({_PLACE_SIZE} for each row's place in it);"
        f" at most {BATCH_ROWS_MAX} and {TRANSACTION_BYTES_MAX} are allowed"
    )


def placed(writes: Sequence[Writes], plan: Plan, transaction: int) -> list[Writes]:
    """The writes of transaction number `transaction` of an epoch, with their places. Those to a dataset that was
    dropped since are not there."""
    found = []
    before = 0
    for each in writes:
        count = len(each.batch)
        places = one_place(transaction, count), places_from(before, count)
        before += count
        if not plan.datasets[each.dataset].dropped:
            found.append(Writes(each.dataset, each.kind, each.columns, each.batch, *places))
    return found


def route_placed(
    writes: Sequence[Writes], plan: Plan, shard_map: ShardMap, epoch: int
) -> dict[int, list[Writes]]:
    """Writes of an epoch, which have their places, by owner. Shards ascend; those that get nothing are not there."""
    routed: dict[int, list[Writes]] = {}
    for each in writes:
        for shard, part in _divided(each, plan.datasets[each.dataset], shard_map, epoch):
            routed.setdefault(shard, []).append(part)
    return dict(sorted(routed.items()))


def route(
    writes: Sequence[Writes], plan: Plan, shard_map: ShardMap, epoch: int, transaction: int
) -> dict[int, list[Writes]]:
    """The writes of one transaction by owner, for who has no more of the epoch."""
    return route_placed(placed(writes, plan, transaction), plan, shard_map, epoch)


def sampled_hashes(writes: Sequence[Writes], plan: Plan, epoch: int, count: int) -> list[int]:
    """The hashes of the keys of about `count` rows of an epoch's writes, which are as far from each other as can be."""
    rows = sum(len(each.batch) for each in writes)
    step = max(1, rows // count)
    hashes: list[int] = []
    before = 0
    for each in writes:
        places = range(-before % step, len(each.batch), step)
        before += len(each.batch)
        if places:
            hashes += _key_hashes(each.take(list(places)), plan.datasets[each.dataset], epoch)
    return hashes[:count]


def _divided(
    writes: Writes, dataset: DatasetPlan, shard_map: ShardMap, epoch: int
) -> list[tuple[int, Writes]]:
    """The non-empty parts of `writes` by shard."""
    if len(shard_map.lasts) == 1:
        return [(0, writes)] if len(writes.batch) else []
    hashes, native = _key_hashes(writes, dataset, epoch), columns.library()
    indices: Mapping[int, Sequence[int]]
    if native is not None and isinstance(hashes, memoryview):
        indices = native.routed(hashes, shard_map.lasts)
    else:
        indices = _routed(hashes, shard_map.lasts)
    if len(indices) == 1:
        return [(shard, writes) for shard in indices]
    return [(shard, writes.take(places)) for shard, places in indices.items()]


def _routed(hashes: Iterable[int], lasts: Sequence[int]) -> dict[int, list[int]]:
    indices: dict[int, list[int]] = {}
    owner = partial(bisect_left, lasts)
    for index, key_hash in enumerate(hashes):
        indices.setdefault(owner(key_hash), []).append(index)
    return indices


def _key_hashes(writes: Writes, dataset: DatasetPlan, epoch: int) -> Iterable[int]:
    """The hash of every row's key: it is anywhere in rows to put; those to update or delete begin with it."""
    if dataset.key is None:
        native = columns.library()
        if native is not None:
            return native.place_hashes(epoch, packed_places(writes.transactions), packed_places(writes.rows))
        return map(hasher(_PLACE_TYPES), zip(repeat(epoch), writes.transactions, writes.rows, strict=False))
    key = dataset.key if writes.kind is WriteKind.PUT else tuple(range(len(dataset.key)))
    return writes.batch.key_hashes(key)


def merge_writes(writes: Sequence[Writes]) -> list[Writes]:
    """The same writes (with places) in one block per dataset, kind and columns, in the order of their first.

    As places say in which order writes apply, blocks need no order among them.
    """
    groups: dict[tuple[int, WriteKind, tuple[int, ...]], list[Writes]] = {}
    for each in writes:
        groups.setdefault((each.dataset, each.kind, each.columns), []).append(each)
    return [_merged(group) for group in groups.values()]


def _merged(group: list[Writes]) -> Writes:
    if len(group) == 1:
        return group[0]
    first = group[0]
    return Writes(
        first.dataset,
        first.kind,
        first.columns,
        Batch.concat(first.batch.types, [each.batch for each in group]),
        joined_places([each.transactions for each in group]),
        joined_places([each.rows for each in group]),
    )
