"""The kernel of a node: several of them, joined by a network that delivers in any order, twice, and in pieces."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from dist_zero.batch import Batch, Writes
from dist_zero.compiler import compile
from dist_zero.compiler.plan import Plan
from dist_zero.executor import NOTHING_FILLED, ErrorCount, Parcel
from dist_zero.expr.ops import Aggregate, Aggregation, ColumnRef, Dataset, Graph, View
from dist_zero.reference.interpreter import Interpreter
from dist_zero.shards import even_map
from dist_zero.state import TableChange
from dist_zero.types import INT, Row, RowType
from dist_zero.writes import route
from dist_zero_common.protocol.messages.epochs import SnapshotWanted, SubscriptionWanted
from dist_zero_common.protocol.messages.pieces import ShardMap, WriteKind
from dist_zero_common.protocol.messages.reading import Changes, ChangesGone, Got, SnapshotAnswer
from services.node_runner.kernel import NodeKernel
from services.node_runner.kernel_events import (
    AskChangesEvent,
    Finished,
    GetEvent,
    Halted,
    HandOutEvent,
    NodeEffect,
    NodeEvent,
    ReaderGone,
    Reply,
    RowsEvent,
    SendRows,
    Settle,
)

ROW_TYPE = RowType(("k", "v"), (INT, INT))
ROWS = Dataset(ROW_TYPE, ("k",), "rows")
COUNT = Aggregation("count", None, None, INT)
PER_VALUE = Aggregate(RowType(("v", "n"), (INT, INT)), ("v",), ROWS, (ColumnRef(1, INT),), (COUNT,))
HISTOGRAM = Aggregate(RowType(("n", "m"), (INT, INT)), ("n",), PER_VALUE, (ColumnRef(1, INT),), (COUNT,))
PLAN = compile(Graph("app", (ROWS,), (View("per_value", PER_VALUE), View("histogram", HISTOGRAM))))


@dataclass
class Recording:
    """An interpreter that notes which step came when."""

    inner: Interpreter
    calls: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        return self.inner.plan

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
        self.calls.append(("step", epoch, stage))
        return self.inner.step(epoch, stage, writes, arrived, shards, shard, fill)

    def finish(self, epoch: int) -> dict[int, Batch]:
        self.calls.append(("finish", epoch, 0))
        return self.inner.finish(epoch)

    def rows(self, view: int) -> Batch:
        return self.inner.rows(view)

    def get(self, view: int, key: Row) -> Row | None:
        return self.inner.get(view, key)

    def errors(self, view: int) -> list[ErrorCount]:
        return self.inner.errors(view)

    def missed(self, dataset: int) -> int:
        return self.inner.missed(dataset)

    def save(self, everything: bool) -> list[TableChange]:
        return self.inner.save(everything)

    def freeze(self, everything: bool) -> Iterator[TableChange | None]:
        return self.inner.freeze(everything)

    def load(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> None:
        self.inner.load(epoch, saves, keep, loose)

    def loading(
        self,
        epoch: int,
        saves: Iterable[Iterable[TableChange]],
        keep: Callable[[int], bool] | None = None,
        loose: bool = True,
    ) -> Iterator[None]:
        return self.inner.loading(epoch, saves, keep, loose)

    def catching_up(
        self,
        epoch: int,
        number: int,
        saves: Iterable[Iterable[TableChange]],
        whole: bool,
        owns: Callable[[int], bool] | None = None,
    ) -> Iterator[None]:
        return self.inner.catching_up(epoch, number, saves, whole, owns)


class Net:
    """Kernels and everything that is under way between them."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.map = even_map(1, tuple(f"n{i}" for i in range(1, nodes + 1)))
        self.executors = [Recording(Interpreter(PLAN)) for _ in range(nodes)]
        self.kernels = [NodeKernel(PLAN, e, self.map, i) for i, e in enumerate(self.executors)]
        self.random = random.Random(seed)
        self.under_way: list[tuple[int, NodeEvent]] = []
        self.replies: list[tuple[int, Reply]] = []
        self.halted: list[Halted] = []
        self.settled: Counter[int] = Counter()
        self.finished: list[list[int]] = [[] for _ in range(nodes)]
        self.token = 0

    def hand_out(self, epoch: int, writes: Sequence[Writes], **more: object) -> None:
        routed = route(writes, PLAN, self.map, epoch, 0)
        for shard in range(len(self.kernels)):
            event = HandOutEvent(
                epoch, False, False, tuple(routed.get(shard, ())), (), (), (), False, 0, self.next_token()
            )
            self.under_way.append((shard, replace(event, **more)))  # type: ignore[arg-type]

    def next_token(self) -> int:
        self.token += 1
        return self.token

    def run(self, duplicates: float = 0.0) -> None:
        """Deliver until nothing is under way, choosing at random; what is doubled comes again with a new token."""
        while self.under_way:
            place = self.random.randrange(len(self.under_way))
            shard, event = self.under_way.pop(place)
            if self.random.random() < duplicates and isinstance(event, HandOutEvent | RowsEvent):
                self.under_way.append((shard, replace(event, token=self.next_token())))
            self.perform(shard, self.kernels[shard].handle(event))

    def perform(self, shard: int, effects: list[NodeEffect]) -> None:
        for effect in effects:
            match effect:
                case SendRows():
                    self.send(shard, effect)
                case Reply():
                    self.replies.append((shard, effect))
                case Settle():
                    self.settled.update(effect.tokens)
                case Halted():
                    self.halted.append(effect)
                case Finished():
                    self.finished[shard].append(effect.epoch)

    def send(self, sender: int, rows: SendRows) -> None:
        """Cut into parts at random places, as a wire does with large rows."""
        pieces = [(exchange, batch.take([i])) for exchange, batch in rows.batches for i in range(len(batch))]
        parts = self.random.randint(1, 3) if pieces else 1
        for part in range(parts):
            event = RowsEvent(
                rows.epoch, rows.stage, sender, part, parts, tuple(pieces[part::parts]), self.next_token()
            )
            self.under_way.append((rows.target, event))

    def view(self, view: int) -> Counter[Row]:
        return Counter(row for kernel in self.executors for row in kernel.rows(view).rows())


