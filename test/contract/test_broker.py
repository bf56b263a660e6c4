"""What every broker promises, held against every broker: `broker/base.py`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_zero_common.broker.base import (
    Broker,
    ConnectionState,
    Consumer,
    Delivery,
    Queue,
    QueueDepth,
    QueueKind,
)
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable
from test.contract.brokers import BROKERS, RABBITMQ, BrokerHarness, Server, rabbitmq_harness

INBOX = Queue("dz.test.runner.r.1")
REPLIES = Queue("dz.test.replies.c", QueueKind.REPLIES)


@pytest.fixture(scope="module", params=[*BROKERS, RABBITMQ], ids=lambda of: getattr(of, "name", of))
def harness(request: pytest.FixtureRequest) -> BrokerHarness:
    """A broker to hold the contract against; RabbitMQ only where there is Docker."""
    if request.param == RABBITMQ:
        return rabbitmq_harness(request.getfixturevalue("rabbitmq"))
    assert isinstance(request.param, BrokerHarness)
    return request.param


class Reader:
    """A consumer that notes what it gets and leaves acking to the test."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.consumer: Consumer
        self._news = asyncio.Event()

    async def start(self, broker: Broker, queue: str = INBOX.name, prefetch: int = 0) -> Reader:
        self.consumer = await broker.consume(queue, self._note, prefetch)
        return self

    def _note(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._news.set()

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    def ack_all(self) -> None:
        self.consumer.ack([delivery.tag for delivery in self.deliveries])

    async def until(self, satisfied: Callable[[], bool]) -> None:
        """Wait until the deliveries are as they should be; the suite's time limit bounds it."""
        while not satisfied():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 600)

    async def until_seen(self, bodies: list[bytes]) -> None:
        await self.until(lambda: set(bodies) <= set(self.bodies()))


def numbered(count: int) -> list[bytes]:
    return [f"{number}".encode() for number in range(count)]


def test_a_confirmed_message_is_delivered(harness: BrokerHarness) -> None:
    """Every confirmed message reaches a consumer: published before it came or after, empty or large."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        await broker.declare(INBOX)
        bodies = [b"", b"before", b"x" * 1_000_000, b"after"]
        await other.publish(INBOX.name, bodies[0])
        await other.publish(INBOX.name, bodies[1])
        reader = await Reader().start(broker)
        await other.publish(INBOX.name, bodies[2])
        await other.publish(INBOX.name, bodies[3])
        await reader.until_seen(bodies)
        assert {delivery.queue for delivery in reader.deliveries} == {INBOX.name}
        if harness.keeps_order:
            assert reader.bodies() == bodies
        if not harness.delivers_twice:
            assert not any(delivery.redelivered for delivery in reader.deliveries)

    harness.run(scenario)


def test_tags_are_unique_to_a_consumer(harness: BrokerHarness) -> None:
    """No two deliveries of one consumer carry the same tag."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        reader = await Reader().start(broker)
        for body in numbered(50):
            await broker.publish(INBOX.name, body)
        await reader.until_seen(numbered(50))
        tags = [delivery.tag for delivery in reader.deliveries]
        assert len(set(tags)) == len(tags)

    harness.run(scenario)


def test_publishing_to_a_missing_queue_is_unroutable(harness: BrokerHarness) -> None:
    """Nobody is told that a message arrived that reached nobody; the connection stays usable."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        with pytest.raises(Unroutable, match=r"dz\.test\.runner\.r\.1"):
            await broker.publish(INBOX.name, b"x")
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"x")
        await broker.delete(INBOX.name)
        with pytest.raises(Unroutable):
            await broker.publish(INBOX.name, b"x")

    harness.run(scenario)


def test_declaring_twice_is_declaring_once(harness: BrokerHarness) -> None:
    """A second declaration, by anybody, leaves the queue and what it holds as they are."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"x")
        await broker.declare(INBOX)
        await other.declare(INBOX)
        await (await Reader().start(other)).until_seen([b"x"])
        with pytest.raises(BrokerError):
            await other.declare(Queue(INBOX.name, QueueKind.REPLIES))

    harness.run(scenario)


