"""Running programs under faults that are drawn from seeds: `dist-zero test`, and the same from pytest."""

from dist_zero.testing.checking import Checker, ProgramFailed, check_program, check_program_async
from dist_zero.testing.checks import Failure, log_alone, log_of, recomputed_differences, writes_of
from dist_zero.testing.running import SeedOptions, SeedResult, run_seed
from dist_zero.testing.under_test import SystemUnderTest

__all__ = [
    "Checker",
    "Failure",
    "ProgramFailed",
    "SeedOptions",
    "SeedResult",
    "SystemUnderTest",
    "check_program",
    "check_program_async",
    "log_alone",
    "log_of",
    "recomputed_differences",
    "run_seed",
    "writes_of",
]
