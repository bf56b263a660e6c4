"""The native executor against the interpreter: random programs with random histories, everything that both say.

`Twins` runs both side by side and compares; the harnesses are those of the interpreter itself. `make test` tries the same
programs each time, `make test-long` others.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, reject, settings

from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.native.build import available
from dist_zero.native.render import render
from dist_zero.shards import even_map
from dist_zero_common.errors import NativeUnavailable
from test.contract.executors import ExecutorHarness
from test.contract.test_executor_state import check_reshards, check_resumes
from test.oracle.harness import Running
from test.oracle.random_programs import Case, cases
from test.oracle.test_oracle_programs import SAME_EACH_TIME, SEARCH, SEEDS
from test.oracle.twins import Twins

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

TWINS = ExecutorHarness("twins", Twins)


def rendered(case: Case) -> Plan:
    """The plan of a case that has a C form."""
    plan = compile(case.graph)
    try:
        render(plan)
    except NativeUnavailable:
        reject()
    return plan


def check_pipelined(case: Case, seed: int, count: int) -> None:
    """Any number of nodes takes steps in any order, stage 1 ahead of the others."""
    plan = rendered(case)
    running = Running(plan, case.epochs, even_map(1, [f"n{i}" for i in range(count)]), random.Random(seed))
    running.nodes = [Twins(plan) for _ in range(count)]  # type: ignore[misc]
    while running.advance():
        pass
    running.check_places()


def check_kept(case: Case, seed: int) -> Counter[str]:
    """Saved, loaded, divided and joined."""
    rendered(case)
    reached = check_resumes(TWINS, case, seed, 1)
    reached.update(check_resumes(TWINS, case, seed, 3))
    reached.update(check_reshards(TWINS, case, seed))
    return reached


@settings(SAME_EACH_TIME, max_examples=40)
@given(cases(), SEEDS)
def test_differential_native_steps(case: Case, seed: int) -> None:
    """On 1, 2 and 3 nodes."""
    for count in (1, 2, 3):
        check_pipelined(case, seed, count)


@settings(SAME_EACH_TIME, max_examples=40)
@given(cases(), SEEDS)
def test_differential_native_state(case: Case, seed: int) -> None:
    """What they save, and what they are when they have loaded it."""
    check_kept(case, seed)


@pytest.mark.long
@SEARCH
@given(cases(operations_max=9), SEEDS)
def test_differential_native_long(case: Case, seed: int) -> None:
    """Larger programs, and others each time."""
    check_pipelined(case, seed, 1 + seed % 4)
    check_kept(case, seed)
