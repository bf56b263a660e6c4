"""What `dist-zero up` says of a change of a program, and how it shows that it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dist_zero.cli.render import console_for
from dist_zero.cli.status import compact_table
from dist_zero_common.protocol.messages.requests import ChangeLine, ChangeWanted, Fate, ProgramChange

if TYPE_CHECKING:
    from dist_zero.client.change import MayChange
    from dist_zero.client.remote import RemoteSystem
    from dist_zero.program import Program

_WORDS = {
    Fate.KEPT: ("keeps", "green"),
    Fate.FILLED: ("fills", "yellow"),
    Fate.EMPTY: ("begins empty", "yellow"),
    Fate.DROPPED: ("drops", "bold red"),
}


async def change(remote: RemoteSystem, program: Program, nodes: int, allowed: MayChange) -> None:
    """Say what it changes to run this program, and wait until it runs."""
    show_change(await remote.tell_change(program, allowed))
    console, shown = console_for(stderr=True), -1

    def on_progress(change: ProgramChange) -> None:
        nonlocal shown
        if change.slices and change.filled > shown:
            shown = change.filled
            console.print(Text(f"filled {change.filled} of {change.slices} slices", "dim"))

    await remote.change(program, allowed, nodes=nodes, on_progress=on_progress)


def show_change(change: ProgramChange) -> None:
    """What becomes of each dataset and view, if anything does."""
    if any(line.fate is not Fate.KEPT for line in change.lines):
        console_for().print(change_table(change.lines))


def change_table(lines: Sequence[ChangeLine]) -> Table:
    """One line per dataset and view."""
    table = compact_table("change", "", "", "because")
    for line in lines:
        word, style = _WORDS[line.fate]
        table.add_row(Text(word, style), line.what, line.name, line.reason)
    return table


async def change_of_stored(store: Path, program: Program, allowed: MayChange) -> ProgramChange | None:
    """What starting this program over a store would change, while nothing runs there; None if the store does not know
    it."""
    from dist_zero.expr.graph import encode_graph
    from dist_zero_common.errors import RequestError
    from dist_zero_common.store.directory import DirectoryStore
    from services.scheduler.changing import change_to_stored
    from services.scheduler.programs import known_base

    if not store.is_dir():
        return None
    try:
        base = await known_base(DirectoryStore(store), program.name)
    except RequestError:
        return None
    wanted = ChangeWanted(True, allowed.drop_datasets, tuple(allowed.begin_empty))
    return change_to_stored(program.name, base, encode_graph(program.graph()), wanted)
