"""How the C library of a process keeps memory that was freed: for the next buffer, instead of returning it at once.

Batches, envelopes and records are buffers of a megabyte or so that live for milliseconds. By itself glibc asks the
system for each of them anew, and the first touch of each page is a page fault: encoding a message of 1 MiB took ten
times as long as copying it (figures in docs/benchmarks.md). A process that does nothing but move such buffers keeps up
to `KEPT_BYTES` for the next ones. Processes of ours do that; a program that uses this package as a library is left as
it is.

Likewise the collector of cycles: a node with a million rows is some millions of objects that stay, and looking through
all of them stops the process for a second or more, each time that a quarter as many have come. What a node has loaded
is taken out of its sight, in processes that are there to host nodes, until a node ends: what that leaves lies in
cycles, and would never be freed. Elsewhere (thousands of simulated systems, one behind the other
in one process) nothing is hidden from the collector.
"""

from __future__ import annotations

import ctypes
import gc

KEPT_BYTES = 64 * 2**20
_LARGEST_KEPT = 32 * 2**20  # glibc takes no more
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


_hosts_nodes, _has_ended = [False], [False]


def keep_freed_memory() -> bool:
    """Reuse what is freed, in this process, from now on. Returns whether the C library can: glibc can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES), mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)]
    return done == [1, 1]


def host_nodes() -> None:
    """This process is there to host nodes: `overlook_what_stays` works in it."""
    _hosts_nodes[0] = True


def overlook_what_stays() -> None:
    """Let the collector of cycles look no more at anything that there is now, in processes that host nodes."""
    if _hosts_nodes[0]:
        if _has_ended[0]:
            _has_ended[0] = False
            gc.collect()
        gc.freeze()


def look_again() -> None:
    """A large state is not needed any more: let the collector look at everything, until `overlook_what_stays`."""
    if _hosts_nodes[0]:
        _has_ended[0] = True
        gc.unfreeze()
