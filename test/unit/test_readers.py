"""What readers ask the sequencer for, rule by rule: `services/node_runner/readers.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dist_zero.compiler import compile
from dist_zero.expr.ops import Dataset, Graph, View
from dist_zero.types import INT, RowType
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.messages.epochs import EPOCHS_AHEAD_MAX, SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.reading import (
    AwaitEpoch,
    EpochFinished,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
from dist_zero_common.protocol.stored import LogRecord
from services.node_runner.readers import Readers
from services.node_runner.sequencer_events import Answer, Now, SequencerEffect, SettleMessages

COUNTS = Dataset(RowType(("k",), (INT,)), ("k",), "counts")
PLAN = compile(Graph("app", (COUNTS,), (View("all", COUNTS), View("same", COUNTS))))


@dataclass
class Asking:
    """Readers, and what follows from what they are asked. Tokens are numbers from 1 on."""

    forgotten: int = 0
    known: tuple[SubscriptionWanted, ...] = ()
    effects: list[SequencerEffect] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.readers = Readers(PLAN, self.known, self.forgotten)

    def ask(self, message: SnapshotRequest | Subscribe, seconds: float = 0.0) -> None:
        self.tokens += 1
        self.readers.on_question(message, self.tokens, Now(0, seconds), self.effects)

    def record(self, epoch: int) -> LogRecord:
        """The record that has all that is asked for, taken."""
        record = LogRecord(
            epoch=epoch,
            time_us=0,
            generation=1,
            incarnation=1,
            map_version=1,
            save=False,
            expired=(),
            opens=(),
            transactions=(),
            snapshots=self.readers.wanted_snapshots(),
            subscriptions=self.readers.wanted_subscriptions(epoch),
            unsubscriptions=self.readers.wanted_unsubscriptions(),
        )
        self.readers.take(record, self.effects)
        return record

    def settled(self) -> list[int]:
        return [token for e in self.effects if isinstance(e, SettleMessages) for token in e.tokens]

    def answers(self) -> list[object]:
        return [e.message for e in self.effects if isinstance(e, Answer)]


@pytest.mark.parametrize("views", [(), ("all", "none"), ("none",)])
def test_who_names_no_view_or_one_that_is_not_there_is_refused(views: tuple[str, ...]) -> None:
    """And hears which there are; nothing waits for a record."""
    for message in (SnapshotRequest(7, views, "me"), Subscribe(7, views, 0, "me")):
        asking = Asking()
        asking.ask(message)
        (refused,) = asking.answers()
        assert isinstance(refused, RequestRefused) and refused.request == 7
        assert "there are all, same" in refused.reason
        assert asking.settled() == [1]
        assert not asking.readers.wanted_snapshots() and not asking.readers.wanted_subscriptions(3)


def test_a_question_is_done_with_when_its_record_is_there() -> None:
    """Not before. A view that is named twice counts once; a copy of the message waits for nothing."""
    asking = Asking()
    asking.ask(SnapshotRequest(7, ("same", "all", "same"), "me"))
    asking.ask(SnapshotRequest(7, ("same", "all", "same"), "me"))
    assert asking.settled() == [2]
    assert [wanted.views for wanted in asking.record(3).snapshots] == [(1, 0)]
    assert asking.settled() == [2, 1]
    assert not asking.readers.wanted_snapshots()


def test_subscriptions_of_records_before_readers_were_forgotten_have_ended() -> None:
    """Where what they heard is not so any more; later ones count."""
    asking = Asking(forgotten=5)
    for epoch, counts in ((4, False), (5, True)):
        asking.ask(Subscribe(epoch, ("all",), 0, f"reader of {epoch}"))
        (wanted,) = asking.record(epoch).subscriptions
        assert (wanted in asking.readers.as_of_now()) is counts, epoch


def test_a_subscription_that_is_asked_for_again_soon_is_a_copy() -> None:
    """After some seconds the answer was lost, and there is another one."""
    asking = Asking()
    asking.ask(Subscribe(7, ("all",), 0, "me"), seconds=10.0)
    asking.record(3)
    asking.ask(Subscribe(7, ("all",), 0, "me"), seconds=11.0)
    assert not asking.readers.wanted_subscriptions(4)
    asking.ask(Subscribe(7, ("all",), 0, "me"), seconds=14.0)
    assert len(asking.readers.wanted_subscriptions(4)) == 1


def test_a_subscription_ends_with_a_record_whoever_ends_it() -> None:
    """Its reader, or that nobody reads its inbox."""
    asking = Asking()
    for number in (1, 2, 3):
        asking.ask(Subscribe(number, ("all",), 0, "gone" if number > 1 else "me"))
    mine, *gone = asking.record(3).subscriptions
    asking.readers.on_gone("gone")
    assert asking.readers.wanted_unsubscriptions() == tuple(each.subscription for each in gone)
    asking.record(4)
    assert asking.readers.as_of_now() == (mine,)
    asking.readers.on_unsubscribe(Unsubscribe(mine.subscription), 90, asking.effects)
    asking.readers.on_unsubscribe(Unsubscribe(mine.subscription), 91, asking.effects)
    assert 91 in asking.settled() and 90 not in asking.settled()
    asking.record(5)
    assert asking.readers.as_of_now() == () and 90 in asking.settled()


def test_who_waits_for_an_epoch_hears_when_all_have_finished_it() -> None:
    """At once if they have; one that is far ahead of the log is nobody's."""
    asking = Asking()
    asking.readers.on_await(AwaitEpoch(1, 5, "me"), 1, 9, 4, asking.effects)
    assert asking.answers() == []
    asking.readers.answer_awaiting(5, asking.effects)
    asking.readers.answer_awaiting(6, asking.effects)
    asking.readers.on_await(AwaitEpoch(2, 5, "me"), 2, 9, 6, asking.effects)
    assert asking.answers() == [EpochFinished(1, 5), EpochFinished(2, 6)]
    with pytest.raises(MalformedMessage):
        asking.readers.on_await(AwaitEpoch(3, 10 + EPOCHS_AHEAD_MAX, "me"), 3, 9, 6, asking.effects)
