"""One seed, one history: chance, weather and digest of a simulated world."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dist_zero_common.broker.base import Delivery, Queue
from dist_zero_common.broker.memory import MemoryBroker
from dist_zero_common.errors import StoreError
from dist_zero_common.sim.faults import PROFILES, Delay, StoreFaults, Weather, drawn_weather
from dist_zero_common.sim.history import RECORDS_KEPT, History
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.base import Created
from dist_zero_common.store.memory import MemoryStore
from test.simulated.busy_world import busy_world

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_seed_has_the_same_digest_in_any_process(profile: str) -> None:
    """The digest is that of this process under two other hash seeds, in processes of their own."""
    digests = {busy_world(5, profile).history.digest()}
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "test.simulated.busy_world", "5", profile]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1


def test_other_seeds_have_other_digests() -> None:
    """No two of some seeds have the same history."""
    digests = {busy_world(seed, "faithful").history.digest() for seed in range(10)}
    assert len(digests) == 10


def test_streams_of_chance_are_independent_and_reproducible() -> None:
    """A purpose's draws depend on seed and purpose alone, not on who else drew and when."""
    one, two, other = SimWorld(1), SimWorld(1), SimWorld(2)
    for _ in range(100):
        two.rng("noise").random()
    assert one.rng("broker") is one.rng("broker")
    draws = [one.rng("broker").random() for _ in range(5)]
    assert draws == [two.rng("broker").random() for _ in range(5)]
    assert draws != [other.rng("broker").random() for _ in range(5)]
    assert draws != [one.rng("store").random() for _ in range(5)]


def test_weather_varies_from_seed_to_seed() -> None:
    """Over some seeds every setting of the hostile profile takes more than one value, and none loses messages."""
    weathers = [SimWorld(seed, "hostile").weather for seed in range(40)]
    for setting in ("transit", "slow_pair", "slow_factor", "overtakes", "duplicate", "late_confirm", "store"):
        assert len({getattr(weather, setting) for weather in weathers}) > 1, setting
    assert {weather.returns_shuffled for weather in weathers} == {True, False}
    assert all(weather.loss == 0.0 for weather in weathers)
    assert SimWorld(1, "calm").weather == SimWorld(2, "calm").weather == Weather("calm")


def test_the_contract_suite_sees_bad_weather() -> None:
    """Among the seeds that the contract suite runs there is doubling, overtaking and shuffling."""
    weathers = [SimWorld(seed, "hostile").weather for seed in range(4)]
    assert any(weather.duplicate > 0.05 for weather in weathers)
    assert any(weather.overtakes > 0.05 for weather in weathers)


def test_an_unknown_profile_is_refused() -> None:
    """The error lists the profiles that exist."""
    with pytest.raises(ValueError, match="calm, faithful, hostile"):
        drawn_weather("stormy", random.Random(1))


def test_delays_follow_their_distribution() -> None:
    """Draws lie between nothing and twice the mean, tails excepted, and average to what was asked for."""
    rng = random.Random(3)
    plain = [Delay(mean=2.0).draw(rng) for _ in range(4000)]
    assert min(plain) >= 0.0 and max(plain) <= 4.0 and abs(sum(plain) / 4000 - 2.0) < 0.1
    tailed = [Delay(mean=1.0, tail=0.1, tail_factor=10.0).draw(rng) for _ in range(4000)]
    assert abs(sum(tailed) / 4000 - 1.9) < 0.2
    assert Delay().draw(rng) == 0.0


async def _sent_over(weather: Weather, count: int) -> tuple[list[bytes], History]:
    world = SimWorld(11, weather)
    broker, got = MemoryBroker(world), list[bytes]()
    reader, senders = broker.connect(), [broker.connect() for _ in range(2)]

    def note(delivery: Delivery) -> None:
        got.append(delivery.body)

    await reader.declare(Queue("q"))
    await reader.consume("q", note, 0)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            for index, sender in enumerate(senders):
                group.create_task(sender.publish("q", f"{index}-{number:04}".encode()))
    await asyncio.sleep(1000)
    return got, world.history


def test_simulated_delays_reorder_senders_but_not_within_one() -> None:
    """Without overtaking, each sender's messages keep their order while the two mix; with it they do not."""
    delay = Delay(mean=0.01)
    got, _ = run_simulation(_sent_over(Weather("test", transit=delay), 200))
    for sender in (b"0", b"1"):
        mine = [body for body in got if body.startswith(sender)]
        assert mine == sorted(mine) and len(mine) == 200
    assert [body[0] for body in got] != [ord("0"), ord("1")] * 200
    got, _ = run_simulation(_sent_over(Weather("test", transit=delay, overtakes=0.5), 200))
    mine = [body for body in got if body.startswith(b"0")]
    assert mine != sorted(mine) and len(mine) == 200


def test_simulated_duplicates_and_losses_happen_as_often_as_the_weather_says() -> None:
    """Doubling adds copies, loss takes messages away though they were confirmed; both are in the history."""
    doubled, history = run_simulation(_sent_over(Weather("test", duplicate=0.25), 1000))
    assert 2400 < len(doubled) < 2600 and len(set(doubled)) == 2000
    assert history.counters["publish"].records == 2000 and history.counters["deliver"].records == len(doubled)
    left, history = run_simulation(_sent_over(Weather("test", loss=0.25), 1000))
    assert 1400 < len(left) < 1600
    assert history.counters["lose"].records == 2000 - len(left)


def test_simulated_stores_fail_as_the_weather_says() -> None:
    """`create` raises although stored, or without storing; reading back tells which it was."""

    async def main(faults: StoreFaults) -> tuple[int, int]:
        store, failed, there = MemoryStore(world=SimWorld(1, Weather("test", store=faults))), 0, 0
        for number in range(400):
            try:
                assert await store.create(f"{number}", b"x") is Created.NEW
            except StoreError:
                failed += 1
                there += await store.read(f"{number}") == b"x"
        return failed, there

    failed, there = run_simulation(main(StoreFaults(fails_stored=0.25)))
    assert failed == there and 70 < failed < 130
    failed, there = run_simulation(main(StoreFaults(fails_absent=0.25)))
    assert there == 0 and 70 < failed < 130


def test_simulated_stores_are_as_slow_as_the_weather_says() -> None:
    """Operations take the drawn time, and overlap."""

    async def main() -> float:
        store = MemoryStore(world=SimWorld(1, Weather("test", store=StoreFaults(latency=Delay(mean=1.0)))))
        await asyncio.gather(*(store.create(f"{number}", b"") for number in range(100)))
        return asyncio.get_running_loop().time()

    assert 1.5 < run_simulation(main()) < 2.0


def test_the_history_keeps_little_and_hashes_all() -> None:
    """Only the newest records are readable, every one counts, and any difference changes the digest."""
    one, two = History(), History()
    for number in range(1000):
        one.record(number / 10, "publish", "q", body=b"x")
        two.record(number / 10, "publish", "q", body=b"y" if number == 3 else b"x")
    assert len(one.newest()) == RECORDS_KEPT and one.newest()[-1].startswith("99.9 publish q")
    assert one.counters["publish"].records == 1000 and one.counters["publish"].bytes == 1000
    assert one.digest() != two.digest() and one.digest() == one.digest()
