"""The mailbox: nothing that is sent gets lost, nothing settled comes again, and rubbish is set aside for good."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dist_zero_common.aside import Aside
from dist_zero_common.broker.base import Broker, ConnectionState, Queue, QueueKind
from dist_zero_common.broker.memory import MemoryBroker, MemoryConnection
from dist_zero_common.clock import LoopClock
from dist_zero_common.errors import BrokerError, ConnectionLost, MalformedMessage, first_error
from dist_zero_common.log import get_logger
from dist_zero_common.mailbox import WINDOW_ENVELOPES, Mailbox, Token
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.envelope import Envelope, Message
from dist_zero_common.protocol.messages.writing import Committed, Transaction
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld
from dist_zero_common.store.memory import MemoryStore


@asynccontextmanager
async def running(mailbox: Mailbox) -> AsyncIterator[Mailbox]:
    """A mailbox that moves messages while the block runs."""
    task = asyncio.create_task(mailbox.run())
    try:
        yield mailbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Keep:
    """Takes messages, and settles them at once if it is told to."""

    def __init__(self, settle: Callable[[Token], None] | None = None) -> None:
        self.messages: list[Message] = []
        self.tokens: list[Token] = []
        self._settle = settle

    def __call__(self, message: Message, token: Token) -> None:
        self.messages.append(message)
        self.tokens.append(token)
        if self._settle is not None:
            self._settle(token)


def mailbox(broker: MemoryBroker, name: str, aside: list[tuple[str, bytes, str]] | None = None) -> Mailbox:
    """A mailbox of the system `s`; what it sets aside goes into `aside`."""
    refused = aside if aside is not None else []
    return Mailbox(
        broker.connector(name), system="s", sender=name, set_aside=lambda q, b, r: refused.append((q, b, r))
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in virtual time, until something holds."""
    async with asyncio.timeout(3600):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("profile", ["calm", "faithful", "hostile"])
def test_everything_sent_arrives_and_is_batched(profile: str) -> None:
    """Each message comes at least once, unchanged, in far fewer envelopes than messages; settled, none is left."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(7, profile))
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sent = [Transaction(1, n, b"x" * (n % 5000), "me") for n in range(1, 501)]
            for message in sent:
                sender.send("dz.s.runner.b", message)
            await sender.wait_sent()
            await until(lambda: len(set(keep.messages)) == 500)
            assert set(keep.messages) == set(sent)
            assert sender.counters["envelopes"] < 50
            await until(lambda: broker.depths()["dz.s.runner.b"].unacked == 0)

    run_simulation(scenario())


def test_a_lone_message_leaves_at_once() -> None:
    """With nothing under way, a message is an envelope of its own and waits for nobody."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            for n in range(3):
                before = asyncio.get_running_loop().time()
                sender.send("dz.s.runner.b", Committed(1, n, 1))
                while len(keep.messages) <= n:
                    await asyncio.sleep(0)
                assert asyncio.get_running_loop().time() == before

    run_simulation(scenario())


def test_unsettled_messages_come_again() -> None:
    """A delivery is acked when all its messages are settled; otherwise the next consumer gets all of them."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender = mailbox(broker, "a")
        first, second = mailbox(broker, "b"), mailbox(broker, "c")
        early, late = Keep(), Keep()
        async with running(sender):
            async with running(first):
                await first.listen(Queue("dz.s.runner.b"), early)
                for n in range(10):
                    sender.send("dz.s.runner.b", Committed(1, n, 1))
                await until(lambda: len(early.messages) == 10)
                for token in early.tokens[:-1]:
                    first.settle(token)
                await first.stop_listening("dz.s.runner.b", early)
            async with running(second):
                await second.listen(Queue("dz.s.runner.b"), late)
                await until(lambda: bool(late.messages))
                assert early.messages[-1] in late.messages

    run_simulation(scenario())


def test_who_stops_listening_leaves_others_alone() -> None:
    """Somebody else of the same process may listen to the queue by then: a sequencer that takes over from another."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        early, late = Keep(receiver.settle), Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), early)
            await receiver.listen(Queue("dz.s.runner.b"), late)
            await receiver.stop_listening("dz.s.runner.b", early)
            await receiver.stop_listening("dz.s.runner.b", early)
            for n in range(10):
                sender.send("dz.s.runner.b", Committed(1, n, 1))
            await until(lambda: len(late.messages) == 10)
            assert not early.messages

    run_simulation(scenario())


