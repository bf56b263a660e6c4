"""Planted bugs are found, each of `planted.py` within its number of seeds, or the table there says why not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dist_zero.compiler import compile
from dist_zero.expr.graph import encode_graph
from dist_zero.shards import even_map
from dist_zero.testing import SeedOptions, SeedResult, run_seed
from dist_zero_common.errors import LogDamaged
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.stored import Base, LogRecord
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.plan import checked_kinds
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import base_name
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.epoch_log import EpochLog
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import (
    Append,
    LoadAgain,
    Now,
    RecordThere,
    SequencerEffect,
    SequencerOptions,
    WriteBase,
)
from test.simulated.planted import PLANTED, set_iteration_in_a_kernel
from test.simulated.property_world import PROGRAMS

QUICK_SEEDS = 10
"""Bugs that are found within so many seeds are looked for by `make test`, the others by `make test-long`."""


def first_failure(name: str, seeds: int) -> SeedResult | None:
    """The first seed that fails with this bug planted."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name].plant(patch)
        for seed in range(seeds):
            result = run_seed(
                PLANTED[name].program, seed, SeedOptions(faults=checked_kinds(PLANTED[name].faults))
            )
            if result.failures:
                return result
    return None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if planted.seeds_max <= QUICK_SEEDS else pytest.mark.long)
        for name, planted in PLANTED.items()
        if not planted.missed
    ],
)
def test_planted_bugs_are_found(name: str) -> None:
    """`dist-zero test` fails for one of the first seeds, with all its faults or those that the table names."""
    planted = PLANTED[name]
    result = first_failure(name, planted.seeds_max)
    assert result is not None, f"{name} was not found in {planted.seeds_max} seeds"
    assert result.failures[0].check in planted.checks, result.failures[0]


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, planted in PLANTED.items() if planted.missed])
def test_planted_bugs_that_are_not_found_are_said_to_be(name: str) -> None:
    """What the table says is missed is, in few seeds: when this fails, the table has to change."""
    assert first_failure(name, 20) is None, f"{name} is found now; the table says: {PLANTED[name].missed}"


@pytest.mark.parametrize("planted", [False, True])
def test_a_generation_that_no_record_opens_may_stand_without_a_log(planted: bool) -> None:
    """In which order of steps "generation without a record" does harm, for no seed was seen to come upon it.

    A sequencer of the next generation has read the base and the log, and its fence is on its way. The one before it,
    which nobody could ask to end, finishes two saves meanwhile, sees no record behind its own, and collects what the
    older of its two new bases does not reach. Then the fence is there. With a record that names the base that was read,
    its writer sees that there is a newer one by now, and reads again. Without, it writes that base for its generation;
    if it dies then, the next one finds a base with no log behind it, and the program stands still for good.
    """
    program = PROGRAMS[1]
    plan, name = compile(program.graph()), program.name
    begins = Base(0, 0, 5, even_map(1, ["n1"]), encode_graph(program.graph()))
    objects = MemoryObjects()
    objects.create(base_name(name, 0), encode(begins))
    world = SimWorld(1, "calm")

    def log() -> EpochLog:
        return EpochLog(MemoryStore(objects, world), name, get_logger("test", world.clock))

    async def begun(incarnation: int, generation: int) -> Sequencer:
        found = await log().load(generation, begins.shard_map)
        return Sequencer(
            plan=plan,
            incarnation=incarnation,
            base=found.base,
            origin=found.origin,
            opened=found.opened,
            based=found.based,
            records=found.records,
            options=SequencerOptions(),
        )

    async def fenced(sequencer: Sequencer) -> list[SequencerEffect]:
        (fence,) = sequencer.start(Now(10, 10.0))
        assert isinstance(fence, Append)
        there, bases = await log().append(fence.record)
        return sequencer.handle(RecordThere(there, tuple(bases)), Now(20, 20.0))

    async def live() -> None:
        await fenced(await begun(1, 0))
        for epoch in (2, 3):
            await log().append(LogRecord(epoch, 30, 0, 1, 1, True, (), (), (), (), (), ()))
        younger = await begun(2, 1)
        older_bases = [replace(begins, epoch=epoch) for epoch in (2, 3)]
        for base in older_bases:
            await log().write_base(base)
        assert await log().read(4) is None
        await log().collect(*reversed(older_bases))
        effects = await fenced(younger)
        assert [*map(type, effects)] == [WriteBase if planted else LoadAgain]
        for effect in effects:
            if isinstance(effect, WriteBase):
                await log().write_base(effect.base)
        if planted:
            with pytest.raises(LogDamaged, match="is missing from the store"):
                await begun(3, 1)
        else:
            third = await begun(3, 1)
            assert (third.base, third.epoch) == (3, 4)

    with pytest.MonkeyPatch.context() as patch:
        if planted:
            PLANTED["generation without a record"].plant(patch)
        run_simulation(live(), until_seconds=1_000)


@pytest.mark.parametrize("seed", range(6))
def test_without_a_bug_the_same_seeds_hold(seed: int) -> None:
    """Or the others would prove nothing."""
    assert run_seed(PROGRAMS[3], seed, SeedOptions()).failures == ()


SET_ORDER = """
import pytest
from dist_zero.testing import SeedOptions, run_seed
from test.simulated.planted import set_iteration_in_a_kernel
from test.simulated.property_world import PROGRAMS
with pytest.MonkeyPatch.context() as patch:
    set_iteration_in_a_kernel(patch)
    print([run_seed(PROGRAMS[3], seed, SeedOptions(transactions=18, faults=())).history for seed in range(4)])
"""


def test_iteration_over_a_set_shows_in_the_history() -> None:
    """A kernel that walks over a set of texts lives through other histories under another PYTHONHASHSEED."""
    assert set_iteration_in_a_kernel is not None
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", SET_ORDER],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3", "4")
    }
    assert len(said) > 1
