"""What people and policies may change while programs run: how many nodes a program has or may have, how many machines
there are, and which of them run nothing any more. Pure."""

from __future__ import annotations

from dataclasses import replace

from dist_zero.shards import SHARDS_MAX, rescaled
from dist_zero_common.errors import RequestError
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits
from dist_zero_common.protocol.stored import (
    RecordedMachines,
)
from services.scheduler.state import Desired, Observed, WantedProgram, is_silent, runner_name

MACHINES_MAX = 10_000
"""More machines than any system may have; bounds what somebody can make us obtain."""


def rescaled_program(program: WantedProgram, nodes: int) -> WantedProgram:
    """The program as it is to be on so many nodes; the same object if it is already. Raises `RequestError` if no
    program can have so many."""
    if not 1 <= nodes <= SHARDS_MAX:
        raise RequestError(f"a program runs on 1 to {SHARDS_MAX} nodes, not on {nodes}")
    if nodes == len(program.shard_map.nodes):
        return program
    return replace(program, shard_map=rescaled(program.shard_map, nodes))


def pinned(program: WantedProgram) -> WantedProgram:
    """The program with the nodes that it is to have, and no others by itself; the same object if that is so."""
    return program if program.limits is None else replace(program, limits=None, tried=())


def with_limits(
    desired: Desired, program: str, nodes: NodeLimits | None, machines: MachineLimits | None
) -> Desired:
    """With a program, and if they are given machines, whose number is automatic within these limits; the same object if
    that is so already. Raises `RequestError` for limits that make no sense."""
    if nodes is None or not 1 <= nodes.nodes_min <= nodes.nodes_max <= SHARDS_MAX:
        asked = f"{nodes.nodes_min} to {nodes.nodes_max}" if nodes is not None else "none"
        raise RequestError(
            f"a program grows between 1 and {SHARDS_MAX} nodes, the least first, not between {asked}"
        )
    if machines is not None and not (
        0 <= machines.machines_min <= machines.machines_max <= MACHINES_MAX and machines.machines_max > 0
    ):
        asked = f"{machines.machines_min} to {machines.machines_max}"
        raise RequestError(f"there are 0 to {MACHINES_MAX} machines, the least first, and not {asked}")
    wanted = desired.programs[program]
    if wanted.limits != nodes:
        programs = {**desired.programs, program: replace(wanted, limits=nodes)}
        desired = replace(desired, programs=programs)
    if machines is None or machines == desired.machine_limits:
        return desired
    count = min(max(desired.machines, machines.machines_min, 1), machines.machines_max)
    return replace(with_machines(desired, count), machine_limits=machines)


def with_machines(desired: Desired, count: int) -> Desired:
    """With another number of machines: of those called m1, m2 … the last ones are to be given back, or come again."""
    fewer = {f"m{number}" for number in range(count + 1, desired.machines + 1)}
    kept = {f"m{number}" for number in range(1, count + 1)}
    return replace(desired, machines=count, leaving=(desired.leaving | fewer) - kept)


def with_drained(desired: Desired, machine: str, drained: bool) -> Desired:
    """With a machine that runs nothing any more, or that runs things again; the same object if that is so already."""
    machines = desired.drained | {machine} if drained else desired.drained - {machine}
    return desired if machines == desired.drained else replace(desired, drained=machines)


def with_recalled_machines(desired: Desired, recorded: RecordedMachines) -> Desired:
    """What a scheduler that begins wants of machines, as the log has it."""
    automatic = recorded.limits is not None
    return replace(
        desired,
        drained=frozenset(recorded.drained),
        leaving=frozenset(recorded.leaving),
        machine_limits=recorded.limits,
        machines=recorded.wanted if automatic else desired.options.machines,
    )


def is_empty(machine: str, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether nothing runs on a machine, by the word of its runner, or by nobody's if it is silent."""
    seen = observed.runners.get(runner_name(machine))
    return seen is None or is_silent(seen, desired, observed, now) or not seen.programs()


def without_machine(desired: Desired, observed: Observed, machine: str) -> Desired:
    """Without a machine that was given back. Nobody has to miss its reports."""
    runner = runner_name(machine)
    observed.machines.pop(machine, None)
    observed.runners.pop(runner, None)
    return replace(
        desired, runners={name: wanted for name, wanted in desired.runners.items() if name != runner}
    )
