"""Chaos: faults drawn from a seed, put upon a system in containers that is under the load of a bank.

A machine is killed, told to end, paused, cut off from the network; its node runner alone is killed or hangs; the same
happens to the broker and to schedulers; loaders are killed and go on; the number of nodes is changed, and machines are
drained. Faults overlap, each part having one at a time. Meanwhile watchers look at every epoch, where all accounts must
add up to nothing and every transfer be whole. In the end everything heals, and all that was written is there, once, in
views that are to the bit what the oracle makes of the log.

All that happens is told in a story, which a failure carries with the seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from dist_zero.client.client import Client
from dist_zero.client.snapshot import Snapshot
from dist_zero.testing import log_of, recomputed_differences
from dist_zero.virtual import BROKER_PART
from dist_zero_common.errors import DistZeroError
from dist_zero_common.store.directory import DirectoryStore
from examples.bank import app
from test.virtual.bank_clients import PROGRAM, Loader, Watcher
from test.virtual.bank_load import ACCOUNTS, LOADERS, balances
from test.virtual.containers import ContainerSystem

NODES, NODES_MAX = 4, 8
STEP = 20
"""So many transactions of each loader are committed until it is said that all goes on."""
STALL_SECONDS_MAX = 420.0
"""Nothing may stand still for so long once nothing is broken: what hangs may be slow, for up to five minutes."""
WATCHERS = 3
WISH_SECONDS = 30.0
SNAPSHOTS_COMPARED = 6
WARNINGS_TOLD = 30
OF_COURSE = ('"level": "info"', '"broker_lost"')
STORY_FILE = "story.txt"


# -- what is to happen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` happens to `part` and lasts for `seconds`. The next fault begins `pause` later; `settles`: not before this
    one and all before it are over and all goes on again."""

    what: str
    part: str
    seconds: float
    pause: float
    settles: bool

    def __str__(self) -> str:
        return f"{self.what} {self.part} for {self.seconds:.1f} s"


MACHINE_FAULTS = ("kill", "stop", "pause", "cut", "kill runner", "hang runner", "drain")
BROKER_FAULTS = ("kill", "stop", "pause", "cut")
SCHEDULER_FAULTS = ("kill", "stop", "pause", "cut")


def drawn(rng: random.Random, count: int, system: ContainerSystem) -> Iterator[Fault]:
    """So many faults. Half of them happen to machines."""
    loaders = [f"loader-{number}" for number in range(LOADERS)]
    kinds: list[tuple[int, Sequence[str], Sequence[str]]] = [
        (12, MACHINE_FAULTS, system.machines),
        (4, BROKER_FAULTS, (BROKER_PART,)),
        (3, SCHEDULER_FAULTS, system.schedulers),
        (2, ("kill",), loaders),
        (3, tuple(f"scale to {nodes}" for nodes in range(1, NODES_MAX + 1)), (PROGRAM,)),
    ]
    kinds = [kind for kind in kinds if kind[2]]  # the scheduler of a keeper is none of the parts
    for _ in range(count):
        (_, faults, parts) = rng.choices(kinds, [weight for weight, _, _ in kinds])[0]
        longest = rng.choice(
            (1.0, 5.0, 25.0)
        )  # 25 s: long enough to be taken for dead, and to come back from it
        yield Fault(
            rng.choice(faults),
            rng.choice(parts),
            longest * rng.random(),
            4 * rng.random(),
            settles=rng.random() < 0.3,
        )


