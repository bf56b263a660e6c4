"""A service's metrics over HTTP: what a scraper gets, and that nothing it does, or leaves undone, harms the service."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dist_zero_common import exposition, metrics
from dist_zero_common import log as logs
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.broker.topology import queue_of, scheduler_inbox
from dist_zero_common.clock import RealClock
from dist_zero_common.errors import SettingsError
from dist_zero_common.log import captured_events, get_logger
from dist_zero_common.mailbox import Mailbox
from dist_zero_common.metrics import TARGET_SUFFIX, Readings
from dist_zero_common.settings import Settings, load_settings
from services import measuring
from services.measuring import Measured, metrics_of_child, reachable, serving_metrics, target
from services.progress import Watched

INBOX = scheduler_inbox("shop")
SECONDS_MAX = 60


def measured() -> Measured:
    return Measured("scheduler", "shop", "", get_logger("scheduler", RealClock(), system="shop"))


@asynccontextmanager
async def served(directory: Path, of: Measured, port: int = 0) -> AsyncIterator[str]:
    """Meanwhile the metrics of a process are at this address."""
    settings = Settings(metrics_port=port, log_directory=directory)
    file = directory / f"scheduler{TARGET_SUFFIX}"
    async with serving_metrics(settings, of, "scheduler"):
        async with asyncio.timeout(SECONDS_MAX):
            while not file.exists():
                await asyncio.sleep(0.01)
        (found,) = json.loads(file.read_text())
        yield f"http://{found['targets'][0]}"
    assert not file.exists()


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
        text: str = answer.read().decode()
    return text


def value_of(text: str, name: str) -> float:
    """The value of a metric that has one series."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                return float(sample.value)
    raise AssertionError(f"there is no {name}")


def run(directory: Path, work: Callable[[str, Measured], Awaitable[None]]) -> list[dict[str, object]]:
    """Do this while a process is served; returns what was logged."""

    async def main() -> None:
        of = measured()
        async with served(directory, of) as url:
            await work(url, of)

    with captured_events() as events:
        asyncio.run(main())
    return events


def test_a_scrape_has_what_the_service_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that are measured, its post, its inbox at the broker, lines that were dropped, who it is; and 404 for
    all other paths."""
    monkeypatch.setattr(logs, "dropped", Counter({"file": 3}))

    async def work(url: str, of: Measured) -> None:
        broker = MemoryBroker()
        post = Mailbox(broker.connector("test"), system="shop", sender="t", set_aside=lambda *_: None)
        running = asyncio.create_task(post.run())
        await post.listen(queue_of(INBOX), lambda _, token: post.settle(token))
        with (
            of.measuring(lambda readings: readings.add(metrics.LEADER, 1)),
            of.measuring_posts(lambda: [(Watched(post, INBOX), "")]),
        ):
            text = await asyncio.to_thread(fetched, f"{url}/metrics")
        running.cancel()
        assert value_of(text, "dist_zero_leader") == 1
        assert (
            value_of(text, "dist_zero_broker_connected")
            == value_of(text, "dist_zero_broker_connections_total")
            == 1
        )
        assert 'dist_zero_queue_messages{inbox="scheduler",program=""} 0.0' in text
        assert 'dist_zero_log_lines_dropped_total{to="file"} 3.0' in text
        assert 'service="scheduler",system="shop"' in text
        assert value_of(text, "dist_zero_readings_age_seconds") == 0
        assert "dist_zero_leader" not in await asyncio.to_thread(fetched, f"{url}/metrics?x=1")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await asyncio.to_thread(fetched, f"{url}/")

    (event,) = [event for event in run(tmp_path, work) if event["event"] == "metrics_served"]
    assert event["port"] and event["path"] == "/metrics"


def test_a_part_that_fails_is_left_out(tmp_path: Path) -> None:
    """The others are given out, and it is said once."""

    def fails(_: Readings) -> None:
        raise LookupError("no such thing")

    async def work(url: str, of: Measured) -> None:
        with of.measuring(fails), of.measuring(lambda readings: readings.add(metrics.LEADER, 1)):
            for _ in range(3):
                assert value_of(await asyncio.to_thread(fetched, f"{url}/metrics"), "dist_zero_leader") == 1

    assert [event["event"] for event in run(tmp_path, work)].count("metrics_failed") == 1


def test_a_loop_that_stands_still_is_seen_and_waited_for_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a service computes for long, scrapers get the numbers of before, with their age, and however many ask, one
    look waits for the loop; before there are any numbers they are told to come again."""
    looks: list[float] = []
    answers: list[str] = []
    answered: list[float] = []

    def look(readings: Readings) -> None:
        looks.append(time.monotonic())
        readings.add(metrics.LEADER, 1)

    async def work(url: str, of: Measured) -> None:
        def scrape(times: int) -> None:
            for _ in range(times):
                try:
                    answers.append(fetched(f"{url}/metrics"))
                except urllib.error.HTTPError as error:
                    answers.append(str(error.code))
                answered.append(time.monotonic())

        with of.measuring(look):
            for _ in range(2):  # the first time, nobody has ever looked
                thread = threading.Thread(target=scrape, args=(3,))
                monkeypatch.setattr(measuring, "LOOK_SECONDS", 0.05)
                thread.start()
                thread.join()  # which holds up the loop
                monkeypatch.setattr(measuring, "LOOK_SECONDS", SECONDS_MAX)
                answers.append("")
                await asyncio.to_thread(scrape, 1)

    run(tmp_path, work)
    assert answers[:4] == ["503", "503", "503", ""]
    ages = [value_of(text, "dist_zero_readings_age_seconds") for text in (*answers[4:8], answers[9])]
    assert ages[0] == ages[4] == 0 and all(age > 0 for age in ages[1:4])
    for age, at in zip(ages[1:4], answered[4:7], strict=True):
        assert age <= at - looks[0], "no older than the look, however often they were given out"
    assert 2 <= len(looks) <= 4, (
        "at most one for each time that the loop was held up, and for each that it was not"
    )


