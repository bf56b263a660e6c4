"""What every executor promises about its state, held against every executor: `dist_zero/executor.py`, save and load.

`make test` tries the same programs each time, `make test-long` others.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings

from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan, Top
from dist_zero.shards import even_map
from dist_zero.state import Division, state_tables
from test.contract.executors import (
    EXECUTORS,
    ExecutorHarness,
    Run,
    Save,
    check_places,
    entries,
    in_bytes,
    random_map,
    reshard,
    shown,
    stored,
    totals,
)
from test.oracle.harness import exact, expectation
from test.oracle.nodes import summed
from test.oracle.random_programs import Case, cases
from test.oracle.test_oracle_programs import SAME_EACH_TIME, SEARCH, SEEDS

pytestmark = pytest.mark.parametrize("harness", EXECUTORS, ids=lambda harness: harness.name)


def check_resumes(harness: ExecutorHarness, case: Case, seed: int, count: int) -> Counter[str]:
    """Three runs over the same epochs, their inputs cut differently: one that is never saved, one that is saved, and
    one whose nodes, after a save, are replaced now and then by others that load it. All say the same, and the two save
    the same bytes, which come to what a full save is, each entry where its hash is owned."""
    plan, chance = compile(case.graph), random.Random(seed)
    shards = even_map(1, [f"n{i}" for i in range(count)])
    plain, saved, replaced = (Run(plan, harness.make, shards, random.Random(f"{seed}/{i}")) for i in range(3))
    chains: list[list[Save]] = [[] for _ in range(count)]
    reached: Counter[str] = Counter()
    for epoch in case.epochs:
        said = plain.run(epoch)
        assert saved.run(epoch) == said
        assert replaced.run(epoch) == said
        for node in range(count):
            if chance.random() < 0.6:
                everything = chance.random() < 0.3
                save = replaced.nodes[node].save(everything)
                assert in_bytes(save) == in_bytes(saved.nodes[node].save(everything))
                chains[node] = [save] if everything else [*chains[node], save]
                reached.update(changes=bool(save), deletes=any(len(change.deletes) for change in save))
                if chance.random() < 0.6:
                    executor = harness.make(plan)
                    executor.load(replaced.epoch, [stored(plan, each) for each in chains[node]])
                    assert shown(executor) == shown(replaced.nodes[node])
                    replaced.nodes[node] = executor
                    reached.update(loads=1)
    for node in range(count):
        chains[node].append(replaced.nodes[node].save(False))
        full = [run.nodes[node].save(True) for run in (plain, saved, replaced)]
        assert in_bytes(full[0]) == in_bytes(full[1]) == in_bytes(full[2])
        assert entries(plan, chains[node]) == entries(plan, full[:1])
        assert replaced.nodes[node].save(False) == []
    check_places(plain, [node.save(True) for node in plain.nodes])
    return reached


def test_oracle_a_loaded_executor_is_the_one_that_was_saved(harness: ExecutorHarness) -> None:
    """On 1 and 3 nodes, for random programs."""
    reached: Counter[str] = Counter()

    @settings(SAME_EACH_TIME, max_examples=120 // harness.rarely)
    @given(cases(), SEEDS)
    def programs(case: Case, seed: int) -> None:
        reached.update(check_resumes(harness, case, seed, 1))
        reached.update(check_resumes(harness, case, seed, 3))

    programs()
    if harness.rarely == 1:
        assert reached["loads"] > 200 and reached["changes"] > 400 and reached["deletes"] > 60, reached


@pytest.mark.long
def test_oracle_a_loaded_executor_is_the_one_that_was_saved_long(harness: ExecutorHarness) -> None:
    """The same for larger programs, and others each time."""

    @settings(SEARCH, max_examples=SEARCH.max_examples // harness.rarely)
    @given(cases(operations_max=9), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check_resumes(harness, case, seed, 1 + seed % 4)

    programs()


def check_reshards(harness: ExecutorHarness, case: Case, seed: int) -> Counter[str]:
    """Nodes that are divided, joined and moved between epochs, at random intervals, show what the oracle says."""
    plan, chance = compile(case.graph), random.Random(seed)
    tables = state_tables(plan)
    run = Run(plan, harness.make, random_map(chance, 1, chance.randint(1, 3)), chance)
    loose_errors = any(t.name.startswith("errors/") and t.division is Division.LOOSE for t in tables)
    reached: Counter[str] = Counter()
    expected, missed = expectation(case)
    chains: list[list[Save]] = [[] for _ in run.nodes]
    for number, (epoch, views) in enumerate(zip(case.epochs, expected, strict=True), 1):
        run.run(epoch)
        for view, wanted in enumerate(views):
            where = f"view {plan.views[view].name} at epoch {number}"
            assert exact(run.rows(view)) == exact(wanted.rows), f"rows of {where}"
            if loose_errors:
                wanted_totals = [(e.label, e.reason, e.count) for e in wanted.errors]
                assert totals(run.errors(view)) == wanted_totals, f"errors of {where}"
            else:
                assert summed(run.errors(view)) == wanted.errors, f"errors of {where}"
        for node, executor in enumerate(run.nodes):
            chains[node].append(executor.save(False))
        if chance.random() < 0.8:
            shards = random_map(chance, number + 1, chance.randint(1, 4))
            reached.update(_reached(plan, run.shards.nodes, shards.nodes))
            reshard(run, chains, shards)
            chains = [[executor.save(True)] for executor in run.nodes]
    assert [run.missed(dataset) for dataset in range(len(plan.datasets))] == missed
    return reached


def _reached(plan: Plan, old: tuple[str, ...], new: tuple[str, ...]) -> list[str]:
    kinds = ["split" if len(new) > len(old) else "merge" if len(new) < len(old) else "move"]
    tables = {table.name.split("/")[-1] for table in state_tables(plan)}
    kinds += ["shown"] if "shown" in tables else []
    return kinds + ["top" for operator in plan.operators if isinstance(operator, Top)]


def test_oracle_nodes_are_divided_and_joined(harness: ExecutorHarness) -> None:
    """Random programs, each after each epoch on other nodes. Sums and extremes over all rows, which nodes divide as
    well, are rare in them: `test_executor_saves.py` has those."""
    reached: Counter[str] = Counter()

    @settings(SAME_EACH_TIME, max_examples=150 // harness.rarely)
    @given(cases(), SEEDS)
    def programs(case: Case, seed: int) -> None:
        reached.update(check_reshards(harness, case, seed))

    programs()
    wanted = ("split", "merge", "move", "shown", "top")
    assert harness.rarely > 1 or not [kind for kind in wanted if reached[kind] < 5], reached


@pytest.mark.long
def test_oracle_nodes_are_divided_and_joined_long(harness: ExecutorHarness) -> None:
    """The same for larger programs, and others each time."""

    @settings(SEARCH, max_examples=SEARCH.max_examples // harness.rarely)
    @given(cases(operations_max=9), SEEDS)
    def programs(case: Case, seed: int) -> None:
        check_reshards(harness, case, seed)

    programs()
