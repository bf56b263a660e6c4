"""Start to first row: `dist-zero run examples/leaderboard.py --mode virtual`, by the clock of whoever types it.

The images are there; broker, network, machines, scheduler and the program are started for it, and `run` itself says
when the first row was committed, counted from the start of its process. The whole command, with the interpreter's own
start and with taking everything down, is in the note.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from benchmarks.measure import RESULTS, Measurement, peak_rss_mb

APP = RESULTS.parents[1] / "examples/leaderboard.py"
_SAID = re.compile(r"([\d,]+) rows in .* first row after ([\d.]+) s")


def measure(engine: str, machines: int) -> list[Measurement]:
    """On so many machines."""
    with TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "dist_zero.cli", "run", str(APP), "--system", "bench-start"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--mode", "virtual", "--machines", str(machines)],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
    said = _SAID.search(done.stdout)
    if said is None:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    rows, first = int(said[1].replace(",", "")), float(said[2])
    note = f"first row after {first:.1f} s; the whole command {seconds:.1f} s"
    figures = {"first_row_seconds": first, "command_seconds": seconds}
    return [
        Measurement(
            f"start on {machines} machines", engine, rows, first, 0.0, peak_rss_mb(), True, note, figures
        )
    ]
