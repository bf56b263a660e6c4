"""A sequencer that is asked to come to its end: it saves once more and hands out nothing behind that, says so in the
log, and goes on if nobody comes."""

from __future__ import annotations

from dataclasses import replace

from dist_zero_common.protocol.messages.writing import Committed, Transaction
from dist_zero_common.protocol.stored import LogRecord
from services.node_runner.saving import CHAIN_MAX, EVERYTHING_BYTES_MIN
from services.node_runner.sequencer_events import EndWanted, Look, ShardBegun, ShardFinished, ShardSaved
from test.unit.test_sequencer import Driver, payload, ready, there


def wrote(driver: Driver, session: int, number: int) -> LogRecord:
    """A transaction that is recorded."""
    driver.client(Transaction(session, number, payload((number, number)), "me"))
    return driver.write()


def ended(driver: Driver) -> tuple[int, int]:
    """Bring a sequencer to its end; returns a session, and the last epoch that is handed out."""
    session = driver.open().session
    wrote(driver, session, 1)
    driver.event(EndWanted())
    return session, driver.write().epoch


def saved(driver: Driver, epoch: int) -> None:
    """All nodes have finished and saved this epoch."""
    for shard in range(driver.nodes):
        driver.event(ShardFinished(shard, epoch))
        driver.event(ShardSaved(shard, epoch, 1, 1))


def test_the_last_epoch_is_a_save_and_commits_go_on() -> None:
    """One record is flagged `save`, empty if nothing waits; what is recorded behind it is answered, not handed out."""
    driver = ready()
    session, last = ended(driver)
    assert driver.records[-1].save and driver.records[-1].ends == last == driver.sequencer.ends
    assert wrote(driver, session, 2).ends == last
    assert driver.answers(Committed)[-1] == Committed(session, 2, last + 1)
    assert [each.record.epoch for each in driver.handed_out()][-1] == last
    saved(driver, last)
    assert driver.sequencer.base == last
    assert [each.record.epoch for each in driver.handed_out()][-1] == last


def test_asking_again_changes_nothing() -> None:
    """The request is repeated until reports show that it was heard."""
    driver = ready()
    _, last = ended(driver)
    driver.event(EndWanted())
    assert driver.proposed() is None and driver.sequencer.ends == last


def test_it_goes_on_when_a_node_has_begun_where_it_ends() -> None:
    """A node that came in the place of another one of this generation is what was waited for."""
    driver = ready()
    session, last = ended(driver)
    wrote(driver, session, 2)
    saved(driver, last)
    assert driver.proposed() is None
    driver.event(ShardBegun(0, last))
    assert not driver.write().ends
    assert [each.record.epoch for each in driver.handed_out()][-1] == driver.sequencer.epoch


def test_who_waits_for_nobody_goes_on_behind_a_record_that_says_so() -> None:
    """Ten seconds after the base of its last epoch; nothing is handed out before the log says that the end was none."""
    driver = ready()
    session, last = ended(driver)
    wrote(driver, session, 2)
    for seconds in (0.0, 30.0):  # its base is not there yet, however long that takes
        driver.seconds += seconds
        driver.event(Look())
    assert driver.proposed() is None
    saved(driver, last)
    driver.event(Look())
    driver.seconds += 9.0
    driver.event(Look())
    assert driver.proposed() is None
    driver.seconds += 1.0
    driver.event(Look())
    record = driver.proposed()
    assert record is not None and not record.ends
    assert [each.record.epoch for each in driver.handed_out()][-1] == last
    driver.write()
    assert [each.record.epoch for each in driver.handed_out()][-1] == record.epoch
    assert driver.sequencer.ends == 0


def test_an_older_attempt_that_knows_of_no_end_is_none() -> None:
    """What the record that is there says counts: the end comes with the next one."""
    driver = ready()
    session = driver.open().session
    driver.event(EndWanted())
    meant = driver.proposed()
    assert meant is not None and meant.ends == meant.epoch
    driver.event(there(replace(meant, ends=0, save=False)))
    assert driver.sequencer.ends == 0
    assert driver.write().ends == meant.epoch + 1
    assert session


def successor(driver: Driver) -> Driver:
    """Another incarnation that begins at the base with the log behind it."""
    return Driver(nodes=driver.nodes, incarnation=8, opened=True, based=True, records=list(driver.records))


def test_who_comes_next_knows_what_nobody_was_handed() -> None:
    """Behind the end readers have heard of nothing: they are told, as they are not of what is computed again."""
    driver = ready()
    session, last = ended(driver)
    wrote(driver, session, 2)
    following = successor(driver)
    following.write()
    for epoch in range(1, driver.sequencer.epoch + 1):
        following.event(ShardFinished(0, epoch))
    again = {each.record.epoch: each.again for each in following.handed_out()}
    assert all(again[epoch] for epoch in range(1, last + 1))
    assert not again[last + 1]


def test_who_went_on_may_have_handed_out_anything() -> None:
    """If a record behind the end says nothing of one, all may have been handed out."""
    driver = ready()
    session, last = ended(driver)
    wrote(driver, session, 2)
    saved(driver, last)
    driver.event(Look())
    driver.seconds += 10.0
    driver.event(Look())
    driver.write()
    following = successor(driver)
    following.write()
    for epoch in range(1, driver.sequencer.epoch + 1):
        following.event(ShardFinished(0, epoch))
    own = following.records[-1].epoch
    assert all(each.again for each in following.handed_out() if each.record.epoch < own)


def test_the_end_is_no_save_of_everything() -> None:
    """All wait for who reads it. The save behind it holds everything instead; an end behind that again is put off no
    more, for a chain of saves has its bound."""
    driver = ready()
    driver.sequencer._saving._saves = CHAIN_MAX
    _, last = ended(driver)
    end = driver.records[-1]
    assert end.ends == last == end.epoch and end.save and not end.everything
    saving = driver.sequencer._saving
    assert saving.wants_everything(is_end=False) and saving.wants_everything(is_end=True)


def test_much_that_has_changed_is_saved_as_a_whole_before_or_behind_the_end() -> None:
    """The same where it is the size of the changes that calls for everything."""
    driver = ready()
    saving = driver.sequencer._saving
    saving._changed_bytes[0] = 10 * EVERYTHING_BYTES_MIN
    assert saving.wants_everything(is_end=False) and not saving.wants_everything(is_end=True)