def put(*rows: tuple[int, int]) -> Writes:
    return Writes(0, WriteKind.PUT, (0, 1), Batch.from_rows(ROW_TYPE.types, list(rows)), (), ())


def delete(*keys: int) -> Writes:
    return Writes(0, WriteKind.DELETE, (0,), Batch.from_rows((INT,), [(k,) for k in keys]), (), ())


def expected(truth: dict[int, int]) -> tuple[Counter[Row], Counter[Row]]:
    per_value = Counter(truth.values())
    return Counter(per_value.items()), Counter(Counter(per_value.values()).items())


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("seed", range(15))
def test_oracle_any_order_of_arrival_gives_the_same_views(nodes: int, seed: int) -> None:
    """Whatever the network does to order, copies and parts, all epochs finish and the views are right."""
    net = Net(nodes, seed)
    r = random.Random(f"{seed}-{nodes}")
    truth: dict[int, int] = {}
    for epoch in range(1, 13):
        puts = [(r.randrange(30), r.randrange(6)) for _ in range(r.randrange(8))]
        gone = [r.randrange(30) for _ in range(r.randrange(3))]
        truth.update(puts)
        for key in gone:
            truth.pop(key, None)
        net.hand_out(epoch, [put(*puts), delete(*gone)], save=r.random() < 0.3)
    net.run(duplicates=0.2)
    assert net.finished == [list(range(1, 13))] * nodes
    assert not net.halted
    assert (net.view(0), net.view(1)) == expected(truth)
    assert net.settled == Counter(dict.fromkeys(range(1, net.token + 1), 1)), "every message is settled once"


