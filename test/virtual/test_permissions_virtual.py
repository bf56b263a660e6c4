"""Over real RabbitMQ, users of each class can do their work, and nothing else.

What a class may do is said by `topology.ROLES`; the administration makes the users, as for a system with users of its
own, and here each of them tries everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aio_pika
import aiormq
import pytest
from aiormq.exceptions import ChannelAccessRefused

from dist_zero_common.broker import topology
from dist_zero_common.broker.administration import broker_users, prepare
from dist_zero_common.broker.base import Broker, Delivery, OnDelivery
from dist_zero_common.broker.rabbitmq import connector
from dist_zero_common.broker.topology import ROLES, Role, UserClass, queue_of
from dist_zero_common.errors import BrokerError
from test.virtual.rabbitmq_server import RabbitServer

SYSTEM = "shop"
PASSWORDS = {user.value: f"secret-of-{user.value}" for user in UserClass}
EXCHANGES_OF_RABBITMQ = ("", "amq.direct", "amq.fanout", "amq.topic", "amq.headers")


def queue_in(system: str, role: Role) -> str:
    """A queue of this role."""
    return {
        topology.SCHEDULER: topology.scheduler_inbox(system),
        topology.STANDBY: topology.standby_inbox(system, "s-1"),
        topology.AGENT: topology.agent_inbox(system, "m-1"),
        topology.RUNNER: topology.runner_inbox(system, "r-1", 7),
        topology.SEQUENCER_CLIENTS: topology.sequencer_clients_inbox(system, "flights"),
        topology.SEQUENCER_NODES: topology.sequencer_nodes_inbox(system, "flights", 3),
        topology.CLIENT_REPLIES: topology.client_replies(system, "c-1"),
    }[role]


@dataclass(frozen=True)
class Site:
    """A broker with the users made, in a virtual host of the test's own."""

    server: RabbitServer
    vhost: str

    def url(self, user: UserClass, vhost: str | None = None) -> str:
        return self.server.url(vhost or self.vhost, user=user.value, password=PASSWORDS[user.value])


@pytest.fixture
def site(rabbitmq: RabbitServer) -> Iterator[Site]:
    with rabbitmq.virtual_host("permissions") as vhost:
        prepare(rabbitmq.management_url, vhost, broker_users(PASSWORDS, SYSTEM))
        try:
            yield Site(rabbitmq, vhost)
        finally:
            for user in UserClass:
                rabbitmq.manage("DELETE", f"users/{user.value}")


@asynccontextmanager
async def connected(site: Site, user: UserClass) -> AsyncIterator[Broker]:
    broker = await connector(site.url(user), f"permissions of {user.value}")()
    try:
        yield broker
    finally:
        await broker.close()


def bodies_to(queue: asyncio.Queue[bytes]) -> OnDelivery:
    def on_delivery(delivery: Delivery) -> None:
        queue.put_nowait(delivery.body)

    return on_delivery


@asynccontextmanager
async def readers(site: Site) -> AsyncIterator[dict[Role, asyncio.Queue[bytes]]]:
    """Every role's queue, declared and read by a user of its reader's class; what comes in each."""
    async with AsyncExitStack() as stack:
        brokers = {user: await stack.enter_async_context(connected(site, user)) for user in UserClass}
        arrived: dict[Role, asyncio.Queue[bytes]] = {}
        for role in ROLES.values():
            arrived[role] = asyncio.Queue()
            broker, name = brokers[role.reader], queue_in(SYSTEM, role)
            await broker.declare(queue_of(name))
            await broker.consume(name, bodies_to(arrived[role]), 10)
        yield arrived


@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_users_reach_those_they_write_to_and_nobody_else(site: Site, user: UserClass) -> None:
    """Every role's queue is declared, bound and read by a user of its class; what `user` publishes to it arrives if
    its class writes there, and is refused otherwise."""

    async def scenario() -> None:
        async with readers(site) as arrived, connected(site, user) as broker:
            for role in ROLES.values():
                name = queue_in(SYSTEM, role)
                if user in role.writers:
                    await broker.publish(name, b"from a writer")
                    assert await asyncio.wait_for(arrived[role].get(), 60) == b"from a writer"
                else:
                    with pytest.raises(BrokerError, match=f"refused.*{role.exchange}"):
                        await broker.publish(name, b"from a stranger")
                    async with connected(site, role.writers[0]) as writer:
                        await writer.publish(name, b"from a writer")
                    assert await asyncio.wait_for(arrived[role].get(), 60) == b"from a writer"

    asyncio.run(scenario())


