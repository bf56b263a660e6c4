"""Changes of programs: what a submission of another program under a name means, and when a change goes on. Pure.

A change takes two generations. In the first one the new program *takes the place* of the one before: that goes on and
is shown, and the new views are filled beside it. When a base has all of that, the second generation runs the new
program alone. Where nothing is to be filled, the second one comes at once. What each generation runs is written down
with its placement, and decided by the record of the log that opens it; if that has another base than we thought, its
sequencer says what it needs, and that is wanted then.

Each step takes the next version of the shard map, though no interval changes: messages that carry the version of a map
are then of one program, and numbers of views and operators in them can be told.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from dist_zero.changes import Description, described
from dist_zero.compiler import compile
from dist_zero.compiler.change import slices_of
from dist_zero.expr.changes import behind, in_place_of, live
from dist_zero.expr.graph import decode_graph, encode_graph, fingerprint
from dist_zero.expr.ops import Graph
from dist_zero_common.errors import DistZeroError, RequestError
from dist_zero_common.protocol.messages.control import SequencerStatus
from dist_zero_common.protocol.messages.requests import ChangeWanted, ProgramChange
from dist_zero_common.protocol.stored import Base
from services.scheduler.state import Observed, WantedProgram, sequencer_of

_KEPT = 64


def submitted(program: WantedProgram, graph: bytes, change: ChangeWanted | None) -> WantedProgram:
    """The program as it is to be when somebody submits this one under its name; the same object if that changes
    nothing. Raises `RequestError`, above all if it is another program and `change` is not there."""
    if is_target(program, graph) or (change is None and is_live(program, graph)):
        return program
    if change is None:
        raise RequestError(different_program(program.program))
    description = _description(program, graph, change)
    if description.refusals:
        raise RequestError("; ".join(description.refusals))
    return program if change.only_tells else with_graph(program, _graph_of(program, graph))


def change_of(
    program: WantedProgram, graph: bytes, change: ChangeWanted, observed: Observed
) -> ProgramChange | None:
    """What the change to a program that was submitted does, and how far it is; None if it is through."""
    if is_target(program, graph) and not is_changing(program):
        return None
    assignment = program.assignment
    shown = live_graph(program.graph if assignment is None else assignment.graph)
    lines = _described(shown, graph, change.drops, change.begins_empty).lines
    status = _status(program, observed)
    slices, filled = (status.slices, status.filled) if status is not None else (0, 0)
    return ProgramChange(lines, slices, filled)


def change_to_stored(program: str, base: Base, graph: bytes, change: ChangeWanted) -> ProgramChange:
    """What it does to run a program from now on that the store knows by this base, and that nobody runs. Raises
    `RequestError` if it cannot become that."""
    fingerprint_there = target_fingerprint(base.graph)
    stored = WantedProgram(program, base.graph, fingerprint_there, base.shard_map, since=0.0)
    submitted(stored, graph, change)
    return change_of(stored, graph, change, Observed()) or ProgramChange((), 0, 0)


def is_changing(program: WantedProgram) -> bool:
    """Whether a program does not run yet as it was submitted last."""
    assignment = program.assignment
    return takes_place(program.graph) or (assignment is not None and assignment.graph != program.graph)


def went_on(program: WantedProgram, observed: Observed) -> WantedProgram:
    """The program with the next step of its change, if the one before is through; the same object if not."""
    status = _status(program, observed)
    if status is None or program.assignment is None or program.assignment.graph != program.graph:
        return program
    if status.needs:
        needs = _checked_needs(program, status.needs)
        return program if needs is None else with_graph(program, needs)
    if status.halted or not status.slices or status.filled < status.slices:
        return program
    return with_graph(program, _target_graph(program.graph))


def with_graph(program: WantedProgram, graph: bytes) -> WantedProgram:
    """The program as the next generation is to run it."""
    if graph == program.graph:
        return program
    shard_map = replace(program.shard_map, version=program.shard_map.version + 1)
    return replace(program, graph=graph, fingerprint=target_fingerprint(graph), shard_map=shard_map)


def is_target(program: WantedProgram, graph: bytes) -> bool:
    """Whether a program that somebody has is the one that this is, or comes to be."""
    return _in_place(graph, _target_graph(program.graph)) == program.fingerprint


def is_live(program: WantedProgram, graph: bytes) -> bool:
    """Whether a program that somebody has is the one whose views are shown now."""
    shown = live_graph(program.assignment.graph if program.assignment is not None else program.graph)
    return _in_place(graph, shown) == target_fingerprint(shown)


def different_program(program: str) -> str:
    """What a person is told who submits another program under a name that has one."""
    return (
        f"there is another program {program!r} already; dist-zero up --dry-run says what a change to this one would"
        " keep, fill and drop, and dist-zero up changes it (embedded: change=dz.MayChange()). Or submit it under"
        " another name"
    )


# ---- graphs ----------------------------------------------------------------------------------------------------


@lru_cache(_KEPT)
def live_graph(graph: bytes) -> bytes:
    """The program whose views are shown while this one runs."""
    return encode_graph(live(decode_graph(graph)))


@lru_cache(_KEPT)
def _target_graph(graph: bytes) -> bytes:
    """The program that this one comes to be."""
    return encode_graph(behind(decode_graph(graph)))


@lru_cache(_KEPT)
def target_fingerprint(graph: bytes) -> str:
    """The fingerprint of the program that this one comes to be. Raises `RequestError` if it is none that can run."""
    try:
        decoded = decode_graph(graph)
        compile(decoded)
        return fingerprint(behind(decoded))
    except (DistZeroError, RecursionError) as wrong:
        raise RequestError(f"this is no program that can run: {wrong}") from wrong


@lru_cache(_KEPT)
def takes_place(graph: bytes) -> bool:
    """Whether a program takes the place of another."""
    return decode_graph(graph).before is not None


@lru_cache(_KEPT)
def _in_place(graph: bytes, before: bytes) -> str:
    return fingerprint(in_place_of(decode_graph(graph), decode_graph(before)))


def _graph_of(program: WantedProgram, graph: bytes) -> bytes:
    """What the next generation is to run, so that `graph` takes the place of what is shown now."""
    shown = live(decode_graph(program.graph))
    after = in_place_of(decode_graph(graph), shown)
    if fingerprint(after) == fingerprint(shown):
        return encode_graph(shown)  # a change that is not through is taken back
    taking = replace(after, before=shown)
    return encode_graph(taking if _slices(taking) else after)


def _slices(graph: Graph) -> int:
    return slices_of(compile(graph))


def _description(program: WantedProgram, graph: bytes, change: ChangeWanted) -> Description:
    shown = live_graph(program.graph)
    return _described(shown, graph, change.drops, change.begins_empty)


@lru_cache(_KEPT)
def _described(shown: bytes, graph: bytes, drops: bool, begins_empty: tuple[str, ...]) -> Description:
    before = decode_graph(shown)
    return described(before, in_place_of(decode_graph(graph), before), drops=drops, begins_empty=begins_empty)


def _status(program: WantedProgram, observed: Observed) -> SequencerStatus | None:
    """What the sequencer of the program's newest generation reports."""
    assignment = program.assignment
    if assignment is None:
        return None
    seen = sequencer_of(program.program, assignment.sequencer, observed)
    known = seen is not None and seen.status.generation == assignment.placement.generation
    return seen.status if seen is not None and known else None


def _checked_needs(program: WantedProgram, needs: bytes) -> bytes | None:
    """What a sequencer says that it needs, if that is a step to the program that is wanted."""
    try:
        return needs if target_fingerprint(needs) == program.fingerprint else None
    except RequestError:
        return None
