"""Reconcile: from anything that was observed the system comes to what is desired, whatever becomes of the messages.

The world here is a model: agents (their real state machine), runners that obey, and a bag of messages under way, from
which any may be taken next, twice, or thrown away. It starts every step with `decide` and `reconcile`, as the service
does, and holds the invariants after each.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.shards import even_map
from dist_zero_common.broker.topology import agent_inbox, runner_inbox, sequencer_nodes_inbox
from dist_zero_common.protocol.messages import (
    DropProgram,
    HostNode,
    HostSequencer,
    MachineReport,
    Message,
    NodeStatus,
    Placement,
    ProgramState,
    RunnerReport,
    RunnerStatus,
    SequencerStatus,
    StartRunner,
    StopRunner,
)
from services.machine_agent.state import AgentState, on_command, on_ended, on_started, statuses
from services.scheduler.reconcile import (
    FORGET_SECONDS,
    Repeats,
    ReturnMachine,
    Send,
    SpawnMachine,
    decide,
    forget_silent,
    reconcile,
    reconcile_machines,
    with_program,
    without_program,
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

    def take(self, message: Message) -> None:
        match message:
            case HostNode():
                self._host(message, message.shard)
            case HostSequencer():
                self._host(message, -1)
            case Placement():
                self._take_placement(message)
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
                )
                for (program, shard), incarnation in self.parts.items()
                if shard < 0
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


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_reconcile_converges_after_anything(machines: int, rng: random.Random) -> None:
    """Reports and commands lost, doubled and in any order, programs come and gone: when that stops, every program
    runs, each part once, and nothing else runs; nothing is outstanding. No incarnation was ever started twice."""
    world = World(machines)
    chaos(world, rng, CHAOS_STEPS, deaths=False)
    world.submit("games", 3)
    settle(world)
    world.submit("games", 3)
    settle(world)
    check_all_runs(world)
    assert sorted(world.runners) == [f"m{number}-r1" for number in range(1, machines + 1)]


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


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_reconcile_converges_after_deaths(machines: int, rng: random.Random) -> None:
    """The same with runners that end and machines that come back empty: a program whose parts were lost is placed anew,
    all of it in one new generation, and runs."""
    world = World(machines)
    world.submit("games", 3)
    chaos(world, rng, CHAOS_STEPS, deaths=True)
    settle(world)
    check_all_runs(world)
    assert sorted(world.runners) == [f"m{number}-r1" for number in range(1, machines + 1)]


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


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
def test_programs_spread_onto_machines_that_join(machines: int, joining: int, nodes: int) -> None:
    """With more machines a program moves, once, if that leaves each with clearly less; else it stays where it is. Then
    it stays for good."""
    world = World(machines)
    world.submit("games", nodes)
    settle(world)
    generation = generation_of(world, "games")
    before, fullest = version_of(world, "games"), -(-(nodes + 1) // machines)
    for number in range(machines + 1, machines + joining + 1):
        world.agents[f"m{number}"] = AgentState(incarnation=1)
    settle(world)
    check_all_runs(world)
    fullest_now = -(-(nodes + 1) // (machines + joining))
    moved = version_of(world, "games") > before
    assert moved == (fullest_now <= 0.75 * fullest)
    if moved:
        assert len(machines_of(world, "games")) == min(machines + joining, nodes + 1)
    after = version_of(world, "games")
    settle(world)
    assert version_of(world, "games") == after and generation_of(world, "games") == generation


def test_a_silent_machine_loses_its_parts_and_they_come_back_to_it() -> None:
    """What ran on a machine of which nothing is heard runs elsewhere, in the same generation, and the rest stays; when
    the machine is back, it drops what it had, and gets its part again."""
    world = World(2)
    world.submit("games", 3)
    settle(world)
    generation, before = generation_of(world, "games"), parts_of(world, "games")
    gone, runner = world.agents.pop("m2"), world.runners.pop("m2-r1")
    settle(world)
    assert machines_of(world, "games") == ["m1"] and generation_of(world, "games") == generation
    after = parts_of(world, "games")
    assert all(now == was for was, now in zip(before, after, strict=True) if was.machine == "m1")
    assert set(world.states().values()) == {ProgramState.RUNNING}
    world.agents["m2"], world.runners["m2-r1"] = gone, runner
    settle(world)
    assert machines_of(world, "games") == ["m1", "m2"]
    check_all_runs(world)


def test_a_scheduler_that_heard_nobody_blames_nobody() -> None:
    """After a pause in which it did not listen, everybody seems silent; they are not, and nothing moves, in whatever
    order they are heard again."""
    world = World(3)
    world.submit("games", 3)
    settle(world)
    before = generation_of(world, "games")
    world.now += 60.0
    world.observed.listening_since = world.now
    for machine in ("m2", "m1", "m3"):
        world.report_machine(machine)
        world.report_runner(f"{machine}-r1")
        world._deliver_all()
        world.scheduler_round()
        world.now += 4.0 if machine == "m2" else 0.1
    settle(world)
    assert generation_of(world, "games") == before


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_new_scheduler_adopts_what_runs(machines: int, rng: random.Random) -> None:
    """It knows which programs shall run, and nothing of where they do. What runs whole goes on running, without a
    single command to start it; what does not is placed anew; and this scheduler can do all that the other could."""
    check_adoption(machines, rng)


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


def test_a_machine_that_stays_away_is_forgotten() -> None:
    """After ten minutes; one that comes back then is a new one."""
    world = World(2)
    settle(world)
    agent, runner = world.agents.pop("m2"), world.runners.pop("m2-r1")
    world.now += FORGET_SECONDS
    world.observed.listening_since = world.now
    world.desired = forget_silent(world.desired, world.observed, world.now)
    assert "m2" in world.observed.machines  # it may have spoken while nobody listened
    world.quiet_second()
    world.now += FORGET_SECONDS
    world.report_machine("m1")
    world._deliver_all()
    world.desired = forget_silent(world.desired, world.observed, world.now)
    assert sorted(world.observed.machines) == ["m1"] and sorted(world.desired.runners) == ["m1-r1"]
    world.agents["m2"], world.runners["m2-r1"] = agent, runner
    settle(world)
    assert sorted(world.observed.machines) == ["m1", "m2"]


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_removed_programs_leave_nothing(machines: int, rng: random.Random) -> None:
    """After any history, removing everything and some quiet leave no part anywhere."""
    world = World(machines)
    chaos(world, rng, CHAOS_STEPS, deaths=True)
    for name in list(world.desired.programs):
        world.remove(name)
    settle(world)
    assert not world.desired.programs and not world.desired.removals
    assert not any(runner.parts for runner in world.runners.values())


def settled_world(machines: int = 2, nodes: int = 3) -> World:
    world = World(machines)
    world.submit("games", nodes)
    settle(world)
    assert world.states() == {"games": ProgramState.RUNNING}
    return world


def test_nothing_is_done_twice_when_all_is_well() -> None:
    """In a settled system hours of heartbeats cause no command and no decision."""
    world = settled_world()
    before = world.desired
    for _ in range(100):
        assert world.quiet_second() == []
    assert world.desired is before


def test_commands_are_repeated_more_and_more_slowly() -> None:
    """A command whose effect does not show goes out after 1, 2, 4, 8 and then every 10 seconds; one that was done and
    is outstanding again goes out at once."""
    repeats = Repeats()
    command = Send(("start", "m1-r1", 1), "inbox", StartRunner(1, "m1-r1", 1, 1))
    times = [second for second in range(40) if repeats.due([command], float(second))]
    assert times == [0, 1, 3, 7, 15, 25, 35]
    assert repeats.due([], 40.0) == []
    assert repeats.due([command], 41.0) == [command]


def test_sequencer_comes_when_all_nodes_are_there() -> None:
    """No sequencer is started before every node is reported, so none hands out to nobody."""
    world = World(2)
    world.submit("games", 3)
    rounds = [[type(command.message) for command in world.quiet_second()] for _ in range(6)]
    assert rounds == [
        [StartRunner, StartRunner],
        [HostNode, HostNode, HostNode, Placement, Placement],
        [HostSequencer, Placement, Placement],
        [],
        [],
        [],
    ]


def test_placement_is_told_again_while_nothing_moves() -> None:
    """A runner that never heard where the others are would wait for ever: an epoch that is not finished for five
    seconds makes the placement outstanding again, and one that is finished ends that."""
    world = settled_world()
    assignment = world.desired.programs["games"].assignment
    assert assignment is not None
    runner = world.runners[assignment.sequencer.runner]

    def hear(epoch: int, finished: int) -> set[type]:
        (status,) = runner.report().sequencers
        moved = replace(status, epoch=epoch, finished_epoch=finished)
        world.now += 3.0
        for machine in world.agents:
            world.report_machine(machine)
        for name in world.runners:
            world.report_runner(name)
        world._deliver_all()
        hear_runner(world.observed, replace(runner.report(), sequencers=(moved,)), world.now)
        return {type(command.message) for command in reconcile(world.desired, world.observed, world.now)}

    assert hear(5, 4) == set()
    # `_deliver_all` hears the runner's own report first, in which all is finished
    world.runners.pop(runner.name)
    assert [hear(5, 4), hear(5, 4), hear(6, 4)] == [set(), {Placement}, {Placement}]
    assert [hear(6, 5), hear(6, 6), hear(6, 6)] == [set(), set(), set()]


@pytest.mark.parametrize(
    ("spawned", "expected"),
    [
        ([], [SpawnMachine("m1"), SpawnMachine("m2"), SpawnMachine("m3")]),
        (["m2"], [SpawnMachine("m1"), SpawnMachine("m3")]),
        (["m1", "m2", "m3"], []),
        (["m1", "m2", "m3", "m4", "m10"], [ReturnMachine("m10"), ReturnMachine("m4")]),
    ],
)
def test_machines_are_obtained_and_returned(
    spawned: list[str], expected: list[SpawnMachine | ReturnMachine]
) -> None:
    """What the spawner lists becomes m1 to m3."""
    desired = nothing_desired(SYSTEM, 1, SchedulerOptions(machines=3))
    assert reconcile_machines(desired, spawned) == expected


def test_machine_in_use_is_not_returned() -> None:
    """A machine beyond those wanted stays while a program has a part there."""
    world = settled_world(machines=3, nodes=3)
    desired = replace(world.desired, options=SchedulerOptions(machines=1))
    assert reconcile_machines(desired, ["m1", "m2", "m3"]) == []
    desired = without_program(desired, "games", world.now)
    assert reconcile_machines(desired, ["m1", "m2", "m3"]) == [ReturnMachine("m2"), ReturnMachine("m3")]


def test_runner_that_ends_at_once_is_not_started_all_the_time() -> None:
    """Ten seconds lie between two starts, each of a new incarnation."""
    world = World(1)
    for _ in range(60):
        world.quiet_second()
        for runner in list(world.runners):
            world.kill_runner(runner)
    assert 5 <= len(world.starts) <= 7
    assert set(world.starts.values()) == {1}


def test_runner_of_an_earlier_scheduler_is_kept() -> None:
    """A new scheduler that hears of a living runner wants that one, and gives out later incarnations only."""
    observed = Observed()
    status = RunnerStatus("m1-r1", 4 << 20 | 7, alive=True)
    inbox = agent_inbox(SYSTEM, "m1")
    hear_machine(observed, MachineReport("m1", 1, inbox, 2, 1, (), (status,)), 0.0)
    desired = decide(nothing_desired(SYSTEM, 5, SchedulerOptions()), observed, 0.0)
    assert desired.runners["m1-r1"].incarnation == 4 << 20 | 7
    assert reconcile(desired, observed, 0.0) == []
    dead = replace(status, alive=False)
    hear_machine(observed, MachineReport("m1", 1, inbox, 2, 1, (), (dead,)), 10.0)
    desired = decide(desired, observed, 10.0)
    assert desired.runners["m1-r1"].incarnation == (5 << 20) + 1


def test_removal_waits_for_those_who_may_still_start_a_part() -> None:
    """A program that is removed while its nodes are being started is gone only when each of their runners has had the
    command to drop it and has reported since: what is under way is not forgotten."""
    world = World(2)
    for _ in range(3):
        world.quiet_second()
    world.submit("games", 3)
    world.scheduler_round()
    under_way, world.bag = world.bag, []
    assert HostNode in {type(message) for _, message in under_way}
    world.now += 0.5
    world.remove("games")
    drops = world.scheduler_round()
    assert [type(command.message) for command in drops] == [DropProgram, DropProgram]
    assert "games" in world.desired.removals
    world._deliver_all()
    for inbox, message in under_way:
        world.deliver(inbox, message)
    assert not any(runner.parts for runner in world.runners.values())
    assert world.quiet_second() == [] and not world.desired.removals


def test_late_node_of_a_removed_program_is_dropped() -> None:
    """A part that starts after its program was removed is told to go, and one that was placed elsewhere since is told
    where; the parts that are wanted, and those of programs of an earlier scheduler, are let alone."""
    world = settled_world()
    name = next(iter(world.runners))
    runner = world.runners[name]
    own, earlier = world.desired.incarnation, 5
    elsewhere = next(
        shard for shard, part in enumerate(parts_of(world, "games")[:-1]) if part.runner != runner.name
    )
    runner.parts |= {("gone", 0): own, ("earlier", 0): earlier, ("games", elsewhere): (1 << 20) + 1}
    world.report_runner(name)
    world._deliver_all()
    sent = [command.message for command in reconcile(world.desired, world.observed, world.now)]
    assignment = world.desired.programs["games"].assignment
    assert assignment is not None
    assert sent == [DropProgram(1, "gone", own), assignment.placement]
