"""A stranger with a connection to the broker writes to every inbox: services refuse, keep the evidence and go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

import dist_zero as dz
from dist_zero.batch import Batch
from dist_zero.client.client import Client
from dist_zero.expr.graph import encode_graph
from dist_zero.shards import even_map
from dist_zero.system import SimulatedSystem, System
from dist_zero.testing import log_of, recomputed_differences
from dist_zero.types import INT, STR
from dist_zero.writes import encode_payload
from dist_zero_common.broker.memory import MemoryConnection
from dist_zero_common.broker.topology import (
    agent_inbox,
    client_replies,
    scheduler_inbox,
    sequencer_clients_inbox,
)
from dist_zero_common.protocol.codec import SEAL_SIZE, encode, seal
from dist_zero_common.protocol.messages.control import (
    DropProgram,
    EndGeneration,
    HostNode,
    HostSequencer,
    MachineReport,
    Placement,
    PreparedStatus,
    PrepareNodes,
    RunnerReport,
    StartRunner,
    StopRunner,
)
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.epochs import (
    Done,
    EmptyRows,
    ExchangeBatch,
    HandOut,
    NodeWrites,
    SnapshotWanted,
    StageRows,
    SubscriptionWanted,
)
from dist_zero_common.protocol.messages.pieces import (
    BatchBlob,
    ColumnBlob,
    Payload,
    ShardMap,
    WriteKind,
    WritesBlob,
)
from dist_zero_common.protocol.messages.reading import (
    AskChanges,
    AwaitEpoch,
    Changes,
    ChangesGone,
    Get,
    Got,
    SnapshotAnswer,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
    ViewRows,
)
from dist_zero_common.protocol.messages.requests import (
    AutoscaleProgram,
    Locate,
    MachineLimits,
    NodeLimits,
    RemoveProgram,
    SubmitProgram,
)
from dist_zero_common.protocol.messages.writing import Committed, OpenSession, Transaction
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryObjects, MemoryStore

app = dz.Program("ledger")


class Account(dz.Row):
    name: str
    town: int
    money: int


accounts = app.dataset("accounts", Account, key="name")
notes = app.dataset("notes", Account)
app.view("towns", accounts.group_by("town").agg(money=dz.sum("money"), n=dz.count()).top(3, by="money"))
app.view("rich", accounts.where(accounts["money"] > 5))
app.view("bag", notes.select("money"))

SYSTEM = "local"
HUGE = 2**60
NODES = 4
STRANGER = client_replies(SYSTEM, "stranger")
GONE = client_replies(SYSTEM, "gone")
SCHEDULER = scheduler_inbox(SYSTEM)
AGENT = agent_inbox(SYSTEM, "m1")
CLIENTS = sequencer_clients_inbox(SYSTEM, "ledger")
INTS = (INT,)
EMPTY = BatchBlob(0, b"", ())


@dataclass
class Battle:
    """A running system, its own client, and the stranger."""

    system: System
    client: Client
    stranger: MemoryConnection

    @property
    def nodes_inbox(self) -> str:
        return self.client.placement.nodes_inbox

    @property
    def runner(self) -> str:
        """The inbox of the runner that has shards 0 and 2."""
        return self.client.placement.inboxes[0]

    def inboxes(self) -> list[str]:
        """Every inbox of every service and client."""
        return [name for name in self.system.broker.queues if name != STRANGER]

    async def send(self, inbox: str, *messages: Message) -> None:
        await self.stranger.publish(inbox, encode(Envelope(SYSTEM, f"stranger of {inbox}", messages)))

    async def send_lie(self, inbox: str, lie: Message) -> None:
        """Send what has to be set aside, and wait until it is."""
        before = len(self.refused())
        await self.send(inbox, lie)
        for _ in range(200):
            if len(self.refused()) > before:
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"taken for good: {str(lie)[:500]}")

    def refused(self) -> list[bytes]:
        """What services have set aside."""
        store = self.system.store
        assert isinstance(store, MemoryStore)
        return [store.objects.data[name] for name in store.objects.list("aside/")]

    async def check_all_is_well(self) -> None:
        """The system answers, rightly, and no message is stuck."""
        client = self.client
        number = 1000 + len(await log_of(self.system.store, "ledger"))
        await client.put("accounts", {"name": f"late-{number}", "town": 9, "money": number})
        snapshot = await client.snapshot()
        log = await log_of(self.system.store, "ledger")
        graph = app.graph()
        assert not recomputed_differences(
            graph, client.plan, log, snapshot.epoch, dict(snapshot.stored), dict(snapshot.errors)
        )
        got = await client.get("rich", f"late-{number}")
        assert got is not None and vars(got)["money"] == number
        await client.flush()
        await asyncio.sleep(30)
        stuck = {name: depth for name, depth in self.system.broker.depths().items() if depth.unacked}
        assert not stuck, f"messages that nobody settles: {stuck}"
        assert len(await log_of(self.system.store, "ledger")) <= len(log) + 4


def battle(fight: Callable[[Battle], Awaitable[None]], seed: int = 1, weather: str = "faithful") -> None:
    """Run `fight` in a simulated system with data in it, then look whether all is well."""
    world = SimWorld(seed, weather)

    async def live() -> None:
        async with (
            SimulatedSystem(
                world, machines=2, store=MemoryStore(MemoryObjects(remembers=True), world)
            ) as system,
            system.connect(app, nodes=NODES) as client,
        ):
            stranger = system.broker.connect("stranger")
            rows = [{"name": f"a{i}", "town": i % 3, "money": i} for i in range(20)]
            await client.put("accounts", rows)
            await client.append("notes", rows)
            await client.flush()
            scene = Battle(system, client, stranger)
            await fight(scene)
            await asyncio.sleep(10)
            await scene.check_all_is_well()

    run_simulation(live(), until_seconds=7_200)


# ---- bytes -------------------------------------------------------------------------------------------------


def rubbish(rng: random.Random, good: list[bytes]) -> list[bytes]:
    """Bytes that are no message, or only nearly one."""
    whole = rng.choice(good)
    body = bytearray(whole[SEAL_SIZE:])
    flipped = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return [
        rng.randbytes(rng.choice((0, 1, 15, 16, 40, 400))),
        seal(rng.randbytes(8 * rng.randint(0, 40))),
        whole[: rng.randrange(len(whole))],
        seal(bytes(body[: 8 * rng.randrange(len(body) // 8)])),
        seal(bytes(flipped)),
    ]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_bytes_that_are_no_message_are_set_aside(seed: int) -> None:
    """Random bytes, truncated and bit-flipped envelopes (checksum repaired) to every inbox kill nobody, and stay in
    no queue. What a flip left legal may be taken as it stands, so the good ones are harmless questions."""
    good = [
        encode(Envelope(SYSTEM, "x", messages))
        for messages in (
            (Locate(1, "ledger", STRANGER),),
            (Get(1, "ledger", 1, 0, 1, EMPTY, 0, STRANGER), AwaitEpoch(1, 2, STRANGER)),
            (SnapshotRequest(1, ("rich",), STRANGER),),
            (EmptyRows("ledger", 0, 1, 2, 1, b"\1\2"), Done("ledger", 0, 1, 2, 1)),
        )
    ]

    async def fight(scene: Battle) -> None:
        rng = random.Random(seed)
        for _ in range(12 if seed == 1 else 200):
            for inbox in scene.inboxes():
                for body in rubbish(rng, good):
                    await scene.stranger.publish(inbox, body)
        await asyncio.sleep(10)
        assert len(scene.refused()) > 100
        assert all(b"\nreason: " in kept for kept in scene.refused())

    battle(fight, seed)


def test_envelopes_of_another_system_and_for_other_roles_are_set_aside() -> None:
    """A message in an inbox of a role that does not take it, or of another system, is refused with a reason that says
    so, by every service."""
    messages: list[Message] = [
        Committed(1, 1, 1),
        Done("ledger", 0, 1, 0, 1),
        Locate(1, "ledger", STRANGER),
        OpenSession(1, "x", STRANGER),
        StopRunner(HUGE, "m1-r1", 9),
        DropProgram(0, "nobodys", 1),
    ]

    async def fight(scene: Battle) -> None:
        takers = {SCHEDULER: 2, CLIENTS: 3, AGENT: 4, scene.runner: 5, scene.nodes_inbox: 1}
        before = len(scene.refused())
        for inbox, taken in takers.items():
            await scene.stranger.publish(inbox, encode(Envelope("other", "x", (Committed(1, 1, 1),))))
            for place, message in enumerate(messages):
                if place != taken:
                    await scene.send(inbox, replace(message))
        await asyncio.sleep(10)
        refused = scene.refused()[before:]
        assert any(b"belongs to the system 'other'" in kept for kept in refused)
        # The agent has no store: what it refuses is in its log. One of each of the others' is kept.
        assert len(refused) >= 4 * len(messages) - 4

    battle(fight)


# ---- legal messages that lie -------------------------------------------------------------------------------


def integer_batch(*values: int) -> BatchBlob:
    return Batch.from_rows(INTS, [(value,) for value in values]).to_blob()


def key(name: str) -> BatchBlob:
    return Batch.from_rows((STR,), [(name,)]).to_blob()


LYING_BATCHES = [
    BatchBlob(2**32 - 1, b"", ()),
    BatchBlob(2**21, b"", (ColumnBlob(b"", b"", b""),)),
    BatchBlob(1, b"\0" * 8, (ColumnBlob(b"", b"", b"\0" * 8),)),
    BatchBlob(1, b"", (ColumnBlob(b"\2", b"", b"\0" * 8),)),
    BatchBlob(1, b"", (ColumnBlob(b"", b"\xff" * 16, b"abc"),)),
    BatchBlob(1, b"\1", (ColumnBlob(b"", b"", b"\0" * 8),) * 5),
]

WEIRD_NAMES = [
    "",
    "../../etc",
    "Ledger",
    "x" * 100_000,
    "a\nb\0c",
    "ledger/log/0",
    "ünïcode",
    "dz.local.runner.x",
]


def lies_to_runner(runner: str, generation: int) -> list[Message]:
    """Each is a legal message of a runner's inbox with one thing in it that cannot be."""
    shard_map = even_map(1, tuple(f"n{i}" for i in range(1, NODES + 1)))
    graph = encode_graph(app.graph())
    good_rows = StageRows("ledger", generation, 50, 2, 1, 1, 0, 0, 1, ())
    good_out = HandOut("ledger", generation, 50, 1, False, 0, (0,), (), (), (), (), False, 0, False)
    inboxes = (runner,) * NODES
    place = Placement(HUGE, "ledger", HUGE, 0, shard_map, inboxes, CLIENTS, "")
    wanted = SubscriptionWanted(1, 1, (0,), 0, STRANGER)
    lies: list[Message] = [
        replace(good_rows, epoch=HUGE),
        replace(good_rows, epoch=0),
        replace(good_rows, map_version=7),
        *(replace(good_rows, stage=stage) for stage in (0, 1, 99)),
        replace(good_rows, sender=NODES),
        replace(good_rows, target=2**32 - 1),
        replace(good_rows, parts=0),
        replace(good_rows, part=5, parts=2),
        replace(good_rows, parts=2**32 - 1),
        replace(good_rows, batches=(ExchangeBatch(2**32 - 1, EMPTY),)),
        replace(good_rows, batches=(ExchangeBatch(0, EMPTY),)),
        *(
            replace(good_rows, batches=(ExchangeBatch(exchange, batch),))
            for exchange in range(8)
            for batch in LYING_BATCHES
        ),
        EmptyRows("ledger", generation, HUGE, 2, 1, b"\x10"),
        EmptyRows("ledger", generation, 50, 99, 1, b"\x10"),
        EmptyRows("ledger", generation, 50, 2, 1, b"\xff" * 2**20),
        EmptyRows("ledger", generation, 50, 2, 9, b"\2"),
        replace(good_out, epoch=HUGE),
        replace(good_out, map_version=9),
        replace(good_out, targets=(NODES,)),
        replace(good_out, targets=(0, 0, 0)),
        replace(good_out, writes=(NodeWrites(3, ()),)),
        replace(good_out, writes=(NodeWrites(0, ()), NodeWrites(0, ()))),
        *(
            replace(
                good_out, writes=(NodeWrites(0, (WritesBlob(1, WriteKind.APPEND, (0, 1, 2), b, b"", b""),)),)
            )
            for b in LYING_BATCHES
        ),
        replace(good_out, snapshots=(SnapshotWanted(1, (77,), STRANGER),)),
        replace(good_out, snapshots=(SnapshotWanted(1, (0,), SCHEDULER),)),
        replace(good_out, subscriptions=(replace(wanted, views=(2**32 - 1,)),)),
        replace(good_out, subscriptions=(replace(wanted, reply_to=runner),)),
        Get(1, "ledger", 1, 0, 99, key("a1"), 0, STRANGER),
        Get(1, "ledger", 1, 0, 2, integer_batch(1), 0, STRANGER),  # a bag
        Get(1, "ledger", 1, NODES + 60, 1, key("a1"), 0, STRANGER),
        Get(1, "ledger", 1, 0, 1, EMPTY, 0, STRANGER),
        Get(1, "ledger", 1, 0, 1, key("a1"), HUGE, STRANGER),
        Get(1, "ledger", 1, 0, 1, key("a1"), 0, runner),
        Get(1, "ledger", 1, 0, 1, key("a1"), 0, "not a queue"),
        *(Get(1, "ledger", 1, 0, 1, batch, 0, STRANGER) for batch in LYING_BATCHES),
        AskChanges("ledger", 1, 0, 1, 3, AGENT),
        AskChanges("ledger", 1, NODES, 1, 3, STRANGER),
        AskChanges("ledger", 1, 0, 1, 0, STRANGER),
        HostNode(HUGE, "ledger", generation, even_map(2, ("x",)), 0, HUGE, graph),
        HostNode(HUGE, "ledger", 0, shard_map, 99, HUGE, graph),
        HostNode(HUGE, "new", 0, shard_map, 0, HUGE, b"garbage"),
        HostNode(HUGE, "new", 0, shard_map, 0, HUGE, graph),  # a graph of another name
        HostNode(HUGE, "new", 0, ShardMap(1, (), ()), 0, HUGE, graph),
        HostNode(HUGE, "ledger", 0, ShardMap(1, (5, 3), ("a", "b")), 0, HUGE, graph),
        HostSequencer(HUGE, "new", HUGE, shard_map, inboxes, b"", 0),
        HostSequencer(HUGE, "ledger", HUGE, shard_map, (), graph, 0),
        HostSequencer(HUGE, "ledger", HUGE, shard_map, ("no queue",) * NODES, graph, 0),
        PrepareNodes(HUGE, "ledger", HUGE, generation, ShardMap(1, (), ()), (0,), graph),
        PrepareNodes(HUGE, "ledger", HUGE, generation, shard_map, (NODES,), graph),
        PrepareNodes(HUGE, "ledger", HUGE, generation, shard_map, (0, 0), graph),
        PrepareNodes(HUGE, "ledger", HUGE, generation, shard_map, (0,), b"garbage"),
        PrepareNodes(HUGE, "new", HUGE, generation, shard_map, (0,), graph),  # a graph of another name
        replace(place, inboxes=(runner,)),
        replace(place, inboxes=("no queue",) * NODES),
        replace(place, generation=generation, shard_map=even_map(3, ("q",)), inboxes=(runner,)),
        replace(place, nodes_inbox=SCHEDULER),
    ]
    for name in WEIRD_NAMES:
        lies += [
            HostNode(HUGE, name, 0, shard_map, 0, HUGE, graph),
            HostSequencer(HUGE, name, HUGE, shard_map, inboxes, graph, 0),
            PrepareNodes(HUGE, name, HUGE, 0, shard_map, (0,), graph),
        ]
    return lies


