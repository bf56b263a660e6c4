"""Processes of a simulated system: what can be killed, stopped for a while, cut off, or given a wrong clock.

A process is whatever runs in its context. The root task of each gets a context of its own, in which `CURRENT` is the
process; asyncio hands it on to every task and timer that is started there. So the loop knows whose step each callback
is, and three things follow without any help from the code that runs:

- **A crash falls between any two steps**: `crash_after(n)` lets the process do n more callbacks and then ends it.
- **A dead process has no effects**: its connections are lost, the connector and the store refuse it, and what its
  tasks still do while they are cancelled reaches nobody. But a write that was on its way to the store may still
  arrive: those go on in a task of the server's, and when the process dies, chance says which of them do.
- **A stopped process does nothing**: its callbacks are kept, in order, until it goes on. The network and the store
  go on meanwhile, so it wakes up as a zombie, with its old beliefs and whatever has come in.

`GuardedStore` and `SkewedClock` are one object for all processes and look at `CURRENT` to know who asks.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dist_zero_common.broker.base import Broker, Connect
from dist_zero_common.clock import Clock
from dist_zero_common.errors import ConnectionLost, StoreError
from dist_zero_common.store.base import Created, Store

T = TypeVar("T")

CURRENT: ContextVar[Process | None] = ContextVar("dist_zero_process", default=None)

STORE_CUT_SECONDS = 1.0
"""How long a process that is cut off from the store waits before it hears of it."""


class Link(Protocol):
    """What a process's connection can suffer; see `broker.memory.MemoryConnection`."""

    def drop_connection(self, reason: str = ...) -> None:
        """Lose it."""
        ...

    def hold(self, *, sent: float, received: float) -> None:
        """Let nothing that is sent arrive before `sent`, and deliver nothing before `received`, in loop seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Ambush:
    """What waits for a process: when it writes an object that `fits`, by its name and content, `spring` is called,
    before the store has it or when the store has it and the process does not know."""

    before: bool
    fits: Callable[[str, bytes], bool]
    spring: Callable[[], None]


class Process:
    """One process, from its start to its end; who is started again is another one of the same name."""

    def __init__(self, kind: str, name: str, machine: str, rng: random.Random) -> None:
        """`kind` is scheduler, agent, runner or writer; `machine` where it runs, empty outside of machines. `rng` says
        what becomes of writes that are on their way when it dies."""
        self.kind, self.name, self.machine = kind, name, machine
        self.killed = False
        self.ended = False
        self.stopping = False
        self.steps = 0
        self.cut = False
        """Whether it gets no connection to the broker."""
        self.store_cut = False
        self.say_goodbye: Callable[[], Awaitable[None]] | None = None
        """What a clean end begins with, if there is more to it than being cancelled."""
        self.on_killed: Callable[[], None] = lambda: None
        self.ambush: Ambush | None = None
        self.writing: dict[asyncio.Task[Any], None] = {}
        """Its writes to the store that are on their way."""
        self._rng = rng
        self._links: list[Link] = []
        self._task: asyncio.Task[None] | None = None
        self._steps_left = -1
        self._parked: list[asyncio.Handle] | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    # -- for the loop --------------------------------------------------------------------------------------------

    def takes(self, handle: asyncio.Handle) -> bool:
        """Whether this callback may run now; a stopped process keeps it for later."""
        if self._parked is not None:
            self._parked.append(handle)
            return False
        self.steps += 1
        if self._steps_left >= 0:
            self._steps_left -= 1
            if self._steps_left < 0:
                self.kill()
        return True

    # -- for whoever runs it -------------------------------------------------------------------------------------

    async def live(self, main: Coroutine[Any, Any, None]) -> None:
        """Run `main` as this process; returns when it has ended or was killed, and raises its error. When this is
        cancelled, the process ends in an orderly way."""
        context = contextvars.copy_context()
        context.run(CURRENT.set, self)
        task = asyncio.get_running_loop().create_task(main, name=str(self), context=context)
        self._task = task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self.go_on()
            task.cancel()
            await asyncio.wait([task])
            self._end()
            self._error_of(task)
            raise
        self._end()
        error = self._error_of(task)
        if error is not None and not self.killed:
            raise error

    def _error_of(self, task: asyncio.Task[None]) -> BaseException | None:
        return None if task.cancelled() else task.exception()

    def _end(self) -> None:
        self.ended = True
        for link in self._links:
            link.drop_connection(f"{self} has ended")

    # -- what may happen to it -----------------------------------------------------------------------------------

    def crash_after(self, steps: int) -> None:
        """End it as `kill -9` does, when it has run so many more callbacks."""
        self._steps_left = steps

    def kill(self) -> None:
        """End it as `kill -9` does, now."""
        if self.killed or self.ended:
            return
        self.killed = True
        self._steps_left = -1
        self.on_killed()
        for link in self._links:
            link.drop_connection(f"{self} was killed")
        for write in list(self.writing):
            if self._rng.random() < 0.5:
                write.cancel()
        self.go_on()
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """End it in an orderly way."""
        if self.ended or self._task is None:
            return
        self.stopping = True
        self.go_on()
        if self.say_goodbye is not None:
            await self.say_goodbye()
        self._task.cancel()

    def pause(self) -> None:
        """Stop it where it is, as SIGSTOP does."""
        if self._parked is None and not self.ended and not self.killed:
            self._parked = []

    def go_on(self) -> None:
        """Let it do all that it would have done meanwhile."""
        parked, self._parked = self._parked, None
        for handle in parked or ():
            if not handle.cancelled():
                context = handle._context  # type: ignore[attr-defined]
                asyncio.get_running_loop().call_soon(_run, handle, context=context)

    def cut_off(self, *, until: float, sends: bool, receives: bool) -> None:
        """Keep from the broker: with both, connections are lost and not made again until `heal`; with one, what goes
        that way is held up until `until`."""
        if sends and receives:
            self.cut = True
            self.lose_connections("no route to host")
            return
        for link in self._links:
            link.hold(sent=until if sends else 0.0, received=until if receives else 0.0)

    def heal(self) -> None:
        """Nothing keeps it from the broker and the store any more."""
        self.cut = self.store_cut = False

    def lose_connections(self, reason: str) -> None:
        """Its connections end; it may make others."""
        for link in self._links:
            link.drop_connection(reason)

    def walk_into(self, name: str, data: bytes, *, before: bool) -> bool:
        """It writes this object: the ambush that waits there, if there is one."""
        ambush = self.ambush
        if ambush is None or ambush.before != before or not ambush.fits(name, data):
            return False
        self.ambush = None
        ambush.spring()
        return True

    def has(self, link: Link) -> bool:
        """Whether this connection is its own."""
        return link in self._links

    def connected_by(self, link: Link) -> None:
        """It has this connection now."""
        self._links = [link]


def _run(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._callback(*handle._args)  # type: ignore[attr-defined]


def guarded_connector(connector: Callable[[str], Connect]) -> Callable[[str], Connect]:
    """Connections that belong to the process that makes them, if it may."""

    def of(name: str) -> Connect:
        inner = connector(name)

        async def connect() -> Broker:
            process = CURRENT.get()
            if process is not None and (process.killed or process.cut):
                raise ConnectionLost("no route to host")
            connection = await inner()
            if process is not None:
                process.connected_by(connection)  # type: ignore[arg-type]
            return connection

        return connect

    return of


class GuardedStore:
    """A store that refuses dead processes and those that are cut off from it, and finishes what was sent to it."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.on_created: Callable[[Process, str], None] = lambda _process, _name: None
        """Called with the process that has written an object, and its name."""
        self.on_deleted: Callable[[Process, str], None] = lambda _process, _name: None
        """The same of an object that is gone."""

    async def create(self, name: str, data: bytes) -> Created:
        process = await self._checked()
        if process is None:
            return await self.inner.create(name, data)
        if process.walk_into(name, data, before=True):
            await asyncio.sleep(0.0)  # for as long as it stands still
            await self._checked()
        return await _carried_on(process, self._written(process, name, data))

    async def _written(self, process: Process, name: str, data: bytes) -> Created:
        created = await self.inner.create(name, data)
        process.walk_into(name, data, before=False)
        if created is Created.NEW:
            self.on_created(process, name)
        return created

    async def read(self, name: str) -> bytes | None:
        await self._checked()
        return await self.inner.read(name)

    async def list(self, prefix: str) -> list[str]:
        await self._checked()
        return await self.inner.list(prefix)

    async def delete(self, name: str) -> None:
        process = await self._checked()
        if process is None:
            await self.inner.delete(name)
        else:
            await _carried_on(process, self._deleted(process, name))

    async def _deleted(self, process: Process, name: str) -> None:
        await self.inner.delete(name)
        self.on_deleted(process, name)

    async def close(self) -> None:
        await self.inner.close()

    async def _checked(self) -> Process | None:
        process = CURRENT.get()
        if process is None:
            return None
        if process.killed:
            raise StoreError(f"{process} is dead")
        if process.store_cut:
            await asyncio.sleep(STORE_CUT_SECONDS)
            raise StoreError("the store cannot be reached: no route to host")
        return process


async def _carried_on(process: Process, operation: Coroutine[Any, Any, T]) -> T:
    """Have the server do it, whatever becomes of the process that asked."""
    task = asyncio.get_running_loop().create_task(operation, name="store", context=contextvars.Context())

    def ended(done: asyncio.Task[Any]) -> None:
        process.writing.pop(done, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be dead

    process.writing[task] = None
    task.add_done_callback(ended)
    return await asyncio.shield(task)


class SkewedClock:
    """The world's clock, as wrong as it is on each machine. Waiting goes by the right one everywhere."""

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self._skews: dict[str, int] = {}

    def now_us(self) -> int:
        process = CURRENT.get()
        return self._inner.now_us() + (self._skews.get(process.machine, 0) if process is not None else 0)

    def monotonic(self) -> float:
        return self._inner.monotonic()

    def jump(self, machine: str, by_us: int) -> None:
        """Set the clock of a machine (empty: of what runs outside of machines) forward, or back."""
        self._skews[machine] = self._skews.get(machine, 0) + by_us
