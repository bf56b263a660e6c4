"""Where the other nodes of a program are, and what is sent to those that are not on this runner.

Rows of a generation whose places are not known yet wait; those of one before the newest that is known are of no use to
anybody. Empty `Rows` are collected until `flush`, and become bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dist_zero_common.mailbox import Mailbox
from dist_zero_common.protocol.messages.epochs import AskDone, AskRows, Begun, RowsGone
from dist_zero_common.protocol.messages.pieces import ShardMap
from services.node_runner import wire
from services.node_runner.kernel_events import SendRows
from services.node_runner.sequencer_events import HandOutEpoch


class Peers:
    """Those of one program by one shard map. `is_here` says of a shard and a generation whether that node is on this
    runner."""

    def __init__(
        self,
        program: str,
        shard_map: ShardMap,
        post: Mailbox,
        counters: Counter[str],
        is_here: Callable[[int, int], bool],
    ) -> None:
        self.inboxes: tuple[str, ...] = ()
        self.generation = -1
        """The generation of which `inboxes` are: nodes of a later one wait with what they send, and nobody waits for
        what nodes of an earlier one send."""
        self._program, self._map, self._post = program, shard_map, post
        self._counters, self._is_here = counters, is_here
        self._empties: dict[tuple[str, int, int, int], list[tuple[int, int]]] = {}
        self._held: list[tuple[int, int, SendRows]] = []

    def locate(self, generation: int, inboxes: tuple[str, ...]) -> None:
        """Learn where they are."""
        self.generation, self.inboxes = generation, inboxes

    def take_held(self) -> list[tuple[int, int, SendRows]]:
        """The rows that wait until it is known where to, by shard and generation of who sends them."""
        held, self._held = self._held, []
        return held

    def send_rows(self, shard: int, generation: int, effect: SendRows) -> None:
        """`Rows` of a node here for one elsewhere."""
        if generation < self.generation:
            self._counters["too_late"] += 1
        elif generation > self.generation:
            self._held.append((shard, generation, effect))
        elif effect.batches:
            for message in wire.stage_rows(self._program, generation, self._map, shard, effect):
                self._post.send(self.inboxes[effect.target], message)
        else:
            key = (self.inboxes[effect.target], generation, effect.epoch, effect.stage)
            self._empties.setdefault(key, []).append((shard, effect.target))

    def hand_out(self, effect: HandOutEpoch, targets: Iterable[int]) -> None:
        """An epoch for nodes elsewhere: a message per runner."""
        elsewhere: dict[str, list[int]] = {}
        for target in targets:
            elsewhere.setdefault(self.inboxes[target], []).append(target)
        for inbox, its in elsewhere.items():
            message = wire.hand_out_message(self._program, effect, self._map.version, tuple(its))
            self._post.send(inbox, message)

    def tell_begun(self, begun: Begun) -> None:
        """A node here has begun."""
        others = [peer for peer in range(len(self.inboxes)) if peer != begun.shard]
        for inbox in self._elsewhere(others, begun.generation):
            self._post.send(inbox, begun)

    def ask_done(self, ask: AskDone, shards: Iterable[int]) -> None:
        """Ask those of these nodes that are elsewhere how far they are."""
        for inbox in self._elsewhere(shards, ask.generation):
            self._post.send(inbox, ask)

    def ask_rows(self, ask: AskRows) -> None:
        """Ask a node elsewhere for its rows."""
        self._post.send(self.inboxes[ask.sender], ask)

    def tell_gone(self, shard: int, generation: int, epoch: int) -> None:
        """Tell a node elsewhere that nobody keeps rows of this epoch for it any more."""
        if generation == self.generation:
            gone = RowsGone(self._program, generation, self._map.version, epoch, shard)
            self._post.send(self.inboxes[shard], gone)

    def flush(self) -> None:
        """Send what was collected."""
        for (inbox, generation, epoch, stage), pairs in self._empties.items():
            message = wire.empty_rows(self._program, generation, self._map, epoch, stage, pairs)
            self._post.send(inbox, message)
        self._empties.clear()

    def _elsewhere(self, shards: Iterable[int], generation: int) -> Iterable[str]:
        """The inboxes of those of these nodes that are not on this runner."""
        return dict.fromkeys(self.inboxes[shard] for shard in shards if not self._is_here(shard, generation))