def test_lies_to_runners_are_set_aside() -> None:
    """Shards, stages, views, epochs, counts, graphs, inboxes that cannot be: each is refused and kept with its reason,
    and the nodes go on."""

    async def fight(scene: Battle) -> None:
        for lie in lies_to_runner(scene.runner, scene.client.placement.generation):
            await scene.send_lie(scene.runner, lie)

    battle(fight)


def test_messages_for_what_is_not_here_are_dropped() -> None:
    """A runner drops what is for programs, nodes, generations and subscriptions that it does not have, and what readers
    ask by another shard map, which they may not have heard of yet, or still believe in."""
    away: list[Message] = [
        Get(1, "ledger", 8, 0, 1, key("a1"), 0, STRANGER),
        AskChanges("ledger", 9, 0, 1, 3, STRANGER),
        StageRows("nobodys", 0, 5, 2, 1, 1, 0, 0, 1, ()),
        Get(1, "nobodys", 1, 0, 1, key("a1"), 0, STRANGER),
        StageRows("ledger", 5, 5, 2, 1, 1, 0, 0, 1, ()),
        EmptyRows("ledger", 5, 50, 2, 1, b"\1"),
        EmptyRows("ledger", 0, 50, 2, 1, b""),
        HandOut("ledger", 5, 50, 1, False, 0, (0, 1, 2, 3), (), (), (), (), False, 0, False),
        AskChanges("ledger", 1, 0, 1, 3, STRANGER),
        AskChanges("ledger", 1, 2, HUGE, HUGE, GONE),
        Get(1, "ledger", 1, 0, 1, key("nobody"), 0, GONE),
        DropProgram(0, "ledger", 0),
        DropProgram(HUGE, "nobodys", HUGE),
        EndGeneration(0, "ledger", HUGE),
        EndGeneration(0, "nobodys", 1),
        PrepareNodes(0, "ledger", 1, 0, even_map(1, ("n1",)), (), b""),
        HostNode(
            0,
            "ledger",
            0,
            even_map(1, [f"n{i}" for i in range(1, NODES + 1)]),
            0,
            0,
            encode_graph(app.graph()),
        ),
    ]

    async def fight(scene: Battle) -> None:
        for message in away:
            await scene.send(scene.runner, message)
        await asyncio.sleep(5)
        assert not scene.refused()

    battle(fight)


