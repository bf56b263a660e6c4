"""What the nodes of a runner tell the sequencer of their program, on this runner or on another one.

A sequencer on this runner is called; one elsewhere is sent messages, of which the last says it all, so they are
collected until `flush`. While there is one here and the newest placement names another one, both are told: which of
the two is deposed, the log decides, and the one here may not know yet.
"""

from __future__ import annotations

from typing import Protocol

from dist_zero_common.mailbox import Mailbox
from dist_zero_common.protocol.messages.envelope import Message
from dist_zero_common.protocol.messages.epochs import Begun, Done, ReaderLost, Saved
from services.node_runner.hosted import HostedNode
from services.node_runner.keeping import SavedState


class NodesSequencer(Protocol):
    """A sequencer, as nodes on its runner see it."""

    nodes_inbox: str
    """Where it listens to nodes elsewhere."""

    def on_finished(self, shard: int, generation: int, epoch: int) -> None:
        """A node has finished an epoch."""
        ...

    def on_saved(self, shard: int, generation: int, saved: SavedState) -> None:
        """A node has saved its state."""
        ...

    def on_begun(self, shard: int, generation: int, epoch: int) -> None:
        """A node has begun at a base."""
        ...

    def on_reader_gone(self, generation: int, inbox: str) -> None:
        """Nobody reads this inbox of a client's any more."""
        ...


class Telling:
    """Of one program."""

    def __init__(self, program: str, map_version: int, post: Mailbox) -> None:
        self.sequencer: NodesSequencer | None = None
        """The sequencer on this runner, if there is one."""
        self.nodes_inbox = ""
        """Where the sequencer listens that the newest placement names; empty before there is one."""
        self._program, self._map_version, self._post = program, map_version, post
        self._done: dict[int, Done] = {}
        self._was_deaf = False

    def finished(self, shard: int, node: HostedNode, epoch: int) -> None:
        """A node has finished every epoch up to this one."""
        if self.sequencer is not None:
            self.sequencer.on_finished(shard, node.generation, epoch)
        if self._may_be_elsewhere():
            self._done[shard] = Done(self._program, node.generation, self._map_version, shard, epoch)

    def saved(self, shard: int, node: HostedNode) -> None:
        """A node's state is in the store, as of the epoch that it says."""
        saved = node.saved
        if saved is None:
            return
        if self.sequencer is not None:
            self.sequencer.on_saved(shard, node.generation, saved)
        self._send(
            Saved(
                self._program,
                node.generation,
                self._map_version,
                shard,
                saved.epoch,
                saved.changed_bytes,
                saved.state_bytes,
            )
        )

    def begun(self, begun: Begun) -> None:
        """A node has begun."""
        if self.sequencer is not None:
            self.sequencer.on_begun(begun.shard, begun.generation, begun.epoch)
        self._send(begun)

    def reader_gone(self, generation: int, inbox: str) -> None:
        """Nobody reads this inbox of a client's any more."""
        if self.sequencer is not None:
            self.sequencer.on_reader_gone(generation, inbox)
        self._send(ReaderLost(self._program, generation, inbox))

    def forget(self, shard: int) -> None:
        """What this node has finished is not so any more: another one begins in its place."""
        self._done.pop(shard, None)

    def was_deaf(self, inbox: str) -> bool:
        """Whether an inbox that does not exist is the sequencer's: it is not there yet, and is told again then."""
        if inbox != self.nodes_inbox:
            return False
        self._was_deaf = True
        return True

    def is_to_be_told_again(self) -> bool:
        """Whether a sequencer did not listen when it was told last; asks once."""
        was_deaf, self._was_deaf = self._was_deaf, False
        return was_deaf

    def flush(self) -> None:
        """Send what was collected, once it is known where to."""
        if self.nodes_inbox:
            for done in self._done.values():
                self._post.send(self.nodes_inbox, done)
            self._done.clear()

    def _may_be_elsewhere(self) -> bool:
        return self.sequencer is None or self.nodes_inbox not in ("", self.sequencer.nodes_inbox)

    def _send(self, message: Message) -> None:
        if self.nodes_inbox and self._may_be_elsewhere():
            self._post.send(self.nodes_inbox, message)
