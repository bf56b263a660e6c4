"""What is to be run under sanitizers, as a program: `python -m test.oracle.hardened SEED WHAT=COUNT ...`.

programs     random programs with random histories, native beside the interpreter: steps, saves, loads, splits
fuzz         what nobody who keeps to the rules would send: `test/oracle/fuzzed.py`
memory       each allocation of a history fails once
less-memory  fewer and fewer of them do
everything   each COUNT-th allocation of a program of all operations does
dropped      saves that nobody goes through, dropped by one thread while another is in C
many         a batch of COUNT rows, which is sorted and saved in pieces
churn        COUNT epochs of a program of all operations, in which rows and texts come and go, in the same memory

`test_native_sanitized.py` says how much of it in `make test` and `make test-long`. The seed draws COUNT programs.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
from hypothesis import given, settings

import dist_zero as dz
from dist_zero.batch import Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.native.executor import NativeExecutor
from dist_zero.shards import even_map
from dist_zero.types import NAN, Row
from dist_zero_common.errors import InternalError
from test.contract.executors import Run, in_bytes, native
from test.oracle import everything
from test.oracle.fuzzed import fuzz_batches, fuzz_case
from test.oracle.nodes import Nodes, delete, put
from test.oracle.random_programs import Case, cases
from test.oracle.test_differential_native import check_kept, check_pipelined
from test.oracle.test_oracle_programs import SAME_EACH_TIME
from test.oracle.twins import Twins


def drawn(count: int, seed: int) -> list[Case]:
    """So many programs, none of the smallest. If there are more, they begin with the same."""
    found: list[Case] = []

    @hypothesis.seed(seed)
    @settings(SAME_EACH_TIME, derandomize=False, database=None, max_examples=max(30, 4 * count))
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    found.sort(key=lambda case: len(compile(case.graph).operators))
    chosen = found[len(found) // 2 :]
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def programs(count: int, seed: int) -> None:
    """Twins say the same, and load what the other has saved."""
    for number, case in enumerate(drawn(count, seed)):
        check_pipelined(case, seed + number, 1 + number % 3)
        check_kept(case, seed + number)


def fuzz(count: int, seed: int) -> None:
    """So many programs, and batches without one."""
    reached: Counter[str] = Counter()
    fuzz_batches(random.Random(seed), 40 * count, reached)
    for case in drawn(count, seed):
        fuzz_case(case, random.Random(seed), 40, reached)
    print(dict(sorted(reached.items())))


def memory(count: int, seed: int, thinned: int = 0) -> None:
    """Whichever allocation of a history fails: it is an error, so is what comes behind, and nothing is lost."""
    for case in drawn(count, seed):
        number = 1
        while _fails(case, seed, number):
            number += 1 + number * thinned // 8
        assert number > 20, "a history that hardly takes any memory"


def everything_starved(count: int, seed: int) -> None:
    """Every `count`-th allocation of a program of all operations, which has them all."""
    plan, number, failed = compile(everything.program().graph()), 1, True
    while failed:
        executor = native(plan)
        assert isinstance(executor, NativeExecutor)
        executor.fail_after(number)
        failed = _ends_well(executor, partial(_everything, plan, executor, random.Random(seed)))
        number += count


def _everything(plan: Plan, executor: NativeExecutor, chance: random.Random) -> None:
    nodes = Nodes(plan, 1, lambda _: executor)
    saves = []
    for epoch in range(3):
        nodes.run(_sales(plan, epoch, chance)[:2], _buyers(plan, epoch, chance))
        saves.append(executor.save(everything=False))
    executor.save(everything=True)


def _fails(case: Case, seed: int, number: int) -> bool:
    """Whether a history fails in which this allocation does; and what was saved, while it is loaded."""
    plan = compile(case.graph)

    def starved(_: object) -> NativeExecutor:
        executor = native(plan)
        assert isinstance(executor, NativeExecutor)
        executor.fail_after(number)
        return executor

    saves = []
    run = Run(plan, starved, even_map(1, ["only"]), random.Random(seed))

    def history() -> None:
        for epoch in case.epochs:
            run.run(epoch)
            saves.append(run.nodes[0].save(False))
        run.nodes[0].save(True)

    failed = _ends_well(run.nodes[0], history)
    if not failed:
        successor = starved(plan)
        failed = _ends_well(successor, lambda: successor.load(len(case.epochs), saves))
    return failed


def _ends_well(executor: object, work: Callable[[], None]) -> bool:
    """Whether the work has failed, as it may."""
    assert isinstance(executor, NativeExecutor)
    try:
        work()
    except InternalError as error:
        assert "out of memory" in str(error), error
        try:
            executor.rows(0)
        except InternalError:
            assert executor.free() == 0, "memory is lost"
            return True
        raise AssertionError("a node goes on behind a failure") from None
    assert executor.free() == 0, "memory is lost"
    return False


def dropped(count: int, seed: int) -> None:
    """Finalisers run in whatever thread collects garbage. Regression: one of a save that nobody went through called C,
    where another thread was at work on the same node. The steps are of some hundred rows, to take a while in C."""
    plan, stop, chance = _readings(), threading.Event(), random.Random(seed)
    executor, fresh = native(plan), native(plan)
    rubbish: list[object] = []

    def collect() -> None:
        while not stop.is_set():
            while rubbish:
                rubbish.pop()
            time.sleep(0)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for epoch in range(20 * count):
            rows = [put(plan, "readings", *_rows(chance, 400))]
            for each in (executor, fresh):
                nodes = Nodes(plan, 1, lambda _, each=each: each)  # type: ignore[misc]
                nodes.epoch = epoch
                nodes.run(rows)
            rubbish += [executor.freeze(True) for _ in range(3)]
            begun = executor.freeze(True)
            next(begun, None)
            rubbish.append(begun)
            del begun
    finally:
        stop.set()
        collector.join()
    assert in_bytes(executor.save(True)) == in_bytes(fresh.save(True))


def many(count: int, seed: int) -> None:
    """Twins say the same of more rows than are sorted at once."""
    plan, chance = _readings(), random.Random(seed)
    rows = _rows(chance, count)
    nodes = Nodes(plan, 1, Twins)
    nodes.run([put(plan, "readings", *rows)])
    saves = [executor.save(everything=True) for executor in nodes.executors]
    nodes.run([put(plan, "readings", *rows[: count // 2])])
    for executor, save in zip(nodes.executors, saves, strict=True):
        successor = Twins(plan)
        successor.load(2, [save, executor.save(everything=False)])
        assert in_bytes(successor.save(everything=True)) == in_bytes(executor.save(everything=True))


def _readings() -> Plan:
    app = dz.Program("many")
    readings = app.dataset("readings", Reading)
    app.view("all", readings)
    app.view("last", readings.group_by("name").agg(n=dz.count(), most=dz.max("value"), least=dz.min("name")))
    app.view("values", readings.select("value", "at").distinct())
    return compile(app.graph())


def _rows(chance: random.Random, count: int) -> list[Row]:
    values = (None, 0.0, 1.5, -2.0, NAN, 1e308)
    return [
        (f"{chance.randrange(count)}", chance.choice(values), chance.randrange(count), chance.random() < 0.5)
        for _ in range(count)
    ]


class Reading(dz.Row):
    """Without a key, so that equal ones add up."""

    name: str
    value: float | None
    at: int
    good: bool


def churn(count: int, seed: int) -> None:
    """Of the same number of rows, never the same ones, a node has the same memory, and so has the process."""
    plan = compile(everything.program().graph())
    nodes = Nodes(plan, 2, native)
    executors = [executor for executor in nodes.executors if isinstance(executor, NativeExecutor)]
    chance, used, resident = random.Random(seed), [], []
    for epoch in range(count):
        nodes.run(_sales(plan, epoch, chance), _buyers(plan, epoch, chance))
        for executor in executors:
            abandoned = executor.freeze(everything=True)
            if epoch % 2:
                next(abandoned, None)
            executor.save(everything=epoch % 5 == 0)
            del abandoned
        used.append(sum(executor.bytes_used for executor in executors))
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    quarter = count // 4
    print(f"in C at most {max(used[quarter : 2 * quarter])} bytes, later {max(used[2 * quarter :])}")
    print(
        f"of the process {max(resident[quarter : 2 * quarter])} bytes, later {max(resident[2 * quarter :])}"
    )
    assert max(used[2 * quarter :]) < 1.02 * max(used[quarter : 2 * quarter])
    assert max(resident[2 * quarter :]) < max(resident[quarter : 2 * quarter]) + 2_000_000


_LIVE, _NEW = 300, 60


def _sales(plan: Plan, epoch: int, chance: random.Random) -> list[Writes]:
    """New rows with new texts for the oldest ones; and some of those in between change."""
    first = epoch * _NEW

    def row(number: int, version: int) -> Row:
        text = f"{number:09} {version:09}".encode()
        amount = None if number % 7 == 0 else (number % 50) * 10.0 ** (number % 60 - 30)
        at = (number % 40) * 3_600_000_000
        few = number % 40, number % 3, number % 1_000, number % 2 == 0
        return (f"shop {number:09}", number, few[0], amount, few[1], few[2], at, few[1], text, few[3])

    changed = sorted({chance.randrange(max(0, first - _LIVE), first + _NEW) for _ in range(20)})
    gone = range(max(0, first - _LIVE), max(0, first + _NEW - _LIVE))
    return [
        put(plan, "sales", *(row(number, 0) for number in range(first, first + _NEW))),
        put(plan, "sales", *(row(number, epoch) for number in changed)),
        delete(plan, "sales", *((f"shop {number:09}", number) for number in gone)),
    ]


def _buyers(plan: Plan, epoch: int, chance: random.Random) -> list[Writes]:
    numbers = chance.sample(range(40), 8)
    rows: list[Row] = [(number, f"name {number:09} {epoch:09}", float(number)) for number in numbers[:4]]
    return [put(plan, "buyers", *rows), delete(plan, "buyers", *((number,) for number in numbers[4:]))]


WHAT: dict[str, Callable[[int, int], None]] = {
    "programs": programs,
    "fuzz": fuzz,
    "memory": memory,
    "less-memory": partial(memory, thinned=1),
    "dropped": dropped,
    "everything": everything_starved,
    "many": many,
    "churn": churn,
}


def _seconds_used() -> float:
    """Of this process and of the compilers that it has started."""
    times = os.times()
    return sum(times[:4])


if __name__ == "__main__":
    print(f"run it again: python -m test.oracle.hardened {' '.join(sys.argv[1:])}", flush=True)
    for each in sys.argv[2:]:
        what, _, count = each.partition("=")
        if what not in WHAT or not count.isdigit():
            raise SystemExit(f"{each!r}: say WHAT=COUNT; there are {', '.join(WHAT)}")
        started = _seconds_used()
        WHAT[what](int(count), int(sys.argv[1]))
        print(f"{each}: {_seconds_used() - started:.1f} s of a core", flush=True)
