"""Between messages and the kernel's events: what a peer sent is checked here against the plan and the shard map.

Whatever does not fit raises `MalformedMessage`, so that kernels only ever see rows of the right types from nodes that
exist. On the way out, `Rows` are cut into parts that a broker takes, and empty ones become bits: all of one epoch and
stage between two runners are one `EmptyRows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.change import slices_of
from dist_zero.compiler.plan import Exchange, Plan
from dist_zero.shards import validate
from dist_zero_common.broker.topology import CLIENT_REPLIES, RUNNER, SEQUENCER_NODES, check_inbox, parsed
from dist_zero_common.errors import MalformedMessage
from dist_zero_common.ids import checked_name
from dist_zero_common.mailbox import Token
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import (
    EPOCHS_AHEAD_MAX,
    EmptyRows,
    ExchangeBatch,
    HandOut,
    NodeWrites,
    StageRows,
)
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.reading import AskChanges, Get
from services.node_runner.kernel import PART_BYTES, view_sink
from services.node_runner.kernel_events import (
    AskChangesEvent,
    GetEvent,
    HandOutEvent,
    RowsEvent,
    SendRows,
)
from services.node_runner.sequencer_events import HandOutEpoch

PARTS_MAX = 1 << 16

# ---- in ------------------------------------------------------------------------------------------------------


def check_readers(system: str, message: Message) -> None:
    """Raises `MalformedMessage` if a message would make a node write to anybody but clients."""
    match message:
        case Get() | AskChanges():
            check_inbox(system, CLIENT_REPLIES, message.reply_to)
        case HandOut():
            readers = [wanted.reply_to for wanted in message.snapshots]
            for inbox in readers + [wanted.reply_to for wanted in message.subscriptions]:
                check_inbox(system, CLIENT_REPLIES, inbox)


def sequencer_incarnation(system: str, program: str, nodes_inbox: str) -> int:
    """Which incarnation of a program's sequencer has this inbox. Raises `MalformedMessage` if none can."""
    check_inbox(system, SEQUENCER_NODES, nodes_inbox)
    name, incarnation = parsed(nodes_inbox).id
    if name != program or not incarnation.isdecimal() or len(incarnation) > 20:
        raise MalformedMessage(f"{nodes_inbox!r} is no inbox of a sequencer of {program!r}")
    return int(incarnation)


def check_hosting(system: str, program: str, shard_map: ShardMap, inboxes: tuple[str, ...] | None) -> None:
    """Raises `MalformedMessage` unless a scheduler may say this of a program, and of where its shards' runners
    listen (None: it does not say)."""
    checked_name("program", program, MalformedMessage)
    validate(shard_map)
    if inboxes is None:
        return
    if len(inboxes) != len(shard_map.nodes):
        raise MalformedMessage(f"{len(inboxes)} inboxes for {len(shard_map.nodes)} shards")
    for inbox in inboxes:
        check_inbox(system, RUNNER, inbox)


Untokened = Callable[[Token], HandOutEvent | RowsEvent]
"""An event that still lacks the token of its message: one message may be for many nodes, each with its own token."""


def hand_out_events(plan: Plan, shard_map: ShardMap, message: HandOut) -> list[tuple[int, Untokened]]:
    """The event for each target."""
    check_map(shard_map, message.map_version)
    if len(dict.fromkeys(message.targets)) != len(message.targets):
        raise MalformedMessage("a hand-out that names one target twice")
    if not 0 <= message.filled_before <= message.filled <= slices_of(plan):
        raise MalformedMessage(f"slices {message.filled_before} to {message.filled} of {slices_of(plan)}")
    writes: dict[int, tuple[Writes, ...]] = {}
    for part in message.writes:
        if part.target not in message.targets or part.target in writes:
            raise MalformedMessage(
                f"writes for shard {part.target}, which is not, or twice, among the targets"
            )
        writes[part.target] = tuple(Writes.from_blob(plan.datasets, blob) for blob in part.writes)
    for target in message.targets:
        check_shard(shard_map, target)
    for views in [w.views for w in message.snapshots] + [w.views for w in message.subscriptions]:
        for view in views:
            check_view(plan, view)
    return [
        (
            target,
            partial(
                HandOutEvent,
                message.epoch,
                message.save,
                message.everything,
                writes.get(target, ()),
                message.snapshots,
                message.subscriptions,
                message.unsubscriptions,
                message.again,
                message.base,
                forgets=message.forgets,
                fill=range(message.filled_before, message.filled),
            ),
        )
        for target in message.targets
    ]


