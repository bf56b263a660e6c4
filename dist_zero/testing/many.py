"""Many seeds at once: a pool of processes over them, with the results in the order of the seeds.

What comes out is a function of the program, the options and the seeds, and not of how many processes there are. The
workers are forked, so that a program that lives in a test or a notebook need not be importable.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from dist_zero.program import Program
from dist_zero.testing.running import SeedOptions, SeedResult, run_seed
from dist_zero_common.log import ROOT

AHEAD_PER_PROCESS = 3
"""So many seeds are given out before the oldest of them is done."""


@dataclass(slots=True)
class Totals:
    """What many seeds add up to."""

    seeds: int = 0
    transactions: int = 0
    epochs: int = 0
    messages: int = 0
    simulated_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def add(self, result: SeedResult) -> None:
        """One more seed."""
        self.seeds += 1
        self.transactions += result.transactions
        self.epochs += result.epochs
        self.messages += result.messages
        self.simulated_seconds += result.simulated_seconds
        self.faults.update(result.faults)
        self.events.update(result.events)


def processes_for(seeds: int, jobs: int) -> int:
    """How many processes run so many seeds: `jobs`, or one per core that this process may use if that is 0."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = jobs or cores
    return max(1, min(wanted, seeds)) if "fork" in multiprocessing.get_all_start_methods() else 1


def run_seeds(
    program: Program, seeds: Sequence[int], options: SeedOptions, jobs: int = 0
) -> Iterator[SeedResult]:
    """The results of the seeds, in their order, each as soon as it and those before it are there."""
    processes = processes_for(len(seeds), jobs)
    if processes == 1:
        for seed in seeds:
            yield run_seed(program, seed, options)
        return
    fork = multiprocessing.get_context("fork")
    waiting: deque[Future[SeedResult]] = deque()
    pool = ProcessPoolExecutor(processes, fork, initializer=_begin, initargs=(program, options))
    try:
        for seed in seeds:
            waiting.append(pool.submit(_run, seed))
            if len(waiting) >= processes * AHEAD_PER_PROCESS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        with suppress(Exception):
            pool.shutdown(wait=True, cancel_futures=True)


_work: tuple[Program, SeedOptions]
"""In a worker: what it runs."""


def _begin(program: Program, options: SeedOptions) -> None:
    global _work
    _work = program, options
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends us
    log = logging.getLogger(ROOT)
    log.handlers = [logging.NullHandler()]  # the parent's files are the parent's
    log.propagate = False
    log.setLevel(logging.INFO)


def _run(seed: int) -> SeedResult:
    program, options = _work
    return run_seed(program, seed, options)
