"""Programs that are put to sleep and woken, by the scheduler's pure parts: whatever is lost or late meanwhile, what
sleeps does not run, and what is woken does."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.log import recalled_removal, recorded
from services.scheduler.sleeping import put_to_sleep, woken
from services.scheduler.state import nothing_desired
from test.unit.scheduler_world import CHAOS_STEPS, World, chaos, check_all_runs, settle, settled_world


def hosted(world: World, program: str) -> list[str]:
    """The runners that have a part of a program."""
    return [
        runner.name for runner in world.runners.values() if any(name == program for name, _ in runner.parts)
    ]


@given(st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
def test_what_sleeps_does_not_run_and_what_is_woken_does(
    machines: int, deaths: bool, rng: random.Random
) -> None:
    """Put to sleep and woken at any moments, while messages are lost and late and runners end; when that stops, nothing
    runs of the program that sleeps, and all of it when it is woken."""
    world = World(machines)
    world.submit("games", 3)
    for _ in range(3):
        chaos(world, rng, CHAOS_STEPS // 3, deaths=deaths)
        if "games" in world.desired.programs:
            if rng.random() < 0.5:
                world.desired = put_to_sleep(world.desired, "games", world.now)
            else:
                world.desired = woken(world.desired, "games", world.now)
    settle(world)
    world.submit("games", 3)
    world.desired = woken(world.desired, "games", world.now)
    settle(world)
    check_all_runs(world)
    world.desired = put_to_sleep(world.desired, "games", world.now)
    assert world.desired.programs["games"].assignment is None
    settle(world)
    assert not hosted(world, "games") and "games" not in world.desired.removals
    world.desired = woken(world.desired, "games", world.now)
    settle(world)
    check_all_runs(world)


def test_a_zombie_of_a_program_that_sleeps_is_dropped() -> None:
    """A runner that was silent while its program was put to sleep, by an earlier scheduler at that."""
    world = settled_world(machines=2, nodes=3)
    zombie = world.runners.pop("m2-r1")
    for _ in range(15):
        world.quiet_second()
    world.desired = put_to_sleep(world.desired, "games", world.now)
    for _ in range(30):
        world.quiet_second()
    assert "games" not in world.desired.removals and zombie.parts
    world.runners["m2-r1"] = zombie
    settle(world)
    assert not hosted(world, "games")


def test_a_takeover_goes_on_with_putting_to_sleep() -> None:
    """The log says what sleeps, and which parts of it may still run, also when it was woken meanwhile."""
    world = settled_world(machines=2, nodes=3)
    before = world.desired.programs["games"].assignment
    assert before is not None
    asleep = put_to_sleep(world.desired, "games", world.now)
    for desired in (asleep, woken(asleep, "games", world.now)):
        (said,) = recorded(desired).values()
        assert said.wanted and said.asleep == (desired is asleep) and said.placement is None
        removal = recalled_removal(said, nothing_desired("s", 9, desired.options), 1.0)
        assert removal.parts == tuple(before.runners())
    (said,) = recorded(replace(asleep, removals={})).values()
    assert said.asleep and said.nodes == ()
