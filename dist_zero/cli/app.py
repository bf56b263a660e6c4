"""The command line's Typer object, its exit codes, and the options that several commands have.

A module of commands registers them here by `@app.command()`, and `main.py` imports it. What a command needs to do its
work it imports when it runs, so that `--help` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OK, CHECK_FAILED, USER_ERROR, OPERATOR_ERROR, BUG, INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(
    name="dist-zero",
    help="Keyed datasets, and views over them that stay right while the data change.",
    epilog="Exit codes: 0 all is well, 1 a check failed, 2 the program, data or command line is wrong,"
    " 3 the surroundings are (store, settings), 4 a bug of DistZero's, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ProgramFile = Annotated[Path, typer.Argument(help="The Python file that declares the program, as app.py.")]
ProgramName = Annotated[
    str | None, typer.Option("--program", metavar="NAME", help="Which program, if the file has several.")
]
Nodes = Annotated[int, typer.Option("--nodes", metavar="N", min=1, max=1024, help="Shards of the program.")]
Machines = Annotated[
    int, typer.Option("--machines", metavar="N", min=1, max=256, help="Machines that the nodes run on.")
]
DataSeed = Annotated[
    int, typer.Option("--data-seed", metavar="N", help="Draws the data that the program's sample makes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SystemName = Annotated[
    str | None,
    typer.Option(
        "--system", metavar="NAME", help="Which system; without, DIST_ZERO_SYSTEM or the only one there is."
    ),
]
BrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker",
        metavar="URL",
        help="Its broker; without, the one the system was started with, or AMQP_URL.",
    ),
]
SourceBroker = Annotated[
    str | None,
    typer.Option(
        "--source-broker",
        metavar="URL",
        help="The broker that the program's own queues (app.source) are on; without, AMQP_URL.",
    ),
]


def name_file_pairs(option: str, form: str, given: list[str] | None) -> tuple[tuple[str, Path], ...]:
    """What an option of the form NAME=FILE was given; raises typer's error for anything else."""
    pairs = []
    for each in given or ():
        name, equals, path = each.partition("=")
        if not (name and equals and path):
            raise typer.BadParameter(f"{each!r} is not {form}", param_hint=option)
        pairs.append((name.strip(), Path(path).expanduser()))
    return tuple(pairs)


def was_said(context: typer.Context, parameter: str) -> bool:
    """Whether somebody has given a parameter of the command, so that its value is no default."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"
