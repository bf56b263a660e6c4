"""RabbitMQ's broker in trouble: cut, stalled, restarted, short of memory and disk, full, and told lies.

What every broker promises is in test/contract; here is what only a real one can do to us.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aio_pika
import pytest

from dist_zero_common.broker.base import Broker, ConnectionState, Delivery, Queue, QueueKind
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.rabbitmq_consumer import RabbitConsumer
from dist_zero_common.broker.rabbitmq_foreign import ForeignMessage, consume_foreign
from dist_zero_common.errors import BrokerError, ConnectionLost, Unroutable
from test.virtual.proxy import Proxy
from test.virtual.rabbitmq_server import RabbitServer

INBOX = Queue("dz.test.runner.r.1")
OTHER = Queue("dz.test.runner.r.2")
SCHEDULER = Queue("dz.test.scheduler")
REPLIES = Queue("dz.test.replies.c", QueueKind.REPLIES)


def through_proxy(url: str, scenario: Callable[[str, Proxy], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with the URL of a proxy before the broker."""
    parts = aio_pika.connection.make_url(url)

    async def main() -> None:
        async with Proxy(str(parts.host), int(parts.port or 0)) as proxy:
            await scenario(str(parts.with_port(proxy.port)), proxy)

    asyncio.run(main())


async def until(satisfied: Callable[[], bool]) -> None:
    """Wait for something; the suite's time limit bounds it."""
    while not satisfied():
        await asyncio.sleep(0.01)


async def ignored(message: object) -> None:
    """What a consumer does that acks nothing."""


async def connected(connect: Callable[[], Coroutine[Any, Any, Broker]] | Any) -> Broker:
    """A connection, as soon as there can be one."""
    while True:
        try:
            broker: Broker = await connect()
        except ConnectionLost:
            await asyncio.sleep(0.05)
        else:
            return broker


def test_nothing_confirmed_is_lost_when_the_connection_is_cut_again_and_again(rabbitmq_url: str) -> None:
    """A publisher and a consumer that are cut at any moment and start anew: what is not confirmed is published again,
    what is not acked comes again, and in the end everything was there."""

    async def scenario(url: str, proxy: Proxy) -> None:
        wanted = {b"%d" % number for number in range(600)}
        confirmed: set[bytes] = set()
        acked: set[bytes] = set()

        async def publish(broker: Broker, body: bytes) -> None:
            await broker.publish(INBOX.name, body)
            confirmed.add(body)

        async def write() -> None:
            while wanted - confirmed:
                broker = await connected(connector(url, "writer"))
                try:
                    await broker.declare(INBOX)
                    while left := sorted(wanted - confirmed)[:20]:
                        await asyncio.gather(*(publish(broker, body) for body in left))
                except ConnectionLost:
                    pass
                finally:
                    await broker.close()

        async def read() -> None:
            while wanted - acked:
                broker = await connected(connector(url, "reader"))
                batch: list[Delivery] = []
                try:
                    await broker.declare(INBOX)
                    consumer = await broker.consume(INBOX.name, batch.append, 25)
                    while wanted - acked and broker.state is ConnectionState.CONNECTED:
                        await asyncio.sleep(0.005)
                        done, batch[:] = list(batch), []
                        consumer.ack([delivery.tag for delivery in done])
                        acked.update(delivery.body for delivery in done)
                except ConnectionLost:
                    pass
                finally:
                    await broker.close()

        async def cut() -> None:
            # By what went through, not by the clock: so each time something is under way.
            while True:
                passed = proxy.bytes_passed
                await until(lambda passed=passed: proxy.bytes_passed > passed + 12_000)  # type: ignore[misc]
                proxy.cut()

        cutter = asyncio.create_task(cut())
        await asyncio.gather(write(), read())
        cutter.cancel()
        assert proxy.connections_made > 8, "it was hardly cut"

    through_proxy(rabbitmq_url, scenario)


