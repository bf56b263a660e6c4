"""A client of one page that asks the scheduler, and asks again until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dist_zero.system import System
from dist_zero_common.broker.topology import client_replies, queue_of, scheduler_inbox
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.requests import (
    AskStatus,
    Located,
    ProgramRemoved,
    ProgramState,
    RemoveProgram,
    SubmitProgram,
    SystemStatus,
)


class Asker:
    """One connection's questions, each under a number of its own."""

    def __init__(self, system: System, name: str) -> None:
        self.replies = client_replies(system.name, name)
        self.post = Mailbox(
            system.connector(name), system=system.name, sender=name, set_aside=lambda *_: None
        )
        self._inbox = scheduler_inbox(system.name)
        self.answers: dict[int, Message] = {}
        self._requests = 0

    def on_message(self, message: Message, token: Token) -> None:
        assert isinstance(message, Located | RequestRefused | ProgramRemoved | SystemStatus)
        self.answers.setdefault(message.request, message)
        self.post.settle(token)

    async def ask(self, question: Callable[[int, str], Message]) -> Message:
        """The first answer."""
        self._requests += 1
        request = self._requests
        while request not in self.answers:
            self.post.send(self._inbox, question(request, self.replies))
            await asyncio.sleep(0.5)
        return self.answers.pop(request)

    async def remove(self, program: str) -> Message:
        """The answer to a removal."""
        return await self.ask(lambda request, inbox: RemoveProgram(request, program, inbox))

    async def submit(self, graph: bytes, nodes: int) -> Message:
        """The answer to a submission once the program no longer starts."""
        while True:
            answer = await self.ask(lambda request, inbox: SubmitProgram(request, graph, nodes, inbox))
            if not (isinstance(answer, Located) and answer.state is ProgramState.STARTING):
                return answer
            await asyncio.sleep(0.2)

    async def status(self) -> SystemStatus:
        """What there is."""
        status = await self.ask(AskStatus)
        assert isinstance(status, SystemStatus)
        return status


@asynccontextmanager
async def asker(system: System, name: str) -> AsyncIterator[Asker]:
    """An asker of this name, which no other connection has."""
    asking = Asker(system, name)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(asking.post.run())
        await asking.post.listen(queue_of(asking.replies), asking.on_message)
        yield asking
        running.cancel()
