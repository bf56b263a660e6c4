"""How long the scheduler takes to decide, from a thousand nodes on a hundred machines to a hundred thousand on ten
thousand.

The system is made of reports, as a scheduler hears them: all machines announce themselves, programs of a hundred nodes
each are placed and run. Then one round of each kind is taken, and timed by itself: `growth` is what `Growing.decide`
does with all that nodes have reported; `place`, `decide` and `reconcile` are the rounds that place all programs, find
nothing to place, and say what has to be sent; `hear` is one report of every runner. Seconds are of the processor's
time, in one thread. Rows are nodes, so rows per second that stay the same say that it takes time in proportion to the
nodes. `busy` is with a load under which every program has to grow. Right: whoever bears too much grows by as much as it
may, and where nothing is wrong no program is changed, and nothing sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from benchmarks.growth import app
from benchmarks.measure import Measurement, peak_rss_mb
from dist_zero.expr.graph import encode_graph
from dist_zero.shards import even_map
from dist_zero_common.broker.topology import agent_inbox, runner_inbox
from dist_zero_common.clock import RealClock
from dist_zero_common.log import get_logger
from dist_zero_common.protocol.messages.control import (
    HEAT_MAX,
    MachineReport,
    NodeStatus,
    RunnerReport,
    RunnerStatus,
    SequencerStatus,
)
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits
from services.scheduler.deciding import decide, with_program
from services.scheduler.growing import Growing
from services.scheduler.growth import GrowthOptions
from services.scheduler.reconcile import reconcile
from services.scheduler.state import (
    Desired,
    Observed,
    SchedulerOptions,
    WantedProgram,
    hear_machine,
    hear_runner,
    nothing_desired,
    runner_name,
)

HEAT = tuple(range(0, 2**64, 2**64 // HEAT_MAX))
"""Keys are written all over the hash space."""

NODES_PER_MACHINE = 10
NODES_PER_PROGRAM = 100
NODES_MAX = 250
ROUNDS = ("hear", "place", "decide", "reconcile", "growth", "growth, busy")
OPTIONS = GrowthOptions(rows_per_second=100.0, up_seconds=5.0, down_seconds=10.0, cooldown_seconds=5.0)
SECONDS = 12
"""For so long the nodes bear what they bear before anything is measured."""

_T = TypeVar("_T")


def measure(engine: str, nodes: int) -> list[Measurement]:
    """A round of a scheduler of so many nodes, of this kind."""
    system = System(nodes)
    if engine == "hear":
        seconds, _ = _timed(lambda: system.report(1.0))
        right = len(system.observed.runners) == system.machines
    elif engine == "place":
        seconds = system.placing_seconds
        right = all(program.assignment is not None for program in system.desired.programs.values())
    elif engine == "decide":
        seconds, after = _timed(lambda: decide(system.desired, system.observed, system.now))
        right = after is system.desired
    elif engine == "reconcile":
        seconds, sent = _timed(lambda: reconcile(system.desired, system.observed, system.now))
        right = not sent
    else:
        factor = 2.5 if engine == "growth, busy" else 0.8
        system.growing.decide(system.desired, system.observed, system.now)  # when all has been changed last
        for _ in range(SECONDS):
            system.report(factor)
        before = system.desired
        seconds, after = _timed(lambda: system.growing.decide(before, system.observed, system.now))
        right = after.programs == before.programs
        if engine == "growth, busy":
            counts = [len(program.shard_map.nodes) for program in after.programs.values()]
            right = counts == [NODES_MAX] * len(counts) and after.machines > before.machines
    note = (
        f"{1e6 * seconds / nodes:.1f} µs per node; {system.machines:,} machines, {system.programs:,} programs"
    )
    figures = {"us_per_node": 1e6 * seconds / nodes}
    return [
        Measurement(
            "deciding", f"{engine}, {nodes:,}", nodes, seconds, 0.0, peak_rss_mb(), right, note, figures
        )
    ]


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


class System:
    """What a scheduler wants and has heard, when so many nodes run."""

    def __init__(self, nodes: int) -> None:
        self.machines, self.programs = nodes // NODES_PER_MACHINE, max(1, nodes // NODES_PER_PROGRAM)
        self.now = 0.0
        options = SchedulerOptions(machines=self.machines, growth=OPTIONS)
        self.desired: Desired = nothing_desired("bench", 1, options)
        self.observed = Observed()
        self.growing = Growing(OPTIONS, get_logger("bench", RealClock()))
        self._rows = 0.0
        for number in range(1, self.machines + 1):
            self._hear_machine(f"m{number}", alive=False)
        self.desired = decide(self.desired, self.observed, self.now)
        self.report(0.0)
        graph = encode_graph(app.graph())
        for number in range(1, self.programs + 1):
            name = f"p{number}"
            shard_map = even_map(1, [f"n{n}" for n in range(1, min(nodes, NODES_PER_PROGRAM) + 1)])
            program = WantedProgram(
                name, graph, "mark", shard_map, since=0.0, limits=NodeLimits(1, NODES_MAX, 0)
            )
            self.desired = with_program(self.desired, program)
        self.placing_seconds, self.desired = _timed(lambda: decide(self.desired, self.observed, self.now))
        self.desired = replace(self.desired, machine_limits=MachineLimits(1, 20_000))
        self.report(0.0)

    def _hear_machine(self, machine: str, *, alive: bool) -> None:
        runner = runner_name(machine)
        wanted = self.desired.runners.get(runner)
        runners = (RunnerStatus(runner, wanted.incarnation, True),) if alive and wanted is not None else ()
        inbox = agent_inbox("bench", machine)
        hear_machine(self.observed, MachineReport(machine, 1, inbox, 2, 2**32, (), runners), self.now)

    def report(self, factor: float) -> None:
        """A second goes by, in which every node takes in so many times what it may, and every runner says so."""
        self.now += 1.0
        self._rows += 100.0 * factor
        nodes: dict[str, list[NodeStatus]] = {}
        sequencers: dict[str, list[SequencerStatus]] = {}
        for name, program in self.desired.programs.items():
            if program.assignment is None:
                continue
            generation = program.assignment.placement.generation
            for shard, part in enumerate(program.assignment.nodes):
                status = NodeStatus(
                    name,
                    generation,
                    1,
                    shard,
                    part.incarnation,
                    int(self.now),
                    "",
                    stage=1,
                    rows=int(self._rows),
                )
                nodes.setdefault(part.runner, []).append(status)
            part, inbox = program.assignment.sequencer, program.assignment.placement.nodes_inbox
            sequencer = SequencerStatus(
                name, part.incarnation, generation, inbox, int(self.now), int(self.now), "", heat=HEAT
            )
            sequencers.setdefault(part.runner, []).append(sequencer)
        for runner, wanted in self.desired.runners.items():
            self._hear_machine(wanted.machine, alive=True)
            report = RunnerReport(
                runner,
                wanted.incarnation,
                wanted.machine,
                runner_inbox("bench", runner, wanted.incarnation),
                tuple(nodes.get(runner, ())),
                tuple(sequencers.get(runner, ())),
            )
            hear_runner(self.observed, report, self.now)
            self.growing.hear(report, self.now)
