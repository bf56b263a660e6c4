"""What a run writes: the beginning of the program's sample, or rows made up from its row types, and changes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from dist_zero.client.writes import Transaction, sampled_transaction
from dist_zero.compiler.plan import Plan
from dist_zero.generated import Generator
from dist_zero.program import Program

SAMPLE_ROWS = 200
"""Rows of each dataset that are taken from a sample."""
SAMPLE_TRANSACTIONS = 1_000
"""Transactions of a sample that are looked at for them."""


def input_of(program: Program, plan: Plan, data_seed: int, count: int) -> list[Transaction]:
    """At most so many transactions. A third of them are random changes of what is there, unless the program has a
    sample and invariants: random changes would break what the sample keeps to."""
    generator = Generator(plan, random.Random(data_seed))
    random_changes = not (program.has_sample and program.invariants)
    wanted = count - count // 3 if random_changes else count
    if program.has_sample:
        transactions = list(islice(_sampled(program, plan, data_seed, generator), wanted))
    else:
        transactions = list(generator.transactions(wanted))
    if random_changes:
        transactions += generator.changes(count - len(transactions))
    return transactions


def writers_of(program: Program) -> int:
    """How many write at a time. What a sample does in some order commits in that order if the program has invariants,
    which may count on it."""
    return 1 if program.has_sample and program.invariants else 3


def _sampled(program: Program, plan: Plan, data_seed: int, generator: Generator) -> Iterator[Transaction]:
    """The sample, cut down to some rows of every dataset: the oracle looks at all of them at every epoch. Programs with
    invariants get whole transactions."""
    left = {dataset.name: SAMPLE_ROWS for dataset in plan.datasets}
    sample = (pairs for pairs in program.generate(data_seed) if not isinstance(pairs, str))
    for pairs in islice(sample, SAMPLE_TRANSACTIONS):
        kept = []
        for dataset, what in pairs:
            if left[dataset] > 0 or program.invariants:
                left[dataset] -= 1
                kept.append((dataset, what))
                if isinstance(what, tuple):
                    generator.notice(dataset, what)
        if kept:
            yield sampled_transaction(plan, kept)
        if not any(count > 0 for count in left.values()):
            return
