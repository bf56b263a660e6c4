"""The examples run, on one node and several, and their views equal their recomputation."""

from __future__ import annotations

import importlib
from itertools import islice

import pytest

from dist_zero.client.writes import sampled_transaction
from dist_zero.program import Program, Transaction
from dist_zero.system import SimulatedSystem
from dist_zero.testing import SeedOptions, log_of, recomputed_differences, run_seed
from dist_zero.types import Row
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld

EXAMPLES = ("leaderboard", "fraud", "flights", "payments", "bank")


def example(name: str) -> Program:
    program = importlib.import_module(f"examples.{name}").app
    assert isinstance(program, Program)
    return program


def sample_of(name: str) -> list[Transaction]:
    """A part of an example's sample; of the flights, something of every dataset."""
    sample = (each for each in example(name).generate(7) if not isinstance(each, str))
    if name != "flights":
        return list(islice(sample, 40))
    return [each for number, each in enumerate(islice(sample, 43)) if number < 10 or number > 34]


def shown(program: Program, nodes: int, seed: int, sample: list[Transaction]) -> dict[str, list[Row]]:
    """What the views show after this input, having been compared with the oracle."""

    async def live() -> dict[str, list[Row]]:
        async with (
            SimulatedSystem(SimWorld(seed, "faithful"), machines=2) as system,
            system.connect(program, nodes=nodes) as client,
        ):
            await client.load(sampled_transaction(client.plan, each) for each in sample)
            snapshot = await client.snapshot()
            log = await log_of(system.store, program.name)
            differences = recomputed_differences(
                program.graph(),
                client.plan,
                log,
                snapshot.epoch,
                dict(snapshot.stored),
                dict(snapshot.errors),
            )
            assert differences == []
            return dict(snapshot.stored)

    return run_simulation(live())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_number_of_nodes_shows_the_same_bits(name: str) -> None:
    """1, 4 and 16 nodes, each in other weather: equal to the oracle and to each other."""
    program, sample = example(name), sample_of(name)
    runs = [shown(program, nodes, seed, sample) for seed, nodes in enumerate((1, 4, 16))]
    assert all(rows for view, rows in runs[0].items() if not view.startswith("_"))
    assert repr(runs[0]) == repr(runs[1]) == repr(runs[2])


@pytest.mark.parametrize("name", ["leaderboard", "fraud"])
def test_examples_hold_in_bad_weather(name: str) -> None:
    """What `dist-zero test` asks, for one hostile seed."""
    result = run_seed(example(name), 1, SeedOptions(nodes=2, transactions=12))
    assert result.failures == ()


def test_samples_follow_from_their_seed() -> None:
    """The same data seed makes the same sample, and another makes another."""
    program = example("fraud")
    first, again, other = (list(islice(program.generate(seed), 4)) for seed in (1, 1, 2))
    assert first == again != other