def lies_to_sequencer(session: int, runner: str, nodes_inbox: str) -> list[Message]:
    """What a sequencer's clients could say and cannot mean. The first transaction of the session is committed, with
    writes; none behind the second is."""

    def transaction(number: int, payload: bytes) -> Transaction:
        return Transaction(session, number, payload, STRANGER)

    good = encode_payload([])
    return [
        Transaction(HUGE, 1, good, STRANGER),
        transaction(0, good),
        transaction(HUGE, good),
        transaction(1, good),  # a number that is committed with other writes
        *(
            transaction(3, encode(Payload((WritesBlob(0, kind, columns, batch, b"", b""),))))
            for kind in WriteKind
            for columns in ((), (0, 1, 2), (0,), (2**31,))
            for batch in LYING_BATCHES[:3]
        ),
        transaction(3, b""),
        transaction(3, b"x" * 2**23),
        Transaction(session, 3, good, SCHEDULER),
        Transaction(session, 3, good, "no queue"),
        SnapshotRequest(1, (), STRANGER),
        SnapshotRequest(2, ("nothing",), STRANGER),
        SnapshotRequest(3, ("rich",), CLIENTS),
        Subscribe(4, ("nothing",), 0, STRANGER),
        Subscribe(5, ("rich",), 0, runner),
        AwaitEpoch(6, HUGE, STRANGER),
        AwaitEpoch(7, 1, nodes_inbox),
        *(OpenSession(9, name, STRANGER) for name in WEIRD_NAMES),
        OpenSession(10, "fine", AGENT),
    ]


