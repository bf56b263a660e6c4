"""A client's session against a sequencer that is only a list: numbers, answers, silence, patience."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dist_zero.client.session import (
    RESEND_AFTER_SECONDS,
    WINDOW_BYTES,
    WINDOW_TRANSACTIONS,
    Outcome,
    Session,
)
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.messages.pieces import Payload
from dist_zero_common.protocol.messages.writing import (
    Committed,
    ResendFrom,
    SessionOpened,
    SessionUnknown,
    Transaction,
    TransactionRefused,
    Wait,
)


def opened(committed: int = 0) -> Session:
    session = Session("loader-7", "replies")
    session.on_opened(SessionOpened(1, session=77, committed=committed, epoch=3))
    return session


def test_numbers_follow_what_earlier_sessions_committed() -> None:
    """A second session of a client goes on with the number behind the last committed one."""
    session = opened(committed=41)
    assert session.submit(b"x", 0.0) == (42, [Transaction(77, 42, b"x", "replies")])
    assert session.submit(b"y", 0.0)[0] == 43
    assert (session.resumed_after, session.last_committed) == (41, 41)


def test_a_second_opening_changes_nothing() -> None:
    """`SessionOpened` may come twice, and late; the session keeps its numbers."""
    session = opened()
    session.submit(b"x", 0.0)
    session.on_opened(SessionOpened(1, session=99, committed=5, epoch=9))
    assert session.id == 77
    assert session.submit(b"y", 0.0)[0] == 2


def test_commits_are_told_once() -> None:
    """A commit that comes twice is one outcome, and others' commits are none."""
    session = opened()
    session.submit(b"x", 0.0)
    assert session.on_committed(Committed(76, 1, 4)) == []
    assert session.on_committed(Committed(77, 1, 4)) == [Outcome(1, epoch=4)]
    assert session.on_committed(Committed(77, 1, 4)) == []
    assert session.unanswered == 0


def test_silence_resends_the_oldest_alone_with_growing_patience() -> None:
    """Only the transaction that all others wait for is sent again, less and less often."""
    session = opened()
    for payload in (b"a", b"b", b"c"):
        session.submit(payload, 0.0)
    assert session.on_time(RESEND_AFTER_SECONDS - 0.1) == []
    assert [m.number for m in session.on_time(RESEND_AFTER_SECONDS)] == [1]
    assert session.next_due() == 3 * RESEND_AFTER_SECONDS
    session.on_committed(Committed(77, 1, 4))
    assert [m.number for m in session.on_time(9.0)] == [2]


def test_resend_from_sends_all_that_follows_but_not_its_echo() -> None:
    """What is missing and what is behind it is sent again, once per request and its echoes."""
    session = opened()
    for payload in (b"a", b"b", b"c"):
        session.submit(payload, 0.0)
    assert [m.number for m in session.on_resend_from(ResendFrom(77, 2), 1.0)] == [2, 3]
    assert session.on_resend_from(ResendFrom(77, 2), 1.01) == []
    assert [m.number for m in session.on_resend_from(ResendFrom(77, 2), 2.0)] == [2, 3]


def test_wait_holds_everything_back_and_then_sends_all() -> None:
    """While the system asks for patience nothing is sent, new transactions neither."""
    session = opened()
    session.submit(b"a", 0.0)
    session.on_wait(Wait(77, 1, retry_after_ms=500), 1.0)
    assert session.submit(b"b", 1.1) == (2, [])
    assert session.next_due() == 1.5
    assert session.on_time(1.4) == []
    assert [m.number for m in session.on_time(1.5)] == [1, 2]


def test_a_refused_number_is_filled_with_nothing() -> None:
    """Its caller hears the reason at once; an empty transaction keeps later numbers from waiting for ever."""
    session = opened()
    session.submit(b"bad", 0.0)
    session.submit(b"good", 0.0)
    outcomes, messages = session.on_refused(TransactionRefused(77, 1, "no"), 1.0)
    assert outcomes == [Outcome(1, refused="no")]
    assert [(m.number, decode(Payload, m.payload)) for m in messages] == [(1, Payload(()))]
    assert session.on_refused(TransactionRefused(77, 1, "no"), 1.1) == ([], [])
    assert session.on_committed(Committed(77, 1, 5)) == []
    assert session.on_committed(Committed(77, 2, 5)) == [Outcome(2, epoch=5)]


