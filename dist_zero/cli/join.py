"""The command that makes this host a machine of a system: `join`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from dist_zero.cli.app import BrokerUrl, SystemName, app
from dist_zero_common.settings import Settings, load_settings
from dist_zero_common.variables import parse_labels


@app.command()
def join(
    system: SystemName = None,
    broker: BrokerUrl = None,
    machine: Annotated[
        str | None,
        typer.Option("--machine", metavar="NAME", help="What the machine is called; without, as this host."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="What else to say of it; may be repeated."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="DIR|URL",
            help="Where the system's store is from here; without, DIST_ZERO_STORE, or where the scheduler has it.",
        ),
    ] = None,
) -> None:
    """Make this host a machine of a system that runs, until Ctrl-C; then its nodes move to other machines.

    Any host will do that reaches the system's broker and its store. The broker's user has to be one that may do what
    agents, runners and clients do; for a system that `up` has started from this directory it is known already.
    """
    from dist_zero.cli.joining import JoinOptions, join_system
    from dist_zero.cli.systems import resolve

    settings = load_settings()
    target = resolve(system, broker, settings=settings)
    state = target.state if broker is None else None
    agent_url = (state.agent_url if state is not None else "") or target.broker_url
    runner_url = (state.runner_url if state is not None else "") or settings.runner_broker_url or agent_url
    settings = replace(
        settings,
        system=target.system,
        broker_url=agent_url,
        runner_broker_url=runner_url,
        machine=machine or settings.machine,
        labels=_labels(settings, label or []),
    )
    asyncio.run(join_system(JoinOptions(settings, target.broker_url, store or settings.store)))


def _labels(settings: Settings, given: list[str]) -> tuple[str, ...]:
    """Those that are set and those that are given; what is given counts more. Raises `typer.BadParameter`."""
    try:
        labels = parse_labels(",".join(given))
    except ValueError:
        raise typer.BadParameter(
            f"{', '.join(map(repr, given))} makes no sense; a label is name=value, of letters, digits, dots, hyphens"
            " and underscores",
            param_hint="--label",
        ) from None
    named = {each.partition("=")[0]: each for each in (*settings.labels, *labels)}
    return tuple(named.values())
