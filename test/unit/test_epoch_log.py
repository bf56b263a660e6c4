"""The log of epochs over a store that answers wrongly, loses objects or has damaged ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from dist_zero.shards import even_map
from dist_zero_common.errors import LogDamaged, StoreError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages import Base, LogRecord
from dist_zero_common.sim.faults import StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import base_name, record_name
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.epoch_log import EpochLog

Result = TypeVar("Result")
BASE = Base(0, 0, 5, even_map(1, ["n1"]), b"graph")


def record(epoch: int, incarnation: int = 1) -> LogRecord:
    return LogRecord(epoch, 10 * epoch, 0, incarnation, 1, False, (), (), (), (), (), ())


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


def test_a_log_is_loaded_from_its_base() -> None:
    """The newest base and every record behind it, in order; records before the base are not looked at."""
    assert with_log(EpochLog.load, stored()) == (BASE, [])
    assert with_log(EpochLog.load, stored(1, 2, 3)) == (BASE, [record(1), record(2), record(3)])
    objects = stored(3, 4)
    objects.create(base_name("p", 2), encode(replace(BASE, epoch=2)))
    assert with_log(EpochLog.load, objects) == (replace(BASE, epoch=2), [record(3), record(4)])


def test_a_program_that_was_never_created_is_named() -> None:
    """A log without a base is an error that says so."""
    with pytest.raises(StoreError, match="no base of the program 'p'"):
        with_log(EpochLog.load, MemoryObjects())


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_missing_record_is_not_the_end_of_the_log(missing: int) -> None:
    """A gap is damage, and is named: to write into it would lose what is behind."""
    objects = stored(*(epoch for epoch in range(1, 6) if epoch != missing))
    with pytest.raises(LogDamaged, match=f"{record_name('p', missing)} is missing.* up to epoch 5"):
        with_log(EpochLog.load, objects)


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
        with_log(EpochLog.load, objects)
    objects = stored(1)
    objects.data[base_name("p", 0)] = b"x" * 40
    with pytest.raises(LogDamaged, match=base_name("p", 0)):
        with_log(EpochLog.load, objects)


def test_what_is_there_is_the_record_whoever_wrote_it() -> None:
    """`append` returns what a reader finds: its own record, or the one that somebody else wrote before."""
    objects = stored(1)
    assert with_log(lambda log: log.append(record(2)), objects) == (record(2), 0)
    assert with_log(lambda log: log.append(record(2, incarnation=7)), objects) == (record(2), 0)
    objects.create(base_name("p", 2), encode(BASE))
    assert with_log(lambda log: log.append(record(3)), objects) == (record(3), 2)


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
            assert await log.append(record(epoch)) == (record(epoch), 0)
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
