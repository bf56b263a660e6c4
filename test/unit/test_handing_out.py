"""What goes out to nodes, what is kept of it, and what goes out again."""

from __future__ import annotations

from dataclasses import replace

from dist_zero.shards import even_map
from dist_zero_common.protocol.messages.epochs import SnapshotWanted
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.stored import Base, LogRecord, RecordedTransaction
from services.node_runner.handing_out import HandingOut
from services.node_runner.sequencer_events import HandOutEpoch, SequencerOptions
from test.unit.test_sequencer import GENERATION, PLAN, payload

DEFAULTS = SequencerOptions()
BASE = Base(0, GENERATION, 0, even_map(1, ("n1", "n2")), b"graph")
EMPTY = LogRecord(
    epoch=0,
    time_us=0,
    generation=GENERATION,
    incarnation=7,
    map_version=1,
    save=False,
    expired=(),
    opens=(),
    transactions=(),
    snapshots=(),
    subscriptions=(),
    unsubscriptions=(),
)


def recorded(epoch: int) -> LogRecord:
    """A record that puts one row."""
    return replace(EMPTY, epoch=epoch, transactions=(RecordedTransaction(1, epoch, payload((epoch, 0))),))


def handing_out(count: int, forgotten: int = 0, options: SequencerOptions = DEFAULTS) -> HandingOut:
    """With so many records that wait."""
    out = HandingOut(PLAN, BASE, options, (), forgotten)
    for epoch in range(1, count + 1):
        out.add(recorded(epoch), [None], again=False, fill=range(0))
    return out


def epochs(given: HandOutEpoch) -> int:
    return given.record.epoch


def rows(given: HandOutEpoch) -> list[tuple[object, ...]]:
    """What all nodes together are to write."""
    return [row for writes in given.writes for each in writes for row in each.batch.rows()]


def test_the_window_bounds_what_goes_out() -> None:
    """Proves that as many epochs are unfinished as the options say, and that more go out when some are finished."""
    out = handing_out(5, options=SequencerOptions(window_epochs=2))
    assert list(map(epochs, out.next(0, 0, 0, 0))) == [1, 2]
    assert list(out.next(0, 0, 0, 0)) == []
    assert list(map(epochs, out.next(1, 0, 0, 0))) == [3]
    assert out.newest == 3


def test_nothing_goes_out_behind_the_end() -> None:
    """Proves that the epoch at which a generation ends is the last one."""
    out = handing_out(5)
    assert list(map(epochs, out.next(0, 0, 3, 0))) == [1, 2, 3]
    assert list(map(epochs, out.next(0, 0, 0, 0))) == [4, 5]


def test_who_begins_gets_all_that_is_behind() -> None:
    """Proves that a node that begins is given every epoch behind its base, for it alone; those that all have finished
    as what readers may have heard of."""
    out = handing_out(5)
    list(out.next(0, 0, 0, 0))
    behind = list(out.behind(2, 1, 4, 2))
    assert [(epochs(each), each.targets, each.again, each.base) for each in behind] == [
        (3, (1,), True, 2),
        (4, (1,), True, 2),
        (5, (1,), False, 2),
    ]


def test_what_a_base_has_passed_is_forgotten() -> None:
    """Proves that up to the base nothing is kept, behind it everything, and that the bound on bytes follows that."""
    size = len(payload((1, 0)))
    out = handing_out(5, options=SequencerOptions(behind_bytes=2 * size))
    assert list(map(epochs, out.next(0, 0, 0, 0))) == [1, 2, 3]
    assert out.ahead_bytes == 2 * size
    out.forget(2)
    assert [out.again(epoch, 0, 3, 2) is not None for epoch in (1, 2, 3)] == [False, False, True]
    assert list(map(epochs, out.next(3, 2, 0, 0))) == [4, 5]


def test_void_transactions_say_nothing() -> None:
    """Proves that a transaction that a later record voids writes nothing, and the others what they did."""
    out = handing_out(2)
    void = replace(recorded(3), voids=(TransactionPlace(1, 0),))
    out.add(void, [None], again=False, fill=range(0))
    given = list(out.next(0, 0, 0, 0))
    assert [rows(each) for each in given] == [[], [(2, 0)], [(3, 0)]]
    assert [each.forgets for each in given] == [False, False, True]


def test_readers_of_before_are_told_nothing() -> None:
    """Proves that requests of records before readers were forgotten go to nobody."""
    out = handing_out(0, forgotten=2)
    for epoch in (1, 2):
        asked = replace(recorded(epoch), snapshots=(SnapshotWanted(1, (0,), "inbox"),))
        out.add(asked, [None], again=True, fill=range(0))
    given = list(out.next(0, 0, 0, 1))
    assert [len(each.record.snapshots) for each in given] == [0, 1]
    assert [each.again for each in given] == [True, False]  # behind epoch 1, nothing had gone out
