"""Who leads: the scheduler whose claim is the newest in the log (`log.py`). Here is when another one tries to be it.

A scheduler that does not lead stands by. It asks the leading one, over the broker, whether it is there: a question
every other second, which costs no look into the store. It tries to lead

- at once, where nobody has ever led, and when it starts if it was told that nobody else can;
- when it found twice, some while apart, that nobody reads the scheduler's inbox: the leading one has ended;
- when nothing was heard of a leading one for the time of the lease, and a little more by its name, so that not all
  try at once: it hangs, or was cut off.

None of that has to be true. Time, and what the broker says, decide when a scheduler *tries*; whether it leads is
decided by the log, and whatever a deposed one still believes does no harm (`docs/protocol.md`). To try is to read the
log, and where it has no later claim than is known, to claim the lead in its next place. A later claim begins a new
lease.

Whoever has claimed the lead deletes the scheduler's inbox before reading it anew: a predecessor that hangs would go on
being given its share of what comes, and what waits there is old. Reports come each second, and questions again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from hashlib import blake2b

from dist_zero_common.aside import only_logged
from dist_zero_common.broker.base import Connect, ConnectionState, Queue, QueueDepth
from dist_zero_common.broker.topology import queue_of, scheduler_inbox, standby_inbox
from dist_zero_common.clock import Clock
from dist_zero_common.errors import BrokerError, LogDamaged, StoreError
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox, Token, log_state
from dist_zero_common.protocol.dispatch import Handlers, Role, check_handlers, dispatch
from dist_zero_common.protocol.messages.control import Leads, StandsBy
from dist_zero_common.protocol.messages.envelope import Message
from services.scheduler.written_log import WrittenLog

LOOKS_PER_LEASE = 5
UNREAD_LOOKS = 2
STORE_SECONDS = 1.0
ROLES = (Role.STANDBY,)


@dataclass(frozen=True, slots=True)
class LeadOptions:
    """`name`: the scheduler's, which no other process has, or ever had: by it each knows its own claim.
    `lease_seconds`: a leading scheduler that is not heard of for so long is replaced if another one stands by, and one
    to which the store does not answer for so long gives up. `stands_by`: whether a scheduler that was deposed stands
    by; else it ends. `at_once`: whether to claim the lead when it starts, because whoever starts it knows that no other
    one is there."""

    name: str
    lease_seconds: float = 10.0
    stands_by: bool = True
    at_once: bool = False

    def jitter(self, what: object) -> float:
        """Something from 0 to 1, not the same for all schedulers, but the same in each run of a simulation."""
        return int.from_bytes(blake2b(f"{self.name}/{what}".encode(), digest_size=4).digest()) / 2**32


# ---- when to try: pure -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watch:
    """What a scheduler that stands by has seen. `claim` is the newest claim that it knows of, and it can have heard of
    that one's scheduler since `since`; `heard_at` is when it did. `looks`: how often it looked at the inbox, and
    `unread` how many times in a row nobody read that."""

    claim: int
    since: float
    heard_at: float = float("-inf")
    looks: int = 0
    unread: int = 0


def with_claim(watch: Watch, claim: int, now: float) -> Watch:
    """After a look into the log, or word from the one that leads."""
    return watch if claim <= watch.claim else replace(watch, claim=claim, since=now, unread=0)


def with_word(watch: Watch, leads: Leads, now: float) -> Watch:
    """After an answer of a leading scheduler. One of an earlier number is deposed and does not know it."""
    if leads.scheduler < watch.claim:
        return watch
    return replace(with_claim(watch, leads.scheduler, now), heard_at=now, unread=0)


def with_look(watch: Watch, inbox: QueueDepth | None) -> Watch:
    """After a look at the scheduler's inbox."""
    return replace(
        watch,
        looks=watch.looks + 1,
        unread=watch.unread + 1 if inbox is None or not inbox.consumers else 0,
    )


def connected_anew(watch: Watch, now: float) -> Watch:
    """Without a connection nothing is heard, whoever is there."""
    return replace(watch, since=now, unread=0)


