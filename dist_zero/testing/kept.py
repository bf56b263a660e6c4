"""What of a program is kept in the store and can be begun at, looked at from outside and in one moment.

Whatever happens, somebody may have to begin at the newest base, or at the one before it when that is damaged. So
both have to be whole, with all that they reach, at any time: the checkpoints along their links and the records behind
them. That is I4's *nothing collected that a base still reaches*, and it is also what has to be known before something
is damaged on purpose: a system can do without its newest base, and not without both.

This is other code than what writes, reads and collects (`services/node_runner/`), on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from dist_zero_common.errors import MalformedMessage
from dist_zero_common.protocol.codec import decode
from dist_zero_common.protocol.stored import (
    Base,
    CheckpointId,
    CheckpointManifest,
    CheckpointPart,
)
from dist_zero_common.store.layout import (
    base_name,
    bases_prefix,
    checkpoint_name,
    checkpoint_part_name,
    copy_name,
    damaged_prefix,
    generation_and_epoch_of,
    number_of,
    record_name,
    records_prefix,
    unusable,
)
from dist_zero_common.store.memory import MemoryObjects

T = TypeVar("T")

COPIES = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """A base: the names of the objects that whoever begins there reads, records apart, and what is wrong with it."""

    generation: int
    epoch: int
    objects: tuple[str, ...]
    wrong: tuple[str, ...]


def newest_kept(objects: MemoryObjects, program: str) -> tuple[Kept | None, Kept | None]:
    """The newest base that is not marked as damaged, and the newest of those of earlier epochs; None for what is not
    there."""
    marks = objects.list(damaged_prefix(program))
    listed = sorted(map(generation_and_epoch_of, objects.list(bases_prefix(program))))
    usable = [each for each in listed if not unusable(program, marks, *each)]
    if not usable:
        return None, None
    newest = usable[-1]
    older = [each for each in usable if each[1] < newest[1]]
    return _kept(objects, program, *newest), _kept(objects, program, *older[-1]) if older else None


def kept_wrong(objects: MemoryObjects, program: str) -> list[str]:
    """What of that which has to be kept is missing or damaged."""
    return [
        f"the base of epoch {base.epoch} in generation {base.generation} needs {wrong}"
        for base in newest_kept(objects, program)
        if base is not None
        for wrong in base.wrong
    ]


def damage(objects: MemoryObjects, program: str, how: str, rng: random.Random) -> str:
    """Damage an object that the newest base needs, and the one before it does not: `flipped`, `cut` or `gone`. Returns
    its name; empty if that would be more than a system can do without."""
    newest, older = newest_kept(objects, program)
    if newest is None or older is None or newest.wrong or older.wrong:
        return ""
    name = rng.choice([name for name in newest.objects if name not in older.objects])
    data = objects.data[name]
    if how == "gone":
        objects.delete(name)
        return name
    place = rng.randrange(len(data))
    flipped = bytes([data[place] ^ (1 << rng.randrange(8))])
    objects.data[name] = data[:place] if how == "cut" else data[:place] + flipped + data[place + 1 :]
    return name


def _kept(objects: MemoryObjects, program: str, generation: int, epoch: int) -> Kept:
    name = base_name(program, epoch, generation)
    base = _read(objects, Base, name)
    if base is None:
        return Kept(generation, epoch, (), (f"{name}, which is damaged",))
    names, wrong = [name], []
    for checkpoint in base.checkpoints:
        for found, is_there in _chain(objects, program, checkpoint):
            if is_there:
                names.append(found)
            else:
                wrong.append(f"{found}, which is missing or damaged")
    newest = max(map(number_of, objects.list(records_prefix(program))), default=epoch)
    for number in range(epoch + 1, newest + 1):
        if record_name(program, number) not in objects.data:
            wrong.append(f"{record_name(program, number)}, which is missing")
    return Kept(generation, epoch, tuple(dict.fromkeys(names)), tuple(wrong))


def _chain(objects: MemoryObjects, program: str, which: CheckpointId) -> Iterator[tuple[str, bool]]:
    """Each object of a checkpoint and of those that it follows, and whether it is whole."""
    while True:
        name, manifest = _whole(objects, CheckpointManifest, checkpoint_name(program, which))
        yield name, manifest is not None
        if manifest is None:
            return
        for index in range(len(manifest.pieces)):
            part, content = _whole(objects, CheckpointPart, checkpoint_part_name(program, which, index))
            yield part, content is not None
        if manifest.whole:
            return
        which = CheckpointId(manifest.node, manifest.previous_epoch, manifest.previous_generation)


def _whole(objects: MemoryObjects, kind: type[T], name: str) -> tuple[str, T | None]:
    """The first of an object and its copies that is whole, and its name."""
    for copy in range(COPIES):
        found = _read(objects, kind, copy_name(name, copy))
        if found is not None:
            return copy_name(name, copy), found
    return name, None


def _read(objects: MemoryObjects, kind: type[T], name: str) -> T | None:
    data = objects.data.get(name)
    if data is None:
        return None
    try:
        return decode(kind, data)
    except MalformedMessage:
        return None