def test_deleting_a_queue_removes_what_it_holds(harness: BrokerHarness) -> None:
    """A queue declared anew under the name of a deleted one is empty; deleting a missing one is no error."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.delete(INBOX.name)
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"old")
        await server.quiet()
        await broker.delete(INBOX.name)
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"new")
        reader = await Reader().start(broker)
        await reader.until_seen([b"new"])
        assert b"old" not in reader.bodies()

    harness.run(scenario)


def test_a_consumer_of_a_deleted_queue_hears_no_more(harness: BrokerHarness) -> None:
    """Deleting under a consumer ends it quietly: its acks and its cancelling do nothing."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        reader = await Reader().start(broker)
        await broker.publish(INBOX.name, b"x")
        await reader.until_seen([b"x"])
        await server.quiet()
        await broker.delete(INBOX.name)
        reader.ack_all()
        await reader.consumer.cancel()
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"y")
        await (await Reader().start(broker)).until_seen([b"y"])
        assert b"y" not in reader.bodies()

    harness.run(scenario)


def test_unacked_messages_come_again(harness: BrokerHarness) -> None:
    """What was delivered and not acked is delivered anew after cancel, close and loss, marked so."""

    async def scenario(server: Server) -> None:
        for end in ("cancel", "close", "cut"):
            broker = await server.connect()
            await broker.declare(INBOX)
            reader = await Reader().start(broker)
            for body in numbered(10):
                await broker.publish(INBOX.name, body)
            await reader.until_seen(numbered(10))
            if end == "cancel":
                await reader.consumer.cancel()
            elif end == "close":
                await broker.close()
            else:
                await server.cut(broker)
            broker = await server.connect()
            again = await Reader().start(broker)
            await again.until_seen(numbered(10))
            assert {d.body for d in again.deliveries if d.redelivered} == set(numbered(10))
            if harness.keeps_order:
                assert again.bodies() == numbered(10)
            await server.quiet()
            await broker.delete(INBOX.name)

    harness.run(scenario)


def test_acked_messages_never_come_again(harness: BrokerHarness) -> None:
    """After the loss of a connection only the unacked ones return (all may, where the broker doubles)."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        reader = await Reader().start(broker)
        for body in numbered(20):
            await broker.publish(INBOX.name, body)
        await reader.until_seen(numbered(20))
        kept = {b"3", b"7", b"19"}
        reader.consumer.ack([d.tag for d in reader.deliveries if d.body not in kept])
        await server.quiet()
        await server.cut(broker)
        broker = await server.connect()
        again = await Reader().start(broker)
        await again.until_seen(sorted(kept))
        await server.quiet()
        assert set(again.bodies()) == kept or harness.delivers_twice

    harness.run(scenario)


def test_prefetch_bounds_what_is_unacked(harness: BrokerHarness) -> None:
    """A consumer never holds more than `prefetch` unacked deliveries, and acking brings the next ones."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        for body in numbered(10):
            await broker.publish(INBOX.name, body)
        reader = await Reader().start(broker, prefetch=3)
        await reader.until(lambda: len(reader.deliveries) == 3)
        await server.quiet()
        assert len(reader.deliveries) == 3
        reader.consumer.ack([reader.deliveries[1].tag])
        await reader.until(lambda: len(reader.deliveries) == 4)
        await server.quiet()
        assert len(reader.deliveries) == 4

    harness.run(scenario)


