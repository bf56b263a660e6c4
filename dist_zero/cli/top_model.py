"""What `dist-zero top` shows, from two answers of the scheduler: pure.

Counters make rates. The time between two counts is not that between the two answers, but between the two reports that
the scheduler had when it answered (`MachineStatus.reported_ms`). Where the two do not belong together, there is no
rate, and None is in its place: another scheduler answers, whose clock is another one; another incarnation of a runner,
node or sequencer counts from zero; there is no new report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dist_zero_common.protocol.messages.requests import (
    MachineStatus,
    NodePlace,
    ProgramState,
    ProgramStatus,
    SystemStatus,
)


@dataclass(frozen=True, slots=True)
class MachineLine:
    """A machine. `cpu`: cores that its runner keeps busy; `rows`: per second, taken in by its nodes."""

    machine: str
    cores: int
    memory_bytes: int
    nodes: int
    cpu: float | None
    memory_used_bytes: int
    rows: float | None
    ready: bool
    note: str


@dataclass(frozen=True, slots=True)
class ProgramLine:
    """A program. `rows` and `epochs`: per second; `unsaved_seconds`: since when there is something that no base covers.
    For the last five see `ProgramStatus`."""

    program: str
    state: ProgramState
    nodes: int
    rows: float | None
    epochs: float | None
    epoch: int
    lag: int
    unsaved_seconds: float
    recoveries: int
    moves: int
    splits: int
    merges: int
    rewinds: int
    note: str


@dataclass(frozen=True, slots=True)
class NodeLine:
    """A node. `busy`: the share of its time that it works; `rows`: per second, taken in; `lag`: epochs of the log that
    it has not finished."""

    program: str
    node: str
    machine: str
    busy: float | None
    rows: float | None
    lag: int
    state_bytes: int
    unsaved_seconds: float
    note: str


@dataclass(frozen=True, slots=True)
class Top:
    """All of it: machines and programs by name, nodes with the busiest first."""

    scheduler: int
    standbys: tuple[str, ...]
    machines: tuple[MachineLine, ...]
    programs: tuple[ProgramLine, ...]
    nodes: tuple[NodeLine, ...]


def top_of(before: SystemStatus, now: SystemStatus) -> Top:
    """What two answers say, of which the second one is the later."""
    machines = _Machines(before, now)
    programs_before = {each.program: each for each in before.programs}
    nodes = [
        node
        for program in now.programs
        for node in _nodes(program, programs_before.get(program.program), machines)
    ]
    hosted: dict[str, list[NodeLine]] = defaultdict(list)
    for node in nodes:
        hosted[node.machine].append(node)
    return Top(
        scheduler=now.scheduler,
        standbys=now.standbys,
        machines=tuple(_machine(each, hosted.get(each.machine, ()), machines) for each in now.machines),
        programs=tuple(
            _program(program, programs_before.get(program.program), machines) for program in now.programs
        ),
        nodes=tuple(sorted(nodes, key=_busiest_first)),
    )


class _Machines:
    """The machines of two answers, and what time lies between what they said."""

    def __init__(self, before: SystemStatus, now: SystemStatus) -> None:
        same = before.scheduler == now.scheduler
        self._before = {each.machine: each for each in before.machines} if same else {}
        self._now = {each.machine: each for each in now.machines}

    def rate(self, machine: str, before: int | None, now: int) -> float | None:
        """What was counted by the runner of a machine, per second."""
        was, here = self._before.get(machine), self._now.get(machine)
        if was is None or here is None or before is None or now < before:
            return None
        if was.runner_incarnation != here.runner_incarnation or here.reported_ms <= was.reported_ms:
            return None
        return 1000 * (now - before) / (here.reported_ms - was.reported_ms)

    def before(self, machine: str) -> MachineStatus | None:
        """A machine as it was."""
        return self._before.get(machine)


def _machine(machine: MachineStatus, here: Sequence[NodeLine], machines: _Machines) -> MachineLine:
    was = machines.before(machine.machine)
    cpu = machines.rate(machine.machine, was.cpu_us if was is not None else None, machine.cpu_us)
    rates = [node.rows for node in here if node.rows is not None]
    return MachineLine(
        machine=machine.machine,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        nodes=len(here),
        cpu=cpu / 1_000_000 if cpu is not None and machine.cpu_us else None,
        memory_used_bytes=machine.memory_used_bytes,
        rows=sum(rates) if rates else None,
        ready=machine.ready,
        note=machine.note,
    )


def _program(program: ProgramStatus, before: ProgramStatus | None, machines: _Machines) -> ProgramLine:
    same = (
        before is not None
        and before.sequencer_incarnation == program.sequencer_incarnation
        and before.sequencer_machine == program.sequencer_machine
    )
    was = before if same else None
    machine = program.sequencer_machine
    return ProgramLine(
        program=program.program,
        state=program.state,
        nodes=len(program.nodes),
        rows=machines.rate(machine, was.rows if was is not None else None, program.rows),
        epochs=machines.rate(machine, was.epoch if was is not None else None, program.epoch),
        epoch=program.epoch,
        lag=max(0, program.epoch - program.finished_epoch) if program.state is ProgramState.RUNNING else 0,
        unsaved_seconds=program.unsaved_ms / 1000,
        recoveries=program.recoveries,
        moves=program.moves,
        splits=program.splits,
        merges=program.merges,
        rewinds=program.rewinds,
        note=program.note,
    )


def _nodes(program: ProgramStatus, before: ProgramStatus | None, machines: _Machines) -> list[NodeLine]:
    known = {(node.node, node.incarnation, node.machine): node for node in before.nodes} if before else {}
    return [
        _node(program, node, known.get((node.node, node.incarnation, node.machine)), machines)
        for node in program.nodes
    ]


def _node(program: ProgramStatus, node: NodePlace, was: NodePlace | None, machines: _Machines) -> NodeLine:
    busy = machines.rate(node.machine, was.busy_us if was is not None else None, node.busy_us)
    return NodeLine(
        program=program.program,
        node=node.node,
        machine=node.machine,
        busy=busy / 1_000_000 if busy is not None else None,
        rows=machines.rate(node.machine, was.rows if was is not None else None, node.rows),
        lag=max(0, program.epoch - node.finished_epoch) if program.epoch else 0,
        state_bytes=node.state_bytes,
        unsaved_seconds=node.unsaved_ms / 1000,
        note=node.note,
    )


def _busiest_first(node: NodeLine) -> tuple[object, ...]:
    """Those that something is to be said about, then the busiest, then by name."""
    return (not node.note, -(node.busy or 0.0), -(node.rows or 0.0), node.program, node.node)
