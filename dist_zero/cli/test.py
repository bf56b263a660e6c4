"""`dist-zero test`: many seeds, one line for each that fails, the story of the first, and how to run that again."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dist_zero.cli.render import console_for
from dist_zero.program import Program
from dist_zero.testing.report import (
    Report,
    counted,
    failure_lines,
    faults_applied,
    numbers_of,
    numbers_text,
    recoveries,
    report_on,
)
from dist_zero.testing.running import SeedOptions, SeedResult
from dist_zero_common.sim.plan import checked_kinds


@dataclass(frozen=True, slots=True)
class TestOptions:
    """What `dist-zero test` was asked for; see its help."""

    __test__ = False  # nothing for pytest

    file: Path
    seeds: int
    first_seed: int
    nodes: int
    machines: int
    data_seed: int | None
    transactions: int
    faults: str
    jobs: int
    only_faults: str | None
    only_transactions: str | None
    as_json: bool
    program: str | None

    def of_seeds(self) -> SeedOptions:
        """What each seed is run with. Raises `SettingsError`."""
        return SeedOptions(
            nodes=self.nodes,
            machines=self.machines,
            data_seed=self.data_seed,
            transactions=self.transactions,
            faults=checked_kinds(self.faults),
            only_faults=None if self.only_faults is None else numbers_of(self.only_faults),
            only_transactions=None if self.only_transactions is None else numbers_of(self.only_transactions),
        )


def test_program(program: Program, options: TestOptions) -> bool:
    """Run the seeds, and print what came out. Returns whether all held."""
    console = console_for(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    started = time.perf_counter()
    took = 0.0
    with progress:
        task = progress.add_task("seeds", total=options.seeds)

        def on_result(_result: SeedResult) -> None:
            nonlocal took
            took = time.perf_counter() - started
            progress.advance(task)
            progress.refresh()

        report = report_on(program, seeds, options.of_seeds(), jobs=options.jobs, on_result=on_result)
    if options.as_json:
        json.dump(_as_json(report, options, took), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        _print(report, options, took)
    return not report.failed


test_program.__test__ = False  # type: ignore[attr-defined]


def again(options: TestOptions, seed: int, shrunk: SeedOptions) -> str:
    """The command that runs one seed again, cut down."""
    words = ["dist-zero", "test", str(options.file), "--seeds", "1", "--seed", str(seed)]
    words += ["--nodes", str(options.nodes), "--machines", str(options.machines)]
    words += ["--transactions", str(options.transactions)]
    if options.faults != "all":
        words += ["--faults", options.faults]
    if options.data_seed is not None:
        words += ["--data-seed", str(options.data_seed)]
    if options.program is not None:
        words += ["--program", options.program]
    if shrunk.only_faults is not None:
        words += ["--only-faults", numbers_text(shrunk.only_faults)]
    if shrunk.only_transactions is not None:
        words += ["--only-transactions", numbers_text(shrunk.only_transactions)]
    return shlex.join(words)


def _print(report: Report, options: TestOptions, seconds: float) -> None:
    console = console_for()
    for line in failure_lines(report):
        console.print(Text(line, "bold red" if line.startswith("seed ") else ""), soft_wrap=True)
    if report.shrunk is not None:
        command = again(options, report.shrunk.result.seed, report.shrunk.options)
        console.print(Text(f"run it again: {command}"), soft_wrap=True)
    else:
        laws = "every view at every epoch equals its recomputation; every commit is there once"
        console.print(Text(laws + ("; all invariants hold" if report.invariants else ""), "green"))
    for line in _summary(report, seconds):
        console.print(Text(line, "dim"), soft_wrap=True)


def _summary(report: Report, seconds: float) -> list[str]:
    totals = report.totals
    pace = f"{60 * totals.seeds / seconds:,.0f} seeds a minute" if seconds else ""
    speed = f"{totals.simulated_seconds / seconds:,.0f} simulated seconds in one" if seconds else ""
    processes = f"{report.processes} process{'es' if report.processes > 1 else ''}"
    return [
        f"{totals.seeds:,} seeds · {totals.transactions:,} transactions · {totals.epochs:,} epochs ·"
        f" {totals.messages:,} messages · {pace} · {speed} · {processes}",
        f"faults: {counted(faults_applied(report)) or 'none'}",
        f"recovery: {counted(recoveries(report))}",
    ]


def _as_json(report: Report, options: TestOptions, seconds: float) -> dict[str, Any]:
    totals = report.totals
    shrunk = report.shrunk
    first: dict[str, Any] | None = None
    if shrunk is not None:
        seed = shrunk.result.seed
        first = {
            **_failed(shrunk.result),
            "faults": [asdict(fault) for fault in shrunk.options.plan(seed).faults],
            "story": report.story,
            "again": again(options, seed, shrunk.options),
        }
    return {
        "program": report.program,
        "seeds": totals.seeds,
        "transactions": totals.transactions,
        "epochs": totals.epochs,
        "messages": totals.messages,
        "simulated_seconds": round(totals.simulated_seconds, 3),
        "seeds_per_minute": round(60 * totals.seeds / seconds, 1) if seconds else 0.0,
        "processes": report.processes,
        "faults": faults_applied(report),
        "recovery": recoveries(report),
        "failed": [_failed(result) for result in report.failed],
        "first": first,
    }


def _failed(result: SeedResult) -> dict[str, Any]:
    failures = [{"check": failure.check, "text": failure.text} for failure in result.failures]
    return {"seed": result.seed, "failures": failures, "history": result.history}
