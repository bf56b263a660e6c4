"""An executor that loaded what nodes had saved, and then what they saved behind that, is the one that loads it all in
the end; over every executor."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings

from dist_zero import kept, ordering
from dist_zero.compiler import compile
from dist_zero.executor import Executor
from dist_zero.ordering import SortedItems
from dist_zero.reference import join, loading, operators
from dist_zero.shards import interval, owner
from dist_zero_common.errors import InternalError
from dist_zero_common.protocol.messages.pieces import ShardMap
from test.contract.executors import EXECUTORS, ExecutorHarness, Run, Save, in_bytes, random_map, shown, stored
from test.oracle.random_programs import Case, cases
from test.oracle.test_oracle_programs import SAME_EACH_TIME, SEARCH, SEEDS

pytestmark = pytest.mark.parametrize("harness", EXECUTORS, ids=lambda harness: harness.name)


def within(first: int, last: int) -> Callable[[int], bool]:
    return lambda key_hash: first <= key_hash <= last


@dataclass
class Follower:
    """A successor that loads its predecessors long before it takes their place."""

    run: Run
    shards: ShardMap
    place: int
    executor: Executor
    heirs: dict[int, int]
    """By old node: its place, and who takes what belongs to no hash."""

    def __post_init__(self) -> None:
        self.low, self.high = interval(self.shards, self.place)
        self.olds = list(range(owner(self.run.shards, self.low), owner(self.run.shards, self.high) + 1))

    def load(self, chains: list[list[Save]]) -> None:
        for old in self.olds:
            saves = [stored(self.run.plan, save) for save in chains[old]]
            loose = self.heirs[old] == self.place
            exhaust(self.executor.loading(self.run.epoch, saves, within(self.low, self.high), loose))

    def follow(self, behind: list[list[Save]], whole: list[bool]) -> None:
        """What each old node has saved since; `whole`: whether that is everything."""
        for number, old in enumerate(self.olds):
            saves = [stored(self.run.plan, save) for save in behind[old]]
            owns = within(*interval(self.run.shards, old)) if len(self.olds) > 1 else None
            exhaust(self.executor.catching_up(self.run.epoch, number, saves, whole[old], owns))


def exhaust(slices: Iterator[None]) -> None:
    for _ in slices:
        pass


def check_follows(harness: ExecutorHarness, case: Case, seed: int) -> Counter[str]:
    """While some nodes run, others by another map follow them; in the end they are the same as if they had loaded all
    that there is then, and stay so."""
    plan, chance = compile(case.graph), random.Random(seed)
    reached: Counter[str] = Counter()
    run = Run(plan, harness.make, random_map(chance, 1, chance.randint(1, 3)), chance)
    shards = random_map(chance, 2, chance.randint(1, 4))
    heirs = {
        old: chance.randint(
            owner(shards, interval(run.shards, old)[0]), owner(shards, interval(run.shards, old)[1])
        )
        for old in range(len(run.nodes))
    }
    count = len(case.epochs)
    begins = chance.randint(1, max(1, count - 1))
    ends = chance.randint(begins, count)
    chains: list[list[Save]] = [[] for _ in run.nodes]
    behind: list[list[Save]] = [[] for _ in run.nodes]
    whole = [False for _ in run.nodes]
    followers: list[Follower] = []
    for number, epoch in enumerate(case.epochs[:ends], 1):
        run.run(epoch)
        for old, executor in enumerate(run.nodes):
            everything = not chains[old] or chance.random() < 0.2
            save = executor.save(everything)
            chains[old] = [save] if everything else [*chains[old], save]
            behind[old] = [save] if everything else [*behind[old], save]
            whole[old] = whole[old] or everything
        if number == begins:
            followers = [
                Follower(run, shards, place, harness.make(plan), heirs) for place in range(len(shards.nodes))
            ]
            for follower in followers:
                follower.load(chains)
        elif followers and (number == ends or chance.random() < 0.5):
            reached.update(follows=1, whole=any(whole), several=any(len(f.olds) > 1 for f in followers))
            for follower in followers:
                follower.follow(behind, whole)
        else:
            continue
        behind, whole = [[] for _ in run.nodes], [False for _ in run.nodes]
    direct = [Follower(run, shards, place, harness.make(plan), heirs) for place in range(len(shards.nodes))]
    for follower in direct:
        follower.load(chains)
    check_same(harness, run, case, followers, direct, ends)
    return reached


def check_same(
    harness: ExecutorHarness,
    run: Run,
    case: Case,
    followers: list[Follower],
    direct: list[Follower],
    ends: int,
) -> None:
    """Two sets of successors go on alike."""
    ran = []
    for successors in (followers, direct):
        after = Run(run.plan, harness.make, successors[0].shards, random.Random(1), epoch=ends)
        after.nodes = [successor.executor for successor in successors]
        said: list[object] = [[shown(node) for node in after.nodes]]
        for epoch in case.epochs[ends:] or [()]:
            said.append(after.run(epoch))
            said.append([in_bytes(node.save(False)) for node in after.nodes])
        said.append([in_bytes(node.save(True)) for node in after.nodes])
        ran.append(said)
    assert ran[0] == ran[1]


def test_oracle_a_follower_is_one_that_loads_in_the_end(harness: ExecutorHarness) -> None:
    """Nodes that are divided, joined and moved, for random programs."""
    reached: Counter[str] = Counter()

    @settings(SAME_EACH_TIME, max_examples=120 // harness.rarely)
    @given(cases(), SEEDS)
    def programs(case: Case, seed: int) -> None:
        reached.update(check_follows(harness, case, seed))

    programs()
    kinds = ("follows", "whole", "several")
    assert not [kind for kind in kinds if reached[kind] < 15 // harness.rarely], reached


def test_oracle_slices_and_pieces_of_any_size_say_the_same(
    harness: ExecutorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where everything is cut into two or three rows."""
    monkeypatch.setattr(kept, "PIECE_ROWS", 3)
    for module, name in ((loading, "SLICE"), (operators, "SLICE"), (join, "SLICE"), (ordering, "_SLICE")):
        monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(SortedItems, "_CHUNK_LENGTH_MAX", 4)

    @settings(SAME_EACH_TIME, max_examples=48 // harness.rarely)
    @given(cases(), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check_follows(harness, case, seed)

    programs()


@pytest.mark.long
def test_oracle_a_follower_is_one_that_loads_in_the_end_long(harness: ExecutorHarness) -> None:
    """The same for larger programs, and others each time."""

    @settings(SEARCH, max_examples=SEARCH.max_examples // harness.rarely)
    @given(cases(operations_max=9), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check_follows(harness, case, seed)

    programs()


def test_who_stopped_loading_halfway_takes_no_step(harness: ExecutorHarness) -> None:
    """Slices that were not gone through to the end leave nothing that anybody could go on with."""
    from test.contract.test_executor_saves import ONE, SHAPES, planned
    from test.oracle.nodes import put

    plan = planned(SHAPES["sums"])
    run = Run(plan, harness.make, ONE, random.Random(1))
    run.run(((put(plan, "payments", (1, 2, 3)),),))
    executor = harness.make(plan)
    next(executor.loading(1, [run.nodes[0].save(True)]))
    with pytest.raises(InternalError, match="could not load"):
        executor.step(2, 1, [], [], ONE, 0)
