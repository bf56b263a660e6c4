"""Shipping to Logstash: what a line says, and that a Logstash in whatever state never holds up who logs, nor takes
memory without bound; what was dropped is said."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from dist_zero.system import SimulatedSystem
from dist_zero_common import log_shipping
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import InternalError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.log_shipping import Limits, process_log, shipping
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from examples.leaderboard import Score, app
from test.unit import tidy
from test.unit.logstash_receiver import PATIENCE_SECONDS, Receiver, free_port
from test.unit.tidy import ROOT, python_files

QUICK = Limits(
    line_count=200,
    byte_count=100_000,
    connect_seconds=5.0,
    send_seconds=0.2,
    pause_seconds_min=0.01,
    pause_seconds_max=0.05,
    end_seconds=0.3,
    quiet_seconds=0.0,
    kernel_byte_count=4_096,
)


@pytest.fixture(autouse=True)
def not_kept_by_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of events would be."""
    monkeypatch.setattr(logging.getLogger("dist_zero"), "propagate", False)


def log_numbers(count: int, start: int = 0) -> None:
    log = get_logger("scheduler", RealClock(), system="shop")
    for number in range(start, start + count):
        log.info("counted", number=number, padding="x" * 100)


def numbers(receiver: Receiver) -> list[int]:
    return [cast(int, event["number"]) for event in receiver.events if event["event"] == "counted"]


def said(events: list[dict[str, object]]) -> list[str]:
    """What the log itself says of shipping."""
    return [str(event["event"]) for event in events if event["service"] == "log-shipping"]


def of(events: list[dict[str, object]], name: str) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == name]


