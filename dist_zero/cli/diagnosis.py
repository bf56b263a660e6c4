"""What `dist-zero doctor` concludes from what it saw: pure, from two looks at a system some seconds apart.

One look cannot tell a busy queue from a dead one, nor a program that is behind from one that hangs; two can: what was
wrong in both and did not move in between is a finding. What passes by itself when all goes well is a remark at most.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dist_zero_common.broker.base import QueueDepth
from dist_zero_common.broker.topology import AGENT, RUNNER, SCHEDULER, scheduler_inbox
from dist_zero_common.broker.topology import parsed as parsed_queue
from dist_zero_common.protocol.messages.requests import (
    MachineStatus,
    ProgramState,
    ProgramStatus,
    SystemStatus,
)

SILENT_MS = 5_000
"""A machine is heard of each second or so; one that was not for so long may be gone."""


class Verdict(enum.Enum):
    """How a sentence of the doctor's is meant."""

    RIGHT = "right"
    REMARK = "remark"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence: what is right or wrong, and then what to do."""

    verdict: Verdict
    says: str


@dataclass(frozen=True, slots=True)
class Look:
    """A system at one moment: what its scheduler says, and its queues by name (None: there is no such queue)."""

    status: SystemStatus
    depths: Mapping[str, QueueDepth | None]


def right(says: str) -> Finding:
    """Something is as it should be."""
    return Finding(Verdict.RIGHT, says)


def remark(says: str) -> Finding:
    """Something to know, and nothing to do."""
    return Finding(Verdict.REMARK, says)


def wrong(says: str) -> Finding:
    """Something that somebody has to look after."""
    return Finding(Verdict.WRONG, says)


def is_silent(machine: MachineStatus) -> bool:
    """Whether the machine's agent has not been heard of for longer than a slow moment explains."""
    return not machine.ready and machine.silent_ms >= SILENT_MS


def queues_of(system: str, status: SystemStatus) -> dict[str, str]:
    """Every queue that a system with this state listens to, by name, with whose it is."""
    queues = {scheduler_inbox(system): "the scheduler's inbox"}
    for machine in status.machines:
        queues[machine.inbox] = f"the inbox of {machine.machine}'s agent"
        if machine.runner_inbox:
            queues[machine.runner_inbox] = f"the inbox of {machine.machine}'s runner"
    for program in status.programs:
        if program.clients_inbox:
            queues[program.clients_inbox] = f"the inbox of {program.program}'s sequencer for clients"
        if program.nodes_inbox:
            queues[program.nodes_inbox] = f"the inbox of {program.program}'s sequencer for nodes"
    return queues


def diagnose(system: str, first: Look, second: Look, seconds: float) -> list[Finding]:
    """All there is to say about machines, programs and queues, seen twice, `seconds` apart."""
    return [
        *machine_findings(second.status),
        *host_findings(second.status),
        *program_findings(first.status, second.status, seconds),
        *queue_findings(system, first, second, seconds),
    ]


# ---- machines ----------------------------------------------------------------------------------------------


def machine_findings(status: SystemStatus) -> Iterator[Finding]:
    """Are there machines, and are they ready?"""
    sleeping = bool(status.programs) and all(p.state is ProgramState.ASLEEP for p in status.programs)
    if not status.machines and sleeping:
        yield right("there is no machine, and all programs sleep: none is needed")
        return
    if not status.machines:
        yield wrong(
            "no machine has announced itself to the scheduler: start a machine agent or a node runner for this system,"
            " with this broker"
        )
        return
    ready = [machine.machine for machine in status.machines if machine.ready]
    if ready:
        yield right(f"{counted(len(ready), 'machine')} {_is(len(ready))} ready: {', '.join(ready)}")
    for machine in status.machines:
        if machine.ready:
            continue
        if is_silent(machine):
            yield wrong(
                f"machine {machine.machine}: {_silence(machine)}; is it running, and does it reach the broker? Its"
                " nodes are placed elsewhere"
            )
        else:
            yield remark(
                f"machine {machine.machine} is not ready: {machine.note or 'it has just announced itself'}"
            )


def host_findings(status: SystemStatus) -> Iterator[Finding]:
    """Are there as many hosts as there shall be, and what keeps others from coming?"""
    for note in status.hosts:
        says = f"host {note.host} {note.text}" if note.host else note.text
        yield wrong(says) if note.wrong else remark(says)


def _silence(machine: MachineStatus) -> str:
    return machine.note or f"not heard of for {machine.silent_ms / 1000:.0f} s"


# ---- programs ----------------------------------------------------------------------------------------------


def program_findings(first: SystemStatus, second: SystemStatus, seconds: float) -> Iterator[Finding]:
    """Do programs run, and do their epochs finish?"""
    before = {program.program: program for program in first.programs}
    if not second.programs:
        yield remark("no program runs here yet: `dist-zero run app.py` or `up app.py` submits one")
    for program in second.programs:
        yield from _program(before.get(program.program), program, seconds)


