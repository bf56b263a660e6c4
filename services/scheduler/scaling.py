"""What people and policies may change while programs run: how many nodes a program has or may have, how many machines
there are, and which of them run nothing any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dist_zero.shards import SHARDS_MAX, rescaled
from dist_zero_common.errors import RequestError
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits, ServiceCount
from dist_zero_common.protocol.stored import (
    RecordedMachines,
)
from services.scheduler.spawners.base import Role
from services.scheduler.state import Desired, Observed, WantedProgram, is_silent, runner_name

MACHINES_MAX = 10_000
"""More machines than any system may have; bounds what somebody can make us obtain."""
SCHEDULERS_MAX = 16
"""More than so many schedulers help nobody: one leads, and all others wait."""
SERVICES = {"node-runner": Role.MACHINE, "scheduler": Role.SCHEDULER}
"""What can be scaled, by the names that services have elsewhere; each machine has one node runner."""


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
    return replace(with_machines(desired, count), machine_limits=machines, machines_asked=False)


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
    asked = recorded.wanted > 0 and not automatic
    desired = replace(
        desired,
        drained=frozenset(recorded.drained),
        leaving=frozenset(recorded.leaving),
        machine_limits=recorded.limits,
        machines=recorded.wanted if automatic or asked else desired.options.machines,
        machines_asked=asked,
    )
    if desired.schedulers is None or not recorded.schedulers:
        return desired
    return replace(desired, schedulers=recorded.schedulers, schedulers_asked=True)


def with_services(desired: Desired, services: Iterable[ServiceCount]) -> Desired:
    """With so many hosts of these services, because somebody has asked for them; the same object if that is so already.
    Raises `RequestError` for what cannot be, or is somebody else's business here, with what to do instead."""
    for each in services:
        role = SERVICES.get(each.service)
        if role is None:
            raise RequestError(f"no service {each.service!r} can be scaled: there are {', '.join(SERVICES)}")
        if (instead := _unobtainable(role, desired)) is not None:
            raise RequestError(
                f"the number of hosts with a {each.service} is not the scheduler's to change: {instead}"
            )
        most = MACHINES_MAX if role is Role.MACHINE else SCHEDULERS_MAX
        if not 1 <= each.count <= most:
            raise RequestError(f"there are 1 to {most} hosts with a {each.service}, and not {each.count}")
        if role is Role.SCHEDULER:
            desired = _with_schedulers(desired, each.count)
        elif (desired.machines, desired.machine_limits) != (each.count, None) or not desired.machines_asked:
            counted = with_machines(desired, each.count)
            desired = replace(counted, machine_limits=None, machines_asked=True)
    return desired


def _with_schedulers(desired: Desired, count: int) -> Desired:
    if desired.schedulers == count and desired.schedulers_asked:
        return desired
    return replace(desired, schedulers=count, schedulers_asked=True)


def _unobtainable(role: Role, desired: Desired) -> str | None:
    """What to do instead of asking a scheduler for hosts of this role; None if it can obtain them."""
    if role is Role.SCHEDULER and desired.schedulers is None:
        return desired.options.unobtainable.get(role, "schedulers are started by whoever starts the system")
    return desired.options.unobtainable.get(role)


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
