"""How programs are written to and read from: `client.py` for asyncio, `blocking.py` for everybody else."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from dist_zero.client.client import Client
from dist_zero_common.errors import SettingsError

if TYPE_CHECKING:
    from dist_zero.program import Program
    from dist_zero.system import System

__all__ = ["Client", "connect"]


def connect(
    program: Program | str, *, to: System | str, nodes: int = 1, client_id: str | None = None
) -> AbstractAsyncContextManager[Client]:
    """A client of a running system, for `async with`.

    `program`: a whole program is submitted, on `nodes` nodes, unless it runs already; a name finds one that
    runs. `to`: the system, as the `system` of an embedded database. `client_id` names the writer's sessions:
    a new session of the same name ends the older one and learns how many transactions are committed
    (`committed`), so that a writer that was killed goes on where it stopped. Two writers at a time need two
    names.
    """
    if isinstance(to, str):
        raise SettingsError(
            f"cannot connect to {to!r}: this version has the in-memory broker only, so a system is reached from its"
            " own process; pass the system itself, or use dz.embedded(app)"
        )
    return to.connect(program, nodes=nodes, client_id=client_id)
