"""Batches, parcels and saved states that nobody who keeps to the rules would send, and what has to become of them.

`spoilt` makes one of a good one, knowing how it is built: bits flipped, pieces cut short, too long, swapped or those of
another column; numbers of rows, offsets, weights and values at the ends of their ranges; texts that are no UTF-8; in
columns of bytes, which hold partial aggregations, all that was ever in one, cut and changed.

Whoever gets one either refuses it, by an error of ours, or makes of it what it says. The C and the Python that check a
batch say the same of each, and so do the native executor and the interpreter of what passes the checks: one refuses a
parcel or a save if the other one does; only the native executor may say that a number is beyond what it can hold.
"""

from __future__ import annotations

import itertools
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dist_zero.batch import Batch, Writes
from dist_zero.column_data import encode_column, pack
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Exchange, Plan
from dist_zero.executor import Executor
from dist_zero.native import columns
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import HASH_MAX, even_map
from dist_zero.state import TableChange, state_tables
from dist_zero.types import DATETIME_MAX_US, DATETIME_MIN_US, DataType, Kind
from dist_zero.writes import placed, route_placed
from dist_zero_common.errors import DataError, InternalError, MalformedMessage
from dist_zero_common.protocol.messages.pieces import BatchBlob, ColumnBlob, WriteKind
from test.contract.executors import Save, in_bytes, native
from test.oracle.random_programs import Case
from test.oracle.scalars import POOLS, TYPES

WORDS = (
    *(
        0,
        1,
        2,
        7,
        8,
        9,
        255,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**63 - 1,
        2**63,
        2**63 + 1,
        2**64 - 8,
        2**64 - 1,
    ),
    *(0x7FF0 << 48, (0x7FF0 << 48) + 1, 0x7FF8 << 48, (0x7FF8 << 48) + 1, 0xFFF0 << 48, 0xFFF8 << 48),
    *(DATETIME_MAX_US, DATETIME_MAX_US + 1, DATETIME_MIN_US % 2**64, (DATETIME_MIN_US - 1) % 2**64),
)
COUNTS = (-1, 0, 1, 2, 3, 2**21, 2**21 + 1, 2**31, 2**32, 2**61, 2**63 - 1, -(2**63))
TEXTS = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc3",
    b"a\x80",
    b"\xe2\x82\xac",
    b"\x00",
)
WEIGHTS = (1, -1, 2, -2, 2**31, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1)

# ---- spoiling ----------------------------------------------------------------------------------------------