@pytest.mark.parametrize("busy", ["publishing", "consuming"])
def test_a_stalled_connection_is_lost_and_not_waited_for(rabbitmq_url: str, busy: str) -> None:
    """Half open: nothing comes and nothing is said. Publishes in flight fail, and who only listens hears of it too."""

    async def scenario(url: str, proxy: Proxy) -> None:
        broker = await connector(url, "test", publish_seconds=1.5, stuck_seconds=2)()
        await broker.declare(INBOX)
        heard: list[ConnectionState] = []
        broker.on_connection(heard.append)
        await broker.consume(INBOX.name, lambda _: None, 0)
        proxy.stall()
        if busy == "publishing":
            publishes = [broker.publish(INBOX.name, b"x" * 1000) for _ in range(50)]
            outcomes = await asyncio.gather(*publishes, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {ConnectionLost}
        await until(lambda: broker.state is ConnectionState.LOST)
        assert heard == [ConnectionState.LOST] and "has not answered" in broker.reason
        with pytest.raises(ConnectionLost):
            await connector(url, "test", connect_seconds=1)()
        proxy.heal()
        again = await connector(url, "test")()
        await again.publish(INBOX.name, b"x")
        await again.close()

    through_proxy(rabbitmq_url, scenario)


def test_a_process_that_slept_does_not_blame_the_broker(rabbitmq_url: str) -> None:
    """Held up for longer than an answer may take, with publishes in flight: they are confirmed all the same."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test", publish_seconds=1)()
        await broker.declare(INBOX)
        publishes = [asyncio.create_task(broker.publish(INBOX.name, b"x" * 100_000)) for _ in range(50)]
        await asyncio.sleep(0)
        time.sleep(3)
        await asyncio.gather(*publishes)
        assert broker.state is ConnectionState.CONNECTED
        await broker.close()

    asyncio.run(main())


def test_a_restart_is_a_loss_like_any_other(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    """Publishes in flight fail or were confirmed; nobody can connect meanwhile; afterwards the inbox is there, without
    what it held, and takes messages as before."""

    async def main() -> None:
        connect = connector(rabbitmq_url, "test", connect_seconds=2)
        broker = await connect()
        await broker.declare(INBOX)
        heard: list[ConnectionState] = []
        broker.on_connection(heard.append)
        outcomes: list[type] = []

        async def publish() -> None:
            while not outcomes:
                try:
                    await broker.publish(INBOX.name, b"x" * 10_000)
                except BrokerError as error:
                    outcomes.append(type(error))

        publishers = [asyncio.create_task(publish()) for _ in range(8)]
        await asyncio.sleep(0.1)
        async with rabbitmq.stopped():
            await asyncio.gather(*publishers)
            # A queue that ends before the connection does refuses what it was just given.
            assert set(outcomes) <= {ConnectionLost, BrokerError}
            await until(lambda: heard == [ConnectionState.LOST])
            with pytest.raises(ConnectionLost):
                await connect()
        again = await connected(connect)
        depth = await again.depth(INBOX.name)
        assert depth is not None and depth.waiting == 0
        got: list[Delivery] = []
        await again.consume(INBOX.name, got.append, 0)
        await again.publish(INBOX.name, b"y")
        await until(lambda: [delivery.body for delivery in got] == [b"y"])
        await again.close()

    asyncio.run(main())


def test_a_broker_killed_is_a_loss_like_any_other(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    """Its process gone from one moment to the next, under a consumer and a publisher."""

    async def main() -> None:
        connect = connector(rabbitmq_url, "test", connect_seconds=2)
        broker = await connect()
        await broker.declare(INBOX)
        await broker.consume(INBOX.name, lambda _: None, 1)
        await broker.publish(INBOX.name, b"x")
        await asyncio.to_thread(rabbitmq.kill_container)
        await until(lambda: broker.state is ConnectionState.LOST)
        again = await connected(connect)
        await again.declare(INBOX)
        await again.publish(INBOX.name, b"y")
        await again.close()

    asyncio.run(main())


def test_a_full_disk_holds_up_publishes_however_long_it_lasts(
    rabbitmq: RabbitServer, rabbitmq_url: str
) -> None:
    """Much longer than an answer may take: the connection is not suspect while the broker has said why it waits."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test", publish_seconds=1)()
        await broker.declare(INBOX)
        alarm = rabbitmq.disk_alarm()
        await asyncio.to_thread(alarm.__enter__)
        try:
            publishes = [asyncio.create_task(broker.publish(INBOX.name, b"x" * 500_000)) for _ in range(20)]
            await until(lambda: broker.state is ConnectionState.BLOCKED)
            assert "disk" in broker.reason
            await asyncio.sleep(4)
            assert broker.state is ConnectionState.BLOCKED and not any(one.done() for one in publishes)
            late = await connector(rabbitmq_url, "late")()
            await late.declare(OTHER)
            waiting = asyncio.create_task(late.publish(OTHER.name, b"x"))
            await until(lambda: late.state is ConnectionState.BLOCKED)
        finally:
            await asyncio.to_thread(alarm.__exit__, None, None, None)
        await asyncio.gather(*publishes, waiting)
        await until(lambda: broker.state is late.state is ConnectionState.CONNECTED)
        await broker.close()
        await late.close()

    asyncio.run(main())


