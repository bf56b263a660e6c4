"""The commands for a system that runs: `status`, `load`, `show`, `get`, `watch`, `top`, `void`, `logs`, `doctor`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_zero.cli.app import CHECK_FAILED, AsJson, BrokerUrl, SystemName, app, name_file_pairs
from dist_zero_common.errors import SettingsError
from dist_zero_common.log import LEVELS
from dist_zero_common.settings import load_settings

if TYPE_CHECKING:
    from dist_zero.cli.systems import Target
    from dist_zero.client.remote import RemoteSystem

WhichProgram = Annotated[
    str | None,
    typer.Option("--program", metavar="NAME", help="Which program; without, the only one that runs."),
]
Nulls = Annotated[
    list[str] | None,
    typer.Option("--null", metavar="TEXT", help="A text that stands for null, as NA; may be repeated."),
]
ViewName = Annotated[str, typer.Argument(metavar="VIEW", help="A view of the program.")]
SECONDS_BETWEEN_LOOKS = 2.0


@app.command()
def status(system: SystemName = None, broker: BrokerUrl = None, as_json: AsJson = False) -> None:
    """Show machines and programs, and how far they are.

    Exit code 1 when somebody has to act: a program stands still, a machine is silent, none is ready.
    """
    from dist_zero.cli.status import show_status
    from dist_zero.cli.systems import resolve

    target = resolve(system, broker)
    shown = shown_address(target)
    well = asyncio.run(show_status(remote_of(target), broker=shown, as_json=as_json))
    if target.state is not None and target.state.bridge:
        typer.echo(target.state.bridge, err=True)
        well = False
    if not well:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def load(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset of the program.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV, JSON Lines or Parquet, also packed.")
    ],
    null: Nulls = None,
    again: Annotated[
        bool, typer.Option("--again", help="Write the rows also if the same file was loaded before.")
    ] = False,
    system: SystemName = None,
    broker: BrokerUrl = None,
    program: WhichProgram = None,
    as_json: AsJson = False,
) -> None:
    """Write the rows of files into a dataset.

    A load that was killed goes on where it stopped when it is run again; the same file is written once.
    """
    from dist_zero.cli.data import LoadOptions
    from dist_zero.cli.data import load as load_files
    from dist_zero.cli.systems import resolve

    options = LoadOptions(
        dataset=dataset,
        files=tuple(path.expanduser() for path in files),
        nulls=tuple(null or ()),
        again=again,
        program=program,
        as_json=as_json,
    )
    asyncio.run(load_files(remote_of(resolve(system, broker)), options))


@app.command()
def show(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW...]", help="Views to show; without, all of them.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=0, help="How many rows of a view to show.")
    ] = 20,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out", metavar="VIEW=FILE", help="A view to write to a file: .csv, .jsonl, .parquet, .csv.gz …"
        ),
    ] = None,
    system: SystemName = None,
    broker: BrokerUrl = None,
    program: WhichProgram = None,
    as_json: AsJson = False,
) -> None:
    """Show views as of one moment, which includes all that was committed before."""
    from dist_zero.cli.data import ShowOptions
    from dist_zero.cli.data import show as show_views
    from dist_zero.cli.systems import resolve

    options = ShowOptions(
        views=tuple(views or ()),
        outs=name_file_pairs("--out", "view=file", out),
        rows=rows,
        program=program,
        as_json=as_json,
    )
    asyncio.run(show_views(remote_of(resolve(system, broker)), options))


@app.command(context_settings={"ignore_unknown_options": True})
def get(
    view: ViewName,
    key: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY...]", help="A value for each column of the view's key."),
    ] = None,
    null: Nulls = None,
    system: SystemName = None,
    broker: BrokerUrl = None,
    program: WhichProgram = None,
    as_json: AsJson = False,
) -> None:
    """Show the row of a view that has this key. Exit code 1 when there is none."""
    from dist_zero.cli.data import GetOptions
    from dist_zero.cli.data import get as get_row
    from dist_zero.cli.systems import resolve

    options = GetOptions(
        view=view, key=tuple(key or ()), nulls=tuple(null or ()), program=program, as_json=as_json
    )
    if not asyncio.run(get_row(remote_of(resolve(system, broker)), options)):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def watch(
    view: ViewName,
    after: Annotated[
        int,
        typer.Option(
            "--after", metavar="EPOCH", min=0, help="Go on behind this epoch, which was seen already."
        ),
    ] = 0,
    count: Annotated[
        int | None,
        typer.Option("--count", metavar="N", min=1, help="End after so many epochs that changed the view."),
    ] = None,
    system: SystemName = None,
    broker: BrokerUrl = None,
    program: WhichProgram = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print a view's rows, and then each row it gains (+) or loses (-), until Ctrl-C."""
    from dist_zero.cli.systems import resolve
    from dist_zero.cli.watch import WatchOptions
    from dist_zero.cli.watch import watch as watch_view

    options = WatchOptions(view=view, after=after, count=count, program=program, as_json=as_json)
    with suppress(KeyboardInterrupt):  # which is how one ends it
        asyncio.run(watch_view(remote_of(resolve(system, broker)), options))


