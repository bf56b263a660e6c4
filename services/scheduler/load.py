"""What nodes bear, from what runners report: averages and peaks. Deterministic; the time of each report is passed in.

A report counts what a node has done since it is where it is. Two reports make a rate, and rates an average that
forgets; the largest average of a window is the peak. The window is kept in two halves, so a peak is remembered for at
least half of the window and at most for all of it, with two numbers per node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp

from dist_zero_common.protocol.messages.control import NodeStatus, RunnerReport
from services.scheduler.growth import GrowthOptions, NodeLoad
from services.scheduler.state import WantedProgram

Node = tuple[str, int]
"""A program, and the incarnation of a node of it."""


@dataclass(slots=True)
class _Track:
    """Of one incarnation of a node: its newest report, and what was made of all of them."""

    status: NodeStatus
    began: float
    at: float
    half_at: float
    work: float = 0.0
    peak: float = 0.0
    peak_before: float = 0.0


class Loads:
    """Of all nodes of all programs."""

    def __init__(self, options: GrowthOptions) -> None:
        self._options = options
        self._tracks: dict[Node, _Track] = {}
        self._active_at: dict[str, float] = {}
        self._epochs: dict[str, int] = {}

    def hear(self, report: RunnerReport, now: float) -> None:
        """Take in a report that is not stale."""
        for sequencer in report.sequencers:
            if self._epochs.get(sequencer.program) != sequencer.epoch:
                self._epochs[sequencer.program] = sequencer.epoch
                self._active_at[sequencer.program] = now
        for status in report.nodes:
            self._hear_node(status, now)

    def _hear_node(self, status: NodeStatus, now: float) -> None:
        node = status.program, status.incarnation
        track = self._tracks.get(node)
        if track is None or status.stage == 0:  # it reads its state: what it bears will show
            self._tracks[node] = _Track(status, now, now, now)
            return
        if status.reads != track.status.reads:
            self._active_at[status.program] = now
        if status.rows < track.status.rows:  # it has begun again, or this report was overtaken
            track.status = status
        elif now > track.at:
            self._measure(track, status, now)

    def _measure(self, track: _Track, status: NodeStatus, now: float) -> None:
        options, seconds = self._options, now - track.at
        busy = max(0, status.busy_us - track.status.busy_us) / 1_000_000 / seconds
        rows = (status.rows - track.status.rows) / seconds
        work = min(busy, 1.0) / options.busy_share
        if options.rows_per_second:
            work = max(work, rows / options.rows_per_second)
        track.work += (work - track.work) * (1.0 - exp(-seconds / options.smooth_seconds))
        track.status, track.at = status, now
        if now - track.half_at >= options.down_seconds / 2:
            track.peak_before, track.peak, track.half_at = track.peak, 0.0, now
        track.peak = max(track.peak, track.work)

    def of(self, program: WantedProgram) -> Iterator[NodeLoad | None]:
        """What the nodes of a program bear, by shard; None for one that has not reported in the incarnation in which it
        shall run."""
        assignment = program.assignment
        for part in assignment.nodes if assignment is not None else ():
            track = self._tracks.get((program.program, part.incarnation))
            if track is None:
                yield None
            else:
                peak = max(track.work, track.peak, track.peak_before)
                yield NodeLoad(track.work, peak, track.status.state_bytes, track.at - track.began)

    def idle_seconds(self, program: str, now: float) -> float:
        """For how long nobody has written to a program or read from it, as far as it was watched."""
        return now - self._active_at.setdefault(program, now)

    def woken(self, program: str, now: float) -> None:
        """Somebody wants something of a program."""
        self._active_at[program] = now

    def forget(self, programs: Mapping[str, WantedProgram]) -> None:
        """Forget all that is no node of these programs any more."""
        nodes = {
            (name, part.incarnation)
            for name, program in programs.items()
            if program.assignment is not None
            for part in program.assignment.nodes
        }
        self._tracks = {node: track for node, track in self._tracks.items() if node in nodes}
        self._active_at = {name: at for name, at in self._active_at.items() if name in programs}
        self._epochs = {name: epoch for name, epoch in self._epochs.items() if name in programs}
