"""Placement: what is feasible, how it ranks, and that parts spread evenly."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dist_zero.shards import even_map
from dist_zero_common.broker.topology import agent_inbox, runner_inbox
from dist_zero_common.protocol.messages.control import MachineReport, Placement, RunnerReport, RunnerStatus
from services.scheduler.deciding import decide, with_program
from services.scheduler.placement import Candidate, Room, feasible, rank
from services.scheduler.state import (
    Assignment,
    Desired,
    Observed,
    Part,
    SchedulerOptions,
    WantedProgram,
    hear_machine,
    hear_runner,
    nothing_desired,
)

SYSTEM = "test"
cores = st.integers(1, 64)


def candidates_of(cores_each: list[int], parts_each: list[int] | None = None) -> list[Candidate]:
    parts_each = parts_each or [0] * len(cores_each)
    return [
        Candidate(f"m{i}", f"m{i}-r1", 1, cores, parts)
        for i, (cores, parts) in enumerate(zip(cores_each, parts_each, strict=True), 1)
    ]


def ready_system(cores_each: list[int], order: random.Random | None = None) -> tuple[Desired, Observed]:
    """Machines m1, m2, … with their runners started and everything reported at time 0, in some order."""
    desired = nothing_desired(SYSTEM, 1, SchedulerOptions(machines=len(cores_each)))
    observed = Observed()
    machines = list(enumerate(cores_each, 1))
    if order is not None:
        order.shuffle(machines)
    for number, count in machines:
        hear_machine(observed, machine_report(f"m{number}", count, ()), 0.0)
    desired = decide(desired, observed, 0.0)
    for number, count in machines:
        name = f"m{number}"
        incarnation = desired.runners[f"{name}-r1"].incarnation
        status = RunnerStatus(f"{name}-r1", incarnation, alive=True)
        hear_machine(observed, machine_report(name, count, (status,)), 0.0)
        inbox = runner_inbox(SYSTEM, f"{name}-r1", incarnation)
        hear_runner(observed, RunnerReport(f"{name}-r1", incarnation, name, inbox, (), ()), 0.0)
    return desired, observed


def machine_report(name: str, count: int, runners: tuple[RunnerStatus, ...]) -> MachineReport:
    return MachineReport(name, 1, agent_inbox(SYSTEM, name), count, 2**30, (), runners)


def wanted(program: str, nodes: int) -> WantedProgram:
    shard_map = even_map(1, [f"n{number}" for number in range(1, nodes + 1)])
    return WantedProgram(program, b"graph", "fingerprint", shard_map, 0.0)


@given(st.lists(cores, min_size=1, max_size=12), st.integers(0, 200))
def test_every_core_carries_as_much_as_the_others(cores_each: list[int], count: int) -> None:
    """No part could be moved to another runner and have fewer parts per core there than where it is."""
    placed = Counter(candidate.runner for candidate in Room(candidates_of(cores_each)).place(count, {}))
    assert sum(placed.values()) == count
    for name, parts in placed.items():
        own = cores_each[int(name[1:-3]) - 1]
        for other, other_cores in enumerate(cores_each, 1):
            assert (parts - 1) / own <= placed[f"m{other}-r1"] / other_cores


@given(st.integers(1, 12), st.integers(1, 200))
def test_equal_machines_differ_by_one_part_at_most(machines: int, count: int) -> None:
    """Equal and empty machines get the same, the first by name one more."""
    placed = Counter(candidate.runner for candidate in Room(candidates_of([4] * machines)).place(count, {}))
    parts = [placed[f"m{number}-r1"] for number in range(1, machines + 1)]
    assert max(parts) - min(parts) <= 1
    names = sorted(f"m{number}-r1" for number in range(1, machines + 1))
    assert [placed[name] for name in names] == sorted(parts, reverse=True)


def test_what_a_runner_has_already_counts() -> None:
    """The next parts go where the fewest are; of equals, the first by name is next."""
    placed = Room(candidates_of([2, 2, 4], [3, 0, 0])).place(5, {})
    assert [candidate.machine for candidate in placed] == ["m2", "m3", "m3", "m2", "m3"]


changes = st.dictionaries(
    st.integers(1, 14).map(lambda number: f"m{number}-r1"), st.integers(-3, 3), max_size=5
)


@given(st.lists(cores, min_size=1, max_size=12), st.integers(0, 60), changes, changes)
def test_room_places_as_if_it_looked_at_all_runners(
    cores_each: list[int], count: int, moved: dict[str, int], change: dict[str, int]
) -> None:
    """Whatever has moved before, and whatever is to be thought away or added: each part goes to the runner that ranks
    first of all, as one finds who looks at each of them."""
    room = Room(candidates_of(cores_each, [5] * len(cores_each)))
    parts = {candidate.runner: 5 for candidate in room}
    for runner, more in moved.items():
        on = Part(runner[:-3], runner, 1, 1)
        placement = Placement(1, "p", 1, 1, even_map(1, ["n1"]), ("",), "", "")
        few, many = Assignment((on,), on, placement), Assignment((on,) * (1 + abs(more)), on, placement)
        room.move(*((few, many) if more > 0 else (many, few)))
        if runner in parts:
            parts[runner] += more
    assert {candidate.runner: candidate.parts for candidate in room} == parts
    for runner in parts:
        parts[runner] += change.get(runner, 0)
    of = {candidate.runner: candidate for candidate in room}
    for candidate in room.place(count, change):
        first = min(of, key=lambda runner: rank(of[runner], parts[runner]))
        assert candidate == of[first]
        parts[first] += 1


@given(st.lists(cores, min_size=1, max_size=6), st.integers(1, 20), st.randoms(use_true_random=False))
def test_placement_depends_on_no_order(cores_each: list[int], nodes: int, order: random.Random) -> None:
    """However the reports came in, parts go to the same runners."""
    runners = []
    for shuffled in (None, order):
        desired, observed = ready_system(cores_each, shuffled)
        desired = decide(with_program(desired, wanted("games", nodes)), observed, 0.0)
        assignment = desired.programs["games"].assignment
        assert assignment is not None
        runners.append([part.runner for part in (*assignment.nodes, assignment.sequencer)])
    assert runners[0] == runners[1]


def test_feasible_is_who_runs_and_was_heard_of() -> None:
    """Silent machines, dead runners and runners of another incarnation than the wanted one are left out."""
    desired, observed = ready_system([2, 2, 2, 2])
    dead = replace(observed.machines["m2"].runners["m2-r1"], alive=False)
    hear_machine(observed, machine_report("m2", 2, (dead,)), 5.0)
    later = observed.runners["m3-r1"].report.incarnation + 100
    inbox = runner_inbox(SYSTEM, "m3-r1", later)
    hear_runner(observed, RunnerReport("m3-r1", later, "m3", inbox, (), ()), 5.0)
    hear_machine(observed, observed.machines["m1"].report, 5.0)
    hear_runner(observed, observed.runners["m1-r1"].report, 5.0)
    assert [candidate.machine for candidate in feasible(desired, observed, 5.0)] == ["m1", "m4"]
    assert [candidate.machine for candidate in feasible(desired, observed, 14.0)] == ["m1"]
    assert not feasible(desired, observed, 15.0)


def test_second_program_fills_up_what_the_first_left() -> None:
    """Parts of all programs count, sequencers too."""
    desired, observed = ready_system([1, 1, 1])
    for program, nodes in (("one", 3), ("two", 1)):
        desired = decide(with_program(desired, wanted(program, nodes)), observed, 0.0)
    parts = Counter(
        part.runner
        for program in desired.programs.values()
        if program.assignment is not None
        for part in (*program.assignment.nodes, program.assignment.sequencer)
    )
    assert parts == {"m1-r1": 2, "m2-r1": 2, "m3-r1": 2}


def test_program_waits_for_all_machines_but_not_for_ever() -> None:
    """With one machine missing a program is placed when patience ends; with none there, never."""
    desired, observed = ready_system([1, 1])
    desired = replace(desired, options=SchedulerOptions(silence_seconds=1e9), machines=3)
    desired = with_program(desired, wanted("games", 2))
    assert decide(desired, observed, 29.0) is desired
    assert decide(desired, observed, 30.0).programs["games"].assignment is not None
    assert decide(desired, Observed(), 1e6) is desired