def test_scrapers_that_hang_keep_nobody_else_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that say nothing are dropped after a while; meanwhile no more than a few are held, and when those
    have gone the next scrape is answered."""
    monkeypatch.setattr(exposition._Handler, "timeout", 0.5)

    async def work(url: str, _: Measured) -> None:
        host, port = url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(3 * exposition.REQUESTS_MAX)]
        before = threading.active_count()
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            with suppress(OSError, urllib.error.URLError):
                if "dist_zero_info" in await asyncio.to_thread(fetched, f"{url}/metrics"):
                    break
            assert time.monotonic() < deadline
        assert before <= threading.active_count() + exposition.REQUESTS_MAX + 2
        for each in silent:
            each.close()

    run(tmp_path, work)


def test_a_port_that_is_taken_is_had_when_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, the service goes on, and when who has the port has gone, the metrics are there."""
    monkeypatch.setattr(measuring, "AGAIN_SECONDS", 0.02)
    with captured_events() as events:

        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
                settings = Settings(metrics_port=port, log_directory=tmp_path)
                async with serving_metrics(settings, measured(), "scheduler"):
                    await asyncio.sleep(0.2)
                assert not (tmp_path / f"scheduler{TARGET_SUFFIX}").exists()
                freed = asyncio.get_running_loop().call_later(0.2, taken.close)
                async with served(tmp_path, measured(), port) as url:
                    assert "dist_zero_info" in await asyncio.to_thread(fetched, f"{url}/metrics")
                freed.cancel()

        asyncio.run(main())
    assert [event["event"] for event in events] == [
        "metrics_not_served",
        "metrics_not_served",
        "metrics_served",
    ]
    assert events[0]["reason"] == "Address already in use"


def test_without_a_port_there_is_nothing(tmp_path: Path) -> None:
    """No thread, no file, no word."""

    async def main() -> None:
        before = threading.active_count()
        async with serving_metrics(Settings(log_directory=tmp_path), measured(), "scheduler"):
            assert threading.active_count() == before

    with captured_events() as events:
        asyncio.run(main())
    assert not events and not list(tmp_path.iterdir())


def test_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    """A process that ends does not take away what its successor has written."""

    async def main() -> None:
        async with serving_metrics(Settings(metrics_port=0, log_directory=tmp_path), measured(), "m1-r1"):
            file = tmp_path / f"m1-r1{TARGET_SUFFIX}"
            async with asyncio.timeout(SECONDS_MAX):
                while not file.exists():
                    await asyncio.sleep(0.01)
            file.write_text(json.dumps(target(measured(), "127.0.0.1", 1)))
        assert file.exists()

    asyncio.run(main())


def test_a_process_says_where_it_is_found() -> None:
    """As Prometheus discovers it; where it listens at all addresses, by one that others can use."""
    of = Measured("node-runner", "shop", "m1", get_logger("node-runner", RealClock()))
    assert target(of, "127.0.0.1", 9464) == [
        {
            "targets": ["127.0.0.1:9464"],
            "labels": {"system": "shop", "service": "node-runner", "machine": "m1"},
        }
    ]
    assert reachable("::1") == "[::1]"
    assert reachable("0.0.0.0") not in ("0.0.0.0", "")


def test_settings_of_metrics() -> None:
    """Nothing is no metrics; a child gets the port behind its parent's; what is no port or address is refused."""
    assert load_settings({}, None).metrics_port is None
    assert metrics_of_child(load_settings({}, None)) == {}
    for given, child in (("0", "0"), ("9464", "9465")):
        settings = load_settings({"DIST_ZERO_METRICS_PORT": given}, None)
        assert metrics_of_child(settings) == {"DIST_ZERO_METRICS_PORT": child}
    for name, wrong in (
        ("PORT", "65535"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("ADDRESS", "a b"),
        ("ADDRESS", "/tmp"),
    ):
        with pytest.raises(SettingsError, match=f"DIST_ZERO_METRICS_{name}"):
            load_settings({f"DIST_ZERO_METRICS_{name}": wrong}, None)
