"""The limit: the same bytes through the same RabbitMQ with nothing around them, moved by aio-pika as it comes.

One process publishes and another one consumes, both on uvloop. Every message is mandatory and confirmed, eight are on
their way at a time, and every one is acked by hand behind a prefetch of 64; the queue is a durable classic one. Bodies
are random bytes. `transient` messages are what DistZero sends; `persistent` ones are RabbitMQ's habit. Time runs from
the first publish until the last message is with the consumer; right: all came, with the bytes that were sent.

`mailbox` is the same with our own way of sending, which encodes messages, puts them into envelopes with checksums, and
keeps each until it is confirmed: what is left of the limit before there is a log or a node. Everything is handed to it
at once, so its envelopes are as large as it makes them under load, about 1 MiB.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.measure import Measurement, peak_rss_mb
from benchmarks.system import Broker
from dist_zero_common.allocation import keep_freed_memory
from dist_zero_common.broker.base import Queue
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.topology import runner_inbox
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.writing import Transaction

WINDOW, PREFETCH = 8, 64
QUEUE, SYSTEM = "limit", "limit"
KIB = 1024
TRANSIENT, PERSISTENT, MAILBOX = ENGINES = ("aio-pika transient", "aio-pika persistent", "mailbox")


@dataclass(frozen=True, slots=True)
class _Job:
    engine: str
    url: str
    body: bytes
    count: int


@dataclass(frozen=True, slots=True)
class _Done:
    """What a process says at its end: when it began and ended, and what it has used."""

    began: float
    ended: float
    right: bool
    cpu_seconds: float
    rss_mb: float


def measure(engine: str, total_bytes: int, broker: Broker) -> list[Measurement]:
    """So many bytes; `engine` says by what, and in messages of how many KiB: `mailbox 64`."""
    before = time.monotonic()
    engine, _, kib = engine.rpartition(" ")
    size = int(kib) * KIB
    job = _Job(engine, broker.url, random.Random(1).randbytes(size), max(total_bytes // size, 1))
    ours = engine == MAILBOX
    consumer, consumed = _started(_consume_mailbox if ours else _consume, job)
    try:
        consumed.recv()  # it listens
        publisher, published = _started(_publish_mailbox if ours else _publish, job)
        try:
            sent: _Done = published.recv()
            got: _Done = consumed.recv()
        finally:
            publisher.kill()
    finally:
        consumer.kill()
    seconds = got.ended - sent.began
    rate = job.count * size / seconds / 1e6
    cost = (sent.cpu_seconds + got.cpu_seconds) / job.count * 1e6
    return [
        Measurement(
            f"{kib} KiB messages",
            engine,
            job.count,
            seconds,
            sent.began - before,
            sent.rss_mb + got.rss_mb,
            got.right,
            f"{rate:.0f} MB/s; {cost:,.0f} µs of both processes' CPU per message",
            {"mb_per_s": rate, "message_bytes": size, "cpu_us_per_message": cost},
        )
    ]


def _started(
    work: Callable[[_Job, Connection], Coroutine[Any, Any, None]], job: _Job
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(work, job, there), daemon=True)
    process.start()
    there.close()
    return process, here


def _run(work: Callable[[_Job, Connection], Coroutine[Any, Any, None]], job: _Job, pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(job, pipe))


def _done(began: float, ended: float, used_before: float, right: bool = True) -> _Done:
    return _Done(began, ended, right, sum(os.times()[:2]) - used_before, peak_rss_mb())


# -- aio-pika ------------------------------------------------------------------------------------------------------


async def _publish(job: _Job, pipe: Connection) -> None:
    connection = await aio_pika.connect(job.url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = channel.default_exchange
        persistent = job.engine == PERSISTENT
        mode = aio_pika.DeliveryMode.PERSISTENT if persistent else aio_pika.DeliveryMode.NOT_PERSISTENT
        used, began = sum(os.times()[:2]), time.monotonic()
        numbers = iter(range(job.count))

        async def publish_some() -> None:
            for _ in numbers:
                await exchange.publish(aio_pika.Message(job.body, delivery_mode=mode), routing_key=QUEUE)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(WINDOW):
                tasks.create_task(publish_some())
        pipe.send(_done(began, time.monotonic(), used))


async def _consume(job: _Job, pipe: Connection) -> None:
    connection = await aio_pika.connect(job.url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(QUEUE, durable=True)
        all_came = asyncio.Event()
        came, right = 0, True

        async def on_message(message: AbstractIncomingMessage) -> None:
            nonlocal came, right
            right = right and message.body == job.body
            await message.ack()
            came += 1
            if came == job.count:
                all_came.set()

        await queue.consume(on_message)
        used, began = sum(os.times()[:2]), time.monotonic()
        pipe.send(True)
        await all_came.wait()
        pipe.send(_done(began, time.monotonic(), used, right))


# -- our own -------------------------------------------------------------------------------------------------------


def _mailbox(job: _Job, name: str) -> Mailbox:
    keep_freed_memory()  # as every process of ours
    return Mailbox(connector(job.url, name), system=SYSTEM, sender=name, set_aside=lambda *_: None)


async def _publish_mailbox(job: _Job, pipe: Connection) -> None:
    post = _mailbox(job, "publisher")
    running = asyncio.create_task(post.run())
    post.send(runner_inbox(SYSTEM, "consumer", 2), Transaction(0, 0, b"", ""))  # connect before time runs
    await post.wait_sent()
    used, began = sum(os.times()[:2]), time.monotonic()
    for number in range(job.count):
        post.send(runner_inbox(SYSTEM, "consumer", 1), Transaction(1, number, job.body, ""))
    await post.wait_sent()
    pipe.send(_done(began, time.monotonic(), used))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def _consume_mailbox(job: _Job, pipe: Connection) -> None:
    post = _mailbox(job, "consumer")
    running = asyncio.create_task(post.run())
    all_came = asyncio.Event()
    came, right = 0, True

    def on_message(message: Message, token: Token) -> None:
        nonlocal came, right
        assert isinstance(message, Transaction)
        right = right and message.payload == job.body and message.number == came
        post.settle(token)
        came += 1
        if came == job.count:
            all_came.set()

    await post.listen(Queue(runner_inbox(SYSTEM, "consumer", 1)), on_message, PREFETCH)
    await post.listen(Queue(runner_inbox(SYSTEM, "consumer", 2)), lambda _, token: post.settle(token))
    used, began = sum(os.times()[:2]), time.monotonic()
    pipe.send(True)
    await all_came.wait()
    pipe.send(_done(began, time.monotonic(), used, right))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
