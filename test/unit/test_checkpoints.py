"""Checkpoints: what is written is read back along the links, whatever the store answers and whoever dies; what is
damaged is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from dist_zero import types as t
from dist_zero.batch import Batch
from dist_zero_common.errors import CheckpointsDiffer, InternalError, LogDamaged
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.codec import SEAL_SIZE, decode, encode
from dist_zero_common.protocol.stored import (
    CheckpointId,
    CheckpointManifest,
    CheckpointPart,
    TableBlob,
)
from dist_zero_common.sim.faults import Delay, StoreFaults, drawn_store_faults
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    checkpoint_name,
    checkpoint_of_name,
    checkpoint_part_name,
    copy_name,
    node_checkpoints_prefix,
)
from dist_zero_common.store.memory import MemoryObjects
from services.node_runner.checkpoints import (
    LINKS_MAX,
    PART_BYTES,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from test.unit.saved_states import (
    LOG,
    Crash,
    MortalStore,
    restored,
    saved,
    simulated,
    small_parts,
    state_at,
    write,
)

FIRST, SECOND, THIRD = CheckpointId("n1", 9, 0), CheckpointId("n1", 20, 0), CheckpointId("n1", 31, 1)
CHAIN = [saved(FIRST, None, 1), saved(SECOND, FIRST, 2), saved(THIRD, SECOND, 3)]


def stored() -> MemoryObjects:
    """A store with a chain of three checkpoints, each in several parts."""
    objects = MemoryObjects()
    with small_parts():
        simulated(lambda store: write(store, *CHAIN), objects)
    return objects


def read(objects: MemoryObjects, which: CheckpointId = THIRD, fingerprint: str = "plan") -> list[Checkpoint]:
    return simulated(lambda store: read_checkpoint(store, "p", which, fingerprint, LOG), objects)


def test_names_sort_by_epoch_and_say_what_they_are_of() -> None:
    """One prefix lists a node's checkpoints in the order of epochs, each manifest before its parts; names of other
    things are taken for none."""
    ids = [CheckpointId("n", epoch, generation) for epoch in (2, 9, 10, 10**15) for generation in (0, 11)]
    names = [
        name for which in ids for name in (checkpoint_name("p", which), checkpoint_part_name("p", which, 7))
    ]
    assert names == sorted(names)
    assert [checkpoint_of_name("p", name) for name in names] == [
        (which, is_manifest) for which in ids for is_manifest in (True, False)
    ]
    assert all(name.startswith(node_checkpoints_prefix("p", "n")) for name in names)
    for other in ("programs/p/log/00000000000000000001", names[0] + "x", names[0].replace("/p/", "/q/")):
        assert checkpoint_of_name("p", other) is None


def test_a_chain_is_read_back_from_everything_to_the_newest() -> None:
    """Over generations and parts the content is what was saved, and it adds up to the state."""
    objects = stored()
    assert len(objects.names) > 6
    chain = read(objects)
    assert [(c.which, c.previous, c.links) for c in chain] == [(c.which, c.previous, c.links) for c in CHAIN]
    assert restored(chain) == state_at("n1", 31)
    assert restored(read(objects, SECOND)) == state_at("n1", 20)
    assert restored(read(objects, FIRST)) == state_at("n1", 9)


def test_a_small_checkpoint_is_one_object() -> None:
    """So is one with nothing in it."""
    objects = MemoryObjects()
    empty = Checkpoint("p", CheckpointId("n1", 40, 1), "plan", THIRD, 4, ())
    simulated(lambda store: write(store, *CHAIN, empty), objects)
    assert objects.names == [checkpoint_name("p", c.which) for c in (*CHAIN, empty)]
    assert read(objects, empty.which)[3] == empty
    assert restored(read(objects, empty.which)) == state_at("n1", 31)


def test_a_large_checkpoint_is_cut_by_rows() -> None:
    """Of more than thirty megabytes no part is larger than it may be and none is small; every row comes back once, in
    order; a row that is larger than a part is a part of its own."""
    rows = [(i, "x" * 1000) for i in range(20_000)]
    rows[7_000] = (7_000, "y" * (PART_BYTES + 5_000_000))
    batch = Batch.from_rows((t.INT, t.STR), rows)
    which = CheckpointId("n1", 5, 0)
    checkpoint = Checkpoint("p", which, "plan", None, 1, (TableBlob("big", batch.to_blob(), None),))
    objects = MemoryObjects()
    written = simulated(lambda store: write_checkpoint(store, checkpoint, LOG), objects)
    assert written.objects == len(objects.names) == 5 and written.entries == 20_000
    sizes = sorted(len(objects.data[name]) for name in objects.names)
    assert sizes[0] < 1000 and sizes[-1] > PART_BYTES + 5_000_000 and sizes[-2] < 1.01 * PART_BYTES
    (back,) = read(objects, which)
    assert [row for part in back.tables for row in Batch.from_blob(batch.types, part.puts).rows()] == rows  # type: ignore[arg-type]


@pytest.mark.parametrize("faults", [StoreFaults(fails_stored=0.6), StoreFaults(fails_absent=0.6)])
def test_what_the_store_answers_is_not_believed(faults: StoreFaults) -> None:
    """A store that says it failed, whether it stored or not, holds the checkpoint in the end, equal to one that never
    failed; each failure is in the log with its reason."""
    objects = MemoryObjects()
    with small_parts(), captured_events() as events:
        simulated(lambda store: write(store, *CHAIN), objects, faults)
    assert objects.data == stored().data
    failures = [str(event["reason"]) for event in events if event["event"] == "store_failed"]
    assert failures and all("did not answer in time" in reason for reason in failures)


def test_incarnations_that_write_at_the_same_time_do_no_harm() -> None:
    """Two that save the same at once, over a slow and lying store, leave what one leaves."""
    objects = MemoryObjects()

    async def main(store: Store) -> None:
        await asyncio.gather(*(write(store, *CHAIN) for _ in range(3)))

    with small_parts():
        faults = StoreFaults(Delay(1.0, 0.3, 20.0), fails_stored=0.3, fails_absent=0.2)
        simulated(main, objects, faults)
    assert objects.data == stored().data


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_any_two_steps_does_no_harm(after: bool) -> None:
    """Wherever a writer dies, the checkpoint before is readable, there is the new one or none, and the next incarnation
    writes the rest, so that nothing is different in the end."""
    finished = 0
    for dies_at in range(1, 100):
        objects = MemoryObjects()

        async def main(store: Store, dies_at: int = dies_at) -> bool:
            await write(store, CHAIN[0])
            mortal = MortalStore(store, dies_at, after=after)
            with suppress(Crash):
                await write(mortal, *CHAIN[1:])
            assert restored(await read_checkpoint(store, "p", FIRST, "plan", LOG)) == state_at("n1", 9)
            for which in (SECOND, THIRD):
                if await store.read(checkpoint_name("p", which)) is not None:
                    assert restored(await read_checkpoint(store, "p", which, "plan", LOG)) == state_at(
                        "n1", which.epoch
                    )
            await write(store, *CHAIN)
            return mortal.dead

        with small_parts():
            finished += not simulated(main, objects)
        assert objects.data == stored().data
        if finished:
            assert dies_at > 8
            return
    raise AssertionError("it never came to the end")


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


def test_damage_of_any_kind_in_any_object_is_found_and_named() -> None:
    """A bit that flipped anywhere, an object cut short anywhere, another one in its place, none at all: reading says
    which object it is, and never returns a state. (That no bit is overlooked behind a seal: `test_codec.py`.)"""
    whole = stored()
    for name in whole.names:
        data = whole.data[name]
        damaged = [flipped(data, place) for place in (*range(SEAL_SIZE), *range(SEAL_SIZE, len(data), 61))]
        damaged += [data[:length] for length in range(0, len(data), 97)]
        damaged += [data + b"\0" * 8, *(whole.data[other] for other in whole.names if other != name)]
        for bad in damaged:
            if bad == data:
                continue
            objects = stored_as(whole, name, bad)
            with pytest.raises(LogDamaged, match=f"{name} "):
                read(objects)
        with pytest.raises(LogDamaged, match=f"{name} is missing.*bring it back"):
            read(stored_as(whole, name, None))


def stored_as(whole: MemoryObjects, name: str, data: bytes | None) -> MemoryObjects:
    """The same objects but for one, which has other bytes or is not there."""
    objects = MemoryObjects()
    for other in whole.names:
        if other != name:
            objects.create(other, whole.data[other])
        elif data is not None:
            objects.create(other, data)
    return objects


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"program": "q"}, "says that it is of n1 at epoch 20 in generation 0, program 'q'"),
        ({"node": "n2"}, "says that it is of n2"),
        ({"generation": 3}, "in generation 3"),
        ({"epoch": 21}, "at epoch 21"),
        ({"fingerprint": "other"}, r"another plan \(other instead of plan\)"),
        ({"links": 4}, "stands behind 3 others instead of 1"),
        ({"links": 1}, "the last of 1, which cannot be"),
        ({"links": 0}, "the last of 0"),
        ({"links": LINKS_MAX + 1}, "the last of 65"),
        ({"whole": True}, "the last of 2, which cannot be"),
        ({"previous_epoch": 20}, "says that it follows epoch 20"),
        ({"size_bytes": 5}, "has not the 5 bytes"),
        ({"entries": 5000}, "has not the 5000 rows"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(change: dict[str, object], reason: str) -> None:
    """Stamps are compared with the name, the plan, the checkpoint behind and the content, though the checksum fits."""
    objects, name = stored(), checkpoint_name("p", SECOND)
    manifest = decode(CheckpointManifest, objects.data[name])
    objects.data[name] = encode(replace(manifest, **change))  # type: ignore[arg-type]
    with pytest.raises(LogDamaged, match=f"{name} .*{reason}"):
        read(objects)


def test_parts_of_two_writers_are_not_mixed() -> None:
    """A part that is whole in itself and not the one that the manifest names is refused."""
    objects, name = stored(), checkpoint_part_name("p", SECOND, 0)
    part = decode(CheckpointPart, objects.data[name])
    objects.data[name] = encode(replace(part, tables=part.tables[:-1]))
    with pytest.raises(LogDamaged, match=f"{name} .*not the one that its manifest names"):
        read(objects)


@pytest.mark.parametrize("which", [0, 1])
def test_incarnations_that_differ_are_told_and_both_contents_are_kept(which: int) -> None:
    """The object that was there stays, the other content is set aside, the error names both; manifest or part."""
    objects = stored()
    before = dict(objects.data)
    other = replace(CHAIN[which], tables=CHAIN[2].tables)
    with small_parts(), pytest.raises(CheckpointsDiffer, match="two incarnations differ") as raised:
        simulated(lambda store: write(store, other), objects)
    (kept,) = objects.list("aside/p.n1/")
    assert kept in str(raised.value)
    assert {name: data for name, data in objects.data.items() if name != kept} == before
    assert decode(CheckpointPart, objects.data[kept]).epoch == CHAIN[which].which.epoch
    with small_parts(), pytest.raises(CheckpointsDiffer):  # a manifest; again and again
        simulated(lambda store: write(store, replace(CHAIN[2], fingerprint="other")), objects)
    assert len(objects.list("aside/")) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: flipped(data, 60), lambda data: b""])
def test_a_writer_that_finds_damage_writes_beside_it(damage: Callable[[bytes], bytes]) -> None:
    """A torn object in the place of a checkpoint is not another incarnation's: it stays, its copy is read instead, and
    who writes the same once more leaves both alone."""
    for name in stored().names:
        objects = stored()
        torn = objects.data[name] = damage(objects.data[name])
        for _ in range(2):
            with small_parts():
                simulated(lambda store: write(store, *CHAIN), objects)
            assert objects.data == {**stored().data, name: torn, copy_name(name, 1): stored().data[name]}
            assert restored(read(objects)) == state_at("n1", 31)
        assert checkpoint_of_name("p", copy_name(name, 1)) == checkpoint_of_name("p", name)


def test_a_store_that_tears_everything_is_told() -> None:
    """When all copies are damaged, the error says so and names the object; nobody goes on for ever."""
    objects = MemoryObjects()
    with (
        small_parts(),
        pytest.raises(LogDamaged, match=r"000000 in the store is damaged .* and so are 4 copies"),
    ):
        simulated(lambda store: write(store, *CHAIN), objects, StoreFaults(torn=1.0))
    assert len(objects.names) == 5


def test_a_copy_that_differs_is_told_too() -> None:
    """Copies are compared as the object itself is."""
    objects, name = stored(), checkpoint_name("p", THIRD)
    objects.create(
        copy_name(name, 1), encode(replace(decode(CheckpointManifest, objects.data[name]), fingerprint="x"))
    )
    objects.data[name] = b""
    with small_parts(), pytest.raises(CheckpointsDiffer, match=copy_name(name, 1)):
        simulated(lambda store: write(store, *CHAIN), objects)
    with pytest.raises(LogDamaged, match="another plan"):
        read(objects)


@pytest.mark.parametrize("seed", range(20))
def test_checkpoints_outlive_a_bad_day_of_the_store_simulated(seed: int) -> None:
    """Whatever a store does of what it may do and some of what it may not (slow, failing, out for a while, torn
    objects), checkpoints are written and read back in the end."""
    objects = MemoryObjects()

    async def main(store: Store) -> None:
        for _ in range(10):
            await asyncio.gather(write(store, *CHAIN), write(store, *CHAIN))
            assert restored(await read_checkpoint(store, "p", THIRD, "plan", LOG)) == state_at("n1", 31)
            await asyncio.sleep(7)
            for name in list(objects.names):
                objects.delete(name)

    with small_parts():
        simulated(main, objects, drawn_store_faults(random.Random(seed), torn=True))


def test_what_could_not_be_read_again_is_not_written() -> None:
    """Links that do not add up are our bug, found before anything is in the store."""
    objects = MemoryObjects()
    for wrong in (
        replace(CHAIN[0], links=2),
        replace(CHAIN[1], links=1),
        replace(CHAIN[1], links=LINKS_MAX + 1),
        replace(CHAIN[1], previous=replace(FIRST, node="n2")),
        replace(CHAIN[1], previous=SECOND),
    ):
        with pytest.raises(InternalError):
            simulated(lambda store, wrong=wrong: write(store, wrong), objects)  # type: ignore[misc]
    assert not objects.names
