"""Writes: payloads are checked wholly, every write reaches the owner of its key, and places keep the order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero import shards
from dist_zero.batch import CONTENT_MODULUS, Batch, Writes, columns_problem
from dist_zero.compiler.plan import DatasetPlan, Plan
from dist_zero.hashing import key_hash
from dist_zero.types import BOOL, INT, STR, DataType, Row, RowType, picker
from dist_zero.writes import (
    decode_payload,
    encode_payload,
    merge_writes,
    placed,
    route,
    route_placed,
    sampled_hashes,
)
from dist_zero_common.errors import DataError, MalformedMessage
from dist_zero_common.protocol import codec
from dist_zero_common.protocol.messages.envelope import Envelope
from dist_zero_common.protocol.messages.epochs import HandOut, NodeWrites
from dist_zero_common.protocol.messages.pieces import Payload, ShardMap, WriteKind, WritesBlob

PUT, UPDATE, DELETE, APPEND = WriteKind.PUT, WriteKind.UPDATE, WriteKind.DELETE, WriteKind.APPEND

pytestmark = pytest.mark.usefixtures("both_ways")

KEYED = DatasetPlan("players", RowType(("score", "game", "name"), (INT, STR, STR)), (1, 2))
EVENTS = DatasetPlan("events", RowType(("what",), (STR,)), None)
DATASETS = (KEYED, EVENTS)
PLAN = Plan("p", DATASETS, (), (), 1, "")
COLUMNS = {PUT: (0, 1, 2), UPDATE: (1, 2, 0), DELETE: (1, 2), APPEND: (0,)}


def _types(kind: WriteKind) -> tuple[DataType, ...]:
    dataset = EVENTS if kind is APPEND else KEYED
    return dataset.row_type.select(COLUMNS[kind]).types


def _writes(kind: WriteKind, rows: list[Row]) -> Writes:
    return Writes(int(kind is APPEND), kind, COLUMNS[kind], Batch.from_rows(_types(kind), rows), (), ())


_text = st.sampled_from(("", "a", "b", "chess"))
_row = {PUT: st.tuples(st.integers(0, 9), _text, _text), UPDATE: st.tuples(_text, _text, st.integers(0, 9))}
_row |= {DELETE: st.tuples(_text, _text), APPEND: st.tuples(_text)}  # type: ignore[dict-item]
any_writes = st.sampled_from(list(WriteKind)).flatmap(
    lambda kind: st.lists(_row[kind], max_size=5).map(lambda rows: _writes(kind, list(rows)))
)
payloads = st.lists(any_writes, max_size=4)
maps = st.integers(1, 5).map(lambda count: shards.even_map(1, [f"n{i}" for i in range(count)]))

Placed = tuple[int, WriteKind, tuple[int, ...], int, int, Row]


def _placed(writes: list[Writes]) -> list[Placed]:
    """Every single write with its place, in the order of places."""
    return sorted(
        [
            (each.dataset, each.kind, each.columns, transaction, row, values)
            for each in writes
            for transaction, row, values in zip(each.transactions, each.rows, each.batch.rows(), strict=True)
        ],
        key=lambda each: each[3:5],
    )


@given(payloads)
def test_payload_round_trip(writes: list[Writes]) -> None:
    """Proves that a client's writes are those that the sequencer reads."""
    back = decode_payload(DATASETS, encode_payload(writes))
    assert [(w.dataset, w.kind, w.columns, w.batch.rows()) for w in back] == [
        (w.dataset, w.kind, w.columns, w.batch.rows()) for w in writes
    ]


@given(payloads, maps)
def test_every_write_goes_to_the_owner_of_its_key_once(writes: list[Writes], shard_map: ShardMap) -> None:
    """Proves that routing loses and doubles nothing, counts rows through the payload, and asks `key_hash` alone."""
    routed = route(writes, PLAN, shard_map, epoch=7, transaction=3)
    assert list(routed) == sorted(routed)
    everything = _placed([each for parts in routed.values() for each in parts])
    expected = [(w.dataset, w.kind, w.columns, 3, row) for w in writes for row in w.batch.rows()]
    assert [(*placed[:4], placed[5]) for placed in everything] == expected
    assert [placed[4] for placed in everything] == list(range(len(expected)))
    for shard, parts in routed.items():
        for _, kind, _, transaction, place, row in _placed(parts):
            assert shard == shards.owner(shard_map, _expected_hash(kind, row, 7, transaction, place))


def _expected_hash(kind: WriteKind, row: Row, epoch: int, transaction: int, place: int) -> int:
    if kind is APPEND:
        return key_hash((INT, INT, INT), (epoch, transaction, place))
    return key_hash((STR, STR), row[1:] if kind is PUT else row[:2])


