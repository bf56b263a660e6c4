"""Bugs to plant into the system while it runs, to see that `dist-zero test` finds them: a simulator that finds nothing
wrong with a broken system says nothing of a whole one.

Each is a function that changes a method, as a slip in it would. They are changes of behaviour, not of text: whoever
rewrites the method keeps the bug plantable, or sees here that its name is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

import dist_zero as dz
from dist_zero_common.errors import StoreError
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.codec import encode
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import Done
from dist_zero_common.protocol.messages.writing import Transaction
from dist_zero_common.protocol.stored import BaseId, LogRecord, RecordedOpen
from dist_zero_common.store.layout import record_name
from services.node_runner.epoch_log import EpochLog
from services.node_runner.kernel import NodeKernel
from services.node_runner.kernel_events import RowsEvent
from services.node_runner.nodes_here import NodesHere
from services.node_runner.sequencer import Sequencer
from services.node_runner.sequencer_events import ShardFinished
from services.node_runner.sequencing import HostedSequencer
from services.node_runner.sessions import Sessions
from test.simulated import planted_saving as saving
from test.simulated.property_world import PROGRAMS

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Planted:
    """A bug. `checks`: which laws it may break first; `seeds_max`: within how many seeds it has to be found; `missed`
    says why it is not found: it does no harm, or the simulator has a hole. `faults`: the kinds with which it is looked
    for; alone they are more than among all the others."""

    plant: Callable[[Patch], None]
    checks: tuple[str, ...] = ()
    seeds_max: int = 0
    missed: str = ""
    program: dz.Program = PROGRAMS[3]
    faults: str = "all"


def reply_before_the_record_is_there(patch: Patch) -> None:
    """The sequencer believes that what it has sent to the store will be there."""
    original = EpochLog.append
    hurried: list[asyncio.Task[Any]] = []

    async def append(self: EpochLog, record: LogRecord) -> tuple[LogRecord, list[BaseId]]:
        hurried.append(asyncio.create_task(original(self, record)))
        return record, [BaseId(0, 0)]

    patch.setattr(EpochLog, "append", append)


def own_record_is_believed(patch: Patch) -> None:
    """Whatever the store says, the sequencer takes its own record for the one that is there."""

    async def append(self: EpochLog, record: LogRecord) -> tuple[LogRecord, list[BaseId]]:
        while True:
            try:
                await self._store.create(record_name(self._program, record.epoch), encode(record))
                return record, [BaseId(0, 0)]
            except StoreError:
                await asyncio.sleep(0.1)

    patch.setattr(EpochLog, "append", append)


def no_fence(patch: Patch) -> None:
    """A new sequencer goes on at once, without a record of its own."""

    def start(self: Sequencer, _now: Any) -> list[Any]:
        self.fenced = True
        return []

    patch.setattr(Sequencer, "start", start)


def a_second_copy_of_rows_counts(patch: Patch) -> None:
    """A node adds up what came twice."""
    original = NodeKernel._take_rows

    def take_rows(self: NodeKernel, epoch: Any, event: RowsEvent, effects: Any) -> None:
        parts = epoch.rows.get(event.stage, {}).get(event.sender)
        if parts is not None and event.part in parts.got:
            parts.got[event.part] = (*parts.got[event.part], *event.batches)
        else:
            original(self, epoch, event, effects)

    patch.setattr(NodeKernel, "_take_rows", take_rows)


def a_retry_is_a_new_transaction(patch: Patch) -> None:
    """The sequencer takes a number that is committed for the next one."""
    original = Sessions.on_transaction

    def on_transaction(self: Sessions, message: Transaction, token: Token, effects: Any) -> None:
        session = self._sessions.get(message.session)
        if session is not None and 1 <= message.number <= session.committed:
            message = replace(message, number=session.committed + 1)
        original(self, message, token, effects)

    patch.setattr(Sessions, "on_transaction", on_transaction)


def a_new_session_forgets_the_count(patch: Patch) -> None:
    """Who opens a session again under the same name is told that nothing of it is committed."""
    original = Sessions.take_open

    def take_open(self: Sessions, record: LogRecord, index: int, opened: RecordedOpen, effects: Any) -> None:
        older = self._by_client.get(opened.client)
        if older is not None:
            older.committed = 0
        original(self, record, index, opened, effects)

    patch.setattr(Sessions, "take_open", take_open)


def stages_run_past_a_save(patch: Patch) -> None:
    """A node does not wait for its last stage at an epoch whose state is to be saved."""
    original = NodeKernel._run

    def run(self: NodeKernel, stage: int, effects: Any) -> None:
        original(self, stage, effects)
        self._save_at = 0

    patch.setattr(NodeKernel, "_run", run)


def done_counts_across_generations(patch: Patch) -> None:
    """A sequencer takes what nodes of older generations have finished for finished."""

    def on_local(self: HostedSequencer, shard: int, _generation: int, epoch: int) -> None:
        if shard < len(self._host.shard_map.nodes):
            self._handle(ShardFinished(shard, epoch))

    original = HostedSequencer._on_node_message

    def on_message(self: HostedSequencer, message: Message, token: Token) -> None:
        if isinstance(message, Done):
            message = replace(message, generation=self._generation)
        original(self, message, token)

    patch.setattr(HostedSequencer, "on_finished", on_local)
    patch.setattr(HostedSequencer, "_on_node_message", on_message)


def sent_rows_are_forgotten(patch: Patch) -> None:
    """A node does not keep what it sent, for those to whom it did not come."""
    original = NodeKernel._run

    def run(self: NodeKernel, *arguments: Any) -> None:
        original(self, *arguments)
        self._sent.clear()

    patch.setattr(NodeKernel, "_run", run)


def a_get_does_not_wait(patch: Patch) -> None:
    """A node answers with what it has, however old, instead of waiting for the epoch that the reader has seen."""
    original = NodeKernel._on_get

    def on_get(self: NodeKernel, event: Any, effects: Any) -> None:
        original(self, replace(event, at_least=0), effects)

    patch.setattr(NodeKernel, "_on_get", on_get)


def flush_counts_the_first_node(patch: Patch) -> None:
    """An epoch is taken for finished when one node has finished it."""

    def count_finished(self: Sequencer) -> None:
        self.finished = min(self.epoch, max(self._shard_finished))
        self._handing_out.forget(self.finished)

    patch.setattr(Sequencer, "_count_finished", count_finished)


def older_generations_are_heard(patch: Patch) -> None:
    """A node takes rows of whatever generation for its own."""

    def has(self: NodesHere, shard: int, _generation: int) -> bool:
        return shard in self.by_shard

    patch.setattr(NodesHere, "has", has)


def set_iteration_in_a_kernel(patch: Patch) -> None:
    """The sequencer tells readers in the order of a set of texts. Not in the table: only two hash seeds show it."""
    original = Sequencer._record

    def record(self: Sequencer, now: Any, save: bool) -> LogRecord:
        made = original(self, now, save)
        by_inbox = {each.reply_to: each for each in made.opens}
        return replace(made, opens=tuple(by_inbox[inbox] for inbox in {*by_inbox}))

    patch.setattr(Sequencer, "_record", record)


PLANTED = {
    "second copy of rows": Planted(a_second_copy_of_rows_counts, ("view", "error", "progress"), 10),
    "retry as new transaction": Planted(a_retry_is_a_new_transaction, ("commit", "progress"), 5),
    "session forgets the count": Planted(a_new_session_forgets_the_count, ("commit",), 5),
    "sent rows forgotten": Planted(sent_rows_are_forgotten, ("progress",), 10),
    "reply before the record": Planted(reply_before_the_record_is_there, ("commit", "progress", "read"), 60),
    "flush counts the first": Planted(flush_counts_the_first_node, ("progress", "read"), 10, faults="crash"),
    "get does not wait": Planted(a_get_does_not_wait, ("read",), 10),
    "stage past a save": Planted(stages_run_past_a_save, ("error", "progress"), 10),
    "own rows forgotten": Planted(saving.own_rows_are_forgotten_when_finished, ("progress",), 30),
    "hand-outs forgotten": Planted(
        saving.hand_outs_are_forgotten_when_finished, ("progress",), 10, faults="crash"
    ),
    "base without sessions": Planted(saving.a_base_without_sessions, ("error", "commit", "progress"), 10),
    "save loses the last epoch": Planted(
        saving.a_save_loses_the_last_epoch, ("view", "error", "progress", "replay"), 10
    ),
    "chains collected": Planted(saving.chains_are_collected, ("kept", "error", "progress"), 5),
    "loose state for every successor": Planted(
        saving.loose_state_for_every_successor, ("view", "error"), 10, program=saving.LOOSE
    ),
    "loose state for none": Planted(saving.loose_state_for_none, ("view", "error"), 10, program=saving.LOOSE),
    "successors keep everything": Planted(saving.successors_keep_everything, ("view", "error"), 10),
    "successors keep the next one's": Planted(
        saving.successors_keep_what_is_the_next_ones, ("view", "error"), 10
    ),
    "own record believed": Planted(own_record_is_believed, ("commit", "progress"), 20, faults="ambush"),
    "records of the older base collected": Planted(
        saving.records_behind_the_older_base_are_collected, ("kept",), 10, faults="crash,ambush,damage"
    ),
    "base when the first has saved": Planted(
        saving.a_base_when_the_first_has_saved, ("kept", "progress"), 60, faults="crash,ambush,damage"
    ),
    "older generations heard": Planted(
        older_generations_are_heard,
        missed="harmless unless a transaction was voided in between: what is of another shard map is refused by the"
        " map's version, and with the same map rows are the same function of the log in each generation. No fault of"
        " the simulator voids; test_void_simulated.py does",
    ),
    "no fence": Planted(
        no_fence,
        missed="harmless for what is promised: when an older one has written since the log was read, the first record"
        " of the younger one is not there when it is read back, and so it is deposed by the older one. That costs a"
        " generation that the fence would have saved, and no law is against it",
    ),
    "done across generations": Planted(
        done_counts_across_generations,
        missed="probably harmless: `Done` goes to an inbox that is named by the sequencer's incarnation, and a node of"
        " an older generation on the same runner is gone before the new sequencer has read the log",
    ),
    "saved across generations": Planted(
        saving.saved_counts_across_generations,
        missed="probably harmless, for the same reason as `Done`; 60 seeds do not show it",
    ),
    "base without subscriptions": Planted(
        saving.a_base_without_subscriptions,
        missed="not seen to do harm in 120 seeds: a watcher asks for the epochs that do not come, and gets a new"
        " snapshot where the node knows of no subscription. That it was needless nothing here looks at",
    ),
    "begins at its own save": Planted(
        saving.a_node_begins_at_its_own_newest_save,
        ("view", "error", "progress", "kept"),
        24,
        faults="crash,ambush",
    ),
    "generation without a record": Planted(
        saving.a_generation_without_a_record,
        missed="a hole of the simulator, and no harmless one: it takes an older sequencer that writes two bases and"
        " collects, all between the moment at which a younger one of the next generation has read the log and its"
        " fence, and the death of the younger one behind its base."
        " `test_a_generation_that_no_record_opens_may_stand_without_a_log` goes these steps",
    ),
    "collected slot believed": Planted(
        saving.a_collected_slot_is_believed, ("commit", "progress"), 60, faults="ambush"
    ),
}