@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_users_tidy_up_after_themselves(site: Site, user: UserClass) -> None:
    """A class may delete its queues and look at their depth."""

    async def scenario() -> None:
        async with connected(site, user) as broker:
            for role in (role for role in ROLES.values() if role.reader is user):
                name = queue_in(SYSTEM, role)
                await broker.declare(queue_of(name))
                depth = await broker.depth(name)
                assert depth is not None
                assert depth.waiting == 0
                await broker.delete(name)
                assert await broker.depth(name) is None

    asyncio.run(scenario())


@pytest.mark.parametrize("user", UserClass, ids=lambda user: user.value)
def test_everything_else_is_refused(site: Site, user: UserClass) -> None:
    """RabbitMQ's own exchanges, the default one above all; making, changing and deleting exchanges; and whatever one
    can do to the queues of others, of other systems, and of people who have nothing to do with us."""
    own = [role for role in ROLES.values() if role.reader is user]
    others = [role for role in ROLES.values() if role.reader is not user]
    others_queues = [queue_in(SYSTEM, role) for role in others]
    own_queue = queue_in(SYSTEM, own[0])
    strange = ["payments", *(queue_in("other", role) for role in ROLES.values())]

    async def scenario() -> None:
        connection = await aio_pika.connect(site.url(user))
        try:
            refused = Refusals(connection)
            async with readers(site):
                for queue in others_queues:
                    for exchange in EXCHANGES_OF_RABBITMQ:
                        await refused("basic_publish", b"x", exchange=exchange, routing_key=queue)
                    await refused("basic_get", queue)
                    await refused("basic_consume", queue, ignore)
                    await refused("queue_purge", queue)
                    await refused("queue_delete", queue)
                    await refused("queue_bind", queue, own[0].exchange, queue)
                for role in others:
                    await refused("queue_bind", own_queue, role.exchange, queue_in(SYSTEM, role))
                for exchange in EXCHANGES_OF_RABBITMQ[1:]:
                    await refused("queue_bind", own_queue, exchange, "x")
                for role in ROLES.values():
                    await refused("exchange_delete", role.exchange)
                    await refused("exchange_declare", role.exchange, exchange_type="direct", durable=True)
                await refused("exchange_declare", "dz.mine", exchange_type="fanout")
            for queue in [*others_queues, *strange]:
                await refused("queue_declare", queue)
            await refused("queue_declare", "")
        finally:
            await connection.close()

    asyncio.run(scenario())


def test_users_belong_to_their_virtual_host(site: Site) -> None:
    """In another one they are strangers; and a wrong password is a refusal, not a reason to try again."""

    async def scenario() -> None:
        for user in UserClass:
            with pytest.raises(BrokerError):
                await connector(site.url(user, vhost="/"), "elsewhere")()
            with pytest.raises(BrokerError) as caught:
                await connector(site.url(user).replace("secret-of", "guessed"), "somebody else")()
            assert "guessed" not in str(caught.value)

    asyncio.run(scenario())


def test_the_administration_may_come_again(site: Site) -> None:
    """While users are at work, and with another password for one of them: connections stay, the new one holds."""

    async def scenario() -> None:
        async with readers(site) as arrived, connected(site, UserClass.AGENT) as agent:
            again = broker_users(PASSWORDS | {"client": "another"}, SYSTEM)
            await asyncio.to_thread(prepare, site.server.management_url, site.vhost, again)
            inbox = queue_in(SYSTEM, topology.SCHEDULER)
            await agent.publish(inbox, b"still here")
            assert await asyncio.wait_for(arrived[topology.SCHEDULER].get(), 60) == b"still here"
            with pytest.raises(BrokerError):
                await connector(site.url(UserClass.CLIENT), "the old password")()
            url = site.server.url(site.vhost, user="client", password="another")
            client = await connector(url, "the new password")()
            await client.publish(inbox, b"hello")
            assert await asyncio.wait_for(arrived[topology.SCHEDULER].get(), 60) == b"hello"
            await client.close()

    asyncio.run(scenario())


async def ignore(message: aiormq.abc.DeliveredMessage) -> None:
    """For consumers that never come to be."""


class Refusals:
    """Tries what must be refused for want of rights, each on a channel of its own: a refusal costs it."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection) -> None:
        self._connection = connection

    async def __call__(self, method: str, *arguments: object, **named: object) -> None:
        channel = await (await self._connection.channel()).get_underlay_channel()
        with pytest.raises(ChannelAccessRefused):
            await getattr(channel, method)(*arguments, **named)
