"""The real world is refused inside a simulation: to whom, how, and with which words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import logging
import os
import random
import secrets
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from dist_zero_common.clock import RealClock
from dist_zero_common.errors import SimulationError
from dist_zero_common.sim.guard import real_world_refused
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import START_US, SimWorld

CLOCK = "the Clock that was passed in"
CHANCE = "the Rng that was passed in"

REFUSED: list[tuple[Callable[[], object], str, str]] = [
    (lambda: time.time(), "time.time", CLOCK),
    (lambda: time.time_ns(), "time.time_ns", CLOCK),
    (lambda: time.monotonic(), "time.monotonic", CLOCK),
    (lambda: monotonic(), "time.monotonic", CLOCK),
    (lambda: time.perf_counter(), "time.perf_counter", CLOCK),
    (lambda: time.sleep(0), "time.sleep", "asyncio.sleep"),
    (lambda: random.random(), "random.random", CHANCE),
    (lambda: random.randint(1, 6), "random.randint", CHANCE),
    (lambda: random.shuffle([]), "random.shuffle", CHANCE),
    (lambda: random.seed(1), "random.seed", CHANCE),
    (lambda: random.Random(), "random.Random, without a seed,", CHANCE),
    (lambda: random.SystemRandom(), "random.SystemRandom", CHANCE),
    (lambda: secrets.token_hex(), "secrets.token_hex", CHANCE),
    (lambda: os.urandom(4), "os.urandom", CHANCE),
    (lambda: uuid.uuid4(), "uuid.uuid4", CHANCE),
    (lambda: threading.Thread(target=print).start(), "threading.Thread.start", "a task of the event loop"),
    (lambda: threading.Timer(9, print).start(), "threading.Thread.start", "a task of the event loop"),
    (
        lambda: concurrent.futures.ThreadPoolExecutor(1).submit(print),
        "threading.Thread.start",
        "a task of the event loop",
    ),
    (lambda: socket.socket(), "socket.socket", "the Broker and the Store"),
    (lambda: socket.create_connection(("localhost", 1)), "socket.getaddrinfo", "the Broker and the Store"),
    (lambda: RealClock().now_us(), "time.time_ns", CLOCK),
]


@pytest.mark.parametrize(("call", "what", "instead"), REFUSED, ids=lambda value: value if str(value) else "")
def test_simulated_code_cannot_reach_the_real_world(
    call: Callable[[], object], what: str, instead: str
) -> None:
    """The error names the function, the file and line that called it, and what to use; outside all is allowed."""

    async def main() -> None:
        with pytest.raises(SimulationError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"{what}() was called inside the simulation, at ") and instead in message
        assert f"{Path(__file__).name}:" in message or "clock.py:" in message

    run_simulation(main())


LOOP_CALLS: list[Callable[[asyncio.AbstractEventLoop], object]] = [
    lambda loop: loop.run_in_executor(None, print),
    lambda loop: loop.create_connection(asyncio.Protocol, "localhost", 1),
    lambda loop: loop.getaddrinfo("localhost", 1),
    lambda loop: loop.add_reader(0, print),
    lambda loop: loop.add_signal_handler(2, print),
    lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, "true"),
]


@pytest.mark.parametrize("call", LOOP_CALLS)
def test_the_simulated_loop_has_no_outside(call: Callable[[asyncio.AbstractEventLoop], object]) -> None:
    """Executors, connections, name look-ups, processes and signals of the loop are refused with a reason."""

    async def main() -> None:
        with pytest.raises(SimulationError, match=r"loop\.\w+\(\) was called inside the simulation: there "):
            call(asyncio.get_running_loop())

    run_simulation(main())


def test_simulated_to_thread_is_refused() -> None:
    """`asyncio.to_thread` ends in the same refusal."""

    async def main() -> None:
        with pytest.raises(SimulationError, match="there are no threads"):
            await asyncio.to_thread(print)

    run_simulation(main())


def test_foreign_code_works_inside_a_simulation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logging, tempfile, seeded chance, datetimes and files may be used: who calls counts, not what is called."""

    async def main() -> None:
        with caplog.at_level(logging.INFO):
            logging.getLogger("test").info("stamped")
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            Path(directory, "file").write_text("x")
        assert random.Random(7).random() == random.Random(7).random()
        assert datetime.datetime.fromtimestamp(0, datetime.UTC).year == 1970
        assert uuid.uuid5(uuid.NAMESPACE_URL, "x")

    run_simulation(main())
    assert caplog.records[0].created > 1e9


def test_everything_is_put_back() -> None:
    """After the simulation, failed or not, the originals are in their places."""
    before = (time.time, monotonic, random.random, random.Random.seed, socket.socket.__init__, os.urandom)

    async def main() -> None:
        assert time.time is not before[0]
        raise ValueError

    with pytest.raises(ValueError):
        run_simulation(main())
    assert before == (
        time.time,
        monotonic,
        random.random,
        random.Random.seed,
        socket.socket.__init__,
        os.urandom,
    )
    assert time.time() > 1e9 and 0 <= random.random() < 1 and uuid.uuid4() and monotonic() > 0


def test_other_threads_go_on() -> None:
    """A simulation in one thread does not disturb code in another one."""
    outcomes: list[float] = []
    inside, looked = threading.Event(), threading.Event()

    def elsewhere() -> None:
        inside.wait(10)
        outcomes.append(time.time())
        looked.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with real_world_refused():
        inside.set()
        looked.wait(10)
    thread.join()
    assert outcomes and outcomes[0] > 1e9


def test_a_wrapper_kept_from_a_simulation_works_afterwards() -> None:
    """A module imported during a run may have bound the replacement; later it is as good as the original."""

    async def main() -> Callable[[], float]:
        return time.time

    assert run_simulation(main())() > 1e9


@pytest.fixture
def user_program(tmp_path: Path) -> Iterator[Callable[[], object]]:
    """A function of a program that lies somewhere on the disk, as a user's does."""
    path = tmp_path / "app.py"
    path.write_text("import time\n\ndef now():\n    return time.time()\n")
    namespace: dict[str, Callable[[], object]] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    yield namespace["now"]


def test_a_user_s_program_is_refused_too(user_program: Callable[[], object]) -> None:
    """The file that a user runs is treated like DistZero's own code, and the error names its line."""

    async def main() -> None:
        with pytest.raises(SimulationError, match=r"app\.py:4"):
            user_program()

    run_simulation(main())


def test_the_clock_that_is_passed_in_is_virtual_time() -> None:
    """The world's clock begins at a fixed instant and moves with the loop alone."""

    async def main() -> tuple[int, float]:
        clock = SimWorld(1).clock
        await asyncio.sleep(1.5)
        return clock.now_us(), clock.monotonic()

    assert run_simulation(main()) == (START_US + 1_500_000, 1.5)