LIES_OF_NODES = (
    Done("ledger", 0, 1, 0, HUGE),
    Done("ledger", 0, 1, NODES, 1),
    Done("ledger", 0, 9, 0, 1),
    Done("other", 0, 1, 0, 1),
)


def test_lies_to_a_sequencer_are_refused() -> None:
    """Writers and readers that lie get no answer or a refusal, leave no trace in the log, and hold up nobody."""

    async def fight(scene: Battle) -> None:
        log = await log_of(scene.system.store, "ledger")
        session = next(o for o in [(r.epoch << 20) for r in log if r.opens])
        for lie in lies_to_sequencer(session, scene.runner, scene.nodes_inbox):
            await scene.send(CLIENTS, lie)
            await asyncio.sleep(0.2)
        for done in LIES_OF_NODES:
            await scene.send_lie(scene.nodes_inbox, done)
        await asyncio.sleep(20)
        stuck = {name: depth for name, depth in scene.system.broker.depths().items() if depth.unacked}
        assert not stuck, f"messages that nobody settles: {stuck}"
        after = await log_of(scene.system.store, "ledger")
        assert not any(r.transactions or r.opens or r.snapshots or r.subscriptions for r in after[len(log) :])

    battle(fight)


def test_readers_that_do_not_exist_are_forgotten() -> None:
    """Snapshots and subscriptions for inboxes that are gone cost an epoch or two, and nothing is stuck."""

    async def fight(scene: Battle) -> None:
        for request in range(5):
            await scene.send(
                CLIENTS,
                SnapshotRequest(request, ("rich", "rich"), GONE),
                Subscribe(10 + request, ("rich", "bag"), 0, GONE),
                Subscribe(20 + request, ("towns",), HUGE, GONE),
                Unsubscribe(HUGE),
                AwaitEpoch(request, 1, GONE),
                Transaction(1, 1, b"", GONE),
            )
            await asyncio.sleep(1)
        assert not scene.refused()

    battle(fight)


