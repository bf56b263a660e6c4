"""Reconcile: from anything that was observed the system comes to what is desired, whatever becomes of the messages.

The world (`scheduler_world.py`) starts every step with `decide` and `reconcile`, as the service does, and holds the
invariants after each.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common.broker.topology import agent_inbox
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    HostNode,
    HostSequencer,
    MachineReport,
    Placement,
    RunnerStatus,
    StartRunner,
)
from dist_zero_common.protocol.messages.requests import ProgramState
from services.machine_agent.state import AgentState
from services.scheduler.deciding import (
    FORGET_SECONDS,
    decide,
    forget_silent,
    without_program,
)
from services.scheduler.hosts import ReturnHost, SpawnHost
from services.scheduler.reconcile import (
    Repeats,
    Send,
    reconcile,
    reconcile_machines,
)
from services.scheduler.state import (
    Observed,
    SchedulerOptions,
    hear_machine,
    hear_runner,
    nothing_desired,
)
from test.unit.scheduler_world import (
    CHAOS_STEPS,
    SYSTEM,
    World,
    chaos,
    check_adoption,
    check_all_runs,
    generation_of,
    machines_of,
    parts_of,
    settle,
    settled_world,
    version_of,
)


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_reconcile_converges_after_anything(machines: int, rng: random.Random) -> None:
    """Reports and commands lost, doubled and in any order, programs come and gone: when that stops, every program
    runs, each part once, and nothing else runs; nothing is outstanding. No incarnation was ever started twice."""
    world = World(machines)
    chaos(world, rng, CHAOS_STEPS, deaths=False)
    world.submit("games", 3)
    settle(world)
    world.submit("games", 3)
    settle(world)
    check_all_runs(world)
    assert sorted(world.runners) == [f"m{number}-r1" for number in range(1, machines + 1)]


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_reconcile_converges_after_deaths(machines: int, rng: random.Random) -> None:
    """The same with runners that end and machines that come back empty: a program whose parts were lost is placed anew,
    all of it in one new generation, and runs."""
    world = World(machines)
    world.submit("games", 3)
    chaos(world, rng, CHAOS_STEPS, deaths=True)
    settle(world)
    check_all_runs(world)
    assert sorted(world.runners) == [f"m{number}-r1" for number in range(1, machines + 1)]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
def test_programs_spread_onto_machines_that_join(machines: int, joining: int, nodes: int) -> None:
    """With more machines a program moves, once, if that leaves each with clearly less; else it stays where it is. Then
    it stays for good."""
    world = World(machines)
    world.submit("games", nodes)
    settle(world)
    generation = generation_of(world, "games")
    before, fullest = version_of(world, "games"), -(-(nodes + 1) // machines)
    for number in range(machines + 1, machines + joining + 1):
        world.agents[f"m{number}"] = AgentState(incarnation=1)
    settle(world)
    check_all_runs(world)
    fullest_now = -(-(nodes + 1) // (machines + joining))
    moved = version_of(world, "games") > before
    assert moved == (fullest_now <= 0.75 * fullest)
    if moved:
        assert len(machines_of(world, "games")) == min(machines + joining, nodes + 1)
    after = version_of(world, "games")
    settle(world)
    assert version_of(world, "games") == after and generation_of(world, "games") == generation


def test_a_silent_machine_loses_its_parts_and_they_come_back_to_it() -> None:
    """What ran on a machine of which nothing is heard runs elsewhere, in the same generation, and the rest stays; when
    the machine is back, it drops what it had, and gets its part again."""
    world = World(2)
    world.submit("games", 3)
    settle(world)
    generation, before = generation_of(world, "games"), parts_of(world, "games")
    gone, runner = world.agents.pop("m2"), world.runners.pop("m2-r1")
    settle(world)
    assert machines_of(world, "games") == ["m1"] and generation_of(world, "games") == generation
    after = parts_of(world, "games")
    assert all(now == was for was, now in zip(before, after, strict=True) if was.machine == "m1")
    assert set(world.states().values()) == {ProgramState.RUNNING}
    world.agents["m2"], world.runners["m2-r1"] = gone, runner
    settle(world)
    assert machines_of(world, "games") == ["m1", "m2"]
    check_all_runs(world)


def test_a_scheduler_that_heard_nobody_blames_nobody() -> None:
    """After a pause in which it did not listen, everybody seems silent; they are not, and nothing moves, in whatever
    order they are heard again."""
    world = World(3)
    world.submit("games", 3)
    settle(world)
    before = generation_of(world, "games")
    world.now += 60.0
    world.observed.listening_since = world.now
    for machine in ("m2", "m1", "m3"):
        world.report_machine(machine)
        world.report_runner(f"{machine}-r1")
        world._deliver_all()
        world.scheduler_round()
        world.now += 4.0 if machine == "m2" else 0.1
    settle(world)
    assert generation_of(world, "games") == before


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_new_scheduler_adopts_what_runs(machines: int, rng: random.Random) -> None:
    """It knows which programs shall run, and nothing of where they do. What runs whole goes on running, without a
    single command to start it; what does not is placed anew; and this scheduler can do all that the other could."""
    check_adoption(machines, rng)


def test_a_machine_that_stays_away_is_forgotten() -> None:
    """After ten minutes; one that comes back then is a new one."""
    world = World(2)
    settle(world)
    agent, runner = world.agents.pop("m2"), world.runners.pop("m2-r1")
    world.now += FORGET_SECONDS
    world.observed.listening_since = world.now
    world.desired = forget_silent(world.desired, world.observed, world.now)
    assert "m2" in world.observed.machines  # it may have spoken while nobody listened
    world.quiet_second()
    world.now += FORGET_SECONDS
    world.report_machine("m1")
    world._deliver_all()
    world.desired = forget_silent(world.desired, world.observed, world.now)
    assert sorted(world.observed.machines) == ["m1"] and sorted(world.desired.runners) == ["m1-r1"]
    world.agents["m2"], world.runners["m2-r1"] = agent, runner
    settle(world)
    assert sorted(world.observed.machines) == ["m1", "m2"]


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_removed_programs_leave_nothing(machines: int, rng: random.Random) -> None:
    """After any history, removing everything and some quiet leave no part anywhere."""
    world = World(machines)
    chaos(world, rng, CHAOS_STEPS, deaths=True)
    for name in list(world.desired.programs):
        world.remove(name)
    settle(world)
    assert not world.desired.programs and not world.desired.removals
    assert not any(runner.parts for runner in world.runners.values())


def test_nothing_is_done_twice_when_all_is_well() -> None:
    """In a settled system hours of heartbeats cause no command and no decision."""
    world = settled_world()
    before = world.desired
    for _ in range(100):
        assert world.quiet_second() == []
    assert world.desired is before


def test_commands_are_repeated_more_and_more_slowly() -> None:
    """A command whose effect does not show goes out after 1, 2, 4, 8 and then every 10 seconds; one that was done and
    is outstanding again goes out at once."""
    repeats = Repeats()
    command = Send(("start", "m1-r1", 1), "inbox", StartRunner(1, "m1-r1", 1, 1))
    times = [second for second in range(40) if repeats.due([command], float(second))]
    assert times == [0, 1, 3, 7, 15, 25, 35]
    assert repeats.due([], 40.0) == []
    assert repeats.due([command], 41.0) == [command]


def test_sequencer_comes_when_all_nodes_are_there() -> None:
    """No sequencer is started before every node is reported, so none hands out to nobody."""
    world = World(2)
    world.submit("games", 3)
    rounds = [[type(command.message) for command in world.quiet_second()] for _ in range(6)]
    assert rounds == [
        [StartRunner, StartRunner],
        [HostNode, HostNode, HostNode, Placement, Placement],
        [HostSequencer, Placement, Placement],
        [],
        [],
        [],
    ]


def test_placement_is_told_again_while_nothing_moves() -> None:
    """A runner that never heard where the others are would wait for ever: an epoch that is not finished for five
    seconds makes the placement outstanding again, and one that is finished ends that."""
    world = settled_world()
    assignment = world.desired.programs["games"].assignment
    assert assignment is not None
    runner = world.runners[assignment.sequencer.runner]

    def hear(epoch: int, finished: int) -> set[type]:
        (status,) = runner.report().sequencers
        moved = replace(status, epoch=epoch, finished_epoch=finished)
        world.now += 3.0
        for machine in world.agents:
            world.report_machine(machine)
        for name in world.runners:
            world.report_runner(name)
        world._deliver_all()
        hear_runner(world.observed, replace(runner.report(), sequencers=(moved,)), world.now)
        return {type(command.message) for command in reconcile(world.desired, world.observed, world.now)}

    assert hear(5, 4) == set()
    # `_deliver_all` hears the runner's own report first, in which all is finished
    world.runners.pop(runner.name)
    assert [hear(5, 4), hear(5, 4), hear(6, 4)] == [set(), {Placement}, {Placement}]
    assert [hear(6, 5), hear(6, 6), hear(6, 6)] == [set(), set(), set()]


@pytest.mark.parametrize(
    ("spawned", "expected"),
    [
        ([], [SpawnHost("m1"), SpawnHost("m2"), SpawnHost("m3")]),
        (["m2"], [SpawnHost("m1"), SpawnHost("m3")]),
        (["m1", "m2", "m3"], []),
        (["m1", "m2", "m3", "m4", "m10"], [ReturnHost("m10"), ReturnHost("m4")]),
    ],
)
def test_machines_are_obtained_and_returned(
    spawned: list[str], expected: list[SpawnHost | ReturnHost]
) -> None:
    """What the spawner lists becomes m1 to m3."""
    desired = nothing_desired(SYSTEM, 1, SchedulerOptions(machines=3))
    assert reconcile_machines(desired, spawned) == expected


def test_machine_in_use_is_not_returned() -> None:
    """A machine beyond those wanted stays while a program has a part there."""
    world = settled_world(machines=3, nodes=3)
    desired = replace(world.desired, machines=1)
    assert reconcile_machines(desired, ["m1", "m2", "m3"]) == []
    desired = without_program(desired, "games", world.now)
    assert reconcile_machines(desired, ["m1", "m2", "m3"]) == [ReturnHost("m2"), ReturnHost("m3")]


def test_runner_that_ends_at_once_is_not_started_all_the_time() -> None:
    """Ten seconds lie between two starts, each of a new incarnation."""
    world = World(1)
    for _ in range(60):
        world.quiet_second()
        for runner in list(world.runners):
            world.kill_runner(runner)
    assert 5 <= len(world.starts) <= 7
    assert set(world.starts.values()) == {1}


def test_a_machine_that_says_goodbye_is_forgotten_when_it_is_empty() -> None:
    """Nothing more is asked of it, what it had goes elsewhere without waiting for silence, and then it is no machine
    any more; under its name it may come again."""
    world = settled_world(machines=2, nodes=2)
    machine = next(part.machine for part in parts_of(world, "games")[:-1])
    seen = world.observed.machines[machine]
    dead = tuple(replace(status, alive=False) for status in seen.report.runners)
    hear_machine(world.observed, replace(seen.report, runners=dead, leaves=True), world.now)
    assert forget_silent(world.desired, world.observed, world.now) is world.desired
    desired = world.desired
    for second in range(5):
        desired = decide(desired, world.observed, world.now + second)
        sent = [command.inbox for command in reconcile(desired, world.observed, world.now + second)]
        assert seen.report.inbox not in sent
    assignment = desired.programs["games"].assignment
    assert assignment is not None
    assert machine not in [part.machine for part in assignment.runners()]
    desired = forget_silent(desired, world.observed, world.now + 5.0)
    assert machine not in world.observed.machines and f"{machine}-r1" not in desired.runners
    again = replace(seen.report, incarnation=seen.report.incarnation + 1, runners=())
    hear_machine(world.observed, again, world.now + 6.0)
    assert f"{machine}-r1" in decide(desired, world.observed, world.now + 6.0).runners


def test_runner_of_an_earlier_scheduler_is_kept() -> None:
    """A new scheduler that hears of a living runner wants that one, and gives out later incarnations only."""
    observed = Observed()
    status = RunnerStatus("m1-r1", 4 << 20 | 7, alive=True)
    inbox = agent_inbox(SYSTEM, "m1")
    hear_machine(observed, MachineReport("m1", 1, inbox, 2, 1, (), (status,)), 0.0)
    desired = decide(nothing_desired(SYSTEM, 5, SchedulerOptions()), observed, 0.0)
    assert desired.runners["m1-r1"].incarnation == 4 << 20 | 7
    assert reconcile(desired, observed, 0.0) == []
    dead = replace(status, alive=False)
    hear_machine(observed, MachineReport("m1", 1, inbox, 2, 1, (), (dead,)), 10.0)
    desired = decide(desired, observed, 10.0)
    assert desired.runners["m1-r1"].incarnation == (5 << 20) + 1


def test_removal_waits_for_those_who_may_still_start_a_part() -> None:
    """A program that is removed while its nodes are being started is gone only when each of their runners has had the
    command to drop it and has reported since: what is under way is not forgotten."""
    world = World(2)
    for _ in range(3):
        world.quiet_second()
    world.submit("games", 3)
    world.scheduler_round()
    under_way, world.bag = world.bag, []
    assert HostNode in {type(message) for _, message in under_way}
    world.now += 0.5
    world.remove("games")
    drops = world.scheduler_round()
    assert [type(command.message) for command in drops] == [DropProgram, DropProgram]
    assert "games" in world.desired.removals
    world._deliver_all()
    for inbox, message in under_way:
        world.deliver(inbox, message)
    assert not any(runner.parts for runner in world.runners.values())
    assert world.quiet_second() == [] and not world.desired.removals


def test_late_node_of_a_removed_program_is_dropped() -> None:
    """A part that starts after its program was removed is told to go, and one that was placed elsewhere since is told
    where; the parts that are wanted, and those of programs of an earlier scheduler, are let alone."""
    world = settled_world()
    name = next(iter(world.runners))
    runner = world.runners[name]
    own, earlier = world.desired.incarnation, 5
    elsewhere = next(
        shard for shard, part in enumerate(parts_of(world, "games")[:-1]) if part.runner != runner.name
    )
    runner.parts |= {("gone", 0): own, ("earlier", 0): earlier, ("games", elsewhere): (1 << 20) + 1}
    world.report_runner(name)
    world._deliver_all()
    sent = [command.message for command in reconcile(world.desired, world.observed, world.now)]
    assignment = world.desired.programs["games"].assignment
    assert assignment is not None
    assert sent == [DropProgram(1, "gone", own), assignment.placement]
