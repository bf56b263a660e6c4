"""Changes of programs, the parts that decide: what is said of one, what submitting means, and where a generation can
begin that runs another program."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import dist_zero as dz
from dist_zero.changes import Description, described
from dist_zero.compiler import compile
from dist_zero.compiler.change import SLICES, changing, slices_of
from dist_zero.compiler.check import check_partitioned
from dist_zero.compiler.fingerprint import lineages, shown
from dist_zero.compiler.plan import NEXT, Gate
from dist_zero.expr.changes import behind, in_place_of, live
from dist_zero.expr.graph import decode_graph, encode_graph, fingerprint
from dist_zero.expr.ops import Graph
from dist_zero.shards import even_map
from dist_zero_common.errors import MalformedMessage, RequestError
from dist_zero_common.protocol.messages.control import Placement, RunnerReport, SequencerStatus
from dist_zero_common.protocol.messages.requests import ChangeWanted, Fate
from dist_zero_common.protocol.stored import Base, LogRecord
from services.node_runner.changing import begun, ends_reading, is_filled, needed
from services.node_runner.filling import Filling, slices_at_once
from services.scheduler.changing import change_of, is_changing, is_live, is_target, submitted, went_on
from services.scheduler.programs import checked_submission
from services.scheduler.state import (
    Assignment,
    Observed,
    Part,
    RunnerSeen,
    SequencerSeen,
    WantedProgram,
)

ALLOWED = ChangeWanted(only_tells=False, drops=False, begins_empty=())
TELLS = replace(ALLOWED, only_tells=True)


class Sale(dz.Row):
    number: int
    shop: str
    pieces: int


class Wider(dz.Row):
    number: int
    shop: str
    pieces: float
    note: str


class Visit(dz.Row):
    shop: str


def graph(
    least: int | None = 1,
    *,
    row: type[dz.Row] = Sale,
    key: str = "number",
    other_order: bool = False,
    visits: bool = False,
    best: bool = False,
) -> Graph:
    """A program, with what may differ."""
    app = dz.Program("stock")
    if other_order:
        app.dataset("visits", Visit)
    sales = app.dataset("sales", row, key=key)
    seen = app.dataset("visits", Visit) if not other_order else None
    app.view("shops", sales.group_by("shop").agg(n=dz.count()))
    if least is not None:
        app.view("large", sales.where(sales["pieces"] > least))
    if best:
        app.view("best", sales.group_by("shop").agg(n=dz.count()).top(1, by=dz.desc("n")))
    if visits and seen is not None:
        app.view("visited", seen.group_by("shop").agg(n=dz.count()))
    return app.graph()


def said(
    before: Graph, after: Graph, *, drops: bool = False, begins_empty: tuple[str, ...] = ()
) -> Description:
    return described(before, in_place_of(after, before), drops=drops, begins_empty=begins_empty)


def fates(description: Description) -> dict[str, Fate]:
    return {line.name: line.fate for line in description.lines}


# ---- what is said ----------------------------------------------------------------------------------------------


def test_what_computes_the_same_is_kept_wherever_it_stands() -> None:
    """In another order, on other lines, beside other views; what differs is filled, what is gone is dropped."""
    there = said(graph(1), graph(2, best=True, other_order=True))
    assert fates(there) == {
        "sales": Fate.KEPT,
        "visits": Fate.KEPT,
        "shops": Fate.KEPT,
        "large": Fate.FILLED,
        "best": Fate.FILLED,
    }
    assert not there.refusals
    reasons = {line.name: line.reason for line in there.lines}
    assert reasons["large"] == "its definition has changed" and reasons["best"] == "it is new"
    assert fates(said(graph(1), graph(None)))["large"] is Fate.DROPPED
    assert set(fates(said(graph(1), graph(1))).values()) == {Fate.KEPT}


def test_other_rows_are_refused_with_every_column() -> None:
    """What was and what is; also another key."""
    [wrong] = said(graph(1), graph(1, row=Wider)).refusals
    assert "column 'pieces' was int and is float; column 'note' (str) is new" in wrong
    assert "test_changes.py:" in wrong and "dataset 'sales'" in wrong
    [other_key] = said(graph(1), graph(1, key="shop")).refusals
    assert "its key was number and is shop" in other_key
    [narrower] = said(graph(1, row=Wider), graph(1)).refusals
    assert "column 'note' (str) is gone" in narrower


def test_appended_rows_cannot_be_filled() -> None:
    """Unless that is said of the view; not where it has an operator in common with one that has seen all."""
    before, after = graph(1), graph(1, visits=True)
    [wrong] = said(before, after).refusals
    assert "view 'visited' cannot be filled" in wrong and "--begin-empty visited" in wrong
    assert wrong.count("test_changes.py:") == 2
    allowed = said(before, after, begins_empty=("visited",))
    assert not allowed.refusals and fates(allowed)["visited"] is Fate.EMPTY
    assert said(before, before, begins_empty=("nothing",)).refusals

    shared = graph(1, visits=True)
    visited = shared.views[-1].relation
    twice = replace(shared, views=(*shared.views, replace(shared.views[-1], name="again")))
    assert visited is twice.views[-1].relation
    [wrong] = said(shared, twice, begins_empty=("again",)).refusals
    assert "cannot begin empty" in wrong and "agg" in wrong


# ---- the plan of a change --------------------------------------------------------------------------------------


def test_the_plan_of_a_change_is_the_old_one_and_gates() -> None:
    """The old operators stay as they are, numbers included; readers see no difference; all is legal."""
    before = graph(1)
    after = in_place_of(graph(2, best=True), before)
    old, new = compile(before), compile(after)
    plan = changing(old, new)
    check_partitioned(plan, "test")
    assert plan.operators[: len(old.operators)] == old.operators
    assert [view.name for view in plan.views] == ["shops", "large", NEXT + "large", NEXT + "best"]
    assert sum(isinstance(operator, Gate) for operator in plan.operators) == 1
    assert shown(plan) == shown(old) != shown(new)
    assert compile(decode_graph(encode_graph(replace(after, before=before)))).fingerprint
    named = lineages(plan)
    assert len(frozenset(named)) == len(named) - 1  # the gate is its source
    assert lineages(new)[new.views[1].sink] in named
    assert slices_of(plan) == SLICES and slices_of(old) == slices_of(new) == 0
    assert slices_of(changing(old, compile(in_place_of(graph(None), before)))) == 0


def test_numbers_of_datasets_stay_for_ever() -> None:
    """Through changes that drop, add and bring back; the wire keeps what was dropped, and nobody may send it."""
    first = graph(1)
    second = in_place_of(graph(1, other_order=True), first)
    assert [dataset.name for dataset in second.datasets] == ["sales", "visits"]
    alone = replace(second, datasets=second.datasets[1:], views=())
    third = in_place_of(alone, second)
    assert [(dataset.name, dataset.dropped) for dataset in third.datasets] == [
        ("sales", True),
        ("visits", False),
    ]
    fourth = in_place_of(graph(1), third)
    assert [(d.name, d.dropped) for d in fourth.datasets] == [
        ("sales", True),
        ("visits", False),
        ("sales", False),
    ]
    again = decode_graph(encode_graph(fourth))
    assert fingerprint(again) == fingerprint(fourth)
    compile(again)
    with pytest.raises(RequestError, match="only the scheduler"):
        checked_submission(encode_graph(fourth), 1)
    with pytest.raises(RequestError, match="only the scheduler"):
        checked_submission(encode_graph(replace(graph(2), before=graph(1))), 1)


def test_a_program_takes_the_place_of_one() -> None:
    """Not of one that does so itself, and not of one of another name."""
    first, second, third = graph(1), graph(2), graph(3)
    assert live(replace(second, before=first)) is first and behind(replace(second, before=first)) == second
    chain = replace(third, before=replace(second, before=first))
    with pytest.raises(MalformedMessage, match="one at a time"):
        decode_graph(encode_graph(chain))
    with pytest.raises(MalformedMessage, match="its own name"):
        decode_graph(encode_graph(replace(second, before=replace(first, name="other"))))


# ---- where a generation can begin ------------------------------------------------------------------------------

P1, P2, P3 = (encode_graph(graph(least)) for least in (1, 2, 3))
TAKING = encode_graph(replace(graph(2), before=graph(1)))
OTHER_TAKING = encode_graph(replace(graph(3), before=graph(1)))
NEXT_TAKING = encode_graph(replace(graph(3), before=graph(2)))
DROPS = encode_graph(in_place_of(graph(None), graph(1)))


def base(program: bytes, filled: int = 0) -> Base:
    return Base(5, 9, 0, even_map(1, ["n1"]), program, filled=filled, filled_since=3)


@pytest.mark.parametrize(
    ("there", "filled", "wanted", "can"),
    [
        (P1, 0, P1, True),
        (P1, 0, TAKING, True),
        (P1, 0, P2, False),
        (P1, 0, DROPS, True),  # nothing is to be filled
        (P1, 0, NEXT_TAKING, False),
        (TAKING, 10, TAKING, True),
        (TAKING, 10, P2, False),
        (TAKING, SLICES, P2, True),
        (TAKING, 10, P1, True),  # it is taken back
        (TAKING, SLICES, P1, True),
        (TAKING, 10, OTHER_TAKING, True),
        (TAKING, 10, NEXT_TAKING, False),
        (TAKING, SLICES, NEXT_TAKING, True),
        (TAKING, 10, DROPS, True),
        (P2, 0, TAKING, False),
        (P2, 0, P2, True),
    ],
)
def test_where_a_generation_can_begin(there: bytes, filled: int, wanted: bytes, can: bool) -> None:
    """At a base of which each program it is to run goes on, or is complete; and if it cannot, what is needed can."""
    beginning = begun(base(there, filled), wanted)
    assert (beginning is not None) == can
    if beginning is None:
        steps = needed(base(there, filled), wanted)
        assert begun(base(there, filled), steps) is not None
        assert fingerprint(behind(decode_graph(steps))) == fingerprint(behind(decode_graph(wanted)))
    elif wanted == there:
        assert beginning == base(there, filled)
    else:
        assert (beginning.graph, beginning.filled, beginning.filled_since) == (wanted, 0, 9)
        assert beginning.saved_fingerprint == compile(decode_graph(there)).fingerprint


def test_readers_begin_again_where_other_views_are_shown() -> None:
    """Not while the new ones are filled, nor when that is taken back."""
    assert not ends_reading(P1, TAKING) and not ends_reading(TAKING, P1)
    assert ends_reading(TAKING, P2) and ends_reading(P1, DROPS) and not ends_reading(P1, P1)
    assert is_filled(base(P1)) and not is_filled(base(TAKING, 63)) and is_filled(base(TAKING, SLICES))


# ---- filling ---------------------------------------------------------------------------------------------------


def record(epoch: int, filled: int, generation: int = 9) -> LogRecord:
    return LogRecord(epoch, 0, generation, 1, 1, False, (), (), (), (), (), (), filled=filled)


@pytest.mark.parametrize("seed", range(20))
def test_every_slice_is_filled_once(seed: int) -> None:
    """Whatever the order of records and ends, the slices follow one another; a step waits for the one before; and who
    reads the records again fills the same."""
    rng = random.Random(seed)
    step = slices_at_once(SLICES, rng.choice((0, 10, 1_000, 10**9)), rng.choice((1, 100)))
    filling, finished, slices, log = Filling(base(TAKING), SLICES, step), 5, [0], []
    for epoch in range(6, 1_000):
        wanted = filling.next(finished)
        assert wanted - filling.filled <= step
        if rng.random() < 0.1:
            wanted = filling.filled  # another record was there
        log.append(record(epoch, wanted))
        fill = filling.take(log[-1])
        assert fill.start == slices[-1]
        slices.append(fill.stop)
        finished = epoch if rng.random() < 0.7 else finished
        filling.on_base(finished - 1)
        assert filling.told < SLICES or finished - 1 >= slices.index(SLICES) + 5
    assert filling.filled == filling.told == SLICES
    again = Filling(base(TAKING), SLICES, 1)
    assert [again.take(each).stop for each in log] == slices[1:]
    assert Filling(base(TAKING), SLICES).take(record(6, 5, generation=2)) == range(0)  # of another change


# ---- what the scheduler makes of it ----------------------------------------------------------------------------


def wanted(program: bytes = P1, generation: int = 9) -> WantedProgram:
    """A program that runs."""
    shard_map = even_map(1, ["n1"])
    placement = Placement(1, "stock", 20, generation, shard_map, ("i",), "c", "n")
    assignment = Assignment((Part("m", "m-r1", 1, 2),), Part("m", "m-r1", 1, 3), placement, program)
    return WantedProgram(
        "stock",
        program,
        fingerprint(behind(decode_graph(program))),
        shard_map,
        since=0.0,
        assignment=assignment,
    )


def heard(status: SequencerStatus) -> Observed:
    report = RunnerReport("m-r1", 1, "m", "i", (), (status,))
    seen = RunnerSeen(report, {}, {"stock": SequencerSeen(status, 0.0)}, 0.0, 0.0)
    return Observed(runners={"m-r1": seen})


STATUS = SequencerStatus("stock", 3, 9, "n", 50, 50, "")


def placed(program: WantedProgram) -> WantedProgram:
    """As it is wanted."""
    assert program.assignment is not None
    placement = replace(program.assignment.placement, shard_map=program.shard_map)
    return replace(program, assignment=replace(program.assignment, graph=program.graph, placement=placement))


def test_a_change_goes_on_step_by_step() -> None:
    """Asked for, placed, filled, based, placed; each step takes another version of the map; asked again, nothing."""
    program = wanted()
    assert submitted(program, P1, None) is program
    with pytest.raises(
        RequestError, match="there is another program 'stock' already; dist-zero up --dry-run"
    ):
        submitted(program, P2, None)
    assert submitted(program, P2, TELLS) is program
    taking = submitted(program, P2, ALLOWED)
    assert taking.shard_map.version == 2 and decode_graph(taking.graph).before is not None
    assert is_target(taking, P2) and is_live(taking, P1) and not is_live(taking, P2) and is_changing(taking)
    assert submitted(taking, P2, ALLOWED) is taking and submitted(taking, P1, None) is taking
    assert went_on(taking, heard(STATUS)) is taking  # not before it is placed
    taking = placed(taking)
    for status in (replace(STATUS, slices=64, filled=63), replace(STATUS, slices=64, filled=64, halted="x")):
        assert went_on(taking, heard(status)) is taking
    change = change_of(taking, P2, ALLOWED, heard(replace(STATUS, slices=64, filled=63)))
    assert change is not None and (change.filled, change.slices) == (63, 64)
    done = went_on(taking, heard(replace(STATUS, slices=64, filled=64)))
    assert done.shard_map.version == 3 and decode_graph(done.graph).before is None
    assert is_changing(done) and is_live(done, P1)
    done = placed(done)
    assert not is_changing(done) and is_live(done, P2) and not is_live(done, P1)
    assert change_of(done, P2, ALLOWED, heard(STATUS)) is None
    assert went_on(done, heard(STATUS)) is done


def test_a_change_is_taken_back_or_replaced() -> None:
    """What is shown then is what the next one takes the place of."""
    taking = placed(submitted(wanted(), P2, ALLOWED))
    back = submitted(taking, P1, ALLOWED)
    assert decode_graph(back.graph).before is None and is_target(back, P1) and is_changing(back)
    other = submitted(taking, P3, ALLOWED)
    assert is_target(other, P3) and is_live(other, P1)
    before = decode_graph(other.graph).before
    assert before is not None and fingerprint(before) == fingerprint(decode_graph(P1))


def test_where_nothing_is_filled_there_is_one_step() -> None:
    """A view that is dropped is gone with the next generation."""
    program = submitted(wanted(), encode_graph(graph(None)), ALLOWED)
    assert decode_graph(program.graph).before is None


def test_what_a_sequencer_needs_is_wanted_if_it_leads_there() -> None:
    """And nothing that somebody says who is none of ours."""
    program = wanted(P2)
    needs = went_on(program, heard(replace(STATUS, needs=TAKING, halted="x", rewind=True)))
    assert needs.graph == TAKING and needs.shard_map.version == 2
    for wrong in (OTHER_TAKING, b"nonsense", P1):
        assert went_on(program, heard(replace(STATUS, needs=wrong))) is program
    assert went_on(program, heard(replace(STATUS, needs=TAKING, generation=8))) is program
