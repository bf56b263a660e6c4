"""The virtual-time loop: order, time, errors, and standing still."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero_common.errors import SimulationError
from dist_zero_common.sim.loop import SimulatedLoop, run_simulation


def running_loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


@settings(max_examples=50, deadline=None)
@given(delays=st.lists(st.integers(0, 5), max_size=30), cancelled=st.sets(st.integers(0, 29)))
def test_oracle_timers_run_by_time_then_by_order_of_setting(delays: list[int], cancelled: set[int]) -> None:
    """Timers run in the order of a stable sort by their time; cancelled ones do not run."""

    async def main() -> list[tuple[float, int]]:
        loop, ran = running_loop(), list[tuple[float, int]]()

        def note(number: int) -> None:
            ran.append((loop.time(), number))

        timers = [loop.call_later(delay, note, number) for number, delay in enumerate(delays)]
        for number in cancelled & set(range(len(timers))):
            timers[number].cancel()
        await asyncio.sleep(10)
        return ran

    expected = [(float(d), n) for n, d in enumerate(delays) if n not in cancelled]
    assert run_simulation(main()) == sorted(expected, key=lambda timer: timer[0])


def test_what_is_ready_runs_before_time_moves() -> None:
    """`call_soon` keeps order, callbacks that they add run at the same instant, and only then time jumps."""

    async def main() -> list[str]:
        loop, ran = running_loop(), list[str]()

        def first() -> None:
            ran.append("first")
            loop.call_soon(ran.append, "third")

        loop.call_later(0.001, lambda: ran.append(f"timer at {loop.time()}"))
        loop.call_soon(first)
        loop.call_soon(ran.append, "second")
        await asyncio.sleep(1)
        return [*ran, f"end at {loop.time()}"]

    assert run_simulation(main()) == ["first", "second", "third", "timer at 0.001", "end at 1.0"]


def test_a_timer_in_the_past_does_not_turn_time_back() -> None:
    """Time never decreases, whatever instant a timer was set for."""

    async def main() -> float:
        await asyncio.sleep(5)
        done = asyncio.Event()
        running_loop().call_at(2, done.set)
        await done.wait()
        return running_loop().time()

    assert run_simulation(main()) == 5.0


def test_a_year_costs_nothing() -> None:
    """Sleeping is free: a year of one tick an hour passes at once."""

    async def main() -> float:
        for _ in range(365 * 24):
            await asyncio.sleep(3600)
        return running_loop().time()

    assert run_simulation(main()) == 365 * 24 * 3600.0


def test_asyncio_works_on_it() -> None:
    """TaskGroup, Queue, Event, Lock, gather, wait_for, timeout and context variables do what they always do."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

    async def main() -> list[object]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        seen: list[object] = []

        async def produce() -> None:
            variable.set("inner")
            for number in range(3):
                await asyncio.sleep(1)
                await queue.put(number)

        async def consume() -> None:
            for _ in range(3):
                seen.append((await queue.get(), running_loop().time()))

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        seen.append(variable.get())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(1e6)
        seen.append(running_loop().time())
        seen.append(await asyncio.gather(asyncio.sleep(2, "a"), asyncio.sleep(1, "b")))
        return seen

    assert run_simulation(main()) == [(0, 1.0), (1, 2.0), (2, 3.0), "outer", 20.0, ["a", "b"]]


def test_sets_of_tasks_are_walked_in_order_of_creation() -> None:
    """A failing TaskGroup cancels its other tasks in the order in which they were made, in every run."""

    async def main() -> list[int]:
        cancelled: list[int] = []

        async def member(number: int) -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        async def failing() -> None:
            await asyncio.sleep(1)
            raise ValueError("enough")

        padding = [object() for _ in range(100)]
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(member(number))
                    padding.append([number] * number)
                group.create_task(failing())
        return cancelled

    assert run_simulation(main()) == list(range(50))


def test_standing_still_names_who_waits_and_where() -> None:
    """With nothing ready and no timer the run ends, and its error lists the waiting tasks with file and line."""

    async def wait_for_godot() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(wait_for_godot(), name="estragon")
        await asyncio.sleep(3)
        await task

    with pytest.raises(SimulationError) as caught:
        run_simulation(main())
    message = str(caught.value)
    assert "nothing left to do and no timer set" in message and "3.000000 virtual seconds" in message
    assert "estragon" in message and "wait_for_godot" in message and "test_loop.py:" in message
    assert "main" in message


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"until_seconds": 60.0}, "still running after 60 virtual seconds"),
        ({"events_max": 500}, "500 events"),
    ],
)
def test_a_bound_ends_a_run_that_would_go_on(bounds: dict[str, float], words: str) -> None:
    """A run beyond its bound of virtual time or of events is an error that says so."""

    async def main() -> None:
        while True:
            await asyncio.sleep(1 if "until_seconds" in bounds else 0)

    with pytest.raises(SimulationError, match=words):
        run_simulation(main(), **bounds)  # type: ignore[arg-type]


