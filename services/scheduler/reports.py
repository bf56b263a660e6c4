"""Checks of reports: a machine or runner may be of another version, or no machine or runner of ours at
all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dist_zero.shards import SHARDS_MAX
from dist_zero_common.broker.topology import CLIENT_REPLIES, agent_inbox, check_inbox, runner_inbox
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.ids import checked_name
from dist_zero_common.protocol.messages.control import HEAT_MAX, MachineReport, RunnerReport
from services.scheduler.state import runner_name

CORES_MAX = 65_536


def check_machine_report(system: str, report: MachineReport) -> None:
    """Raise `MalformedMessage` if no agent of this system sends such a report."""
    checked_name("machine", report.machine, MalformedMessage)
    if report.inbox != agent_inbox(system, report.machine):
        raise MalformedMessage(f"machine {report.machine} says that it listens at {report.inbox!r}")
    if not 1 <= report.cores <= CORES_MAX:
        raise MalformedMessage(f"machine {report.machine} says that it has {report.cores} cores")
    for status in report.runners:
        checked_name("runner", status.runner, MalformedMessage)
    _check_distinct("runner", [status.runner for status in report.runners])


def check_runner_report(system: str, report: RunnerReport) -> None:
    """Raise `MalformedMessage` if no runner of this system sends such a report."""
    checked_name("machine", report.machine, MalformedMessage)
    if report.runner != runner_name(report.machine):
        raise MalformedMessage(f"runner {report.runner!r} says that it runs on machine {report.machine}")
    if report.inbox != runner_inbox(system, report.runner, report.incarnation):
        raise MalformedMessage(f"runner {report.runner} says that it listens at {report.inbox!r}")
    for node in report.nodes:
        checked_name("program", node.program, MalformedMessage)
        if node.shard >= SHARDS_MAX:
            raise MalformedMessage(f"runner {report.runner} reports shard {node.shard} of {node.program}")
    for sequencer in report.sequencers:
        checked_name("program", sequencer.program, MalformedMessage)
        heat = sequencer.heat
        if len(heat) > HEAT_MAX or any(a > b for a, b in pairwise(heat)):
            raise MalformedMessage(f"runner {report.runner} reports keys of {sequencer.program} in no order")
    for prepared in report.prepared:
        checked_name("program", prepared.program, MalformedMessage)
        if prepared.shard >= SHARDS_MAX:
            raise MalformedMessage(
                f"runner {report.runner} prepares shard {prepared.shard} of {prepared.program}"
            )
    _check_distinct("prepared node", [(each.program, each.shard) for each in report.prepared])
    _check_distinct("node", [(node.program, node.shard) for node in report.nodes])
    _check_distinct("sequencer", [sequencer.program for sequencer in report.sequencers])


def check_reply_to(system: str, inbox: str) -> None:
    """Raise `MalformedMessage` unless this is a client's inbox: nobody makes the scheduler write to anybody
    else."""
    check_inbox(system, CLIENT_REPLIES, inbox)


def _check_distinct(what: str, names: Sequence[object]) -> None:
    if len(dict.fromkeys(names)) != len(names):
        raise MalformedMessage(f"a report names one {what} twice")
