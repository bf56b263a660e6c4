"""What the scheduler makes of reports that come twice, late and in another order."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dist_zero_common.broker.topology import agent_inbox
from dist_zero_common.protocol.messages.control import MachineReport, RunnerStatus
from services.scheduler.state import Heard, Observed, hear_machine

SYSTEM = "test"


@given(st.randoms(use_true_random=False), st.integers(2, 12))
def test_machine_reports_come_to_the_same_in_any_order(rng: random.Random, count: int) -> None:
    """Of the reports of one machine, doubled and shuffled, the newest is what is known in the end, and each that was
    older than what was known is refused."""
    reports, incarnation, runner = [], 1, RunnerStatus("m1-r1", 0, alive=False)
    for _ in range(count):
        match rng.randrange(3):
            case 0:
                incarnation, runner = incarnation + 1, replace(runner, incarnation=runner.incarnation + 1)
            case 1:
                runner = RunnerStatus("m1-r1", runner.incarnation + 1, alive=True)
            case 2:
                runner = replace(runner, alive=False)
        reports.append(MachineReport("m1", incarnation, agent_inbox(SYSTEM, "m1"), 2, 1, (), (runner,)))
    shuffled = rng.sample(reports * 2, count * 2)
    observed, newest = Observed(), -1
    for report in shuffled:
        place = max(index for index, other in enumerate(reports) if other == report)
        heard = hear_machine(observed, report, 0.0)
        assert (heard is Heard.STALE) == (place < newest)
        newest = max(newest, place)
    assert observed.machines["m1"].report == reports[-1]
