"""Attempts at an epoch: who counts, what counts, and that nobody else pays for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from dist_zero_common.log import get_logger
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.pieces import TransactionPlace
from dist_zero_common.protocol.stored import (
    BaseId,
    LogRecord,
    RecordedTransaction,
)
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import attempts_prefix, record_name
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.attempts import NO_TRIAL, Attempts, Mark, Trial, judged
from test.unit.test_epoch_log import record

Result = TypeVar("Result")


def log_with(*written: int, empty: tuple[int, ...] = ()) -> MemoryObjects:
    """A store with records: some with a transaction, some without."""
    objects = MemoryObjects()
    for epoch in (*written, *empty):
        transactions = (RecordedTransaction(1, epoch, b"x"),) if epoch in written else ()
        put(objects, replace(record(epoch), transactions=transactions))
    return objects


def put(objects: MemoryObjects, each: LogRecord) -> None:
    objects.create(record_name("p", each.epoch), encode(each))


def attempt(
    objects: MemoryObjects, incarnation: int, main: Callable[[Attempts], Awaitable[Result]]
) -> Result:
    """Do something as this incarnation of the node n1."""
    world = SimWorld(1, "calm")

    async def live() -> Result:
        store = MemoryStore(objects, world)
        return await main(Attempts(store, "p", "n1", incarnation, get_logger("test", world.clock)))

    return run_simulation(live(), until_seconds=1_000)


def begun(objects: MemoryObjects, incarnation: int, base: int = 0) -> Trial:
    """What an incarnation is told that begins at this base, and dies before it is through."""
    return attempt(objects, incarnation, lambda attempts: attempts.begin(base))


def marks(objects: MemoryObjects) -> list[str]:
    return objects.list(attempts_prefix("p", "n1"))


@pytest.mark.parametrize(
    ("found", "trial"),
    [
        ([], Trial(9)),
        ([Mark(3, 1)], Trial(9, careful=True)),
        ([Mark(3, 1), Mark(3, 2), Mark(3, 5)], Trial(9, careful=True)),
        ([Mark(3, 1), Mark(5, 2, True)], Trial(9, careful=True)),
        ([Mark(3, 1), Mark(5, 2, True), Mark(5, 4, True)], Trial(9, careful=True, refused=5)),
        (
            [Mark(6, 3, True), Mark(6, 2, True), Mark(5, 6, True), Mark(5, 4, True)],
            Trial(9, careful=True, refused=5),
        ),
        ([Mark(5, 2), Mark(5, 4), Mark(5, 6)], Trial(9, careful=True)),  # a later base, which is damaged now
        ([Mark(2, 1), Mark(2, 2)], Trial(9)),
    ],
)
def test_two_marks_at_one_epoch_are_too_many(found: list[Mark], trial: Trial) -> None:
    """Behind the base; those of the base itself say only that somebody was not through."""
    assert judged(found, base=3, newest=9) == trial


def test_who_begins_where_nothing_is_behind_the_base_leaves_nothing() -> None:
    """Neither where the log ends there, nor where only records without transactions follow."""
    for objects in (log_with(1, 2, 3), log_with(1, 2, 3, empty=(4, 5))):
        assert begun(objects, 7, base=3) == NO_TRIAL
        assert marks(objects) == []


def test_who_is_through_leaves_nothing() -> None:
    """The mark that was left at the beginning is taken away, and so are those of earlier incarnations."""
    objects = log_with(1, 2, empty=(3,))

    async def through(attempts: Attempts) -> Trial:
        trial = await attempts.begin(0)
        await attempts.clear()
        return trial

    assert begun(objects, 7) == Trial(3) and len(marks(objects)) == 1
    assert attempt(objects, 8, through) == Trial(3, careful=True)
    assert marks(objects) == []
    assert attempt(objects, 9, through) == Trial(3)


def test_an_epoch_that_kills_is_refused_at_the_fourth_beginning() -> None:
    """The first one knows nothing, the next two mark each step and die in the same epoch."""
    objects = log_with(1, 2, 3, 4)

    async def dies_at_3(attempts: Attempts) -> Trial:
        trial = await attempts.begin(0)
        for epoch in (1, 2, 3) if trial.careful else ():
            await attempts.mark(epoch)
            if epoch != 3:
                await attempts.unmark(epoch)
        return trial

    assert attempt(objects, 5, dies_at_3) == Trial(4)
    assert attempt(objects, 6, dies_at_3) == Trial(4, careful=True)
    assert attempt(objects, 7, dies_at_3) == Trial(4, careful=True)
    assert begun(objects, 8) == Trial(4, careful=True, refused=3)
    # a base has passed it, whoever did that
    assert begun(objects, 9, base=3).refused == 0


def test_marks_from_before_a_void_do_not_count() -> None:
    """There will not be the same computation again; those that were left since count."""
    objects = log_with(1, 2)
    for incarnation in (5, 6, 7):
        attempt(objects, incarnation, lambda attempts: attempts.mark(2))
    assert begun(objects, 8).refused == 2
    opened = replace(record(3), generation=20, begins=BaseId(0, 0), voids=(TransactionPlace(2, 0),))
    put(objects, opened)
    assert begun(objects, 21) == Trial(3)
    assert begun(objects, 22) == Trial(3, careful=True)
