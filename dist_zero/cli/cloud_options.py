"""The options of `up --mode cloud`. Each stands before a setting of the same meaning, where a team keeps what is the
same for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dist_zero.cli.app import was_said
from dist_zero_common.settings import Settings

Image = Annotated[str | None, typer.Option("--image", metavar="AMI", help="Cloud: the image of instances.")]
ImageHas = Annotated[
    bool | None,
    typer.Option(
        "--image-has-dist-zero/--image-is-bare",
        help="Cloud: whether DistZero is in the image, or hosts install it.",
    ),
]
MachineType = Annotated[
    list[str] | None,
    typer.Option("--machine-type", metavar="TYPE", help="Cloud: a type of machines; more are tried in turn."),
]
SchedulerType = Annotated[
    list[str] | None,
    typer.Option("--scheduler-type", metavar="TYPE", help="Cloud: a type of hosts that run a scheduler."),
]
Schedulers = Annotated[
    int | None, typer.Option("--schedulers", metavar="N", min=1, max=9, help="Cloud: how many schedulers.")
]
Subnet = Annotated[
    list[str] | None,
    typer.Option("--subnet", metavar="SUBNET", help="Cloud: where instances are; more are tried in turn."),
]
SecurityGroup = Annotated[
    list[str] | None,
    typer.Option("--security-group", metavar="SG", help="Cloud: one of yours; without, one is made."),
]
MachineProfile = Annotated[
    str | None,
    typer.Option("--machine-profile", metavar="NAME", help="Cloud: the instance profile of machines."),
]
SchedulerProfile = Annotated[
    str | None,
    typer.Option("--scheduler-profile", metavar="NAME", help="Cloud: the instance profile of schedulers."),
]
Spot = Annotated[bool | None, typer.Option("--spot/--on-demand", help="Cloud: which kind of instances.")]
Owner = Annotated[str | None, typer.Option("--owner", metavar="TEXT", help="Cloud: the tag dist-zero:owner.")]
Lease = Annotated[
    int | None,
    typer.Option("--lease", metavar="SECONDS", help="Cloud: how long instances live that nobody renews."),
]
MaxUsd = Annotated[
    float | None,
    typer.Option("--max-usd-per-hour", metavar="USD", help="Cloud: what all instances may cost together."),
]
Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="Cloud: what instance types cost, as JSON.")
]
Region = Annotated[str | None, typer.Option("--region", metavar="REGION", help="Cloud: where instances are.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Cloud, with --dry-run: what hosts do at their start, too.")
]


def with_options(settings: Settings, **given: Any) -> Settings:
    """The settings, with what was said on the command line before them; None and nothing were not said."""
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None and value != []
    }
    return replace(settings, **said)


ONLY_IN_CLOUD = (
    "image",
    "image_has_dist_zero",
    "machine_type",
    "scheduler_type",
    "schedulers",
    "subnet",
    "security_group",
    "machine_profile",
    "scheduler_profile",
    "spot",
    "owner",
    "lease",
    "max_usd_per_hour",
    "prices",
    "region",
    "verbose",
)
"""The parameters of `up` that mean nothing elsewhere."""


def refuse_cloud_options(context: typer.Context) -> None:
    """Raise `typer.BadParameter` if one of them was given: whoever means the cloud is not to get something else."""
    for parameter in context.command.params:
        if parameter.name in ONLY_IN_CLOUD and was_said(context, parameter.name):
            raise typer.BadParameter(
                "that is for --mode cloud, which was not said", param_hint=parameter.opts[0]
            )
