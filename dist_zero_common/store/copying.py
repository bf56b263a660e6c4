"""Copying what one store holds to another, of whatever kind, while nobody uses either.

A copy of a store that is in use might hold a base without the records behind it, or states of epochs whose records it
lacks: whoever went on from there would contradict it. So a store that changes meanwhile is an error. Objects never
change, so that copying again adds what is new and takes away what is gone.

Two histories must not be mixed: who goes on from the copy and from the original has two systems, and a copy into the
store of the other one would be neither. So an object of the target that is there must be what it is in the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from dist_zero_common.errors import OperatorError
from dist_zero_common.store.base import Store

_AT_ONCE = 16
_PROBES = "probe/"
"""What services create when they start, to look whether the store keeps its promises, belongs to no history."""

Tell = Callable[[int, int], None]
"""Hears how many objects of how many have been gone through."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How much a copy holds, and what of it was not there before."""

    objects: int
    new_objects: int
    new_bytes: int


async def copy_store(source: Store, target: Store, tell: Tell = lambda _done, _of: None) -> Copied:
    """Make the target what the source is. Raises `OperatorError` when the target holds something else than a copy of
    this source, or the source is in use; `StoreError` when either fails. Doing it again does the rest."""
    names, before = await _list(source), await _list(target)
    shared = frozenset(before).intersection(names)
    if before and not shared:
        raise _other_history(before[0], "which the source does not hold, and nothing else that it holds")
    sizes: list[int] = []
    for first in range(0, len(names), _AT_ONCE):
        some = names[first : first + _AT_ONCE]
        sizes += await asyncio.gather(*(_copy(source, target, name, name in shared) for name in some))
        tell(first + len(some), len(names))
    if await _list(source) != names:
        raise OperatorError(
            "the source changes while it is copied: end the system that uses it, and copy again"
        )
    for name in before:
        if name not in shared:
            await target.delete(name)
    return Copied(len(names), len(names) - len(shared), sum(sizes))


async def _copy(source: Store, target: Store, name: str, there: bool) -> int:
    """Copy an object, or look whether it is the same; returns how many bytes that added."""
    data = await source.read(name)
    if data is None:
        return 0  # the source is in use, which is noticed by its list
    if not there:
        await target.create(name, data)
    elif await target.read(name) != data:
        raise _other_history(name, "which is another one in the source")
    return 0 if there else len(data)


def _other_history(name: str, what: str) -> OperatorError:
    return OperatorError(
        f"the target holds {name}, {what}: it is of another system, or one has gone on from this copy. Two histories"
        " must not be mixed: copy to an empty place"
    )


async def _list(store: Store) -> list[str]:
    return [name for name in await store.list("") if not name.startswith(_PROBES)]
