"""The log of epochs over a store that answers wrongly, loses objects or has damaged ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from dist_zero.shards import even_map, rescaled
from dist_zero_common.errors import BaseDamaged, LogDamaged, StoreError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.pieces import ShardMap, TransactionPlace
from dist_zero_common.protocol.stored import (
    Base,
    BaseId,
    LogRecord,
)
from dist_zero_common.sim.faults import StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import (
    all_attempts_prefix,
    attempt_name,
    base_name,
    damaged_name,
    record_name,
)
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.epoch_log import EpochLog, Loaded

Result = TypeVar("Result")
BASE = Base(0, 0, 5, even_map(1, ["n1"]), b"graph")


def record(epoch: int, incarnation: int = 1) -> LogRecord:
    return LogRecord(epoch, 10 * epoch, 0, incarnation, 1, False, (), (), (), (), (), ())


ZERO = [BaseId(0, 0)]


def stored(*epochs: int) -> MemoryObjects:
    """A store with base 0 of the program `p` and the records of these epochs."""
    objects = MemoryObjects()
    objects.create(base_name("p", 0), encode(BASE))
    for epoch in epochs:
        objects.create(record_name("p", epoch), encode(record(epoch)))
    return objects


def with_log(
    main: Callable[[EpochLog], Awaitable[Result]], objects: MemoryObjects, faults: StoreFaults | None = None
) -> Result:
    """Run `main` on a log over these objects."""
    world = SimWorld(4, Weather("test", store=faults or StoreFaults()))

    async def live() -> Result:
        return await main(EpochLog(MemoryStore(objects, world), "p", get_logger("test", world.clock)))

    return run_simulation(live(), until_seconds=10_000)


def loaded(objects: MemoryObjects, generation: int = 5) -> Loaded:
    """What the sequencer of this generation begins with."""
    return with_log(lambda log: log.load(generation, BASE.shard_map), objects)


def with_base(objects: MemoryObjects, epoch: int, generation: int) -> MemoryObjects:
    """The store with one more base."""
    base = replace(BASE, epoch=epoch, generation=generation)
    objects.create(base_name("p", epoch, generation), encode(base))
    return objects


def opening(epoch: int, generation: int, begins: BaseId) -> LogRecord:
    """A record that opens a generation."""
    return replace(record(epoch), generation=generation, begins=begins)


def test_a_log_is_loaded_from_the_newest_base_of_its_generation() -> None:
    """The newest base and every record behind it, in order; records before the base are not looked at."""
    objects = with_base(with_base(stored(2, 3, 4), 1, 5), 2, 5)
    base = replace(BASE, epoch=2, generation=5)
    assert loaded(objects) == Loaded(base, BaseId(5, 2), [record(3), record(4)], opened=True, based=True)


def test_a_generation_begins_at_the_newest_base_of_an_earlier_one() -> None:
    """A copy of it under the generation's own number, with the records behind it, not opened yet; the epoch decides
    only among bases of one generation."""
    assert loaded(stored()) == Loaded(
        replace(BASE, generation=5), BaseId(0, 0), [], opened=False, based=False
    )
    objects = with_base(with_base(stored(2, 3), 1, 4), 3, 2)
    found = loaded(objects)
    assert (found.origin, found.base) == (BaseId(4, 1), replace(BASE, epoch=1, generation=5))
    assert found.records == [record(2), record(3)] and not found.opened and not found.later


def test_an_opening_counts_if_it_names_the_newest_base() -> None:
    """A record opens the generation at the base that it names. Once there is a newer base of an earlier generation, and
    none of this one, it has to be opened again; with one of its own, what others write does not matter any more."""
    objects = stored(1)
    objects.create(record_name("p", 2), encode(opening(2, 5, BaseId(0, 0))))
    assert loaded(objects).opened and not loaded(objects).based
    with_base(objects, 1, 3)
    assert not loaded(objects).opened and loaded(objects).origin == BaseId(3, 1)
    with_base(objects, 0, 5)
    assert loaded(objects).opened and loaded(objects).based and loaded(objects).base.epoch == 0
    assert loaded(objects, 4).later == 5


def test_a_generation_may_begin_by_another_map() -> None:
    """The base has the map that is asked for, and says by which the state was saved; once the opening is there, its map
    counts, whatever is asked for later."""
    wider = rescaled(BASE.shard_map, 2)
    objects = with_base(stored(1), 0, 3)

    def wide(objects: MemoryObjects, shard_map: ShardMap) -> Base:
        return with_log(lambda log: log.load(5, shard_map), objects).base

    assert wide(objects, wider).shard_map == wider and wide(objects, wider).saved_map == BASE.shard_map
    record = replace(opening(2, 5, BaseId(3, 0)), shard_map=wider)
    objects.create(record_name("p", 2), encode(record))
    assert wide(objects, BASE.shard_map).shard_map == wider


def test_nobody_begins_at_a_damaged_base() -> None:
    """A base that cannot be read is marked, once, with the reason; the next generation begins at the one before it,
    and the newest base is for nobody any more. If all are damaged, that is said, with where to look."""
    objects = with_base(stored(1, 2, 3), 2, 4)
    objects.data[base_name("p", 2, 4)] = b"x" * 40
    with pytest.raises(BaseDamaged, match=base_name("p", 2, 4)):
        loaded(objects)
    assert b"damaged" in objects.data[damaged_name("p", 2, 4, alone=True)]
    found = loaded(objects)
    assert found.origin == BaseId(0, 0) and [each.epoch for each in found.records] == [1, 2, 3]
    objects.data[base_name("p", 0)] = b""
    with pytest.raises(BaseDamaged):
        loaded(objects)
    with pytest.raises(LogDamaged, match=r"every base of 'p' is damaged.*programs/p/damaged/"):
        loaded(objects)


def test_a_node_hears_that_the_base_of_its_generation_is_damaged() -> None:
    """Regression (seed 40 of the bank): whoever had marked it was gone before anybody had asked it; the node that came
    in its place took the base for one that was still to be written, and waited for ever."""
    objects = with_base(stored(1, 2), 2, 7)
    assert with_log(lambda log: log.newest_base_of(8), objects) is None
    found = with_log(lambda log: log.newest_base_of(7), objects)
    assert found is not None and found.epoch == 2
    with_log(lambda log: log.mark_damaged(BaseId(7, 2), "a checkpoint is gone"), objects)
    with pytest.raises(BaseDamaged, match="generation 7"):
        with_log(lambda log: log.newest_base_of(7), objects)


def test_the_original_of_a_base_whose_copy_is_torn_is_as_good_as_ever() -> None:
    """What cannot be read itself says nothing of what it was copied from; what refers to something that cannot be read
    does, and of later generations neither says anything."""
    objects = with_base(with_base(stored(1, 2, 3), 2, 4), 2, 6)
    objects.data[base_name("p", 2, 6)] = b"x" * 40
    with pytest.raises(BaseDamaged):
        loaded(objects, 7)
    assert loaded(objects, 7).origin == BaseId(4, 2)
    with_log(lambda log: log.mark_damaged(BaseId(6, 2), "a checkpoint is gone"), objects)
    assert loaded(objects, 7).origin == BaseId(0, 0)
    assert loaded(with_base(objects, 2, 7), 8).origin == BaseId(7, 2)


def test_a_base_that_tears_while_it_is_written_is_marked() -> None:
    """Whoever wrote it says so, and nobody has to find out."""
    objects = stored(1, 2)
    torn = StoreFaults(torn=0.5, torn_of=("/base/",))
    with pytest.raises(LogDamaged, match="base"):
        with_log(lambda log: log.write_base(replace(BASE, epoch=2, generation=5)), objects, torn)
    assert damaged_name("p", 2, 5, alone=True) in objects.data
    assert loaded(objects, 6).origin == BaseId(0, 0)


def test_marks_of_attempts_that_say_nothing_any_more_are_taken_away() -> None:
    """Those before the base, and those from before a void, whosever they are; the others stay, and a store that fails
    is no reason not to start."""
    objects = with_base(stored(1, 2, 3, 4), 2, 5)
    void = replace(opening(5, 5, BaseId(5, 2)), voids=(TransactionPlace(4, 0),))
    objects.create(record_name("p", 5), encode(void))
    marks = {
        (node, epoch, by): attempt_name("p", node, epoch, by)
        for node in ("n1", "gone")
        for epoch, by in ((1, 9), (2, 9), (4, 9), (4, 5), (4, 3))
    }
    for name in marks.values():
        objects.create(name, b"begun")
    with_log(lambda log: cleared(log), objects, StoreFaults(fails_list=1.0, fails_delete=1.0))
    assert len(objects.list(all_attempts_prefix("p"))) == len(marks)
    with_log(lambda log: cleared(log), objects)
    left = [name for (_, epoch, by), name in marks.items() if epoch >= 2 and by == 9]
    assert objects.list(all_attempts_prefix("p")) == sorted(left)


async def cleared(log: EpochLog) -> None:
    base = replace(BASE, epoch=2, generation=5)
    records = [record(3), record(4), replace(opening(5, 5, BaseId(5, 2)), voids=(TransactionPlace(4, 0),))]
    await log.clear_attempts(Loaded(base, BaseId(5, 2), records, opened=True, based=True))


def test_a_program_that_was_never_created_is_named() -> None:
    """A log without a base is an error that says so."""
    with pytest.raises(StoreError, match="no base of the program 'p'"):
        loaded(MemoryObjects())


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_missing_record_is_not_the_end_of_the_log(missing: int) -> None:
    """A gap is damage, and is named: to write into it would lose what is behind."""
    objects = stored(*(epoch for epoch in range(1, 6) if epoch != missing))
    with pytest.raises(LogDamaged, match=f"{record_name('p', missing)} is missing.* up to epoch 5"):
        loaded(objects)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "too few"),
        (lambda data: data[:-8], "cut short"),
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], "bad checksum"),
        (lambda data: encode(record(9)), "says that it is of epoch 9"),
        (lambda data: encode(BASE), "."),
    ],
)
def test_a_damaged_record_is_named(damage: Callable[[bytes], bytes], reason: str) -> None:
    """Whatever is wrong with an object of the log, the error is of one kind and names the object."""
    objects = stored(1, 2, 3)
    name = record_name("p", 2)
    objects.data[name] = damage(objects.data[name])
    with pytest.raises(LogDamaged, match=f"{name}.*{reason}"):
        loaded(objects)
    objects = stored(1)
    objects.data[base_name("p", 0)] = b"x" * 40
    with pytest.raises(LogDamaged, match=base_name("p", 0)):
        loaded(objects)


def test_what_is_there_is_the_record_whoever_wrote_it() -> None:
    """`append` returns what a reader finds: its own record, or the one that somebody else wrote before."""
    objects = stored(1)
    assert with_log(lambda log: log.append(record(2)), objects) == (record(2), ZERO)
    assert with_log(lambda log: log.append(record(2, incarnation=7)), objects) == (record(2), ZERO)
    with_base(objects, 2, 1)
    assert with_log(lambda log: log.append(record(3)), objects) == (record(3), [*ZERO, BaseId(1, 2)])


def test_ones_own_record_is_compared_and_anothers_is_decoded() -> None:
    """What has the same bytes is the very record that was written, not a copy of it; anything else is looked into, also
    where a single bit differs, and even if it has the right epoch."""
    objects, mine = stored(1), record(2)
    assert with_log(lambda log: log.append(mine), objects)[0] is mine
    objects.data[record_name("p", 2)] = encode(record(2, incarnation=3))
    assert with_log(lambda log: log.append(mine), objects)[0] == record(2, incarnation=3)
    data = bytearray(encode(mine))
    data[-1] ^= 1
    objects.data[record_name("p", 2)] = bytes(data)
    with pytest.raises(LogDamaged, match="bad checksum"):
        with_log(lambda log: log.append(mine), objects)


@pytest.mark.parametrize("faults", [StoreFaults(fails_stored=0.7), StoreFaults(fails_absent=0.7)])
def test_what_the_store_answers_is_not_believed(faults: StoreFaults) -> None:
    """A store that says it failed, whether it stored or not, leads to the one record that is there, each time; each
    failure is in the log, with what the store said."""
    objects = stored()

    async def main(log: EpochLog) -> None:
        for epoch in range(1, 21):
            assert await log.append(record(epoch)) == (record(epoch), ZERO)
        first, second = await asyncio.gather(log.append(record(21)), log.append(record(21, 2)))
        assert first == second

    with captured_events() as events:
        with_log(main, objects, faults)
    failures = [event["reason"] for event in events if event["event"] == "store_failed"]
    assert failures and all("the store did not answer in time" in str(reason) for reason in failures)
    assert len(objects.list("programs/p/log/")) == 21


def test_append_does_not_spin_on_damage() -> None:
    """A slot that holds something else than a record will not get better: the damage is told, not retried."""
    objects = stored(1)
    objects.create(record_name("p", 2), b"rubbish")
    with pytest.raises(LogDamaged, match="is damaged"):
        with_log(lambda log: log.append(record(2)), objects)