# -- the site ------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A system under load, and what has happened to it."""

    system: ContainerSystem
    seed: int
    db: Client
    loaders: list[Loader]
    watchers: list[Watcher]
    story: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    reads: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)
    drained: set[str] = field(default_factory=set)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def tell(self, what: str) -> None:
        """Add to the story."""
        committed = "+".join(str(loader.committed) for loader in self.loaders)
        epochs = ",".join(str(watcher.epoch) for watcher in self.watchers)
        line = f"{time.monotonic() - self.began:7.1f} s  {committed} committed, seen up to {epochs}: {what}"
        self.story.append(line)
        with (self.system.directory / STORY_FILE).open("a") as file:  # for who looks on
            file.write(f"{line}\n")

    async def suffer(self, faults: Iterator[Fault]) -> None:
        """Put all of these upon it; returns when they are over and all goes on."""
        async with asyncio.TaskGroup() as tasks:
            under_way: set[asyncio.Task[None]] = set()
            for fault in faults:
                under_way.add(tasks.create_task(self._suffer(fault)))
                await asyncio.sleep(fault.pause)
                if fault.settles:
                    await asyncio.wait(under_way)
                    await self.go_on()
        await self.heal()

    async def heal(self) -> None:
        """Undo what lasts, and wait until all goes on."""
        ended = await self.system.ended()
        assert self.system.kept or not ended, f"{ended} ended by themselves"
        for part in ended:
            await self.system.start(part)
        for machine in sorted(self.drained):
            await self.system.remote.drain(machine, drained=False)
        await self.go_on()
        await self._while_it_moves(self.system.remote.scale(PROGRAM, NODES))
        await self.go_on()

    async def _suffer(self, fault: Fault) -> None:
        async with self._locks.setdefault(fault.part, asyncio.Lock()):
            self.tell(str(fault))
            await self._act(fault)
            self.tell(f"{fault.what} {fault.part} is over")

    # -- faults --------------------------------------------------------------------------------------------------

    async def _act(self, fault: Fault) -> None:
        system, part = self.system, fault.part
        match fault.what.split():
            case ["kill"] if part.startswith("loader"):
                self.loaders[int(part.rpartition("-")[2])].kill()
            case ["kill"]:
                await self._lasts(fault, system.kill(part), system.start)
            case ["stop"]:
                await self._lasts(fault, system.stop(part), system.start)
            case ["pause"]:
                await self._lasts(fault, system.pause(part), system.resume)
            case ["cut"]:
                await self._lasts(fault, system.cut(part), system.join)
            case ["kill", "runner"]:
                await system.signal_runner(part, "KILL")
            case ["hang", "runner"]:
                if await system.signal_runner(part, "STOP"):
                    await asyncio.sleep(fault.seconds)
                    await system.signal_runner(part, "CONT")
            case ["drain"]:
                self.drained.add(part)
                await self._wish(system.remote.drain(part))
                await asyncio.sleep(fault.seconds)
                await self._wish(system.remote.drain(part, drained=False))
            case ["scale", "to", nodes]:
                await self._wish(system.remote.scale(PROGRAM, int(nodes)))

    async def _lasts(
        self, fault: Fault, begin: Awaitable[None], end: Callable[[str], Awaitable[None]]
    ) -> None:
        await begin
        await asyncio.sleep(fault.seconds)
        await end(fault.part)

    async def _wish(self, wish: Awaitable[object]) -> None:
        """What is asked of a scheduler that may not be there: it is seen to when all is healed."""
        try:
            async with asyncio.timeout(WISH_SECONDS):
                await wish
        except (DistZeroError, TimeoutError) as error:
            self.tell(f"nobody heard: {error or type(error).__name__}")

    # -- progress ------------------------------------------------------------------------------------------------

    async def go_on(self) -> None:
        """Return when every loader has committed some more, and every watcher was told of something later."""
        committed = [loader.committed + STEP for loader in self.loaders]
        epochs = [watcher.epoch for watcher in self.watchers]
        await self.until(
            lambda: (
                all(a.committed >= then for a, then in zip(self.loaders, committed, strict=True))
                and all(each.epoch > then for each, then in zip(self.watchers, epochs, strict=True))
            )
        )

    async def watched(self, epoch: int) -> None:
        """Return when every watcher was told of this epoch."""
        await self.until(lambda: all(watcher.epoch >= epoch for watcher in self.watchers))

    async def _while_it_moves(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        await self.until(task.done)
        await task

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when this holds. Nothing may stand still for long before."""
        at, since = self._progress(), time.monotonic()
        while not holds():
            await asyncio.sleep(0.05)
            if (now := self._progress()) != at:
                at, since = now, time.monotonic()
            assert time.monotonic() < since + STALL_SECONDS_MAX, f"stands still at {at}"

    def _progress(self) -> tuple[int, ...]:
        return (
            *(loader.committed for loader in self.loaders),
            *(watcher.epoch for watcher in self.watchers),
        )


@asynccontextmanager
async def under_chaos(system: ContainerSystem, seed: int) -> AsyncIterator[Site]:
    """Loaders, watchers and a reader at work; everything is checked at the end. A failure carries the story."""
    remote = system.remote
    async with remote.connect(app, nodes=NODES) as db:
        await db.put("accounts", [{"account": name, "owner": name[-1]} for name in ACCOUNTS])
        loaders = [Loader(system.url, system.name, number, seed) for number in range(LOADERS)]
        watchers = [Watcher(number) for number in range(WATCHERS)]
        site = Site(system, seed, db, loaders, watchers)
        try:
            async with asyncio.TaskGroup() as tasks:
                looking = [
                    tasks.create_task(watcher.run(remote, slow=0.7 * (watcher.number == WATCHERS - 1)))
                    for watcher in watchers
                ]
                looking.append(tasks.create_task(_read(site)))
                loading = [tasks.create_task(loader.run()) for loader in loaders]
                await site.go_on()
                yield site
                for loader in loaders:
                    loader.stop()
                await site.until(lambda: all(task.done() for task in loading))
                snapshot = await db.snapshot()
                site.snapshots.append(snapshot)
                await site.watched(snapshot.epoch)
                for task in looking:
                    task.cancel()
            site.tell("all has ended")
            await _check(site)
            site.tell("all is right")
        except BaseException as error:
            error.add_note(
                "\n".join([f"seed {seed}, in {system.directory}", *site.story, *_warnings(system)])
            )
            raise


async def _read(site: Site) -> None:
    """Rows and snapshots, again and again: these are kept, to be held against the log."""
    while True:
        for account in ACCOUNTS:
            await site.db.get("balances", account)
            site.reads += 1
            await asyncio.sleep(0.1)
        site.snapshots.append(await site.db.snapshot())


async def _check(site: Site) -> None:
    """What the watchers saw adds up to the views; the views are what the log says; the log has all that was written,
    once."""
    last = site.snapshots[-1]
    for watcher in site.watchers:
        assert watcher.views == {name: Counter(rows) for name, rows in last.stored.items()}, watcher.number
    committed = [loader.committed for loader in site.loaders]
    shown = {row.account: (row.balance, row.entries) for row in last["balances"]}
    assert shown == balances(site.seed, committed)
    store = DirectoryStore(site.system.store, shared=True)
    try:
        log = await log_of(store, PROGRAM)
    finally:
        await store.close()
    sent = Counter((each.session, each.number) for record in log for each in record.transactions)
    assert sent.total() == len(sent) == sum(committed) + 1
    assert [record.epoch for record in log] == list(range(log[0].epoch, log[-1].epoch + 1))
    kept = site.snapshots[:: max(1, len(site.snapshots) // SNAPSHOTS_COMPARED)]
    for snapshot in (*kept, last):
        differences = recomputed_differences(
            app.graph(), site.db.plan, log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
        )
        assert not differences, (snapshot.epoch, differences)


def _warnings(system: ContainerSystem) -> list[str]:
    """The last that services have warned of, in the order of time."""
    found: list[str] = []
    for path in (system.directory / "logs").glob("*/*.jsonl"):
        with suppress(OSError):
            found += [line for line in path.read_text().splitlines() if not any(map(line.count, OF_COURSE))]
    return sorted(found)[-WARNINGS_TOLD:]
