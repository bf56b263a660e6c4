"""Running many seeds to an end, and saying what came of it: the totals, the failures, the story of the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dist_zero.program import Program
from dist_zero.testing.events import RECOVERIES
from dist_zero.testing.many import Totals, processes_for, run_seeds
from dist_zero.testing.running import SeedOptions, SeedResult, run_recorded
from dist_zero.testing.shrinking import Shrunk, shrink
from dist_zero.testing.story import story_of
from dist_zero_common.errors import SettingsError

FAILURES_MAX = 10
"""When so many seeds have failed, the search is over."""
FAILURES_SHOWN = 5


@dataclass(slots=True)
class Report:
    """What many seeds showed. `failed` are those that did, in order; `shrunk` and `story` are of the first of them."""

    program: str
    options: SeedOptions
    processes: int
    invariants: int = 0
    """How many the program has."""
    totals: Totals = field(default_factory=Totals)
    failed: list[SeedResult] = field(default_factory=list)
    shrunk: Shrunk | None = None
    story: list[str] = field(default_factory=list)


def report_on(
    program: Program,
    seeds: range,
    options: SeedOptions,
    *,
    jobs: int = 0,
    failures_max: int = FAILURES_MAX,
    on_result: Callable[[SeedResult], None] = lambda _: None,
) -> Report:
    """Run the seeds, up to the last or to one too many that fails, and look into the first failure."""
    report = Report(program.name, options, processes_for(len(seeds), jobs), len(program.invariants))
    for result in run_seeds(program, seeds, options, jobs):
        report.totals.add(result)
        on_result(result)
        if result.failures:
            report.failed.append(result)
            if len(report.failed) >= failures_max:
                break
    if report.failed:
        first = report.failed[0]
        report.shrunk = shrink(program, options, first)
        report.story = story_of(run_recorded(program, first.seed, report.shrunk.options))
    return report


def failure_lines(report: Report) -> Iterator[str]:
    """One line for each seed that failed, then the first of them in full."""
    for result in report.failed:
        more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
        yield f"seed {result.seed} failed: {result.failures[0]}{more}"
    shrunk = report.shrunk
    if shrunk is None:
        return
    seed, options = shrunk.result.seed, shrunk.options
    plan, drawn = options.plan(seed), report.options.plan(seed)
    count = options.transactions if options.only_transactions is None else len(options.only_transactions)
    yield ""
    yield (
        f"seed {seed} still fails with {len(plan.faults)} of its {len(drawn.faults)} faults and {count} of its"
        f" {report.options.transactions} transactions (found in {shrunk.runs} runs):"
    )
    yield from (f"  {fault}" for fault in plan.faults)
    for failure in shrunk.result.failures[:FAILURES_SHOWN]:
        yield f"  {failure}"
    if len(shrunk.result.failures) > FAILURES_SHOWN:
        yield f"  … {len(shrunk.result.failures) - FAILURES_SHOWN:,} more"
    yield "what happened:"
    yield from (f"  {line}" for line in report.story)


def counted(counts: dict[str, int]) -> str:
    """Counts with their names, those of 0 too, in one line."""
    return " · ".join(f"{name} {count:,}" for name, count in counts.items())


def faults_applied(report: Report) -> dict[str, int]:
    """How often each kind of fault that was asked for was applied, by kind."""
    counts = dict.fromkeys(report.options.faults, 0)
    for name, count in report.totals.faults.items():
        counts[name.partition(" ")[0]] += count
    return counts


def recoveries(report: Report) -> dict[str, int]:
    """How often each way of recovering was gone."""
    return {name: report.totals.events[event] for name, event in RECOVERIES.items()}


def numbers_text(numbers: tuple[int, ...]) -> str:
    """Numbers that grow as text with ranges: `0-3,7`; `none` for none."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts) or "none"


def numbers_of(text: str) -> tuple[int, ...]:
    """What `numbers_text` made a text of. Raises `SettingsError`."""
    numbers: list[int] = []
    for part in text.split(",") if text != "none" else ():
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise SettingsError(f"{text!r} is no list of numbers such as 0-3,7")
        numbers += range(int(first), int(last if dash else first) + 1)
    return tuple(sorted({*numbers}))
