"""`check_program`: what `dist-zero test` does, as a call that a test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dist_zero.program import Program
from dist_zero.testing.report import Report, failure_lines, numbers_of, numbers_text, report_on
from dist_zero.testing.running import SeedOptions
from dist_zero_common.sim.plan import checked_kinds


class ProgramFailed(AssertionError):
    """A program failed under some seed; the message has the story, and the call that brings it up again."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def check_program(
    program: Program,
    seeds: int = 50,
    *,
    seed: int = 0,
    faults: str = "all",
    machines: int = 2,
    nodes: int = 3,
    transactions: int = 60,
    data_seed: int | None = None,
    jobs: int = 0,
    only_faults: str | None = None,
    only_transactions: str | None = None,
) -> Report:
    """Run a program under faults drawn from each of `seeds` seeds, beginning with `seed`, and hold it against its
    recomputation and its invariants::

        def test_the_bank_keeps_its_money():
            check_program(app, seeds=200)

    `faults`: kinds with commas, `all` or `none`. `jobs`: how many processes (0: one per core). `only_faults` and
    `only_transactions` are what a failure says that it was cut down to. Raises `ProgramFailed`, an `AssertionError`.
    """
    options = SeedOptions(
        nodes=nodes,
        machines=machines,
        data_seed=data_seed,
        transactions=transactions,
        faults=checked_kinds(faults),
        only_faults=None if only_faults is None else numbers_of(only_faults),
        only_transactions=None if only_transactions is None else numbers_of(only_transactions),
    )
    report = report_on(program, range(seed, seed + seeds), options, jobs=jobs, failures_max=1)
    if report.failed:
        lines = [*failure_lines(report), f"run it again: {_again(report, faults)}"]
        raise ProgramFailed("\n".join(lines), report)
    return report


async def check_program_async(program: Program, seeds: int = 50, **options: object) -> Report:
    """`check_program` for tests that are coroutines: a simulation has a loop of its own, so it runs in a thread."""
    return await asyncio.to_thread(check_program, program, seeds, **options)  # type: ignore[arg-type]


class Checker:
    """What the pytest fixture `dist_zero_check` is: `check_program`, with the seeds and options of the test."""

    def __init__(
        self,
        marked: Mapping[str, Any],
        seeds_of: Callable[[Mapping[str, Any]], range],
        again: Callable[[int], str],
    ) -> None:
        """`marked`: options that the test has. `seeds_of`: which seeds follow from options. `again`: the command that
        runs the test under one seed."""
        self._marked, self._seeds_of, self._again = marked, seeds_of, again

    def __call__(self, program: Program, **options: Any) -> Report:
        """Hold a program against its recomputation and its invariants, under faults drawn from many seeds. `options`
        are those of `check_program`, and count more than the marker's; what the command line says of seeds counts
        most. Raises `ProgramFailed`, an `AssertionError`.

        In a coroutine this blocks the loop that runs it: nothing there has to go on meanwhile."""
        options = {**self._marked, **options}
        seeds = self._seeds_of(options)
        options |= {"seeds": len(seeds), "seed": seeds.start}
        try:
            if asyncio._get_running_loop() is None:
                return check_program(program, **options)
            with ThreadPoolExecutor(1) as other:  # a simulation has a loop of its own
                return other.submit(check_program, program, **options).result()
        except ProgramFailed as failed:
            first = failed.report.failed[0].seed
            raise ProgramFailed(
                f"{failed}\nor, all of seed {first}: {self._again(first)}", failed.report
            ) from None


def _again(report: Report, faults: str) -> str:
    assert report.shrunk is not None
    options = report.shrunk.options
    words = [f"seeds=1, seed={report.shrunk.result.seed}"]
    words += [f"faults={faults!r}"] if faults != "all" else []
    words += [f"machines={options.machines}, nodes={options.nodes}, transactions={options.transactions}"]
    words += [f"data_seed={options.data_seed}"] if options.data_seed is not None else []
    for name, numbers in (
        ("only_faults", options.only_faults),
        ("only_transactions", options.only_transactions),
    ):
        words += [f"{name}={numbers_text(numbers)!r}"] if numbers is not None else []
    return f"check_program(app, {', '.join(words)})"
