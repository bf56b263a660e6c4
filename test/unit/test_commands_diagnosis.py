"""What the doctor concludes from two looks at a system: each trouble has its sentence, and health has none."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dist_zero.cli.diagnosis import Finding, Look, Verdict, diagnose, queues_of
from dist_zero.cli.status import machine_table, services_line, troubles
from dist_zero_common.broker.base import QueueDepth
from dist_zero_common.broker.topology import (
    agent_inbox,
    parsed,
    runner_inbox,
    scheduler_inbox,
    sequencer_clients_inbox,
    sequencer_nodes_inbox,
)
from dist_zero_common.protocol.messages.requests import (
    HostNote,
    MachineStatus,
    NodePlace,
    ProgramState,
    ProgramStatus,
    ServiceStatus,
    SystemStatus,
)

SYSTEM = "shop"


def machine(name: str, **fields: object) -> MachineStatus:
    healthy = MachineStatus(
        machine=name,
        cores=2,
        memory_bytes=2**32,
        labels=(),
        silent_ms=300,
        ready=True,
        inbox=agent_inbox(SYSTEM, name),
        runner=f"{name}-r1",
        runner_incarnation=1,
        runner_inbox=runner_inbox(SYSTEM, f"{name}-r1", 1),
        note="",
    )
    return replace(healthy, **fields)  # type: ignore[arg-type]


def program(name: str = "stock", **fields: object) -> ProgramStatus:
    healthy = ProgramStatus(
        program=name,
        state=ProgramState.RUNNING,
        note="",
        generation=1,
        nodes=(place(0, "m1"), place(1, "m2")),
        sequencer_machine="m1",
        sequencer_incarnation=1,
        epoch=10,
        finished_epoch=10,
        clients_inbox=sequencer_clients_inbox(SYSTEM, name),
        nodes_inbox=sequencer_nodes_inbox(SYSTEM, name, 1),
    )
    return replace(healthy, **fields)  # type: ignore[arg-type]


def place(shard: int, on: str, finished: int = 10, note: str = "") -> NodePlace:
    return NodePlace(shard, f"n{shard + 1}", on, 1, finished, note)


def system(
    machines: tuple[MachineStatus, ...] = (machine("m1"), machine("m2")),
    programs: tuple[ProgramStatus, ...] = (program(),),
) -> SystemStatus:
    return SystemStatus(request=1, scheduler=1, machines=machines, programs=programs)


def look(status: SystemStatus, depths: Mapping[str, QueueDepth | None] | None = None) -> Look:
    """The system with all queues empty and read by one, but for those in `depths`."""
    fine: dict[str, QueueDepth | None] = dict.fromkeys(queues_of(SYSTEM, status), QueueDepth(0, 1))
    return Look(status, fine | dict(depths or {}))


def said(first: Look, second: Look | None = None) -> dict[str, Verdict]:
    findings = diagnose(SYSTEM, first, second or first, 2.0)
    return {finding.says: finding.verdict for finding in findings}


def wrongs(first: Look, second: Look | None = None) -> list[str]:
    return [says for says, verdict in said(first, second).items() if verdict is Verdict.WRONG]


def test_a_healthy_system_has_nothing_wrong() -> None:
    """Three sentences: machines, programs, queues."""
    assert said(look(system())) == {
        "2 machines are ready: m1, m2": Verdict.RIGHT,
        "program stock runs on 2 nodes, and all has been worked off up to epoch 10": Verdict.RIGHT,
        "all 7 queues of the system are there and are read": Verdict.RIGHT,
    }
    assert troubles(system()) == []


def test_queues_are_those_of_the_topology() -> None:
    """Every role that is an inbox, once per owner, each with whose it is."""
    queues = queues_of(SYSTEM, system())
    assert [parsed(queue).role.name for queue in queues] == [
        "scheduler",
        "agent",
        "runner",
        "agent",
        "runner",
        "sequencer-clients",
        "sequencer-nodes",
    ]
    assert queues[agent_inbox(SYSTEM, "m2")] == "the inbox of m2's agent"
    starting = system(programs=(program(clients_inbox="", nodes_inbox="", nodes=()),))
    assert len(queues_of(SYSTEM, starting)) == 5


CLIENTS = sequencer_clients_inbox(SYSTEM, "stock")
RUNNER = runner_inbox(SYSTEM, "m2-r1", 1)
SILENT = machine("m2", ready=False, silent_ms=14_000, note="not heard of for 14 s")


@pytest.mark.parametrize(
    ("queue", "depth", "says"),
    [
        (
            RUNNER,
            QueueDepth(14, 0),
            "the inbox of m2's runner has 14 messages and nobody reads it: its runner has ended or hangs",
        ),
        (
            scheduler_inbox(SYSTEM),
            QueueDepth(1, 0),
            "the scheduler's inbox has 1 message and nobody reads it",
        ),
        (
            agent_inbox(SYSTEM, "m1"),
            QueueDepth(0, 0),
            "nobody reads the inbox of m1's agent: its agent has ended",
        ),
        (
            agent_inbox(SYSTEM, "m1"),
            None,
            "the inbox of m1's agent is not there (dz.shop.agent.m1): its owner has",
        ),
        (
            agent_inbox(SYSTEM, "m1"),
            QueueDepth(0, 2),
            "2 processes read the inbox of m1's agent: each machine needs a name of its own (DIST_ZERO_MACHINE)",
        ),
        (
            CLIENTS,
            QueueDepth(0, 2),
            "2 processes read the inbox of stock's sequencer for clients: one of them",
        ),
        (RUNNER, QueueDepth(5, 1), "5 messages wait in the inbox of m2's runner, and none was taken in 2 s"),
        (
            scheduler_inbox(SYSTEM),
            QueueDepth(3, 1),
            "3 messages wait in the scheduler's inbox, and none was taken in 2 s: its reader hangs",
        ),
    ],
)
def test_a_queue_that_is_wrong_at_both_looks_is_a_finding(
    queue: str, depth: QueueDepth | None, says: str
) -> None:
    """One sentence about that queue, and nothing else; at one look alone it is none."""
    broken = look(system(), {queue: depth})
    [wrong] = wrongs(broken)
    assert wrong.startswith(says)
    assert not any(says.startswith("all 7 queues") for says in said(broken))
    assert wrongs(broken, look(system())) == []
    assert wrongs(look(system()), broken) == []


@given(
    before=st.builds(QueueDepth, st.integers(0, 50), st.integers(0, 3)),
    now=st.builds(QueueDepth, st.integers(0, 50), st.integers(0, 3)),
)
def test_a_queue_that_is_read_and_goes_down_is_never_wrong(before: QueueDepth, now: QueueDepth) -> None:
    """Over all pairs of depths: wrong is what nobody, or more than one, reads at both looks, or what did not go
    down."""
    first, second = look(system(), {RUNNER: before}), look(system(), {RUNNER: now})
    nobody = before.consumers == 0 == now.consumers
    several = before.consumers > 1 and now.consumers > 1
    read = before.consumers > 0 and now.consumers > 0
    stands = read and now.waiting >= before.waiting > 0
    assert bool(wrongs(first, second)) == (nobody or several or stands)


def test_a_queue_that_grows_while_work_goes_on_is_a_remark() -> None:
    """Writers are faster than the program: they are made to wait, and nothing is wrong."""
    first = look(system(), {CLIENTS: QueueDepth(100, 1)})
    second = look(system(programs=(program(epoch=14, finished_epoch=12),)), {CLIENTS: QueueDepth(160, 1)})
    assert wrongs(first, second) == []
    remarks = [says for says, verdict in said(first, second).items() if verdict is Verdict.REMARK]
    assert remarks == [
        "the inbox of stock's sequencer for clients has 160 messages, and 100 2 s ago: more comes than is worked off"
        " just now; writers are made to wait, and nothing is lost"
    ]


def test_a_silent_machine_is_one_finding() -> None:
    """Its queues, which nobody reads, are not told beside it, unless messages wait there."""
    status = system(machines=(machine("m1"), SILENT))
    abandoned = {queue: QueueDepth(0, 0) for queue in (SILENT.inbox, SILENT.runner_inbox)}
    [wrong] = wrongs(look(status, abandoned))
    assert wrong.startswith("machine m2: not heard of for 14 s; is it running, and does it reach the broker?")
    assert troubles(status) == ["machine m2: not heard of for 14 s"]
    gone = dict.fromkeys(abandoned)
    assert len(wrongs(look(status, gone))) == 1
    waiting = wrongs(look(status, abandoned | {SILENT.runner_inbox: QueueDepth(9, 0)}))
    assert len(waiting) == 2
    assert waiting[1].startswith("the inbox of m2's runner has 9 messages and nobody reads it")


def test_a_machine_that_is_just_starting_is_a_remark() -> None:
    """It passes by itself."""
    starting = machine(
        "m2", ready=False, note="its runner is starting", runner_inbox="", runner_incarnation=0
    )
    status = system(machines=(machine("m1"), starting))
    assert wrongs(look(status)) == []
    assert said(look(status))["machine m2 is not ready: its runner is starting"] is Verdict.REMARK
    assert troubles(status) == []


def test_a_host_that_does_not_come_is_told_with_what_to_do() -> None:
    """What keeps it from coming is a finding, and exit code 1 of `status`; that it is on its way is a remark."""
    notes = (
        HostNote("m3", "cannot be obtained: too dear; tried again in 34 s", wrong=True),
        HostNote("m4", "was asked for 12 s ago, and has not reported yet", wrong=False),
    )
    there = replace(system(), hosts=notes)
    assert said(look(there))["host m3 cannot be obtained: too dear; tried again in 34 s"] is Verdict.WRONG
    assert said(look(there))["host m4 was asked for 12 s ago, and has not reported yet"] is Verdict.REMARK
    assert troubles(there) == ["m3 cannot be obtained: too dear; tried again in 34 s"]


@pytest.mark.parametrize(
    ("services", "line"),
    [
        ((), ""),
        ((ServiceStatus("node-runner", 3, 3, 0),), ""),
        ((ServiceStatus("node-runner", 3, 2, 0),), "node-runner: 2 of 3 ready"),
        (
            (ServiceStatus("node-runner", 3, 3, 2), ServiceStatus("scheduler", 2, 2, 0)),
            "node-runner: 3 of 3 ready, and 2 to be given back; scheduler: 2 of 2 ready",
        ),
    ],
)
def test_hosts_are_counted_where_that_says_something(services: tuple[ServiceStatus, ...], line: str) -> None:
    """Not where there are just the machines that there shall be: the table has them."""
    assert services_line(replace(system(), services=services)) == line


def test_no_machine_at_all_is_a_finding() -> None:
    """Nobody announced himself; for `status` it is trouble as soon as a program waits."""
    nothing = system(machines=(), programs=())
    [wrong] = wrongs(look(nothing))
    assert wrong.startswith("no machine has announced itself to the scheduler: start a machine agent")
    assert troubles(nothing) == []
    waits = system(machines=(), programs=(program(state=ProgramState.STARTING, nodes=()),))
    assert troubles(waits) == ["programs wait, and no machine is ready"]


def test_a_halted_program_is_told_with_its_reason() -> None:
    """By the doctor and by `status`."""
    status = system(programs=(program(state=ProgramState.HALTED, note="two answers to epoch 7 differ"),))
    [wrong] = wrongs(look(status))
    assert wrong.startswith("program stock stands still: two answers to epoch 7 differ; keep the store")
    assert troubles(status) == ["program stock stands still: two answers to epoch 7 differ"]
    poisoned = "epoch 7: the executor failed; `dist-zero void stock 7/0` takes one out"
    [wrong] = wrongs(look(system(programs=(program(state=ProgramState.HALTED, note=poisoned),))))
    assert wrong == f"program stock stands still: {poisoned}"


def test_a_program_that_does_not_start_is_a_finding_at_the_second_look() -> None:
    """At the first, and one that came between the looks, it is a remark."""
    starting = program(state=ProgramState.STARTING, note="1 of 3 machines is there", nodes=())
    status = system(programs=(starting,))
    assert wrongs(look(status)) == ["program stock is starting: 1 of 3 machines is there"]
    for before in (system(), system(programs=())):
        assert wrongs(look(before), look(status)) == []


def test_an_epoch_that_does_not_finish_names_who_is_waited_for() -> None:
    """The nodes that are furthest behind; a program that moves is fine however far it is behind."""
    stuck = program(epoch=12, finished_epoch=7, nodes=(place(0, "m1", 12), place(1, "m2", 7)))
    [wrong] = wrongs(look(system(programs=(stuck,))))
    assert wrong == (
        "program stock: epoch 8 was not finished in 2 s although the log is at 12; it waits for n2 on m2"
    )
    moves = replace(stuck, finished_epoch=8, nodes=(place(0, "m1", 12), place(1, "m2", 8)))
    first, second = look(system(programs=(stuck,))), look(system(programs=(moves,)))
    assert wrongs(first, second) == []
    assert said(first, second)["program stock runs, 4 epochs behind its log"] is Verdict.RIGHT


def test_an_epoch_begun_between_the_looks_is_not_late() -> None:
    """At the first look all was finished: the two seconds were not this epoch's."""
    first = look(system())
    second = look(system(programs=(program(epoch=11, finished_epoch=10),)))
    assert wrongs(first, second) == []


