"""A model of the world around `decide` and `reconcile`: agents (their real state machine), runners that obey, and a bag
of messages under way, from which any may be taken next, twice, or thrown away."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from dist_zero.shards import even_map
from dist_zero_common.broker.topology import agent_inbox, runner_inbox, sequencer_nodes_inbox
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    MachineReport,
    NodeStatus,
    Placement,
    PreparedStatus,
    PrepareNodes,
    RunnerReport,
    SequencerStatus,
    StartRunner,
    StopRunner,
)
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.requests import ProgramState
from services.machine_agent.state import AgentState, on_command, on_ended, on_started, statuses
from services.scheduler.deciding import (
    decide,
    with_program,
    without_program,
)
from services.scheduler.reconcile import (
    Repeats,
    Send,
    reconcile,
)
from services.scheduler.state import (
    Assignment,
    Desired,
    Observed,
    Part,
    SchedulerOptions,
    WantedProgram,
    hear_machine,
    hear_runner,
    nothing_desired,
    progress_of,
)

SYSTEM = "test"
CHAOS_STEPS = 60
QUIET_SECONDS = 15


@dataclass
class ModelRunner:
    """What the real runner promises: no incarnation of a part is started twice, and what was dropped stays away."""

    machine: str
    name: str
    incarnation: int
    parts: dict[tuple[str, int], int] = field(default_factory=dict)
    generations: dict[tuple[str, int], int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    started: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    preparing: dict[str, PrepareNodes] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        match message:
            case HostNode():
                self._host(message, message.shard)
            case HostSequencer():
                self._host(message, -1)
            case Placement():
                self._take_placement(message)
            case PrepareNodes():
                before = self.preparing.get(message.program)
                if before is None or before.version < message.version + (not message.shards):
                    self.preparing[message.program] = message
            case EndGeneration():
                self.ended[message.program] = message.incarnation
            case DropProgram(program=program, incarnation=incarnation):
                self.dropped[program] = max(incarnation, self.dropped.get(program, 0))
                self.parts = {
                    part: own for part, own in self.parts.items() if part[0] != program or own > incarnation
                }
            case _:
                raise AssertionError(f"{message} is not for a runner")

    def _take_placement(self, message: Placement) -> None:
        self.placements[message.program] = message
        own = runner_inbox(SYSTEM, self.name, self.incarnation)
        for (program, shard), incarnation in list(self.parts.items()):
            if program != message.program or incarnation > message.version:
                continue
            if shard >= 0:
                elsewhere = message.inboxes[shard] != own
            else:
                elsewhere = message.nodes_inbox != sequencer_nodes_inbox(SYSTEM, program, incarnation)
            if elsewhere:
                del self.parts[program, shard]

    def _host(self, message: HostNode | HostSequencer, shard: int) -> None:
        program, incarnation = message.program, message.incarnation
        if incarnation > max(self.parts.get((program, shard), 0), self.dropped.get(program, 0)):
            self.parts[program, shard] = incarnation
            self.generations[program, shard] = message.generation
            self.started[program, shard, incarnation] += 1

    def report(self) -> RunnerReport:
        return RunnerReport(
            self.name,
            self.incarnation,
            self.machine,
            runner_inbox(SYSTEM, self.name, self.incarnation),
            tuple(
                NodeStatus(program, self.generations.get((program, shard), 0), 1, shard, incarnation, 0, "")
                for (program, shard), incarnation in self.parts.items()
                if shard >= 0
            ),
            tuple(
                SequencerStatus(
                    program,
                    incarnation,
                    self.generations.get((program, shard), 0),
                    sequencer_nodes_inbox(SYSTEM, program, incarnation),
                    1,
                    1,
                    "",
                    base=1,
                    ends=int(self.ended.get(program) == incarnation),
                )
                for (program, shard), incarnation in self.parts.items()
                if shard < 0
            ),
            tuple(
                PreparedStatus(program, wanted.version, shard, 1, ready=True)
                for program, wanted in self.preparing.items()
                for shard in wanted.shards
                if self.parts.get((program, shard), 0) < wanted.version
            ),
        )


class World:
    """Machines, post under way, and the scheduler's pure parts over them."""

    def __init__(self, machines: int) -> None:
        self.now = 0.0
        self.desired: Desired = nothing_desired(SYSTEM, 1, SchedulerOptions(machines=machines))
        self.observed = Observed()
        self.repeats = Repeats()
        self.bag: list[tuple[str, Message]] = []
        self.agents = {f"m{number}": AgentState(incarnation=1) for number in range(1, machines + 1)}
        self.runners: dict[str, ModelRunner] = {}
        self.ended: list[ModelRunner] = []
        self.starts: Counter[tuple[str, int]] = Counter()
        self.allotted: dict[int, str] = {}
        self.forgotten: dict[str, int] = {}

    def scheduler_round(self) -> list[Send]:
        """What the service does when something changed or a second has passed."""
        before = self.desired
        self.desired = decide(before, self.observed, self.now)
        for program in before.removals.keys() - self.desired.removals.keys():
            self.forgotten[program] = before.removals[program].incarnation
        commands = reconcile(self.desired, self.observed, self.now)
        assert commands == reconcile(self.desired, self.observed, self.now)
        assert decide(self.desired, self.observed, self.now) is self.desired
        assert len({command.key for command in commands}) == len(commands)
        for command in commands:
            self._check_allotted(command)
        sent = self.repeats.due(commands, self.now)
        self.bag += [(command.inbox, command.message) for command in sent]
        return commands

    def _check_allotted(self, command: Send) -> None:
        """An incarnation is for one thing only, for ever."""
        if isinstance(command.message, StartRunner | HostNode | HostSequencer):
            what = repr(command.key)
            assert self.allotted.setdefault(command.message.incarnation, what) == what

    def report_machine(self, machine: str) -> None:
        state, inbox = self.agents[machine], agent_inbox(SYSTEM, machine)
        self.bag.append(("", MachineReport(machine, state.incarnation, inbox, 2, 1, (), statuses(state))))

    def report_runner(self, runner: str) -> None:
        self.bag.append(("", self.runners[runner].report()))

    def deliver(self, inbox: str, message: Message) -> None:
        match message:
            case MachineReport():
                hear_machine(self.observed, message, self.now)
            case RunnerReport():
                hear_runner(self.observed, message, self.now)
            case StartRunner() | StopRunner():
                self._command(inbox, message)
            case _:
                for runner in self.runners.values():
                    if runner_inbox(SYSTEM, runner.name, runner.incarnation) == inbox:
                        runner.take(message)

    def _command(self, inbox: str, command: StartRunner | StopRunner) -> None:
        (machine,) = (name for name in self.agents if agent_inbox(SYSTEM, name) == inbox)
        after = on_command(self.agents[machine], command)
        if after is None:
            return
        for name, runner in after.runners.items():
            if not runner.is_settled():
                assert runner.wanted
                self.end_runner(name)
                self.starts[name, runner.incarnation] += 1
                self.runners[name] = ModelRunner(machine, name, runner.incarnation)
                after = on_started(after, name, runner.incarnation)
        self.agents[machine] = after

    def end_runner(self, name: str) -> None:
        if name in self.runners:
            self.ended.append(self.runners.pop(name))

    def kill_runner(self, name: str) -> None:
        """The runner ends, and its agent notices."""
        runner = self.runners[name]
        self.end_runner(name)
        self.agents[runner.machine] = on_ended(self.agents[runner.machine], name, runner.incarnation)

    def restart_machine(self, machine: str) -> None:
        """The machine comes back with nothing on it."""
        self.end_runner(f"{machine}-r1")
        self.agents[machine] = AgentState(self.agents[machine].incarnation + 1)

    def quiet_second(self) -> list[Send]:
        """A second in which nothing goes wrong; returns what is outstanding at its end."""
        self.now += 1.0
        for machine in self.agents:
            self.report_machine(machine)
        for runner in self.runners:
            self.report_runner(runner)
        self._deliver_all()
        commands = self.scheduler_round()
        self._deliver_all()
        return commands

    def _deliver_all(self) -> None:
        bag, self.bag = self.bag, []
        for inbox, message in bag:
            self.deliver(inbox, message)

    def submit(self, program: str, nodes: int) -> None:
        if program not in self.desired.programs and program not in self.desired.removals:
            shard_map = even_map(1, [f"n{number}" for number in range(1, nodes + 1)])
            wanted = WantedProgram(program, b"graph", "fingerprint", shard_map, self.now)
            self.desired = with_program(self.desired, wanted)

    def remove(self, program: str) -> None:
        if program in self.desired.programs:
            self.desired = without_program(self.desired, program, self.now)

    def states(self) -> dict[str, ProgramState]:
        return {
            name: progress_of(program, self.desired, self.observed, self.now).state
            for name, program in self.desired.programs.items()
        }

    def check(self) -> None:
        """What must hold after every step."""
        assert all(times == 1 for times in self.starts.values())
        for runner in (*self.runners.values(), *self.ended):
            assert all(times == 1 for times in runner.started.values())
        machines = [runner.machine for runner in self.runners.values()]
        assert len(set(machines)) == len(machines)


