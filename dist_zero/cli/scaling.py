"""The commands that change what a running system has room for: `scale`, `drain`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

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


@app.command()
def scale(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A program that runs.")],
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
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a program on another number of nodes, and wait until it does; or let it grow and shrink by itself.

    Its state is divided among them, or joined; clients wait meanwhile, and lose nothing. If somebody asks for another
    number meanwhile, that counts, and this says so.
    """
    from dist_zero.cli.system_commands import remote_of
    from dist_zero.cli.systems import resolve

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