@given(
    silent_ms=st.integers(0, 60_000),
    ready=st.booleans(),
    epochs=st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(0, 5)),
    state=st.sampled_from(ProgramState),
    waiting=st.integers(0, 3),
    consumers=st.integers(0, 2),
)
def test_every_state_has_something_to_say(
    silent_ms: int,
    ready: bool,
    epochs: tuple[int, int, int],
    state: ProgramState,
    waiting: int,
    consumers: int,
) -> None:
    """Whatever is seen, each machine, each program and the queues are spoken of, in whole lines; what `status` calls
    trouble, the doctor finds wrong."""
    before = system(programs=(program(epoch=epochs[0], finished_epoch=epochs[1]),))
    now = system(
        machines=(machine("m1"), machine("m2", ready=ready, silent_ms=silent_ms)),
        programs=(program(state=state, epoch=epochs[0] + 1, finished_epoch=epochs[2]),),
    )
    depths = {CLIENTS: QueueDepth(waiting, consumers)}
    findings: list[Finding] = diagnose(SYSTEM, look(before, depths), look(now, depths), 2.0)
    text = "\n".join(finding.says for finding in findings)
    for name in ("m1", "m2", "stock", "queues" if consumers == 1 and not waiting else "inbox"):
        assert name in text
    assert "\n\n" not in text
    if troubles(now):
        assert any(finding.verdict is Verdict.WRONG for finding in findings)


