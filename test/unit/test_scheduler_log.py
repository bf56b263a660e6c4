"""The schedulers' log: at each record one of them leads, no decision is lost, and nothing is kept for ever.

The laws are tried on the pure part with random records, and on the log in a store that answers late, wrongly or not at
all, with several schedulers that claim, decide, sleep and die as the seed says, none of which trusts a clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.shards import even_map
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import LogDamaged, StoreError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.control import Placement
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits
from dist_zero_common.protocol.stored import (
    RecordedMachines,
    RecordedPart,
    RecordedProgram,
    RecordedSplit,
    SchedulerRecord,
)
from dist_zero_common.sim.faults import Delay, StoreFaults, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created
from dist_zero_common.store.directory import DirectoryStore
from dist_zero_common.store.layout import (
    number_of,
    scheduler_incarnation_name,
    scheduler_log_prefix,
    scheduler_record_name,
    wanted_program_name,
)
from dist_zero_common.store.memory import MemoryStore
from services.scheduler import log as log_module
from services.scheduler.__main__ import unique_name
from services.scheduler.deciding import with_program, without_program
from services.scheduler.log import (
    LogState,
    claim_after,
    folded,
    recalled_assignment,
    recalled_removal,
    record_after,
    recorded,
    with_record,
)
from services.scheduler.state import (
    INCARNATIONS_PER_SCHEDULER,
    Assignment,
    Part,
    SchedulerOptions,
    WantedProgram,
    nothing_desired,
)
from services.scheduler.written_log import Deposed, WrittenLog

MAP: ShardMap = even_map(1, ["n1"])


def a_program(name: str, incarnation: int, *, wanted: bool = True) -> RecordedProgram:
    """What a record says of a program that is placed, or else being removed."""
    part = RecordedPart("m1", "m1-r1", incarnation, incarnation + 1)
    if not wanted:
        return RecordedProgram(name, False, (part,), None, None)
    placement = Placement(0, name, incarnation, incarnation, MAP, ("inbox",), "clients", "nodes")
    limits, tried = NodeLimits(1, incarnation, 60), (RecordedSplit(incarnation, 2**64 - 1, 4_200),)
    return RecordedProgram(name, True, (part,), part, placement, limits, incarnation % 2 == 0, tried)


@contextmanager
def complete_every(records: int) -> Iterator[None]:
    """Meanwhile every so many records one is complete."""
    before, log_module.RECORDS_PER_COMPLETE = log_module.RECORDS_PER_COMPLETE, records
    try:
        yield
    finally:
        log_module.RECORDS_PER_COMPLETE = before


# ---- records: pure ---------------------------------------------------------------------------------------------

programs = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(1, 3), st.booleans()), max_size=4
).map(lambda drawn: {name: a_program(name, number, wanted=w) for name, (number, w) in drawn.items()})
names = st.lists(st.sampled_from(["m1", "m2"]), unique=True).map(tuple)
machines = st.builds(
    RecordedMachines,
    names,
    names,
    st.one_of(st.none(), st.builds(MachineLimits, st.integers(0, 1), st.integers(1, 2))),
    st.integers(0, 2),
)
steps = st.lists(
    st.one_of(st.tuples(programs, machines), st.tuples(st.sampled_from(["x", "y"]), st.booleans())),
    max_size=30,
)


@given(steps)
def test_records_say_what_was_decided_from_whichever_complete_one_they_are_read(
    drawn: list[tuple[dict[str, RecordedProgram], RecordedMachines] | tuple[str, bool]],
) -> None:
    """After each record the log says exactly what was decided last; so it does when all before any complete record is
    gone, whatever claims lie between; a decision that changes nothing makes no record."""
    with complete_every(4):
        first = claim_after(LogState(), "x", afresh=False)
        state, records = folded([first]), [first]
        decided: tuple[dict[str, RecordedProgram], RecordedMachines] = ({}, RecordedMachines())
        for step in drawn:
            record: SchedulerRecord | None
            if isinstance(step[0], str):
                record = claim_after(state, step[0], afresh=bool(step[1]))
                decided = ({}, RecordedMachines()) if step[1] else decided
            else:
                assert isinstance(step[1], RecordedMachines)
                decided = step[0], step[1]
                before = (dict(state.programs), state.machines)
                record = record_after(state, *decided)
                assert (record is None) == (before == decided)
            if record is not None:
                records.append(decode(SchedulerRecord, encode(record)))
                state = with_record(state, records[-1])
            assert (dict(state.programs), state.machines) == decided
            assert record_after(state, *decided) is None
        for number, record in enumerate(records):
            if record.complete:
                assert folded(records[number:]) == state
        assert state.number - state.complete < 4


@given(programs, st.integers(-2, 2), st.integers(-2, 2))
def test_a_record_that_cannot_stand_where_it_is_found_is_damage(
    decided: dict[str, RecordedProgram], number: int, scheduler: int
) -> None:
    """One out of its order, and one of a scheduler that neither leads nor claims to with it, are refused."""
    state = folded([SchedulerRecord(6, 6, "x", True, (), ())])
    record = SchedulerRecord(7 + number, 6 + scheduler, "x", False, tuple(decided.values()), ())
    if number == 0 and scheduler in (0, 1):
        assert with_record(state, record).leader == 6 + scheduler
    else:
        with pytest.raises(LogDamaged, match=r"schedulers' log|leads"):
            with_record(state, record)


def test_what_is_recorded_is_recalled_as_the_next_schedulers_own() -> None:
    """Parts stay where they are, with their incarnations; the placement carries the new scheduler's number; what is
    being removed goes on being removed, up to everything that an earlier scheduler can have started."""
    parts = (Part("m1", "m1-r1", 7, 8), Part("m2", "m2-r1", 9, 10))
    placement = Placement(3, "p", 12, 6, MAP, ("inbox",), "clients", "nodes")
    wanted = WantedProgram(
        "p", b"graph", "mark", MAP, since=0.0, assignment=Assignment(parts, parts[1], placement)
    )
    desired = with_program(nothing_desired("s", 3, SchedulerOptions()), wanted)
    (said,) = recorded(desired).values()
    assert recalled_assignment(said, 9) == Assignment(parts, parts[1], replace(placement, scheduler=9))
    (said,) = recorded(without_program(desired, "p", 5.0)).values()
    assert not said.wanted
    later = nothing_desired("s", 9, SchedulerOptions())
    removal = recalled_removal(said, later, 1.0)
    assert removal.parts == parts and removal.incarnation == 9 * INCARNATIONS_PER_SCHEDULER
    unplaced = with_program(
        nothing_desired("s", 3, SchedulerOptions()), WantedProgram("q", b"", "", MAP, since=0.0)
    )
    assert recalled_assignment(recorded(unplaced)["q"], 9) is None


# ---- the log in a store ----------------------------------------------------------------------------------------


class Chronicle(MemoryStore):
    """A store that remembers what it ever had, and in which a write that was given up may still arrive later."""

    def __init__(self, world: SimWorld) -> None:
        super().__init__(world=world)
        self.valid: list[SchedulerRecord] = []
        self.claimed_at: dict[int, float] = {}
        self.counters: Counter[str] = Counter()
        self.rng = world.rng("chronicle")

    async def create(self, name: str, data: bytes) -> Created:
        if name.startswith(scheduler_log_prefix()) and self.rng.random() < 0.05:
            asyncio.get_running_loop().call_later(20 * self.rng.random(), self._create, name, data, True)
            await asyncio.sleep(self.rng.random())
            raise StoreError("no answer, yet")
        await self._half()
        created = self._create(name, data)
        unsure = self.rng.random() < 0.05
        await self._half()
        if unsure:
            raise StoreError("no answer")
        return created

    def _create(self, name: str, data: bytes, late: bool = False) -> Created:
        newest = self.valid[-1].number if self.valid else 0
        created = self.objects.create(name, data)
        if created is Created.NEW:
            record = decode(SchedulerRecord, data)
            self.counters["late"] += late
            if record.number > newest:
                self.valid.append(record)
                if record.scheduler == record.number:
                    self.claimed_at[record.number] = asyncio.get_running_loop().time()
            else:
                self.counters["strays"] += 1
        return created


@dataclass
class Told:
    """What the log told its schedulers: that a record with these programs was written, or that nobody had claimed the
    lead since a number, at a time."""

    written: list[tuple[int, int, dict[str, RecordedProgram], RecordedMachines]] = field(default_factory=list)
    led: list[tuple[int, float]] = field(default_factory=list)


async def be_a_scheduler(name: str, store: Chronicle, told: Told, rng: random.Random) -> None:
    """Claim, decide, sleep, and believe to lead until deposed, without end."""
    log = WrittenLog(store, name, get_logger("test", SimWorld(0).clock))
    while True:
        await asyncio.sleep(8 * rng.random())
        try:
            await log.load()
            if rng.random() < 0.3:
                await asyncio.sleep(30 * rng.random())  # what was read is old by now
            if not await log.claim(afresh=False):
                store.counters["claims refused"] += 1
                continue
            mine = log.state.number
            told.written.append((mine, mine, dict(log.state.programs), log.state.machines))
            while rng.random() < 0.9:
                await act(log, mine, told, rng)
                if rng.random() < 0.1:
                    await asyncio.sleep(60 * rng.random())
                await asyncio.sleep(rng.random())
        except Deposed:
            store.counters["deposed"] += 1
        except LogDamaged:
            raise
        except StoreError:
            store.counters["store failed"] += 1


async def act(log: WrittenLog, mine: int, told: Told, rng: random.Random) -> None:
    """Decide something, look whether we lead, or tidy up."""
    what = rng.random()
    if what < 0.6:
        decided = dict(log.state.programs)
        name = rng.choice("abcd")
        if rng.random() < 0.3:
            decided.pop(name, None)
        else:
            decided[name] = a_program(name, rng.randrange(1000), wanted=rng.random() < 0.7)
        drained = RecordedMachines(("m1",)) if rng.random() < 0.5 else log.state.machines
        await log.write(decided, drained)
        told.written.append((log.state.number, mine, decided, drained))
    elif what < 0.85:
        began = asyncio.get_running_loop().time()
        await log.check()
        told.led.append((mine, began))
    else:
        await log.collect()


async def live(world: SimWorld, store: Chronicle, told: Told) -> LogState:
    """Several schedulers that die and start again, and at last somebody who reads what they have left."""
    rng = world.rng("schedulers")
    running: list[asyncio.Task[None]] = []
    for number in range(12):
        name = f"s{number}"
        running.append(asyncio.create_task(be_a_scheduler(name, store, told, world.rng(name))))
        await asyncio.sleep(30 * rng.random())
        if len(running) > 3:
            running.pop(rng.randrange(len(running))).cancel()
    for task in running:
        task.cancel()
    for task in running:
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(60)
    last = WrittenLog(store, "last", get_logger("test", world.clock))
    await last.load()
    while not await last.claim(afresh=False):
        await last.load()
    told.written.append(
        (last.state.number, last.state.leader, dict(last.state.programs), last.state.machines)
    )
    await last.collect()
    return last.state


def judge(store: Chronicle, told: Told, last: LogState) -> None:
    """What must hold, from all that ever was in the store."""
    leaders: dict[int, int] = {}
    state = LogState()
    at: dict[int, LogState] = {}
    for record in store.valid:
        state = folded([record]) if state.number == 0 else with_record(state, record)
        leaders[record.number], at[record.number] = state.leader, state
    for number, leader, decided, machines in told.written:
        assert leaders[number] == leader, f"{leader} was told that record {number} is its own"
        said = dict(at[number].programs), at[number].machines
        assert said == (decided, machines), f"record {number} does not say what {leader} was told"
    for leader, began in told.led:
        later = [when for claim, when in store.claimed_at.items() if claim > leader and when < began]
        assert not later, f"{leader} was told that it leads"
    assert last == at[store.valid[-1].number]
    assert [number_of(name) for name in store.objects.list(scheduler_log_prefix())] == [last.number]


def run(seed: int) -> Counter[str]:
    """One life of the log; returns what was met."""
    weather = Weather("store", store=StoreFaults(latency=Delay(mean=0.2, tail=0.05, tail_factor=20.0)))
    world, told = SimWorld(seed, weather), Told()
    with complete_every(3):

        async def main() -> Chronicle:
            store = Chronicle(world)
            judge(store, told, await live(world, store, told))
            return store

        store = run_simulation(main(), until_seconds=100_000)
    store.counters["written"] += len(told.written)
    store.counters["led"] += len(told.led)
    return store.counters


@pytest.mark.parametrize("first", [0, 10, pytest.param(1_000, marks=pytest.mark.long)])
def test_the_log_holds_in_a_store_that_answers_wrongly(first: int) -> None:
    """Whoever is told that it has written a record has, and that record says so for ever; whoever is told that it leads
    did when it asked; records follow each other, each of the scheduler that leads; the next one reads all of it, and
    what is not needed is gone."""
    met: Counter[str] = Counter()
    for seed in range(first, first + (10 if first < 1_000 else 300)):
        met += run(seed)
    for what in ("late", "strays", "deposed", "claims refused", "written", "led"):
        assert met[what] > 0, f"{what}: {met}"


def test_a_log_begins_behind_what_schedulers_wrote_before_there_was_one() -> None:
    """Numbers go on growing, and what shall run does."""
    world = SimWorld(1, "calm")
    store = MemoryStore(world=world)
    for number in (1, 2, 7):
        store.objects.create(scheduler_incarnation_name(number), b"claimed")
    for program, number, said in (("a", 1, b"runs"), ("b", 1, b"runs"), ("b", 2, b"removed")):
        store.objects.create(wanted_program_name(program, number), said)

    async def main() -> LogState:
        log = WrittenLog(store, "x", get_logger("test", world.clock))
        await log.load()
        assert await log.claim(afresh=False)
        return log.state

    state = run_simulation(main(), until_seconds=100)
    assert (state.leader, list(state.programs), state.programs["a"].wanted) == (8, ["a"], True)


def test_of_schedulers_that_claim_together_in_a_directory_one_leads(tmp_path: Path) -> None:
    """The store is the real one, as is the time."""

    async def claim(number: int) -> LogState | None:
        store = DirectoryStore(tmp_path, shared=True)
        log = WrittenLog(store, f"s{number}", get_logger("test", RealClock()))
        await log.load()
        led = await log.claim(afresh=False)
        if led:
            await log.write({"a": a_program("a", number)}, RecordedMachines())
            await log.check()
        await store.close()
        return log.state if led else None

    async def main() -> list[LogState]:
        states = await asyncio.gather(*(claim(number) for number in range(8)), return_exceptions=True)
        assert all(isinstance(state, LogState | Deposed | None) for state in states), states
        store = DirectoryStore(tmp_path, shared=True)
        log = WrittenLog(store, "reader", get_logger("test", RealClock()))
        await log.load()
        await store.close()
        led = [state for state in states if isinstance(state, LogState)]
        assert log.state in led
        return led

    led = asyncio.run(main())
    assert len({state.leader for state in led}) == len(led) > 0


def test_a_process_names_its_scheduler_like_no_other() -> None:
    """The name becomes part of a queue's."""
    names = {unique_name() for _ in range(50)}
    assert len(names) == 50
    for name in names:
        assert checked_name("scheduler", name) == name


def test_a_damaged_record_is_named() -> None:
    """Nobody leads on a log that cannot be read; the error says which object it is."""
    world = SimWorld(1, "calm")
    store = MemoryStore(world=world)
    good = encode(claim_after(LogState(), "x", afresh=False))
    store.objects.create(scheduler_record_name(1), good[:-1] + b"\xff")

    async def main() -> None:
        await WrittenLog(store, "x", get_logger("test", world.clock)).load()

    with pytest.raises(LogDamaged, match=scheduler_record_name(1)):
        run_simulation(main(), until_seconds=100)
    store.objects.delete(scheduler_record_name(1))
    store.objects.create(scheduler_record_name(2), good)
    with pytest.raises(LogDamaged, match="says that it is record 1"):
        run_simulation(main(), until_seconds=100)
