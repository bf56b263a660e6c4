"""What has to be kept in the store, seen from outside: it finds what is missing, and damages what can be spared."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dist_zero.shards import even_map
from dist_zero.testing.kept import damage, kept_wrong, newest_kept
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.stored import Base, CheckpointId, CheckpointManifest
from dist_zero_common.store.layout import base_name, checkpoint_name, copy_name, damaged_name, record_name
from dist_zero_common.store.memory import MemoryObjects
from test.unit.test_epoch_log import record

BASE = Base(0, 0, 5, even_map(1, ["n1"]), b"graph")


def checkpoint(objects: MemoryObjects, epoch: int, previous: int = 0) -> CheckpointId:
    """A checkpoint of the only node, with what changed since another one, or with everything."""
    manifest = CheckpointManifest("p", "n1", 1, epoch, "f", previous == 0, 1, previous, 1, 0, 0, (), ())
    which = CheckpointId("n1", epoch, 1)
    objects.create(checkpoint_name("p", which), encode(manifest))
    return which


def store() -> MemoryObjects:
    """Bases at epochs 2, 4 and 6: the checkpoint of 6 goes on from that of 4, that of 4 is whole. The log goes to 7."""
    objects = MemoryObjects()
    for epoch, previous in ((2, 0), (4, 0), (6, 4)):
        saved = (checkpoint(objects, epoch, previous),)
        objects.create(
            base_name("p", epoch, 1), encode(replace(BASE, generation=1, epoch=epoch, checkpoints=saved))
        )
    for epoch in range(5, 8):
        objects.create(record_name("p", epoch), encode(record(epoch)))
    return objects


def test_the_two_newest_bases_are_found_with_all_they_need() -> None:
    """One that is marked counts as little as those of its epoch that it may be a copy of."""
    objects = store()
    newest, older = newest_kept(objects, "p")
    assert newest is not None and older is not None
    assert (newest.epoch, older.epoch) == (6, 4) and not kept_wrong(objects, "p")
    assert newest.objects == (
        base_name("p", 6, 1),
        checkpoint_name("p", CheckpointId("n1", 6, 1)),
        checkpoint_name("p", CheckpointId("n1", 4, 1)),
    )
    objects.create(damaged_name("p", 6, 2), b"torn")
    newest, older = newest_kept(objects, "p")
    assert newest is not None and older is not None and (newest.epoch, older.epoch) == (4, 2)
    assert newest_kept(MemoryObjects(), "p") == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        base_name("p", 4, 1),
        checkpoint_name("p", CheckpointId("n1", 4, 1)),
        checkpoint_name("p", CheckpointId("n1", 6, 1)),
        record_name("p", 5),
    ],
)
def test_whatever_is_missing_or_damaged_is_named(name: str) -> None:
    """Of the newest base and of the one before it; a copy beside a damaged object is as good."""
    objects = store()
    whole = objects.data[name]
    if "log" not in name:
        objects.data[name] = whole[:-1]
        assert any(name in wrong for wrong in kept_wrong(objects, "p"))
    if "checkpoints" in name:
        objects.create(copy_name(name, 1), whole)
        assert kept_wrong(objects, "p") == []
        objects.delete(copy_name(name, 1))
    objects.delete(name)
    # Without its base, an epoch is none to begin at, and the one before it is.
    expected = record_name("p", 3) if name == base_name("p", 4, 1) else name
    assert any(expected in wrong for wrong in kept_wrong(objects, "p"))


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_only_what_can_be_spared_is_damaged(how: str) -> None:
    """What the older base needs, too, never is; and where the older one is not whole, or something is damaged already,
    nothing is."""
    hit = set()
    for seed in range(30):
        objects = store()
        before = dict(objects.data)
        name = damage(objects, "p", how, random.Random(seed))
        hit.add(name)
        changed = [each for each in before if objects.data.get(each) != before[each]]
        assert changed == [name]
        newest, older = newest_kept(objects, "p")
        assert newest is not None and older is not None
        assert (older.epoch, older.wrong) == (4, ()) or (newest.epoch, newest.wrong) == (4, ())
        if how != "gone" or "base" not in name:
            assert damage(objects, "p", how, random.Random(seed)) == ""
    assert hit == {base_name("p", 6, 1), checkpoint_name("p", CheckpointId("n1", 6, 1))}
    objects = store()
    objects.delete(record_name("p", 6))
    assert damage(objects, "p", how, random.Random(1)) == ""
