"""Who uses the bank: loaders, processes that may be killed and go on where they were, and watchers of every epoch."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dist_zero.client.remote import RemoteSystem
from dist_zero.client.watch import StoredChange
from test.virtual.rabbitmq_server import ROOT

PROGRAM = "bank"
MAY_END = ("SessionExpired", "ConnectionLost: no connection within 10 s")
"""Why a loader may end: see docs/exactly-once.md; and the broker was away when it began."""
PATIENCE_SECONDS = 400.0
"""For what takes some seconds where nothing else runs."""
Rows = Counter[tuple[object, ...]]


@dataclass
class Loader:
    """A process that writes transfers. `committed`: how many of its transactions are, as far as it has said."""

    url: str
    system: str
    number: int
    seed: int
    committed: int = 0
    began_at: int = 0
    """How many were when its process of now began."""
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    """Why it ended, each time that it did by itself."""
    _stopping: bool = False

    async def run(self) -> None:
        """Have it write until `stop`; if it ends before, start it again, and it goes on where it was."""
        self._stopping = False
        while not self._stopping:
            command = [sys.executable, "-m", "test.virtual.bank_load"]
            self.process = process = subprocess.Popen(
                [*command, self.system, str(self.number), str(self.seed)],
                cwd=ROOT,
                env={"AMQP_URL": self.url},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                errors = await asyncio.to_thread(self._listen, process)
            finally:
                process.kill()
            if process.returncode > 0:
                self.said.append(errors.strip().splitlines()[-1])
                assert any(reason in errors for reason in MAY_END), errors
                await asyncio.sleep(1)

    def _listen(self, process: subprocess.Popen[str]) -> str:
        """Hear how far it is, until it has ended; returns its complaints."""
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            for number, line in enumerate(process.stdout):
                self.committed = int(line)
                if number == 0:
                    self.began_at = self.committed
            return process.stderr.read()

    async def heard(self, committed: int) -> None:
        """Return when so many are committed."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.committed < committed:
                await asyncio.sleep(0.05)

    def give_up(self) -> None:
        """End the process, whatever it is about, and do not start it again."""
        self._stopping = True
        self.kill()

    def kill(self) -> None:
        """End the process; another one goes on."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """Let it end when all that it has written is committed."""
        self._stopping = True
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


@dataclass
class Watcher:
    """Who is told of every epoch, and looks whether the bank's money is all there."""

    number: int
    epoch: int = 0
    epochs: int = 0
    snapshots: int = 0
    views: dict[str, Rows] = field(default_factory=dict)

    async def run(self, remote: RemoteSystem, slow: float) -> None:
        """Look until cancelled; every hundredth epoch takes `slow` seconds."""
        async with remote.connect(PROGRAM) as db:
            names = [view.name for view in db.plan.views]
            with db.watch_stored(range(len(names))) as watch:
                async for change in watch:
                    self._see(names, change)
                    if slow and self.epochs % 100 == 0:
                        await asyncio.sleep(slow)

    def _see(self, names: Sequence[str], change: StoredChange) -> None:
        where = f"watcher {self.number} at epoch {change.epoch}, behind {self.epoch}"
        assert change.epoch > self.epoch, f"{where}: told twice"
        assert change.snapshot or change.epoch == self.epoch + 1, f"{where}: epochs are missing"
        self.epoch, self.epochs, self.snapshots = (
            change.epoch,
            self.epochs + 1,
            self.snapshots + change.snapshot,
        )
        for number, name in enumerate(names):
            view = Counter() if change.snapshot else self.views.get(name, Counter())
            for row, weight in change.rows[number]:
                view[row] += weight
                if not view[row]:
                    del view[row]
            self.views[name] = view
        assert all(weight > 0 for view in self.views.values() for weight in view.values()), where
        self._check_money(where)

    def _check_money(self, where: str) -> None:
        accounts = list(self.views["balances"])
        assert sum(balance for _, balance, _ in accounts) == 0, f"{where}: {accounts}"  # type: ignore[misc]
        count = sum(entries for _, _, entries in accounts)  # type: ignore[misc]
        assert count % 2 == 0, f"{where}: {accounts}"
        (total,) = self.views["total"]
        assert total in ((0, count), (None, None)), f"{where}: the total is {total}, of {count} entries"
