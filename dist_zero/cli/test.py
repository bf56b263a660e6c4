"""`dist-zero test`: many seeds, one line each time something is wrong, and how to run that again."""

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
from dist_zero.testing import SeedOptions, SeedResult, run_seed

FAILURES_SHOWN = 5


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
    as_json: bool
    program: str | None


def test_program(program: Program, options: TestOptions) -> bool:
    """Run the seeds up to the first that fails, and print what came out. Returns whether all held."""
    console = console_for(stderr=True)
    seed_options = SeedOptions(options.nodes, options.machines, options.data_seed, options.transactions)
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
    results: list[SeedResult] = []
    started = time.perf_counter()
    with progress:
        task = progress.add_task("seeds", total=options.seeds)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            results.append(run_seed(program, seed, seed_options))
            progress.advance(task)
            progress.refresh()
            if results[-1].failures:
                break
    _print(program, options, results, time.perf_counter() - started)
    return not results[-1].failures


test_program.__test__ = False  # type: ignore[attr-defined]


def again(options: TestOptions, seed: int) -> str:
    """The command that runs one seed again."""
    words = ["dist-zero", "test", str(options.file), "--seeds", "1", "--seed", str(seed)]
    words += ["--nodes", str(options.nodes), "--machines", str(options.machines)]
    words += ["--transactions", str(options.transactions)]
    if options.data_seed is not None:
        words += ["--data-seed", str(options.data_seed)]
    if options.program is not None:
        words += ["--program", options.program]
    return shlex.join(words)


def _print(program: Program, options: TestOptions, results: list[SeedResult], seconds: float) -> None:
    last = results[-1]
    totals = {
        "seeds": len(results),
        "transactions": sum(result.transactions for result in results),
        "epochs": sum(result.epochs for result in results),
        "messages": sum(result.messages for result in results),
        "seeds_per_minute": round(60 * len(results) / seconds, 1),
    }
    if options.as_json:
        failed: dict[str, Any] | None = None
        if last.failures:
            failed = {**asdict(last), "again": again(options, last.seed)}
        json.dump({"program": program.name, **totals, "failed": failed}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    console = console_for()
    if last.failures:
        console.print(Text(f"seed {last.seed} failed", "bold red"))
        for line in last.failures[:FAILURES_SHOWN]:
            console.print(Text(f"  {line}"))
        if len(last.failures) > FAILURES_SHOWN:
            console.print(Text(f"  … {len(last.failures) - FAILURES_SHOWN:,} more", "dim"))
        console.print(Text(f"run it again: {again(options, last.seed)}"))
    else:
        console.print(
            Text("every view at every epoch equals its recomputation; every commit is there once", "green")
        )
    console.print(
        Text(
            f"{totals['seeds']:,} seeds · {totals['transactions']:,} transactions · {totals['epochs']:,} epochs ·"
            f" {totals['messages']:,} messages · {totals['seeds_per_minute']:,} seeds a minute",
            "dim",
        )
    )
