"""The commands that change what a running system has room for: `scale`, `drain`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from dist_zero.cli.app import AsJson, BrokerUrl, SystemName, app
from dist_zero_common.clock import RealClock


@app.command()
def scale(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A program that runs.")],
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="How many nodes it shall have.")],
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a program on another number of nodes, and wait until it does.

    Its state is divided among them, or joined; clients wait meanwhile, and lose nothing. If somebody asks for another
    number meanwhile, that counts, and this says so.
    """
    from dist_zero.cli.system_commands import remote_of
    from dist_zero.cli.systems import resolve

    target = resolve(system, broker)
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
