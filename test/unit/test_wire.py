"""What runners say to each other is what the kernels meant: round trips, parts, and empty rows as bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Exchange
from dist_zero.shards import even_map
from dist_zero.types import DataType, Kind, Row
from dist_zero_common.broker.topology import (
    client_replies,
    runner_inbox,
    scheduler_inbox,
    sequencer_nodes_inbox,
)
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.epochs import (
    EPOCHS_AHEAD_MAX,
    EmptyRows,
    HandOut,
    SnapshotWanted,
    SubscriptionWanted,
)
from dist_zero_common.protocol.messages.pieces import WriteKind
from dist_zero_common.protocol.messages.reading import AskChanges, Get
from dist_zero_common.protocol.stored import (
    LogRecord,
)
from services.node_runner import wire
from services.node_runner.kernel_events import HandOutEvent, RowsEvent, SendRows
from services.node_runner.sequencer_events import HandOutEpoch
from test.simulated.property_world import PROGRAMS

PLAN = compile(PROGRAMS[3].graph())
EXCHANGES = [op for op in PLAN.operators if isinstance(op, Exchange)]
CLIENT = client_replies("s", "c")


def sent(message: Message) -> Message:
    """The message as it arrives."""
    return decode(Envelope, encode(Envelope("s", "x", (message,)))).messages[0]


@given(st.integers(1, 9), st.data())
def test_empty_rows_are_the_pairs_that_were_put_in(shards: int, data: st.DataObject) -> None:
    """Any set of (sender, target) pairs survives as bits, on any number of shards."""
    shard_map = even_map(1, [f"n{i}" for i in range(shards)])
    shard = st.integers(0, shards - 1)
    pairs = data.draw(st.lists(st.tuples(shard, shard), unique=True))
    message = sent(wire.empty_rows(PLAN.name, 0, shard_map, 7, 2, pairs))
    assert isinstance(message, EmptyRows)
    events = [(target, event(3)) for target, event in wire.empty_events(PLAN, shard_map, message)]
    assert sorted(
        (event.sender, target) for target, event in events if isinstance(event, RowsEvent)
    ) == sorted(pairs)
    assert all(
        isinstance(e, RowsEvent) and (e.epoch, e.stage, e.parts, e.batches, e.token) == (7, 2, 1, (), 3)
        for _, e in events
    )


def some_row(types: tuple[DataType, ...], number: int) -> Row:
    """A row of these types that no other number has."""
    values = {Kind.STR: f"text {number}", Kind.FLOAT: number / 2, Kind.BYTES: bytes(number), Kind.BOOL: True}
    return tuple(values.get(dtype.kind, number) for dtype in types)


@pytest.mark.parametrize("part_bytes", [64, 1_000, 2**20])
def test_rows_in_parts_are_the_rows(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the parts, they are numbered, hold every row once, with its weight, under its exchange."""
    monkeypatch.setattr(wire, "PART_BYTES", part_bytes)
    stage = EXCHANGES[0].stage
    exchanges = [op for op in EXCHANGES if op.stage == stage]
    batches = tuple(
        (
            op.id,
            Batch.from_rows(
                op.row_type.types, [some_row(op.row_type.types, n) for n in range(40)], [*range(1, 41)]
            ),
        )
        for op in exchanges
    )
    shard_map = even_map(1, ["a", "b"])
    messages = wire.stage_rows(PLAN.name, 0, shard_map, 1, SendRows(0, 9, stage, batches))
    assert [m.part for m in messages] == [*range(len(messages))]
    assert {m.parts for m in messages} == {len(messages)}
    came: dict[int, list[tuple[object, int]]] = {}
    for message in messages:
        arrived = sent(message)
        assert arrived == message
        event = wire.rows_event(PLAN, shard_map, message)(5)
        assert isinstance(event, RowsEvent) and (event.epoch, event.sender, event.token) == (9, 1, 5)
        for exchange, batch in event.batches:
            came.setdefault(exchange, []).extend(batch.items())
    assert came == {exchange: list(batch.items()) for exchange, batch in batches}
    assert (len(messages) == 1) == (part_bytes > 2_000)