def test_of_many_messages_in_flight_exactly_the_unroutable_ones_fail(rabbitmq_url: str) -> None:
    """Messages to queues that are there and to some that are not, all at once."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        await broker.declare(INBOX)
        names = [INBOX.name if number % 3 else f"dz.test.runner.none.{number}" for number in range(200)]
        publishes = [broker.publish(name, b"%d" % number) for number, name in enumerate(names)]
        outcomes = await asyncio.gather(*publishes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            type(None) if name == INBOX.name else Unroutable for name in names
        ]
        got: list[bytes] = []
        await broker.consume(INBOX.name, lambda delivery: got.append(delivery.body), 0)
        kept = [b"%d" % number for number, name in enumerate(names) if name == INBOX.name]
        await until(lambda: len(got) >= len(kept))
        assert got == kept  # in the order of their publishing
        await broker.close()

    asyncio.run(main())


def test_a_full_inbox_refuses_and_takes_again(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    """At its limit an inbox refuses, with an error that is not a loss; when there is room it takes messages again."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        await broker.declare(INBOX)
        host = rabbitmq_url.rsplit("/", 1)[1]
        policy = {"pattern": ".*", "definition": {"max-length-bytes": 10_000}, "apply-to": "queues"}
        await asyncio.to_thread(rabbitmq.manage, "PUT", f"policies/{host}/small", policy)
        with pytest.raises(BrokerError, match=r"refused a message to dz\.test\.runner\.r\.1") as raised:
            while True:  # the policy takes a moment to reach the queue
                await broker.publish(INBOX.name, b"x" * 1000)
        assert not isinstance(raised.value, ConnectionLost)
        consumer = await broker.consume(INBOX.name, lambda delivery: consumer.ack([delivery.tag]), 0)
        while True:
            try:
                await broker.publish(INBOX.name, b"x" * 1000)
            except BrokerError:
                await asyncio.sleep(0.01)
            else:
                break
        assert broker.state is ConnectionState.CONNECTED
        await broker.close()

    asyncio.run(main())


def test_an_exchange_that_was_deleted_comes_back_with_the_queue(rabbitmq_url: str) -> None:
    """Somebody deletes what messages go through: publishes are unroutable, not hanging, until the queue is declared
    again; other exchanges are not touched."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        await broker.declare(INBOX)
        await broker.declare(SCHEDULER)
        await broker.publish(INBOX.name, b"x")
        stranger = await aio_pika.connect(rabbitmq_url)
        await (await stranger.channel()).exchange_delete("dz.runner")
        for _ in range(3):
            with pytest.raises(Unroutable):
                await broker.publish(INBOX.name, b"x")
        await broker.publish(SCHEDULER.name, b"x")
        await broker.declare(INBOX)
        await broker.publish(INBOX.name, b"x")
        await stranger.close()
        await broker.close()

    asyncio.run(main())


def test_queues_are_declared_as_the_topology_says(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    """Durable classic inboxes that refuse when full, those of incarnations going by themselves; replies exclusive."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        for queue in (INBOX, SCHEDULER, REPLIES):
            await broker.declare(queue)
        host = rabbitmq_url.rsplit("/", 1)[1]
        queues = {
            queue.name: await asyncio.to_thread(rabbitmq.manage, "GET", f"queues/{host}/{queue.name}")
            for queue in (INBOX, SCHEDULER, REPLIES)
        }
        for queue in (INBOX, SCHEDULER):
            seen = queues[queue.name]
            assert (seen["durable"], seen["exclusive"], seen["auto_delete"]) == (True, False, False)
            assert seen["arguments"]["x-overflow"] == "reject-publish"
            assert seen["arguments"]["x-max-length-bytes"] >= 256 * 2**20
        assert queues[INBOX.name]["arguments"]["x-expires"] == 3_600_000
        assert "x-expires" not in queues[SCHEDULER.name]["arguments"]
        assert queues[REPLIES.name]["exclusive"] and not queues[REPLIES.name]["durable"]
        bindings = await asyncio.to_thread(
            rabbitmq.manage, "GET", f"bindings/{host}/e/dz.runner/q/{INBOX.name}"
        )
        assert [binding["routing_key"] for binding in bindings] == [INBOX.name]
        await broker.close()

    asyncio.run(main())


