"""Cutting a failure down to few faults and few transactions that still fail, by running it again without some of them.

Delta debugging (Zeller and Hildebrandt, 2002): leave out ever smaller pieces of the list, and keep what still fails. A
smaller run counts if it breaks the same law, not if it says the same words, which name epochs and rows. Everything is
deterministic, and the number of runs is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dist_zero.program import Program
from dist_zero.testing.running import SeedOptions, SeedResult, run_seed

RUNS_MAX = 120
"""So many runs are spent on one failure."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A failure after cutting: the options that bring it up, its result, and how many runs that took."""

    options: SeedOptions
    result: SeedResult
    runs: int


def shrink(program: Program, options: SeedOptions, failed: SeedResult, runs_max: int = RUNS_MAX) -> Shrunk:
    """The fewest faults, then the fewest transactions, with which the seed still fails in the same way."""
    search = _Search(program, failed, options, runs_max)
    faults = options.only_faults
    if faults is None:
        faults = tuple(range(len(options.plan(failed.seed).faults)))
    search.reduce(faults, lambda known, kept: replace(known, only_faults=kept))
    transactions = options.only_transactions
    if transactions is None:
        transactions = tuple(range(options.transactions))
    search.reduce(transactions, lambda known, kept: replace(known, only_transactions=kept))
    return Shrunk(search.options, search.result, search.runs)


class _Search:
    """The smallest failure so far."""

    def __init__(self, program: Program, failed: SeedResult, options: SeedOptions, runs_max: int) -> None:
        self.options, self.result, self.runs = options, failed, 0
        self._program, self._runs_max = program, runs_max
        self._check = failed.failures[0].check

    def reduce(
        self, items: Sequence[int], with_only: Callable[[SeedOptions, tuple[int, ...]], SeedOptions]
    ) -> None:
        """Cut `items` down; `with_only` makes options of which items are kept."""
        kept = tuple(items)
        if kept and self._fails(with_only(self.options, ())):
            return
        pieces = 2
        while len(kept) > 1 and self.runs < self._runs_max:
            smaller = self._smaller(kept, pieces, with_only)
            if smaller is not None:
                kept, pieces = smaller, max(2, pieces - 1)
            elif pieces < len(kept):
                pieces = min(len(kept), 2 * pieces)
            else:
                return

    def _smaller(
        self,
        kept: tuple[int, ...],
        pieces: int,
        with_only: Callable[[SeedOptions, tuple[int, ...]], SeedOptions],
    ) -> tuple[int, ...] | None:
        """`kept` without one of so many pieces, such that it still fails; the later pieces are tried first, because
        what comes after the harm does not matter."""
        bounds = [len(kept) * number // pieces for number in range(pieces + 1)]
        for first, last in reversed(list(pairwise(bounds))):
            rest = kept[:first] + kept[last:]
            if self.runs < self._runs_max and self._fails(with_only(self.options, rest)):
                return rest
        return None

    def _fails(self, options: SeedOptions) -> bool:
        self.runs += 1
        result = run_seed(self._program, self.result.seed, options)
        if self._check not in [failure.check for failure in result.failures]:
            return False
        self.options, self.result = options, result
        return True
