"""The garbage collector, while many objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """While many objects are made, all of which stay, the garbage collector looks at all of them again and again, which
    is most of the cost. Not for what takes long, or waits."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
