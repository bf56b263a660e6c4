"""Running programs under faults that are drawn from seeds: `dist-zero test`, and the same from pytest."""

from dist_zero.testing.checking import ProgramFailed, check_program, check_program_async
from dist_zero.testing.checks import Failure, log_alone, log_of, recomputed_differences, writes_of
from dist_zero.testing.running import SeedOptions, SeedResult, run_seed

__all__ = [
    "Failure",
    "ProgramFailed",
    "SeedOptions",
    "SeedResult",
    "check_program",
    "check_program_async",
    "log_alone",
    "log_of",
    "recomputed_differences",
    "run_seed",
    "writes_of",
]
