"""The same counting by Celery over the same RabbitMQ: one publisher, one worker process, the counts in its memory.

Three ways: `a task per row`, which is how Celery is used; `1,000 rows a task`, batched by hand as DistZero batches by
itself; and `confirmed, late acks`, the second one with publisher confirms and `acks_late`, the most that Celery can
promise. The first two are Celery's defaults: messages are persistent, but sending does not wait for the broker
(`confirm_publish` is off), and the worker acks a task before it runs it.

What none of them gives, and DistZero does: the counts are lost with the worker; a task that was acked early is lost
with it, and one that is acked late is counted twice when it comes again; nobody can read a count as of a moment, or
watch it; a second worker would have counts of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import counts
from benchmarks.celery_app import add, add_late, app, report
from benchmarks.measure import Measurement
from benchmarks.system import Broker, cpu_seconds, peak_rss_mb_of

ENGINES = {"a task per row": 1, "1,000 rows a task": 1_000, "confirmed, late acks": 1_000}
_POLL_SECONDS = 0.01
_SECONDS_MAX = 600.0


def measure(engine: str, rows: int, broker: Broker) -> list[Measurement]:
    """Rows into a count and a sum per key."""
    before = time.perf_counter()
    data = counts.events(rows)
    size, confirmed = ENGINES[engine], engine == "confirmed, late acks"
    messages = [data[start : start + size] for start in range(0, rows, size)]
    reading = time.perf_counter() - before
    send = (add_late if confirmed else add).delay
    app.conf.broker_url = broker.url
    app.conf.broker_transport_options = {"confirm_publish": confirmed}
    with TemporaryDirectory() as directory:
        worker = _worker(broker.url)
        try:
            _totals(Path(directory) / "ready")  # the worker listens
            start, cpu = time.perf_counter(), cpu_seconds(worker.pid)
            for events in messages:
                send(events)
            sent = time.perf_counter() - start
            got = _totals(Path(directory) / "totals")
            seconds, cpu = time.perf_counter() - start, cpu_seconds(worker.pid) - cpu
            rss = peak_rss_mb_of(worker.pid)
        finally:
            worker.kill()
            worker.wait()
    right = got == counts.dictionary(data)
    note = f"sent in {sent:.1f} s; {cpu / rows * 1e6:.1f} µs of the worker's CPU per row"
    figures = {"tasks": len(messages), "sending_seconds": sent, "runners_us_per_row": cpu / rows * 1e6}
    return [
        Measurement(
            "W1 over RabbitMQ", f"Celery, {engine}", rows, seconds, reading, rss, right, note, figures
        )
    ]


def _worker(url: str) -> subprocess.Popen[bytes]:
    """One process that consumes and counts: with a pool of processes there would be one more to pass each task to."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "-b", url, "worker"]
    options = ["--pool=solo", "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    return subprocess.Popen(
        [*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _totals(path: Path) -> dict[int, tuple[int, int]]:
    """What the worker has counted, behind all that was sent before."""
    report.delay(str(path))
    deadline = time.monotonic() + _SECONDS_MAX
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the Celery worker does not answer")
        time.sleep(_POLL_SECONDS)

    return {int(key): (n, total) for key, (n, total) in json.loads(path.read_text()).items()}
