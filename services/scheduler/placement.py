"""Where the parts of a program go: first what is *feasible*, then how it *ranks*. Pure, and the same for the
same input.

Feasible is a runner that runs and was heard of lately. Among those the one with the fewest parts per core
ranks first, of equals the one whose name sorts first. Parts are handed out one after the other, each to the
runner that ranks first at that moment, so runners with the same number of cores and nothing on them differ by
at most one part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace

from services.scheduler.state import Assignment, Desired, Observed, WantedProgram, ready_machines, runner_name


@dataclass(frozen=True, slots=True)
class Candidate:
    """A feasible runner; `parts` is how many parts of programs it has already."""

    machine: str
    runner: str
    incarnation: int
    cores: int
    parts: int


def feasible(desired: Desired, observed: Observed, now: float) -> list[Candidate]:
    """The runners on which something may be placed now, by name."""
    parts = _parts_per_runner(desired.programs.values())
    candidates = []
    for machine in ready_machines(desired, observed, now):
        if desired.is_retired(machine):
            continue
        runner = runner_name(machine)
        candidates.append(
            Candidate(
                machine,
                runner,
                desired.runners[runner].incarnation,
                observed.machines[machine].report.cores,
                parts[runner],
            )
        )
    return candidates


MOVE_GAIN = 0.75
"""A program moves only if the fullest of its runners is then filled to at most this part of what it is now: whatever
moves has to read its state from the store."""


def less_own(candidates: Sequence[Candidate], program: WantedProgram) -> list[Candidate]:
    """The candidates as they would be without the parts of this program."""
    own = _parts_per_runner([program])
    return [replace(each, parts=each.parts - own[each.runner]) for each in candidates]


def has_more_room(program: WantedProgram, assignment: Assignment, candidates: Sequence[Candidate]) -> bool:
    """Whether the program would be placed clearly better now than it is."""
    runners = {part.runner for part in assignment.runners()}
    here = [rank(each, each.parts)[0] for each in candidates if each.runner in runners]
    if len(candidates) <= len(runners) or not here:
        return False
    others = {each.runner: each for each in less_own(candidates, program)}
    parts = Counter(each.runner for each in place(list(others.values()), len(assignment.nodes) + 1))
    fullest = max(rank(others[runner], others[runner].parts + own)[0] for runner, own in parts.items())
    return fullest <= MOVE_GAIN * max(here)


def moving(assignment: Assignment, program: WantedProgram, candidates: Sequence[Candidate]) -> list[bool]:
    """Which parts have to move, nodes by shard and the sequencer last, so that every runner has as many as it would
    have if the whole program were placed now. Of a runner's parts the first ones stay."""
    parts = [*assignment.nodes, assignment.sequencer]
    room = Counter(each.runner for each in place(less_own(candidates, program), len(parts)))
    moves = []
    for part in reversed(parts):  # the sequencer before all nodes: everybody would have to wait for it
        moves.append(room[part.runner] <= 0)
        room[part.runner] -= 1
    return moves[::-1]


def rank(candidate: Candidate, parts: int) -> tuple[float, str]:
    """What a runner with so many parts is sorted by; the least goes first."""
    return parts / candidate.cores, candidate.runner


def place(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The runners of `count` parts, in the order of the parts; there must be candidates."""
    heap = [(*rank(candidate, candidate.parts), candidate.parts, candidate) for candidate in candidates]
    heapify(heap)  # runners' names differ, so candidates are never compared
    placed = []
    for _ in range(count):
        _, _, parts, candidate = heap[0]
        placed.append(candidate)
        heapreplace(heap, (*rank(candidate, parts + 1), parts + 1, candidate))
    return placed


def _parts_per_runner(programs: Iterable[WantedProgram]) -> Counter[str]:
    parts: Counter[str] = Counter()
    for program in programs:
        if program.assignment is not None:
            parts.update(part.runner for part in program.assignment.nodes)
            parts[program.assignment.sequencer.runner] += 1
    return parts