def chaos(world: World, rng: random.Random, steps: int, deaths: bool) -> None:
    """Anything that can happen, in any order."""
    for _ in range(steps):
        match rng.choices(range(9), (8, 8, 20, 4, 4, 4, 2, 1, 1))[0]:
            case 0:
                world.report_machine(rng.choice(sorted(world.agents)))
            case 1 if world.runners:
                world.report_runner(rng.choice(sorted(world.runners)))
            case 2 if world.bag:
                world.deliver(*world.bag.pop(rng.randrange(len(world.bag))))
            case 3 if world.bag:
                world.bag.append(rng.choice(world.bag))
            case 4 if world.bag:
                world.bag.pop(rng.randrange(len(world.bag)))
            case 5:
                world.now += rng.choice((0.01, 0.5, 3.0))
            case 6:
                world.submit(rng.choice(("games", "fraud")), rng.randrange(1, 5))
            case 7:
                world.remove(rng.choice(("games", "fraud")))
            case 8 if deaths and world.runners and rng.random() < 0.5:
                world.kill_runner(rng.choice(sorted(world.runners)))
            case 8 if deaths:
                world.restart_machine(rng.choice(sorted(world.agents)))
        world.scheduler_round()
        world.check()


def settle(world: World) -> None:
    """Let it go well until nothing has been outstanding for a while, longer than anybody waits before a next step."""
    quiet = 0
    for _ in range(100):
        quiet = quiet + 1 if world.quiet_second() == [] else 0
        world.check()
        if quiet == QUIET_SECONDS:
            return
    raise AssertionError(f"still outstanding: {world.quiet_second()}")


