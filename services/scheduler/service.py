"""The scheduler's shell: stands by until it leads (`lead.py`), leads until it is deposed (`leader.py`), and so on.

Any number may run in a system; the schedulers' log in the store says which one leads (`log.py`). Each time that one
leads it has another number, and knows nothing but what that log and the reports say. Each phase has a connection to the
broker of its own, so with the lead ends all that was still on its way out.
"""

from __future__ import annotations

from collections import Counter

from dist_zero_common.broker.base import Connect
from dist_zero_common.clock import Clock
from dist_zero_common.log import Logger
from dist_zero_common.mailbox import Mailbox
from dist_zero_common.store.base import Store
from services.scheduler.changes import Changes
from services.scheduler.lead import LeadOptions, StandBy
from services.scheduler.leader import Leader
from services.scheduler.spawners.base import Spawner
from services.scheduler.state import Desired, Observed, SchedulerOptions
from services.scheduler.written_log import Deposed, WrittenLog


class SchedulerService:
    """One scheduler."""

    def __init__(
        self,
        *,
        system: str,
        connect: Connect,
        store: Store,
        clock: Clock,
        spawner: Spawner,
        log: Logger,
        options: SchedulerOptions,
        lead: LeadOptions,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.changes: dict[str, Changes] = {}
        """What has become of each program's placement, over all times that it has led."""
        self.leader: Leader | None = None
        """How it leads, or has led last."""
        self.leading: Leader | None = None
        """How it leads, while it does."""
        self.system, self._connect, self._store, self._clock = system, connect, store, clock
        self._spawner, self._options, self._lead_options = spawner, options, lead
        self._log = log.bind(system=system, scheduler_name=lead.name)
        self._post: Mailbox | None = None

    @property
    def observed(self) -> Observed:
        """What it has heard since it leads."""
        return self.leader.observed if self.leader is not None else Observed()

    @property
    def desired(self) -> Desired:
        """What it wants. Raises `AttributeError` before it has led."""
        return self._led().desired

    @property
    def post(self) -> Mailbox:
        """Its post as the leading scheduler. Raises `AttributeError` before it has led."""
        return self._led().post

    @property
    def post_now(self) -> Mailbox | None:
        """The post that is to move now, whether it leads or not."""
        return self._post

    async def run(self) -> None:
        """Serve until cancelled; or until deposed, if told so."""
        written = WrittenLog(self._store, self._lead_options.name, self._log)
        number = 0
        afresh = not self._options.keeps_programs
        while number == 0 or self._lead_options.stands_by:
            number += 1
            await self._stand_by(written, number, afresh=afresh)
            afresh = False
            try:
                await self._lead(written)
            except* Deposed as deposed:
                self._log.warning("scheduler_deposed", reason=str(deposed.exceptions[0]))

    async def _stand_by(self, written: WrittenLog, number: int, *, afresh: bool) -> None:
        standby = StandBy(
            system=self.system,
            connect=self._connect,
            clock=self._clock,
            log=self._log,
            written=written,
            options=self._lead_options,
            number=number,
            host=self._options.host,
        )
        self._post = standby.post
        await standby.lead(afresh=afresh)

    async def _lead(self, written: WrittenLog) -> None:
        self.leader = Leader(
            system=self.system,
            connect=self._connect,
            store=self._store,
            clock=self._clock,
            spawner=self._spawner,
            log=self._log,
            options=self._options,
            lead=self._lead_options,
            written=written,
            counters=self.counters,
            changes=self.changes,
        )
        self._post = self.leader.post
        try:
            self.leading = self.leader
            await self.leader.run()
        finally:
            self.leading = None

    def _led(self) -> Leader:
        if self.leader is None:
            raise AttributeError("this scheduler has not led yet")
        return self.leader
