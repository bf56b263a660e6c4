"""A program that is well is placed anew when the nodes that are to come have loaded their state; whatever speaks
against it on the way, it is placed as it would have been without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dist_zero.shards import rescaled
from dist_zero_common.protocol.messages.control import EndGeneration, PreparedStatus, PrepareNodes
from services.scheduler.deciding import with_program
from services.scheduler.scaling import with_drained
from services.scheduler.state import Preparation, WantedProgram
from test.unit.scheduler_world import ModelRunner, World, generation_of, machines_of, settle, version_of


class Slow(ModelRunner):
    """Loads nothing before it is told to."""

    loads = False

    def report(self):  # type: ignore[no-untyped-def]
        report = super().report()
        return report if self.loads else replace(report, prepared=tuple(map(unready, report.prepared)))


def unready(status: PreparedStatus) -> PreparedStatus:
    return replace(status, ready=False)


def slow_world(machines: int = 3, nodes: int = 3) -> World:
    """A program that runs, on runners that load nothing yet."""
    world = World(machines)
    world.submit("games", nodes)
    settle(world)
    for runner in world.runners.values():
        runner.__class__ = Slow
    return world


def wish(world: World, nodes: int) -> None:
    program = world.desired.programs["games"]
    world.desired = with_program(
        world.desired, replace(program, shard_map=rescaled(program.shard_map, nodes))
    )


def program_of(world: World) -> WantedProgram:
    return world.desired.programs["games"]


def preparation_of(world: World) -> Preparation:
    preparation = program_of(world).preparation
    assert preparation is not None
    return preparation


def load(world: World) -> None:
    for runner in world.runners.values():
        runner.loads = True  # type: ignore[attr-defined]


def prepared(world: World) -> dict[str, tuple[int, ...]]:
    """By runner, the shards that it prepares."""
    return {
        name: each.preparing["games"].shards
        for name, each in world.runners.items()
        if "games" in each.preparing
    }


def test_new_nodes_are_prepared_before_the_generation_ends() -> None:
    """Until all have caught up nothing else happens, however long it takes; then the generation ends, and another one
    begins with the new nodes where they are prepared."""
    world = slow_world()
    generation = generation_of(world, "games")
    wish(world, 4)
    settle(world)
    planned = preparation_of(world).planned
    before = program_of(world).assignment
    assert before is not None
    names = planned.placement.shard_map.nodes
    new = [shard for shard, name in enumerate(names) if name not in before.placement.shard_map.nodes]
    assert sorted(shard for shards in prepared(world).values() for shard in shards) == new and len(new) == 2
    assert not any(runner.ended for runner in world.runners.values())
    assert generation_of(world, "games") == generation
    load(world)
    settle(world)
    assignment = program_of(world).assignment
    assert assignment is not None and program_of(world).preparation is None
    assert generation_of(world, "games") > generation
    assert sum(bool(runner.ended) for runner in world.runners.values()) == 1
    assert [part.runner for part in assignment.nodes] == [part.runner for part in planned.nodes]


def test_the_last_wish_wins() -> None:
    """Another wish is planned anew, one that is taken back leaves nothing behind."""
    world = slow_world()
    before = program_of(world).shard_map
    wish(world, 4)
    settle(world)
    first = preparation_of(world).version
    wish(world, 6)
    settle(world)
    assert preparation_of(world).version > first
    assert {
        each.version for runner in world.runners.values() for each in runner.preparing.values() if each.shards
    } == {preparation_of(world).version}
    world.desired = with_program(world.desired, replace(program_of(world), shard_map=before))
    settle(world)
    assert program_of(world).preparation is None
    assert not any(prepared(world).values()), "nodes are prepared that are not to come"


def test_who_cannot_load_in_time_is_waited_for_no_longer() -> None:
    """After ten minutes the program is placed as it is."""
    world = slow_world()
    generation = generation_of(world, "games")
    wish(world, 4)
    settle(world)
    world.now += world.desired.options.prepare_seconds
    world.observed.listening_since = world.now
    settle(world)
    assert generation_of(world, "games") > generation


@pytest.mark.parametrize("lost", ["m1", "m2", "m3"])
def test_whoever_dies_meanwhile(lost: str) -> None:
    """A machine with a part, or one on which a node is prepared: the program comes to run by the map that is wished
    for, without it."""
    world = slow_world()
    wish(world, 4)
    settle(world)
    world.agents.pop(lost)
    world.runners.pop(f"{lost}-r1")
    load(world)
    settle(world)
    settle(world)
    assert len(program_of(world).assignment.nodes) == 4  # type: ignore[union-attr]
    assert lost not in machines_of(world, "games")


def test_a_drained_machine_gives_its_nodes_away_when_they_are_loaded() -> None:
    """In the same generation, which is brought to an end all the same; and if it is let run things again before that,
    nothing moves."""
    world = slow_world()
    generation, version = generation_of(world, "games"), version_of(world, "games")
    world.desired = with_drained(world.desired, "m1", drained=True)
    settle(world)
    assert "m1" in machines_of(world, "games") and any(prepared(world).values())
    world.desired = with_drained(world.desired, "m1", drained=False)
    settle(world)
    assert version_of(world, "games") == version and not any(prepared(world).values())
    world.desired = with_drained(world.desired, "m1", drained=True)
    load(world)
    settle(world)
    assert "m1" not in machines_of(world, "games")
    assert generation_of(world, "games") == generation and version_of(world, "games") > version


def test_commands_are_said_until_they_are_heard() -> None:
    """What a runner does not report is asked of it again."""
    world = slow_world()
    wish(world, 4)
    commands = world.scheduler_round()
    prepare = [each for each in commands if isinstance(each.message, PrepareNodes)]
    assert prepare and not [each for each in commands if isinstance(each.message, EndGeneration)]
    assert [each for each in world.scheduler_round() if isinstance(each.message, PrepareNodes)] == prepare
