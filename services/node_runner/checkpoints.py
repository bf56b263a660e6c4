"""A node's saved state in the store: written once, equal whoever writes it, read back along the links.

A checkpoint is all of a node's state at an epoch, or what changed in it since the node's checkpoint before. It is a
function of the log, so two incarnations of a node that both save the same epoch write the same bytes, and it does no
harm that they do: every object is created once, and whoever finds it there compares. If they differ, one of the two has
computed something else, and nobody can tell which: `CheckpointsDiffer`, and both versions are kept.

A small checkpoint is one object, the manifest with the content inside. A large one is parts first, in the order of the
content, then the manifest, which names them with length and checksum. Creating the manifest is the commit: before that
there is no checkpoint, and what a writer leaves behind that died on the way is found by whoever writes the same, or
goes with the collection (`collection.py`).

What the store answers to a write is not believed. A failure may mean that the object is there, so it is created again
until the store says what is there, and that is compared.

A store that keeps its promises never shows half an object, but disks rot and gateways tear. Then what is damaged stays
where it is, and is written once more beside it, under the name of a copy; readers go on to the copy, too. To take the
damaged one away and write it anew would not be safe: between one writer's look and its delete another may have done the
same, and have told the sequencer that it has saved. Beside each other they do no harm, because whoever writes a copy
writes the same. A record of the log cannot be mended so (`store/base.py`): what it says follows from nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from dist_zero.blobs import blob_bytes, split_blob
from dist_zero_common.checksum import xxh64
from dist_zero_common.errors import (
    CheckpointsDiffer,
    InternalError,
    LogDamaged,
    MalformedMessage,
    StoreError,
)
from dist_zero_common.log import Logger
from dist_zero_common.protocol.codec import decode, encode, unseal
from dist_zero_common.protocol.messages.pieces import BatchBlob
from dist_zero_common.protocol.stored import (
    CheckpointId,
    CheckpointManifest,
    CheckpointPart,
    CheckpointPiece,
    TableBlob,
)
from dist_zero_common.store.base import Created, Store
from dist_zero_common.store.layout import (
    aside_name,
    checkpoint_name,
    checkpoint_part_name,
    copy_name,
)

SMALL_BYTES = 2**20
"""A checkpoint with no more content than this is one object."""

PART_BYTES = 8 * 2**20
"""Content of a part, at most: few enough objects, and none that takes long."""

LINKS_MAX = 64
"""Most checkpoints that are read to make one state. Before that, a node saves everything."""

COPIES_MAX = 5
"""So many times an object is written, with what is there being damaged, before the store is taken to be broken."""

_RETRY_SECONDS_FIRST, _RETRY_SECONDS_MAX = 0.1, 5.0
_ADVICE = "bring it back from a copy of the store, or start the program from its older base"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of the node `which` of a program as it is written and read. `fingerprint` is the plan's. `previous`:
    since when `tables` are what changed, None if they are everything. `links`: 1 if they are everything, else one more
    than the previous one has. A table may stand in several of `tables`, whose rows are then taken together."""

    program: str
    which: CheckpointId
    fingerprint: str
    previous: CheckpointId | None
    links: int
    tables: tuple[TableBlob, ...]


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """What was written: bytes of content, rows, objects."""

    size_bytes: int
    entries: int
    objects: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where objects are written, patiently."""

    store: Store
    program: str
    which: CheckpointId
    log: Logger


# ---- writing


async def write_checkpoint(store: Store, checkpoint: Checkpoint, log: Logger) -> CheckpointWritten:
    """Have the checkpoint in the store; it is when this returns, and may have been before.

    Tries for as long as it takes the store to answer, and logs each failure. Raises `CheckpointsDiffer` if another
    content is there, `LogDamaged` if that and all copies are damaged; both name the object.
    """
    _check_links(checkpoint)
    place = _Place(store, checkpoint.program, checkpoint.which, log)
    parts = list(_parts(checkpoint.tables))
    size, entries = sum(map(table_bytes, _joined(parts))), sum(map(table_entries, _joined(parts)))
    pieces: list[CheckpointPiece] = []
    if size > SMALL_BYTES:
        for index, tables in enumerate(parts):
            part = CheckpointPart(*_stamp(checkpoint), index, tables)
            name, data = checkpoint_part_name(checkpoint.program, checkpoint.which, index), encode(part)
            await _put(place, name, data)
            pieces.append(CheckpointPiece(len(data), xxh64(data)))
    inside = () if pieces else tuple(_joined(parts))
    manifest = _manifest(checkpoint, size, entries, inside, tuple(pieces))
    await _put(place, checkpoint_name(checkpoint.program, checkpoint.which), encode(manifest))
    return CheckpointWritten(size, entries, 1 + len(pieces))


def _check_links(checkpoint: Checkpoint) -> None:
    """A checkpoint that could not be read again is not written."""
    which, previous = checkpoint.which, checkpoint.previous
    if not 1 <= checkpoint.links <= LINKS_MAX or (checkpoint.links == 1) != (previous is None):
        raise InternalError(
            f"the checkpoint of {which} has {checkpoint.links} links, of {LINKS_MAX} at most,"
            f" and {'nothing' if previous is None else 'a checkpoint'} before it"
        )
    if previous is not None and (previous.node != which.node or previous.epoch >= which.epoch):
        raise InternalError(f"the checkpoint of {which} cannot follow that of {previous}")


def _stamp(checkpoint: Checkpoint) -> tuple[str, str, int, int]:
    which = checkpoint.which
    return checkpoint.program, which.node, which.generation, which.epoch


def _manifest(
    checkpoint: Checkpoint,
    size: int,
    entries: int,
    tables: tuple[TableBlob, ...],
    pieces: tuple[CheckpointPiece, ...],
) -> CheckpointManifest:
    previous = checkpoint.previous
    return CheckpointManifest(
        *_stamp(checkpoint),
        fingerprint=checkpoint.fingerprint,
        whole=previous is None,
        previous_generation=0 if previous is None else previous.generation,
        previous_epoch=0 if previous is None else previous.epoch,
        links=checkpoint.links,
        size_bytes=size,
        entries=entries,
        tables=tables,
        pieces=pieces,
    )


def _parts(tables: tuple[TableBlob, ...]) -> Iterator[tuple[TableBlob, ...]]:
    """The content cut into parts. The cuts are a function of the content alone."""
    part: list[TableBlob] = []
    size = 0
    for table in tables:
        for piece in _pieces(table):
            if part and size + table_bytes(piece) > PART_BYTES:
                yield tuple(part)
                part, size = [], 0
            part.append(piece)
            size += table_bytes(piece)
    if part:
        yield tuple(part)


def _pieces(table: TableBlob) -> Iterator[TableBlob]:
    if table_bytes(table) <= PART_BYTES:
        if table_entries(table):
            yield table
        return
    for puts in split_blob(table.puts, PART_BYTES) if table.puts else []:
        yield TableBlob(table.name, puts, None)
    for deletes in split_blob(table.deletes, PART_BYTES) if table.deletes else []:
        yield TableBlob(table.name, None, deletes)


def _blobs(table: TableBlob) -> list[BatchBlob]:
    return [blob for blob in (table.puts, table.deletes) if blob is not None]


def table_bytes(table: TableBlob) -> int:
    """Bytes of data in a table's rows."""
    return sum(map(blob_bytes, _blobs(table)))


