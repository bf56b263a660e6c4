"""Snapshots and subscriptions put together from parts that come in any order, late and twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dist_zero as dz
from dist_zero import compiler
from dist_zero.batch import Batch
from dist_zero.client.snapshot import PartsByEpoch, ViewError, ViewReader, snapshot_of
from dist_zero.client.watch import StoredChange, Subscription, change_for_people
from dist_zero.types import Row
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.reading import Changes, ErrorEntry, SnapshotAnswer, ViewRows

app = dz.Program("toy")


class Thing(dz.Row):
    k: int
    v: float | None


things = app.dataset("things", Thing, key="k")
app.view("by_value", things.top(100, by=dz.desc("v")))
app.view("values", things.select("v"))
PLAN = compiler.compile(app.graph())
READERS = {number: ViewReader(PLAN, number) for number in range(2)}
SUBSCRIPTION = 77

Parts = list[list[tuple[Row, int]]]


def view_rows(pairs: list[tuple[Row, int]]) -> tuple[ViewRows, ...]:
    rows, weights = [row for row, _ in pairs], [weight for _, weight in pairs]
    return (
        (ViewRows(0, Batch.from_rows(READERS[0].row_type.types, rows, weights).to_blob()),) if pairs else ()
    )


def answers(epoch: int, shards: list[Parts], subscription: int = SUBSCRIPTION) -> list[SnapshotAnswer]:
    return [
        SnapshotAnswer(
            1, subscription, epoch, 1, shard, len(shards), part, len(parts), view_rows(pairs), (), ()
        )
        for shard, parts in enumerate(shards)
        for part, pairs in enumerate(parts)
    ]


def changes(epoch: int, shards: list[Parts]) -> list[Changes]:
    return [
        Changes(1, SUBSCRIPTION, epoch, 1, shard, len(shards), part, len(parts), view_rows(pairs))
        for shard, parts in enumerate(shards)
        for part, pairs in enumerate(parts)
    ]


rows = st.tuples(
    st.tuples(st.integers(0, 5), st.none() | st.floats(-2, 2).map(lambda v: v + 0.0)),
    st.sampled_from((1, -1)),
)
shards = st.lists(st.lists(st.lists(rows, max_size=3), min_size=1, max_size=3), min_size=2, max_size=2)


@given(st.lists(shards, min_size=1, max_size=5), st.integers(0, 2**32))
def test_any_order_and_any_copies_give_the_same_changes(epochs: list[list[Parts]], seed: int) -> None:
    """Law: shuffled and doubled parts give every epoch once, whole and in order, as in-order delivery
    does."""
    messages: list[SnapshotAnswer | Changes] = [*answers(4, epochs[0])]
    for number, epoch in enumerate(epochs[1:], 5):
        messages += changes(number, epoch)
    unruly = messages + random.Random(seed).sample(messages, len(messages) // 2)
    random.Random(seed).shuffle(unruly)
    in_order, shuffled = fed(messages), fed(unruly)
    assert shuffled == in_order
    assert [change.epoch for change in shuffled] == list(range(4, 4 + len(epochs)))
    assert [change.snapshot for change in shuffled] == [True] + [False] * (len(epochs) - 1)


def fed(messages: list[SnapshotAnswer | Changes]) -> list[StoredChange]:
    subscription = Subscription(1, (0, 1), 0, READERS)
    complete: list[StoredChange] = []
    for message in messages:
        if isinstance(message, SnapshotAnswer):
            complete += subscription.on_snapshot(message)
        else:
            complete += subscription.on_changes(message)
    assert subscription.newest == subscription.epoch
    return complete


def test_what_is_missing_is_known() -> None:
    """After a gap, the shards whose part of the next epoch has not come are named."""
    subscription = Subscription(1, (0,), 0, READERS)
    for answer in answers(4, [[[]], [[]], [[]]]):
        subscription.on_snapshot(answer)
    assert subscription.missing(1, 3) == [0, 1, 2]
    for change in changes(5, [[[], []], [[]], [[]]]):
        if (change.shard, change.part) in ((0, 0), (2, 0)):
            assert subscription.on_changes(change) == []
    assert subscription.missing(1, 3) == [0, 1]
    assert subscription.newest > subscription.epoch


def test_a_second_subscription_of_one_request_is_a_stray() -> None:
    """A request that was sent twice may subscribe twice: the second is told, to be ended, and not mixed
    in."""
    subscription = Subscription(1, (0,), 0, READERS)
    first, second = answers(4, [[[]]]), answers(5, [[[((1, 1.0), 1)]]], subscription=78)
    assert [change.epoch for change in subscription.on_snapshot(first[0])] == [4]
    assert subscription.on_snapshot(second[0]) == []
    assert subscription.on_snapshot(second[0]) == []
    assert subscription.strays == [78]


def test_impossible_places_are_refused() -> None:
    """A part beyond its count, or a shard beyond the map, is a malformed message."""
    subscription = Subscription(1, (0,), 0, READERS)
    with pytest.raises(MalformedMessage):
        subscription.on_changes(Changes(1, SUBSCRIPTION, 5, 1, 2, 2, 0, 1, ()))
    with pytest.raises(MalformedMessage):
        subscription.on_changes(Changes(1, SUBSCRIPTION, 5, 1, 0, 2, 1, 1, ()))


def test_a_snapshot_is_the_first_epoch_that_is_whole() -> None:
    """A question that was answered as of two epochs gives one of them, never a mixture."""
    assembly = PartsByEpoch()
    early = answers(4, [[[((1, 1.0), 1)]], [[((2, None), 1)]]], subscription=0)
    late = answers(5, [[[((1, 7.0), 1)]], [[((3, 2.0), 1)]]], subscription=0)
    assert assembly.add(early[0]) is None
    assert assembly.add(late[1]) is None
    assert assembly.add(early[0]) is None
    whole = assembly.add(late[0])
    assert whole is not None
    snapshot = snapshot_of(PLAN, READERS, (0,), whole)
    assert snapshot.epoch == 5
    assert snapshot.stored["by_value"] == [(1, 7.0), (3, 2.0)]


def test_errors_of_several_nodes_add_up() -> None:
    """Counts add, the smallest example stays, other views' errors stay away."""
    entries = [
        (ErrorEntry(0, 3, "a.py:1 where", "overflow", "k=2", 2), ErrorEntry(1, 3, "x", "y", "z", 9)),
        (ErrorEntry(0, 3, "a.py:1 where", "overflow", "k=1", 5),),
    ]
    parts = [
        SnapshotAnswer(1, 0, 4, 1, shard, 2, 0, 1, (), entries[shard], (shard + 1,)) for shard in range(2)
    ]
    snapshot = snapshot_of(PLAN, READERS, (0,), parts)
    assert [str(error) for error in snapshot.errors["by_value"]] == [
        "7 rows are left out by a.py:1 where: overflow, for example k=1"
    ]
    assert str(ViewError("a.py:2 agg", "overflow", "", 1)) == "1 row is left out by a.py:2 agg: overflow"
    assert snapshot.missed == {"things": 3}


def test_changes_for_people_are_in_the_views_order() -> None:
    """Rows come as often as their weights say, sorted as the view is."""
    pairs: list[tuple[Row, int]] = [((1, None), 1), ((2, 0.5), 1), ((3, 2.0), 1), ((4, 1.0), -1)]
    change = change_for_people(READERS[0], 0, StoredChange(9, {0: pairs}))
    assert [vars(row)["k"] for row in change.inserted] == [3, 2, 1]
    assert [vars(row)["k"] for row in change.deleted] == [4]
    twice = change_for_people(READERS[1], 1, StoredChange(9, {1: [((1.0,), 2), ((0.5,), -3)]}))
    assert (len(twice.inserted), len(twice.deleted)) == (2, 3)
