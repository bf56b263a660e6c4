"""Collection: what the two newest bases reach stays readable whatever happens, everything else goes in the end."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from dist_zero_common.errors import LogDamaged
from dist_zero_common.protocol.stored import (
    CheckpointId,
)
from dist_zero_common.sim.faults import Delay, StoreFaults
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import (
    base_name,
    checkpoint_name,
    checkpoint_of_name,
    checkpoint_part_name,
    checkpoints_prefix,
    record_name,
)
from dist_zero_common.store.memory import MemoryObjects
from services.node_runner.checkpoints import read_checkpoint
from services.node_runner.collection import BaseReach, collect, reached, unknown_links, unreached
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

NODES = ("n1", "n2", "n3")
WEATHER = StoreFaults(Delay(0.05, 0.1, 20.0), fails_stored=0.05, fails_absent=0.05)
Links = dict[CheckpointId, CheckpointId | None]


def which(epoch: int, generation: int = 0, node: str = "n1") -> CheckpointId:
    return CheckpointId(node, epoch, generation)


# ---- the rules, one by one


def names_of(*checkpoints: CheckpointId, parts: int = 0) -> list[str]:
    return [
        name
        for c in checkpoints
        for name in (
            checkpoint_name("p", c),
            *(checkpoint_part_name("p", c, index) for index in range(parts)),
        )
    ]


LINKS: Links = {which(2): None, which(4): which(2), which(6): which(4), which(8): None}
OLDER, NEWEST = BaseReach(6, 0, (which(6),)), BaseReach(8, 0, (which(8),))


def gone(*names: str, older: BaseReach = OLDER, newest: BaseReach = NEWEST) -> list[str]:
    return [name for group in unreached("p", names, newest, older, LINKS) for name in group]


def test_what_a_base_reaches_along_the_links_stays() -> None:
    """All of it, with its parts, and what is not reached goes, its manifest first."""
    assert gone(*names_of(*LINKS, parts=2)) == []
    other = names_of(which(3), which(7), which(8, node="n2"), parts=1)
    assert gone(*names_of(*LINKS), *other) == [*other[::2], *other[1::2]]


def test_what_may_still_be_written_stays() -> None:
    """Whatever is behind the newest base, or of a later generation; parts without manifest from the older base on."""
    assert gone(*names_of(which(9), which(5, 1), which(2, 1), parts=1)) == []
    assert gone(*(checkpoint_part_name("p", c, 0) for c in (which(7), which(9), which(8, node="n2")))) == []
    part = checkpoint_part_name("p", which(5, node="n2"), 3)
    assert gone(part) == [part]


def test_two_bases_and_the_records_behind_the_older_one_stay() -> None:
    """Bases before that and records up to it go, the bases first."""
    bases, records = [base_name("p", e) for e in (0, 5, 6, 8)], [record_name("p", e) for e in range(1, 10)]
    assert gone(*records, *bases) == [*bases[:2], *records[:6]]
    assert gone("programs/p/other/1", "programs/q/log/00000000000000000001") == []


def test_nothing_is_read_that_is_known() -> None:
    """The manifests to be looked into are those of the bases that are not known, then those that they lead to."""
    assert unknown_links((OLDER, NEWEST), LINKS) == []
    assert unknown_links((OLDER, NEWEST), {}) == [which(6), which(8)]
    assert unknown_links((OLDER, NEWEST), {which(6): which(4), which(8): None}) == [which(4)]
    assert list(reached((OLDER, NEWEST), LINKS)) == [which(6), which(4), which(2), which(8)]


def test_with_one_base_everything_is_kept() -> None:
    """There is nothing to fall back to yet."""
    objects = MemoryObjects()
    for name in (record_name("p", 1), base_name("p", 1), *names_of(which(1))):
        objects.create(name, b"x")
    newest = BaseReach(8, 0, ())
    assert simulated(lambda store: collect(store, "p", newest, None, {}, LOG), objects) == 0
    assert len(objects.names) == 3


def test_nothing_is_collected_while_it_is_unknown_what_is_needed() -> None:
    """A base whose checkpoint is damaged or missing could reach anything."""
    for data in (b"rubbish", None):
        objects = MemoryObjects()
        objects.create(record_name("p", 1), b"x")
        if data is not None:
            objects.create(checkpoint_name("p", which(6)), data)
        with pytest.raises(LogDamaged, match=checkpoint_name("p", which(6))):
            simulated(lambda store: collect(store, "p", NEWEST, OLDER, {which(8): None}, LOG), objects)
        assert objects.list(record_name("p", 1))


# ---- all together, in random histories


@dataclass
class Life:
    """One generation of a program's nodes: what each has saved, what it has yet to save. Its saves follow from the
    log, so any incarnation of a node makes the same ones."""

    generation: int
    start: BaseReach
    done: dict[str, list[tuple[CheckpointId, CheckpointId | None, int]]] = field(default_factory=dict)
    to_save: dict[str, list[int]] = field(default_factory=dict)

    def next_save(
        self, node: str, links: dict[CheckpointId, int]
    ) -> tuple[CheckpointId, CheckpointId | None, int]:
        """What the node saves next: everything now and then, and when there are too many links."""
        epoch = self.to_save[node][0]
        done = self.done[node]
        last = done[-1][0] if done else next((c for c in self.start.checkpoints if c.node == node), None)
        if last is None or links[last] == 4 or epoch % 7 == 0:
            return CheckpointId(node, epoch, self.generation), None, 1
        return CheckpointId(node, epoch, self.generation), last, links[last] + 1


class Story:
    """A program's saves, crashes, rewinds, zombies and collections, drawn from a seed."""

    def __init__(self, seed: int, store: Store, objects: MemoryObjects) -> None:
        self.rng, self.store, self.objects = random.Random(seed), store, objects
        self.epoch, self.generation = 0, 0
        self.bases = [BaseReach(0, 0, ())]  # those that can be read; the two last ones count
        self.newest_ever = 0
        self.old_pairs: list[tuple[BaseReach, BaseReach]] = []
        self.links: dict[CheckpointId, int] = {}  # how many, of each checkpoint ever thought of
        self.known: Links = {}  # what the sequencer knows
        self.all_links: Links = {}
        self.seen: dict[str, int] = {}
        objects.create(base_name("p", 0), b"base")
        self.lives = [self._begun(self.bases[0])]

    def _begun(self, start: BaseReach) -> Life:
        epochs = [e for e in self.save_epochs() if e > start.epoch]
        return Life(
            self.generation, start, {node: [] for node in NODES}, {node: list(epochs) for node in NODES}
        )

    def save_epochs(self) -> list[int]:
        return [epoch for epoch in range(1, self.epoch + 1) if epoch % 3 == 0]

    def mark(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def mortal(self, chance: float) -> Store:
        if self.rng.random() >= chance:
            return self.store
        return MortalStore(self.store, self.rng.randrange(1, 9), after=self.rng.random() < 0.5)

    # what may happen

    def write_log(self) -> None:
        for _ in range(self.rng.randrange(1, 7)):
            self.epoch += 1
            self.objects.create(record_name("p", self.epoch), b"record")
            if self.epoch in self.save_epochs():
                for life in self.lives[-2:]:  # the last zombie has still heard of it
                    for node in NODES:
                        life.to_save[node].append(self.epoch)

    async def save(self, life: Life, crash: float = 0.3) -> None:
        """Some node saves what it has to, or dies on the way, and then another incarnation does it again."""
        node = self.rng.choice(NODES)
        if not life.to_save[node]:
            return
        save = life.next_save(node, self.links)
        try:
            await write(self.mortal(crash), saved(*save))
        except Crash:
            self.mark("died saving")
            return
        life.to_save[node].pop(0)
        life.done[node].append(save)
        self.links[save[0]] = save[2]
        self.all_links[save[0]] = save[1]
        if life is self.lives[-1] and self.rng.random() < 0.5:
            self.known[save[0]] = save[1]  # it has told the sequencer

    async def save_again(self) -> None:
        """An incarnation that was thought to be dead writes once more what others have saved, or begins to."""
        done = self.lives[-1].done[self.rng.choice(NODES)]
        if done:
            with suppress(Crash):
                await write(self.mortal(0.5), saved(*self.rng.choice(done)))

    def write_base(self) -> None:
        life = self.lives[-1]
        common = [
            c.epoch
            for c, _, _ in life.done[NODES[0]]
            if all(any(d.epoch == c.epoch for d, _, _ in life.done[node]) for node in NODES)
        ]
        epoch = max(common, default=0)
        if epoch <= self.newest_ever:
            return
        reach = tuple(CheckpointId(node, epoch, life.generation) for node in NODES)
        self.objects.create(base_name("p", epoch), b"base")
        self.newest_ever = epoch
        self.old_pairs.append((self.bases[-1], BaseReach(epoch, life.generation, reach)))
        self.bases.append(self.old_pairs[-1][1])

    async def collect(self, crash: float = 0.3) -> None:
        if len(self.bases) < 2:
            return
        if self.rng.random() < 0.2:
            self.known = {}  # a new sequencer
        try:
            if await collect(self.mortal(crash), "p", self.bases[-1], self.bases[-2], self.known, LOG):
                self.mark("collected")
        except Crash:
            self.mark("died collecting")

    async def collect_deposed(self) -> None:
        """By a sequencer that believes older bases to be the newest; it may find that what they reach is gone."""
        if self.old_pairs:
            older, newest = self.rng.choice(self.old_pairs[-2:])
            known = dict(self.all_links) if self.rng.random() < 0.7 else {}
            with suppress(LogDamaged):
                if await collect(self.store, "p", newest, older, known, LOG):
                    self.mark("a deposed one collected")

    def rewind(self) -> None:
        """Start over, from the newest base or, if that is said to be damaged, from the one before."""
        if len(self.bases) > 1 and self.rng.random() < 0.5:
            self.bases = self.bases[-2:-1]
            self.mark("fell back")
        self.generation += 1
        self.lives.append(self._begun(self.bases[-1]))

    async def step(self) -> None:
        life = self.lives[-1]
        kind = self.rng.choices(
            ("log", "save", "again", "zombie", "base", "collect", "deposed", "rewind"),
            (3, 14, 2, 2, 3, 2, 2, 1.0),
        )[0]
        if kind == "log":
            self.write_log()
        elif kind == "save":
            await self.save(life)
        elif kind == "again":
            await self.save_again()
        elif kind == "zombie" and len(self.lives) > 1:
            await self.save(self.lives[-2])
        elif kind == "base":
            self.write_base()
        elif kind == "collect":
            await asyncio.gather(self.collect(), self.save(life), self.save_again())
        elif kind == "deposed":
            await self.collect_deposed()
        elif kind == "rewind":
            self.rewind()

    # what must hold

    async def check(self) -> None:
        """What the two newest bases reach is there and holds the state at their epochs; so are the records behind."""
        for base in self.bases[-2:]:
            assert base_name("p", base.epoch) in self.objects.data
            for node in base.checkpoints:
                chain = await read_checkpoint(self.store, "p", node, "plan", LOG)
                assert restored(chain) == state_at(node.node, base.epoch)
        for epoch in range(self.bases[-2:][0].epoch + 1, self.epoch + 1):
            assert record_name("p", epoch) in self.objects.data

    async def end_well(self) -> None:
        """Two more bases without mishap; then there is what they reach and nothing else."""
        for _ in range(2):
            before = self.newest_ever
            while self.newest_ever == before:
                self.write_log()
                life = self.lives[-1]
                while any(life.to_save.values()):
                    await self.save(life, crash=0.0)
                self.write_base()
            await self.collect(crash=0.0)
        await self.check()
        older, newest = self.bases[-2:]
        needed = reached((older, newest), self.known)
        found = {checkpoint_of_name("p", name) for name in self.objects.list(checkpoints_prefix("p"))}
        assert {item[0] for item in found if item} == set(needed)
        assert self.objects.list("programs/p/base/") == [base_name("p", b.epoch) for b in (older, newest)]
        assert self.objects.list("programs/p/log/") == [
            record_name("p", epoch) for epoch in range(older.epoch + 1, self.epoch + 1)
        ]
        assert not self.objects.list("aside/") and set(self.known) == set(needed)


def live(seed: int) -> dict[str, int]:
    """One history; returns how often what happened in it."""
    objects = MemoryObjects()

    async def main(store: Store) -> dict[str, int]:
        story = Story(seed, store, objects)
        for _ in range(80):
            await story.step()
            await story.check()
        await story.end_well()
        return story.seen

    with small_parts():
        return simulated(main, objects, WEATHER if seed % 2 else None)


def test_two_bases_stay_readable_and_all_else_goes_simulated() -> None:
    """Random histories of saves, deaths, twins, zombies, rewinds, fall-backs and collections, also by sequencers that
    are deposed, over a store that is slow and lies: the state at each of the two newest bases is always there and
    right, and in the end there is nothing else."""
    total: dict[str, int] = {}
    for seed in range(24):
        for what, times in live(seed).items():
            total[what] = total.get(what, 0) + times
    assert len(total) == 5 and min(total.values()) > 4, total


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 2000, 200))
def test_many_histories_of_collection_simulated(first: int) -> None:
    """The same, from many more seeds."""
    for seed in range(first, first + 200):
        live(seed)
