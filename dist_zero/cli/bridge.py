"""`dist-zero bridge`: the process that brings messages from the user's own RabbitMQ queues into a running program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dist_zero.cli.app import BrokerUrl, ProgramFile, ProgramName, SystemName, app
from dist_zero.cli.load_program import load_program
from dist_zero.cli.render import console_for
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import RequestError, first_error
from dist_zero_common.log import get_logger
from dist_zero_common.settings import load_settings

if TYPE_CHECKING:
    from dist_zero.bridge.bridge import Bridge
    from dist_zero.client.remote import RemoteSystem
    from dist_zero.program import Program

TELL_SECONDS = 10.0
"""So often is said how many messages there were, if there were any."""
HELD = "--held"


@app.command()
def bridge(
    file: ProgramFile,
    system: SystemName = None,
    broker: BrokerUrl = None,
    source_broker: Annotated[
        str | None,
        typer.Option(
            "--source-broker",
            metavar="URL",
            help="The broker that your queues are on; without, AMQP_URL, or else the system's own.",
        ),
    ] = None,
    program: ProgramName = None,
    held: Annotated[bool, typer.Option(HELD, hidden=True, help="End when standard input ends.")] = False,
) -> None:
    """Apply the messages of your own queues (app.source), each exactly once, until it is stopped.

    It waits for the program to run. Each queue has one bridge: a second one takes the first one's place.
    """
    from dist_zero.cli.systems import checked_url, resolve
    from dist_zero.client.remote import RemoteSystem

    declared = load_program(file, program)
    if not declared.sources:
        raise RequestError(
            f"program {declared.name!r} has no source to bridge; declare one with app.source(dataset, queue=...)"
        )
    target = resolve(system, broker, otherwise=declared.name)
    url = checked_url(source_broker) if source_broker else load_settings().broker_url or target.broker_url
    if held:
        threading.Thread(target=_end_with_input, name="holder", daemon=True).start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_run(declared, RemoteSystem(target.broker_url, target.system), url))


def bridge_command(file: Path, system: str, program: str, source_broker: str | None = None) -> list[str]:
    """The command line that bridges the sources of a program into a system that was started from here, for whoever
    starts one as a child; SIGTERM ends it."""
    words = [
        sys.executable,
        "-m",
        "dist_zero.cli",
        "bridge",
        str(file),
        "--system",
        system,
        "--program",
        program,
    ]
    return words if source_broker is None else [*words, "--source-broker", source_broker]


def _end_with_input() -> None:
    """Whoever started us holds the other end of standard input, until it is gone."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _run(program: Program, system: RemoteSystem, source_url: str) -> None:
    """All sources of the program, each with a session of its own, until a signal or an error ends them."""
    from dist_zero.bridge.bridge import Bridge
    from dist_zero.bridge.measured import measure_bridges
    from dist_zero.bridge.rabbitmq_queue import rabbitmq_queue
    from services.measuring import Measured, serving_metrics

    console = console_for(stderr=True)
    row_types = {dataset.name: dataset.row_type for dataset in program.graph().datasets}
    clock = RealClock()
    bridges = [
        Bridge(
            source,
            row_types[source.dataset],
            connect=lambda client_id: system.connect(program.name, client_id=client_id),
            open_queue=rabbitmq_queue(source_url, source),
            clock=clock,
            log=get_logger("bridge", clock, system=system.name, program=program.name),
            tell=lambda line: console.print(Text(line, "yellow")),
        )
        for source in program.sources
    ]
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    for source in program.sources:
        console.print(
            Text(
                f"bridging queue {source.queue} into {source.dataset} of {program.name} in system {system.name};"
                f" what cannot be applied is kept in queue {source.set_aside}",
                "dim",
            )
        )
    measured = Measured("bridge", system.name, "", get_logger("bridge", clock, system=system.name))
    name = f"bridge-{system.name}-{program.name}"
    try:
        with measured.measuring(lambda readings: measure_bridges(readings, bridges)):
            async with serving_metrics(load_settings(), measured, name), asyncio.TaskGroup() as tasks:
                for each in bridges:
                    tasks.create_task(each.run())
                tasks.create_task(_tell_counts(bridges))
    except BaseExceptionGroup as group:
        raise first_error(group) from None


async def _tell_counts(bridges: list[Bridge]) -> None:
    console = console_for(stderr=True)
    told = ["" for _ in bridges]
    while True:
        await asyncio.sleep(TELL_SECONDS)
        for number, each in enumerate(bridges):
            counts = each.counts
            line = (
                f"{each.queue}: {counts.applied:,} messages applied, {counts.rows:,} rows; {counts.repeated:,} came"
                f" again, {counts.empty:,} were empty, {counts.set_aside:,} set aside"
            )
            if line != told[number] and (told[number] or counts.applied or counts.set_aside):
                told[number] = line
                console.print(Text(line, "dim"))
