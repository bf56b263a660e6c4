"""How programs are written to and read from: `client.py` for asyncio, `blocking.py` for everybody else."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from dist_zero.client.blocking import EitherWay
from dist_zero.client.client import Client
from dist_zero.client.remote import RemoteSystem
from dist_zero_common.errors import SettingsError

if TYPE_CHECKING:
    from dist_zero.program import Program
    from dist_zero.system import System

__all__ = ["Client", "connect"]


def connect(
    program: Program | str,
    *,
    to: System | RemoteSystem | str,
    system: str | None = None,
    nodes: int = 1,
    client_id: str | None = None,
) -> EitherWay:
    """A client of a running system, for `async with` or `with`::

        with dz.connect(app, to="amqp://user:password@host/dz", system="shop") as db:
            db.put("scores", {"player": "ann", "points": 7})

    `program`: a whole program is submitted, on `nodes` nodes, unless it runs already; a name finds one that
    runs. `to`: the URL of the system's broker; or the system itself, as the `system` of an embedded database (then
    for `async with` only). `system`: its name at the broker, None: the program's. `client_id` names the writer's
    sessions: a new session of the same name ends the older one and learns how many transactions are committed
    (`committed`), so that a writer that was killed goes on where it stopped. Two writers at a time need two
    names.

    A broker that cannot be reached for ten seconds is an `OperatorError`, and so is one that refuses the user. Later
    on a connection that is lost is made again, and what waits goes on; `waiting_for` says what it waits for.
    """

    def opened() -> AbstractAsyncContextManager[Client]:
        there = RemoteSystem(to, name) if isinstance(to, str) else to
        return there.connect(program, nodes=nodes, client_id=client_id)

    if not callable(getattr(to, "connect", None)) and not (isinstance(to, str) and "://" in to):
        raise SettingsError(
            f"cannot connect to {to!r}: a system is reached at the URL of its broker,"
            ' as to="amqp://user:password@host:port/vhost"'
        )
    if not isinstance(program, str) and not hasattr(program, "graph"):
        raise SettingsError(f"cannot connect {program!r}: give a dz.Program, or the name of one that runs")
    name = system or (program if isinstance(program, str) else program.name)
    return EitherWay(opened, only_async=not isinstance(to, str | RemoteSystem))
