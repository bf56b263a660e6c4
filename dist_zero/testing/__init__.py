"""Running programs under faults that are drawn from seeds: `dist-zero test`, and the same from pytest."""

from dist_zero.testing.checks import Failure, log_of, recomputed_differences, writes_of
from dist_zero.testing.running import SeedOptions, SeedResult, run_seed

__all__ = [
    "Failure",
    "SeedOptions",
    "SeedResult",
    "log_of",
    "recomputed_differences",
    "run_seed",
    "writes_of",
]