def rows_event(plan: Plan, shard_map: ShardMap, message: StageRows) -> Untokened:
    """The event of one part of a peer's `Rows`."""
    _check_stage(plan, shard_map, message.map_version, message.stage)
    check_shard(shard_map, message.sender)
    check_shard(shard_map, message.target)
    if not 0 <= message.part < message.parts <= PARTS_MAX:
        raise MalformedMessage(f"part {message.part} of {message.parts}")
    batches = tuple((each.exchange, _exchange_batch(plan, message.stage, each)) for each in message.batches)
    return partial(
        RowsEvent, message.epoch, message.stage, message.sender, message.part, message.parts, batches
    )


def empty_events(plan: Plan, shard_map: ShardMap, message: EmptyRows) -> list[tuple[int, Untokened]]:
    """The events that the bits stand for, with their targets."""
    _check_stage(plan, shard_map, message.map_version, message.stage)
    shards = len(shard_map.nodes)
    bits = int.from_bytes(message.bits, "little")
    if bits >> (shards * shards):
        raise MalformedMessage(f"empty rows of nodes beyond the {shards} of the map")
    return [
        (target, partial(RowsEvent, message.epoch, message.stage, sender, 0, 1, ()))
        for sender, target in (divmod(place, shards) for place in _places(bits))
    ]


