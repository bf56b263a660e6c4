"""An open subscription: it asks for what is missing, and begins again where the past is forgotten."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from dist_zero.client.watch import StoredChange, Subscription
from dist_zero_common.errors import RequestError
from dist_zero_common.protocol.messages.reading import (
    AskChanges,
    Changes,
    ChangesGone,
    SnapshotAnswer,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from dist_zero.client.client import Client

_QUIET_SECONDS = 5.0
"""A watch that gets no further for so long asks whether it has missed something."""
WAITING_ROWS_MAX = 1_000_000
"""More rows than this are not kept for a reader who is behind: the watch begins again with a snapshot."""
_GAP_SECONDS = 1.0
"""How long it waits for the rest of an epoch when something of it, or of a later one, has come."""
_AGAIN_FACTOR, _AGAIN_SECONDS_MAX = 2.0, 20.0
"""So much longer it waits each time that asking has not helped, because slow is not lost."""


class Watch:
    """An open subscription: an asynchronous iterator of `StoredChange`, one per epoch."""

    def __init__(self, client: Client, views: tuple[int, ...], after: int) -> None:
        self._client = client
        self._views, self._opened = views, views
        """The numbers of its views now, and those that they had when it was opened, by which changes are told."""
        self._names = tuple(client.plan.views[view].name for view in views)
        self._changed = asyncio.Event()
        self._ready: deque[StoredChange] = deque()
        self._ready_rows = 0
        self._overrun = False
        self._error: Exception | None = None
        self._quiet = False
        self._asked = 0
        self._since = asyncio.get_running_loop().time()
        self._state = self._new_state(after)

    def _new_state(self, after: int) -> Subscription:
        self._got_further()
        return Subscription(self._client.questions.next_number(), self._views, after, self._client.readers)

    @property
    def subscription(self) -> int:
        """The id of the subscription, 0 until it is known."""
        return self._state.id

    @property
    def is_quiet(self) -> bool:
        """Whether it has got no further for a while, and has asked why."""
        return self._quiet

    def go_on(self) -> None:
        """There is a new connection, the program is elsewhere, or a node took us for gone: subscribe anew, behind the
        last epoch that is complete, or from the beginning if none is. Not if it has ended with an error."""
        if self._error is not None:
            return
        state = self._state
        self.unsubscribe()
        self._state = self._new_state(state.epoch if state.epoch > 0 else state.after)
        self._client.watches[self._state.request] = self
        self._send_subscribe()

    def subscribe(self) -> None:
        """Ask for the subscription; it is asked for again until something comes."""
        self._client.questions.check()
        self._client.watches[self._state.request] = self
        self._send_subscribe()

    def unsubscribe(self) -> None:
        """End the subscription; nobody answers that."""
        self._client.watches.pop(self._state.request, None)
        if self._client.questions.failure is None and self._state.id:
            self._client.send(self._client.placement.clients_inbox, Unsubscribe(self._state.id))

    def wake(self) -> None:
        """Look at the client's state: it has failed."""
        self._changed.set()

    def refuse(self, error: Exception) -> None:
        """The subscription was refused."""
        self._error = error
        self._changed.set()

    def handle(self, message: SnapshotAnswer | Changes | ChangesGone) -> None:
        """A message of this subscription."""
        epoch, waited = self._state.epoch, self._waits_for_rest
        if isinstance(message, SnapshotAnswer):
            self._add(self._state.on_snapshot(message))
        elif isinstance(message, Changes):
            self._add(self._state.on_changes(message))
        elif message.request == 0:  # a node has forgotten the subscription, not the changes
            self.go_on()
        else:
            self._begin_again()
        for stray in self._state.strays:
            self._client.send(self._client.placement.clients_inbox, Unsubscribe(stray))
        self._state.strays.clear()
        # Later epochs do not tell that the next one will come: while somebody writes they come all the time.
        if isinstance(message, SnapshotAnswer) or self._state.epoch > epoch or not waited:
            self._got_further()
        self._changed.set()

    def _got_further(self) -> None:
        self._quiet, self._asked, self._since = False, 0, asyncio.get_running_loop().time()

    @property
    def _waits_for_rest(self) -> bool:
        return self._state.newest > self._state.epoch

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> StoredChange:
        while not self._ready:
            if self._overrun:
                self._overrun = False
                self._begin_again()
            self._client.questions.check()
            if self._error is not None:
                raise self._error
            self._changed.clear()
            patience = _GAP_SECONDS if self._waits_for_rest and self._state.epoch >= 0 else _QUIET_SECONDS
            patience = min(patience * _AGAIN_FACTOR**self._asked, _AGAIN_SECONDS_MAX)
            try:
                async with asyncio.timeout_at(self._since + patience):
                    await self._changed.wait()
            except TimeoutError:
                self._ask_for_missing()
        change = self._ready.popleft()
        self._ready_rows -= _row_count(change)
        return change

    def _add(self, changes: list[StoredChange]) -> None:
        """Keep changes for the reader; too many, beside one that is being waited for, end the
        subscription."""
        for change in changes:
            rows = {opened: change.rows[now] for opened, now in zip(self._opened, self._views, strict=True)}
            change = replace(change, rows=rows)
            self._ready.append(change)
            self._ready_rows += _row_count(change)
        if self._ready_rows > WAITING_ROWS_MAX and len(self._ready) > 1:
            self._ready.clear()
            self._ready_rows = 0
            self._overrun = True
            self.unsubscribe()

    def _begin_again(self) -> None:
        """What we would go on from is forgotten: a new subscription, which begins with a snapshot."""
        self.unsubscribe()
        self._state = self._new_state(after=0)
        self._client.watches[self._state.request] = self
        self._send_subscribe()

    def follow_change(self) -> None:
        """The client's program was changed: begin again with a snapshot of the views that are called so now."""
        numbers = {view.name: number for number, view in enumerate(self._client.plan.views)}
        gone = [name for name in self._names if name not in numbers]
        if gone:
            there = ", ".join(numbers)
            self.refuse(
                RequestError(f"a change of the program has dropped view {', '.join(gone)}; there are {there}")
            )
            return
        self._views = tuple(numbers[name] for name in self._names)
        self._ready.clear()
        self._ready_rows = 0
        self._begin_again()

    def _send_subscribe(self) -> None:
        message = Subscribe(self._state.request, self._names, self._state.after, self._client.replies)
        self._client.send(self._client.placement.clients_inbox, message)

    def _ask_for_missing(self) -> None:
        self._quiet, self._since = True, asyncio.get_running_loop().time()
        self._asked += 1
        if self._waits_for_rest:
            self._client.look_now()  # others get on: perhaps we ask where nobody knows any more
        state, placement = self._state, self._client.placement
        if not state.id or state.epoch < 0:
            self._send_subscribe()
            return
        shard_map = placement.shard_map
        for shard in state.missing(shard_map.version, len(shard_map.nodes)):
            ask = AskChanges(
                self._client.plan.name,
                shard_map.version,
                shard,
                state.id,
                state.epoch + 1,
                self._client.replies,
            )
            self._client.send(placement.inboxes[shard], ask)


def _row_count(change: StoredChange) -> int:
    return sum(len(rows) for rows in change.rows.values())
