"""A client's line to its system: the connection, the queue that answers come to, and the questions that are open.

The line outlives its connections. Each has a queue of replies of its own, whose name is that of the line and the
connection's number; what was under way to the one before is gone, so all open questions are asked again as soon as
there is a new one, under its name. While there is none, or the broker takes nothing, nothing is sent: `waiting_for`
says so in words, and whoever waits does so until its own patience ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dist_zero.client.questions import Questions
from dist_zero_common.aside import only_logged
from dist_zero_common.broker.base import Connect, ConnectionState, Queue
from dist_zero_common.broker.topology import client_replies, queue_of
from dist_zero_common.clock import Clock
from dist_zero_common.errors import ConnectionLost
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token
from dist_zero_common.protocol.messages.envelope import Message

CONNECT_SECONDS_MAX = 10.0
"""A broker that cannot be reached for the first time within this time is an error."""
RETURN_SECONDS_MAX = 60.0
"""One that was reached before, by another line of the same process, is given time to start again."""


class Line:
    """One client's line to a system; `run` must be running."""

    def __init__(
        self,
        connect: Connect,
        *,
        system: str,
        name: str,
        subject: str,
        clock: Clock,
        log: Logger,
        on_message: Callable[[Message], None],
        on_connected: Callable[[], None] = lambda: None,
        on_unroutable: Callable[[str], None] | None = None,
        connect_seconds: float = CONNECT_SECONDS_MAX,
    ) -> None:
        """`name` is the line's own among all that the broker ever sees; `subject` is what questions are about, for
        errors. `on_connected` is called at each new connection, before open questions are asked again."""
        self.replies = client_replies(system, f"{name}-1")
        self.waiting_for = ""
        """What keeps all that is sent from going, in words; empty when nothing does."""
        self.on_waiting: Callable[[str], None] | None = None
        """Hears of `waiting_for` whenever it changes."""
        self.questions = Questions(subject, clock, self._ask, lambda: self.waiting_for)
        self._system, self._name, self._log = system, name, log
        self._connect_seconds = connect_seconds
        self._reason = ""
        self._on_message, self._on_connected = on_message, on_connected
        self._mailbox = Mailbox(
            connect,
            system=system,
            sender=f"client {name}",
            set_aside=only_logged(log),
            on_unroutable=on_unroutable,
            on_state=self._on_state,
        )

    async def run(self) -> None:
        """Move messages until cancelled. Raises `BrokerError` when the broker refuses."""
        await self._mailbox.run()

    async def listen(self) -> None:
        """Wait for the first connection. Raises `ConnectionLost` when there is none for long, and `BrokerError` when
        the broker refuses."""
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._mailbox.listen(self._name_queue, self._handle)
        except TimeoutError:
            reason = self._reason or "nothing answers"
            raise ConnectionLost(f"no connection within {self._connect_seconds:g} s: {reason}") from None

    @property
    def connected(self) -> bool:
        """Whether what is sent now goes."""
        return self._mailbox.state is ConnectionState.CONNECTED

    def send(self, inbox: str, message: Message) -> None:
        """Send a message that nobody sends again: it waits for a connection if it must."""
        self._mailbox.send(inbox, message)

    # -- inside ----------------------------------------------------------------------------------------------

    def _ask(self, inbox: str, message: Message) -> None:
        """Send a question, unless there is no connection: at the next one it is asked again."""
        if self.connected:
            self._mailbox.send(inbox, message)

    def _name_queue(self, connection: int) -> Queue:
        self.replies = client_replies(self._system, f"{self._name}-{connection}")
        return queue_of(self.replies)

    def _handle(self, message: Message, token: Token) -> None:
        self._on_message(message)
        self._mailbox.settle(token)

    def _on_state(self, state: ConnectionState, reason: str) -> None:
        told, self._reason = self._reason == reason, reason
        if state is ConnectionState.CONNECTED:
            self._log.info("connected")
            self._wait_for("")
            self._on_connected()
            self.questions.ask_all_again()
        elif state is ConnectionState.BLOCKED:
            self._log.warning("broker_blocked", reason=reason)
            self._wait_for(f"the broker takes no messages just now: {reason}")
        else:
            if not told:  # each attempt fails for the same reason
                self._log.warning("connection_lost", reason=reason)
            self._wait_for(f"there is no connection to the broker: {reason}")

    def _wait_for(self, what: str) -> None:
        if what != self.waiting_for:
            self.waiting_for = what
            if self.on_waiting is not None:
                self.on_waiting(what)
