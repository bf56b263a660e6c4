"""Whose inbox is looked at, and what is made of the answer."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common.broker.base import QueueDepth
from services.scheduler.placement import feasible
from services.scheduler.state import Part, hear_runner, lost_parts
from services.scheduler.unread import MISSED_SECONDS, RETURN_SECONDS, hear_of_inbox, missed
from test.unit.scheduler_world import World, settle

READ, UNREAD = QueueDepth(3, 1), QueueDepth(0, 0)


@dataclass
class Running:
    """A program of three nodes on three machines, all of which have just reported."""

    world: World
    victim: Part

    def looked_at(self, now: float) -> list[str]:
        return sorted(part.runner for part in missed(self.world.desired, self.world.observed, now))

    def lost(self) -> list[str]:
        assignment = self.world.desired.programs["games"].assignment
        assert assignment is not None
        return lost_parts(assignment, self.world.desired, self.world.observed, self.world.now)

    def hear(self, inbox: QueueDepth | None, asked_at: float) -> bool:
        return hear_of_inbox(self.world.observed, self.victim, inbox, asked_at)

    def report(self) -> None:
        hear_runner(self.world.observed, self.world.runners[self.victim.runner].report(), self.world.now)


def running() -> Running:
    world = World(3)
    world.submit("games", 3)
    settle(world)
    assignment = world.desired.programs["games"].assignment
    assert assignment is not None
    return Running(world, assignment.nodes[1])


def test_only_who_missed_a_report_is_looked_at() -> None:
    """And nobody, when reports come each second; nor for a while after the scheduler was deaf itself."""
    games = running()
    now = games.world.now
    assert games.looked_at(now + 1.0) == []
    games.world.now = later = now + MISSED_SECONDS
    assert len(games.looked_at(later)) == 3
    games.report()
    assert games.victim.runner not in games.looked_at(later)
    games.world.observed.listening_since = later
    assert games.looked_at(later + 0.9 * RETURN_SECONDS) == []
    assert games.looked_at(later + RETURN_SECONDS) != []


def test_unread_is_lost_until_it_reports() -> None:
    """It is lost and no candidate; a report makes it both again, and says that something changed."""
    games = running()
    now = games.world.now = games.world.now + MISSED_SECONDS
    assert not games.hear(READ, now) and games.lost() == []
    assert games.hear(UNREAD, now) and games.lost() == [games.victim.runner]
    world = games.world
    assert games.victim.runner not in {each.runner for each in feasible(world.desired, world.observed, now)}
    assert games.victim.runner not in games.looked_at(now)
    games.report()
    assert games.lost() == []
    assert games.victim.runner in {each.runner for each in feasible(world.desired, world.observed, now)}


def test_a_report_that_came_after_the_question_counts_more_than_the_answer() -> None:
    """Somebody had lost his connection, and is back."""
    games = running()
    asked_at = games.world.now + MISSED_SECONDS
    games.world.now = asked_at + 0.1
    games.report()
    assert not games.hear(None, asked_at)
    assert games.lost() == []


def test_another_incarnation_is_not_meant() -> None:
    """What is said of the inbox of an incarnation says nothing about parts on a later one."""
    games = running()
    games.victim = replace(games.victim, runner_incarnation=games.victim.runner_incarnation - 1)
    assert games.hear(None, games.world.now)
    assert games.lost() == []


@given(st.randoms(use_true_random=False))
def test_whoever_is_taken_for_dead_wrongly_does_no_harm(rng: random.Random) -> None:
    """Whoever is said to be unread while he lives: it comes to rest with each part once, in no incarnation twice."""
    world = World(3)
    world.submit("games", 4)
    settle(world)
    for _ in range(5):
        assignment = world.desired.programs["games"].assignment
        assert assignment is not None
        part = rng.choice(assignment.runners())
        hear_of_inbox(world.observed, part, UNREAD, world.now)
        world.now += rng.choice((0.0, 0.5, 4.0))
        world.scheduler_round()
        world.check()
        if rng.random() < 0.5:
            world.quiet_second()
    settle(world)
    assert not world.observed.unread
