"""What readers have asked the sequencer for: snapshots, subscriptions, and to hear when an epoch is finished. Pure.

A snapshot or a subscription waits for the next record, which gives it its epoch; the nodes answer it from there. Only
`take` says what a record did. Where readers were told what is not so any more (void transactions, other views), all
subscriptions of before end, and watchers begin again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dist_zero.compiler.plan import NEXT, Plan
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.mailbox import NO_TOKEN, Token
from dist_zero_common.protocol.messages.epochs import EPOCHS_AHEAD_MAX, SnapshotWanted, SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import RequestRefused
from dist_zero_common.protocol.messages.reading import (
    AwaitEpoch,
    EpochFinished,
    SnapshotRequest,
    Subscribe,
    Unsubscribe,
)
from dist_zero_common.protocol.stored import LogRecord, place_in_log
from services.node_runner.sequencer_events import Answer, Now, SequencerEffect, SettleMessages

_REMEMBERED_REQUESTS = 1_024
_ASKED_AGAIN_SECONDS = 3.0


class Readers:
    """All that are known as of the newest record, and what they have asked for since."""

    def __init__(self, plan: Plan, known: Iterable[SubscriptionWanted], forgotten: int) -> None:
        """`known`: as of the base behind which the log begins. `forgotten`: subscriptions of records before this epoch
        have ended."""
        self._numbers = {v.name: i for i, v in enumerate(plan.views) if not v.name.startswith(NEXT)}
        self._forgotten = forgotten
        self._subscriptions = {each.subscription: each for each in known}
        self._snapshots: dict[SnapshotWanted, Token] = {}
        # As subscription 0: a subscription's id comes with its record.
        self._subscribes: dict[SubscriptionWanted, Token] = {}
        self._unsubscribes: dict[int, Token] = {}
        self._asked: dict[tuple[str, int], float] = {}
        self._awaiting: list[AwaitEpoch] = []

    # -- from clients ------------------------------------------------------------------------------------------

    def on_question(
        self, message: SnapshotRequest | Subscribe, token: Token, now: Now, effects: list[SequencerEffect]
    ) -> None:
        """A question for the next record, unless it is refused or waits already. A snapshot that is asked for again
        after its record is taken again, since the answer may be lost. So is a subscription, but not at once: a copy of
        the same message is more likely. Who has two of them ends one."""
        views = self._views(message.views, message.request, message.reply_to, effects)
        waits = False
        if views is None:
            pass
        elif isinstance(message, SnapshotRequest):
            snapshot = SnapshotWanted(message.request, views, message.reply_to)
            waits = self._snapshots.setdefault(snapshot, token) == token
        elif self._is_new(message.reply_to, message.request, now):
            wanted = SubscriptionWanted(0, message.request, views, message.after, message.reply_to)
            waits = self._subscribes.setdefault(wanted, token) == token
        if not waits:
            effects.append(SettleMessages((token,)))

    def on_unsubscribe(self, message: Unsubscribe, token: Token, effects: list[SequencerEffect]) -> None:
        """A subscription is to end with the next record."""
        if message.subscription in self._unsubscribes:
            effects.append(SettleMessages((token,)))
        else:
            self._unsubscribes[message.subscription] = token

    def on_await(
        self, message: AwaitEpoch, token: Token, epoch: int, finished: int, effects: list[SequencerEffect]
    ) -> None:
        """Somebody waits for an epoch; `epoch` is the newest of the log, `finished` that which all have finished."""
        if message.epoch > epoch + EPOCHS_AHEAD_MAX:
            raise MalformedMessage(f"epoch {message.epoch}, where {epoch} is the newest of the log")
        if message not in self._awaiting:
            self._awaiting.append(message)
        self.answer_awaiting(finished, effects)
        effects.append(SettleMessages((token,)))

    def on_gone(self, inbox: str) -> None:
        """Nobody reads this inbox any more: its subscriptions end with the next record."""
        for subscription, wanted in self._subscriptions.items():
            if wanted.reply_to == inbox:
                self._unsubscribes.setdefault(subscription, NO_TOKEN)

    def answer_awaiting(self, finished: int, effects: list[SequencerEffect]) -> None:
        """Tell those who wait for an epoch up to this one, which all nodes have finished."""
        ready = [a for a in self._awaiting if a.epoch <= finished]
        if ready:
            self._awaiting = [a for a in self._awaiting if a.epoch > finished]
            effects.extend(Answer(a.reply_to, EpochFinished(a.request, finished)) for a in ready)

    def _views(
        self, names: tuple[str, ...], request: int, reply_to: str, effects: list[SequencerEffect]
    ) -> tuple[int, ...] | None:
        numbers = self._numbers
        unknown = [name for name in names if name not in numbers]
        if unknown or not names:
            reason = f"no view {', '.join(map(repr, unknown)) or 'named'}; there are {', '.join(numbers)}"
            effects.append(Answer(reply_to, RequestRefused(request, reason)))
            return None
        return tuple(numbers[name] for name in dict.fromkeys(names))

    def _is_new(self, reply_to: str, request: int, now: Now) -> bool:
        """Whether a subscription is asked for the first time, or so long after the last that the answer is lost."""
        asked = self._asked.pop((reply_to, request), None)
        if asked is not None and now.monotonic - asked < _ASKED_AGAIN_SECONDS:
            self._asked[reply_to, request] = asked
            return False
        self._asked[reply_to, request] = now.monotonic
        if len(self._asked) > _REMEMBERED_REQUESTS:
            del self._asked[next(iter(self._asked))]
        return True

    # -- the log -----------------------------------------------------------------------------------------------

    def wanted_snapshots(self) -> tuple[SnapshotWanted, ...]:
        """What the next record says of snapshots."""
        return tuple(self._snapshots)

    def wanted_subscriptions(self, epoch: int) -> tuple[SubscriptionWanted, ...]:
        """What the next record, of this epoch, says of subscriptions."""
        return tuple(
            replace(wanted, subscription=place_in_log(epoch, i)) for i, wanted in enumerate(self._subscribes)
        )

    def wanted_unsubscriptions(self) -> tuple[int, ...]:
        """The subscriptions that end with the next record."""
        return tuple(self._unsubscribes)

    def take(self, record: LogRecord, effects: list[SequencerEffect]) -> None:
        """A record is there: what it says is so, and its messages are done with."""
        if record.epoch >= self._forgotten:
            self._subscriptions.update((wanted.subscription, wanted) for wanted in record.subscriptions)
        for gone in record.unsubscriptions:
            self._subscriptions.pop(gone, None)
        tokens = [self._snapshots.pop(wanted, NO_TOKEN) for wanted in record.snapshots]
        tokens += [self._subscribes.pop(replace(s, subscription=0), NO_TOKEN) for s in record.subscriptions]
        tokens += [self._unsubscribes.pop(gone, NO_TOKEN) for gone in record.unsubscriptions]
        own = tuple(token for token in tokens if token != NO_TOKEN)
        if own:
            effects.append(SettleMessages(own))

    def as_of_now(self) -> tuple[SubscriptionWanted, ...]:
        """What a base has to know of subscriptions."""
        return tuple(self._subscriptions.values())
