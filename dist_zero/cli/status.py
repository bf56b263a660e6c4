"""`dist-zero status`: machines and programs as the scheduler knows them, on one screen."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from dist_zero.cli.diagnosis import is_silent
from dist_zero.cli.reach import RunningSystem, status_of
from dist_zero.cli.render import console_for
from dist_zero_common.protocol.messages.requests import (
    HostNote,
    MachineStatus,
    ProgramState,
    ProgramStatus,
    ServiceStatus,
    SystemStatus,
)

STATE_STYLES = {
    ProgramState.RUNNING: "green",
    ProgramState.STARTING: "yellow",
    ProgramState.HALTED: "bold red",
    ProgramState.ASLEEP: "dim",
}


async def show_status(system: RunningSystem, *, broker: str, as_json: bool) -> bool:
    """Print what there is; `broker` is its address, for people. Returns whether nothing is wrong."""
    status = await status_of(system)
    wrong = troubles(status)
    if as_json:
        json.dump(status_json(status, system.name, broker, wrong), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
        return not wrong
    console = console_for()
    console.print(Text.assemble(("system ", "bold"), system.name, (f"  at {broker}", "dim")))
    console.print(Text(scheduler_line(status), "dim"))
    if status.growth:
        console.print(Text(f"machines {status.growth}", "dim"))
    if line := services_line(status):
        console.print(Text(line, "dim"))
    console.print()
    if status.machines:
        console.print(machine_table(status.machines))
    else:
        console.print(Text("no machine has announced itself yet", "yellow"))
    for host in status.hosts:
        console.print(Text(host_line(host), "bold red" if host.wrong else "yellow"))
    console.print()
    if status.programs:
        console.print(program_table(status.programs))
        for note in program_notes(status.programs):
            console.print(note)
    else:
        console.print(Text("no program runs here yet: `dist-zero run app.py` submits one", "dim"))
    return not wrong


def scheduler_line(status: SystemStatus) -> str:
    """Who leads, and who would take over."""
    others = f"; standing by: {', '.join(status.standbys)}" if status.standbys else ""
    return f"scheduler {status.scheduler} leads{others}"


def services_line(status: SystemStatus) -> str:
    """How many hosts there are and shall be, where that is not just as many machines as are wanted."""
    if len(status.services) < 2 and all(is_as_wanted(each) for each in status.services):
        return ""
    return "; ".join(service_told(each) for each in status.services)


def is_as_wanted(service: ServiceStatus) -> bool:
    """Whether there are as many hosts with this service as there shall be."""
    return service.ready == service.wanted and not service.leaving


def service_told(service: ServiceStatus) -> str:
    """How many hosts there are with a service."""
    more = f", and {service.leaving} to be given back" if service.leaving else ""
    return f"{service.service}: {service.ready} of {service.wanted} ready{more}"


def host_line(note: HostNote) -> str:
    """What is to be said of a host."""
    return f"{note.host} {note.text}" if note.host else note.text


def troubles(status: SystemStatus) -> list[str]:
    """What somebody has to look after, one sentence each: nothing that passes by itself when all goes well."""
    wrong = [
        f"machine {machine.machine}: {machine.note}" for machine in status.machines if is_silent(machine)
    ]
    wrong += [host_line(note) for note in status.hosts if note.wrong]
    wrong += [
        f"program {program.program} stands still: {program.note or 'no reason is known'}"
        for program in status.programs
        if program.state is ProgramState.HALTED
    ]
    awake = [program for program in status.programs if program.state is not ProgramState.ASLEEP]
    if awake and not any(machine.ready for machine in status.machines):
        wrong.append("programs wait, and no machine is ready")
    return wrong


def machine_table(machines: Iterable[MachineStatus]) -> Table:
    """One line per machine."""
    table = compact_table("machine", ("cores", "right"), ("memory", "right"), "state")
    for machine in machines:
        if machine.ready:
            state = Text(machine.note or "ready", "yellow" if machine.note else "green")
        else:
            state = Text(machine.note or "not ready", "bold red" if is_silent(machine) else "yellow")
        table.add_row(machine.machine, str(machine.cores), shown_bytes(machine.memory_bytes), state)
    return table


def program_table(programs: Iterable[ProgramStatus]) -> Table:
    """One line per program."""
    right = [(title, "right") for title in ("epoch", "finished", "lag")]
    table = compact_table("program", "state", "nodes", "sequencer", *right)
    for program in programs:
        running = program.state is ProgramState.RUNNING
        numbers = [f"{program.epoch:,}", f"{program.finished_epoch:,}"]
        table.add_row(
            program.program,
            Text(program.state.value, STATE_STYLES[program.state]),
            shown_nodes(program),
            program.sequencer_machine or "–",
            *(numbers if program.nodes else ["–", "–"]),
            f"{lag(program):,}" if running else "–",
        )
    return table


def program_notes(programs: Iterable[ProgramStatus]) -> list[Text]:
    """What is to be said about programs, and about nodes that do not run as they should."""
    notes = []
    for program in programs:
        if program.note:
            notes.append(Text(f"{program.program}: {program.note}", STATE_STYLES[program.state]))
        if program.growth:
            notes.append(Text(f"{program.program}: {program.growth}", "dim"))
        notes += [
            Text(f"{program.program}: node {node.node} on {node.machine}: {node.note}", "yellow")
            for node in program.nodes
            if node.note
        ]
    return notes


def shown_nodes(program: ProgramStatus) -> str:
    """How many nodes are where, as in `6: m1 2, m2 2, m3 2`."""
    if not program.nodes:
        return "–"
    machines = Counter(node.machine for node in program.nodes)
    places = ", ".join(f"{machine} {count}" for machine, count in sorted(machines.items()))
    return f"{len(program.nodes)}: {places}"


def lag(program: ProgramStatus) -> int:
    """How many epochs of the log are not finished by every node."""
    return max(0, program.epoch - program.finished_epoch)


def shown_bytes(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def compact_table(*columns: str | tuple[str, str]) -> Table:
    """A table without lines; a column is its title, or title and "right"."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        title, justify = column if isinstance(column, tuple) else (column, "left")
        table.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def status_json(status: SystemStatus, name: str, broker: str, wrong: list[str]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "system": name,
        "broker": broker,
        "scheduler": status.scheduler,
        "standbys": list(status.standbys),
        "growth": status.growth,
        "services": [asdict(each) for each in status.services],
        "hosts": [asdict(each) for each in status.hosts],
        "store": status.store,
        "wrong": wrong,
        "machines": [_json(machine) for machine in status.machines],
        "programs": [{**_json(program), "lag": lag(program)} for program in status.programs],
    }


def _json(part: MachineStatus | ProgramStatus) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in asdict(part).items():
        fields[name] = value.value if isinstance(value, ProgramState) else value
    return fields