def test_a_drained_machine_is_shown_as_such() -> None:
    """It is ready, and takes nothing: whoever wants to know whether it can be taken away must not read `ready`."""
    shown = Console(width=100, file=io.StringIO())
    shown.print(machine_table([machine("m1"), machine("m2", note="drained")]))
    assert isinstance(shown.file, io.StringIO)
    lines = [line.split()[-1] for line in shown.file.getvalue().splitlines()]
    assert lines == ["state", "ready", "drained"]


def test_a_program_that_sleeps_is_no_trouble() -> None:
    """Without any machine, too, as long as all sleep."""
    asleep = program(state=ProgramState.ASLEEP, nodes=(), sequencer_machine="", epoch=0, finished_epoch=0)
    for machines, wrong in ((0, 0), (1, 0)):
        now = system(machines=(machine("m1"),) * machines, programs=(asleep,))
        findings: list[Finding] = diagnose(SYSTEM, look(now, {}), look(now, {}), 2.0)
        about = [finding for finding in findings if "sleep" in finding.says]
        assert about and all(finding.verdict is Verdict.RIGHT for finding in about)
        assert len(troubles(now)) == wrong
    now = system(machines=(), programs=(asleep, program("other")))
    assert troubles(now) and any(
        finding.verdict is Verdict.WRONG for finding in diagnose(SYSTEM, look(now, {}), look(now, {}), 2.0)
    )
