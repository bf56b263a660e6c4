"""The commands that change what a running system has room for: `scale`, `drain`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dist_zero.cli.app import AsJson, BrokerUrl, SystemName, app
from dist_zero_common.clock import RealClock
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits

if TYPE_CHECKING:
    pass


@app.command()
def scale(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A program that runs.")],
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", metavar="N", min=1, help="How many nodes it shall have, and no others by itself."
        ),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Let the number of nodes follow the load from now on.")
    ] = False,
    min_nodes: Annotated[int, typer.Option(metavar="N", min=1, help="With --auto: the fewest nodes.")] = 1,
    max_nodes: Annotated[int, typer.Option(metavar="N", min=1, help="With --auto: the most nodes.")] = 16,
    min_machines: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="With --auto: the fewest machines, 0 if there may be none."),
    ] = None,
    max_machines: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --auto: the most machines; their number follows the load, too, from now on.",
        ),
    ] = None,
    idle: Annotated[
        int,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="With --auto: put it to sleep when nobody wants anything of it for so long.",
        ),
    ] = 0,
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
    if (min_machines is None) != (max_machines is None):
        raise typer.BadParameter("give --min-machines and --max-machines together")
    target = resolve(system, broker)
    if nodes is None:
        node_limits = NodeLimits(min_nodes, max_nodes, idle)
        machine_limits = (
            MachineLimits(min_machines, max_machines)
            if min_machines is not None and max_machines is not None
            else None
        )
        asyncio.run(remote_of(target).autoscale(program, node_limits, machine_limits))
        if as_json:
            limits = asdict(node_limits) | (asdict(machine_limits) if machine_limits is not None else {})
            typer.echo(json.dumps({"program": program, **limits}))
        else:
            typer.echo(f"{program} runs on {min_nodes} to {max_nodes} nodes, as its load needs")
        return
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
