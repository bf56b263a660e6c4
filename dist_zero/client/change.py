"""Changing a program of a system: asking what that does, and waiting until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dist_zero.client.line import Line
from dist_zero_common.broker.topology import scheduler_inbox
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages.requests import (
    ChangeWanted,
    Located,
    ProgramChange,
    ProgramState,
    SubmitProgram,
)

ASK_SECONDS = 0.5
"""How long until a scheduler that said that the change goes on is asked again."""


@dataclass(frozen=True, slots=True)
class MayChange:
    """That a program may take the place of the one that there is under its name: datasets keep their rows, and views
    that are new or have changed are filled. `drop_datasets`: those that are declared no more are dropped, with their
    rows; else that is refused. `begin_empty`: names of views over datasets without a key that see only what is appended
    from then on; else they are refused."""

    drop_datasets: bool = False
    begin_empty: Sequence[str] = ()


OnChange = Callable[[ProgramChange], None]


async def change_program(
    line: Line,
    system: str,
    name: str,
    graph: bytes,
    *,
    nodes: int,
    change: MayChange,
    on_progress: OnChange | None,
) -> None:
    """Have a program run as it is in `graph`, and wait until it does. Raises `RequestError` if it cannot become so."""
    wanted = ChangeWanted(False, change.drop_datasets, tuple(change.begin_empty))
    while True:
        located = await _asked(line, system, name, SubmitProgram(0, graph, nodes, "", wanted))
        if located.state is ProgramState.HALTED:
            raise OperatorError(f"program {name!r} stands still: {located.note}")
        if located.change is None and located.placement is not None:
            return
        if located.change is not None and on_progress is not None:
            on_progress(located.change)
        await asyncio.sleep(ASK_SECONDS)


async def tell_change(line: Line, system: str, name: str, graph: bytes, change: MayChange) -> ProgramChange:
    """What it would do to run a program as it is in `graph`; nothing is done. Raises `RequestError` if that cannot
    be."""
    wanted = ChangeWanted(True, change.drop_datasets, tuple(change.begin_empty))
    located = await _asked(line, system, name, SubmitProgram(0, graph, 1, "", wanted))
    return located.change or ProgramChange((), 0, 0)


async def _asked(line: Line, system: str, name: str, submit: SubmitProgram) -> Located:
    located = await line.questions.ask(
        lambda request: (
            scheduler_inbox(system),
            SubmitProgram(request, submit.graph, submit.nodes, line.replies, submit.change),
        ),
        f"a change of program {name!r}",
        patience=ASK_SECONDS,
    )
    assert isinstance(located, Located)
    return located
