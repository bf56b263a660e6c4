"""The kernel of a node: epochs in, epochs out, and no I/O.

A node owes every peer exactly one `Rows` per stage and epoch, and is owed the same. Stage 1 of epoch e runs when the
sequencer's hand-out of e is here; stage s + 1 when `Rows(s + 1, e)` has come from every node of e's map, this one
included. Epochs pipeline: stage 1 may be ahead of stage 3. But no stage runs past an epoch flagged `save` before the
last stage has finished it, because the saved state has to be that of one epoch. docs/protocol.md has the whole.

A node begins at a base, with the state that was saved for it there, and computes what is behind it, again if need be:
it sends the same rows as whoever computed it before, and receivers drop what they have. So everybody keeps what he sent
until a base has passed it, and nobody needs anything of what was before.

What arrives is a set: the first copy of a `Rows` counts, an equal second one is dropped, and a second one that says
something else means that two computations of the same thing differ. Then the node stops with the evidence, because
nothing that it could do on its own is right.

Readers see an epoch when it is finished. A subscription's changes are kept for a while, so that a lost message can be
asked for again and a watcher can go on where it stopped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.fingerprint import shown
from dist_zero.compiler.plan import NEXT, Plan, Sink
from dist_zero.executor import NOTHING_FILLED, Executor
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.epochs import SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.reading import (
    Changes,
    ChangesGone,
    ErrorEntry,
    Got,
    SnapshotAnswer,
    ViewRows,
)
from dist_zero_common.protocol.messages.writing import TRANSACTION_BYTES_MAX
from services.node_runner.attempts import NO_TRIAL, TRIES_MAX, Trial
from services.node_runner.kernel_events import (
    AskChangesEvent,
    AskForRows,
    AskRowsEvent,
    Batches,
    BeginAgain,
    Finished,
    GetEvent,
    GoneEvent,
    Halted,
    HandOutEvent,
    Look,
    MayStep,
    NodeEffect,
    NodeEvent,
    PeerBegun,
    ReaderGone,
    Reply,
    RowsEvent,
    SaveState,
    SendRows,
    Settle,
    TellGone,
    TryStep,
)
from services.node_runner.patience import Patience

PART_BYTES = 2**20
"""Answers and rows are cut into parts of about this size."""

LACKING_TOLD = 2
"""Of so many senders reports say that their rows are lacking: whether it is one alone is what matters."""

HISTORY_EPOCHS, HISTORY_BYTES = 256, 16 * 2**20
"""How many epochs of changes, and how many bytes of them, are kept for watchers."""


@dataclass(slots=True)
class _Parts:
    """What one sender has sent of one `Rows`."""

    parts: int
    got: dict[int, Batches] = field(default_factory=dict)

    def complete(self) -> bool:
        return len(self.got) == self.parts


@dataclass(slots=True)
class _EpochInput:
    """All that has come for one epoch that is not finished."""

    hand_out: HandOutEvent | None = None
    rows: dict[int, dict[int, _Parts]] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _EpochChanges:
    epoch: int
    by_view: dict[int, Batch]
    size_bytes: int


class NodeKernel:
    """One node: an executor, and what is known of each epoch that is not finished."""

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        shard_map: ShardMap,
        shard: int,
        base: int = 0,
        subscriptions: Sequence[SubscriptionWanted] = (),
        goes_on: bool = True,
        trial: Trial = NO_TRIAL,
    ) -> None:
        """`base`: the epoch as of which the executor's state is; `subscriptions`: those that there were then;
        `goes_on`: whether it has been saved as a whole, so that a save may say what changed since. `trial`: what is
        known of attempts to compute what is behind it."""
        self.finished = base
        self.halted = ""
        self.rows = self.reads = 0
        """How many rows its steps have taken in, and how often it was asked for rows or changes."""
        self.changed: Counter[str] = Counter()
        """How many rows views have gained or lost."""
        self._plan, self._executor, self._shown = plan, executor, shown(plan)
        self._readable = [n for n, view in enumerate(plan.views) if not view.name.startswith(NEXT)]
        self._map, self._shard, self._shards = shard_map, shard, len(shard_map.nodes)
        self._reached = [base] * (plan.stages + 1)
        self._save_at = 0
        self._base = base
        self._was_saved = goes_on
        self._trial = trial
        self._asked: tuple[int, int] | None = None
        self._may: tuple[int, int] | None = None
        self._epochs: dict[int, _EpochInput] = {}
        self._subscriptions = {each.subscription: each for each in subscriptions}
        self._sent: dict[tuple[int, int], dict[int, Batches]] = {}
        """What was sent to peers, by epoch and stage, of epochs that no base has passed."""
        self._handed_out = 0
        self._patience: dict[int, Patience] = {}
        self._waiting: dict[tuple[str, int], GetEvent] = {}
        self._history: deque[_EpochChanges] = deque()
        self._history_bytes = 0

    def handle(self, event: NodeEvent) -> list[NodeEffect]:
        """What follows from one event."""
        effects: list[NodeEffect] = []
        match event:
            case GetEvent():
                self._on_get(event, effects)
            case AskChangesEvent():
                self._on_ask_changes(event, effects)
            case ReaderGone():
                self._forget_reader(event.inbox, effects)
            case AskRowsEvent():
                self._on_ask_rows(event, effects)
            case PeerBegun():
                self._on_peer_begun(event, effects)
            case GoneEvent() if event.epoch > self.finished:
                effects.append(BeginAgain(f"rows of epoch {event.epoch} are not kept any more"))
            case GoneEvent():
                pass  # they have come since
            case Look():
                self._look(event, effects)
            case HandOutEvent() | RowsEvent() | MayStep() if self.halted:
                pass  # its messages stay unsettled: whoever takes over will need them
            case HandOutEvent():
                self._on_hand_out(event, effects)
                self._advance(effects)
            case RowsEvent():
                self._on_rows(event, effects)
                self._advance(effects)
            case MayStep():
                self._asked, self._may = None, (event.epoch, event.stage)
                self._advance(effects)
        return effects

    def position(self) -> tuple[int, tuple[int, ...]]:
        """Of the epoch behind the newest finished one: the first stage that has not run, and whose rows it lacks, a
        shard + 1, or 0 for the sequencer."""
        e = self.finished + 1
        stage = next(s for s in range(1, self._plan.stages + 1) if self._reached[s] < e)
        epoch = self._epochs.get(e, _EpochInput())
        if stage == 1:
            return 1, (0,) if epoch.hand_out is None else ()
        senders = epoch.rows.get(stage, {})
        lacking = (s + 1 for s in range(self._shards) if s not in senders or not senders[s].complete())
        return stage, tuple(islice(lacking, LACKING_TOLD))

    @property
    def handed_out(self) -> int:
        """The newest epoch that was handed out to it."""
        return max([self.finished, *(e for e, epoch in self._epochs.items() if epoch.hand_out is not None)])

    def lacking(self) -> dict[int, int]:
        """For how many `Rows` it waits of each shard, of those for which it waits at all."""
        stages = range(2, self._plan.stages + 1)
        return dict(Counter(sender for stage in stages for _, sender in self._missing(stage)))

    @property
    def bytes_used(self) -> int | None:
        """The memory of its executor; None if that does not know."""
        return getattr(self._executor, "bytes_used", None)

    def released(self) -> Executor | None:
        """The executor, for whoever comes in this node's place, if no stage is ahead of what is finished."""
        done = not self.halted and all(reached == self.finished for reached in self._reached[1:])
        return self._executor if done else None

    def readers(self, *, watching: bool) -> list[str]:
        """The inboxes of those who wait for a row, and with `watching` of those who have a subscription."""
        waiting = [get.reply_to for get in self._waiting.values()]
        return waiting + [each.reply_to for each in self._subscriptions.values() if watching]

    def abandon(self) -> list[Token]:
        """The tokens of all that has come and is not finished: for a node whose generation has ended, which nobody will
        ask again."""
        tokens = [token for epoch in self._epochs.values() for token in epoch.tokens]
        tokens += [get.token for get in self._waiting.values()]
        self._epochs, self._waiting = {}, {}
        return tokens

    # -- epochs ------------------------------------------------------------------------------------------------

    def _on_hand_out(self, event: HandOutEvent, effects: list[NodeEffect]) -> None:
        self._forget_sent(event.base)
        if event.epoch <= self.finished:
            effects.append(Settle((event.token,)))
            return
        epoch = self._epochs.setdefault(event.epoch, _EpochInput())
        if epoch.hand_out is None:
            epoch.hand_out = event
        elif _content_of_writes(event.writes) != _content_of_writes(epoch.hand_out.writes):
            self._halt(f"epoch {event.epoch} was handed out twice with different rows", effects)
        epoch.tokens.append(event.token)

    def _forget_sent(self, base: int) -> None:
        if base > self._base:
            self._base = base
            for key in [key for key in self._sent if key[0] <= base]:
                del self._sent[key]

    def _on_ask_rows(self, event: AskRowsEvent, effects: list[NodeEffect]) -> None:
        """Send again what was sent; what we have not come to yet the peer will get then."""
        batches = self._sent.get((event.epoch, event.stage), {}).get(event.asker)
        if batches is not None:
            effects.append(SendRows(event.asker, event.epoch, event.stage, batches))
        elif event.epoch <= self._base:
            effects.append(TellGone(event.asker, event.epoch))

    def _on_peer_begun(self, event: PeerBegun, effects: list[NodeEffect]) -> None:
        if event.epoch < self._base:
            effects.append(TellGone(event.shard, self._base))
            return
        for (epoch, stage), by_target in self._sent.items():
            if epoch > event.epoch:
                effects.append(SendRows(event.shard, epoch, stage, by_target[event.shard]))

    def _look(self, event: Look, effects: list[NodeEffect]) -> None:
        """Ask for what has been waited for too long, of all epochs at once: they may have been lost together."""
        self._handed_out = max(self._handed_out, event.handed_out, *self._epochs)
        for stage in range(1, self._plan.stages + 1):
            missing = self._missing(stage) if not self.halted else []
            patience = self._patience.setdefault(stage, Patience())
            if patience.is_over(missing[0] if missing else None, event.now):
                effects.extend(AskForRows(stage, epoch, sender) for epoch, sender in missing)

    def _missing(self, stage: int) -> list[tuple[int, int]]:
        """The `Rows` that this stage waits for: epochs and senders (for stage 1 the sender is the sequencer)."""
        first = self._reached[stage] + 1
        if stage == 1:
            epochs = range(first, self._handed_out + 1)
            return [(e, 0) for e in epochs if e not in self._epochs or self._epochs[e].hand_out is None]
        missing = []
        for e in range(first, self._reached[stage - 1] + 1):
            senders = self._epochs[e].rows.get(stage, {})
            for sender in range(self._shards):
                if sender not in senders or not senders[sender].complete():
                    missing.append((e, sender))
        return missing

    def _on_rows(self, event: RowsEvent, effects: list[NodeEffect]) -> None:
        if event.epoch <= self.finished:
            effects.append(Settle((event.token,)))
            return
        epoch = self._epochs.setdefault(event.epoch, _EpochInput())
        self._take_rows(epoch, event, effects)
        epoch.tokens.append(event.token)

    def _take_rows(self, epoch: _EpochInput, event: RowsEvent, effects: list[NodeEffect]) -> None:
        senders = epoch.rows.setdefault(event.stage, {})
        parts = senders.setdefault(event.sender, _Parts(event.parts))
        known = parts.got.setdefault(event.part, event.batches)
        if parts.parts != event.parts or (
            known is not event.batches and _content(known) != _content(event.batches)
        ):
            name = self._map.nodes[event.sender]
            self._halt(
                f"node {name} sent two different Rows for stage {event.stage}, epoch {event.epoch}", effects
            )

    def _advance(self, effects: list[NodeEffect]) -> None:
        """Run all that is ready: later stages first, so that epochs finish as early as they can."""
        stage = self._plan.stages
        while stage and not self.halted:
            if self._is_ready(stage):
                if not self._may_run(stage, effects):
                    return
                self._run(stage, effects)
                stage = self._plan.stages
            else:
                stage -= 1

    def _may_run(self, stage: int, effects: list[NodeEffect]) -> bool:
        """Whether a step that is ready may be taken. Of a careful one that has to be asked first."""
        step = (self._reached[stage] + 1, stage)
        if step[0] == self._trial.refused:
            self.halted = (
                f"epoch {step[0]}: each of {TRIES_MAX} attempts to compute it has ended the whole process"
            )
            effects.append(Halted(self.halted, step[0]))
            return False
        if not self._trial.careful or step[0] > self._trial.until or step == self._may:
            return True
        if self._asked is None:
            self._asked = step
            effects.append(TryStep(*step))
        return False

    def _is_ready(self, stage: int) -> bool:
        e = self._reached[stage] + 1
        epoch = self._epochs.get(e)
        if epoch is None:
            return False
        if stage == 1:
            return epoch.hand_out is not None and self._save_at <= self.finished
        senders = epoch.rows.get(stage, {})
        return (
            e <= self._reached[stage - 1]
            and len(senders) == self._shards
            and all(parts.complete() for parts in senders.values())
        )

    def _run(self, stage: int, effects: list[NodeEffect]) -> None:
        e = self._reached[stage] + 1
        epoch = self._epochs[e]
        assert epoch.hand_out is not None
        writes = epoch.hand_out.writes if stage == 1 else ()
        arrived = [
            item
            for _, parts in sorted(epoch.rows.get(stage, {}).items())
            for _, batches in sorted(parts.got.items())
            for item in batches
        ]
        self.rows += sum(len(each.rows) for each in writes) + sum(len(batch) for _, batch in arrived)
        try:
            fill = epoch.hand_out.fill if stage == 1 else NOTHING_FILLED
            parcels = self._executor.step(e, stage, writes, arrived, self._map, self._shard, fill)
            changes = self._executor.finish(e) if stage == self._plan.stages else {}
            saved = self._saved(epoch.hand_out) if stage == self._plan.stages else None
        except Exception as error:  # whatever it is, it would come again: keep it as evidence and stand still
            where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
            failed = f"the executor failed{where}: {type(error).__name__}"
            self._stand_still(e, stage, f"{failed}: {error}", writes, effects, logged=failed)
            return
        size = _too_large([p.batch for p in parcels] + list(changes.values()))
        if size:
            reason = f"a row of {size:,} bytes cannot be sent; at most {TRANSACTION_BYTES_MAX:,} can. It came of the"
            self._stand_still(e, stage, f"{reason} program's expressions, from smaller ones", writes, effects)
            return
        self._reached[stage] = e
        if stage == 1 and epoch.hand_out.save:
            self._save_at = e
        if stage < self._plan.stages:
            others = [target for target in range(self._shards) if target != self._shard]
            by_target: dict[int, list[tuple[int, Batch]]] = {target: [] for target in others}
            for parcel in parcels:
                by_target[parcel.shard].append((parcel.exchange, parcel.batch))
            self._take_rows(epoch, RowsEvent(e, stage + 1, self._shard, 0, 1, (), 0), effects)
            for target, batches in by_target.items():
                self._sent.setdefault((e, stage + 1), {})[target] = tuple(batches)
                effects.append(SendRows(target, e, stage + 1, tuple(batches)))
        else:
            self._finish(e, changes, saved, effects)

    def _saved(self, hand_out: HandOutEvent) -> SaveState | None:
        """What is to be saved as of the epoch that was just finished: taken now, before anything goes on."""
        if not hand_out.save:
            return None
        everything = hand_out.everything or not self._was_saved
        self._was_saved = True
        return SaveState(hand_out.epoch, everything, self._executor.freeze(everything))

    def _finish(
        self, e: int, changes: dict[int, Batch], saved: SaveState | None, effects: list[NodeEffect]
    ) -> None:
        epoch = self._epochs.pop(e)
        self.finished = e
        changes = {view: batch for view, batch in changes.items() if view in self._readable}
        for view, batch in changes.items():
            self.changed[self._plan.views[view].name] += len(batch)
        self._remember(_EpochChanges(e, changes, sum(b.size_bytes for b in changes.values())))
        assert epoch.hand_out is not None
        self._tell_readers(epoch.hand_out, effects)
        waiting, self._waiting = self._waiting, {}
        for get in waiting.values():
            self._on_get(get, effects)
        effects.append(Finished(e))
        if saved is not None:
            effects.append(saved)
        effects.append(Settle(tuple(token for token in epoch.tokens if token)))

    def _halt(self, reason: str, effects: list[NodeEffect]) -> None:
        self.halted = reason
        effects.append(Halted(reason))

    def _stand_still(
        self,
        e: int,
        stage: int,
        reason: str,
        writes: Sequence[Writes],
        effects: list[NodeEffect],
        *,
        logged: str = "",
    ) -> None:
        """This epoch cannot be computed; for `logged` see `Halted`."""
        where = f"epoch {e}, stage {stage}: "
        self.halted = where + reason
        places = frozenset(place for each in writes for place in each.transactions)
        effects.append(Halted(self.halted, e, stage, tuple(sorted(places)), where + logged if logged else ""))

    # -- readers -----------------------------------------------------------------------------------------------

    def _tell_readers(self, hand_out: HandOutEvent, effects: list[NodeEffect]) -> None:
        """What the epoch that was just finished means to whoever watches or wants a snapshot. Of one that is handed out
        again they may have heard: whoever has not asks. Where transactions are void from here on, all that they heard
        is not so any more."""
        if hand_out.forgets:
            self._subscriptions = {}
            self._history.clear()
            self._history_bytes = 0
        if not hand_out.again:
            for subscription in self._subscriptions.values():
                self._send_changes(subscription, self.finished, subscription.reply_to, effects)
        for gone in hand_out.unsubscriptions:
            self._subscriptions.pop(gone, None)
        for wanted in hand_out.subscriptions:
            if hand_out.again:
                self._subscriptions[wanted.subscription] = wanted
            else:
                self._subscribe(wanted, effects)
        if not hand_out.again:
            for snapshot in hand_out.snapshots:
                self._answer(snapshot.request, 0, snapshot.views, snapshot.reply_to, effects)

    def _on_get(self, event: GetEvent, effects: list[NodeEffect]) -> None:
        if event.at_least > self.finished:
            asker = event.reply_to, event.request
            if asker in self._waiting:
                effects.append(Settle((self._waiting[asker].token,)))
            self._waiting[asker] = event
            return
        self.reads += 1
        types = self._plan.views[event.view].row_type.types
        row = self._executor.get(event.view, event.key)
        answer = Batch.from_rows(types, [] if row is None else [row])
        effects.append(Reply(event.reply_to, Got(event.request, self.finished, answer.to_blob())))
        effects.append(Settle((event.token,)))

    def _subscribe(self, wanted: SubscriptionWanted, effects: list[NodeEffect]) -> None:
        if wanted.after == 0:
            self._answer(wanted.request, wanted.subscription, wanted.views, wanted.reply_to, effects)
        elif not self._remembers_behind(wanted.after):
            gone = ChangesGone(wanted.request, wanted.subscription, wanted.after)
            effects.append(Reply(wanted.reply_to, gone))
            return
        else:
            for e in range(wanted.after + 1, self.finished + 1):
                self._send_changes(wanted, e, wanted.reply_to, effects)
        self._subscriptions[wanted.subscription] = wanted

    def _on_ask_changes(self, event: AskChangesEvent, effects: list[NodeEffect]) -> None:
        effects.append(Settle((event.token,)))
        self.reads += 1
        if event.epoch > self.finished:
            return  # told when it is finished: a node that begins again will come to know the subscription, too
        wanted = self._subscriptions.get(event.subscription)
        if wanted is None or not self._remembers_behind(event.epoch - 1):
            request = wanted.request if wanted is not None else 0
            effects.append(Reply(event.reply_to, ChangesGone(request, event.subscription, event.epoch - 1)))
        else:
            self._send_changes(wanted, event.epoch, event.reply_to, effects)

    def _forget_reader(self, inbox: str, effects: list[NodeEffect]) -> None:
        self._subscriptions = {s: w for s, w in self._subscriptions.items() if w.reply_to != inbox}
        for asker, get in list(self._waiting.items()):
            if get.reply_to == inbox:
                del self._waiting[asker]
                effects.append(Settle((get.token,)))

    def _answer(
        self,
        request: int,
        subscription: int,
        views: tuple[int, ...],
        reply_to: str,
        effects: list[NodeEffect],
    ) -> None:
        self.reads += 1
        parts = _cut([(view, self._executor.rows(view)) for view in views])
        errors = tuple(
            ErrorEntry(view, e.operator, e.label, e.reason, e.example, e.count)
            for view in views
            for e in self._executor.errors(view)
        )
        missed = tuple(self._executor.missed(d) for d in range(len(self._plan.datasets)))
        for i, rows in enumerate(parts):
            answer = SnapshotAnswer(
                request=request,
                subscription=subscription,
                epoch=self.finished,
                map_version=self._map.version,
                shard=self._shard,
                shards=self._shards,
                part=i,
                parts=len(parts),
                views=rows,
                errors=errors if i == 0 else (),
                missed=missed if i == 0 else (),
                shown=self._shown,
            )
            effects.append(Reply(reply_to, answer))

    def _send_changes(
        self, wanted: SubscriptionWanted, epoch: int, reply_to: str, effects: list[NodeEffect]
    ) -> None:
        changes = self._history[epoch - self.finished - 1]
        parts = _cut([(view, changes.by_view[view]) for view in wanted.views if view in changes.by_view])
        for i, rows in enumerate(parts):
            message = Changes(
                request=wanted.request,
                subscription=wanted.subscription,
                epoch=epoch,
                map_version=self._map.version,
                shard=self._shard,
                shards=self._shards,
                part=i,
                parts=len(parts),
                views=rows,
                shown=self._shown,
            )
            effects.append(Reply(reply_to, message))

    def _remember(self, changes: _EpochChanges) -> None:
        self._history.append(changes)
        self._history_bytes += changes.size_bytes
        while len(self._history) > 1 and (
            len(self._history) > HISTORY_EPOCHS or self._history_bytes > HISTORY_BYTES
        ):
            self._history_bytes -= self._history.popleft().size_bytes

    def _remembers_behind(self, epoch: int) -> bool:
        """Whether the changes of every finished epoch behind `epoch` are still here."""
        return bool(self._history) and self._history[0].epoch <= epoch + 1 <= self.finished + 1