def wait_said(events: list[dict[str, object]], name: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while name not in said(events):
        assert time.monotonic() < deadline, events[-5:]
        time.sleep(0.01)


# -- what a line says ------------------------------------------------------------------------------------------


def test_a_line_is_the_entry_and_where_it_is_from() -> None:
    """The fields of the event as they are in the file, the real time, the line for a person, and the host; an
    exception's traceback, to its end, without the texts of errors that are not ours."""
    value = "hunter" + "2"
    with Receiver() as receiver, shipping(receiver.address, level="info"):
        before = time.time()
        log = get_logger("node-runner", RealClock(), system="shop", machine="m1").bind(node="n-3")
        log.debug("not_wanted")
        log.warning("asked_again", epoch=7, ratio=0.5, nodes=["a", "b"], text="ein Übel\n\ud800")
        try:
            try:
                raise KeyError(value)
            except KeyError as wrong:
                raise InternalError("no such luck" + " " * 50_000 + "the end") from wrong
        except InternalError as error:
            log.exception("failed", error)
        try:
            raise KeyError(value)
        except KeyError as error:
            log.exception("failed_too", error)
        receiver.wait(lambda: len(receiver.events) == 3)
    event, failed, failed_too = receiver.events
    at = str(event.pop("@timestamp"))
    assert len(at) == 27 and at.endswith("Z")
    assert abs(time.mktime(time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - before) < 3_600
    assert str(event.pop("time"))[:10] == at[:10]
    assert event == {
        "@version": "1",
        "sender": socket.gethostname(),
        "message": "node-runner: asked_again system=shop machine=m1 node=n-3 epoch=7 ratio=0.5"
        ' nodes=["a", "b"] text="ein Übel\\n?"',
        "level": "warning",
        "service": "node-runner",
        "event": "asked_again",
        "system": "shop",
        "machine": "m1",
        "node": "n-3",
        "epoch": 7,
        "ratio": 0.5,
        "nodes": ["a", "b"],
        "text": "ein Übel\n?",
    }
    assert str(failed["traceback"]).rstrip().endswith("the end")
    assert len(str(failed["traceback"])) <= log_shipping.TRACEBACK_LENGTH_MAX
    assert "test_log_shipping.py" in str(failed_too["traceback"])
    assert str(failed_too["traceback"]).endswith("KeyError") and value not in str(receiver.events)


def test_a_simulation_is_shipped_from_outside() -> None:
    """Its events have virtual times in `time` and the real one in `@timestamp`; that they are shipped changes nothing
    of its history, and what would be refused inside it (sockets, threads, clocks) is none of its business."""

    async def live(world: SimWorld) -> None:
        async with SimulatedSystem(world, machines=2) as system, system.connect(app, nodes=2) as client:
            await client.put("scores", [Score(game="go", player="ann", points=3)])
            await client.snapshot("board")

    def run() -> str:
        world = SimWorld(7)
        run_simulation(live(world))
        return world.history.digest()

    alone = run()
    with Receiver() as receiver, captured_events("info") as events:
        with shipping(receiver.address, level="info"):
            shipped = run()
        receiver.wait(lambda: len(receiver.events) >= len(events))
    assert alone == shipped
    assert len(events) > 10
    assert [event["time"] for event in receiver.events] == [event["time"] for event in events]
    this_year = str(time.gmtime().tm_year)
    assert all(str(event["@timestamp"]).startswith(this_year) for event in receiver.events)
    assert not any(str(event["time"]).startswith(this_year) for event in receiver.events)


# -- a Logstash in whatever state ------------------------------------------------------------------------------


def test_one_that_accepts_and_does_not_read() -> None:
    """Whoever logs goes on as if there were none; the queue stays in its bounds, in lines and in bytes; the outage is
    said once, and so is what was dropped."""
    limits = replace(QUICK, quiet_seconds=3_600.0)
    with Receiver(reads=False) as receiver, captured_events() as events:
        with shipping(receiver.address, level="info", limits=limits):
            [handler] = [
                each
                for each in logging.getLogger("dist_zero").handlers
                if isinstance(each, log_shipping._ToQueue)
            ]
            log_numbers(3_000)
            wait_said(events, "shipping_interrupted")
            lines = handler.lines
            held = [len(item.line) for item in list(lines.queue) if isinstance(item, log_shipping._Line)]
            assert 0 < len(held) <= QUICK.line_count and sum(held) <= QUICK.byte_count
            assert handler.refused > 1_000
        assert said(events).count("shipping_interrupted") == 1
        told = [event["dropped"] for event in events if "dropped" in event]
        assert 1_000 < sum(cast(int, count) for count in told) <= 3_003


def test_the_end_does_not_wait_for_one_that_does_not_read() -> None:
    """A line that is being sent is left where it is: without a bound, this would wait for an hour."""
    limits = replace(QUICK, send_seconds=3_600.0)
    with Receiver(reads=False) as receiver, captured_events() as events:
        with shipping(receiver.address, level="info", limits=limits):
            log_numbers(500)
        assert said(events)[-1] == "shipping_incomplete"


def test_bytes_are_bounded_too() -> None:
    """Few lines that are long are as many as many that are short."""
    with Receiver(reads=False) as receiver, shipping(receiver.address, level="info", limits=QUICK):
        [handler] = [
            each
            for each in logging.getLogger("dist_zero").handlers
            if isinstance(each, log_shipping._ToQueue)
        ]
        log = get_logger("scheduler", RealClock())
        for _ in range(600):
            log.info("listed", names=["x" * 200] * 40)
        held = [len(item.line) for item in list(handler.lines.queue) if isinstance(item, log_shipping._Line)]
        assert sum(held) <= QUICK.byte_count and len(held) < 10


def test_one_that_refuses_and_comes() -> None:
    """While nobody listens lines wait, as many as there is room for; who comes then gets those, in their order, and
    the log says how many are missing, once."""
    port = free_port()
    with captured_events() as events, shipping(("127.0.0.1", port), level="info", limits=QUICK):
        log_numbers(1_000)
        wait_said(events, "shipping_interrupted")
        with Receiver(port) as receiver:
            wait_said(events, "shipping_resumed")
            log_numbers(1, start=5_000)
            receiver.wait(lambda: 5_000 in numbers(receiver))
            got = numbers(receiver)
    assert got == sorted(set(got)) and 50 < len(got) <= QUICK.line_count + 2
    assert said(events) == ["shipping_interrupted", "shipping_resumed"]
    [interrupted], [resumed] = of(events, "shipping_interrupted"), of(events, "shipping_resumed")
    assert "refused" in str(interrupted["reason"]) and interrupted["logstash"] == f"127.0.0.1:{port}"
    assert resumed["dropped"] == 1_001 - len(got)
    assert resumed["level"] == "warning"


def test_one_that_goes_and_returns() -> None:
    """Restarted between two lines: nothing is missing but what its own end had taken, and nothing comes twice."""
    with captured_events() as events:
        with Receiver() as first:
            port = first.port
            context = shipping(first.address, level="info", limits=QUICK)
            context.__enter__()
            try:
                log_numbers(100)
                first.wait(lambda: len(numbers(first)) == 100)
            except BaseException:
                context.__exit__(None, None, None)
                raise
        try:
            log_numbers(50, start=100)
            wait_said(events, "shipping_interrupted")
            with Receiver(port) as second:
                second.wait(lambda: len(numbers(second)) == 50)
                assert numbers(second) == list(range(100, 150))
                wait_said(events, "shipping_resumed")
        finally:
            context.__exit__(None, None, None)
    assert of(events, "shipping_resumed")[0]["dropped"] == 0
    assert "shipping_incomplete" not in said(events)


def test_one_that_closes_in_the_middle_of_a_line() -> None:
    """The line that was torn comes again, whole, over the next connection. TCP takes more than arrives, so some that
    were sent before the break was seen may be missing; those that arrive are whole, and in their order."""
    with Receiver(breaks_after=1_000) as receiver:
        with shipping(receiver.address, level="info", limits=QUICK):
            for number in range(60):
                log_numbers(1, start=number)
                time.sleep(0.002)
            receiver.wait(lambda: receiver.connections > 5)
        got = numbers(receiver)
    assert len(receiver.torn) > 3
    assert got == sorted(got) and len(got) > 5


def test_outages_are_not_said_again_and_again() -> None:
    """One that breaks every connection is said once per quiet time, and all that is missing is counted in the end."""
    limits = replace(QUICK, quiet_seconds=3_600.0)
    with Receiver(breaks_after=1_000) as receiver, captured_events() as events:
        with shipping(receiver.address, level="info", limits=limits):
            for number in range(60):
                log_numbers(1, start=number)
                time.sleep(0.002)
            receiver.wait(lambda: receiver.connections > 5)
        assert said(events).count("shipping_interrupted") == 1
        assert said(events).count("shipping_resumed") <= 1


def test_a_name_that_nobody_knows() -> None:
    """A host that does not exist is an outage as any other."""
    with captured_events() as events, shipping(("no-such-host.invalid", 5533), level="info", limits=QUICK):
        log_numbers(3)
        wait_said(events, "shipping_interrupted")


def test_all_that_was_logged_is_sent_before_the_end() -> None:
    """A process that logs and ends at once, as commands do, has shipped it all."""
    with Receiver() as receiver:
        with shipping(receiver.address, level="info"):
            log_numbers(500)
        receiver.wait(lambda: len(numbers(receiver)) == 500)
        assert numbers(receiver) == list(range(500))


def test_who_logs_nothing_connects_to_nobody(tmp_path: Path) -> None:
    """A command that has nothing to say does not wait for a Logstash that does not answer."""
    with Receiver() as receiver, process_log(tmp_path, "run", level="info", logstash=receiver.address):
        pass
    assert receiver.connections == 0


def test_afterwards_nothing_is_left() -> None:
    """Neither a handler nor, soon, a thread; not even after an end that was not waited for."""
    before = set(threading.enumerate())
    handlers = list(logging.getLogger("dist_zero").handlers)
    with Receiver(reads=False) as receiver:
        receiver_threads = set(threading.enumerate()) - before
        with shipping(receiver.address, level="info", limits=QUICK):
            log_numbers(2_000)
        for thread in set(threading.enumerate()) - before - receiver_threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
    assert logging.getLogger("dist_zero").handlers == handlers


# -- processes -------------------------------------------------------------------------------------------------


def service(tmp_path: Path, logstash: tuple[str, int]) -> subprocess.Popen[str]:
    """A real scheduler, whose broker refuses connections; it waits for it, and says so."""
    return subprocess.Popen(
        [sys.executable, "-m", "services.scheduler"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "AMQP_URL": f"amqp://me:hunter2@127.0.0.1:{free_port()}/",
            "DIST_ZERO_SYSTEM": "shop",
            "DIST_ZERO_STORE": "store",
            "LOGSTASH_HOST": logstash[0],
            "LOGSTASH_PORT": str(logstash[1]),
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_service_ships_from_its_first_event_to_its_last(tmp_path: Path) -> None:
    """What a receiver gets is what stands in the file, field by field, from `process_started` to `process_ended`; no
    password in it."""
    with Receiver() as receiver:
        process = service(tmp_path, receiver.address)
        try:
            receiver.wait_event("process_started", system="shop", service="scheduler", level="info")
            receiver.wait_event("broker_lost", attempts=2)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, errors
        receiver.wait_event("process_ended")
        got = list(receiver.events)
    shipped_only = ("@timestamp", "@version", "message", "sender")
    logged = [json.loads(line) for line in (tmp_path / ".tmp/scheduler.jsonl").read_text().splitlines()]
    assert [{name: event[name] for name in event if name not in shipped_only} for event in got] == logged
    assert "hunter2" not in str(got)


@pytest.mark.parametrize("reads", [None, False])
def test_a_service_ends_as_quickly_without_one(tmp_path: Path, reads: bool | None) -> None:
    """Whether nobody listens or somebody who does not read: the exit code is 0, and the log says what is missing."""
    listening = Receiver(reads=False) if reads is False else None
    address = listening.address if listening else ("127.0.0.1", free_port())
    process = service(tmp_path, address)
    log = tmp_path / ".tmp/scheduler.log"
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (log.exists() and "broker_lost" in log.read_text()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
        if listening:
            listening.__exit__(None, None, None)
    assert process.returncode == 0, errors
    if reads is None:
        assert "log-shipping: shipping_interrupted" in log.read_text()
        assert "log-shipping: shipping_incomplete" in log.read_text()


def test_every_process_opens_its_log_in_one_place() -> None:
    """Nobody opens log files but `process_log`, so nobody forgets to ship."""

    def users(name: str) -> set[str]:
        return {path.as_posix() for path in python_files(*tidy.PRODUCT) if f"{name}(" in tidy.text(path)}

    shipping_module, log_module = "dist_zero_common/log_shipping.py", "dist_zero_common/log.py"
    assert users("open_log") == {log_module, shipping_module}
    assert users("process_log") == {
        shipping_module,
        "services/entry.py",
        "services/log_copies.py",
        "dist_zero/cli/main.py",
        "dist_zero/cli/keeper.py",
    }
