"""A bridge's metrics: what it has done with the messages of each queue."""

from __future__ import annotations

from collections.abc import Iterable

from dist_zero.bridge.bridge import Bridge
from dist_zero_common import metrics
from dist_zero_common.metrics import Readings


def measure_bridges(readings: Readings, bridges: Iterable[Bridge]) -> None:
    """The counts of all bridges of a process."""
    for bridge in bridges:
        counts, queue = bridge.counts, bridge.queue
        readings.add(metrics.BRIDGE_APPLIED, counts.applied, queue)
        readings.add(metrics.BRIDGE_ROWS, counts.rows, queue)
        readings.add(metrics.BRIDGE_REPEATED, counts.repeated, queue)
        readings.add(metrics.BRIDGE_EMPTY, counts.empty, queue)
        readings.add(metrics.BRIDGE_ASIDE, counts.set_aside, queue)
        readings.add(metrics.BRIDGE_SESSIONS, counts.sessions, queue)