def view_sink(plan: Plan, view: int) -> Sink:
    """The operator that holds view number `view`."""
    sink = plan.operators[plan.views[view].sink]
    assert isinstance(sink, Sink)
    return sink


def _cut(views: Sequence[tuple[int, Batch]]) -> list[tuple[ViewRows, ...]]:
    """The rows of some views, in parts of about `PART_BYTES`; one empty part if there are none."""
    parts: list[tuple[ViewRows, ...]] = []
    current: list[ViewRows] = []
    size = 0
    for view, batch in views:
        for piece in batch.split(PART_BYTES):
            if current and size + piece.size_bytes > PART_BYTES:
                parts.append(tuple(current))
                current, size = [], 0
            current.append(ViewRows(view, piece.to_blob()))
            size += piece.size_bytes
    return [*parts, tuple(current)] if current or not parts else parts


def _too_large(batches: Sequence[Batch]) -> int:
    """The size in bytes of a row that no message can hold, or 0."""
    for batch in batches:
        if batch.size_bytes > TRANSACTION_BYTES_MAX:
            for piece in batch.split(PART_BYTES):
                if piece.size_bytes > TRANSACTION_BYTES_MAX:
                    return piece.size_bytes
    return 0


def _content(batches: Batches) -> list[tuple[int, int]]:
    return sorted((exchange, batch.content_hash()) for exchange, batch in batches)


def _content_of_writes(writes: tuple[Writes, ...]) -> list[int]:
    return sorted(each.content_hash() for each in writes)
