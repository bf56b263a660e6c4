"""The options that say within which limits a program, and machines, follow the load: of `scale` and of `up`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits

NODES_MAX = 16
"""Of a program that follows its load, where nothing else is said."""

Auto = Annotated[bool, typer.Option("--auto", help="Let the number of nodes follow the load from now on.")]
MinNodes = Annotated[int, typer.Option(metavar="N", min=1, help="With --auto: the fewest nodes.")]
MaxNodes = Annotated[int, typer.Option(metavar="N", min=1, help="With --auto: the most nodes.")]
MinMachines = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="With --auto: the fewest machines, 0 if there may be none."),
]
MaxMachines = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="With --auto: the most machines; their number follows the load, too, from now on.",
    ),
]
Idle = Annotated[
    int,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="With --auto: put it to sleep when nobody wants anything of it for so long.",
    ),
]


@dataclass(frozen=True, slots=True)
class Limits:
    """Within which a program, and if they are given machines, follow the load."""

    nodes: NodeLimits
    machines: MachineLimits | None

    def told(self, program: str) -> str:
        """For people."""
        return f"{program} runs on {self.nodes.nodes_min} to {self.nodes.nodes_max} nodes, as its load needs"


def limits_of(
    auto: bool,
    min_nodes: int,
    max_nodes: int,
    min_machines: int | None,
    max_machines: int | None,
    idle: int,
) -> Limits | None:
    """The limits that these options say, None without `--auto`. Raises `typer.BadParameter`."""
    if (min_machines is None) != (max_machines is None):
        raise typer.BadParameter("give --min-machines and --max-machines together")
    if min_nodes > max_nodes:
        raise typer.BadParameter(f"--min-nodes {min_nodes} is more than --max-nodes {max_nodes}")
    if min_machines is not None and max_machines is not None and min_machines > max_machines:
        raise typer.BadParameter(f"--min-machines {min_machines} is more than --max-machines {max_machines}")
    if not auto:
        if min_machines is not None or idle or (min_nodes, max_nodes) != (1, NODES_MAX):
            raise typer.BadParameter(
                "limits are for what follows its load: say --auto, too, or leave them out"
            )
        return None
    machines = None
    if min_machines is not None and max_machines is not None:
        machines = MachineLimits(min_machines, max_machines)
    return Limits(NodeLimits(min_nodes, max_nodes, idle), machines)
