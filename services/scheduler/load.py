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
from services.scheduler.growth import NO_LOAD, GrowthOptions, NodeLoad
from services.scheduler.state import WantedProgram

PartKey = tuple[str, int]
"""A program, and the incarnation of a node of it, or of its sequencer."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What a part says that it has done: for how long it was at work, and rows that it took in; `state_bytes`: how much
    it keeps, `reads`: how often it was asked."""

    busy_us: int
    rows: int = 0
    reads: int = 0
    state_bytes: int = 0


@dataclass(slots=True)
class _Track:
    """Of one incarnation of a part: what it said last, and what was made of all of it."""

    done: _Done
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
        self._tracks: dict[PartKey, _Track] = {}
        self._active_at: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._heat: dict[str, tuple[int, ...]] = {}

    def hear(self, report: RunnerReport, now: float) -> None:
        """Take in a report that is not stale."""
        for sequencer in report.sequencers:
            if self._epochs.get(sequencer.program) != sequencer.epoch:
                self._epochs[sequencer.program] = sequencer.epoch
                self._active_at[sequencer.program] = now
            self._heat[sequencer.program] = sequencer.heat
            self._hear_part(sequencer.program, sequencer.incarnation, _Done(sequencer.busy_us), now)
        for status in report.nodes:
            self._hear_node(status, now)

    def _hear_node(self, status: NodeStatus, now: float) -> None:
        if status.stage == 0:  # it reads its state: what it bears will show
            self._tracks.pop((status.program, status.incarnation), None)
        done = _Done(status.busy_us, status.rows, status.reads, status.state_bytes)
        self._hear_part(status.program, status.incarnation, done, now)

    def _hear_part(self, program: str, incarnation: int, done: _Done, now: float) -> None:
        part = program, incarnation
        track = self._tracks.get(part)
        if track is None:
            self._tracks[part] = _Track(done, now, now, now)
            return
        if done.reads != track.done.reads:
            self._active_at[program] = now
        if done.rows < track.done.rows:  # it has begun again, or this report was overtaken
            track.done = done
        elif now > track.at:
            self._measure(track, done, now)

    def _measure(self, track: _Track, done: _Done, now: float) -> None:
        options, seconds = self._options, now - track.at
        busy = max(0, done.busy_us - track.done.busy_us) / 1_000_000 / seconds
        rows = (done.rows - track.done.rows) / seconds
        work = min(busy, 1.0) / options.busy_share
        if options.rows_per_second:
            work = max(work, rows / options.rows_per_second)
        track.work += (work - track.work) * (1.0 - exp(-seconds / options.smooth_seconds))
        track.done, track.at = done, now
        if now - track.half_at >= options.down_seconds / 2:
            track.peak_before, track.peak, track.half_at = track.peak, 0.0, now
        track.peak = max(track.peak, track.work)

    def of(self, program: WantedProgram) -> Iterator[NodeLoad | None]:
        """What the nodes of a program bear, by shard; None for one that has not reported in the incarnation in which it
        shall run."""
        assignment = program.assignment
        for part in assignment.nodes if assignment is not None else ():
            yield self._of(program.program, part.incarnation)

    def of_sequencer(self, program: WantedProgram) -> NodeLoad:
        """What the sequencer of a program bears; nothing while it has not reported."""
        assignment = program.assignment
        if assignment is None:
            return NO_LOAD
        return self._of(program.program, assignment.sequencer.incarnation) or NO_LOAD

    def heat(self, program: str) -> tuple[int, ...]:
        """The hashes of keys of a program that were written lately, ascending."""
        return self._heat.get(program, ())

    def _of(self, program: str, incarnation: int) -> NodeLoad | None:
        track = self._tracks.get((program, incarnation))
        if track is None:
            return None
        peak = max(track.work, track.peak, track.peak_before)
        return NodeLoad(track.work, peak, track.done.state_bytes, track.at - track.began)

    def idle_seconds(self, program: str, now: float) -> float:
        """For how long nobody has written to a program or read from it, as far as it was watched."""
        return now - self._active_at.setdefault(program, now)

    def woken(self, program: str, now: float) -> None:
        """Somebody wants something of a program."""
        self._active_at[program] = now

    def forget(self, programs: Mapping[str, WantedProgram]) -> None:
        """Forget all that is no part of these programs any more."""
        parts = {
            (name, part.incarnation)
            for name, program in programs.items()
            if program.assignment is not None
            for part in (*program.assignment.nodes, program.assignment.sequencer)
        }
        self._tracks = {part: track for part, track in self._tracks.items() if part in parts}
        self._active_at = {name: at for name, at in self._active_at.items() if name in programs}
        self._epochs = {name: epoch for name, epoch in self._epochs.items() if name in programs}
        self._heat = {name: heat for name, heat in self._heat.items() if name in programs}
