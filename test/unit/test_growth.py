"""The policy of growth: laws that hold whatever nodes bear, and where a constant load comes to rest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_zero.shards import HASH_MAX, even_map, interval, owner, redrawn, rescaled, validate
from dist_zero_common.errors import SettingsError
from dist_zero_common.protocol.messages.pieces import ShardMap
from dist_zero_common.protocol.messages.requests import MachineLimits, NodeLimits
from dist_zero_common.protocol.stored import (
    RecordedSplit,
)
from services.scheduler.growth import (
    GrowthMemory,
    GrowthOptions,
    MachinesView,
    NodeLoad,
    ProgramView,
    Wishes,
    decide_growth,
    growth_options,
)

OPTIONS = GrowthOptions(state_bytes=1_000, up_seconds=5.0, down_seconds=30.0, cooldown_seconds=10.0)
RESTED = GrowthMemory({"p": -inf, "q": -inf}, -inf)

loads = st.builds(
    lambda work, more, stored, seconds: NodeLoad(work, work + more, stored, seconds),
    st.floats(0, 12),
    st.floats(0, 3),
    st.integers(0, 4_000),
    st.sampled_from([0.0, 10.0, 100.0]),
)
maps = st.lists(st.integers(1, 2**64 - 2), unique=True, max_size=11).map(
    lambda cuts: ShardMap(
        1, (*sorted(cuts), HASH_MAX), tuple(f"n{number}" for number in range(1, len(cuts) + 2))
    )
)
node_limits = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(
    lambda drawn: NodeLimits(drawn[0], drawn[0] + drawn[1], 0)
)
machine_limits = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(
    lambda drawn: MachineLimits(drawn[0], max(1, drawn[0] + drawn[1]))
)


@st.composite
def views(draw: st.DrawFn, name: str = "p", ready: bool = False) -> ProgramView:
    """Any program; or one that is ready for any change."""
    shard_map = draw(maps)
    nodes: list[NodeLoad | None] = [draw(loads) for _ in shard_map.nodes]
    if ready:
        nodes = [replace(node, seconds=100.0) for node in nodes if node is not None]
    elif draw(st.booleans()):
        nodes[0] = None
    return ProgramView(
        name,
        shard_map,
        tuple(nodes),
        draw(node_limits) if ready or draw(st.booleans()) else None,
        steady=ready or draw(st.booleans()),
        asleep=not ready and draw(st.booleans()),
    )


def decide(programs: Sequence[ProgramView], machines: MachinesView, memory: GrowthMemory = RESTED) -> Wishes:
    return decide_growth(programs, machines, OPTIONS, memory, 0.0)[0]


def count_of(program: ProgramView, wishes: Wishes) -> int:
    """How many nodes a program has by these wishes."""
    for wish in wishes.programs:
        if wish.program == program.program and wish.lasts is not None:
            return len(wish.lasts)
    return len(program.nodes)


@given(
    st.one_of(views(), views(ready=True)),
    st.one_of(views("q"), views("q", ready=True)),
    machine_limits,
    st.integers(0, 14),
)
def test_limits_hold_and_nothing_is_done_to_what_is_not_ready(
    first: ProgramView, second: ProgramView, limits: MachineLimits, there: int
) -> None:
    """Nobody wishes for fewer or more nodes or machines than there may be, or for maps that are none; nothing for
    programs without limits, that sleep, are not steady, or of which a node is not known; no more nodes of those that
    cannot be divided."""
    wishes = decide([first, second], MachinesView(there, limits))
    assert limits.machines_min <= wishes.machines <= limits.machines_max
    assert bool(wishes.machines_reason) == (wishes.machines != there)
    assert wishes.machines > 0 or (first.asleep and second.asleep)
    by_name = {"p": first, "q": second}
    for wish in wishes.programs:
        program = by_name[wish.program]
        assert program.limits is not None and program.steady and not program.asleep
        assert all(node is not None and node.seconds >= OPTIONS.up_seconds for node in program.nodes)
        if wish.lasts is not None:
            validate(redrawn(program.shard_map, wish.lasts))
            assert program.limits.nodes_min <= len(wish.lasts) or len(wish.lasts) >= len(program.nodes)
            assert len(wish.lasts) <= max(program.limits.nodes_max, 0)
            assert wish.reason


@given(views(ready=True), views("q", ready=True), machine_limits, st.integers(0, 14))
def test_who_was_changed_lately_is_left_alone(
    first: ProgramView, second: ProgramView, limits: MachineLimits, there: int
) -> None:
    """Within the cool-down, and when a scheduler begins, nothing changes but what is out of its limits."""
    there = min(max(there, limits.machines_min, 1), limits.machines_max)
    for memory in (GrowthMemory(), GrowthMemory({"p": -9.0, "q": -9.0}, -9.0)):
        wishes = decide([first, second], MachinesView(there, limits), memory)
        assert not wishes.programs
        assert wishes.machines == there


@given(views(ready=True), machine_limits, st.integers(1, 12), st.data())
def test_more_load_never_means_less(
    program: ProgramView, limits: MachineLimits, there: int, data: st.DataObject
) -> None:
    """Whatever any nodes bear more, neither nodes nor machines are fewer for it."""
    more = replace(
        program,
        nodes=tuple(
            NodeLoad(node.work + extra, node.work_peak + extra, node.state_bytes + stored, node.seconds)
            for node in program.nodes
            if node is not None
            for extra, stored in [data.draw(st.tuples(st.floats(0, 3), st.integers(0, 500)))]
        ),
    )
    machines = MachinesView(there, limits, 10_000)
    before, after = decide([program], machines), decide([more], machines)
    assert count_of(program, before) <= count_of(more, after)
    assert before.machines <= after.machines


@given(views(ready=True), views("q", ready=True), machine_limits, st.integers(0, 14))
def test_the_same_again_is_decided_the_same(
    first: ProgramView, second: ProgramView, limits: MachineLimits, there: int
) -> None:
    """And programs do not disturb each other: each gets what it would alone."""
    machines = MachinesView(there, limits)
    wishes = decide([first, second], machines)
    assert wishes == decide([first, second], machines)
    alone = [decide([each], machines).programs for each in (first, second)]
    assert wishes.programs == alone[0] + alone[1]


def test_a_node_at_four_times_its_target_is_divided_in_four() -> None:
    """At once, in equal pieces; the number of machines follows."""
    program = ProgramView("p", even_map(1, ["n1"]), (NodeLoad(4.0, 4.0, 0, 60.0),), NodeLimits(1, 9, 0))
    wishes = decide([program], MachinesView(1, MachineLimits(1, 9)))
    (wish,) = wishes.programs
    assert wish.lasts == even_map(1, ["a", "b", "c", "d"]).lasts
    assert wishes.machines == 4
    assert "4.0 times" in wish.reason
    assert wish.tried == (RecordedSplit(0, HASH_MAX, 4_000),)


hashes = st.one_of(
    st.lists(st.integers(0, HASH_MAX), max_size=256),
    st.lists(st.sampled_from([0, 1, 2**20, 2**63, HASH_MAX - 1, HASH_MAX]), max_size=256),
).map(lambda drawn: tuple(sorted(drawn)))


@given(views(ready=True), hashes)
def test_wherever_keys_lie_as_many_pieces_come_of_a_division(
    program: ProgramView, heat: tuple[int, ...]
) -> None:
    """The map is one, with the intervals of nodes that are not divided as they were; the same for the same keys."""
    without = count_of(program, decide([program], MachinesView(1, None)))
    hot = replace(program, heat=heat)
    wishes = decide([hot], MachinesView(1, None))
    assert count_of(hot, wishes) == without and wishes == decide([hot], MachinesView(1, None))
    for wish in wishes.programs:
        if wish.lasts is not None:
            validate(redrawn(program.shard_map, wish.lasts))
            if len(wish.lasts) > len(program.nodes):
                assert set(program.shard_map.lasts) <= set(wish.lasts)


def divided(load: NodeLoad, heat: list[int]) -> tuple[int, ...]:
    """How one node with all hashes is divided that bears this."""
    program = ProgramView("p", even_map(1, ["n1"]), (load,), NodeLimits(1, 9, 0), heat=tuple(sorted(heat)))
    (wish,) = decide([program], MachinesView(1, None)).programs
    assert wish.lasts is not None
    return wish.lasts


def test_a_division_is_where_the_load_is() -> None:
    """Most keys that are written lie in a hundredth of the hashes: each piece has a quarter of them. The division into
    equal ones would have left nearly all in one. A key that has most of the load is alone in its piece."""
    rng = random.Random(1)
    busy = NodeLoad(4.0, 4.0, 0, 60.0)
    narrow = [2**62 + rng.randrange(2**58) for _ in range(230)] + [rng.randrange(2**64) for _ in range(26)]
    lasts = divided(busy, narrow)
    bounds = [-1, *lasts]
    shares = [sum(a < each <= b for each in narrow) / 256 for a, b in zip(bounds, lasts, strict=False)]
    assert max(shares) < 0.3, shares
    hot = 12_345 << 40
    lasts = divided(busy, [hot] * 150 + [rng.randrange(2**64) for _ in range(106)])
    assert {hot - 1, hot} <= set(lasts)


def test_a_division_is_into_equal_pieces_where_the_load_is_not_known_to_lie() -> None:
    """Few keys are known, or it is the state that is too large."""
    equal = even_map(1, list("abcd")).lasts
    assert divided(NodeLoad(4.0, 4.0, 0, 60.0), [5] * 31) == equal
    assert divided(NodeLoad(4.0, 4.0, 0, 60.0), [5] * 32) != equal
    assert divided(NodeLoad(0.5, 0.5, 4_000, 60.0), [5] * 256) == equal


def test_where_there_is_room_for_few_the_fullest_are_divided() -> None:
    nodes = (NodeLoad(2.0, 2.0, 0, 60.0), NodeLoad(6.0, 6.0, 0, 60.0), NodeLoad(0.1, 0.1, 0, 60.0))
    program = ProgramView("p", even_map(1, ["n1", "n2", "n3"]), nodes, NodeLimits(1, 6, 0))
    (wish,) = decide([program], MachinesView(1, None)).programs
    assert wish.lasts is not None and len(wish.lasts) == 6
    pieces = [
        sum(first <= last <= end for last in wish.lasts)
        for first, end in (interval(program.shard_map, shard) for shard in range(3))
    ]
    assert pieces == [2, 3, 1]


def test_a_sequencer_that_is_busy_needs_a_machine_as_a_node_does() -> None:
    """And what it bore lately keeps that; it divides no node."""
    quiet = ProgramView("p", even_map(1, ["n1"]), (NodeLoad(0.9, 0.9, 0, 100.0),), NodeLimits(1, 9, 0))
    limits = MachineLimits(1, 4)
    assert decide([quiet], MachinesView(1, limits)).machines == 1
    busy = replace(quiet, sequencer=NodeLoad(0.8, 0.8, 0, 100.0))
    wishes = decide([busy], MachinesView(1, limits))
    assert wishes.machines == 2 and not wishes.programs
    was_busy = replace(quiet, sequencer=NodeLoad(0.0, 0.8, 0, 100.0))
    assert decide([was_busy], MachinesView(2, limits)).machines == 2
    few = replace(quiet, nodes=(NodeLoad(0.1, 0.1, 0, 100.0),))
    assert decide([few], MachinesView(2, limits)).machines == 1


def test_machines_are_kept_until_the_others_have_room_to_spare() -> None:
    """Those that stay are to be filled to a part only, by the peak and not by what is now, and by state as by work."""
    limits = MachineLimits(1, 9)
    for work, peak, stored, count in (
        (0.1, 2.9, 0, 5),
        (0.1, 2.0, 0, 3),
        (2.0, 2.0, 0, 3),
        (0.1, 0.1, 3_900, 4),
    ):
        nodes = (NodeLoad(work, peak, stored, 60.0), *[NodeLoad(0.0, 0.0, 0, 60.0)] * 5)
        program = ProgramView("p", even_map(1, list("abcdef")), nodes, NodeLimits(6, 6, 0))
        wishes = decide([program], MachinesView(5, limits, memory_bytes=10_000))
        assert wishes.machines == count, (work, peak, stored)


def test_an_idle_program_sleeps_only_if_it_may() -> None:
    node = NodeLoad(0.0, 0.0, 0, 60.0)
    program = ProgramView("p", even_map(1, ["n1"]), (node,), NodeLimits(1, 6, 60), idle=True)
    wishes = decide([program], MachinesView(2, MachineLimits(0, 4)))
    assert [wish.sleeps for wish in wishes.programs] == [True] and wishes.machines == 0
    never = replace(program, limits=NodeLimits(1, 6, 0))
    assert not decide([never], MachinesView(1, MachineLimits(0, 4))).programs


@given(maps, st.lists(st.integers(1, 2**64 - 2), unique=True, max_size=11))
def test_redrawn_keeps_the_names_of_those_who_keep_their_interval(
    shard_map: ShardMap, cuts: list[int]
) -> None:
    """And gives nobody else a name that there was."""
    after = redrawn(shard_map, (*sorted(cuts), HASH_MAX))
    validate(after)
    before = {name: interval(shard_map, shard) for shard, name in enumerate(shard_map.nodes)}
    for shard, name in enumerate(after.nodes):
        assert before.get(name, interval(after, shard)) == interval(after, shard)
        assert (name in before) == (interval(after, shard) in before.values())
    count = len(cuts) + 1
    scaled = rescaled(shard_map, count)
    assert redrawn(shard_map, scaled.lasts).lasts == scaled.lasts


# ---- a program that bears something ----------------------------------------------------------------------------


@dataclass
class Grown:
    """A program whose load is spread over hashes, without any services: what is wished for is so after a while."""

    spread: list[tuple[int, float]]
    """Hashes, and the work of each."""
    limits: NodeLimits
    machine_limits: MachineLimits
    shard_map: ShardMap = field(default_factory=lambda: even_map(1, ["n1"]))
    tried: tuple[RecordedSplit, ...] = ()
    machines: int = 1
    memory: GrowthMemory = field(default_factory=GrowthMemory)
    now: float = 0.0
    changed_at: float = 0.0
    changes: list[float] = field(default_factory=list)
    peaks: list[tuple[float, float]] = field(default_factory=list)

    _loads: tuple[ShardMap, list[float]] | None = None

    def loads(self, factor: float) -> list[float]:
        """What each node bears under so many times the load."""
        if self._loads is None or self._loads[0] is not self.shard_map:
            loads = [0.0] * len(self.shard_map.nodes)
            for key_hash, work in self.spread:
                loads[owner(self.shard_map, key_hash)] += work
            self._loads = self.shard_map, loads
        return [load * factor for load in self._loads[1]]

    def live(self, seconds: float, factor: float, noise: random.Random | None = None) -> None:
        """Let time pass under so many times the load."""
        end = self.now + seconds
        while self.now < end:
            self.now += 2.5
            gusts = factor * (1.0 if noise is None else noise.uniform(0.9, 1.1))
            self.peaks = [(at, peak) for at, peak in self.peaks if self.now - at <= OPTIONS.down_seconds]
            self.peaks.append((self.now, gusts))
            peak = max(peak for _, peak in self.peaks)
            seen = self.now - self.changed_at
            nodes = tuple(
                NodeLoad(work, work_peak, 0, seen)
                for work, work_peak in zip(self.loads(gusts), self.loads(peak), strict=True)
            )
            view = ProgramView("p", self.shard_map, nodes, self.limits, tried=self.tried)
            wishes, self.memory = decide_growth(
                [view],
                MachinesView(self.machines, self.machine_limits),
                OPTIONS,
                self.memory,
                self.now,
            )
            for wish in wishes.programs:
                self.tried = wish.tried
                if wish.lasts is not None:
                    self.shard_map = redrawn(self.shard_map, wish.lasts)
                    self.changed_at = self.now
                    self.changes.append(self.now)
            if wishes.machines != self.machines:
                self.changes.append(self.now)
            self.machines = wishes.machines


def drawn_spread(rng: random.Random) -> list[tuple[int, float]]:
    """Work on many hashes, on few, or nearly all on one."""
    count = rng.choice((1, 3, 20, 500))
    skew = rng.choice((0.0, 1.0, 3.0))
    work = [1 / (number + 1) ** skew for number in range(count)]
    total = rng.choice((0.2, 1.0, 3.0, 15.0)) / sum(work)
    return [(rng.getrandbits(64), each * total) for each in work]


@pytest.mark.parametrize("first", [0, pytest.param(1_000, marks=pytest.mark.long)])
def test_a_constant_load_comes_to_rest(first: int) -> None:
    """However the work is spread, also where the load is hot in one place, and with some noise: after a while nothing
    changes any more, or with noise hardly anything, for what is near a bound may wait long for a calm window; then
    another load, up or down, comes to rest as well. At rest no node that can be divided is too full, unless there are
    as many as may be."""
    for seed in range(first, first + (80 if first < 1_000 else 2_000)):
        rng = random.Random(seed)
        least = rng.randrange(1, 4)
        limits = NodeLimits(least, least + rng.choice((0, 5, 40)), 0)
        grown = Grown(drawn_spread(rng), limits, MachineLimits(rng.randrange(3), rng.choice((3, 8, 50))))
        noise = rng if seed % 2 else None
        for factor in (1.0, rng.choice((0.05, 0.5, 4.0)), 1.0):
            grown.live(600, factor, noise)
            grown.changes.clear()
            grown.live(900, factor, noise)
            assert len(grown.changes) <= (3 if noise else 0), (seed, factor, grown.changes)
            loads = grown.loads(factor)
            assert limits.nodes_min <= len(loads) <= limits.nodes_max
            assert (
                max(loads) <= 1.1 * (1 + OPTIONS.tolerance) or grown.tried or len(loads) == limits.nodes_max
            )
            needed = min(sum(loads), grown.machine_limits.machines_max, len(loads))
            assert grown.machines * (1 + OPTIONS.tolerance) * 1.1 >= needed, (seed, factor)


def test_a_hot_hash_is_divided_once() -> None:
    """One hash bears everything: it is found out by one division, which is not repeated before the load has doubled,
    and when the load is gone all is one again."""
    grown = Grown([(2**63 + 12345, 4.0)], NodeLimits(1, 64, 0), MachineLimits(1, 4))
    grown.live(600, 1.0)
    assert len(grown.changes) == 2 + 1, "a division, machines, and the empty pieces joined"
    there = grown.shard_map
    assert len(there.nodes) == 3
    grown.live(600, 1.9)
    assert grown.shard_map == there
    grown.live(600, 2.5)
    assert grown.shard_map.lasts != there.lasts and len(grown.shard_map.nodes) == 3
    grown.live(600, 0.01)
    assert grown.shard_map.lasts == (HASH_MAX,)
    assert grown.machines == 1


def test_load_comes_and_goes_and_comes_without_flapping() -> None:
    """A gust of a second each half-minute keeps what was grown for it; an hour of silence does not."""
    grown = Grown([(n << 58, 0.1) for n in range(60)], NodeLimits(1, 64, 0), MachineLimits(1, 9))
    grown.live(60, 1.0)
    assert len(grown.shard_map.nodes) >= 6
    grown.changes.clear()
    for _ in range(30):
        grown.live(20, 0.1)
        grown.live(5, 1.0)
    assert not grown.changes
    grown.live(3_600, 0.1)
    assert len(grown.shard_map.nodes) <= 2


def test_options_are_given_by_name() -> None:
    """And refused if there is no such one, or nothing could grow by them."""
    assert growth_options([]) == GrowthOptions()
    options = growth_options([("cooldown_seconds", 3.0), ("state_bytes", 7.0), ("pieces_max", 4.0)])
    assert options == GrowthOptions(cooldown_seconds=3.0, state_bytes=7, pieces_max=4)
    assert isinstance(options.state_bytes, int)
    with pytest.raises(SettingsError, match="no 'cooldown'; there are busy_share, rows_per_second"):
        growth_options([("cooldown", 3.0)])
    for name in ("busy_share", "state_bytes", "pieces_max", "smooth_seconds", "helps"):
        with pytest.raises(SettingsError, match="nothing can grow"):
            growth_options([(name, 0.0)])
