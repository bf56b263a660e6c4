"""The schedulers' log: what its records say, and what has been decided once they are read. Pure.

Several schedulers may run, and the log says which of them leads: a scheduler leads from the record with which it
claims the lead, whose place in the log is its number, until somebody else's claim. Records are create-only, so each
place is taken once, and whoever finds a place taken by another one is deposed. What a scheduler decides counts only
when it is in the log, and it commands nothing that is not there: so a scheduler that was deposed and does not know it
yet can do no more than repeat what its successor has read.

A record says what has changed, or is *complete* and says all there is: then nothing before it matters any more, and
that is collected. A claim is complete, and so is every now and then another record. What is read are therefore the
newest complete record and those behind it.

In the log is, for each program that shall run or is being removed, what a scheduler has to know that was not there when
it was decided: where its parts were placed, within which limits it grows by itself, whether it sleeps; and what was
wished for since, another number of nodes or another program, which takes its time before it is placed. Of machines:
which are drained or are to be given back, and how many are wanted where that was asked for or decided; so of hosts with
a scheduler. All the rest is asked of the store (the program
itself: base 0 of its own log) or heard from reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dist_zero_common.errors import LogDamaged
from dist_zero_common.protocol.stored import (
    RecordedMachines,
    RecordedPart,
    RecordedProgram,
    SchedulerRecord,
)
from dist_zero_common.store.layout import scheduler_record_name
from services.scheduler.state import Assignment, Desired, Part, Removal

RECORDS_PER_COMPLETE = 32
"""After so many records that say what has changed comes one that says all."""

Programs = Mapping[str, RecordedProgram]
"""What has been decided, by program."""


@dataclass(frozen=True, slots=True)
class LogState:
    """What the log says as far as it was read: up to `number`. `leader` is the number of the scheduler that leads and
    `name` its name; `complete` the newest complete record."""

    number: int = 0
    leader: int = 0
    name: str = ""
    complete: int = 0
    programs: Programs = field(default_factory=dict)
    machines: RecordedMachines = field(default_factory=RecordedMachines)


# ---- records ---------------------------------------------------------------------------------------------------


def folded(records: Iterable[SchedulerRecord]) -> LogState:
    """What these records say, of which the first is complete. Raises `LogDamaged`."""
    state = LogState()
    for record in records:
        if state.number == 0:
            state = LogState(record.number - 1, record.scheduler, record.name)
            if not record.complete:
                raise LogDamaged(f"{_named(record)} says what has changed, and what there was before is gone")
        state = with_record(state, record)
    return state


def with_record(state: LogState, record: SchedulerRecord) -> LogState:
    """What the log says with one more record. Raises `LogDamaged` if it cannot stand there."""
    if record.number != state.number + 1:
        raise LogDamaged(f"{_named(record)} cannot follow record {state.number} of the schedulers' log")
    if record.scheduler not in (record.number, state.leader):
        raise LogDamaged(f"{_named(record)} is of scheduler {record.scheduler}, and {state.leader} leads")
    programs, machines = {} if record.complete else dict(state.programs), state.machines
    if record.complete or record.machines is not None:
        machines = record.machines or RecordedMachines()
    for gone in record.removed:
        programs.pop(gone, None)
    programs.update((program.program, program) for program in record.programs)
    complete = record.number if record.complete else state.complete
    return LogState(record.number, record.scheduler, record.name, complete, programs, machines)


def claim_after(state: LogState, name: str, *, afresh: bool) -> SchedulerRecord:
    """The record with which a scheduler of this name claims the lead. `afresh`: what was decided before is void."""
    number = state.number + 1
    if afresh:
        return SchedulerRecord(number, number, name, True, (), ())
    return SchedulerRecord(number, number, name, True, _sorted(state.programs), (), state.machines)


def record_after(state: LogState, programs: Programs, machines: RecordedMachines) -> SchedulerRecord | None:
    """The record with which the leading scheduler says that this is decided, or None if the log says so already."""
    changed = {name: program for name, program in programs.items() if state.programs.get(name) != program}
    removed = tuple(sorted(name for name in state.programs if name not in programs))
    if not changed and not removed and machines == state.machines:
        return None
    number = state.number + 1
    if number - state.complete >= RECORDS_PER_COMPLETE:
        return SchedulerRecord(number, state.leader, state.name, True, _sorted(programs), (), machines)
    said = machines if machines != state.machines else None
    return SchedulerRecord(number, state.leader, state.name, False, _sorted(changed), removed, said)


def _sorted(programs: Programs) -> tuple[RecordedProgram, ...]:
    return tuple(program for _, program in sorted(programs.items()))


def _named(record: SchedulerRecord) -> str:
    return f"the object {scheduler_record_name(record.number)}"


# ---- what is desired, and what of it is recorded -----------------------------------------------------------------


def recorded(desired: Desired) -> dict[str, RecordedProgram]:
    """What of all that is desired belongs into the log."""
    removed = {name: _of_removal(removal) for name, removal in desired.removals.items()}
    return removed | {name: recorded_program(desired, name) for name in desired.programs}


def recorded_machines(desired: Desired) -> RecordedMachines:
    """What of machines belongs into the log."""
    limits = desired.machine_limits
    return RecordedMachines(
        tuple(sorted(desired.drained)),
        tuple(sorted(desired.leaving)),
        limits,
        desired.machines if limits is not None or desired.machines_asked else 0,
        desired.schedulers or 0 if desired.schedulers_asked else 0,
    )


def recorded_program(desired: Desired, name: str) -> RecordedProgram:
    """What of a program belongs into the log."""
    program, asleep = desired.programs[name], desired.removals.get(name)
    limits, tried = program.limits, program.tried
    said = RecordedProgram(program.program, True, (), None, None, limits, program.asleep, tried)
    if asleep is not None:
        said = replace(said, nodes=tuple(_of_part(part) for part in asleep.parts))
    assignment = program.assignment
    if assignment is None:
        return replace(said, wished_map=program.shard_map, wished_graph=program.graph)
    nodes = tuple(_of_part(part) for part in assignment.nodes)
    placement = replace(assignment.placement, scheduler=0)  # the next one takes it over as its own
    sequencer, graph = _of_part(assignment.sequencer), assignment.graph
    said = replace(said, nodes=nodes, sequencer=sequencer, placement=placement, graph=graph)
    if program.shard_map != placement.shard_map:
        said = replace(said, wished_map=program.shard_map)
    return replace(said, wished_graph=program.graph) if program.graph != graph else said


def _of_removal(removal: Removal) -> RecordedProgram:
    return RecordedProgram(
        removal.program, False, tuple(_of_part(part) for part in removal.parts), None, None
    )


def _of_part(part: Part) -> RecordedPart:
    return RecordedPart(part.machine, part.runner, part.runner_incarnation, part.incarnation)


def recalled_assignment(program: RecordedProgram, scheduler: int) -> Assignment | None:
    """Where the parts of a program were placed, as the scheduler of this number goes on with it."""
    if program.sequencer is None or program.placement is None:
        return None
    return Assignment(
        tuple(_part(part) for part in program.nodes),
        _part(program.sequencer),
        replace(program.placement, scheduler=scheduler),
        program.graph,
    )


def recalled_removal(program: RecordedProgram, desired: Desired, now: float) -> Removal:
    """The removal of a program as the next scheduler goes on with it: whatever was started of it was so by an
    earlier one."""
    return Removal(program.program, desired.incarnation, now, tuple(_part(part) for part in program.nodes))


def _part(part: RecordedPart) -> Part:
    return Part(part.machine, part.runner, part.runner_incarnation, part.incarnation)
