"""What must hold of a run, judged from outside: by the log in the store, by other code than what keeps the views.

I1: every view at every epoch that was seen equals the oracle on the transactions of the log up to there, and the
user's own invariants hold. I2: every client's transactions are in the log once, in its order, in the epochs it was
told. Nothing here trusts what the services say of themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from dist_zero.batch import Writes
from dist_zero.client.snapshot import Snapshot, ViewError, ViewReader
from dist_zero.client.watch import StoredChange
from dist_zero.compiler.plan import Plan, Sink
from dist_zero.expr.ops import Graph
from dist_zero.invariant import Invariant
from dist_zero.reference.evaluate import LeftOut, Oracle
from dist_zero.reference.history import Datasets
from dist_zero.row import ViewRow
from dist_zero.shards import even_map
from dist_zero.types import Row as StoredRow
from dist_zero.voids import void_transactions
from dist_zero.writes import decode_payload
from dist_zero.zset import ZSet, consolidate
from dist_zero_common.errors import StoreError
from dist_zero_common.protocol.codec import decode, encode
from dist_zero_common.protocol.stored import (
    Base,
    LogRecord,
    place_in_log,
)
from dist_zero_common.store.base import Store
from dist_zero_common.store.layout import base_name, record_name, records_prefix
from dist_zero_common.store.memory import MemoryObjects, MemoryStore


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that did not hold. `check` is which law: view, invariant, watch, read, commit, kept, progress, replay,
    error."""

    check: str
    text: str
    epoch: int = 0
    """The epoch at which it shows, if it does at one."""
    rows: tuple[tuple[str, StoredRow], ...] = ()
    """Rows that it is about, with their views."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Written:
    """What one client has written: the payloads that it meant to commit, in order, and by their places when each was
    sent first, in which epoch it was told that it is, and when."""

    client: str
    payloads: list[bytes]
    acknowledged: dict[int, int] = field(default_factory=dict)
    sent_at: dict[int, float] = field(default_factory=dict)
    heard_at: dict[int, float] = field(default_factory=dict)
    expired: list[str] = field(default_factory=list)
    """What it was told when its sessions ended before it ended them. An `open` of an earlier life of it that was long
    under way is a reason, and there is no other in a run."""


@dataclass(frozen=True, slots=True)
class Read:
    """A row that was got by its key: by whom, what came, and the epoch that it is not to be older than."""

    view: str
    key: StoredRow
    row: StoredRow | None
    at_least: int


@dataclass(slots=True)
class Seen:
    """What was seen of a run from outside: changes of all views, snapshots, what clients were told, the log."""

    plan: Plan
    log: list[LogRecord] = field(default_factory=list)
    changes: list[StoredChange] = field(default_factory=list)
    changed_at: list[float] = field(default_factory=list)
    """When each of them was told."""
    snapshots: list[Snapshot] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    complete: bool = False
    """Whether the run came to its end, so that all that was meant to be written is."""


async def log_of(store: Store, program: str) -> list[LogRecord]:
    """Every record of a program's log, in order: of a memory store that remembers, also those that were deleted since
    no base reaches them."""
    records, prefix = [], records_prefix(program)
    gone = store.objects.gone if isinstance(store, MemoryStore) else {}
    listed = await store.list(prefix)
    before = [
        name for name in gone if name.startswith(prefix)
    ]  # looked at last: what goes meanwhile is in one of both
    for name in sorted(frozenset([*before, *listed])):
        # A slot that was collected and filled again by somebody who was deposed is none of the log.
        data = gone.get(name) or await store.read(name) or gone.get(name)
        if data is None:
            raise StoreError(f"{name} was listed and is gone")
        records.append(decode(LogRecord, data))
    return records


def log_alone(program: str, graph: bytes, log: Iterable[LogRecord], nodes: int) -> MemoryObjects:
    """A store in which there is nothing but this log, of a program that begins on so many nodes: what a system shows
    on it, it has computed from the first record on."""
    objects = MemoryObjects(remembers=True)
    shard_map = even_map(1, [f"n{number}" for number in range(1, nodes + 1)])
    objects.create(base_name(program, 0), encode(Base(0, 0, 0, shard_map, graph)))
    for record in log:
        plain = replace(
            record,
            generation=0,
            incarnation=0,
            begins=None,
            shard_map=None,
            graph=b"",
            forgets=False,
            filled=0,
        )
        objects.create(record_name(program, record.epoch), encode(plain))
    return objects


def writes_of(plan: Plan, record: LogRecord, void: Collection[tuple[int, int]] = ()) -> list[list[Writes]]:
    """The transactions of a record, but for those that are void (`void_transactions` of the log)."""
    return [
        decode_payload(plan.datasets, transaction.payload)
        for index, transaction in enumerate(record.transactions)
        if (record.epoch, index) not in void
    ]


def recomputed_differences(
    graph: Graph,
    plan: Plan,
    log: Iterable[LogRecord],
    epoch: int,
    views: dict[str, Sequence[StoredRow]],
    errors: dict[str, Sequence[ViewError]],
) -> list[str]:
    """What of these views, as of `epoch`, differs from what the oracle makes of the log up to there; empty:
    nothing."""
    datasets = Datasets(graph)
    log = list(log)
    void = void_transactions(log)
    for record in log:
        if record.epoch <= epoch:
            for writes in writes_of(plan, record, void):
                datasets.apply(writes)
    return [failure.text for failure in _snapshot_failures(Oracle(graph, datasets.contents()), views, errors)]


def view_failures(name: str, shown: ZSet, right: ZSet) -> list[Failure]:
    """How a view differs from what it should be; nothing if it does not."""
    if shown == right:
        return []
    extra = [row for row, weight in shown.items() if right.get(row) != weight]
    missing = [row for row, weight in right.items() if shown.get(row) != weight]
    text = (
        f"view {name!r} differs from its recomputation in {len(extra):,} rows it shows"
        f" (as {_example(extra)}) and {len(missing):,} it should (as {_example(missing)})"
    )
    return [Failure("view", text, rows=tuple((name, row) for row in (*extra, *missing)))]


def _snapshot_failures(
    oracle: Oracle, views: Mapping[str, Sequence[StoredRow]], errors: Mapping[str, Sequence[ViewError]]
) -> list[Failure]:
    found: list[Failure] = []
    for name, rows in views.items():
        right = oracle.view(name)
        found += view_failures(name, consolidate((row, 1) for row in rows), right.rows)
        shown = sorted((e.label, e.reason, e.example, e.count) for e in errors.get(name, ()))
        if name in errors and shown != sorted(map(_left_out, right.errors)):
            text = f"view {name!r} leaves out {shown}, the oracle {[str(e) for e in right.errors]}"
            found.append(Failure("view", text))
    return found


def _left_out(entry: LeftOut) -> tuple[str, str, str, int]:
    return (entry.label, entry.reason, entry.example, entry.count)


def _example(rows: Sequence[StoredRow]) -> str:
    return repr(rows[0]) if rows else "none"


# ---- I1 and the user's invariants --------------------------------------------------------------------------


def epoch_failures(graph: Graph, invariants: Sequence[Invariant], seen: Seen) -> list[Failure]:
    """What of the first epoch at which something is wrong is wrong: of the views as they were watched, of snapshots,
    and of the invariants on the views as they were watched."""
    found = _watch_failures(seen.changes)
    if found:
        return found
    changes = {change.epoch: change for change in seen.changes}
    snapshots: dict[int, list[Snapshot]] = {}
    for snapshot in seen.snapshots:
        snapshots.setdefault(snapshot.epoch, []).append(snapshot)
    watched = _Watched(graph, seen.plan, invariants)
    reads = _Reads(seen)
    datasets = Datasets(graph)
    void = void_transactions(seen.log)
    for record in seen.log:
        for writes in writes_of(seen.plan, record, void):
            datasets.apply(writes)
            watched.behind = True
        here, change = snapshots.get(record.epoch, ()), changes.get(record.epoch)
        if here or watched.may_differ_by(change) or reads.wait_for(record):
            oracle = Oracle(graph, datasets.contents())
            reads.compare(oracle, record.epoch)
            for snapshot in here:
                found += _snapshot_failures(oracle, snapshot.stored, snapshot.errors)
            if change is not None:
                found += watched.failures(oracle, change)
        if found:
            return [_at(record.epoch, failure) for failure in found]
    return reads.failures()


class _Reads:
    """Rows that were got by key. Which epoch each is of is not said; there has to be one, and not too old a one."""

    def __init__(self, seen: Seen) -> None:
        self._open = list(seen.reads)
        self._plan = seen.plan

    def wait_for(self, record: LogRecord) -> bool:
        """Whether the epoch may say what one of them should be."""
        return any(read.at_least <= record.epoch for read in self._open)

    def compare(self, oracle: Oracle, epoch: int) -> None:
        """Some of them may be right as of this epoch."""
        self._open = [r for r in self._open if r.at_least > epoch or self._right(oracle, r) != r.row]

    def failures(self) -> list[Failure]:
        """Those that are of no epoch that they might be of."""
        return [
            Failure(
                "read",
                f"the row {read.key} of view {read.view!r} was got as {read.row}, which it is at no epoch from"
                f" {read.at_least} on",
                rows=((read.view, read.row),) if read.row is not None else (),
            )
            for read in self._open
        ]

    def _right(self, oracle: Oracle, read: Read) -> StoredRow | None:
        number = next(i for i, view in enumerate(self._plan.views) if view.name == read.view)
        sink = self._plan.operators[self._plan.views[number].sink]
        assert isinstance(sink, Sink)
        for row in oracle.view(read.view).rows:
            if tuple(row[place] for place in sink.key or ()) == read.key:
                return row
        return None


class _Watched:
    """The views as a watch told them, one epoch after the other."""

    def __init__(self, graph: Graph, plan: Plan, invariants: Sequence[Invariant]) -> None:
        self.behind = False
        """Whether something was written since they were compared last."""
        self._views: dict[str, ZSet] = {view.name: {} for view in graph.views}
        self._readers = {view.name: ViewReader(plan, number) for number, view in enumerate(plan.views)}
        self._invariants = invariants

    def may_differ_by(self, change: StoredChange | None) -> bool:
        """Whether there is anything to compare: most epochs of an idle time change nothing."""
        return change is not None and (self.behind or change.snapshot or any(change.rows.values()))

    def failures(self, oracle: Oracle, change: StoredChange) -> list[Failure]:
        """What is wrong once this change is applied."""
        self.behind = False
        found: list[Failure] = []
        for number, name in enumerate(self._views):
            before = () if change.snapshot else self._views[name].items()
            self._views[name] = consolidate([*before, *change.rows[number]])
            found += view_failures(name, self._views[name], oracle.view(name).rows)
        return found or list(self._invariant_failures())

    def _invariant_failures(self) -> Iterator[Failure]:
        for invariant in self._invariants:
            rows = {name: self._user_rows(name) for name in invariant.views}
            broken = invariant.broken_by(rows)
            if broken is not None:
                about = tuple((name, row) for name in invariant.views for row in self._views[name])
                yield Failure(
                    "invariant", f"invariant {invariant.name!r} does not hold: {broken}", rows=about
                )

    def _user_rows(self, name: str) -> list[ViewRow]:
        reader = self._readers[name]
        repeated = [row for row, weight in self._views[name].items() for _ in range(weight)]
        return reader.user_rows(reader.sorted(repeated))


def _at(epoch: int, failure: Failure) -> Failure:
    return Failure(failure.check, f"at epoch {epoch}, {failure.text}", epoch, failure.rows)


def _watch_failures(changes: Sequence[StoredChange]) -> list[Failure]:
    """A watch that told an epoch twice, or left one out without beginning again."""
    for before, change in pairwise(changes):
        if change.epoch != before.epoch + 1 and not change.snapshot:
            text = f"the watch of all views told epoch {change.epoch} behind epoch {before.epoch}"
            return [Failure("watch", text, change.epoch)]
    return []


# ---- I2 ----------------------------------------------------------------------------------------------------


def commit_failures(seen: Seen) -> list[Failure]:
    """Whose transactions are not in the log once, in order, in the epochs that were told."""
    there: dict[str, list[tuple[bytes, int, int]]] = {}
    opens: Counter[str] = Counter()
    clients: dict[int, str] = {}
    for record in seen.log:
        for transaction in record.transactions:
            client = clients.get(transaction.session, "")
            place = (transaction.payload, record.epoch, transaction.number)
            there.setdefault(client, []).append(place)
        for index, opened in enumerate(record.opens):
            clients[place_in_log(record.epoch, index)] = opened.client
            opens[opened.client] += 1
    found: list[Failure] = []
    for written in seen.written:
        found += _client_failures(written, there.pop(written.client, []), seen.complete)
        if len(written.expired) >= max(1, opens[written.client]):
            found.append(
                Failure("commit", f"{written.client} lost its session to nobody: {written.expired[-1]}")
            )
    for client, rest in there.items():
        text = (
            f"the log has {len(rest)} transactions of {client or 'an unknown session'!r}, which wrote nothing"
        )
        found.append(Failure("commit", text, rest[0][1]))
    return found


def _client_failures(
    written: Written, there: list[tuple[bytes, int, int]], complete: bool
) -> Iterator[Failure]:
    numbers = [number for _, _, number in there]
    if numbers != list(range(1, len(numbers) + 1)):
        text = f"the log has transactions of {written.client} with the numbers {numbers}"
        yield Failure("commit", text, there[0][1])
        return
    for place, (payload, epoch, _) in enumerate(there):
        if place >= len(written.payloads) or payload != written.payloads[place]:
            text = f"transaction {place + 1} of {written.client} in the log, in epoch {epoch}, is not the one it wrote"
            yield Failure("commit", text, epoch)
            return
    for place, epoch in written.acknowledged.items():
        if place >= len(there):
            what = f"transaction {place + 1} of {written.client}"
            text = f"{what} was acknowledged for epoch {epoch} and is not in the log"
            yield Failure("commit", text, epoch)
            return
        if there[place][1] != epoch:
            text = (
                f"transaction {place + 1} of {written.client} was acknowledged for epoch {epoch} and is in the log in"
                f" epoch {there[place][1]}"
            )
            yield Failure("commit", text, epoch)
            return
    if complete and len(there) < len(written.payloads):
        text = f"of {len(written.payloads)} transactions of {written.client} the log has only {len(there)}"
        yield Failure("commit", text)