def test_consumers_of_one_queue_share_its_messages(harness: BrokerHarness) -> None:
    """Each message goes to one of them, and none is left waiting while one has credit."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        readers = [await Reader().start(broker, prefetch=5) for _ in range(2)]
        for body in numbered(10):
            await broker.publish(INBOX.name, body)
        await server.quiet()
        assert [len(reader.deliveries) for reader in readers] == [5, 5]
        if not harness.delivers_twice:
            assert sorted(readers[0].bodies() + readers[1].bodies()) == numbered(10)

    harness.run(scenario)


def test_replies_go_with_their_connection(harness: BrokerHarness) -> None:
    """Others may publish to a `REPLIES` queue and nothing else; when its connection ends it is gone."""

    async def scenario(server: Server) -> None:
        for end in ("close", "cut"):
            client, service = await server.connect(), await server.connect()
            await client.declare(REPLIES)
            reader = await Reader().start(client, REPLIES.name)
            await service.publish(REPLIES.name, b"answer")
            await reader.until_seen([b"answer"])
            with pytest.raises(BrokerError):
                await service.consume(REPLIES.name, reader.deliveries.append, 0)
            await (client.close() if end == "close" else server.cut(client))
            with pytest.raises(Unroutable):
                await service.publish(REPLIES.name, b"too late")

    harness.run(scenario)


def test_an_inbox_outlives_its_connection(harness: BrokerHarness) -> None:
    """An `INBOX` and what it holds are there after whoever declared and filled it is gone."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"x")
        await broker.close()
        await (await Reader().start(await server.connect())).until_seen([b"x"])

    harness.run(scenario)


def test_the_loss_of_a_connection_is_heard(harness: BrokerHarness) -> None:
    """Callbacks hear it, `state` says it, every call raises it, acks do nothing, and nothing is delivered."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        heard: list[ConnectionState] = []
        broker.on_connection(heard.append)
        await broker.declare(INBOX)
        reader = await Reader().start(broker)
        await broker.publish(INBOX.name, b"x")
        await reader.until_seen([b"x"])
        await server.quiet()
        await server.cut(broker)
        count = len(reader.deliveries)
        await other.publish(INBOX.name, b"y")
        await server.quiet()
        assert heard == [ConnectionState.LOST] and broker.state is ConnectionState.LOST
        assert len(reader.deliveries) == count
        reader.ack_all()
        for refused in (
            broker.declare(INBOX),
            broker.publish(INBOX.name, b""),
            broker.consume(INBOX.name, reader.deliveries.append, 0),
            broker.delete(INBOX.name),
        ):
            with pytest.raises(ConnectionLost):
                await refused
        await (await Reader().start(other)).until_seen([b"x", b"y"])

    harness.run(scenario)


def test_closing_is_heard_and_final(harness: BrokerHarness) -> None:
    """`CLOSED` is told once, however often the connection is closed, and it is not usable afterwards."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        heard: list[ConnectionState] = []
        broker.on_connection(heard.append)
        await broker.close()
        await broker.close()
        assert heard == [ConnectionState.CLOSED] and broker.state is ConnectionState.CLOSED
        with pytest.raises(ConnectionLost):
            await broker.publish(INBOX.name, b"")

    harness.run(scenario)


def test_a_publish_in_flight_at_the_loss_is_unknown(harness: BrokerHarness) -> None:
    """It raises `ConnectionLost` or returns, never hangs; what returned was confirmed and is delivered."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        await broker.declare(INBOX)
        publishes = [asyncio.create_task(broker.publish(INBOX.name, body)) for body in numbered(30)]
        await asyncio.sleep(0.001)
        await server.cut(broker)
        outcomes = await asyncio.gather(*publishes, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), ConnectionLost}
        confirmed = [body for body, outcome in zip(numbered(30), outcomes, strict=True) if outcome is None]
        await (await Reader().start(other)).until_seen(confirmed)

    harness.run(scenario)


def test_a_consumer_hears_that_somebody_else_deleted_its_queue(harness: BrokerHarness) -> None:
    """It would wait for ever: whoever consumes a queue that others delete loses the connection, with the reason."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        heard = asyncio.Event()
        await broker.declare(INBOX)
        await Reader().start(broker)
        broker.on_connection(lambda _: heard.set())
        await other.delete(INBOX.name)
        await heard.wait()
        assert broker.state is ConnectionState.LOST and INBOX.name in broker.reason

    harness.run(scenario)


