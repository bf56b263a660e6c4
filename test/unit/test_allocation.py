"""Freed memory is kept: the next buffer costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COUNT = """
import resource, sys
from dist_zero_common.allocation import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(7)
def buffers(count):
    for _ in range(count):
        kept = [bytearray(range(256)) * 4096 * 2 for _ in range(8)]
buffers(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
buffers(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of a process that fills 80 buffers of 2 MiB, eight at a time."""
    command = [sys.executable, "-c", _COUNT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 7:
        pytest.skip("the C library of this machine has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    """Without it each buffer is new to the process, page by page; with it hardly any is."""
    assert faults("kept") < faults("returned") / 20
