"""Native code under AddressSanitizer and UndefinedBehaviorSanitizer, in a process of its own.

The C compiler is set as anyone may set it, to one with the sanitizers' flags; the cache of libraries is another one.
Python itself is not instrumented: the sanitizers are loaded in front of it, and it takes its memory from them, so that
the bytes of Python that C reads are watched as well. The first finding ends the process with a report.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dist_zero.native import build
from dist_zero_common.errors import NativeUnavailable
from dist_zero_common.settings import Settings, child_environment

FLAGS = ("-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_TREE = Path(__file__).parent.parent


@cache
def unavailable() -> str | None:
    """Why nothing can be run under sanitizers here; None if it can."""
    try:
        return None if len(_runtimes()) == 2 else "the C compiler comes without the sanitizers' libraries"
    except NativeUnavailable as problem:
        return str(problem)


def sanitized(
    arguments: Sequence[str], cache: Path, seconds_max: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; what it prints, and what a sanitizer reports, is one text."""
    compiler = build.find_compiler(Settings()).command
    asan = "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1:allocator_may_return_null=1"
    environment = child_environment(
        {
            "CC": " ".join((*compiler, *FLAGS)),
            "DIST_ZERO_NATIVE_CACHE": str(cache),
            "LD_PRELOAD": " ".join(_runtimes()),
            "ASAN_OPTIONS": asan,  # Python does not give back everything when it ends
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(_TREE),
        }
    )
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=_TREE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds_max,
        check=False,
    )


@cache
def _runtimes() -> tuple[str, ...]:
    """The libraries that have to be there before Python is."""
    command = build.find_compiler(Settings()).command
    found = []
    for name in ("libasan.so", "libubsan.so"):
        asked = subprocess.run(
            [*command, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
        path = Path(asked.stdout.strip())
        if path.is_absolute() and path.exists():
            found.append(str(path))
    return tuple(found)
