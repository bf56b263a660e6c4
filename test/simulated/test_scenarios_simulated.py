"""Scenarios, each a fault plan by hand: what goes wrong, how often, and that all laws hold all the same.

`test/unit/test_scenarios.py` has the table of all scenarios, and which tests each of them is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from dist_zero.testing import SeedOptions, SeedResult, run_seed
from dist_zero_common.sim.plan import Fault, FaultPlan
from test.simulated.property_world import PROGRAMS

Faults = Iterable[Fault]


@dataclass(frozen=True)
class Scenario:
    """Faults, until when they last, and what they must have brought about: events, by how often at least; `never`:
    what must not have been needed."""

    faults: tuple[Fault, ...]
    horizon_seconds: float
    brings: dict[str, int] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    machines: int = 3


@dataclass(frozen=True, slots=True)
class Planned(SeedOptions):
    """A seed draws the network and the data, and not what goes wrong."""

    planned: FaultPlan = field(default_factory=lambda: FaultPlan(1.0, ()))

    def plan(self, seed: int) -> FaultPlan:  # noqa: ARG002 (is the same for all)
        return self.planned


def _plan(horizon: float, *faults: Fault, **others: object) -> Scenario:
    ordered = tuple(sorted(faults, key=lambda fault: fault.at_seconds))
    return Scenario(ordered, horizon, **others)  # type: ignore[arg-type]


def _every(seconds: float, count: int, fault: Callable[[float], Fault], first: float = 1.0) -> Faults:
    return (fault(first + seconds * number) for number in range(count))


EVERYBODY = ("runner", "sequencer", "machine", "agent", "scheduler", "writer", "watcher")

SCENARIOS = {
    "the_same_runner_is_killed_thirty_times": _plan(
        130.0,
        *_every(4.0, 30, lambda at: Fault("crash", at, "runner", 0)),
        brings={"runner_died": 20, "node_begun": 20},
    ),
    "killed_while_it_begins_again": _plan(
        60.0,
        # The first one loses what it has; the others fall between the steps of whoever takes it up.
        *(
            Fault("crash", 5.0 + 9.0 * round_ + 0.6 * again, "runner", again, steps=7 * again + round_)
            for round_ in range(5)
            for again in range(5)
        ),
        brings={"runner_died": 15},
    ),
    "killed_between_write_and_answer": _plan(
        80.0,
        *(
            Fault("ambush", 2.0 + 9.0 * number, target, 0, f"{moment} {part}")
            for number, (target, moment, part) in enumerate(
                [
                    ("sequencer", "before", "log"),
                    ("sequencer", "after", "log"),
                    ("sequencer", "before", "base"),
                    ("sequencer", "after", "base"),
                    ("sequencer", "before", "checkpoints"),
                    ("sequencer", "after", "checkpoints"),
                    ("sequencer", "after", "log"),
                    ("sequencer", "before", "log"),
                ]
            )
        ),
        brings={
            "ambush after log": 1,
            "ambush before log": 1,
            "ambush after checkpoints": 1,
            "runner_died": 4,
        },
    ),
    "connections_that_flap": _plan(
        60.0,
        *_every(1.1, 50, lambda at: Fault("partition", at, "runner", round(at) % 3, "both", 0.4)),
        brings={"partition both": 40, "broker_lost": 30},
    ),
    "one_way_partitions_of_some_one_after_the_other": _plan(
        60.0,
        *_every(3.0, 9, lambda at: Fault("partition", at, "runner", round(at) % 3, "sends", 8.0)),
        *_every(
            3.0, 9, lambda at: Fault("partition", at, "machine", round(at) % 3, "receives", 8.0), first=2.5
        ),
        brings={"partition sends": 6, "partition receives": 6},
    ),
    "a_store_that_is_slow_for_thirty_seconds": _plan(
        50.0,
        Fault("store", 3.0, variant="slow", duration_seconds=30.0, amount=5.0),
        never=("sequencer_deposed",),
    ),
    "a_store_that_refuses_everything_for_a_while": _plan(
        50.0,
        Fault("store", 3.0, variant="fails", duration_seconds=20.0, amount=1.0),
        Fault("store", 30.0, variant="denies", duration_seconds=10.0, amount=1.0),
        brings={"store_failed": 10},
    ),
    "a_store_that_tears_while_all_are_killed": _plan(
        60.0,
        Fault("store", 1.0, variant="tears", duration_seconds=40.0, amount=0.3),
        *_every(12.0, 4, lambda at: Fault("crash", at, "machine", round(at) % 3), first=6.0),
        brings={"checkpoint_damaged": 1},
    ),
    "the_newest_base_is_damaged_again_and_again": _plan(
        90.0,
        *_every(
            15.0, 5, lambda at: Fault("damage", at, variant=("flipped", "cut", "gone")[round(at) % 3]), 6.0
        ),
        brings={"base_damaged": 2, "generation_opened": 3},
    ),
    "ten_wishes_at_once_while_processes_die": _plan(
        70.0,
        *_every(
            0.05,
            10,
            lambda at: Fault("reshard", at, duration_seconds=20.0, amount=1 + round(20 * at) % 6),
            3.0,
        ),
        *_every(
            7.0, 7, lambda at: Fault("crash", at, EVERYBODY[round(at) % 7], 0, steps=round(13 * at)), 3.1
        ),
        *_every(
            0.05,
            10,
            lambda at: Fault("reshard", at, duration_seconds=20.0, amount=1 + round(20 * at) % 6),
            30.0,
        ),
        brings={"reshard": 20, "map_changed": 1},
    ),
    "killed_at_each_step_of_a_change_of_nodes": _plan(
        120.0,
        *(
            fault
            for number, target in enumerate(
                ("runner", "sequencer", "scheduler", "machine", "agent") * 2 + ("runner",)
            )
            for at in (3.0 + 10.0 * number,)
            for fault in (
                Fault("reshard", at, duration_seconds=10.0, amount=(5, 2, 6, 1)[number % 4]),
                Fault("crash", at + 0.01 + 0.25 * (number % 5), target, number, steps=11 * number),
            )
        ),
        brings={"reshard": 10, "map_changed": 3, "crash": 10},
    ),
    "clocks_jump_by_an_hour_and_back": _plan(
        60.0,
        *_every(
            4.0,
            12,
            lambda at: Fault(
                "clock", at, "machine", round(at) % 3, amount=(3_600.0, -3_600.0)[round(at) % 2]
            ),
        ),
        *_every(9.0, 5, lambda at: Fault("clock", at, "scheduler", 0, amount=600.0)),
        brings={"clock": 12},
        never=("sequencer_deposed", "runner_died", "inbox_unread", "silent"),
    ),
    "a_watcher_that_stands_still_for_minutes": _plan(
        260.0,
        Fault("pause", 2.0, "watcher", duration_seconds=120.0),
        Fault("crash", 130.0, "watcher"),
        Fault("pause", 140.0, "watcher", duration_seconds=14.0),
        Fault("partition", 160.0, "watcher", 0, "receives", 60.0),
        brings={"pause": 2, "crash": 1},
        never=("sequencer_deposed",),
    ),
    "every_message_comes_twice_and_writers_die": _plan(
        50.0,
        Fault("duplicate", 0.0, duration_seconds=50.0, amount=1.0),
        *_every(2.0, 20, lambda at: Fault("crash", at, "writer", round(at) % 3, steps=round(7 * at) % 90)),
        brings={"duplicate": 500},
    ),
    "all_are_killed_at_once_and_the_broker_is_replaced": _plan(
        60.0,
        *(
            Fault(kind, at, target, index, "replaced" if kind == "broker" else "")
            for at in (4.0, 25.0)
            for kind, target, index in (
                *(("crash", "machine", number) for number in (2, 1, 0)),
                ("crash", "scheduler", 0),
                *(("crash", "writer", number) for number in (2, 1, 0)),
                ("crash", "watcher", 0),
                ("broker", "", 0),
            )
        ),
        brings={"broker replaced": 2, "scheduler_started": 3, "node_begun_with_state": 1},
    ),
    "a_broker_that_forgets_while_runners_die": _plan(
        60.0,
        *_every(10.0, 5, lambda at: Fault("broker", at, variant="forgets", duration_seconds=1.0), 3.0),
        *_every(10.0, 5, lambda at: Fault("crash", at, "sequencer", 0, steps=round(at)), 2.99),
        brings={"broker forgets": 5, "sequencer_started": 3},
    ),
    "who_hosts_the_sequencer_sleeps_and_others_take_over": _plan(
        90.0,
        *_every(
            28.0,
            3,
            lambda at: Fault(
                "ambush",
                at,
                "sequencer",
                0,
                "before log cut" if at < 40 else "before log",
                20.0,
                amount=0.001,
            ),
            2.0,
        ),
        brings={"ambush before log": 2, "sequencer_deposed": 1},
    ),
}


def lived(scenario: Scenario, seed: int) -> SeedResult:
    planned = FaultPlan(scenario.horizon_seconds, scenario.faults)
    options = Planned(machines=scenario.machines, transactions=45, planned=planned)
    return run_seed(PROGRAMS[3], seed, options)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_simulated(name: str) -> None:
    """All laws hold, and what is meant to happen has happened (I7)."""
    _hold(SCENARIOS[name], range(1))


@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_long_scenario_simulated(name: str) -> None:
    """The same in other weather and with other data."""
    _hold(SCENARIOS[name], range(1, 8))


def _hold(scenario: Scenario, seeds: range) -> None:
    results = [lived(scenario, seed) for seed in seeds]
    assert [failure.text for result in results for failure in result.failures] == []
    counts = [Counter(result.events) + Counter(result.faults) for result in results]
    for event, least in scenario.brings.items():
        most = max(
            sum(count for kind, count in each.items() if kind == event or kind.startswith(f"{event} "))
            for each in counts
        )
        assert most >= least, f"{event} came {most} times"
    for event in scenario.never:
        assert all(event not in each for each in counts), event
