"""Readings in the text that Prometheus reads, and the small server that gives it out.

The server has threads of its own, so that it answers while the service's loop is busy, and nothing that a scraper does,
or leaves undone, reaches the service: who is slow is dropped after `REQUEST_SECONDS`, of more than `REQUESTS_MAX` at a
time the last ones are turned away, and what goes wrong in a thread ends that request alone.

The standard metrics of a process (`process_resident_memory_bytes`, `process_cpu_seconds_total` and their like) are
prometheus-client's, read from /proc in the thread that answers.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from socketserver import TCPServer
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from dist_zero_common.metrics import SECONDS, Histogram, Kind, Metric, Readings

REQUEST_SECONDS = 5.0
REQUESTS_MAX = 8
PATH = "/metrics"

Read = Callable[[], Readings]
"""Called in a thread of the server's: the numbers of now."""
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def families(readings: Readings) -> Iterator[Family]:
    """What was read, as prometheus-client wants it."""
    for metric in readings.metrics():
        family = _empty(metric)
        for labels, value in readings.series(metric):
            if isinstance(value, Histogram):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(labels, _buckets(value), value.sum)
            else:
                assert not isinstance(family, HistogramMetricFamily)
                family.add_metric(labels, value)
        yield family


def _empty(metric: Metric) -> Family:
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds, and how many are at or below each."""
    bounds = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class _Read(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Family]:
        return families(self._readings)


def exposed(readings: Readings, accept: str = "") -> tuple[bytes, str]:
    """The text of these readings and of this process's own metrics, in the format that a scraper accepts; and what that
    is called."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Read(readings))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class MetricsServer:
    """Gives out what `read` returns at `http://address:port/metrics`, from when it is made until `close`. Port 0: any
    that is free; `port` is which. Raises `OSError` when the port cannot be had."""

    def __init__(self, address: str, port: int, read: Read) -> None:
        self._server = _Server(address, port, read)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as failed:  # there is no room for one more
            self._server.server_close()
            raise OSError(str(failed)) from failed

    def close(self) -> None:
        """Answer nobody any more. Waits a moment."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = REQUESTS_MAX

    def __init__(self, address: str, port: int, read: Read) -> None:
        self.read = read
        self._room = threading.BoundedSemaphore(REQUESTS_MAX)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """As socketserver's, without a question to a name server about who we are."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no room for one more thread
            self._room.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away in the middle is nobody's trouble."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout: ClassVar[float] = REQUEST_SECONDS
    server_version, sys_version = "dist-zero", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._answer(404, f"metrics are at {PATH}\n".encode(), "text/plain; charset=utf-8")
            return
        try:
            readings = self.server.read()
        except TimeoutError:
            self._answer(503, b"the service has never had time to answer\n", "text/plain; charset=utf-8")
            return
        self._answer(200, *exposed(readings, self.headers.get("Accept", "")))

    def _answer(self, code: int, body: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no event."""