def table_entries(table: TableBlob) -> int:
    """Rows of a table, put and deleted."""
    return sum(blob.row_count for blob in _blobs(table))


def _joined(parts: list[tuple[TableBlob, ...]]) -> Iterator[TableBlob]:
    return (table for part in parts for table in part)


async def _put(place: _Place, name: str, data: bytes) -> None:
    """Have `data` under `name`, or beside it if that is damaged, or find out that something else is there."""
    for copy in range(COPIES_MAX):
        there = await _put_copy(place, copy_name(name, copy), data)
        if there == data:
            return
        try:
            unseal(there)
        except MalformedMessage as damaged:
            reason = str(damaged)
            place.log.warning("checkpoint_damaged", name=copy_name(name, copy), reason=reason)
        else:
            raise await _difference(place, copy_name(name, copy), data, there)
    raise LogDamaged(
        f"the object {name} in the store is damaged ({reason}), and so are {COPIES_MAX - 1} copies: this store"
        " cannot be written to; move what is in it to another one"
    )


async def _put_copy(place: _Place, name: str, data: bytes) -> bytes:
    """Create `name`; returns what is there then."""

    async def attempt() -> bytes | None:
        try:
            if await place.store.create(name, data) is Created.NEW:
                return data
        except StoreError as failed:  # perhaps it has worked all the same
            there = await place.store.read(name)
            if there is None:
                raise
            place.log.warning("store_failed", name=name, reason=str(failed), retry_seconds=0)
            return there
        return await place.store.read(name)

    while (there := await _patiently(place, name, attempt)) is None:  # it was collected meanwhile
        await asyncio.sleep(_RETRY_SECONDS_FIRST)
    return there


async def _difference(place: _Place, name: str, ours: bytes, there: bytes) -> CheckpointsDiffer:
    """What to raise about an object that another incarnation has written otherwise; ours is kept, if that works."""
    kept = aside_name(
        f"{place.program}.{place.which.node}", hashlib.blake2b(ours, digest_size=16).hexdigest()
    )
    place.log.error("checkpoints_differ", name=name, kept=kept, bytes=len(ours), bytes_there=len(there))
    try:
        await place.store.create(kept, ours)
    except StoreError as failed:
        place.log.error("set_aside_failed", name=kept, reason=str(failed))
    return CheckpointsDiffer(
        f"the object {name} in the store is not what this incarnation of the node {place.which.node!r} computes for"
        f" epoch {place.which.epoch}, which is in {kept}: two incarnations differ, and one of them is wrong. Keep both"
        " objects and report them"
    )


# ---- reading


