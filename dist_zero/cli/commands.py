"""The commands that need nothing but a program: `run`, `test`, `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dist_zero.cli.app import (
    CHECK_FAILED,
    AsJson,
    DataSeed,
    Machines,
    Nodes,
    ProgramFile,
    ProgramName,
    SourceBroker,
    app,
    name_file_pairs,
)
from dist_zero.cli.load_program import load_program
from dist_zero_common.sim.plan import KINDS


@app.command()
def run(
    file: ProgramFile,
    nodes: Nodes = 1,
    machines: Machines = 1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Draws order and delays; it never changes an answer.")
    ] = 0,
    data_seed: DataSeed = 0,
    load: Annotated[
        list[str] | None,
        typer.Option(
            "--load", metavar="DATASET=FILE", help="Rows to load: CSV, JSON Lines or Parquet, also packed."
        ),
    ] = None,
    null: Annotated[
        list[str] | None,
        typer.Option("--null", metavar="TEXT", help="A text that stands for null in CSV files, as NA."),
    ] = None,
    show: Annotated[
        list[str] | None, typer.Option("--show", metavar="VIEW", help="A view to show; without, all of them.")
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
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="DIR", help="Keep the log there; the next run goes on where this one stopped."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Recompute the views from the log, and say whether they are equal."),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All of the sample's data, where it offers less for a quick look.")
    ] = False,
    weather: Annotated[
        str,
        typer.Option(
            "--weather", metavar="PROFILE", help="calm, faithful, or hostile (doubles and reorders)."
        ),
    ] = "faithful",
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="simulated: all in this process; virtual: each machine in a container, over RabbitMQ.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="NAME",
            help="A system that is there; with --mode virtual, what the new one is called.",
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            metavar="URL",
            help="The broker of a system that is there; with --mode virtual, one to use, or `new`: start one.",
        ),
    ] = None,
    source_broker: SourceBroker = None,
    as_json: AsJson = False,
    program: ProgramName = None,
) -> None:
    """Load data, run the program, show its views.

    The whole system is simulated in this process: scheduler, machines, nodes, network and store. With --mode virtual
    it is started in containers, and taken down at the end. With --system or --broker alone it is one that is there.

    With --mode virtual and --store, messages of the program's own queues (app.source) come in meanwhile, too.

    Without --load, input comes from the program's sample generator (@app.sample).
    """
    from dist_zero.cli.run import RunOptions
    from dist_zero.cli.run import run as run_program

    options = RunOptions(
        nodes=nodes,
        machines=machines,
        seed=seed,
        data_seed=data_seed,
        weather=_weather(weather),
        loads=name_file_pairs("--load", "dataset=file", load),
        nulls=tuple(null or ()),
        views=tuple(show or ()),
        outs=name_file_pairs("--out", "view=file", out),
        store=store,
        rows_shown=rows,
        as_json=as_json,
        check=check,
        everything=everything,
        mode=_mode(mode, weather),
        system=system,
        broker=broker,
        sources=file,
        source_broker=source_broker,
    )
    if not run_program(load_program(file, program), options):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def test(
    file: ProgramFile,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="How many seeds to try.")] = 100,
    first_seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first of them.")] = 0,
    nodes: Nodes = 3,
    machines: Machines = 2,
    data_seed: Annotated[
        int | None,
        typer.Option("--data-seed", metavar="N", help="Draws the data; without, each seed draws its own."),
    ] = None,
    transactions: Annotated[
        int,
        typer.Option("--transactions", metavar="N", min=1, help="How many transactions each seed writes."),
    ] = 60,
    faults: Annotated[
        str,
        typer.Option(
            "--faults",
            metavar="KINDS",
            help=f"What may go wrong, with commas: {', '.join(KINDS)}; all or none.",
        ),
    ] = "all",
    jobs: Annotated[
        int,
        typer.Option("--jobs", metavar="N", min=0, help="How many processes; 0: one per core."),
    ] = 0,
    only_faults: Annotated[
        str | None,
        typer.Option(
            "--only-faults", metavar="N,N-N", help="Some of the faults that the seed draws, by number."
        ),
    ] = None,
    only_transactions: Annotated[
        str | None,
        typer.Option("--only-transactions", metavar="N,N-N", help="Some of the transactions, by number."),
    ] = None,
    as_json: AsJson = False,
    program: ProgramName = None,
) -> None:
    """Try the program under many seeds of faults, and check every view at every epoch.

    Each seed draws a network, a store, a data set and what goes wrong when; all views are watched and held against a
    recomputation from the log, and the program's invariants against all epochs. When the faults are over, everything
    must get done. A failure is cut down to few faults and transactions, told as a story, and ends with the one line
    that runs it again.
    """
    from dist_zero.cli.test import TestOptions, test_program
    from dist_zero.testing.report import numbers_of
    from dist_zero_common.errors import SettingsError
    from dist_zero_common.sim.plan import checked_kinds

    for option, check, given in (
        ("--faults", checked_kinds, faults),
        ("--only-faults", numbers_of, only_faults),
        ("--only-transactions", numbers_of, only_transactions),
    ):
        try:
            check(given or "none")
        except SettingsError as wrong:
            raise typer.BadParameter(str(wrong), param_hint=option) from None
    options = TestOptions(
        file=file,
        seeds=seeds,
        first_seed=first_seed,
        nodes=nodes,
        machines=machines,
        data_seed=data_seed,
        transactions=transactions,
        faults=faults,
        jobs=jobs,
        only_faults=only_faults,
        only_transactions=only_transactions,
        as_json=as_json,
        program=program,
    )
    if not test_program(load_program(file, program), options):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def explain(
    file: ProgramFile,
    level: Annotated[
        str | None,
        typer.Option(
            "--level", metavar="LEVEL", help="Only one: program, normalised, plan, partitioned or c."
        ),
    ] = None,
    program: ProgramName = None,
) -> None:
    """Print what the compiler makes of the program."""
    typer.echo(load_program(file, program).explain(level), nl=False)


def _weather(profile: str) -> str:
    from dist_zero_common.sim.faults import PROFILES

    if profile not in PROFILES:
        raise typer.BadParameter(f"{profile!r} is none of {', '.join(PROFILES)}", param_hint="--weather")
    return profile


def _mode(mode: str | None, weather: str) -> str:
    from dist_zero.cli.run import MODES, SIMULATED

    if mode is not None and mode not in MODES:
        raise typer.BadParameter(f"{mode!r} is none of {', '.join(MODES)}", param_hint="--mode")
    if mode not in (None, SIMULATED) and weather != "faithful":
        raise typer.BadParameter("only a simulation has weather", param_hint="--weather")
    return mode or SIMULATED
