"""Which epochs the nodes have been given, which wait for that, and which may have to be given again. Pure.

Hand-out is separate from recording: records may run ahead of it by some bytes, and it stays within a window of
unfinished epochs. What was handed out is kept until a base has passed it, since a node that begins there needs all that
is behind; that, too, is bounded in bytes. Void transactions are handed out as if they had said nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dist_zero.batch import Writes
from dist_zero.compiler.plan import Plan
from dist_zero.voids import void_transactions
from dist_zero.writes import decode_payload, merge_writes, placed, route_placed, sampled_hashes
from dist_zero_common.protocol.messages.control import HEAT_MAX
from dist_zero_common.protocol.stored import Base, LogRecord
from services.node_runner.sequencer_events import HandOutEpoch, SequencerOptions

_SAMPLED_PER_EPOCH = 16
"""Of so many keys of each epoch the hashes are remembered for a while."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that the nodes have not got yet; `writes` are its transactions', None where they are still encoded.
    `again`: an earlier sequencer may have handed it out. `fill`: the slices that it fills."""

    record: LogRecord
    writes: list[tuple[Writes, ...] | None]
    size_bytes: int
    again: bool
    fill: range


class HandingOut:
    """To the nodes of one generation, from its base on."""

    def __init__(
        self, plan: Plan, base: Base, options: SequencerOptions, voiding: Iterable[LogRecord], forgotten: int
    ) -> None:
        """`voiding`: the records behind the base that void something. `forgotten`: readers of records before this
        epoch are told nothing."""
        self.newest = base.epoch
        """The newest epoch that was handed out."""
        self.ahead_bytes = 0
        """What was recorded and not handed out yet."""
        self._plan, self._map, self._generation = plan, base.shard_map, base.generation
        self._options, self._forgotten = options, forgotten
        self._void = void_transactions(voiding)
        self._waiting: deque[_Waiting] = deque()
        self._kept: dict[int, HandOutEpoch] = {}
        """What was handed out behind the base, by epoch: it may have to be sent again."""
        self._kept_bytes = 0
        self._heat: deque[int] = deque(maxlen=HEAT_MAX)
        self.rows: Counter[str] = Counter()
        self.rows_replayed: Counter[str] = Counter()
        """How many rows were handed out, by dataset: of own records, and of those that were there before."""

    @property
    def heat(self) -> tuple[int, ...]:
        """The hashes of some keys that were written lately, ascending."""
        return tuple(sorted(self._heat))

    def add(
        self, record: LogRecord, writes: list[tuple[Writes, ...] | None], again: bool, fill: range
    ) -> None:
        """A record of the log, to be handed out when its turn comes."""
        if record.voids:
            self._void |= void_transactions((record,))
        size = payload_bytes(record)
        self._waiting.append(_Waiting(record, writes, size, again, fill))
        self.ahead_bytes += size

    def next(self, finished: int, base: int, ends: int, unheard_behind: int) -> Iterator[HandOutEpoch]:
        """The next epochs for all nodes, as far as the window goes, which begins behind `finished`. `ends`: the epoch
        behind which nothing is handed out; `unheard_behind`: the one behind which nothing was, before; 0 for none."""
        while (
            self._waiting
            and self.newest - finished < self._options.window_epochs
            and self._kept_bytes <= self._options.behind_bytes
            and not (ends and self._waiting[0].record.epoch > ends)
        ):
            ready = self._waiting.popleft()
            self.newest = ready.record.epoch
            self.ahead_bytes -= ready.size_bytes
            shards = tuple(range(len(self._map.nodes)))
            writes = self._route(ready)
            record = ready.record
            if record.epoch < self._forgotten:
                record = replace(record, subscriptions=(), snapshots=())
            forgets = bool(record.voids) or record.forgets
            again = ready.again and not 0 < unheard_behind < record.epoch
            epoch = HandOutEpoch(record, writes, self._generation, again, base, shards, forgets, ready.fill)
            self._kept[self.newest] = epoch
            self._kept_bytes += ready.size_bytes
            yield epoch

    def _route(self, ready: _Waiting) -> tuple[tuple[Writes, ...], ...]:
        found: list[Writes] = []
        transactions = zip(ready.record.transactions, ready.writes, strict=True)
        for place, (transaction, decoded) in enumerate(transactions):
            if (ready.record.epoch, place) not in self._void:
                writes = decoded or decode_payload(self._plan.datasets, transaction.payload)
                counter = self.rows_replayed if ready.again else self.rows
                for each in writes:
                    counter[self._plan.datasets[each.dataset].name] += len(each.batch)
                found += placed(writes, self._plan, place)
        merged, epoch = merge_writes(found), ready.record.epoch
        self._heat.extend(sampled_hashes(merged, self._plan, epoch, _SAMPLED_PER_EPOCH))
        routed = route_placed(merged, self._plan, self._map, epoch)
        return tuple(tuple(routed.get(shard, ())) for shard in range(len(self._map.nodes)))

    def again(self, epoch: int, shard: int, finished: int, base: int) -> HandOutEpoch | None:
        """An epoch once more, for one node; None if it is not kept."""
        kept = self._kept.get(epoch)
        return None if kept is None else _repeated(kept, shard, finished, base)

    def behind(self, epoch: int, shard: int, finished: int, base: int) -> Iterator[HandOutEpoch]:
        """All that was handed out behind this epoch once more, for one node, which has begun there."""
        return (
            _repeated(kept, shard, finished, base) for number, kept in self._kept.items() if number > epoch
        )

    def forget(self, up_to: int) -> None:
        """Keep nothing up to this epoch any more."""
        for epoch in [epoch for epoch in self._kept if epoch <= up_to]:
            self._kept_bytes -= payload_bytes(self._kept.pop(epoch).record)


def payload_bytes(record: LogRecord) -> int:
    """What a record's transactions have to say, in bytes."""
    return sum(len(t.payload) for t in record.transactions)


def _repeated(kept: HandOutEpoch, shard: int, finished: int, base: int) -> HandOutEpoch:
    """A hand-out once more. What all have finished, readers may have heard of."""
    again = kept.again or kept.record.epoch <= finished
    return replace(kept, targets=(shard,), again=again, base=base)