def check_all_runs(world: World) -> None:
    """Every program runs, each part once and in the incarnation that is wanted, and nothing else."""
    assert set(world.states().values()) <= {ProgramState.RUNNING}
    hosted = Counter(part for runner in world.runners.values() for part in runner.parts)
    expected = {
        (name, shard)
        for name, program in world.desired.programs.items()
        for shard in range(-1, len(program.shard_map.nodes))
    }
    assert hosted == dict.fromkeys(expected, 1)
    for name, program in world.desired.programs.items():
        assert program.assignment is not None
        wanted = replace(program.assignment.placement, scheduler=0, version=0)
        for part in program.assignment.runners():
            told = world.runners[part.runner].placements.get(name)
            if told is None:  # lost, and never missed: the sequencer that knows where all are is here
                assert part.runner == program.assignment.sequencer.runner
            else:
                assert replace(told, scheduler=0, version=0) == wanted
        for shard, part in enumerate((*program.assignment.nodes, program.assignment.sequencer)):
            place = (name, shard if shard < len(program.shard_map.nodes) else -1)
            assert world.runners[part.runner].parts[place] == part.incarnation


def assignment_of(world: World, program: str) -> Assignment:
    """Where the parts of a program are wanted now."""
    assignment = world.desired.programs[program].assignment
    assert assignment is not None
    return assignment


def generation_of(world: World, program: str) -> int:
    """The generation that is wanted now."""
    return assignment_of(world, program).placement.generation


def version_of(world: World, program: str) -> int:
    """The version of the placement that is wanted now."""
    return assignment_of(world, program).placement.version


def parts_of(world: World, program: str) -> list[Part]:
    """The parts that are wanted now, the sequencer last."""
    assignment = assignment_of(world, program)
    return [*assignment.nodes, assignment.sequencer]


def machines_of(world: World, program: str) -> list[str]:
    """Where the parts of a program are wanted now, each machine once."""
    return sorted({part.machine for part in assignment_of(world, program).runners()})


def check_adoption(machines: int, rng: random.Random) -> None:
    """One scheduler ends in the middle of everything, and another one takes over."""
    world = World(machines)
    chaos(world, rng, CHAOS_STEPS, deaths=True)
    world.submit("games", 3)
    settle(world)
    before = {name: program.assignment for name, program in world.desired.programs.items()}
    lost = bool(world.runners) and rng.random() < 0.3
    if lost:
        world.kill_runner(rng.choice(sorted(world.runners)))
    wanted = [
        replace(program, assignment=None, since=world.now) for program in world.desired.programs.values()
    ]
    world.desired = nothing_desired(SYSTEM, 2, world.desired.options)
    world.observed, world.repeats, world.bag = Observed(listening_since=world.now), Repeats(), []
    for program in wanted:
        world.desired = with_program(world.desired, program)
    settle(world)
    check_all_runs(world)
    for name, program in world.desired.programs.items():
        was, now = before[name], program.assignment
        assert was is not None and now is not None
        assert lost or (now.nodes, now.sequencer) == (was.nodes, was.sequencer)
        assert lost or now.placement.generation == was.placement.generation
    world.remove("games")
    settle(world)
    assert all(part[0] != "games" for runner in world.runners.values() for part in runner.parts)


def settled_world(machines: int = 2, nodes: int = 3) -> World:
    world = World(machines)
    world.submit("games", nodes)
    settle(world)
    assert world.states() == {"games": ProgramState.RUNNING}
    return world