def _program(before: ProgramStatus | None, now: ProgramStatus, seconds: float) -> Iterator[Finding]:
    name = now.program
    if now.state is ProgramState.HALTED:
        # a reason that names transactions names the command, too
        hint = "" if "`dist-zero void " in now.note else "; keep the store, and look into the log"
        yield wrong(f"program {name} stands still: {now.note or 'no reason is known'}{hint}")
    elif now.state is ProgramState.STARTING:
        says = f"program {name} is starting: {now.note or 'its nodes are not there yet'}"
        waited = before is not None and before.state is ProgramState.STARTING
        yield wrong(says) if waited else remark(says)
    elif now.state is ProgramState.ASLEEP:
        yield right(f"program {name} sleeps: it {now.note}")
    elif now.finished_epoch >= now.epoch:
        nodes = counted(len(now.nodes), "node")
        yield right(f"program {name} runs on {nodes}, and all has been worked off up to epoch {now.epoch:,}")
    elif before is not None and before.finished_epoch == now.finished_epoch < before.epoch:
        behind = [node for node in now.nodes if node.finished_epoch == now.finished_epoch]
        places = ", ".join(f"{node.node} on {node.machine}" for node in behind[:4])
        more = f" and {len(behind) - 4} more" if len(behind) > 4 else ""
        yield wrong(
            f"program {name}: epoch {now.finished_epoch + 1:,} was not finished in {seconds:g} s although the log is at"
            f" {now.epoch:,}; it waits for {places}{more}"
        )
    else:
        yield right(f"program {name} runs, {counted(now.epoch - now.finished_epoch, 'epoch')} behind its log")
    for node in now.nodes:
        if node.note and now.state is ProgramState.RUNNING:
            yield remark(f"program {name}: node {node.node} on {node.machine}: {node.note}")


# ---- queues ------------------------------------------------------------------------------------------------


def queue_findings(system: str, first: Look, second: Look, seconds: float) -> Iterator[Finding]:
    """Is every queue there, read by one process, and does what waits in it go down?"""
    found = [
        finding
        for queue, whose in queues_of(system, second.status).items()
        for finding in _queue(queue, whose, first, second, seconds)
    ]
    if not any(finding.verdict is Verdict.WRONG for finding in found):
        yield right(
            f"all {len(queues_of(system, second.status))} queues of the system are there and are read"
        )
    yield from found


def _queue(queue: str, whose: str, first: Look, second: Look, seconds: float) -> Iterator[Finding]:
    if queue not in first.depths or queue not in second.depths:
        return  # it came between the looks
    before, now = first.depths[queue], second.depths[queue]
    if now is None:
        if before is None and not _belongs_to_silent(queue, second.status):
            yield wrong(f"{whose} is not there ({queue}): its owner has ended, or uses another broker")
        return
    if before is None:
        return
    waiting = counted(now.waiting, "message")
    if now.consumers == 0 and before.consumers == 0:
        if now.waiting:
            says = f"{whose} has {waiting} and nobody reads it"
            yield wrong(f"{says}: {_who_should_read(queue)}")
        elif not _belongs_to_silent(queue, second.status):
            yield wrong(f"nobody reads {whose}: {_who_should_read(queue)}")
    elif now.consumers > 1 and before.consumers > 1:
        yield wrong(f"{now.consumers} processes read {whose}: {_who_reads_twice(queue)}")
    elif now.waiting >= before.waiting > 0 and now.consumers and before.consumers:
        if _moved(queue, first.status, second.status):
            yield remark(
                f"{whose} has {waiting}, and {before.waiting:,} {seconds:g} s ago: more comes than is worked off just"
                " now; writers are made to wait, and nothing is lost"
            )
        else:
            yield wrong(
                f"{waiting} wait in {whose}, and none was taken in {seconds:g} s: its reader hangs or is far behind;"
                " its log says with what"
            )


def _belongs_to_silent(queue: str, status: SystemStatus) -> bool:
    """Whether it is a queue of a machine that is known to be silent, which is a finding of its own."""
    return any(
        queue in (machine.inbox, machine.runner_inbox) for machine in status.machines if is_silent(machine)
    )


def _who_should_read(queue: str) -> str:
    role = parsed_queue(queue).role
    if role is SCHEDULER:
        return "is a scheduler running, and does it reach its store?"
    if role is AGENT:
        return "its agent has ended, or has lost the broker; start it again"
    if role is RUNNER:
        return "its runner has ended or hangs; its agent starts it again, and what waits is asked for again"
    return (
        "the runner that hosts the sequencer has ended or hangs; it is started again where there is a machine"
    )


def _who_reads_twice(queue: str) -> str:
    role = parsed_queue(queue).role
    if role is AGENT:
        return "each machine needs a name of its own (DIST_ZERO_MACHINE)"
    if role is SCHEDULER:
        return "of two schedulers one leads, and the other is about to find out; if it stays so, end the one that hangs"
    return "one of them is being replaced and should end by itself; if it stays so, end the older one"


def _moved(queue: str, first: SystemStatus, second: SystemStatus) -> bool:
    """Whether the programs that this queue serves went on between the looks."""
    address = parsed_queue(queue)
    before = {program.program: program for program in first.programs}
    for program in second.programs:
        if address.role is RUNNER:
            served = any(machine.runner_inbox == queue for machine in second.machines)
        else:
            served = queue in (program.clients_inbox, program.nodes_inbox)
        was = before.get(program.program)
        went_on = was is not None and (was.epoch, was.finished_epoch) != (
            program.epoch,
            program.finished_epoch,
        )
        if served and went_on:
            return True
    return False


def counted(count: int, thing: str) -> str:
    """A number with its noun."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