def lies_to_scheduler(runner: str) -> list[Message]:
    """Requests and reports that cannot be."""
    graph = encode_graph(app.graph())
    return [
        SubmitProgram(1, b"garbage", 1, STRANGER),
        SubmitProgram(2, graph, 0, STRANGER),
        SubmitProgram(3, graph, 2**32 - 1, STRANGER),
        SubmitProgram(4, graph, 1, runner),
        MachineReport("m1", HUGE, "no queue", 1, 1, (), ()),
        MachineReport("m1", 0, AGENT, 2, 1, (), ()),
        RunnerReport("m1-r1", 0, "m1", runner, (), ()),
        *lies_of_runner(runner),
        *(Locate(5, name, STRANGER) for name in WEIRD_NAMES),
        *(RemoveProgram(6, name, STRANGER) for name in WEIRD_NAMES),
        *(AutoscaleProgram(7, name, NodeLimits(1, 2, 0), None, STRANGER) for name in WEIRD_NAMES),
        AutoscaleProgram(8, "ledger", None, None, STRANGER),
        AutoscaleProgram(9, "ledger", NodeLimits(0, 0, 0), None, STRANGER),
        AutoscaleProgram(10, "ledger", NodeLimits(1, 2**32 - 1, 1), None, STRANGER),
        AutoscaleProgram(11, "ledger", NodeLimits(1, 1, 1), MachineLimits(2**32 - 1, 2**32 - 1), STRANGER),
        AutoscaleProgram(12, "ledger", NodeLimits(1, 1, 1), MachineLimits(0, 0), STRANGER),
        AutoscaleProgram(13, "ledger", NodeLimits(1, 1, 1), None, runner),
    ]


