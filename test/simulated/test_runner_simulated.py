"""Whole simulated systems under concurrent writers: what has to hold whatever the weather, and in which order things
happen (I1 to I4 of docs/protocol.md)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

import dist_zero as dz
from dist_zero.client.client import Client
from dist_zero.expr.graph import encode_graph
from dist_zero.system import SimulatedSystem, System
from dist_zero.testing import log_alone, log_of, recomputed_differences
from dist_zero.types import Row
from dist_zero_common.broker.topology import sequencer_clients_inbox, sequencer_nodes_inbox
from dist_zero_common.errors import OperatorError
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.messages.control import HostSequencer, MachineReport, Placement, RunnerReport
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.epochs import HandOut
from dist_zero_common.protocol.messages.writing import Committed, SessionOpened, Transaction
from dist_zero_common.protocol.stored import (
    Base,
    LogRecord,
)
from dist_zero_common.sim.faults import Delay, StoreFaults
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.layout import base_name, records_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore
from services.node_runner.sequencer_events import SequencerOptions
from test.simulated.property_world import PROGRAMS, BusyRun, WitnessWorld

CASES = [(1, 1, 1), (2, 2, 1), (3, 3, 2), (3, 8, 4), (2, 1, 4), (3, 1, 1)]
"""Stages, nodes, machines."""


@pytest.mark.parametrize(("stages", "nodes", "machines"), CASES)
@pytest.mark.parametrize("profile", ["faithful", "hostile"])
def test_views_and_log_are_right_at_every_epoch(stages: int, nodes: int, machines: int, profile: str) -> None:
    """I1 and I2 with three writers at once, who write, change and delete in three sessions each; and when all is
    quiet, no queue holds anything."""
    BusyRun(stages, nodes, machines).run(SimWorld(nodes, profile)).check()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(120))
def test_views_and_log_are_right_in_long_searches(seed: int) -> None:
    """The same, over many seeds and bad weathers."""
    stages, nodes, machines = CASES[seed % len(CASES)]
    options = SequencerOptions(
        record_bytes=(600, 2**20)[seed % 2],
        record_bytes_max=(600, 2**25)[seed % 2],
        window_epochs=1 + seed % 5,
    )
    run = BusyRun(stages, nodes, machines, transactions=90, options=options)
    run.run(SimWorld(1_000 + seed, "hostile" if seed % 3 else "faithful")).check()


def test_same_log_gives_the_same_changes_on_any_number_of_nodes() -> None:
    """I3: systems of other sizes, in other weather, that have nothing but the log, show for every epoch the same
    changes and the same views at the end."""
    run = BusyRun(stages=3, nodes=3, transactions=30).run(SimWorld(5, "hostile"))
    expected = run.changes_by_epoch()
    assert len(expected) > 8
    graph = encode_graph(PROGRAMS[3].graph())
    for nodes, seed in ((1, 6), (5, 7)):
        again = changes_again(log_alone("stages-3", graph, run.log, nodes), max(expected), seed)
        assert {epoch: again[epoch] for epoch in expected} == expected


def changes_again(
    objects: MemoryObjects, newest: int, seed: int
) -> dict[int, list[dict[tuple[object, ...], int]]]:
    """What a system that finds this log says of its epochs, behind the first."""
    run = BusyRun(stages=3)
    world = SimWorld(seed, "hostile")

    async def live() -> None:
        async with (
            SimulatedSystem(world, machines=2, store=MemoryStore(objects, world)) as system,
            system.connect(PROGRAMS[3]) as client,
        ):
            await client.snapshot()
            with client.watch_stored(range(len(client.plan.views)), after=1) as watch:
                async for change in watch:
                    run.changes.append(change)
                    if change.epoch >= newest:
                        return

    run_simulation(live(), until_seconds=20_000)
    return run.changes_by_epoch()


# ---- order (I4) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["faithful", "hostile"])
def test_nothing_leaves_before_the_record_is_there(profile: str) -> None:
    """I4, in the order of the history: a reply to a writer, a hand-out, and the ack of a transaction come behind the
    creation of the record that holds them. The store is slow, so that there is time to be wrong."""
    weather = replace(SimWorld(4, profile).weather, store=StoreFaults(latency=Delay(0.05)))
    world = WitnessWorld(4, weather)
    BusyRun(stages=2, nodes=4, machines=2, transactions=24).run(world)
    there: dict[int, LogRecord] = {}
    recorded: dict[tuple[int, int], int] = {}
    delivered: dict[tuple[str, str], list[Message]] = {}
    seen = {"replies": 0, "hand-outs": 0, "acks": 0}
    for event in world.events:
        if event.kind == "store-create-new" and event.place.startswith(records_prefix("stages-2")):
            record = decode(LogRecord, event.body)
            there[record.epoch] = record
            recorded |= {(t.session, t.number): record.epoch for t in record.transactions}
        elif event.kind == "publish":
            for message in decode(Envelope, event.body).messages:
                if isinstance(message, Committed):
                    seen["replies"] += 1
                    assert recorded[message.session, message.number] == message.epoch
                elif isinstance(message, SessionOpened):
                    assert any(o.request == message.request for o in there[message.epoch].opens)
                elif isinstance(message, HandOut):
                    seen["hand-outs"] += 1
                    assert message.epoch in there
        elif event.kind == "deliver" and ".sequencer-clients." in event.place:
            delivered[event.place, event.detail] = list(decode(Envelope, event.body).messages)
        elif event.kind == "ack" and ".sequencer-clients." in event.place:
            for message in delivered[event.place, event.detail]:
                if isinstance(message, Transaction):
                    seen["acks"] += 1
                    assert (message.session, message.number) in recorded
    assert min(seen.values()) > 5, seen


def test_idle_program_sends_heartbeats_alone() -> None:
    """When nobody writes, after a second or two nothing moves but the reports of agents and runners, though a watch is
    open; and the log does not grow."""
    world = WitnessWorld(2, "faithful")

    async def live() -> int:
        store = MemoryStore(MemoryObjects(remembers=True), world)
        async with (
            SimulatedSystem(world, machines=3, store=store) as system,
            system.connect(PROGRAMS[3], nodes=5) as client,
        ):
            await client.put("sales", {"id": 1, "shop": "a", "amount": 1.0})
            await client.flush()
            await asyncio.sleep(10)
            epochs, start = len(await log_of(store, "stages-3")), len(world.events)
            await asyncio.sleep(60)
            assert len(await log_of(store, "stages-3")) == epochs
            return start

    start = run_simulation(live(), until_seconds=2_000)
    idle = [event for event in world.events[start:] if event.kind == "publish"]
    kinds = {type(m) for event in idle for m in decode(Envelope, event.body).messages}
    assert kinds == {MachineReport, RunnerReport}
    assert len(idle) < 60 * 6 * 1.2


# ---- one history per seed ------------------------------------------------------------------------------------

DIGESTS = """
import sys
from dist_zero_common.sim.world import SimWorld
from test.simulated.property_world import BusyRun
for seed in sys.argv[1:]:
    world = SimWorld(int(seed), "hostile")
    BusyRun(stages=3, nodes=3, machines=2, transactions=9).run(world)
    print(world.history.digest())