def spoilt(blob: BatchBlob, chance: random.Random, others: Sequence[BatchBlob]) -> BatchBlob:
    """A batch like this one, with one to three things wrong; `others` give their columns."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        where = chance.random()
        if where < 0.1:
            blob = replace(blob, row_count=chance.choice((*COUNTS, blob.row_count + 1, blob.row_count - 1)))
        elif where < 0.25 or not blob.columns:
            blob = replace(blob, weights=_weights(blob, chance))
        elif where < 0.3:
            blob = replace(blob, columns=_shuffled(blob, chance, others))
        else:
            place = chance.randrange(len(blob.columns))
            column = _spoilt_column(blob.columns[place], chance, others)
            blob = replace(blob, columns=(*blob.columns[:place], column, *blob.columns[place + 1 :]))
    return blob


def _weights(blob: BatchBlob, chance: random.Random) -> bytes:
    count = max(0, min(blob.row_count, 1_000))
    if chance.random() < 0.7:
        return pack("q", [chance.choice(WEIGHTS) for _ in range(count)])
    return spoilt_bytes(blob.weights or pack("q", [1] * count), chance)


def _shuffled(blob: BatchBlob, chance: random.Random, others: Sequence[BatchBlob]) -> tuple[ColumnBlob, ...]:
    found = [*blob.columns, *(column for other in others for column in other.columns)]
    count = len(blob.columns) if chance.random() < 0.7 else chance.randrange(len(found) + 1)
    return tuple(chance.sample(found, min(count, len(found))))


def _spoilt_column(column: ColumnBlob, chance: random.Random, others: Sequence[BatchBlob]) -> ColumnBlob:
    how = chance.random()
    if how < 0.1 and (found := [each for other in others for each in other.columns]):
        return chance.choice(found)
    if how < 0.15:
        return ColumnBlob(column.values, column.validity, column.offsets)
    what = chance.choice(("validity", "offsets", "values", "values"))
    return replace(column, **{what: spoilt_bytes(getattr(column, what), chance)})


def spoilt_bytes(data: bytes, chance: random.Random) -> bytes:
    """Other bytes than these."""
    how = chance.randrange(7)
    if how == 0 or not data:
        return (
            data[: chance.randrange(len(data) + 1)] if chance.random() < 0.5 else data + chance.randbytes(9)
        )
    at = chance.randrange(len(data))
    if how <= 2:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if how == 3:
        text = chance.choice(TEXTS)
        return (
            data[:at] + text + data[at + len(text) :]
            if chance.random() < 0.8
            else data[:at] + text + data[at:]
        )
    if how == 4:
        return chance.randbytes(chance.choice((0, 1, 7, 8, 9, len(data), 320)))
    at = at // 8 * 8
    return data[:at] + pack("Q", [chance.choice(WORDS)]) + data[at + 8 :]


def reworded(batch: Batch, chance: random.Random, texts: Sequence[bytes]) -> Batch:
    """Another batch of these types, which passes every check: rows twice or away, other values and weights."""
    rows = [list(row) for row in batch.rows()]
    weights = list(batch.weights())
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not rows:
            break
        at = chance.randrange(len(rows))
        how = chance.random()
        if how < 0.15:
            rows.append(list(rows[at]))
            weights.append(chance.choice((1, -1)))
        elif how < 0.25:
            del rows[at], weights[at]
        elif how < 0.5 or not batch.types:
            weights[at] = chance.choice(WEIGHTS)
        else:
            place = chance.randrange(len(batch.types))
            rows[at][place] = _value(batch.types[place], rows[at][place], chance, texts)
    return Batch.from_rows(batch.types, [tuple(row) for row in rows], weights)


def _value(dtype: DataType, before: Any, chance: random.Random, texts: Sequence[bytes]) -> Any:
    if dtype.nullable and chance.random() < 0.2:
        return None
    if dtype.kind is Kind.BYTES:
        text = chance.choice([*texts, b"", chance.randbytes(chance.choice((1, 8, 31, 33, 40, 332, 340)))])
        return spoilt_bytes(text if chance.random() < 0.5 else before or b"", chance)
    if dtype.kind is Kind.ENUM:
        return chance.randrange(len(dtype.members))
    return chance.choice(POOLS[dtype.kind])


# ---- batches -----------------------------------------------------------------------------------------------


@contextmanager
def in_python() -> Iterator[None]:
    """As on a machine that has no C compiler."""
    library = columns.library
    columns.library = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        columns.library = library


def checked(types: tuple[DataType, ...], blob: BatchBlob) -> Batch | None:
    """What somebody sent as a batch; None if it is refused, for which C and Python have the same reason. What is not
    refused goes through everything that C does with columns."""
    outcomes: list[str | list[Any]] = []
    for python in (False, True):
        try:
            with in_python() if python else _nothing():
                outcomes.append(_told(Batch.from_blob(types, blob)))
        except MalformedMessage as refused:
            outcomes.append(str(refused))
    assert outcomes[0] == outcomes[1], (types, blob, outcomes)
    if isinstance(outcomes[0], str):
        return None
    return Batch.from_blob(types, blob)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _told(batch: Batch) -> list[Any]:
    """Everything there is to be known of a batch."""
    key = tuple(range(len(batch.types)))[::-1]
    hashes = list(batch.key_hashes(key))
    places = [*range(0, len(batch), 2), *range(min(3, len(batch)))]
    taken = batch.take(places).to_blob() if len(batch) < 10_000 else None
    writes = Writes(0, WriteKind.PUT, key, batch, list(range(len(batch))), list(range(len(batch))))
    rows = [[(type(value), repr(value)) for value in row] for row in batch.rows()]
    told: list[Any] = [rows, batch.weights(), hashes, taken, batch.content_hash(), writes.content_hash()]
    native_side = columns.library()
    if native_side is not None and isinstance(hashes, list) and hashes:
        routed = native_side.routed(memoryview(array("Q", hashes)), [HASH_MAX // 2, HASH_MAX])
        assert sum(map(len, routed.values())) == len(batch)
    return told


def fuzz_batches(chance: random.Random, count: int, reached: Counter[str]) -> None:
    """Batches of random types."""
    before: list[BatchBlob] = []
    for _ in range(count):
        types = tuple(
            dtype.optional() if chance.random() < 0.4 else dtype
            for dtype in chance.choices(TYPES, k=chance.randrange(5))
        )
        length = chance.choice((0, 1, 3, 17, 40))
        made = [encode_column(t, [_value(t, b"", chance, ()) for _ in range(length)]) for t in types]
        weights = b"" if types and chance.random() < 0.7 else pack("q", [chance.choice(WEIGHTS)] * length)
        blob = BatchBlob(length, weights, tuple(made))
        before = [*before[-5:], blob]
        for _ in range(3):
            taken = checked(types, spoilt(blob, chance, before))
            reached["batches taken" if taken is not None else "batches refused"] += 1


# ---- executors ---------------------------------------------------------------------------------------------

_MAP = even_map(2, ["fuzzed", "peer"])


def fuzz_case(case: Case, chance: random.Random, count: int, reached: Counter[str]) -> None:
    """So many spoilt inputs of each kind for one program."""
    plan = compile(case.graph)
    saves, parcels = _good(plan, case)
    texts = _texts([batch for _, batch in parcels] + [change.puts for save in saves for change in save])
    for _ in range(count):
        _fuzz_save(plan, case, saves, chance, texts, reached)
        _fuzz_step(plan, case, saves, parcels, chance, texts, reached)


def _good(plan: Plan, case: Case) -> tuple[list[Save], list[tuple[int, Batch]]]:
    """What the first of two nodes saves in a good history, but for the last epoch, and all parcels that both send."""
    nodes, saves, sent = [Interpreter(plan), Interpreter(plan)], [], []
    for epoch in range(1, len(case.epochs) + 1):
        arrived: list[list[tuple[int, Batch]]] = [[], []]
        for stage in range(1, plan.stages + 1):
            writes = _writes(plan, case, epoch) if stage == 1 else {}
            parcels = [
                executor.step(epoch, stage, writes.get(shard, []), arrived[shard], _MAP, shard)
                for shard, executor in enumerate(nodes)
            ]
            arrived = [[], []]
            for parcel in itertools.chain(*parcels):
                arrived[parcel.shard].append((parcel.exchange, parcel.batch))
                sent.append((parcel.exchange, parcel.batch))
        for executor in nodes:
            executor.finish(epoch)
        if epoch < len(case.epochs):
            saves.append(nodes[0].save(False))
    return saves, sent


def _writes(plan: Plan, case: Case, epoch: int) -> dict[int, list[Writes]]:
    """An epoch's writes by shard."""
    every: list[Writes] = []
    for number, transaction in enumerate(case.epochs[epoch - 1]):
        every += placed(transaction, plan, number)
    return route_placed(every, plan, _MAP, epoch)


