"""The commands that start systems and end them: `up`, `down`, `orphans`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_zero.cli.app import (
    AsJson,
    Machines,
    Nodes,
    ProgramFile,
    ProgramName,
    SourceBroker,
    app,
    was_said,
)
from dist_zero.cli.cloud_options import (
    Image,
    ImageHas,
    Lease,
    MachineProfile,
    MachineType,
    MaxUsd,
    Owner,
    Prices,
    Region,
    SchedulerProfile,
    Schedulers,
    SchedulerType,
    SecurityGroup,
    Spot,
    Subnet,
    Verbose,
    refuse_cloud_options,
    with_options,
)
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
from dist_zero.cli.load_program import load_program
from dist_zero.cli.systems import CLOUD_MODE
from dist_zero_common.errors import SettingsError
from dist_zero_common.settings import load_settings

if TYPE_CHECKING:
    from dist_zero.cli.systems import SystemState

VIRTUAL_MODE = "virtual"


@app.command()
def up(
    context: typer.Context,
    file: ProgramFile,
    nodes: Nodes = 1,
    machines: Machines = 1,
    mode: Annotated[
        str,
        typer.Option(
            "--mode", metavar="MODE", help="virtual: machines are containers; cloud: instances of EC2."
        ),
    ] = VIRTUAL_MODE,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="Keep the log there; without, in the log directory, by the system's name. Cloud: s3://bucket/prefix.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="NAME", help="What the system is called; without, as its program."),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            metavar="URL",
            help="The broker of a system that is there, to which the program is added; `new`: start one, whatever"
            " AMQP_URL says.",
        ),
    ] = None,
    source_broker: SourceBroker = None,
    program: ProgramName = None,
    auto: Auto = False,
    min_nodes: MinNodes = 1,
    max_nodes: MaxNodes = NODES_MAX,
    min_machines: MinMachines = None,
    max_machines: MaxMachines = None,
    idle: Idle = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be kept, filled and dropped, and do nothing.")
    ] = False,
    drop_datasets: Annotated[
        bool,
        typer.Option("--drop-datasets", help="Drop datasets that are declared no more, with their rows."),
    ] = False,
    begin_empty: Annotated[
        list[str] | None,
        typer.Option(
            "--begin-empty",
            metavar="VIEW",
            help="Let a view over a dataset without a key see only what is appended from now on.",
        ),
    ] = None,
    image: Image = None,
    image_has_dist_zero: ImageHas = None,
    machine_type: MachineType = None,
    scheduler_type: SchedulerType = None,
    schedulers: Schedulers = None,
    subnet: Subnet = None,
    security_group: SecurityGroup = None,
    machine_profile: MachineProfile = None,
    scheduler_profile: SchedulerProfile = None,
    spot: Spot = None,
    owner: Owner = None,
    lease: Lease = None,
    max_usd_per_hour: MaxUsd = None,
    prices: Prices = None,
    region: Region = None,
    verbose: Verbose = False,
) -> None:
    """Start a system with a program in it, and leave it running; or change the program of one.

    Each machine is a container, and so is RabbitMQ, unless AMQP_URL names one. With --broker, or where the system is up
    already, no system is started: the program is added to the one that is there, and its sources are not bridged:
    `dist-zero bridge` does that.

    With --mode cloud each machine is an instance of EC2, the broker is the one named, and the store is a bucket; what
    is there already stays as it is. --dry-run prints what would be made, and what it costs.

    Where a program of that name was there before, datasets keep their rows, views that are new or have changed are
    filled from them, and the old answers are served until that is done.

    With --auto the program begins with --nodes and --machines, and follows its load from then on, as with `dist-zero
    scale`.
    """
    import asyncio

    from dist_zero.cli.changing import change, change_of_stored, show_change
    from dist_zero.cli.keeping import NEW_BROKER, Keeping, wanted_system
    from dist_zero.cli.systems import DIRECTORY, checked_url, load_states, resolve
    from dist_zero.client.change import MayChange
    from dist_zero.client.remote import RemoteSystem

    if mode not in (VIRTUAL_MODE, CLOUD_MODE):
        raise typer.BadParameter(f"{mode!r} is none of {VIRTUAL_MODE}, {CLOUD_MODE}", param_hint="--mode")
    in_cloud, most_machines = mode == CLOUD_MODE, None
    if in_cloud and not auto:
        most_machines, max_machines = max_machines, None
    if not in_cloud:
        refuse_cloud_options(context)
    asked_nodes, asked_machines = was_said(context, "nodes"), was_said(context, "machines")
    limits = limits_of(auto, min_nodes, max_nodes, min_machines, max_machines, idle)
    loaded, settings = load_program(file, program), load_settings()
    settings = with_options(
        settings,
        store=store if in_cloud else None,
        cloud_image=image,
        cloud_image_has_dist_zero=image_has_dist_zero,
        cloud_machine_types=machine_type,
        cloud_scheduler_types=scheduler_type,
        cloud_schedulers=schedulers,
        cloud_subnets=subnet,
        cloud_security_groups=security_group,
        cloud_machine_profile=machine_profile,
        cloud_scheduler_profile=scheduler_profile,
        cloud_spot=spot,
        cloud_owner=owner,
        cloud_lease_seconds=lease,
        cloud_max_machines=most_machines,
        cloud_max_usd_per_hour=max_usd_per_hour,
        cloud_prices=prices,
        aws_region=region,
    )
    allowed = MayChange(drop_datasets, tuple(begin_empty or ()))

    async def submit(url: str, name: str) -> str:
        remote = RemoteSystem(url, name)
        if dry_run:
            told = await remote.tell_change(loaded, allowed)
            show_change(told)
            return (
                "" if told.lines else f"nothing would change: program {loaded.name} is new, or as it is there"
            )
        await change(remote, loaded, nodes, allowed)
        if limits is not None:
            await remote.autoscale(loaded.name, limits.nodes, limits.machines)
        async with remote.connect(loaded, nodes=nodes) as client:
            return client.note if asked_nodes else ""  # that it runs on another number of them

    name = system or settings.system or loaded.name
    is_up = any(state.system == name and state.alive() for state in load_states(settings.log_directory))
    if in_cloud:
        from dist_zero.cli.cloud import bring_up, bringing_of, show_plan

        bringing = bringing_of(settings, name, machines, broker)
        if dry_run:
            show_plan(bringing, verbose=verbose)
            return
        bring_up(bringing, settings, loaded.name, asked_machines=asked_machines)
        note = asyncio.run(submit(bringing.broker_url, name))
    elif broker != NEW_BROKER and (broker is not None or is_up):
        target = resolve(
            system if broker is not None else name, broker, otherwise=loaded.name, settings=settings
        )
        name, note = target.system, asyncio.run(submit(target.broker_url, target.system))
    elif dry_run:
        there = Path(store) if store else settings.log_directory / DIRECTORY / name / "store"
        told = asyncio.run(change_of_stored(there, loaded, allowed))
        if told is not None:
            show_change(told)
        note = (
            ""
            if told is not None and told.lines
            else f"nothing would change: {there} does not know the program"
        )
    else:
        wanted = wanted_system(
            settings,
            system=name,
            machines=machines,
            program=loaded.name,
            store=Path(store) if store else settings.log_directory / DIRECTORY / name / "store",
            broker=broker,
            sources=file if loaded.sources else None,
            source_broker=checked_url(source_broker, "--source-broker") if source_broker else None,
        )
        with Keeping(wanted) as keeping:
            note = asyncio.run(submit(keeping.state.broker_url, name))
            keeping.stay()
        if loaded.sources:
            typer.echo(
                f"a bridge reads its queues, and says how that goes in {settings.log_directory}/bridge-{name}.stderr"
            )
    if dry_run:
        typer.echo(note or "nothing was done: without --dry-run it will be")
        return
    for line in (
        note,
        f"program {loaded.name} runs in system {name}",
        limits.told(loaded.name) if limits is not None else "",
        f"nobody reads its queues yet: `dist-zero bridge {file}` does, where they can be reached"
        if in_cloud and loaded.sources
        else "",
        _next(name, in_cloud or broker in (None, NEW_BROKER)),
    ):
        if line:
            typer.echo(line)


def _next(system: str, ours: bool) -> str:
    after = f", and dist-zero down --system {system} ends it" if ours else ""
    return f"next: dist-zero status --system {system}; load, show, get and watch take the same option{after}"


@app.command()
def down(
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="NAME", help="Which system; without, the only one that was started here."
        ),
    ] = None,
) -> None:
    """End a system that was started from this directory, with its containers, networks and volumes, or its instances
    and what else was made for it at AWS.

    Its store stays, and `up` goes on from there.
    """
    from dist_zero.cli.keeping import end_keeper, take_down
    from dist_zero.cli.systems import load_states
    from dist_zero_common.processes import is_running

    logs = load_settings().log_directory
    states = {state.system: state for state in load_states(logs)}
    state = _chosen(states, system or load_settings().system)
    if state.mode == CLOUD_MODE:
        from dist_zero.cli.cloud import take_down as take_down_in_cloud

        take_down_in_cloud(state, load_settings(), lambda removed: typer.echo(f"removed {removed}"))
        typer.echo(f"system {state.system} is down: AWS has nothing of it but its store, {state.store}")
        return
    if is_running(state.keeper):
        end_keeper(state)
    for removed in take_down(state.system, state.keeper, logs.absolute()):
        typer.echo(f"removed {removed}")
    typer.echo(f"system {state.system} is down; its store stays in {state.store}")


def _chosen(states: dict[str, SystemState], system: str) -> SystemState:
    there = ", ".join(sorted(states)) or "none"
    if system:
        if system not in states:
            raise SettingsError(
                f"no system {system!r} was started from this directory (started here: {there});"
                " `dist-zero orphans` finds what others left on this host"
            )
        return states[system]
    if len(states) != 1:
        what = "several systems were" if states else "no system was"
        raise SettingsError(
            f"{what} started from this directory: say which with --system NAME (started here: {there})"
        )
    return next(iter(states.values()))


@app.command()
def orphans(
    remove: Annotated[bool, typer.Option("--remove", help="Remove what was found.")] = False,
    cloud: Annotated[
        bool, typer.Option("--cloud", help="Look at AWS, not at this host; credentials are needed.")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="NAME", help="With --cloud: only this one, also if it lives."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what systems have left on this host whose keeper is gone: containers, networks, volumes, queues, files.

    Queues are found at brokers that were given, of systems that were started from this directory. With --cloud:
    instances that have outlived their lease, and all that is marked with a system that was not started from this
    directory.
    """
    import asyncio

    from dist_zero.cli.keeping import take_down
    from dist_zero.cli.systems import DIRECTORY, load_states, remove_state
    from dist_zero.virtual import orphaned, used_queues_file
    from dist_zero_common.containers import Docker

    if cloud:
        from dist_zero.cli.cloud import cloud_orphans

        things, all_of_it = cloud_orphans(load_settings(), system, remove=remove)
        _print_orphans(things, remove, as_json, " --cloud" if all_of_it else None)
        return
    logs = load_settings().log_directory.absolute()

    async def look() -> dict[tuple[str, str], list[str]]:
        async with Docker() as docker:
            return await orphaned(docker)

    found = asyncio.run(look())
    states = load_states(logs)
    for state in states:
        if not state.alive():
            found.setdefault((state.system, state.keeper), []).append(f"state file of system {state.system}")
    alive = {state.system for state in states if state.alive()}
    for directory in sorted((logs / DIRECTORY).glob("*/")):
        queues = used_queues_file(directory)
        if directory.name not in alive and queues.exists():
            names = queues.read_text().splitlines()[1:]
            mine = next((key for key in found if key[0] == directory.name), (directory.name, ""))
            found.setdefault(mine, []).extend(f"queue {name}" for name in names)
    for (system, keeper), _ in sorted(found.items()) if remove else ():
        take_down(system, keeper, logs)
        remove_state(logs, system)
    _print_orphans([thing for things in found.values() for thing in things], remove, as_json)


def _print_orphans(things: list[str], removed: bool, as_json: bool, option: str | None = "") -> None:
    if as_json:
        typer.echo(json.dumps({"orphans": things, "removed": removed}))
        return
    for thing in things:
        typer.echo(f"removed {thing}" if removed else thing)
    if not things:
        typer.echo("nothing is left over")
    elif not removed and option is not None:
        typer.echo(f"dist-zero orphans{option} --remove removes them")
