"""Parts that are alive and do not get on: who holds up a program whose reports come. Pure.

A program is held up when its sequencer has epochs that are not finished, and finishes none for long. Everybody waits
then, because nodes need each other's rows, and the sequencer hands out only so far ahead; so that somebody waits says
little. Each node reports its *position*, the epoch behind the newest that it has finished and the first stage of that
which it has not run, and whose rows it lacks for it. A node at the lowest position has been sent all that it needs:
its peers have run whatever is before that. So it is at fault, if it is alone there or lacks nothing, unless several
lack the rows of one and the same peer: that one is mute. Where all nodes wait for the next hand-out, or are done with
what there is, the sequencer is at fault. Where all wait for each other, it is the network, and nobody is.

Besides, a part may wait for its store alone: a save or a record that is on its way for long, while no part on another
runner waits like that.

**Slow is not lost.** Long is a minute at least, and three times as long as the program took for an epoch lately, up to
five minutes. A node that reads its state is given all the time that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dist_zero_common.protocol.messages.control import NodeStatus, SequencerStatus
from services.scheduler.state import SEQUENCER, Assignment, Observed, Part, RunnerSeen, SequencerSeen

STUCK_SECONDS_MIN, STUCK_SECONDS_MAX = 60.0, 300.0
STUCK_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class _Node:
    """A node that runs where it is wanted; `steps` and `store` are for how long both have been as they are."""

    status: NodeStatus
    runner: str
    steps: float
    store: float

    @property
    def position(self) -> tuple[int, int]:
        return self.status.finished_epoch + 1, self.status.stage


def stuck_parts(program: str, assignment: Assignment, observed: Observed) -> list[int]:
    """The shards whose nodes hold up the program, or `SEQUENCER`."""
    sequencer = _sequencer(program, assignment, observed)
    if sequencer is None:
        return []
    seen, runner = sequencer
    nodes = list(_nodes(program, assignment, observed))
    if len(nodes) < len(assignment.nodes) or any(node.status.halted for node in nodes):
        return []  # it is starting, or halted, which is another matter
    patience = min(max(STUCK_SECONDS_MIN, STUCK_FACTOR * seen.gap), STUCK_SECONDS_MAX)
    waiting = _waiting_for_store(program, nodes, seen, runner, observed, patience)
    if waiting:
        return waiting
    held = runner.at - max(seen.moved_at, observed.listening_since)
    if seen.status.finished_epoch >= seen.status.epoch or held < patience:
        return []
    return _at_fault(nodes, seen.status, patience)


def _at_fault(nodes: list[_Node], sequencer: SequencerStatus, patience: float) -> list[int]:
    if any(node.status.stage == 0 for node in nodes):
        return []  # it reads its state
    lowest = min(node.position for node in nodes)
    behind = [node for node in nodes if node.position == lowest]
    if any(node.steps < patience for node in behind):
        return []
    everybody = len(behind) == len(nodes)
    wait_for_hand_out = all(node.status.waits_for == (0,) for node in behind)
    if lowest[0] > sequencer.epoch or (everybody and wait_for_hand_out):
        return [SEQUENCER]
    idle = [node.status.shard for node in behind if not node.status.waits_for]
    if idle:
        return idle
    lacking = {node.status.waits_for for node in behind}
    if len(behind) > 1 and len(lacking) == 1 and len(behind[0].status.waits_for) == 1:
        mute = behind[0].status.waits_for[0]
        if 0 < mute <= len(nodes):
            return [mute - 1]
    return [] if everybody else [node.status.shard for node in behind]


def _waiting_for_store(
    program: str,
    nodes: list[_Node],
    sequencer: SequencerSeen,
    runner: RunnerSeen,
    observed: Observed,
    patience: float,
) -> list[int]:
    """The parts whose store does not answer, if all of them are on one runner."""
    found = {
        node.status.shard: node.runner for node in nodes if node.status.saving and node.store >= patience
    }
    recorded = _since(runner, (program, SEQUENCER, "store"), observed)
    if sequencer.status.proposing and recorded >= patience:
        found[SEQUENCER] = runner.report.runner
    return list(found) if len(frozenset(found.values())) == 1 else []


def _sequencer(
    program: str, assignment: Assignment, observed: Observed
) -> tuple[SequencerSeen, RunnerSeen] | None:
    runner = _runner(assignment.sequencer, observed)
    seen = runner.sequencers.get(program) if runner is not None else None
    if runner is None or seen is None or seen.status.incarnation != assignment.sequencer.incarnation:
        return None
    return None if seen.status.halted else (seen, runner)


def _nodes(program: str, assignment: Assignment, observed: Observed) -> Iterator[_Node]:
    for shard, part in enumerate(assignment.nodes):
        runner = _runner(part, observed)
        status = runner.nodes.get((program, shard)) if runner is not None else None
        if runner is not None and status is not None and status.incarnation == part.incarnation:
            steps = _since(runner, (program, shard, "steps"), observed)
            yield _Node(status, part.runner, steps, _since(runner, (program, shard, "store"), observed))


def _runner(part: Part, observed: Observed) -> RunnerSeen | None:
    seen = observed.runners.get(part.runner)
    return seen if seen is not None and seen.report.incarnation == part.runner_incarnation else None


def _since(runner: RunnerSeen, key: tuple[str, int, str], observed: Observed) -> float:
    """For how long reports have said the same: between the first and the last one that did."""
    moved = runner.moves.get(key)
    return runner.at - max(moved.at, observed.listening_since) if moved is not None else 0.0