def _texts(batches: Sequence[Batch]) -> list[bytes]:
    """What stands in columns of bytes."""
    found = {
        value
        for batch in batches
        for place, dtype in enumerate(batch.types)
        if dtype.kind is Kind.BYTES
        for value in (row[place] for row in batch.rows())
        if isinstance(value, bytes)
    }
    return sorted(found)


def _spoilt_batch(
    batch: Batch, chance: random.Random, others: Sequence[Batch], texts: Sequence[bytes]
) -> Batch | None:
    """What becomes of a batch that was spoilt on its way; None: it was refused."""
    if chance.random() < 0.7:
        return reworded(batch, chance, texts)
    blobs = [other.to_blob() for other in chance.sample(list(others), min(3, len(others)))]
    return checked(batch.types, spoilt(batch.to_blob(), chance, blobs))


def _both(
    plan: Plan, work: Callable[[Executor, list[object]], None], reached: Counter[str], what: str
) -> None:
    """Have both executors do the same: both refuse it, or none does. Rows that contradict each other, such as two with
    one key, are refused by nobody at once; what comes of them may differ."""
    found, found_told = _outcome(native(plan), work)
    wanted, wanted_told = _outcome(Interpreter(plan), work)
    same = found != "fine" or found_told == wanted_told
    reached[f"{what} {found.partition(':')[0]}{'' if same else ' and not the same'}"] += 1
    if "failed" not in found + wanted:
        assert found.partition(":")[0] == wanted.partition(":")[0], (found, wanted)


