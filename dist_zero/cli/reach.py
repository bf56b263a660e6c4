"""What commands need of a system that runs, and which of its programs they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from rich.text import Text

from dist_zero.cli.render import console_for
from dist_zero.client.client import Client
from dist_zero_common.broker.base import QueueDepth
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.errors import OperatorError, RequestError
from dist_zero_common.protocol.messages.requests import ProgramState, SystemStatus

STATUS_SECONDS = 15.0
"""A scheduler that has not answered within this time is not waited for by a person at a terminal."""
ABSENT_SECONDS = 3.0
"""Nor is one that does not even have an inbox after this time, because the system's name may be misspelt."""


class RunningSystem(Protocol):
    """A system that runs, as `client.remote.RemoteSystem` reaches it."""

    name: str

    def connect(self, program: str, *, client_id: str | None = None) -> AbstractAsyncContextManager[Client]:
        """A client of one of its programs."""
        ...

    async def status(self) -> SystemStatus:
        """What is there, and how far it is."""
        ...

    async def depth(self, queues: Iterable[str]) -> Mapping[str, QueueDepth | None]:
        """How these queues are doing; None for one that is not there."""
        ...


async def status_of(system: RunningSystem) -> SystemStatus:
    """What its scheduler says. Raises `OperatorError` when it says nothing."""
    asking = asyncio.ensure_future(system.status())
    try:
        done, _ = await asyncio.wait([asking], timeout=ABSENT_SECONDS)
        if not done:
            inbox = scheduler_inbox(system.name)
            depth = (await system.depth([inbox]))[inbox]
            if depth is None or not depth.consumers:
                never = "no scheduler has ever read" if depth is None else "nobody reads"
                raise OperatorError(
                    f"system {system.name!r} is not running at this broker: {never} its queue {inbox}; is the name"
                    " right? `dist-zero doctor` looks for what is wrong"
                )
            done, _ = await asyncio.wait([asking], timeout=STATUS_SECONDS - ABSENT_SECONDS)
        if not done:
            raise OperatorError(
                f"the scheduler of system {system.name!r} has not answered within {STATUS_SECONDS:g} s:"
                " `dist-zero doctor` looks for what is wrong"
            )
        return asking.result()
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def chosen_program(system: RunningSystem, name: str | None) -> str:
    """The program of this name, or the only one there is. Raises `RequestError` naming those there are."""
    programs = {program.program: program for program in (await status_of(system)).programs}
    there = ", ".join(programs) or "none"
    if name is None:
        if not programs:
            raise RequestError("no program runs there yet: `dist-zero run app.py` or `up app.py` submits one")
        if len(programs) > 1:
            raise RequestError(f"{len(programs)} programs run there: pick one of {there} with --program")
        name = next(iter(programs))
    if name not in programs:
        raise RequestError(f"no program {name!r} runs there; there are {there}")
    program = programs[name]
    if program.state is ProgramState.STARTING and program.note:
        console_for(stderr=True).print(Text(f"waiting for program {name}: {program.note}", "yellow"))
    return name
