"""What of a program's objects nobody will read again, and taking it out of the store.

Whoever starts, starts from the newest base, or from the one before it if the newest is damaged. So the two are kept
with every checkpoint that they reach along the links, and the records behind the older one. The rest goes:

- bases before the older one, and records up to it;
- checkpoints up to the newest base that neither base reaches. Nothing that is still to come needs them, for a
  checkpoint follows the one that its node saved last, and at the newest base every node has saved;
- parts without a manifest, left by a writer that died, when they are from before the older base.

Whatever is of an epoch behind the newest base may be being written and stays, as does what is of a later generation
than that base: it started over at a base, perhaps the older one, and its checkpoints belong to bases to come. By this
rule a sequencer that was deposed and does not know it yet, and so believes an older base to be the newest, takes
nothing from its successor.

Deleting is done in such an order that a crash in between leaves nothing that looks whole and is not: bases first, so
that nobody starts from one whose log is going; a manifest before its parts. Doing it again does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass

from dist_zero_common.errors import InternalError
from dist_zero_common.log import Logger
from dist_zero_common.protocol.stored import (
    CheckpointId,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    bases_prefix,
    checkpoint_of_name,
    checkpoints_prefix,
    generation_and_epoch_of,
    number_of,
    records_prefix,
)
from services.node_runner.checkpoints import read_previous

Links = Mapping[CheckpointId, CheckpointId | None]
"""Of checkpoints, the one that each needs; None for those that have everything."""

_DELETES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class BaseReach:
    """A base, and the checkpoint of each node that it names."""

    epoch: int
    generation: int
    checkpoints: tuple[CheckpointId, ...]


async def collect(
    store: Store,
    program: str,
    newest: BaseReach,
    older: BaseReach | None,
    links: MutableMapping[CheckpointId, CheckpointId | None],
    log: Logger,
) -> int:
    """Delete what neither base reaches; returns how many objects that were. While there is one base alone (`older` is
    None), everything is kept.

    `links` is what the caller knows of manifests: what is missing there is read and added, what is gone is taken out.
    Raises `StoreError`; the next call does the rest. Nothing is deleted if a manifest that a base reaches
    is missing or damaged (`LogDamaged`), for then it is not known what is still needed.
    """
    if older is None:
        return 0
    while missing := unknown_links((older, newest), links):
        for which in missing:
            links[which] = await read_previous(store, program, which, log)
    names = [
        name
        for prefix in (bases_prefix(program), records_prefix(program), checkpoints_prefix(program))
        for name in await store.list(prefix)
    ]
    unwanted = unreached(program, names, newest, older, links)
    for group in unwanted:
        for start in range(0, len(group), _DELETES_AT_ONCE):
            await _delete(store, group[start : start + _DELETES_AT_ONCE])
    needed = reached((older, newest), links)
    for which in [which for which in links if which.epoch <= newest.epoch and which not in needed]:
        del links[which]
    count = sum(map(len, unwanted))
    if count:
        log.info("collected", program=program, objects=count, base=newest.epoch, older=older.epoch)
    return count


async def _delete(store: Store, names: list[str]) -> None:
    """Delete these at once; whatever becomes of one, the others are tried."""
    outcomes = await asyncio.gather(*map(store.delete, names), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def unknown_links(bases: Iterable[BaseReach], links: Links) -> list[CheckpointId]:
    """The checkpoints whose manifests must be looked into before it is known what the bases reach."""
    unknown: dict[CheckpointId, None] = {}
    for base in bases:
        for which in base.checkpoints:
            following: CheckpointId | None = which
            while following is not None and following in links:
                following = links[following]
            if following is not None:
                unknown[following] = None
    return list(unknown)


def reached(bases: Iterable[BaseReach], links: Links) -> dict[CheckpointId, None]:
    """The checkpoints that the bases need, directly or along the links, all of which must be known."""
    needed: dict[CheckpointId, None] = {}
    for base in bases:
        for which in base.checkpoints:
            following: CheckpointId | None = which
            while following is not None and following not in needed:
                needed[following] = None
                if following not in links:
                    raise InternalError(f"what the checkpoint of {following} follows is not known")
                following = links[following]
    return needed


def unreached(
    program: str, names: Iterable[str], newest: BaseReach, older: BaseReach, links: Links
) -> list[list[str]]:
    """Those of a program's objects that can be deleted, in groups, one of which is to be gone before the next."""
    bases: list[str] = []
    records: list[str] = []
    manifests: list[str] = []
    parts: list[str] = []
    needed = reached((older, newest), links)
    names = list(names)
    whole = {found[0]: None for name in names if (found := checkpoint_of_name(program, name)) and found[1]}
    for name in names:
        if name.startswith(bases_prefix(program)):
            if generation_and_epoch_of(name)[1] < older.epoch:
                bases.append(name)
        elif name.startswith(records_prefix(program)):
            if number_of(name) <= older.epoch:
                records.append(name)
        elif found := checkpoint_of_name(program, name):
            which, is_manifest = found
            limit = newest.epoch if which in whole else older.epoch - 1
            if which not in needed and which.epoch <= limit and which.generation <= newest.generation:
                (manifests if is_manifest else parts).append(name)
    return [bases, records, manifests, parts]