def lies_of_runner(runner: str) -> list[Message]:
    """Reports in the name of a runner that is there, of nodes that cannot be prepared."""
    incarnation = int(runner.rpartition(".")[2])
    prepared = [
        (PreparedStatus("no name", 1, 0, 1, ready=True),),
        (PreparedStatus("ledger", 1, 2**31, 1, ready=True),),
        (PreparedStatus("ledger", 1, 0, 1, ready=True), PreparedStatus("ledger", 1, 0, 2, ready=False)),
    ]
    return [RunnerReport("m1-r1", incarnation, "m1", runner, (), (), each) for each in prepared]


def lies_to_agent() -> list[Message]:
    """Commands of a scheduler that has been deposed, about runners that cannot be."""
    return [
        message for name in WEIRD_NAMES for message in (StartRunner(0, name, 1, 1), StopRunner(0, name, 1))
    ]


def test_lies_to_the_scheduler_and_the_agent_change_nothing() -> None:
    """Requests and reports that cannot be, and commands of schedulers and runners that do not exist."""

    async def fight(scene: Battle) -> None:
        for lie in lies_to_scheduler(scene.runner):
            await scene.send(SCHEDULER, lie)
        for lie in lies_to_agent():
            await scene.send(AGENT, lie)
        await asyncio.sleep(5)
        assert await scene.client.snapshot("rich")

    battle(fight)


