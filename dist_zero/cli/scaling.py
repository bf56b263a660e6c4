"""The commands that change what a running system has room for: `scale`, `drain`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dist_zero.cli.app import AsJson, BrokerUrl, SystemName, app
from dist_zero.cli.limits import (
    NODES_MAX,
    Auto,
    Idle,
    MaxMachines,
    MaxNodes,
    MinMachines,
    MinNodes,
    limits_of,
)
from dist_zero_common.clock import RealClock

if TYPE_CHECKING:
    from dist_zero.client.remote import RemoteSystem
    from dist_zero_common.protocol.messages.requests import SystemStatus


@app.command()
def scale(
    program: Annotated[
        str | None, typer.Argument(metavar="PROGRAM", help="A program that runs.", show_default=False)
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", metavar="N", min=1, help="How many nodes it shall have, and no others by itself."
        ),
    ] = None,
    auto: Auto = False,
    min_nodes: MinNodes = 1,
    max_nodes: MaxNodes = NODES_MAX,
    min_machines: MinMachines = None,
    max_machines: MaxMachines = None,
    idle: Idle = 0,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAME=N",
            help="How many hosts shall run this service: node-runner (machines, each with one) or scheduler; may be"
            " repeated.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="With --service: whether to wait until they are there.")
    ] = True,
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a program on another number of nodes, and wait until it does; or let it grow and shrink by itself.

    Its state is divided among them, or joined; clients wait meanwhile, and lose nothing. If somebody asks for another
    number meanwhile, that counts, and this says so.

    With --service NAME=N, and no program: have another number of machines (node-runner) or of hosts with a scheduler,
    whichever scheduler leads, until somebody asks for something else.
    """
    from dist_zero.cli.system_commands import remote_of
    from dist_zero.cli.systems import resolve

    if service:
        if program is not None or nodes is not None or auto:
            raise typer.BadParameter(
                "--service is about hosts, and goes with no program, --nodes or --auto: those are another command"
            )
        counts = service_counts(service)
        _scale_services(remote_of(resolve(system, broker)), counts, wait, as_json)
        return
    if program is None:
        raise typer.BadParameter("say which program (PROGRAM), or how many hosts (--service NAME=N)")
    if auto == (nodes is not None):
        raise typer.BadParameter(
            "say either how many nodes (--nodes N), or that they shall follow the load (--auto)"
        )
    limits = limits_of(auto, min_nodes, max_nodes, min_machines, max_machines, idle)
    target = resolve(system, broker)
    if limits is not None:
        asyncio.run(remote_of(target).autoscale(program, limits.nodes, limits.machines))
        if as_json:
            machines = asdict(limits.machines) if limits.machines is not None else {}
            typer.echo(json.dumps({"program": program, **asdict(limits.nodes), **machines}))
        else:
            typer.echo(limits.told(program))
        return
    assert nodes is not None
    clock = RealClock()
    started = clock.monotonic()
    asyncio.run(remote_of(target).scale(program, nodes))
    seconds = clock.monotonic() - started
    if as_json:
        typer.echo(json.dumps({"program": program, "nodes": nodes, "seconds": round(seconds, 3)}))
    else:
        typer.echo(f"{program} runs on {nodes} node{'s' if nodes > 1 else ''}, after {seconds:.1f} s")


def service_counts(given: list[str]) -> dict[str, int]:
    """What `--service NAME=N` says. Raises `typer.BadParameter`."""
    counts: dict[str, int] = {}
    for each in given:
        name, _, number = each.partition("=")
        if name not in ("node-runner", "scheduler") or not number.isdecimal() or int(number) < 1:
            raise typer.BadParameter(
                f"{each!r} is not NAME=N, as node-runner=8 or scheduler=2", param_hint="--service"
            )
        if name in counts:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--service")
        counts[name] = int(number)
    return counts


def _scale_services(remote: RemoteSystem, counts: dict[str, int], wait: bool, as_json: bool) -> None:
    from rich.text import Text

    from dist_zero.cli.render import console_for
    from dist_zero.cli.status import service_told

    said: list[str] = []

    def tell(status: SystemStatus) -> None:
        line = "; ".join(service_told(each) for each in status.services if each.service in counts)
        if line not in said[-1:] and not as_json:
            console_for(stderr=True).print(Text(line, "dim"))
        said.append(line)

    clock = RealClock()
    started = clock.monotonic()
    status = asyncio.run(remote.scale_services(counts, wait=wait, on_look=tell if wait else lambda _: None))
    seconds = clock.monotonic() - started
    if as_json:
        services = [asdict(each) for each in status.services if each.service in counts]
        typer.echo(json.dumps({"services": services, "seconds": round(seconds, 3)}))
        return
    asked = " and ".join(f"{count} × {name}" for name, count in counts.items())
    are = "are" if sum(counts.values()) > 1 else "is"
    after = (
        f"{are} there, after {seconds:.1f} s"
        if wait
        else f"{are} wanted; dist-zero status says how far that is"
    )
    typer.echo(f"{asked} {after}")


@app.command()
def drain(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="A machine of the system.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it run things again.")] = False,
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Move everything from a machine to the others, so that it can be taken away, and wait until that is done.

    It takes nothing new until it is let (`--undo`), whichever scheduler leads.
    """
    from dist_zero.cli.system_commands import remote_of
    from dist_zero.cli.systems import resolve
    from dist_zero.client.remote import parts_on

    target = resolve(system, broker)
    status = asyncio.run(remote_of(target).drain(machine, not undo, wait=True))
    if as_json:
        typer.echo(json.dumps({"machine": machine, "drained": not undo, "parts": parts_on(status, machine)}))
    elif undo:
        typer.echo(f"{machine} may run things again")
    else:
        typer.echo(f"{machine} runs nothing any more: it can be taken away")
