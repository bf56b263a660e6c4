"""A node runner's metrics, read from what it hosts and what was counted there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from heapq import nlargest

from dist_zero_common import metrics
from dist_zero_common.metrics import Readings
from services.node_runner.counts import Counts, Use
from services.node_runner.hosting import ProgramHost
from services.node_runner.sequencing import HostedSequencer
from services.node_runner.service import RunnerService
from services.progress import Watched

LINKS_MAX = 5
"""Of each node, so many links are told of that are behind."""


def this_process() -> Use:
    """What this process takes; its memory is 0 where there is no /proc."""
    return Use(time.process_time_ns() // 1000, _resident_bytes())


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def measure_runner(readings: Readings, runner: RunnerService) -> None:
    """All that a runner knows of its nodes and sequencers."""
    for program, sequencer in runner.sequencers.items():
        if not sequencer.stopped:
            _measure_sequencer(readings, program, sequencer)
    for host in runner.hosts.values():
        _measure_nodes(readings, host, runner.clock.monotonic())
    for program, counts in runner.counts.items():
        _measure_counts(readings, program, counts)


def inboxes_of(runner: RunnerService) -> Iterator[tuple[Watched, str]]:
    """The inboxes of a runner's sequencers."""
    for program, sequencer in runner.sequencers.items():
        if not sequencer.stopped:
            yield Watched(runner.post, sequencer.clients_inbox), program
            yield Watched(runner.post, sequencer.nodes_inbox), program


def _measure_sequencer(readings: Readings, program: str, sequencer: HostedSequencer) -> None:
    status = sequencer.status()
    if status is None:
        return  # it is being loaded
    readings.add(metrics.EPOCH, status.epoch, program)
    readings.add(metrics.FINISHED_EPOCH, status.finished_epoch, program)
    readings.add(metrics.BASE_EPOCH, status.base, program)
    readings.add(metrics.LAG, max(0, status.epoch - status.finished_epoch), program)
    readings.add(metrics.BASE_AGE, status.unsaved_ms / 1000, program)
    readings.add(metrics.SEQUENCER_HALTED, status.halted != "", program)
    readings.add(metrics.WAITING_BYTES, sequencer.waiting_bytes, program)


def _measure_nodes(readings: Readings, host: ProgramHost, now: float) -> None:
    program, names = host.program, host.shard_map.nodes
    for shard, node in host.nodes.items():
        name, kernel = names[shard], node.kernel
        readings.add(metrics.NODE_FINISHED, node.finished, program, name)
        readings.add(metrics.NODE_HALTED, node.halted != "", program, name)
        readings.add(metrics.NODE_BUSY, node.busy_seconds, program, name)
        readings.add(metrics.NODE_STATE, node.keeping.state_bytes, program, name)
        readings.add(metrics.CHECKPOINT_AGE, node.unsaved.seconds(now), program, name)
        if kernel is None:
            continue  # it has no state yet
        readings.add(metrics.NODE_LAG, kernel.handed_out - kernel.finished, program, name)
        readings.add(metrics.NODE_ROWS, kernel.rows, program, name)
        readings.add(metrics.NODE_READS, kernel.reads, program, name)
        if kernel.bytes_used is not None:
            readings.add(metrics.NODE_MEMORY, kernel.bytes_used, program, name)
        for sender, count in nlargest(LINKS_MAX, kernel.lacking().items(), key=lambda link: link[1]):
            readings.add(metrics.LINK_LAG, count, program, name, names[sender])


def _measure_counts(readings: Readings, program: str, counts: Counts) -> None:
    readings.add(metrics.EPOCHS, counts.epochs, program)
    readings.add(metrics.TRANSACTIONS, counts.transactions, program)
    readings.add(metrics.TRANSACTION_BYTES, counts.transaction_bytes, program)
    readings.add(metrics.GENERATIONS, counts.generations, program)
    readings.add(metrics.CHECKPOINT_BYTES, counts.checkpoint_bytes, program)
    readings.add(metrics.NODES_BEGUN_AGAIN, counts.begun_again, program)
    readings.add(metrics.ROWS_ASKED_AGAIN, counts.asked_again, program)
    for how, count in counts.begun.items():
        readings.add(metrics.NODES_BEGUN, count, program, how)
    for name, count in counts.rows.items():
        readings.add(metrics.ROWS_IN, count, program, name)
    for name, count in counts.rows_replayed.items():
        readings.add(metrics.ROWS_REPLAYED, count, program, name)
    for name, count in counts.changed.items():
        readings.add(metrics.ROWS_OUT, count, program, name)
    readings.add_durations(metrics.EPOCH_SECONDS, counts.epoch_seconds, program)
    readings.add_durations(metrics.COMMIT_SECONDS, counts.commit_seconds, program)
    readings.add_durations(metrics.CHECKPOINT_SECONDS, counts.checkpoint_seconds, program)
