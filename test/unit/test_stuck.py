"""Who holds up a program whose reports come: the one who has what he needs, and nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dist_zero.shards import even_map
from dist_zero_common.protocol.messages.control import (
    MachineReport,
    NodeStatus,
    Placement,
    RunnerReport,
    SequencerStatus,
)
from services.scheduler.state import SEQUENCER, Assignment, Observed, Part, hear_machine, hear_runner
from services.scheduler.stuck import STUCK_SECONDS_MIN, stuck_parts

MAP = even_map(1, ["n1", "n2", "n3"])
PARTS = tuple(Part(f"m{i}", f"m{i}-r1", 1, 10 + i) for i in (1, 2, 3))
SEQ = Part("m3", "m3-r1", 1, 14)
ASSIGNMENT = Assignment(PARTS, SEQ, Placement(1, "p", 20, 9, MAP, ("a", "b", "c"), "clients", "nodes"))


def node(shard: int, finished: int, stage: int, *waits_for: int, saving: int = 0) -> NodeStatus:
    return NodeStatus("p", 9, 1, shard, 11 + shard, finished, "", False, stage, waits_for, saving)


def sequencer(epoch: int, finished: int, proposing: int = 0) -> SequencerStatus:
    return SequencerStatus("p", 14, 9, "nodes", epoch, finished, "", False, 0, proposing)


class Reports:
    """Reports of three machines, each second, as time goes by."""

    def __init__(self) -> None:
        self.observed, self.now = Observed(), 0.0

    def come(self, seconds: float, status: SequencerStatus, *nodes: NodeStatus, pause: float = 1.0) -> None:
        """The same reports, for so long."""
        end = self.now + seconds
        while self.now < end:
            self.now += pause
            for i, each in enumerate(nodes, 1):
                name = f"m{i}"
                hear_machine(self.observed, MachineReport(name, 1, "agent", 2, 1, (), ()), self.now)
                sequencers = (status,) if i == 3 else ()
                report = RunnerReport(f"{name}-r1", 1, name, "runner", (each,), sequencers)
                hear_runner(self.observed, report, self.now)

    def stuck(self) -> list[int]:
        return stuck_parts("p", ASSIGNMENT, self.observed)


LONG = STUCK_SECONDS_MIN + 2


@pytest.mark.parametrize(
    ("status", "nodes", "at_fault"),
    [
        # one has all that it needs; the others wait for it
        (sequencer(9, 4), (node(0, 4, 2), node(1, 4, 3, 1), node(2, 4, 3, 1)), [0]),
        # one is deaf: its peers are ahead, so they have sent what it lacks
        (sequencer(9, 4), (node(0, 4, 2, 2, 3), node(1, 4, 3, 1), node(2, 4, 3, 1)), [0]),
        # one does not hear the sequencer, whom the others hear
        (sequencer(9, 4), (node(0, 6, 2, 2), node(1, 4, 1, 0), node(2, 6, 2, 2)), [1]),
        # of a program of one stage: the others have gone on up to the window
        (sequencer(20, 4), (node(0, 12, 1, 0), node(1, 12, 1, 0), node(2, 4, 1)), [2]),
        # several lack the rows of one alone, who is ahead: it is mute
        (sequencer(9, 4), (node(0, 4, 2, 3), node(1, 4, 2, 3), node(2, 4, 3, 1, 2)), [2]),
        # nobody is handed out what is in the log
        (sequencer(9, 4), (node(0, 4, 1, 0), node(1, 4, 1, 0), node(2, 4, 1, 0)), [SEQUENCER]),
        # all are done, and the sequencer does not hear it
        (sequencer(9, 4), (node(0, 9, 1, 0), node(1, 9, 1, 0), node(2, 9, 1, 0)), [SEQUENCER]),
        # all are at the same place: the one that lacks nothing does not run it
        (sequencer(9, 4), (node(0, 4, 2), node(1, 4, 2, 3), node(2, 4, 2, 2)), [0]),
        # all wait for each other: it is the network
        (sequencer(9, 4), (node(0, 4, 2, 2), node(1, 4, 2, 3), node(2, 4, 2, 1)), []),
        # one reads its state
        (sequencer(9, 4), (node(0, 0, 0), node(1, 4, 2, 1), node(2, 4, 2, 1)), []),
        # nothing to do
        (sequencer(9, 9), (node(0, 9, 1, 0), node(1, 9, 1, 0), node(2, 9, 1, 0)), []),
        # a save that does not arrive, where those of others do; and a record
        (sequencer(9, 9), (node(0, 9, 1, 0, saving=8), node(1, 9, 1, 0), node(2, 9, 1, 0)), [0]),
        (sequencer(9, 9, 10), (node(0, 9, 1, 0), node(1, 9, 1, 0), node(2, 9, 1, 0)), [SEQUENCER]),
        # the store does not answer anybody
        (sequencer(9, 9, 10), (node(0, 9, 1, 0, saving=8), node(1, 9, 1, 0), node(2, 9, 1, 0)), []),
    ],
)
def test_who_is_at_fault(status: SequencerStatus, nodes: tuple[NodeStatus, ...], at_fault: list[int]) -> None:
    """After long enough of the same reports, and not before."""
    reports = Reports()
    reports.come(STUCK_SECONDS_MIN - 5, status, *nodes)
    assert reports.stuck() == []
    reports.come(8, status, *nodes)
    assert reports.stuck() == at_fault


def test_who_moves_holds_up_nobody() -> None:
    """An epoch each 20 seconds is an epoch; and where epochs take longer, longer is waited for the next."""
    reports = Reports()
    for epoch in range(4, 12):
        reports.come(20, sequencer(20, epoch), node(0, epoch, 1), node(1, epoch, 2, 1), node(2, epoch, 2, 1))
        assert reports.stuck() == []
    for epoch in (12, 13):
        held = sequencer(20, epoch), node(0, epoch, 1), node(1, epoch, 2, 1), node(2, epoch, 2, 1)
        reports.come(55, *held)
        assert reports.stuck() == []
    reports.come(60, *held)
    assert reports.stuck() == [], "epochs took a minute before: two are not long"
    reports.come(100, *held)
    assert reports.stuck() == [0]


def test_what_was_not_reported_is_not_held_against_anybody() -> None:
    """A scheduler that slept, or a runner that was not heard of, is no proof that nothing moved."""
    held = sequencer(9, 4), node(0, 4, 2), node(1, 4, 3, 1), node(2, 4, 3, 1)
    reports = Reports()
    reports.come(10, *held)
    reports.now += 300
    assert reports.stuck() == []
    reports.observed.listening_since = reports.now
    reports.come(30, *held)
    assert reports.stuck() == []


def test_another_incarnation_is_given_its_time() -> None:
    """A part that was placed anew has not held up anybody yet; a halted program is another matter."""
    status, held, others = sequencer(9, 4), node(0, 4, 2), (node(1, 4, 3, 1), node(2, 4, 3, 1))
    reports = Reports()
    reports.come(LONG, status, held, *others)
    assert reports.stuck() == [0]
    reports.come(1, status, replace(held, incarnation=30), *others)
    assert reports.stuck() == []
    reports.come(LONG, status, replace(held, halted="why"), *others)
    assert reports.stuck() == []
