"""A machine agent's metrics."""

from __future__ import annotations

from dist_zero_common import metrics
from dist_zero_common.metrics import Readings
from services.machine_agent.service import AgentService


def measure_agent(readings: Readings, agent: AgentService) -> None:
    """What an agent knows of its machine."""
    counters = agent.counters
    readings.add(metrics.MACHINE_CORES, agent.cores)
    readings.add(metrics.MACHINE_MEMORY, agent.memory_bytes)
    readings.add(metrics.RUNNERS, agent.running)
    readings.add(metrics.RUNNERS_STARTED, counters["runners_started"])
    readings.add(metrics.RUNNERS_DIED, counters["runners_died"])
    readings.add(metrics.COMMANDS_REFUSED, counters["commands_refused"])
