"""A pure function of one immutable object, computed once for each of the newest few objects.

By identity, not by equality: what it is meant for, plans and graphs, is small to hold and long to hash.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")

_KEPT = 4


def remembered(function: Callable[[A], R]) -> Callable[[A], R]:
    """The function, which remembers the newest few arguments with what came out. That must not be changed by anybody.
    Errors are not remembered."""
    known: dict[int, tuple[A, R]] = {}
    changing = threading.Lock()  # plans are compiled in threads, too

    @functools.wraps(function)
    def remembering(argument: A) -> R:
        # The argument is kept beside the result, so no other object can have its identity meanwhile.
        found = known.get(id(argument))
        if found is not None:
            return found[1]
        result = function(argument)
        with changing:
            known[id(argument)] = argument, result
            if len(known) > _KEPT:
                del known[next(iter(known))]
        return result

    return remembering
