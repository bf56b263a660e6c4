"""The native executor against the interpreter: random programs with random histories, everything that both say.

`Twins` runs both side by side and compares; the harnesses are those of the interpreter itself. `make test` tries the
same programs each time, `make test-long` others.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero.compiler import compile
from dist_zero.compiler.check import JOINS
from dist_zero.native.build import available
from dist_zero.shards import even_map
from test.contract.executors import ExecutorHarness
from test.contract.test_executor_state import check_reshards, check_resumes
from test.oracle.harness import Running
from test.oracle.random_programs import Case, cases, join_cases
from test.oracle.test_oracle_changes import Change, changes
from test.oracle.test_oracle_changes import check as check_change
from test.oracle.test_oracle_programs import SAME_EACH_TIME, SEARCH, SEEDS
from test.oracle.twins import Twins

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

TWINS = ExecutorHarness("twins", Twins)


def check_pipelined(case: Case, seed: int, count: int) -> None:
    """Any number of nodes takes steps in any order, stage 1 ahead of the others."""
    plan = compile(case.graph)
    running = Running(plan, case.epochs, even_map(1, [f"n{i}" for i in range(count)]), random.Random(seed))
    running.nodes = [Twins(plan) for _ in range(count)]  # type: ignore[misc]
    while running.advance():
        pass
    running.check_places()


def check_kept(case: Case, seed: int) -> Counter[str]:
    """Saved, loaded, divided and joined."""
    reached = check_resumes(TWINS, case, seed, 1)
    reached.update(check_resumes(TWINS, case, seed, 3))
    reached.update(check_reshards(TWINS, case, seed))
    return reached


@settings(SAME_EACH_TIME, max_examples=14)
@given(cases(), SEEDS)
def test_differential_native_steps(case: Case, seed: int) -> None:
    """On 1, 2 and 3 nodes."""
    for count in (1, 2, 3):
        check_pipelined(case, seed, count)


@settings(SAME_EACH_TIME, max_examples=14)
@given(cases(), SEEDS)
def test_differential_native_state(case: Case, seed: int) -> None:
    """What they save, and what they are when they have loaded it."""
    check_kept(case, seed)


@pytest.mark.long
@settings(SEARCH, max_examples=1_000)
@given(cases(operations_max=9), SEEDS)
def test_differential_native_long(case: Case, seed: int) -> None:
    """Larger programs, and others each time."""
    check_pipelined(case, seed, 1 + seed % 4)
    check_kept(case, seed)


@settings(SAME_EACH_TIME, max_examples=3)
@given(changes())
def test_differential_native_changes(change: Change) -> None:
    """Programs that change: rows pass gates slice by slice, and one plan's state is loaded by another."""
    check_change(change, Counter(), Twins)


@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "conditioned"])
@pytest.mark.parametrize("how", JOINS)
def test_differential_native_joins(how: str, conditioned: bool) -> None:
    """Every kind of join."""

    @settings(SAME_EACH_TIME, max_examples=3)
    @given(join_cases(how, conditioned), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check_pipelined(case, seed, 1 + seed % 3)
        check_kept(case, seed)

    programs()


@pytest.mark.long
@settings(SEARCH, max_examples=300)
@given(st.sampled_from(JOINS), st.booleans(), st.data(), SEEDS)
def test_differential_native_joins_long(how: str, conditioned: bool, data: st.DataObject, seed: int) -> None:
    """More of them, and others each time."""
    case = data.draw(join_cases(how, conditioned))
    check_pipelined(case, seed, 1 + seed % 3)
    check_kept(case, seed)