def test_whatever_others_put_into_a_queue_arrives_as_it_is(rabbitmq_url: str) -> None:
    """Bytes are bytes: any properties, headers and sizes around them change nothing; nothing ends the connection."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        await broker.declare(INBOX)
        got: list[bytes] = []
        consumer = await broker.consume(INBOX.name, lambda delivery: got.append(delivery.body), 0)
        stranger = await aio_pika.connect(rabbitmq_url)
        exchange = await (await stranger.channel()).get_exchange("dz.runner")
        bodies = [
            b"",
            b"\xce" * 7,
            b"AMQP\x00\x00\x09\x01",
            bytes(range(256)) * 2048,
            b"{" * 131_064,
            b"x" * 131_065,
        ]
        headers: list[dict[str, Any]] = [
            {},
            {"deep": {"deeper": [{"x": [None, -1, 2**62, 1.5, "ü", bytearray(b"\xff")]}]}},
            {"long": "x" * 100_000},
        ]
        sent = []
        for body in bodies:
            for its in headers:
                message = aio_pika.Message(
                    body,
                    headers=its,
                    priority=9,
                    expiration=3600,
                    correlation_id="c" * 200,
                    message_id="ü",
                    app_id="7",
                )
                await exchange.publish(message, INBOX.name)
                sent.append(body)
        await until(lambda: len(got) >= len(sent))
        assert got == sent and broker.state is ConnectionState.CONNECTED
        await consumer.cancel()
        await stranger.close()
        await broker.close()

    asyncio.run(main())


def test_a_queue_that_holds_messages_and_brings_none_loses_the_connection(rabbitmq_url: str) -> None:
    """The watchdog: messages wait, the consumer has room, nothing comes. (Here because another one is the queue's
    single active consumer; in life because of a broker's bug, against which a new connection often helps.)"""

    async def main() -> None:
        stranger = await aio_pika.connect(rabbitmq_url)
        channel = await stranger.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue("stuck", arguments={"x-single-active-consumer": True})
        await queue.consume(ignored)
        for _ in range(5):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "stuck")
        broker = await connector(rabbitmq_url, "test", stuck_seconds=1)()
        await broker.consume("stuck", lambda _: None, 0)
        await until(lambda: broker.state is ConnectionState.LOST)
        assert "delivers nothing" in broker.reason and "4 messages wait" in broker.reason
        await stranger.close()

    asyncio.run(main())


def test_a_consumer_that_the_broker_ends_loses_the_connection(rabbitmq_url: str) -> None:
    """Its channel closed by the broker (in life: an ack that stays out for half an hour), it would be deaf for ever."""

    async def main() -> None:
        broker = await connector(rabbitmq_url, "test")()
        await broker.declare(INBOX)
        consumer = await broker.consume(INBOX.name, lambda _: None, 1)
        assert isinstance(consumer, RabbitConsumer)
        consumer._channel.ack(77, multiple=False)
        await until(lambda: broker.state is ConnectionState.LOST)
        assert INBOX.name in broker.reason and "PRECONDITION_FAILED" in broker.reason

    asyncio.run(main())


