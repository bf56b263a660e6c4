"""Runs benchmarks, each measurement in a process of its own, prints a table and keeps the results.

python -m benchmarks [NAME ...] [--quick]      names: counts, state, simulator
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from benchmarks import counts, simulator, state
from benchmarks.measure import RESULTS, Measurement, keep, table

MODULES: dict[str, Callable[[str, int], list[Measurement]]] = {
    "counts": counts.measure,
    "state": state.measure,
    "simulator": simulator.measure,
}

#: name -> (engine, size) of each run; `--quick` divides sizes by ten.
RUNS: dict[str, list[tuple[str, int]]] = {
    "counts": [(engine, size) for size in (200_000, 2_000_000) for engine in counts.ENGINES],
    "state": [("interpreter", size) for size in (10_000, 100_000, 1_000_000)],
    "simulator": [("simulated", 3_000)],
}


def main() -> int:
    """Returns 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *RUNS], help="which ones; all if none is named")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "ENGINE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, engine, size = options.one
        print(json.dumps([asdict(m) for m in MODULES[name](engine, int(size))]))
        return 0
    right = True
    for name in options.names or RUNS:
        found: list[Measurement] = []
        for engine, size in RUNS[name]:
            found += _in_a_process(name, engine, size // 10 if options.quick else size)
        keep(found)
        right = right and all(m.right for m in found)
        print(table(found) + "\n")
    print(f"appended to {RESULTS.relative_to(RESULTS.parents[1])}")
    return 0 if right else 1


def _in_a_process(name: str, engine: str, size: int) -> list[Measurement]:
    """Memory is measured by process, so every measurement gets a fresh one."""
    command = [sys.executable, "-m", "benchmarks", "--one", name, engine, str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Measurement(**each) for each in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