"""


def test_a_seed_is_one_history_in_every_process() -> None:
    """The digest of all that happened is the same in two processes with other hashes of strings, and another for
    another seed."""

    def digests(hash_seed: str, *seeds: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", DIGESTS, *seeds],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()

    first, other = digests("1", "1", "2")
    assert [first] == digests("2", "1")
    assert first != other


# ---- two sequencers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_two_sequencers_at_once(seed: int) -> None:
    """Another incarnation of the sequencer is started while a client writes, on the same runner or on the other one.
    One of the two is deposed and lets go of the clients' inbox; nothing is lost or written twice, and the client goes
    on without noticing."""
    weather = replace(SimWorld(seed, "faithful").weather, store=StoreFaults(latency=Delay(0.04)))
    world, objects = SimWorld(seed, weather), MemoryObjects(remembers=True)
    app, name = PROGRAMS[2], PROGRAMS[2].name

    async def live() -> set[int]:
        async with (
            SimulatedSystem(world, machines=2, store=MemoryStore(objects, world)) as system,
            system.connect(app, nodes=3) as client,
        ):
            writing = asyncio.create_task(write(client))
            await asyncio.sleep(0.5 + seed * 0.1)
            await usurp(system, client.placement, objects, own=bool(seed % 2))
            payloads = await writing
            await client.flush()
            snapshot = await client.snapshot()
            log = await log_of(system.store, name)
            assert sorted(t.payload for r in log for t in r.transactions) == sorted(payloads)
            shown: dict[str, Sequence[Row]] = dict(snapshot.stored)
            assert not recomputed_differences(app.graph(), client.plan, log, snapshot.epoch, shown, {})
            await asyncio.sleep(30)
            depths = system.broker.depths()
            assert not [n for n, depth in depths.items() if depth.unacked]
            assert len(system.broker.queues[sequencer_clients_inbox("local", name)].consumers) == 1
            return {record.incarnation for record in log}

    assert len(run_simulation(live(), until_seconds=2_000)) == 2, (
        "the usurper never wrote: this shows nothing"
    )


def test_a_deposed_sequencer_lets_go_of_the_writers() -> None:
    """A sequencer that learns from the log alone that a later one is there stops reading the clients' inbox, so that no
    writer waits for it."""
    weather = replace(SimWorld(1, "faithful").weather, store=StoreFaults(latency=Delay(0.04)))
    world, objects, name = SimWorld(1, weather), MemoryObjects(remembers=True), PROGRAMS[2].name

    async def live() -> None:
        async with (
            SimulatedSystem(world, machines=2, store=MemoryStore(objects, world)) as system,
            system.connect(PROGRAMS[2], nodes=2) as client,
        ):
            await client.put("sales", {"id": 0, "shop": "a", "amount": 1.0})
            await usurp(system, client.placement, objects, own=False, tell=False)
            await asyncio.sleep(10)
            inbox = system.broker.queues[sequencer_clients_inbox("local", name)]
            for number in range(4):
                await client.put("sales", {"id": number, "shop": "a", "amount": 1.0})
            await asyncio.sleep(10)
            assert len(inbox.consumers) == 1
            payloads = [t.payload for record in await log_of(system.store, name) for t in record.transactions]
            assert len(payloads) == 5
            assert len({record.incarnation for record in await log_of(system.store, name)}) == 2

    run_simulation(live(), until_seconds=2_000)


async def write(client: Client) -> list[bytes]:
    """Thirty transactions, a few of them at a time."""
    payloads, tickets = [], []
    for number in range(30):
        transaction = client.new_transaction()
        transaction.put("sales", {"id": number, "shop": f"s{number % 3}", "amount": float(number)})
        payloads.append(transaction.payload())
        tickets.append(await client.write_soon(transaction))
        if number % 4 == 3:
            await asyncio.sleep(0.15)
    for ticket in tickets:
        await ticket
    return payloads


async def usurp(
    system: System, placement: Placement, objects: MemoryObjects, own: bool, tell: bool = True
) -> None:
    """Start a later incarnation of the sequencer, on the runner that has one or on the other; tell all runners."""
    program, before = placement.program, int(placement.nodes_inbox.rsplit(".", 1)[1])
    owner = system.broker.queues[placement.clients_inbox].consumers[0].connection.name
    inboxes = sorted(set(placement.inboxes))
    at = next(inbox for inbox in inboxes if (inbox.split(".")[3] in owner) == own)
    graph = decode(Base, {**objects.data, **objects.gone}[base_name(program, 0)]).graph
    scheduler, shard_map, later = placement.scheduler, placement.shard_map, before + 1_000
    host = HostSequencer(scheduler, program, later, shard_map, placement.inboxes, graph, placement.generation)
    nodes_inbox = sequencer_nodes_inbox(system.name, program, later)
    told = replace(placement, version=placement.version + 1, nodes_inbox=nodes_inbox)
    usurper = system.broker.connect("usurper")
    await usurper.publish(at, encode(Envelope(system.name, "usurper", (host,))))
    for inbox in inboxes if tell else ():
        await usurper.publish(inbox, encode(Envelope(system.name, "usurper", (told,))))


# ---- what cannot be sent -----------------------------------------------------------------------------------------


class Page(dz.Row):
    number: int
    text: str


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_row_that_no_message_holds_halts_its_program_alone(nodes: int) -> None:
    """Expressions can make of a legal row one that is larger than any message. The program stands still and says why,
    to those who wait and to those who come; the services and other programs go on."""
    app = dz.Program("pages")
    pages = app.dataset("pages", Page, key="number")
    app.view("twice", pages.select("number", both=pages["text"].concat(pages["text"])))
    world = SimWorld(1, "calm")

    async def live() -> None:
        async with (
            SimulatedSystem(
                world, machines=2, store=MemoryStore(MemoryObjects(remembers=True), world)
            ) as system,
            system.connect(PROGRAMS[1], nodes=2) as other,
        ):
            with pytest.raises(OperatorError, match=r"stands still.*cannot be sent"):
                async with system.connect(app, nodes=nodes) as client:
                    await client.put("pages", {"number": 1, "text": "x" * 9 * 2**20})
                    await client.snapshot()
            await other.put("sales", {"id": 1, "shop": "a", "amount": 2.0})
            assert len(await other.rows("large")) == 1
            with pytest.raises(OperatorError, match="cannot be sent"):
                async with system.connect(app, nodes=nodes):
                    pass

    run_simulation(live(), until_seconds=2_000)