def shall_try(watch: Watch, options: LeadOptions, now: float) -> bool:
    """Whether to try to lead now."""
    if watch.claim == 0 or watch.unread >= UNREAD_LOOKS:
        return True
    patience = options.lease_seconds * (1.0 + options.jitter(watch.claim) / 5)
    return now - max(watch.since, watch.heard_at) >= patience


# ---- the shell -------------------------------------------------------------------------------------------------


class StandBy:
    """A scheduler while it does not lead, over a connection of its own. `number`: how often this process has stood by,
    which names its queues."""

    def __init__(
        self,
        *,
        system: str,
        connect: Connect,
        clock: Clock,
        log: Logger,
        written: WrittenLog,
        options: LeadOptions,
        number: int,
        host: str,
    ) -> None:
        """`host`: the spawner's host on which this scheduler runs, or empty."""
        self._system, self._clock, self._log = system, clock, log
        self._written, self._options = written, options
        self._number, self._name, self._host = number, f"{options.name}-{number}", host
        self._log_state = log_state(log)
        self._watch = Watch(0, clock.monotonic())
        self._replies = ""
        self.post = Mailbox(
            connect,
            system=system,
            sender=f"standby-{self._name}",
            set_aside=only_logged(log),
            on_state=self._on_state,
        )
        self._handlers: Handlers[None] = {Leads: self._on_leads}
        check_handlers(ROLES, self._handlers)

    async def lead(self, *, afresh: bool) -> None:
        """Return when this scheduler leads, and the inbox is there for it to be read. `afresh`: see `claim_after`.
        Raises `LogDamaged`, and `BrokerError` when the broker refuses."""
        await self._load()
        at_once = self._watch.claim == 0 or (self._options.at_once and self._number == 1)
        if at_once and await self._claim(afresh=afresh):
            return
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.post.run())
            await self.post.listen(self._queue, self._on_message)
            self._log.info("scheduler_stands_by", leader=self._watch.claim)
            while not (await self._look() and await self._claim(afresh=afresh)):
                seconds = self._options.lease_seconds / LOOKS_PER_LEASE
                await asyncio.sleep(seconds * (0.75 + self._options.jitter(self._watch.looks) / 2))
            await self.post.delete(scheduler_inbox(self._system))
            running.cancel()

    async def _look(self) -> bool:
        """Ask who leads, look at the inbox, and say whether to try to lead."""
        inbox = scheduler_inbox(self._system)
        try:
            depth = await self.post.ask_broker(inbox)
        except BrokerError:
            return False  # who cannot reach the broker cannot lead either
        self._watch = with_look(self._watch, depth)
        if depth is not None:
            self.post.send(inbox, StandsBy(self._options.name, self._replies, self._host))
        return shall_try(self._watch, self._options, self._clock.monotonic())

    async def _claim(self, *, afresh: bool) -> bool:
        """Try to lead, if nobody has claimed to that was not known of."""
        known = self._watch.claim
        await self._load()
        if self._watch.claim > known:
            return False
        try:
            claimed = await self._written.claim(afresh=afresh)
            if not claimed:
                await self._load()
        except LogDamaged:
            raise
        except StoreError as failed:
            self._log.warning("claim_failed", reason=str(failed))
            return False
        return claimed

    async def _load(self) -> None:
        """Read the log, for as long as that takes."""
        while True:
            try:
                state = await self._written.load()
            except LogDamaged:
                raise
            except StoreError as failed:
                self._log.warning("claim_failed", reason=str(failed))
                await asyncio.sleep(STORE_SECONDS)
            else:
                self._watch = with_claim(self._watch, state.leader, self._clock.monotonic())
                return

    def _queue(self, connection: int) -> Queue:
        self._replies = standby_inbox(self._system, f"{self._name}-{connection}")
        return queue_of(self._replies)

    def _on_state(self, state: ConnectionState, reason: str) -> None:
        self._log_state(state, reason)
        if state is ConnectionState.CONNECTED:
            self._watch = connected_anew(self._watch, self._clock.monotonic())

    def _on_message(self, message: Message, token: Token) -> None:
        dispatch(ROLES, self._handlers, message)
        self.post.settle(token)

    def _on_leads(self, message: Leads) -> None:
        self._watch = with_word(self._watch, message, self._clock.monotonic())
