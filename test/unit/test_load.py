"""What the scheduler makes of what runners report of their nodes: averages, peaks, how long nobody wanted anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.shards import even_map
from dist_zero_common.protocol.messages.control import NodeStatus, Placement, RunnerReport, SequencerStatus
from services.scheduler.growth import NO_LOAD, GrowthOptions, NodeLoad
from services.scheduler.load import Loads
from services.scheduler.state import Assignment, Part, WantedProgram

OPTIONS = GrowthOptions(rows_per_second=100.0, smooth_seconds=5.0, down_seconds=60.0)
PART = Part("m1", "m1-r1", 1, 7)
PLACEMENT = Placement(1, "p", 8, 1, even_map(1, ["n1"]), ("",), "", "")
SEQUENCER = Part("m1", "m1-r1", 1, 6)
PROGRAM = WantedProgram("p", b"", "", even_map(1, ["n1"]), 0.0, Assignment((PART,), SEQUENCER, PLACEMENT))
HUGE = 2**64 - 1


def report(
    rows: int,
    busy_us: int = 0,
    reads: int = 0,
    epoch: int = 1,
    incarnation: int = 7,
    stage: int = 1,
    sequencer_us: int = 0,
) -> RunnerReport:
    node = NodeStatus("p", 1, 1, 0, incarnation, 1, "", False, stage, (), 0, rows, busy_us, reads, 9)
    sequencer = SequencerStatus("p", 6, 1, "", epoch, epoch, "", busy_us=sequencer_us)
    return RunnerReport("m1-r1", 1, "m1", "", (node,), (sequencer,))


def of(loads: Loads) -> NodeLoad:
    (load,) = loads.of(PROGRAM)
    assert load is not None
    return load


@given(st.floats(0, 10), st.lists(st.floats(0.2, 3.0), min_size=30, max_size=60))
def test_a_steady_rate_is_what_it_is_whenever_reports_come(rate: float, gaps: list[float]) -> None:
    """After a while the average is the rate, and so is the peak, which never is less."""
    loads, now = Loads(OPTIONS), 0.0
    loads.hear(report(0), now)
    for gap in gaps:
        now += gap
        loads.hear(report(round(100 * rate * now)), now)
        assert of(loads).work <= of(loads).work_peak
    weight = pytest.approx(rate, rel=0.15 if now > 15 else 1.0, abs=0.2)
    assert of(loads).work == weight
    assert of(loads).seconds == pytest.approx(now)


@given(st.integers(0, 59))
def test_a_peak_is_remembered_for_half_of_the_window_at_least(offset: int) -> None:
    """And is forgotten after all of it."""
    loads, rows, now = Loads(OPTIONS), 0, 0.0

    def second(rate: int) -> None:
        nonlocal rows, now
        rows, now = rows + rate, now + 1.0
        loads.hear(report(rows), now)

    for _ in range(offset + 1):
        second(0)
    for _ in range(20):
        second(500)
    high = of(loads).work
    assert high > 4
    for _ in range(29):
        second(0)
        assert of(loads).work_peak == high
    assert of(loads).work < 0.1
    for _ in range(50):
        second(0)
    assert of(loads).work_peak < 0.1


def test_the_share_of_time_counts_like_rows_do() -> None:
    """The larger one counts, and no node is busy for more than all of its time."""
    loads = Loads(OPTIONS)
    for second in range(60):
        loads.hear(report(10 * second, busy_us=300_000 * second), float(second))
    assert of(loads).work == pytest.approx(0.5, rel=0.01)
    for second in range(60, 120):
        loads.hear(report(10 * second, busy_us=9_000_000 * second), float(second))
    assert of(loads).work == pytest.approx(1 / OPTIONS.busy_share, rel=0.01)


def test_a_sequencer_bears_what_it_is_busy_for() -> None:
    """By the same target as a node; before it is heard of, nothing. What is no part of the program is forgotten, and it
    is one."""
    loads = Loads(OPTIONS)
    assert loads.of_sequencer(PROGRAM) == NO_LOAD
    for second in range(60):
        loads.hear(report(0, sequencer_us=300_000 * second), float(second))
        loads.forget({"p": PROGRAM})
    assert loads.of_sequencer(PROGRAM).work == pytest.approx(0.5, rel=0.01)
    assert of(loads).work == 0.0
    loads.forget({})
    assert loads.of_sequencer(PROGRAM) == NO_LOAD


def test_a_node_that_begins_again_or_a_report_that_is_overtaken_is_no_load() -> None:
    """Counts that go back measure nothing, and those of another incarnation are of another node."""
    loads = Loads(OPTIONS)
    loads.hear(report(1_000_000), 0.0)
    loads.hear(report(0), 1.0)
    loads.hear(report(100), 2.0)
    assert of(loads).work < 0.5
    loads.hear(report(HUGE, HUGE, incarnation=8), 3.0)
    assert of(loads).work < 0.5


def test_a_node_that_reads_its_state_has_not_been_seen_yet() -> None:
    """However long that takes: it is not idle, it has not begun."""
    loads = Loads(OPTIONS)
    for second in range(300):
        loads.hear(report(0, stage=0), float(second))
    assert of(loads).seconds == 0.0
    loads.hear(report(0), 300.0)
    assert of(loads).seconds == 1.0


def test_whoever_is_written_to_or_read_from_is_not_idle() -> None:
    """A program is idle since its newest epoch, its newest read, or since it was woken or first looked at."""
    loads = Loads(OPTIONS)
    loads.hear(report(0), 10.0)
    assert loads.idle_seconds("p", 15.0) == 5.0
    loads.hear(report(0, epoch=2), 20.0)
    loads.hear(report(0, epoch=2), 25.0)
    assert loads.idle_seconds("p", 25.0) == 5.0
    loads.hear(report(0, epoch=2, reads=1), 30.0)
    assert loads.idle_seconds("p", 31.0) == 1.0
    loads.woken("p", 40.0)
    assert loads.idle_seconds("p", 41.0) == 1.0
    assert loads.idle_seconds("q", 50.0) == 0.0
    loads.forget({})
    assert loads.idle_seconds("p", 60.0) == 0.0
    assert list(loads.of(PROGRAM)) == [None]


def test_lies_of_a_runner_are_numbers_like_others() -> None:
    """However large: growth bounds what comes of them."""
    loads = Loads(OPTIONS)
    loads.hear(report(0), 0.0)
    loads.hear(report(HUGE, HUGE, HUGE), 1e-9)
    assert of(loads).work > 1e6