class Boom(Exception):
    pass


def test_the_main_coroutine_s_error_is_raised() -> None:
    """`run_simulation` raises what the main coroutine raises, and notes when it happened."""

    async def main() -> None:
        await asyncio.sleep(1)
        raise Boom

    with pytest.raises(Boom) as caught:
        run_simulation(main())
    assert any("1.000000 virtual seconds" in note for note in caught.value.__notes__)


def test_an_error_in_a_callback_ends_the_run() -> None:
    """It is not only logged: nothing runs after it but the ending."""

    def explode() -> None:
        raise Boom

    async def main() -> None:
        running_loop().call_later(1, explode)
        await asyncio.sleep(2)
        pytest.fail("the run went on")

    with pytest.raises(Boom):
        run_simulation(main())


@pytest.mark.parametrize("kept", [False, True], ids=["forgotten", "kept"])
@pytest.mark.parametrize("ending", ["returns", "stands"])
def test_an_error_in_a_task_that_nobody_awaits_ends_the_run(kept: bool, ending: str) -> None:
    """Whether or not somebody holds the dead task, its error comes out in place of the result, with its name."""
    holder: list[asyncio.Task[None]] = []

    async def explode() -> None:
        raise Boom

    async def main() -> None:
        task = asyncio.create_task(explode(), name="doomed")
        if kept:
            holder.append(task)
        del task
        await asyncio.sleep(1)
        if ending == "stands":
            await asyncio.Event().wait()

    with pytest.raises(Boom) as caught:
        run_simulation(main())
    assert any("doomed" in note or "never retrieved" in note for note in caught.value.__notes__)


def test_an_error_that_is_awaited_late_is_no_failure() -> None:
    """A task may die first and be asked later."""

    async def explode() -> None:
        raise Boom

    async def main() -> str:
        task = asyncio.create_task(explode())
        await asyncio.sleep(5)
        with pytest.raises(Boom):
            await task
        return "fine"

    assert run_simulation(main()) == "fine"


def test_leftover_tasks_are_ended_in_order() -> None:
    """When main is done the rest is cancelled, oldest first; their clean-up may wait, and has run on return."""
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            ended.append(name)

    async def main() -> None:
        for name in ("a", "b", "c"):
            asyncio.get_running_loop().create_task(linger(name))
        await asyncio.sleep(0)

    run_simulation(main())
    assert ended == ["a", "b", "c"]


def test_an_error_while_ending_is_raised() -> None:
    """A clean-up that fails fails the run."""

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom

    async def main() -> None:
        asyncio.get_running_loop().create_task(linger())
        await asyncio.sleep(0)

    with pytest.raises(Boom):
        run_simulation(main())


def test_a_task_that_will_not_end_is_an_error() -> None:
    """A task that ignores being cancelled does not hang the run."""

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        asyncio.get_running_loop().create_task(stubborn(), name="stubborn")
        await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="stubborn"):
        run_simulation(main())


def test_abandoned_async_generators_are_closed() -> None:
    """Their `finally` has run when the simulation is over."""
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            closed.append(True)

    async def main() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(2)
        kept.append(numbers())
        await anext(kept[0])

    kept: list[AsyncIterator[int]] = []
    run_simulation(main())
    assert closed == [True, True]


def test_garbage_is_collected_at_fixed_numbers_of_events() -> None:
    """Cycles are freed at the same event in every run, whatever else the process has allocated."""

    class Cycle:
        pass

    async def main() -> list[int]:
        freed: list[int] = []
        for _ in range(30):
            cycle = Cycle()
            cycle.itself = cycle  # type: ignore[attr-defined]
            weakref.finalize(cycle, lambda: freed.append(running_loop().events))
            del cycle
            for _ in range(1_000):
                await asyncio.sleep(0)
        return freed

    first = run_simulation(main())
    ballast = [[number] for number in range(100_000)]
    assert run_simulation(main()) == first
    assert first and len(ballast) == 100_000 and gc.isenabled()


def test_a_simulation_inside_a_running_loop_is_refused() -> None:
    """Neither a real loop nor a simulated one may start another one."""

    async def inner() -> None:
        pytest.fail("this ran")

    async def main() -> None:
        with pytest.raises(SimulationError, match="inside a running event loop"):
            run_simulation(inner())

    asyncio.run(main())
    run_simulation(main())


def test_runs_do_not_disturb_each_other() -> None:
    """After a failed run the next one starts at time zero, with nothing left over."""

    async def failing() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(100))
        await asyncio.sleep(1)
        raise Boom

    async def main() -> tuple[float, int]:
        return running_loop().time(), len(asyncio.all_tasks())

    for _ in range(2):
        with pytest.raises(Boom):
            run_simulation(failing())
        assert run_simulation(main()) == (0.0, 1)