def _outcome(executor: Executor, work: Callable[[Executor, list[object]], None]) -> tuple[str, list[object]]:
    """What becomes of work, and what was told on the way. All errors have to be ours."""
    told: list[object] = []
    try:
        work(executor, told)
    except MalformedMessage as refused:
        return f"refused: {refused}", told
    except (InternalError, DataError) as failed:
        return f"failed: {failed}", told
    return "fine", told


def _fuzz_save(
    plan: Plan,
    case: Case,
    saves: Sequence[Save],
    chance: random.Random,
    texts: Sequence[bytes],
    reached: Counter[str],
) -> None:
    tables = state_tables(plan)
    every = [batch for save in saves for change in save for batch in (change.puts, change.deletes)]
    changes = [(number, at) for number, save in enumerate(saves) for at in range(len(save))]
    if not changes:
        return
    spoiling = set(chance.sample(changes, min(len(changes), chance.choice((1, 1, 2)))))
    given: list[Save] = []
    for number, save in enumerate(saves):
        given.append([])
        for at, change in enumerate(save):
            puts, deletes = change.puts, change.deletes
            if (number, at) in spoiling:
                taken = _spoilt_batch(puts, chance, every, texts)
                gone = _spoilt_batch(deletes, chance, every, texts) if chance.random() < 0.2 else deletes
                if taken is None or gone is None:
                    reached["saves refused before"] += 1
                    return
                puts, deletes = taken, gone
            table = change.table if chance.random() < 0.98 else chance.randrange(-1, len(tables) + 1)
            given[-1].append(TableChange(table, puts, deletes))

    def work(executor: Executor, told: list[object]) -> None:
        executor.load(len(saves), given)
        told.append(in_bytes(executor.save(True)))
        _go_on(executor, plan, case, {}, told)

    _both(plan, work, reached, "saves")


def _fuzz_step(
    plan: Plan,
    case: Case,
    saves: Sequence[Save],
    parcels: Sequence[tuple[int, Batch]],
    chance: random.Random,
    texts: Sequence[bytes],
    reached: Counter[str],
) -> None:
    exchanges = {o.id: o for o in plan.operators if isinstance(o, Exchange)}
    usable = [parcel for parcel in parcels if parcel[0] in exchanges]
    if not usable:
        return
    number, batch = chance.choice(usable)
    every = [each for _, each in usable]
    taken = _spoilt_batch(batch, chance, every, texts)
    if taken is None:
        reached["parcels refused before"] += 1
        return
    more = {exchanges[number].stage: [(number, taken)]}

    def work(executor: Executor, told: list[object]) -> None:
        executor.load(len(saves), saves)
        _go_on(executor, plan, case, more, told)

    _both(plan, work, reached, "parcels")


def _go_on(
    executor: Executor,
    plan: Plan,
    case: Case,
    more: dict[int, list[tuple[int, Batch]]],
    told: list[object],
) -> None:
    """The last epoch, with more that arrives at some stage."""
    epoch = len(case.epochs)
    for stage in range(1, plan.stages + 1):
        writes = _writes(plan, case, epoch).get(0, []) if stage == 1 else []
        parcels = executor.step(epoch, stage, writes, more.get(stage, []), _MAP, 0)
        told.append([(parcel.exchange, parcel.batch.to_blob()) for parcel in parcels])
    changes = executor.finish(epoch)
    told.append([(view, batch.to_blob()) for view, batch in changes.items()])
    for view in range(len(plan.views)):
        told.append(sorted((repr(row), weight) for row, weight in executor.rows(view).to_zset().items()))
        told.append(executor.errors(view))
    told.append(in_bytes(executor.save(True)))