def _places(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def get_event(plan: Plan, message: Get, token: Token) -> GetEvent:
    """The event of a reader's question."""
    check_view(plan, message.view)
    sink = view_sink(plan, message.view)
    if sink.key is None:
        raise MalformedMessage(
            f"the view {plan.views[message.view].name!r} is a bag: it has no key to get by"
        )
    rows = Batch.from_blob(plan.views[message.view].row_type.select(sink.key).types, message.key).rows()
    if len(rows) != 1:
        raise MalformedMessage(f"{len(rows)} keys where one is expected")
    return GetEvent(message.request, message.view, rows[0], message.at_least, message.reply_to, token)


def ask_changes_event(message: AskChanges, token: Token) -> AskChangesEvent:
    """The event of a watcher's question."""
    if message.epoch < 1:
        raise MalformedMessage("there are no changes of epoch 0: epochs count from 1")
    return AskChangesEvent(message.subscription, message.epoch, message.reply_to, token)


def check_epoch(finished: int, epoch: int) -> None:
    """Raises `MalformedMessage` if rows are of no epoch, or of one far ahead of the newest finished one."""
    if not 0 < epoch <= finished + EPOCHS_AHEAD_MAX:
        raise MalformedMessage(f"epoch {epoch}, where {finished} is the newest finished one")


def check_at_least(finished: int, at_least: int) -> None:
    """Raises `MalformedMessage` if a reader would wait for an epoch far ahead of the newest finished one."""
    if at_least > finished + EPOCHS_AHEAD_MAX:
        raise MalformedMessage(f"a reader of epoch {at_least}, where {finished} is the newest finished one")


def check_map(shard_map: ShardMap, version: int) -> None:
    """Raises `MalformedMessage` if a message speaks of another shard map."""
    if version != shard_map.version:
        raise MalformedMessage(f"it is for shard map {version}, this is {shard_map.version}")


def check_shard(shard_map: ShardMap, shard: int) -> None:
    """Raises `MalformedMessage` if there is no such shard."""
    if not 0 <= shard < len(shard_map.nodes):
        raise MalformedMessage(f"shard {shard} of {len(shard_map.nodes)}")


def check_view(plan: Plan, view: int) -> None:
    """Raises `MalformedMessage` if there is no such view."""
    if not 0 <= view < len(plan.views):
        raise MalformedMessage(f"view number {view} of {len(plan.views)}")


def _check_stage(plan: Plan, shard_map: ShardMap, map_version: int, stage: int) -> None:
    check_map(shard_map, map_version)
    if not 2 <= stage <= plan.stages:
        raise MalformedMessage(f"rows of stage {stage}; nodes send each other those of 2 to {plan.stages}")


def _exchange_batch(plan: Plan, stage: int, each: ExchangeBatch) -> Batch:
    if not 0 <= each.exchange < len(plan.operators):
        raise MalformedMessage(f"operator number {each.exchange} of {len(plan.operators)}")
    operator = plan.operators[each.exchange]
    if not isinstance(operator, Exchange) or operator.stage != stage:
        raise MalformedMessage(f"operator {each.exchange} is no exchange of stage {stage}")
    return Batch.from_blob(operator.row_type.types, each.batch, operator.row_type.names)


# ---- out -----------------------------------------------------------------------------------------------------


def hand_out_message(
    program: str, effect: HandOutEpoch, map_version: int, targets: tuple[int, ...]
) -> HandOut:
    """The hand-out of an epoch for the targets that one runner hosts, by the map of their generation: the record may
    have been written in another one."""
    record, writes = effect.record, effect.writes
    return HandOut(
        program=program,
        generation=effect.generation,
        epoch=record.epoch,
        map_version=map_version,
        save=record.save,
        time_us=record.time_us,
        targets=targets,
        writes=tuple(
            NodeWrites(target, tuple(each.to_blob() for each in writes[target]))
            for target in targets
            if writes[target]
        ),
        snapshots=record.snapshots,
        subscriptions=record.subscriptions,
        unsubscriptions=record.unsubscriptions,
        again=effect.again,
        base=effect.base,
        everything=record.everything,
        forgets=effect.forgets,
        filled_before=effect.fill.start,
        filled=effect.fill.stop,
    )


def stage_rows(
    program: str, generation: int, shard_map: ShardMap, sender: int, effect: SendRows
) -> list[StageRows]:
    """The messages for one `Rows` that is not empty."""
    parts = _parts(effect.batches)
    return [
        StageRows(
            program=program,
            generation=generation,
            epoch=effect.epoch,
            stage=effect.stage,
            map_version=shard_map.version,
            sender=sender,
            target=effect.target,
            part=i,
            parts=len(parts),
            batches=tuple(ExchangeBatch(exchange, batch.to_blob()) for exchange, batch in part),
        )
        for i, part in enumerate(parts)
    ]


def empty_rows(
    program: str, generation: int, shard_map: ShardMap, epoch: int, stage: int, pairs: list[tuple[int, int]]
) -> EmptyRows:
    """The message that stands for the empty `Rows` of these (sender, target) pairs."""
    shards = len(shard_map.nodes)
    bits = 0
    for sender, target in pairs:
        bits |= 1 << (sender * shards + target)
    size = (shards * shards + 7) // 8
    return EmptyRows(program, generation, epoch, stage, shard_map.version, bits.to_bytes(size, "little"))


def _parts(batches: tuple[tuple[int, Batch], ...]) -> list[list[tuple[int, Batch]]]:
    """Pieces of the batches, in groups of about `PART_BYTES`."""
    groups: list[list[tuple[int, Batch]]] = [[]]
    size = 0
    for exchange, batch in batches:
        for piece in batch.split(PART_BYTES):
            if groups[-1] and size + piece.size_bytes > PART_BYTES:
                groups.append([])
                size = 0
            groups[-1].append((exchange, piece))
            size += piece.size_bytes
    return groups
