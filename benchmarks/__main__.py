"""Runs benchmarks, each measurement in a process of its own, prints a table and keeps the results.

python -m benchmarks [NAME ...] [--quick]

names: counts, state, saves, growth, simulator, which need nothing; rabbitmq, bytes, latency, start, recovery, reshard,
which need Docker. Without names: the first five. `--quick` measures a tenth of everything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks import (
    celery_counts,
    counts,
    growth,
    latency,
    limit,
    rabbitmq,
    recovery,
    reshard,
    saves,
    simulator,
    start,
    state,
)
from benchmarks.measure import RESULTS, Measurement, keep, table
from benchmarks.system import Broker, broker_url
from test.virtual.rabbitmq_server import RabbitServer, have_base_images

ALONE: dict[str, Callable[[str, int], list[Measurement]]] = {
    "counts": counts.measure,
    "state": state.measure,
    "saves": saves.measure,
    "growth": growth.measure,
    "simulator": simulator.measure,
    "start": start.measure,
    "recovery": recovery.measure,
}
OVER_BROKER: dict[str, Callable[[str, int, Broker], list[Measurement]]] = {
    "system counts": rabbitmq.measure_counts,
    "celery counts": celery_counts.measure,
    "system bytes": rabbitmq.measure_bytes,
    "limit": limit.measure,
    "latency": latency.measure,
    "reshard": reshard.measure,
}
BY_THEMSELVES = ("counts", "state", "saves", "growth", "simulator")


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: which one, of which engine, how much. `--quick` divides the size by `divisor`."""

    what: str
    engine: str
    size: int
    divisor: int = 10


NODES = ("1 node", "2 nodes", "4 nodes")
RUNS: dict[str, list[Run]] = {
    "counts": [Run("counts", engine, size) for size in (200_000, 2_000_000) for engine in counts.ENGINES],
    "state": [Run("state", "interpreter", size) for size in (10_000, 100_000, 1_000_000)],
    "saves": [Run("saves", "interpreter", size, divisor=1) for size in (1_000, 100_000, 1_000_000)],
    "growth": [Run("growth", what, size) for what in growth.ROUNDS for size in (1_000, 10_000, 100_000)],
    "simulator": [Run("simulator", "simulated", 3_000)],
    "rabbitmq": [
        *(Run("system counts", nodes, 200_000) for nodes in NODES),
        *(
            Run("celery counts", engine, 5_000 if size == 1 else 200_000)
            for engine, size in celery_counts.ENGINES.items()
        ),
    ],
    "bytes": [
        *(
            Run("limit", f"{engine} {kib}", 256 * 10**6)
            for kib in (64, 256, 1024)
            for engine in limit.ENGINES
        ),
        *(Run("system bytes", nodes, 8_000) for nodes in NODES),
    ],
    "latency": [
        Run("latency", f"{nodes}, {rate}", {"idle": 40, "100/s": 1_000, "1,000/s": 10_000}[rate])
        for nodes in NODES
        for rate in latency.RATES
    ],
    "start": [Run("start", "containers", 3, divisor=1)],
    "recovery": [Run("recovery", case, 24, divisor=6) for case in recovery.CASES],
    "reshard": [Run("reshard", "1 node into 2", size) for size in (100_000, 1_000_000)],
}


def main() -> int:
    """Returns 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *RUNS], help="which ones; what needs no Docker if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--one", nargs=5, metavar=("WHAT", "ENGINE", "SIZE", "URL", "CONTAINER"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps([asdict(m) for m in _measured(*options.one)]))
        return 0
    right = True
    with ExitStack() as stack:
        servers: list[RabbitServer] = []
        for name in options.names or BY_THEMSELVES:
            found: list[Measurement] = []
            for run in RUNS[name]:
                if run.what in OVER_BROKER and not servers:
                    have_base_images()
                    servers.append(stack.enter_context(RabbitServer()))
                found += _in_a_process(run, run.size // run.divisor if options.quick else run.size, servers)
                print(".", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            keep(found)
            right = right and all(m.right for m in found)
            print(table(found) + "\n", flush=True)
    print(f"appended to {RESULTS.relative_to(RESULTS.parents[1])}")
    return 0 if right else 1


def _measured(what: str, engine: str, size: str, url: str, container: str) -> list[Measurement]:
    if what in OVER_BROKER:
        return OVER_BROKER[what](engine, int(size), Broker(url, container))
    return ALONE[what](engine, int(size))


def _in_a_process(run: Run, size: int, servers: Sequence[RabbitServer]) -> list[Measurement]:
    """Memory is measured by process, so every measurement gets a fresh one; and a virtual host of its own."""
    command = [sys.executable, "-m", "benchmarks", "--one", run.what, run.engine, str(size)]
    with ExitStack() as stack:
        if run.what in OVER_BROKER:
            host = stack.enter_context(servers[0].virtual_host("bench"))
            command += [broker_url(host, servers[0].container_id), servers[0].container_id]
        else:
            command += ["", ""]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Measurement(**each) for each in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
