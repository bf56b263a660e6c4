"""What the memory broker has beyond the contract: limits, statistics, strictness and the history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dist_zero_common.broker.base import Delivery, Queue
from dist_zero_common.broker.memory import MESSAGE_BYTES_MAX, Depth, MemoryBroker
from dist_zero_common.errors import BrokerError, ConnectionLost
from dist_zero_common.sim.faults import Delay, Weather
from dist_zero_common.sim.loop import run_simulation
from dist_zero_common.sim.world import SimWorld

QUEUE = Queue("q")


def test_a_full_queue_refuses_and_takes_again() -> None:
    """Bytes that wait are limited per queue; what a consumer holds does not count, and room brings relief."""

    async def main() -> None:
        broker = MemoryBroker(queue_bytes_max=10)
        connection = broker.connect()
        await connection.declare(QUEUE)
        await connection.publish("q", b"12345678")
        with pytest.raises(BrokerError, match="queue q is full: 8 bytes wait there, and 3 more"):
            await connection.publish("q", b"123")
        consumer = await connection.consume("q", lambda _: None, 0)
        await asyncio.sleep(0)
        await connection.publish("q", b"123")
        await consumer.cancel()
        with pytest.raises(BrokerError, match="queue q is full: 11 bytes wait there"):
            await connection.publish("q", b"1")

    asyncio.run(main())


def test_consumers_take_turns() -> None:
    """Messages of one queue go to its consumers one after the other, to those that have credit."""

    async def main() -> list[list[bytes]]:
        connection, got = MemoryBroker().connect(), [list[bytes](), list[bytes](), list[bytes]()]
        await connection.declare(QUEUE)

        def taker(index: int) -> Callable[[Delivery], None]:
            return lambda delivery: got[index].append(delivery.body)

        for index, prefetch in enumerate((0, 1, 0)):
            await connection.consume("q", taker(index), prefetch)
        for number in range(7):
            await connection.publish("q", b"%d" % number)
        await asyncio.sleep(0)
        return got

    assert asyncio.run(main()) == [[b"0", b"3", b"5"], [b"1"], [b"2", b"4", b"6"]]


@pytest.mark.parametrize("command", ["declare", "consume", "delete"])
def test_simulated_commands_under_way_at_the_loss_raise_it(command: str) -> None:
    """A command that had not reached the broker when the connection was lost has no effect, and says so."""

    async def main() -> None:
        broker = MemoryBroker(SimWorld(1, Weather("test", transit=Delay(mean=1.0))))
        connection, other = broker.connect(), broker.connect()
        await other.declare(QUEUE)
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "declare": lambda: connection.declare(Queue("new")),
            "consume": lambda: connection.consume("q", lambda _: None, 0),
            "delete": lambda: connection.delete("q"),
        }
        command_task = asyncio.ensure_future(calls[command]())
        await asyncio.sleep(0)
        connection.drop_connection()
        with pytest.raises(ConnectionLost):
            await command_task
        assert list(broker.depths()) == ["q"] and not broker.queues["q"].consumers

    run_simulation(main())


def test_a_message_larger_than_rabbitmq_takes_is_refused() -> None:
    """So that it is found out in a simulation and not in the cloud."""

    async def main() -> None:
        connection = MemoryBroker().connect()
        await connection.declare(QUEUE)
        await connection.publish("q", bytes(MESSAGE_BYTES_MAX))
        with pytest.raises(BrokerError, match="larger than 16,777,216"):
            await connection.publish("q", bytes(MESSAGE_BYTES_MAX + 1))

    asyncio.run(main())


def test_depths_follow_a_message_through_its_life() -> None:
    """Waiting, then unacked, then gone; the peak and the number published stay."""

    async def main() -> None:
        broker = MemoryBroker()
        connection = broker.connect()
        await connection.declare(QUEUE)
        got: list[Delivery] = []
        await connection.publish("q", b"123")
        await connection.publish("q", b"45")
        assert broker.depths() == {"q": Depth(waiting=2, unacked=0, bytes=5, bytes_peak=5, published=2)}
        consumer = await connection.consume("q", got.append, 1)
        await asyncio.sleep(0)
        assert broker.depths()["q"] == Depth(waiting=1, unacked=1, bytes=5, bytes_peak=5, published=2)
        consumer.ack([got[0].tag])
        await asyncio.sleep(0)
        assert broker.depths()["q"] == Depth(waiting=0, unacked=1, bytes=2, bytes_peak=5, published=2)
        await consumer.cancel()
        assert broker.depths()["q"] == Depth(waiting=1, unacked=0, bytes=2, bytes_peak=5, published=2)
        await connection.delete("q")
        assert broker.depths() == {}

    asyncio.run(main())


def test_acking_twice_is_an_error() -> None:
    """RabbitMQ closes the channel on it, so here it is heard at once."""

    async def main() -> None:
        connection = MemoryBroker().connect()
        await connection.declare(QUEUE)
        got: list[Delivery] = []
        consumer = await connection.consume("q", got.append, 0)
        await connection.publish("q", b"")
        await asyncio.sleep(0)
        consumer.ack([got[0].tag])
        for tag in (got[0].tag, 99):
            with pytest.raises(
                BrokerError, match=f"delivery {tag} of q is acked already or was never delivered"
            ):
                consumer.ack([tag])

    asyncio.run(main())


def test_a_publisher_that_never_waits_does_not_starve_the_others() -> None:
    """Many publishes in a row let a consumer run in between, so that the queue stays short."""

    async def main() -> int:
        broker = MemoryBroker()
        connection = broker.connect()
        await connection.declare(QUEUE)
        got: list[Delivery] = []
        await connection.consume("q", got.append, 0)
        for _ in range(10_000):
            await connection.publish("q", b"x")
            assert broker.depths()["q"].waiting < 200
        return len(got)

    assert asyncio.run(main()) > 9_000


def test_a_consumer_that_fails_does_not_stop_its_queue() -> None:
    """An error in a delivery callback reaches the loop's handler, and the next messages still come."""

    async def main() -> tuple[list[bytes], int]:
        connection, got, errors = MemoryBroker().connect(), list[bytes](), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        await connection.declare(QUEUE)

        def note(delivery: Delivery) -> None:
            if delivery.body == b"bad":
                raise ValueError
            got.append(delivery.body)

        await connection.consume("q", note, 0)
        for body in (b"1", b"bad", b"2"):
            await connection.publish("q", body)
        await asyncio.sleep(0.01)
        return got, len(errors)

    assert asyncio.run(main()) == ([b"1", b"2"], 1)