def lies_to_client(request: int, subscription: int, epoch: int) -> list[Message]:
    """Answers that were not asked for, or that cannot be, when this is the newest epoch that a watch was told."""
    rows = (ViewRows(1, EMPTY),)
    return [
        Committed(HUGE, HUGE, HUGE),
        Got(HUGE, HUGE, EMPTY),
        SnapshotAnswer(HUGE, 0, 3, 1, 0, 1, 0, 1, rows, (), ()),
        SnapshotAnswer(1, 0, 3, 1, 9, 1, 0, 1, rows, (), ()),
        Changes(request, subscription, HUGE, 1, 0, 2**32 - 1, 0, 1, ()),
        Changes(request, subscription, epoch + 1, 1, 7, 4, 0, 1, ()),
        Changes(request, subscription, epoch + 1, 1, 0, 4, 0, 0, ()),
        Changes(request, subscription, epoch + 1, 1, 0, 4, 0, 1, (ViewRows(1, LYING_BATCHES[0]),)),
        ChangesGone(HUGE, HUGE, HUGE),
        HandOut("ledger", 0, 50, 1, False, 0, (0,), (), (), (), (), False, 0, False),
    ]


def test_lies_to_a_client_are_dropped() -> None:
    """What claims to be an answer and was not asked for, or cannot be, changes nothing that the client shows."""

    async def fight(scene: Battle) -> None:
        inbox = scene.client.replies
        seen: list[int] = []

        async def watch() -> None:
            with scene.client.watch_stored((0, 1, 2)) as changes:
                async for change in changes:
                    seen.append(change.epoch)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(5)
        request = next(iter(scene.client.watches))
        subscription = scene.client.watches[request].subscription
        for lie in lies_to_client(request, subscription, seen[-1]):
            await scene.send(inbox, lie)
        await asyncio.sleep(5)
        epoch = await scene.client.put("accounts", {"name": "after", "town": 1, "money": 7})
        await asyncio.sleep(10)
        assert seen[-1] >= epoch
        watching.cancel()

    battle(fight)
