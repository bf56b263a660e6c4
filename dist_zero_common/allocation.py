"""How the C library of a process keeps memory that was freed: for the next buffer, instead of returning it at once.

Batches, envelopes and records are buffers of a megabyte or so that live for milliseconds. By itself glibc asks the
system for each of them anew, and the first touch of each page is a page fault: encoding a message of 1 MiB took ten
times as long as copying it (figures in docs/benchmarks.md). A process that does nothing but move such buffers keeps up
to `KEPT_BYTES` for the next ones. Processes of ours do that; a program that uses this package as a library is left as
it is.

Likewise the collector of cycles: a node with a million rows is some millions of objects that stay, and looking through
all of them stops the process for a second or more, each time that a quarter as many have come. What a node has loaded
is taken out of its sight.
"""

from __future__ import annotations

import ctypes
import gc

KEPT_BYTES = 64 * 2**20
_LARGEST_KEPT = 32 * 2**20  # glibc takes no more
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


_ours = [False]


def keep_freed_memory() -> bool:
    """Reuse what is freed, in this process, from now on. Returns whether the C library can: glibc can."""
    _ours[0] = True
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)]
    return done == [1, 1]


def overlook_what_stays() -> None:
    """Let the collector of cycles look no more at anything that there is now, in processes of ours. What is not
    needed any more is freed all the same, but for cycles that nobody needed at this very moment."""
    if _ours[0]:
        gc.freeze()