def test_shared_token_is_settled_by_all() -> None:
    """A token shared by three is settled when all three are, and not before."""

    async def scenario() -> None:
        broker = MemoryBroker()
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep()
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sender.send("dz.s.runner.b", Committed(1, 1, 1))
            await until(lambda: bool(keep.tokens))
            shares = receiver.share(keep.tokens[0], 3)
            for token in shares[:2]:
                receiver.settle(token)
            assert broker.depths()["dz.s.runner.b"].unacked == 1
            receiver.settle(shares[2])
            assert broker.depths()["dz.s.runner.b"].unacked == 0

    run_simulation(scenario())


def test_own_inbox_does_not_touch_the_broker() -> None:
    """What a process sends to itself is handed over as it is."""

    async def scenario() -> None:
        broker = MemoryBroker()
        alone = mailbox(broker, "a")
        keep = Keep(alone.settle)
        async with running(alone):
            await alone.listen(Queue("dz.s.runner.a"), keep)
            message = Committed(1, 2, 3)
            alone.send("dz.s.runner.a", message)
            await until(lambda: bool(keep.messages))
            assert keep.messages[0] is message
            assert broker.depths()["dz.s.runner.a"].published == 0

    run_simulation(scenario())


def test_rubbish_is_set_aside_once_and_never_comes_again() -> None:
    """Undecodable bytes, other systems' envelopes and refused messages are kept with the reason; the rest goes on."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(3, "faithful"))
        aside: list[tuple[str, bytes, str]] = []
        receiver = mailbox(broker, "b", aside)
        good: list[Message] = []

        def handler(message: Message, token: Token) -> None:
            if message == Committed(6, 6, 6):
                raise MalformedMessage("not this one")
            good.append(message)
            receiver.settle(token)

        other = broker.connect()
        whole = encode(Envelope("s", "x", (Committed(1, 1, 1), Committed(6, 6, 6), Committed(2, 2, 2))))
        bad = [b"", b"rubbish", whole[:-8], whole[:40] + b"\xff" + whole[41:], encode(Envelope("t", "x", ()))]
        async with running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), handler)
            for body in [*bad, whole]:
                await other.publish("dz.s.runner.b", body)
            await until(lambda: len(good) == 2 and len(aside) == 6)
            await until(lambda: broker.depths()["dz.s.runner.b"].unacked == 0)
            assert Counter(body for _, body, _ in aside) == Counter([*bad, whole])
            assert any("not this one" in reason for _, _, reason in aside)
            assert any("'t'" in reason for _, _, reason in aside)
            assert broker.depths()["dz.s.runner.b"].waiting == 0

    run_simulation(scenario())


def test_missing_inbox_is_told_and_forgotten() -> None:
    """Sending to an inbox that does not exist calls `on_unroutable`, and later messages there are tried afresh."""

    async def scenario() -> None:
        broker = MemoryBroker()
        gone: list[str] = []
        sender = Mailbox(
            broker.connector("a"),
            system="s",
            sender="a",
            set_aside=lambda *_: None,
            on_unroutable=gone.append,
        )
        receiver = mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            sender.send("dz.s.runner.b", Committed(1, 1, 1))
            await until(lambda: gone == ["dz.s.runner.b"])
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sender.send("dz.s.runner.b", Committed(2, 2, 2))
            await until(lambda: keep.messages == [Committed(2, 2, 2)])

    run_simulation(scenario())


def test_set_aside_keeps_the_bytes_and_the_reason_in_the_store() -> None:
    """The same bytes are kept once, with queue and reason, and a large message is cut."""

    async def scenario() -> None:
        store = MemoryStore()
        aside = Aside(store, "runner-1", get_logger("test", LoopClock(0)))
        aside("dz.q", b"abc", "no message")
        aside("dz.q", b"abc", "no message")
        aside("dz.q", b"y" * 2**20, "too large")
        await aside.wait_kept()
        names = await store.list("aside/")
        assert len(names) == 2 and aside.count == 3
        kept = [await store.read(name) or b"" for name in names]
        small = min(kept, key=len)
        assert small.endswith(b"\n\nabc") and b"reason: no message" in small and b"queue: dz.q" in small
        assert max(map(len, kept)) < 2**17

    run_simulation(scenario())


# ---- connections -------------------------------------------------------------------------------------------------


class Line:
    """Makes a mailbox's connections, and keeps the newest one; while `away` says why, none can be made."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.away: BrokerError | None = None
        self.newest: MemoryConnection
        self.made = 0
        self.states: list[tuple[ConnectionState, str]] = []

    async def connect(self) -> Broker:
        if self.away is not None:
            raise self.away
        self.made += 1
        self.newest = self.broker.connect(f"line-{self.made}")
        return self.newest

    def mailbox(self, sender: str = "b") -> Mailbox:
        return Mailbox(
            self.connect,
            system="s",
            sender=sender,
            set_aside=lambda *_: None,
            on_state=lambda state, reason: self.states.append((state, reason)),
        )


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_with_a_connection(seed: int) -> None:
    """Sender and receiver lose their connections again and again: each message comes at least once, tokens of dead
    deliveries may be settled, and in the end none is left."""

    async def scenario() -> None:
        world = SimWorld(seed, "hostile" if seed % 2 else "faithful")
        broker = MemoryBroker(world)
        sending, receiving = Line(broker), Line(broker)
        sender, receiver = sending.mailbox("a"), receiving.mailbox("b")
        keep, rng = Keep(), world.rng("test")
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sent = [Transaction(1, n, b"x" * (n % 50_000), "me") for n in range(1, 301)]
            for message in sent:
                sender.send("dz.s.runner.b", message)
                if rng.random() < 0.1:
                    await asyncio.sleep(rng.random())
                    rng.choice((sending, receiving)).newest.drop_connection()
                for token in keep.tokens[:]:
                    if rng.random() < 0.1:  # some late, with a delivery that died meanwhile
                        receiver.settle(token)
                        keep.tokens.remove(token)
            await sender.wait_sent()
            await until(lambda: set(keep.messages) == set(sent))
            for token in keep.tokens:
                receiver.settle(token)
            keep.tokens.clear()
            keep._settle = receiver.settle
            await until(lambda: not broker.depths()["dz.s.runner.b"].unacked)
            assert sending.made + receiving.made > 10

    run_simulation(scenario())