def test_an_unknown_session_loses_what_is_unanswered() -> None:
    """All that was in flight has an unknown fate, told once; nothing is sent any more."""
    session = opened()
    session.submit(b"a", 0.0)
    session.submit(b"b", 0.0)
    session.on_committed(Committed(77, 1, 4))
    assert session.on_unknown(SessionUnknown(76, "other")) == []
    assert session.on_unknown(SessionUnknown(77, "idle")) == [Outcome(2, lost="idle")]
    assert session.on_unknown(SessionUnknown(77, "idle")) == []
    assert session.next_due() is None
    assert session.last_committed == 1


def test_the_window_bounds_what_is_unanswered() -> None:
    """Bytes and number of unanswered transactions are bounded; one that is larger than the window goes
    alone."""
    session = opened()
    assert session.has_room(2 * WINDOW_BYTES)
    session.submit(b"x" * 100, 0.0)
    assert session.has_room(WINDOW_BYTES - 100)
    assert not session.has_room(WINDOW_BYTES - 99)
    for _ in range(WINDOW_TRANSACTIONS - 1):
        session.submit(b"", 0.0)
    assert not session.has_room(0)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_everything_is_committed_once_in_order_whatever_is_lost(seed: int, count: int) -> None:
    """Law: over a network that loses, doubles and reorders, a sequencer that takes numbers in order gets
    every payload once, in order, and every transaction has one outcome."""
    rng = random.Random(seed)
    session, log, outcomes, now = opened(), list[bytes](), list[Outcome](), 0.0
    flying: list[Transaction] = []
    answers: list[Committed | ResendFrom | Wait] = []
    for number in range(1, count + 1):
        flying += session.submit(b"%d" % number, now)[1]
    while session.unanswered:
        now += rng.choice((0.01, 0.3, 3.0))
        flying += session.on_time(now)
        rng.shuffle(flying)
        for message in flying[: rng.randrange(len(flying) + 1)]:
            if rng.random() < 0.7:
                flying.remove(message)
            if rng.random() < 0.3:
                continue
            if rng.random() < 0.1:
                answers.append(Wait(77, message.number, 100))
            elif message.number <= len(log):
                answers.append(Committed(77, message.number, message.number))
            elif message.number == len(log) + 1:
                log.append(message.payload)
                answers.append(Committed(77, message.number, message.number))
            else:
                answers.append(ResendFrom(77, len(log) + 1))
        for answer in answers:
            if rng.random() < 0.3:
                continue
            if isinstance(answer, Committed):
                outcomes += session.on_committed(answer)
            elif isinstance(answer, ResendFrom):
                flying += session.on_resend_from(answer, now)
            else:
                session.on_wait(answer, now)
        answers.clear()
    assert log == [b"%d" % number for number in range(1, count + 1)]
    assert sorted(o.number for o in outcomes) == list(range(1, count + 1))


def test_a_new_connection_sends_all_that_is_unanswered_again() -> None:
    """In order, with the new queue of replies; what is committed is not, and patience that was asked for is kept."""
    session = opened()
    for payload in (b"a", b"b", b"c"):
        session.submit(payload, 0.0)
    session.on_committed(Committed(77, 1, 4))
    again = [Transaction(77, 2, b"b", "replies-2"), Transaction(77, 3, b"c", "replies-2")]
    assert session.on_connected("replies-2", 1.0) == again
    assert session.on_time(1.0 + RESEND_AFTER_SECONDS) == again[:1]
    session.on_wait(Wait(77, 2, 500), 4.0)
    assert session.on_connected("replies-3", 4.1) == []
    assert [message.reply_to for message in session.on_time(4.6)] == ["replies-3", "replies-3"]
    assert opened().on_connected("replies-2", 1.0) == []
