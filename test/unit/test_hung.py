"""A runner that lives and says nothing, in the world of `test_reconcile.py`."""

from __future__ import annotations

from services.scheduler.deciding import HUNG_SECONDS
from test.unit.scheduler_world import World, check_all_runs, settle


def test_a_runner_that_hangs_is_started_anew() -> None:
    """Its agent says that it lives, and it says nothing: for a while it may be slow, and after that its machine is of
    no use with it. Who is cut off with its machine, or was not heard by a scheduler that slept, is left alone."""
    world = World(1)
    world.submit("games", 2)
    settle(world)
    (hung,) = world.runners.values()

    def second(machine: bool) -> None:
        world.now += 1.0
        if machine:
            world.report_machine("m1")
        world._deliver_all()
        world.scheduler_round()
        world._deliver_all()

    for _ in range(2 * int(HUNG_SECONDS)):
        second(machine=False)
    world.observed.listening_since = world.now  # the scheduler slept
    for _ in range(int(HUNG_SECONDS) - 1):
        second(machine=True)
    assert list(world.runners.values()) == [hung]
    for _ in range(2):
        second(machine=True)
    assert hung in world.ended
    settle(world)
    check_all_runs(world)
    assert world.runners["m1-r1"].incarnation > hung.incarnation