def test_the_owner_hears_of_its_connection() -> None:
    """Connected, lost with the reason, away with the reason, connected; a queue of replies has a new name each time."""

    async def scenario() -> None:
        line = Line(MemoryBroker())
        mailbox = line.mailbox()
        names: list[str] = []

        def name_queue(connection: int) -> Queue:
            names.append(f"dz.s.replies.b-{connection}")
            return Queue(names[-1], QueueKind.REPLIES)

        async with running(mailbox):
            await mailbox.listen(name_queue, Keep(mailbox.settle))
            line.away = ConnectionLost("nobody listens at that port")
            line.newest.drop_connection("the cable was cut")
            await until(lambda: len(line.states) == 5)
            line.away = None
            await until(lambda: mailbox.state is ConnectionState.CONNECTED)
        assert line.states[:3] == [
            (ConnectionState.CONNECTED, ""),
            (ConnectionState.LOST, "the cable was cut"),
            (ConnectionState.LOST, "nobody listens at that port"),
        ]
        assert names == ["dz.s.replies.b-1", "dz.s.replies.b-2"]

    run_simulation(scenario())


def test_a_broker_that_refuses_ends_the_mailbox() -> None:
    """A wrong password does not get better: whoever listens hears it, and `run` ends with it."""

    async def scenario() -> None:
        line = Line(MemoryBroker())
        line.away = BrokerError("the user is refused")
        mailbox = line.mailbox()
        run = asyncio.create_task(mailbox.run())
        with pytest.raises(BrokerError, match="is refused"):
            await mailbox.listen(Queue("dz.s.runner.b"), Keep())
        with pytest.raises(ExceptionGroup) as ended:
            await run
        assert first_error(ended.value) is line.away
        assert line.made == 0

    run_simulation(scenario())