@given(payloads, payloads, maps)
def test_merging_keeps_every_write_and_its_place(
    first: list[Writes], second: list[Writes], shard_map: ShardMap
) -> None:
    """Proves that merging many transactions changes the number of blocks and nothing else."""
    routed = [
        each
        for transaction, writes in enumerate((first, second))
        for parts in route(writes, PLAN, shard_map, 1, transaction).values()
        for each in parts
    ]
    merged = merge_writes(routed)
    assert _placed(merged) == _placed(routed)
    assert len({(each.dataset, each.kind, each.columns) for each in merged}) == len(merged)
    assert (
        sum(each.content_hash() for each in merged) % CONTENT_MODULUS
        == sum(each.content_hash() for each in routed) % CONTENT_MODULUS
    )


@given(st.lists(payloads, max_size=3), maps)
def test_oracle_an_epoch_is_routed_as_its_transactions_are(
    transactions: list[list[Writes]], shard_map: ShardMap
) -> None:
    """Proves that merging first and routing then gives every shard the writes of routing one by one."""
    alone: dict[int, list[Writes]] = {}
    for transaction, writes in enumerate(transactions):
        for shard, parts in route(writes, PLAN, shard_map, 5, transaction).items():
            alone.setdefault(shard, []).extend(parts)
    every = [each for number, writes in enumerate(transactions) for each in placed(writes, PLAN, number)]
    together = route_placed(merge_writes(every), PLAN, shard_map, 5)
    assert {shard: _placed(parts) for shard, parts in sorted(alone.items())} == {
        shard: _placed(parts) for shard, parts in together.items()
    }


@given(payloads)
def test_hand_out_round_trip(writes: list[Writes]) -> None:
    """Proves that writes with places survive the wire, and their content hash with them."""
    placed = [
        each for parts in route(writes, PLAN, shards.even_map(1, ["n"]), 1, 2).values() for each in parts
    ]
    for each in placed:
        blob = codec.decode(WritesBlob, codec.encode(each.to_blob()))
        back = Writes.from_blob(DATASETS, blob)
        assert _placed([back]) == _placed([each])
        assert back.content_hash() == each.content_hash()
        assert len(each.batch) < 2 or back.take([1]).content_hash() != back.content_hash()


def test_content_hash_sees_places_and_kind() -> None:
    """Proves that the same row elsewhere, or written otherwise, is other content."""
    base = Writes(0, PUT, (0, 1, 2), Batch.from_rows(_types(PUT), [(1, "a", "b")]), [1], [1])
    others = [replace(base, transactions=[2]), replace(base, rows=[2]), replace(base, dataset=1)]
    others += [replace(base, kind=UPDATE), replace(base, columns=(0, 2, 1))]
    assert len({each.content_hash() for each in [base, *others]}) == 6


