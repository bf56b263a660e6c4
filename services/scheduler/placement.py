"""Where the parts of a program go: first what is *feasible*, then how it *ranks*. Pure, and the same for the
same input.

Feasible is a runner that runs and was heard of lately. Among those the one with the fewest parts per core
ranks first, of equals the one whose name sorts first. Parts are handed out one after the other, each to the
runner that ranks first at that moment, so runners with the same number of cores and nothing on them differ by
at most one part.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappush, heapreplace

from services.scheduler.state import Assignment, Desired, Observed, WantedProgram, ready_machines, runner_name


@dataclass(frozen=True, slots=True)
class Candidate:
    """A feasible runner; `parts` is how many parts of programs it has already."""

    machine: str
    runner: str
    incarnation: int
    cores: int
    parts: int


class Room(Collection[Candidate]):
    """The feasible runners, by name, with what they have, kept in the order in which they rank: placing a program takes
    time for its own parts, and not for all runners that there are."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._by_runner = {each.runner: each for each in candidates}
        self._ranked = sorted(rank(each, each.parts) for each in self._by_runner.values())

    def __len__(self) -> int:
        return len(self._by_runner)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._by_runner.values())

    def __contains__(self, candidate: object) -> bool:
        return candidate in self._by_runner.values()

    def of(self, runner: str) -> Candidate | None:
        """The candidate that is this runner."""
        return self._by_runner.get(runner)

    def without(self, runners: Collection[str]) -> Room:
        """The candidates that are none of these runners."""
        return Room(each for each in self if each.runner not in runners)

    def move(self, before: Assignment | None, after: Assignment | None) -> None:
        """Take note that a program is placed elsewhere now."""
        parts = parts_of(after)
        parts.subtract(parts_of(before))
        for runner, more in parts.items():
            known = self._by_runner.get(runner)
            if known is not None and more:
                del self._ranked[bisect_left(self._ranked, rank(known, known.parts))]
                changed = self._by_runner[runner] = replace(known, parts=known.parts + more)
                insort(self._ranked, rank(changed, changed.parts))

    def place(self, count: int, change: Mapping[str, int]) -> list[Candidate]:
        """The runners of `count` parts, in the order of the parts, as if runners had so many parts more, or fewer, than
        they have; there must be candidates."""
        heap = [
            (*rank(each, each.parts + more), each.parts + more, each)
            for runner, more in change.items()
            for each in (self._by_runner.get(runner),)
            if each is not None
        ]
        heapify(heap)  # runners' names differ, so candidates are never compared
        others = (key for key in self._ranked if key[1] not in change)
        following = next(others, None)
        placed = []
        for _ in range(count):
            while following is not None and (not heap or following < heap[0][:2]):
                each = self._by_runner[following[1]]
                heappush(heap, (*following, each.parts, each))
                following = next(others, None)
            _, _, parts, each = heap[0]
            placed.append(each)
            heapreplace(heap, (*rank(each, parts + 1), parts + 1, each))
        return placed


def feasible(desired: Desired, observed: Observed, now: float) -> Room:
    """The runners on which something may be placed now."""
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
    return Room(candidates)


MOVE_GAIN = 0.75
"""A program moves only if the fullest of its runners is then filled to at most this part of what it is now: whatever
moves has to read its state from the store."""


def has_more_room(assignment: Assignment, room: Room) -> bool:
    """Whether the program would be placed clearly better now than it is."""
    own = parts_of(assignment)
    here = [rank(each, each.parts)[0] for each in map(room.of, own) if each is not None]
    if len(room) <= len(own) or not here:
        return False
    placed = room.place(len(assignment.nodes) + 1, negative(own))
    parts = Counter(each.runner for each in placed)
    of = {each.runner: each for each in placed}
    fullest = max(
        rank(of[runner], of[runner].parts - own[runner] + more)[0] for runner, more in parts.items()
    )
    return fullest <= MOVE_GAIN * max(here)


def moving(assignment: Assignment, room: Room) -> list[bool]:
    """Which parts have to move, nodes by shard and the sequencer last, so that every runner has as many as it would
    have if the whole program were placed now. Of a runner's parts the first ones stay."""
    parts = [*assignment.nodes, assignment.sequencer]
    placed = Counter(each.runner for each in room.place(len(parts), negative(parts_of(assignment))))
    moves = []
    for part in reversed(parts):  # the sequencer before all nodes: everybody would have to wait for it
        moves.append(placed[part.runner] <= 0)
        placed[part.runner] -= 1
    return moves[::-1]


def rank(candidate: Candidate, parts: int) -> tuple[float, str]:
    """What a runner with so many parts is sorted by; the least goes first."""
    return parts / candidate.cores, candidate.runner


def parts_of(assignment: Assignment | None) -> Counter[str]:
    """How many parts of a program are on which runner."""
    if assignment is None:
        return Counter()
    return Counter(part.runner for part in (*assignment.nodes, assignment.sequencer))


def negative(parts: Counter[str]) -> dict[str, int]:
    """As many fewer."""
    return {runner: -count for runner, count in parts.items()}


def _parts_per_runner(programs: Iterable[WantedProgram]) -> Counter[str]:
    parts: Counter[str] = Counter()
    for program in programs:
        if program.assignment is not None:
            parts.update(part.runner for part in program.assignment.nodes)
            parts[program.assignment.sequencer.runner] += 1
    return parts
