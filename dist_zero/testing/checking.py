"""`check_program`: what `dist-zero test` does, as a call that a test makes."""

from __future__ import annotations

import asyncio

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
