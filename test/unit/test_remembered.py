"""A function that remembers what it made of the newest few objects."""

from __future__ import annotations

import pytest

from dist_zero_common.remembered import remembered


class _Thing:
    """Equal to all others of its kind."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Thing)

    def __hash__(self) -> int:
        return 1


def test_what_was_computed_for_an_object_is_not_computed_again() -> None:
    asked: list[int] = []

    @remembered
    def count(thing: _Thing) -> int:
        asked.append(id(thing))
        return len(asked)

    one, other = _Thing(), _Thing()
    assert (count(one), count(one), count(other), count(one)) == (1, 1, 2, 1)
    assert asked == [id(one), id(other)]


def test_an_object_in_the_place_of_one_that_is_gone_is_another_one() -> None:
    """Identities are used again: as long as a result is kept, so is what it is of."""
    made: set[int] = set()

    @remembered
    def place(thing: list[int]) -> int:
        made.add(thing[0])
        return thing[0]

    assert [place([number]) for number in range(1_000)] == list(range(1_000))
    assert len(made) == 1_000


def test_an_error_is_raised_each_time() -> None:
    calls: list[str] = []

    @remembered
    def fail(text: str) -> int:
        calls.append(text)
        raise ValueError(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            fail("no")
    assert calls == ["no", "no"]