async def read_checkpoint(
    store: Store,
    program: str,
    which: CheckpointId,
    fingerprint: str,
    log: Logger,
    behind: CheckpointId | None = None,
) -> list[Checkpoint]:
    """The checkpoints that make up the state of a node, the one with everything first, `which` last; of these those
    that follow `behind`, if that is one of them.

    Tries for as long as it takes the store to answer. Raises `LogDamaged` that names the object if one is missing,
    damaged, of another plan, or not what its name or the one behind it says.
    """
    chain: list[Checkpoint] = []
    links: int | None = None
    following: CheckpointId | None = which
    while following is not None and (following != behind or not chain):
        checkpoint = await _read_one(_Place(store, program, following, log), fingerprint, links)
        chain.append(checkpoint)
        links, following = checkpoint.links - 1, checkpoint.previous
    chain.reverse()
    return chain


async def read_previous(store: Store, program: str, which: CheckpointId, log: Logger) -> CheckpointId | None:
    """The checkpoint that `which` needs, None if it has everything. Raises `LogDamaged`."""
    return _previous(await _read_manifest(_Place(store, program, which, log)))


async def _read_one(place: _Place, fingerprint: str, links: int | None) -> Checkpoint:
    """One checkpoint with its content; `links` are those that the one behind it counts on."""
    manifest = await _read_manifest(place)
    name = checkpoint_name(place.program, place.which)
    if manifest.fingerprint != fingerprint:
        raise _damaged(name, f"is of another plan ({manifest.fingerprint} instead of {fingerprint})")
    if links is not None and manifest.links != links:
        raise _damaged(name, f"stands behind {manifest.links - 1} others instead of {links - 1}")
    tables = list(manifest.tables)
    for index, piece in enumerate(manifest.pieces):
        tables += await _read_part(place, index, piece)
    if sum(map(table_bytes, tables)) != manifest.size_bytes:
        raise _damaged(name, f"has not the {manifest.size_bytes} bytes of content that it says")
    if sum(map(table_entries, tables)) != manifest.entries:
        raise _damaged(name, f"has not the {manifest.entries} rows that it says")
    return Checkpoint(
        place.program, place.which, fingerprint, _previous(manifest), manifest.links, tuple(tables)
    )


async def _read_manifest(place: _Place) -> CheckpointManifest:
    """The manifest, which is of the checkpoint that its name says and can be followed."""
    name, which = checkpoint_name(place.program, place.which), place.which
    manifest, _ = await _get(place, CheckpointManifest, name)
    _check_stamp(place, name, manifest)
    previous = _previous(manifest)
    if not 1 <= manifest.links <= LINKS_MAX or manifest.whole != (manifest.links == 1):
        raise _damaged(name, f"says that it is the last of {manifest.links}, which cannot be")
    if previous is not None and previous.epoch >= which.epoch:
        raise _damaged(name, f"says that it follows epoch {previous.epoch}")
    return manifest


async def _read_part(place: _Place, index: int, piece: CheckpointPiece) -> tuple[TableBlob, ...]:
    name = checkpoint_part_name(place.program, place.which, index)
    part, data = await _get(place, CheckpointPart, name)
    if len(data) != piece.size_bytes or xxh64(data) != piece.checksum:
        raise _damaged(name, "is not the one that its manifest names")
    _check_stamp(place, name, part)
    if part.index != index:
        raise _damaged(name, f"says that it is part {part.index}")
    return part.tables


def _previous(manifest: CheckpointManifest) -> CheckpointId | None:
    if manifest.whole:
        return None
    return CheckpointId(manifest.node, manifest.previous_epoch, manifest.previous_generation)


def _check_stamp(place: _Place, name: str, stored: CheckpointManifest | CheckpointPart) -> None:
    stamp = stored.program, CheckpointId(stored.node, stored.epoch, stored.generation)
    if stamp != (place.program, place.which):
        raise _damaged(name, f"says that it is of {stamp[1]}, program {stamp[0]!r}")


async def _get(place: _Place, kind: type[T], name: str) -> tuple[T, bytes]:
    """The first of the object and its copies that is whole, and its bytes."""
    problem = "is missing from the store"
    for copy in range(COPIES_MAX):
        at = copy_name(name, copy)
        data = await _patiently(place, at, partial(place.store.read, at))
        if data is None:
            break
        try:
            return decode(kind, data), data
        except MalformedMessage as damaged:
            problem = f"in the store is damaged: {damaged}"
    raise LogDamaged(f"the object {name} {problem}; {_ADVICE}")


def _damaged(name: str, what: str) -> LogDamaged:
    return LogDamaged(f"the object {name} in the store {what}; {_ADVICE}")


async def _patiently(place: _Place, name: str, operation: Callable[[], Awaitable[T]]) -> T:
    """What `operation` returns when the store answers at last."""
    delay = _RETRY_SECONDS_FIRST
    while True:
        try:
            return await operation()
        except LogDamaged:
            raise
        except StoreError as failed:  # the outcome is unknown; the next round looks again
            place.log.warning("store_failed", name=name, reason=str(failed), retry_seconds=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, _RETRY_SECONDS_MAX)
