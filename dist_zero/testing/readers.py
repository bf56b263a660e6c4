"""Who looks at a program while it is tested: a watcher that can be stopped and killed, and a reader of snapshots."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot
from dist_zero.compiler.plan import Sink
from dist_zero.testing.checks import Read, Seen
from dist_zero.testing.faulty import FaultySystem
from dist_zero.types import Row as StoredRow
from dist_zero.types import from_stored
from dist_zero_common.errors import OperatorError
from dist_zero_common.sim.processes import Process

SNAPSHOT_SECONDS = 4.0


class Watcher:
    """Watches all views of a program, over as many lives as it takes: each goes on where the one before it came to, by
    the token that the last change was."""

    def __init__(self, system: FaultySystem, program: str, seen: Seen) -> None:
        self._system, self._program, self._seen = system, program, seen

    async def live(self, _process: Process) -> None:
        """One life."""
        with suppress(OperatorError):  # it gives up, and is started again
            async with self._system.connect(self._program) as client:
                await self._watch(client)

    async def _watch(self, client: Client) -> None:
        seen = self._seen
        after = seen.changes[-1].epoch if seen.changes else 0
        with client.watch_stored(range(len(client.plan.views)), after) as watch:
            async for change in watch:
                seen.changes.append(change)
                seen.changed_at.append(asyncio.get_running_loop().time())


async def take_snapshots(client: Client, seen: Seen) -> None:
    """Take a snapshot now and then, and get some of its rows."""
    while True:
        await asyncio.sleep(SNAPSHOT_SECONDS)
        with suppress(OperatorError):
            snapshot = await client.snapshot()
            seen.snapshots.append(snapshot)
            await get_some(client, seen, snapshot, 1)


async def wait_watched(seen: Seen, epoch: int) -> None:
    """Wait until the watcher has been told of an epoch."""
    while not (seen.changes and seen.changes[-1].epoch >= epoch):
        await asyncio.sleep(0.1)


async def get_some(client: Client, seen: Seen, snapshot: Snapshot, count: int) -> None:
    """Get rows of a snapshot by their keys; what comes may be newer than it, and not older."""
    for number, view in enumerate(client.plan.views):
        for row in snapshot.stored[view.name][:count]:
            await get_one(client, seen, number, row, snapshot.epoch)


async def get_one(client: Client, seen: Seen, number: int, row: StoredRow, at_least: int) -> None:
    """Get a row by the key that this one has."""
    view = client.plan.views[number]
    sink = client.plan.operators[view.sink]
    assert isinstance(sink, Sink)
    if sink.key is None:
        return
    key = tuple(row[place] for place in sink.key)
    asked = {
        view.row_type.names[place]: from_stored(view.row_type.types[place], row[place]) for place in sink.key
    }
    got = await client.get(view.name, asked)
    seen.reads.append(Read(view.name, key, None if got is None else got._stored, at_least))
