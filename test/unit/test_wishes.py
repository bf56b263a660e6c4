"""Wishes: over any order of requests, repetitions and copies, what was said first counts, and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.wishes import Wishes

_REQUESTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=30)


@given(_REQUESTS)
def test_what_is_new_counts_once(requests: list[tuple[str, int, bool]]) -> None:
    """No copy, and nothing of whoever waits for what he has wished for already."""
    wishes, heard = Wishes(), set()
    for who, number, again in requests:
        is_new = wishes.is_new((who, number), again)
        assert is_new == ((who, number) not in heard and not again)
        heard |= {(who, number)} if is_new else set()


def test_what_is_remembered_is_bounded() -> None:
    """Of very many requests the newest are known."""
    wishes = Wishes(remembered=3)
    for number in range(10):
        assert wishes.is_new(("a", number), again=False)
    assert not wishes.is_new(("a", 9), again=False)
    assert wishes.is_new(("a", 0), again=False)
