"""`dist-zero top`: what two answers of the scheduler say, and how it looks."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from rich.console import Console

from dist_zero.cli import top as top_module
from dist_zero.cli.top import Looks, TopOptions, _ask, show_top, shown_top, top_json
from dist_zero.cli.top_model import Top, top_of
from dist_zero.client.remote import Look
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.messages.requests import (
    MachineStatus,
    NodePlace,
    ProgramState,
    ProgramStatus,
    SystemStatus,
)
from test.unit.test_commands import InProcess, app, running

GIB = 2**30


def machine(name: str, **other: object) -> MachineStatus:
    """A machine that is well."""
    made = MachineStatus(
        name, 2, 4 * GIB, (), 100, True, f"agent {name}", f"{name}-r1", 7, f"runner {name}", "",
        cpu_us=1_000_000, memory_used_bytes=GIB // 4, reported_ms=10_000,
    )  # fmt: skip
    return replace(made, **other)  # type: ignore[arg-type]


def node(shard: int, name: str, **other: object) -> NodePlace:
    """A node that has worked for a second."""
    made = NodePlace(shard, f"n{shard + 1}", name, 3, 100, "", 1_000, 1_000_000, 4_096, 0)
    return replace(made, **other)  # type: ignore[arg-type]


def program(*nodes: NodePlace, **other: object) -> ProgramStatus:
    """A program that runs on these nodes."""
    made = ProgramStatus(
        "shop", ProgramState.RUNNING, "", 1, nodes, "m1", 9, 100, 99, "clients", "nodes", rows=5_000, base=90
    )
    return replace(made, **other)  # type: ignore[arg-type]


def status(machines: list[MachineStatus], programs: list[ProgramStatus], scheduler: int = 4) -> SystemStatus:
    """What a scheduler says."""
    return SystemStatus(1, scheduler, tuple(machines), tuple(programs), ("s2",))


BEFORE = status([machine("m1"), machine("m2")], [program(node(0, "m1"), node(1, "m2"))])
NOW = status(
    [
        machine("m1", reported_ms=12_000, cpu_us=4_000_000),
        machine("m2", reported_ms=14_000, cpu_us=2_000_000),
    ],
    [
        program(
            node(0, "m1", rows=3_000, busy_us=1_500_000, finished_epoch=120),
            node(1, "m2", rows=9_000, busy_us=3_000_000, finished_epoch=118, unsaved_ms=2_500),
            epoch=120,
            finished_epoch=118,
            rows=25_000,
            recoveries=2,
            splits=1,
        )
    ],
)  # fmt: skip


def test_two_answers_make_rates() -> None:
    """Each part's counts are divided by the time between the two reports of its own runner: two seconds here, four
    there."""
    top = top_of(BEFORE, NOW)
    assert [(each.machine, each.cpu, each.rows, each.nodes) for each in top.machines] == [
        ("m1", 1.5, 1_000, 1),
        ("m2", 0.25, 2_000, 1),
    ]
    (shop,) = top.programs
    assert (shop.rows, shop.epochs, shop.lag, shop.recoveries, shop.splits) == (10_000, 10, 2, 2, 1)
    assert [(each.node, each.busy, each.rows, each.lag, each.unsaved_seconds) for each in top.nodes] == [
        ("n2", 0.5, 2_000, 2, 2.5),
        ("n1", 0.25, 1_000, 0, 0),
    ]


@pytest.mark.parametrize(
    ("what", "before"),
    [
        ("another scheduler, whose clock is another", replace(BEFORE, scheduler=3)),
        (
            "other runners, which count from zero",
            replace(BEFORE, machines=tuple(replace(each, runner_incarnation=6) for each in BEFORE.machines)),
        ),
        ("no new report", replace(BEFORE, machines=NOW.machines)),
        ("nobody was there", replace(BEFORE, machines=(), programs=())),
    ],
)
def test_what_does_not_belong_together_makes_no_rate(what: str, before: SystemStatus) -> None:
    """Then there is none, rather than a wrong one; all else is shown."""
    top = top_of(before, NOW)
    assert {each.cpu for each in top.machines} == {each.rows for each in top.machines} == {None}, what
    assert {each.busy for each in top.nodes} == {each.rows for each in top.nodes} == {None}, what
    assert (top.programs[0].rows, top.programs[0].epochs, top.programs[0].lag) == (None, None, 2), what


def test_a_part_that_began_again_has_no_rate_and_the_others_do() -> None:
    """A node of another incarnation, a sequencer that is elsewhere, a count that went back."""
    was = BEFORE.programs[0]
    moved = replace(
        was,
        sequencer_incarnation=8,
        nodes=(replace(was.nodes[0], incarnation=2), replace(was.nodes[1], rows=10_000)),
    )
    top = top_of(replace(BEFORE, programs=(moved,)), NOW)
    assert top.programs[0].rows is None
    assert {each.node: each.rows for each in top.nodes} == {"n1": None, "n2": None}
    assert {each.node: each.busy for each in top.nodes} == {"n1": None, "n2": 0.5}
    assert [each.cpu for each in top.machines] == [1.5, 0.25]


def drawn(top: Top, width: int, height: int | None = None, trouble: str = "") -> list[str]:
    """What is seen, line by line."""
    out = io.StringIO()
    Console(file=out, width=width, height=height or 200, color_system=None).print(
        shown_top("shop", top, width, height, trouble)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_how_it_looks() -> None:
    """At a usual width all is there, and nothing is folded."""
    assert drawn(top_of(BEFORE, NOW), 110) == [
        "system shop  scheduler 4 leads, 1 standing by",
        "",
        "machine  cores busy                memory  nodes  rows/s  state",
        "m1        1.50 of 2  256.0 MiB of 4.0 GiB      1   1,000  ready",
        "m2        0.25 of 2  256.0 MiB of 4.0 GiB      1   2,000  ready",
        "",
        "program  state    nodes  rows/s  epochs/s  lag  epoch  unsaved  since this scheduler leads",
        "shop     running      2   10.0k      10.0    2    120        –  2 recovered, 1 split",
        "",
        "node     machine  busy  rows/s  lag    saved  unsaved",
        "shop n2  m2        50%   2,000    2  4.0 KiB      2 s",
        "shop n1  m1        25%   1,000    0  4.0 KiB        –",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [12, 24, 60])
def test_it_fits(width: int, height: int) -> None:
    """However narrow and low the terminal, with many of everything: no line is wider, and from a usual height on
    there are no more lines than it has; the busiest come first, and how many are left out is said."""
    machines = [machine(f"machine-{n}", reported_ms=12_000) for n in range(40)]
    programs = [
        program(
            *(
                node(shard, f"machine-{shard % 40}", busy_us=1_000_000 + 10_000 * shard)
                for shard in range(60)
            ),
            program=f"program-{n}",
        )
        for n in range(30)
    ]
    old = [replace(each, nodes=tuple(replace(n, busy_us=1_000_000) for n in each.nodes)) for each in programs]
    before = status([replace(each, reported_ms=10_000) for each in machines], old)
    lines = drawn(
        top_of(before, status(machines, programs)), width, height, "the scheduler does not answer (4 s)"
    )
    if width >= 60:
        assert all(len(line) <= width for line in lines)
        assert len(lines) <= max(height, 24)
        left = [int(line.split()[1].replace(",", "")) for line in lines if line.startswith("and ")]
        assert len(left) == 3 and left[2] > 1_700
        nodes = lines[next(n for n, line in enumerate(lines) if line.startswith("node ")) + 1 : -1]
        assert nodes[0].startswith("program-0 n60")
    assert lines[1].startswith("no news: ")


def test_nothing_there_is_said() -> None:
    """A system that has just begun."""
    assert drawn(top_of(status([], []), status([], [])), 80)[2:] == [
        "no machine has announced itself yet",
        "",
        "no program runs here yet",
    ]


def test_json_has_all_of_it() -> None:
    """Every line with its numbers, unrounded."""
    said = json.loads(json.dumps(top_json("shop", top_of(BEFORE, NOW), "no broker")))
    assert said["trouble"] == "no broker" and said["scheduler"] == 4
    assert said["programs"][0]["state"] == "running" and said["nodes"][0]["rows"] == 2_000


def test_answers_of_another_scheduler_begin_anew() -> None:
    """Its clock is another one: what the one before has said is of no use for rates."""
    looks = Looks(BEFORE, 1.0)
    looks.miss("the scheduler does not answer (2 s)")
    assert looks.trouble and looks.top.programs[0].rows is None
    looks.hear(replace(NOW, scheduler=5))
    assert looks.top.scheduler == 5 and looks.top.programs[0].rows is None and not looks.trouble
    later = tuple(replace(each, reported_ms=each.reported_ms + 1_000) for each in NOW.machines)
    looks.hear(replace(NOW, scheduler=5, machines=later))
    assert looks.top.programs[0].rows == 0


class Failing(InProcess):
    """A system to which there is no line, so many times."""

    failures = 2

    def looking(self):  # type: ignore[no-untyped-def]  # as there
        """See there."""
        if self.failures:
            self.failures -= 1
            raise OperatorError("no connection within 10 s")
        return super().looking()


def test_a_broker_that_is_away_is_survived() -> None:
    """It says so, tries again, and goes on."""

    async def main() -> None:
        async with running(app) as system:
            failing = Failing.__new__(Failing)
            failing.__dict__.update(system.__dict__)
            looks = Looks(await system.status(), 0.01)
            asking = asyncio.create_task(_ask(failing, looks, 0.01))
            seen: list[str] = []
            async with asyncio.timeout(60):
                while looks.top.scheduler and (len(seen) < 2 or seen[-1]):
                    await looks.changed.wait()
                    looks.changed.clear()
                    seen.append(looks.trouble)
            asking.cancel()
            assert seen[0] == "no connection within 10 s" and seen[-1] == ""

    asyncio.run(main())


def test_a_scheduler_that_is_silent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is told with its length while one waits, and its answer is taken when it comes."""
    monkeypatch.setattr(top_module, "ANSWER_SECONDS", 0.02)

    class Slow(Look):
        def __init__(self) -> None:
            self.waits = 5

        waiting_for = ""

        async def status(self) -> SystemStatus:
            await asyncio.sleep(0.15)
            return NOW

    async def main() -> None:
        looks = Looks(BEFORE, 1.0)
        answering = asyncio.create_task(top_module._answered(Slow(), looks))
        await looks.changed.wait()
        assert looks.trouble.startswith("the scheduler does not answer (")
        assert await answering == NOW

    asyncio.run(main())


@pytest.mark.parametrize("as_json", [False, True])
def test_once(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a system that works; standard output is no terminal here, so it ends by itself."""

    async def work(system: InProcess) -> None:
        async with system.connect("shop") as client:
            await client.append("notes", [{"text": str(number)} for number in range(50)])
        await show_top(system, TopOptions(interval=0.2, once=as_json, as_json=as_json))

    run(work)
    out = capsys.readouterr().out
    if as_json:
        said = json.loads(out)
        assert len(said["nodes"]) == 2 and said["programs"][0]["program"] == "shop"
    else:
        assert out.startswith("system local  scheduler 1 leads") and "shop n1" in out and "m1" in out


def run(work: Callable[[InProcess], Awaitable[None]]) -> None:
    """Do this with a system on which the shop runs."""

    async def live() -> None:
        async with running(app) as system:
            await work(system)

    asyncio.run(live())
