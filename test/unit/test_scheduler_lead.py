"""When a scheduler that stands by tries to lead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common.broker.base import QueueDepth
from dist_zero_common.protocol.messages.control import Leads
from services.scheduler.lead import (
    UNREAD_LOOKS,
    LeadOptions,
    Watch,
    connected_anew,
    shall_try,
    with_claim,
    with_look,
    with_word,
)

OPTIONS = LeadOptions("s1")
READ, UNREAD = QueueDepth(3, 1), QueueDepth(0, 0)
LONGEST = 1.2 * OPTIONS.lease_seconds


def test_nobody_has_ever_led() -> None:
    """Then there is nothing to wait for."""
    assert shall_try(Watch(0, 5.0), OPTIONS, 5.0)


@given(st.floats(0, 1e6), st.lists(st.floats(0.1, 9.9), max_size=20))
def test_a_leading_scheduler_that_is_heard_of_is_left_alone(start: float, pauses: list[float]) -> None:
    """As long as words come within the lease; and when they do not, it is tried soon after it."""
    watch, now = Watch(7, start), start
    for pause in pauses:
        now += pause
        watch = with_look(watch, READ)
        assert not shall_try(watch, OPTIONS, now)
        watch = with_word(watch, Leads(7), now)
    assert not shall_try(watch, OPTIONS, now + 0.999 * OPTIONS.lease_seconds)
    assert shall_try(watch, OPTIONS, now + LONGEST)


def test_a_deposed_scheduler_that_still_speaks_is_not_heard() -> None:
    """Only one of the newest claim known, or of a later one, leads."""
    watch = with_word(Watch(7, 0.0), Leads(6), 11.0)
    assert shall_try(watch, OPTIONS, LONGEST)
    watch = with_word(Watch(7, 0.0), Leads(8), 11.0)
    assert not shall_try(watch, OPTIONS, LONGEST) and watch.claim == 8
    assert with_word(watch, Leads(7), 12.0) == watch


def test_an_inbox_that_nobody_reads_is_looked_at_twice() -> None:
    """In a row: somebody may just be connecting anew."""
    watch = Watch(7, 0.0)
    for depth in (UNREAD, READ, None):
        assert not shall_try(watch, OPTIONS, 1.0)
        watch = with_look(watch, depth)
    assert watch.unread == UNREAD_LOOKS - 1
    assert shall_try(with_look(watch, UNREAD), OPTIONS, 1.0)
    assert not shall_try(with_look(with_word(watch, Leads(7), 1.0), UNREAD), OPTIONS, 1.0)


def test_a_later_claim_begins_a_lease() -> None:
    """Whoever has just claimed the lead is given time to say so; an older claim says nothing new."""
    watch = with_look(with_look(Watch(7, 0.0), UNREAD), UNREAD)
    later = with_claim(watch, 9, 20.0)
    assert shall_try(watch, OPTIONS, 20.0) and not shall_try(later, OPTIONS, 29.9)
    assert shall_try(later, OPTIONS, 20.0 + LONGEST)
    assert with_claim(later, 9, 25.0) == later == with_claim(later, 3, 25.0)


def test_who_was_cut_off_has_heard_nobody() -> None:
    """Silence counts from when the broker was reached again."""
    watch = connected_anew(with_look(Watch(7, 0.0), UNREAD), 100.0)
    assert not shall_try(watch, OPTIONS, 109.0) and watch.unread == 0
    assert shall_try(watch, OPTIONS, 100.0 + LONGEST)


def test_schedulers_try_one_after_the_other() -> None:
    """Not all at once, and in the same order each time it is tried."""
    tried = {
        name: next(
            tenth
            for tenth in range(200)
            if shall_try(Watch(7, 0.0), LeadOptions(name), OPTIONS.lease_seconds + tenth / 10)
        )
        for name in (f"s{number}" for number in range(20))
    }
    assert len(set(tried.values())) > 10 and max(tried.values()) <= 20