@app.command()
def top(
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.2, help="How often to look.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print what there is, and end.")] = False,
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per look, on a line.")
    ] = False,
) -> None:
    """Show machines, programs and nodes, live: load, rows, lag. Ends with q or Ctrl-C.

    Where standard output is no terminal, it prints once.
    """
    from dist_zero.cli.systems import resolve
    from dist_zero.cli.top import TopOptions, show_top

    options = TopOptions(interval=interval, once=once, as_json=as_json)
    with suppress(KeyboardInterrupt):
        asyncio.run(show_top(remote_of(resolve(system, broker)), options))


@app.command()
def void(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="The program that stands still.")],
    transaction: Annotated[
        str,
        typer.Argument(
            metavar="EPOCH/TRANSACTION", help="Which transaction of its log, as `status` names it: 812/0."
        ),
    ],
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take a transaction out of a program that stands still on it. It cannot be brought back.

    Its client was told that it is committed, and is not told otherwise.
    """
    from dist_zero.cli.systems import resolve
    from dist_zero.cli.voiding import void_transaction

    remote = remote_of(resolve(system, broker))
    asyncio.run(void_transaction(remote, program, transaction, as_json=as_json))


@app.command()
def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")
    ] = False,
    machine: Annotated[
        str | None,
        typer.Option("--machine", metavar="NAME", help="Only what this machine's processes wrote."),
    ] = None,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help="This one and above: debug, info, warning, error.")
    ] = "info",
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="30s, 10m, 2h, 1d ago, or 2013-01-01T05:15.")
    ] = None,
    system: SystemName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Print what the processes of a system that was started here have logged, in order of time."""
    from dist_zero.cli.logs import LogsOptions, print_logs

    options = LogsOptions(
        system=system, follow=follow, machine=machine, level=_level(level), since=since, as_json=as_json
    )
    with suppress(KeyboardInterrupt):
        print_logs(options, load_settings())


@app.command()
def doctor(
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", metavar="N", min=0.1, help="How long to wait between the two looks at queues."
        ),
    ] = SECONDS_BETWEEN_LOOKS,
    system: SystemName = None,
    broker: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with a system and its surroundings, and say what to do.

    Exit code 1 when something is.
    """
    from dist_zero.cli.doctor import Asked, Report, examine, print_finding, print_report, print_report_json
    from dist_zero.cli.systems import resolve

    target, trouble = None, ""
    settings = load_settings()
    try:
        target = resolve(system, broker, settings=settings)
    except SettingsError as error:
        if system is not None and broker is not None:
            raise
        trouble = str(error)
    report = Report() if as_json else Report(print_finding)
    asyncio.run(examine(report, settings, Asked(target, trouble, broker, seconds)))
    if as_json:
        print_report_json(report, target.system if target else "", shown_address(target) if target else "")
    else:
        print_report(report)
    if not report.healthy:
        raise typer.Exit(CHECK_FAILED)


def shown_address(target: Target) -> str:
    """Where the broker is, without the password."""
    from dist_zero.cli.doctor import address_of

    address = address_of(target.broker_url)
    scheme = "amqps" if address.tls else "amqp"
    return f"{scheme}://{address.user}@{address.host}:{address.port}/{address.vhost.removeprefix('/')}"


def _level(level: str) -> str:
    if level.lower() not in LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LEVELS)}", param_hint="--level")
    return level.lower()


def remote_of(target: Target) -> RemoteSystem:
    """The system that a command is for."""
    from dist_zero.client.remote import RemoteSystem
    from dist_zero_common.clock import RealClock

    return RemoteSystem(target.broker_url, target.system, clock=RealClock())