def test_depth_says_how_a_queue_is_doing(harness: BrokerHarness) -> None:
    """Waiting messages and consumers are counted, delivered ones wait no more; there is no depth of no queue."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        assert await broker.depth(INBOX.name) is None
        await broker.declare(INBOX)
        assert await broker.depth(INBOX.name) == QueueDepth(0, 0)
        for body in numbered(5):
            await broker.publish(INBOX.name, body)
        await server.quiet()
        depth = await other.depth(INBOX.name)
        assert depth is not None and depth.consumers == 0
        assert depth.waiting == 5 or (harness.delivers_twice and depth.waiting > 5)
        reader = await Reader().start(broker, prefetch=2)
        await reader.until(lambda: len(reader.deliveries) == 2)
        await server.quiet()
        assert await other.depth(INBOX.name) == QueueDepth(depth.waiting - 2, 1)
        await reader.consumer.cancel()
        await server.quiet()
        assert await other.depth(INBOX.name) == depth
        await broker.declare(REPLIES)
        with pytest.raises(BrokerError):
            await other.depth(REPLIES.name)

    harness.run(scenario)


def test_a_refused_connection_is_an_error_that_trying_again_does_not_help(harness: BrokerHarness) -> None:
    """Who has no right to connect is told so, and not that the connection was lost."""

    async def scenario(server: Server) -> None:
        with pytest.raises(BrokerError, match="refuses") as raised:
            await server.refused()()
        assert not isinstance(raised.value, ConnectionLost)

    harness.run(scenario)


def test_a_broker_that_cannot_be_reached_may_be_later(harness: BrokerHarness) -> None:
    """`ConnectionLost` while it is away; the same connector makes connections when it is back, a new one each time."""

    async def scenario(server: Server) -> None:
        async with server.unreachable() as connect:
            for _ in range(3):
                with pytest.raises(ConnectionLost):
                    await connect()
            broker = await server.connect()
            await broker.declare(INBOX)

    harness.run(scenario)


def test_a_connection_made_anew_goes_on_where_the_lost_one_ended(harness: BrokerHarness) -> None:
    """Declared, consumed and published again on another connection, all is as before; the lost one stays lost."""

    async def scenario(server: Server) -> None:
        published = numbered(12)
        lost = await server.connect()
        await lost.declare(INBOX)
        for start in (0, 4, 8):
            broker = await server.connect()
            await broker.declare(INBOX)
            reader = await Reader().start(broker)
            for body in published[start : start + 4]:
                await broker.publish(INBOX.name, body)
            await reader.until_seen(published[: start + 4])
            await server.quiet()
            await server.cut(broker)
            lost = broker
        assert lost.state is ConnectionState.LOST and lost.reason
        last = await Reader().start(await server.connect())
        await last.until_seen(published)

    harness.run(scenario)


def test_an_alarm_holds_up_publishes_and_nothing_else(harness: BrokerHarness) -> None:
    """While the broker is short of memory who publishes is `BLOCKED`, with the reason, and waits; acks, deliveries and
    declarations go on; afterwards what waited is confirmed, and delivered."""

    async def scenario(server: Server) -> None:
        broker, other = await server.connect(), await server.connect()
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"before")
        heard: list[ConnectionState] = []
        broker.on_connection(heard.append)
        blocked = asyncio.Event()
        broker.on_connection(lambda _: blocked.set())
        async with server.alarm():
            publishes = [asyncio.create_task(broker.publish(INBOX.name, body)) for body in numbered(3)]
            await blocked.wait()
            assert broker.state is ConnectionState.BLOCKED and broker.reason
            reader = await Reader().start(broker)
            await reader.until_seen([b"before"])
            reader.ack_all()
            await broker.declare(REPLIES)
            await server.quiet()
            assert not any(publish.done() for publish in publishes)
            assert other.state is ConnectionState.CONNECTED
        await asyncio.gather(*publishes)
        await reader.until_seen(numbered(3))
        assert heard == [ConnectionState.BLOCKED, ConnectionState.CONNECTED] and not broker.reason
        await server.cut(broker)
        again = await Reader().start(other)
        await again.until_seen(numbered(3))
        assert b"before" not in again.bodies() or harness.delivers_twice

    harness.run(scenario)


def test_a_blocked_publish_ends_with_its_connection(harness: BrokerHarness) -> None:
    """Whoever waits for the end of an alarm hears that the connection was lost or closed meanwhile."""

    async def scenario(server: Server) -> None:
        for end in ("cut", "close"):
            broker = await server.connect()
            await broker.declare(INBOX)
            blocked = asyncio.Event()
            broker.on_connection(lambda _, blocked=blocked: blocked.set())  # type: ignore[misc]
            async with server.alarm():
                publish = asyncio.create_task(broker.publish(INBOX.name, b"x"))
                await blocked.wait()
                await (server.cut(broker) if end == "cut" else broker.close())
                with pytest.raises(ConnectionLost):
                    await publish

    harness.run(scenario)


def test_consuming_from_a_missing_queue_is_refused(harness: BrokerHarness) -> None:
    """A consumer of nothing would wait for ever, so there is none."""

    async def scenario(server: Server) -> None:
        broker = await server.connect()
        with pytest.raises(BrokerError, match=r"dz\.test\.runner\.r\.1"):
            await broker.consume(INBOX.name, lambda _: None, 0)

    harness.run(scenario)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 6)),
        st.tuples(st.just("ack"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["cancel", "cut"]), st.sampled_from([0, 1, 3, 20])),
        st.tuples(st.just("wait"), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=15, deadline=None)
@given(steps=_steps)
def test_any_schedule_delivers_all_and_forgets_only_the_acked(
    harness: BrokerHarness, steps: list[tuple[str, int]]
) -> None:
    """Under any order of publishes, acks, cancels, losses and prefetches: every confirmed message is delivered,
    one that was not acked comes again to the next consumer, and one that was acked does not."""

    async def scenario(server: Server) -> None:
        sender, broker = await server.connect(), await server.connect()
        await broker.declare(INBOX)
        reader = await Reader().start(broker, prefetch=3)
        published: list[bytes] = []
        times_acked: Counter[bytes] = Counter()
        pending = 0  # of the reader's deliveries, the first that was not acked
        for step, number in steps:
            if step == "publish":
                for _ in range(number):
                    published.append(f"{len(published)}".encode())
                    await sender.publish(INBOX.name, published[-1])
            elif step == "ack":
                batch = reader.deliveries[pending : pending + number]
                reader.consumer.ack([delivery.tag for delivery in batch])
                times_acked.update(delivery.body for delivery in batch)
                pending += len(batch)
            elif step == "wait":
                await server.quiet()
            else:
                await server.quiet()
                await (reader.consumer.cancel() if step == "cancel" else server.cut(broker))
                broker = await server.connect() if step == "cut" else broker
                reader, pending = await Reader().start(broker, prefetch=number), 0
        await server.quiet()
        await server.cut(broker)
        left = [body for body in published if body not in times_acked]
        broker = await server.connect()
        rest = await Reader().start(broker)
        await rest.until_seen(left)
        await server.quiet()
        if not harness.delivers_twice:
            assert sorted(rest.bodies()) == sorted(left)
            assert all(count == 1 for count in times_acked.values())
        if harness.keeps_order:
            assert rest.bodies() == left

    harness.run(scenario)