@pytest.mark.parametrize("seed", range(10))
def test_no_stage_runs_past_a_save_epoch(seed: int) -> None:
    """Between a `save` epoch's stage 1 and its finish, no step of a later epoch runs; without one, stages overlap."""
    net = Net(3, seed)
    for epoch in range(1, 16):
        net.hand_out(epoch, [put((epoch, epoch % 3))], save=epoch % 5 == 0)
    net.run()
    overlaps = 0
    for executor in net.executors:
        finished = 0
        for what, epoch, _ in executor.calls:
            if what == "finish":
                finished = epoch
            save = (finished // 5 + 1) * 5
            assert epoch <= save, f"epoch {epoch} ran while the save epoch {save} was not finished"
            overlaps += what == "step" and epoch > finished + 1
    assert overlaps, "the epochs never overlapped: this test would prove nothing"


def test_second_copy_that_differs_halts_the_node() -> None:
    """Two different `Rows` for the same stage, epoch and sender: the node stands still and says so."""
    net = Net(2, 0)
    one = Batch.from_rows((INT,), [(1,)])
    exchange = next(o for o in PLAN.operators if type(o).__name__ == "Exchange")
    batch = Batch.from_rows(exchange.row_type.types, [(5,) * len(exchange.row_type)])
    kernel = net.kernels[0]
    assert len(one) == 1
    kernel.handle(RowsEvent(1, 2, 1, 0, 1, ((exchange.id, batch),), 1))
    assert not kernel.halted
    kernel.handle(RowsEvent(1, 2, 1, 0, 1, ((exchange.id, batch),), 2))
    assert not kernel.halted, "an equal copy does no harm"
    kernel.handle(RowsEvent(1, 2, 1, 0, 1, (), 3))
    assert "n2" in kernel.halted and "epoch 1" in kernel.halted


def test_messages_are_settled_when_their_epoch_is_finished() -> None:
    """What an epoch needs may be forgotten only when the epoch is finished, copies included; afterwards at once."""
    net = Net(2, 0)
    kernel = net.kernels[0]
    event = HandOutEvent(1, False, False, (), (), (), (), False, 0, 1)
    early: list[NodeEvent] = [
        event,
        replace(event, token=2),
        RowsEvent(1, 2, 1, 0, 1, (), 3),
        RowsEvent(1, 2, 1, 0, 1, (), 4),
    ]
    effects = [effect for each in early for effect in kernel.handle(each)]
    for stage in range(3, PLAN.stages + 1):
        assert not any(isinstance(effect, Finished | Settle) for effect in effects)
        effects += kernel.handle(RowsEvent(1, stage, 1, 0, 1, (), 10 + stage))
    kinds = [type(effect) for effect in effects if isinstance(effect, Finished | Settle)]
    assert kinds == [Finished, Settle]
    settled = next(effect.tokens for effect in effects if isinstance(effect, Settle))
    assert sorted(settled) == [1, 2, 3, 4, *range(13, 11 + PLAN.stages)]
    assert kernel.handle(replace(event, token=9)) == [Settle((9,))]


def test_failing_executor_halts_with_the_evidence() -> None:
    """An executor that raises stops the node; it goes on answering readers as of the last finished epoch."""
    net = Net(1, 0)
    net.hand_out(1, [put((1, 7))])
    net.run()

    def fail(*_: object) -> list[Parcel]:
        raise ZeroDivisionError("boom")

    net.executors[0].step = fail  # type: ignore[method-assign, assignment]
    net.hand_out(2, [put((2, 7))])
    net.run()
    assert net.kernels[0].finished == 1
    assert "epoch 2" in net.halted[0].reason and "boom" in net.halted[0].reason
    net.perform(0, net.kernels[0].handle(GetEvent(4, 0, (7,), 0, "me", 0)))
    got = net.replies[-1][1].message
    assert isinstance(got, Got) and Batch.from_blob((INT, INT), got.row).rows() == [(7, 1)]


def test_get_waits_for_the_epoch_it_asks_for() -> None:
    """A reader that has seen epoch 2 is not answered as of epoch 1."""
    net = Net(1, 0)
    net.hand_out(1, [put((1, 7))])
    net.run()
    net.perform(0, net.kernels[0].handle(GetEvent(4, 0, (7,), 2, "me", 0)))
    assert not net.replies
    net.hand_out(2, [put((2, 7))])
    net.run()
    got = net.replies[-1][1].message
    assert isinstance(got, Got) and got.epoch == 2 and Batch.from_blob((INT, INT), got.row).rows() == [(7, 2)]


def test_get_that_waits_is_kept_once_and_no_longer_than_its_reader() -> None:
    """A question that comes again while it waits takes the place of the earlier one, which is acked; when its reader is
    gone it is acked, too, and never answered."""
    net = Net(1, 0)
    kernel = net.kernels[0]
    assert kernel.handle(GetEvent(4, 0, (7,), 1, "me", 11)) == []
    assert kernel.handle(GetEvent(4, 0, (7,), 1, "me", 12)) == [Settle((11,))]
    assert kernel.handle(GetEvent(4, 0, (7,), 1, "gone", 13)) == []
    assert kernel.handle(ReaderGone("gone")) == [Settle((13,))]
    net.hand_out(1, [put((1, 7))])
    net.run()
    assert [(reply.inbox, type(reply.message)) for _, reply in net.replies] == [("me", Got)]
    assert net.settled[12] == 1 and not net.settled[13]


def _changes(net: Net) -> dict[int, Counter[Row]]:
    found: dict[int, Counter[Row]] = {}
    for _, reply in net.replies:
        if isinstance(reply.message, Changes):
            rows = found.setdefault(reply.message.epoch, Counter())
            for view in reply.message.views:
                for row, weight in Batch.from_blob((INT, INT), view.batch).items():
                    rows[row] += weight
    return found


@pytest.mark.parametrize("nodes", [1, 3])
def test_subscription_is_a_state_and_every_change_behind_it(nodes: int) -> None:
    """The snapshot as of the subscription's epoch plus each later epoch's changes is the view as of that epoch."""
    net = Net(nodes, 3)
    wanted = SubscriptionWanted(77, 5, (0,), 0, "me")
    truth: dict[int, int] = {}
    states = {}
    for epoch in range(1, 9):
        truth[epoch % 4] = epoch % 3
        states[epoch] = expected(truth)[0]
        net.hand_out(epoch, [put((epoch % 4, epoch % 3))], subscriptions=(wanted,) if epoch == 3 else ())
    net.run()
    state: Counter[Row] = Counter()
    for _, reply in net.replies:
        if isinstance(reply.message, SnapshotAnswer):
            assert (reply.message.epoch, reply.message.subscription, reply.message.request) == (3, 77, 5)
            for view in reply.message.views:
                state.update(Batch.from_blob((INT, INT), view.batch).rows())
    assert state == states[3]
    changes = _changes(net)
    assert sorted(changes) == [4, 5, 6, 7, 8], "one for every epoch, also where nothing changed"
    for epoch in range(4, 9):
        state.update(changes[epoch])
        assert +state == states[epoch] and -state == Counter()


def test_lost_changes_are_sent_again_and_forgotten_ones_are_owned_up_to() -> None:
    """`AskChanges` gets the same changes again; what is not kept any more is answered with `ChangesGone`."""
    net = Net(1, 0)
    net.hand_out(1, [put((1, 1))], subscriptions=(SubscriptionWanted(77, 5, (0,), 0, "me"),))
    for epoch in range(2, 301):
        net.hand_out(epoch, [put((1, epoch))])
    net.run()
    before = _changes(net)[200]
    net.replies.clear()
    net.perform(0, net.kernels[0].handle(AskChangesEvent(77, 200, "me", 0)))
    assert _changes(net) == {200: before}
    net.replies.clear()
    net.perform(0, net.kernels[0].handle(AskChangesEvent(77, 2, "me", 0)))
    assert [type(r.message) for _, r in net.replies] == [ChangesGone]


def test_watcher_goes_on_where_it_stopped() -> None:
    """A subscription with `after` gets the changes behind it and no snapshot."""
    net = Net(1, 0)
    for epoch in range(1, 6):
        net.hand_out(epoch, [put((1, epoch))])
    net.hand_out(6, [], subscriptions=(SubscriptionWanted(78, 6, (0,), 3, "me"),))
    net.run()
    assert sorted(_changes(net)) == [4, 5, 6]
    assert not [r for _, r in net.replies if isinstance(r.message, SnapshotAnswer)]


def test_reader_that_is_gone_gets_nothing_any_more() -> None:
    """When an inbox does not exist any more its subscriptions end; so does an unsubscribed one."""
    net = Net(1, 0)
    subscriptions = tuple(SubscriptionWanted(i, i, (0,), 0, f"reader{i}") for i in (1, 2, 3))
    net.hand_out(1, [], subscriptions=subscriptions)
    net.run()
    net.kernels[0].handle(ReaderGone("reader1"))
    net.hand_out(2, [], unsubscriptions=(2,))
    net.hand_out(3, [put((1, 1))])
    net.run()
    inboxes = [r.inbox for _, r in net.replies if isinstance(r.message, Changes) and r.message.epoch == 3]
    assert inboxes == ["reader3"]


def test_snapshot_answers_name_errors_and_misses() -> None:
    """A snapshot carries what the node leaves out and how many writes found no row."""
    net = Net(1, 0)
    net.hand_out(1, [delete(5, 6)], snapshots=(SnapshotWanted(9, (0, 1), "me"),))
    net.run()
    answer = net.replies[-1][1].message
    assert isinstance(answer, SnapshotAnswer)
    assert (answer.request, answer.subscription, answer.missed, answer.parts) == (9, 0, (2,), 1)
