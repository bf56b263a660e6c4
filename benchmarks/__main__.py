"""Runs benchmarks, each measurement in a process of its own, prints tables and keeps the results.

python -m benchmarks [NAME ...] [--quick] [--engines E,E] [--size N] [--repeat N]

names: W1, W1s, q1, q2, q3, q4, W3, W4, which are run beside others (`make bench-peers` installs them); growth, deploy,
saves, deciding, simulator, which need nothing; rabbitmq, bytes, latency, start, recovery, reshard, which need Docker.
Without names: all that need no Docker. `--quick` measures a tenth of everything. `report` prints what was measured last
as the tables of docs/performance.md.
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
    deciding,
    deploy,
    growth,
    latency,
    limit,
    peers,
    rabbitmq,
    recovery,
    report,
    reshard,
    saves,
    simulator,
    start,
)
from benchmarks.measure import RESULTS, Measurement, keep, table
from benchmarks.system import Broker, broker_url
from benchmarks.workloads import LATENCY, WORKLOADS
from test.virtual.rabbitmq_server import RabbitServer, have_base_images

ALONE: dict[str, Callable[[str, int], list[Measurement]]] = {
    "growth": growth.measure,
    "deploy": deploy.measure,
    "saves": saves.measure,
    "deciding": deciding.measure,
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
BESIDE_PEERS = (*WORKLOADS, LATENCY)
BY_THEMSELVES = ("growth", "deploy", "saves", "deciding", "simulator")


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: which one, of which engine, how much. `--quick` divides the size by `divisor`."""

    what: str
    engine: str
    size: int
    divisor: int = 10


NODES = ("1 node", "2 nodes", "4 nodes")
EXECUTORS = ("native", "interpreter") if peers.has_native_executor() else ("interpreter",)
ROWS_MAX = {"native": 10_000_000, "interpreter": 1_000_000}
"""More would take the interpreter minutes, and memory that not every machine has."""
RUNS: dict[str, list[Run]] = {
    "growth": [
        Run("growth", executor, size)
        for executor in EXECUTORS
        for size in (10_000, 100_000, 1_000_000, 10_000_000)
        if size <= ROWS_MAX[executor]
    ],
    "deploy": [
        Run("deploy", f"{executor}, {kind}", 5, divisor=2)
        for executor in EXECUTORS
        for kind in ("cold", "warm")
    ],
    "saves": [
        Run("saves", executor, size, divisor=1)
        for executor in EXECUTORS
        for size in (1_000, 100_000, 1_000_000)
    ],
    "deciding": [
        Run("deciding", what, size) for what in deciding.ROUNDS for size in (1_000, 10_000, 100_000)
    ],
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
        "names",
        nargs="*",
        choices=[[], *BESIDE_PEERS, *RUNS, "report"],
        help="which ones; what needs no Docker if none is named",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--engines", default=",".join(peers.ENGINES), help="of W1 to W4: which engines, the first for ratios"
    )
    parser.add_argument("--size", type=int, help="of W1 to W4: rows, events, orders or writes to be made")
    parser.add_argument("--repeat", type=int, default=1, help="of W1 to W3: how often; the median counts")
    parser.add_argument(
        "--one", nargs=5, metavar=("WHAT", "ENGINE", "SIZE", "URL", "CONTAINER"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps([asdict(m) for m in _measured(*options.one)]))
        return 0
    if "report" in options.names:
        print(report.tables(RESULTS))
        return 0
    engines = options.engines.split(",")
    if unknown := [name for name in engines if name not in peers.ENGINES]:
        parser.error(f"no engine {', '.join(unknown)}; there are {', '.join(peers.ENGINES)}")
    names = options.names or [*BESIDE_PEERS, *BY_THEMSELVES]
    divisor = 10 if options.quick else 1
    right = True
    for name in (name for name in names if name in BESIDE_PEERS):
        found, unable = peers.measured(name, engines, options.size, divisor, options.repeat)
        keep(found)
        right = right and all(m.right for m in found)
        print(peers.table(found, unable) + "\n", flush=True)
    with ExitStack() as stack:
        servers: list[RabbitServer] = []
        for name in (name for name in names if name in RUNS):
            found = []
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
    if run.what == "deploy":
        command = ["env", f"DIST_ZERO_EXECUTOR={run.engine.partition(',')[0]}", *command]
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
