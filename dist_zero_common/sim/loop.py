"""An asyncio event loop on which time is a number and nothing happens by itself.

Theory. Callbacks that are ready run in the order in which they became ready. When none is, time jumps to the
earliest timer; timers of the same instant run in the order in which they were set. There is no selector, no
socket, no thread and no clock, so a run is a function of the code and of the chance that is passed in. Three
things that asyncio leaves to the machine are settled here too:

- Sets of tasks (`TaskGroup`, `asyncio.wait`) are walked in the order of the tasks' addresses. Tasks of this
  loop hash to the order of their creation instead.
- Cycles are freed when the collector happens to run, and freeing an abandoned async generator schedules its
  closing. Inside a run the collector works after fixed numbers of events.
- Errors that nobody awaits are logged, late. Here they end the run.

A run that cannot go on (nothing ready, no timer, and the main coroutine not done) is a `SimulationError` that
names the waiting tasks, as is one that exceeds its bound of virtual seconds or events.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from dist_zero_common.errors import SimulationError
from dist_zero_common.sim.guard import real_world_refused
from dist_zero_common.sim.processes import CURRENT

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Events between collections of young garbage; every 10th takes the middle generation, every 500th all.
_EVENTS_PER_COLLECTION = 10_000
#: What leftover tasks may use up after the main coroutine is done, before ending them counts as failed.
_ENDING_SECONDS = 600.0
_ENDING_EVENTS = 1_000_000
_TASKS_LISTED_MAX = 20
_ASYNCIO_DIRECTORY = os.path.dirname(asyncio.__file__)


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its place in the order of creation, so that sets of tasks have an order too."""

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: SimulatedLoop,
        name: str,
        context: Context | None,
        sequence: int,
    ) -> None:
        self.sequence = sequence  # before the base class, which puts the task into a set
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.sequence


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop. Use `run_simulation`, which also guards, bounds and ends the run."""

    #: Callbacks run so far.
    events: int

    def __init__(self, until_seconds: float | None, events_max: int | None) -> None:
        super().__init__()
        self.events = 0
        self._now = 0.0
        self._thread = threading.get_ident()
        self._until_seconds = until_seconds
        self._events_max = events_max
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        self._tasks_created = 0
        self._tasks: weakref.WeakValueDictionary[int, SimulatedTask[Any]] = weakref.WeakValueDictionary()
        self._failure: BaseException | None = None
        self._collections = 0
        self._collect_at = _EVENTS_PER_COLLECTION

    # -- time and callbacks ----------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the run began."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run `callback` behind all that is ready now."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`; from another thread a `SimulationError`."""
        if threading.get_ident() != self._thread:
            raise SimulationError("a thread called into the simulation: do the work in a task of the loop")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run `callback` when `delay` virtual seconds have passed."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run `callback` at the virtual time `when`; at once if that is past."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:  # noqa: ARG002 (called by asyncio)
        self._timers_cancelled += 1

    def _run_once(self) -> None:
        """Run what is ready now; called by `run_forever` until the main coroutine is done."""
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                context: Context = handle._context  # type: ignore[attr-defined]
                process = context.get(CURRENT)
                if process is not None and not process.takes(handle):
                    continue  # it is stopped, and does this when it goes on
                self.events += 1
                context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        if self._failure is not None:
            self._raise_failure()
        if self.events >= self._collect_at:
            self._collect_garbage()
        if self._events_max is not None and self.events > self._events_max:
            self._stand(f"still running after {self._events_max:,} events")

    def _jump(self) -> None:
        """Advance to the earliest timer and make all timers of that instant ready, in order of setting."""
        timers = self._timers
        if self._timers_cancelled * 2 > len(timers):
            # The order of timers is total, so a heap built anew pops the same.
            timers[:] = [timer for timer in timers if not timer[2]._cancelled]
            heapq.heapify(timers)
            self._timers_cancelled = 0
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            self._stand("nothing left to do and no timer set")
        instant = timers[0][0]
        if self._until_seconds is not None and instant > self._until_seconds:
            self._stand(f"still running after {self._until_seconds:g} virtual seconds")
        self._now = max(self._now, instant)
        while timers and timers[0][0] == instant:
            self._ready.append(heapq.heappop(timers)[2])

    def _collect_garbage(self) -> None:
        self._collections += 1
        self._collect_at = self.events + _EVENTS_PER_COLLECTION
        gc.collect(2 if self._collections % 500 == 0 else 1 if self._collections % 10 == 0 else 0)

    # -- tasks and errors ------------------------------------------------------------------------------------

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> SimulatedTask[T]:
        """Start a task; without a name it gets one from its place in the order of creation."""
        self._tasks_created += 1
        sequence = self._tasks_created
        title = f"task-{sequence}" if name is None else str(name)
        task = SimulatedTask(coro, loop=self, name=title, context=context, sequence=sequence)
        self._tasks[sequence] = task
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What asyncio would only log ends the run: the first such error is raised from it."""
        if self._failure is None:
            error = context.get("exception") or SimulationError(str(context["message"]))
            error.add_note(f"in the simulation: {context['message']}")
            self._failure = error

    def live_tasks(self) -> list[SimulatedTask[Any]]:
        """The tasks that are not done, in the order of their creation."""
        return [task for _, task in sorted(self._tasks.items()) if not task.done()]

    def unhandled(self) -> BaseException | None:
        """The error of the oldest task that died with nobody awaiting it, if there is one."""
        if self._failure is not None:
            return self._failure
        for _, task in sorted(self._tasks.items()):
            if task.done() and not task.cancelled() and task._log_traceback:
                error = task.exception()
                assert error is not None
                error.add_note(f"in the simulation: task {task.get_name()!r} died of this, awaited by nobody")
                return error
        return None

    def _raise_failure(self) -> NoReturn:
        assert self._failure is not None
        failure, self._failure = self._failure, None
        raise failure

    def _stand(self, why: str) -> NoReturn:
        """End a run that cannot or must not go on, by the error of a task that died unseen if any."""
        error = self.unhandled()
        if error is not None:
            self._failure = None
            raise error
        tasks = self.live_tasks()
        listed = [f"\n  {_described(task)}" for task in tasks[:_TASKS_LISTED_MAX]]
        more = len(tasks) - len(listed)
        raise SimulationError(
            f"the simulation stands at {self._now:.6f} virtual seconds, after {self.events:,} events: {why};"
            f" waiting tasks:{''.join(listed)}" + (f"\n  and {more} more" if more else "")
        )

    def end(self) -> None:
        """Cancel what is left, oldest first, and see it end. Raises the first error that this brings up."""
        self._until_seconds = self._now + _ENDING_SECONDS
        self._events_max = self.events + _ENDING_EVENTS
        while tasks := self.live_tasks():
            for task in tasks:
                task.cancel("the simulation ends")
            self.run_until_complete(asyncio.wait(tasks))
        self.run_until_complete(self.shutdown_asyncgens())
        error = self.unhandled()
        if error is not None:
            raise error

    # -- what is not there -----------------------------------------------------------------------------------

    def _process_events(self, event_list: object) -> None:
        raise NotImplementedError("there is no selector")


_NO_NETWORK = "there is no network: use the Broker that was passed in"
_NO_THREADS = "there are no threads: do the work in the loop (DirectoryStore takes threads=False)"
_NO_PROCESSES = "there are no other processes or signals"

_REFUSED = {
    "run_in_executor": _NO_THREADS,
    "set_default_executor": _NO_THREADS,
    "getaddrinfo": _NO_NETWORK,
    "getnameinfo": _NO_NETWORK,
    "create_connection": _NO_NETWORK,
    "create_server": _NO_NETWORK,
    "create_unix_connection": _NO_NETWORK,
    "create_unix_server": _NO_NETWORK,
    "create_datagram_endpoint": _NO_NETWORK,
    "connect_accepted_socket": _NO_NETWORK,
    "start_tls": _NO_NETWORK,
    "sendfile": _NO_NETWORK,
    "sock_recv": _NO_NETWORK,
    "sock_recv_into": _NO_NETWORK,
    "sock_recvfrom": _NO_NETWORK,
    "sock_recvfrom_into": _NO_NETWORK,
    "sock_sendall": _NO_NETWORK,
    "sock_sendto": _NO_NETWORK,
    "sock_connect": _NO_NETWORK,
    "sock_accept": _NO_NETWORK,
    "sock_sendfile": _NO_NETWORK,
    "add_reader": _NO_NETWORK,
    "remove_reader": _NO_NETWORK,
    "add_writer": _NO_NETWORK,
    "remove_writer": _NO_NETWORK,
    "connect_read_pipe": _NO_PROCESSES,
    "connect_write_pipe": _NO_PROCESSES,
    "subprocess_shell": _NO_PROCESSES,
    "subprocess_exec": _NO_PROCESSES,
    "add_signal_handler": _NO_PROCESSES,
    "remove_signal_handler": _NO_PROCESSES,
}


def _refusal(name: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise SimulationError(f"loop.{name}() was called inside the simulation: {instead}")

    return refuse


for _name, _instead in _REFUSED.items():
    setattr(SimulatedLoop, _name, _refusal(_name, _instead))


def _described(task: SimulatedTask[Any]) -> str:
    """`name (coroutine) at file:line`, where the line is the innermost await outside asyncio itself."""
    awaited: Any = task.get_coro()
    title = getattr(awaited, "__qualname__", repr(awaited))
    where = ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(_ASYNCIO_DIRECTORY):
            where = f" at {frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return f"{task.get_name()} ({title}){where}"


class Simulation:
    """A loop that is run step by step, by plain code: between two steps time stands still and nothing happens. Use
    `with`; the block's end cancels what is left, in the order of its creation, and raises the first error in any task
    or callback that nobody awaited, unless the block raises one itself.

    `until_seconds` bounds virtual time, `events_max` the number of callbacks, of all steps together.
    """

    def __init__(self, *, until_seconds: float | None = None, events_max: int | None = None) -> None:
        self._loop = SimulatedLoop(until_seconds, events_max)
        self._collects = False

    def __enter__(self) -> Simulation:
        self._collects = gc.isenabled()
        gc.disable()  # the loop collects, at fixed points
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            # If there is an error, that is the one to hear about.
            with contextlib.suppress(*([Exception] if error is not None else [])), real_world_refused():
                self._loop.end()
        finally:
            self._loop.close()
            if self._collects:
                gc.enable()

    @property
    def seconds(self) -> float:
        """Virtual seconds since it began."""
        return self._loop.time()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Go on until `step` has come to its end, with the real world refused, and return what it returns. Raises what
        it raises, and `SimulationError` when nothing can go on, a bound is exceeded, or another loop runs here."""
        _check_no_loop(step)
        with real_world_refused():
            try:
                return self._loop.run_until_complete(step)
            except BaseException as error:
                events = self._loop.events
                error.add_note(f"in the simulation: {self.seconds:.6f} virtual seconds, {events:,} events")
                raise


def run_simulation(
    main: Coroutine[Any, Any, T], *, until_seconds: float | None = None, events_max: int | None = None
) -> T:
    """Run `main` to its end on a loop of its own, with the real world refused, and return what it returns.

    `until_seconds` bounds virtual time, `events_max` the number of callbacks. Tasks left over are cancelled
    in the order of their creation. Raises what `main` raises; in place of the result, an error in any other
    task or callback that nobody awaited; `SimulationError` when the run stands still, exceeds a bound, or
    is started inside a running loop.
    """
    _check_no_loop(main)  # or what there is of a simulation could not be ended either
    with Simulation(until_seconds=until_seconds, events_max=events_max) as simulation:
        return simulation.run(main)


def _check_no_loop(step: Coroutine[Any, Any, Any]) -> None:
    if asyncio._get_running_loop() is not None:
        step.close()
        raise SimulationError("a simulation cannot run inside a running event loop: start it from plain code")
