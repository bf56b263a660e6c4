"""A scheduler's metrics, read from what it desires and has heard while it leads."""

from __future__ import annotations

from dist_zero_common import metrics
from dist_zero_common.metrics import Readings
from dist_zero_common.protocol.messages.requests import ProgramState
from services.scheduler.leader import Leader
from services.scheduler.service import SchedulerService
from services.scheduler.state import Heard


def measure_scheduler(readings: Readings, scheduler: SchedulerService) -> None:
    """All that a scheduler knows of its system; of one that stands by, that it does."""
    counters = scheduler.counters
    readings.add(metrics.COMMANDS, counters["commands"])
    readings.add(metrics.REQUESTS_REFUSED, counters["requests_refused"])
    for heard in Heard:
        readings.add(metrics.REPORTS, counters[f"reports_{heard.value}"], heard.value)
    for program, changes in scheduler.changes.items():
        readings.add(metrics.RECOVERIES, changes.recoveries, program)
        readings.add(metrics.MOVES, changes.moves, program)
        readings.add(metrics.SPLITS, changes.splits, program)
        readings.add(metrics.MERGES, changes.merges, program)
        readings.add(metrics.REWINDS, changes.rewinds, program)
    leader = scheduler.leading
    readings.add(metrics.LEADER, leader is not None and leader.surely_leads())
    if leader is not None:
        _measure_leader(readings, leader)


def _measure_leader(readings: Readings, leader: Leader) -> None:
    status = leader.status(0)
    readings.add(metrics.SCHEDULER_NUMBER, status.scheduler)
    readings.add(metrics.STANDBYS, len(status.standbys))
    readings.add(metrics.MACHINES_WANTED, leader.desired.machines)
    readings.add(metrics.MACHINES, len(status.machines))
    readings.add(metrics.MACHINES_READY, sum(machine.ready for machine in status.machines))
    for machine in status.machines:
        readings.add(metrics.MACHINE_SILENT_SECONDS, machine.silent_ms / 1000, machine.machine)
    for program in status.programs:
        for state in ProgramState:
            readings.add(metrics.PROGRAM_STATE, program.state is state, program.program, state.value)
        readings.add(metrics.PROGRAM_NODES, len(program.nodes), program.program)
        if program.state is ProgramState.RUNNING:
            lag = max(0, program.epoch - program.finished_epoch)
            readings.add(metrics.PROGRAM_LAG, lag, program.program)