def test_errors_name_the_address_and_not_the_password(rabbitmq: RabbitServer) -> None:
    """Whoever reads logs learns where, and no secret."""

    async def main() -> None:
        wrong = [
            rabbitmq.url(password="hunter2"),
            rabbitmq.url("no-such-host").replace("tester:tester", "tester:hunter2"),
            rabbitmq.url(port=1, password="hunter2"),
            "http://user:hunter2@host",
        ]
        for url in wrong:
            with pytest.raises(BrokerError) as raised:
                await connector(url, "test")()
            assert "hunter2" not in str(raised.value)
            assert rabbitmq.host in str(raised.value) or "amqp://user:password" in str(raised.value)

    asyncio.run(main())


def test_a_foreign_queue_is_consumed_as_it_is(rabbitmq_url: str) -> None:
    """Messages come with what their sender said about them; acked ones and those set aside are gone (these to where
    the queue's owner wants them), others come again, marked so."""

    async def main() -> None:
        owner = await aio_pika.connect(rabbitmq_url)
        channel = await owner.channel()
        dead = await channel.declare_queue("dead")
        arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        payments = await channel.declare_queue("payments", durable=True, arguments=arguments)
        for number in range(4):
            message = aio_pika.Message(
                b'{"n": %d}' % number,
                message_id=f"p-{number}",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"shop": "north", "try": number},
            )
            await channel.default_exchange.publish(message, "payments")
        got: list[ForeignMessage] = []
        consumer = await consume_foreign(rabbitmq_url, "payments", got.append, 10, "test")
        await until(lambda: len(got) == 4)
        assert got[1] == ForeignMessage(
            b'{"n": 1}', "p-1", "application/json", "utf-8", {"shop": "north", "try": 1}, False, got[1].tag
        )
        consumer.ack(got[0].tag)
        consumer.set_aside(got[2].tag)
        with pytest.raises(BrokerError, match="acked already"):
            consumer.ack(got[2].tag)
        await consumer.close()
        await consumer.wait_closed()
        consumer.ack(got[1].tag)  # too late, and no error
        got.clear()
        again = await consume_foreign(rabbitmq_url, "payments", got.append, 10, "test")
        await until(lambda: len(got) == 2)
        assert [(message.message_id, message.redelivered) for message in got] == [
            ("p-1", True),
            ("p-3", True),
        ]
        rejected = await dead.get(fail=False)
        assert rejected is not None and rejected.message_id == "p-2"
        await payments.delete(if_unused=False, if_empty=False)
        with pytest.raises(ConnectionLost, match="payments"):
            await again.wait_closed()
        await owner.close()

    asyncio.run(main())


def test_a_foreign_queue_that_is_not_there_is_refused(rabbitmq_url: str) -> None:
    """It is never declared for its owner, and the error says what to do; so does one about a broker that is away."""

    async def main() -> None:
        with pytest.raises(BrokerError, match="has no queue 'payments'"):
            await consume_foreign(rabbitmq_url, "payments", lambda _: None, 10, "test")
        away = str(aio_pika.connection.make_url(rabbitmq_url).with_port(1))
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            await consume_foreign(away, "payments", lambda _: None, 10, "test")

    asyncio.run(main())


def test_a_foreign_consumer_hears_of_the_loss(rabbitmq_url: str) -> None:
    """A cut ends it with `ConnectionLost`; what it had not acked comes to the next one."""

    async def scenario(url: str, proxy: Proxy) -> None:
        owner = await aio_pika.connect(rabbitmq_url)
        channel = await owner.channel()
        await channel.declare_queue("payments", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "payments")
        got: list[ForeignMessage] = []
        consumer = await consume_foreign(url, "payments", got.append, 10, "test")
        await until(lambda: len(got) == 1)
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await consumer.wait_closed()
        again = await consume_foreign(url, "payments", got.append, 10, "test")
        await until(lambda: len(got) == 2)
        assert got[1].redelivered
        await again.close()
        await owner.close()

    through_proxy(rabbitmq_url, scenario)
