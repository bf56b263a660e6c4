"""The contract of an executor: what runs the plan of one node. The one that there is, `reference/interpreter.py`,
defines what any other has to compute.

An executor is a pure state machine. For every epoch e = 1, 2, 3 … and stage s = 1 … `plan.stages`, `step(e, s, …)` is
called once, (e, s) after (e, s − 1) and after (e − 1, s); between those rules stage 1 may be many epochs ahead of the
last stage, so whatever waits between two stages is kept by epoch. `finish(e)` is called after the last stage of e and
makes e visible: `rows`, `get`, `errors` and `missed` answer as of the newest finished epoch.

The result of a step depends on the state and on the *set* of rows that arrived, never on their order, the number of
batches they came in, or who sent them. Deltas are consolidated before use. A row an expression fails on (overflow,
division by zero, a cast) is left out, and is counted in the errors of the operator until it is retracted.

What an executor knows can be saved when every stage has reached the same epoch, in the tables of `dist_zero/state.py`,
and be loaded into another one, which then is to all appearances the one that was saved. `save` is a function of the
state at the save before and of the sets of rows since; so whoever goes over the same epochs saves the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dist_zero.batch import Batch, Writes
from dist_zero.compiler.plan import Plan
from dist_zero.state import TableChange
from dist_zero.types import Row
from dist_zero_common.protocol.messages.pieces import ShardMap

NOTHING_FILLED = range(0)


@dataclass(frozen=True, slots=True)
class Parcel:
    """Rows of one exchange operator for one shard; `shard` is a place in the shard map, `exchange` an operator id."""

    shard: int
    exchange: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Rows that `operator` leaves out for one `reason` just now, and the smallest example (columns and values)."""

    operator: int
    label: str
    reason: str
    example: str
    count: int


class Executor(Protocol):
    """One node's plan, state and views. `shard` below is this node's own place in the map it is given."""

    @property
    def plan(self) -> Plan:
        """What it runs."""
        ...

    def step(
        self,
        epoch: int,
        stage: int,
        writes: Sequence[Writes],
        arrived: Sequence[tuple[int, Batch]],
        shards: ShardMap,
        shard: int,
        fill: range = NOTHING_FILLED,
    ) -> list[Parcel]:
        """Run one stage of one epoch.

        `writes` (stage 1 only) are the epoch's writes to this node's keys, in any order: they carry transaction and
        row indices. `arrived` (stages above 1) are pairs (exchange id, batch), from all other nodes, in any order.
        Returns at most one parcel per shard and exchange, in ascending (shard, exchange), none of them empty; what goes
        to `shard` itself stays in the executor until the next stage of the epoch. `fill` (stage 1 of a plan with gates
        only) are the slices whose rows the gates let pass in this epoch; those in front of them they have let pass
        before.
        """
        ...

    def finish(self, epoch: int) -> dict[int, Batch]:
        """Make `epoch` visible. Returns what changed, by view number, without empty ones."""
        ...

    def rows(self, view: int) -> Batch:
        """This node's part of a view as of the newest finished epoch, in no particular order."""
        ...

    def get(self, view: int, key: Row) -> Row | None:
        """The row of a keyed view with this key, as of the newest finished epoch."""
        ...

    def errors(self, view: int) -> list[ErrorCount]:
        """What this node leaves out of a view as of the newest finished epoch, sorted."""
        ...

    def missed(self, dataset: int) -> int:
        """Updates and deletes of keys that were not there, on this node, up to the newest finished epoch."""
        ...

    def save(self, everything: bool) -> list[TableChange]:
        """What changed since the last `save` or `load`, or all that there is, as of the newest finished epoch.

        Called only when every stage has reached that epoch. Tables ascend, rows are in canonical order, and a table
        in which nothing changed is not there. An executor that was neither saved nor loaded saves everything. What a
        save says has to be kept: the next one goes on from there.
        """
        ...

    def freeze(self, everything: bool) -> Iterator[TableChange | None]:
        """`save` for a state that is large: as of now, but given out later, while the executor goes on, and in slices
        of some milliseconds, between which it says None."""
        ...

    def load(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> None:
        """Take in the state of a node as of `epoch`: a save of everything, and behind it, in order, the saves of
        changes up to there. Then `epoch` is finished, and the next step is one of `epoch` + 1.

        For an executor that took no step yet. One that replaces several nodes loads them one after another, all as of
        the same epoch. `keep` says of a hash whether it belongs here, if not all do; `loose`, whether what belongs to
        no hash does: exactly one successor of a node has to take that. Where state was divided or joined, the first
        step may have something to say even of no input. A big change may come in pieces, several changes of one table
        in a row, none of which has a key of another.

        Raises `MalformedMessage` if this is not the state of this plan; then the executor is good for nothing.
        """
        ...

    def loading(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> Iterator[None]:
        """`load` in slices of some milliseconds: done when the iterator has come to its end."""
        ...

    def catching_up(
        self,
        epoch: int,
        number: int,
        saves: Iterable[Iterable[TableChange]],
        whole: bool,
        owns: Callable[[int], bool] | None = None,
    ) -> Iterator[None]:
        """Take in what has changed since in the node that was loaded as number `number`, in slices as `loading` does:
        its saves behind the epoch that it was loaded or followed up to. `whole`: the first of these saves holds
        everything; then `owns` says which hashes are that node's, if not all that are here are.

        Before the first step, and all that were loaded come to the same `epoch` before that. From then on the executor
        is to all appearances one that has loaded everything as of `epoch`.
        """
        ...