def test_an_alarm_holds_everything_back_and_goes_by() -> None:
    """While the broker takes nothing the owner hears why; then all goes."""

    async def scenario() -> None:
        broker = MemoryBroker()
        line = Line(broker)
        sender, receiver = line.mailbox("a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            await until(lambda: sender.state is ConnectionState.CONNECTED)
            broker.raise_alarm("memory is short")
            for n in range(10):
                sender.send("dz.s.runner.b", Committed(1, n, 1))
                await asyncio.sleep(1)
            assert line.states[-1] == (ConnectionState.BLOCKED, "memory is short")
            assert not keep.messages
            broker.clear_alarm()
            await until(lambda: len(keep.messages) == 10)
            assert line.states[-1] == (ConnectionState.CONNECTED, "")
            assert sender.counters["envelopes"] <= 2

    run_simulation(scenario())


def test_windows_hold_little_and_let_much_through() -> None:
    """While an envelope is on its way, a little waits for it; much does not, but for no more than the window."""

    async def scenario() -> None:
        world = SimWorld(1, Weather("slow", transit=Delay(1.0)))
        broker = MemoryBroker(world)
        sender, receiver = mailbox(broker, "a"), mailbox(broker, "b")
        keep = Keep(receiver.settle)
        async with running(sender), running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), keep)
            sender.send("dz.s.runner.b", Committed(1, 0, 1))
            for n in range(10):
                await asyncio.sleep(0.0001)
                sender.send("dz.s.runner.b", Committed(1, n, 1))
            assert sender.counters["envelopes"] == 1
            for n in range(100):
                await asyncio.sleep(0.0001)
                sender.send("dz.s.runner.b", Transaction(1, n, b"x" * 70_000, "me"))
            assert sender.counters["envelopes"] == WINDOW_ENVELOPES
            await sender.wait_sent()
            await until(lambda: len(keep.messages) >= 111)
            assert sender.counters["envelopes"] < 30

    run_simulation(scenario())


def test_who_stops_listening_while_a_connection_is_set_up_is_not_consumed_for() -> None:
    """Found by `dist-zero test examples/payments.py --seed 47`: a sequencer was stopped just when its runner's new
    connection was being set up, and was listened for all the same; half of its successor's messages went to it."""

    async def scenario() -> None:
        broker = MemoryBroker(SimWorld(3, Weather("slow", transit=Delay(0.1))))
        receiver = mailbox(broker, "b")
        first, second = Keep(receiver.settle), Keep(receiver.settle)
        async with running(receiver):
            await receiver.listen(Queue("dz.s.runner.b"), first)
            await receiver.listen(Queue("dz.s.runner.c"), second)
            broker.connections[0].drop_connection()
            await until(lambda: bool(broker.connections))
            await receiver.stop_listening("dz.s.runner.c", second)
            await asyncio.sleep(10)
            assert len(broker.queues["dz.s.runner.b"].consumers) == 1
            assert not broker.queues["dz.s.runner.c"].consumers

    run_simulation(scenario())
