"""Where a generation begins when transactions are void, and what can be voided at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.cli.voiding import place_of
from dist_zero.voids import void_transactions
from dist_zero_common.errors import DataError
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.epochs import SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.messages.reading import Subscribe
from dist_zero_common.protocol.messages.writing import Committed, Transaction
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    LogRecord,
)
from dist_zero_common.sim.faults import StoreFaults
from dist_zero_common.store.layout import damaged_name, record_name, voided_name
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import (
    Answer,
    Append,
    BaseThere,
    FromClient,
    HandOutEpoch,
    LoadAgain,
    Now,
    RecordThere,
    SequencerOptions,
    WriteBase,
)
from services.node_runner.voiding import beginning, beginning_before, holds_void, why_not_void
from services.scheduler.deciding import decide
from services.scheduler.voiding import want_void, without_void
from test.unit.scheduler_world import World
from test.unit.test_epoch_log import BASE, loaded, opening, record, stored, with_base, with_log
from test.unit.test_sequencer import PLAN, payload, ready

P = TransactionPlace


def voiding(epoch: int, generation: int, begins: BaseId, *places: TransactionPlace) -> LogRecord:
    """A record that opens a generation and voids these."""
    return replace(opening(epoch, generation, begins), voids=places)


def test_void_transactions_are_those_that_records_name() -> None:
    """Of all records, however often each is named."""
    log = [record(1), voiding(9, 5, BaseId(0, 0), P(3, 1)), voiding(12, 7, BaseId(0, 0), P(3, 1), P(4, 0))]
    assert void_transactions(log) == {(3, 1), (4, 0)}


def test_a_base_from_before_the_void_holds_it_and_later_ones_do_not() -> None:
    """By generation and epoch."""
    void = [voiding(9, 5, BaseId(1, 2), P(4, 0))]
    assert not holds_void(BaseId(1, 3), void)
    assert holds_void(BaseId(1, 4), void) and holds_void(BaseId(4, 8), void)
    assert not holds_void(BaseId(5, 3), void) and not holds_void(BaseId(5, 11), void)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=8), st.integers(1, 9))
def test_a_generation_that_voids_begins_before_the_transaction(
    places: list[tuple[int, int]], epoch: int
) -> None:
    """At one of the two newest bases; and afterwards, with the record in the log, it begins there again, or at a newer
    base that does not hold it, and whoever comes later never begins at one that does."""
    bases = [BaseId(*place) for place in sorted(frozenset(places))]
    begins = beginning_before(bases, 4, [], (P(epoch, 0),))
    assert bool(why_not_void(P(epoch, 0), bases, 4, [])) == (begins is None)
    if begins is None:
        assert all(base.epoch >= epoch for base in bases[-2:])
        return
    assert begins in bases[-2:] and begins.epoch < epoch
    void = [voiding(20, 4, begins, P(epoch, 0))]
    again = beginning(bases, 4, void)
    assert again is not None and again.epoch < epoch and bases.index(again) >= bases.index(begins)
    later = beginning([*bases, BaseId(4, begins.epoch)], 9, void)
    assert later == BaseId(4, begins.epoch)


def test_a_log_is_loaded_from_the_base_before_what_is_to_be_void() -> None:
    """The older of two bases, with all that is behind it; the newest one, where the transaction is behind that; and it
    is refused where both hold it."""
    objects = with_base(with_base(stored(1, 2, 3, 4, 5), 1, 3), 3, 3)

    def load(*places: TransactionPlace) -> tuple[BaseId, int, tuple[TransactionPlace, ...], bool]:
        found = with_log(lambda log: log.load(5, BASE.shard_map, places), objects)
        return found.origin, len(found.records), found.voids, bool(found.refused)

    assert load(P(4, 0)) == (BaseId(3, 3), 2, (P(4, 0),), False)
    assert load(P(3, 0)) == (BaseId(3, 1), 4, (P(3, 0),), False)
    assert load(P(1, 0)) == (BaseId(3, 3), 2, (), True)
    assert load(P(4, 0), P(1, 0)) == (BaseId(3, 3), 2, (P(4, 0),), True)
    assert load(P(6, 0)) == (BaseId(3, 3), 2, (), False), "what is still to come is none of it"


def test_what_is_void_already_is_not_voided_again_and_its_base_not_left() -> None:
    """The opening record is there, the base of the generation is not, and a zombie has written one that holds it."""
    objects = with_base(with_base(stored(1, 2, 3, 4), 1, 3), 3, 3)
    objects.create(record_name("p", 5), encode(voiding(5, 5, BaseId(3, 1), P(2, 0))))
    with_base(objects, 4, 3)
    found = with_log(lambda log: log.load(5, BASE.shard_map, (P(2, 0),)), objects)
    assert (found.origin, found.voids, found.opened, found.refused) == (BaseId(3, 1), (), True, "")
    assert loaded(objects, 9).origin == BaseId(3, 1)
    objects.create(damaged_name("p", 1, 3), b"damaged")
    objects.create(damaged_name("p", 0, 0), b"damaged")
    with pytest.raises(Exception, match="from before the transactions that are void is damaged"):
        loaded(objects, 9)


def test_notes_of_what_is_void_are_there_after_a_store_that_fails() -> None:
    """However often it fails."""
    objects = stored(1)
    void = voiding(2, 5, BaseId(0, 0), P(1, 0), P(1, 3))
    with_log(lambda log: log.note_voids((void,)), objects, StoreFaults(fails_absent=0.7))
    assert objects.list("programs/p/voided/") == [voided_name("p", P(1, 0)), voided_name("p", P(1, 3))]


def seconds(world: World, count: int) -> None:
    """Time goes by, and all messages arrive."""
    for _ in range(count):
        world.quiet_second()


def test_a_wish_to_void_begins_a_new_generation_once() -> None:
    """All parts begin again on their runners; the generation that there was is told nothing of it, the new one is."""
    world = World(3)
    world.submit("p", 2)
    seconds(world, 60)
    before = world.desired.programs["p"]
    assert want_void(world.desired, "other", P(3, 0)) is world.desired
    assert before.assignment is not None
    world.desired = want_void(world.desired, "p", P(3, 0))
    assert want_void(world.desired, "p", P(3, 0)) is world.desired
    wanted = world.desired.programs["p"]
    assert wanted.voids_of(before.assignment.placement.generation) == ()
    seconds(world, 30)
    after = world.desired.programs["p"].assignment
    assert after is not None and after.placement.generation > before.assignment.placement.generation
    assert world.desired.programs["p"].voids_of(after.placement.generation) == (P(3, 0),)
    seconds(world, 30)
    assert world.desired.programs["p"].assignment == after
    assert without_void(world.desired, "p", P(3, 0)).programs["p"].voids == ()
    assert decide(world.desired, world.observed, world.now) is world.desired


@pytest.mark.parametrize("text", ["", "7", "7/", "/0", "0/0", "7/-1", "a/b", "7/0/1", "7/0 "])
def test_what_is_no_transaction_is_refused(text: str) -> None:
    """With what it looks like."""
    with pytest.raises(DataError, match="812/0"):
        place_of(text)


def test_a_transaction_is_its_epoch_and_its_place() -> None:
    """As it is shown."""
    assert place_of("812/3") == P(812, 3) and str(P(812, 3)) == "812/3"


def a_log_with_a_transaction() -> tuple[list[LogRecord], Base]:
    """Of an earlier generation: a session, a transaction with two rows, a subscription; and its base, which has one."""
    driver = ready()
    opened = driver.open()
    driver.client(Transaction(opened.session, 1, payload((1, 1), (2, 2)), "me"))
    driver.write()
    driver.client(Subscribe(8, ("all",), 0, "reader"))
    driver.write()
    known = replace(driver.base, subscriptions=(SubscriptionWanted(5, 1, (0,), 0, "reader"),))
    return driver.records, known


def next_sequencer(records: list[LogRecord], base: Base, *, opened: bool = False) -> Sequencer:
    """Of the next generation, which is to void the transaction."""
    place = next(P(each.epoch, 0) for each in records if each.transactions)
    return Sequencer(
        plan=PLAN,
        incarnation=9,
        base=replace(base, generation=8),
        origin=BaseId(3, 0),
        opened=opened,
        based=False,
        records=list(records),
        options=SequencerOptions(),
        voids=() if opened else (place,),
    )


def test_a_sequencer_voids_behind_a_fence_of_its_own_and_forgets_readers() -> None:
    """It writes a fence and looks again at what there is; then the record that voids. What it hands out has the
    transaction without its rows, and neither it nor the base says anything of readers from before. So does one that
    finds the record there. The number stays committed."""
    records, base = a_log_with_a_transaction()
    now, zero = Now(2_000_000, 200.0), BaseId(3, 0)
    first = next_sequencer(records, base)
    [fence] = first.start(now)
    assert isinstance(fence, Append) and not fence.record.voids and fence.record.begins is None
    assert [*map(type, first.handle(RecordThere(fence.record, (zero,)), now))] == [LoadAgain]
    second = next_sequencer([*records, fence.record], base)
    [opening_record] = second.start(now)
    assert isinstance(opening_record, Append) and opening_record.record.begins == zero
    effects = second.handle(RecordThere(opening_record.record, (zero,)), now)
    later = next_sequencer([*records, fence.record, opening_record.record], base, opened=True)
    [its_fence] = later.start(now)
    assert isinstance(its_fence, Append) and not its_fence.record.voids
    for sequencer, so_far in ((second, effects), (later, [])):
        if sequencer is later:
            so_far = later.handle(RecordThere(its_fence.record, (zero,)), now)
        [written] = [each.base for each in so_far if isinstance(each, WriteBase)]
        assert written.subscriptions == () and written.generation == 8
        handed = [each for each in sequencer.handle(BaseThere(0), now) if isinstance(each, HandOutEpoch)]
        assert [each.record.epoch for each in handed if each.forgets] == [opening_record.record.epoch]
        assert not any(writes for each in handed for writes in each.writes)
        assert not any(each.record.subscriptions for each in handed)
        again = Transaction(records[1].epoch << 20, 1, payload((1, 1), (2, 2)), "me")
        [answer] = [e for e in sequencer.handle(FromClient(again, 1), now) if isinstance(e, Answer)]
        assert (
            isinstance(answer.message, Committed)
            and answer.message.epoch == opening_record.record.voids[0].epoch
        )


def test_a_sequencer_that_voids_does_not_take_what_came_since() -> None:
    """An older one has written a record behind what was read: everything is read again, since the base may be another
    one."""
    records, base = a_log_with_a_transaction()
    now = Now(2_000_000, 200.0)
    first = next_sequencer(records, base)
    [fence] = first.start(now)
    assert isinstance(fence, Append)
    others = replace(fence.record, incarnation=8)
    assert [*map(type, first.handle(RecordThere(others, (BaseId(3, 0),)), now))] == [LoadAgain]
