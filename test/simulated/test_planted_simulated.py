"""Planted bugs are found, each of `planted.py` within its number of seeds, or the table there says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dist_zero.testing import SeedOptions, SeedResult, run_seed
from dist_zero_common.sim.plan import checked_kinds
from test.simulated.planted import PLANTED, set_iteration_in_a_kernel
from test.simulated.property_world import PROGRAMS

QUICK_SEEDS = 10
"""Bugs that are found within so many seeds are looked for by `make test`, the others by `make test-long`."""


def first_failure(name: str, seeds: int) -> SeedResult | None:
    """The first seed that fails with this bug planted."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name].plant(patch)
        for seed in range(seeds):
            result = run_seed(
                PLANTED[name].program, seed, SeedOptions(faults=checked_kinds(PLANTED[name].faults))
            )
            if result.failures:
                return result
    return None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if planted.seeds_max <= QUICK_SEEDS else pytest.mark.long)
        for name, planted in PLANTED.items()
        if not planted.missed
    ],
)
def test_planted_bugs_are_found(name: str) -> None:
    """`dist-zero test` fails for one of the first seeds, with all its faults or those that the table names."""
    planted = PLANTED[name]
    result = first_failure(name, planted.seeds_max)
    assert result is not None, f"{name} was not found in {planted.seeds_max} seeds"
    assert result.failures[0].check in planted.checks, result.failures[0]


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, planted in PLANTED.items() if planted.missed])
def test_planted_bugs_that_are_not_found_are_said_to_be(name: str) -> None:
    """What the table says is missed is, in few seeds: when this fails, the table has to change."""
    assert first_failure(name, 20) is None, f"{name} is found now; the table says: {PLANTED[name].missed}"


@pytest.mark.parametrize("seed", range(6))
def test_without_a_bug_the_same_seeds_hold(seed: int) -> None:
    """Or the others would prove nothing."""
    assert run_seed(PROGRAMS[3], seed, SeedOptions()).failures == ()


SET_ORDER = """
import pytest
from dist_zero.testing import SeedOptions, run_seed
from test.simulated.planted import set_iteration_in_a_kernel
from test.simulated.property_world import PROGRAMS
with pytest.MonkeyPatch.context() as patch:
    set_iteration_in_a_kernel(patch)
    print([run_seed(PROGRAMS[3], seed, SeedOptions(transactions=18, faults=())).history for seed in range(4)])
"""


def test_iteration_over_a_set_shows_in_the_history() -> None:
    """A kernel that walks over a set of texts lives through other histories under another PYTHONHASHSEED."""
    assert set_iteration_in_a_kernel is not None
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", SET_ORDER],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3", "4")
    }
    assert len(said) > 1
