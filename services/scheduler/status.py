"""What the scheduler tells a person: machines and programs, and how far they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType

from dist_zero_common.protocol.messages.requests import (
    MachineStatus,
    NodePlace,
    ProgramState,
    ProgramStatus,
    SystemStatus,
)
from services.scheduler.changes import NO_CHANGES, Changes
from services.scheduler.growing import MACHINES
from services.scheduler.state import (
    Assignment,
    Desired,
    MachineSeen,
    Observed,
    WantedProgram,
    has_died,
    is_silent,
    progress_of,
    ready_machines,
    runner_name,
)


def status_of(
    desired: Desired,
    observed: Observed,
    now: float,
    request: int,
    standbys: Sequence[str] = (),
    growth: Mapping[str, str] = MappingProxyType({}),
    *,
    changes: Mapping[str, Changes] = MappingProxyType({}),
) -> SystemStatus:
    """The answer to an `AskStatus` with this number. `standbys`: the schedulers that stand by, by name; `growth`: what
    is to be said of it, see `Growing.told`; `changes`: what has become of programs' placements."""
    ready = [name for name in ready_machines(desired, observed, now) if not desired.is_retired(name)]
    return SystemStatus(
        request=request,
        scheduler=desired.scheduler,
        machines=tuple(
            _machine(name, seen, name in ready, desired, observed, now)
            for name, seen in sorted(observed.machines.items())
        ),
        programs=tuple(
            replace(
                _program(program, desired, observed, now),
                growth=growth.get(name, ""),
                **asdict(changes.get(name, NO_CHANGES)),
            )
            for name, program in sorted(desired.programs.items())
        ),
        standbys=tuple(standbys),
        growth=growth.get(MACHINES, ""),
    )


def _machine(
    name: str, seen: MachineSeen, ready: bool, desired: Desired, observed: Observed, now: float
) -> MachineStatus:
    report, runner = seen.report, runner_name(name)
    heard = observed.runners.get(runner)
    silent = now - seen.at
    note = ""
    if report.leaves:
        note = "has left"
    elif is_silent(seen, desired, observed, now):
        note = f"not heard of for {silent:.0f} s"
    elif desired.is_retired(name):
        parts = sum(
            part.machine == name
            for program in desired.programs.values()
            if program.assignment is not None
            for part in (*program.assignment.nodes, program.assignment.sequencer)
        )
        why = "drained" if name in desired.drained else "to be given back"
        note = f"{why}; parts that still run there: {parts}" if parts else why
    elif not ready:
        note = "its runner is starting"
        if heard is not None and has_died(observed, name, runner, heard.report.incarnation):
            note = "its runner has ended, and is to be started again"
        elif runner in observed.unread:
            note = "its runner has gone from the broker"
    return MachineStatus(
        machine=name,
        cores=report.cores,
        memory_bytes=report.memory_bytes,
        labels=report.labels,
        silent_ms=int(1000 * silent),
        ready=ready,
        inbox=report.inbox,
        runner=runner,
        runner_incarnation=heard.report.incarnation if heard is not None else 0,
        runner_inbox=heard.report.inbox if heard is not None else "",
        note=note,
        cpu_us=heard.report.cpu_us if heard is not None else 0,
        memory_used_bytes=heard.report.memory_used_bytes if heard is not None else 0,
        reported_ms=int(1000 * heard.at) if heard is not None else 0,
    )


def _program(program: WantedProgram, desired: Desired, observed: Observed, now: float) -> ProgramStatus:
    progress = progress_of(program, desired, observed, now)
    assignment = program.assignment
    if assignment is None:
        return ProgramStatus(
            program=program.program,
            state=progress.state,
            note=progress.note,
            generation=0,
            nodes=(),
            sequencer_machine="",
            sequencer_incarnation=0,
            epoch=0,
            finished_epoch=0,
            clients_inbox="",
            nodes_inbox="",
        )
    nodes = _nodes(program, assignment, observed)
    seen = observed.runners.get(assignment.sequencer.runner)
    sequencer = seen.sequencers.get(program.program) if seen is not None else None
    running = progress.state is ProgramState.RUNNING
    return ProgramStatus(
        program=program.program,
        state=progress.state,
        note=progress.note,
        generation=assignment.placement.generation,
        nodes=nodes,
        sequencer_machine=assignment.sequencer.machine,
        sequencer_incarnation=assignment.sequencer.incarnation,
        epoch=sequencer.status.epoch if sequencer is not None else 0,
        finished_epoch=min(node.finished_epoch for node in nodes) if running else 0,
        clients_inbox=assignment.placement.clients_inbox,
        nodes_inbox=assignment.placement.nodes_inbox,
        base=sequencer.status.base if sequencer is not None else 0,
        rows=sequencer.status.rows if sequencer is not None else 0,
        unsaved_ms=sequencer.status.unsaved_ms if sequencer is not None else 0,
    )


def _nodes(program: WantedProgram, assignment: Assignment, observed: Observed) -> tuple[NodePlace, ...]:
    places = []
    for shard, part in enumerate(assignment.nodes):
        seen = observed.runners.get(part.runner)
        status = seen.nodes.get((program.program, shard)) if seen is not None else None
        here = status if status is not None and status.incarnation == part.incarnation else None
        places.append(
            NodePlace(
                shard=shard,
                node=assignment.placement.shard_map.nodes[shard],
                machine=part.machine,
                incarnation=part.incarnation,
                finished_epoch=here.finished_epoch if here is not None else 0,
                note="starting" if here is None else here.halted,
                rows=here.rows if here is not None else 0,
                busy_us=here.busy_us if here is not None else 0,
                state_bytes=here.state_bytes if here is not None else 0,
                unsaved_ms=here.unsaved_ms if here is not None else 0,
            )
        )
    return tuple(places)