def test_one_shard_needs_no_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that with one node nothing is hashed, taken apart or copied."""
    monkeypatch.setattr("dist_zero.writes.hasher", None)
    writes = _writes(PUT, [(1, "a", "b")])
    assert route([writes], PLAN, shards.even_map(1, ["n"]), 1, 0)[0][0].batch is writes.batch


@pytest.mark.parametrize(
    ("kind", "columns", "legal"),
    [
        (PUT, (0, 1, 2), True),
        (PUT, (0, 1), False),
        (PUT, (0, 2, 1), False),
        (UPDATE, (1, 2, 0), True),
        (UPDATE, (1, 2), False),
        (UPDATE, (2, 1, 0), False),
        (UPDATE, (1, 2, 1), False),
        (UPDATE, (1, 2, 0, 0), False),
        (UPDATE, (1, 2, 3), False),
        (UPDATE, (1, 2, -1), False),
        (DELETE, (1, 2), True),
        (DELETE, (1, 2, 0), False),
        (DELETE, (), False),
        (APPEND, (0, 1, 2), False),
    ],
)
def test_columns_that_a_write_may_have(kind: WriteKind, columns: tuple[int, ...], legal: bool) -> None:
    """Proves the rules of kinds and columns for a dataset with a key, of two columns that do not stand first."""
    assert (columns_problem(KEYED, kind, columns) is None) == legal


def test_dataset_without_key_takes_appends_alone() -> None:
    """Proves the rules for a dataset without a key."""
    assert [kind for kind in WriteKind if columns_problem(EVENTS, kind, (0,)) is None] == [APPEND]
    assert columns_problem(EVENTS, APPEND, ()) is not None


def _blob(**changes: Any) -> WritesBlob:
    return replace(_writes(PUT, [(1, "a", "b")]).to_blob(), **changes)


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (_blob(dataset=2), "number 2 of 2"),
        (_blob(dataset=1), "'events'"),
        (_blob(kind=APPEND), "'players'"),
        (_blob(columns=(0, 1)), "'players': it needs all 3"),
        (_blob(transactions=bytes(8), rows=bytes(8)), "no places"),
        (_blob(rows=bytes(8)), "no places"),
        (_blob(batch=Batch.from_rows((INT, STR), [(1, "a")]).to_blob()), "columns"),
        (_blob(batch=Batch.from_rows((INT, INT, STR), [(1, 1, "a")]).to_blob()), "column game"),
        (
            _blob(batch=Batch.from_rows((INT, STR.optional(), STR), [(1, None, "a")]).to_blob()),
            "column game.*null",
        ),
        (_blob(batch=Batch.from_rows((INT, STR, STR), [(1, "a", "b")], [-1]).to_blob()), "weights"),
    ],
)
def test_bad_payload_is_refused_whole(blob: WritesBlob, why: str) -> None:
    """Proves that one bad block among good ones refuses the payload, saying the dataset, column and reason."""
    good = _blob()
    assert len(decode_payload(DATASETS, codec.encode(Payload((good, good))))) == 2
    with pytest.raises(MalformedMessage, match=why):
        decode_payload(DATASETS, codec.encode(Payload((good, blob))))


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({"transactions": bytes(8)}, "rows is 0 bytes"),
        ({"rows": bytes(8)}, "transactions is 0 bytes"),
        ({"transactions": bytes(16), "rows": bytes(8)}, "transactions is 16 bytes"),
        ({"transactions": bytes(8), "rows": b"\xff" * 8}, "negative"),
    ],
)
def test_bad_places_in_a_hand_out_are_refused(places: dict[str, bytes], why: str) -> None:
    """Proves that places are as many as rows, and none is negative."""
    with pytest.raises(MalformedMessage, match=why):
        Writes.from_blob(DATASETS, _blob(**places))


def test_too_large_a_transaction_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that the limit is told to the user, and held by the sequencer, in bytes and in rows."""
    writes = [_writes(PUT, [(1, "a" * 1000, "b")] * 3)]
    data = encode_payload(writes)
    for limit, value in (("TRANSACTION_BYTES_MAX", 3000), ("BATCH_ROWS_MAX", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(f"dist_zero.writes.{limit}", value)
            with pytest.raises(DataError, match="several transactions"):
                encode_payload(writes)
            with pytest.raises(MalformedMessage, match="a transaction of 3 rows"):
                decode_payload(DATASETS, data)


@pytest.mark.parametrize("rows", [15 * 2**20 // 17 - 200, 15 * 2**20 // 17 + 1])
def test_largest_transaction_can_be_handed_out(rows: int) -> None:
    """Proves that whatever is small enough to be recorded fits a message when every row has its place, for the
    smallest rows there are, and that one more is refused."""
    flags = DatasetPlan("flags", RowType(("on",), (BOOL,)), None)
    writes = [Writes(0, APPEND, (0,), Batch.from_rows((BOOL,), [(True,)] * rows), (), ())]
    if rows * 17 > 15 * 2**20:
        with pytest.raises(DataError, match="several transactions"):
            encode_payload(writes)
        return
    back = decode_payload((flags,), encode_payload(writes))
    routed = route(back, Plan("p", (flags,), (), (), 1, ""), shards.even_map(1, ["a"]), 1, 0)
    parts = tuple(NodeWrites(shard, tuple(each.to_blob() for each in its)) for shard, its in routed.items())
    hand_out = HandOut("p", 1, 1, 1, False, 0, (0,), parts, (), (), (), False, 0, False)
    assert len(codec.encode(Envelope("s", "r", (hand_out,)))) > 14 * 2**20


def test_key_of_a_row_is_always_a_tuple() -> None:
    """Proves that keys of no, one and several columns have the same form."""
    row = ("a", "b", "c")
    assert [picker(places)(row) for places in ((), (1,), (2, 0))] == [(), ("b",), ("c", "a")]


@given(payloads, st.integers(1, 20))
def test_a_sample_of_keys_is_of_keys_that_are_written(payload: list[Writes], count: int) -> None:
    """At most so many, all of them if there are no more, and each where routing finds its row."""
    writes = placed(payload, PLAN, 0)
    rows = sum(len(each.batch) for each in writes)
    sample, all_hashes = (sampled_hashes(writes, PLAN, 7, most) for most in (count, max(1, rows)))
    assert len(all_hashes) == rows and len(sample) == min(count, rows)
    assert not Counter(sample) - Counter(all_hashes)
    shard_map = shards.even_map(1, ["a", "b", "c"])
    routed = route_placed(writes, PLAN, shard_map, 7)
    for shard in range(3):
        there = sum(shards.owner(shard_map, each) == shard for each in all_hashes)
        assert there == sum(len(each.batch) for each in routed.get(shard, ()))
