"""What systems really log: over faults, over rows that executors cannot stand and messages that nobody can read, no
event holds anything of a row, and each field has the type that docs/log-events.md says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import pytest

import dist_zero as dz
from dist_zero.batch import Batch, Writes
from dist_zero.client.remote import RemoteSystem
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, Executor, Parcel
from dist_zero.reference.interpreter import Interpreter
from dist_zero.testing.running import SeedOptions, run_seed
from dist_zero_common.log import captured_events
from dist_zero_common.protocol.messages.requests import ProgramState
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from test.simulated.foreign_queue import Sent
from test.simulated.poisoned import PoisonedSystem
from test.simulated.test_bridge_simulated import World as BridgeWorld
from test.simulated.test_bridge_simulated import simulated, until
from test.unit.log_calls import table

MARK = "hunter2"
Event = dict[str, object]

vault = dz.Program("vault")


class Deposit(dz.Row):
    account: str
    note: str
    amount: int


deposits = vault.dataset("deposits", Deposit, key="account")
vault.view("notes", deposits.group_by("note").agg(total=dz.sum("amount"), count=dz.count()))
vault.view("most", deposits.top(3, by=[dz.desc("amount"), "account"]))


@vault.sample
def sample(rng: random.Random) -> Iterator[object]:
    for number in range(200):
        account = f"{MARK}-{rng.randrange(20)}"
        if number % 7 == 6:
            yield [(deposits, dz.Delete(account))]
        else:
            row = Deposit(account=account, note=f"{MARK} {number % 5}", amount=rng.randrange(1_000))
            yield [(deposits, row)]


def of_type(value: object, type_: str) -> bool:
    """Whether Elasticsearch takes a value of JSON for this type of its."""
    if isinstance(value, list):
        return all(of_type(item, type_) for item in value)
    match type_:
        case "long":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        case "double":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "date" | "date_nanos":
            return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
        case "keyword" | "text":
            return isinstance(value, str)
    raise AssertionError(type_)


def check(events: Sequence[Event]) -> None:
    """Nothing of a row, and all as described."""
    fields, described = table("Fields"), table("Events")
    for event in events:
        assert MARK not in json.dumps(event), event
        assert event["event"] in described, event
        for name, value in event.items():
            assert name in fields, event
            assert value is None or of_type(value, fields[name][0]), (name, event)


@pytest.mark.parametrize("seed", range(3))
def test_over_faults(seed: int) -> None:
    """Everything that `dist-zero test` does to a program."""
    with captured_events() as events:
        result = run_seed(vault, seed, SeedOptions(transactions=40))
    assert not result.failures
    assert len({event["event"] for event in events}) > 15
    check(events)


class Talkative(Interpreter):
    """An executor that fails on a row, and says which."""

    def step(
        self,
        epoch: int,
        stage: int,
        writes: Sequence[Writes],
        arrived: Sequence[tuple[int, Batch]],
        shards: object,
        shard: int,
        fill: range = NOTHING_FILLED,
    ) -> list[Parcel]:
        """Fail, if there is anything to compute."""
        for each in writes:
            for row in each.batch.rows():
                raise KeyError(row)
        return super().step(epoch, stage, writes, arrived, shards, shard, fill)  # type: ignore[arg-type]


class TalkativeSystem(PoisonedSystem):
    """Its executors do."""

    @staticmethod
    def make_executor(plan: Plan) -> Executor:
        """See PoisonedSystem."""
        return Talkative(plan)


def test_over_a_row_that_the_executor_cannot_stand() -> None:
    """People are told what the executor said, in the status and in the store; the log says where, and whose it was."""
    world = SimWorld(3, "faithful")
    system = TalkativeSystem(world, machines=2, store=MemoryStore(MemoryObjects(), world))
    remote = RemoteSystem("", system.name, world.clock, connect=system.connector("operator"))
    notes: list[str] = []

    async def live() -> None:
        async with system, system.connect(vault, nodes=2, client_id="loader") as client:
            await client.put("deposits", [Deposit(account=MARK, note=MARK, amount=1)])
            for _ in range(600):
                [status] = (await remote.status()).programs
                if status.state is ProgramState.HALTED and "void" in status.note:
                    notes.append(status.note)
                    return
                await asyncio.sleep(1)

    with captured_events() as events:
        run_simulation(live(), until_seconds=2_000)
    assert MARK in notes[0]
    told = [str(event["reason"]) for event in events if event["event"] == "node_stands_still"]
    assert "the executor failed" in told[0] and "KeyError" in told[0] and "dist-zero void vault" in told[0]
    check(events)


def test_over_messages_that_nobody_can_read() -> None:
    """What is wrong with them is said to whoever runs the bridge, and kept with them; the log says that some came."""
    bodies = [MARK.encode(), json.dumps([{"number": MARK, "part": 1}]).encode(), json.dumps(MARK).encode()]

    async def main(world: BridgeWorld) -> None:
        async with world.running():
            for number, body in enumerate(bodies):
                world.queue.publish(Sent(body, f"{MARK}-{number}"))
            bridge = world.start()
            await until(lambda: world.queue.is_empty)
            await bridge.dead()

    with captured_events() as events:
        world = simulated(main, seed=1, weather="faithful")
    assert MARK in str(world.said)
    assert [event["event"] for event in events].count("bridge_set_aside") == len(bodies)
    check(events)


def test_the_check_sees() -> None:
    """A mark, an unknown field, an unknown event and a wrong type are found."""
    good: Event = {"event": "base_written", "epoch": 3, "time": "2013-01-01T00:00:00.000000Z"}
    check([good])
    wrong: list[Callable[[], object]] = [
        lambda: check([good | {"reason": f"it is {MARK}"}]),
        lambda: check([good | {"colour": "red"}]),
        lambda: check([good | {"event": "sun_rose"}]),
        lambda: check([good | {"epoch": "three"}]),
        lambda: check([good | {"time": "noon"}]),
    ]
    for each in wrong:
        with pytest.raises((AssertionError, ValueError)):
            each()