def record(**more: object) -> LogRecord:
    fields: dict[str, object] = {
        "epoch": 4,
        "time_us": 1,
        "generation": 2,
        "incarnation": 1,
        "map_version": 1,
        "save": True,
        "expired": (),
        "opens": (),
        "transactions": (),
        "snapshots": (SnapshotWanted(1, (0, 1), CLIENT),),
        "subscriptions": (SubscriptionWanted(9, 2, (1,), 3, CLIENT),),
        "unsubscriptions": (8,),
    }
    return LogRecord(**(fields | more))  # type: ignore[arg-type]


def handed_out(what: LogRecord, writes: tuple[tuple[Writes, ...], ...]) -> HandOutEpoch:
    return HandOutEpoch(what, writes, generation=5, again=True, base=3, targets=tuple(range(len(writes))))


def test_hand_out_is_what_the_record_says_for_each_target() -> None:
    """Each target gets its own writes, and all get the record's flags and readers."""
    shard_map = even_map(1, ["a", "b", "c"])
    types = PLAN.datasets[0].row_type.types
    writes = Writes(0, WriteKind.PUT, (0, 1, 2), Batch.from_rows(types, [(7, "x", 1.5)]), [0], [3])
    message = wire.hand_out_message(
        PLAN.name, handed_out(record(), ((), (writes,), ())), shard_map.version, (1, 2)
    )
    arrived = sent(message)
    assert arrived == message and isinstance(arrived, HandOut)
    events = {target: event(target) for target, event in wire.hand_out_events(PLAN, shard_map, arrived)}
    assert [*events] == [1, 2]
    for wrong in (replace(message, filled=1), replace(message, filled_before=2, filled=1)):
        with pytest.raises(MalformedMessage, match="slices"):  # of a program that takes nobody's place
            wire.hand_out_events(PLAN, shard_map, wrong)
    for target, event in events.items():
        assert isinstance(event, HandOutEvent)
        assert (event.epoch, event.save, event.token) == (4, True, target)
        assert (event.again, event.base) == (True, 3)
        assert event.snapshots == record().snapshots and event.subscriptions == record().subscriptions
        assert event.unsubscriptions == (8,)
        assert [w.content_hash() for w in event.writes] == ([writes.content_hash()] if target == 1 else [])


@pytest.mark.parametrize(
    "inbox",
    [scheduler_inbox("s"), runner_inbox("s", "r", 1), client_replies("other", "c"), "", "dz.s.replies."],
)
def test_nodes_write_to_clients_of_their_system_alone(inbox: str) -> None:
    """Whoever asks a node to answer to anybody else is refused, also where a hand-out says it."""
    key = Batch.from_rows((), []).to_blob()
    for message in (
        Get(1, "p", 1, 0, 0, key, 0, inbox),
        AskChanges("p", 1, 0, 1, 1, inbox),
        wire.hand_out_message(
            "p", handed_out(record(snapshots=(SnapshotWanted(1, (), inbox),)), ((),)), 1, (0,)
        ),
        wire.hand_out_message(
            "p", handed_out(record(subscriptions=(SubscriptionWanted(1, 1, (), 0, inbox),)), ((),)), 1, (0,)
        ),
    ):
        with pytest.raises(MalformedMessage):
            wire.check_readers("s", message)
    wire.check_readers("s", wire.hand_out_message("p", handed_out(record(), ((),)), 1, (0,)))


def test_epochs_far_ahead_are_refused() -> None:
    """Rows and questions of epochs that cannot come are not kept; those within reach are."""
    for epoch in (0, 10 + EPOCHS_AHEAD_MAX + 1, 2**63):
        with pytest.raises(MalformedMessage):
            wire.check_epoch(10, epoch)
    for epoch in (1, 10, 11, 10 + EPOCHS_AHEAD_MAX):
        wire.check_epoch(10, epoch)
    wire.check_at_least(10, 0)
    with pytest.raises(MalformedMessage):
        wire.check_at_least(10, 2**60)


def test_only_an_inbox_of_the_program_s_sequencer_names_an_incarnation() -> None:
    """The incarnation is read off the inbox's name, which has to be one that we make."""
    assert wire.sequencer_incarnation("s", "p", sequencer_nodes_inbox("s", "p", 77)) == 77
    for inbox in (
        sequencer_nodes_inbox("s", "other", 77),
        sequencer_nodes_inbox("t", "p", 77),
        "dz.s.sequencer-nodes.p.x7",
        "dz.s.sequencer-nodes.p." + "9" * 30,
        scheduler_inbox("s"),
    ):
        with pytest.raises(MalformedMessage):
            wire.sequencer_incarnation("s", "p", inbox)
