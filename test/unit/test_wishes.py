"""Wishes: over any order of requests, repetitions and copies, the last new one counts, and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.wishes import Wishes

_REQUESTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=30)


@given(_REQUESTS)
def test_the_last_new_wish_counts(requests: list[tuple[str, int, bool]]) -> None:
    """What is granted is what was said for the first time: not again where any wish is known, and no copy."""
    wishes, granted, heard = Wishes(), 0, set()
    for who, number, again in requests:
        is_new = wishes.is_new("app", (who, number), again)
        expected = (who, number) not in heard and not (again and granted > 0)
        assert is_new == expected
        heard |= {(who, number)} if is_new else set()
        granted += is_new
    assert granted >= bool(requests)


def test_wishes_are_about_one_thing_each() -> None:
    """Another program is another matter, and one that was removed and comes back is a new one."""
    wishes = Wishes()
    assert wishes.is_new("app", ("a", 1), again=False)
    assert wishes.is_new("other", ("b", 1), again=True)
    assert not wishes.is_new("app", ("b", 2), again=True)
    wishes.forget("app")
    assert wishes.is_new("app", ("b", 2), again=True)


def test_what_is_remembered_is_bounded() -> None:
    """Of very many requests the newest are known."""
    wishes = Wishes(remembered=3)
    for number in range(10):
        assert wishes.is_new("app", ("a", number), again=False)
    assert not wishes.is_new("app", ("a", 9), again=False)
    assert wishes.is_new("app", ("a", 0), again=False)
