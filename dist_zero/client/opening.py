"""How a client of a program is made, wherever its system is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dist_zero import compiler
from dist_zero.client.client import Client, ClientOptions
from dist_zero.client.line import CONNECT_SECONDS_MAX
from dist_zero.expr.graph import decode_graph, encode_graph
from dist_zero_common.broker.base import Connect
from dist_zero_common.clock import Clock
from dist_zero_common.errors import SettingsError
from dist_zero_common.ids import checked_name
from dist_zero_common.log import get_logger

if TYPE_CHECKING:
    from dist_zero.program import Program


def new_client(
    program: Program | str,
    *,
    system: str,
    connection: str,
    connect: Connect,
    clock: Clock,
    nodes: int,
    client_id: str | None,
    connect_seconds: float = CONNECT_SECONDS_MAX,
) -> Client:
    """A client, to be entered with `async with`. `connection` is its name among all that the broker ever sees; see
    `dz.connect` for the rest."""
    if not isinstance(nodes, int) or nodes < 1:
        raise SettingsError(f"{nodes!r} nodes: a program has a whole number of them, at least one")
    if client_id is not None:
        checked_name("client", client_id)
    name = program if isinstance(program, str) else program.name
    options = ClientOptions(
        system=system,
        connection=connection,
        program=checked_name("program", name),
        graph=None if isinstance(program, str) else encode_graph(program.graph()),
        nodes=nodes,
        client_id=client_id,
        connect_seconds=connect_seconds,
    )
    return Client(
        options,
        connect=connect,
        clock=clock,
        compile_graph=lambda graph: compiler.compile(decode_graph(graph)),
        log=get_logger("client", clock, client=connection, program=name),
    )
